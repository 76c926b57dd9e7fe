//! Three controllers, three brokers and two proxies, each a process, and who leads what.

use crate::network::Network;
use crate::process::Process;
use gantry_platform::clock::{Clock, SystemClock, sleep};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Where ports of processes begin, and how many there are.
const FIRST_PORT: u16 = 12_000;
const PORTS: u32 = 20_000;

const CONTROLLERS: usize = 3;
const BROKERS: usize = 3;
const PROXIES: usize = 2;
const TOKEN: &str = "the-token-of-a-cluster-for-tests";
/// Longer than a cluster takes to be whole again after anything.
const WHOLE: Duration = Duration::from_secs(90);
/// A copy that is less behind has caught up: it follows while we look.
const NEAR: u64 = 1 << 20;

/// What a cluster is like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub shards: u32,
    /// Each process in a network namespace.
    pub namespaces: bool,
    /// Folders that exist already for the data of brokers.
    pub broker_folders: Vec<PathBuf>,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { shards: 4, namespaces: false, broker_folders: vec![] }
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    processes: BTreeMap<String, Process>,
    endpoints: BTreeMap<String, String>,
    admins: Vec<String>,
    shards: u32,
    /// Removed after the processes have ended.
    pub network: Option<Network>,
}

/// A host and the ports of its process.
struct Spot {
    host: String,
    /// Messaging or the port for other roles, admin, HTTP, metrics.
    ports: [u16; 4],
}

/// Names of processes in the order in which they are started.
pub fn names() -> Vec<String> {
    let of = |role: &'static str, count: usize| (1..=count).map(move |number| format!("{role}-{number}"));
    of("controller", CONTROLLERS).chain(of("broker", BROKERS)).chain(of("proxy", PROXIES)).collect()
}

impl Cluster {
    /// Starts everything and waits until it is whole.
    pub async fn start(folder: &Path, shape: &Shape) -> Cluster {
        let network = shape.namespaces.then(|| Network::new(names()));
        let spots: BTreeMap<String, Spot> = names().into_iter().map(|name| (name.clone(), spot(&name, network.as_ref()))).collect();
        let at = |name: &str, port: usize| format!("{}:{}", spots[name].host, spots[name].ports[port]);
        let proxies: Vec<String> = names().into_iter().filter(|name| name.starts_with("proxy")).collect();
        let mut cluster = Cluster {
            endpoints: proxies.iter().map(|name| (name.clone(), at(name, 0))).collect(),
            admins: proxies.iter().map(|name| at(name, 1)).collect(),
            processes: BTreeMap::new(),
            shards: shape.shards,
            network,
        };
        for name in names() {
            let flags = flags(&name, &spots, shape, folder);
            let namespace = cluster.network.as_ref().map(|network| network.namespace(&name));
            let mut process = Process::new(&name, flags, namespace, at(&name, 2), folder);
            // The first controller begins the cluster; the others need it, so they come one by one.
            process.start().await;
            cluster.processes.insert(name, process);
        }
        cluster.whole().await;
        cluster
    }

    pub fn process(&mut self, name: &str) -> &mut Process {
        self.processes.get_mut(name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// Where clients connect.
    pub fn endpoints(&self) -> Vec<String> {
        self.endpoints.values().cloned().collect()
    }

    pub fn endpoint(&self, proxy: &str) -> String {
        self.endpoints[proxy].clone()
    }

    pub fn admin(&self) -> String {
        self.admins[PROXIES - 1].clone()
    }

    /// Names of processes of a role.
    pub fn of(&self, role: &str) -> Vec<String> {
        self.processes.keys().filter(|name| name.starts_with(role)).cloned().collect()
    }

    /// Numbers that a process shows under a name, by what tells them apart; nothing if it does not answer.
    async fn gauge(&self, process: &str, name: &str) -> Option<BTreeMap<String, u64>> {
        let text = self.processes.get(process)?.get("/metrics").await?;
        let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
        let read = |line: &str| {
            let (label, value) = line.split_once("} ")?;
            Some((label.split('"').nth(1)?.to_owned(), value.trim().parse::<f64>().ok()? as u64))
        };
        Some(lines.filter_map(read).collect())
    }

    /// Which broker leads each shard, of those that answer.
    pub async fn leaders(&self) -> BTreeMap<String, Vec<String>> {
        let mut leaders: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for broker in self.of("broker") {
            for (shard, leads) in self.gauge(&broker, "gantry_replica_leads").await.unwrap_or_default() {
                if leads == 1 {
                    leaders.entry(shard).or_default().push(broker.clone());
                }
            }
        }
        leaders
    }

    /// The broker that leads most shards.
    pub async fn busiest_broker(&self) -> String {
        let leaders = self.leaders().await;
        let leads = |broker: &String| leaders.values().filter(|names| names.contains(broker)).count();
        self.of("broker").into_iter().max_by_key(leads).expect("there are brokers")
    }

    /// The controller that leads the others.
    pub async fn controller_leader(&self) -> Option<String> {
        for controller in self.of("controller") {
            let leads = self.gauge(&controller, "gantry_controller_leader").await.unwrap_or_default();
            if leads.values().any(|leads| *leads == 1) {
                return Some(controller);
            }
        }
        None
    }

    /// Waits until every process is ready, each shard has one leader, and every copy has caught up. Answers how long that took.
    pub async fn whole(&self) -> Duration {
        let clock = SystemClock::new();
        loop {
            let why = self.not_whole().await;
            let Some(why) = why else { return clock.mono() };
            let words = || self.processes.values().map(|process| format!("{}:\n{}\n", process.name, process.last_words())).collect::<String>();
            assert!(clock.mono() < WHOLE, "the cluster does not become whole: {why}\n{}", words());
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn not_whole(&self) -> Option<String> {
        for process in self.processes.values() {
            if process.get("/readyz").await.is_none() {
                return Some(format!("{} is not ready", process.name));
            }
        }
        let leaders = self.leaders().await;
        if leaders.len() != self.shards as usize || leaders.values().any(|names| names.len() != 1) {
            return Some(format!("the shards are led by {leaders:?}"));
        }
        let mut ends: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for broker in self.of("broker") {
            for (shard, end) in self.gauge(&broker, "gantry_replica_end_bytes").await.unwrap_or_default() {
                ends.entry(shard).or_default().push(end);
            }
        }
        let behind = |ends: &Vec<u64>| ends.len() != BROKERS || ends.iter().max().zip(ends.iter().min()).is_none_or(|(max, min)| max - min > NEAR);
        ends.values().any(behind).then(|| format!("copies end at {ends:?}"))
    }

    /// Ends everything in order: proxies, brokers, controllers.
    pub async fn end(mut self) {
        for name in names().into_iter().rev() {
            self.process(&name).end().await;
        }
    }
}

/// Where a process listens: on free ports of this machine, or on the usual ones of its own namespace.
fn spot(name: &str, network: Option<&Network>) -> Spot {
    if let Some(network) = network {
        let host = network.address(name);
        let first = if name.starts_with("broker") { 9_081 } else { 9_082 };
        let first = if name.starts_with("proxy") { 8_081 } else { first };
        return Spot { host, ports: [first, 8_083, 8_082, 5_557] };
    }
    Spot { host: "127.0.0.1".to_owned(), ports: [(); 4].map(|()| free_port()) }
}

/// A port that nobody has, below those that connections take: a process comes back to its ports, and none may be taken meanwhile.
fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id() * 50;
    for _ in 0..PORTS {
        let port = FIRST_PORT + ((begin + TAKEN.fetch_add(1, Ordering::Relaxed)) % PORTS) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

fn flags(name: &str, spots: &BTreeMap<String, Spot>, shape: &Shape, folder: &Path) -> Vec<String> {
    let (role, number) = name.split_once('-').expect("a role and a number");
    let number: usize = number.parse().expect("a number");
    let Spot { host, ports } = &spots[name];
    let controllers: Vec<String> =
        (1..=CONTROLLERS).map(|number| &spots[&format!("controller-{number}")]).map(|spot| format!("{}:{}", spot.host, spot.ports[0])).collect();
    let own = shape.broker_folders.get(number - 1).filter(|_| role == "broker").cloned();
    let data = own.unwrap_or_else(|| folder.join(name)).display().to_string();
    let mut flags = vec!["server".to_owned()];
    let mut say = |flag: &str, value: &str| flags.extend([format!("--{flag}"), value.to_owned()]);
    for (flag, value) in [("role", role), ("data", &data), ("token", TOKEN), ("listen", host), ("http-port", &ports[2].to_string())] {
        say(flag, value);
    }
    say("controllers", &controllers.join(","));
    match role {
        "controller" => {
            say("controller-port", &ports[0].to_string());
            if number == 1 {
                say("bootstrap", "true");
                say("shards", &shape.shards.to_string());
            }
        }
        "broker" => {
            say("broker-port", &ports[0].to_string());
            say("zone", &format!("zone-{number}"));
        }
        _ => {
            for (flag, port) in ["messaging-port", "admin-port", "metrics-port"].iter().zip([ports[0], ports[1], ports[3]]) {
                say(flag, &port.to_string());
            }
        }
    }
    flags
}
