//! The state as a snapshot holds it: a head, then topics, groups, nodes, shards and requests in parts that fit in memory one at a time.

use super::nodes::{Node, Nodes};
use super::queues::{self, Run};
use super::requests::{Outcome, Remembered, RequestId};
use super::shards::Shard;
use super::{DatedKey, State, ready};
use crate::state::event::Secret;
use gantry_model::contract::metadata::{Cluster, Version};
use gantry_model::handle::HandleKey;
use gantry_model::topic::{Permission, Retention, TopicOptions, TopicType};
use gantry_model::{Group, Topic, TopicId, TopicName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Topics or groups in one part: about 200 KiB.
const PART: usize = 1_000;

/// A piece of a snapshot. The head comes first; it says how many of each kind must follow.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Head(Head),
    Topics(Vec<TopicImage>),
    Groups(Vec<Group>),
    Nodes(Vec<Node>),
    Shards(Vec<Shard>),
    Requests(Vec<RequestImage>),
}

/// Everything that is one of a kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Head {
    /// Of this format.
    pub v: u32,
    /// Events applied.
    pub version: u64,
    cluster: Option<ClusterImage>,
    keys: Vec<KeyImage>,
    next_topic: u32,
    next_group: u32,
    next_node: u64,
    counts: Counts,
}

/// How many of each kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    topics: usize,
    groups: usize,
    nodes: usize,
    shards: usize,
    requests: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { topics, groups, nodes, shards, requests } = self;
        write!(f, "{topics} topics, {groups} groups, {nodes} nodes, {shards} shards and {requests} requests")
    }
}

/// A request and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequestImage {
    /// As 32 hexadecimal digits.
    id: String,
    time_ms: u64,
    version: u64,
    outcome: Outcome,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ClusterImage {
    id: String,
    name: String,
    shards: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeyImage {
    id: u32,
    secret: Secret,
    added_ms: u64,
}

/// A topic with its queues as runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TopicImage {
    id: TopicId,
    name: TopicName,
    kind: TopicType,
    permission: Permission,
    queues: Vec<Run>,
    retention: Retention,
    #[serde(default, skip_serializing_if = "TopicOptions::is_default")]
    options: TopicOptions,
    created_ms: u64,
}

/// Parts that don't make a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit(pub String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

/// The format that this version writes, and the newest it reads.
pub const FORMAT: u32 = 1;

impl State {
    /// The state as parts, in an order from which [`Rebuild`] makes it again.
    pub fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        let keys = self.keys.iter().map(|dated| KeyImage { id: dated.key.id, secret: Secret(dated.key.secret), added_ms: dated.added_ms });
        let head = Head {
            v: FORMAT,
            version: self.version.0,
            cluster: self.cluster.as_ref().map(|cluster| ClusterImage { id: cluster.id.clone(), name: cluster.name.clone(), shards: cluster.shards }),
            keys: keys.collect(),
            next_topic: self.next_topic,
            next_group: self.next_group,
            next_node: self.nodes.next(),
            counts: self.counts(),
        };
        let mut topics = self.topics.values();
        let mut groups = self.groups.values();
        let topics = std::iter::from_fn(move || nonempty(topics.by_ref().take(PART).map(|topic| TopicImage::of(topic)).collect()).map(Part::Topics));
        let groups = std::iter::from_fn(move || nonempty(groups.by_ref().take(PART).map(|group| Group::clone(group)).collect()).map(Part::Groups));
        let mut nodes = self.nodes.iter();
        let nodes = std::iter::from_fn(move || nonempty(nodes.by_ref().take(PART).map(|node| Node::clone(node)).collect()).map(Part::Nodes));
        let mut shards = self.shards.iter();
        let shards = std::iter::from_fn(move || nonempty(shards.by_ref().take(PART).map(|shard| Shard::clone(shard)).collect()).map(Part::Shards));
        let mut requests = self.requests.iter();
        let requests = std::iter::from_fn(move || nonempty(requests.by_ref().take(PART).map(RequestImage::of).collect()).map(Part::Requests));
        std::iter::once(Part::Head(head)).chain(topics).chain(groups).chain(nodes).chain(shards).chain(requests)
    }

    fn counts(&self) -> Counts {
        Counts {
            topics: self.topics.len(),
            groups: self.groups.len(),
            nodes: self.nodes.len(),
            shards: self.shards.len(),
            requests: self.requests.len(),
        }
    }
}

fn nonempty<T>(list: Vec<T>) -> Option<Vec<T>> {
    if list.is_empty() { None } else { Some(list) }
}

impl RequestImage {
    fn of((id, known): (RequestId, &Remembered)) -> RequestImage {
        RequestImage { id: hex::encode(id.bytes()), time_ms: known.time_ms, version: known.version.0, outcome: known.outcome.clone() }
    }

    fn read(self) -> Result<(RequestId, Remembered), Unfit> {
        let id = u128::from_str_radix(&self.id, 16).map_err(|_| Unfit(format!("request id `{}` makes no sense", self.id.escape_debug())))?;
        Ok((RequestId(id), Remembered { time_ms: self.time_ms, version: Version(self.version), outcome: self.outcome }))
    }
}

impl TopicImage {
    fn of(topic: &Topic) -> TopicImage {
        TopicImage {
            id: topic.id,
            name: topic.name.clone(),
            kind: topic.kind,
            permission: topic.permission,
            queues: queues::pack(&topic.queues),
            retention: topic.retention,
            options: topic.options.clone(),
            created_ms: topic.created_ms,
        }
    }

    fn topic(self) -> Result<Topic, Unfit> {
        let queues = queues::unpack(&self.queues).filter(|queues| !queues.is_empty());
        let queues = queues.ok_or_else(|| Unfit(format!("the queues of topic `{}` make no sense", self.name)))?;
        let TopicImage { id, name, kind, permission, retention, options, created_ms, .. } = self;
        Ok(Topic { id, name, kind, permission, queues, retention, options, created_ms })
    }
}

/// A state under construction from parts.
#[derive(Debug)]
pub struct Rebuild {
    state: State,
    counts: Counts,
}

impl Rebuild {
    /// Begins with a head.
    pub fn new(head: Head) -> Result<Rebuild, Unfit> {
        if head.v > FORMAT {
            return Err(Unfit(format!("it has format {}, this version reads formats up to {FORMAT}: use a newer gantry", head.v)));
        }
        let keys: Vec<DatedKey> =
            head.keys.into_iter().map(|key| DatedKey { key: HandleKey { id: key.id, secret: key.secret.0 }, added_ms: key.added_ms }).collect();
        let state = State {
            cluster: head.cluster.map(|cluster| Arc::new(Cluster { id: cluster.id, name: cluster.name, shards: cluster.shards })),
            ready_keys: ready(&keys),
            keys,
            next_topic: head.next_topic,
            next_group: head.next_group,
            nodes: Nodes::after(head.next_node),
            version: Version(head.version),
            ..State::default()
        };
        Ok(Rebuild { state, counts: head.counts })
    }

    /// Adds the next part.
    pub fn add(&mut self, part: Part) -> Result<(), Unfit> {
        match part {
            Part::Head(_) => return Err(Unfit("it has two heads".into())),
            Part::Topics(topics) => {
                for image in topics {
                    let topic = image.topic()?;
                    self.state.put_topic(topic);
                }
            }
            Part::Groups(groups) => {
                for group in groups {
                    self.state.put_group(group);
                }
            }
            Part::Nodes(nodes) => nodes.into_iter().for_each(|node| _ = self.state.nodes.put(node)),
            Part::Shards(shards) => shards.into_iter().for_each(|shard| _ = self.state.shards.put(shard)),
            Part::Requests(requests) => {
                for image in requests {
                    let (id, known) = image.read()?;
                    self.state.requests.remember(id, known);
                }
            }
        }
        Ok(())
    }

    /// The state, if everything came that the head announced.
    pub fn finish(self) -> Result<State, Unfit> {
        let have = self.state.counts();
        if have != self.counts {
            return Err(Unfit(format!("it has {have}, its head announces {}", self.counts)));
        }
        Ok(self.state)
    }
}
