//! The payload of a message frame: 48 fixed bytes, properties as tag-length-value, and the body last, so that reading the metadata need not
//! touch the body. `docs/design/001-file-format.md` draws it.

use bytes::{BufMut, Bytes, BytesMut};
use gantry_model::message::{BodyDigest, BodyEncoding, Message};
use gantry_model::{MessageKind, Offset, QueueKey};

/// Bytes before the properties.
pub const FIXED: usize = 48;

/// Tags of the properties. A reader skips tags that it doesn't know.
mod tag {
    pub const MESSAGE_ID: u8 = 1;
    pub const TAG: u8 = 2;
    pub const KEY: u8 = 3;
    pub const GROUP: u8 = 4;
    pub const TRACE: u8 = 5;
    pub const BORN_HOST: u8 = 6;
    pub const DIGEST: u8 = 7;
    pub const LITE_TOPIC: u8 = 8;
    /// A user property: length of the name as u16, name, value.
    pub const USER: u8 = 16;
}

/// The number that stands for a tag in the index: the low half of its xxh3. Two tags may share one, so the text decides in the end. A message
/// without a tag has 0.
pub fn tag_hash(tag: &str) -> u32 {
    xxhash_rust::xxh3::xxh3_64(tag.as_bytes()) as u32
}

/// Writes what the broker doesn't decide: everything between the fixed bytes and the body.
pub fn encode_properties(message: &Message, digest: &BodyDigest) -> Bytes {
    let user: usize = message.properties.iter().map(|(name, value)| name.len() + value.len() + 7).sum();
    let mut out = BytesMut::with_capacity(160 + user);
    put(&mut out, tag::MESSAGE_ID, message.id.as_bytes());
    put(&mut out, tag::DIGEST, digest);
    put(&mut out, tag::BORN_HOST, message.born_host.as_bytes());
    let optional = [(tag::TAG, &message.tag), (tag::GROUP, &message.group), (tag::TRACE, &message.trace_context), (tag::LITE_TOPIC, &message.lite_topic)];
    for (tag, value) in optional {
        if let Some(value) = value {
            put(&mut out, tag, value.as_bytes());
        }
    }
    message.keys.iter().for_each(|key| put(&mut out, tag::KEY, key.as_bytes()));
    for (name, value) in &message.properties {
        out.put_u8(tag::USER);
        out.put_u32_le((2 + name.len() + value.len()) as u32);
        out.put_u16_le(name.len() as u16);
        out.put_slice(name.as_bytes());
        out.put_slice(value.as_bytes());
    }
    out.freeze()
}

fn put(out: &mut BytesMut, tag: u8, value: &[u8]) {
    out.put_u8(tag);
    out.put_u32_le(value.len() as u32);
    out.put_slice(value);
}

/// The fixed bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    pub queue: QueueKey,
    pub offset: Offset,
    pub tag_hash: u32,
    pub kind: MessageKind,
    pub encoding: BodyEncoding,
    pub priority: Option<u8>,
    pub born_ms: u64,
    /// When it is due, for delayed messages.
    pub deliver_ms: Option<u64>,
    pub properties_len: u32,
    pub body_len: u32,
}

impl Fixed {
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

/// A message payload, read in place.
#[derive(Clone, Debug)]
pub struct MessageView {
    pub fixed: Fixed,
    properties: Bytes,
    body: Bytes,
}

impl MessageView {
    /// Reads a payload; `None` if it is not one.
    pub fn parse(payload: &Bytes) -> Option<MessageView> {
        let fixed = Fixed::decode(payload.first_chunk()?)?;
        let body_at = FIXED.checked_add(fixed.properties_len as usize)?;
        if body_at.checked_add(fixed.body_len as usize)? != payload.len() {
            return None;
        }
        let properties = payload.slice(FIXED..body_at);
        Some(MessageView { fixed, properties, body: payload.slice(body_at..) })
    }

    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Message id and keys, for the index.
    pub fn names(&self) -> impl Iterator<Item = Name<'_>> {
        self.entries().filter_map(|(tag, value)| match tag {
            tag::MESSAGE_ID => Some(Name::Id(value)),
            tag::KEY => Some(Name::Key(value)),
            _ => None,
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
                tag::MESSAGE_ID => message.id = text(value)?,
                tag::TAG => message.tag = Some(text(value)?),
                tag::KEY => message.keys.push(text(value)?),
                tag::GROUP => message.group = Some(text(value)?),
                tag::TRACE => message.trace_context = Some(text(value)?),
                tag::BORN_HOST => message.born_host = text(value)?,
                tag::DIGEST => message.digest = value.try_into().ok()?,
                tag::LITE_TOPIC => message.lite_topic = Some(text(value)?),
                tag::USER => {
                    let (len, rest) = value.split_first_chunk()?;
                    let (name, value) = rest.split_at_checked(u16::from_le_bytes(*len) as usize)?;
                    message.properties.push((text(name)?, text(value)?));
                }
                _ => {}
            }
        }
        Some(message)
    }

    fn entries(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let mut rest: &[u8] = &self.properties;
        std::iter::from_fn(move || {
            let (&tag, after) = rest.split_first()?;
            let (len, after) = after.split_first_chunk()?;
            let (value, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            rest = after;
            Some((tag, value))
        })
    }
}

/// A text under which a message can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    Id(&'a [u8]),
    Key(&'a [u8]),
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::{QueueId, TopicId};
    use proptest::prelude::*;

    fn payload(message: &Message, digest: &BodyDigest) -> Bytes {
        let properties = encode_properties(message, digest);
        let fixed = Fixed {
            queue: QueueKey::new(TopicId(1), QueueId(2)),
            offset: Offset(3),
            tag_hash: message.tag.as_deref().map_or(0, tag_hash),
            kind: message.kind,
            encoding: message.encoding,
            priority: message.priority,
            born_ms: message.born_ms,
            deliver_ms: message.deliver_ms,
            properties_len: properties.len() as u32,
            body_len: message.body.len() as u32,
        };
        [&fixed.encode()[..], &properties, &message.body].concat().into()
    }

    proptest! {
        #[test]
        fn any_message_comes_back(
            id in ".{1,40}", tag in prop::option::of(".{0,20}"), keys in prop::collection::vec(".{0,20}", 0..4),
            properties in prop::collection::vec((".{0,20}", ".{0,40}"), 0..6), body in prop::collection::vec(any::<u8>(), 0..200),
            group in prop::option::of(".{1,30}"), priority in prop::option::of(0u8..10), born_ms: u64, deliver_ms in prop::option::of(1u64..), digest: [u8; 20],
        ) {
            let message = Message {
                id, tag, keys, properties, group, priority, born_ms, deliver_ms, digest, body: body.into(), born_host: "host".into(),
                kind: MessageKind::Fifo, encoding: BodyEncoding::Gzip, trace_context: Some("00-ab".into()), lite_topic: None,
            };
            let view = MessageView::parse(&payload(&message, &digest)).expect("a payload");
            prop_assert_eq!(view.message().expect("texts"), message);
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), lens: (u8, u8)) {
            let mut bytes = bytes;
            if bytes.len() > FIXED {
                // Lengths that nearly fit get deeper into the reader than random ones.
                bytes[40..44].copy_from_slice(&u32::from(lens.0).to_le_bytes());
                let body = (bytes.len() - FIXED).saturating_sub(lens.0 as usize) as u32;
                bytes[44..48].copy_from_slice(&body.to_le_bytes());
                (bytes[20], bytes[21]) = (1, 1);
            }
            if let Some(view) = MessageView::parse(&Bytes::from(bytes)) {
                let _ = (view.message(), view.names().count());
            }
        }
    }
}
