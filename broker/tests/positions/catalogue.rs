//! A catalogue with two topics and two groups, which never changes.

use async_trait::async_trait;
use gantry_model::contract::Metadata;
use gantry_model::contract::metadata::{Cluster, MetadataError, Version};
use gantry_model::group::{GroupChange, GroupSpec};
use gantry_model::handle::{HandleKey, HandleKeys};
use gantry_model::topic::{Queue, TopicChange, TopicSpec, TopicType};
use gantry_model::{Group, GroupId, GroupName, ShardId, Topic, TopicId, TopicName};
use std::sync::Arc;

/// The catalogue of a test.
#[derive(Debug)]
pub struct Catalogue {
    topics: Vec<Arc<Topic>>,
    groups: Vec<Arc<Group>>,
}

fn topic(id: u32, name: TopicName, queues: usize) -> Arc<Topic> {
    let spec = TopicSpec::on_first_use(name);
    Arc::new(Topic {
        id: TopicId(id),
        name: spec.name,
        kind: if queues == 1 { TopicType::Unchecked } else { spec.kind },
        permission: spec.permission,
        queues: vec![Queue { shard: ShardId(0), state: Default::default() }; queues],
        retention: spec.retention,
        options: spec.options,
        created_ms: 0,
    })
}

fn group(id: u32, name: &str) -> Arc<Group> {
    let spec = GroupSpec::on_first_use(GroupName::parse("", name).expect("legal"));
    Arc::new(Group {
        id: GroupId(id),
        name: spec.name,
        order: spec.order,
        max_attempts: spec.max_attempts,
        retry: spec.retry,
        start: spec.start,
        dead_letter: TopicId(100 + id),
        auto_renew_cap_ms: spec.auto_renew_cap_ms,
        options: spec.options,
        created_ms: 0,
    })
}

impl Catalogue {
    pub fn new() -> Arc<Catalogue> {
        let groups = vec![group(1, "one"), group(2, "two")];
        let named = |name| TopicName::parse("", name).expect("legal");
        let mut topics = vec![topic(1, named("orders"), 2), topic(2, named("elsewhere"), 2)];
        topics.extend(groups.iter().map(|group| topic(group.dead_letter.0, TopicName::dead_letter_of(&group.name), 1)));
        Arc::new(Catalogue { topics, groups })
    }

    pub fn group(&self, id: u32) -> Arc<Group> {
        self.group_by_id(GroupId(id)).expect("it is there")
    }

    pub fn topic(&self, id: u32) -> Arc<Topic> {
        self.topic_by_id(TopicId(id)).expect("it is there")
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
        Arc::new(Cluster { id: "0".repeat(32), name: "test".into(), shards: 1 })
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
