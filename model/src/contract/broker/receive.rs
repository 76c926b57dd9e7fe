//! Receiving: who wants what, what was given, and how deliveries end.

use super::error_text;
use crate::message::Deliverable;
use crate::{ClientId, Filter, Group, ReceiptHandle, Topic};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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
    /// Whether one answer may hold several messages of one message group: the client must work on them in their order.
    pub ordered_batch: bool,
    /// The member's name within a broadcasting group: it stays when the client starts anew. Other groups ignore it.
    pub member: String,
}

/// The right to lease, offered by a shard that has something to give. Whoever drops it declines, and the shard offers it to the next.
///
/// A shard makes no more offers at a time than it can keep, and takes back one that is neither taken nor declined within [`Offer::LIFE`].
pub struct Offer {
    id: u64,
    decline: Option<Box<dyn FnOnce() + Send>>,
}

impl Offer {
    /// How long an offer stands.
    pub const LIFE: Duration = Duration::from_millis(50);

    /// An offer that its shard knows as `id`, and what tells the shard that nobody wants it.
    pub fn new(id: u64, decline: impl FnOnce() + Send + 'static) -> Offer {
        Offer { id, decline: Some(Box::new(decline)) }
    }

    /// Its number, to be named when it is taken; it is not declined any more.
    pub fn accept(mut self) -> u64 {
        self.decline = None;
        self.id
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offer {{ id: {} }}", self.id)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Some(decline) = self.decline.take() {
            decline();
        }
    }
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
#[derive(Debug)]
pub struct Delivery {
    pub message: Box<dyn Deliverable>,
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
    /// The group pulls this topic by offsets; its position must be reset before it can receive.
    GroupPulls,
    NoLeader,
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
    NoLeader,
    Busy,
    Failed {
        why: String,
    },
}

error_text!(ReceiveError {
    TooManyPolls => "polling full: too many receive calls are waiting",
    NoReadableQueue => "no readable queue: the topic is write-only",
    GroupPulls => "the group pulls this topic by offsets: reset its position before it receives",
    NoLeader => "the shard has no leader at the moment, nothing was changed; try again",
    Failed { why } => why.clone(),
});
error_text!(LeaseError {
    Ended => "the delivery has ended: the message was given to another consumer or the group's position was reset",
    Foreign => "the receipt handle belongs to another topic or group",
    Busy => "too much is being written, try again after a pause",
    NoLeader => "the shard has no leader at the moment, nothing was changed; try again",
    Failed { why } => why.clone(),
});
