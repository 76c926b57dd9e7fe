//! The brokers of the cluster by their nodes. Whoever follows the controller's routes tells the addresses; connections are made on first use.

use super::{Hint, RemoteBroker, Upstream};
use crate::route::shards::Lead;
use gantry_model::contract::Metadata;
use gantry_model::{Epoch, NodeId, ShardId};
use gantry_platform::chance::Chance;
use gantry_platform::clock::SharedClock;
use gantry_platform::net::Net;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// What this process is to the brokers.
#[derive(Debug)]
pub struct Here {
    pub node: NodeId,
    /// One run of this process: another one than any before.
    pub run: u64,
    pub metadata: Arc<dyn Metadata>,
    pub clock: SharedClock,
    pub net: Arc<dyn Net>,
    /// What brokers say of shards that they don't lead, for whoever keeps the table of leaders.
    pub hints: mpsc::Sender<Hint>,
}

#[derive(Debug)]
struct Node {
    address: String,
    upstream: Option<Arc<Upstream>>,
}

/// All brokers that are known.
pub struct Brokers {
    here: Arc<Here>,
    chance: Mutex<Box<dyn Chance>>,
    nodes: Mutex<BTreeMap<NodeId, Node>>,
}

impl fmt::Debug for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.nodes().iter()).finish()
    }
}

impl Brokers {
    pub fn new(here: Here, chance: Box<dyn Chance>) -> Brokers {
        Brokers { here: Arc::new(here), chance: Mutex::new(chance), nodes: Mutex::default() }
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where a node is. A connection to another address is given up: what is under way on it may have been done.
    pub fn set(&self, node: NodeId, address: &str) {
        let mut nodes = self.nodes();
        if nodes.get(&node).is_some_and(|known| known.address == address) {
            return;
        }
        let before = nodes.insert(node, Node { address: address.to_owned(), upstream: None });
        drop(nodes);
        give_up(before);
    }

    /// The node is not one of the cluster any more.
    pub fn remove(&self, node: NodeId) {
        let removed = self.nodes().remove(&node);
        give_up(removed);
    }

    /// The connection to a node; `None` if nobody said where it is. Must be called on the runtime that is to run it.
    pub fn upstream(&self, node: NodeId) -> Option<Arc<Upstream>> {
        let mut nodes = self.nodes();
        let known = nodes.get_mut(&node)?;
        let upstream = known.upstream.get_or_insert_with(|| {
            let seed = self.chance.lock().unwrap_or_else(PoisonError::into_inner).next_u64();
            Upstream::new(node, &known.address, self.here.clone(), seed)
        });
        Some(upstream.clone())
    }

    /// The leader of a shard, for the table of leaders.
    pub fn lead(&self, shard: ShardId, node: NodeId, epoch: Epoch) -> Option<Lead> {
        let broker = Arc::new(RemoteBroker::new(self.upstream(node)?, shard));
        Some(Lead { broker, epoch })
    }
}

/// Ends a connection at once, whoever still holds it.
fn give_up(node: Option<Node>) {
    if let Some(upstream) = node.and_then(|node| node.upstream) {
        upstream.line.close();
    }
}
