//! Messages: their numbers as fields, their properties as the log stores them, their bodies as they came.

use crate::broker as pb;
use bytes::Bytes;
use gantry_model::contract::broker::Delivery;
use gantry_model::message::{BodyEncoding, DeadReason, Deliverable, Facts, Origin, Property, StoredMessage};
use gantry_model::packed::{self, Packed};
use gantry_model::{Message, MessageKind, Offset, QueueId, TopicId, TopicName};

/// What bounds count for a message besides its body and properties.
const NUMBERS: usize = 64;

/// A message as it is sent, or was stored.
pub fn to_wire(message: &Message) -> pb::Message {
    let Packed { kind, encoding, priority, born_ms, deliver_ms, properties, body } = Packed::of(message);
    pb::Message { kind: kind as u32, encoding: encoding as u32, priority: priority.map(u32::from), born_ms, deliver_ms, properties, body }
}

/// The message, with its properties as they came; `None` if a number of it makes no sense.
pub fn packed_from_wire(wire: pb::Message) -> Option<Packed> {
    let pb::Message { born_ms, deliver_ms, properties, body, .. } = wire;
    let (kind, encoding, priority) = (kind(wire.kind)?, encoding(wire.encoding)?, priority(wire.priority)?);
    Some(Packed { kind, encoding, priority, born_ms, deliver_ms, properties, body })
}

/// The message; `None` if it isn't one.
pub fn from_wire(wire: pb::Message) -> Option<Message> {
    packed_from_wire(wire)?.unpack()
}

/// Bytes that a message counts for.
pub fn size(wire: &pb::Message) -> usize {
    NUMBERS + wire.properties.len() + wire.body.len()
}

fn kind(number: u32) -> Option<MessageKind> {
    MessageKind::from_number(u8::try_from(number).ok()?)
}

fn encoding(number: u32) -> Option<BodyEncoding> {
    [BodyEncoding::Identity, BodyEncoding::Gzip].into_iter().find(|&encoding| encoding as u32 == number)
}

fn priority(number: Option<u32>) -> Option<Option<u8>> {
    number.map(u8::try_from).transpose().ok()
}

pub fn stored_to_wire(stored: &StoredMessage) -> pb::StoredMessage {
    pb::StoredMessage {
        message: Some(to_wire(&stored.message)),
        topic: stored.topic.0,
        queue: stored.queue.0,
        offset: stored.offset.0,
        store_ms: stored.store_ms,
        origin: stored.origin.as_ref().map(origin_to_wire),
    }
}

pub fn stored_from_wire(wire: pb::StoredMessage) -> Option<StoredMessage> {
    Some(StoredMessage {
        message: from_wire(wire.message?)?,
        topic: TopicId(wire.topic),
        queue: QueueId(wire.queue),
        offset: Offset(wire.offset),
        store_ms: wire.store_ms,
        origin: origin_from_wire(wire.origin)?,
    })
}

fn origin_to_wire(origin: &Origin) -> pb::Origin {
    let name = origin.name.as_ref().map(|name| pb::Name { space: name.namespace.clone(), name: name.name.clone() });
    let (topic, queue, offset) = (origin.topic.0, origin.queue.0, origin.offset.0);
    pb::Origin { topic, name, queue, offset, attempts: origin.attempts, reason: origin.reason as u32 }
}

fn origin_from_wire(wire: Option<pb::Origin>) -> Option<Option<Origin>> {
    let Some(wire) = wire else { return Some(None) };
    Some(Some(Origin {
        topic: TopicId(wire.topic),
        name: wire.name.map(|name| TopicName { namespace: name.space, name: name.name }),
        queue: QueueId(wire.queue),
        offset: Offset(wire.offset),
        attempts: wire.attempts,
        reason: DeadReason::from_number(u8::try_from(wire.reason).ok()?)?,
    }))
}

/// A delivery. Properties and body are handed on as they lie in the log.
pub fn delivery_to_wire(delivery: &Delivery) -> pb::Delivery {
    let stored = &*delivery.message;
    let facts = stored.facts();
    pb::Delivery {
        message: Some(pb::Message {
            kind: facts.kind as u32,
            encoding: facts.encoding as u32,
            priority: facts.priority.map(u32::from),
            born_ms: facts.born_ms,
            deliver_ms: facts.deliver_ms,
            properties: stored.packed_properties(),
            body: stored.body().clone(),
        }),
        queue: facts.queue.0,
        offset: facts.offset.0,
        store_ms: facts.store_ms,
        origin: stored.origin().map(origin_to_wire),
        handle: Some((&delivery.handle).into()),
        attempt: delivery.attempt,
    }
}

/// The delivery; `None` if it isn't one.
pub fn delivery_from_wire(wire: pb::Delivery) -> Option<Delivery> {
    let message = wire.message?;
    let facts = Facts {
        kind: kind(message.kind)?,
        encoding: encoding(message.encoding)?,
        born_ms: message.born_ms,
        deliver_ms: message.deliver_ms,
        priority: priority(message.priority)?,
        queue: QueueId(wire.queue),
        offset: Offset(wire.offset),
        store_ms: wire.store_ms,
    };
    let arrived = Arrived { facts, properties: message.properties, body: message.body, origin: origin_from_wire(wire.origin)? };
    Some(Delivery { message: Box::new(arrived), handle: wire.handle?.into(), attempt: wire.attempt })
}

/// A delivered message as it came from another process.
#[derive(Debug)]
pub struct Arrived {
    facts: Facts,
    properties: Bytes,
    body: Bytes,
    origin: Option<Origin>,
}

impl Deliverable for Arrived {
    fn facts(&self) -> Facts {
        self.facts
    }

    fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    fn each_property(&self, show: &mut dyn FnMut(Property<'_>)) {
        packed::shown(&self.properties).for_each(show);
    }

    fn body(&self) -> &Bytes {
        &self.body
    }

    fn packed_properties(&self) -> Bytes {
        self.properties.clone()
    }
}
