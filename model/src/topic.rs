//! A topic as the controller defines it: what it accepts, and which shard owns each of its queues.

use crate::limits::{DELAY_MAX_MS, QUEUES_DEFAULT};
use crate::{MessageKind, QueueId, ShardId, TopicId, TopicName};
use serde::{Deserialize, Serialize};

/// Queues of a PRIORITY topic that doesn't say how many: RocketMQ's, one for each usual priority.
const PRIORITY_QUEUES_DEFAULT: u32 = 10;

/// Which kinds of message a topic takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TopicType {
    Normal,
    Fifo,
    Delay,
    Transaction,
    /// Normal, FIFO, delayed and transactional messages side by side.
    Mixed,
    Lite,
    Priority,
    /// Anything; the type of dead letter topics, which no client sends to.
    Unchecked,
}

impl TopicType {
    /// What a route says that the topic accepts.
    pub fn accepts(self) -> &'static [MessageKind] {
        use MessageKind::*;
        match self {
            TopicType::Normal => &[Normal],
            TopicType::Fifo => &[Fifo],
            TopicType::Delay => &[Delay],
            TopicType::Transaction => &[Transaction],
            TopicType::Mixed => &[Normal, Fifo, Delay, Transaction],
            TopicType::Lite => &[Lite],
            TopicType::Priority => &[Priority],
            TopicType::Unchecked => &[Normal, Fifo, Delay, Transaction, Priority, Lite],
        }
    }
}

impl TopicType {
    /// Queues of a topic of this type that doesn't say how many.
    pub fn queues_default(self) -> u32 {
        match self {
            TopicType::Priority => PRIORITY_QUEUES_DEFAULT,
            _ => QUEUES_DEFAULT,
        }
    }
}

/// Whether clients may send to and receive from a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Permission {
    None,
    Read,
    Write,
    #[default]
    ReadWrite,
}

impl Permission {
    pub fn can_read(self) -> bool {
        matches!(self, Permission::Read | Permission::ReadWrite)
    }

    pub fn can_write(self) -> bool {
        matches!(self, Permission::Write | Permission::ReadWrite)
    }
}

/// The life of a queue: it takes messages, then only gives them, then is empty for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum QueueState {
    #[default]
    Active,
    ReadOnly,
    Retired,
}

/// One queue of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    pub shard: ShardId,
    #[serde(default)]
    pub state: QueueState,
}

/// How long the messages of a topic are kept; whichever bound is met first counts, `None` leaves it to the server's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    pub age_ms: Option<u64>,
    pub bytes: Option<u64>,
}

/// What a topic allows beyond its type; each field has the default of a topic that says nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicOptions {
    /// Whether a message id that was stored a short while ago is answered and not stored a second time.
    pub dedup: bool,
    /// Longest delay of a timed message.
    pub delay_max_ms: u64,
    /// How long a lite topic lives without messages and without unfinished ones; `None` for ever.
    pub lite_expiry_ms: Option<u64>,
    pub quota: TopicQuota,
}

impl Default for TopicOptions {
    fn default() -> TopicOptions {
        TopicOptions { dedup: true, delay_max_ms: DELAY_MAX_MS, lite_expiry_ms: None, quota: TopicQuota::default() }
    }
}

impl TopicOptions {
    pub fn is_default(&self) -> bool {
        *self == TopicOptions::default()
    }
}

/// Bounds on the use of a topic; `None` is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicQuota {
    pub send_messages_per_s: Option<u64>,
    pub send_bytes_per_s: Option<u64>,
    /// Bytes of the messages kept; sends are refused beyond.
    pub stored_bytes: Option<u64>,
    /// Delayed messages that wait for their time.
    pub timers: Option<u64>,
    /// Transactions that are not ended.
    pub transactions: Option<u64>,
    pub lite_topics: Option<u64>,
}

/// A topic as every role knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topic {
    pub id: TopicId,
    pub name: TopicName,
    pub kind: TopicType,
    pub permission: Permission,
    /// Queue `i` of the topic is `queues[i]`.
    pub queues: Vec<Queue>,
    #[serde(default)]
    pub retention: Retention,
    #[serde(default, skip_serializing_if = "TopicOptions::is_default")]
    pub options: TopicOptions,
    pub created_ms: u64,
}

impl Topic {
    /// The queues with their numbers, in order.
    pub fn queues(&self) -> impl Iterator<Item = (QueueId, Queue)> + '_ {
        self.queues.iter().enumerate().map(|(number, &queue)| (QueueId(number as u32), queue))
    }
}

/// What somebody asks a new topic to be.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicSpec {
    pub name: TopicName,
    pub kind: TopicType,
    pub queues: u32,
    pub permission: Permission,
    pub retention: Retention,
    pub options: TopicOptions,
}

impl TopicSpec {
    /// A topic as first use makes it: it accepts what every first program sends.
    pub fn on_first_use(name: TopicName) -> TopicSpec {
        TopicSpec {
            name,
            kind: TopicType::Mixed,
            queues: QUEUES_DEFAULT,
            permission: Permission::ReadWrite,
            retention: Retention::default(),
            options: TopicOptions::default(),
        }
    }
}

/// What to change on a topic; `None` leaves it. Queues can be added; fewer make the highest ones read-only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicChange {
    pub kind: Option<TopicType>,
    pub queues: Option<u32>,
    pub permission: Option<Permission>,
    pub retention: Option<Retention>,
    /// All options together.
    pub options: Option<TopicOptions>,
}
