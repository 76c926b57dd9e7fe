//! Which delayed messages are pending: not the messages themselves, which only the index knows, but what says of each whether it still counts.
//!
//! Delayed messages are released in the order of [`Due`]: by time, then by address. So one `Due`, the watermark, says of all of them whether they
//! were released, and the memory that this takes does not grow with their number. Three things are exceptions, each bounded:
//!
//! - *catch-up*: what was overdue when a leader began is released beside what falls due now. Each such stretch has a watermark of its own.
//! - *recalled*: what was taken back is named until the watermark has passed it.
//! - *moved*: before a segment is dropped, its pending messages are appended again, in the order of `Due`. The old ones up to there are void.

use crate::codec::{Reader, Writer};
use crate::record::{CatchUp, Moved, Recall, RecallCause, Release, Trim};
use gantry_model::{Lsn, TopicId};
use gantry_store::index::Due;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How long after its time a message that was taken back is known, so that a repeated recall gets the same answer.
const REMEMBERED_MS: u64 = 10 * 60 * 1000;

/// Messages that were overdue when a leader began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Everything up to here was released.
    pub after: Due,
    /// It ends before this time.
    pub until: u64,
}

impl Stretch {
    pub fn holds(&self, due: Due) -> bool {
        due > self.after && due.time < self.until
    }
}

/// What a shard knows of its delayed messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    /// Everything up to here was released, but for what catch-up holds.
    pub watermark: Due,
    /// Oldest first.
    pub catch_up: VecDeque<Stretch>,
    /// Where the segment that is being left ends, and how far it is done.
    leaving: Option<(Lsn, Due)>,
    /// Nothing below this address counts.
    floor: Lsn,
    recalled: BTreeSet<Due>,
    /// Recalls by what producers know: time, topic and number.
    asked: BTreeSet<(u64, TopicId, u64)>,
    pending: BTreeMap<TopicId, u64>,
    /// The sum of `pending`.
    total: u64,
    pub counts: TimerCounts,
}

/// What happened to delayed messages since the shard's first day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerCounts {
    pub released: u64,
    pub recalled: u64,
    /// Their topic was deleted while they waited.
    pub orphaned: u64,
    /// They could not be read any more.
    pub damaged: u64,
}

impl Timers {
    /// How many messages of a topic wait for their time.
    pub fn pending_of(&self, topic: TopicId) -> u64 {
        self.pending.get(&topic).copied().unwrap_or(0)
    }

    /// How many messages wait for their time.
    pub fn pending(&self) -> u64 {
        self.total
    }

    /// Whether a stored delayed message still waits.
    pub fn waits(&self, due: Due) -> bool {
        !self.was_released(due) && !self.recalled.contains(&due) && !self.is_void(due)
    }

    pub fn is_recalled(&self, due: Due) -> bool {
        self.recalled.contains(&due)
    }

    /// Whether the message that was stored there was stored again elsewhere.
    pub fn is_void(&self, due: Due) -> bool {
        due.position < self.floor || self.leaving.is_some_and(|(end, done)| due.position < end && due <= done)
    }

    /// Whether its time was and it has its place in a queue.
    pub fn was_released(&self, due: Due) -> bool {
        due <= self.watermark && !self.catch_up.iter().any(|stretch| stretch.holds(due))
    }

    /// Whether a producer took back the message that it knows by this number.
    pub fn was_asked(&self, topic: TopicId, deliver_ms: u64, id: u64) -> bool {
        self.asked.contains(&(deliver_ms, topic, id))
    }

    /// Nothing up to here waits any more.
    pub fn low(&self) -> Due {
        self.catch_up.front().map_or(self.watermark, |stretch| stretch.after)
    }

    /// How far the segment that ends there was left.
    pub fn left(&self, end: Lsn) -> Due {
        self.leaving.filter(|(leaving, _)| *leaving == end).map_or(Due::default(), |(_, done)| done)
    }

    pub(super) fn stored(&mut self, topic: TopicId) {
        *self.pending.entry(topic).or_insert(0) += 1;
        self.total += 1;
    }

    pub(super) fn moved(&mut self, moved: Moved, deliver_ms: u64) {
        if let Some((end, _)) = self.leaving.filter(|(end, _)| *end != moved.end) {
            // A segment is left when all before it were.
            self.floor = self.floor.max(end);
        }
        self.leaving = Some((moved.end, Due { time: deliver_ms, position: moved.from }));
    }

    pub(super) fn released(&mut self, release: &Release) {
        self.counts.released += 1;
        self.ended(release.timers.topic());
        if release.due > self.watermark {
            self.watermark = release.due;
        } else if let Some(stretch) = self.catch_up.iter_mut().find(|stretch| stretch.holds(release.due)) {
            stretch.after = release.due;
        }
        self.forget_passed();
    }

    pub(super) fn taken_back(&mut self, recall: &Recall) {
        self.ended(recall.topic);
        self.recalled.insert(recall.due);
        match recall.why {
            RecallCause::Asked => {
                self.counts.recalled += 1;
                self.asked.insert((recall.due.time, recall.topic, recall.id));
            }
            RecallCause::Damaged => self.counts.damaged += 1,
        }
    }

    pub(super) fn caught_up(&mut self, catch_up: &CatchUp) {
        match catch_up.until {
            Some(until) => {
                self.catch_up.push_back(Stretch { after: self.watermark, until });
                self.watermark = self.watermark.max(Due { time: until - 1, position: Lsn(u64::MAX) });
            }
            None => drop(self.catch_up.pop_front()),
        }
        self.forget_passed();
    }

    pub(super) fn trimmed(&mut self, trim: &Trim) {
        self.floor = self.floor.max(trim.start);
        self.leaving = self.leaving.filter(|(end, _)| *end > self.floor);
    }

    pub(super) fn forget(&mut self, topic: TopicId) {
        let orphaned = self.pending.remove(&topic).unwrap_or(0);
        self.total -= orphaned;
        self.counts.orphaned += orphaned;
        self.asked.retain(|(_, of, _)| *of != topic);
    }

    fn ended(&mut self, topic: TopicId) {
        if let Some(count) = self.pending.get_mut(&topic) {
            *count -= 1;
            self.total -= 1;
            if *count == 0 {
                self.pending.remove(&topic);
            }
        }
    }

    fn forget_passed(&mut self) {
        let low = self.low();
        while self.recalled.first().is_some_and(|due| *due <= low) {
            self.recalled.pop_first();
        }
        while self.asked.first().is_some_and(|(time, ..)| time + REMEMBERED_MS < low.time) {
            self.asked.pop_first();
        }
    }
}

/// Writes them into a checkpoint.
pub fn encode(timers: &Timers, out: &mut Writer) {
    let put_due = |out: &mut Writer, due: Due| out.varints([due.time, due.position.0]);
    put_due(out, timers.watermark);
    out.varint(timers.catch_up.len() as u64);
    for stretch in &timers.catch_up {
        put_due(out, stretch.after);
        out.varint(stretch.until);
    }
    let (end, done) = timers.leaving.unwrap_or_default();
    out.varints([timers.floor.0, end.0]);
    put_due(out, done);
    out.varint(timers.recalled.len() as u64);
    timers.recalled.iter().for_each(|&due| put_due(out, due));
    out.varint(timers.asked.len() as u64);
    timers.asked.iter().for_each(|(time, topic, id)| out.varints([*time, u64::from(topic.0), *id]));
    out.varint(timers.pending.len() as u64);
    timers.pending.iter().for_each(|(topic, count)| out.varints([u64::from(topic.0), *count]));
    let TimerCounts { released, recalled, orphaned, damaged } = timers.counts;
    out.varints([released, recalled, orphaned, damaged]);
}

/// Reads them from a checkpoint; `None` if the bytes are not such.
pub fn decode(input: &mut Reader<'_>) -> Option<Timers> {
    let due = |input: &mut Reader<'_>| Some(Due { time: input.varint()?, position: Lsn(input.varint()?) });
    let mut timers = Timers { watermark: due(input)?, ..Timers::default() };
    for _ in 0..input.varint()? {
        timers.catch_up.push_back(Stretch { after: due(input)?, until: input.varint()? });
    }
    timers.floor = Lsn(input.varint()?);
    let (end, done) = (Lsn(input.varint()?), due(input)?);
    timers.leaving = (end.0 != 0).then_some((end, done));
    for _ in 0..input.varint()? {
        timers.recalled.insert(due(input)?);
    }
    for _ in 0..input.varint()? {
        timers.asked.insert((input.varint()?, TopicId(input.varint32()?), input.varint()?));
    }
    for _ in 0..input.varint()? {
        timers.pending.insert(TopicId(input.varint32()?), input.varint()?);
    }
    timers.total = timers.pending.values().try_fold(0u64, |sum, count| sum.checked_add(*count))?;
    let counts = TimerCounts { released: input.varint()?, recalled: input.varint()?, orphaned: input.varint()?, damaged: input.varint()? };
    timers.counts = counts;
    input.is_empty().then_some(timers)
}
