//! Controllers in one process, on memory disks and a network in memory, with a clock that jumps to the next thing that happens.

use crate::consensus::peers::memory::MemoryPeers;
use crate::consensus::{Begin, Consensus, Desk, OpenError, Pace, Settings, Status};
use crate::state::State;
use crate::state::event::Event;
use gantry_model::topic::TopicSpec;
use gantry_model::{NodeId, TopicName};
use gantry_platform::clock::{RuntimeClock, sleep, timeout};
use gantry_platform::{MemoryDisk, SeededChance};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub const DIR: &str = "/controller";
pub const TOKEN: &str = "open sesame";

pub fn cluster_id() -> String {
    "c".repeat(32)
}

pub fn founded() -> Event {
    Event::ClusterCreated { id: cluster_id(), name: "gantry".into(), shards: 3, time_ms: 0 }
}

pub fn name(text: &str) -> TopicName {
    TopicName::parse("", text).unwrap()
}

pub fn topic(text: &str) -> Event {
    Event::TopicCreated { topic: TopicSpec::on_first_use(name(text)), time_ms: 1 }
}

/// Everything that a state is, as text.
pub fn image(state: &State) -> Vec<String> {
    state.parts().map(|part| serde_json::to_string(&part).unwrap()).collect()
}

/// All controllers of a test. Machines have numbers from 1; node ids are what the cluster gives.
pub struct World {
    pub net: MemoryPeers,
    pub chance: SeededChance,
    pub pace: Pace,
    pub disks: BTreeMap<u64, MemoryDisk>,
    pub running: BTreeMap<u64, Arc<Consensus>>,
}

pub fn address(machine: u64) -> String {
    format!("c{machine}:9082")
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            net: MemoryPeers::new(seed),
            chance: SeededChance::new(seed ^ 0xc0de),
            pace: Pace::default(),
            disks: BTreeMap::new(),
            running: BTreeMap::new(),
        }
    }

    /// A cluster of this many voters, with the cluster created.
    pub async fn of(seed: u64, machines: u64) -> World {
        let mut world = World::new(seed);
        world.start(1).await.unwrap();
        world.running[&1].propose(founded()).await.unwrap();
        for machine in 2..=machines {
            world.start(machine).await.unwrap();
            world.until("it votes", |world| world.voters(1).len() as u64 == machine).await;
        }
        let all: Vec<u64> = (1..=machines).collect();
        world.until("all know the members", |world| all.iter().all(|at| world.voters(*at).len() as u64 == machines)).await;
        world
    }

    pub fn settings(&mut self, machine: u64) -> Settings {
        let disk = self.disks.entry(machine).or_default().clone();
        Settings {
            disk: Arc::new(disk),
            dir: Path::new(DIR).to_owned(),
            clock: Arc::new(RuntimeClock::new(1_000_000)),
            chance: Box::new(self.chance.fork()),
            peers: Arc::new(self.net.start(&address(machine))),
            address: address(machine),
            token: Some(TOKEN.into()),
            pace: self.pace,
            desk: Desk::Caller,
        }
    }

    /// Starts a machine on its disk, or on a new one. The first one founds the cluster.
    pub async fn start(&mut self, machine: u64) -> Result<(), OpenError> {
        let seeds: Vec<String> = self.running.keys().map(|machine| address(*machine)).collect();
        let begin = match machine {
            1 => Begin::Found { cluster: cluster_id() },
            _ => Begin::Join { seeds, token: TOKEN.into() },
        };
        let settings = self.settings(machine);
        let consensus = Arc::new(Consensus::open(settings, begin, Some(&cluster_id())).await?);
        self.net.answer(&address(machine), consensus.answer());
        self.running.insert(machine, consensus);
        Ok(())
    }

    /// The power goes: what was not synced is kept or lost by chance.
    pub async fn crash(&mut self, machine: u64) {
        _ = self.net.start(&address(machine));
        let disk = self.disks[&machine].crash(&mut self.chance);
        self.running.remove(&machine).unwrap().close().await;
        self.disks.insert(machine, disk);
    }

    pub async fn stop(&mut self, machine: u64) {
        _ = self.net.start(&address(machine));
        self.running.remove(&machine).unwrap().close().await;
    }

    pub fn at(&self, machine: u64) -> Arc<Consensus> {
        self.running[&machine].clone()
    }

    pub fn status(&self, machine: u64) -> Status {
        self.running[&machine].status()
    }

    pub fn voters(&self, machine: u64) -> Vec<NodeId> {
        self.status(machine).voters.iter().map(|peer| peer.id).collect()
    }

    /// The machine that all these follow, if there is one.
    pub fn leader_of(&self, machines: &[u64]) -> Option<u64> {
        let leaders: Vec<_> = machines.iter().map(|machine| self.status(*machine).leader).collect();
        let first = leaders.first()?.clone()?;
        let leads = |machine: &&u64| self.running.get(machine).is_some_and(|consensus| consensus.status().node == first.id);
        leaders.iter().all(|leader| leader.as_ref() == Some(&first)).then(|| machines.iter().find(leads).copied())?
    }

    pub fn leader(&self) -> Option<u64> {
        self.leader_of(&self.running.keys().copied().collect::<Vec<_>>())
    }

    /// Waits until it is so; a minute of the test's clock is enough for everything.
    pub async fn until(&self, what: &str, so: impl Fn(&World) -> bool) {
        let waits = async {
            while !so(self) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(Duration::from_secs(60), waits).await.is_err() {
            let statuses: Vec<_> = self.running.values().map(|consensus| consensus.status()).collect();
            panic!("it never came to pass that {what}: {statuses:#?}");
        }
    }

    /// Waits for a leader of all that run.
    pub async fn led(&self) -> u64 {
        self.until("there is a leader", |world| world.leader().is_some()).await;
        self.leader().unwrap()
    }

    /// All that run have applied the same entries, and have the same state of it.
    pub async fn agree(&self) -> Vec<String> {
        let newest = || self.running.values().filter_map(|consensus| consensus.status().last).max();
        self.until("all have applied all", |world| world.running.values().all(|consensus| consensus.status().applied == newest())).await;
        let mut images = self.running.values().map(|consensus| consensus.read(image));
        let first = images.next().unwrap();
        images.for_each(|other| assert_eq!(other, first));
        first
    }
}
