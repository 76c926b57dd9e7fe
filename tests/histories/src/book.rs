//! What producers and consumers saw, and what they may see next.
//!
//! The book never looks into the core. Where a crash may have swallowed something (an acknowledgement under way, a send without an answer) it
//! says *perhaps*, and allows both.

use gantry_broker::shard::core::Given;
use gantry_model::contract::broker::Sent;
use gantry_model::{MessageKind, QueueKey, ReceiptHandle};
use std::collections::BTreeMap;

/// A message as its producer knows it.
#[derive(Clone, Debug)]
pub struct Letter {
    pub id: u128,
    pub kind: MessageKind,
    pub tag: u32,
    /// The message group; 0 for none.
    pub lane: u32,
    /// When it is due; 0 for at once.
    pub deliver_ms: u64,
    /// Somebody tried to take it back, perhaps with success.
    pub perhaps_recalled: bool,
    /// It was taken back, for certain.
    pub recalled: bool,
    /// The answer, if one came.
    pub sent: Option<Sent>,
}

/// What one consumer group did with one place.
#[derive(Clone, Debug, Default)]
struct Station {
    deliveries: u32,
    /// The newest attempt number seen.
    attempt: u32,
    /// The newest delivery, until somebody asked for its end.
    held: Option<Held>,
    /// An acknowledgement, dead-lettering or skip was asked for, and perhaps done.
    perhaps_finished: bool,
    /// It was answered.
    finished: bool,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    handle: ReceiptHandle,
    until: u64,
}

/// How a group consumes.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub ordered: bool,
    pub max_attempts: u32,
    /// The tag it wants, 0 for all.
    pub tag: u32,
}

/// One consumer group's notes.
#[derive(Debug)]
pub struct Page {
    pub rules: Rules,
    stations: BTreeMap<(QueueKey, u64), Station>,
    pub redelivered: u64,
    /// Deliveries of one message that perhaps were made and never told: one for each crash.
    pub unseen: u32,
}

impl Page {
    pub fn new(rules: Rules) -> Page {
        Page { rules, stations: BTreeMap::new(), redelivered: 0, unseen: 0 }
    }

    /// Checks one batch of deliveries. `letter` finds a message by its place; `before` lists the unfinished candidates of the same lane with
    /// lower offsets.
    pub fn delivered<'a>(
        &mut self,
        given: &[(Given, ReceiptHandle)],
        now: u64,
        until: u64,
        letter: impl Fn(QueueKey, u64) -> Option<&'a Letter>,
        before: impl Fn(QueueKey, u64, u32) -> Vec<u64>,
    ) {
        for (number, (one, handle)) in given.iter().enumerate() {
            let place = (one.queue, one.offset);
            let message = letter(one.queue, one.offset).unwrap_or_else(|| panic!("D3: nobody sent what is at {place:?}"));
            assert!(self.rules.tag == 0 || self.rules.tag == message.tag, "X1: {place:?} has tag {}, wanted is {}", message.tag, self.rules.tag);
            let station = self.stations.get(&place).cloned().unwrap_or_default();
            assert!(!station.finished, "C2: {place:?} comes again after its acknowledgement: {station:?}");
            if let Some(held) = &station.held {
                assert!(held.until <= now, "I1: {place:?} is given out at {now} while it is held until {}", held.until);
            }
            let (least, most) = (station.attempt.max(1), station.attempt + 1 + self.unseen);
            assert!((least..=most).contains(&one.attempt), "I3: {place:?} has attempt {}, expected {least} to {most}", one.attempt);
            assert!(one.attempt <= self.rules.max_attempts, "{place:?} is given out {} times", one.attempt);
            if self.rules.ordered && message.lane != 0 {
                let batch: Vec<u64> = given[..number].iter().filter(|(other, _)| other.queue == one.queue).map(|(other, _)| other.offset).collect();
                for earlier in before(one.queue, one.offset, message.lane) {
                    let done = self.stations.get(&(one.queue, earlier)).is_some_and(|station| station.perhaps_finished || station.finished);
                    let together = batch.contains(&earlier);
                    assert!(done || together, "F1: {place:?} is given out while {earlier} of its message group is not finished");
                }
            }
            let station = self.stations.entry(place).or_default();
            self.redelivered += u64::from(station.deliveries > 0);
            station.deliveries += 1;
            station.attempt = one.attempt;
            station.held = Some(Held { handle: *handle, until });
        }
    }

    /// A consumer asked to finish a delivery. Its answer may be lost.
    pub fn asked_to_finish(&mut self, handle: &ReceiptHandle) {
        let station = self.stations.entry(place_of(handle)).or_default();
        station.perhaps_finished = true;
    }

    pub fn finished(&mut self, handle: &ReceiptHandle) {
        let station = self.stations.entry(place_of(handle)).or_default();
        station.finished = true;
    }

    /// Somebody asked to finish a message without a delivery. The answer may be lost.
    pub fn asked_to_skip(&mut self, place: (QueueKey, u64)) {
        self.stations.entry(place).or_default().perhaps_finished = true;
    }

    pub fn skipped(&mut self, place: (QueueKey, u64)) {
        self.stations.entry(place).or_default().finished = true;
    }

    /// A consumer gave a delivery back, or its client ended: it may come again at any time.
    pub fn given_back(&mut self, handle: &ReceiptHandle) {
        if let Some(station) = self.stations.get_mut(&place_of(handle)) {
            station.held = None;
        }
    }

    /// Deliveries in an ordered group may be taken back when one before them comes again; a consumer doesn't see that.
    pub fn lanes_are_loose(&mut self, in_lane: impl Fn(QueueKey, u64) -> bool) {
        if self.rules.ordered {
            self.stations.iter_mut().filter(|((queue, offset), _)| in_lane(*queue, *offset)).for_each(|(_, station)| station.held = None);
        }
    }

    /// Everything that may still be held.
    pub fn held(&self) -> Vec<ReceiptHandle> {
        self.stations.values().filter_map(|station| station.held.map(|held| held.handle)).collect()
    }

    /// Whether a place is finished for good, as far as consumers were told.
    pub fn is_finished(&self, queue: QueueKey, offset: u64) -> bool {
        self.stations.get(&(queue, offset)).is_some_and(|station| station.finished || station.perhaps_finished)
    }
}

fn place_of(handle: &ReceiptHandle) -> (QueueKey, u64) {
    (QueueKey::new(handle.topic, handle.queue), handle.offset.0)
}
