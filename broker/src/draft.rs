//! Messages between the caller and the log: what can be encoded before the shard decides the place, and what is read back.

use crate::record::{self, Delayed, Record};
use crate::shard::send::Class;
use bytes::Bytes;
use gantry_model::contract::Metadata;
use gantry_model::message::{Deliverable, Facts, Message, Origin, Property, StoredMessage};
use gantry_model::packed::{encode_properties, first_message_id};
use gantry_model::placement::{group_hash, id_hash};
use gantry_model::{Lsn, Offset, QueueKey, TopicId};
use gantry_store::frame::{Frame, HEADER, Kind, padded};
use gantry_store::index::{Due, Entry, KeyKind, Timer, key_hash};
use gantry_store::record::{FIXED, Fixed, MessageView, Name, tag_hash};

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
        let properties = encode_properties(message, &message.digest);
        let tag_hash = message.tag.as_deref().map_or(0, tag_hash);
        let fixed = Fixed {
            queue: QueueKey(0),
            offset: Offset(0),
            tag_hash,
            kind: message.kind,
            encoding: message.encoding,
            priority: message.priority,
            born_ms: message.born_ms,
            deliver_ms: message.deliver_ms,
            properties_len: properties.len() as u32,
            body_len: message.body.len() as u32,
        };
        let mut keys = Vec::with_capacity(1 + message.keys.len());
        keys.push(key_hash(topic, KeyKind::MessageId, message.id.as_bytes()));
        keys.extend(message.keys.iter().map(|key| key_hash(topic, KeyKind::Key, key.as_bytes())));
        let class = Class {
            kind: message.kind,
            id: id_hash(topic, &message.id),
            group: message.group.as_deref().map(group_hash),
            priority: message.priority,
            deliver_ms: message.deliver_ms,
            lite: message.lite_topic.as_deref().map(Box::from),
            recovery_ms: message.recovery_ms,
        };
        let lane = message.group.as_deref().map_or(0, lane);
        Draft { class, fixed, tag_hash, lane, properties, body: message.body.clone(), keys }
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
