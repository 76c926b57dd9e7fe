//! Whole shards in this process, on disks in memory: one as itself, or any number behind `Routed`.

use crate::catalogue::Catalogue;
use gantry_broker::recover::Sizes;
use gantry_broker::{LocalBroker, Options, Retention};
use gantry_model::contract::Broker;
use gantry_model::{Epoch, ShardId};
use gantry_platform::clock::{SharedClock, SystemClock};
use gantry_platform::disk::SharedDisk;
use gantry_platform::disk::memory::MemoryDisk;
use gantry_proxy::route::Routed;
use gantry_proxy::route::shards::{Lead, Leader, Table};
use std::path::PathBuf;
use std::sync::Arc;

/// What kind of broker a test gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Local,
    Routed(u32),
}

/// A broker over its shards.
pub struct Whole {
    pub broker: Arc<dyn Broker>,
    pub catalogue: Arc<Catalogue>,
    pub clock: SharedClock,
    pub locals: Vec<Arc<LocalBroker>>,
    /// Who leads which shard; only `Routed` asks it.
    pub table: Arc<Table>,
}

fn open(shard: u32, catalogue: &Arc<Catalogue>, clock: &SharedClock) -> Arc<LocalBroker> {
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
        sizes: Sizes { first_segment: 64 * 1024, max_segment: 256 * 1024, checkpoint: 64 * 1024 },
    })
    .expect("an empty shard opens")
}

impl Whole {
    pub fn new(kind: Kind) -> Whole {
        let shards = match kind {
            Kind::Local => 1,
            Kind::Routed(shards) => shards,
        };
        let catalogue = Catalogue::new(shards);
        let clock: SharedClock = Arc::new(SystemClock::new());
        let locals: Vec<Arc<LocalBroker>> = (0..shards).map(|shard| open(shard, &catalogue, &clock)).collect();
        let leads = locals.iter().enumerate().map(|(shard, local)| (ShardId(shard as u32), lead(local, 1)));
        let table = Arc::new(Table::new(leads));
        let broker: Arc<dyn Broker> = match kind {
            Kind::Local => locals[0].clone(),
            Kind::Routed(_) => Arc::new(Routed::new(table.clone(), catalogue.clone(), clock.clone())),
        };
        Whole { broker, catalogue, clock, locals, table }
    }

    /// Takes the leader of a shard away.
    pub fn unseat(&self, shard: u32) {
        self.table.set(ShardId(shard), Leader::Electing);
    }

    /// Gives a shard its leader back, in another reign.
    pub fn seat(&self, shard: u32, epoch: u32) {
        self.table.set(ShardId(shard), Leader::Known(lead(&self.locals[shard as usize], epoch)));
    }
}

fn lead(local: &Arc<LocalBroker>, epoch: u32) -> Lead {
    Lead { broker: local.clone(), epoch: Epoch(epoch) }
}

impl Drop for Whole {
    fn drop(&mut self) {
        for local in &self.locals {
            local.close();
        }
    }
}
