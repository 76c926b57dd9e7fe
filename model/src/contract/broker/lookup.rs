//! Looking: where groups stand, what queues hold, stored messages, and what became of one.

use super::error_text;
use super::offsets::LetterId;
use crate::message::DeadReason;
use crate::{ClientId, GroupId, LeaseId, Lsn, Offset, QueueId, TopicId};
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
    /// Whether the group has received here, so that it can't move its position by commits.
    pub receives: bool,
}

/// What a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueBounds {
    pub queue: QueueId,
    pub min: Offset,
    /// One past the newest.
    pub max: Offset,
    /// Bytes of log that its messages take.
    pub bytes: u64,
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
    NoSuchQueue,
    NoLeader,
    Busy,
    Failed { why: String },
}

/// Where a message stands for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can be delivered, or waits its turn.
    Ready { attempts: u32 },
    InFlight {
        /// Known only of a delivery that lasts as long as its client lives.
        client: Option<ClientId>,
        attempt: u32,
        /// When it ends by itself, ms since the Unix epoch; absent if it lasts as long as the client lives.
        until_ms: Option<u64>,
    },
    /// Between two deliveries.
    Waiting { attempts: u32, visible_ms: u64 },
    /// Nothing more comes of it: acknowledged, skipped, dead, or before the group's beginning.
    Done,
}

/// What happened to a message, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    pub events: Vec<LifeEvent>,
    /// Whether the log was read to its end; a long one is read only so far.
    pub complete: bool,
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
    Filtered {
        group: GroupId,
    },
    /// Somebody finished it for the group by hand.
    Skipped {
        group: GroupId,
    },
    /// It went to the group's dead letter queue, to the place named.
    Dead {
        group: GroupId,
        reason: DeadReason,
        attempts: u32,
        letter: LetterId,
    },
    /// A dead letter was sent again, to the place named.
    Redriven {
        topic: TopicId,
        queue: QueueId,
        offset: Offset,
    },
    /// A dead letter was removed.
    Purged,
    /// The group's position was moved.
    Reset {
        group: GroupId,
        to: Offset,
    },
}

error_text!(LookupError {
    NoSuchQueue => "the topic has no queue of that number",
    Busy => "too many look-ups at once, try again after a pause",
    NoLeader => "the shard has no leader at the moment, nothing was changed; try again",
    Failed { why } => why.clone(),
});
