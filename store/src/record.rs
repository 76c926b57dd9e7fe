//! The payload of a message: 48 fixed bytes, properties as tag-length-value, and the body last, so that reading what a message is about need not
//! touch its body. Drawn in `docs/design/001-file-format.md`.
//!
//! [`MessageView`] reads a payload in place; nothing is copied until [`MessageView::message`] is called.

use bytes::Bytes;
use gantry_model::message::{BodyDigest, BodyEncoding, Message, Property};
use gantry_model::packed::{entries, fill, shown, tag, user_property};
use gantry_model::{MessageKind, Offset, QueueKey};

/// Bytes before the properties.
pub const FIXED: usize = 48;

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

    /// The stored properties, a share of the payload.
    pub fn packed_properties(&self) -> &Bytes {
        &self.properties
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
        shown(&self.properties)
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
        fill(&mut message, &self.properties)?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_model::packed::encode_properties;
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
    fn consumers_are_shown_every_property_in_its_order() {
        let payload = payload(&sample());
        let view = MessageView::parse(&payload).unwrap();
        let long = "x".repeat(300);
        let user = |name, value| Property::User { name, value };
        let expected = [
            Property::Id("01"),
            Property::Digest(&[5; 20]),
            Property::BornHost("10.0.0.1"),
            Property::Tag("paid"),
            Property::Group("customer-7"),
            Property::TraceContext("00-ab"),
            Property::LiteTopic("room"),
            Property::Key("order-1"),
            Property::Key("order-2"),
            user("a", "1"),
            user("a", ""),
            user("", &long),
        ];
        assert_eq!(view.properties().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_property_of_a_later_version_is_skipped() {
        let future = [&[200, 15][..], b"from the future"].concat();
        let properties = [&future[..], &encode_properties(&sample(), &[5; 20])].concat();
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
    }
}
