//! A message as the roles hand it to each other: what the producer said, and what the log added when it was stored.

use crate::{Offset, QueueId, TopicId, TopicName, packed};
use bytes::Bytes;
use std::fmt;

/// What a message asks of the queue it goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageKind {
    #[default]
    Normal = 1,
    Fifo = 2,
    Delay = 3,
    Transaction = 4,
    Lite = 5,
    Priority = 6,
}

impl MessageKind {
    /// The kind with that number, as stored and as on the wire.
    pub fn from_number(number: u8) -> Option<MessageKind> {
        use MessageKind::*;
        [Normal, Fifo, Delay, Transaction, Lite, Priority].into_iter().find(|&kind| kind as u8 == number)
    }
}

/// How the producer packed the body; the broker stores and delivers it as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum BodyEncoding {
    #[default]
    Identity = 1,
    Gzip = 2,
}

/// SHA-1 over the stored body, computed when the message is sent. Clients compare it with what they receive.
pub type BodyDigest = [u8; 20];

/// What a producer sends, checked, with nothing that the broker decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The client's own id: opaque text of 1 to 255 bytes.
    pub id: String,
    pub kind: MessageKind,
    pub tag: Option<String>,
    pub keys: Vec<String>,
    /// Messages of one group are delivered in order.
    pub group: Option<String>,
    /// User properties in the order they came.
    pub properties: Vec<(String, String)>,
    pub body: Bytes,
    pub encoding: BodyEncoding,
    pub digest: BodyDigest,
    /// When the producer made the message, ms since the Unix epoch by the producer's clock.
    pub born_ms: u64,
    pub born_host: String,
    /// W3C trace context, carried through byte by byte.
    pub trace_context: Option<String>,
    /// When a delayed message is due, ms since the Unix epoch.
    pub deliver_ms: Option<u64>,
    pub priority: Option<u8>,
    pub lite_topic: Option<String>,
    /// How long nobody is asked about a transaction that its producer leaves open; `None` leaves it to the server.
    pub recovery_ms: Option<u64>,
}

/// A message that the log has.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMessage {
    pub message: Message,
    pub topic: TopicId,
    pub queue: QueueId,
    pub offset: Offset,
    /// When the log stored it, ms since the Unix epoch by the shard's clock.
    pub store_ms: u64,
    /// Set on messages of a dead letter topic.
    pub origin: Option<Origin>,
}

/// Where a dead letter came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub topic: TopicId,
    /// The origin topic's name, when it still exists.
    pub name: Option<TopicName>,
    pub queue: QueueId,
    pub offset: Offset,
    pub attempts: u32,
    pub reason: DeadReason,
}

/// Why a message went to the dead letter queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeadReason {
    /// Delivered as often as the group allows, and never acknowledged.
    MaxAttempts = 1,
    /// The consumer asked for it.
    Forwarded = 2,
}

impl DeadReason {
    /// The reason with that number, as stored.
    pub fn from_number(number: u8) -> Option<DeadReason> {
        [DeadReason::MaxAttempts, DeadReason::Forwarded].into_iter().find(|&reason| reason as u8 == number)
    }
}

/// A stored message on its way to a consumer, read where it lies: decoding it only to encode it again for the wire would be most of what
/// a delivery costs.
pub trait Deliverable: Send + Sync + fmt::Debug {
    /// What it is, besides its properties and its body.
    fn facts(&self) -> Facts;

    /// Set on messages of a dead letter topic.
    fn origin(&self) -> Option<&Origin>;

    /// Shows all properties, in any order; those of one name in the order in which they came.
    fn each_property(&self, show: &mut dyn FnMut(Property<'_>));

    fn body(&self) -> &Bytes;

    /// All properties as bytes, as [`packed`] writes them: as they lie there, where they do.
    fn packed_properties(&self) -> Bytes;
}

impl dyn Deliverable + '_ {
    /// The message as its producer sent it, in a form of its own; its recovery time is not delivered.
    pub fn message(&self) -> Message {
        let Facts { kind, encoding, born_ms, deliver_ms, priority, .. } = self.facts();
        let mut message = Message { kind, encoding, born_ms, deliver_ms, priority, body: self.body().clone(), ..Message::default() };
        self.each_property(&mut |property| match property {
            Property::Id(id) => message.id = id.to_owned(),
            Property::Tag(tag) => message.tag = Some(tag.to_owned()),
            Property::Key(key) => message.keys.push(key.to_owned()),
            Property::Group(group) => message.group = Some(group.to_owned()),
            Property::TraceContext(context) => message.trace_context = Some(context.to_owned()),
            Property::BornHost(host) => message.born_host = host.to_owned(),
            Property::LiteTopic(name) => message.lite_topic = Some(name.to_owned()),
            Property::Digest(digest) => message.digest = *digest,
            Property::User { name, value } => message.properties.push((name.to_owned(), value.to_owned())),
        });
        message
    }
}

/// The numbers of a stored message; the fields of [`Message`] and [`StoredMessage`] with the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub kind: MessageKind,
    pub encoding: BodyEncoding,
    pub born_ms: u64,
    pub deliver_ms: Option<u64>,
    pub priority: Option<u8>,
    pub queue: QueueId,
    pub offset: Offset,
    pub store_ms: u64,
}

/// One of the things that are said of a message in words; the fields of [`Message`] with the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property<'a> {
    Id(&'a str),
    Tag(&'a str),
    Key(&'a str),
    Group(&'a str),
    TraceContext(&'a str),
    BornHost(&'a str),
    LiteTopic(&'a str),
    Digest(&'a BodyDigest),
    User { name: &'a str, value: &'a str },
}

impl Deliverable for StoredMessage {
    fn facts(&self) -> Facts {
        let Message { kind, encoding, born_ms, deliver_ms, priority, .. } = self.message;
        Facts { kind, encoding, born_ms, deliver_ms, priority, queue: self.queue, offset: self.offset, store_ms: self.store_ms }
    }

    fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    fn each_property(&self, show: &mut dyn FnMut(Property<'_>)) {
        let Message { id, tag, keys, group, properties, digest, born_host, trace_context, lite_topic, .. } = &self.message;
        show(Property::Id(id));
        show(Property::BornHost(born_host));
        show(Property::Digest(digest));
        tag.iter().for_each(|tag| show(Property::Tag(tag)));
        keys.iter().for_each(|key| show(Property::Key(key)));
        group.iter().for_each(|group| show(Property::Group(group)));
        trace_context.iter().for_each(|context| show(Property::TraceContext(context)));
        lite_topic.iter().for_each(|topic| show(Property::LiteTopic(topic)));
        properties.iter().for_each(|(name, value)| show(Property::User { name, value }));
    }

    fn body(&self) -> &Bytes {
        &self.message.body
    }

    fn packed_properties(&self) -> Bytes {
        packed::encode_properties(&self.message, &self.message.digest)
    }
}
