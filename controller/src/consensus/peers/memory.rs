//! A network between controllers in one process, which a test cuts, delays and loses messages on.

use super::{Answer, Peers, Unreachable};
use async_trait::async_trait;
use gantry_platform::chance::{Chance, SeededChance};
use gantry_platform::clock::{sleep, timeout};
use gantry_proto::controller as pb;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The network. Clones are the same.
#[derive(Clone)]
pub struct MemoryPeers {
    world: Arc<Mutex<World>>,
}

struct World {
    chance: SeededChance,
    /// Who answers at an address, and which start of it that is.
    answering: BTreeMap<String, Arc<dyn Answer>>,
    starts: BTreeMap<String, u64>,
    /// Directions in which nothing arrives, as (from, to).
    cut: BTreeSet<(String, String)>,
    delay: (Duration, Duration),
    /// Of a thousand requests and answers each, how many are lost.
    lost: u64,
    calls: u64,
}

/// The network as one address sees it, until it starts anew.
#[derive(Clone)]
pub struct MemoryPeer {
    address: String,
    start: u64,
    network: MemoryPeers,
}

impl MemoryPeers {
    pub fn new(seed: u64) -> MemoryPeers {
        let world = World {
            chance: SeededChance::new(seed),
            answering: BTreeMap::new(),
            starts: BTreeMap::new(),
            cut: BTreeSet::new(),
            delay: (Duration::from_micros(200), Duration::from_millis(2)),
            lost: 0,
            calls: 0,
        };
        MemoryPeers { world: Arc::new(Mutex::new(world)) }
    }

    /// A new start at this address: what started there before reaches nobody any more.
    pub fn start(&self, address: &str) -> MemoryPeer {
        let mut world = self.world();
        world.answering.remove(address);
        let start = world.starts.entry(address.to_owned()).or_default();
        *start += 1;
        MemoryPeer { address: address.to_owned(), start: *start, network: self.clone() }
    }

    /// Requests to the address are answered by this one from now on.
    pub fn answer(&self, address: &str, answer: Arc<dyn Answer>) {
        self.world().answering.insert(address.to_owned(), answer);
    }

    /// Cuts one direction.
    pub fn cut(&self, from: &str, to: &str) {
        self.world().cut.insert((from.to_owned(), to.to_owned()));
    }

    /// Cuts both directions between an address and all others that ever started.
    pub fn isolate(&self, address: &str) {
        let mut world = self.world();
        let others: Vec<String> = world.starts.keys().filter(|other| *other != address).cloned().collect();
        for other in others {
            world.cut.insert((address.to_owned(), other.clone()));
            world.cut.insert((other, address.to_owned()));
        }
    }

    /// Mends all cuts.
    pub fn heal(&self) {
        self.world().cut.clear();
    }

    /// Every message takes a time between these.
    pub fn delay(&self, from: Duration, to: Duration) {
        self.world().delay = (from, to);
    }

    /// Loses so many of a thousand messages.
    pub fn lose(&self, of_a_thousand: u64) {
        self.world().lost = of_a_thousand;
    }

    /// How many calls were made.
    pub fn calls(&self) -> u64 {
        self.world().calls
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries one message; `None` if it never arrives.
    async fn carry(&self, from: &str, to: &str) -> Option<()> {
        let (delay, lost) = {
            let mut world = self.world();
            let span = world.delay.1.saturating_sub(world.delay.0).as_micros() as u64;
            let delay = world.delay.0 + Duration::from_micros(world.chance.below(span + 1));
            let lost = world.lost;
            (delay, lost > 0 && world.chance.ratio(lost, 1_000))
        };
        sleep(delay).await;
        let cut = self.world().cut.contains(&(from.to_owned(), to.to_owned()));
        (!cut && !lost).then_some(())
    }
}

impl MemoryPeer {
    async fn ask(&self, address: &str, request: pb::PeerRequest) -> Option<pb::PeerReply> {
        self.network.carry(&self.address, address).await?;
        let answering = self.network.world().answering.get(address).cloned()?;
        let reply = answering.answer(request).await;
        self.network.carry(address, &self.address).await?;
        Some(reply)
    }

    fn is_over(&self) -> bool {
        self.network.world().starts.get(&self.address) != Some(&self.start)
    }
}

impl fmt::Debug for MemoryPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryPeer").field("address", &self.address).field("start", &self.start).finish_non_exhaustive()
    }
}

#[async_trait]
impl Peers for MemoryPeer {
    async fn call(&self, address: &str, request: pb::PeerRequest, patience: Duration) -> Result<pb::PeerReply, Unreachable> {
        self.network.world().calls += 1;
        let waiting = async {
            if !self.is_over()
                && let Some(reply) = self.ask(address, request).await
                && !self.is_over()
            {
                return reply;
            }
            // What is lost is not known to be lost.
            std::future::pending().await
        };
        timeout(patience, waiting).await.map_err(|_| Unreachable(format!("`{address}` did not answer within {patience:?}")))
    }
}
