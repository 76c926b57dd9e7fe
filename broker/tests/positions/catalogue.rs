//! Two topics and two groups, which never change.

pub use gantry_fixed_catalogue::Catalogue;

use gantry_fixed_catalogue::{group, spread, topic};
use gantry_model::topic::TopicType;
use gantry_model::{GroupId, TopicId};
use std::sync::Arc;

/// All of them.
pub fn new() -> Arc<Catalogue> {
    let plain = |id, name| topic(TopicId(id), name, TopicType::Mixed, spread(2, 1));
    Catalogue::new(1, vec![plain(1, "orders"), plain(2, "elsewhere")], vec![group(GroupId(1), "one"), group(GroupId(2), "two")])
}
