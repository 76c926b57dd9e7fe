//! One parent of lite topics and one group that reads it, which never change.

pub use gantry_fixed_catalogue::Catalogue;

use gantry_fixed_catalogue::{group, spread, topic};
use gantry_model::group::{GroupOptions, LiteGroup, LiteSharing};
use gantry_model::topic::{TopicOptions, TopicType};
use gantry_model::{Group, GroupId, Topic, TopicId};
use std::sync::Arc;

pub const TOPIC: TopicId = TopicId(1);
pub const GROUP: GroupId = GroupId(1);

/// The group's newest subscriber of a lite topic has it alone; lite topics end after 15 minutes.
pub fn exclusive() -> Arc<Catalogue> {
    let options = TopicOptions { lite_expiry_ms: Some(15 * 60_000), ..TopicOptions::default() };
    let topic = Topic { options, ..topic(TOPIC, "sessions", TopicType::Lite, spread(3, 1)) };
    let lite = LiteGroup { topic: "sessions".into(), sharing: LiteSharing::Exclusive, client_quota: 2_000, wildcard: false };
    let readers = group(GROUP, "readers");
    let options = GroupOptions { lite: Some(lite), ..readers.options.clone() };
    Catalogue::new(1, vec![topic], vec![Group { max_attempts: 3, dead_letter: TopicId(2), options, ..readers }])
}
