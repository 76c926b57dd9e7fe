//! What the person at the terminal reads: that the server is ready, where, and what to type next.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A server that is ready.
#[derive(Debug)]
pub struct Ready {
    pub version: &'static str,
    pub took: Duration,
    pub endpoints: Endpoints,
    /// How the messaging port takes connections, in words.
    pub security: &'static str,
    pub data: PathBuf,
    pub cluster: String,
}

/// The addresses that the services really have, the first of each being the one to show in examples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    pub messaging: Vec<SocketAddr>,
    pub admin: Vec<SocketAddr>,
    pub http: Vec<SocketAddr>,
    pub metrics: Vec<SocketAddr>,
}

impl Endpoints {
    /// Every address with its purpose.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> + '_ {
        let services = [("messaging", &self.messaging), ("admin", &self.admin), ("http", &self.http), ("metrics", &self.metrics)];
        services.into_iter().flat_map(|(purpose, addresses)| addresses.iter().map(move |&address| (purpose, address)))
    }
}

/// The ports that clients and commands take when nobody tells them another.
const USUAL_MESSAGING: u16 = 8081;

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoints { messaging, admin, http, metrics } = &self.endpoints;
        writeln!(f, "gantry {} is ready after {} ms", self.version, self.took.as_millis())?;
        writeln!(f)?;
        writeln!(f, "  messaging  {}  RocketMQ 5 clients, {}", list(messaging), self.security)?;
        writeln!(f, "  admin      {}", list(admin))?;
        writeln!(f, "  http       {}  /livez /readyz /metrics", list(http))?;
        writeln!(f, "  metrics    {}  /metrics", list(metrics))?;
        writeln!(f, "  data       {}  cluster {}", self.data.display(), self.cluster)?;
        writeln!(f)?;
        writeln!(f, "Try it in another terminal:")?;
        let endpoint = self.endpoint();
        writeln!(f, "  echo hello | gantry produce demo{endpoint}")?;
        write!(f, "  gantry consume demo --group demo-group{endpoint}")
    }
}

impl Ready {
    /// The flag that commands need to find this server, if they need one.
    fn endpoint(&self) -> String {
        match self.endpoints.messaging.first() {
            Some(address) if address.port() != USUAL_MESSAGING || !reached_by_localhost(address) => format!(" --endpoint {}", reachable(*address)),
            _ => String::new(),
        }
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn reached_by_localhost(address: &SocketAddr) -> bool {
    address.ip().is_loopback() || address.ip().is_unspecified()
}

/// An address to connect to: nobody connects to `0.0.0.0`.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], v6.port())),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ready(messaging: &[&str]) -> Ready {
        let one = |text: &str| vec![text.parse().unwrap()];
        Ready {
            version: "0.1.0",
            took: Duration::from_micros(41_500),
            endpoints: Endpoints {
                messaging: messaging.iter().map(|text| text.parse().unwrap()).collect(),
                admin: one("127.0.0.1:8083"),
                http: one("127.0.0.1:8082"),
                metrics: one("127.0.0.1:5557"),
            },
            security: "TLS and plain text",
            data: "/srv/gantry-data".into(),
            cluster: "gantry".into(),
        }
    }

    #[test]
    fn a_ready_server_says_where_it_is_and_what_to_type() {
        let expected = "\
gantry 0.1.0 is ready after 41 ms

  messaging  127.0.0.1:8081, [::1]:8081  RocketMQ 5 clients, TLS and plain text
  admin      127.0.0.1:8083
  http       127.0.0.1:8082  /livez /readyz /metrics
  metrics    127.0.0.1:5557  /metrics
  data       /srv/gantry-data  cluster gantry

Try it in another terminal:
  echo hello | gantry produce demo
  gantry consume demo --group demo-group";
        assert_eq!(ready(&["127.0.0.1:8081", "[::1]:8081"]).to_string(), expected);
    }

    #[test]
    fn commands_are_told_an_unusual_endpoint() {
        let check = |address: &str, expected: &str| assert_eq!(ready(&[address]).endpoint(), expected, "{address}");
        check("0.0.0.0:8081", "");
        check("0.0.0.0:9", " --endpoint 127.0.0.1:9");
        check("[::]:9", " --endpoint [::1]:9");
        check("10.0.0.1:8081", " --endpoint 10.0.0.1:8081");
    }
}
