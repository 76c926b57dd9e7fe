//! The leader's side of one shard for one epoch: who has how much, what is committed, what to send to whom, and whether to go on (rules 5 to 9).
//!
//! It lives from the grant of an epoch to the first sign of a newer one, beside the replica's [`Follower`](super::Follower), which keeps the promise and
//! the own log's state. The driver appends `EpochStart`, makes a `Leader` of it, and tells it what was appended, synced and answered; after
//! each of these `hw` may have moved.

use super::config::{Config, Incarnation, Member};
use super::log::{Link, Log, Position, Tail};
use super::message::{Ack, Append, Grant, Hello, Mismatch, Welcome};
use super::progress::Progress;
pub use super::progress::{HEARTBEAT, LIVE, Next, Pace, Reached, SETTLED, WINDOW};
use super::promise::Promise;
use crate::zoo;
use gantry_model::{Epoch, Lsn};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A leader that heard from fewer than W members for so long stops serving.
pub const SILENCE: Duration = Duration::from_secs(1);

/// Why a replica may not lead an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartRefused {
    /// It leads already: the grant came twice.
    Leading,
    /// The epoch was granted to another replica.
    Other(Member),
    /// It promised another epoch.
    Promised(Epoch),
    /// The replica was started anew after it was sealed.
    Restarted(Incarnation),
    /// Its log is no longer what was granted.
    Changed(Position),
    /// It may lack frames that it acknowledged.
    Suspect,
}

impl fmt::Display for StartRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartRefused::Leading => f.write_str("it leads this epoch already"),
            StartRefused::Other(member) => write!(f, "the epoch was granted to `{member}`"),
            StartRefused::Promised(epoch) => write!(f, "it promised epoch `{epoch}`"),
            StartRefused::Restarted(Incarnation(now)) => write!(f, "it was started anew since it was sealed: this is start `{now}`"),
            StartRefused::Changed(log) => write!(f, "its log changed since it was sealed, and ends at `{}` in epoch `{}`", log.end, log.epoch),
            StartRefused::Suspect => f.write_str("it may lack frames that it acknowledged"),
        }
    }
}

impl std::error::Error for StartRefused {}

/// Rule 5: only the replica to which the epoch was granted may lead it, and only as it was when it was sealed. One that crashed in between may have lost
/// what it was chosen for.
pub fn may_start(grant: &Grant, member: Member, incarnation: Incarnation, promise: &Promise, tail: Tail) -> Result<(), StartRefused> {
    if grant.leader != member {
        return Err(StartRefused::Other(grant.leader));
    }
    if promise.epoch != grant.epoch {
        return Err(StartRefused::Promised(promise.epoch));
    }
    if promise.suspect && !grant.unclean {
        return Err(StartRefused::Suspect);
    }
    if grant.incarnation != incarnation {
        return Err(StartRefused::Restarted(incarnation));
    }
    if grant.log != tail.position() {
        return Err(StartRefused::Changed(tail.position()));
    }
    Ok(())
}

/// Rule 6: what W members have is committed, but only at or behind the `EpochStart` of the leader's own epoch; what lies before is committed with it. A
/// frame of an older epoch that W members have may yet be overwritten by a leader that lacks it and has a later epoch.
pub fn committed(config: &Config, epoch_start: Lsn, has: impl Fn(Member) -> Lsn) -> Option<Lsn> {
    let mut ends: Vec<Lsn> = config.members().iter().map(|member| has(*member)).collect();
    ends.sort_unstable_by(|a, b| b.cmp(a));
    let w = config.w() - usize::from(config.w() > 1 && zoo!(OneCopyLess));
    Some(ends[w - 1]).filter(|end| *end > epoch_start)
}

/// Rule 8: a leader stops at the first sign of a later epoch.
pub fn must_step_down(epoch: Epoch, promised: Epoch) -> bool {
    promised > epoch
}

/// When a frame counts as being on a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Synced.
    Disk,
    /// Written. A machine that loses power makes its replicas suspects.
    Memory,
}

/// What a leader says to a `Hello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    Welcome(Welcome),
    /// The replica promised a later epoch: step down.
    Deposed(Epoch),
    /// Neither a member nor a learner, for instance a member's broker with a new folder. Close the stream.
    Stranger,
    /// A later stream of this replica is known. Close this one.
    Superseded,
}

/// A leader in its epoch.
#[derive(Clone, Debug)]
pub struct Leader {
    grant: Grant,
    durability: Durability,
    epoch_start: Lsn,
    written: Lsn,
    durable: Lsn,
    hw: Lsn,
    /// Other members, and learners.
    others: BTreeMap<Member, Progress>,
}

impl Leader {
    /// The reign that begins with this `EpochStart`, which was written. `hw` is what the replica knew to be committed.
    pub fn begin(grant: Grant, start: &Link, durability: Durability, hw: Lsn) -> Leader {
        assert_eq!(start.tail.epoch, grant.epoch, "an epoch begins with its own frame");
        assert!(start.lsn >= grant.log.end && hw <= grant.log.end, "an epoch begins behind the granted log");
        let others = grant.config.members().iter().filter(|member| **member != grant.leader).map(|member| (*member, Progress::new())).collect();
        let mut leader = Leader { durability, epoch_start: start.lsn, written: Lsn(0), durable: Lsn(0), hw, others, grant };
        leader.written(start.tail.end);
        leader
    }

    pub fn epoch(&self) -> Epoch {
        self.grant.epoch
    }

    pub fn config(&self) -> &Config {
        &self.grant.config
    }

    /// Everything before it is committed (rule 7: answered and read). Never decreases.
    pub fn hw(&self) -> Lsn {
        self.hw
    }

    /// Whether `EpochStart` is committed: the configuration is in force (rule 14), and clients may be served.
    pub fn started(&self) -> bool {
        self.hw > self.epoch_start
    }

    /// The own log was written up to here. Returns whether `hw` moved.
    pub fn written(&mut self, end: Lsn) -> bool {
        assert!(end >= self.written, "a leader never shortens its log");
        self.written = end;
        self.commit()
    }

    /// The own log was synced up to here. Returns whether `hw` moved.
    pub fn synced(&mut self, end: Lsn) -> bool {
        assert!(end <= self.written, "what is synced was written");
        self.durable = self.durable.max(end);
        self.commit()
    }

    /// A replica opens a stream.
    pub fn hello(&mut self, log: &impl Log, hello: &Hello, now: Duration) -> Greeting {
        let epoch = self.epoch();
        let Some(progress) = self.others.get_mut(&hello.member) else { return Greeting::Stranger };
        if must_step_down(epoch, hello.promised) {
            return Greeting::Deposed(hello.promised);
        }
        if !progress.hello(log, hello, now) {
            return Greeting::Superseded;
        }
        Greeting::Welcome(Welcome { epoch, session: hello.session, target: suspect_target(log) })
    }

    /// A replica acknowledges frames. Returns whether `hw` moved.
    pub fn acked(&mut self, ack: &Ack, now: Duration) -> bool {
        let (epoch, end) = (self.epoch(), self.written);
        let Some(progress) = self.others.get_mut(&ack.member).filter(|_| ack.epoch == epoch) else { return false };
        progress.acked(ack, end, now) && self.commit()
    }

    /// A replica lacks the frame before those that it was sent.
    pub fn mismatch(&mut self, log: &impl Log, mismatch: &Mismatch, now: Duration) {
        let epoch = self.epoch();
        if let Some(progress) = self.others.get_mut(&mismatch.member).filter(|_| mismatch.epoch == epoch) {
            progress.mismatch(log, mismatch, now);
        }
    }

    /// What to send to a replica now. Ask again after each event, and at least each [`HEARTBEAT`].
    pub fn next(&mut self, log: &impl Log, member: Member, now: Duration) -> Next {
        self.others.get_mut(&member).map_or(Next::Wait, |progress| progress.next(log, now))
    }

    /// The append with these frames, of which the replica is told now.
    pub fn append(&mut self, member: Member, prev: Tail, frames: Vec<Link>, leader_time: u64, now: Duration) -> Append {
        let append = Append { epoch: self.epoch(), prev, frames, hw: self.hw, leader_time };
        if let Some(progress) = self.others.get_mut(&member) {
            progress.sent(append.end().end, now);
        }
        append
    }

    /// A replica that is to become a member is sent the log as well. It doesn't count.
    pub fn teach(&mut self, learner: Member) {
        if learner != self.grant.leader {
            self.others.entry(learner).or_insert_with(Progress::new);
        }
    }

    /// A learner is no longer wanted. Members stay until the epoch ends.
    pub fn dismiss(&mut self, learner: Member) {
        if !self.grant.config.contains(learner) {
            self.others.remove(&learner);
        }
    }

    /// Whether a learner has all but a little, so that it may become a member without a pause.
    pub fn learnt(&self, learner: Member, now: Duration) -> bool {
        self.others.get(&learner).is_some_and(|progress| progress.settled(now) && heard_lately(progress, now))
    }

    /// Rule 9: fewer than W members heard of for a second means that nothing can be committed: serve nobody, keep trying. Only for liveness; what is
    /// committed doesn't depend on it.
    pub fn serving(&self, now: Duration) -> bool {
        let lately = |member: &&Member| **member == self.grant.leader || self.others.get(member).is_some_and(|progress| heard_lately(progress, now));
        self.started() && self.grant.config.members().iter().filter(lately).count() >= self.grant.config.w()
    }

    /// The member to hand over to: the one with the most of the log, among those in another zone if there are any such. `elsewhere` says which are.
    pub fn successor(&self, now: Duration, elsewhere: impl Fn(Member) -> bool) -> Option<Member> {
        let may = |(member, progress): &(&Member, &Progress)| {
            self.grant.config.contains(**member)
                && !progress.suspect()
                && heard_lately(progress, now)
                && self.written.0 - progress.reached().received.0 < LIVE
        };
        let best = self
            .others
            .iter()
            .filter(may)
            .max_by_key(|(member, progress)| (elsewhere(**member), progress.reached().durable, std::cmp::Reverse(**member)));
        best.map(|(member, _)| *member)
    }

    /// Whether the leader may hand over: nothing is uncommitted, and the successor has everything. It admits nothing meanwhile.
    pub fn may_hand_over(&self, to: Member) -> bool {
        self.hw == self.written && self.others.get(&to).is_some_and(|progress| progress.reached().durable == self.written && !progress.suspect())
    }

    /// How far another replica has come, for operators.
    pub fn reached(&self, member: Member) -> Option<Reached> {
        self.others.get(&member).map(Progress::reached)
    }

    fn commit(&mut self) -> bool {
        let has = |member: Member| match (self.others.get(&member), self.durability) {
            (Some(progress), Durability::Disk) => progress.reached().durable,
            (Some(progress), Durability::Memory) => progress.reached().received,
            (None, Durability::Disk) => self.durable,
            (None, Durability::Memory) => self.written,
        };
        let found = committed(&self.grant.config, self.epoch_start, has).filter(|end| *end > self.hw);
        self.hw = found.unwrap_or(self.hw);
        found.is_some()
    }
}

/// 4.6: all that a replica ever acknowledged lies before the end that its leader has when it says `Hello`, because this leader was chosen without
/// relying on it.
pub fn suspect_target(log: &impl Log) -> Lsn {
    log.tail().end
}

fn heard_lately(progress: &Progress, now: Duration) -> bool {
    progress.heard().is_some_and(|heard| now < heard + SILENCE)
}
