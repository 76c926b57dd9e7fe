//! The controller's side of one shard: when an epoch has to end, whom to seal, and who leads next (rules 10 to 13).
//!
//! The task on the raft leader keeps one for each shard and tells it what members answer and that time passes; it answers what to send and
//! what to propose. It remembers nothing that matters: a new raft leader begins with a new one and the same [`Reign`], asks again, and goes on.
//! A proposal counts when the reign shows it; one that got lost is made again.

use super::config::{Config, Incarnation, Member};
use super::log::Position;
use super::message::{Grant, Refused, Seal, SealOk};
use super::reign::{Entry, Phase, Reason, Reign};
use crate::zoo;
use gantry_model::Epoch;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the elector waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// A message without an answer is sent again, and a lost proposal made again.
    pub retry: Duration,
    /// For an equal replica that is better placed.
    pub better: Duration,
    /// For a leader to begin after its grant.
    pub begin: Duration,
    /// For a leader that was there before the elector was, to be heard of.
    pub fresh: Duration,
    /// For such a leader, if so many members have a session that others can be chosen and none of them hears it.
    pub unheard: Duration,
    /// For a leader that its followers hear and the controller doesn't.
    pub heard_by_others: Duration,
    /// For a leader that has a session and does not serve (rule 9), to hear from its followers again.
    pub idle: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            retry: Duration::from_millis(200),
            better: Duration::from_millis(20),
            begin: Duration::from_secs(1),
            fresh: Duration::from_secs(4),
            unheard: Duration::from_secs(1),
            heard_by_others: Duration::from_secs(30),
            idle: Duration::from_secs(1),
        }
    }
}

/// What the controller's session with a replica's broker says. There is none for a broker whose session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub incarnation: Incarnation,
    /// The epoch that it leads and in which it serves.
    pub serves: Option<Epoch>,
    /// The epoch of the leader that it hears from.
    pub hears: Option<Epoch>,
    /// It is about to leave, so it leads only if nobody else can.
    pub cordoned: bool,
    /// What it leads already, in any unit that is the same for all.
    pub load: u64,
    pub zone: String,
}

/// Sessions of the replicas that have one.
pub type Sessions = BTreeMap<Member, Standing>;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time passed, a session changed, or an entry was applied.
    Tick,
    SealOk(SealOk),
    Refused(Refused),
    /// The leader of this epoch committed its `EpochStart`. It says so again in each new session.
    Started(Epoch),
    /// The replica to which this epoch was granted may not lead it (rule 5).
    StartRefused(Epoch),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Propose(Entry),
    Seal(Member, Seal),
    Become(Grant),
    /// A replica promised an epoch that never was: it belongs to another cluster, or the controller lost its state. It can't be sealed; tell the operator.
    FromTheFuture(Refused),
}

/// The elector of one shard.
#[derive(Clone, Debug)]
pub struct Elector {
    times: Times,
    /// The epoch, and whether it is led, that what follows is about.
    about: Option<(Epoch, bool)>,
    sealed: BTreeMap<Member, SealOk>,
    /// When enough members were sealed.
    enough: Option<Duration>,
    /// When the leader has to have begun.
    begin_by: Duration,
    /// It may not.
    refused: bool,
    started: bool,
    lost_since: Option<Duration>,
    unheard_since: Option<Duration>,
    idle_since: Option<Duration>,
    /// A leader that was given up. It is not chosen again while others can be.
    avoid: Option<Member>,
    /// When to send messages again.
    send_at: Duration,
    /// When to make the proposal again.
    propose_at: Duration,
    alarmed: bool,
}

impl Elector {
    pub fn new(times: Times) -> Elector {
        Elector {
            times,
            about: None,
            sealed: BTreeMap::new(),
            enough: None,
            begin_by: Duration::ZERO,
            refused: false,
            started: false,
            lost_since: None,
            unheard_since: None,
            idle_since: None,
            avoid: None,
            send_at: Duration::ZERO,
            propose_at: Duration::ZERO,
            alarmed: false,
        }
    }

    /// What follows from an event. Tick it after each change of the reign or a session, and each 20 ms while nobody leads, else each 200 ms.
    pub fn step(&mut self, now: Duration, reign: &Reign, sessions: &Sessions, event: Event) -> Vec<Action> {
        self.look_at(now, reign);
        let mut out = Vec::new();
        match event {
            Event::Tick => {}
            Event::SealOk(answer) => self.note_sealed(reign, answer),
            Event::Refused(refused) => self.note_refused(reign, refused, &mut out),
            Event::Started(epoch) => self.started |= epoch == reign.epoch() && reign.led_by().is_some(),
            Event::StartRefused(epoch) => self.refused |= epoch == reign.epoch() && !self.started,
        }
        match reign.phase() {
            Phase::Electing { prefer } => self.elect(now, reign, sessions, *prefer, &mut out),
            Phase::Led(grant) => self.watch(now, reign, sessions, grant, &mut out),
        }
        out
    }

    /// Forgets what was about another epoch.
    fn look_at(&mut self, now: Duration, reign: &Reign) {
        let about = Some((reign.epoch(), reign.led_by().is_some()));
        if self.about != about {
            let patience = if self.about.is_none() { self.times.fresh } else { self.times.begin };
            *self = Elector { about, begin_by: now + patience, avoid: self.avoid, send_at: now, propose_at: now, ..Elector::new(self.times) };
        }
    }

    fn note_sealed(&mut self, reign: &Reign, answer: SealOk) {
        let known = self.sealed.get(&answer.member).is_some_and(|before| before.incarnation > answer.incarnation);
        if answer.epoch == reign.epoch() && reign.led_by().is_none() && !known {
            self.sealed.insert(answer.member, answer);
        }
    }

    fn note_refused(&mut self, reign: &Reign, refused: Refused, out: &mut Vec<Action>) {
        let member = reign.configs().any(|config| config.contains(refused.member));
        if member && refused.promised > reign.epoch() && !self.alarmed {
            self.alarmed = true;
            out.push(Action::FromTheFuture(refused));
        }
    }

    /// Seals until enough have answered, then proposes the best of them.
    fn elect(&mut self, now: Duration, reign: &Reign, sessions: &Sessions, prefer: Option<Member>, out: &mut Vec<Action>) {
        if now >= self.send_at {
            self.send_at = now + self.times.retry;
            let seal = Seal { epoch: reign.epoch(), generation: reign.config().generation() };
            let silent = reign.members().into_iter().filter(|member| !self.answered_lately(reign, sessions, *member));
            out.extend(silent.map(|member| Action::Seal(member, seal.clone())));
        }
        let answers = self.answers(reign, sessions);
        if !enough_sealed(reign, answers.iter()) {
            self.enough = None;
            return;
        }
        let since = *self.enough.get_or_insert(now);
        let preference = Preference { reign, sessions, prefer };
        let Some(best) = preference.best_of(longest(reign, answers.iter())) else { return };
        if now >= since + self.times.better || !preference.better_is_missing(&self.sealed, best.member) {
            let SealOk { member: leader, incarnation, epoch, log, .. } = best;
            self.propose(
                now,
                Entry::Grant(Grant { epoch, leader, incarnation, log, config: reign.config().clone(), unclean: reign.is_unclean() }),
                out,
            );
        }
    }

    /// The answers to choose from. Those of R members are enough, so the one of a leader that was given up is left out if there are others: it may well have
    /// the longest log, of frames that it could not bring to anybody.
    fn answers(&self, reign: &Reign, sessions: &Sessions) -> Vec<SealOk> {
        let others: Sessions =
            sessions.iter().filter(|(member, _)| Some(**member) != self.avoid).map(|(member, standing)| (*member, standing.clone())).collect();
        let avoid = self.avoid.filter(|_| can_seal(reign, &others));
        self.sealed.values().filter(|answer| Some(answer.member) != avoid).copied().collect()
    }

    /// Whether a replica has answered, and was not started anew since.
    fn answered_lately(&self, reign: &Reign, sessions: &Sessions, member: Member) -> bool {
        let Some(answer) = self.sealed.get(&member) else { return false };
        (!answer.suspect || reign.is_unclean()) && sessions.get(&member).is_none_or(|standing| standing.incarnation == answer.incarnation)
    }

    /// Tells the leader until it has begun, and looks whether it is still there.
    fn watch(&mut self, now: Duration, reign: &Reign, sessions: &Sessions, grant: &Grant, out: &mut Vec<Action>) {
        let standing = sessions.get(&grant.leader);
        if standing.is_some_and(|standing| standing.incarnation > grant.incarnation) {
            return self.end(now, reign, Reason::LeaderLost, out);
        }
        let lost = match standing {
            None => self.given_up(now, reign, sessions, grant),
            Some(standing) => self.idles(now, reign, sessions, standing),
        };
        if lost {
            self.avoid = Some(grant.leader);
            return self.end(now, reign, Reason::LeaderLost, out);
        }
        // While fewer than W members are there, nobody else could begin either, and whoever learns from this leader would have to begin anew with the next.
        let members = reign.config().members().iter().filter(|member| sessions.contains_key(member)).count();
        if members < reign.config().w() {
            self.begin_by = self.begin_by.max(now + self.times.begin);
        }
        if !self.started && (self.refused || now >= self.begin_by && !heard_by_enough(reign, sessions, grant)) {
            self.avoid = Some(grant.leader);
            return self.end(now, reign, Reason::NotStarted, out);
        }
        if self.started && self.idle_since.is_none() {
            self.avoid = None;
        }
        if self.started && (reign.pending().is_some() || reign.is_unclean()) {
            self.propose(now, Entry::ConfigStable(reign.epoch()), out);
        } else if self.started && !reign.stable().contains(grant.leader) {
            self.end(now, reign, Reason::Transfer, out);
        } else if !self.started && now >= self.send_at {
            self.send_at = now + self.times.retry;
            out.push(Action::Become(grant.clone()));
        }
    }

    /// Whether a leader without a session is to be replaced: at once, unless W members say that it does its work.
    fn given_up(&mut self, now: Duration, reign: &Reign, sessions: &Sessions, grant: &Grant) -> bool {
        let since = *self.lost_since.get_or_insert(now);
        let heard = heard_by_enough(reign, sessions, grant);
        if heard || !can_seal(reign, sessions) {
            self.unheard_since = None;
        }
        if !can_seal(reign, sessions) {
            return false;
        }
        let unheard_since = if heard { None } else { Some(*self.unheard_since.get_or_insert(now)) };
        // After a change of the raft leader all sessions begin anew. If the leader died with it, the others have missed it since.
        let missed = unheard_since.is_some_and(|since| now >= since + self.times.unheard);
        let fresh = !self.started && now < self.begin_by && !missed;
        !fresh && (!heard || now >= since + self.times.heard_by_others)
    }

    /// Whether a leader with a session has not served for too long: it is cut off from its followers only, or its replica has failed.
    fn idles(&mut self, now: Duration, reign: &Reign, sessions: &Sessions, standing: &Standing) -> bool {
        (self.lost_since, self.unheard_since) = (None, None);
        if !self.started || standing.serves == Some(reign.epoch()) {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert(now);
        now >= since + self.times.idle && can_seal(reign, sessions)
    }

    fn end(&mut self, now: Duration, reign: &Reign, reason: Reason, out: &mut Vec<Action>) {
        self.propose(now, Entry::BeginEpoch { expect: reign.epoch(), reason, prefer: None, config: None }, out);
    }

    fn propose(&mut self, now: Duration, entry: Entry, out: &mut Vec<Action>) {
        if now >= self.propose_at {
            self.propose_at = now + self.times.retry;
            out.push(Action::Propose(entry));
        }
    }
}

/// Whether so many members hear the leader that it can commit. It hears itself.
pub fn heard_by_enough(reign: &Reign, sessions: &Sessions, grant: &Grant) -> bool {
    let hears = |member: &&Member| **member == grant.leader || sessions.get(member).is_some_and(|standing| standing.hears == Some(grant.epoch));
    let others = reign.config().members().iter().filter(|member| **member != grant.leader).any(|member| hears(&member));
    reign.config().members().iter().filter(hears).count() >= reign.config().w() && others
}

/// Whether enough members have a session. To end an epoch without would stop a leader that works and choose no other.
pub fn can_seal(reign: &Reign, sessions: &Sessions) -> bool {
    reign.configs().all(|config| config.members().iter().filter(|member| sessions.contains_key(member)).count() >= needed(reign, config))
}

/// How many members of a configuration have to be sealed. After an unclean recovery all that are left: nothing is known of what was committed.
fn needed(reign: &Reign, config: &Config) -> usize {
    if reign.is_unclean() { config.members().len() } else { config.r() }
}

/// Rule 11: whether everything that any leader before could have committed is in the log of one of those that answered: R members of each configuration
/// that may have committed. The word of a suspect doesn't count, and that of a replica which isn't a member neither. In an unclean epoch all members are
/// asked, and suspects count: they are what there is.
pub fn enough_sealed<'a>(reign: &Reign, answers: impl Iterator<Item = &'a SealOk> + Clone) -> bool {
    reign.configs().filter(|config| !zoo!(SealOnlyPending) || *config == reign.config()).all(|config| {
        let counted = config.members().iter().filter(|member| answers.clone().any(|answer| answer.member == **member && counts(reign, answer)));
        counted.count() >= needed(reign, config)
    })
}

/// Rule 12, first half: who of those that answered may lead. The longest log by epoch, then by end, has all that was committed.
pub fn longest<'a>(reign: &Reign, answers: impl Iterator<Item = &'a SealOk> + Clone) -> Vec<SealOk> {
    let usable = answers.filter(|answer| counts(reign, answer));
    let rank = |log: &Position| if zoo!(LongestWhateverTheEpoch) { (Epoch(0), log.end) } else { (log.epoch, log.end) };
    let Some(most) = usable.clone().map(|answer| answer.log).max_by_key(rank) else { return Vec::new() };
    usable.filter(|answer| answer.log == most).copied().collect()
}

/// Whether an answer to this epoch's seal says anything.
fn counts(reign: &Reign, answer: &SealOk) -> bool {
    answer.epoch == reign.epoch() && (!answer.suspect || reign.is_unclean()) && reign.configs().any(|config| config.contains(answer.member))
}

/// Rule 12, second half: which of equal logs is to lead.
struct Preference<'a> {
    reign: &'a Reign,
    sessions: &'a Sessions,
    prefer: Option<Member>,
}

impl Preference<'_> {
    fn best_of(&self, equals: Vec<SealOk>) -> Option<SealOk> {
        equals.into_iter().min_by_key(|answer| self.rank(answer.member))
    }

    /// The smaller the better: asked for, a member from now on, there to stay, has little to do, in a zone where fewer of the members are.
    fn rank(&self, member: Member) -> (bool, bool, bool, u64, usize, Member) {
        let standing = self.sessions.get(&member);
        let (cordoned, load) = standing.map_or((true, u64::MAX), |standing| (standing.cordoned, standing.load));
        let leaves = !self.reign.config().contains(member);
        (self.prefer != Some(member), leaves, cordoned, load, self.neighbours(member), member)
    }

    fn neighbours(&self, member: Member) -> usize {
        let zone = |member: &Member| self.sessions.get(member).map(|standing| &standing.zone);
        self.reign.config().members().iter().filter(|other| zone(other) == zone(&member)).count()
    }

    /// Whether a replica that would be taken has not answered, and could.
    fn better_is_missing(&self, sealed: &BTreeMap<Member, SealOk>, best: Member) -> bool {
        let could = |member: &Member| self.sessions.contains_key(member) && !sealed.contains_key(member);
        self.reign.members().iter().any(|member| could(member) && self.rank(*member) < self.rank(best))
    }
}

/// What an operator is shown of an election that does not end: who answered, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub member: Member,
    /// `None` for no answer.
    pub log: Option<Position>,
    pub suspect: bool,
}

impl Elector {
    /// Who has answered the seal of the current epoch.
    pub fn answered(&self, reign: &Reign) -> Vec<Answered> {
        let answer = |member: Member| {
            let sealed = self.sealed.get(&member).filter(|sealed| sealed.epoch == reign.epoch());
            Answered { member, log: sealed.map(|sealed| sealed.log), suspect: sealed.is_some_and(|sealed| sealed.suspect) }
        };
        reign.members().into_iter().map(answer).collect()
    }
}
