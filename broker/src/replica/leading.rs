//! The leader's streams to its followers: greets them, sends them what they lack, and hears what they have.
//!
//! It runs on the shard's thread. What was just written is sent from memory; what a follower lacks from further back is read by a worker, so
//! that a replica that catches up never holds up the others.

use super::install::{self, Offers, Packed};
use super::message::{Frames, Message, Outlet};
use bytes::Bytes;
use gantry_model::{Epoch, Lsn};
use gantry_platform::clock::SharedClock;
use gantry_platform::disk::SharedDisk;
use gantry_platform::workers::Worker;
use gantry_store::log::{CommitLog, LogReader, Origin, Raw, ReadError, own_links};
use gantry_store::replica::leader::{Greeting, HEARTBEAT, Leader, Next, Pace};
use gantry_store::replica::log::{Link, Tail};
use gantry_store::replica::message::Grant;
use gantry_store::replica::{Member, leader};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of one append, unless one batch is longer.
const APPEND_BYTES: u64 = 1024 * 1024;
/// Bytes per second that are read for one follower that catches up.
const CATCH_UP_PER_S: u64 = 100 * 1024 * 1024;
/// Without other work the leader looks at its followers this often.
pub const LOOK: Duration = Duration::from_millis(HEARTBEAT.as_millis() as u64 / 2);

/// What was read for a follower.
#[derive(Debug)]
pub enum CaughtUp {
    Frames {
        epoch: Epoch,
        member: Member,
        prev: Tail,
        raw: Result<Raw, ReadError>,
    },
    /// The newest state, for one that needs an install.
    State {
        epoch: Epoch,
        member: Member,
        packed: Result<Option<Packed>, String>,
    },
}

/// Who reads for followers that catch up, and takes what was read to where [`Leading::caught_up`] is told.
pub struct CatchUp {
    worker: Worker,
    disk: SharedDisk,
    /// The shard's folder.
    dir: PathBuf,
    done: Arc<dyn Fn(CaughtUp) + Send + Sync>,
}

impl CatchUp {
    pub fn new(worker: Worker, disk: SharedDisk, dir: PathBuf, done: impl Fn(CaughtUp) + Send + Sync + 'static) -> CatchUp {
        CatchUp { worker, disk, dir, done: Arc::new(done) }
    }

    fn read(&self, reader: LogReader, epoch: Epoch, member: Member, prev: Tail, bytes: usize) {
        let done = self.done.clone();
        self.worker.give(Box::new(move || {
            let raw = reader.raw(prev.end, bytes);
            let len = raw.as_ref().map_or(0, |raw| raw.bytes.len() as u64);
            done(CaughtUp::Frames { epoch, member, prev, raw });
            Duration::from_micros(len * 1_000_000 / CATCH_UP_PER_S)
        }));
    }

    fn read_state(&self, origin: Origin, epoch: Epoch, member: Member) {
        let (disk, dir, done) = (self.disk.clone(), self.dir.clone(), self.done.clone());
        self.worker.give(Box::new(move || {
            done(CaughtUp::State { epoch, member, packed: install::pack(&disk, &dir, origin) });
            Duration::ZERO
        }));
    }
}

impl fmt::Debug for CatchUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.worker.fmt(f)
    }
}

/// One epoch of leading.
pub struct Leading {
    leader: Leader,
    outlets: BTreeMap<Member, Arc<dyn Outlet>>,
    learners: BTreeSet<Member>,
    clock: SharedClock,
    /// Followers for which something is being read.
    reading: BTreeSet<Member>,
    catch_up: CatchUp,
    offers: Offers,
}

/// Another replica promised a later epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deposed(pub Epoch);

impl Leading {
    /// The reign that begins with the `EpochStart` that was written at `start`.
    pub fn begin(grant: Grant, start: &Link, durability: leader::Durability, hw: Lsn, clock: SharedClock, catch_up: CatchUp) -> Leading {
        let leader = Leader::begin(grant, start, durability, hw);
        Leading { leader, outlets: BTreeMap::new(), learners: BTreeSet::new(), clock, reading: BTreeSet::new(), catch_up, offers: Offers::default() }
    }

    pub fn epoch(&self) -> Epoch {
        self.leader.epoch()
    }

    pub fn hw(&self) -> Lsn {
        self.leader.hw()
    }

    /// Whether requests are taken: enough followers are heard of to commit anything.
    pub fn serving(&self) -> bool {
        self.leader.serving(self.clock.mono())
    }

    /// Whether the epoch has begun for clients: its first frame is committed.
    pub fn started(&self) -> bool {
        self.leader.started()
    }

    /// The own log was written: followers get it while it is synced.
    pub fn written(&mut self, log: &CommitLog, time: u64) {
        self.leader.written(log.end());
        self.send_all(log, time);
    }

    pub fn synced(&mut self, durable: Lsn) {
        self.leader.synced(durable);
    }

    /// Sends the log to these replicas too, and to no other that isn't a member.
    pub fn teach(&mut self, learners: BTreeSet<Member>) {
        for gone in self.learners.difference(&learners) {
            self.leader.dismiss(*gone);
            self.outlets.remove(gone);
            self.offers.drop_for(*gone);
        }
        learners.iter().for_each(|learner| self.leader.teach(*learner));
        self.learners = learners;
    }

    /// Those that have all but a little of the log.
    pub fn learnt(&self) -> Vec<Member> {
        let now = self.clock.mono();
        self.learners.iter().copied().filter(|learner| self.leader.learnt(*learner, now)).collect()
    }

    /// The member that had best lead next.
    pub fn successor(&self) -> Option<Member> {
        self.leader.successor(self.clock.mono(), |_| false)
    }

    /// Whether it has everything, and all of it is committed.
    pub fn may_hand_over(&self, to: Member) -> bool {
        self.leader.may_hand_over(to)
    }

    /// Sends what is due: frames, or a heartbeat.
    pub fn send_all(&mut self, log: &CommitLog, time: u64) {
        let members: Vec<Member> = self.outlets.keys().copied().collect();
        members.into_iter().for_each(|member| self.send_to(log, member, time));
    }

    fn send_to(&mut self, log: &CommitLog, member: Member, time: u64) {
        while !self.reading.contains(&member) {
            let now = self.clock.mono();
            match self.leader.next(log, member, now) {
                Next::Wait => return,
                Next::Install => return self.offer(log, member, now),
                Next::Heartbeat { prev } => return self.send(member, prev, Bytes::new(), 0, time),
                Next::Frames { prev, bytes, pace: Pace::Live } => match log.reader().raw(prev.end, bytes.min(APPEND_BYTES) as usize) {
                    Ok(raw) => self.send(member, prev, raw.bytes, raw.file, time),
                    Err(error) => return tracing::error!(%error, %member, "the log can't be read for a replica"),
                },
                Next::Frames { prev, bytes, pace: Pace::CatchUp } => {
                    self.reading.insert(member);
                    self.catch_up.read(log.reader(), self.leader.epoch(), member, prev, bytes.min(APPEND_BYTES) as usize);
                }
            }
        }
    }

    /// What was read for a follower is sent, if it is still what it lacks.
    pub fn caught_up(&mut self, log: &CommitLog, read: CaughtUp, time: u64) {
        match read {
            CaughtUp::Frames { epoch, member, prev, raw } if epoch == self.epoch() => {
                self.reading.remove(&member);
                match raw {
                    Ok(raw) => self.send(member, prev, raw.bytes, raw.file, time),
                    Err(error) => return tracing::error!(%error, %member, "the log can't be read for a replica"),
                }
                self.send_to(log, member, time);
            }
            CaughtUp::State { epoch, member, packed } if epoch == self.epoch() => {
                self.offers.have(member, packed, self.clock.mono());
                self.send_to(log, member, time);
            }
            // Read for an epoch that is over.
            CaughtUp::Frames { .. } | CaughtUp::State { .. } => {}
        }
    }

    /// Offers the newest state to a replica that can't go on without.
    fn offer(&mut self, log: &CommitLog, member: Member, now: Duration) {
        let epoch = self.epoch();
        let Some(outlet) = self.outlets.get(&member) else { return };
        if self.offers.need(member, &**outlet, epoch, now) {
            self.catch_up.read_state(log.origin(), epoch, member);
        }
    }

    fn send(&mut self, member: Member, prev: Tail, bytes: Bytes, file: u64, time: u64) {
        let Some(outlet) = self.outlets.get(&member) else { return };
        let links = own_links(&bytes, prev.end);
        let append = self.leader.append(member, prev, links, time, self.clock.mono());
        outlet.send(Message::Frames(Frames { epoch: append.epoch, prev, hw: append.hw, leader_time: time, bytes, file }));
    }

    /// A follower speaks.
    pub fn hear(&mut self, log: &CommitLog, message: Message, back: &Arc<dyn Outlet>, time: u64) -> Result<(), Deposed> {
        let now = self.clock.mono();
        match message {
            Message::Hello(hello) => match self.leader.hello(log, &hello, now) {
                Greeting::Welcome(welcome) => {
                    self.outlets.insert(hello.member, back.clone());
                    self.reading.remove(&hello.member);
                    self.offers.again(hello.member);
                    back.send(Message::Welcome(welcome));
                }
                Greeting::Deposed(epoch) => return Err(Deposed(epoch)),
                Greeting::Stranger => tracing::warn!(member = %hello.member, "a replica that is no member wants to follow; it is not answered"),
                Greeting::Superseded => {}
            },
            Message::Ack(ack) => {
                // Whoever acknowledges frames of this leader follows it.
                self.offers.drop_for(ack.member);
                self.leader.acked(&ack, now);
            }
            Message::Mismatch(mismatch) => self.leader.mismatch(log, &mismatch, now),
            Message::Refused(refused) if leader::must_step_down(self.epoch(), refused.promised) => return Err(Deposed(refused.promised)),
            Message::Fetch(fetch) if fetch.epoch == self.epoch() => self.offers.fetch(&fetch, &**back, now),
            Message::Refused(_) | Message::Welcome(_) | Message::Frames(_) | Message::Offer(_) | Message::Fetch(_) | Message::Piece(_) => {}
        }
        self.send_all(log, time);
        Ok(())
    }
}
