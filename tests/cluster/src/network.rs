//! A network namespace for each process, all on one bridge, and cuts between them.
//!
//! A cut is a wrong entry in a table of neighbours: packets to that address go to a card that nobody has. They are lost in silence, in one direction, and
//! only between these two; connections stay open and nobody is told. This needs root and `ip`, and nothing else of the machine.

use std::process::Command;

/// Each process has an address below this one; the machine itself is `.1`.
const NET: &str = "10.213.77";
/// An address that no card has: it is administered locally, and namespaces draw theirs at random.
const NOBODY: &str = "02:de:ad:00:00:01";

/// The namespaces of one cluster, removed at the end.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    prefix: String,
    names: Vec<String>,
}

/// Which packets are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Both,
    /// Those that it sends.
    Out,
    /// Those that are sent to it.
    In,
}

/// Why there is no network of namespaces here.
pub fn missing() -> Option<&'static str> {
    if !succeeds(&["netns", "add", "gantry-try"]) {
        return Some("`ip netns add` is not allowed here: root and iproute2 are needed");
    }
    succeeds(&["netns", "del", "gantry-try"]);
    None
}

impl Network {
    /// Namespaces for these processes.
    pub fn new(names: Vec<String>) -> Network {
        let prefix = format!("gt{}", std::process::id() % 100_000);
        let network = Network { bridge: format!("{prefix}b"), prefix, names };
        let Network { bridge, names, .. } = &network;
        ip(&["link", "add", bridge, "type", "bridge"]);
        ip(&["addr", "add", &format!("{NET}.1/24"), "dev", bridge]);
        ip(&["link", "set", bridge, "up"]);
        for (number, name) in names.iter().enumerate() {
            let (space, outer) = (network.namespace(name), format!("{}v{number}", network.prefix));
            ip(&["netns", "add", &space]);
            ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space]);
            ip(&["link", "set", &outer, "master", bridge, "up"]);
            ip(&["-n", &space, "addr", "add", &format!("{}/24", network.address(name)), "dev", "eth0"]);
            ip(&["-n", &space, "link", "set", "eth0", "up"]);
            ip(&["-n", &space, "link", "set", "lo", "up"]);
        }
        network
    }

    pub fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    pub fn address(&self, name: &str) -> String {
        let number = self.names.iter().position(|known| known == name).expect("a process of this network");
        format!("{NET}.{}", number + 10)
    }

    /// Cuts a process off from others. The machine itself reaches it all the time.
    pub fn cut(&self, name: &str, others: &[&str], cut: Cut) {
        for other in others.iter().filter(|other| **other != name) {
            if cut != Cut::In {
                self.lose(name, other);
            }
            if cut != Cut::Out {
                self.lose(other, name);
            }
        }
    }

    /// Everybody reaches everybody again.
    pub fn heal(&self) {
        for name in &self.names {
            ip(&["-n", &self.namespace(name), "neigh", "flush", "dev", "eth0", "nud", "permanent"]);
        }
    }

    fn lose(&self, from: &str, to: &str) {
        let (space, address) = (self.namespace(from), self.address(to));
        ip(&["-n", &space, "neigh", "replace", &address, "lladdr", NOBODY, "nud", "permanent", "dev", "eth0"]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.names {
            succeeds(&["netns", "del", &self.namespace(name)]);
        }
        succeeds(&["link", "del", &self.bridge]);
    }
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
}

fn succeeds(words: &[&str]) -> bool {
    Command::new("ip").args(words).output().is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    /// A process in a namespace is what we test elsewhere; here the machine itself is one end, so that the test needs no other program.
    #[test]
    fn a_cut_is_silent_and_heals() {
        if let Some(why) = missing() {
            println!("skipped: {why}");
            return;
        }
        let network = Network::new(vec!["one".to_owned(), "two".to_owned()]);
        let listener = TcpListener::bind(format!("{NET}.1:0")).expect("the bridge has an address");
        let here = listener.local_addr().expect("bound");
        let reaches = |name: &str| {
            let program = format!("exec 3<>/dev/tcp/{NET}.1/{}", here.port());
            let words = ["netns", "exec", &network.namespace(name), "timeout", "1", "bash", "-c", &program];
            Command::new("ip").args(words).output().is_ok_and(|output| output.status.success())
        };
        assert!(reaches("one") && reaches("two"));
        let space = network.namespace("one");
        ip(&["-n", &space, "neigh", "replace", &format!("{NET}.1"), "lladdr", NOBODY, "nud", "permanent", "dev", "eth0"]);
        assert!(!reaches("one") && reaches("two"));
        network.heal();
        assert!(reaches("one"));
        assert!(TcpStream::connect_timeout(&here, Duration::from_secs(1)).is_ok());
    }
}
