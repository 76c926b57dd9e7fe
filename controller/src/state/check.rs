//! What may be asked for: the rules that topics and groups obey, each with a text that says what to do instead.
//!
//! The controller asks here before it proposes an event, so that nonsense doesn't reach the journal, and `apply` asks again, because
//! only there the order of events is known.

use super::queues::{self, QUEUES_MAX};
use super::{State, TOPICS_MAX};
use gantry_model::contract::metadata::MetadataError;
use gantry_model::group::{GroupChange, GroupOptions, GroupSpec, RetryPolicy};
use gantry_model::limits::{DELAY_MAX_MS, INVISIBLE_MAX_MS, INVISIBLE_MIN_MS};
use gantry_model::topic::{Retention, TopicChange, TopicOptions, TopicSpec, TopicType};
use gantry_model::{Group, GroupName, Topic, TopicName};
use std::sync::Arc;

/// Most deliveries a group may ask for: at the longest delay of the default policy that is 83 days.
const ATTEMPTS_MAX: u32 = 1_000;
/// Most delays of a customized retry policy; RocketMQ users know 18.
const DELAYS_MAX: usize = 256;
/// Largest factor of an exponential retry policy.
const MULTIPLIER_MAX: f32 = 100.0;
/// Most shards of a cluster.
const SHARDS_MAX: u32 = 65_536;
/// How short and how long lite topics may live without messages.
const LITE_EXPIRY_MIN_MS: u64 = 15 * 60 * 1000;
const LITE_EXPIRY_MAX_MS: u64 = 30 * 24 * 3600 * 1000;
/// Longest cluster name, in bytes; clients keep it as the broker's name.
const CLUSTER_NAME_MAX: usize = 127;

/// The answer to a legal wish to create something.
#[derive(Debug)]
pub enum Checked<T> {
    /// It exists exactly like this.
    Same(T),
    Go,
}

impl State {
    /// Whether this topic may be created.
    pub fn check_topic_creation(&self, spec: &TopicSpec) -> Result<Checked<Arc<Topic>>, MetadataError> {
        not_system(&spec.name)?;
        if spec.kind == TopicType::Unchecked {
            return invalid(format!("topic `{}` can't have the type UNCHECKED, which belongs to dead letter topics", spec.name));
        }
        queue_count(spec.queues)?;
        retention(spec.retention)?;
        topic_options(&spec.options)?;
        if let Some(topic) = self.topic(&spec.name) {
            return match is_like(topic, spec) {
                true => Ok(Checked::Same(topic.clone())),
                false => Err(MetadataError::Exists { what: format!("topic `{}`", spec.name) }),
            };
        }
        self.room_for_a_topic()?;
        Ok(Checked::Go)
    }

    /// Whether this topic may be changed like that; answers the topic as it is.
    pub fn check_topic_change(&self, name: &TopicName, change: &TopicChange) -> Result<Arc<Topic>, MetadataError> {
        let topic = self.topic(name).ok_or_else(|| no_topic(name))?;
        if name.is_system() && (change.kind.is_some() || change.queues.is_some()) {
            return invalid(format!("the type and the queues of the dead letter topic `{name}` can't be changed"));
        }
        if let Some(kind) = change.kind.filter(|&kind| kind != topic.kind) {
            type_change(topic, kind)?;
        }
        if let Some(count) = change.queues {
            queue_count(count)?;
            let held = queues::length_after(&topic.queues, count);
            if held > QUEUES_MAX as usize {
                return invalid(format!("topic `{name}` would have {held} queues with its read-only ones, the most allowed is {QUEUES_MAX}"));
            }
        }
        change.retention.map_or(Ok(()), retention)?;
        change.options.as_ref().map_or(Ok(()), topic_options)?;
        Ok(topic.clone())
    }

    /// Whether this group may be created.
    pub fn check_group_creation(&self, spec: &GroupSpec) -> Result<Checked<Arc<Group>>, MetadataError> {
        attempts(spec.max_attempts)?;
        retry(&spec.retry)?;
        renewal(spec.auto_renew_cap_ms)?;
        group_options(&spec.options)?;
        if let Some(group) = self.group(&spec.name) {
            let same = group.order == spec.order
                && group.max_attempts == spec.max_attempts
                && group.retry == spec.retry
                && group.start == spec.start
                && group.auto_renew_cap_ms == spec.auto_renew_cap_ms
                && group.options == spec.options;
            return match same {
                true => Ok(Checked::Same(group.clone())),
                false => Err(MetadataError::Exists { what: format!("consumer group `{}`", spec.name) }),
            };
        }
        self.room_for_a_topic()?;
        if self.next_group == u32::MAX {
            return invalid("no consumer group can be created any more: all 32-bit group numbers were used".into());
        }
        Ok(Checked::Go)
    }

    /// Whether this group may be changed like that; answers the group as it is.
    pub fn check_group_change(&self, name: &GroupName, change: &GroupChange) -> Result<Arc<Group>, MetadataError> {
        let group = self.group(name).ok_or_else(|| no_group(name))?;
        change.max_attempts.map_or(Ok(()), attempts)?;
        change.retry.as_ref().map_or(Ok(()), retry)?;
        change.auto_renew_cap_ms.map_or(Ok(()), renewal)?;
        change.options.as_ref().map_or(Ok(()), group_options)?;
        Ok(group.clone())
    }

    /// Whether this topic may be deleted.
    pub fn check_topic_deletion(&self, name: &TopicName) -> Result<(), MetadataError> {
        not_system(name)?;
        self.topic(name).map(|_| ()).ok_or_else(|| no_topic(name))
    }

    /// Whether this group may be deleted.
    pub fn check_group_deletion(&self, name: &GroupName) -> Result<(), MetadataError> {
        self.group(name).map(|_| ()).ok_or_else(|| no_group(name))
    }

    fn room_for_a_topic(&self) -> Result<(), MetadataError> {
        self.existing_cluster()?;
        if self.topics.len() >= TOPICS_MAX {
            return invalid(format!(
                "there are {TOPICS_MAX} topics with the dead letter topics of the groups, which is the most allowed; delete some first"
            ));
        }
        if self.next_topic == u32::MAX {
            return invalid("no topic can be created any more: all 32-bit topic numbers were used".into());
        }
        Ok(())
    }
}

fn is_like(topic: &Topic, spec: &TopicSpec) -> bool {
    topic.kind == spec.kind
        && topic.permission == spec.permission
        && topic.retention == spec.retention
        && topic.options == spec.options
        && queues::active(&topic.queues) == spec.queues
}

/// Refuses to create or delete what the system makes itself.
fn not_system(name: &TopicName) -> Result<(), MetadataError> {
    if name.is_system() {
        return invalid(format!("`{name}` belongs to the system: a dead letter topic comes and goes with its consumer group"));
    }
    Ok(())
}

fn no_topic(name: &TopicName) -> MetadataError {
    MetadataError::NotFound { what: format!("topic `{name}`") }
}

fn no_group(name: &GroupName) -> MetadataError {
    MetadataError::NotFound { what: format!("consumer group `{name}`") }
}

/// Whether a cluster may be like this.
pub fn cluster(id: &str, name: &str, count: u32) -> Result<(), MetadataError> {
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return invalid(format!("cluster id `{}` is not 32 hexadecimal digits", id.escape_debug()));
    }
    cluster_name(name)?;
    shards(count)
}

fn cluster_name(name: &str) -> Result<(), MetadataError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > CLUSTER_NAME_MAX || !name.chars().all(legal) {
        let name = name.escape_debug();
        return invalid(format!("cluster name `{name}` is not 1 to {CLUSTER_NAME_MAX} letters, digits, `-`, `_` and `.`"));
    }
    Ok(())
}

fn shards(count: u32) -> Result<(), MetadataError> {
    if !(1..=SHARDS_MAX).contains(&count) {
        return invalid(format!("a cluster has 1 to {SHARDS_MAX} shards, not {count}"));
    }
    Ok(())
}

fn queue_count(count: u32) -> Result<(), MetadataError> {
    if !(1..=QUEUES_MAX).contains(&count) {
        return invalid(format!("a topic has 1 to {QUEUES_MAX} queues, not {count}"));
    }
    Ok(())
}

/// Messages of the old type may be there, so only those types may follow each other that store messages alike.
fn type_change(topic: &Topic, wanted: TopicType) -> Result<(), MetadataError> {
    use TopicType::*;
    let alike = |kind| matches!(kind, Normal | Fifo | Delay | Transaction | Mixed);
    if !alike(topic.kind) || !alike(wanted) {
        return invalid(format!("the type of topic `{}` can't change from {:?} to {wanted:?}: create another topic", topic.name, topic.kind));
    }
    Ok(())
}

fn retention(retention: Retention) -> Result<(), MetadataError> {
    if retention.age_ms == Some(0) || retention.bytes == Some(0) {
        return invalid("a retention of 0 would delete every message at once; leave it out to use the server's default".into());
    }
    Ok(())
}

fn topic_options(options: &TopicOptions) -> Result<(), MetadataError> {
    if !(1_000..=DELAY_MAX_MS).contains(&options.delay_max_ms) {
        return invalid(format!("the longest delay of a topic is 1 s to 40 days, not {} ms", options.delay_max_ms));
    }
    if options.lite_expiry_ms.is_some_and(|expiry| !(LITE_EXPIRY_MIN_MS..=LITE_EXPIRY_MAX_MS).contains(&expiry)) {
        return invalid("a lite topic expires after 15 minutes to 30 days without messages; leave the expiration out to keep it".into());
    }
    let quota = &options.quota;
    let bounds = [quota.send_messages_per_s, quota.send_bytes_per_s, quota.stored_bytes, quota.timers, quota.transactions, quota.lite_topics];
    if bounds.contains(&Some(0)) {
        return invalid("a quota of 0 would stop the topic; make it read-only instead, or leave the quota out".into());
    }
    Ok(())
}

fn group_options(options: &GroupOptions) -> Result<(), MetadataError> {
    if options.priority_factor > 100 {
        return invalid(format!("the priority factor is 0 to 100 percent, not {}", options.priority_factor));
    }
    if options.lite.as_ref().is_some_and(|lite| lite.topic.is_empty() || lite.client_quota == 0) {
        return invalid("a group of lite topics names its parent topic and allows each client at least one lite topic".into());
    }
    let quota = &options.quota;
    if [quota.receive_messages_per_s, quota.receive_bytes_per_s, quota.in_flight].contains(&Some(0)) {
        return invalid("a quota of 0 would stop the group; leave the quota out".into());
    }
    Ok(())
}

fn attempts(count: u32) -> Result<(), MetadataError> {
    if !(1..=ATTEMPTS_MAX).contains(&count) {
        return invalid(format!("a consumer group delivers a message 1 to {ATTEMPTS_MAX} times, not {count}"));
    }
    Ok(())
}

fn renewal(cap_ms: u64) -> Result<(), MetadataError> {
    if !(INVISIBLE_MIN_MS..=INVISIBLE_MAX_MS).contains(&cap_ms) {
        let (from, to) = (INVISIBLE_MIN_MS / 1000, INVISIBLE_MAX_MS / 1000);
        return invalid(format!("an auto-renewed message may be held for {from} to {to} seconds, not {cap_ms} ms"));
    }
    Ok(())
}

fn retry(policy: &RetryPolicy) -> Result<(), MetadataError> {
    let longest = match policy {
        RetryPolicy::Customized { delays_ms } if delays_ms.is_empty() || delays_ms.len() > DELAYS_MAX => {
            return invalid(format!("a customized retry policy has 1 to {DELAYS_MAX} delays, not {}", delays_ms.len()));
        }
        RetryPolicy::Customized { delays_ms } => delays_ms.iter().copied().max().unwrap_or(0),
        RetryPolicy::Exponential { multiplier, .. } if !(1.0..=MULTIPLIER_MAX).contains(multiplier) => {
            return invalid(format!("the multiplier of a retry policy is 1 to {MULTIPLIER_MAX}, not {multiplier}"));
        }
        RetryPolicy::Exponential { initial_ms, max_ms, .. } if initial_ms > max_ms => {
            return invalid(format!("the first delay of a retry policy, {initial_ms} ms, is longer than its longest, {max_ms} ms"));
        }
        RetryPolicy::Exponential { max_ms, .. } => *max_ms,
    };
    if longest > DELAY_MAX_MS {
        return invalid(format!("a retry delay of {longest} ms is longer than {DELAY_MAX_MS} ms, the longest allowed"));
    }
    Ok(())
}

fn invalid<T>(why: String) -> Result<T, MetadataError> {
    Err(MetadataError::Invalid { why })
}
