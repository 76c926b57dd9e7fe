//! The replica's side of one shard on one broker: what it promised, whom it follows, what it may take, cut, acknowledge and apply (rules 1 to 4).
//!
//! There is one for the whole life of the replica, also while it leads, because a seal and a newer leader come to it in any role. It is sealed, it
//! follows, it becomes leader, it steps down:
//!
//! ```text
//!   any role ── Seal or Append of a higher epoch ──▶ Persist, StepDown ──▶ sealed
//!   sealed   ── Append of the promised epoch ──────▶ following
//!   sealed   ── Grant, nothing changed since ──────▶ leading (`leader`)
//! ```

use super::config::{Incarnation, Member, Session};
use super::leader::{self, StartRefused};
use super::log::{Log, Tail};
use super::message::{Ack, Append, Grant, Hello, Malformed, Mismatch, Refused, Seal, SealOk, Welcome};
use super::promise::{Admission, Promise};
use crate::zoo;
use gantry_model::{Epoch, Lsn};
use std::fmt;

/// What is to be done, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make this durable before anything that follows. If it fails the replica is done.
    Persist(Promise),
    /// Stop leading: what is not committed is answered with "unknown".
    StepDown,
    /// Cut the log so that this is its last frame. State that was applied beyond goes back to a checkpoint before.
    Cut(Tail),
    /// Give up the log: the leader's state and its log come in its place, and the replica begins anew with them.
    GiveUp,
    /// Write the frames of this append from this one on, then tell `written`.
    Write {
        first: usize,
    },
    Answer(Answer),
    /// Close the stream: the peer does not speak this protocol.
    HangUp(Malformed),
}

/// What is sent back to who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    SealOk(SealOk),
    Refused(Refused),
    Mismatch(Mismatch),
}

/// What must never happen. The replica stops and keeps its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// A leader's log lacks what was committed.
    CutsCommitted { at: Lsn, hw: Lsn, epoch: Epoch },
    /// Another leader writes in the epoch that this replica leads.
    TwoLeaders { epoch: Epoch },
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fatal::CutsCommitted { at, hw, epoch } => {
                write!(
                    f,
                    "the leader of epoch `{epoch}` lacks committed frames: it would cut the log at `{at}`, below `{hw}`; the files are kept, compare them"
                )
            }
            Fatal::TwoLeaders { epoch } => write!(f, "another replica leads in epoch `{epoch}`, which was granted to this one; the files are kept"),
        }
    }
}

impl std::error::Error for Fatal {}

/// A sync that has begun, and what it will make durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sync {
    end: Lsn,
    cuts: u64,
}

/// A leader that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Following {
    epoch: Epoch,
    /// Up to where the own log is known to be the leader's.
    agreed: Lsn,
    leader_time: u64,
    /// Where a suspect stops being one.
    target: Option<Lsn>,
}

/// One replica of a shard.
#[derive(Clone, Debug)]
pub struct Follower {
    member: Member,
    session: Session,
    /// No `Welcome` to a `Hello` up to this one counts: what it asks for may since have been lost.
    void: u64,
    promise: Promise,
    hw: Lsn,
    written: Lsn,
    durable: Lsn,
    applied: Lsn,
    /// How often the log was cut, so that a sync that began before says nothing about what came after.
    cuts: u64,
    following: Option<Following>,
    leading: Option<Epoch>,
    fatal: Option<Fatal>,
}

impl Follower {
    /// A replica after recovery: its log is durable up to its end, and committed up to `committed` (the checkpoint that was loaded).
    pub fn new(member: Member, incarnation: Incarnation, promise: Promise, end: Lsn, committed: Lsn) -> Follower {
        assert_eq!(member.store, promise.store, "a member is named after its folder");
        assert!(committed <= end, "what was applied is in the log");
        Follower {
            member,
            session: Session { incarnation, greeting: 0 },
            void: 0,
            promise,
            hw: committed,
            written: end,
            durable: end,
            applied: committed,
            cuts: 0,
            following: None,
            leading: None,
            fatal: None,
        }
    }

    /// The same process opened this replica so often before. What it says now is later than all that it said then.
    pub fn opened_before(mut self, times: u32) -> Follower {
        self.session.greeting = u64::from(times) << 32;
        self.void = self.session.greeting;
        self
    }

    /// The controller begins an epoch.
    pub fn seal(&mut self, log: &impl Log, seal: &Seal) -> Result<Vec<Action>, Fatal> {
        self.usable()?;
        let mut out = Vec::new();
        match self.promise.admits(seal.epoch) {
            Admission::Refused => return Ok(vec![self.refused()]),
            Admission::Promised => self.learn(seal.generation, &mut out),
            Admission::Raise => self.raise(seal.epoch, seal.generation, &mut out),
        }
        out.push(Action::Answer(Answer::SealOk(SealOk {
            member: self.member,
            incarnation: self.session.incarnation,
            epoch: seal.epoch,
            log: log.tail().position(),
            hw: self.hw,
            durable: self.durable,
            suspect: self.promise.suspect,
        })));
        Ok(out)
    }

    /// A leader sends frames or a heartbeat.
    pub fn append(&mut self, log: &impl Log, append: &Append) -> Result<Vec<Action>, Fatal> {
        self.usable()?;
        if let Err(malformed) = append.check() {
            return Ok(vec![Action::HangUp(malformed)]);
        }
        let mut out = Vec::new();
        match self.promise.admits(append.epoch) {
            Admission::Refused => return Ok(vec![self.refused()]),
            Admission::Promised if self.leading.is_some() => return self.stop(Fatal::TwoLeaders { epoch: append.epoch }),
            Admission::Promised => {}
            Admission::Raise => self.raise(append.epoch, self.promise.generation, &mut out),
        }
        let (agreed, target) = self.following.map_or((Lsn(0), None), |following| (following.agreed, following.target));
        let mut following = Following { epoch: append.epoch, agreed, leader_time: append.leader_time, target };
        match accept(log, self.hw, append) {
            Acceptance::Unknown => out.push(self.mismatch(log, append.epoch)),
            Acceptance::Fatal(fatal) => return self.stop(fatal),
            Acceptance::Present => following.agreed = agreed.max(append.end().end),
            Acceptance::Write { cut, first } => {
                following.agreed = agreed.max(append.end().end);
                if let Some(tail) = cut {
                    self.cut(tail);
                    out.push(Action::Cut(tail));
                }
                out.push(Action::Write { first });
            }
        }
        // The leader's word about what it committed holds for the frames that are the same here.
        let agreed = if zoo!(BelieveHighWatermark) { log.tail().end } else { following.agreed };
        self.hw = self.hw.max(append.hw.min(agreed));
        self.following = Some(following);
        Ok(out)
    }

    /// A leader answered `hello`.
    pub fn welcome(&mut self, welcome: &Welcome) -> Result<Vec<Action>, Fatal> {
        self.usable()?;
        let mut out = Vec::new();
        let Session { incarnation, greeting } = welcome.session;
        if incarnation != self.session.incarnation || greeting <= self.void || self.leading == Some(welcome.epoch) {
            return Ok(out);
        }
        match self.promise.admits(welcome.epoch) {
            Admission::Refused => return Ok(vec![self.refused()]),
            Admission::Promised => {}
            Admission::Raise => self.raise(welcome.epoch, self.promise.generation, &mut out),
        }
        let following = self.following.get_or_insert(Following { epoch: welcome.epoch, agreed: Lsn(0), leader_time: 0, target: None });
        // The first one names all that was ever acknowledged; a later one would only ask for more.
        following.target.get_or_insert(welcome.target);
        self.clear_suspicion(&mut out);
        Ok(out)
    }

    /// What to say first on a stream to a leader. If no `Welcome` to it comes, the leader doesn't know of this process: say it again.
    pub fn hello(&mut self, log: &impl Log) -> Hello {
        self.session.greeting += 1;
        let Follower { member, session, promise, .. } = *self;
        Hello { member, session, promised: promise.epoch, log: log.tail().position(), suspect: promise.suspect }
    }

    /// The log was written up to its new end.
    pub fn written(&mut self, end: Lsn) {
        assert!(end >= self.written, "only a cut makes a log shorter");
        self.written = end;
    }

    /// A sync begins.
    pub fn syncing(&self) -> Sync {
        Sync { end: self.written, cuts: self.cuts }
    }

    /// A sync has ended, and it succeeded. After one that failed, the replica is done.
    pub fn synced(&mut self, sync: Sync) -> Vec<Action> {
        let mut out = Vec::new();
        if sync.cuts == self.cuts {
            self.durable = self.durable.max(sync.end);
            self.clear_suspicion(&mut out);
        }
        out
    }

    /// The log was applied up to here.
    pub fn applied(&mut self, to: Lsn) {
        assert!(to <= self.may_apply(), "nothing is applied before it is committed and durable");
        self.applied = self.applied.max(to);
    }

    /// Rule 3: what is told to the leader that is followed, if any. `received` is what was written, `durable` what was synced, and both only as far as
    /// the log is the leader's.
    pub fn ack(&self) -> Option<Ack> {
        let Following { epoch, agreed, .. } = self.following?;
        let Follower { member, session, written, applied, .. } = *self;
        Some(Ack { member, session, epoch, received: written.min(agreed), durable: self.durable.min(agreed), applied })
    }

    /// Rule 4: nothing is applied before it is committed, nor before it is durable here.
    pub fn may_apply(&self) -> Lsn {
        self.hw.min(self.durable)
    }

    /// Takes the lead of an epoch, or says why not. The driver does what is answered, then appends `EpochStart` and tells the leader. In an unclean
    /// epoch the log counts as it is, so a suspect is none any longer.
    pub fn lead(&mut self, log: &impl Log, grant: &Grant) -> Result<Vec<Action>, StartRefused> {
        if self.leading == Some(grant.epoch) {
            return Err(StartRefused::Leading);
        }
        if self.fatal.is_some() {
            return Err(StartRefused::Suspect);
        }
        leader::may_start(grant, self.member, self.session.incarnation, &self.promise, log.tail())?;
        self.leading = Some(grant.epoch);
        self.following = None;
        let mut out = Vec::new();
        if self.promise.suspect {
            self.promise.suspect = false;
            out.push(Action::Persist(self.promise));
        }
        Ok(out)
    }

    /// While it leads: its own leader has committed so much.
    pub fn committed(&mut self, hw: Lsn) {
        assert!(hw <= self.written, "what is committed was written");
        self.hw = self.hw.max(hw);
    }

    /// A peer answered that it promised a newer epoch. Returns whether this replica led and must stop; its promise is raised when the newer leader, or the
    /// controller, speaks to it.
    pub fn deposed(&mut self, promised: Epoch) -> bool {
        let ended = self.leading.is_some_and(|epoch| leader::must_step_down(epoch, promised));
        if ended {
            self.leading = None;
        }
        ended
    }

    /// Acknowledged frames may be missing at the end of the log: after a power loss with acknowledgements from memory, or because the log is about to be
    /// replaced by an install.
    pub fn suspect(&mut self) -> Vec<Action> {
        let mut out = Vec::new();
        if !self.promise.suspect {
            self.promise.suspect = true;
            out.push(Action::Persist(self.promise));
        }
        if self.leading.take().is_some() {
            out.push(Action::StepDown);
        }
        self.following = None;
        self.void = self.session.greeting;
        out
    }

    /// A leader's state at `state` is here, because what this replica lacks is gone from the leader's log. The own log is given up for it, by a suspect
    /// only: until it is there again, what it acknowledged is not. The replica begins anew, with another incarnation and a log that is empty.
    pub fn offered(&mut self, epoch: Epoch, state: Lsn) -> Result<Vec<Action>, Fatal> {
        self.usable()?;
        let mut out = Vec::new();
        match self.promise.admits(epoch) {
            Admission::Refused => return Ok(vec![self.refused()]),
            Admission::Promised if self.leading.is_some() => return self.stop(Fatal::TwoLeaders { epoch }),
            Admission::Promised => {}
            Admission::Raise => self.raise(epoch, self.promise.generation, &mut out),
        }
        // An offer that comes late may be behind what was followed since.
        if state >= self.hw {
            if !zoo!(TrustInstalled) {
                out.extend(self.suspect());
            }
            out.push(Action::GiveUp);
        }
        Ok(out)
    }

    pub fn member(&self) -> Member {
        self.member
    }

    /// The process, and how often it has said `Hello`.
    pub fn session(&self) -> Session {
        self.session
    }

    pub fn promise(&self) -> Promise {
        self.promise
    }

    /// Everything before it is known to be committed. Never decreases.
    pub fn hw(&self) -> Lsn {
        self.hw
    }

    /// Synced up to here.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// The epoch that is led, if any.
    pub fn leading(&self) -> Option<Epoch> {
        self.leading
    }

    /// The epoch that is followed and the newest time its leader told, if any.
    pub fn following(&self) -> Option<(Epoch, u64)> {
        self.following.map(|following| (following.epoch, following.leader_time))
    }

    fn usable(&self) -> Result<(), Fatal> {
        self.fatal.map_or(Ok(()), Err)
    }

    fn stop<T>(&mut self, fatal: Fatal) -> Result<T, Fatal> {
        self.fatal = Some(fatal);
        (self.leading, self.following) = (None, None);
        Err(fatal)
    }

    /// Rule 1, second half: the promise is durable before anything else happens, and whoever leads here stops.
    fn raise(&mut self, epoch: Epoch, generation: u64, out: &mut Vec<Action>) {
        assert!(epoch > self.promise.epoch, "a promise only rises");
        self.promise.epoch = epoch;
        self.promise.generation = self.promise.generation.max(generation);
        out.push(Action::Persist(self.promise));
        if self.leading.take().is_some() && !zoo!(GoOnAfterSeal) {
            out.push(Action::StepDown);
        }
        self.following = None;
    }

    /// A newer configuration was heard of.
    fn learn(&mut self, generation: u64, out: &mut Vec<Action>) {
        if generation > self.promise.generation {
            self.promise.generation = generation;
            out.push(Action::Persist(self.promise));
        }
    }

    fn cut(&mut self, tail: Tail) {
        assert!(tail.end >= self.hw, "`accept` refuses to cut what is committed");
        self.written = tail.end;
        self.durable = self.durable.min(tail.end);
        self.cuts += 1;
    }

    /// 4.6: a suspect that has durably all its leader had when it said `Hello` lacks nothing that it acknowledged before.
    fn clear_suspicion(&mut self, out: &mut Vec<Action>) {
        let Some(Following { agreed, target: Some(target), .. }) = self.following else { return };
        if self.promise.suspect && has_target(target, self.durable.min(agreed)) {
            self.promise.suspect = false;
            out.push(Action::Persist(self.promise));
        }
    }

    fn refused(&self) -> Action {
        Action::Answer(Answer::Refused(Refused { member: self.member, promised: self.promise.epoch }))
    }

    fn mismatch(&self, log: &impl Log, epoch: Epoch) -> Action {
        let Follower { member, session, .. } = *self;
        Action::Answer(Answer::Mismatch(Mismatch { member, session, epoch, epochs: log.epochs().to_send(), end: log.tail().end }))
    }
}

/// What to do with the frames of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// `prev` is not in the own log.
    Unknown,
    /// All of them are there.
    Present,
    /// Cut, if need be, and write from this frame on.
    Write {
        cut: Option<Tail>,
        first: usize,
    },
    Fatal(Fatal),
}

/// Rule 2: frames are taken only behind a frame that both logs have. Those that are there already are skipped; at the first that differs the own log is
/// cut, but never below what is known to be committed.
pub fn accept(log: &impl Log, hw: Lsn, append: &Append) -> Acceptance {
    let before = log.tail_at(append.prev.end);
    if before != Some(append.prev) && !(zoo!(TakeWhateverIsBefore) && before.is_some()) {
        return Acceptance::Unknown;
    }
    let end = log.tail().end;
    let mut agreed = append.prev;
    for (first, link) in append.frames.iter().enumerate() {
        if agreed.end == end {
            return Acceptance::Write { cut: None, first };
        }
        if log.tail_at(link.tail.end) != Some(link.tail) {
            let fatal = Fatal::CutsCommitted { at: agreed.end, hw, epoch: append.epoch };
            return if agreed.end < hw { Acceptance::Fatal(fatal) } else { Acceptance::Write { cut: Some(agreed), first } };
        }
        agreed = link.tail;
    }
    Acceptance::Present
}

/// 4.6: whether a suspect that has the leader's log durably up to `durable` has what it needs.
pub fn has_target(target: Lsn, durable: Lsn) -> bool {
    durable >= target
}
