//! Positions of groups that are moved by hand, and queues that are read by offset.

use super::error_text;
use crate::message::StoredMessage;
use crate::{Filter, Group, Offset, QueueId, Topic};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A wish to read a queue from an offset. It changes nothing.
#[derive(Clone, Debug)]
pub struct PullRequest {
    pub topic: Arc<Topic>,
    pub queue: QueueId,
    pub offset: Offset,
    /// At least 1.
    pub max: u32,
    pub filter: Arc<Filter>,
    pub wait: Duration,
}

/// What a queue had from an offset on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pulled {
    pub messages: Vec<StoredMessage>,
    /// Where to go on: behind the last message that was looked at.
    pub next: Offset,
}

/// Why nothing could be pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullError {
    /// Nothing is stored there; `next` is the nearest offset that can be read.
    OutOfRange {
        next: Offset,
    },
    NoSuchQueue,
    NoReadableQueue,
    TooManyPolls,
    NoLeader,
    Busy,
    Failed {
        why: String,
    },
}

/// Why a position was not moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OffsetError {
    OutOfRange {
        min: Offset,
        max: Offset,
    },
    /// Commits only go forward; going back is a reset.
    Backwards {
        committed: Offset,
    },
    /// The group receives with leases; its position moves by acknowledging.
    GroupReceives,
    /// The group pulls; its position moves by commits, or by a reset.
    GroupPulls,
    /// Every member of the group to copy from has a position of its own.
    GroupBroadcasts,
    NoSuchQueue,
    NoLeader,
    Busy,
    Failed {
        why: String,
    },
}

/// A move of a group's position on a topic.
#[derive(Clone, Debug)]
pub struct SeekRequest {
    pub group: Arc<Group>,
    pub topic: Arc<Topic>,
    /// Only these queues; empty for all.
    pub queues: Vec<QueueId>,
    pub target: SeekTarget,
    /// Answers what would happen, and changes nothing.
    pub dry_run: bool,
}

/// Where a position moves to.
#[derive(Clone, Debug, PartialEq)]
pub enum SeekTarget {
    Earliest,
    Latest,
    Offset(Offset),
    /// The first message stored at or after this time, ms since the Unix epoch.
    Time(u64),
    /// Where another group stands, with what it finished beyond; what that group holds right now is delivered to this one too.
    Like(Arc<Group>),
}

/// What a move did, or would do, to one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub queue: QueueId,
    pub from: Offset,
    pub to: Offset,
    /// Deliveries and waiting messages that are dropped.
    pub dropped: u64,
}

/// A dead letter, by its place in the dead letter queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    pub queue: QueueId,
    pub offset: Offset,
}

/// What became of one dead letter that was to be sent again or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterError {
    /// It is not there: never was, or was sent again or removed before.
    Gone,
    /// The topic it should go to doesn't exist or takes no messages.
    NoWritableQueue,
    /// It should go to a queue of another shard, or to a topic that has no queue on this one.
    Elsewhere,
    DiskFull {
        used_percent: u8,
    },
    NoLeader,
    Busy,
    Failed {
        why: String,
    },
}

error_text!(PullError {
    OutOfRange { next } => format!("no message has that offset; the nearest that can be read is {next}"),
    NoSuchQueue => "the topic has no queue of that number",
    NoReadableQueue => "no readable queue: the topic is write-only",
    TooManyPolls => "polling full: too many calls are waiting",
    Busy => "too many reads at once, try again after a pause",
    NoLeader => "the shard has no leader at the moment, nothing was changed; try again",
    Failed { why } => why.clone(),
});
error_text!(OffsetError {
    OutOfRange { min, max } => format!("the offset lies outside of the queue, which goes from {min} to {max}"),
    Backwards { committed } => format!("the group committed {committed} already; a reset moves it back"),
    GroupReceives => "the group receives with leases on this queue: its position moves by acknowledging, or by a reset",
    GroupBroadcasts => "every member of a broadcasting group has a position of its own: there is none to copy",
    GroupPulls => "the group pulls this queue: its position moves by commits, or by a reset",
    NoSuchQueue => "the topic has no queue of that number",
    Busy => "too much is being written, try again after a pause",
    NoLeader => "the shard has no leader at the moment, nothing was changed; try again",
    Failed { why } => why.clone(),
});
error_text!(LetterError {
    Gone => "no such dead letter: it never was, or it was sent again or removed before",
    NoWritableQueue => "the topic it should go to does not exist or takes no messages",
    Elsewhere => "the dead letter belongs to a queue of another shard; nothing was moved",
    DiskFull { used_percent } => format!("the disk is {used_percent} % full, nothing was moved; free space or shorten the retention"),
    Busy => "too much is being written, try again after a pause",
    NoLeader => "the shard has no leader at the moment, nothing was changed; try again",
    Failed { why } => why.clone(),
});
