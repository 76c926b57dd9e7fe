//! The types of openraft, each named once: everything else in this module speaks of these, so that another release of it, or another
//! crate in its place, touches few files and no stored byte.

use super::runtime::Runtime;
use super::snapshot::SnapshotFile;
use crate::state::Applied;
use crate::state::event::Event;
use crate::state::requests::RequestId;
use gantry_model::NodeId;
use std::sync::Arc;

openraft::declare_raft_types!(
    /// What our raft is about.
    pub Kinds:
        D = Proposal,
        R = Applied,
        NodeId = NodeId,
        Node = Member,
        Entry = openraft::Entry<Kinds>,
        SnapshotData = SnapshotFile,
        AsyncRuntime = Runtime,
);

pub type Raft = openraft::Raft<Kinds>;
pub type Entry = openraft::Entry<Kinds>;
pub type LogId = openraft::LogId<NodeId>;
pub type Vote = openraft::Vote<NodeId>;
pub type Membership = openraft::Membership<NodeId, Member>;
pub type StoredMembership = openraft::StoredMembership<NodeId, Member>;
pub type SnapshotMeta = openraft::SnapshotMeta<NodeId, Member>;
pub type StorageError = openraft::StorageError<NodeId>;
pub type StorageIOError = openraft::StorageIOError<NodeId>;

/// A member of the controller's own group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// `host:port` of its peer service.
    pub address: String,
}

/// An event on its way into the order.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    pub request: RequestId,
    /// The wall clock of the leader that took it.
    pub time_ms: u64,
    pub event: Arc<Event>,
}
