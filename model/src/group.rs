//! A consumer group as the controller defines it: order, attempts, delays between them, and where it starts.

use crate::limits::{AUTO_RENEW_CAP_MS, MAX_ATTEMPTS};
use crate::{GroupId, GroupName, TopicId};
use serde::{Deserialize, Serialize};

/// Whether messages of one message group wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Order {
    /// Ordered on FIFO and MIXED topics for messages that have a message group.
    #[default]
    FollowTopic,
    Fifo,
    None,
}

/// Where a group begins on a queue that it has never read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StartPosition {
    /// The first message stored after the group was created.
    #[default]
    Created,
    /// The oldest message that is kept.
    Earliest,
    /// The first message stored after the group first asked for messages of the topic.
    Latest,
}

/// How long a message waits between a failed delivery and the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryPolicy {
    Exponential {
        initial_ms: u64,
        max_ms: u64,
        multiplier: f32,
    },
    /// The delay after attempt `n` is entry `n - 1`; past the end the last one repeats. Never empty.
    Customized {
        delays_ms: Vec<u64>,
    },
}

impl Default for RetryPolicy {
    /// The 18 delays that RocketMQ users know: 1 s to 2 h.
    fn default() -> RetryPolicy {
        let minutes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 60, 120].map(|m| m * 60_000);
        RetryPolicy::Customized { delays_ms: [1_000, 5_000, 10_000, 30_000].into_iter().chain(minutes).collect() }
    }
}

impl RetryPolicy {
    /// How long after the failure of delivery number `attempt` (the first is 1) the next one comes.
    pub fn delay_ms(&self, attempt: u32) -> u64 {
        let step = attempt.saturating_sub(1);
        match self {
            RetryPolicy::Exponential { initial_ms, max_ms, multiplier } => {
                let delay = *initial_ms as f64 * f64::from(*multiplier).powi(step.min(64) as i32);
                (delay as u64).min(*max_ms)
            }
            RetryPolicy::Customized { delays_ms } => {
                let last = delays_ms.len().saturating_sub(1);
                delays_ms.get((step as usize).min(last)).copied().unwrap_or(0)
            }
        }
    }
}

/// What becomes of an ordered message that used up its attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Exhausted {
    /// It goes to the dead letter queue, and its message group goes on.
    #[default]
    DeadLetter,
    /// Its message group stops until somebody skips the message or allows more attempts.
    Block,
}

/// Who gets a message of a topic that several members of the group read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Sharing {
    /// One member.
    #[default]
    Clustering,
    /// Every member, each with its own position.
    Broadcasting,
}

/// How members of a group share the lite topics they subscribe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LiteSharing {
    /// All subscribers of a lite topic share its messages.
    #[default]
    Shared,
    /// The newest subscriber has it alone.
    Exclusive,
}

/// A group that consumes lite topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiteGroup {
    /// The parent topic, by name within the group's namespace.
    pub topic: String,
    #[serde(default)]
    pub sharing: LiteSharing,
    /// Lite topics that one client may subscribe.
    pub client_quota: u32,
    /// Whether every member gets every lite topic without subscribing.
    #[serde(default)]
    pub wildcard: bool,
}

/// What a group allows beyond order and attempts; each field has the default of a group that says nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupOptions {
    pub exhausted: Exhausted,
    pub sharing: Sharing,
    /// How strictly priorities are kept: of a hundred deliveries, so many begin at the highest one that has messages. At least one in a
    /// hundred begins at the lowest.
    pub priority_factor: u8,
    pub lite: Option<LiteGroup>,
    pub quota: GroupQuota,
}

impl Default for GroupOptions {
    fn default() -> GroupOptions {
        GroupOptions { exhausted: Exhausted::default(), sharing: Sharing::default(), priority_factor: 100, lite: None, quota: GroupQuota::default() }
    }
}

impl GroupOptions {
    pub fn is_default(&self) -> bool {
        *self == GroupOptions::default()
    }
}

/// Bounds on what a group consumes; `None` is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupQuota {
    pub receive_messages_per_s: Option<u64>,
    pub receive_bytes_per_s: Option<u64>,
    /// Messages of one queue that the group may hold unacknowledged.
    pub in_flight: Option<u64>,
}

/// A consumer group as every role knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub id: GroupId,
    pub name: GroupName,
    pub order: Order,
    /// Deliveries before a message goes to the dead letter queue; the first delivery is number 1.
    pub max_attempts: u32,
    pub retry: RetryPolicy,
    pub start: StartPosition,
    /// The dead letter topic, which exists from the group's creation.
    pub dead_letter: TopicId,
    /// Longest time that an auto-renewed message may be held.
    pub auto_renew_cap_ms: u64,
    #[serde(default, skip_serializing_if = "GroupOptions::is_default")]
    pub options: GroupOptions,
    pub created_ms: u64,
}

/// What somebody asks a new group to be.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSpec {
    pub name: GroupName,
    pub order: Order,
    pub max_attempts: u32,
    pub retry: RetryPolicy,
    pub start: StartPosition,
    pub auto_renew_cap_ms: u64,
    pub options: GroupOptions,
}

impl GroupSpec {
    /// An explicitly created group with every default.
    pub fn new(name: GroupName) -> GroupSpec {
        GroupSpec {
            name,
            order: Order::default(),
            max_attempts: MAX_ATTEMPTS,
            retry: RetryPolicy::default(),
            start: StartPosition::default(),
            auto_renew_cap_ms: AUTO_RENEW_CAP_MS,
            options: GroupOptions::default(),
        }
    }

    /// A group as first use makes it: it begins at the earliest message, so that producing first and subscribing later works.
    pub fn on_first_use(name: GroupName) -> GroupSpec {
        GroupSpec { start: StartPosition::Earliest, ..GroupSpec::new(name) }
    }
}

/// What to change on a group; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupChange {
    pub order: Option<Order>,
    pub max_attempts: Option<u32>,
    pub retry: Option<RetryPolicy>,
    pub auto_renew_cap_ms: Option<u64>,
    /// All options together.
    pub options: Option<GroupOptions>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_follow_the_policy_and_never_run_past_its_end() {
        let custom = RetryPolicy::Customized { delays_ms: vec![1_000, 5_000] };
        assert_eq!([1, 2, 3, 99].map(|n| custom.delay_ms(n)), [1_000, 5_000, 5_000, 5_000]);
        let exponential = RetryPolicy::Exponential { initial_ms: 10, max_ms: 1_000, multiplier: 2.0 };
        assert_eq!([1, 2, 3, 8, u32::MAX].map(|n| exponential.delay_ms(n)), [10, 20, 40, 1_000, 1_000]);
        assert_eq!(RetryPolicy::default().delay_ms(18), 2 * 3600 * 1000);
    }
}
