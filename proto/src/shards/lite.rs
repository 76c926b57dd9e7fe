//! Lite topics.

use crate::broker as pb;
use gantry_model::contract::broker::{LiteChange, LiteStart, LiteSync, LiteTopic};
use gantry_model::{ClientId, Group, Offset, Topic};
use pb::lite_sync::{Change, Start};
use std::sync::Arc;

pub fn sync_to_wire(sync: &LiteSync) -> pb::LiteSync {
    let change = match sync.change {
        LiteChange::Add => Change::Add,
        LiteChange::Remove => Change::Remove,
        LiteChange::Replace => Change::Replace,
        LiteChange::Clear => Change::Clear,
    };
    let start = match sync.start {
        LiteStart::Last => None,
        LiteStart::Min => Some(Start::Min(pb::Empty {})),
        LiteStart::Max => Some(Start::Max(pb::Empty {})),
        LiteStart::At(offset) => Some(Start::At(offset.0)),
        LiteStart::Tail(count) => Some(Start::Tail(count)),
        LiteStart::Time(ms) => Some(Start::TimeMs(ms)),
    };
    pb::LiteSync {
        group: sync.group.id.0,
        topic: sync.topic.id.0,
        client: sync.client.as_str().to_owned(),
        names: sync.names.clone(),
        elsewhere: sync.elsewhere.clone(),
        change: change as i32,
        start,
    }
}

/// The request; `None` if it doesn't say what to change.
pub fn sync_from_wire(wire: pb::LiteSync, group: Arc<Group>, topic: Arc<Topic>) -> Option<LiteSync> {
    let change = match wire.change() {
        Change::Unspecified => return None,
        Change::Add => LiteChange::Add,
        Change::Remove => LiteChange::Remove,
        Change::Replace => LiteChange::Replace,
        Change::Clear => LiteChange::Clear,
    };
    let start = match wire.start {
        None => LiteStart::Last,
        Some(Start::Min(_)) => LiteStart::Min,
        Some(Start::Max(_)) => LiteStart::Max,
        Some(Start::At(offset)) => LiteStart::At(Offset(offset)),
        Some(Start::Tail(count)) => LiteStart::Tail(count),
        Some(Start::TimeMs(ms)) => LiteStart::Time(ms),
    };
    let client = ClientId::new(&wire.client);
    Some(LiteSync { group, topic, client, names: wire.names, elsewhere: wire.elsewhere, change, start })
}

pub fn topics_to_wire(topics: &[LiteTopic]) -> pb::LiteTopics {
    let one = |topic: &LiteTopic| pb::lite_topics::One {
        name: topic.name.clone(),
        min: topic.min.0,
        max: topic.max.0,
        active_ms: topic.active_ms,
        subscribers: topic.subscribers,
    };
    pb::LiteTopics { each: topics.iter().map(one).collect() }
}

pub fn topics_from_wire(wire: pb::LiteTopics) -> Vec<LiteTopic> {
    let one = |topic: pb::lite_topics::One| LiteTopic {
        name: topic.name,
        min: Offset(topic.min),
        max: Offset(topic.max),
        active_ms: topic.active_ms,
        subscribers: topic.subscribers,
    };
    wire.each.into_iter().map(one).collect()
}
