//! What an operator may order when copies are lost for ever, and that nobody else can.

use gantry_model::{Epoch, Lsn};
use gantry_store::replica::elector::{Action, Event, Sessions, Standing, Times};
use gantry_store::replica::log::Position;
use gantry_store::replica::message::{Grant, Seal, SealOk};
use gantry_store::replica::reign::{Entry, Reason, Reign, Rejected};
use gantry_store::replica::{Config, Elector, Incarnation, Member, NodeId, StoreId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const NOW: Duration = Duration::from_secs(50);

fn member(node: u64) -> Member {
    Member { node: NodeId(node), store: StoreId([node as u8; 16]) }
}

fn config(generation: u64, nodes: &[u64]) -> Config {
    Config::new(generation, nodes.iter().map(|node| member(*node))).expect("a legal size")
}

fn standing() -> Standing {
    Standing { incarnation: Incarnation(1), serves: None, hears: None, cordoned: false, load: 0, zone: String::new() }
}

fn sessions(nodes: &[u64]) -> Sessions {
    nodes.iter().map(|node| (member(*node), standing())).collect()
}

fn order(expect: u32, survivors: Config) -> Entry {
    Entry::BeginUnclean { expect: Epoch(expect), survivors }
}

fn begin(expect: u32, config: Option<Config>) -> Entry {
    Entry::BeginEpoch { expect: Epoch(expect), reason: Reason::LeaderLost, prefer: None, config }
}

fn sealed(reign: &Reign, node: u64, (epoch, end): (u32, u64)) -> SealOk {
    let log = Position { epoch: Epoch(epoch), end: Lsn(end) };
    SealOk { member: member(node), incarnation: Incarnation(1), epoch: reign.epoch(), log, hw: Lsn(0), durable: log.end, suspect: false }
}

fn grant(reign: &Reign, node: u64, (epoch, end): (u32, u64)) -> Grant {
    let log = Position { epoch: Epoch(epoch), end: Lsn(end) };
    let (leader, unclean) = (member(node), reign.is_unclean());
    Grant { epoch: reign.epoch(), leader, incarnation: Incarnation(1), log, config: reign.config().clone(), unclean }
}

/// A shard of five members of which these are left.
fn recovering(left: &[u64]) -> Reign {
    let mut reign = Reign::new(config(1, &[0, 1, 2, 3, 4]), Epoch(6));
    reign.apply(&order(7, config(2, left))).expect("the current epoch");
    reign
}

#[test]
fn an_order_makes_the_survivors_the_only_members_and_ends_any_change() {
    let mut reign = Reign::new(config(1, &[0, 1, 2]), Epoch(0));
    reign.apply(&begin(1, Some(config(2, &[0, 1, 3])))).expect("the first change");
    let before = reign.clone();
    let mut check = |entry: Entry, expected| assert_eq!(reign.apply(&entry), expected, "{entry:?}");
    check(order(1, config(3, &[2])), Err(Rejected::Epoch(Epoch(2))));
    check(order(2, config(2, &[2])), Err(Rejected::Generation(2)));
    check(order(2, config(3, &[9])), Err(Rejected::Stranger(member(9))));
    assert_eq!(reign, before, "what is refused changes nothing");
    reign.apply(&order(2, config(3, &[3]))).expect("a member since the change began");
    assert_eq!((reign.epoch(), reign.members(), reign.pending(), reign.is_unclean()), (Epoch(3), vec![member(3)], None, true));
    assert_eq!(reign.apply(&order(2, config(4, &[3]))), Err(Rejected::Epoch(Epoch(3))), "an order is for one epoch");
}

#[test]
fn a_suspect_leads_what_is_left_and_only_then() {
    let ordinary = Reign::new(config(1, &[0]), Epoch(6));
    for (reign, expected) in [(ordinary, None), (recovering(&[0]), Some(member(0)))] {
        let mut elector = Elector::new(Times::default());
        let seal = Seal { epoch: reign.epoch(), generation: reign.config().generation() };
        assert_eq!(elector.step(NOW, &reign, &sessions(&[0, 1]), Event::Tick), [Action::Seal(member(0), seal)]);
        let suspect = SealOk { suspect: true, ..sealed(&reign, 0, (5, 80)) };
        let chosen = elector.step(NOW, &reign, &sessions(&[0, 1]), Event::SealOk(suspect));
        let expected: Vec<Action> = expected.map(|_| Action::Propose(Entry::Grant(grant(&reign, 0, (5, 80))))).into_iter().collect();
        assert_eq!(chosen, expected, "{reign:?}");
    }
}

#[test]
fn all_survivors_are_sealed_and_the_longest_log_leads_whoever_has_it() {
    let reign = recovering(&[0, 1, 2]);
    let mut elector = Elector::new(Times::default());
    let all = sessions(&[0, 1, 2]);
    let mut step = |answer| elector.step(NOW, &reign, &all, Event::SealOk(answer));
    assert_eq!(step(sealed(&reign, 0, (5, 80))).len(), 2, "the others are sealed too");
    assert_eq!(step(sealed(&reign, 2, (5, 40))), [], "two of three would do in any other epoch");
    let longest = SealOk { suspect: true, ..sealed(&reign, 1, (6, 40)) };
    assert_eq!(step(longest), [Action::Propose(Entry::Grant(grant(&reign, 1, (6, 40))))]);
}

#[test]
fn a_recovery_lasts_until_a_leader_has_begun() {
    let mut reign = recovering(&[0]);
    assert_eq!(reign.apply(&begin(8, Some(config(3, &[0, 1])))), Err(Rejected::Recovering));
    let clean = Grant { unclean: false, ..grant(&reign, 0, (5, 80)) };
    assert_eq!(reign.apply(&Entry::Grant(clean)), Err(Rejected::Config), "a grant says what it is");
    reign.apply(&Entry::Grant(grant(&reign, 0, (5, 80)))).expect("the first grant");
    reign.apply(&begin(8, None)).expect("it did not begin");
    assert!(reign.is_unclean(), "the next one may be a suspect as well");
    reign.apply(&Entry::Grant(grant(&reign, 0, (5, 80)))).expect("the first grant");
    let mut elector = Elector::new(Times::default());
    let started = elector.step(NOW, &reign, &sessions(&[0]), Event::Started(Epoch(9)));
    assert_eq!(started, [Action::Propose(Entry::ConfigStable(Epoch(9)))]);
    reign.apply(&Entry::ConfigStable(Epoch(9))).expect("the current epoch");
    assert!(!reign.is_unclean());
    assert_eq!(reign.apply(&begin(9, Some(config(3, &[0, 1])))), Ok(()));
}

/// What happens to a shard: three choices, of which the first says what.
fn histories() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    prop::collection::vec(any::<(u8, u8, u8)>(), 0..160)
}

/// Who remembers what was ordered, answered and granted.
struct World {
    now: Duration,
    reign: Reign,
    elector: Elector,
    sessions: BTreeSet<u64>,
    /// What members answered in the present epoch.
    answers: BTreeMap<Member, SealOk>,
    granted: BTreeMap<Epoch, Member>,
    /// An operator's order, until a leader has begun.
    ordered: bool,
}

impl World {
    fn elect(&mut self, event: Event) {
        if let Event::SealOk(answer) = &event {
            self.answers.insert(answer.member, *answer);
        }
        let with: Vec<u64> = self.sessions.iter().copied().collect();
        for action in self.elector.step(self.now, &self.reign, &sessions(&with), event) {
            if let Action::Propose(entry) = action {
                self.propose(&entry);
            }
        }
    }

    fn propose(&mut self, entry: &Entry) {
        assert!(!matches!(entry, Entry::BeginUnclean { .. }), "no elector orders a recovery");
        if self.reign.apply(entry).is_err() {
            return;
        }
        match entry {
            Entry::Grant(grant) => self.check(grant),
            Entry::ConfigStable(_) => self.ordered = false,
            Entry::BeginEpoch { .. } | Entry::BeginUnclean { .. } => self.answers.clear(),
        }
        assert_eq!(self.reign.is_unclean(), self.ordered);
    }

    fn check(&mut self, grant: &Grant) {
        assert_eq!(self.granted.insert(grant.epoch, grant.leader), None, "an epoch is granted once");
        assert_eq!(grant.unclean, self.ordered, "unclean by order only, and then until a leader has begun");
        let members = self.reign.members();
        let counted = |answer: &&SealOk| members.contains(&answer.member) && (grant.unclean || !answer.suspect);
        for config in self.reign.configs() {
            let sealed = self.answers.values().filter(counted).filter(|answer| config.contains(answer.member)).count();
            let needed = if grant.unclean { config.members().len() } else { config.r() };
            assert!(sealed >= needed, "{sealed} of {config:?} were sealed");
        }
        let longest = self.answers.values().filter(counted).map(|answer| (answer.log.epoch, answer.log.end)).max();
        assert!(Some((grant.log.epoch, grant.log.end)) >= longest || !grant.unclean, "the longest of what is left");
    }

    fn step(&mut self, (what, which, how): (u8, u8, u8)) {
        let node = u64::from(which) % 5;
        match what % 16 {
            0..=6 => {
                let log = (u32::from(how) % 4, u64::from(how) / 4 * 40);
                let answer = SealOk { suspect: what >= 128, ..sealed(&self.reign, node, log) };
                self.elect(Event::SealOk(answer));
            }
            7 | 8 => self.elect(Event::Started(self.reign.epoch())),
            9 => self.elect(Event::StartRefused(self.reign.epoch())),
            10 | 11 => {
                if !self.sessions.remove(&node) {
                    self.sessions.insert(node);
                }
            }
            12 => {
                let expect = Epoch(self.reign.epoch().0 - u32::from(how.is_multiple_of(3)));
                let survivors = config(self.reign.config().generation() + 1, &[node]);
                let fits = expect == self.reign.epoch() && self.reign.members().contains(&member(node));
                assert_eq!(self.reign.apply(&Entry::BeginUnclean { expect, survivors }).is_ok(), fits);
                if fits {
                    self.ordered = true;
                    self.answers.clear();
                }
            }
            13 => {
                let config = config(self.reign.config().generation() + 1, &[node, (node + 1) % 5, (node + 2) % 5]);
                self.propose(&Entry::BeginEpoch { expect: self.reign.epoch(), reason: Reason::Reconfigure, prefer: None, config: Some(config) });
            }
            _ => {
                self.now += Duration::from_millis(u64::from(how) * 20);
                self.elect(Event::Tick);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_any_history_an_epoch_is_granted_once_and_unclean_by_order_only(history in histories()) {
        let reign = Reign::new(config(1, &[0, 1, 2]), Epoch(3));
        let (answers, granted) = Default::default();
        let elector = Elector::new(Times::default());
        let mut world = World { now: NOW, reign, elector, sessions: (0..5).collect(), answers, granted, ordered: false };
        history.into_iter().for_each(|choice| world.step(choice));
    }
}
