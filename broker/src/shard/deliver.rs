//! Giving messages to waiting receives: which offsets, to whom, in which order.
//!
//! A delivery looks at the queues of the topic in turn. On each it takes messages whose next delivery is due (at most half of the batch while new
//! messages are there, so that a poison flood and fresh traffic can't starve each other), then new ones. What the receiver's filter refuses is
//! finished if no live member wants it, and otherwise kept for the others.

use super::core::{Core, Draft, Entries, Given, Reply, Token};
use super::polls::Poll;
use super::state::cursor::Cursor;
use crate::record::{Lease, LeasedQueue, Record};
use gantry_model::contract::broker::LeaseTerm;
use gantry_model::group::StartPosition;
use gantry_model::{Group, GroupId, LeaseId, Offset, QueueKey, Topic, TopicId};

/// What one queue gives to one receive.
struct Pick {
    part: LeasedQueue,
    /// Whether the queue may have more, for this receive or another.
    more: bool,
}

impl<D: Draft> Core<D> {
    pub(super) fn receive(&mut self, token: Token, poll: Poll, entries: &dyn Entries) {
        if self.draining() {
            return self.end_poll(token);
        }
        if self.polls.count() >= self.limits.polls {
            return self.reply(token, Reply::TooManyPolls);
        }
        self.know(poll.group.clone());
        if self.repeat(token, &poll) {
            return;
        }
        let (topic, group) = (poll.topic.clone(), poll.group.clone());
        let now = self.now;
        let (subscription, fresh) = self.polls.subscribe(topic.id, group.id);
        subscription.joined(&poll.wanted, now);
        if fresh {
            self.find_ready(&topic, &group, entries);
        }
        self.polls.park(token, poll);
        self.serve(topic.id, group.id, entries);
    }

    /// Answers a receive whose first answer was lost with the very same batch.
    fn repeat(&mut self, token: Token, poll: &Poll) -> bool {
        let Some(attempt_id) = &poll.attempt_id else { return false };
        let key = (poll.group.id, poll.topic.id, poll.client.clone(), attempt_id.clone());
        let held = self.state.repeated(&key);
        if held.is_empty() {
            return false;
        }
        let given = held.into_iter().filter_map(|(queue, offset, lease)| {
            let cursor = self.state.cursor(poll.group.id, queue)?;
            Some(Given { queue, offset, lease, attempt: cursor.leases.get(&offset)?.attempt, reset: cursor.reset })
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
                Some(cursor) => cursor.next < end || cursor.due(self.now).next().is_some(),
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
        while let Some(subscription) = self.polls.subscription(topic, group) {
            let Some(&token) = subscription.waiting.get(position) else { return };
            if subscription.ready.is_empty() {
                return;
            }
            let (queues, waiting) = (subscription.in_turn(), subscription.waiting.len() - position);
            let before = subscription.waiting.len();
            self.serve_one(token, &queues, waiting, entries);
            // An answered receive left its place to the next one; an unanswered one keeps it.
            let after = self.polls.subscription(topic, group).map_or(0, |subscription| subscription.waiting.len());
            position += usize::from(after == before);
        }
    }

    /// Tries to give something to one receive, sharing what is there among `waiting` of them.
    fn serve_one(&mut self, token: Token, queues: &[QueueKey], waiting: usize, entries: &dyn Entries) {
        let Some(poll) = self.polls.get(token).cloned() else { return };
        let want = self.share(&poll, queues, waiting);
        let mut parts = Vec::new();
        let mut left = want;
        for &queue in queues {
            if left == 0 {
                break;
            }
            let pick = self.pick(&poll, queue, left, entries);
            left -= pick.part.leased.len();
            if let Some(subscription) = self.polls.subscription(poll.topic.id, poll.group.id) {
                subscription.turn = queue;
                if !pick.more {
                    subscription.ready.remove(&queue);
                }
            }
            parts.push(pick.part);
        }
        self.grant(token, &poll, parts);
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
                Some(cursor) => (end - cursor.next.min(end)) as usize + cursor.due(self.now).take(max).count(),
                None => (end - self.state.bounds(queue).min.min(end)) as usize,
            };
            if there >= max * waiting {
                return max;
            }
        }
        there.div_ceil(waiting).clamp(1, max)
    }

    fn pick(&self, poll: &Poll, queue: QueueKey, want: usize, entries: &dyn Entries) -> Pick {
        let absent;
        let cursor = match self.state.cursor(poll.group.id, queue) {
            Some(cursor) => cursor,
            None => {
                absent = Cursor::starting_at(Offset(self.start_of(&poll.group, queue, entries)));
                &absent
            }
        };
        let end = self.visible_end(queue);
        let fresh = cursor.next < end;
        let due_share = if fresh { want.div_ceil(2) } else { want };
        let (mut leased, due_more) = self.pick_due(poll, cursor, queue, due_share, entries);
        let room = self.limits.leases_per_cursor.saturating_sub(cursor.leases.len() + leased.len()).min(want - leased.len());
        let mut kept = Vec::new();
        let mut next = cursor.next;
        let mut taken = 0;
        let mut scanned = 0;
        while next < end && taken < room && scanned < self.limits.scan && next - cursor.base < self.limits.cursor_span {
            match self.judge(poll, queue, next, entries) {
                Judgement::Wanted => {
                    leased.push((next, 1));
                    taken += 1;
                }
                Judgement::ForOthers => kept.push(next),
                Judgement::Refused => {}
            }
            next += 1;
            scanned += 1;
        }
        leased.sort_unstable();
        let part = LeasedQueue { queue, start: Offset(cursor.base), next: Offset(next), leased, kept };
        Pick { more: next < end || due_more || !part.kept.is_empty(), part }
    }

    /// Messages whose next delivery is due, and whether there are more of them than were taken.
    fn pick_due(&self, poll: &Poll, cursor: &Cursor, queue: QueueKey, want: usize, entries: &dyn Entries) -> (Vec<(u64, u32)>, bool) {
        let mut leased = Vec::new();
        let mut due = cursor.due(self.now).filter(|(_, waiting)| waiting.attempts < poll.group.max_attempts);
        for (offset, waiting) in due.by_ref().take(self.limits.scan) {
            if leased.len() == want {
                return (leased, true);
            }
            if matches!(self.judge(poll, queue, offset, entries), Judgement::Wanted) {
                leased.push((offset, waiting.attempts + 1));
            }
        }
        let left = cursor.due(self.now).count() > leased.len();
        (leased, left)
    }

    fn judge(&self, poll: &Poll, queue: QueueKey, offset: u64, entries: &dyn Entries) -> Judgement {
        if poll.wanted.everything() {
            return Judgement::Wanted;
        }
        match entries.entry(queue, offset) {
            Some(entry) if poll.wanted.wants(entry.tag_hash) => Judgement::Wanted,
            Some(entry) if self.polls.somebody_wants(poll, entry.tag_hash) => Judgement::ForOthers,
            _ => Judgement::Refused,
        }
    }

    /// Leases what was picked and answers the receive; with nothing leased, only the position moves and the receive goes on waiting.
    fn grant(&mut self, token: Token, poll: &Poll, parts: Vec<LeasedQueue>) {
        let moved = |part: &LeasedQueue| {
            let next = self.state.cursor(poll.group.id, part.queue).map_or(part.start.0, |cursor| cursor.next);
            !part.leased.is_empty() || part.next.0 > next
        };
        let queues: Vec<LeasedQueue> = parts.into_iter().filter(moved).collect();
        if queues.is_empty() {
            return;
        }
        let (id, owned) = (LeaseId(self.state.head.last_lease + 1), poll.term == LeaseTerm::WhileClientLives);
        let deadline = self.now
            + match poll.term {
                LeaseTerm::For(time) => time.as_millis() as u64,
                LeaseTerm::WhileClientLives => poll.group.auto_renew_cap_ms,
            };
        let places: Vec<(QueueKey, u64, u32)> =
            queues.iter().flat_map(|part| part.leased.iter().map(|&(offset, attempt)| (part.queue, offset, attempt))).collect();
        let attempt_id = poll.attempt_id.clone().filter(|_| !places.is_empty());
        let touched: Vec<QueueKey> = queues.iter().map(|part| part.queue).collect();
        self.append(Record::Lease(Lease { group: poll.group.id, id, deadline, client: poll.client.clone(), owned, attempt_id, queues }));
        touched.into_iter().for_each(|queue| self.arm(queue, poll.group.id));
        if places.is_empty() {
            return;
        }
        if owned {
            let held = places.iter().map(|&(queue, offset, _)| (queue, poll.group.id, offset));
            self.owned.entry(poll.client.clone()).or_default().extend(held);
        }
        let reset = |queue| self.state.cursor(poll.group.id, queue).map_or(0, |cursor| cursor.reset);
        let given = places.into_iter().map(|(queue, offset, attempt)| Given { queue, offset, lease: id, attempt, reset: reset(queue) });
        let reply = Reply::Delivered { lease: given.collect(), shard: self.shard };
        self.polls.take(token);
        self.reply(token, reply);
    }
}

/// What a receive's filter, and those of the other members, say of one message.
enum Judgement {
    Wanted,
    ForOthers,
    Refused,
}
