//! The driver as the leader of a shard with several copies: begins its epoch, hears its followers, and stops when another leads.

use super::commit::Effect;
use super::inbox::Request;
use super::thread::Driver;
use crate::record::{Copies, EpochStart, Trim};
use crate::replica::leading::{CatchUp, CaughtUp, Deposed, Leading};
use crate::replica::message::{Answer, Message, PeerEvent};
use gantry_model::Epoch;
use gantry_store::index::SealJob;
use gantry_store::log::AppendError;
use gantry_store::replica::Member;
use gantry_store::replica::leader::Durability;
use gantry_store::replica::log::Link;
use gantry_store::replica::message::Grant;
use std::collections::BTreeSet;
use std::time::Duration;

/// A successor that doesn't have everything by then is not waited for any longer.
const READY_WITHIN: Duration = Duration::from_millis(200);
/// A new epoch that doesn't begin by then doesn't begin at all, as far as clients are concerned.
const SEALED_WITHIN: Duration = Duration::from_secs(1);

/// What came for the replica as a whole, and not for the leader in it.
#[derive(Default)]
pub(super) struct Mail {
    events: Vec<PeerEvent>,
    deposed: Option<Epoch>,
}

/// A leader about to give up the lead: it takes nothing more, so that nothing will be unknown.
pub(super) struct HandingOver {
    to: Member,
    since: Duration,
    /// Until the controller was told that the successor is ready.
    answer: Option<Answer<Result<Member, String>>>,
    /// What came meanwhile.
    held: Vec<Request>,
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
        self.actions = self.core.start(EpochStart { epoch: grant.epoch.0, shift_ms, unclean: grant.unclean, copies: Some(copies) });
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
        let worker = self.workers.hire("gantry-catch-up").map_err(failed)?;
        let (disk, dir) = self.upkeep.files();
        let mut leading = Leading::begin(grant, &start, durability, hw, machine, CatchUp::new(worker, disk, dir, read));
        leading.written(&self.log, self.written);
        leading.synced(self.log.sync()?);
        self.leading = Some(leading);
        self.commit()
    }

    /// The epoch that is led, whether it has begun for clients, and whether anything can be committed.
    pub(crate) fn reign(&self) -> (Epoch, bool, bool) {
        self.leading.as_ref().map_or((self.log.epoch(), true, true), |leading| (leading.epoch(), leading.started(), leading.serving()))
    }

    /// Sends the log to these replicas too.
    pub(crate) fn teach(&mut self, learners: BTreeSet<Member>) {
        if let Some(leading) = &mut self.leading {
            leading.teach(learners);
        }
    }

    /// Those of them that have all but a little of it.
    pub(crate) fn learnt(&self) -> Vec<Member> {
        self.leading.as_ref().map_or_else(Vec::new, Leading::learnt)
    }

    pub(crate) fn take_mail(&mut self) -> Vec<PeerEvent> {
        std::mem::take(&mut self.mail.events)
    }

    /// The later epoch that a follower promised, once.
    pub(crate) fn deposed(&mut self) -> Option<Epoch> {
        self.mail.deposed.take()
    }

    /// Whether a request can be taken now. One that may change something can't while fewer than W copies are heard of: it would never be
    /// answered (rule 9).
    pub(super) fn may_take(&self, request: &Request) -> bool {
        self.leading.as_ref().is_none_or(Leading::serving) || !request.needs_commit()
    }

    /// Makes ready for another leader.
    pub(crate) fn hand_over(&mut self, to: Option<Member>, answer: Answer<Result<Member, String>>) {
        let Some(to) = to.or_else(|| self.leading.as_ref().and_then(Leading::successor)) else {
            return answer.send(Err("no other copy has nearly everything".to_owned()));
        };
        if self.handing_over.is_some() {
            return answer.send(Err("the lead is being handed over already".to_owned()));
        }
        let since = self.machine.mono();
        self.handing_over = Some(HandingOver { to, since, answer: Some(answer), held: Vec::new() });
    }

    /// Keeps a request back that came while the lead is handed over. Answers it if it need not wait.
    pub(super) fn hold(&mut self, request: Request) -> Option<Request> {
        match &mut self.handing_over {
            Some(handing) if request.needs_commit() => {
                handing.held.push(request);
                None
            }
            _ => Some(request),
        }
    }

    /// Tells the controller when the successor is ready, and goes on as leader if it doesn't come to a new epoch. Answers what was held then.
    pub(super) fn go_on_handing_over(&mut self) -> Vec<Request> {
        let (Some(handing), Some(leading)) = (&mut self.handing_over, &self.leading) else { return Vec::new() };
        let passed = self.machine.mono() - handing.since;
        match &handing.answer {
            Some(_) if leading.may_hand_over(handing.to) => {
                let to = handing.to;
                handing.answer.take().into_iter().for_each(|answer| answer.send(Ok(to)));
                return Vec::new();
            }
            Some(_) if passed < READY_WITHIN => return Vec::new(),
            None if passed < SEALED_WITHIN => return Vec::new(),
            _ => {}
        }
        let Some(HandingOver { answer, held, .. }) = self.handing_over.take() else { return Vec::new() };
        answer.into_iter().for_each(|answer| answer.send(Err("the successor did not get everything in time".to_owned())));
        held
    }

    /// Refuses what was held: it was not taken, so another leader can.
    pub(super) fn refuse_held(&mut self) {
        self.handing_over.take().into_iter().flat_map(|handing| handing.held).for_each(Request::refuse);
    }

    /// Followers speak to the leader; everything else is for the replica.
    pub(super) fn take_peer(&mut self, event: PeerEvent) -> Result<(), AppendError> {
        let Some(leading) = &mut self.leading else { return Ok(()) };
        match event {
            PeerEvent::Said {
                message: message @ (Message::Hello(_) | Message::Ack(_) | Message::Mismatch(_) | Message::Refused(_) | Message::Fetch(_)),
                back,
            } => {
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
