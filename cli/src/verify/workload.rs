//! What a run sends and what becomes of it. All of it follows from the message's lane and number, so that a consumer knows what a message
//! must be like without having been told, and whoever answers a transaction check knows how it ends.

use super::history::{Id, Kind, Resolution, State};
use crate::bench::stamp::{STAMP_BYTES, Stamp};
use crate::clock;
use bytes::Bytes;
use gantry_proto::v2::{Encoding, Message, MessageType, Resource, SystemProperties};
use std::time::Duration;

/// Delayed messages are due after 1 s to this.
const DELAY_MAX: Duration = Duration::from_secs(6);
/// When a server asks what became of a transaction, at the soonest; it may ask later.
const CHECK_AFTER: Duration = Duration::from_secs(6);
const PROPERTY: &str = "verify";
const PRIORITIES: u64 = 4;

/// How messages are made.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub run: u64,
    /// Largest body.
    pub size: usize,
    /// Of 100 first deliveries, so many are given back; of 500 on a FIFO topic.
    pub nacks: u8,
    /// The same for those that are forgotten.
    pub expiries: u8,
}

/// What a consumer does with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    Ack,
    /// Give back, to come again after this time.
    Nack(Duration),
    /// Do nothing, until the lease is over.
    Forget,
}

/// What a producer does with a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    End(Resolution),
    /// Commit when the server asks.
    WhenAsked,
}

impl Workload {
    /// A number that looks random and belongs to the message.
    fn number(&self, id: Id, purpose: u64) -> u64 {
        let mut x = self.run ^ (u64::from(id.lane) << 40) ^ (u64::from(id.seq) << 4) ^ purpose;
        for _ in 0..3 {
            x = (x ^ (x >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        x ^ (x >> 29)
    }

    pub fn delay(&self, id: Id) -> Duration {
        let second = 1_000;
        let spread = DELAY_MAX.as_millis() as u64 - second;
        Duration::from_millis(second + self.number(id, 1) % spread)
    }

    pub fn ending(&self, id: Id) -> Ending {
        match self.number(id, 2) % 16 {
            0 => Ending::WhenAsked,
            1..=3 => Ending::End(Resolution::Rollback),
            _ => Ending::End(Resolution::Commit),
        }
    }

    pub fn handling(&self, id: Id, kind: Kind, group: u16, attempt: i32) -> Handling {
        if attempt > 1 {
            return Handling::Ack;
        }
        // Whatever goes wrong with one message holds up its whole message group: there it happens more rarely.
        let of = if kind == Kind::Fifo { 500 } else { 100 };
        let share = self.number(id, 16 + u64::from(group)) % of;
        let nacks = u64::from(self.nacks);
        if share < nacks {
            return Handling::Nack(Duration::from_millis(500 + self.number(id, 3) % 2_000));
        }
        if share < nacks + u64::from(self.expiries) { Handling::Forget } else { Handling::Ack }
    }

    /// The message to send, and for a delayed one how much later it is due.
    pub fn message(&self, id: Id, kind: Kind, topic: Resource) -> (Message, Option<Duration>) {
        let delay = (kind == Kind::Delay).then(|| self.delay(id));
        let recovery = prost_types::Duration { seconds: CHECK_AFTER.as_secs() as i64, nanos: 0 };
        let system = SystemProperties {
            tag: Some(tag(id)),
            keys: vec![key(id)],
            message_id: id.wire(self.run),
            body_encoding: Encoding::Identity as i32,
            message_type: message_type(kind) as i32,
            born_timestamp: Some(clock::wall()),
            born_host: "gantry-verify".to_owned(),
            message_group: (kind == Kind::Fifo).then(|| message_group(id)),
            delivery_timestamp: delay.map(|delay| clock::later(clock::wall(), delay)),
            orphaned_transaction_recovery_duration: (kind == Kind::Transaction).then_some(recovery),
            priority: (kind == Kind::Priority).then(|| (self.number(id, 4) % PRIORITIES) as i32),
            ..Default::default()
        };
        let user_properties = [(PROPERTY.to_owned(), id.to_string())].into();
        (Message { topic: Some(topic), user_properties, system_properties: Some(system), body: self.body(id) }, delay)
    }

    fn body(&self, id: Id) -> Bytes {
        let filler = (self.number(id, 5) as usize) % (self.size - STAMP_BYTES + 1);
        let filler = vec![b'a' + (id.seq % 26) as u8; filler];
        let stamp = Stamp { run: self.run, producer: id.lane, seq: u64::from(id.seq), due: 0 }.bytes(&filler);
        [&stamp[..], &filler].concat().into()
    }

    /// Whether a message came as it was sent.
    pub fn state(&self, id: Id, kind: Kind, message: &Message) -> State {
        let expected = Stamp { run: self.run, producer: id.lane, seq: u64::from(id.seq), due: 0 };
        if Stamp::read(&message.body) != Some(expected) {
            return State::Torn;
        }
        let system = message.system_properties.as_ref();
        let same = |system: &SystemProperties| {
            system.tag.as_deref() == Some(&*tag(id))
                && system.keys == [key(id)]
                && (kind != Kind::Fifo || system.message_group.as_deref() == Some(&*message_group(id)))
                && message.user_properties.get(PROPERTY) == Some(&id.to_string())
        };
        if system.is_some_and(same) { State::Whole } else { State::Altered }
    }
}

/// The type of a message on the wire.
pub fn message_type(kind: Kind) -> MessageType {
    match kind {
        Kind::Normal => MessageType::Normal,
        Kind::Fifo => MessageType::Fifo,
        Kind::Delay => MessageType::Delay,
        Kind::Transaction => MessageType::Transaction,
        Kind::Priority => MessageType::Priority,
    }
}

fn tag(id: Id) -> String {
    format!("tag-{}", id.seq % 3)
}

fn key(id: Id) -> String {
    format!("key-{}-{}", id.lane, id.seq)
}

fn message_group(id: Id) -> String {
    format!("lane-{}", id.lane)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WORKLOAD: Workload = Workload { run: 7, size: 300, nacks: 10, expiries: 5 };

    #[test]
    fn a_message_is_whole_unless_anything_of_it_changed() {
        for kind in [Kind::Normal, Kind::Fifo, Kind::Delay, Kind::Transaction, Kind::Priority] {
            let id = Id { lane: 3, seq: 9 };
            let (whole, delay) = WORKLOAD.message(id, kind, Resource::default());
            assert_eq!(delay.is_some(), kind == Kind::Delay);
            let state = |change: fn(&mut Message)| {
                let mut message = whole.clone();
                change(&mut message);
                WORKLOAD.state(id, kind, &message)
            };
            assert_eq!(state(|_| {}), State::Whole);
            assert_eq!(state(|message| message.body = message.body.slice(1..)), State::Torn);
            assert_eq!(state(|message| message.body = WORKLOAD.body(Id { lane: 3, seq: 10 })), State::Torn);
            assert_eq!(state(|message| message.user_properties.clear()), State::Altered);
            assert_eq!(state(|message| message.system_properties.as_mut().unwrap().keys.clear()), State::Altered);
            assert_eq!(state(|message| message.system_properties.as_mut().unwrap().tag = None), State::Altered);
            if kind == Kind::Fifo {
                assert_eq!(state(|message| message.system_properties.as_mut().unwrap().message_group = None), State::Altered);
            }
        }
    }

    #[test]
    fn shares_are_about_as_asked() {
        let handled: Vec<Handling> = (0..10_000).map(|seq| WORKLOAD.handling(Id { lane: 1, seq }, Kind::Normal, 1, 1)).collect();
        let nacks = handled.iter().filter(|handling| matches!(handling, Handling::Nack(_))).count();
        let forgotten = handled.iter().filter(|handling| **handling == Handling::Forget).count();
        assert!((800..1_200).contains(&nacks) && (400..600).contains(&forgotten), "{nacks} {forgotten}");
        assert_eq!(WORKLOAD.handling(Id { lane: 1, seq: 0 }, Kind::Normal, 1, 2), Handling::Ack);
        let asked = (0..1_600).filter(|seq| WORKLOAD.ending(Id { lane: 1, seq: *seq }) == Ending::WhenAsked).count();
        assert!((60..140).contains(&asked), "{asked}");
    }
}
