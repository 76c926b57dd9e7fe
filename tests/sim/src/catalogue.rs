//! What the controller would say of topics and groups: one topic that takes every kind of message, a group that keeps order and one that gives up
//! on messages, with their dead letters. It never changes.

pub use gantry_fixed_catalogue::Catalogue;

use gantry_fixed_catalogue::{group, spread, topic};
use gantry_model::group::{GroupOptions, Order, StartPosition};
use gantry_model::topic::TopicType;
use gantry_model::{Group, GroupId, RetryPolicy, TopicId};
use std::sync::Arc;

/// Queues of the topic.
const QUEUES: u32 = 2;
/// The topic that everything is sent to.
pub const ORDERS: TopicId = TopicId(1);
/// Delivers messages of a message group one after the other, as often as it takes.
pub const ORDERED: GroupId = GroupId(1);
/// Gives up on a message after a few deliveries.
pub const IMPATIENT: GroupId = GroupId(2);
/// Deliveries of one message to the impatient group.
pub const PATIENCE: u32 = 3;

fn quick(id: GroupId, name: &str, order: Order, max_attempts: u32) -> Group {
    let retry = RetryPolicy::Customized { delays_ms: vec![200, 1_000] };
    let (start, options) = (StartPosition::Earliest, GroupOptions::default());
    Group { order, max_attempts, retry, start, auto_renew_cap_ms: 60_000, options, ..group(id, name) }
}

/// The topic and both groups.
pub fn new() -> Arc<Catalogue> {
    let groups = vec![quick(ORDERED, "ordered", Order::FollowTopic, 10_000), quick(IMPATIENT, "impatient", Order::None, PATIENCE)];
    Catalogue::new(1, vec![topic(ORDERS, "orders", TopicType::Mixed, spread(QUEUES, 1))], groups)
}
