//! Sending: what is handed over, where it was stored, and what ends a transaction or takes a delayed message back.

use super::error_text;
use crate::handle::{RecallHandle, TransactionHandle};
use crate::packed::Packed;
use crate::{ClientId, Message, Offset, QueueId, ShardId, Topic};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Messages for one topic.
#[derive(Clone, Debug)]
pub struct SendRequest {
    pub topic: Arc<Topic>,
    pub messages: Vec<Message>,
    /// Who sends: the first to be asked about its transactions.
    pub client: ClientId,
    /// How long it may wait for a shard that has no leader.
    pub wait: Duration,
}

/// The same, packed: as it comes from a proxy in another process.
#[derive(Clone, Debug)]
pub struct PackedSend {
    pub topic: Arc<Topic>,
    pub messages: Vec<Packed>,
    pub client: ClientId,
    pub wait: Duration,
}

impl PackedSend {
    /// `None` if one of the messages is none.
    pub fn unpack(self) -> Option<SendRequest> {
        let PackedSend { topic, messages, client, wait } = self;
        Some(SendRequest { topic, messages: messages.into_iter().map(Packed::unpack).collect::<Option<_>>()?, client, wait })
    }
}

/// Where a message was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub queue: QueueId,
    pub offset: Offset,
    /// Whether the same message id was stored a short while ago; this is what that send was answered.
    pub duplicate: bool,
    pub ticket: Option<Ticket>,
}

/// What a producer can do later with a message that is stored and not visible yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ticket {
    /// Commit it or roll it back.
    Transaction(TransactionHandle),
    /// Take it back before it is due.
    Recall(RecallHandle),
}

impl Sent {
    /// A message that is visible.
    pub fn at(queue: QueueId, offset: Offset) -> Sent {
        Sent { queue, offset, duplicate: false, ticket: None }
    }
}

/// Why a message was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// More is arriving than can be written; try again after a pause.
    Busy,
    /// The disk is nearly full; room must be made first.
    DiskFull { used_percent: u8 },
    /// No queue of the topic takes messages.
    NoWritableQueue,
    /// The topic holds as many of something as its quota allows.
    QuotaExceeded { what: String },
    /// There are as many lite topics as are allowed.
    LiteTopicQuota { most: u64 },
    /// The server stops; another node or a later try will take it.
    Draining,
    /// The shard has no leader, or this is not the one; try again.
    NoLeader,
    /// The message belongs to a queue of another shard.
    Misplaced { queue: QueueId, shard: ShardId },
    /// The shard failed while the message was under way: it may be stored or not.
    Unknown { why: String },
}

/// The end that a producer wants for its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Resolution {
    Commit = 1,
    Rollback = 2,
}

/// Who ends a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    Producer,
    /// May also end one that was given up.
    Operator,
}

/// Why a transaction was not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndError {
    /// It was ended the other way before.
    Contradicts {
        ended: Resolution,
    },
    /// It was given up after too many unanswered checks; an operator can end it.
    GivenUp,
    /// It is not known: it never was, or it ended longer ago than is remembered.
    Unknown,
    /// It can't be committed: the topic is gone or takes no messages.
    NoWritableQueue,
    DiskFull {
        used_percent: u8,
    },
    NoLeader,
    Busy,
    Failed {
        why: String,
    },
}

/// Why a delayed message was not taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecallError {
    /// It was due, and is or will be delivered.
    Delivered,
    /// It is not known: it never was, or its topic was deleted.
    Unknown,
    NoLeader,
    Busy,
    Failed {
        why: String,
    },
}

error_text!(SendError {
    Busy => "too much is being written, try again after a pause",
    DiskFull { used_percent } => format!("the disk is {used_percent} % full, nothing was stored; free space or shorten the retention"),
    NoWritableQueue => "no writable queue: the topic is read-only",
    QuotaExceeded { what } => format!("{what}; nothing was stored, try again later or raise the quota"),
    LiteTopicQuota { most } => format!("there are {most} lite topics, which is the most allowed; nothing was stored"),
    Draining => "the server is stopping, nothing was stored",
    NoLeader => "the shard has no leader at the moment, nothing was stored; try again",
    Misplaced { queue, shard } => format!("the message belongs to queue {queue}, which is on shard {shard}; nothing was stored, try again"),
    Unknown { why } => format!("the message may or may not be stored: {why}"),
});
error_text!(EndError {
    Contradicts { ended: Resolution::Commit } => "the transaction was committed before and can't be rolled back",
    Contradicts { ended: Resolution::Rollback } => "the transaction was rolled back before and can't be committed",
    GivenUp => "the transaction was given up after too many unanswered checks; an operator can end it",
    Unknown => "the transaction is not known, or it ended too long ago",
    NoWritableQueue => "no writable queue: the topic is read-only or deleted, the transaction stays open",
    DiskFull { used_percent } => format!("the disk is {used_percent} % full, the transaction stays open; free space or shorten the retention"),
    NoLeader => "the shard has no leader at the moment, nothing was changed; try again",
    Busy => "too much is being written, try again after a pause",
    Failed { why } => why.clone(),
});
error_text!(RecallError {
    Delivered => "the message was due already and can't be taken back",
    Unknown => "no such delayed message: it never was, or its topic was deleted",
    NoLeader => "the shard has no leader at the moment, nothing was changed; try again",
    Busy => "too much is being written, try again after a pause",
    Failed { why } => why.clone(),
});
