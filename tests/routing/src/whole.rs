//! Whole shards on disks in memory: one as itself, or any number behind `Routed`; called directly, or over the streams between processes.

use crate::catalogue::{self, Catalogue};
use crate::wire::{BrokerSide, ProxySide};
use gantry_broker::recover::Sizes;
use gantry_broker::{LocalBroker, Options, Retention};
use gantry_model::contract::Broker;
use gantry_model::{Epoch, NodeId, ShardId};
use gantry_platform::clock::{SharedClock, SystemClock};
use gantry_platform::disk::SharedDisk;
use gantry_platform::disk::memory::MemoryDisk;
use gantry_proxy::remote::RemoteBroker;
use gantry_proxy::route::Routed;
use gantry_proxy::route::shards::{Lead, Leader, Table};
use std::path::PathBuf;
use std::sync::Arc;

/// Small files, so that a short run has many of each kind.
pub const SMALL: Sizes = Sizes { first_segment: 64 * 1024, max_segment: 256 * 1024, checkpoint: 64 * 1024 };

/// What kind of broker a test gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Local,
    Routed(u32),
    /// One shard behind a stream.
    Remote,
    /// Behind the streams of two processes.
    RoutedRemotes(u32),
}

/// A broker over its shards.
pub struct Whole {
    pub broker: Arc<dyn Broker>,
    pub catalogue: Arc<Catalogue>,
    pub clock: SharedClock,
    pub locals: Vec<Arc<LocalBroker>>,
    /// Who leads which shard; only `Routed` asks it.
    pub table: Arc<Table>,
    /// The processes that have the shards, and the one that has the proxy, where there are streams.
    pub sides: Vec<BrokerSide>,
    pub proxy: Option<ProxySide>,
}

/// An empty shard on a disk of its own.
pub fn open(shard: u32, catalogue: &Arc<Catalogue>, clock: &SharedClock, sizes: Sizes) -> Arc<LocalBroker> {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    disk.create_dir_all(&PathBuf::from("/data")).expect("a memory disk takes it");
    LocalBroker::open(Options {
        disk,
        dir: PathBuf::from("/data/shard"),
        clock: clock.clone(),
        metadata: catalogue.clone(),
        shard: ShardId(shard),
        cluster: [7; 16],
        retention: Retention { age_ms: 3_600_000, bytes: None },
        skip_damaged: false,
        sizes,
    })
    .expect("an empty shard opens")
}

impl Whole {
    pub fn new(kind: Kind) -> Whole {
        let shards = match kind {
            Kind::Local | Kind::Remote => 1,
            Kind::Routed(shards) | Kind::RoutedRemotes(shards) => shards,
        };
        let catalogue = catalogue::over(shards);
        let clock: SharedClock = Arc::new(SystemClock::new());
        let locals: Vec<Arc<LocalBroker>> = (0..shards).map(|shard| open(shard, &catalogue, &clock, SMALL)).collect();
        let table = Arc::new(Table::new([]));
        let broker: Arc<dyn Broker> = match kind {
            Kind::Local | Kind::Remote => locals[0].clone(),
            Kind::Routed(_) | Kind::RoutedRemotes(_) => Arc::new(Routed::new(table.clone(), catalogue.clone(), clock.clone())),
        };
        let mut whole = Whole { broker, catalogue, clock, locals, table, sides: Vec::new(), proxy: None };
        match kind {
            Kind::Local => {}
            Kind::Routed(_) => (0..shards).for_each(|shard| whole.seat(shard, 1)),
            Kind::Remote => {
                whole.put_behind_streams(1);
                let upstream = whole.proxy.as_ref().and_then(|proxy| proxy.brokers.upstream(NodeId(1))).expect("it is known");
                whole.broker = Arc::new(RemoteBroker::new(upstream, ShardId(0)));
            }
            Kind::RoutedRemotes(_) => {
                whole.put_behind_streams(2);
                (0..shards).for_each(|shard| whole.seat(shard, 1));
            }
        }
        whole
    }

    /// Spreads the shards over processes, numbered from 1, and connects to them.
    fn put_behind_streams(&mut self, processes: usize) {
        let side = |number| BrokerSide::on_loopback(number, self.catalogue.clone(), self.clock.clone());
        let sides: Vec<BrokerSide> = (1..=processes as u64).map(side).collect();
        self.locals.iter().enumerate().for_each(|(shard, local)| sides[shard % processes].add(ShardId(shard as u32), local));
        let proxy = ProxySide::new(100, self.catalogue.clone(), self.clock.clone());
        self.proxy = Some(sides.iter().fold(proxy, ProxySide::knows));
        self.sides = sides;
    }

    /// Takes the leader of a shard away.
    pub fn unseat(&self, shard: u32) {
        self.table.set(ShardId(shard), Leader::Electing);
    }

    /// Gives a shard its leader back, in another reign.
    pub fn seat(&self, shard: u32, epoch: u32) {
        let at = shard as usize;
        let lead = match &self.proxy {
            None => Some(Lead { broker: self.locals[at].clone(), epoch: Epoch(epoch) }),
            Some(proxy) => proxy.brokers.lead(ShardId(shard), self.sides[at % self.sides.len()].node, Epoch(epoch)),
        };
        self.table.set(ShardId(shard), Leader::Known(lead.expect("all nodes are known")));
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        for local in &self.locals {
            local.close();
        }
    }
}
