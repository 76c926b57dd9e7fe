//! The end of deliveries: acknowledged, failed, lapsed, dead, given back; and where groups stand.

use super::core::{After, Core, Draft, Entries, Reign, Reply, Token};
use super::state::cursor::Found;
use super::state::offsets::Mode;
use crate::record::{Ack, Dead, Expire, Record, SetVisible, Visibility};
use gantry_model::contract::broker::{AttemptCount, LeaseError, QueuePosition};
use gantry_model::group::Exhausted;
use gantry_model::message::DeadReason;
use gantry_model::{ClientId, Group, GroupId, Offset, QueueId, QueueKey, ReceiptHandle, Topic, TopicId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Lapsed leases and dead letters handled for one cursor before others get their turn.
const PER_CURSOR: usize = 1_000;

/// An answer that was on its way for longer than this when its leader ended has arrived.
const DOUBTFUL_MS: u64 = 2_000;
/// How long a client that may not have its answer keeps its messages: the first invisible time that RocketMQ's proxies give.
const UNHEARD_MS: u64 = 30_000;

/// What a handle refers to.
enum Holder {
    /// The delivery may still be finished or changed.
    Holds {
        queue: QueueKey,
        attempt: u32,
    },
    Finished,
    Lost,
}

impl<D: Draft> Core<D> {
    pub(super) fn ack(&mut self, token: Token, group: GroupId, handles: &[ReceiptHandle]) {
        let answers = handles.iter().map(|handle| match self.holder(group, handle) {
            Holder::Holds { queue, .. } => {
                self.acks.entry(handle.group).or_default().entry(queue).or_default().insert(handle.offset.0);
                Ok(())
            }
            Holder::Finished => Ok(()),
            Holder::Lost => Err(LeaseError::Ended),
        });
        let answers = answers.collect();
        self.reply(token, Reply::Acked(answers));
    }

    /// Ends a round: what was put off is appended, and queues that were full of unfinished messages may give again.
    pub(super) fn settle(&mut self, entries: &dyn Entries) {
        let touched: BTreeSet<(TopicId, GroupId)> =
            self.acks.iter().flat_map(|(&group, queues)| queues.keys().map(move |queue| (queue.topic(), group))).collect();
        self.flush_acks();
        for (topic, group) in touched {
            self.serve(topic, group, entries);
        }
    }

    /// Appends the acknowledgements that were collected, one frame per group.
    pub(super) fn flush_acks(&mut self) {
        for (group, queues) in std::mem::take(&mut self.acks) {
            let queues: Vec<(QueueKey, Vec<u64>)> = queues.into_iter().map(|(queue, offsets)| (queue, offsets.into_iter().collect())).collect();
            for (queue, offsets) in &queues {
                offsets.iter().for_each(|&offset| self.disown(*queue, group, offset));
            }
            let touched: Vec<QueueKey> = queues.iter().map(|(queue, _)| *queue).collect();
            self.append(Record::Ack(Ack { group, queues }));
            touched.into_iter().for_each(|queue| self.unlocked(queue, group));
        }
    }

    /// A message was finished: the next one of its message group may be there for somebody, or may have used up its attempts.
    fn unlocked(&mut self, queue: QueueKey, group: GroupId) {
        self.unlock_lite(queue);
        let Some(cursor) = self.state.cursor(group, queue) else { return };
        if cursor.due(self.now).next().is_some() {
            self.timers.insert((self.now, queue, group));
        }
        if cursor.gives(self.now)
            && let Some(subscription) = self.polls.subscription(queue.topic(), group)
        {
            subscription.ready.insert(queue);
        }
    }

    pub(super) fn change(&mut self, token: Token, group: Arc<Group>, handle: ReceiptHandle, after: After, attempt: AttemptCount) {
        self.flush_acks();
        self.know(group.clone());
        let answer = match self.holder(group.id, &handle) {
            Holder::Holds { queue, .. } => self.move_end(queue, handle.group, handle.offset, after, attempt),
            Holder::Finished | Holder::Lost => Err(LeaseError::Ended),
        };
        self.reply(token, Reply::Changed(answer));
    }

    fn move_end(&mut self, queue: QueueKey, group: GroupId, offset: Offset, after: After, attempt: AttemptCount) -> Result<(), LeaseError> {
        let Some(lease) = self.state.cursor(group, queue).and_then(|cursor| cursor.leases.get(&offset.0)) else {
            // It lapsed a moment ago and nobody has it yet: too late to keep it, and it is visible already.
            return Err(LeaseError::Ended);
        };
        let how = match attempt {
            AttemptCount::Suspended => Visibility::Suspended,
            // Only a push consumer has a lease without a deadline, and it moves the end to say that it failed.
            AttemptCount::Counts if lease.owner.is_some() || after.asked_ms == 0 => Visibility::Nacked,
            AttemptCount::Counts => Visibility::Extended,
        };
        let failed = lease.owner.is_some() && how == Visibility::Nacked;
        let at = self.now + if failed { after.asked_ms.max(after.failed_ms) } else { after.asked_ms };
        self.disown(queue, group, offset.0);
        self.append(Record::SetVisible(SetVisible { group, queue, offset, at, how }));
        self.timers.insert((at, queue, group));
        Ok(())
    }

    pub(super) fn dead(&mut self, token: Token, group: Arc<Group>, handle: ReceiptHandle, entries: &dyn Entries) {
        self.flush_acks();
        self.know(group.clone());
        let answer = match self.holder(group.id, &handle) {
            Holder::Holds { queue, attempt } => {
                let holder = self.holder_definition(&group, handle.group);
                self.bury(&holder, queue, handle.offset.0, attempt, DeadReason::Forwarded, entries);
                self.unlocked(queue, handle.group);
                self.serve(queue.topic(), handle.group, entries);
                Ok(())
            }
            Holder::Finished => Ok(()),
            Holder::Lost => Err(LeaseError::Ended),
        };
        self.reply(token, Reply::Changed(answer));
    }

    /// Moves a message to the dead letter queue of the group; if the message itself is gone, it is only finished.
    fn bury(&mut self, group: &Group, queue: QueueKey, offset: u64, attempts: u32, reason: DeadReason, entries: &dyn Entries) {
        self.disown(queue, group.id, offset);
        self.unlock_lite(queue);
        let Some(entry) = entries.entry(queue, offset) else {
            return self.append(Record::Ack(Ack { group: group.id, queues: vec![(queue, vec![offset])] }));
        };
        let dead_queue = QueueKey::new(group.dead_letter, QueueId(self.shard.0));
        let dead_offset = Offset(self.state.bounds(dead_queue).next);
        let dead = Dead { group: group.id, queue, offset: Offset(offset), attempts, reason, dead_queue, dead_offset, original: entry.lsn };
        self.append_copy(Record::Dead(dead), entry.lsn);
    }

    pub(super) fn release(&mut self, handles: &[ReceiptHandle], entries: &dyn Entries) {
        self.flush_acks();
        for handle in handles {
            let queue = QueueKey::new(handle.topic, handle.queue);
            let held = self.state.cursor(handle.group, queue).and_then(|cursor| cursor.leases.get(&handle.offset.0));
            if held.is_none_or(|lease| lease.id != handle.lease) {
                continue;
            }
            self.disown(queue, handle.group, handle.offset.0);
            let set = SetVisible { group: handle.group, queue, offset: handle.offset, at: self.now, how: Visibility::Suspended };
            self.append(Record::SetVisible(set));
            self.polls.arrived(queue);
            self.serve(handle.topic, handle.group, entries);
        }
    }

    /// What was given out just before the leader before ended has perhaps never reached its client, and a lease that lasts as long as the client
    /// lives would hold it for hours. Such a lease gets an end: a client that has the message finishes it until then.
    pub(super) fn doubt_answers(&mut self, group: GroupId) {
        let Some(cap_ms) = self.groups.get(&group).map(|group| group.auto_renew_cap_ms) else { return };
        let (Reign { log_ended, shift_ms }, mut doubtful) = (self.reign, Vec::new());
        for (queue, _, cursor) in self.state.cursors().filter(|(_, of, _)| *of == group) {
            let owned = cursor.leases.iter().filter(|(_, lease)| lease.owner.is_some());
            let late = owned.filter(|(_, lease)| lease.deadline.saturating_sub(cap_ms + shift_ms) + DOUBTFUL_MS >= log_ended);
            doubtful.extend(late.map(|(&offset, _)| (queue, offset)));
        }
        for (queue, offset) in doubtful {
            self.disown(queue, group, offset);
            let set = SetVisible { group, queue, offset: Offset(offset), at: self.now + UNHEARD_MS, how: Visibility::Extended };
            self.append(Record::SetVisible(set));
            self.timers.insert((set.at, queue, group));
        }
    }

    /// A client is dead: its polls end, and what it held as long as it lived becomes visible.
    pub(super) fn client_gone(&mut self, client: &ClientId, entries: &dyn Entries) {
        self.flush_acks();
        self.polls.of_client(client).into_iter().for_each(|token| self.end_poll(token));
        self.void_offers_of(client, entries);
        for (queue, group, offset) in self.owned.remove(client).unwrap_or_default() {
            let lease = self.state.cursor(group, queue).and_then(|cursor| cursor.leases.get(&offset));
            if lease.is_some_and(|lease| lease.owner.as_ref() == Some(client)) {
                self.append(Record::Expire(Expire { group, queue, ended: vec![(offset, self.now)] }));
                self.timers.insert((self.now, queue, group));
            }
        }
        self.lite_gone(client);
        self.tick(entries);
    }

    /// Handles everything whose time has come.
    pub(super) fn tick(&mut self, entries: &dyn Entries) {
        let mut touched = Vec::new();
        while let Some(&(time, queue, group)) = self.timers.first() {
            if time > self.now {
                break;
            }
            self.timers.pop_first();
            // One cursor may be armed several times for the same moment.
            if touched.last() != Some(&(queue, group)) {
                touched.push((queue, group));
            }
        }
        if !touched.is_empty() {
            self.flush_acks();
        }
        touched.sort_unstable();
        touched.dedup();
        for (queue, group) in touched {
            self.look_at(queue, group, entries);
        }
        for (topic, group) in std::mem::take(&mut self.scanning) {
            self.serve(topic, group, entries);
        }
        self.wake_lite(entries);
        self.polls.overdue(self.now).into_iter().for_each(|token| self.end_poll(token));
        self.void_offers(entries);
        self.look_for_timers(entries);
        self.look_at_transactions();
        let over = self.pulls.overdue(self.now);
        self.end_pulls(over);
    }

    /// Ends what lapsed on one cursor, buries what used up its attempts, and wakes receivers for what is due.
    fn look_at(&mut self, queue: QueueKey, group_id: GroupId, entries: &dyn Entries) {
        let Some(group) = self.groups.get(&group_id).cloned() else {
            self.orphans.insert((group_id, queue));
            return;
        };
        let Some(cursor) = self.state.cursor(group_id, queue) else { return };
        let lapsed: Vec<(u64, u64)> = cursor
            .lapsed(self.now)
            .take(PER_CURSOR)
            // A consumer that lived and held a message to the cap failed like one that said so.
            .map(|(offset, lease)| (offset, if lease.owner.is_some() { self.now + group.retry.delay_ms(lease.attempt) } else { self.now }))
            .collect();
        if !lapsed.is_empty() {
            lapsed.iter().for_each(|&(offset, _)| self.disown(queue, group_id, offset));
            self.append(Record::Expire(Expire { group: group_id, queue, ended: lapsed }));
        }
        self.bury_used_up(&group, queue, entries);
        if self.state.cursor(group_id, queue).is_some_and(|cursor| cursor.gives(self.now)) {
            self.polls.arrived(queue);
            self.serve(queue.topic(), group_id, entries);
        }
        self.arm(queue, group_id);
    }

    /// Buries what is due and used up its attempts. The next of a message group shows only when the one before is gone.
    fn bury_used_up(&mut self, group: &Group, queue: QueueKey, entries: &dyn Entries) {
        for _ in 0..PER_CURSOR {
            let Some(cursor) = self.state.cursor(group.id, queue) else { return };
            let stays = |lane: u32| lane != 0 && group.options.exhausted == Exhausted::Block;
            let used_up = cursor.due(self.now).find(|(_, waiting)| waiting.attempts >= group.max_attempts && !stays(waiting.lane));
            let Some((offset, attempts)) = used_up.map(|(offset, waiting)| (offset, waiting.attempts)) else { return };
            self.bury(group, queue, offset, attempts, DeadReason::MaxAttempts, entries);
        }
        self.timers.insert((self.now, queue, group.id));
    }

    pub(super) fn positions(&mut self, token: Token, group: &Group, topic: &Topic, entries: &dyn Entries) {
        self.flush_acks();
        let mut positions = Vec::with_capacity(topic.queues.len());
        for (queue, _) in topic.queues().filter(|(_, place)| place.shard == self.shard) {
            positions.push(self.slowest_position(group, QueueKey::new(topic.id, queue), entries));
        }
        self.reply(token, Reply::Positions(positions));
    }

    /// Where the group stands; of a broadcasting group, its slowest member.
    fn slowest_position(&self, group: &Group, queue: QueueKey, entries: &dyn Entries) -> QueuePosition {
        let positions = self.readers(group).into_iter().map(|id| self.position(&Group { id, ..group.clone() }, queue, entries));
        let end = Offset(self.visible_end(queue));
        positions.min_by_key(|position| position.committed).unwrap_or(QueuePosition {
            queue: queue.queue(),
            committed: end,
            end,
            ..Default::default()
        })
    }

    fn position(&self, group: &Group, queue: QueueKey, entries: &dyn Entries) -> QueuePosition {
        let end = self.visible_end(queue);
        let absent;
        let cursor = match (self.state.mode(group.id, queue), self.state.cursor(group.id, queue)) {
            (Some(Mode::Pulls(committed)), _) => {
                absent = self.state.cursor_at(queue, committed.max(self.state.bounds(queue).min));
                &absent
            }
            (_, Some(cursor)) => cursor,
            (_, None) => {
                absent = self.state.cursor_at(queue, self.start_of(group, queue, entries).min(end));
                &absent
            }
        };
        let (base, due) = (cursor.base, cursor.due(self.now).count() as u64);
        let untouched = end.saturating_sub(cursor.next) - cursor.done.count_between(cursor.next, end);
        QueuePosition {
            queue: queue.queue(),
            committed: Offset(base),
            end: Offset(end),
            ready: untouched + due + cursor.passed.len() as u64,
            in_flight: cursor.leases.len() as u64,
            waiting: cursor.waiting.len() as u64 - due,
            oldest_ms: (base < end).then(|| entries.entry(queue, base)).flatten().map(|entry| entry.time),
            receives: self.receives(group.id, queue),
        }
    }

    /// What the holder of a handle may still do.
    fn holder(&self, group: GroupId, handle: &ReceiptHandle) -> Holder {
        let queue = QueueKey::new(handle.topic, handle.queue);
        let holder = self.holder_group(group, handle);
        let Some(cursor) = holder.and_then(|holder| self.state.cursor(holder, queue)).filter(|cursor| cursor.reset == handle.reset) else {
            return Holder::Lost;
        };
        match cursor.find(handle.offset.0, handle.lease) {
            Found::Held { attempt } => Holder::Holds { queue, attempt },
            Found::Finished => Holder::Finished,
            Found::Gone => Holder::Lost,
        }
    }

    /// A lease ends: its owner, if it has one, holds it no more.
    pub(super) fn disown(&mut self, queue: QueueKey, group: GroupId, offset: u64) {
        let owner = self.state.cursor(group, queue).and_then(|cursor| cursor.leases.get(&offset)).and_then(|lease| lease.owner.clone());
        if let Some(owner) = owner
            && let Some(held) = self.owned.get_mut(&owner)
        {
            held.remove(&(queue, group, offset));
            if held.is_empty() {
                self.owned.remove(&owner);
            }
        }
    }
}
