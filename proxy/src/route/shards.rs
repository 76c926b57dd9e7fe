//! Which broker leads a shard now. The table is filled by whoever knows: once for shards in this process, by the controller's watch for others.

use async_trait::async_trait;
use gantry_model::contract::Broker;
use gantry_model::contract::broker::Clients;
use gantry_model::{Epoch, ShardId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Who leads a shard.
#[derive(Clone, Debug)]
pub enum Leader {
    Known(Lead),
    /// Nobody at the moment; somebody will.
    Electing,
    /// There is no such shard.
    NoShard,
}

/// A broker that leads a shard, and since which reign.
#[derive(Clone, Debug)]
pub struct Lead {
    pub broker: Arc<dyn Broker>,
    pub epoch: Epoch,
}

/// The shards of the cluster.
///
/// Reads never wait. What they say may be old: a broker that leads no more says so itself, and the caller waits for the next one.
#[async_trait]
pub trait Shards: Send + Sync + fmt::Debug {
    /// All shards, in the order of their numbers.
    fn ids(&self) -> Vec<ShardId>;

    fn leader(&self, shard: ShardId) -> Leader;

    /// Waits until a shard has a leader of another epoch than `since`, or is no more.
    async fn led_anew(&self, shard: ShardId, since: Option<Epoch>);

    /// Makes known who can reach clients to every leader, and to those to come.
    fn attach(&self, clients: Arc<dyn Clients>);
}

/// Shards and their leaders as a table that somebody fills.
#[derive(Debug)]
pub struct Table {
    leaders: watch::Sender<BTreeMap<ShardId, Leader>>,
    clients: Mutex<Option<Arc<dyn Clients>>>,
}

impl Table {
    /// A table of shards that all have leaders.
    pub fn new(leads: impl IntoIterator<Item = (ShardId, Lead)>) -> Table {
        let leaders = leads.into_iter().map(|(shard, lead)| (shard, Leader::Known(lead))).collect();
        Table { leaders: watch::Sender::new(leaders), clients: Mutex::default() }
    }

    /// Notes who leads a shard now.
    pub fn set(&self, shard: ShardId, leader: Leader) {
        if let (Leader::Known(lead), Some(clients)) = (&leader, self.clients.lock().unwrap_or_else(PoisonError::into_inner).clone()) {
            lead.broker.attach(clients);
        }
        self.leaders.send_modify(|leaders| drop(leaders.insert(shard, leader)));
    }
}

#[async_trait]
impl Shards for Table {
    fn ids(&self) -> Vec<ShardId> {
        self.leaders.borrow().keys().copied().collect()
    }

    fn leader(&self, shard: ShardId) -> Leader {
        self.leaders.borrow().get(&shard).cloned().unwrap_or(Leader::NoShard)
    }

    async fn led_anew(&self, shard: ShardId, since: Option<Epoch>) {
        let led = |leaders: &BTreeMap<ShardId, Leader>| match leaders.get(&shard) {
            Some(Leader::Known(lead)) => Some(lead.epoch) != since,
            Some(Leader::Electing) => false,
            Some(Leader::NoShard) | None => true,
        };
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.leaders.subscribe().wait_for(led).await;
    }

    fn attach(&self, clients: Arc<dyn Clients>) {
        *self.clients.lock().unwrap_or_else(PoisonError::into_inner) = Some(clients.clone());
        for leader in self.leaders.borrow().values() {
            if let Leader::Known(lead) = leader {
                lead.broker.attach(clients.clone());
            }
        }
    }
}
