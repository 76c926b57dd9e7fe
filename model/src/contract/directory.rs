//! What everybody asks about the shape of the cluster: where the nodes are, who holds copies of a shard, and who leads it.
//!
//! Reads never wait: they answer from the newest state that this process knows, which may be old. Who acts on it is told so by whom it asks.

use super::metadata::{MetadataError, Version};
use crate::{Epoch, Lsn, NodeId, ShardId};
use async_trait::async_trait;
use std::fmt;

/// Nodes, shards and leaders.
#[async_trait]
pub trait Directory: Send + Sync + fmt::Debug {
    /// `host:port` of a node's broker, or of a controller.
    fn address(&self, node: NodeId) -> Option<String>;

    /// All shards of the cluster, in the order of their numbers; those that were not placed yet have no copies.
    fn shards(&self) -> Vec<ShardRoute>;

    /// The nodes of the cluster, in the order of their numbers; controllers too.
    fn nodes(&self) -> Vec<NodeView>;

    /// Has the leader of the controllers do what an operator wants; answers what is done about it, for people.
    async fn order(&self, order: Order) -> Result<String, MetadataError>;

    /// What the leader of the controllers knows of the copies of a shard, for an operator who may have to give some of them up.
    async fn survey(&self, shard: ShardId) -> Result<Survey, MetadataError>;

    /// Grows with every change; the same number as that of the metadata.
    fn version(&self) -> Version;

    /// Waits until the version is above `since`, and answers the newest one.
    async fn changed(&self, since: Version) -> Version;
}

/// A copy of a shard. A broker that lost the shard's folder has forgotten its promises, so the next one there is another copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Copy {
    pub node: NodeId,
    /// The name of its folder.
    pub store: [u8; 16],
}

/// Where a shard is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardRoute {
    pub shard: ShardId,
    pub epoch: Epoch,
    /// Who leads the epoch; nobody while one is chosen.
    pub leader: Option<Copy>,
    /// Everybody who holds a copy: members, those to come, and those that learn.
    pub copies: Vec<Copy>,
    /// Those of them that learn: they are not counted.
    pub learners: Vec<Copy>,
    pub unclean: Unclean,
}

/// Whether operators gave up acknowledged messages of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unclean {
    /// How often that was.
    pub recoveries: u32,
    /// It was ordered, and no leader has begun since.
    pub recovering: bool,
}

/// What is known of the copies of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    pub shard: ShardId,
    pub epoch: Epoch,
    /// The members, by node.
    pub copies: Vec<Surveyed>,
    /// The node whose copy would go on alone, or why nothing is to be given up.
    pub best: Result<NodeId, String>,
}

/// A copy, and what can be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surveyed {
    pub copy: Copy,
    /// It may lack frames that it acknowledged.
    pub suspect: bool,
    /// Where its log ends, or why it can't be used.
    pub log: Result<LogEnd, String>,
}

/// Where a log ends that stands still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogEnd {
    pub last_epoch: Epoch,
    pub end: Lsn,
    /// Below this, everything is known to have been committed.
    pub hw: Lsn,
    /// When its last frame was first written, in ms since 1970; 0 for an empty log.
    pub last_time_ms: u64,
}

/// The words by which an operator says that acknowledged messages may be lost.
pub fn loss_phrase(shard: ShardId) -> String {
    format!("lose data of shard {shard}")
}

/// A node as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    pub node: NodeId,
    pub address: String,
    pub zone: String,
    /// Copies of shards that it may hold; 0 for a controller.
    pub capacity: u32,
    pub up: bool,
    /// Nothing new is put on it, and it leads nothing if others can.
    pub cordoned: bool,
}

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Another copy is to lead the shard; `None` leaves it to the leader which.
    Transfer {
        shard: ShardId,
        to: Option<NodeId>,
    },
    /// A copy is to go from one node to another.
    Move {
        shard: ShardId,
        from: NodeId,
        to: NodeId,
    },
    Cordon(NodeId),
    Uncordon(NodeId),
    /// As cordon; then its copies go to other nodes.
    Drain(NodeId),
    /// The node never comes back.
    Remove(NodeId),
    Recover(Recover),
}

/// One copy is to go on alone; what was acknowledged and is not in it is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recover {
    pub shard: ShardId,
    /// The epoch and the best copy as the operator saw them.
    pub epoch: Epoch,
    pub node: NodeId,
    /// [`loss_phrase`], typed by a person.
    pub phrase: String,
    /// Who orders it, as they call themselves.
    pub by: String,
}
