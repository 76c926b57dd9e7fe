//! What everybody asks about the shape of the cluster: where the nodes are, who holds copies of a shard, and who leads it.
//!
//! Reads never wait: they answer from the newest state that this process knows, which may be old. Who acts on it is told so by whom it asks.

use super::metadata::{MetadataError, Version};
use crate::{Epoch, NodeId, ShardId};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}
