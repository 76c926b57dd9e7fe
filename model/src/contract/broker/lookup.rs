//! Looking: where groups stand, what queues hold, stored messages, and what became of one.

use super::error_text;
use crate::message::DeadReason;
use crate::{ClientId, GroupId, LeaseId, Lsn, Offset, QueueId};
use std::fmt;

/// Where a group stands on one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuePosition {
    pub queue: QueueId,
    /// Every offset below is finished.
    pub committed: Offset,
    /// One past the newest stored message.
    pub end: Offset,
    /// Deliverable now.
    pub ready: u64,
    /// Delivered, not finished.
    pub in_flight: u64,
    /// Waiting for their next delivery.
    pub waiting: u64,
    /// When the oldest unfinished message was stored, ms since the Unix epoch.
    pub oldest_ms: Option<u64>,
}

/// What a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueBounds {
    pub queue: QueueId,
    pub min: Offset,
    /// One past the newest.
    pub max: Offset,
}

/// What to look for in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    MessageId(String),
    Key(String),
    /// From this offset on.
    Offset {
        queue: QueueId,
        offset: Offset,
    },
    /// Stored in this time, ms since the Unix epoch, end excluded; over all queues.
    Stored {
        from_ms: u64,
        to_ms: u64,
    },
}

/// Why a look-up failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupError {
    Busy,
    Failed { why: String },
}

/// One thing that happened to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifeEvent {
    pub lsn: Lsn,
    /// The shard's time, ms since the Unix epoch.
    pub time_ms: u64,
    pub what: LifeStep,
}

/// The stations of a message, as the log tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifeStep {
    Stored,
    /// A delayed message became visible, or a transaction was committed.
    Released,
    Leased {
        group: GroupId,
        client: ClientId,
        lease: LeaseId,
        attempt: u32,
        until_ms: u64,
    },
    /// The consumer keeps it until then.
    Extended {
        group: GroupId,
        until_ms: u64,
    },
    /// The delivery ended without success; the message is visible again at that time.
    GivenBack {
        group: GroupId,
        visible_ms: u64,
        counted: bool,
    },
    Lapsed {
        group: GroupId,
        visible_ms: u64,
    },
    Acked {
        group: GroupId,
    },
    /// The group's filter did not want it.
    Skipped {
        group: GroupId,
    },
    Dead {
        group: GroupId,
        reason: DeadReason,
        attempts: u32,
    },
    /// The group's position was moved.
    Reset {
        group: GroupId,
        to: Offset,
    },
}

error_text!(LookupError {
    Busy => "too many look-ups at once, try again after a pause",
    Failed { why } => why.clone(),
});
