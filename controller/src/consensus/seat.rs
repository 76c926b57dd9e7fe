//! The seat of this node among the controllers: its raft, its state, and whom it follows.
//!
//! Everything in this module that acts for the node holds the seat: who answers other nodes, who proposes, who campaigns, who changes
//! the members.

use super::books::Identity;
use super::kinds::{LogId, Raft, StoredMembership};
use super::log_store::LogStore;
use super::machine::Shared;
use super::peers::{CallError, Caller};
use super::snapshot::{SnapshotFile, Snapshots};
use crate::state::requests::RequestId;
use gantry_model::NodeId;
use gantry_platform::chance::Chance;
use gantry_platform::clock::{Clock, RuntimeClock, SharedClock};
use gantry_proto::controller as pb;
use openraft::error::Fatal;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How fast everything goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The leader speaks up at least every one and a half of these.
    pub heartbeat: Duration,
    /// A voter that heard of a leader gives nobody else its vote for this long.
    pub lease: Duration,
    /// A node that heard of no leader for a time between these asks whether it should be one.
    pub campaign: (Duration, Duration),
    /// How long a proposal, a read or a change of members is tried.
    pub patience: Duration,
    /// Entries from one snapshot to the next. As many are kept in the log behind the newest, so that the older one is of use.
    pub snapshot_every: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            heartbeat: Duration::from_millis(100),
            lease: Duration::from_millis(400),
            campaign: (Duration::from_millis(700), Duration::from_millis(1_300)),
            patience: Duration::from_secs(5),
            snapshot_every: 5_000,
        }
    }
}

/// A controller and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub id: NodeId,
    pub address: String,
}

/// This node among the controllers.
pub struct Seat {
    pub identity: Identity,
    /// Where others reach this node.
    pub address: String,
    /// Other controllers, as the node was told at its start.
    pub seeds: Vec<String>,
    pub raft: Raft,
    pub shared: Arc<Shared>,
    pub log: LogStore,
    pub snapshots: Snapshots,
    pub caller: Caller,
    /// What a node must say to join; nobody joins where there is none.
    pub token: Option<String>,
    pub pace: Pace,
    pub clock: SharedClock,
    pub chance: Mutex<Box<dyn Chance>>,
    /// Whether a change waits for room on a full disk.
    pub full: watch::Receiver<bool>,
    pub heard: Heard,
    /// Whether this leader gives its place to another just now, and takes no proposals.
    pub leaving: watch::Sender<bool>,
    /// The snapshot that comes in.
    pub incoming: tokio::sync::Mutex<Option<Incoming>>,
}

/// A snapshot of which not all came yet.
#[derive(Debug)]
pub struct Incoming {
    pub name: String,
    pub file: SnapshotFile,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("identity", &self.identity).field("address", &self.address).finish_non_exhaustive()
    }
}

/// When a leader was heard of last.
#[derive(Debug)]
pub struct Heard {
    clock: RuntimeClock,
    last: Mutex<Duration>,
}

impl Heard {
    /// A node that starts waits as if it had just heard of one.
    pub fn now() -> Heard {
        Heard { clock: RuntimeClock::new(0), last: Mutex::default() }
    }

    pub fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.mono();
    }

    /// How long ago it was.
    pub fn silence(&self) -> Duration {
        self.clock.mono().saturating_sub(*self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Seat {
    pub fn id(&self) -> NodeId {
        self.identity.node
    }

    /// Whom this node follows, or itself if it leads.
    pub fn leader(&self) -> Option<Peer> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let id = metrics.current_leader?;
        let member = metrics.membership_config.membership().get_node(&id)?;
        Some(Peer { id, address: member.address.clone() })
    }

    pub fn leads(&self) -> bool {
        self.leader().is_some_and(|leader| leader.id == self.id())
    }

    /// The members as the log says, committed or not.
    pub fn membership(&self) -> StoredMembership {
        StoredMembership::clone(&self.raft.metrics().borrow().membership_config)
    }

    pub fn is_voter(&self) -> bool {
        self.membership().voter_ids().any(|id| id == self.id())
    }

    /// The newest entry of the own log.
    pub async fn last_log_id(&self) -> Option<LogId> {
        self.log.extent().await.ok()?.last
    }

    /// Why raft ended, if it did.
    pub fn fatal(&self) -> Option<Fatal<NodeId>> {
        self.raft.metrics().borrow().running_state.clone().err()
    }

    /// A new id for a request.
    pub fn request_id(&self) -> RequestId {
        let mut bytes = [0; 16];
        self.chance.lock().unwrap_or_else(PoisonError::into_inner).fill(&mut bytes);
        RequestId(u128::from_be_bytes(bytes))
    }

    /// A time between the two.
    pub fn between(&self, (from, to): (Duration, Duration)) -> Duration {
        let span = to.saturating_sub(from).as_micros() as u64;
        from + Duration::from_micros(self.chance.lock().unwrap_or_else(PoisonError::into_inner).below(span + 1))
    }

    /// The refusal of who does not lead.
    pub fn not_leader(&self) -> pb::Refused {
        let leader = self.leader().filter(|leader| leader.id != self.id());
        let why = match &leader {
            Some(leader) => format!("node {} does not lead the controllers; ask node {} at {}", self.id(), leader.id, leader.address),
            None => format!("node {} does not lead the controllers and knows no leader", self.id()),
        };
        let leader = leader.map(|leader| pb::Member { node: leader.id.0, address: leader.address });
        pb::Refused { code: pb::refused::Code::NotLeader.into(), why, leader }
    }
}

/// A refusal without a leader in it.
pub fn refused(code: pb::refused::Code, why: impl Into<String>) -> pb::Refused {
    pb::Refused { code: code.into(), why: why.into(), leader: None }
}

/// What a call that failed is to who asked for it.
pub fn as_refusal(error: CallError) -> pb::Refused {
    match error {
        CallError::Refused(refusal) => refusal,
        CallError::Unreachable(error) => refused(pb::refused::Code::Unknown, error.to_string()),
    }
}
