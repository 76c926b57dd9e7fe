//! What a proxy asks of the brokers: send, receive, acknowledge, look up.
//!
//! Rules for every implementation:
//! - An `Ok` means committed: it survives a crash. An error other than `Unknown` means that nothing was stored or changed.
//! - Dropping a future before it is ready withdraws the request where it can still be withdrawn. A dropped `receive` leases nothing, or gives
//!   back what it leased without counting the attempt; a dropped `send` may still be stored.
//! - Every call ends: the implementation bounds its waits by the times in the request.
//! - Requests carry the topic or group as the caller sees it; the implementation trusts only the ids in it.

use crate::message::StoredMessage;
use crate::{ClientId, Filter, Group, Message, Offset, QueueId, ReceiptHandle, ShardId, Topic};
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The data path.
#[async_trait]
pub trait Broker: Send + Sync + fmt::Debug {
    /// Stores messages and answers each of them, in the order given. Messages for one queue are stored all or none.
    async fn send(&self, request: SendRequest) -> Vec<Result<Sent, SendError>>;

    /// Leases up to `max` messages to a client, waiting up to `wait` for the first one. An empty answer means that the wait ended.
    async fn receive(&self, request: ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError>;

    /// Finishes deliveries; one answer per handle, in the order given. Finishing twice is `Ok`.
    async fn ack(&self, group: &Group, handles: Vec<ReceiptHandle>) -> Vec<Result<(), LeaseError>>;

    /// Moves the time at which a delivered message becomes visible again. The handle stays the same.
    async fn change_visibility(&self, request: VisibilityChange) -> Result<(), LeaseError>;

    /// Moves a delivered message to the dead letter queue of its group and finishes the delivery, in one step. Repeating it is `Ok`.
    async fn dead_letter(&self, group: &Group, handle: ReceiptHandle) -> Result<(), LeaseError>;

    /// Gives back deliveries that never reached the client: visible at once, the attempt is not counted. Never fails for the caller.
    fn release(&self, handles: Vec<ReceiptHandle>);

    /// Tells that these clients are alive: any call of theirs counts. Cheap; may be called for every request.
    fn client_alive(&self, client: &ClientId);

    /// Tells that a client has ended: its open polls end empty, and what it held with auto-renewal becomes visible.
    fn client_gone(&self, client: &ClientId);

    /// Where a group stands on each queue of a topic.
    async fn positions(&self, group: &Group, topic: &Topic) -> Result<Vec<QueuePosition>, LookupError>;

    /// The bounds of each queue of a topic.
    async fn queues(&self, topic: &Topic) -> Result<Vec<QueueBounds>, LookupError>;

    /// Finds stored messages, newest last, at most `limit` of them.
    async fn find(&self, topic: &Topic, query: Query, limit: usize) -> Result<Vec<StoredMessage>, LookupError>;

    /// How the shards are doing.
    async fn shards(&self) -> Vec<ShardStatus>;

    /// Stops taking work: open polls end empty, what was accepted is finished and synced.
    async fn drain(&self);
}

/// Messages for one topic.
#[derive(Clone, Debug)]
pub struct SendRequest {
    pub topic: Arc<Topic>,
    pub messages: Vec<Message>,
}

/// Where a message was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub queue: QueueId,
    pub offset: Offset,
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
    /// The server stops; another node or a later try will take it.
    Draining,
    /// The shard failed while the message was under way: it may be stored or not.
    Unknown { why: String },
}

/// A wish to receive.
#[derive(Clone, Debug)]
pub struct ReceiveRequest {
    pub group: Arc<Group>,
    pub topic: Arc<Topic>,
    pub filter: Arc<Filter>,
    pub client: ClientId,
    /// At least 1.
    pub max: u32,
    pub lease: LeaseTerm,
    pub wait: Duration,
    /// An id that the client repeats when it did not see the answer: it then gets the same batch again.
    pub attempt_id: Option<String>,
}

/// How long a delivery belongs to its consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseTerm {
    /// Until this much time has passed since it was given.
    For(Duration),
    /// As long as the client lives, at most the group's cap.
    WhileClientLives,
}

/// One message given to one consumer.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub message: StoredMessage,
    pub handle: ReceiptHandle,
    /// 1 for the first delivery.
    pub attempt: u32,
}

/// Why nothing could be received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiveError {
    /// Too many polls are waiting.
    TooManyPolls,
    /// The topic can't be read.
    NoReadableQueue,
    Failed {
        why: String,
    },
}

/// A move of the time at which a delivery ends.
#[derive(Clone, Debug)]
pub struct VisibilityChange {
    pub group: Arc<Group>,
    pub handle: ReceiptHandle,
    /// From now; zero makes the message visible at once.
    pub after: Duration,
    /// An auto-renewed message that failed waits at least this long, whatever `after` says: some clients misread the delays they are given.
    pub failed_for_at_least: Duration,
    pub attempt: AttemptCount,
}

/// Whether the delivery that ends counts as an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptCount {
    Counts,
    /// The consumer suspended: the next delivery has the same attempt number.
    Suspended,
}

/// Why a delivery could not be finished or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseError {
    /// The delivery has ended and the message was given to somebody else, or the group's position was reset.
    Ended,
    /// The handle names another group or topic.
    Foreign,
    Busy,
    Failed {
        why: String,
    },
}

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

/// How a shard is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardStatus {
    pub shard: ShardId,
    pub epoch: u32,
    /// First byte address that is kept.
    pub start: u64,
    pub end: u64,
    pub durable: u64,
    pub disk_total: u64,
    pub disk_free: u64,
    pub condition: ShardCondition,
    pub open_polls: u64,
    pub messages_stored: u64,
    pub messages_delivered: u64,
    pub messages_acked: u64,
    pub dead_letters: u64,
}

/// What a shard can still do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShardCondition {
    #[default]
    Ready,
    /// The disk is nearly full: no sends, everything else goes on.
    Full,
    /// The disk failed: nothing more is acknowledged; the process must restart.
    Failed,
    Draining,
}

macro_rules! error_text {
    ($name:ident { $($pattern:pat => $text:expr),+ $(,)? }) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                use $name::*;
                match self { $($pattern => f.write_str(&$text)),+ }
            }
        }

        impl std::error::Error for $name {}
    };
}

error_text!(SendError {
    Busy => "too much is being written, try again after a pause",
    DiskFull { used_percent } => format!("the disk is {used_percent} % full, nothing was stored; free space or shorten the retention"),
    NoWritableQueue => "no writable queue: the topic is read-only",
    Draining => "the server is stopping, nothing was stored",
    Unknown { why } => format!("the message may or may not be stored: {why}"),
});
error_text!(ReceiveError {
    TooManyPolls => "polling full: too many receive calls are waiting",
    NoReadableQueue => "no readable queue: the topic is write-only",
    Failed { why } => why.clone(),
});
error_text!(LeaseError {
    Ended => "the delivery has ended: the message was given to another consumer or the group's position was reset",
    Foreign => "the receipt handle belongs to another topic or group",
    Busy => "too much is being written, try again after a pause",
    Failed { why } => why.clone(),
});
error_text!(LookupError {
    Busy => "too many look-ups at once, try again after a pause",
    Failed { why } => why.clone(),
});
