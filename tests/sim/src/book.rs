//! What producers and consumers saw, and what they may see next.
//!
//! The book never looks into a broker. Where a fault may have swallowed an answer it says *perhaps*, and allows both. The letters in its complaints are
//! those of `docs/design/016-simulation.md`.

use crate::catalogue::{ORDERED, PATIENCE};
use gantry_model::contract::broker::{EndError, Resolution, Sent, Ticket};
use gantry_model::{GroupId, MessageKind, Offset, QueueId, ReceiptHandle, TopicId};
use std::collections::BTreeMap;
use std::time::Duration;

/// A place in a queue.
pub type Place = (QueueId, Offset);

/// Two clocks of nodes may differ by so much without a fault.
const CLOCKS: Duration = Duration::from_millis(120);

/// A message as its producer knows it.
#[derive(Clone, Debug)]
pub struct Letter {
    pub kind: MessageKind,
    pub lane: Option<String>,
    pub deliver_ms: u64,
    pub body: bytes::Bytes,
    /// Whether it may be stored: an attempt to send it had no definite end.
    perhaps: bool,
    /// The answer to a send.
    pub sent: Option<Sent>,
    /// Where it was seen.
    pub place: Option<Place>,
    fate: Fate,
}

/// What is known of the end of a transaction.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    perhaps_committed: bool,
    perhaps_rolled_back: bool,
    ended: Option<Resolution>,
}

/// What a group did with the message at one place.
#[derive(Clone, Debug, Default)]
struct Station {
    deliveries: u32,
    attempt: u32,
    held: Option<(ReceiptHandle, Duration)>,
    perhaps_finished: bool,
    finished: bool,
}

/// One delivery, as the broker gave it out.
#[derive(Clone, Debug)]
pub struct Given {
    pub handle: ReceiptHandle,
    pub attempt: u32,
    pub id: String,
    pub body: bytes::Bytes,
    pub deliver_ms: Option<u64>,
    pub store_ms: u64,
}

impl Given {
    pub fn place(&self) -> Place {
        (self.handle.queue, self.handle.offset)
    }
}

/// All that clients know together.
#[derive(Debug, Default)]
pub struct Book {
    pub letters: BTreeMap<String, Letter>,
    places: BTreeMap<Place, String>,
    stations: BTreeMap<(GroupId, Place), Station>,
    /// The newest acknowledged place of each message group.
    lanes: BTreeMap<String, Offset>,
    /// Clocks of nodes jump, so the end of a lease says nothing.
    pub clocks_jump: bool,
    /// Old messages go away before anybody has finished them.
    pub trims: bool,
    pub redelivered: u64,
}

type Checked = Result<(), String>;

impl Book {
    /// A producer is about to send a message for the first time.
    pub fn write(&mut self, id: &str, kind: MessageKind, lane: Option<String>, deliver_ms: u64, body: bytes::Bytes) {
        let letter = Letter { kind, lane, deliver_ms, body, perhaps: false, sent: None, place: None, fate: Fate::default() };
        self.letters.insert(id.to_owned(), letter);
    }

    fn letter(&mut self, id: &str) -> &mut Letter {
        self.letters.get_mut(id).expect("a letter is written before it is sent")
    }

    /// An attempt to send it begins. Answers whether it was perhaps stored before.
    pub fn attempt(&mut self, id: &str) -> bool {
        std::mem::replace(&mut self.letter(id).perhaps, true)
    }

    /// The attempt ended without anything being stored, for certain.
    pub fn refused(&mut self, id: &str, perhaps_before: bool) {
        self.letter(id).perhaps = perhaps_before;
    }

    /// S2, O2, D1: the message has its one place for ever.
    pub fn sent(&mut self, id: &str, sent: &Sent) -> Checked {
        let place = (sent.queue, sent.offset);
        let letter = self.letter(id);
        if let Some(before) = &letter.sent
            && (before.queue, before.offset) != place
        {
            return Err(format!("S2: `{id}` was stored at {before:?}, and is answered with {place:?} now"));
        }
        let known = letter.sent.replace(sent.clone()).is_some();
        if known || sent.ticket.is_some() {
            return Ok(());
        }
        let lane = letter.lane.clone();
        self.settle_place(id, place)?;
        let Some(lane) = lane else { return Ok(()) };
        let newest = self.lanes.get(&lane).copied();
        if newest.is_some_and(|newest| newest >= sent.offset) {
            return Err(format!("O2: `{id}` of `{lane}` is at {place:?}, behind which {newest:?} was acknowledged before it was sent"));
        }
        self.lanes.insert(lane, sent.offset);
        Ok(())
    }

    fn settle_place(&mut self, id: &str, place: Place) -> Checked {
        if let Some(other) = self.places.get(&place).filter(|other| *other != id) {
            return Err(format!("O1: both `{other}` and `{id}` are at {place:?}"));
        }
        let letter = self.letter(id);
        if letter.place.is_some_and(|before| before != place) {
            return Err(format!("S2: `{id}` is at {:?} and at {place:?}", letter.place));
        }
        letter.place = Some(place);
        self.places.insert(place, id.to_owned());
        Ok(())
    }

    /// A batch was given out between `from` and `now`, for so long.
    pub fn delivered(&mut self, group: GroupId, batch: &[Given], (from, now): (Duration, Duration), lease: Duration) -> Checked {
        for (number, given) in batch.iter().enumerate() {
            self.check_message(given)?;
            self.check_turn(group, given, now)?;
            if group == ORDERED && !self.trims {
                self.check_order(group, given, &batch[..number])?;
            }
            let station = self.stations.entry((group, given.place())).or_default();
            self.redelivered += u64::from(station.deliveries > 0);
            station.deliveries += 1;
            station.attempt = given.attempt;
            station.held = Some((given.handle, from + lease));
        }
        Ok(())
    }

    /// D1 to D3, S5, T1: it is a message that somebody sent, unchanged, and may be seen.
    fn check_message(&mut self, given: &Given) -> Checked {
        let (id, place) = (&given.id, given.place());
        let Some(letter) = self.letters.get(id) else { return Err(format!("D3: nobody sent `{id}`, which is at {place:?}")) };
        if letter.body != given.body {
            return Err(format!("D3: `{id}` has another body than it was sent with"));
        }
        if !letter.perhaps {
            return Err(format!("D2: `{id}` was refused, and is delivered"));
        }
        if letter.deliver_ms > given.store_ms && letter.kind == MessageKind::Delay {
            return Err(format!("S5: `{id}` is due at {} and visible from {}", letter.deliver_ms, given.store_ms));
        }
        let Fate { perhaps_committed, ended, .. } = letter.fate;
        if letter.kind == MessageKind::Transaction && (!perhaps_committed || ended == Some(Resolution::Rollback)) {
            return Err(format!("T1: `{id}` is visible, and its transaction is {:?}", letter.fate));
        }
        self.settle_place(id, place)
    }

    /// S3, I1: it is not finished, and nobody else has it.
    fn check_turn(&self, group: GroupId, given: &Given, now: Duration) -> Checked {
        let Some(station) = self.stations.get(&(group, given.place())) else { return Ok(()) };
        let id = &given.id;
        if station.finished {
            return Err(format!("S3: `{id}` comes again to group {group:?} after its acknowledgement: {station:?}"));
        }
        if given.attempt < station.attempt {
            return Err(format!("I3: `{id}` has attempt {} after {}", given.attempt, station.attempt));
        }
        if group != ORDERED && given.attempt > PATIENCE {
            return Err(format!("I3: `{id}` is given out {} times", given.attempt));
        }
        match station.held {
            Some((handle, until)) if !self.clocks_jump && group != ORDERED && now + CLOCKS < until && handle.lease != given.handle.lease => {
                Err(format!("I1: `{id}` is given out at {now:?} while it is held until {until:?}"))
            }
            _ => Ok(()),
        }
    }

    /// S6: what is before it in its message group is finished, or in the same batch.
    fn check_order(&self, group: GroupId, given: &Given, batch: &[Given]) -> Checked {
        let Some(lane) = self.letters.get(&given.id).and_then(|letter| letter.lane.as_ref()) else { return Ok(()) };
        let (queue, offset) = given.place();
        for (place, id) in self.places.range((queue, Offset(0))..(queue, offset)) {
            if self.letters[id].lane.as_ref() != Some(lane) {
                continue;
            }
            let done = self.stations.get(&(group, *place)).is_some_and(|station| station.finished || station.perhaps_finished);
            if !done && !batch.iter().any(|other| other.place() == *place) {
                return Err(format!("S6: `{}` of `{lane}` is given out at {:?} while `{id}` at {place:?} is not finished", given.id, given.place()));
            }
        }
        Ok(())
    }

    fn station(&mut self, group: GroupId, handle: &ReceiptHandle) -> &mut Station {
        self.stations.entry((group, (handle.queue, handle.offset))).or_default()
    }

    /// A consumer asks to finish a delivery; the answer may be lost.
    pub fn finishing(&mut self, group: GroupId, handle: &ReceiptHandle) {
        self.station(group, handle).perhaps_finished = true;
    }

    /// It was answered that the delivery is finished.
    pub fn finished(&mut self, group: GroupId, handle: &ReceiptHandle) {
        self.station(group, handle).finished = true;
    }

    /// A consumer gives a delivery back, and perhaps others of its message group go with it.
    pub fn given_back(&mut self, group: GroupId, handle: &ReceiptHandle) {
        self.station(group, handle).held = None;
    }

    /// A producer, or one that was asked, ends a transaction.
    pub fn ending(&mut self, id: &str, resolution: Resolution) {
        let fate = &mut self.letter(id).fate;
        match resolution {
            Resolution::Commit => fate.perhaps_committed = true,
            Resolution::Rollback => fate.perhaps_rolled_back = true,
        }
    }

    /// T1: it ends once.
    pub fn ended(&mut self, id: &str, resolution: Resolution, answer: &Result<(), EndError>) -> Checked {
        let fate = &mut self.letter(id).fate;
        let ended = match answer {
            Ok(()) => resolution,
            Err(EndError::Contradicts { ended }) if *ended != resolution => *ended,
            Err(EndError::Contradicts { .. } | EndError::Unknown | EndError::GivenUp) => {
                return Err(format!("T1: {resolution:?} of `{id}` is answered with {answer:?}: {fate:?}"));
            }
            Err(_) => return Ok(()),
        };
        let asked = if ended == Resolution::Commit { fate.perhaps_committed } else { fate.perhaps_rolled_back };
        if !asked || fate.ended.is_some_and(|before| before != ended) {
            return Err(format!("T1: `{id}` ended as {ended:?}: {fate:?}"));
        }
        fate.ended = Some(ended);
        Ok(())
    }

    /// How a transaction ended, as far as anybody was told.
    pub fn end_of(&self, id: &str) -> Option<Resolution> {
        self.letters.get(id)?.fate.ended
    }

    /// Transactions that a producer knows by their handles.
    pub fn ticket(&self, id: &str) -> Option<&Ticket> {
        self.letters.get(id)?.sent.as_ref()?.ticket.as_ref()
    }

    /// What must be true of the log when all is quiet: `stored` has every visible message, by place, from `first` on; `buried` the dead letters.
    pub fn check_end(&self, stored: &BTreeMap<Place, String>, first: &BTreeMap<QueueId, Offset>, buried: &BTreeMap<GroupId, Vec<String>>) -> Checked {
        let mut copies: BTreeMap<&str, u32> = BTreeMap::new();
        stored.values().for_each(|id| *copies.entry(id).or_default() += 1);
        if let Some((id, count)) = copies.iter().find(|(_, count)| **count > 1) {
            return Err(format!("S2: there are {count} copies of `{id}`"));
        }
        if let Some((queue, first)) = first.iter().find(|(_, first)| first.0 > 0 && !self.trims) {
            return Err(format!("D1: {queue:?} begins at {first:?}, and nothing was to be given up"));
        }
        let kept = |place: Place| first.get(&place.0).is_none_or(|first| place.1 >= *first);
        for (id, letter) in &self.letters {
            let there = copies.contains_key(id.as_str());
            if let Some(place) = letter.place.filter(|place| kept(*place))
                && stored.get(&place) != Some(id)
            {
                return Err(format!("D1: `{id}` was at {place:?}, where there is {:?} now", stored.get(&place)));
            }
            let trimmed = first.values().any(|first| first.0 > 0);
            let wanted = match (letter.kind, letter.fate.ended) {
                (MessageKind::Delay, _) => letter.sent.is_some(),
                (MessageKind::Transaction, ended) => ended == Some(Resolution::Commit),
                _ => false,
            };
            // With a clock that was far ahead and is set back, a delayed message is due after the end of the run.
            let excused = trimmed || self.clocks_jump && letter.kind == MessageKind::Delay;
            if wanted && !there && !excused {
                return Err(format!("S5: `{id}` was accepted and is not there: {letter:?}"));
            }
            if there && !letter.perhaps {
                return Err(format!("D2: `{id}` was refused, and is stored"));
            }
            if there && letter.fate.ended == Some(Resolution::Rollback) {
                return Err(format!("T1: `{id}` was rolled back, and is visible"));
            }
        }
        self.check_consumed(stored, first, buried)
    }

    /// S4: every group is finished with every message.
    fn check_consumed(
        &self,
        stored: &BTreeMap<Place, String>,
        first: &BTreeMap<QueueId, Offset>,
        buried: &BTreeMap<GroupId, Vec<String>>,
    ) -> Checked {
        for (group, letters) in buried {
            for (place, id) in stored.iter().filter(|((queue, offset), _)| first.get(queue).is_none_or(|first| offset >= first)) {
                let graves = letters.iter().filter(|letter| *letter == id).count();
                let end = self.stations.get(&(*group, *place)).is_some_and(|station| station.finished || station.perhaps_finished);
                if graves > 1 {
                    return Err(format!("S2: `{id}` is {graves} dead letters of {group:?}"));
                }
                let late = self.clocks_jump && self.letters.get(id).is_some_and(|letter| letter.kind == MessageKind::Delay);
                if !end && graves == 0 && !late {
                    return Err(format!("S4: `{id}` at {place:?} never came to its end for {group:?}"));
                }
            }
        }
        Ok(())
    }
}

/// The topic of a group's dead letters.
pub fn graveyard(group: GroupId) -> TopicId {
    TopicId(100 + group.0)
}
