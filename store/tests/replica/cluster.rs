//! A shard's replicas, a controller and a network, moved by one choice after the other.

use crate::broker::{Broker, To};
use crate::truth::Truth;
use crate::wire::{Envelope, Message};
use gantry_store::replica::elector::{Action, Event, Sessions, Standing, Times};
use gantry_store::replica::leader::Durability;
use gantry_store::replica::message::Refused;
use gantry_store::replica::reign::{Entry, Reason, Reign};
use gantry_store::replica::{Config, Elector, Log, Member, NodeId, StoreId};
use std::collections::BTreeSet;
use std::time::Duration;

/// One choice: what happens, to whom, how.
pub type Choice = (u8, u8, u8);

/// What may happen besides messages, syncs and time.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub durability: Durability,
    pub damage: bool,
}

/// Everything.
pub struct Cluster {
    now: Duration,
    faults: Faults,
    pub brokers: Vec<Broker>,
    pub reign: Reign,
    elector: Elector,
    /// Members whose broker has a session.
    sessions: BTreeSet<Member>,
    wire: Vec<Envelope>,
    truth: Truth,
    content: u64,
    marks: BTreeSet<&'static str>,
}

fn member(node: u64) -> Member {
    Member { node: NodeId(node), store: StoreId([node as u8; 16]) }
}

impl Cluster {
    /// `n` members and one replica more, which may become one.
    pub fn new(n: u64, faults: Faults) -> Cluster {
        let config = Config::new(1, (0..n).map(member)).expect("a legal size");
        let brokers: Vec<Broker> = (0..=n).map(|node| Broker::new(member(node), faults.durability)).collect();
        Cluster {
            now: Duration::from_secs(1),
            faults,
            sessions: brokers.iter().map(|broker| broker.member).collect(),
            brokers,
            reign: Reign::new(config, gantry_model::Epoch(0)),
            elector: Elector::new(Times::default()),
            wire: Vec::new(),
            truth: Truth::new(faults),
            content: 0,
            marks: BTreeSet::new(),
        }
    }

    /// Lets happen what is chosen, and looks whether all invariants hold.
    pub fn step(&mut self, (what, which, how): Choice) {
        let at = usize::from(which) % self.brokers.len();
        match what {
            0..=109 => self.deliver(usize::from(which), how),
            110..=131 => self.pass(Duration::from_millis(u64::from(how) % 64)),
            132..=139 => self.report(),
            140..=164 => self.send(at, how),
            165..=184 => self.brokers[at].begin_sync(),
            185..=209 => self.brokers[at].end_sync(),
            210..=217 if self.may_lose(at, how) => self.brokers[at].restart(how),
            218..=224 => self.toggle_session(at),
            225..=228 => self.elector = Elector::new(Times::default()),
            229..=234 => self.end_epoch(Some(self.brokers[at].member), None),
            235..=240 => self.change_members(at),
            241..=246 => self.brokers[at].trim(how),
            247..=249 if self.faults.damage && self.may_lose(at, how) => self.brokers[at].damage(usize::from(how) % 8),
            _ => self.brokers[at].greeted = None,
        }
        self.post();
        self.truth.look(&self.brokers);
    }

    /// Ends all faults and lets time pass. Afterwards whoever can be chosen serves, and its members have the same log.
    pub fn heal(&mut self) {
        self.sessions = self.brokers.iter().map(|broker| broker.member).collect();
        for round in 0..1_000 {
            self.pass(Duration::from_millis(10));
            if round % 20 == 0 {
                self.report();
            }
            self.post();
            for envelope in std::mem::take(&mut self.wire) {
                self.arrive(envelope);
                self.truth.look(&self.brokers);
            }
            self.post();
            for broker in &mut self.brokers {
                broker.begin_sync();
                broker.end_sync();
            }
            self.post();
            self.truth.look(&self.brokers);
            if round == 800 {
                self.brokers.iter_mut().for_each(|broker| broker.send(64, 7));
            }
        }
        self.truth.spoke_in_order(&self.brokers);
    }

    /// Whether enough replicas are no suspects, so that somebody can lead.
    pub fn can_elect(&self) -> bool {
        let sound = |member: &&Member| self.brokers.iter().any(|broker| broker.member == **member && !broker.follower.promise().suspect);
        self.reign.configs().all(|config| config.members().iter().filter(sound).count() >= config.r())
    }

    /// Asserts that the shard is served, and that all members have all of it.
    pub fn is_whole(&self) {
        let leader = self.brokers.iter().find(|broker| broker.leader.as_ref().is_some_and(|leader| leader.epoch() == self.reign.epoch()));
        let leader = leader.unwrap_or_else(|| panic!("L1: nobody leads epoch {}: {:?}", self.reign.epoch(), self.elector.answered(&self.reign)));
        let core = leader.leader.as_ref().expect("it leads");
        assert!(core.serving(self.now), "L1: the leader of epoch {} does not serve", core.epoch());
        assert_eq!(core.hw(), leader.log.tail().end, "L1: something is not committed");
        assert_eq!(self.reign.pending(), None, "L1: a change of members does not end");
        for broker in self.brokers.iter().filter(|broker| core.config().contains(broker.member)) {
            assert_eq!(broker.log.tail(), leader.log.tail(), "L1: {} has another log", broker.member);
            assert!(!broker.follower.promise().suspect, "L1: {} is suspect for ever", broker.member);
            assert!(broker.leader.is_some() || broker.follower.may_apply() == core.hw(), "L1: {} does not apply", broker.member);
        }
    }

    /// Whether anybody serves the present epoch.
    pub fn is_served(&self) -> bool {
        let serves = |broker: &Broker| broker.leader.as_ref().is_some_and(|leader| leader.epoch() == self.reign.epoch() && leader.serving(self.now));
        self.brokers.iter().any(serves)
    }

    /// All replicas are lost for ever but one member; `None` if that one could go on alone, or no member has promised anything.
    pub fn lose_all_but_one(&mut self) -> Option<Member> {
        let kept = self.reign.configs().flat_map(Config::members).copied().next()?;
        if self.reign.configs().any(|config| config.r() < 2 && config.contains(kept)) {
            return None;
        }
        self.brokers.retain(|broker| broker.member == kept);
        self.sessions.retain(|member| *member == kept);
        self.wire.clear();
        // What those that are lost answered before is forgotten too.
        self.elector = Elector::new(Times::default());
        Some(kept)
    }

    /// An operator gives up what this member lacks.
    pub fn recover(&mut self, kept: Member) {
        let survivors = Config::new(self.reign.config().generation() + 1, [kept]).expect("one member");
        let expect = self.reign.epoch();
        let late = Entry::BeginUnclean { expect: gantry_model::Epoch(expect.0 - 1), survivors: survivors.clone() };
        assert!(self.reign.apply(&late).is_err(), "an order is for one epoch");
        self.truth.forgive(&self.brokers);
        self.reign.apply(&Entry::BeginUnclean { expect, survivors }).expect("the epoch is the current one");
    }

    /// A broker with an empty disk becomes a member, beside those that there are.
    pub fn join(&mut self, node: u64) {
        let joining = member(node);
        self.brokers.push(Broker::new(joining, self.faults.durability));
        self.sessions.insert(joining);
        let leader = self.reign.led_by().map(|grant| grant.leader).expect("it is led");
        self.teach(leader);
        self.heal();
        let members = self.reign.stable().members().iter().copied().chain([joining]);
        let config = Config::new(self.reign.config().generation() + 1, members).expect("three at most");
        self.end_epoch(None, Some(config));
    }

    /// Suspects don't count, so if there were often two at once, nobody would lead for most of the time.
    fn may_lose(&self, at: usize, how: u8) -> bool {
        let suspect = |broker: &Broker| broker.follower.promise().suspect;
        how.is_multiple_of(16) || !self.brokers.iter().enumerate().any(|(other, broker)| other != at && suspect(broker))
    }

    fn deliver(&mut self, which: usize, how: u8) {
        if self.wire.is_empty() {
            return;
        }
        let at = which % self.wire.len();
        match how {
            0..=15 => drop(self.wire.remove(at)),
            16..=50 => self.arrive(self.wire[at].clone()),
            _ => {
                let envelope = self.wire.remove(at);
                self.arrive(envelope);
            }
        }
    }

    fn arrive(&mut self, Envelope { from, to, message }: Envelope) {
        let now = self.now;
        let To::Replica(to) = to else { return self.tell_elector(message) };
        let Some(broker) = self.brokers.iter_mut().find(|broker| broker.member == to) else { return };
        let peer = from.unwrap_or_default();
        let fatal = match message {
            Message::Seal(seal) => broker.sealed(&seal),
            Message::Append(append) => broker.appended(peer, &append, now),
            Message::Welcome(welcome) => broker.welcomed(peer, &welcome),
            Message::Install { epoch, log, state } => broker.installed(peer, epoch, &log, state),
            Message::Hello(hello) => return broker.greet(&hello, now),
            Message::Ack(ack) => return broker.acked(&ack, now),
            Message::Mismatch(mismatch) => return broker.mismatched(&mismatch, now),
            Message::Refused(Refused { promised, .. }) => return broker.refused(promised),
            Message::Become(grant) => {
                if broker.granted(&grant) {
                    let broker = self.brokers.iter().find(|broker| broker.member == to).expect("it was just there");
                    self.truth.begins(broker);
                    self.teach(to);
                }
                return;
            }
            Message::SealOk(_) | Message::Started(_) => return,
        };
        fatal.unwrap_or_else(|fatal| panic!("no replica may have to stop: {fatal}"));
    }

    /// Every replica is sent the log, members or not.
    fn teach(&mut self, to: Member) {
        let all: Vec<Member> = self.brokers.iter().map(|broker| broker.member).collect();
        for leader in self.brokers.iter_mut().filter(|broker| broker.member == to).filter_map(|broker| broker.leader.as_mut()) {
            all.iter().for_each(|member| leader.teach(*member));
        }
    }

    fn tell_elector(&mut self, message: Message) {
        match message {
            Message::SealOk(answer) => self.elect(Event::SealOk(answer)),
            Message::Refused(refused) => self.elect(Event::Refused(refused)),
            Message::Started(epoch) => self.elect(Event::Started(epoch)),
            _ => {}
        }
    }

    fn elect(&mut self, event: Event) {
        let sessions = self.standings();
        for action in self.elector.step(self.now, &self.reign, &sessions, event) {
            match action {
                Action::Propose(entry) => self.propose(&entry),
                Action::Seal(to, seal) => self.wire.push(Envelope { from: None, to: To::Replica(to), message: Message::Seal(seal) }),
                Action::Become(grant) => self.wire.push(Envelope { from: None, to: To::Replica(grant.leader), message: Message::Become(grant) }),
                Action::FromTheFuture(refused) => panic!("no replica promised what never was: {refused:?}"),
            }
        }
    }

    /// What has happened at least once.
    pub fn marks(&self) -> BTreeSet<&'static str> {
        self.brokers.iter().flat_map(|broker| broker.memory.marks.clone()).chain(self.marks.clone()).collect()
    }

    fn propose(&mut self, entry: &Entry) {
        let changing = self.reign.pending().is_some();
        if self.reign.apply(entry).is_ok() {
            if matches!(entry, Entry::ConfigStable(_)) && changing {
                self.marks.insert("members changed");
            }
            self.truth.applied(entry, &self.reign, &self.brokers);
        }
    }

    fn standings(&self) -> Sessions {
        let standing = |broker: &Broker| {
            let hears = broker.follower.following().map(|(epoch, _)| epoch).filter(|_| self.now < broker.heard + Duration::from_secs(1));
            let serves = broker.leader.as_ref().filter(|leader| leader.serving(self.now)).map(|leader| leader.epoch());
            (broker.member, Standing { incarnation: broker.incarnation, serves, hears, cordoned: false, load: 0, zone: String::new() })
        };
        self.brokers.iter().filter(|broker| self.sessions.contains(&broker.member)).map(standing).collect()
    }

    /// Time passes, and everybody does what is due.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        let all: Vec<Member> = self.brokers.iter().map(|broker| broker.member).collect();
        let now = self.now;
        let leader = self.reign.led_by().map(|grant| (grant.leader, grant.epoch));
        for broker in &mut self.brokers {
            if let Some((to, epoch)) = leader.filter(|(to, _)| *to != broker.member)
                && (broker.greeted != leader || now > broker.heard + Duration::from_millis(500))
            {
                broker.hello(to, epoch, now);
            }
            broker.serve(&all, now);
        }
        self.elect(Event::Tick);
    }

    /// Leaders tell the controller that they have begun.
    fn report(&mut self) {
        for broker in &mut self.brokers {
            let started = broker.leader.as_ref().filter(|leader| leader.started()).map(|leader| leader.epoch());
            broker.outbox.extend(started.map(|epoch| (To::Controller, Message::Started(epoch))));
        }
    }

    fn send(&mut self, at: usize, how: u8) {
        self.content += 1;
        let leaders: Vec<usize> = (0..self.brokers.len()).filter(|at| self.brokers[*at].leader.is_some()).collect();
        if !leaders.is_empty() {
            self.brokers[leaders[at % leaders.len()]].send(8 * (1 + u64::from(how) % 9), self.content);
        }
    }

    fn toggle_session(&mut self, at: usize) {
        let member = self.brokers[at].member;
        if !self.sessions.remove(&member) {
            self.sessions.insert(member);
        }
    }

    fn end_epoch(&mut self, prefer: Option<Member>, config: Option<Config>) {
        let reason = if config.is_some() { Reason::Reconfigure } else { Reason::Transfer };
        self.propose(&Entry::BeginEpoch { expect: self.reign.epoch(), reason, prefer, config });
    }

    /// The replica that is no member takes the place of the one at `at`.
    fn change_members(&mut self, at: usize) {
        let stable = self.reign.stable();
        if self.reign.pending().is_some() && at == 0 {
            let back = Config::new(self.reign.config().generation() + 1, stable.members().iter().copied()).expect("as it was");
            self.marks.insert("a change is taken back");
            return self.end_epoch(None, Some(back));
        }
        let Some(spare) = self.brokers.iter().map(|broker| broker.member).find(|member| !stable.contains(*member)) else { return };
        let leaves = self.brokers[at].member;
        let members = stable.members().iter().map(|member| if *member == leaves { spare } else { *member });
        let config = Config::new(self.reign.config().generation() + 1, members).expect("as many as before");
        self.end_epoch(None, Some(config));
    }

    /// Brings what brokers want to send onto the wire. It holds so much; the oldest is lost.
    fn post(&mut self) {
        for broker in &mut self.brokers {
            let from = Some(broker.member);
            self.wire.extend(broker.outbox.drain(..).map(|(to, message)| Envelope { from, to, message }));
        }
        let over = self.wire.len().saturating_sub(200);
        self.wire.drain(..over);
    }
}
