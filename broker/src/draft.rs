//! Messages between the caller and the log: what can be encoded before the shard decides the place, and what is read back.

use crate::record::{self, Delayed, Record};
use crate::shard::send::Class;
use bytes::Bytes;
use gantry_model::contract::Metadata;
use gantry_model::message::{Deliverable, Facts, Message, Origin, Property, StoredMessage};
use gantry_model::packed::{Packed, are_well_formed, entries, first_message_id, tag};
use gantry_model::placement::{group_hash, id_hash};
use gantry_model::{Lsn, Offset, QueueKey, TopicId};
use gantry_store::frame::{Frame, HEADER, Kind, padded};
use gantry_store::index::{Due, Entry, KeyKind, Timer, key_hash};
use gantry_store::record::{FIXED, Fixed, MessageView, Name};

/// A message encoded on the caller's thread, but for its place.
#[derive(Debug)]
pub struct Draft {
    class: Class,
    fixed: Fixed,
    pub tag_hash: u32,
    pub lane: u32,
    pub properties: Bytes,
    pub body: Bytes,
    /// Hashes under which it can be found.
    pub keys: Vec<u64>,
}

impl Draft {
    pub fn new(topic: TopicId, message: &Message) -> Draft {
        Draft::with(topic, Packed::of(message))
    }

    /// `None` if the properties are none.
    pub fn packed(topic: TopicId, packed: Packed) -> Option<Draft> {
        are_well_formed(&packed.properties).then(|| Draft::with(topic, packed))
    }

    /// Takes what the shard has to know out of the properties, which are well formed.
    fn with(topic: TopicId, packed: Packed) -> Draft {
        let Packed { kind, encoding, priority, born_ms, deliver_ms, properties, body } = packed;
        let mut class = Class { kind, id: id_hash(topic, ""), group: None, priority, deliver_ms, lite: None, recovery_ms: None };
        let (mut tag_hash, mut lane, mut keys) = (0, 0, Vec::with_capacity(2));
        for (tag, value) in entries(&properties) {
            let text = || std::str::from_utf8(value).unwrap_or_default();
            match tag {
                tag::MESSAGE_ID => {
                    class.id = id_hash(topic, text());
                    keys.insert(0, key_hash(topic, KeyKind::MessageId, value));
                }
                tag::KEY => keys.push(key_hash(topic, KeyKind::Key, value)),
                tag::TAG => tag_hash = gantry_store::record::tag_hash(text()),
                tag::MESSAGE_GROUP => (class.group, lane) = (Some(group_hash(text())), self::lane(text())),
                tag::LITE_TOPIC => class.lite = Some(Box::from(text())),
                tag::RECOVERY => class.recovery_ms = value.try_into().ok().map(u64::from_le_bytes),
                _ => {}
            }
        }
        let (properties_len, body_len) = (properties.len() as u32, body.len() as u32);
        let (queue, offset) = (QueueKey(0), Offset(0));
        let fixed = Fixed { queue, offset, tag_hash, kind, encoding, priority, born_ms, deliver_ms, properties_len, body_len };
        Draft { class, fixed, tag_hash, lane, properties, body, keys }
    }

    /// The first bytes of the payload, once the place is known.
    pub fn fixed(&self, queue: QueueKey, offset: Offset) -> [u8; FIXED] {
        Fixed { queue, offset, ..self.fixed }.encode()
    }

    /// Length of the frame that these parts make.
    pub fn frame_len(parts: &[&[u8]]) -> u32 {
        (HEADER + parts.iter().map(|part| part.len()).sum::<usize>()) as u32
    }
}

/// The number of a message group in index entries. 0 stands for no group, and 1 for the messages without one in a group that orders
/// everything.
fn lane(group: &str) -> u32 {
    match group_hash(group) as u32 {
        hash @ (0 | 1) => hash + 2,
        hash => hash,
    }
}

/// What the index says about a message besides its place: its tag and its message group.
pub fn marks_of(view: &MessageView) -> (u32, u32) {
    (view.fixed.tag_hash, view.message_group().map_or(0, lane))
}

impl crate::shard::core::Draft for Draft {
    fn class(&self) -> &Class {
        &self.class
    }

    fn message_id(&self) -> String {
        first_message_id(&self.properties).unwrap_or_default()
    }

    fn size(&self) -> usize {
        padded(HEADER + FIXED + self.properties.len() + self.body.len())
    }
}

/// What the index says of a frame, if it puts a message into a queue.
pub fn entry_of(lsn: Lsn, frame: &Frame) -> Option<(Entry, Vec<u64>)> {
    let entry = |queue, offset, (tag_hash, lane)| {
        let (len, time) = (frame.header.len, frame.header.time);
        Entry { queue, offset, position: lsn, len, tag_hash, lane, time }
    };
    match frame.header.kind {
        Kind::Message => {
            let view = MessageView::parse(&frame.payload)?;
            let keys = keys_of(view.fixed.queue.topic(), &frame.payload);
            Some((entry(view.fixed.queue, view.fixed.offset, marks_of(&view)), keys))
        }
        kind => {
            let (queue, offset) = Record::decode(kind, &frame.payload).ok()??.placed()?;
            let copy = message_of(frame);
            let marks = MessageView::parse(&copy).map_or((0, 0), |view| marks_of(&view));
            Some((entry(queue, offset, marks), keys_of(queue.topic(), &copy)))
        }
    }
}

/// What the index has to remember of a frame with a delayed message.
pub fn timer_of(lsn: Lsn, frame: &Frame) -> Option<Timer> {
    let delayed = delayed(frame)?;
    Some(Timer { due: Due { time: delayed.deliver_ms, position: lsn }, queue: delayed.queue })
}

fn delayed(frame: &Frame) -> Option<Delayed> {
    if frame.header.kind != Kind::Delayed {
        return None;
    }
    match Record::decode(Kind::Delayed, &frame.payload).ok()?? {
        Record::Delayed(delayed) => Some(delayed),
        _ => None,
    }
}

/// Whether a client sent the message of a frame; copies of it are not sends.
pub fn is_sent(frame: &Frame) -> bool {
    match frame.header.kind {
        Kind::Message | Kind::Half => true,
        Kind::Delayed => delayed(frame).is_some_and(|delayed| delayed.moved.is_none()),
        _ => false,
    }
}

/// Whether nobody may see the message of a frame yet: it is delayed, or its transaction is open.
pub fn is_hidden(frame: &Frame) -> bool {
    matches!(frame.header.kind, Kind::Delayed | Kind::Half | Kind::Repark)
}

/// Hashes under which a message payload can be found in a topic.
pub fn keys_of(topic: TopicId, payload: &Bytes) -> Vec<u64> {
    let Some(view) = MessageView::parse(payload) else { return Vec::new() };
    let hash = |name: Name<'_>| match name {
        Name::Id(id) => key_hash(topic, KeyKind::MessageId, id),
        Name::Key(key) => key_hash(topic, KeyKind::Key, key),
    };
    view.names().map(hash).collect()
}

/// The message payload in a frame: its own, or the one that a record brings along.
pub fn message_of(frame: &Frame) -> Bytes {
    let head = record::head_len(frame.header.kind, &frame.payload).unwrap_or(frame.payload.len());
    frame.payload.slice(head.min(frame.payload.len())..)
}

/// A message as it stands in its frame.
#[derive(Debug)]
pub struct RawMessage {
    view: MessageView,
    queue: QueueKey,
    offset: Offset,
    store_ms: u64,
    origin: Option<Origin>,
}

impl RawMessage {
    /// The message in a frame; `None` if the frame holds none that belongs to a queue.
    pub fn of(frame: &Frame, metadata: &dyn Metadata) -> Option<RawMessage> {
        let view = MessageView::parse(&message_of(frame))?;
        let store_ms = frame.header.time;
        if frame.header.kind == Kind::Message {
            let Fixed { queue, offset, .. } = view.fixed;
            return Some(RawMessage { view, queue, offset, store_ms, origin: None });
        }
        let record = Record::decode(frame.header.kind, &frame.payload).ok()??;
        let (queue, offset) = record.placed()?;
        let origin = match &record {
            Record::Dead(dead) => Some(Origin {
                topic: dead.queue.topic(),
                name: metadata.topic_by_id(dead.queue.topic()).map(|topic| topic.name.clone()),
                queue: dead.queue.queue(),
                offset: dead.offset,
                attempts: dead.attempts,
                reason: dead.reason,
            }),
            _ => None,
        };
        Some(RawMessage { view, queue, offset, store_ms, origin })
    }

    pub fn tag(&self) -> Option<&str> {
        self.view.tag()
    }

    /// The same with everything decoded; `None` if a text is not one.
    pub fn decode(self) -> Option<StoredMessage> {
        let RawMessage { view, queue, offset, store_ms, origin } = self;
        Some(StoredMessage { message: view.message()?, topic: queue.topic(), queue: queue.queue(), offset, store_ms, origin })
    }
}

impl Deliverable for RawMessage {
    fn facts(&self) -> Facts {
        let Fixed { kind, encoding, born_ms, deliver_ms, priority, .. } = self.view.fixed;
        Facts { kind, encoding, born_ms, deliver_ms, priority, queue: self.queue.queue(), offset: self.offset, store_ms: self.store_ms }
    }

    fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    fn each_property(&self, show: &mut dyn FnMut(Property<'_>)) {
        self.view.properties().for_each(show);
    }

    fn body(&self) -> &Bytes {
        self.view.body()
    }

    fn packed_properties(&self) -> Bytes {
        self.view.packed_properties().clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_packed_elsewhere_is_the_same_draft_and_nonsense_is_none() {
        let message = Message {
            id: "m".into(),
            tag: Some("t".into()),
            keys: vec!["k".into(), "l".into()],
            group: Some("g".into()),
            lite_topic: Some("x".into()),
            recovery_ms: Some(9),
            priority: Some(3),
            body: Bytes::from_static(b"body"),
            ..Message::default()
        };
        let draft = Draft::packed(TopicId(4), Packed::of(&message)).unwrap();
        assert_eq!(format!("{draft:?}"), format!("{:?}", Draft::new(TopicId(4), &message)));
        let keys = ["k", "l"].map(|key| key_hash(TopicId(4), KeyKind::Key, key.as_bytes()));
        assert_eq!(draft.keys, [key_hash(TopicId(4), KeyKind::MessageId, b"m"), keys[0], keys[1]]);
        assert_eq!((draft.class.group, draft.class.recovery_ms, draft.class.priority), (Some(group_hash("g")), Some(9), Some(3)));
        assert_eq!((draft.tag_hash, draft.lane, draft.class.lite.as_deref()), (gantry_store::record::tag_hash("t"), lane("g"), Some("x")));
        let mut cut = Packed::of(&message);
        cut.properties = cut.properties.slice(..cut.properties.len() - 1);
        assert!(Draft::packed(TopicId(4), cut).is_none());
    }
}
