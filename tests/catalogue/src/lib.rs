//! Topics and groups as a test wants them, behind the contract `Metadata`, which never change. Each test names its own; here is what all of them
//! answer, and how a topic and a group look of which a test says nothing else.

use async_trait::async_trait;
use gantry_model::contract::Metadata;
use gantry_model::contract::metadata::{Cluster, MetadataError, Version};
use gantry_model::group::{GroupChange, GroupSpec};
use gantry_model::handle::{HandleKey, HandleKeys};
use gantry_model::topic::{Queue, QueueState, TopicChange, TopicSpec, TopicType};
use gantry_model::{Group, GroupId, GroupName, ShardId, Topic, TopicId, TopicName};
use std::sync::Arc;

/// The catalogue of a test.
#[derive(Debug)]
pub struct Catalogue {
    shards: u32,
    topics: Vec<Arc<Topic>>,
    groups: Vec<Arc<Group>>,
}

/// A topic as its first use makes it.
pub fn topic(id: TopicId, name: &str, kind: TopicType, queues: Vec<Queue>) -> Topic {
    let spec = TopicSpec::on_first_use(TopicName::parse("", name).expect("legal"));
    let (permission, retention, options) = (spec.permission, spec.retention, spec.options);
    Topic { id, name: spec.name, kind, permission, queues, retention, options, created_ms: 0 }
}

/// Queues on one shard after the other.
pub fn spread(queues: u32, shards: u32) -> Vec<Queue> {
    (0..queues).map(|queue| Queue { shard: ShardId(queue % shards), state: QueueState::Active }).collect()
}

/// A group as its first use makes it.
pub fn group(id: GroupId, name: &str) -> Group {
    let spec = GroupSpec::on_first_use(GroupName::parse("", name).expect("legal"));
    Group {
        id,
        name: spec.name,
        order: spec.order,
        max_attempts: spec.max_attempts,
        retry: spec.retry,
        start: spec.start,
        dead_letter: TopicId(100 + id.0),
        auto_renew_cap_ms: spec.auto_renew_cap_ms,
        options: spec.options,
        created_ms: 0,
    }
}

impl Catalogue {
    /// These topics and groups, and the dead letters of each group with a queue on each shard.
    pub fn new(shards: u32, mut topics: Vec<Topic>, groups: Vec<Group>) -> Arc<Catalogue> {
        topics.extend(groups.iter().map(|group| {
            let name = TopicName::dead_letter_of(&group.name);
            Topic { name, ..topic(group.dead_letter, "letters", TopicType::Unchecked, spread(shards, shards)) }
        }));
        Arc::new(Catalogue { shards, topics: topics.into_iter().map(Arc::new).collect(), groups: groups.into_iter().map(Arc::new).collect() })
    }

    pub fn the_topic(&self, id: TopicId) -> Arc<Topic> {
        self.topic_by_id(id).expect("it is there")
    }

    pub fn the_group(&self, id: GroupId) -> Arc<Group> {
        self.group_by_id(id).expect("it is there")
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
        Arc::new(Cluster { id: "0".repeat(32), name: "test".into(), shards: self.shards })
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
