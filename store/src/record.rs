//! The payload of a message: 48 fixed bytes, properties as tag-length-value, and the body last, so that reading what a message is about need not
//! touch its body. Drawn in `docs/design/001-file-format.md`.
//!
//! [`MessageView`] reads a payload in place; nothing is copied until [`MessageView::message`] is called.

use bytes::{BufMut, Bytes, BytesMut};
use gantry_model::message::{BodyDigest, BodyEncoding, Message, Property};
use gantry_model::{MessageKind, Offset, QueueKey};

/// Bytes before the properties.
pub const FIXED: usize = 48;

/// The numbers of the properties. A reader skips those that it doesn't know, so a later version may add some.
mod tag {
    pub const MESSAGE_ID: u8 = 1;
    pub const TAG: u8 = 2;
    pub const KEY: u8 = 3;
    pub const MESSAGE_GROUP: u8 = 4;
    pub const TRACE_CONTEXT: u8 = 5;
    pub const BORN_HOST: u8 = 6;
    pub const BODY_DIGEST: u8 = 7;
    pub const LITE_TOPIC: u8 = 8;
    /// Milliseconds as u64.
    pub const RECOVERY: u8 = 9;
    /// The name's length as a varint, the name, the value.
    pub const USER: u8 = 16;
}

/// The number that stands for a tag in the index: the low half of its xxh3. Two tags may share one, so the text decides in the end. A message
/// without a tag has 0.
pub fn tag_hash(tag: &str) -> u32 {
    xxhash_rust::xxh3::xxh3_64(tag.as_bytes()) as u32
}

/// The fixed bytes of a message: what the broker decides, and what must be found without reading on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    pub queue: QueueKey,
    pub offset: Offset,
    pub tag_hash: u32,
    pub kind: MessageKind,
    pub encoding: BodyEncoding,
    /// At most 254.
    pub priority: Option<u8>,
    pub born_ms: u64,
    /// When a delayed message is due; never 0.
    pub deliver_ms: Option<u64>,
    pub properties_len: u32,
    pub body_len: u32,
}

impl Fixed {
    /// The fixed bytes of a message at its place in a queue.
    pub fn of(message: &Message, queue: QueueKey, offset: Offset, properties_len: usize) -> Fixed {
        Fixed {
            queue,
            offset,
            tag_hash: message.tag.as_deref().map_or(0, tag_hash),
            kind: message.kind,
            encoding: message.encoding,
            priority: message.priority,
            born_ms: message.born_ms,
            deliver_ms: message.deliver_ms,
            properties_len: u32::try_from(properties_len).expect("properties are limited to far less"),
            body_len: u32::try_from(message.body.len()).expect("bodies are limited to far less"),
        }
    }

    pub fn encode(&self) -> [u8; FIXED] {
        let mut out = [0; FIXED];
        out[..8].copy_from_slice(&self.queue.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.offset.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.tag_hash.to_le_bytes());
        out[20] = self.kind as u8;
        out[21] = self.encoding as u8;
        // One more than the priority, so that 0 says that there is none.
        out[22] = self.priority.map_or(0, |priority| priority.saturating_add(1));
        out[24..32].copy_from_slice(&self.born_ms.to_le_bytes());
        out[32..40].copy_from_slice(&self.deliver_ms.unwrap_or(0).to_le_bytes());
        out[40..44].copy_from_slice(&self.properties_len.to_le_bytes());
        out[44..48].copy_from_slice(&self.body_len.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; FIXED]) -> Option<Fixed> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let encoding = match bytes[21] {
            1 => BodyEncoding::Identity,
            2 => BodyEncoding::Gzip,
            _ => return None,
        };
        Some(Fixed {
            queue: QueueKey(u64_at(0)),
            offset: Offset(u64_at(8)),
            tag_hash: u32_at(16),
            kind: MessageKind::from_number(bytes[20])?,
            encoding,
            priority: bytes[22].checked_sub(1),
            born_ms: u64_at(24),
            deliver_ms: Some(u64_at(32)).filter(|&at| at > 0),
            properties_len: u32_at(40),
            body_len: u32_at(44),
        })
    }
}

/// Writes what a client said about a message besides the fixed bytes and the body. The digest is given apart, because it is computed here and not
/// by the client.
pub fn encode_properties(message: &Message, digest: &BodyDigest) -> Bytes {
    let user: usize = message.properties.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    let mut out = BytesMut::with_capacity(192 + user);
    put(&mut out, tag::MESSAGE_ID, message.id.as_bytes());
    put(&mut out, tag::BODY_DIGEST, digest);
    put(&mut out, tag::BORN_HOST, message.born_host.as_bytes());
    let optional = [
        (tag::TAG, &message.tag),
        (tag::MESSAGE_GROUP, &message.group),
        (tag::TRACE_CONTEXT, &message.trace_context),
        (tag::LITE_TOPIC, &message.lite_topic),
    ];
    for (tag, value) in optional {
        if let Some(value) = value {
            put(&mut out, tag, value.as_bytes());
        }
    }
    message.keys.iter().for_each(|key| put(&mut out, tag::KEY, key.as_bytes()));
    if let Some(recovery) = message.recovery_ms {
        put(&mut out, tag::RECOVERY, &recovery.to_le_bytes());
    }
    for (name, value) in &message.properties {
        out.put_u8(tag::USER);
        put_varint(&mut out, varint_len(name.len()) + name.len() + value.len());
        put_varint(&mut out, name.len());
        out.put_slice(name.as_bytes());
        out.put_slice(value.as_bytes());
    }
    out.freeze()
}

fn put(out: &mut BytesMut, tag: u8, value: &[u8]) {
    out.put_u8(tag);
    put_varint(out, value.len());
    out.put_slice(value);
}

/// LEB128: seven bits a byte, the lowest first, the high bit says that more follow.
fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint_len(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Takes a varint of at most 32 bits off the front.
fn take_varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok().map(|value| value as usize);
        }
    }
    None
}

/// A text under which the index finds a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    Id(&'a [u8]),
    Key(&'a [u8]),
}

/// A message payload, read in place.
#[derive(Clone, Debug)]
pub struct MessageView {
    pub fixed: Fixed,
    properties: Bytes,
    body: Bytes,
}

impl MessageView {
    /// Reads a payload; `None` if it is not that of a message.
    pub fn parse(payload: &Bytes) -> Option<MessageView> {
        let fixed = Fixed::decode(payload.first_chunk()?)?;
        let body_at = FIXED.checked_add(fixed.properties_len as usize)?;
        if body_at.checked_add(fixed.body_len as usize)? != payload.len() {
            return None;
        }
        Some(MessageView { fixed, properties: payload.slice(FIXED..body_at), body: payload.slice(body_at..) })
    }

    /// The stored body, a share of the payload.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    pub fn message_id(&self) -> Option<&str> {
        self.text(tag::MESSAGE_ID)
    }

    pub fn tag(&self) -> Option<&str> {
        self.text(tag::TAG)
    }

    pub fn message_group(&self) -> Option<&str> {
        self.text(tag::MESSAGE_GROUP)
    }

    pub fn trace_context(&self) -> Option<&str> {
        self.text(tag::TRACE_CONTEXT)
    }

    pub fn born_host(&self) -> Option<&str> {
        self.text(tag::BORN_HOST)
    }

    pub fn lite_topic(&self) -> Option<&str> {
        self.text(tag::LITE_TOPIC)
    }

    pub fn digest(&self) -> Option<&BodyDigest> {
        self.entries().find(|(tag, _)| *tag == tag::BODY_DIGEST).and_then(|(_, value)| value.try_into().ok())
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries().filter(|(tag, _)| *tag == tag::KEY).filter_map(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// User properties in the order they came.
    pub fn user_properties(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries().filter(|(tag, _)| *tag == tag::USER).filter_map(|(_, value)| user_property(value))
    }

    /// When a delayed message is due, ms since the Unix epoch.
    pub fn deliver_ms(&self) -> Option<u64> {
        self.fixed.deliver_ms
    }

    /// Message id and keys, for the index.
    pub fn names(&self) -> impl Iterator<Item = Name<'_>> {
        self.entries().filter_map(|(tag, value)| match tag {
            tag::MESSAGE_ID => Some(Name::Id(value)),
            tag::KEY => Some(Name::Key(value)),
            _ => None,
        })
    }

    /// What consumers are shown of the properties, in the order in which they are stored. One that is not well formed is left out.
    pub fn properties(&self) -> impl Iterator<Item = Property<'_>> {
        self.entries().filter_map(|(tag, value)| {
            let text = || std::str::from_utf8(value).ok();
            match tag {
                tag::MESSAGE_ID => text().map(Property::Id),
                tag::TAG => text().map(Property::Tag),
                tag::KEY => text().map(Property::Key),
                tag::MESSAGE_GROUP => text().map(Property::Group),
                tag::TRACE_CONTEXT => text().map(Property::TraceContext),
                tag::BORN_HOST => text().map(Property::BornHost),
                tag::LITE_TOPIC => text().map(Property::LiteTopic),
                tag::BODY_DIGEST => value.try_into().ok().map(Property::Digest),
                tag::USER => user_property(value).map(|(name, value)| Property::User { name, value }),
                _ => None,
            }
        })
    }

    /// The message as it was sent; `None` if a text is not one.
    pub fn message(&self) -> Option<Message> {
        let fixed = &self.fixed;
        let mut message = Message {
            kind: fixed.kind,
            encoding: fixed.encoding,
            priority: fixed.priority,
            born_ms: fixed.born_ms,
            deliver_ms: fixed.deliver_ms,
            body: self.body.clone(),
            ..Message::default()
        };
        for (tag, value) in self.entries() {
            match tag {
                tag::MESSAGE_ID => message.id = owned(value)?,
                tag::TAG => message.tag = Some(owned(value)?),
                tag::KEY => message.keys.push(owned(value)?),
                tag::MESSAGE_GROUP => message.group = Some(owned(value)?),
                tag::TRACE_CONTEXT => message.trace_context = Some(owned(value)?),
                tag::BORN_HOST => message.born_host = owned(value)?,
                tag::BODY_DIGEST => message.digest = value.try_into().ok()?,
                tag::LITE_TOPIC => message.lite_topic = Some(owned(value)?),
                tag::RECOVERY => message.recovery_ms = Some(u64::from_le_bytes(value.try_into().ok()?)),
                tag::USER => {
                    let (name, value) = user_property(value)?;
                    message.properties.push((name.to_owned(), value.to_owned()));
                }
                _ => {}
            }
        }
        Some(message)
    }

    fn text(&self, wanted: u8) -> Option<&str> {
        self.entries().find(|(tag, _)| *tag == wanted).and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// All properties, as far as they are well formed.
    fn entries(&self) -> impl Iterator<Item = (u8, &[u8])> {
        entries(&self.properties)
    }
}

fn entries(properties: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = properties;
    std::iter::from_fn(move || {
        let (&tag, after) = rest.split_first()?;
        rest = after;
        let len = take_varint(&mut rest)?;
        let (value, after) = rest.split_at_checked(len)?;
        rest = after;
        Some((tag, value))
    })
}

/// The message id among encoded properties.
pub fn first_message_id(properties: &[u8]) -> Option<String> {
    entries(properties).find(|(tag, _)| *tag == tag::MESSAGE_ID).and_then(|(_, value)| owned(value))
}

fn user_property(mut value: &[u8]) -> Option<(&str, &str)> {
    let len = take_varint(&mut value)?;
    let (name, value) = value.split_at_checked(len)?;
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
}

fn owned(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_model::{QueueId, TopicId};
    use proptest::prelude::*;

    fn payload(message: &Message) -> Bytes {
        let properties = encode_properties(message, &message.digest);
        let fixed = Fixed::of(message, QueueKey::new(TopicId(1), QueueId(2)), Offset(3), properties.len());
        [&fixed.encode()[..], &properties, &message.body].concat().into()
    }

    fn sample() -> Message {
        Message {
            id: "01".into(),
            kind: MessageKind::Fifo,
            tag: Some("paid".into()),
            keys: vec!["order-1".into(), "order-2".into()],
            group: Some("customer-7".into()),
            properties: vec![("a".into(), "1".into()), ("a".into(), String::new()), (String::new(), "x".repeat(300))],
            body: Bytes::from_static(b"hello"),
            encoding: BodyEncoding::Gzip,
            digest: [5; 20],
            born_ms: 1_700_000_000_000,
            born_host: "10.0.0.1".into(),
            trace_context: Some("00-ab".into()),
            deliver_ms: Some(1_700_000_060_000),
            priority: Some(0),
            lite_topic: Some("room".into()),
            recovery_ms: Some(30_000),
        }
    }

    #[test]
    fn a_view_reads_each_part_in_place() {
        let payload = payload(&sample());
        let view = MessageView::parse(&payload).unwrap();
        assert_eq!((view.message_id(), view.tag(), view.message_group()), (Some("01"), Some("paid"), Some("customer-7")));
        assert_eq!((view.trace_context(), view.born_host(), view.lite_topic()), (Some("00-ab"), Some("10.0.0.1"), Some("room")));
        assert_eq!(view.keys().collect::<Vec<_>>(), ["order-1", "order-2"]);
        assert_eq!(view.user_properties().next(), Some(("a", "1")));
        assert_eq!((view.digest(), view.deliver_ms()), (Some(&[5; 20]), Some(1_700_000_060_000)));
        assert_eq!(view.names().collect::<Vec<_>>(), [Name::Id(b"01"), Name::Key(b"order-1"), Name::Key(b"order-2")]);
        assert!(payload.as_ptr_range().contains(&view.body().as_ptr()), "the body is not copied");
        assert_eq!(view.fixed.tag_hash, tag_hash("paid"));
        assert_eq!(view.message().unwrap(), sample());
    }

    #[test]
    fn a_property_of_a_later_version_is_skipped() {
        let mut properties = BytesMut::new();
        put(&mut properties, 200, b"from the future");
        properties.put_slice(&encode_properties(&sample(), &[5; 20]));
        let fixed = Fixed::of(&sample(), QueueKey(0), Offset(0), properties.len());
        let payload = Bytes::from([&fixed.encode()[..], &properties, b"hello"].concat());
        assert_eq!(MessageView::parse(&payload).unwrap().message().unwrap(), sample());
    }

    #[test]
    fn tag_hashes_never_change() {
        assert_eq!((tag_hash("paid"), tag_hash("")), (TAG_PAID, TAG_EMPTY), "they are stored in index runs and frames");
    }

    const TAG_PAID: u32 = 2_035_884_693;
    const TAG_EMPTY: u32 = 953_390_274;

    proptest! {
        #[test]
        fn any_message_comes_back(
            id in ".{1,40}", tag in prop::option::of(".{0,20}"), keys in prop::collection::vec(".{0,20}", 0..4),
            properties in prop::collection::vec((".{0,20}", ".{0,200}"), 0..6), body in prop::collection::vec(any::<u8>(), 0..200),
            group in prop::option::of(".{1,30}"), priority in prop::option::of(0u8..255), born_ms: u64,
            deliver_ms in prop::option::of(1u64..), digest: [u8; 20],
        ) {
            let message = Message { id, tag, keys, properties, group, priority, born_ms, deliver_ms, digest, body: body.into(), ..sample() };
            let view = MessageView::parse(&payload(&message)).unwrap();
            prop_assert_eq!(view.message().unwrap(), message);
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), properties_len: u8) {
            let mut bytes = bytes;
            if bytes.len() > FIXED {
                // Lengths that fit get deeper into the reader than random ones.
                let properties_len = usize::from(properties_len).min(bytes.len() - FIXED);
                let body_len = bytes.len() - FIXED - properties_len;
                bytes[40..44].copy_from_slice(&(properties_len as u32).to_le_bytes());
                bytes[44..48].copy_from_slice(&(body_len as u32).to_le_bytes());
                (bytes[20], bytes[21]) = (1, 1);
            }
            if let Some(view) = MessageView::parse(&Bytes::from(bytes)) {
                let _ = (view.message(), view.names().count(), view.user_properties().count(), view.digest());
            }
        }

        #[test]
        fn varints_have_the_length_that_is_counted(value in 0usize..1 << 32) {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            prop_assert_eq!(take_varint(&mut &out[..]), Some(value));
        }
    }
}
