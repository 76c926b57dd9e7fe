//! Where one group stands on one queue, and every message that it holds.
//!
//! ```text
//!            base                              next                visible end
//!   finished  │  leased · waiting · finished    │  never delivered   │  not committed yet
//!  ───────────┼─────────────────────────────────┼────────────────────┼──────────────▶ offsets
//!
//!   new ──lease──▶ leased ──ack──▶ finished
//!                  leased ──expire / nack──▶ waiting ──lease──▶ leased (attempt + 1)
//!                  leased, waiting ──dead──▶ finished
//! ```
//!
//! Every offset in `base..next` is in exactly one of `done`, `leases` and `waiting`; `check` asserts it.

use super::ranges::Ranges;
use gantry_model::{ClientId, LeaseId, Offset};
use std::collections::{BTreeMap, BTreeSet};

/// A delivery that its consumer has not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    /// Number of this delivery, the first is 1.
    pub attempt: u32,
    /// When it ends by itself, in the shard's time.
    pub deadline: u64,
    /// Set when the lease lasts as long as this client lives; `deadline` is then the cap.
    pub owner: Option<ClientId>,
}

/// A message between two deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// When it may be delivered again, in the shard's time.
    pub visible: u64,
    /// Deliveries so far.
    pub attempts: u32,
    /// The lease that ended; an acknowledgement by its holder still counts.
    pub last: LeaseId,
}

/// What became of a lease that somebody refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is live, or it ended and nobody has got the message since.
    Held { attempt: u32 },
    /// The message is finished.
    Finished,
    /// The message went to somebody else, or was never given out.
    Gone,
}

/// The deliveries of one queue to one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub base: u64,
    pub next: u64,
    pub done: Ranges,
    pub leases: BTreeMap<u64, Lease>,
    pub waiting: BTreeMap<u64, Waiting>,
    /// Grows when the position is reset.
    pub reset: u32,
    /// `leases` by deadline.
    deadlines: BTreeSet<(u64, u64)>,
    /// `waiting` by the time it becomes visible.
    due: BTreeSet<(u64, u64)>,
}

impl Cursor {
    pub fn starting_at(offset: Offset) -> Cursor {
        Cursor::between(offset.0, offset.0, 0)
    }

    /// A cursor as a checkpoint begins to restore it: nothing held, nothing finished.
    pub fn between(base: u64, next: u64, reset: u32) -> Cursor {
        Cursor { base, next, reset, ..Cursor::default() }
    }

    /// Gives an offset out: a new one (`next` moves with [`Cursor::pass_to`]) or one that waited.
    pub fn lease(&mut self, offset: u64, lease: Lease) {
        self.end_waiting(offset);
        assert!(!self.leases.contains_key(&offset), "an offset is never under two live leases");
        self.deadlines.insert((lease.deadline, offset));
        self.leases.insert(offset, lease);
    }

    /// Ends whatever is known of an offset that is given out again, because the record of its end was lost.
    pub fn forget(&mut self, offset: u64) {
        self.end_lease(offset);
        self.end_waiting(offset);
        self.done.remove(offset);
        if offset < self.base {
            self.done.insert(offset + 1, self.base);
            self.base = offset;
        }
    }

    /// Moves `next`; what lies between and is neither leased nor kept for others was filtered, and is finished.
    pub fn pass_to(&mut self, next: u64, kept: &[u64]) {
        assert!(next >= self.next, "deliveries never move back");
        for &offset in kept {
            self.wait(offset, Waiting { visible: 0, attempts: 0, last: LeaseId(0) });
        }
        for offset in self.next..next {
            if !self.leases.contains_key(&offset) && !self.waiting.contains_key(&offset) {
                self.done.insert(offset, offset + 1);
            }
        }
        self.next = next;
        self.advance();
    }

    /// Finishes an offset, whatever state it is in.
    pub fn finish(&mut self, offset: u64) {
        if offset < self.base || offset >= self.next {
            return;
        }
        self.end_lease(offset);
        self.end_waiting(offset);
        self.done.insert(offset, offset + 1);
        self.advance();
    }

    /// Ends a lease; the message waits until `visible`. `attempts` is what counts so far.
    pub fn give_back(&mut self, offset: u64, visible: u64, attempts: u32) {
        if let Some(lease) = self.end_lease(offset) {
            self.wait(offset, Waiting { visible, attempts, last: lease.id });
        }
    }

    /// Moves the end of a lease, which from now on has a deadline and no owner.
    pub fn extend(&mut self, offset: u64, deadline: u64) {
        if let Some(mut lease) = self.end_lease(offset) {
            lease.deadline = deadline;
            lease.owner = None;
            self.lease(offset, lease);
        }
    }

    /// What a holder of `lease` on `offset` may still do.
    pub fn find(&self, offset: u64, lease: LeaseId) -> Found {
        if offset < self.base || self.done.contains(offset) {
            return Found::Finished;
        }
        match (self.leases.get(&offset), self.waiting.get(&offset)) {
            (Some(live), _) if live.id == lease => Found::Held { attempt: live.attempt },
            (_, Some(waiting)) if waiting.last == lease => Found::Held { attempt: waiting.attempts },
            _ => Found::Gone,
        }
    }

    /// The messages below `min` are no longer stored; answers how many were unfinished.
    pub fn trim(&mut self, min: u64) -> u64 {
        if min <= self.base {
            return 0;
        }
        let unfinished = (self.leases.range(..min).count() + self.waiting.range(..min).count()) as u64 + min.saturating_sub(self.next);
        let gone: Vec<u64> =
            self.leases.range(..min).map(|(&offset, _)| offset).chain(self.waiting.range(..min).map(|(&offset, _)| offset)).collect();
        for offset in gone {
            self.end_lease(offset);
            self.end_waiting(offset);
        }
        self.base = min;
        self.next = self.next.max(min);
        self.advance();
        unfinished
    }

    /// Moves every deadline of a live lease; after a change of leader.
    pub fn shift_deadlines(&mut self, by: u64) {
        for lease in self.leases.values_mut() {
            lease.deadline += by;
        }
        self.deadlines = self.leases.iter().map(|(&offset, lease)| (lease.deadline, offset)).collect();
    }

    /// Leases whose deadline is at or before `now`, oldest first.
    pub fn lapsed(&self, now: u64) -> impl Iterator<Item = (u64, &Lease)> + '_ {
        self.deadlines.range(..=(now, u64::MAX)).map(|&(_, offset)| (offset, &self.leases[&offset]))
    }

    /// Waiting messages that may be delivered at `now`, longest due first.
    pub fn due(&self, now: u64) -> impl Iterator<Item = (u64, &Waiting)> + '_ {
        self.due.range(..=(now, u64::MAX)).map(|&(_, offset)| (offset, &self.waiting[&offset]))
    }

    /// When something happens here by itself next: a lease lapses or a waiting message becomes visible after `now`.
    pub fn next_event(&self, now: u64) -> Option<u64> {
        let lapse = self.deadlines.first().map(|&(time, _)| time);
        let due = self.due.range((now + 1, 0)..).next().map(|&(time, _)| time);
        lapse.into_iter().chain(due).min()
    }

    /// Puts a lease or a waiting message in place while a checkpoint is read.
    pub fn restore(&mut self, offset: u64, held: Result<Lease, Waiting>) {
        match held {
            Ok(lease) => self.lease(offset, lease),
            Err(waiting) => self.wait(offset, waiting),
        }
    }

    /// Asserts what must always hold.
    pub fn check(&self) {
        assert!(self.base <= self.next);
        assert!(!self.done.contains(self.base), "base moves over everything finished");
        let held = self.leases.len() + self.waiting.len();
        assert_eq!(held as u64 + self.done.count(), self.next - self.base, "every delivered offset is leased, waiting or finished");
        assert_eq!((self.deadlines.len(), self.due.len()), (self.leases.len(), self.waiting.len()));
    }

    fn wait(&mut self, offset: u64, waiting: Waiting) {
        self.due.insert((waiting.visible, offset));
        self.waiting.insert(offset, waiting);
    }

    fn end_lease(&mut self, offset: u64) -> Option<Lease> {
        let lease = self.leases.remove(&offset)?;
        self.deadlines.remove(&(lease.deadline, offset));
        if self.leases.is_empty() {
            // An empty tree keeps its last node, which for a hundred thousand idle cursors is a hundred megabytes.
            (self.leases, self.deadlines) = (BTreeMap::new(), BTreeSet::new());
        }
        Some(lease)
    }

    fn end_waiting(&mut self, offset: u64) {
        if let Some(waiting) = self.waiting.remove(&offset) {
            self.due.remove(&(waiting.visible, offset));
            if self.waiting.is_empty() {
                (self.waiting, self.due) = (BTreeMap::new(), BTreeSet::new());
            }
        }
    }

    fn advance(&mut self) {
        self.base = self.done.drain_prefix(self.base);
        self.next = self.next.max(self.base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: u64, deadline: u64) -> Lease {
        Lease { id: LeaseId(id), attempt: 1, deadline, owner: None }
    }

    fn cursor_with_three_leased() -> Cursor {
        let mut cursor = Cursor::starting_at(Offset(10));
        for offset in 10..13 {
            cursor.lease(offset, lease(1, 100 + offset));
        }
        cursor.pass_to(13, &[]);
        cursor.check();
        cursor
    }

    #[test]
    fn base_moves_only_over_finished_offsets() {
        let mut cursor = cursor_with_three_leased();
        cursor.finish(11);
        assert_eq!((cursor.base, cursor.next), (10, 13));
        cursor.finish(10);
        assert_eq!(cursor.base, 12);
        cursor.finish(12);
        assert_eq!(cursor.base, 13);
        cursor.check();
    }

    #[test]
    fn filtered_offsets_are_finished_and_kept_ones_wait() {
        let mut cursor = Cursor::starting_at(Offset(0));
        cursor.lease(2, lease(1, 50));
        cursor.pass_to(5, &[1]);
        cursor.check();
        assert_eq!((cursor.base, cursor.next), (1, 5));
        assert_eq!(cursor.due(0).map(|(offset, _)| offset).collect::<Vec<_>>(), [1]);
        assert!(cursor.done.contains(3) && cursor.done.contains(4));
    }

    #[test]
    fn a_late_holder_counts_until_somebody_else_has_the_message() {
        let mut cursor = cursor_with_three_leased();
        cursor.give_back(10, 0, 1);
        assert_eq!(cursor.find(10, LeaseId(1)), Found::Held { attempt: 1 });
        cursor.lease(10, Lease { attempt: 2, ..lease(2, 300) });
        assert_eq!(cursor.find(10, LeaseId(1)), Found::Gone);
        cursor.finish(10);
        assert_eq!(cursor.find(10, LeaseId(1)), Found::Finished);
        cursor.check();
    }

    #[test]
    fn lapsed_and_due_come_in_the_order_of_their_times() {
        let mut cursor = cursor_with_three_leased();
        assert_eq!(cursor.lapsed(111).map(|(offset, _)| offset).collect::<Vec<_>>(), [10, 11]);
        assert_eq!(cursor.next_event(0), Some(110));
        cursor.give_back(10, 500, 1);
        cursor.give_back(11, 400, 1);
        assert_eq!(cursor.due(450).map(|(offset, _)| offset).collect::<Vec<_>>(), [11]);
        assert_eq!(cursor.next_event(450), Some(112));
        cursor.shift_deadlines(1_000);
        assert_eq!(cursor.next_event(450), Some(500));
        cursor.check();
    }

    #[test]
    fn trimming_counts_what_was_never_finished() {
        let mut cursor = cursor_with_three_leased();
        cursor.finish(10);
        assert_eq!(cursor.trim(20), 2 + 7);
        assert_eq!((cursor.base, cursor.next), (20, 20));
        cursor.check();
    }
}
