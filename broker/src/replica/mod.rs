//! One replica of a shard in this process: it follows a leader, or leads, and changes between the two when the controller says so.
//!
//! The rules are in `gantry_store::replica` and know no disk; this thread does what they say, in their order: what must be durable is made durable before
//! the answer that rests on it is sent. As a follower it writes what the leader sends, syncs, acknowledges, and applies what is committed, so that it can
//! lead at once. As leader it is the shard's [`Driver`], whose log is sent on by `leading`.

pub mod message;
pub mod leading;
mod follows;
mod install;
pub mod wire;
pub mod streams;

use crate::recover::{Options, reload};
use crate::shard::inbox::{Inbox, Request, Status, next_request};
use crate::shard::replay::Applied;
use crate::shard::thread::{Driver, Parts};
use crate::shard::upkeep::{Job, restore};
use follows::{Follows, IDLE};
use gantry_model::{Epoch, Lsn};
use gantry_platform::clock::SharedClock;
use gantry_store::data_folder::ShardFolder;
use gantry_store::install::Image;
use gantry_store::log::{CommitLog, LogReader, links};
use gantry_store::replica::follower::{self, Action, Follower};
use gantry_store::replica::leader::{Durability, SILENCE, StartRefused};
use gantry_store::replica::message::{Append, Grant, Refused};
use gantry_store::replica::promise::Promise;
use gantry_store::replica::{Incarnation, Log, Member, NodeId};
use gantry_store::zoo;
use install::Fetching;
use message::{Frames, Message, Offer, Outlet, PeerEvent, Piece};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Who a replica is, and what it keeps its word in.
#[derive(Debug)]
pub struct Identity {
    pub node: NodeId,
    /// The shard's folder, which keeps the promise.
    pub folder: ShardFolder,
    /// The number of this run of the process.
    pub incarnation: Incarnation,
    pub durability: Durability,
    /// How often this process opened the copy before: its peers tell the openings apart.
    pub opened_before: u32,
}

/// What a replica looks like from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub promised: Epoch,
    pub leads: Option<Epoch>,
    /// Whether the epoch that it leads has begun for clients: its first frame is committed.
    pub started: bool,
    /// Whether it leads and can commit.
    pub serves: bool,
    /// The epoch of the leader that it hears, and when it heard it last.
    pub follows: Option<Epoch>,
    pub heard: Option<Duration>,
    /// The oldest frame.
    pub start: Lsn,
    pub end: Lsn,
    /// Of the last frame: its epoch, and when it was first written.
    pub last_epoch: Epoch,
    pub last_time_ms: u64,
    pub durable: Lsn,
    pub hw: Lsn,
    pub applied: Lsn,
    pub suspect: bool,
    /// In the middle of an install: the log has to get this far before the state that waits counts.
    pub installs: Option<Lsn>,
    /// Learners that have all but a little of the log that it leads.
    pub learnt: Vec<Member>,
    /// Why it stopped for good.
    pub failed: Option<String>,
}

/// How others speak to a replica, and what they see of it.
#[derive(Clone, Debug)]
pub struct Handle {
    pub member: Member,
    pub incarnation: Incarnation,
    inbox: Inbox,
    clock: SharedClock,
    view: Arc<Mutex<View>>,
    reader: LogReader,
}

impl Handle {
    /// The log, to be read from any thread.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    pub fn tell(&self, event: PeerEvent) {
        self.inbox.put(Request::Peer(event));
    }

    pub fn view(&self) -> View {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if view.heard.is_none_or(|heard| self.clock.mono() > heard + SILENCE) {
            view.follows = None;
        }
        view
    }
}

/// Why a replica stops for good. Its files are kept.
#[derive(Debug)]
struct Stopped(String);

impl<E: fmt::Display> From<E> for Stopped {
    fn from(error: E) -> Stopped {
        Stopped(error.to_string())
    }
}

/// What the replica does now.
enum Role {
    Follows(Box<Follows>),
    Leads(Box<Driver>),
    /// Between two roles, and after a failure.
    Nothing,
}

impl Role {
    fn log(&self) -> Result<&CommitLog, Stopped> {
        match self {
            Role::Follows(follows) => Ok(&follows.parts.log),
            Role::Leads(driver) => Ok(&driver.log),
            Role::Nothing => Err(Stopped("the replica has no role".to_owned())),
        }
    }
}

/// What became of a replica in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    GoesOn,
    /// It was told to stop.
    Stopped,
    /// It can't go on; its view says why.
    Failed,
    /// Its files are others now, or are about to be: it is to be opened anew.
    Anew,
}

/// How a replica's thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Clean,
    Failed,
    /// It is to be opened anew.
    Anew,
}

/// A replica, and all that its thread owns. A simulation takes its rounds one by one instead.
pub struct Replica {
    options: Options,
    folder: ShardFolder,
    follower: Follower,
    durability: Durability,
    role: Role,
    /// A leader's state that is on its way here.
    fetching: Option<Fetching>,
    /// The log was given up for it.
    anew: bool,
    status: Arc<Status>,
    view: Arc<Mutex<View>>,
}

impl Replica {
    /// A replica that was recovered from its files. It follows until it is told otherwise.
    pub fn new(options: Options, identity: Identity, parts: Parts, applied: Applied, waits: Option<Lsn>) -> (Replica, Handle) {
        let Identity { node, folder, incarnation, durability, opened_before } = identity;
        let promise = Promise::of(&folder.meta());
        let member = Member { node, store: promise.store };
        let follower = Follower::new(member, incarnation, promise, parts.log.end(), applied.at()).opened_before(opened_before);
        let (inbox, clock, status) = (parts.inbox.clone(), parts.clock.clone(), parts.status.clone());
        let reader = parts.log.reader();
        let role = Role::Follows(Box::new(Follows::new(parts, applied).waiting(waits)));
        let view = Arc::<Mutex<View>>::default();
        let replica = Replica { options, folder, follower, durability, role, fetching: None, anew: false, status, view: view.clone() };
        replica.show();
        (replica, Handle { member, incarnation, inbox, clock, view, reader })
    }

    /// Works until it is told to stop, fails, or is to be opened anew.
    pub fn run(mut self) -> Ended {
        loop {
            let patience = self.patience();
            match self.turn(patience) {
                Turn::GoesOn => {}
                Turn::Stopped => return if self.close() { Ended::Clean } else { Ended::Failed },
                Turn::Failed => return Ended::Failed,
                Turn::Anew => {
                    self.abandon();
                    return Ended::Anew;
                }
            }
        }
    }

    /// How long the next request may be waited for before something else is to be done.
    pub fn patience(&mut self) -> Duration {
        match &mut self.role {
            Role::Leads(driver) => driver.patience(),
            Role::Follows(_) => IDLE,
            Role::Nothing => Duration::ZERO,
        }
    }

    /// One round, with what is there or comes so soon.
    pub fn turn(&mut self, patience: Duration) -> Turn {
        match self.round(patience) {
            Ok(true) if self.anew => Turn::Anew,
            Ok(true) => {
                self.show();
                Turn::GoesOn
            }
            Ok(false) => Turn::Stopped,
            Err(Stopped(why)) => {
                tracing::error!(shard = self.options.shard.0, %why, "this replica stops; its files are kept");
                self.view.lock().unwrap_or_else(PoisonError::into_inner).failed = Some(why);
                Turn::Failed
            }
        }
    }

    /// The log in the present role; `None` after a failure between two roles.
    pub fn log(&self) -> Option<&CommitLog> {
        self.role.log().ok()
    }

    /// The end before it is opened anew.
    pub fn abandon(self) {
        if let Role::Follows(follows) = self.role {
            follows.abandon();
        }
    }

    /// The end of a clean run. `false` if the disk failed.
    pub fn close(self) -> bool {
        match self.role {
            Role::Follows(follows) => follows.close(),
            Role::Leads(driver) => driver.close().is_ok(),
            Role::Nothing => false,
        }
    }

    /// One step in the present role; `false` when it is told to stop.
    fn round(&mut self, patience: Duration) -> Result<bool, Stopped> {
        let events = match &mut self.role {
            Role::Leads(driver) => {
                let first = next_request(&driver.requests, patience);
                driver.round(first)?;
                if driver.is_stopped() {
                    return Ok(false);
                }
                let events = driver.take_mail();
                let deposed = driver.deposed();
                if !events.is_empty() || deposed.is_some() {
                    // Whoever asks now is told of all that is in the log.
                    driver.flush()?;
                }
                self.follower.written(driver.log.durable());
                self.follower.synced(self.follower.syncing());
                self.follower.committed(driver.hw());
                if deposed.is_some_and(|epoch| self.follower.deposed(epoch)) {
                    self.step_down()?;
                }
                events
            }
            Role::Follows(follows) => {
                let first = next_request(&follows.parts.requests, patience);
                match follows.take_round(first) {
                    None => return Ok(false),
                    Some(events) => events,
                }
            }
            Role::Nothing => return Err(Stopped("the replica has no role".to_owned())),
        };
        for event in events {
            self.handle(event)?;
        }
        if let Role::Follows(follows) = &mut self.role {
            let actions = follows.finish_round(&mut self.follower)?;
            self.perform(actions, None)?;
        }
        if let Role::Follows(follows) = &self.role
            && follows.waits().is_some_and(|state| self.follower.durable() >= state)
        {
            tracing::info!(shard = self.options.shard.0, "the log has got as far as the state that was installed");
            self.anew = true;
        }
        Ok(true)
    }

    fn handle(&mut self, event: PeerEvent) -> Result<(), Stopped> {
        match event {
            PeerEvent::Seal { seal, answer } => {
                let actions = self.follower.seal(self.role.log()?, &seal)?;
                match self.perform(actions, None)? {
                    Some(follower::Answer::SealOk(ok)) => answer.send(Ok(ok)),
                    Some(follower::Answer::Refused(refused)) => answer.send(Err(refused)),
                    _ => {}
                }
            }
            PeerEvent::Become { grant, answer } => answer.send(self.begin(grant)?),
            PeerEvent::HandOver { to, answer } => match &mut self.role {
                Role::Leads(driver) => driver.hand_over(to, answer),
                _ => answer.send(Err("this replica does not lead".to_owned())),
            },
            PeerEvent::Learners(learners) => {
                if let Role::Leads(driver) = &mut self.role {
                    driver.teach(learners);
                }
            }
            PeerEvent::Leader { outlet } => {
                // A leader that nobody listens to any more learns from the answer that there is another one.
                outlet.send(Message::Hello(self.follower.hello(self.role.log()?)));
                if let Role::Follows(follows) = &mut self.role {
                    follows.leader = Some(outlet);
                }
            }
            PeerEvent::Said { message: Message::Frames(frames), back } => self.hear_frames(&frames, &back)?,
            PeerEvent::Said { message: Message::Welcome(welcome), back } => {
                let actions = self.follower.welcome(&welcome)?;
                let answer = self.perform(actions, None)?;
                reply(answer, &*back);
            }
            PeerEvent::Said { message: Message::Offer(offer), back } => self.hear_offer(&offer, &*back),
            PeerEvent::Said { message: Message::Piece(piece), back } => self.hear_piece(&piece, &*back)?,
            PeerEvent::Said { message: Message::Refused(_), .. } => {}
            PeerEvent::Said { message: Message::Hello(_) | Message::Ack(_) | Message::Mismatch(_) | Message::Fetch(_), back } => {
                // Said to a leader, which this replica is no longer.
                back.send(Message::Refused(Refused { member: self.follower.member(), promised: self.follower.promise().epoch }));
            }
        }
        Ok(())
    }

    fn hear_frames(&mut self, frames: &Frames, back: &Arc<dyn Outlet>) -> Result<(), Stopped> {
        let links = match links(&frames.bytes, frames.prev.end, self.options.shard) {
            Ok(links) => links,
            Err((lsn, why)) => {
                tracing::warn!(%lsn, %why, "a leader sent what is no frame; it is ignored, and asked for again");
                return Ok(());
            }
        };
        let append = Append { epoch: frames.epoch, prev: frames.prev, frames: links, hw: frames.hw, leader_time: frames.leader_time };
        let actions = self.follower.append(self.role.log()?, &append)?;
        let answer = self.perform(actions, Some((frames, &append)))?;
        if answer.is_none()
            && let Role::Follows(follows) = &mut self.role
        {
            follows.hear(back);
        }
        reply(answer, &**back);
        Ok(())
    }

    /// A leader has a state for this replica, which lacks what is gone from its log.
    fn hear_offer(&mut self, offer: &Offer, back: &dyn Outlet) {
        let (promised, member) = (self.follower.promise().epoch, self.follower.member());
        if offer.epoch < promised {
            return back.send(Message::Refused(Refused { member, promised }));
        }
        // One that comes late has nothing new.
        let waits = match &self.role {
            Role::Follows(follows) => follows.waits(),
            Role::Leads(_) | Role::Nothing => return,
        };
        if offer.state >= self.follower.hw() && waits.is_none_or(|waits| offer.state > waits) {
            back.send(Message::Fetch(Fetching::begin(&mut self.fetching, offer, member)));
        }
    }

    /// A part of it. When it is here and whole, the log is given up for it.
    fn hear_piece(&mut self, piece: &Piece, back: &dyn Outlet) -> Result<(), Stopped> {
        let member = self.follower.member();
        let Some(taken) = self.fetching.as_mut().and_then(|fetching| fetching.take(piece, member)) else { return Ok(()) };
        let whole = match taken {
            Ok(whole) => whole,
            Err(next) => {
                back.send(Message::Fetch(next));
                return Ok(());
            }
        };
        self.fetching = None;
        let Some(image) = Image::decode(&whole).filter(|image| restore(image.state.clone()).is_some()) else {
            tracing::warn!(shard = self.options.shard.0, "a leader's state can't be read by this version; this replica goes on without it");
            return Ok(());
        };
        image.stage(&*self.options.disk, &self.options.dir)?;
        let actions = self.follower.offered(piece.epoch, piece.state)?;
        if actions.contains(&Action::GiveUp) {
            tracing::info!(shard = self.options.shard.0, state = %piece.state, log = %image.origin.start, "this replica begins anew with its leader's state");
        }
        reply(self.perform(actions, None)?, back);
        Ok(())
    }

    /// Does what the rules say, in their order. Answers what is to be said to who asked.
    fn perform(&mut self, actions: Vec<Action>, frames: Option<(&Frames, &Append)>) -> Result<Option<follower::Answer>, Stopped> {
        let mut said = None;
        for action in actions {
            match action {
                Action::Persist(promise) => {
                    let meta = promise.stored_in(self.folder.meta());
                    if !zoo!(ForgetPromise) {
                        self.folder.set_meta(meta)?;
                    }
                }
                Action::StepDown => self.step_down()?,
                Action::Cut(tail) => self.follows()?.parts.log.cut(tail.end)?,
                Action::Write { first } => {
                    let (frames, append) = frames.ok_or_else(|| Stopped("frames are to be written that nobody sent".to_owned()))?;
                    let skipped = (append.frames[first].lsn.0 - frames.prev.end.0) as usize;
                    let end = self.follows()?.write(&frames.bytes[skipped..], frames.file)?;
                    self.follower.written(end);
                }
                Action::GiveUp => {
                    gantry_store::install::begin(&*self.options.disk, &self.options.dir)?;
                    self.anew = true;
                }
                Action::Answer(answer) => said = Some(answer),
                Action::HangUp(why) => tracing::warn!(%why, "a leader sent frames that don't follow each other; they are ignored"),
            }
        }
        Ok(said)
    }

    fn follows(&mut self) -> Result<&mut Follows, Stopped> {
        match &mut self.role {
            Role::Follows(follows) => Ok(follows),
            _ => Err(Stopped("the replica does not follow".to_owned())),
        }
    }

    /// Takes the lead, if the rules let it; else says why not.
    fn begin(&mut self, grant: Grant) -> Result<Result<(), String>, Stopped> {
        match self.follower.lead(self.role.log()?, &grant) {
            Ok(actions) => drop(self.perform(actions, None)?),
            // The grant came twice.
            Err(StartRefused::Leading) => return Ok(Ok(())),
            Err(refused) => return Ok(Err(refused.to_string())),
        }
        let Role::Follows(follows) = std::mem::replace(&mut self.role, Role::Nothing) else {
            return Err(Stopped("only a follower begins to lead".to_owned()));
        };
        let (shard, epoch) = (self.options.shard.0, grant.epoch);
        match grant.unclean {
            true => {
                tracing::warn!(shard, %epoch, end = %grant.log.end, "this replica leads by an operator's order; what was acknowledged and is not here is lost")
            }
            false => tracing::info!(shard, %epoch, "this replica leads"),
        }
        let driver = follows.lead(&self.options, grant, self.durability, self.follower.hw())?;
        self.role = Role::Leads(Box::new(driver));
        Ok(Ok(()))
    }

    /// Stops leading. Who waits for what is not committed is told nothing, which they take for "unknown". What was applied beyond is forgotten: the state
    /// goes back to a checkpoint, and forward to what is committed.
    fn step_down(&mut self) -> Result<(), Stopped> {
        let Role::Leads(driver) = std::mem::replace(&mut self.role, Role::Nothing) else {
            return Err(Stopped("only a leader steps down".to_owned()));
        };
        tracing::info!(shard = self.options.shard.0, promised = %self.follower.promise().epoch, "this replica leads no longer");
        let mut parts = driver.into_parts();
        let (mut applied, seals) = reload(&self.options, &parts.log)?;
        seals.into_iter().for_each(|job| parts.upkeep.give(Job::Seal(job)));
        if zoo!(KeepUncommittedState) {
            applied.advance(&parts.log, parts.log.end())?;
        }
        parts.upkeep.restored(applied.at());
        applied.state.touch_all();
        self.role = Role::Follows(Box::new(Follows::new(parts, applied)));
        Ok(())
    }

    fn show(&self) {
        let (applied, end, heard, leads, started, serves) = match &self.role {
            Role::Follows(follows) => (follows.applied.at(), follows.parts.log.end(), follows.heard_at, None, false, false),
            Role::Leads(driver) => {
                let (epoch, started, serves) = driver.reign();
                (driver.log.end(), driver.log.end(), None, Some(epoch), started, serves)
            }
            Role::Nothing => return,
        };
        let installs = match &self.role {
            Role::Follows(follows) => follows.waits(),
            Role::Leads(_) | Role::Nothing => None,
        };
        let (last_epoch, last_time_ms) = self.role.log().map_or((Epoch(0), 0), |log| (log.tail().epoch, log.last_time()));
        let learnt = match &self.role {
            Role::Leads(driver) => driver.learnt(),
            Role::Follows(_) | Role::Nothing => Vec::new(),
        };
        let Promise { epoch: promised, suspect, .. } = self.follower.promise();
        self.status.follows.store(!serves, Ordering::Release);
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        *view = View {
            promised,
            leads,
            started,
            serves,
            follows: self.follower.following().map(|(epoch, _)| epoch),
            heard,
            start: self.role.log().map_or(Lsn(0), CommitLog::start),
            end,
            last_epoch,
            last_time_ms,
            durable: self.follower.durable(),
            hw: self.follower.hw(),
            applied,
            suspect,
            installs,
            learnt,
            failed: None,
        };
    }
}

fn reply(answer: Option<follower::Answer>, back: &dyn Outlet) {
    match answer {
        Some(follower::Answer::Mismatch(mismatch)) => back.send(Message::Mismatch(mismatch)),
        Some(follower::Answer::Refused(refused)) => back.send(Message::Refused(refused)),
        Some(follower::Answer::SealOk(_)) | None => {}
    }
}
