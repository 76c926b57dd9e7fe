//! Delayed messages: parked until they are due, released in the order of their times, taken back, and moved out of segments that are to go.
//!
//! The index knows which ones there are, the state which of them still wait ([`super::state::timers`]). The core looks up the next few and offers
//! them one by one ([`Core::due_timer`]); the driver, which alone can read the message and knows whether there is room for it, brings it back as
//! [`Event::TimerDue`](super::core::Event). Nothing is released before its time in the shard's clock.
//!
//! # The life of a delayed message
//! - *pending*: `Delayed` was appended.
//! - *moved*: its segment is to be dropped; `Delayed` was appended again, and the first one is void.
//! - *released*: `Release` was appended; it is a message of a queue now.
//! - *recalled*: `Recall` was appended before that; it is never delivered.
//!
//! What was overdue when the leader began could be millions of messages. More than a few are released beside those that fall due now, and no faster
//! than [`Limits::overdue_per_s`](super::core::Limits).

use super::core::{Action, BatchPart, Core, Draft, Entries, Reply, Token};
use super::parked;
use super::state::State;
use super::state::seen::Row;
use crate::record::{CatchUp, Delayed, Moved, Recall, RecallCause, Record, Release};
use gantry_model::contract::broker::{RecallError, SendError, Sent, Ticket};
use gantry_model::handle::RecallHandle;
use gantry_model::limits::TIMERS_PER_TOPIC;
use gantry_model::topic::QueueState;
use gantry_model::{Lsn, Offset, QueueId, QueueKey, Topic, TopicId, placement};
use gantry_store::index::{Due, KeyKind, Timer, key_hash};
use gantry_store::zoo;
use std::collections::VecDeque;
use std::sync::Arc;

/// Due messages looked up at a time.
const FETCH: usize = 4_096;
/// Overdue messages are released in portions, one for each of these.
const PORTION_MS: u64 = 100;
/// How long after its start a leader waits for the catalogue to name a topic.
const CATALOGUE_MS: u64 = 10_000;
/// When something that should be there is not, it is looked for again after this.
const AGAIN_MS: u64 = 1_000;
/// Pending messages of a segment looked up at a time when it is left.
const LEAVE: usize = 64;
/// Messages with one id that a recall looks at: the delayed one, its moved copies, and those that were sent again with the same id.
const NAMESAKES: usize = 64;

/// How late messages were is told for this long.
const LATELY_MS: u64 = 60_000;

/// What is to be moved out of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextMove {
    Timer(Timer),
    /// Nothing in it waits any more.
    Done,
    /// The index can't be read now.
    Unreadable,
}

/// What the leader does next about delayed messages; all of it follows from the state and the index.
#[derive(Debug, Default)]
pub struct Releases {
    /// When this leader looked for the first time.
    started: u64,
    /// Whether it was decided how what is overdue is released.
    sorted: bool,
    /// Due messages, next first.
    ready: VecDeque<Timer>,
    /// Those of the oldest stretch of catch-up.
    overdue: VecDeque<Timer>,
    /// Everything up to here was released or passed over, beside catch-up and in it.
    passed: Due,
    passed_overdue: Due,
    /// When the index has to be asked again; `None` if nothing is pending.
    next: Option<u64>,
    /// The portion of overdue messages: when it began, and what is left of it.
    portion: (u64, u64),
    /// Nothing is released before this.
    held: u64,
    /// How late messages were: since this time, the latest, and the latest of the time before.
    lateness: (u64, u64, u64),
}

impl Releases {
    pub(super) fn new() -> Releases {
        Releases { next: Some(0), ..Releases::default() }
    }

    /// A message was stored that is due then.
    fn expect(&mut self, deliver_ms: u64) {
        self.next = Some(self.next.map_or(deliver_ms, |next| next.min(deliver_ms)));
    }

    fn note_lateness(&mut self, now: u64, late: u64) {
        let (since, latest, _) = self.lateness;
        self.lateness = if now >= since + LATELY_MS { (now, late, latest) } else { (since, latest.max(late), self.lateness.2) };
    }
}

impl<D: Draft> Core<D> {
    pub(super) fn store_delayed(&mut self, topic: &Topic, draft: D) -> Result<Sent, SendError> {
        let deliver_ms = draft.class().deliver_ms.unwrap_or(self.now) - if zoo!(EarlyTimers) { 1_500 } else { 0 };
        let whole = topic.options.quota.timers.unwrap_or(TIMERS_PER_TOPIC).min(TIMERS_PER_TOPIC);
        let (pending, most) = (self.state.timers.pending_of(topic.id), placement::share_of(topic, self.shard, whole));
        if pending >= most {
            return Err(SendError::QuotaExceeded {
                what: format!("{pending} delayed messages of the topic wait for their time on its shard, {most} may"),
            });
        }
        if self.open_queues(topic).next().is_none() {
            return Err(SendError::NoWritableQueue);
        }
        self.topics.entry(topic.id).or_insert_with(|| Arc::new(topic.clone()));
        let queue = parked::timers(topic.id);
        let offset = Offset(self.state.bounds(queue).next);
        let record = Record::Delayed(Delayed { deliver_ms, queue, offset, moved: None });
        let ticket = self.recall_ticket(topic.id, deliver_ms, offset, draft.message_id());
        self.state.apply(&record);
        self.remember(draft.class().id, queue, offset);
        self.hide(queue, offset);
        self.releases.expect(deliver_ms);
        self.out.push(Action::Store { queue, offset, batch: BatchPart::Alone, head: Some(record), draft });
        Ok(Sent { queue: queue.queue(), offset, duplicate: false, ticket: Some(ticket) })
    }

    fn recall_ticket(&self, topic: TopicId, deliver_ms: u64, offset: Offset, message_id: String) -> Ticket {
        Ticket::Recall(RecallHandle { shard: self.shard, topic, deliver_ms, id: offset.0, message_id })
    }

    /// What the first send got of a delayed message that is sent again.
    pub(super) fn timer_ticket(&self, topic: &Topic, row: &Row, draft: &D) -> Option<Ticket> {
        let deliver_ms = draft.class().deliver_ms.filter(|_| row.queue == parked::timers(topic.id))?;
        Some(self.recall_ticket(topic.id, deliver_ms, Offset(row.offset), draft.message_id()))
    }

    /// Learns a topic's definition; what is due may have waited for it.
    pub(super) fn know_topic(&mut self, topic: Arc<Topic>) {
        if self.topics.insert(topic.id, topic).is_none() && self.releases.held > self.now {
            self.releases.held = self.now;
        }
    }

    /// How late messages were released lately, at most.
    pub fn timer_lateness_ms(&self) -> u64 {
        let (since, latest, before) = self.releases.lateness;
        if self.now < since + LATELY_MS { latest.max(before) } else { 0 }
    }

    /// When something is to be released, or looked for.
    pub(super) fn next_timer(&self) -> Option<u64> {
        let releases = &self.releases;
        let overdue =
            (!self.state.timers.catch_up.is_empty()).then(|| if releases.portion.1 > 0 { self.now } else { releases.portion.0 + PORTION_MS });
        let ready = (!releases.ready.is_empty()).then_some(self.now).or(releases.next);
        overdue.into_iter().chain(ready).min().map(|time| time.max(releases.held))
    }

    /// There is no room or no way to release anything now: it is tried again a little later.
    pub fn hold_timers(&mut self) {
        self.hold_timers_for(AGAIN_MS);
    }

    /// Releases nothing for so long.
    pub fn hold_timers_for(&mut self, ms: u64) {
        self.releases.held = self.now + ms;
    }

    /// Where the messages lie that are released next.
    pub fn upcoming(&self, most: usize) -> impl Iterator<Item = Lsn> {
        self.releases.ready.iter().chain(&self.releases.overdue).take(most).map(|timer| timer.due.position)
    }

    /// Looks up what is due.
    pub(super) fn look_for_timers(&mut self, entries: &dyn Entries) {
        if self.next_timer().is_none_or(|time| time > self.now) {
            return;
        }
        if !self.releases.sorted {
            self.sort_overdue(entries);
        }
        self.fill_ready(entries);
        self.fill_overdue(entries);
    }

    /// Decides, once in a reign, whether what is overdue is little enough to be released at once.
    fn sort_overdue(&mut self, entries: &dyn Entries) {
        let portion = self.portion();
        let from = self.state.timers.watermark;
        let Some(overdue) = entries.timers(from, self.now.saturating_sub(1), portion as usize + 1) else { return self.hold_timers() };
        (self.releases.sorted, self.releases.started) = (true, self.now);
        if overdue.len() as u64 > portion {
            self.append(Record::CatchUp(CatchUp { until: Some(self.now) }));
        }
    }

    fn portion(&self) -> u64 {
        (self.limits.overdue_per_s * PORTION_MS / 1_000).max(1)
    }

    fn fill_ready(&mut self, entries: &dyn Entries) {
        self.pass_over();
        if !self.releases.ready.is_empty() || !self.releases.sorted || self.releases.next.is_none_or(|time| time > self.now) {
            return;
        }
        let after = self.releases.passed.max(self.state.timers.watermark);
        let Some(found) = entries.timers(after, self.now, FETCH) else { return self.hold_timers() };
        self.releases.next = if found.is_empty() { entries.next_timer(after) } else { Some(self.now) };
        self.releases.ready.extend(found.into_iter().take_while(|timer| timer.due.position < entries.end()));
        self.pass_over();
    }

    fn fill_overdue(&mut self, entries: &dyn Entries) {
        while let Some(stretch) = self.state.timers.catch_up.front().copied() {
            let (since, _) = self.releases.portion;
            if self.now >= since + PORTION_MS {
                self.releases.portion = (self.now, self.portion());
            }
            if !self.releases.overdue.is_empty() || self.releases.portion.1 == 0 {
                return;
            }
            let after = self.releases.passed_overdue.max(stretch.after);
            let Some(found) = entries.timers(after, stretch.until - 1, FETCH) else { return self.hold_timers() };
            if found.is_empty() {
                self.releases.passed_overdue = Due::default();
                self.append(Record::CatchUp(CatchUp { until: None }));
                continue;
            }
            let readable = found.partition_point(|timer| timer.due.position < entries.end());
            self.releases.overdue.extend(&found[..readable]);
            self.pass_over();
            if readable < found.len() {
                return;
            }
        }
    }

    /// Drops from the front what doesn't wait any more: taken back, moved, or of a topic that was deleted.
    fn pass_over(&mut self) {
        let (state, releases) = (&self.state, &mut self.releases);
        let over = |timer: &Timer| !state.timers.waits(timer.due) || !state.has_queue(timer.queue);
        for (list, passed) in [(&mut releases.ready, &mut releases.passed), (&mut releases.overdue, &mut releases.passed_overdue)] {
            while let Some(timer) = list.front().filter(|timer| over(timer)) {
                *passed = timer.due;
                list.pop_front();
            }
        }
    }

    /// The next message to be released now.
    pub fn due_timer(&mut self) -> Option<Timer> {
        self.pass_over();
        if self.releases.held > self.now {
            return None;
        }
        let overdue = self.releases.overdue.front().filter(|_| self.releases.portion.1 > 0);
        let timer = *self.releases.ready.front().or(overdue)?;
        if !self.topics.contains_key(&timer.queue.topic()) && self.now < self.releases.started + CATALOGUE_MS {
            // The catalogue is read just now. A topic that it doesn't have keeps its messages in queue 0.
            self.releases.held = self.now + PORTION_MS;
            return None;
        }
        Some(timer)
    }

    /// Releases the message that [`Core::due_timer`] named, or gives it up if it can't be read any more.
    pub(super) fn release_timer(&mut self, timer: Timer, readable: bool, entries: &dyn Entries) {
        let Timer { due, queue: timers } = timer;
        if !self.state.timers.waits(due) || due.time > self.now {
            return;
        }
        if self.releases.ready.front() != Some(&timer) {
            self.releases.portion.1 = self.releases.portion.1.saturating_sub(1);
        }
        if readable {
            let queue = QueueKey::new(timers.topic(), self.queue_when_due(timers.topic()));
            let offset = Offset(self.state.bounds(queue).next);
            self.releases.note_lateness(self.now, self.now - due.time);
            self.append_copy(Record::Release(Release { due, timers, queue, offset }), due.position);
        } else {
            self.append(Record::Recall(Recall { topic: timers.topic(), due, id: 0, why: RecallCause::Damaged }));
        }
        self.pass_over();
        self.look_for_timers(entries);
    }

    /// Where a message goes that is due. It was accepted, so it goes somewhere even if the topic takes no messages any more.
    fn queue_when_due(&mut self, topic: TopicId) -> QueueId {
        let Some(topic) = self.topics.get(&topic).cloned() else { return QueueId(0) };
        self.next_queue(&topic).or_else(|| self.queue_to_end_in(&topic)).unwrap_or(QueueId(0))
    }

    /// A queue of this shard for what was accepted while the topic still took messages here: one that is still read.
    pub(super) fn queue_to_end_in(&self, topic: &Topic) -> Option<QueueId> {
        let here = |wanted: fn(QueueState) -> bool| topic.queues().find(|(_, place)| place.shard == self.shard && wanted(place.state));
        here(|state| state != QueueState::Retired).or_else(|| here(|_| true)).map(|(queue, _)| queue)
    }

    /// The next message to be moved out of the segment from one address to another, which is to be dropped.
    pub fn next_move(&self, segment: (Lsn, Lsn), entries: &dyn Entries) -> NextMove {
        next_move(&self.state, segment, |after| entries.timers_of(segment, after, LEAVE))
    }

    /// Appends a pending message again, so that the segment that ends at `end` can go.
    pub(super) fn move_timer(&mut self, timer: Timer, end: Lsn, readable: bool) {
        let Timer { due, queue } = timer;
        if !self.state.timers.waits(due) {
            return;
        }
        if !readable {
            return self.append(Record::Recall(Recall { topic: queue.topic(), due, id: 0, why: RecallCause::Damaged }));
        }
        let offset = Offset(self.state.bounds(queue).next);
        let moved = Some(Moved { from: due.position, end });
        self.append_copy(Record::Delayed(Delayed { deliver_ms: due.time, queue, offset, moved }), due.position);
        // What was looked up may name the old place, and would pass over the new one.
        self.releases.ready.clear();
        self.releases.overdue.clear();
        self.releases.expect(due.time);
    }

    pub(super) fn recall(&mut self, token: Token, handle: &RecallHandle, entries: &dyn Entries) {
        let answer = self.take_back(handle, entries);
        self.reply(token, Reply::Recalled(answer));
    }

    fn take_back(&mut self, handle: &RecallHandle, entries: &dyn Entries) -> Result<(), RecallError> {
        let RecallHandle { topic, deliver_ms, id, .. } = *handle;
        let bounds = self.state.bounds(parked::timers(topic));
        if self.state.timers.was_asked(topic, deliver_ms, id) {
            return Ok(());
        }
        if id >= bounds.next {
            return Err(RecallError::Unknown);
        }
        let unreadable = || RecallError::Failed { why: "the index of delayed messages can't be read; nothing was changed".into() };
        for due in self.named(handle, entries).ok_or_else(unreadable)? {
            if self.state.timers.is_recalled(due) {
                return Ok(());
            }
            if self.state.timers.waits(due) {
                self.append(Record::Recall(Recall { topic, due, id, why: RecallCause::Asked }));
                return Ok(());
            }
        }
        if deliver_ms > self.now { Err(RecallError::Unknown) } else { Err(RecallError::Delivered) }
    }

    /// Where the message of a handle may be: at its number, or elsewhere under its message id if it was moved.
    fn named(&self, handle: &RecallHandle, entries: &dyn Entries) -> Option<Vec<Due>> {
        let queue = parked::timers(handle.topic);
        let hash = key_hash(handle.topic, KeyKind::MessageId, handle.message_id.as_bytes());
        let there = |position| {
            let due = Due { time: handle.deliver_ms, position };
            let before = Due { time: handle.deliver_ms, position: Lsn(position.0.saturating_sub(1)) };
            let found = entries.timers(before, handle.deliver_ms, 1)?;
            let same = found.first().is_some_and(|timer| timer.due == due && timer.queue == queue);
            Some(Some(due).filter(|due| same && !self.state.timers.is_void(*due)))
        };
        if handle.id >= self.state.bounds(queue).min
            && let Some(due) = there(entries.entry(queue, handle.id)?.lsn)?
        {
            return Some(vec![due]);
        }
        let mut found = Vec::new();
        for position in entries.by_key(hash, NAMESAKES)? {
            found.extend(there(position)?);
        }
        Some(found)
    }
}

/// The first of the messages that `look` finds in a segment that still waits; `look` answers some of those after a `Due`, in their order.
pub fn next_move(state: &State, segment: (Lsn, Lsn), look: impl Fn(Due) -> Option<Vec<Timer>>) -> NextMove {
    let mut after = state.timers.left(segment.1).max(state.timers.low());
    loop {
        let Some(found) = look(after) else { return NextMove::Unreadable };
        let Some(last) = found.last() else { return NextMove::Done };
        after = last.due;
        if let Some(timer) = found.iter().find(|timer| state.timers.waits(timer.due) && state.has_queue(timer.queue)) {
            return NextMove::Timer(*timer);
        }
    }
}
