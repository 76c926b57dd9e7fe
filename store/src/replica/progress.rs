//! What a leader knows of one other replica, and what it sends there next.

use super::config::Session;
use super::log::{Log, Tail};
use super::message::{Ack, Hello, Mismatch};
use gantry_model::Lsn;
use std::time::Duration;

/// So many bytes are on their way to one replica at most, not yet acknowledged as received.
pub const WINDOW: u64 = 16 * 1024 * 1024;
/// A replica that lacks less than this is sent frames as they are written; others are sent older ones, at a bounded rate.
pub const LIVE: u64 = 1024 * 1024;
/// A learner that was live for so long may become a member.
pub const SETTLED: Duration = Duration::from_secs(2);
/// A replica hears from its leader so often at least.
pub const HEARTBEAT: Duration = Duration::from_millis(100);

/// What to send to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing before an answer comes or time passes.
    Wait,
    /// An append without frames.
    Heartbeat { prev: Tail },
    /// Whole batches behind `prev`, one at least, and further ones while they fit.
    Frames { prev: Tail, bytes: u64, pace: Pace },
    /// What it lacks is no longer in the log: the state and all segments. It says `Hello` again when it has them.
    Install,
}

/// Whether frames come from what was just written, or from the disk and at a bounded rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Live,
    CatchUp,
}

/// How far a replica has come, as it acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    pub received: Lsn,
    pub durable: Lsn,
    pub applied: Lsn,
}

/// How a replica is sent frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    /// It has not said `Hello`.
    Silent,
    /// Where the logs agree is being asked, with one append at a time.
    Probe {
        prev: Tail,
    },
    Stream {
        sent: Lsn,
    },
    Install,
}

/// One other replica, as the leader of one epoch sees it.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    session: Session,
    way: Way,
    reached: Reached,
    /// What a suspect has to have before its word counts again.
    target: Option<Lsn>,
    heard: Option<Duration>,
    spoke: Option<Duration>,
    live_since: Option<Duration>,
}

impl Progress {
    pub fn new() -> Progress {
        Progress {
            session: Session::default(),
            way: Way::Silent,
            reached: Reached::default(),
            target: None,
            heard: None,
            spoke: None,
            live_since: None,
        }
    }

    /// A stream begins. Returns whether it is the newest one. What another process acknowledged, or the same one before it became a suspect, is void.
    pub fn hello(&mut self, log: &impl Log, hello: &Hello, now: Duration) -> bool {
        if self.way != Way::Silent && hello.session <= self.session {
            return false;
        }
        // The same process may have opened its replica anew, and found less than it had written.
        let lost = hello.log.end < self.reached.received;
        if hello.session.incarnation != self.session.incarnation || hello.suspect || lost {
            *self = Progress { target: hello.suspect.then(|| log.tail().end), ..Progress::new() };
        }
        self.session = hello.session;
        self.heard = Some(now);
        self.spoke = None;
        let end = hello.log.end.min(log.tail().end);
        self.probe(log, if self.reached.received > Lsn(0) { self.reached.received } else { end });
        true
    }

    /// Rule 3, the other end: what a replica acknowledges. Returns whether it is believed.
    pub fn acked(&mut self, ack: &Ack, end: Lsn, now: Duration) -> bool {
        let Session { incarnation, greeting } = ack.session;
        let stale = self.way == Way::Silent || incarnation != self.session.incarnation || greeting < self.session.greeting;
        // A replica can't have more of this log than there is.
        if stale || ack.received > end || ack.durable > end {
            return false;
        }
        self.heard = Some(now);
        let Reached { received, durable, applied } = self.reached;
        self.reached = Reached { received: received.max(ack.received), durable: durable.max(ack.durable), applied: applied.max(ack.applied) };
        match self.way {
            Way::Probe { prev } if self.reached.received >= prev.end => self.way = Way::Stream { sent: self.reached.received },
            Way::Stream { sent } => self.way = Way::Stream { sent: sent.max(self.reached.received) },
            _ => {}
        }
        let live = end.0 - self.reached.received.0 < LIVE;
        self.live_since = if live { self.live_since.or(Some(now)) } else { None };
        if self.target.is_some_and(|target| self.reached.durable >= target) {
            self.target = None;
        }
        true
    }

    /// A replica lacks the frame before those that it was sent.
    pub fn mismatch(&mut self, log: &impl Log, mismatch: &Mismatch, now: Duration) {
        let Session { incarnation, greeting } = mismatch.session;
        let stale = incarnation != self.session.incarnation || greeting < self.session.greeting;
        if stale || matches!(self.way, Way::Silent | Way::Install) {
            return;
        }
        self.heard = Some(now);
        match log.epochs().agreed(log.tail().end, &mismatch.epochs, mismatch.end) {
            // An answer that comes late says less than what was acknowledged since.
            Some(agreed) => self.probe(log, agreed.max(self.reached.received)),
            None => self.way = Way::Install,
        }
    }

    /// What to send now.
    pub fn next(&mut self, log: &impl Log, now: Duration) -> Next {
        let due = self.spoke.is_none_or(|spoke| now >= spoke + HEARTBEAT);
        match self.way {
            Way::Silent => Next::Wait,
            Way::Install => Next::Install,
            Way::Probe { prev } => if_due(due, prev),
            Way::Stream { sent } => {
                let Some(prev) = log.tail_at(sent) else {
                    self.way = Way::Install;
                    return Next::Install;
                };
                let bytes = WINDOW.saturating_sub(sent.0 - self.reached.received.0);
                if sent == log.tail().end || bytes == 0 {
                    return if_due(due, prev);
                }
                let pace = if log.tail().end.0 - sent.0 < LIVE { Pace::Live } else { Pace::CatchUp };
                Next::Frames { prev, bytes, pace }
            }
        }
    }

    /// An append that ends here is on its way.
    pub fn sent(&mut self, end: Lsn, now: Duration) {
        self.spoke = Some(now);
        if let Way::Stream { sent } = &mut self.way {
            *sent = end.max(*sent);
        }
    }

    pub fn reached(&self) -> Reached {
        self.reached
    }

    pub fn heard(&self) -> Option<Duration> {
        self.heard
    }

    pub fn suspect(&self) -> bool {
        self.target.is_some()
    }

    /// Whether it has all but a little, has had for a while, and its word counts.
    pub fn settled(&self, now: Duration) -> bool {
        self.target.is_none() && self.live_since.is_some_and(|since| now >= since + SETTLED)
    }

    /// Asks whether the logs agree up to `at`.
    fn probe(&mut self, log: &impl Log, at: Lsn) {
        let way = match log.tail_at(at) {
            Some(prev) => Way::Probe { prev },
            // It ends inside of a frame of ours, so it has other ones: its epochs tell more.
            None if at >= log.start() => Way::Probe { prev: log.tail() },
            None => Way::Install,
        };
        if way != self.way {
            self.way = way;
            self.spoke = None;
        }
    }
}

fn if_due(due: bool, prev: Tail) -> Next {
    if due { Next::Heartbeat { prev } } else { Next::Wait }
}
