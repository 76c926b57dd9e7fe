//! Writes delivered messages as protobuf straight from where they are stored, the numbers of the fields as in `definition.proto`.
//!
//! The way over `model` texts and generated types costs an allocation for each text and counts every length twice; a delivery is too frequent for
//! that. A test holds each message against what the generated types say.

use crate::convert::{encoding, message_type};
use crate::wire::PREFIX;
use bytes::{BufMut, BytesMut};
use gantry_model::contract::broker::Delivery;
use gantry_model::handle::HandleKeys;
use gantry_model::message::{BodyDigest, Deliverable, Origin, Property};
use gantry_proto::v2::{DigestType, Resource};
use prost::Message;

/// What follows a key: a number, or a length and so many bytes.
const NUMBER: u64 = 0;
const BYTES: u64 = 2;

/// The field of `ReceiveMessageResponse` that a message is in.
const RESPONSE_MESSAGE: u64 = 2;

/// The fields of `Message`.
mod message {
    pub const TOPIC: u64 = 1;
    pub const USER_PROPERTIES: u64 = 2;
    pub const SYSTEM_PROPERTIES: u64 = 3;
    pub const BODY: u64 = 4;
}

/// The fields of `SystemProperties`.
mod system {
    pub const TAG: u64 = 1;
    pub const KEYS: u64 = 2;
    pub const MESSAGE_ID: u64 = 3;
    pub const BODY_DIGEST: u64 = 4;
    pub const BODY_ENCODING: u64 = 5;
    pub const MESSAGE_TYPE: u64 = 6;
    pub const BORN_TIMESTAMP: u64 = 7;
    pub const BORN_HOST: u64 = 8;
    pub const STORE_TIMESTAMP: u64 = 9;
    pub const STORE_HOST: u64 = 10;
    pub const DELIVERY_TIMESTAMP: u64 = 11;
    pub const RECEIPT_HANDLE: u64 = 12;
    pub const QUEUE_ID: u64 = 13;
    pub const QUEUE_OFFSET: u64 = 14;
    pub const DELIVERY_ATTEMPT: u64 = 16;
    pub const MESSAGE_GROUP: u64 = 17;
    pub const TRACE_CONTEXT: u64 = 18;
    pub const DEAD_LETTER_QUEUE: u64 = 20;
    pub const LITE_TOPIC: u64 = 21;
    pub const PRIORITY: u64 = 22;
}

/// Writes the messages of one answer.
#[derive(Debug)]
pub struct Writer {
    /// Fields that all messages share, ready to be copied.
    topic: Vec<u8>,
    store_host: Vec<u8>,
    /// Parts of the message at hand; their room is used again for the next one.
    system: Vec<u8>,
    user: Vec<u8>,
    handle: String,
}

impl Writer {
    /// `topic` as the client named it: clients compare it with what they asked for.
    pub fn new(topic: &Resource, store_host: &str) -> Writer {
        let mut shared = Writer { topic: Vec::new(), store_host: Vec::new(), system: Vec::new(), user: Vec::new(), handle: String::new() };
        put_bytes(&mut shared.topic, message::TOPIC, &topic.encode_to_vec());
        put_bytes(&mut shared.store_host, system::STORE_HOST, store_host.as_bytes());
        shared
    }

    /// Appends one gRPC message, all but its last bytes: those are the body, which the caller appends or sends behind.
    pub fn put_head(&mut self, out: &mut BytesMut, delivery: &Delivery, keys: &HandleKeys) {
        self.collect(delivery, keys);
        let body = delivery.message.body();
        let body_len = if body.is_empty() { 0 } else { bytes_len(message::BODY, body.len()) };
        let message = self.topic.len() + self.user.len() + bytes_len(message::SYSTEM_PROPERTIES, self.system.len()) + body_len;
        let response = bytes_len(RESPONSE_MESSAGE, message);
        out.reserve(PREFIX + response);
        out.put_u8(0);
        out.put_u32(u32::try_from(response).expect("messages are limited to far less"));
        put_key(out, RESPONSE_MESSAGE, message);
        out.extend_from_slice(&self.topic);
        out.extend_from_slice(&self.user);
        put_bytes(out, message::SYSTEM_PROPERTIES, &self.system);
        if !body.is_empty() {
            put_key(out, message::BODY, body.len());
        }
    }

    fn collect(&mut self, delivery: &Delivery, keys: &HandleKeys) {
        let Writer { store_host, system, user, handle, .. } = self;
        system.clear();
        user.clear();
        handle.clear();
        let stored = &*delivery.message;
        stored.each_property(&mut |property| match property {
            Property::Id(id) => put_bytes(system, system::MESSAGE_ID, id.as_bytes()),
            Property::Tag(tag) => put_bytes(system, system::TAG, tag.as_bytes()),
            Property::Key(key) => put_bytes(system, system::KEYS, key.as_bytes()),
            Property::Group(group) => put_bytes(system, system::MESSAGE_GROUP, group.as_bytes()),
            Property::TraceContext(context) => put_bytes(system, system::TRACE_CONTEXT, context.as_bytes()),
            Property::BornHost(host) => put_bytes(system, system::BORN_HOST, host.as_bytes()),
            Property::LiteTopic(topic) => put_bytes(system, system::LITE_TOPIC, topic.as_bytes()),
            Property::Digest(digest) => put_digest(system, digest),
            Property::User { name, value } => put_user(user, name, value),
        });
        let facts = stored.facts();
        put_number(system, system::BODY_ENCODING, encoding(facts.encoding) as u64);
        put_number(system, system::MESSAGE_TYPE, message_type(facts.kind) as u64);
        put_timestamp(system, system::BORN_TIMESTAMP, facts.born_ms);
        put_timestamp(system, system::STORE_TIMESTAMP, facts.store_ms);
        system.extend_from_slice(store_host);
        facts.deliver_ms.iter().for_each(|&ms| put_timestamp(system, system::DELIVERY_TIMESTAMP, ms));
        facts.priority.iter().for_each(|&priority| put_number(system, system::PRIORITY, u64::from(priority)));
        put_number(system, system::QUEUE_ID, signed(facts.queue.0 as i32));
        put_number(system, system::QUEUE_OFFSET, facts.offset.0);
        put_number(system, system::DELIVERY_ATTEMPT, signed(delivery.attempt as i32));
        keys.sign_onto(&delivery.handle, handle);
        put_bytes(system, system::RECEIPT_HANDLE, handle.as_bytes());
        if let Some(origin) = stored.origin() {
            put_origin(system, stored, origin);
        }
    }
}

/// A negative number has ten bytes, whatever its type.
fn signed(number: i32) -> u64 {
    i64::from(number) as u64
}

/// Type and text of the digest: upper-case hexadecimal, as clients compare it.
fn put_digest(out: &mut Vec<u8>, digest: &BodyDigest) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = [0; 2 * size_of::<BodyDigest>()];
    for (byte, pair) in digest.iter().zip(text.chunks_exact_mut(2)) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    let kind = DigestType::Sha1 as u64;
    put_key(out, system::BODY_DIGEST, number_len(1, kind) + bytes_len(2, text.len()));
    put_number(out, 1, kind);
    put_bytes(out, 2, &text);
}

/// An entry of the map of user properties.
fn put_user(out: &mut Vec<u8>, name: &str, value: &str) {
    put_key(out, message::USER_PROPERTIES, bytes_len(1, name.len()) + bytes_len(2, value.len()));
    put_bytes(out, 1, name.as_bytes());
    put_bytes(out, 2, value.as_bytes());
}

fn put_timestamp(out: &mut Vec<u8>, field: u64, ms: u64) {
    let (seconds, nanos) = (ms / 1_000, ms % 1_000 * 1_000_000);
    put_key(out, field, number_len(1, seconds) + number_len(2, nanos));
    put_number(out, 1, seconds);
    put_number(out, 2, nanos);
}

/// The topic that a dead letter comes from, and its id, which it keeps.
fn put_origin(out: &mut Vec<u8>, stored: &dyn Deliverable, origin: &Origin) {
    let mut id = Vec::new();
    stored.each_property(&mut |property| {
        if let Property::Id(text) = property {
            id.extend_from_slice(text.as_bytes());
        }
    });
    let topic = origin.name.as_ref().map_or("", |name| &name.name);
    put_key(out, system::DEAD_LETTER_QUEUE, bytes_len(1, topic.len()) + bytes_len(2, id.len()));
    put_bytes(out, 1, topic.as_bytes());
    put_bytes(out, 2, &id);
}

fn put_number(out: &mut impl BufMut, field: u64, number: u64) {
    put_varint(out, field << 3 | NUMBER);
    put_varint(out, number);
}

fn put_bytes(out: &mut impl BufMut, field: u64, bytes: &[u8]) {
    put_key(out, field, bytes.len());
    out.put_slice(bytes);
}

/// Says that `len` bytes follow.
fn put_key(out: &mut impl BufMut, field: u64, len: usize) {
    put_varint(out, field << 3 | BYTES);
    put_varint(out, len as u64);
}

fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint_len(value: u64) -> usize {
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn number_len(field: u64, number: u64) -> usize {
    varint_len(field << 3) + varint_len(number)
}

fn bytes_len(field: u64, len: usize) -> usize {
    varint_len(field << 3) + varint_len(len as u64) + len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::{Envelope, stored_to_wire};
    use gantry_model::handle::HandleKey;
    use gantry_model::message::{BodyEncoding, DeadReason, StoredMessage};
    use gantry_model::{GroupId, LeaseId, MessageKind, Offset, QueueId, ReceiptHandle, ShardId, TopicId, TopicName};
    use gantry_proto::v2::receive_message_response::Content;
    use gantry_proto::v2::{self, ReceiveMessageResponse};
    use proptest::prelude::*;

    fn keys() -> HandleKeys {
        HandleKeys::new(&[HandleKey { id: 7, secret: [1; 32] }]).expect("a key")
    }

    fn handle() -> ReceiptHandle {
        let (shard, topic, group, queue) = (ShardId(1), TopicId(2), GroupId(3), QueueId(4));
        ReceiptHandle { shard, topic, group, queue, offset: Offset(5), lease: LeaseId(6), reset: 7, attempt: 8 }
    }

    /// What the generated types make of a delivery.
    fn expected(stored: StoredMessage, envelope: &Envelope, attempt: u32) -> v2::Message {
        let mut message = stored_to_wire(stored, envelope);
        let system = message.system_properties.as_mut().expect("every message has them");
        system.receipt_handle = Some(keys().sign(&handle()));
        system.delivery_attempt = Some(attempt as i32);
        message
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![".{0,20}", "[a-z]{120,140}"]
    }

    fn numbers() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 0u64..1_000, Just(i64::MAX as u64), any::<u64>().prop_map(|number| number >> 1)]
    }

    fn origins() -> impl Strategy<Value = Option<Origin>> {
        let origin = |named: bool| Origin {
            topic: TopicId(9),
            name: named.then(|| TopicName { namespace: String::new(), name: "orders".into() }),
            queue: QueueId(1),
            offset: Offset(2),
            attempts: 16,
            reason: DeadReason::MaxAttempts,
        };
        prop::option::of(any::<bool>().prop_map(origin))
    }

    prop_compose! {
        fn messages()(
            texts in (text(), text(), prop::option::of(text()), prop::option::of(text()), prop::option::of(text()), prop::option::of(text())),
            keys in prop::collection::vec(text(), 0..4), properties in prop::collection::btree_map(text(), text(), 0..5),
            body in prop::collection::vec(any::<u8>(), 0..300), digest: [u8; 20], kind in 1u8..7, gzip: bool,
            times in (numbers(), numbers(), prop::option::of(numbers())), priority in prop::option::of(any::<u8>()),
            queue: u32, offset in numbers(), origin in origins(),
        ) -> StoredMessage {
            let (id, born_host, tag, group, trace_context, lite_topic) = texts;
            let (born_ms, store_ms, deliver_ms) = times;
            let message = gantry_model::Message {
                id, born_host, tag, group, trace_context, lite_topic, keys, digest, born_ms, deliver_ms, priority,
                properties: properties.into_iter().collect(),
                body: body.into(),
                recovery_ms: None,
                kind: MessageKind::from_number(kind).unwrap_or_default(),
                encoding: if gzip { BodyEncoding::Gzip } else { BodyEncoding::Identity },
            };
            StoredMessage { message, topic: TopicId(2), queue: QueueId(queue), offset: Offset(offset), store_ms, origin }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_the_generated_types_write(
            stored in prop::collection::vec((messages(), any::<u32>()), 1..4), namespace in "[a-z]{0,3}", host in "[0-9.:]{0,20}",
        ) {
            let topic = Resource { resource_namespace: namespace, name: "orders".into() };
            let envelope = Envelope { topic: topic.clone(), store_host: host.clone() };
            let mut writer = Writer::new(&topic, &host);
            // One writer for all: nothing of a message is left over for the next.
            for (stored, attempt) in stored {
                let delivery = Delivery { message: Box::new(stored.clone()), handle: handle(), attempt };
                let mut out = BytesMut::new();
                writer.put_head(&mut out, &delivery, &keys());
                out.extend_from_slice(delivery.message.body());
                prop_assert_eq!(&out[..PREFIX], &[&[0][..], &((out.len() - PREFIX) as u32).to_be_bytes()].concat());
                let response = ReceiveMessageResponse::decode(&out[PREFIX..]).expect("protobuf");
                prop_assert_eq!(response.content, Some(Content::Message(expected(stored, &envelope, attempt))));
            }
        }

        #[test]
        fn varints_have_the_length_that_is_counted(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
        }
    }
}
