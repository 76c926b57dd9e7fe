//! The controller: the real reign of the shard, and the real elector beside it, or two of them. The reign is remembered for ever, as the raft log
//! remembers it; the elector is forgotten whenever the raft leader changes.

use crate::marks::Mark;
use crate::sim::{Order, Process, Sim, Word};
use gantry_broker::replica::View;
use gantry_model::Epoch;
use gantry_store::replica::elector::{Action, Elector, Event, Sessions, Standing, Times};
use gantry_store::replica::reign::{Entry, Phase, Reason, Reign};
use gantry_store::replica::{Config, Incarnation, Member};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A broker that said nothing for so long has no session any more.
const SESSION: Duration = Duration::from_millis(1_000);
/// The controller looks around so often.
pub const LOOK: Duration = Duration::from_millis(20);
/// A follower is told where the leader is so often at most.
const REMIND: Duration = Duration::from_millis(150);

/// What the controller knows of one process.
#[derive(Clone, Debug)]
struct Session {
    process: Process,
    incarnation: Incarnation,
    view: View,
    heard: Duration,
    reminded: Option<Duration>,
}

pub struct Control {
    pub reign: Reign,
    electors: Vec<Elector>,
    sessions: BTreeMap<Member, Session>,
    heard: Vec<Event>,
    /// What was proposed, and when it is decided.
    proposed: Vec<(Duration, Entry)>,
    /// The members that are to be, once those that are new have learnt the log.
    learning: Option<Vec<Member>>,
    /// Until then there is no majority of controllers.
    pub silent_until: Duration,
    /// The configuration of each epoch that was granted.
    pub configs: BTreeMap<Epoch, Config>,
}

impl Control {
    pub fn new(members: Vec<Member>) -> Control {
        let config = Config::new(1, members).expect("a plan has 1, 2, 3 or 5 members");
        Control {
            reign: Reign::new(config, Epoch(0)),
            electors: vec![Elector::new(Times::default())],
            sessions: BTreeMap::new(),
            heard: Vec::new(),
            proposed: Vec::new(),
            learning: None,
            silent_until: Duration::ZERO,
            configs: BTreeMap::new(),
        }
    }

    /// Another node leads the controllers.
    pub fn forget(&mut self) {
        self.electors = vec![Elector::new(Times::default())];
        self.sessions.clear();
        self.heard.clear();
    }

    /// For a while two nodes believe to lead the controllers.
    pub fn split(&mut self) {
        self.electors.push(Elector::new(Times::default()));
    }

    /// Again only one.
    pub fn unite(&mut self) {
        self.electors.truncate(1);
    }

    pub fn hear(&mut self, sim: &Sim, process: Process, word: Word) {
        let now = sim.now();
        if now < self.silent_until {
            return;
        }
        match word {
            Word::SealOk(ok) => self.heard.push(Event::SealOk(ok)),
            Word::Refused(refused) => self.heard.push(Event::Refused(refused)),
            Word::Began { epoch, refused: Some(_) } => self.heard.push(Event::StartRefused(epoch)),
            Word::Began { .. } => {}
            Word::Ready(Ok(member)) => {
                sim.inside().marks.add(Mark::Transfers);
                let expect = self.reign.epoch();
                self.propose(sim, Entry::BeginEpoch { expect, reason: Reason::Transfer, prefer: Some(member), config: None });
            }
            Word::Ready(Err(_)) => {}
            Word::Report { member, incarnation, view } => {
                if let Some(epoch) = view.leads.filter(|_| view.started) {
                    self.heard.push(Event::Started(epoch));
                }
                let before = self.sessions.get(&member).filter(|session| session.process == process);
                let reminded = before.and_then(|session| session.reminded);
                // An older process may be heard of late.
                if self.sessions.get(&member).is_none_or(|session| session.incarnation <= incarnation) {
                    self.sessions.insert(member, Session { process, incarnation, view, heard: now, reminded });
                }
            }
        }
    }

    pub fn propose(&mut self, sim: &Sim, entry: Entry) {
        let at = sim.now() + sim.between_ms(1, 15);
        self.proposed.push((at, entry));
    }

    /// The controller looks around.
    pub fn tick(&mut self, sim: &Sim) {
        let now = sim.now();
        if now < self.silent_until {
            self.heard.clear();
            return;
        }
        self.decide(sim, now);
        self.sessions.retain(|_, session| now < session.heard + SESSION);
        let mut events = std::mem::take(&mut self.heard);
        events.push(Event::Tick);
        let sessions: Sessions = self.sessions.iter().map(|(member, session)| (*member, standing(session))).collect();
        let mut electors = std::mem::take(&mut self.electors);
        for elector in &mut electors {
            for event in &events {
                let actions = elector.step(now, &self.reign, &sessions, event.clone());
                actions.into_iter().for_each(|action| self.act(sim, action));
            }
        }
        self.electors = electors;
        self.remind(sim, now);
        self.promote(sim);
    }

    fn decide(&mut self, sim: &Sim, now: Duration) {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.proposed).into_iter().partition(|(at, _)| *at <= now);
        self.proposed = later;
        for (_, entry) in due {
            // One that comes too late is refused, as in the real one.
            let done = self.reign.apply(&entry);
            if done.is_err() {
                continue;
            }
            match &entry {
                Entry::Grant(grant) => {
                    sim.note(format_args!("epoch {} is granted to {}", grant.epoch, grant.leader.node));
                    sim.inside().marks.add(Mark::Elections);
                    self.configs.insert(grant.epoch, grant.config.clone());
                }
                Entry::ConfigStable(epoch) => {
                    sim.note(format_args!("members are settled in epoch {epoch}"));
                    sim.inside().marks.add(Mark::Reconfigurations);
                }
                Entry::BeginUnclean { .. } => unreachable!("nobody gives anything up here"),
                Entry::BeginEpoch { reason, .. } => sim.note(format_args!("epoch {} begins: {reason:?}", self.reign.epoch())),
            }
        }
    }

    fn act(&mut self, sim: &Sim, action: Action) {
        match action {
            Action::Propose(entry) => self.propose(sim, entry),
            Action::Seal(member, seal) => self.order(sim, member, Order::Seal(seal)),
            Action::Become(grant) => self.order(sim, grant.leader, Order::Become(grant)),
            Action::FromTheFuture(refused) => sim.broken(format!("P6: {refused:?} promised an epoch that never was")),
        }
    }

    fn order(&self, sim: &Sim, member: Member, order: Order) {
        if let Some(session) = self.sessions.get(&member) {
            sim.order(session.process, order);
        }
    }

    /// Followers are told where the leader is until they hear it.
    fn remind(&mut self, sim: &Sim, now: Duration) {
        let Phase::Led(grant) = self.reign.phase() else { return };
        let deaf = self.sessions.iter_mut().filter(|(member, session)| **member != grant.leader && session.view.follows != Some(grant.epoch));
        let learns = |member: &Member| self.learning.as_ref().is_some_and(|members| members.contains(member));
        for (_, session) in deaf.filter(|(member, _)| grant.config.contains(**member) || learns(member)) {
            if session.reminded.is_none_or(|last| now >= last + REMIND) {
                session.reminded = Some(now);
                sim.order(session.process, Order::Follow(grant.leader.node.0));
            }
        }
    }

    /// Asks the leader to hand over.
    pub fn hand_over(&self, sim: &Sim, to: Option<Member>) {
        if let Phase::Led(grant) = self.reign.phase() {
            self.order(sim, grant.leader, Order::HandOver(to));
        }
    }

    /// Other members as soon as those that are new have learnt the log.
    pub fn learn(&mut self, members: Vec<Member>) {
        self.learning = Some(members);
    }

    /// Has the leader teach who is to become a member, and makes a member of who has learnt.
    fn promote(&mut self, sim: &Sim) {
        let (Some(members), Phase::Led(grant)) = (&self.learning, self.reign.phase()) else { return };
        let Some(session) = self.sessions.get(&grant.leader).filter(|session| session.view.leads == Some(grant.epoch)) else { return };
        let learners: BTreeSet<Member> = members.iter().filter(|member| !grant.config.contains(**member)).copied().collect();
        let ready = learners.iter().all(|learner| session.view.learnt.contains(learner));
        if ready && self.reign.pending().is_none() {
            let members = members.clone();
            self.learning = None;
            self.reconfigure(sim, members);
        } else {
            sim.order(session.process, Order::Teach(learners));
        }
    }

    /// Other members from now on.
    pub fn reconfigure(&mut self, sim: &Sim, members: Vec<Member>) {
        let Ok(config) = Config::new(self.reign.config().generation() + 1, members) else { return };
        let expect = self.reign.epoch();
        self.propose(sim, Entry::BeginEpoch { expect, reason: Reason::Reconfigure, prefer: None, config: Some(config) });
    }

    /// Whether the members are being changed, or are about to be.
    pub fn changes(&self) -> bool {
        let about = |(_, entry): &(Duration, Entry)| matches!(entry, Entry::BeginEpoch { config: Some(_), .. });
        self.learning.is_some() || self.reign.pending().is_some() || self.proposed.iter().any(about)
    }

    /// The node that leads, if it is known to serve.
    pub fn serving(&self) -> Option<u64> {
        let Phase::Led(grant) = self.reign.phase() else { return None };
        let session = self.sessions.get(&grant.leader)?;
        (session.view.serves && session.view.leads == Some(grant.epoch)).then_some(grant.leader.node.0)
    }
}

fn standing(session: &Session) -> Standing {
    let view = &session.view;
    Standing {
        incarnation: session.incarnation,
        hears: view.follows,
        serves: view.serves.then_some(view.leads).flatten(),
        cordoned: false,
        load: 0,
        zone: String::new(),
    }
}
