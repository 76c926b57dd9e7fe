//! The properties of a message as bytes: tag-length-value, one after the other. The log stores them so, and brokers and proxies hand them on as
//! they lie there. Drawn in `docs/design/001-file-format.md`.

use crate::Message;
use crate::message::{BodyDigest, BodyEncoding, MessageKind, Property};
use bytes::{BufMut, Bytes, BytesMut};

/// The numbers of the properties. A reader skips those that it doesn't know, so a later version may add some.
pub mod tag {
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

/// A message on its way to its shard: numbers as fields, properties as the log stores them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    pub kind: MessageKind,
    pub encoding: BodyEncoding,
    pub priority: Option<u8>,
    pub born_ms: u64,
    pub deliver_ms: Option<u64>,
    pub properties: Bytes,
    pub body: Bytes,
}

impl Packed {
    pub fn of(message: &Message) -> Packed {
        Packed {
            kind: message.kind,
            encoding: message.encoding,
            priority: message.priority,
            born_ms: message.born_ms,
            deliver_ms: message.deliver_ms,
            properties: encode_properties(message, &message.digest),
            body: message.body.clone(),
        }
    }

    /// `None` if the properties are none.
    pub fn unpack(self) -> Option<Message> {
        let Packed { kind, encoding, priority, born_ms, deliver_ms, properties, body } = self;
        let mut message = Message { kind, encoding, priority, born_ms, deliver_ms, body, ..Message::default() };
        fill(&mut message, &properties)?;
        Some(message)
    }
}

/// Whether every byte belongs to a property, and what is to be text is text: as `encode_properties` writes them.
pub fn are_well_formed(properties: &[u8]) -> bool {
    let is_text = |tag: u8, value: &[u8]| match tag {
        tag::MESSAGE_ID | tag::TAG | tag::KEY | tag::MESSAGE_GROUP | tag::TRACE_CONTEXT | tag::BORN_HOST | tag::LITE_TOPIC => {
            std::str::from_utf8(value).is_ok()
        }
        tag::BODY_DIGEST => <&BodyDigest>::try_from(value).is_ok(),
        tag::RECOVERY => value.len() == size_of::<u64>(),
        tag::USER => user_property(value).is_some(),
        _ => true,
    };
    let mut read = 0;
    for (tag, value) in entries(properties) {
        if !is_text(tag, value) {
            return false;
        }
        read += 1 + varint_len(value.len()) + value.len();
    }
    read == properties.len()
}

/// Writes what a client said about a message besides numbers and body. The digest is given apart, because it is computed here and not by the
/// client.
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
    message.properties.iter().for_each(|(name, value)| put_user(&mut out, name, value));
    out.freeze()
}

/// All properties with their numbers, as far as they are well formed.
pub fn entries(properties: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
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

/// What consumers are shown of the properties, in the order in which they are stored. One that is not well formed is left out.
pub fn shown(properties: &[u8]) -> impl Iterator<Item = Property<'_>> {
    entries(properties).filter_map(|(tag, value)| {
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

/// Fills in what the properties say of a message; `None` if a text is not one.
pub fn fill(message: &mut Message, properties: &[u8]) -> Option<()> {
    for (tag, value) in entries(properties) {
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
    Some(())
}

/// The message id among encoded properties.
pub fn first_message_id(properties: &[u8]) -> Option<String> {
    entries(properties).find(|(tag, _)| *tag == tag::MESSAGE_ID).and_then(|(_, value)| owned(value))
}

/// Name and value of a user property.
pub fn user_property(mut value: &[u8]) -> Option<(&str, &str)> {
    let len = take_varint(&mut value)?;
    let (name, value) = value.split_at_checked(len)?;
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
}

fn owned(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn put(out: &mut BytesMut, tag: u8, value: &[u8]) {
    out.put_u8(tag);
    put_varint(out, value.len());
    out.put_slice(value);
}

fn put_user(out: &mut BytesMut, name: &str, value: &str) {
    out.put_u8(tag::USER);
    put_varint(out, varint_len(name.len()) + name.len() + value.len());
    put_varint(out, name.len());
    out.put_slice(name.as_bytes());
    out.put_slice(value.as_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_have_the_length_that_is_counted(value in 0usize..1 << 32) {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            prop_assert_eq!(take_varint(&mut &out[..]), Some(value));
        }

        #[test]
        fn what_was_written_is_read(
            id in ".{1,40}", tag in prop::option::of(".{0,20}"), keys in prop::collection::vec(".{0,20}", 0..4),
            properties in prop::collection::vec((".{0,20}", ".{0,200}"), 0..6), digest: [u8; 20],
        ) {
            let message = Message { id, tag, keys, properties, digest, ..Message::default() };
            let mut read = Message::default();
            prop_assert_eq!(fill(&mut read, &encode_properties(&message, &message.digest)), Some(()));
            prop_assert_eq!(&read, &message);
        }

        #[test]
        fn what_is_packed_is_well_formed_and_nothing_less(
            id in ".{1,40}", keys in prop::collection::vec(".{0,20}", 0..4), group in prop::option::of(".{0,20}"), cut in 0usize..400,
        ) {
            let message = Message { id, keys, group, properties: vec![("a".into(), "b".into())], recovery_ms: Some(7), ..Message::default() };
            let packed = Packed::of(&message);
            prop_assert!(are_well_formed(&packed.properties));
            prop_assert_eq!(packed.clone().unpack(), Some(message));
            let cut = cut % packed.properties.len();
            let whole = entries(&packed.properties[..cut]).map(|(_, value)| 1 + varint_len(value.len()) + value.len()).sum::<usize>() == cut;
            prop_assert_eq!(are_well_formed(&packed.properties[..cut]), whole);
            prop_assert!(!are_well_formed(&[&[tag::MESSAGE_ID, 2, 0xff, 0xff][..], &packed.properties].concat()), "no text");
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (are_well_formed(&bytes), shown(&bytes).count(), fill(&mut Message::default(), &bytes), first_message_id(&bytes));
        }
    }
}
