//! A history sorted by message: its send, its end, and for each consumer group its deliveries with what became of them.

use super::{Sends, Verdict};
use crate::verify::history::{Ack, Delivery, End, Event, History, Id, Kind, Micros, Nack, Outcome, Receive, Resolution, Send, Topic};
use std::collections::BTreeMap;

/// A delivery, the call that brought it, and what was said about it.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    pub delivery: &'a Delivery,
    pub receive: &'a Receive,
    /// Its place in the answer.
    pub place: usize,
    pub ack: Option<&'a Ack>,
    pub nack: Option<&'a Nack>,
}

/// All deliveries of a message to a group, in the order in which they came.
pub type Life<'a> = Vec<Seen<'a>>;

/// The history, sorted.
pub struct Book<'a> {
    pub history: &'a History,
    pub sends: BTreeMap<Id, &'a Send>,
    pub ends: BTreeMap<Id, Vec<&'a End>>,
    pub lives: BTreeMap<(u16, Id), Life<'a>>,
    /// The latest begin of a call that ended with nothing, by topic and group: what was visible before it and never came is lost.
    pub emptied: BTreeMap<(u16, u16), Micros>,
    pub drained: Option<Micros>,
}

impl<'a> Book<'a> {
    pub fn new(history: &'a History) -> Book<'a> {
        let mut book =
            Book { history, sends: BTreeMap::new(), ends: BTreeMap::new(), lives: BTreeMap::new(), emptied: BTreeMap::new(), drained: None };
        for event in &history.events {
            match event {
                Event::Send(send) => drop(book.sends.insert(send.id, send)),
                Event::End(end) => book.ends.entry(end.id).or_default().push(end),
                Event::Receive(receive) => book.receive(receive),
                Event::Drained { at } => book.drained = Some(*at),
                Event::Ack(_) | Event::Nack(_) | Event::Stopped { .. } => {}
            }
        }
        book.settle();
        for life in book.lives.values_mut() {
            life.sort_by_key(|seen| (seen.delivery.at, seen.receive.call, seen.place));
        }
        book
    }

    fn receive(&mut self, receive: &'a Receive) {
        for (place, delivery) in receive.messages.iter().enumerate() {
            let seen = Seen { delivery, receive, place, ack: None, nack: None };
            self.lives.entry((receive.group, delivery.id)).or_default().push(seen);
        }
        if receive.complete && receive.messages.is_empty() && receive.strangers.is_empty() {
            let latest = self.emptied.entry((receive.topic, receive.group)).or_default();
            *latest = receive.from.max(*latest);
        }
    }

    /// Puts acknowledgements and give-backs to their deliveries.
    fn settle(&mut self) {
        for event in &self.history.events {
            let (group, id, call) = match event {
                Event::Ack(ack) => (ack.group, ack.id, ack.call),
                Event::Nack(nack) => (nack.group, nack.id, nack.call),
                _ => continue,
            };
            let life = self.lives.get_mut(&(group, id));
            let Some(seen) = life.and_then(|life| life.iter_mut().find(|seen| seen.receive.call == call)) else { continue };
            match event {
                Event::Ack(ack) => seen.ack = Some(ack),
                Event::Nack(nack) => seen.nack = Some(nack),
                _ => {}
            }
        }
    }

    pub fn topic(&self, id: Id) -> Option<&'a Topic> {
        self.history.header.topic_of(id.lane)
    }

    pub fn groups(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.history.header.groups.len() as u16
    }

    pub fn life(&self, group: u16, id: Id) -> &[Seen<'a>] {
        self.lives.get(&(group, id)).map_or(&[], Vec::as_slice)
    }

    /// When a message that must come became visible at the latest; none if it need not come.
    pub fn visible(&self, send: &Send) -> Option<Micros> {
        if send.outcome != Outcome::Ok {
            return None;
        }
        let stored = send.due.map_or(send.to, |due| due.max(send.to));
        if self.topic(send.id)?.kind != Kind::Transaction {
            return Some(stored);
        }
        let ends = self.ends.get(&send.id).map_or(&[][..], Vec::as_slice);
        let committed = ends.iter().find(|end| end.resolution == Resolution::Commit && end.outcome == Outcome::Ok)?;
        Some(committed.to.max(stored))
    }

    /// What can be counted without judging.
    pub fn totals(&self) -> Verdict {
        let mut verdict = Verdict { sends: self.sends_by_outcome(), ..Default::default() };
        verdict.deliveries = self.lives.values().map(|life| life.len() as u64).sum();
        verdict.repeated = self.lives.values().map(|life| life.len() as u64 - 1).sum();
        for event in &self.history.events {
            match event {
                Event::Ack(ack) => match ack.outcome {
                    Outcome::Ok => verdict.acknowledged += 1,
                    Outcome::Refused => verdict.acks_refused += 1,
                    Outcome::Unknown => verdict.acks_unknown += 1,
                },
                Event::Nack(nack) => verdict.given_back += u64::from(nack.outcome == Outcome::Ok),
                _ => {}
            }
        }
        verdict
    }

    fn sends_by_outcome(&self) -> Sends {
        let mut sends = Sends::default();
        for send in self.sends.values() {
            match send.outcome {
                Outcome::Ok => sends.ok += 1,
                Outcome::Refused => sends.refused += 1,
                Outcome::Unknown => {
                    sends.unknown += 1;
                    sends.unknown_but_stored += u64::from(self.groups().any(|group| !self.life(group, send.id).is_empty()));
                }
            }
        }
        sends
    }
}
