//! Where one group stands on one queue, and every message that it holds.
//!
//! ```text
//!            base                              next                visible end
//!   finished  │  leased · waiting · finished    │  never delivered   │  not committed yet
//!  ───────────┼─────────────────────────────────┼────────────────────┼──────────────▶ offsets
//!
//!   new ──lease──▶ leased ──ack──▶ finished
//!   new ──pass──▶ passed ──lease──▶ leased
//!                  leased ──expire / nack──▶ waiting ──lease──▶ leased (attempt + 1)
//!                  leased, waiting ──dead──▶ finished
//! ```
//!
//! Every offset in `base..next` is in exactly one of `done`, `leases`, `waiting` and `passed`; `check` asserts it. A message is passed over when
//! somebody else's filter wants it, or when its message group is busy. What was finished before it was ever delivered (skipped by hand, or
//! copied from another group) lies in `done` behind `next`, and deliveries go past it.
//!
//! # Order
//!
//! Messages of one message group share a lane; lane 0 is for those without order. The unfinished messages of a lane are delivered by their
//! offsets: only the first of them is ever due, and while it is leased the lane is locked. What follows it directly may be leased together
//! with it.

use super::ranges::Ranges;
use gantry_model::{ClientId, LeaseId, Offset};
use std::collections::btree_map::Entry;
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
    pub lane: u32,
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
    pub lane: u32,
}

/// What an unfinished message of a lane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Leased,
    Waiting,
    Passed,
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
    /// Never delivered, with the lane of each.
    pub passed: BTreeMap<u64, u32>,
    /// Grows when the position is reset.
    pub reset: u32,
    /// `leases` by deadline.
    deadlines: BTreeSet<(u64, u64)>,
    /// `waiting` by the time it becomes visible; of a lane only the first message.
    due: BTreeSet<(u64, u64)>,
    /// The unfinished messages of each lane but 0.
    lanes: BTreeMap<u32, BTreeMap<u64, Slot>>,
    /// Passed messages that nothing holds back: all of lane 0, and the first of each lane in which nothing was delivered.
    open: BTreeSet<u64>,
}

impl Cursor {
    pub fn starting_at(offset: Offset) -> Cursor {
        Cursor::between(offset.0, offset.0, 0)
    }

    /// Begins at an offset, with what of `done` lies behind it finished.
    pub fn begin(&mut self, start: u64, done: &Ranges) {
        (self.base, self.next) = (start, start);
        self.done = done.clone();
        self.done.drop_below(start);
        self.advance();
    }

    /// Begins anew: what was held is dropped, and handles from before are void.
    pub fn reset(&mut self, to: u64, done: &Ranges) {
        *self = Cursor { reset: self.reset + 1, ..Cursor::default() };
        self.begin(to, done);
    }

    /// A cursor as a checkpoint begins to restore it: nothing held, nothing finished.
    pub fn between(base: u64, next: u64, reset: u32) -> Cursor {
        Cursor { base, next, reset, ..Cursor::default() }
    }

    /// Gives an offset out: a new one (`next` moves with [`Cursor::pass_to`]), one that waited or one that was passed over.
    pub fn lease(&mut self, offset: u64, lease: Lease) {
        assert!(!self.leases.contains_key(&offset), "an offset is never under two live leases");
        self.end_waiting(offset);
        self.end_passed(offset);
        self.deadlines.insert((lease.deadline, offset));
        self.fill(lease.lane, offset, Slot::Leased);
        self.leases.insert(offset, lease);
    }

    /// Ends whatever is known of an offset that is given out again, because the record of its end was lost.
    pub fn forget(&mut self, offset: u64) {
        self.end_lease(offset);
        self.end_waiting(offset);
        self.end_passed(offset);
        self.done.remove(offset);
        if offset < self.base {
            self.done.insert(offset + 1, self.base);
            self.base = offset;
        }
    }

    /// Moves `next`; what lies between and is neither leased nor passed over was filtered, and is finished.
    pub fn pass_to(&mut self, next: u64, passed: &[(u64, u32)]) {
        assert!(next >= self.next, "deliveries never move back");
        for &(offset, lane) in passed {
            self.pass(offset, lane);
        }
        for offset in self.next..next {
            if !self.leases.contains_key(&offset) && !self.waiting.contains_key(&offset) && !self.passed.contains_key(&offset) {
                self.done.insert(offset, offset + 1);
            }
        }
        self.next = next;
        self.advance();
    }

    /// Finishes an offset, whatever state it is in.
    pub fn finish(&mut self, offset: u64) {
        if offset < self.base {
            return;
        }
        self.end_lease(offset);
        self.end_waiting(offset);
        self.end_passed(offset);
        self.done.insert(offset, offset + 1);
        self.advance();
    }

    /// Ends a lease; the message waits until `visible`. `attempts` is what counts so far.
    pub fn give_back(&mut self, offset: u64, visible: u64, attempts: u32) {
        if let Some(lease) = self.end_lease(offset) {
            self.wait(offset, Waiting { visible, attempts, last: lease.id, lane: lease.lane });
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
        let untouched = min.saturating_sub(self.next) - self.done.count_between(self.next, min);
        let (leases, waiting, passed) = (self.leases.range(..min), self.waiting.range(..min), self.passed.range(..min));
        let gone: Vec<u64> =
            leases.map(|(&offset, _)| offset).chain(waiting.map(|(&offset, _)| offset)).chain(passed.map(|(&offset, _)| offset)).collect();
        let unfinished = gone.len() as u64 + untouched;
        for offset in gone {
            self.end_lease(offset);
            self.end_waiting(offset);
            self.end_passed(offset);
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

    /// Waiting messages that may be delivered at `now`, longest due first; of a lane only its first message.
    pub fn due(&self, now: u64) -> impl Iterator<Item = (u64, &Waiting)> + '_ {
        self.due.range(..=(now, u64::MAX)).map(|&(_, offset)| (offset, &self.waiting[&offset]))
    }

    /// Whether something that was looked at before can be delivered now.
    pub fn gives(&self, now: u64) -> bool {
        !self.open.is_empty() || self.due(now).next().is_some()
    }

    /// Passed messages that may be delivered, oldest first; of a lane only the first.
    pub fn open(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.open.iter().map(|&offset| (offset, self.passed[&offset]))
    }

    /// The passed messages that follow each other in a lane, from its first unfinished message on.
    pub fn run(&self, lane: u32) -> impl Iterator<Item = u64> + '_ {
        let slots = self.lanes.get(&lane).into_iter().flatten();
        slots.take_while(|(_, slot)| **slot == Slot::Passed).map(|(&offset, _)| offset)
    }

    /// Whether new messages of a lane must wait for those before them.
    pub fn is_busy(&self, lane: u32) -> bool {
        self.lanes.contains_key(&lane)
    }

    /// Live leases of the messages behind the first of a lane, which end when the first is delivered again.
    pub fn leased_behind(&self, offset: u64, lane: u32) -> Vec<u64> {
        let slots = self.lanes.get(&lane).map(|slots| slots.range(offset + 1..));
        slots.into_iter().flatten().filter(|(_, slot)| **slot == Slot::Leased).map(|(&offset, _)| offset).collect()
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

    /// Passes over a message.
    pub fn pass(&mut self, offset: u64, lane: u32) {
        self.passed.insert(offset, lane);
        match lane {
            0 => drop(self.open.insert(offset)),
            lane => self.fill(lane, offset, Slot::Passed),
        }
    }

    /// Asserts what must always hold.
    pub fn check(&self) {
        assert!(self.base <= self.next);
        assert!(!self.done.contains(self.base), "base moves over everything finished");
        let held = self.leases.len() + self.waiting.len() + self.passed.len();
        let finished = self.done.count_between(self.base, self.next);
        assert_eq!(held as u64 + finished, self.next - self.base, "every offset that was looked at is in one state");
        assert_eq!(self.deadlines.len(), self.leases.len());
        let laned = |lane: &u32| *lane != 0;
        let in_lanes = self.leases.values().map(|lease| lease.lane).chain(self.waiting.values().map(|waiting| waiting.lane));
        let in_lanes = in_lanes.chain(self.passed.values().copied()).filter(laned).count();
        assert_eq!(self.lanes.values().map(BTreeMap::len).sum::<usize>(), in_lanes, "a lane knows all of its unfinished messages");
        let fronts = |wanted: Slot| self.lanes.values().filter(|slots| slots.values().next() == Some(&wanted)).count();
        let loose = self.waiting.values().filter(|waiting| waiting.lane == 0).count();
        assert_eq!(self.due.len(), loose + fronts(Slot::Waiting), "only the first of a lane is due");
        let kept = self.passed.values().filter(|lane| **lane == 0).count();
        assert_eq!(self.open.len(), kept + fronts(Slot::Passed), "only the first of a lane is open");
        for slots in self.lanes.values() {
            let passed_from = slots.iter().find(|(_, slot)| **slot == Slot::Passed).map_or(u64::MAX, |(&offset, _)| offset);
            let later = slots.range(passed_from..).all(|(_, slot)| *slot == Slot::Passed);
            assert!(later, "a lane delivers in the order of its offsets: {slots:?}");
        }
    }

    fn wait(&mut self, offset: u64, waiting: Waiting) {
        self.waiting.insert(offset, waiting);
        match waiting.lane {
            0 => drop(self.due.insert((waiting.visible, offset))),
            lane => self.fill(lane, offset, Slot::Waiting),
        }
    }

    fn end_lease(&mut self, offset: u64) -> Option<Lease> {
        let lease = self.leases.remove(&offset)?;
        self.deadlines.remove(&(lease.deadline, offset));
        self.clear(lease.lane, offset);
        if self.leases.is_empty() {
            // An empty tree keeps its last node, which for a hundred thousand idle cursors is a hundred megabytes.
            (self.leases, self.deadlines) = (BTreeMap::new(), BTreeSet::new());
        }
        Some(lease)
    }

    fn end_waiting(&mut self, offset: u64) {
        let Some(waiting) = self.waiting.get(&offset).copied() else { return };
        self.clear(waiting.lane, offset);
        self.due.remove(&(waiting.visible, offset));
        self.waiting.remove(&offset);
        if self.waiting.is_empty() {
            (self.waiting, self.due) = (BTreeMap::new(), BTreeSet::new());
        }
    }

    fn end_passed(&mut self, offset: u64) {
        let Some(lane) = self.passed.get(&offset).copied() else { return };
        self.clear(lane, offset);
        self.open.remove(&offset);
        self.passed.remove(&offset);
        if self.passed.is_empty() {
            (self.passed, self.open) = (BTreeMap::new(), BTreeSet::new());
        }
    }

    /// A message of a lane is unfinished, in this state.
    fn fill(&mut self, lane: u32, offset: u64, slot: Slot) {
        if lane == 0 {
            return;
        }
        self.show_front(lane, false);
        self.lanes.entry(lane).or_default().insert(offset, slot);
        self.show_front(lane, true);
    }

    /// A message leaves its lane.
    fn clear(&mut self, lane: u32, offset: u64) {
        self.show_front(lane, false);
        if let Entry::Occupied(mut slots) = self.lanes.entry(lane) {
            slots.get_mut().remove(&offset);
            if slots.get().is_empty() {
                slots.remove();
            }
        }
        if self.lanes.is_empty() {
            self.lanes = BTreeMap::new();
        }
        self.show_front(lane, true);
    }

    /// Puts the first message of a lane where deliveries look for it, or takes it away from there.
    fn show_front(&mut self, lane: u32, shown: bool) {
        let Some((&offset, slot)) = self.lanes.get(&lane).and_then(BTreeMap::first_key_value) else { return };
        match (slot, shown) {
            (Slot::Leased, _) => {}
            (Slot::Waiting, true) => drop(self.due.insert((self.waiting[&offset].visible, offset))),
            (Slot::Waiting, false) => drop(self.due.remove(&(self.waiting[&offset].visible, offset))),
            (Slot::Passed, true) => drop(self.open.insert(offset)),
            (Slot::Passed, false) => drop(self.open.remove(&offset)),
        }
    }

    fn advance(&mut self) {
        self.base = self.done.drain_prefix(self.base);
        self.next = self.done.behind(self.next.max(self.base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: u64, deadline: u64) -> Lease {
        Lease { id: LeaseId(id), attempt: 1, deadline, owner: None, lane: 0 }
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
    fn filtered_offsets_are_finished_and_passed_ones_stay() {
        let mut cursor = Cursor::starting_at(Offset(0));
        cursor.lease(2, lease(1, 50));
        cursor.pass_to(5, &[(1, 0)]);
        cursor.check();
        assert_eq!((cursor.base, cursor.next), (1, 5));
        assert_eq!(cursor.open().collect::<Vec<_>>(), [(1, 0)]);
        assert!(cursor.done.contains(3) && cursor.done.contains(4));
    }

    #[test]
    fn a_lane_gives_one_message_after_the_other() {
        let mut cursor = Cursor::starting_at(Offset(0));
        let in_lane = |deadline| Lease { lane: 7, ..lease(1, deadline) };
        cursor.lease(0, in_lane(50));
        cursor.lease(1, in_lane(50));
        cursor.pass_to(5, &[(2, 7), (3, 9), (4, 7)]);
        cursor.check();
        assert_eq!(cursor.open().collect::<Vec<_>>(), [(3, 9)], "lane 7 is locked");
        cursor.give_back(1, 10, 1);
        cursor.check();
        assert_eq!(cursor.due(100).count(), 0, "the first of the lane is still leased");
        cursor.give_back(0, 20, 1);
        assert_eq!(cursor.due(100).map(|(offset, _)| offset).collect::<Vec<_>>(), [0]);
        cursor.finish(0);
        assert_eq!(cursor.due(100).map(|(offset, _)| offset).collect::<Vec<_>>(), [1]);
        cursor.finish(1);
        cursor.check();
        assert_eq!(cursor.open().collect::<Vec<_>>(), [(2, 7), (3, 9)]);
        assert_eq!(cursor.run(7).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn what_was_leased_behind_a_failed_message_is_known() {
        let mut cursor = Cursor::starting_at(Offset(0));
        for offset in 0..3 {
            cursor.lease(offset, Lease { lane: 7, ..lease(1, 50) });
        }
        cursor.pass_to(3, &[]);
        cursor.give_back(0, 0, 1);
        assert_eq!(cursor.leased_behind(0, 7), [1, 2]);
        assert_eq!(cursor.due(0).map(|(offset, _)| offset).collect::<Vec<_>>(), [0]);
        cursor.check();
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
    fn what_is_finished_before_its_delivery_is_passed_over() {
        let mut cursor = cursor_with_three_leased();
        [13, 15].into_iter().for_each(|offset| cursor.finish(offset));
        cursor.check();
        assert_eq!((cursor.base, cursor.next), (10, 14));
        cursor.lease(14, lease(2, 200));
        cursor.pass_to(15, &[]);
        cursor.check();
        assert_eq!(cursor.next, 16);
        assert_eq!(cursor.trim(20), 4 + 4);
    }

    #[test]
    fn a_reset_drops_everything_but_what_is_said_to_be_finished() {
        let mut cursor = cursor_with_three_leased();
        cursor.give_back(10, 0, 1);
        let mut done = Ranges::default();
        [(2, 6), (8, 9)].into_iter().for_each(|(from, to)| done.insert(from, to));
        cursor.reset(5, &done);
        cursor.check();
        assert_eq!((cursor.base, cursor.next, cursor.reset), (6, 6, 1));
        assert!(cursor.leases.is_empty() && cursor.waiting.is_empty() && cursor.done.contains(8));
        assert_eq!(cursor.next_event(0), None);
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
