//! What lately became of each request, so that a client that heard no answer may ask again without doing it twice.
//!
//! The time is that of the entries, so every node remembers and forgets the same.

use super::{Effect, State};
use gantry_model::contract::metadata::{MetadataError, Version};
use gantry_model::{GroupId, NodeId, ShardId, TopicId};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};

/// How long a request is remembered.
pub const REMEMBERED_MS: u64 = 10 * 60 * 1000;
/// Most requests that are remembered: about 10 MiB. More than this in ten minutes forgets the oldest sooner.
pub const REQUESTS_MAX: usize = 100_000;

/// Chosen by who asks, at random: 128 bits never meet twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u128);

impl RequestId {
    pub fn bytes(self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }
}

/// What an event did, without what it did it to: enough to answer again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    Topic(TopicId),
    Group(GroupId),
    Node(NodeId),
    Shard(ShardId),
    Batch(Vec<Outcome>),
    Refused(#[serde(with = "Refusal")] MetadataError),
}

/// How a [`MetadataError`] is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "MetadataError", rename_all = "snake_case")]
enum Refusal {
    Exists { what: String },
    NotFound { what: String },
    Invalid { why: String },
    Unavailable { why: String },
}

/// The requests of the last ten minutes.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    by_id: HashMap<RequestId, Remembered>,
    by_age: VecDeque<RequestId>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Remembered {
    pub time_ms: u64,
    pub version: Version,
    pub outcome: Outcome,
}

impl Requests {
    pub fn get(&self, request: RequestId) -> Option<&Remembered> {
        self.by_id.get(&request)
    }

    /// Remembers a new request and forgets the old ones.
    pub fn remember(&mut self, request: RequestId, remembered: Remembered) {
        let now_ms = remembered.time_ms;
        self.by_id.insert(request, remembered);
        self.by_age.push_back(request);
        while self.by_age.len() > REQUESTS_MAX || self.oldest_ms().is_some_and(|time_ms| time_ms.saturating_add(REMEMBERED_MS) < now_ms) {
            let oldest = self.by_age.pop_front().expect("there is an oldest");
            self.by_id.remove(&oldest);
        }
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (RequestId, &Remembered)> {
        self.by_age.iter().map(|id| (*id, &self.by_id[id]))
    }

    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    fn oldest_ms(&self) -> Option<u64> {
        self.by_age.front().map(|id| self.by_id[id].time_ms)
    }
}

impl Effect {
    /// The short form.
    pub fn outcome(&self) -> Outcome {
        match self {
            Effect::Done => Outcome::Done,
            Effect::Topic(topic) => Outcome::Topic(topic.id),
            Effect::Group(group) => Outcome::Group(group.id),
            Effect::Node(node) => Outcome::Node(node.id),
            Effect::Shard(shard) => Outcome::Shard(shard.id),
            Effect::Batch(effects) => Outcome::Batch(effects.iter().map(Effect::outcome).collect()),
            Effect::Refused(error) => Outcome::Refused(error.clone()),
        }
    }
}

impl State {
    /// The long form: what it was done to, as it is now. Gone is what was deleted meanwhile.
    pub fn effect(&self, outcome: &Outcome) -> Effect {
        let found = match outcome {
            Outcome::Done => Some(Effect::Done),
            Outcome::Refused(error) => Some(Effect::Refused(error.clone())),
            Outcome::Topic(id) => self.topic_by_id(*id).cloned().map(Effect::Topic),
            Outcome::Group(id) => self.group_by_id(*id).cloned().map(Effect::Group),
            Outcome::Node(id) => self.nodes.get(*id).cloned().map(Effect::Node),
            Outcome::Shard(id) => self.shards.get(*id).cloned().map(Effect::Shard),
            Outcome::Batch(outcomes) => Some(Effect::Batch(outcomes.iter().map(|outcome| self.effect(outcome)).collect())),
        };
        found.unwrap_or_else(|| Effect::Refused(MetadataError::NotFound { what: "what this request made was deleted since; it".into() }))
    }
}
