//! A catalogue of topics and groups over so many shards, which never changes.

use async_trait::async_trait;
use gantry_model::contract::Metadata;
use gantry_model::contract::metadata::{Cluster, MetadataError, Version};
use gantry_model::group::{GroupChange, GroupSpec, LiteGroup, LiteSharing, Sharing, StartPosition};
use gantry_model::handle::{HandleKey, HandleKeys};
use gantry_model::topic::{Queue, QueueState, TopicChange, TopicSpec, TopicType};
use gantry_model::{Group, GroupId, GroupName, ShardId, Topic, TopicId, TopicName};
use std::sync::Arc;

/// The topics of every catalogue, by number.
pub const ORDERS: TopicId = TopicId(1);
pub const ELSEWHERE: TopicId = TopicId(2);
pub const CHATS: TopicId = TopicId(3);
/// With a queue on each shard of which the last ones only give.
pub const SHRUNK: TopicId = TopicId(4);

/// Queue `n` is for priority `n`.
pub const URGENT: TopicId = TopicId(5);

/// The groups of every catalogue.
pub const ONE: GroupId = GroupId(1);
pub const TWO: GroupId = GroupId(2);
/// Each member gets every message.
pub const HOSTS: GroupId = GroupId(3);
/// Begins with its first receive.
pub const LATECOMERS: GroupId = GroupId(4);
/// Reads lite topics.
pub const READERS: GroupId = GroupId(5);

/// The catalogue of a test.
#[derive(Debug)]
pub struct Catalogue {
    shards: u32,
    topics: Vec<Arc<Topic>>,
    groups: Vec<Arc<Group>>,
}

/// A topic whose queues lie on one shard after the other.
pub fn topic(id: TopicId, name: &str, kind: TopicType, queues: Vec<Queue>) -> Topic {
    let spec = TopicSpec::on_first_use(TopicName::parse("", name).expect("legal"));
    let (permission, retention, options) = (spec.permission, spec.retention, spec.options);
    Topic { id, name: spec.name, kind, permission, queues, retention, options, created_ms: 0 }
}

pub fn spread(queues: u32, shards: u32) -> Vec<Queue> {
    (0..queues).map(|queue| Queue { shard: ShardId(queue % shards), state: QueueState::Active }).collect()
}

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
    pub fn new(shards: u32) -> Arc<Catalogue> {
        let mut hosts = group(HOSTS, "hosts");
        hosts.options.sharing = Sharing::Broadcasting;
        let mut readers = group(READERS, "readers");
        readers.options.lite = Some(LiteGroup { topic: "chats".into(), sharing: LiteSharing::default(), client_quota: 2_000, wildcard: false });
        let late = Group { start: StartPosition::Latest, ..group(LATECOMERS, "late") };
        let groups: Vec<Arc<Group>> = [group(ONE, "one"), group(TWO, "two"), hosts, late, readers].into_iter().map(Arc::new).collect();
        let mut partly = spread(2 * shards, shards);
        partly[shards as usize..].iter_mut().for_each(|queue| queue.state = QueueState::ReadOnly);
        let mut topics = vec![
            topic(ORDERS, "orders", TopicType::Mixed, spread(8, shards)),
            topic(ELSEWHERE, "elsewhere", TopicType::Mixed, vec![Queue { shard: ShardId(shards - 1), state: QueueState::Active }]),
            topic(CHATS, "chats", TopicType::Lite, spread(8, shards)),
            topic(SHRUNK, "shrunk", TopicType::Mixed, partly),
            topic(URGENT, "urgent", TopicType::Priority, spread(10, shards)),
        ];
        topics.extend(groups.iter().map(|group| {
            let name = TopicName::dead_letter_of(&group.name);
            Topic { name, ..topic(group.dead_letter, "letters", TopicType::Unchecked, spread(shards, shards)) }
        }));
        Arc::new(Catalogue { shards, topics: topics.into_iter().map(Arc::new).collect(), groups })
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
