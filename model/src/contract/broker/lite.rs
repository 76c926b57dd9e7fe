//! Lite topics: which of them a client wants.

use super::error_text;
use crate::{ClientId, Group, Offset, Topic};
use std::fmt;
use std::sync::Arc;

/// A change of what one client subscribes.
#[derive(Clone, Debug)]
pub struct LiteSync {
    pub group: Arc<Group>,
    pub topic: Arc<Topic>,
    pub client: ClientId,
    pub names: Vec<String>,
    /// Names that belong to other shards: they count here only where their lite topics exist, because the topic had other queues before.
    pub elsewhere: Vec<String>,
    pub change: LiteChange,
    /// Where the group begins on lite topics that none of its members subscribes now; those that are subscribed go on where they are.
    pub start: LiteStart,
}

/// What the names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiteChange {
    Add,
    Remove,
    /// All that the client wants.
    Replace,
    /// The client goes; it wants nothing more.
    Clear,
}

/// Where to begin on a lite topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LiteStart {
    /// Where the group was; if it never was there, at the end.
    #[default]
    Last,
    Min,
    Max,
    At(Offset),
    /// So many before the end.
    Tail(u64),
    /// The first stored at or after this time, ms since the Unix epoch.
    Time(u64),
}

/// Why a subscription was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiteError {
    /// More lite topics than one client, or one shard, may subscribe.
    SubscriptionQuota {
        most: u64,
    },
    /// More lite topics than the parent may have.
    TopicQuota {
        most: u64,
    },
    NoLeader,
    Busy,
    Failed {
        why: String,
    },
}

/// A lite topic as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteTopic {
    pub name: String,
    pub min: Offset,
    /// One past the newest.
    pub max: Offset,
    /// When it last got a message, ms since the Unix epoch.
    pub active_ms: u64,
    pub subscribers: u64,
}

error_text!(LiteError {
    SubscriptionQuota { most } => format!("more lite topics than may be subscribed, which is {most}"),
    TopicQuota { most } => format!("there are {most} lite topics, which is the most allowed"),
    Busy => "too much is being written, try again after a pause",
    NoLeader => "the shard has no leader at the moment, nothing was changed; try again",
    Failed { why } => why.clone(),
});
