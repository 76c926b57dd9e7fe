//! All that a shard knows beside its messages: the bounds of its queues, and where every group stands on them.
//!
//! The state is a function of the log: [`State::apply`] is the only thing that changes it, on the leader when it appends and on a restart or a
//! replica when the log is read. It never looks at a clock, a configuration or chance, and never depends on the order of a hash map.
//!
//! It lives in buckets behind `Arc`, so that a checkpoint can take all of it by cloning pointers while the shard goes on.

pub mod bounds;
pub mod cursor;
pub mod offsets;
pub mod ranges;
pub mod seen;
pub mod timers;
pub mod transactions;
pub mod ended;
pub mod lite;
pub mod snapshot;

use crate::record::{Ack, Dead, Delayed, EpochStart, Expire, Forget, Lease, LeasedQueue, Member, Record, Release, SetVisible, Trim, Visibility};
pub use bounds::Bounds;
use cursor::Cursor;
use gantry_model::{ClientId, GroupId, LeaseId, Offset, QueueKey, TopicId};
use lite::Lites;
use offsets::Mode;
use ranges::Ranges;
use seen::Seen;
use snapshot::Part;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use timers::Timers;
use transactions::Transactions;

/// How many buckets there are. A checkpoint writes the changed ones.
pub const BUCKETS: usize = 4096;

/// Leases between two sweeps over receives that may be repeated.
const SWEEP_EVERY: u64 = 1_024;

/// One slice of the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    pub queues: BTreeMap<QueueKey, Bounds>,
    /// In boxes: the nodes of a tree are half empty, and cursors are large.
    pub cursors: BTreeMap<(QueueKey, GroupId), Box<Cursor>>,
    /// How groups use queues on which they don't receive.
    pub modes: BTreeMap<(QueueKey, GroupId), Mode>,
    /// Dead letters that were sent again or removed.
    pub gone: BTreeMap<QueueKey, Ranges>,
}

/// A receive that can be repeated: the client, its group and topic, and its own name for the receive.
pub type AttemptKey = (GroupId, TopicId, ClientId, String);

/// What is small and changes often; written with each checkpoint as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub epoch: u32,
    pub last_lease: u64,
    pub messages: u64,
    pub delivered: u64,
    pub acked: u64,
    pub dead_letters: u64,
    /// Messages that were deleted by retention before a group had finished them.
    pub expired_unfinished: u64,
    /// Members of broadcasting groups, by the numbers under which they read.
    pub members: BTreeMap<GroupId, Member>,
    /// The newest of those numbers.
    pub last_member: u32,
    /// Live receives that may be repeated, with what they gave.
    pub attempts: BTreeMap<AttemptKey, Vec<(QueueKey, u64, LeaseId)>>,
}

/// The state of one shard.
#[derive(Clone, Debug)]
pub struct State {
    pub head: Head,
    buckets: Vec<Arc<Bucket>>,
    dirty: BTreeSet<u16>,
    /// Whether records are missing, so that what follows may contradict what is known.
    holes: bool,
    /// Which groups have a cursor on which topic; derived.
    pub groups_of: BTreeMap<TopicId, BTreeSet<GroupId>>,
    /// Bytes of each topic's messages; derived.
    held: BTreeMap<TopicId, u64>,
    /// The queues that groups pull; derived.
    pulling: BTreeSet<(TopicId, GroupId, QueueKey)>,
    /// Message ids of the last minutes.
    pub seen: Seen,
    /// Which delayed messages wait.
    pub timers: Arc<Timers>,
    /// Whether that changed since the last checkpoint.
    timers_changed: bool,
    pub transactions: Transactions,
    /// Lite topics and who subscribes them.
    pub lite: Lites,
}

impl Default for State {
    fn default() -> State {
        let empty = Arc::new(Bucket::default());
        State {
            head: Head::default(),
            buckets: vec![empty; BUCKETS],
            dirty: BTreeSet::new(),
            holes: false,
            groups_of: BTreeMap::new(),
            held: BTreeMap::new(),
            pulling: BTreeSet::new(),
            seen: Seen::default(),
            timers: Arc::default(),
            timers_changed: false,
            transactions: Transactions::default(),
            lite: Lites::default(),
        }
    }
}

impl State {
    pub fn bounds(&self, queue: QueueKey) -> Bounds {
        self.bucket(queue).queues.get(&queue).copied().unwrap_or_default()
    }

    pub fn cursor(&self, group: GroupId, queue: QueueKey) -> Option<&Cursor> {
        self.bucket(queue).cursors.get(&(queue, group)).map(Box::as_ref)
    }

    /// Where each group stands on one queue.
    pub fn cursors_of(&self, queue: QueueKey) -> impl Iterator<Item = &Cursor> + '_ {
        self.bucket(queue).cursors.range((queue, GroupId(0))..=(queue, GroupId(u32::MAX))).map(|(_, cursor)| &**cursor)
    }

    /// Every cursor, in a fixed order.
    pub fn cursors(&self) -> impl Iterator<Item = (QueueKey, GroupId, &Cursor)> + '_ {
        self.buckets.iter().flat_map(|bucket| bucket.cursors.iter().map(|(&(queue, group), cursor)| (queue, group, &**cursor)))
    }

    /// Every queue that ever had a message.
    pub fn queues(&self) -> impl Iterator<Item = (QueueKey, Bounds)> + '_ {
        self.buckets.iter().flat_map(|bucket| bucket.queues.iter().map(|(&queue, &bounds)| (queue, bounds)))
    }

    /// Whether a queue ever had a message; one of a deleted topic never had.
    pub fn has_queue(&self, queue: QueueKey) -> bool {
        self.bucket(queue).queues.contains_key(&queue)
    }

    /// A message got the next offset of its queue.
    pub fn apply_message(&mut self, queue: QueueKey) -> Offset {
        self.head.messages += 1;
        self.place(queue)
    }

    fn place(&mut self, queue: QueueKey) -> Offset {
        let bounds = self.bucket_mut(queue).queues.entry(queue).or_default();
        let offset = Offset(bounds.next);
        bounds.next += 1;
        offset
    }

    /// A message that the log has at this offset. Answers the offset that was expected, which is another only by a defect or, behind a damaged
    /// range, because messages before it are lost.
    pub fn apply_message_at(&mut self, queue: QueueKey, offset: Offset) -> Offset {
        self.head.messages += 1;
        self.place_at(queue, offset)
    }

    fn place_at(&mut self, queue: QueueKey, offset: Offset) -> Offset {
        if self.holes {
            let bounds = self.bucket_mut(queue).queues.entry(queue).or_default();
            bounds.next = bounds.next.max(offset.0);
        }
        self.place(queue)
    }

    /// The log has lost records from here on: what refers to them is taken as it is.
    pub fn expect_holes(&mut self) {
        self.holes = true;
    }

    /// A record was appended.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::EpochStart(start) => self.apply_epoch(start),
            Record::Lease(lease) => self.apply_lease(lease),
            Record::Ack(ack) => self.apply_ack(ack),
            Record::SetVisible(set) => self.apply_set_visible(set),
            Record::Expire(expire) => self.apply_expire(expire),
            Record::Dead(dead) => self.apply_dead(dead),
            Record::Delayed(delayed) => self.apply_delayed(delayed),
            Record::Release(release) => self.apply_release(release),
            Record::Recall(recall) => self.timers_mut().taken_back(recall),
            Record::CatchUp(catch_up) => self.timers_mut().caught_up(catch_up),
            Record::Half(half) => self.apply_half(half),
            Record::Repark(moved) => self.apply_repark(moved),
            Record::TxnCheck(check) => self.apply_txn_check(check),
            Record::TxnEnd(end) => self.apply_txn_end(end),
            Record::LiteCreate(create) => self.apply_lite_create(create),
            Record::LiteDrop(drop) => self.apply_lite_drop(drop),
            Record::LiteSync(sync) => self.apply_lite_sync(sync),
            Record::Begin(begin) => self.apply_begin(begin),
            Record::Trim(trim) => self.apply_trim(trim),
            Record::Forget(forget) => self.apply_forget(forget),
            Record::Member(member) => self.apply_member(member),
            Record::Seek(seek) => self.apply_seek(seek),
            Record::Skip(skip) => self.apply_skip(skip),
            Record::OffsetCommit(commit) => self.apply_commit(commit),
            Record::Redrive(redrive) => self.apply_redrive(redrive),
            Record::Purge(purge) => self.apply_purge(purge),
        }
    }

    fn apply_epoch(&mut self, start: &EpochStart) {
        self.head.epoch = start.epoch;
        if start.shift_ms == 0 {
            return;
        }
        for index in 0..BUCKETS {
            if self.buckets[index].cursors.values().any(|cursor| !cursor.leases.is_empty()) {
                self.dirty.insert(index as u16);
                let bucket = Arc::make_mut(&mut self.buckets[index]);
                bucket.cursors.values_mut().for_each(|cursor| cursor.shift_deadlines(start.shift_ms));
            }
        }
    }

    fn apply_lease(&mut self, lease: &Lease) {
        self.head.last_lease = self.head.last_lease.max(lease.id.0);
        let holes = self.holes;
        let mut given = Vec::new();
        for part in &lease.queues {
            let LeasedQueue { queue, start, next, leased, passed, skipped } = part;
            self.groups_of.entry(queue.topic()).or_default().insert(lease.group);
            self.receives(lease.group, *queue);
            let bucket = self.bucket_mut(*queue);
            if !bucket.cursors.contains_key(&(*queue, lease.group)) {
                let fresh = bucket.cursor_at(*queue, start.0);
                bucket.cursors.insert((*queue, lease.group), Box::new(fresh));
            }
            let cursor = bucket.cursors.entry((*queue, lease.group)).or_default();
            for &(offset, attempt, lane) in leased {
                if holes {
                    cursor.forget(offset);
                }
                let owner = lease.owned.then(|| lease.client.clone());
                cursor.lease(offset, cursor::Lease { id: lease.id, attempt, deadline: lease.deadline, owner, lane });
                given.push((*queue, offset, lease.id));
            }
            let next = next.0.max(cursor.next);
            skipped.iter().for_each(|&offset| cursor.finish(offset));
            cursor.pass_to(next, passed);
        }
        self.head.delivered += given.len() as u64;
        if let (Some(attempt_id), Some(first)) = (&lease.attempt_id, lease.queues.first())
            && !given.is_empty()
        {
            let key = (lease.group, first.queue.topic(), lease.client.clone(), attempt_id.clone());
            self.head.attempts.insert(key, given);
        }
        // Swept by the log's own count, so that every replica sweeps at the same record.
        if lease.id.0.is_multiple_of(SWEEP_EVERY) {
            self.sweep_attempts();
        }
    }

    fn apply_ack(&mut self, ack: &Ack) {
        for (queue, offsets) in &ack.queues {
            self.head.acked += offsets.len() as u64;
            self.change(ack.group, *queue, |cursor| offsets.iter().for_each(|&offset| cursor.finish(offset)));
        }
    }

    fn apply_set_visible(&mut self, set: &SetVisible) {
        let offset = set.offset.0;
        self.change(set.group, set.queue, |cursor| {
            let Some(attempt) = cursor.leases.get(&offset).map(|lease| lease.attempt) else { return };
            match set.how {
                Visibility::Extended => cursor.extend(offset, set.at),
                Visibility::Nacked => cursor.give_back(offset, set.at, attempt),
                Visibility::Suspended => cursor.give_back(offset, set.at, attempt.saturating_sub(1)),
            }
        });
    }

    fn apply_expire(&mut self, expire: &Expire) {
        self.change(expire.group, expire.queue, |cursor| {
            for &(offset, visible) in &expire.ended {
                if let Some(attempt) = cursor.leases.get(&offset).map(|lease| lease.attempt) {
                    cursor.give_back(offset, visible, attempt);
                }
            }
        });
    }

    fn apply_dead(&mut self, dead: &Dead) {
        self.head.dead_letters += 1;
        let given = self.apply_message_at(dead.dead_queue, dead.dead_offset);
        assert_eq!(given, dead.dead_offset, "dead letters get dense offsets");
        self.change(dead.group, dead.queue, |cursor| cursor.finish(dead.offset.0));
    }

    fn apply_delayed(&mut self, delayed: &Delayed) {
        let given = self.place_at(delayed.queue, delayed.offset);
        assert_eq!(given, delayed.offset, "delayed messages get dense offsets");
        match delayed.moved {
            Some(moved) => self.timers_mut().moved(moved, delayed.deliver_ms),
            None => {
                self.head.messages += 1;
                self.timers_mut().stored(delayed.queue.topic());
            }
        }
    }

    fn apply_release(&mut self, release: &Release) {
        let given = self.place_at(release.queue, release.offset);
        assert_eq!(given, release.offset, "released messages get dense offsets");
        self.timers_mut().released(release);
    }

    fn timers_mut(&mut self) -> &mut Timers {
        self.timers_changed = true;
        Arc::make_mut(&mut self.timers)
    }

    fn apply_trim(&mut self, trim: &Trim) {
        self.timers_mut().trimmed(trim);
        for &(queue, min) in &trim.queues {
            let bucket = self.bucket_mut(queue);
            let Some(bounds) = bucket.queues.get_mut(&queue) else { continue };
            let freed = bounds.trim(min);
            let min = bounds.min;
            if let Some(gone) = bucket.gone.get_mut(&queue) {
                gone.drop_below(min);
            }
            let lost: u64 = bucket.cursors.range_mut((queue, GroupId(0))..=(queue, GroupId(u32::MAX))).map(|(_, cursor)| cursor.trim(min)).sum();
            self.head.expired_unfinished += lost;
            self.freed(queue.topic(), freed);
        }
    }

    fn apply_member(&mut self, member: &Member) {
        self.head.last_member = self.head.last_member.max(member.id.0);
        self.head.members.insert(member.id, member.clone());
    }

    fn apply_forget(&mut self, forget: &Forget) {
        let goes = |queue: &QueueKey, group: Option<&GroupId>| match forget {
            Forget::Topic(topic) => queue.topic() == *topic,
            Forget::Group(gone) => group == Some(gone),
        };
        for index in 0..BUCKETS {
            let bucket = &self.buckets[index];
            let held = bucket.cursors.keys().chain(bucket.modes.keys());
            if bucket.queues.keys().any(|queue| goes(queue, None)) || held.into_iter().any(|(queue, group)| goes(queue, Some(group))) {
                self.dirty.insert(index as u16);
                let bucket = Arc::make_mut(&mut self.buckets[index]);
                bucket.queues.retain(|queue, _| !goes(queue, None));
                bucket.cursors.retain(|(queue, group), _| !goes(queue, Some(group)));
                bucket.modes.retain(|(queue, group), _| !goes(queue, Some(group)));
                bucket.gone.retain(|queue, _| !goes(queue, None));
            }
        }
        self.pulling.retain(|(_, group, queue)| !goes(queue, Some(group)));
        self.head.attempts.retain(|(group, topic, ..), _| match forget {
            Forget::Topic(gone) => topic != gone,
            Forget::Group(gone) => group != gone,
        });
        match forget {
            Forget::Topic(topic) => {
                self.groups_of.remove(topic);
                self.held.remove(topic);
                self.timers_mut().forget(*topic);
                self.transactions.forget(*topic);
                self.lite.forget_topic(*topic);
            }
            Forget::Group(group) => {
                for groups in self.groups_of.values_mut() {
                    groups.remove(group);
                }
                self.head.members.remove(group);
                self.lite.forget_group(*group);
            }
        }
    }

    /// What a repeated receive gave that is still held under the same lease.
    pub fn repeated(&self, key: &AttemptKey) -> Vec<(QueueKey, u64, LeaseId)> {
        let Some(given) = self.head.attempts.get(key) else { return Vec::new() };
        given.iter().filter(|given| self.holds(key.0, given)).copied().collect()
    }

    /// Forgets repeatable receives of which nothing is held any more.
    fn sweep_attempts(&mut self) {
        let mut attempts = std::mem::take(&mut self.head.attempts);
        attempts.retain(|key, given| given.iter().any(|given| self.holds(key.0, given)));
        self.head.attempts = attempts;
    }

    fn holds(&self, group: GroupId, &(queue, offset, lease): &(QueueKey, u64, LeaseId)) -> bool {
        self.cursor(group, queue).and_then(|cursor| cursor.leases.get(&offset)).is_some_and(|held| held.id == lease)
    }

    /// Takes the whole state as it is now, in numbered parts; `None` for a part that did not change since the last time.
    pub fn freeze(&mut self) -> Vec<(u16, Option<Part>)> {
        let dirty = std::mem::take(&mut self.dirty);
        self.timers_changed = false;
        let buckets = (0..BUCKETS as u16)
            .filter(|&index| dirty.contains(&index) || !self.buckets[index as usize].is_empty())
            .map(|index| (index, dirty.contains(&index).then(|| Part::Bucket(self.buckets[index as usize].clone()))));
        let mut parts: Vec<_> = buckets.collect();
        parts.push((snapshot::HEAD, Some(Part::Head(Box::new(self.head.clone()), self.seen.span()))));
        parts.push((snapshot::TIMERS, Some(Part::Timers(self.timers.clone()))));
        parts.extend(self.seen.freeze().into_iter().map(|(number, chunk)| (snapshot::SEEN + number, chunk.map(Part::Seen))));
        parts.push((snapshot::TRANSACTIONS, Some(Part::Transactions(self.transactions.freeze()))));
        let ended = self.transactions.ended.freeze();
        parts.extend(ended.into_iter().map(|(number, chunk)| (snapshot::ENDED + number, chunk.map(Part::Ended))));
        parts.extend(self.lite.freeze().into_iter().map(|(number, slice)| (snapshot::LITE + number, slice.map(Part::Lite))));
        parts
    }

    /// Counts everything as changed, after a checkpoint failed.
    pub fn touch_all(&mut self) {
        self.dirty = (0..BUCKETS as u16).filter(|&index| !self.buckets[index as usize].is_empty()).collect();
        self.seen.touch_all();
        self.transactions.ended.touch_all();
        self.lite.touch_all();
    }

    /// Whether anything changed since the last [`State::freeze`].
    pub fn changed(&self) -> bool {
        !self.dirty.is_empty() || self.timers_changed || self.lite.changed()
    }

    /// Puts back what a checkpoint kept.
    pub(super) fn assemble(head: Head, seen: Seen, timers: Timers, transactions: Transactions, lite: Lites, buckets: Vec<(u16, Bucket)>) -> State {
        let mut state = State { head, seen, timers: Arc::new(timers), transactions, lite, ..State::default() };
        for (index, bucket) in buckets {
            for (queue, group) in bucket.cursors.keys() {
                state.groups_of.entry(queue.topic()).or_default().insert(*group);
            }
            for (queue, bounds) in &bucket.queues {
                *state.held.entry(queue.topic()).or_default() += bounds.bytes;
            }
            let pulled = bucket.modes.iter().filter(|(_, mode)| matches!(mode, Mode::Pulls(_)));
            state.pulling.extend(pulled.map(|(&(queue, group), _)| (queue.topic(), group, queue)));
            state.buckets[index as usize % BUCKETS] = Arc::new(bucket);
        }
        state
    }

    fn change(&mut self, group: GroupId, queue: QueueKey, with: impl FnOnce(&mut Cursor)) {
        if let Some(cursor) = self.bucket_mut(queue).cursors.get_mut(&(queue, group)) {
            with(cursor);
        }
    }

    fn bucket(&self, queue: QueueKey) -> &Bucket {
        &self.buckets[bucket_of(queue)]
    }

    fn bucket_mut(&mut self, queue: QueueKey) -> &mut Bucket {
        let index = bucket_of(queue);
        self.dirty.insert(index as u16);
        Arc::make_mut(&mut self.buckets[index])
    }
}

impl Bucket {
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.cursors.is_empty() && self.modes.is_empty()
    }
}

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        let waiting = self.timers == other.timers && self.transactions == other.transactions && self.lite == other.lite;
        self.head == other.head && self.buckets == other.buckets && self.seen == other.seen && waiting
    }
}

/// Queues of one topic spread over the buckets (Fibonacci hashing: the multiplier is 2^64 divided by the golden ratio).
fn bucket_of(queue: QueueKey) -> usize {
    (queue.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 52) as usize
}
