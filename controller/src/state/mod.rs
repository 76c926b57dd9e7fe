//! What the cluster is, and what each event makes of it.
//!
//! [`State::apply`] is the whole truth: given the same events in the same order, every node computes the same state and gives the same
//! answers. Times and secrets are in the events, ids are counted here. An event that can't be obeyed changes nothing and is answered with
//! the reason; replaying it gives the same refusal, so it does no harm in the log.

pub mod event;
pub mod check;
pub mod queues;
pub mod nodes;
pub mod shards;
pub mod requests;
pub mod image;

use check::Checked;
use event::{Event, Secret};
use gantry_model::contract::metadata::{Cluster, MetadataError, Version};
use gantry_model::group::{GroupChange, GroupSpec};
use gantry_model::handle::{HandleKey, HandleKeys};
use gantry_model::topic::{Permission, Queue, QueueState, Retention, TopicChange, TopicOptions, TopicSpec, TopicType};
use gantry_model::{Group, GroupId, GroupName, NodeId, ShardId, Topic, TopicId, TopicName};
use nodes::{Admission, Health, Node, Nodes};
use requests::{Remembered, RequestId, Requests};
use shards::{Policy, Shard, ShardConfig, Shards};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Most topics of a cluster, dead letter topics included. A topic of 8 queues takes about 400 bytes here.
pub const TOPICS_MAX: usize = 1_000_000;

/// How long after its successor a key still verifies: nothing that it signed lives longer than the longest delay, 40 days.
const KEY_RETIRED_MS: u64 = gantry_model::limits::DELAY_MAX_MS + 5 * 24 * 3600 * 1000;

/// All metadata of a cluster.
#[derive(Clone, Debug)]
pub struct State {
    cluster: Option<Arc<Cluster>>,
    keys: Vec<DatedKey>,
    ready_keys: Option<Arc<HandleKeys>>,
    topics: BTreeMap<TopicName, Arc<Topic>>,
    topics_by_id: HashMap<TopicId, Arc<Topic>>,
    groups: BTreeMap<GroupName, Arc<Group>>,
    groups_by_id: HashMap<GroupId, Arc<Group>>,
    /// The id that the next topic gets; 0 is nobody's.
    next_topic: u32,
    next_group: u32,
    nodes: Nodes,
    shards: Shards,
    requests: Requests,
    version: Version,
}

/// An event that is durable and applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Its place in the order.
    pub version: Version,
    pub effect: Effect,
}

/// A key and when it began to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DatedKey {
    key: HandleKey,
    added_ms: u64,
}

/// What an event did.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Done,
    /// The topic as it is now; also when it was like this before.
    Topic(Arc<Topic>),
    Group(Arc<Group>),
    Node(Arc<Node>),
    Shard(Arc<Shard>),
    /// What each event of a batch did.
    Batch(Vec<Effect>),
    /// Nothing was changed.
    Refused(MetadataError),
}

impl Default for State {
    fn default() -> State {
        State {
            cluster: None,
            keys: Vec::new(),
            ready_keys: None,
            topics: BTreeMap::new(),
            topics_by_id: HashMap::new(),
            groups: BTreeMap::new(),
            groups_by_id: HashMap::new(),
            next_topic: 1,
            next_group: 1,
            nodes: Nodes::default(),
            shards: Shards::default(),
            requests: Requests::default(),
            version: Version(0),
        }
    }
}

/// Questions.
impl State {
    /// The cluster, once it was created.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// The keys that sign handles, once there is one.
    pub fn handle_keys(&self) -> Option<&Arc<HandleKeys>> {
        self.ready_keys.as_ref()
    }

    /// When the newest key was added.
    pub fn newest_key_ms(&self) -> Option<u64> {
        self.keys.last().map(|key| key.added_ms)
    }

    /// The nodes that belong to the cluster.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// The shards that were placed on nodes. A standalone server has a shard that is not among them.
    pub fn shards_placed(&self) -> &Shards {
        &self.shards
    }

    /// A copy for somebody who is not asked what became of requests.
    pub fn without_requests(&self) -> State {
        State {
            cluster: self.cluster.clone(),
            keys: self.keys.clone(),
            ready_keys: self.ready_keys.clone(),
            topics: self.topics.clone(),
            topics_by_id: self.topics_by_id.clone(),
            groups: self.groups.clone(),
            groups_by_id: self.groups_by_id.clone(),
            nodes: self.nodes.clone(),
            shards: self.shards.clone(),
            requests: Requests::default(),
            ..*self
        }
    }

    /// The number of events applied so far.
    pub fn version(&self) -> Version {
        self.version
    }

    pub fn topic(&self, name: &TopicName) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics_by_id.get(&id)
    }

    pub fn group(&self, name: &GroupName) -> Option<&Arc<Group>> {
        self.groups.get(name)
    }

    pub fn group_by_id(&self, id: GroupId) -> Option<&Arc<Group>> {
        self.groups_by_id.get(&id)
    }

    /// Topics in the order of their names, the first after `after`.
    pub fn topics_after<'a>(&'a self, after: Option<&'a TopicName>) -> impl Iterator<Item = &'a Arc<Topic>> {
        self.topics.range((from(after), std::ops::Bound::Unbounded)).map(|(_, topic)| topic)
    }

    /// Groups in the order of their names, the first after `after`.
    pub fn groups_after<'a>(&'a self, after: Option<&'a GroupName>) -> impl Iterator<Item = &'a Arc<Group>> {
        self.groups.range((from(after), std::ops::Bound::Unbounded)).map(|(_, group)| group)
    }
}

fn from<T: Ord>(after: Option<&T>) -> std::ops::Bound<&T> {
    after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded)
}

/// Changes.
impl State {
    /// Applies what was proposed, unless the same request was applied before: then it answers what came of it.
    pub fn take(&mut self, request: RequestId, time_ms: u64, event: &Event) -> Applied {
        if let Some(known) = self.requests.get(request) {
            return Applied { version: known.version, effect: self.effect(&known.outcome) };
        }
        let effect = self.apply(event);
        self.requests.remember(request, Remembered { time_ms, version: self.version, outcome: effect.outcome() });
        Applied { version: self.version, effect }
    }

    /// Applies the next event.
    pub fn apply(&mut self, event: &Event) -> Effect {
        self.version.0 += 1;
        self.dispatch(event).unwrap_or_else(Effect::Refused)
    }

    fn dispatch(&mut self, event: &Event) -> Result<Effect, MetadataError> {
        match event {
            Event::ClusterCreated { id, name, shards, .. } => self.create_cluster(id, name, *shards),
            Event::ClusterRenamed { name } => self.rename_cluster(name),
            Event::HandleKeyAdded { secret, time_ms } => Ok(self.add_key(secret, *time_ms)),
            Event::TopicCreated { topic, time_ms } => self.create_topic(topic, *time_ms),
            Event::TopicUpdated { name, change } => self.update_topic(name, change),
            Event::TopicDeleted { name } => self.delete_topic(name),
            Event::GroupCreated { group, time_ms } => self.create_group(group, *time_ms),
            Event::GroupUpdated { name, change } => self.update_group(name, change),
            Event::GroupDeleted { name } => self.delete_group(name),
            Event::NodeJoined { node } => self.nodes.join(node).map(Effect::Node),
            Event::NodeStarted { id, node } => self.nodes.start(*id, node).map(Effect::Node),
            Event::NodeDown { id, incarnation } => self.nodes.mark(*id, *incarnation, Health::Down).map(Effect::Node),
            Event::NodeUp { id, incarnation } => self.nodes.mark(*id, *incarnation, Health::Up).map(Effect::Node),
            Event::NodeCordoned { id } => self.nodes.admit(*id, Admission::Cordoned).map(Effect::Node),
            Event::NodeUncordoned { id } => self.nodes.admit(*id, Admission::Open).map(Effect::Node),
            Event::NodeRemoved { id } => self.remove_node(*id),
            Event::Batch { events } => self.apply_batch(events),
            about_shards => self.change_shards(about_shards).map(Effect::Shard),
        }
    }

    fn change_shards(&mut self, event: &Event) -> Result<Arc<Shard>, MetadataError> {
        let State { nodes, shards, .. } = self;
        match event {
            Event::ShardCreated { shard, config, policy } => self.create_shard(*shard, config, *policy),
            Event::EpochBegun { shard, begin } => shards.begin(nodes, *shard, begin),
            Event::UncleanEpochBegun { shard, begin } => shards.begin_unclean(*shard, begin),
            Event::LeaderGranted { shard, grant } => shards.grant(*shard, grant),
            Event::ConfigSettled { shard, epoch } => shards.settle(*shard, *epoch),
            Event::ShardPolicySet { shard, expect, policy } => shards.set_policy(*shard, *expect, *policy),
            Event::MovePlanned { shard, expect, moving } => shards.plan_move(nodes, *shard, *expect, moving),
            Event::MoveDropped { shard, expect } => shards.drop_move(*shard, *expect),
            other => unreachable!("{other:?} is not about shards"),
        }
    }

    fn apply_batch(&mut self, events: &[Event]) -> Result<Effect, MetadataError> {
        if events.len() > event::BATCH_MAX || events.iter().any(|event| matches!(event, Event::Batch { .. })) {
            let why = format!("a batch has at most {} events and no batches", event::BATCH_MAX);
            return Err(MetadataError::Invalid { why });
        }
        Ok(Effect::Batch(events.iter().map(|event| self.dispatch(event).unwrap_or_else(Effect::Refused)).collect()))
    }

    /// A node that holds something can't go: nobody would know that its copies are gone.
    fn remove_node(&mut self, id: NodeId) -> Result<Effect, MetadataError> {
        if let Some(shard) = self.shards.iter().find(|shard| shard.is_on(id)) {
            let why = format!("node {id} holds a copy of shard {}; move its shards elsewhere first", shard.id);
            return Err(MetadataError::Invalid { why });
        }
        self.nodes.remove(id).map(|()| Effect::Done)
    }

    /// Groups have a dead letter queue in each shard, so a larger cluster makes them longer.
    fn create_shard(&mut self, id: ShardId, config: &ShardConfig, policy: Policy) -> Result<Arc<Shard>, MetadataError> {
        let cluster = self.existing_cluster()?;
        if id.0 > cluster.shards {
            let why = format!("the next shard of this cluster is {}, not {id}", cluster.shards);
            return Err(MetadataError::Invalid { why });
        }
        if id.0 == cluster.shards {
            check::cluster(&cluster.id, &cluster.name, cluster.shards + 1)?;
        }
        let shard = self.shards.create(&self.nodes, id, config, policy)?;
        if id.0 == cluster.shards {
            self.cluster = Some(Arc::new(Cluster { shards: cluster.shards + 1, ..Cluster::clone(&cluster) }));
            let dead_letters: Vec<_> = self.topics.values().filter(|topic| topic.name.is_system()).cloned().collect();
            for topic in dead_letters {
                let mut topic = Topic::clone(&topic);
                topic.queues.push(Queue { shard: id, state: QueueState::Active });
                self.put_topic(topic);
            }
        }
        Ok(shard)
    }

    fn create_cluster(&mut self, id: &str, name: &str, shards: u32) -> Result<Effect, MetadataError> {
        check::cluster(id, name, shards)?;
        if self.cluster.is_some() {
            return Err(MetadataError::Exists { what: "the cluster".into() });
        }
        self.cluster = Some(Arc::new(Cluster { id: id.to_owned(), name: name.to_owned(), shards }));
        self.nodes.found();
        Ok(Effect::Done)
    }

    fn rename_cluster(&mut self, name: &str) -> Result<Effect, MetadataError> {
        let cluster = self.existing_cluster()?;
        check::cluster(&cluster.id, name, cluster.shards)?;
        self.cluster = Some(Arc::new(Cluster { name: name.to_owned(), ..Cluster::clone(&cluster) }));
        Ok(Effect::Done)
    }

    /// Adds a key that signs from now on, and forgets those whose handles have all ended.
    fn add_key(&mut self, secret: &Secret, now_ms: u64) -> Effect {
        let id = self.keys.last().map_or(1, |last| last.key.id + 1);
        self.keys.push(DatedKey { key: HandleKey { id, secret: secret.0 }, added_ms: now_ms });
        while self.keys.get(1).is_some_and(|successor| successor.added_ms.saturating_add(KEY_RETIRED_MS) < now_ms) {
            self.keys.remove(0);
        }
        self.ready_keys = ready(&self.keys);
        Effect::Done
    }

    fn create_topic(&mut self, spec: &TopicSpec, now_ms: u64) -> Result<Effect, MetadataError> {
        let topic = match self.check_topic_creation(spec)? {
            Checked::Same(topic) => return Ok(Effect::Topic(topic)),
            Checked::Go => Topic {
                id: TopicId(self.next_topic),
                name: spec.name.clone(),
                kind: spec.kind,
                permission: spec.permission,
                queues: queues::spread(TopicId(self.next_topic), spec.queues, self.shards()),
                retention: spec.retention,
                options: spec.options.clone(),
                created_ms: now_ms,
            },
        };
        self.next_topic += 1;
        Ok(Effect::Topic(self.put_topic(topic)))
    }

    fn update_topic(&mut self, name: &TopicName, change: &TopicChange) -> Result<Effect, MetadataError> {
        let old = self.check_topic_change(name, change)?;
        let mut topic = Topic::clone(&old);
        topic.kind = change.kind.unwrap_or(topic.kind);
        topic.permission = change.permission.unwrap_or(topic.permission);
        topic.retention = change.retention.unwrap_or(topic.retention);
        if let Some(options) = &change.options {
            topic.options = options.clone();
        }
        if let Some(wanted) = change.queues {
            queues::resize(topic.id, &mut topic.queues, wanted, self.shards());
        }
        Ok(Effect::Topic(self.put_topic(topic)))
    }

    fn delete_topic(&mut self, name: &TopicName) -> Result<Effect, MetadataError> {
        self.check_topic_deletion(name)?;
        self.remove_topic(name);
        Ok(Effect::Done)
    }

    fn create_group(&mut self, spec: &GroupSpec, now_ms: u64) -> Result<Effect, MetadataError> {
        if let Checked::Same(group) = self.check_group_creation(spec)? {
            return Ok(Effect::Group(group));
        }
        let dead_letter = TopicId(self.next_topic);
        self.next_topic += 1;
        self.put_topic(Topic {
            id: dead_letter,
            name: TopicName::dead_letter_of(&spec.name),
            kind: TopicType::Unchecked,
            permission: Permission::ReadWrite,
            queues: queues::one_per_shard(self.shards()),
            retention: Retention::default(),
            options: TopicOptions { dedup: false, ..TopicOptions::default() },
            created_ms: now_ms,
        });
        let group = Group {
            id: GroupId(self.next_group),
            name: spec.name.clone(),
            order: spec.order,
            max_attempts: spec.max_attempts,
            retry: spec.retry.clone(),
            start: spec.start,
            dead_letter,
            auto_renew_cap_ms: spec.auto_renew_cap_ms,
            options: spec.options.clone(),
            created_ms: now_ms,
        };
        self.next_group += 1;
        Ok(Effect::Group(self.put_group(group)))
    }

    fn update_group(&mut self, name: &GroupName, change: &GroupChange) -> Result<Effect, MetadataError> {
        let old = self.check_group_change(name, change)?;
        let mut group = Group::clone(&old);
        group.order = change.order.unwrap_or(group.order);
        group.max_attempts = change.max_attempts.unwrap_or(group.max_attempts);
        group.auto_renew_cap_ms = change.auto_renew_cap_ms.unwrap_or(group.auto_renew_cap_ms);
        if let Some(retry) = &change.retry {
            group.retry = retry.clone();
        }
        if let Some(options) = &change.options {
            group.options = options.clone();
        }
        Ok(Effect::Group(self.put_group(group)))
    }

    fn delete_group(&mut self, name: &GroupName) -> Result<Effect, MetadataError> {
        self.check_group_deletion(name)?;
        let group = self.groups.remove(name).expect("just checked");
        self.groups_by_id.remove(&group.id);
        self.remove_topic(&TopicName::dead_letter_of(name)).expect("a group's dead letter topic lives as long as the group");
        Ok(Effect::Done)
    }

    fn put_topic(&mut self, topic: Topic) -> Arc<Topic> {
        debug_assert!(topic.queues.first().is_some_and(|queue| queue.state == QueueState::Active), "queue 0 never retires");
        let topic = Arc::new(topic);
        self.topics.insert(topic.name.clone(), topic.clone());
        self.topics_by_id.insert(topic.id, topic.clone());
        topic
    }

    fn put_group(&mut self, group: Group) -> Arc<Group> {
        let group = Arc::new(group);
        self.groups.insert(group.name.clone(), group.clone());
        self.groups_by_id.insert(group.id, group.clone());
        group
    }

    fn remove_topic(&mut self, name: &TopicName) -> Option<Arc<Topic>> {
        let topic = self.topics.remove(name)?;
        self.topics_by_id.remove(&topic.id);
        Some(topic)
    }

    fn existing_cluster(&self) -> Result<Arc<Cluster>, MetadataError> {
        self.cluster.clone().ok_or_else(|| MetadataError::NotFound { what: "the cluster".into() })
    }

    fn shards(&self) -> u32 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.shards)
    }
}

fn ready(keys: &[DatedKey]) -> Option<Arc<HandleKeys>> {
    let keys: Vec<HandleKey> = keys.iter().map(|dated| dated.key.clone()).collect();
    HandleKeys::new(&keys).map(Arc::new)
}

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod shard_tests;
