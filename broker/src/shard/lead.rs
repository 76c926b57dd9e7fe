//! The driver as the leader of a shard with several copies: begins its epoch, hears its followers, and stops when another leads.

use super::commit::Effect;
use super::inbox::Request;
use super::thread::Driver;
use crate::record::{Copies, EpochStart, Trim};
use crate::replica::leading::{CaughtUp, Deposed, Leading};
use crate::replica::message::{Message, PeerEvent};
use gantry_model::Epoch;
use gantry_store::index::SealJob;
use gantry_store::log::AppendError;
use gantry_store::replica::leader::Durability;
use gantry_store::replica::log::Link;
use gantry_store::replica::message::Grant;

/// What came for the replica as a whole, and not for the leader in it.
#[derive(Default)]
pub(super) struct Mail {
    events: Vec<PeerEvent>,
    deposed: Option<Epoch>,
}

impl Driver {
    /// What was applied on the way here, and counts only when it is committed.
    pub(crate) fn begin_with(&mut self, seals: Vec<SealJob>, trims: Vec<Trim>) {
        seals.into_iter().for_each(|job| self.rounds.effect(Effect::Seal(job)));
        trims.into_iter().for_each(|trim| self.rounds.effect(Effect::Trim(trim)));
    }

    /// Begins the epoch that was granted. `hw` is what this replica knew to be committed.
    pub(crate) fn lead(&mut self, grant: Grant, shift_ms: u64, durability: Durability, hw: gantry_model::Lsn) -> Result<(), AppendError> {
        self.clock.now_ms();
        let at = self.log.end();
        let copies = Copies { leader: grant.leader, config: grant.config.clone() };
        self.actions = self.core.start(EpochStart { epoch: grant.epoch.0, shift_ms, unclean: false, copies: Some(copies) });
        self.perform()?;
        self.log.write()?;
        let failed = |error: std::io::Error| AppendError::Failed { doing: "beginning an epoch", error: error.into() };
        // A full segment ends before the first frame of an epoch.
        let start = self.reader.frames(at, self.log.end()).find_map(|frame| match frame {
            Ok((_, frame)) if frame.header.epoch == grant.epoch && frame.header.kind == gantry_store::frame::Kind::EpochStart => {
                Some(Link::from(&frame.header))
            }
            _ => None,
        });
        let start = start.ok_or_else(|| failed(std::io::Error::other("its first frame can't be read back")))?;
        let (machine, inbox) = (self.machine.clone(), self.inbox.clone());
        let read = move |read| inbox.put(Request::CaughtUp(read));
        let mut leading = Leading::begin(grant, &start, durability, hw, &self.log, machine, read).map_err(failed)?;
        leading.written(&self.log, self.written);
        leading.synced(self.log.sync()?);
        self.leading = Some(leading);
        self.commit()
    }

    /// The epoch that is led, whether it has begun for clients, and whether anything can be committed.
    pub(crate) fn reign(&self) -> (Epoch, bool, bool) {
        self.leading.as_ref().map_or((self.log.epoch(), true, true), |leading| (leading.epoch(), leading.started(), leading.serving()))
    }

    pub(crate) fn take_mail(&mut self) -> Vec<PeerEvent> {
        std::mem::take(&mut self.mail.events)
    }

    /// The later epoch that a follower promised, once.
    pub(crate) fn deposed(&mut self) -> Option<Epoch> {
        self.mail.deposed.take()
    }

    /// Whether a request can be taken now. One that may change something can't while fewer than W copies are heard of: it would never be
    /// answered (rule 9). Dropping it tells the caller.
    pub(super) fn may_take(&self, request: &Request) -> bool {
        let changes = matches!(
            request,
            Request::Send { .. }
                | Request::Receive { .. }
                | Request::Ack { .. }
                | Request::Change { .. }
                | Request::Dead { .. }
                | Request::EndTransaction { .. }
                | Request::ResumeTransaction { .. }
                | Request::Recall { .. }
                | Request::SyncLite { .. }
                | Request::Ask { .. }
        );
        !changes || self.leading.as_ref().is_none_or(Leading::serving)
    }

    /// Followers speak to the leader; everything else is for the replica.
    pub(super) fn take_peer(&mut self, event: PeerEvent) -> Result<(), AppendError> {
        let Some(leading) = &mut self.leading else { return Ok(()) };
        match event {
            PeerEvent::Said { message: message @ (Message::Hello(_) | Message::Ack(_) | Message::Mismatch(_) | Message::Refused(_)), back } => {
                if let Err(Deposed(epoch)) = leading.hear(&self.log, message, &back, self.written) {
                    self.mail.deposed = self.mail.deposed.max(Some(epoch));
                }
                self.settle()
            }
            other => {
                self.mail.events.push(other);
                Ok(())
            }
        }
    }

    pub(super) fn caught_up(&mut self, read: CaughtUp) {
        if let Some(leading) = &mut self.leading {
            leading.caught_up(&self.log, read, self.written);
        }
    }

    /// Sends heartbeats that are due.
    pub(super) fn tend_followers(&mut self) {
        if let Some(leading) = &mut self.leading {
            leading.send_all(&self.log, self.written);
        }
    }
}
