//! A broker's replica with a disk that forgets what was not synced: does what the cores say, in their order.

use crate::chain::Chain;
use crate::wire::Message;
use gantry_model::{Epoch, Lsn};
use gantry_store::replica::follower::{Action, Answer, Fatal, Sync};
use gantry_store::replica::leader::{Durability, Greeting, Next, StartRefused};
use gantry_store::replica::message::{Ack, Append, Grant, Hello, Mismatch, Refused, Seal, Welcome};
use gantry_store::replica::{Follower, Incarnation, Leader, Log, Member, Promise};
use std::collections::BTreeSet;
use std::time::Duration;

/// The log and the promise as they are on the disk for certain.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub promise: Promise,
    pub log: Chain,
}

/// One replica.
pub struct Broker {
    pub member: Member,
    pub incarnation: Incarnation,
    pub durability: Durability,
    pub disk: Disk,
    /// As written.
    pub log: Chain,
    pub follower: Follower,
    pub leader: Option<Leader>,
    /// A sync that is under way.
    pub syncing: Option<(Sync, Lsn)>,
    /// The leader to which `Hello` was said last, and when something came from it.
    pub greeted: Option<(Member, Epoch)>,
    pub heard: Duration,
    /// Whether it answered.
    welcome: bool,
    /// What is to be sent.
    pub outbox: Vec<(To, Message)>,
    pub memory: Memory,
}

/// What the checks want to know, whatever process it was.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Seals that were answered and acknowledgements that were sent, in this order.
    pub words: Vec<Word>,
    /// What has happened at least once.
    pub marks: BTreeSet<&'static str>,
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Controller,
    Replica(Member),
}

/// What a replica said that binds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Sealed(Epoch),
    Acked(Epoch),
}

impl Broker {
    pub fn new(member: Member, durability: Durability) -> Broker {
        let disk = Disk { promise: Promise { store: member.store, ..Promise::default() }, log: Chain::default() };
        Broker::start(member, Incarnation(1), durability, disk, Memory::default())
    }

    fn start(member: Member, incarnation: Incarnation, durability: Durability, disk: Disk, memory: Memory) -> Broker {
        let log = disk.log.clone();
        let follower = Follower::new(member, incarnation, disk.promise, log.tail().end, log.start());
        let (leader, syncing, greeted, outbox) = (None, None, None, Vec::new());
        Broker {
            member,
            incarnation,
            durability,
            disk,
            log,
            follower,
            leader,
            syncing,
            greeted,
            heard: Duration::ZERO,
            welcome: false,
            outbox,
            memory,
        }
    }

    /// The process ends. Of what was not synced, the first `luck` of 256 parts are there when it starts again, or what was cut is there again.
    pub fn restart(&mut self, luck: u8) {
        let shared = self.log.shared_end(&self.disk.log).max(self.log.start());
        let mut found = if luck == 0 { self.disk.log.clone() } else { self.log.clone() };
        if luck > 0 {
            let unsynced = found.links().iter().filter(|link| link.lsn >= shared).count();
            let kept = found.links().len() - unsynced + unsynced * usize::from(luck) / 256;
            let end = kept.checked_sub(1).map_or(found.start(), |last| found.links()[last].tail.end);
            found.cut(end);
        }
        let mut disk = Disk { log: found, ..self.disk.clone() };
        disk.promise.suspect |= self.durability == Durability::Memory;
        *self = Broker::start(self.member, Incarnation(self.incarnation.0 + 1), self.durability, disk, std::mem::take(&mut self.memory));
    }

    /// Frames that were acknowledged turn out to be damaged. The replica notes that before it does anything else.
    pub fn damage(&mut self, keep: usize) {
        let actions = self.follower.suspect();
        self.perform(actions, None, To::Controller).expect("noting a suspicion can't fail");
        let links = self.log.links();
        let end = keep.min(links.len()).checked_sub(1).map_or(self.log.start(), |last| links[last].tail.end);
        self.log.cut(end);
        self.disk.log = self.log.clone();
        let memory = std::mem::take(&mut self.memory);
        *self = Broker::start(self.member, Incarnation(self.incarnation.0 + 1), self.durability, self.disk.clone(), memory);
    }

    pub fn sealed(&mut self, seal: &Seal) -> Result<(), Fatal> {
        let actions = self.follower.seal(&self.log, seal)?;
        self.perform(actions, None, To::Controller)
    }

    pub fn appended(&mut self, from: Member, append: &Append, now: Duration) -> Result<(), Fatal> {
        let known = self.follower.hw();
        let actions = self.follower.append(&self.log, append)?;
        let keeps = |action: &Action| !matches!(action, Action::Cut(tail) if tail.end < known);
        assert!(actions.iter().all(keeps), "P4: nothing that is known to be committed is cut");
        self.perform(actions, Some(append), To::Replica(from))?;
        if self.welcome {
            self.heard = now;
        }
        self.tell(To::Replica(from));
        Ok(())
    }

    pub fn welcomed(&mut self, from: Member, welcome: &Welcome) -> Result<(), Fatal> {
        self.welcome |= welcome.session == self.follower.session();
        let actions = self.follower.welcome(welcome)?;
        self.perform(actions, None, To::Replica(from))
    }

    /// A leader sends its state. The replica begins anew with it, and with a log that begins where the leader's does and is empty.
    pub fn installed(&mut self, from: Member, epoch: Epoch, log: &Chain, state: Lsn) -> Result<(), Fatal> {
        let actions = self.follower.offered(epoch, state)?;
        let accepted = actions.contains(&Action::GiveUp);
        self.perform(actions, None, To::Replica(from))?;
        if accepted {
            let mut begun = log.clone();
            begun.cut(log.start());
            let disk = Disk { log: begun, ..self.disk.clone() };
            *self = Broker::start(self.member, Incarnation(self.incarnation.0 + 1), self.durability, disk, std::mem::take(&mut self.memory));
        }
        Ok(())
    }

    pub fn granted(&mut self, grant: &Grant) -> bool {
        match self.follower.lead(&self.log, grant) {
            Ok(actions) => self.perform(actions, None, To::Controller).expect("noting that a suspicion ended can't fail"),
            Err(StartRefused::Leading) => return false,
            Err(_) => {
                self.memory.marks.insert("a grant is void");
                return false;
            }
        }
        let start = self.log.append(grant.epoch, 40, 0);
        self.follower.written(start.tail.end);
        self.leader = Some(Leader::begin(grant.clone(), &start, self.durability, self.follower.hw()));
        true
    }

    /// A client's batch.
    pub fn send(&mut self, len: u64, content: u64) {
        let Some(leader) = &mut self.leader else { return };
        let link = self.log.append(leader.epoch(), len, content);
        self.follower.written(link.tail.end);
        leader.written(link.tail.end);
        self.note_committed();
    }

    pub fn begin_sync(&mut self) {
        if self.syncing.is_none() {
            self.syncing = Some((self.follower.syncing(), self.log.tail().end));
        }
    }

    pub fn end_sync(&mut self) {
        let Some((sync, end)) = self.syncing.take() else { return };
        let actions = self.follower.synced(sync);
        // If the log was cut meanwhile, what the disk has is known by the next sync only.
        if self.follower.durable() >= end && self.log.tail_at(end).is_some() {
            self.disk.log = self.log.clone();
            self.disk.log.cut(end);
        }
        self.perform(actions, None, To::Controller).expect("noting that a suspicion ended can't fail");
        if let Some(leader) = &mut self.leader {
            leader.synced(self.follower.durable());
            self.note_committed();
        } else if let Some((from, _)) = self.greeted {
            self.tell(To::Replica(from));
        }
    }

    pub fn hello(&mut self, to: Member, epoch: Epoch, now: Duration) {
        let hello = self.follower.hello(&self.log);
        self.outbox.push((To::Replica(to), Message::Hello(hello)));
        self.greeted = Some((to, epoch));
        (self.heard, self.welcome) = (now, false);
    }

    pub fn greet(&mut self, hello: &Hello, now: Duration) {
        let Some(leader) = &mut self.leader else { return };
        match leader.hello(&self.log, hello, now) {
            Greeting::Welcome(welcome) => self.outbox.push((To::Replica(hello.member), Message::Welcome(welcome))),
            Greeting::Deposed(promised) => self.refused(promised),
            Greeting::Stranger | Greeting::Superseded => {}
        }
    }

    pub fn acked(&mut self, ack: &Ack, now: Duration) {
        if let Some(leader) = &mut self.leader {
            leader.acked(ack, now);
            self.note_committed();
        }
    }

    pub fn mismatched(&mut self, mismatch: &Mismatch, now: Duration) {
        if let Some(leader) = &mut self.leader {
            leader.mismatch(&self.log, mismatch, now);
        }
    }

    pub fn refused(&mut self, promised: Epoch) {
        if self.follower.deposed(promised) {
            self.memory.marks.insert("a leader is refused");
            self.leader = None;
        }
    }

    /// Sends what is due to every other replica.
    pub fn serve(&mut self, others: &[Member], now: Duration) {
        let Some(leader) = &mut self.leader else { return };
        for to in others.iter().filter(|to| **to != self.member) {
            for _ in 0..4 {
                let message = match leader.next(&self.log, *to, now) {
                    Next::Wait => break,
                    Next::Heartbeat { prev } => Message::Append(leader.append(*to, prev, Vec::new(), 0, now)),
                    Next::Frames { prev, bytes, .. } => {
                        let frames = self.log.links_from(prev.end, bytes.min(256));
                        Message::Append(leader.append(*to, prev, frames, 0, now))
                    }
                    Next::Install => Message::Install { epoch: leader.epoch(), log: self.log.clone(), state: self.follower.may_apply() },
                };
                let last = !matches!(&message, Message::Append(append) if !append.frames.is_empty());
                self.outbox.push((To::Replica(*to), message));
                if last {
                    break;
                }
            }
        }
    }

    /// Forgets a part of what was applied.
    pub fn trim(&mut self, parts: u8) {
        self.follower.applied(self.follower.may_apply());
        let applied = self.log.links().iter().take_while(|link| link.tail.end <= self.follower.may_apply()).count();
        let gone = applied * usize::from(parts) / 256;
        if let Some(last) = gone.checked_sub(1) {
            let start = self.log.links()[last].tail.end;
            if self.disk.log.tail_at(start).is_some() {
                self.log.trim(start);
                self.disk.log.trim(start);
            }
        }
    }

    fn note_committed(&mut self) {
        if let Some(leader) = &self.leader {
            self.follower.committed(leader.hw());
        }
    }

    fn tell(&mut self, to: To) {
        if let Some(ack) = self.follower.ack() {
            self.memory.words.push(Word::Acked(ack.epoch));
            self.outbox.push((to, Message::Ack(ack)));
        }
    }

    fn perform(&mut self, actions: Vec<Action>, append: Option<&Append>, from: To) -> Result<(), Fatal> {
        for action in actions {
            match action {
                Action::Persist(promise) => {
                    assert!(promise.epoch >= self.disk.promise.epoch, "P6: a promise does not decrease");
                    if self.disk.promise.suspect && !promise.suspect {
                        self.memory.marks.insert("a suspect is believed again");
                    }
                    self.disk.promise = promise;
                }
                Action::StepDown => {
                    self.memory.marks.insert("a leader is sealed");
                    self.leader = None;
                }
                Action::Cut(tail) => {
                    self.memory.marks.insert("a log is cut");
                    self.log.cut(tail.end);
                }
                Action::Write { first } => {
                    self.log.extend(&append.expect("only appends are written").frames[first..]);
                    self.follower.written(self.log.tail().end);
                }
                Action::GiveUp => {
                    self.memory.marks.insert("a log is installed");
                    assert!(self.disk.promise.suspect, "4.7: only a suspect gives up its log");
                    (self.log, self.disk.log) = (Chain::default(), Chain::default());
                }
                Action::Answer(answer) => self.answer(answer, from),
                Action::HangUp(malformed) => panic!("no replica sends nonsense: {malformed}"),
            }
        }
        Ok(())
    }

    fn answer(&mut self, answer: Answer, to: To) {
        let message = match answer {
            Answer::SealOk(answer) => {
                assert!(self.disk.promise.epoch >= answer.epoch, "P6: a promise is durable before it is answered");
                self.memory.words.push(Word::Sealed(answer.epoch));
                Message::SealOk(answer)
            }
            Answer::Refused(Refused { member, promised }) => Message::Refused(Refused { member, promised }),
            Answer::Mismatch(mismatch) => {
                self.memory.marks.insert("logs differ");
                Message::Mismatch(mismatch)
            }
        };
        self.outbox.push((to, message));
    }
}
