//! A catalogue with one parent of lite topics and one group that reads it, which never change.

use async_trait::async_trait;
use gantry_model::contract::Metadata;
use gantry_model::contract::metadata::{Cluster, MetadataError, Version};
use gantry_model::group::{GroupChange, GroupOptions, GroupSpec, LiteGroup, LiteSharing};
use gantry_model::handle::{HandleKey, HandleKeys};
use gantry_model::topic::{Permission, Queue, Retention, TopicChange, TopicOptions, TopicSpec, TopicType};
use gantry_model::{Group, GroupId, GroupName, ShardId, Topic, TopicId, TopicName};
use std::sync::Arc;

/// The catalogue of a test.
#[derive(Debug)]
pub struct Fixed {
    pub topic: Arc<Topic>,
    pub group: Arc<Group>,
}

impl Fixed {
    /// The group's newest subscriber of a lite topic has it alone; lite topics end after 15 minutes.
    pub fn exclusive() -> Arc<Fixed> {
        let spec = TopicSpec::on_first_use(TopicName::parse("", "sessions").expect("legal"));
        let queue = Queue { shard: ShardId(0), state: Default::default() };
        let topic = Topic {
            id: TopicId(1),
            name: spec.name,
            kind: TopicType::Lite,
            permission: Permission::ReadWrite,
            queues: vec![queue; 3],
            retention: Retention::default(),
            options: TopicOptions { lite_expiry_ms: Some(15 * 60_000), ..TopicOptions::default() },
            created_ms: 0,
        };
        let spec = GroupSpec::on_first_use(GroupName::parse("", "readers").expect("legal"));
        let lite = LiteGroup { topic: "sessions".into(), sharing: LiteSharing::Exclusive, client_quota: 2_000, wildcard: false };
        let group = Group {
            id: GroupId(1),
            name: spec.name,
            order: spec.order,
            max_attempts: 3,
            retry: spec.retry,
            start: spec.start,
            dead_letter: TopicId(2),
            auto_renew_cap_ms: spec.auto_renew_cap_ms,
            options: GroupOptions { lite: Some(lite), ..spec.options },
            created_ms: 0,
        };
        Arc::new(Fixed { topic: Arc::new(topic), group: Arc::new(group) })
    }
}

fn unchanging<T>() -> Result<T, MetadataError> {
    Err(MetadataError::Unavailable { why: "this catalogue never changes".into() })
}

#[async_trait]
impl Metadata for Fixed {
    fn topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        (*name == self.topic.name).then(|| self.topic.clone())
    }
    fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        (id == self.topic.id).then(|| self.topic.clone())
    }
    fn group(&self, name: &GroupName) -> Option<Arc<Group>> {
        (*name == self.group.name).then(|| self.group.clone())
    }
    fn group_by_id(&self, id: GroupId) -> Option<Arc<Group>> {
        (id == self.group.id).then(|| self.group.clone())
    }
    fn topics(&self, after: Option<&TopicName>, _limit: usize) -> Vec<Arc<Topic>> {
        // The dead letter topic has the same shape; only its id is asked for.
        let dead = Arc::new(Topic { id: self.group.dead_letter, name: TopicName::dead_letter_of(&self.group.name), ..(*self.topic).clone() });
        if after.is_none() { vec![self.topic.clone(), dead] } else { Vec::new() }
    }
    fn groups(&self, after: Option<&GroupName>, _limit: usize) -> Vec<Arc<Group>> {
        if after.is_none() { vec![self.group.clone()] } else { Vec::new() }
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
    async fn changed(&self, _since: Version) -> Version {
        std::future::pending().await
    }
    async fn create_topic(&self, _spec: TopicSpec) -> Result<Arc<Topic>, MetadataError> {
        unchanging()
    }
    async fn update_topic(&self, _name: &TopicName, _change: TopicChange) -> Result<Arc<Topic>, MetadataError> {
        unchanging()
    }
    async fn delete_topic(&self, _name: &TopicName) -> Result<(), MetadataError> {
        unchanging()
    }
    async fn create_group(&self, _spec: GroupSpec) -> Result<Arc<Group>, MetadataError> {
        unchanging()
    }
    async fn update_group(&self, _name: &GroupName, _change: GroupChange) -> Result<Arc<Group>, MetadataError> {
        unchanging()
    }
    async fn delete_group(&self, _name: &GroupName) -> Result<(), MetadataError> {
        unchanging()
    }
}
