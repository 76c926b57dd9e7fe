//! Messages from the wire to the model and back. Bodies and texts are moved, never copied; what a request may contain was checked before.

use crate::context::Peer;
use crate::validate::duration_ms;
use gantry_model::message::{BodyDigest, BodyEncoding, StoredMessage};
use gantry_model::{Message, MessageKind};
use gantry_proto::v2::{self, DeadLetterQueue, Digest, DigestType, Encoding, MessageType, Resource, SystemProperties};
use prost_types::Timestamp;
use sha1::Sha1;

/// A checked message of a producer, as the broker takes it.
pub fn from_wire(message: v2::Message, kind: MessageKind, now_ms: u64, peer: &Peer) -> Message {
    let system = message.system_properties.unwrap_or_default();
    let encoding = if system.body_encoding() == Encoding::Gzip { BodyEncoding::Gzip } else { BodyEncoding::Identity };
    let mut keys = system.keys;
    keys.retain(|key| !key.is_empty());
    Message {
        id: system.message_id,
        kind,
        tag: filled(system.tag),
        keys,
        group: filled(system.message_group),
        properties: message.user_properties.into_iter().collect(),
        digest: digest(&message.body),
        body: message.body,
        encoding,
        born_ms: system.born_timestamp.as_ref().map_or(now_ms, ms),
        born_host: if system.born_host.trim().is_empty() { peer.remote.ip().to_string() } else { system.born_host },
        trace_context: filled(system.trace_context),
        deliver_ms: system.delivery_timestamp.as_ref().map(ms),
        priority: system.priority.and_then(|priority| u8::try_from(priority).ok()),
        lite_topic: filled(system.lite_topic),
        recovery_ms: system.orphaned_transaction_recovery_duration.as_ref().and_then(duration_ms),
    }
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn digest(body: &[u8]) -> BodyDigest {
    <Sha1 as sha1::Digest>::digest(body).into()
}

/// What every message of one answer shares.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The topic as the client named it: clients compare it with what they asked for.
    pub topic: Resource,
    pub store_host: String,
}

/// A stored message without anything that belongs to a delivery.
pub fn stored_to_wire(stored: StoredMessage, envelope: &Envelope) -> v2::Message {
    let StoredMessage { message, queue, offset, store_ms, origin, .. } = stored;
    let dead_letter_queue = origin.map(|origin| DeadLetterQueue {
        topic: origin.name.map_or_else(String::new, |name| name.name),
        // A dead letter keeps its id.
        message_id: message.id.clone(),
    });
    let system = SystemProperties {
        tag: message.tag,
        keys: message.keys,
        message_id: message.id,
        body_digest: Some(Digest { r#type: DigestType::Sha1 as i32, checksum: hex(&message.digest) }),
        body_encoding: encoding(message.encoding) as i32,
        message_type: message_type(message.kind) as i32,
        born_timestamp: Some(timestamp(message.born_ms)),
        born_host: message.born_host,
        store_timestamp: Some(timestamp(store_ms)),
        store_host: envelope.store_host.clone(),
        delivery_timestamp: message.deliver_ms.map(timestamp),
        receipt_handle: None,
        queue_id: queue.0 as i32,
        queue_offset: Some(offset.0 as i64),
        invisible_duration: None,
        delivery_attempt: None,
        message_group: message.group,
        trace_context: message.trace_context,
        orphaned_transaction_recovery_duration: None,
        dead_letter_queue,
        lite_topic: message.lite_topic,
        priority: message.priority.map(i32::from),
    };
    v2::Message {
        topic: Some(envelope.topic.clone()),
        user_properties: message.properties.into_iter().collect(),
        system_properties: Some(system),
        body: message.body,
    }
}

pub fn encoding(encoding: BodyEncoding) -> Encoding {
    match encoding {
        BodyEncoding::Identity => Encoding::Identity,
        BodyEncoding::Gzip => Encoding::Gzip,
    }
}

pub fn message_type(kind: MessageKind) -> MessageType {
    match kind {
        MessageKind::Normal => MessageType::Normal,
        MessageKind::Fifo => MessageType::Fifo,
        MessageKind::Delay => MessageType::Delay,
        MessageKind::Transaction => MessageType::Transaction,
        MessageKind::Lite => MessageType::Lite,
        MessageKind::Priority => MessageType::Priority,
    }
}

/// Upper-case hexadecimal, as clients compare it.
fn hex(digest: &BodyDigest) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(2 * digest.len());
    for byte in digest {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

/// A point in time on the wire.
pub fn timestamp(ms: u64) -> Timestamp {
    Timestamp { seconds: (ms / 1_000) as i64, nanos: (ms % 1_000) as i32 * 1_000_000 }
}

/// Milliseconds since the Unix epoch; times before it count as the epoch.
pub fn ms(timestamp: &Timestamp) -> u64 {
    let ms = i128::from(timestamp.seconds) * 1_000 + i128::from(timestamp.nanos) / 1_000_000;
    u64::try_from(ms.max(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_upper_case_sha1() {
        assert_eq!(hex(&digest(b"abc")), "A9993E364706816ABA3E25717850C26C9CD0D89D");
    }

    #[test]
    fn times_before_the_epoch_count_as_the_epoch() {
        assert_eq!(ms(&Timestamp { seconds: -5, nanos: 0 }), 0);
        assert_eq!(ms(&timestamp(1_234_567)), 1_234_567);
        assert_eq!(ms(&Timestamp { seconds: i64::MAX, nanos: 0 }), u64::MAX);
    }
}
