//! One topic and one group, which never change.

pub use gantry_fixed_catalogue::Catalogue;

use gantry_fixed_catalogue::{group, spread, topic};
use gantry_model::topic::TopicType;
use gantry_model::{Group, GroupId, TopicId};
use std::sync::Arc;

pub const TOPIC: TopicId = TopicId(1);
pub const GROUP: GroupId = GroupId(1);

/// Both of them.
pub fn new() -> Arc<Catalogue> {
    let group = Group { max_attempts: 3, dead_letter: TopicId(2), ..group(GROUP, "crash") };
    Catalogue::new(1, vec![topic(TOPIC, "crash", TopicType::Normal, spread(3, 1))], vec![group])
}
