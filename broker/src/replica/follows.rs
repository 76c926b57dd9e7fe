//! The follower's role: writes what its leader sends, syncs once for all that came meanwhile, acknowledges, and applies what is committed.

use super::Stopped;
use super::message::{Message, Outlet, PeerEvent};
use crate::record::Forget;
use crate::recover::Options;
use crate::shard::clock::ShardClock;
use crate::shard::core::{Core, Limits};
use crate::shard::inbox::Request;
use crate::shard::replay::{Applied, Passed};
use crate::shard::thread::{Driver, Parts};
use crate::shard::upkeep::Job;
use gantry_model::Lsn;
use gantry_store::replica::follower::{Action, Follower};
use gantry_store::replica::leader::Durability;
use gantry_store::replica::message::Grant;
use gantry_store::zoo;
use std::sync::Arc;
use std::time::Duration;

/// Requests of one round; all of them wait for one sync.
const ROUND: usize = 256;
/// Without work the follower looks up this often.
pub(super) const IDLE: Duration = Duration::from_millis(1_000);

/// A replica that follows.
pub(super) struct Follows {
    pub parts: Parts,
    pub applied: Applied,
    /// The way to the leader.
    pub leader: Option<Arc<dyn Outlet>>,
    /// When the leader spoke last.
    pub heard_at: Option<Duration>,
    /// Whether it spoke in this round, and so waits for an answer.
    heard: bool,
    unsynced: bool,
    /// An install: the state is here, and the log has to get as far as it before the two belong together. Nothing is applied until then.
    waits: Option<Lsn>,
}

impl Follows {
    pub fn new(parts: Parts, applied: Applied) -> Follows {
        Follows { parts, applied, leader: None, heard_at: None, heard: false, unsynced: false, waits: None }
    }

    /// One in the middle of an install, with the address of the state that waits.
    pub fn waiting(self, waits: Option<Lsn>) -> Follows {
        Follows { waits, ..self }
    }

    pub fn waits(&self) -> Option<Lsn> {
        self.waits
    }

    /// The leader spoke, in a way that the rules believe.
    pub fn hear(&mut self, leader: &Arc<dyn Outlet>) {
        self.leader = Some(leader.clone());
        self.heard_at = Some(self.parts.clock.mono());
        self.heard = true;
    }

    /// What peers said in this request and those that wait behind it; `None` when the replica is told to stop.
    pub fn take_round(&mut self, first: Option<Request>) -> Option<Vec<PeerEvent>> {
        let mut events = Vec::new();
        let mut next = first;
        while let Some(request) = next.take() {
            match request {
                Request::Stop => return None,
                Request::Peer(event) => events.push(event),
                other => self.take(other),
            }
            if events.len() < ROUND {
                next = self.parts.requests.try_recv().ok();
            }
        }
        Some(events)
    }

    /// What a follower can answer. Everything else is for the leader.
    fn take(&mut self, request: Request) {
        match request {
            Request::Sealed { run: Ok(run) } => self.applied.index.sealed(run),
            Request::Sealed { run: Err(error) } => tracing::warn!(%error, "an index run could not be written; it is rebuilt at the next start"),
            Request::Checkpointed { at, error } => {
                self.parts.upkeep.checkpointed(at, error, &mut self.applied.state);
                self.parts.upkeep.trim_log(&mut self.applied.index, &mut self.parts.log);
            }
            Request::Spared { error } => self.parts.upkeep.spared(error),
            Request::GroupKnown { group } => drop(self.parts.catalogue.groups.insert(group.id, group)),
            Request::TopicKnown { topic } => drop(self.parts.catalogue.topics.insert(topic.id, topic)),
            Request::Forget { what } => {
                match what {
                    Forget::Topic(topic) => drop(self.parts.catalogue.topics.remove(&topic)),
                    Forget::Group(group) => drop(self.parts.catalogue.groups.remove(&group)),
                }
                self.parts.catalogue.forgotten.push(what);
            }
            Request::Drain { reply } => drop(reply.send(())),
            other => other.refuse(),
        }
    }

    /// Writes frames behind the end. Answers the new end, which is not durable yet.
    pub fn write(&mut self, frames: &[u8], file: u64) -> Result<Lsn, Stopped> {
        self.parts.log.take(frames, file)?;
        self.unsynced = true;
        Ok(self.parts.log.write()?)
    }

    /// Makes durable what was written, tells the leader, and applies what is committed. Answers what the rules say about it.
    pub fn finish_round(&mut self, follower: &mut Follower) -> Result<Vec<Action>, Stopped> {
        let mut actions = Vec::new();
        if std::mem::take(&mut self.unsynced) {
            let sync = follower.syncing();
            if !zoo!(AckBeforeSync) {
                self.parts.log.sync()?;
            }
            actions = follower.synced(sync);
        }
        if std::mem::take(&mut self.heard)
            && let (Some(ack), Some(leader)) = (follower.ack(), &self.leader)
        {
            leader.send(Message::Ack(ack));
        }
        let to = follower.may_apply();
        if to > self.applied.at() && self.waits.is_none() {
            let Passed { seals, trims } = self.applied.advance(&self.parts.log, to)?;
            seals.into_iter().for_each(|job| self.parts.upkeep.give(Job::Seal(job)));
            for trim in trims {
                self.parts.upkeep.trimmed(&trim, &mut self.applied.index, &mut self.parts.log);
            }
            follower.applied(to);
        }
        self.keep_up();
        Ok(actions)
    }

    fn keep_up(&mut self) {
        let (now, at) = (self.parts.clock.wall_ms(), self.applied.at());
        let Parts { upkeep, log, status, .. } = &mut self.parts;
        let Applied { state, index, .. } = &mut self.applied;
        if self.waits.is_none()
            && let Some(frozen) = upkeep.checkpoint_if_due(now, state, index, log, at)
        {
            upkeep.give(Job::Checkpoint(frozen));
        }
        if upkeep.is_due(now) {
            upkeep.look_at_disk(status);
            upkeep.make_spares(log);
        }
    }

    /// Becomes the leader of the epoch that was granted. Everything in the log counts from now on, and is committed with the epoch's first frame.
    pub fn lead(self, options: &Options, grant: Grant, durability: Durability, hw: Lsn) -> Result<Driver, Stopped> {
        let Follows { parts, mut applied, .. } = self;
        let end = parts.log.end();
        let Passed { seals, trims } = applied.advance(&parts.log, end)?;
        let last = parts.log.last_time();
        let (clock, shift) = ShardClock::after(options.clock.clone(), last);
        let Applied { state, index, .. } = applied;
        let core = Core::new(state, options.shard, Limits::default(), last);
        let mut driver = Driver::new(parts, core, index, clock);
        driver.begin_with(seals, trims);
        driver.lead(grant, shift, durability, hw)?;
        Ok(driver)
    }

    /// Ends without a trace: the files are about to be others.
    pub fn abandon(mut self) {
        self.parts.upkeep.end();
    }

    pub fn close(mut self) -> bool {
        let at = self.applied.at();
        self.parts.upkeep.finish(&mut self.applied.state, &self.applied.index, &self.parts.log, at);
        self.parts.log.close().is_ok()
    }
}
