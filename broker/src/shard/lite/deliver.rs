//! Giving messages of lite topics to the clients that subscribe them.
//!
//! A receive gets messages of several lite topics at once, of each in order: a lite topic gives the next messages only when those it gave
//! before are finished. Where a client doesn't promise to keep the order itself, it gets one message of each.

use super::waiting::{Place, Who};
use crate::record::LeasedQueue;
use crate::shard::core::{Core, Draft, Entries, Token};
use crate::shard::deliver::WHOLE_QUEUE;
use crate::shard::polls::{Poll, Seeks};
use crate::shard::state::cursor::Cursor;
use crate::shard::state::lite::is_lite;
use gantry_model::{GroupId, Offset, QueueKey};
use std::collections::BTreeSet;

impl<D: Draft> Core<D> {
    /// A receive from a topic of lite topics.
    pub(in crate::shard) fn receive_lite(&mut self, token: Token, poll: Poll, entries: &dyn Entries) {
        if poll.seeks != Seeks::Offer && self.repeat(token, &poll) {
            return;
        }
        let place = (poll.topic.id, poll.group.id);
        let who = if wildcard(&poll) { None } else { Some(poll.client.clone()) };
        self.polls.lite.heard(&poll.client, place, self.now);
        let (reader, fresh) = self.polls.lite.reader_or_new(place, &who);
        if fresh {
            match &who {
                None => reader.ready.extend(self.state.lite.by_name(poll.topic.id, "").map(|(_, queue)| queue)),
                Some(client) => {
                    let member = self.state.lite.member(&(place.0, place.1, client.clone()));
                    reader.ready.extend(member.into_iter().flat_map(|member| &member.wanted).map(|&id| QueueKey::new(place.0, id)));
                }
            }
        }
        match poll.seeks {
            Seeks::Nothing => return self.end_poll(token),
            // What it came for is kept for it.
            Seeks::Offered(_) => reader.waiting.push_front(token),
            Seeks::Messages | Seeks::Offer => reader.waiting.push_back(token),
        }
        self.polls.park_lite(token, poll);
        self.serve_reader(place, &who, entries);
    }

    /// Gives what became deliverable in this step to those who wait for it, the receive that waits longest first.
    pub(in crate::shard) fn wake_lite(&mut self, entries: &dyn Entries) {
        let mut woken: BTreeSet<(Token, Place, Who)> = BTreeSet::new();
        for queue in self.polls.lite.take_arrived() {
            for group in self.polls.lite.groups(queue.topic()) {
                let place = (queue.topic(), group);
                let readers = self.state.lite.readers(group, queue).iter().cloned().map(Some);
                for who in readers.chain([None]) {
                    let Some(reader) = self.polls.lite.reader(place, &who) else { continue };
                    reader.ready.insert(queue);
                    if let Some(&token) = reader.waiting.front() {
                        woken.insert((token, place, who));
                    }
                }
            }
        }
        for (_, place, who) in woken {
            self.serve_reader(place, &who, entries);
        }
    }

    pub(in crate::shard) fn serve_reader(&mut self, place: Place, who: &Who, entries: &dyn Entries) {
        self.flush_acks();
        while let Some(reader) = self.polls.lite.reader(place, who) {
            let Some(&token) = reader.waiting.front() else { return };
            if reader.ready.is_empty() || !self.serve_lite(token, place, who, entries) {
                return;
            }
        }
    }

    /// Tries to give something to one receive, or an offer if that is what it seeks; answers whether it got anything.
    fn serve_lite(&mut self, token: Token, place: Place, who: &Who, entries: &dyn Entries) -> bool {
        let Some(poll) = self.polls.get(token).cloned() else { return false };
        let lites = match (self.beyond_lite_offers(&poll, place, who, entries), poll.seeks) {
            (Some(0), Seeks::Offered(_)) => 1,
            (Some(0), _) => return false,
            (Some(_), Seeks::Offer) => {
                self.offer(token, Some(who.clone()));
                return true;
            }
            (lites, _) => lites.unwrap_or(usize::MAX),
        };
        let mut parts = Vec::new();
        let mut left = poll.max as usize;
        while left > 0
            && parts.len() < lites
            && let Some(queue) = self.polls.lite.reader(place, who).and_then(|reader| reader.next_ready())
        {
            if let Some(part) = self.pick_lite(&poll, queue, left, entries) {
                left -= part.leased.len();
                parts.push(part);
            }
        }
        let given = !parts.is_empty();
        self.grant(token, &poll, parts);
        given
    }

    /// From how many lite topics a receive may get something beside what is offered to others; `None` if nothing is.
    fn beyond_lite_offers(&mut self, poll: &Poll, place: Place, who: &Who, entries: &dyn Entries) -> Option<usize> {
        let out = self.offers.out(place, Some(who));
        if out == 0 && poll.seeks != Seeks::Offer {
            return None;
        }
        let ready: Vec<QueueKey> = self.polls.lite.reader(place, who).map(|reader| reader.ready.iter().copied().collect()).unwrap_or_default();
        let mut there = 0;
        for queue in ready {
            if there >= out + poll.max as usize {
                break;
            }
            match self.pick_lite(poll, queue, 1, entries) {
                Some(_) => there += 1,
                // It comes back with the next event, as any that was looked at.
                None => drop(self.polls.lite.reader(place, who).map(|reader| reader.ready.remove(&queue))),
            }
        }
        Some(there.saturating_sub(out))
    }

    /// The next messages of a lite topic, in their order; `None` if there are none for now.
    fn pick_lite(&self, poll: &Poll, queue: QueueKey, left: usize, entries: &dyn Entries) -> Option<LeasedQueue> {
        if self.lite_locked(poll.group.id, queue) {
            return None;
        }
        let absent;
        let cursor = match self.state.cursor(poll.group.id, queue) {
            Some(cursor) => cursor,
            None => {
                absent = Cursor::starting_at(Offset(self.start_of(&poll.group, queue, entries)));
                &absent
            }
        };
        let want = if poll.ordered_batch { left as u64 } else { 1 };
        let (next, leased) = match cursor.waiting.first_key_value() {
            // One that failed comes alone: if it fails for ever, those behind it must not run out of attempts with it.
            Some((&offset, again)) if again.attempts < poll.group.max_attempts => (cursor.next, vec![(offset, again.attempts + 1, WHOLE_QUEUE)]),
            Some(_) => return None,
            None => {
                let next = self.visible_end(queue).min(cursor.next + want).max(cursor.next);
                (next, (cursor.next..next).map(|offset| (offset, 1, WHOLE_QUEUE)).collect())
            }
        };
        let part = LeasedQueue { queue, start: Offset(cursor.base), next: Offset(next), leased, passed: Vec::new(), skipped: Vec::new() };
        Some(part).filter(|part| !part.leased.is_empty())
    }

    /// Whether a group has to finish something before it gets more of a lite topic.
    fn lite_locked(&self, group: GroupId, queue: QueueKey) -> bool {
        let Some(cursor) = self.state.cursor(group, queue) else { return false };
        let head_waits = cursor.waiting.first_key_value().is_some_and(|(_, waiting)| waiting.visible > self.now);
        !cursor.leases.is_empty() || head_waits
    }

    /// A message of a queue was finished for a group; of a lite topic, the next one may be there for somebody.
    pub(in crate::shard) fn unlock_lite(&mut self, queue: QueueKey) {
        if is_lite(queue) {
            self.polls.lite.arrived(queue);
        }
    }
}

/// Whether every member of the group gets every lite topic.
fn wildcard(poll: &Poll) -> bool {
    poll.group.options.lite.as_ref().is_some_and(|lite| lite.wildcard)
}
