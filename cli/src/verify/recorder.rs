//! The history while it grows, and what is still to be waited for.

use super::history::{Event, Id, Micros};
use gantry_platform::{Clock, SystemClock};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shared by all producers and consumers of a run.
#[derive(Debug)]
pub struct Recorder {
    clock: SystemClock,
    groups: u16,
    calls: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    awaited: HashMap<(u16, Id), Marks>,
    counts: Counts,
}

/// What the progress line and the drain look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub acked_sends: u64,
    pub failed_sends: u64,
    pub deliveries: u64,
    /// Messages that must come and have not, once for each group.
    pub missing: u64,
    /// Messages that must come and are not acknowledged, once for each group.
    pub open: u64,
    pub events: u64,
    pub latest_ack: Micros,
    pub latest_delivery: Micros,
}

/// What is known about a message and a group. Forgotten when all of it holds.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    expected: bool,
    came: bool,
    done: bool,
}

impl Recorder {
    pub fn new(groups: u16) -> Recorder {
        Recorder { clock: SystemClock::new(), groups, calls: AtomicU64::new(0), state: Mutex::default() }
    }

    pub fn now(&self) -> Micros {
        Micros::of(self.clock.mono())
    }

    /// A number for a receive call.
    pub fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    pub fn add(&self, event: Event) {
        let mut state = self.state();
        state.counts.events += 1;
        state.events.push(event);
    }

    /// A send ended.
    pub fn sent(&self, acked: Option<Micros>) {
        let counts = &mut self.state().counts;
        match acked {
            Some(at) => {
                counts.acked_sends += 1;
                counts.latest_ack = counts.latest_ack.max(at);
            }
            None => counts.failed_sends += 1,
        }
    }

    /// Every group must get this message from now on.
    pub fn expect(&self, id: Id) {
        let mut state = self.state();
        for group in 0..self.groups {
            state.mark(group, id, |marks| marks.expected = true);
        }
    }

    pub fn came(&self, group: u16, id: Id, at: Micros) {
        let mut state = self.state();
        state.counts.deliveries += 1;
        state.counts.latest_delivery = state.counts.latest_delivery.max(at);
        state.mark(group, id, |marks| marks.came = true);
    }

    pub fn done(&self, group: u16, id: Id) {
        self.state().mark(group, id, |marks| marks.done = true);
    }

    /// Events from a place on, for the file.
    pub fn since(&self, place: usize) -> Vec<Event> {
        self.state().events[place..].to_vec()
    }

    /// All events; none are left here.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.state().events)
    }
}

impl State {
    fn mark(&mut self, group: u16, id: Id, with: impl Fn(&mut Marks)) {
        let marks = self.awaited.entry((group, id)).or_default();
        let before = *marks;
        with(marks);
        let after = *marks;
        if after.expected && after.came && after.done {
            self.awaited.remove(&(group, id));
        }
        let missing = |marks: Marks| u64::from(marks.expected && !marks.came);
        let open = |marks: Marks| u64::from(marks.expected && !marks.done);
        self.counts.missing = self.counts.missing + missing(after) - missing(before);
        self.counts.open = self.counts.open + open(after) - open(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_awaited_does_not_depend_on_who_says_it_first() {
        let recorder = Recorder::new(2);
        let id = Id { lane: 1, seq: 2 };
        let awaited = || (recorder.counts().missing, recorder.counts().open);
        recorder.came(0, id, Micros(5));
        recorder.done(0, id);
        assert_eq!(awaited(), (0, 0));
        recorder.expect(id);
        assert_eq!(awaited(), (1, 1));
        recorder.came(1, id, Micros(6));
        assert_eq!(awaited(), (0, 1));
        recorder.done(1, id);
        assert_eq!(awaited(), (0, 0));
        recorder.came(1, id, Micros(9));
        assert_eq!(awaited(), (0, 0), "a message that comes again is not awaited again");
        assert_eq!((recorder.counts().deliveries, recorder.counts().latest_delivery), (3, Micros(9)));
    }
}
