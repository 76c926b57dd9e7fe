//! What the messages of a phase are like, which of them a producer sends one after another, and how consumers ask for them.

use super::place::Place;
use super::wire::{StampedSend, Template, Traits};
use crate::clock;
use crate::connect::resource;
use gantry_proto::v2::{FilterExpression, FilterType, MessageType};
use std::sync::Arc;

/// The property that consumers of `Selective` ask for.
const WANTED: (&str, &str) = ("wanted", "1");
/// What the other messages have in its place: a filter must look at the value.
const OTHER: (&str, &str) = ("wanted", "0");

/// The kinds of messages that can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    Normal,
    /// Messages of so many message groups.
    Fifo {
        message_groups: u32,
    },
    /// All of them due at this time, in milliseconds since 1970.
    Delay {
        at_ms: u64,
    },
    /// Half messages, each committed as soon as it is stored.
    Transaction,
    /// One message in so many has the property that consumers ask for.
    Selective {
        one_in: u32,
    },
}

impl Traffic {
    pub fn message_type(self) -> MessageType {
        match self {
            Traffic::Normal | Traffic::Selective { .. } => MessageType::Normal,
            Traffic::Fifo { .. } => MessageType::Fifo,
            Traffic::Delay { .. } => MessageType::Delay,
            Traffic::Transaction => MessageType::Transaction,
        }
    }

    /// Whether messages of one stream must come in their order.
    pub fn is_ordered(self) -> bool {
        matches!(self, Traffic::Fifo { .. })
    }

    /// Whether consumers ask for this message.
    pub fn is_wanted(self, stream: u32, seq: u64) -> bool {
        match self {
            // Streams begin at different places, so that the wanted messages are spread over the log.
            Traffic::Selective { one_in } => (seq + u64::from(stream)).is_multiple_of(u64::from(one_in)),
            _ => true,
        }
    }

    pub fn filter(self) -> FilterExpression {
        match self {
            Traffic::Selective { .. } => FilterExpression { r#type: FilterType::Sql as i32, expression: format!("{} = '{}'", WANTED.0, WANTED.1) },
            _ => FilterExpression { r#type: FilterType::Tag as i32, expression: "*".to_owned() },
        }
    }

    /// Numbers of the streams of one producer. There are as many streams as producers, or as message groups if these are more, so each
    /// stream has one producer and one message group, and the order of its messages is that of its sends.
    fn stream_numbers(self, producer: u32, producers: u32) -> impl Iterator<Item = u32> {
        let streams = match self {
            Traffic::Fifo { message_groups } => message_groups.max(producers),
            _ => producers,
        };
        (producer..streams).step_by(producers as usize)
    }

    fn traits(self, stream: u32, property: Option<(&'static str, &'static str)>) -> Traits {
        let message_group = match self {
            Traffic::Fifo { message_groups } => Some(format!("bench-{}", stream % message_groups)),
            _ => None,
        };
        let deliver_at = match self {
            Traffic::Delay { at_ms } => Some(clock::timestamp(at_ms)),
            _ => None,
        };
        Traits { message_type: self.message_type(), message_group, deliver_at, property }
    }
}

/// Messages that one producer sends one after another and that are checked together.
#[derive(Debug)]
struct Stream {
    wanted: Arc<Template>,
    other: Option<Arc<Template>>,
    next: u64,
}

/// What one producer sends: its streams in turn.
#[derive(Debug)]
pub struct Source {
    traffic: Traffic,
    streams: Vec<Stream>,
    turn: usize,
}

impl Source {
    /// The source of one of so many producers.
    pub fn new(traffic: Traffic, place: &Place, size: usize, producer: u32, producers: u32) -> Source {
        let template = |stream, property| {
            let topic = resource(&place.global, &place.topic);
            Arc::new(Template::new(topic, place.run, stream, size, traffic.traits(stream, property)))
        };
        let stream = |number| match traffic {
            Traffic::Selective { .. } => Stream { wanted: template(number, Some(WANTED)), other: Some(template(number, Some(OTHER))), next: 0 },
            _ => Stream { wanted: template(number, None), other: None, next: 0 },
        };
        Source { traffic, streams: traffic.stream_numbers(producer, producers).map(stream).collect(), turn: 0 }
    }

    /// The next message, and whether consumers ask for it.
    pub fn next(&mut self, due: u64) -> (StampedSend, bool) {
        let turn = self.turn;
        self.turn = (turn + 1) % self.streams.len();
        let stream = &mut self.streams[turn];
        let seq = stream.next;
        stream.next += 1;
        let wanted = self.traffic.is_wanted(stream.wanted.producer(), seq);
        let template = stream.other.as_ref().filter(|_| !wanted).unwrap_or(&stream.wanted);
        (StampedSend { template: template.clone(), seq, due }, wanted)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::bench::wire::Encode;
    use crate::tests::global;
    use gantry_proto::v2::{Message, SendMessageRequest};
    use prost::Message as _;
    use std::collections::{BTreeMap, BTreeSet};

    /// The first messages of each of four producers.
    fn sent(traffic: Traffic, each: usize) -> Vec<Message> {
        let place = Place::floor(global("unused", "unused"), 1);
        let mut messages = Vec::new();
        for producer in 0..4 {
            let mut source = Source::new(traffic, &place, 64, producer, 4);
            for _ in 0..each {
                let mut bytes = Vec::new();
                source.next(0).0.encode(&mut bytes);
                messages.extend(SendMessageRequest::decode(&bytes[..]).unwrap().messages);
            }
        }
        messages
    }

    #[test]
    fn every_message_has_its_own_id_whatever_the_kind() {
        for traffic in [Traffic::Normal, Traffic::Fifo { message_groups: 10 }, Traffic::Selective { one_in: 3 }] {
            let messages = sent(traffic, 25);
            let ids: BTreeSet<_> = messages.iter().map(|message| message.system_properties.as_ref().unwrap().message_id.clone()).collect();
            assert_eq!(ids.len(), 100, "{traffic:?}");
        }
    }

    #[test]
    fn message_groups_are_all_used_and_a_stream_stays_in_its_group() {
        for message_groups in [1, 3, 4, 10] {
            let mut groups = BTreeMap::<String, BTreeSet<u32>>::new();
            let mut group_of = BTreeMap::new();
            for message in sent(Traffic::Fifo { message_groups }, 30) {
                let group = message.system_properties.unwrap().message_group.unwrap();
                let stream = crate::bench::stamp::Stamp::read(&message.body).unwrap().producer;
                assert_eq!(group_of.entry(stream).or_insert_with(|| group.clone()), &group);
                groups.entry(group).or_default().insert(stream);
            }
            assert_eq!(groups.len(), message_groups as usize);
            let streams: usize = groups.values().map(BTreeSet::len).sum();
            assert_eq!(streams, message_groups.max(4) as usize);
        }
    }

    #[test]
    fn one_message_in_so_many_has_the_wanted_property() {
        let traffic = Traffic::Selective { one_in: 10 };
        let messages = sent(traffic, 50);
        let wanted = messages.iter().filter(|message| message.user_properties["wanted"] == "1").count();
        assert_eq!((wanted, messages.len()), (20, 200));
        assert_eq!(traffic.filter().expression, "wanted = '1'");
    }

    #[test]
    fn delayed_messages_name_their_time() {
        for message in sent(Traffic::Delay { at_ms: 1_785_585_600_250 }, 2) {
            let system = message.system_properties.unwrap();
            assert_eq!(system.delivery_timestamp, Some(prost_types::Timestamp { seconds: 1_785_585_600, nanos: 250_000_000 }));
            assert_eq!(system.message_type, MessageType::Delay as i32);
        }
    }
}
