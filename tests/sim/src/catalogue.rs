//! What the controller would say of topics and groups: one topic that takes every kind of message, a group that keeps order and one that gives up
//! on messages, with their dead letters. It never changes.

use async_trait::async_trait;
use gantry_model::contract::Metadata;
use gantry_model::contract::metadata::{Cluster, MetadataError, Version};
use gantry_model::group::{GroupChange, GroupOptions, GroupSpec, Order, StartPosition};
use gantry_model::handle::{HandleKey, HandleKeys};
use gantry_model::topic::{Queue, TopicChange, TopicSpec, TopicType};
use gantry_model::{Group, GroupId, GroupName, RetryPolicy, ShardId, Topic, TopicId, TopicName};
use std::sync::Arc;

/// Queues of the topic.
const QUEUES: usize = 2;
/// The topic that everything is sent to.
pub const ORDERS: TopicId = TopicId(1);
/// Delivers messages of a message group one after the other, as often as it takes.
pub const ORDERED: GroupId = GroupId(1);
/// Gives up on a message after a few deliveries.
pub const IMPATIENT: GroupId = GroupId(2);
/// Deliveries of one message to the impatient group.
pub const PATIENCE: u32 = 3;

#[derive(Debug)]
pub struct Catalogue {
    topics: Vec<Arc<Topic>>,
    groups: Vec<Arc<Group>>,
}

fn topic(id: TopicId, name: TopicName, kind: TopicType, queues: usize) -> Arc<Topic> {
    let spec = TopicSpec::on_first_use(name);
    Arc::new(Topic {
        id,
        name: spec.name,
        kind,
        permission: spec.permission,
        queues: vec![Queue { shard: ShardId(0), state: Default::default() }; queues],
        retention: spec.retention,
        options: spec.options,
        created_ms: 0,
    })
}

fn group(id: GroupId, name: &str, order: Order, max_attempts: u32) -> Arc<Group> {
    Arc::new(Group {
        id,
        name: GroupName::parse("", name).expect("a legal name"),
        order,
        max_attempts,
        retry: RetryPolicy::Customized { delays_ms: vec![200, 1_000] },
        start: StartPosition::Earliest,
        dead_letter: TopicId(100 + id.0),
        auto_renew_cap_ms: 60_000,
        options: GroupOptions::default(),
        created_ms: 0,
    })
}

impl Catalogue {
    pub fn new() -> Arc<Catalogue> {
        let groups = vec![group(ORDERED, "ordered", Order::FollowTopic, 10_000), group(IMPATIENT, "impatient", Order::None, PATIENCE)];
        let name = TopicName::parse("", "orders").expect("a legal name");
        let mut topics = vec![topic(ORDERS, name, TopicType::Mixed, QUEUES)];
        let letters = groups.iter().map(|group| topic(group.dead_letter, TopicName::dead_letter_of(&group.name), TopicType::Unchecked, 1));
        topics.extend(letters);
        Arc::new(Catalogue { topics, groups })
    }

    pub fn orders(&self) -> Arc<Topic> {
        self.topics[0].clone()
    }

    pub fn one_group(&self, id: GroupId) -> Arc<Group> {
        self.group_by_id(id).expect("there are two groups")
    }
}

fn unchanging<T>() -> Result<T, MetadataError> {
    Err(MetadataError::Unavailable { why: "this catalogue never changes".into() })
}

#[async_trait]
impl Metadata for Catalogue {
    fn topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.topics.iter().find(|topic| topic.name == *name).cloned()
    }

    fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.topics.iter().find(|topic| topic.id == id).cloned()
    }

    fn group(&self, name: &GroupName) -> Option<Arc<Group>> {
        self.groups.iter().find(|group| group.name == *name).cloned()
    }

    fn group_by_id(&self, id: GroupId) -> Option<Arc<Group>> {
        self.groups.iter().find(|group| group.id == id).cloned()
    }

    fn topics(&self, after: Option<&TopicName>, _: usize) -> Vec<Arc<Topic>> {
        if after.is_none() { self.topics.clone() } else { Vec::new() }
    }

    fn groups(&self, after: Option<&GroupName>, _: usize) -> Vec<Arc<Group>> {
        if after.is_none() { self.groups.clone() } else { Vec::new() }
    }

    fn cluster(&self) -> Arc<Cluster> {
        Arc::new(Cluster { id: "0".repeat(32), name: "simulated".into(), shards: 1 })
    }

    fn handle_keys(&self) -> Arc<HandleKeys> {
        Arc::new(HandleKeys::new(&[HandleKey { id: 1, secret: [0; 32] }]).expect("one key"))
    }

    fn version(&self) -> Version {
        Version(1)
    }

    async fn changed(&self, _: Version) -> Version {
        std::future::pending().await
    }

    async fn create_topic(&self, _: TopicSpec) -> Result<Arc<Topic>, MetadataError> {
        unchanging()
    }

    async fn update_topic(&self, _: &TopicName, _: TopicChange) -> Result<Arc<Topic>, MetadataError> {
        unchanging()
    }

    async fn delete_topic(&self, _: &TopicName) -> Result<(), MetadataError> {
        unchanging()
    }

    async fn create_group(&self, _: GroupSpec) -> Result<Arc<Group>, MetadataError> {
        unchanging()
    }

    async fn update_group(&self, _: &GroupName, _: GroupChange) -> Result<Arc<Group>, MetadataError> {
        unchanging()
    }

    async fn delete_group(&self, _: &GroupName) -> Result<(), MetadataError> {
        unchanging()
    }
}
