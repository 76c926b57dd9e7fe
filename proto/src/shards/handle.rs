//! Handles and places.

use crate::broker as pb;
use gantry_model::contract::broker::LetterId;
use gantry_model::handle::{RecallHandle, TransactionHandle};
use gantry_model::{GroupId, LeaseId, Offset, QueueId, ReceiptHandle, ShardId, TopicId};

impl From<&ReceiptHandle> for pb::Handle {
    fn from(handle: &ReceiptHandle) -> pb::Handle {
        pb::Handle {
            shard: handle.shard.0,
            topic: handle.topic.0,
            group: handle.group.0,
            queue: handle.queue.0,
            offset: handle.offset.0,
            lease: handle.lease.0,
            reset: handle.reset,
            attempt: handle.attempt,
        }
    }
}

impl From<pb::Handle> for ReceiptHandle {
    fn from(wire: pb::Handle) -> ReceiptHandle {
        ReceiptHandle {
            shard: ShardId(wire.shard),
            topic: TopicId(wire.topic),
            group: GroupId(wire.group),
            queue: QueueId(wire.queue),
            offset: Offset(wire.offset),
            lease: LeaseId(wire.lease),
            reset: wire.reset,
            attempt: wire.attempt,
        }
    }
}

pub fn handles_to_wire(handles: &[ReceiptHandle]) -> Vec<pb::Handle> {
    handles.iter().map(Into::into).collect()
}

pub fn handles_from_wire(wire: Vec<pb::Handle>) -> Vec<ReceiptHandle> {
    wire.into_iter().map(Into::into).collect()
}

impl From<&TransactionHandle> for pb::TransactionId {
    fn from(handle: &TransactionHandle) -> pb::TransactionId {
        pb::TransactionId { shard: handle.shard.0, topic: handle.topic.0, id: handle.id }
    }
}

impl From<pb::TransactionId> for TransactionHandle {
    fn from(wire: pb::TransactionId) -> TransactionHandle {
        TransactionHandle { shard: ShardId(wire.shard), topic: TopicId(wire.topic), id: wire.id }
    }
}

impl From<&RecallHandle> for pb::RecallId {
    fn from(handle: &RecallHandle) -> pb::RecallId {
        let RecallHandle { shard, topic, deliver_ms, id, message_id } = handle;
        pb::RecallId { shard: shard.0, topic: topic.0, deliver_ms: *deliver_ms, id: *id, message_id: message_id.clone() }
    }
}

impl From<pb::RecallId> for RecallHandle {
    fn from(wire: pb::RecallId) -> RecallHandle {
        let pb::RecallId { shard, topic, deliver_ms, id, message_id } = wire;
        RecallHandle { shard: ShardId(shard), topic: TopicId(topic), deliver_ms, id, message_id }
    }
}

impl From<&LetterId> for pb::QueueAndOffset {
    fn from(letter: &LetterId) -> pb::QueueAndOffset {
        pb::QueueAndOffset { queue: letter.queue.0, offset: letter.offset.0 }
    }
}

impl From<pb::QueueAndOffset> for LetterId {
    fn from(wire: pb::QueueAndOffset) -> LetterId {
        LetterId { queue: QueueId(wire.queue), offset: Offset(wire.offset) }
    }
}

pub fn letters_from_wire(wire: Vec<pb::QueueAndOffset>) -> Vec<LetterId> {
    wire.into_iter().map(Into::into).collect()
}

pub fn places_to_wire(places: &[(QueueId, Offset)]) -> Vec<pb::QueueAndOffset> {
    places.iter().map(|(queue, offset)| pb::QueueAndOffset { queue: queue.0, offset: offset.0 }).collect()
}

pub fn places_from_wire(wire: &[pb::QueueAndOffset]) -> Vec<(QueueId, Offset)> {
    wire.iter().map(|place| (QueueId(place.queue), Offset(place.offset))).collect()
}
