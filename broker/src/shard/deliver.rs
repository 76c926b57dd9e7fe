//! Giving messages to waiting receives: which offsets, to whom, in which order.
//!
//! A delivery looks at the queues of the topic in turn. On each it takes messages whose next delivery is due (at most half of the batch while new
//! messages are there, so that a poison flood and fresh traffic can't starve each other), then new ones. What the receiver's filter refuses is
//! finished if no live member wants it, and otherwise kept for the others. Messages of one message group come one after the other where the
//! group keeps order; the others of their queue go past them.

use super::core::{Core, Draft, Entries, Entry, Given, Reply, Token};
use super::offers::{Beyond, Rooms};
use super::polls::{Poll, Seeks, Test, Wanted};
use super::state::cursor::Cursor;
use crate::record::{Begin, Lease, LeasedQueue, Record, SetVisible, Visibility};
use gantry_model::contract::broker::LeaseTerm;
use gantry_model::filter::Verdict;
use gantry_model::group::{Order, StartPosition};
use gantry_model::topic::TopicType;
use gantry_model::{Group, GroupId, LeaseId, Offset, QueueKey, Topic, TopicId};
use gantry_store::zoo;
use std::collections::BTreeSet;

/// What one queue gives to one receive.
pub(super) struct Pick {
    pub(super) part: LeasedQueue,
    /// Live leases that end first, because a message before them is delivered again.
    revoked: Vec<u64>,
    /// Whether the queue may have more, for this receive or another.
    more: bool,
}

/// How many messages a receive may have.
#[derive(Clone, Copy)]
pub(super) struct Share {
    /// Its part of what is there.
    fair: usize,
    /// What it asked for: it may have so many where nobody else could take them, which is behind a message of its own in a message group.
    most: usize,
}

impl Share {
    pub(super) fn all(most: usize) -> Share {
        Share { fair: most, most }
    }

    fn capped(self, most: usize) -> Share {
        Share { fair: self.fair.min(most), most: self.most.min(most) }
    }

    fn less(self, given: usize) -> Share {
        Share { fair: self.fair.saturating_sub(given), most: self.most.saturating_sub(given) }
    }
}

impl<D: Draft> Core<D> {
    pub(super) fn receive(&mut self, token: Token, mut poll: Poll, entries: &dyn Entries) {
        if self.draining() {
            return self.end_poll(token);
        }
        if self.open_polls() >= self.limits.polls {
            return self.reply(token, Reply::TooManyPolls);
        }
        self.know(poll.group.clone());
        if let Seeks::Offered(offer) = poll.seeks
            && !self.take_offer(offer)
        {
            // It came too late, and stands in line like any other.
            poll.seeks = Seeks::Messages;
        }
        if self.state.pulls(poll.group.id, poll.topic.id) {
            return self.reply(token, Reply::GroupPulls);
        }
        if poll.topic.kind == TopicType::Lite {
            return self.receive_lite(token, poll, entries);
        }
        poll.group = self.reader(&poll.group, &poll.member);
        self.know(poll.group.clone());
        // One that seeks an offer asked before what it holds, and asks again when it comes to lease.
        if poll.seeks != Seeks::Offer && self.repeat(token, &poll) {
            return self.serve(poll.topic.id, poll.group.id, entries);
        }
        let (topic, group) = (poll.topic.clone(), poll.group.clone());
        self.begin_at_newest(&topic, &group);
        let now = self.now;
        let (subscription, fresh) = self.polls.subscribe(topic.id, group.id);
        subscription.joined(&poll.wanted, now);
        if fresh {
            self.find_ready(&topic, &group, entries);
        }
        if poll.seeks == Seeks::Nothing {
            return self.end_poll(token);
        }
        self.polls.park(token, poll);
        self.serve(topic.id, group.id, entries);
    }

    /// A group that wants what comes after its first receive begins now. On queues that the topic got later it misses nothing.
    fn begin_at_newest(&mut self, topic: &Topic, group: &Group) {
        if group.start != StartPosition::Latest {
            return;
        }
        let here = topic.queues().filter(|(_, place)| place.shard == self.shard).map(|(queue, _)| QueueKey::new(topic.id, queue));
        let (known, new): (Vec<_>, Vec<_>) = here.partition(|&queue| self.state.cursor(group.id, queue).is_some());
        if new.is_empty() {
            return;
        }
        let start = |queue| if known.is_empty() { self.state.bounds(queue).next } else { self.state.bounds(queue).min };
        let queues = new.into_iter().map(|queue| (queue, Offset(start(queue)))).collect();
        self.append(Record::Begin(Begin { group: group.id, queues }));
    }

    /// Answers a receive whose first answer was lost with the very same batch.
    pub(super) fn repeat(&mut self, token: Token, poll: &Poll) -> bool {
        let Some(attempt_id) = &poll.attempt_id else { return false };
        let key = (poll.group.id, poll.topic.id, poll.client.clone(), attempt_id.clone());
        let held = self.state.repeated(&key);
        if held.is_empty() {
            return false;
        }
        let given = held.into_iter().filter_map(|(queue, offset, lease)| {
            let cursor = self.state.cursor(poll.group.id, queue)?;
            Some(Given { group: poll.group.id, queue, offset, lease, attempt: cursor.leases.get(&offset)?.attempt, reset: cursor.reset })
        });
        let reply = Reply::Delivered { lease: given.collect(), shard: self.shard };
        self.reply(token, reply);
        true
    }

    /// Fills the ready set of a subscription that is new to this leader.
    fn find_ready(&mut self, topic: &Topic, group: &Group, entries: &dyn Entries) {
        let mut ready = Vec::new();
        for (queue, place) in topic.queues() {
            let key = QueueKey::new(topic.id, queue);
            let end = self.visible_end(key);
            if place.shard != self.shard || end == 0 {
                continue;
            }
            let fresh = match self.state.cursor(group.id, key) {
                Some(cursor) => cursor.next < end || cursor.gives(self.now),
                None => self.start_of(group, key, entries) < end,
            };
            if fresh {
                ready.push(key);
            }
        }
        if let Some(subscription) = self.polls.subscription(topic.id, group.id) {
            subscription.ready.extend(ready);
        }
    }

    /// Where a group that never read this queue begins.
    pub(super) fn start_of(&self, group: &Group, queue: QueueKey, entries: &dyn Entries) -> u64 {
        let bounds = self.state.bounds(queue);
        match group.start {
            StartPosition::Earliest => bounds.min,
            StartPosition::Latest => bounds.next,
            StartPosition::Created => entries.first_at(queue, group.created_ms).unwrap_or(bounds.next).max(bounds.min),
        }
    }

    pub(super) fn serve_topic(&mut self, topic: TopicId, entries: &dyn Entries) {
        for group in self.polls.groups(topic) {
            self.serve(topic, group, entries);
        }
    }

    /// Gives what is there to the receives that wait, in their order.
    pub(super) fn serve(&mut self, topic: TopicId, group: GroupId, entries: &dyn Entries) {
        let Some(subscription) = self.polls.subscription(topic, group) else { return };
        if subscription.ready.is_empty() || subscription.waiting.is_empty() {
            return;
        }
        self.flush_acks();
        let mut position = 0;
        let mut rooms = Rooms::default();
        self.scanning.remove(&(topic, group));
        while let Some(subscription) = self.polls.subscription(topic, group) {
            let Some(&token) = subscription.waiting.get(position) else { return };
            if subscription.ready.is_empty() {
                return;
            }
            let lowest_in_hundred = self.polls.get(token).and_then(lowest_in_hundred);
            let Some(subscription) = self.polls.subscription(topic, group) else { return };
            let (queues, waiting) = (subscription.next_queues(lowest_in_hundred), subscription.waiting.len() - position);
            let before = subscription.waiting.len();
            let moved = self.serve_one(token, &queues, waiting, &mut rooms, entries);
            // An answered receive left its place to the next one; an unanswered one keeps it.
            let after = self.polls.subscription(topic, group).map_or(0, |subscription| subscription.waiting.len());
            position += usize::from(after == before);
            if moved && after == before {
                // It looked at as many messages as one may at a time, and wanted none of them: the next ones after others had their turn.
                self.scanning.insert((topic, group));
            }
        }
    }

    /// Tries to give something to one receive, or an offer if that is what it seeks, sharing what is there among `waiting` of them.
    /// Answers whether the group's position moved.
    fn serve_one(&mut self, token: Token, queues: &[QueueKey], waiting: usize, rooms: &mut Rooms, entries: &dyn Entries) -> bool {
        let Some(poll) = self.polls.get(token).cloned() else { return false };
        let beyond = self.beyond_offers(&poll, queues, rooms, entries);
        if beyond == Beyond::Nothing && !matches!(poll.seeks, Seeks::Offered(_)) {
            return false;
        }
        if let (Beyond::Some(_), Seeks::Offer) = (beyond, poll.seeks) {
            self.offer(token, None);
            return false;
        }
        rooms.changed();
        let offered = self.offers.out((poll.topic.id, poll.group.id), None);
        let fair = match beyond {
            Beyond::Some(room) => self.share(&poll, queues, waiting + offered).min(room),
            // Somebody's filter made the reckoning too small; one message is kept for who was promised something.
            Beyond::Nothing => 1,
            Beyond::Everything | Beyond::NothingAtAll => self.share(&poll, queues, waiting),
        };
        self.lease(token, &poll, queues, Share { fair, most: poll.max as usize }, entries)
    }

    /// Leases to one receive what it may have of these queues.
    fn lease(&mut self, token: Token, poll: &Poll, queues: &[QueueKey], mut left: Share, entries: &dyn Entries) -> bool {
        let mut parts = Vec::new();
        for &queue in queues {
            if left.fair == 0 {
                break;
            }
            let pick = self.pick(poll, queue, left, entries);
            left = left.less(pick.part.leased.len());
            self.revoke(poll.group.id, queue, &pick.revoked);
            if let Some(subscription) = self.polls.subscription(poll.topic.id, poll.group.id) {
                subscription.turn = queue;
                if !pick.more {
                    subscription.ready.remove(&queue);
                }
            }
            parts.push(pick.part);
        }
        self.grant(token, poll, parts)
    }

    /// How many messages one receive should get: all it wants, unless others wait and there is too little for everybody.
    fn share(&self, poll: &Poll, queues: &[QueueKey], waiting: usize) -> usize {
        let max = poll.max as usize;
        if waiting <= 1 {
            return max;
        }
        let mut there = 0;
        for &queue in queues {
            let end = self.visible_end(queue);
            there += match self.state.cursor(poll.group.id, queue) {
                Some(cursor) => {
                    let due = cursor.due(self.now).take(max).count();
                    (end - cursor.next.min(end)) as usize + due + cursor.open().take(max).count()
                }
                None => (end - self.state.bounds(queue).min.min(end)) as usize,
            };
            if there >= max * waiting {
                return max;
            }
        }
        there.div_ceil(waiting).clamp(1, max)
    }

    pub(super) fn pick(&self, poll: &Poll, queue: QueueKey, share: Share, entries: &dyn Entries) -> Pick {
        let absent;
        let cursor = match self.state.cursor(poll.group.id, queue) {
            Some(cursor) => cursor,
            None => {
                absent = self.state.cursor_at(queue, self.start_of(&poll.group, queue, entries));
                &absent
            }
        };
        let in_flight = poll.group.options.quota.in_flight.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let room = share.capped(self.limits.leases_per_cursor.min(in_flight).saturating_sub(cursor.leases.len()));
        let end = self.visible_end(queue);
        let fresh = cursor.next < end || cursor.open().next().is_some();
        let due_share = if fresh { room.fair.div_ceil(2) } else { room.fair };
        let part =
            LeasedQueue { queue, start: Offset(cursor.base), next: Offset(cursor.next), leased: Vec::new(), passed: Vec::new(), skipped: Vec::new() };
        let mut picker = Picker { core: self, poll, cursor, entries, part, revoked: Vec::new(), more: false };
        picker.take_due(due_share);
        picker.take_open(room);
        picker.take_new(end, room.fair);
        let Picker { mut part, revoked, more, .. } = picker;
        part.leased.sort_unstable();
        Pick { part, revoked, more }
    }

    /// The lane in which a group keeps the order of a message; 0 for none.
    fn lane_of(&self, poll: &Poll, entry: &Entry) -> u32 {
        match (poll.group.order, poll.topic.kind) {
            (Order::None, _) => 0,
            (_, TopicType::Lite) | (Order::Fifo, _) if entry.lane == 0 => WHOLE_QUEUE,
            (Order::Fifo, _) | (_, TopicType::Fifo | TopicType::Mixed | TopicType::Lite) => entry.lane,
            (Order::FollowTopic, _) => 0,
        }
    }

    fn judge(&self, poll: &Poll, entry: Option<&Entry>, entries: &dyn Entries) -> Judgement {
        let wants = |wanted: &Wanted, entry: &Entry| match wanted.test() {
            Test::Nothing => true,
            Test::Tag(hashes) => hashes.binary_search(&entry.tag_hash).is_ok(),
            Test::Properties(sql) => match entries.verdict(entry, sql) {
                Verdict::Error(_) => {
                    self.filter_errors.set(self.filter_errors.get() + 1);
                    false
                }
                verdict => verdict.is_match(),
            },
        };
        match entry {
            // What retention took is found out when it is read.
            _ if poll.wanted.everything() => Judgement::Wanted,
            Some(entry) if wants(&poll.wanted, entry) => Judgement::Wanted,
            Some(entry) if self.polls.somebody_wants(poll, |other| wants(other, entry)) => Judgement::ForOthers,
            _ => Judgement::Refused,
        }
    }

    /// Ends the deliveries of messages that stand behind one that is delivered again; they don't count.
    fn revoke(&mut self, group: GroupId, queue: QueueKey, offsets: &[u64]) {
        for &offset in offsets {
            self.disown(queue, group, offset);
            let set = SetVisible { group, queue, offset: Offset(offset), at: self.now, how: Visibility::Suspended };
            self.append(Record::SetVisible(set));
        }
    }

    /// Leases what was picked and answers the receive; with nothing leased, only the position moves and the receive goes on waiting.
    /// Answers whether anything changed.
    pub(super) fn grant(&mut self, token: Token, poll: &Poll, parts: Vec<LeasedQueue>) -> bool {
        let moved = |part: &LeasedQueue| {
            let next = self.state.cursor(poll.group.id, part.queue).map_or(part.start.0, |cursor| cursor.next);
            !part.leased.is_empty() || part.next.0 > next || !part.skipped.is_empty()
        };
        let queues: Vec<LeasedQueue> = parts.into_iter().filter(moved).collect();
        if queues.is_empty() {
            return false;
        }
        let (id, owned) = (LeaseId(self.state.head.last_lease + 1), poll.term == LeaseTerm::WhileClientLives);
        let deadline = self.now
            + match poll.term {
                LeaseTerm::For(time) => time.as_millis() as u64,
                LeaseTerm::WhileClientLives => poll.group.auto_renew_cap_ms,
            };
        let places: Vec<(QueueKey, u64, u32)> =
            queues.iter().flat_map(|part| part.leased.iter().map(|&(offset, attempt, _)| (part.queue, offset, attempt))).collect();
        let attempt_id = poll.attempt_id.clone().filter(|_| !places.is_empty());
        let touched: Vec<QueueKey> = queues.iter().map(|part| part.queue).collect();
        self.append(Record::Lease(Lease { group: poll.group.id, id, deadline, client: poll.client.clone(), owned, attempt_id, queues }));
        touched.into_iter().for_each(|queue| self.arm(queue, poll.group.id));
        if places.is_empty() {
            return true;
        }
        if owned {
            let held = places.iter().map(|&(queue, offset, _)| (queue, poll.group.id, offset));
            self.owned.entry(poll.client.clone()).or_default().extend(held);
        }
        let reset = |queue| self.state.cursor(poll.group.id, queue).map_or(0, |cursor| cursor.reset);
        let given =
            places.into_iter().map(|(queue, offset, attempt)| Given { group: poll.group.id, queue, offset, lease: id, attempt, reset: reset(queue) });
        let reply = Reply::Delivered { lease: given.collect(), shard: self.shard };
        self.polls.take(token);
        self.reply(token, reply);
        true
    }
}

/// Takes messages of one queue for one receive.
struct Picker<'a, D> {
    core: &'a Core<D>,
    poll: &'a Poll,
    cursor: &'a Cursor,
    entries: &'a dyn Entries,
    part: LeasedQueue,
    revoked: Vec<u64>,
    more: bool,
}

impl<D: Draft> Picker<'_, D> {
    fn full(&self, want: usize) -> bool {
        self.part.leased.len() >= want
    }

    fn entry(&self, offset: u64) -> Option<Entry> {
        self.entries.entry(self.part.queue, offset)
    }

    /// Messages whose next delivery is due. One of a message group comes alone: if it fails for ever, its neighbours must not run out of
    /// attempts with it.
    fn take_due(&mut self, want: usize) {
        let max_attempts = self.poll.group.max_attempts;
        let due = self.cursor.due(self.core.now).filter(|(_, waiting)| waiting.attempts < max_attempts);
        for (offset, waiting) in due.take(self.core.limits.scan) {
            if self.full(want) {
                self.more = true;
                return;
            }
            if matches!(self.core.judge(self.poll, self.entry(offset).as_ref(), self.entries), Judgement::Wanted) {
                self.part.leased.push((offset, waiting.attempts + 1, waiting.lane));
                if waiting.lane != 0 {
                    self.revoked.extend(self.cursor.leased_behind(offset, waiting.lane));
                }
            } else {
                self.more = true;
            }
        }
    }

    /// Messages that were passed over before, and that nothing holds back now. A message group is not divided: as long as one receive has
    /// its first message, no other can have the next one.
    fn take_open(&mut self, share: Share) {
        for (offset, lane) in self.cursor.open().take(self.core.limits.scan) {
            if self.full(share.fair) {
                self.more = true;
                return;
            }
            if lane == 0 {
                self.take_passed(offset, 0);
                continue;
            }
            let longest = if self.poll.ordered_batch { share.most } else { 1 };
            for offset in self.cursor.run(lane).take(longest) {
                if self.full(share.most) || !self.take_passed(offset, lane) {
                    break;
                }
            }
            self.more |= self.cursor.run(lane).nth(longest).is_some();
        }
    }

    /// Whether what follows in the lane may be taken too.
    fn take_passed(&mut self, offset: u64, lane: u32) -> bool {
        match self.core.judge(self.poll, self.entry(offset).as_ref(), self.entries) {
            Judgement::Wanted => self.part.leased.push((offset, 1, lane)),
            Judgement::Refused => self.part.skipped.push(offset),
            Judgement::ForOthers => {
                self.more = true;
                return false;
            }
        }
        true
    }

    /// New messages. Those of a busy message group are passed over, so that they don't hold up the others.
    fn take_new(&mut self, end: u64, want: usize) {
        let mut taken = BTreeSet::new();
        let mut blocked = BTreeSet::new();
        let mut scanned = 0;
        let mut next = self.cursor.next;
        while next < end && !self.full(want) && scanned < self.core.limits.scan && next - self.cursor.base < self.core.limits.cursor_span {
            if self.cursor.done.contains(next) {
                // Finished before its delivery: skipped, or a dead letter that is gone.
                next = self.cursor.done.behind(next);
                continue;
            }
            let entry = if self.looks() { self.entry(next) } else { None };
            let lane = entry.as_ref().map_or(0, |entry| self.core.lane_of(self.poll, entry));
            let busy = lane != 0
                && !zoo!(NoLanes)
                && (self.cursor.is_busy(lane) || blocked.contains(&lane) || taken.contains(&lane) && !self.poll.ordered_batch);
            match self.core.judge(self.poll, entry.as_ref(), self.entries) {
                Judgement::Refused => {}
                Judgement::Wanted if !busy => {
                    self.part.leased.push((next, 1, lane));
                    taken.insert(lane);
                }
                Judgement::Wanted | Judgement::ForOthers => {
                    self.part.passed.push((next, lane));
                    blocked.insert(lane);
                }
            }
            next += 1;
            scanned += 1;
        }
        self.part.next = Offset(next);
        self.more |= next < end || self.part.passed.iter().any(|&(_, lane)| lane == 0);
    }

    /// Whether anything depends on what the index says of a message.
    fn looks(&self) -> bool {
        let ordered = !matches!(
            (self.poll.group.order, self.poll.topic.kind),
            (Order::None, _) | (Order::FollowTopic, TopicType::Normal | TopicType::Delay | TopicType::Transaction | TopicType::Priority)
        );
        ordered || !self.poll.wanted.everything()
    }
}

/// Of a hundred receives from a topic with priorities, how many begin at the lowest one; `None` if the topic has none.
fn lowest_in_hundred(poll: &Poll) -> Option<u32> {
    let factor = u32::from(poll.group.options.priority_factor).min(99);
    (poll.topic.kind == TopicType::Priority).then_some(100 - factor)
}

/// The lane of messages that have no message group where everything is ordered.
pub(super) const WHOLE_QUEUE: u32 = 1;

/// What a receive's filter, and those of the other members, say of one message.
enum Judgement {
    Wanted,
    ForOthers,
    Refused,
}
