//! The topics and groups of every test here, over so many shards.

pub use gantry_fixed_catalogue::{Catalogue, group, spread, topic};

use gantry_model::group::{LiteGroup, LiteSharing, Sharing, StartPosition};
use gantry_model::topic::{Queue, QueueState, TopicType};
use gantry_model::{Group, GroupId, ShardId, TopicId};
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

/// All of them.
pub fn over(shards: u32) -> Arc<Catalogue> {
    let mut hosts = group(HOSTS, "hosts");
    hosts.options.sharing = Sharing::Broadcasting;
    let mut readers = group(READERS, "readers");
    readers.options.lite = Some(LiteGroup { topic: "chats".into(), sharing: LiteSharing::default(), client_quota: 2_000, wildcard: false });
    let late = Group { start: StartPosition::Latest, ..group(LATECOMERS, "late") };
    let mut partly = spread(2 * shards, shards);
    partly[shards as usize..].iter_mut().for_each(|queue| queue.state = QueueState::ReadOnly);
    let topics = vec![
        topic(ORDERS, "orders", TopicType::Mixed, spread(8, shards)),
        topic(ELSEWHERE, "elsewhere", TopicType::Mixed, vec![Queue { shard: ShardId(shards - 1), state: QueueState::Active }]),
        topic(CHATS, "chats", TopicType::Lite, spread(8, shards)),
        topic(SHRUNK, "shrunk", TopicType::Mixed, partly),
        topic(URGENT, "urgent", TopicType::Priority, spread(10, shards)),
    ];
    Catalogue::new(shards, topics, vec![group(ONE, "one"), group(TWO, "two"), hosts, late, readers])
}
