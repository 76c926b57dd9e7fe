//! Rules 10 to 14, one by one.

use gantry_model::{Epoch, Lsn};
use gantry_store::replica::elector::{Action, Event, Sessions, Standing, Times, enough_sealed, longest};
use gantry_store::replica::log::Position;
use gantry_store::replica::message::{Grant, Refused, Seal, SealOk};
use gantry_store::replica::reign::{Entry, Reason, Reign, Rejected};
use gantry_store::replica::{Config, Elector, Incarnation, Member, NodeId, StoreId};
use std::time::Duration;

const NOW: Duration = Duration::from_secs(50);

fn member(node: u64) -> Member {
    Member { node: NodeId(node), store: StoreId([node as u8; 16]) }
}

fn config(generation: u64, nodes: &[u64]) -> Config {
    Config::new(generation, nodes.iter().map(|node| member(*node))).expect("a legal size")
}

fn sealed(node: u64, (epoch, end): (u32, u64)) -> SealOk {
    let log = Position { epoch: Epoch(epoch), end: Lsn(end) };
    SealOk { member: member(node), incarnation: Incarnation(1), epoch: Epoch(1), log, hw: Lsn(0), durable: log.end, suspect: false }
}

fn grant(reign: &Reign, node: u64, (epoch, end): (u32, u64)) -> Grant {
    let log = Position { epoch: Epoch(epoch), end: Lsn(end) };
    Grant {
        epoch: reign.epoch(),
        leader: member(node),
        incarnation: Incarnation(1),
        log,
        config: reign.config().clone(),
        unclean: reign.is_unclean(),
    }
}

fn begin(expect: u32, config: Option<Config>) -> Entry {
    Entry::BeginEpoch { expect: Epoch(expect), reason: Reason::LeaderLost, prefer: None, config }
}

fn sessions(nodes: &[u64]) -> Sessions {
    let standing =
        |node: u64| Standing { incarnation: Incarnation(1), serves: None, hears: None, cordoned: false, load: node, zone: format!("z{}", node % 2) };
    nodes.iter().map(|node| (member(*node), standing(*node))).collect()
}

/// A shard of three in its first epoch, with an elector that has sealed.
fn electing() -> (Reign, Elector) {
    let reign = Reign::new(config(1, &[0, 1, 2]), Epoch(0));
    let mut elector = Elector::new(Times::default());
    let seals = elector.step(NOW, &reign, &sessions(&[0, 1, 2]), Event::Tick);
    let seal = Seal { epoch: Epoch(1), generation: 1 };
    assert_eq!(seals, [0, 1, 2].map(|node| Action::Seal(member(node), seal.clone())));
    (reign, elector)
}

/// The same shard led by member 0, which has begun.
fn led() -> (Reign, Elector) {
    let (mut reign, mut elector) = electing();
    reign.apply(&Entry::Grant(grant(&reign, 0, (0, 0)))).expect("the first grant");
    assert_eq!(elector.step(NOW, &reign, &sessions(&[0, 1, 2]), Event::Tick), [Action::Become(grant(&reign, 0, (0, 0)))]);
    assert_eq!(elector.step(NOW, &reign, &sessions(&[0, 1, 2]), Event::Started(Epoch(1))), []);
    (reign, elector)
}

#[test]
fn every_step_is_for_one_epoch_and_once() {
    let mut reign = Reign::new(config(1, &[0, 1, 2]), Epoch(6));
    assert_eq!(reign.epoch(), Epoch(7));
    let first = Entry::Grant(grant(&reign, 0, (6, 80)));
    assert_eq!(reign.apply(&begin(6, None)), Err(Rejected::Epoch(Epoch(7))));
    assert_eq!(reign.apply(&Entry::ConfigStable(Epoch(7))), Err(Rejected::Electing));
    assert_eq!(reign.apply(&first), Ok(()));
    assert_eq!(reign.apply(&first), Err(Rejected::Granted(member(0))));
    assert_eq!(reign.apply(&begin(7, None)), Ok(()));
    assert_eq!(reign.apply(&begin(7, None)), Err(Rejected::Epoch(Epoch(8))));
    assert_eq!(reign.apply(&first), Err(Rejected::Epoch(Epoch(8))));
    let stranger = Grant { leader: member(9), ..grant(&reign, 0, (6, 80)) };
    assert_eq!(reign.apply(&Entry::Grant(stranger)), Err(Rejected::Config));
    let other = Grant { config: config(2, &[0, 1]), ..grant(&reign, 0, (6, 80)) };
    assert_eq!(reign.apply(&Entry::Grant(other)), Err(Rejected::Config));
}

#[test]
fn a_change_of_members_ends_with_the_word_of_the_current_leader() {
    let mut reign = Reign::new(config(1, &[0, 1, 2]), Epoch(0));
    assert_eq!(reign.apply(&begin(1, Some(config(1, &[0, 1])))), Err(Rejected::Generation(1)));
    assert_eq!(reign.apply(&begin(1, Some(config(2, &[0, 1, 3])))), Ok(()));
    assert_eq!((reign.config(), reign.stable()), (&config(2, &[0, 1, 3]), &config(1, &[0, 1, 2])));
    assert_eq!(reign.members(), [0, 1, 2, 3].map(member));
    assert_eq!(reign.apply(&begin(2, Some(config(3, &[0, 1])))), Err(Rejected::Changing(2)));
    assert_eq!(reign.apply(&begin(2, Some(config(2, &[0, 1, 2])))), Err(Rejected::Changing(2)), "a change is taken back by a later one");
    assert_eq!(reign.apply(&begin(2, None)), Ok(()), "the change outlives the epoch");
    reign.apply(&Entry::Grant(grant(&reign, 1, (1, 80)))).expect("the first grant");
    assert_eq!(reign.apply(&Entry::ConfigStable(Epoch(2))), Err(Rejected::Epoch(Epoch(3))), "an older leader's word");
    assert_eq!(reign.apply(&Entry::ConfigStable(Epoch(3))), Ok(()));
    assert_eq!((reign.stable(), reign.pending()), (&config(2, &[0, 1, 3]), None));
}

#[test]
fn a_change_of_members_can_be_taken_back() {
    let mut reign = Reign::new(config(1, &[0, 1]), Epoch(0));
    reign.apply(&begin(1, Some(config(2, &[0, 3])))).expect("the first change");
    assert_eq!(reign.apply(&begin(2, Some(config(3, &[0, 1])))), Ok(()));
    assert_eq!((reign.config(), reign.retreats()), (&config(3, &[0, 1]), true));
    assert_eq!(reign.members(), [0, 1, 3].map(member), "the members that it led to are sealed");
    assert_eq!(reign.apply(&begin(3, Some(config(4, &[0, 1])))), Err(Rejected::Changing(3)));
    reign.apply(&Entry::Grant(grant(&reign, 0, (1, 80)))).expect("the first grant");
    assert_eq!(reign.apply(&Entry::ConfigStable(Epoch(3))), Ok(()));
    assert_eq!((reign.stable(), reign.pending(), reign.retreats()), (&config(3, &[0, 1]), None, false));
}

#[test]
fn enough_are_r_of_each_configuration_without_suspects_and_strangers() {
    let mut changing = Reign::new(config(1, &[0, 1, 2]), Epoch(0));
    let stable = changing.clone();
    changing.apply(&begin(1, Some(config(2, &[0, 3, 4])))).expect("the first change");
    let check = |reign: &Reign, nodes: &[u64], expected| {
        let answers: Vec<SealOk> = nodes.iter().map(|node| SealOk { epoch: reign.epoch(), ..sealed(*node, (0, 0)) }).collect();
        assert_eq!(enough_sealed(reign, answers.iter()), expected, "{nodes:?}");
    };
    check(&stable, &[0], false);
    check(&stable, &[0, 0], false);
    check(&stable, &[0, 2], true);
    check(&stable, &[0, 3], false);
    check(&changing, &[0, 3], false);
    check(&changing, &[0, 1], false);
    check(&changing, &[0, 1, 4], true);
    check(&changing, &[1, 2, 3, 4], true);
    let good = sealed(0, (0, 0));
    for void in [
        SealOk { suspect: true, ..sealed(1, (9, 9)) },
        SealOk { epoch: Epoch(0), ..sealed(1, (9, 9)) },
        SealOk { member: Member { store: StoreId([9; 16]), ..member(1) }, ..sealed(1, (9, 9)) },
    ] {
        assert!(!enough_sealed(&stable, [good, void].iter()), "{void:?}");
        assert_eq!(longest(&stable, [good, void].iter()), [good], "{void:?}");
    }
}

#[test]
fn the_longest_log_leads() {
    let check = |answers: &[(u64, (u32, u64))], expected: &[u64]| {
        let reign = Reign::new(config(1, &[0, 1, 2]), Epoch(0));
        let answers: Vec<SealOk> = answers.iter().map(|(node, log)| sealed(*node, *log)).collect();
        let found: Vec<u64> = longest(&reign, answers.iter()).iter().map(|answer| answer.member.node.0).collect();
        assert_eq!(found, expected, "{answers:?}");
    };
    check(&[(0, (1, 80)), (1, (1, 120))], &[1]);
    check(&[(0, (2, 80)), (1, (1, 120))], &[0]);
    check(&[(0, (1, 80)), (1, (1, 80)), (2, (1, 40))], &[0, 1]);
    check(&[(0, (1, u64::MAX)), (1, (1, 1 << 33))], &[0]);
    check(&[], &[]);
}

#[test]
fn an_equal_that_is_better_placed_is_waited_for_a_little() {
    let (reign, mut elector) = electing();
    let all = sessions(&[0, 1, 2]);
    assert_eq!(elector.step(NOW, &reign, &all, Event::SealOk(sealed(1, (0, 0)))), []);
    assert_eq!(elector.step(NOW, &reign, &all, Event::SealOk(sealed(2, (0, 0)))), [], "member 0 has less to do");
    let patience = Times::default().better;
    let granted = elector.clone().step(NOW + patience, &reign, &all, Event::Tick);
    assert_eq!(granted, [Action::Propose(Entry::Grant(grant(&reign, 1, (0, 0))))]);
    let granted = elector.clone().step(NOW, &reign, &all, Event::SealOk(sealed(0, (0, 0))));
    assert_eq!(granted, [Action::Propose(Entry::Grant(grant(&reign, 0, (0, 0))))]);
    let unreachable = elector.step(NOW, &reign, &sessions(&[1, 2]), Event::Tick);
    assert_eq!(unreachable, [Action::Propose(Entry::Grant(grant(&reign, 1, (0, 0))))], "member 0 has no session");
}

#[test]
fn among_equals_the_one_that_was_asked_for_leads_then_one_that_stays() {
    let reign = |prefer: Option<u64>| {
        let mut reign = Reign::new(config(1, &[0, 1, 2]), Epoch(0));
        let entry = Entry::BeginEpoch { expect: Epoch(1), reason: Reason::Transfer, prefer: prefer.map(member), config: None };
        reign.apply(&entry).expect("the epoch is the current one");
        reign
    };
    let check = |prefer, cordoned: u64, expected| {
        let reign = reign(prefer);
        let mut all = sessions(&[0, 1, 2]);
        all.get_mut(&member(cordoned)).expect("it has a session").cordoned = true;
        let mut elector = Elector::new(Times::default());
        let answer = |node| Event::SealOk(SealOk { epoch: Epoch(2), ..sealed(node, (1, 80)) });
        let last = [0, 1, 2].map(|node| elector.step(NOW, &reign, &all, answer(node))).concat();
        assert!(last.contains(&Action::Propose(Entry::Grant(grant(&reign, expected, (1, 80))))), "{prefer:?}: {last:?}");
    };
    check(None, 0, 1);
    check(None, 2, 0);
    check(Some(2), 0, 2);
}

#[test]
fn what_got_lost_is_sent_and_proposed_again() {
    let (mut reign, mut elector) = electing();
    let all = sessions(&[0, 1, 2]);
    let retry = Times::default().retry;
    assert_eq!(elector.step(NOW + retry / 2, &reign, &all, Event::SealOk(sealed(0, (0, 0)))), []);
    assert_eq!(elector.step(NOW + retry, &reign, &all, Event::Tick).len(), 2, "those that have not answered");
    let proposal = [Action::Propose(Entry::Grant(grant(&reign, 0, (0, 0))))];
    assert_eq!(elector.step(NOW + retry, &reign, &all, Event::SealOk(sealed(1, (0, 0)))), proposal);
    assert_eq!(elector.step(NOW + retry + retry / 2, &reign, &all, Event::Tick), []);
    assert!(elector.step(NOW + retry + retry, &reign, &all, Event::Tick).contains(&proposal[0]));
    reign.apply(&Entry::Grant(grant(&reign, 0, (0, 0)))).expect("the first grant");
    let told = [Action::Become(grant(&reign, 0, (0, 0)))];
    assert_eq!(elector.step(NOW, &reign, &all, Event::Tick), told);
    assert_eq!(elector.step(NOW + retry, &reign, &all, Event::Tick), told);
}

#[test]
fn a_leader_that_does_not_begin_is_replaced() {
    let (mut reign, mut elector) = electing();
    let mut all = sessions(&[0, 1, 2]);
    reign.apply(&Entry::Grant(grant(&reign, 0, (0, 0)))).expect("the first grant");
    elector.step(NOW, &reign, &all, Event::Tick);
    let over = |reason| Action::Propose(Entry::BeginEpoch { expect: Epoch(1), reason, prefer: None, config: None });
    let mut refused = elector.clone();
    assert_eq!(refused.step(NOW, &reign, &all, Event::StartRefused(Epoch(1))), [over(Reason::NotStarted)]);
    let begin = Times::default().begin;
    assert_eq!(elector.clone().step(NOW + begin, &reign, &all, Event::Tick), [over(Reason::NotStarted)]);
    elector.step(NOW, &reign, &all, Event::Started(Epoch(1)));
    all.get_mut(&member(0)).expect("it has a session").serves = Some(Epoch(1));
    assert_eq!(elector.step(NOW + begin, &reign, &all, Event::Tick), []);
}

#[test]
fn a_leader_without_a_session_is_replaced_unless_its_followers_hear_it() {
    let over = || [Action::Propose(begin(1, None))];
    let (reign, mut elector) = led();
    assert_eq!(elector.clone().step(NOW, &reign, &sessions(&[1, 2]), Event::Tick), over());
    assert_eq!(elector.clone().step(NOW, &reign, &sessions(&[1]), Event::Tick), [], "nobody else could be chosen");
    let mut hearing = sessions(&[1, 2]);
    hearing.get_mut(&member(1)).expect("it has a session").hears = Some(Epoch(1));
    assert_eq!(elector.step(NOW, &reign, &hearing, Event::Tick), [], "two of three go on");
    let patience = Times::default().heard_by_others;
    assert_eq!(elector.step(NOW + patience, &reign, &hearing, Event::Tick), over());
    let (reign, mut elector) = led();
    let mut restarted = sessions(&[0, 1, 2]);
    restarted.get_mut(&member(0)).expect("it has a session").incarnation = Incarnation(2);
    assert_eq!(elector.step(NOW, &reign, &restarted, Event::Tick), over(), "another process is not the leader");
}

#[test]
fn a_leader_that_its_followers_do_not_hear_is_replaced_by_one_of_them() {
    let (mut reign, mut elector) = led();
    let idle = Times::default().idle;
    let mut serving = sessions(&[0, 1, 2]);
    serving.get_mut(&member(0)).expect("it has a session").serves = Some(Epoch(1));
    assert_eq!(elector.step(NOW + idle / 2, &reign, &serving, Event::Tick), [], "it serves again");
    let all = sessions(&[0, 1, 2]);
    assert_eq!(elector.step(NOW + idle, &reign, &all, Event::Tick), [], "it may hear from them again");
    let mut alone = elector.clone();
    assert_eq!(alone.step(NOW + idle + idle, &reign, &sessions(&[0]), Event::Tick), [], "nobody else could be chosen");
    let end = begin(1, None);
    assert_eq!(elector.step(NOW + idle + idle, &reign, &all, Event::Tick), [Action::Propose(end.clone())]);
    reign.apply(&end).expect("the current epoch");
    let answer = |node, log| Event::SealOk(SealOk { epoch: Epoch(2), ..sealed(node, log) });
    elector.step(NOW + idle + idle, &reign, &all, answer(0, (1, 4000)));
    elector.step(NOW + idle + idle, &reign, &all, answer(1, (1, 80)));
    let chosen = elector.step(NOW + idle + idle, &reign, &all, answer(2, (1, 40)));
    assert_eq!(chosen, [Action::Propose(Entry::Grant(grant(&reign, 1, (1, 80))))], "what only member 0 has was never committed");
    let mut needed = elector.clone();
    reign.apply(&begin(2, None)).expect("the current epoch");
    needed.step(NOW, &reign, &sessions(&[0, 1]), Event::SealOk(SealOk { epoch: Epoch(3), ..sealed(0, (1, 4000)) }));
    let chosen = needed.step(NOW, &reign, &sessions(&[0, 1]), Event::SealOk(SealOk { epoch: Epoch(3), ..sealed(1, (1, 80)) }));
    assert_eq!(chosen, [Action::Propose(Entry::Grant(grant(&reign, 0, (1, 4000))))], "without it there are too few");
}

#[test]
fn a_new_elector_goes_on_where_the_old_one_was() {
    let (reign, _) = led();
    let times = Times::default();
    let mut elector = Elector::new(times);
    assert_eq!(elector.step(NOW, &reign, &sessions(&[]), Event::Tick).len(), 1, "the leader is told, in case it was not");
    assert_eq!(elector.step(NOW + times.fresh / 2, &reign, &sessions(&[1, 2]), Event::Tick).len(), 1, "its session has to come first");
    let end = elector.step(NOW + times.fresh, &reign, &sessions(&[1, 2]), Event::Tick);
    assert!(matches!(end[..], [Action::Propose(Entry::BeginEpoch { .. })]), "{end:?}");
}

#[test]
fn a_leader_that_died_with_the_elector_is_missed_as_soon_as_nobody_hears_it() {
    let (reign, _) = led();
    let times = Times::default();
    let ended = |actions: Vec<Action>| actions.iter().any(|action| matches!(action, Action::Propose(Entry::BeginEpoch { .. })));
    let mut elector = Elector::new(times);
    let mut hear = sessions(&[1, 2]);
    hear.values_mut().for_each(|standing| standing.hears = Some(Epoch(1)));
    let beat = times.unheard / 2;
    assert!(!ended(elector.step(NOW, &reign, &sessions(&[1, 2]), Event::Tick)));
    assert!(!ended(elector.step(NOW + beat, &reign, &hear, Event::Tick)), "it lives, and its session has to come first");
    assert!(!ended(elector.step(NOW + beat * 2, &reign, &sessions(&[1, 2]), Event::Tick)), "not heard for no time yet");
    assert!(!ended(elector.step(NOW + beat * 3, &reign, &sessions(&[1]), Event::Tick)), "too few to choose another");
    assert!(!ended(elector.step(NOW + beat * 4, &reign, &sessions(&[1, 2]), Event::Tick)));
    assert!(!ended(elector.step(NOW + beat * 5, &reign, &sessions(&[1, 2]), Event::Tick)));
    assert!(ended(elector.step(NOW + beat * 6, &reign, &sessions(&[1, 2]), Event::Tick)));
}

#[test]
fn a_change_ends_when_the_leader_has_begun_and_a_leader_that_left_is_replaced() {
    let (mut reign, mut elector) = led();
    reign.apply(&begin(1, Some(config(2, &[1, 2, 3])))).expect("the first change");
    reign.apply(&Entry::Grant(grant(&reign, 0, (1, 40)))).expect("the only log that has everything");
    let all = sessions(&[0, 1, 2, 3]);
    elector.step(NOW, &reign, &all, Event::Tick);
    assert_eq!(elector.step(NOW, &reign, &all, Event::Started(Epoch(1))).len(), 0, "that was the epoch before");
    let stable = Entry::ConfigStable(Epoch(2));
    assert_eq!(elector.step(NOW, &reign, &all, Event::Started(Epoch(2))), [Action::Propose(stable.clone())]);
    reign.apply(&stable).expect("the current leader's word");
    let over = Entry::BeginEpoch { expect: Epoch(2), reason: Reason::Transfer, prefer: None, config: None };
    let later = NOW + Times::default().retry;
    assert_eq!(elector.step(later, &reign, &all, Event::Tick), [Action::Propose(over)]);
}

#[test]
fn a_replica_from_the_future_is_reported_once() {
    let (reign, mut elector) = electing();
    let refused = Refused { member: member(1), promised: Epoch(40) };
    assert_eq!(elector.step(NOW, &reign, &sessions(&[]), Event::Refused(refused)), [Action::FromTheFuture(refused)]);
    assert_eq!(elector.step(NOW, &reign, &sessions(&[]), Event::Refused(refused)), []);
}
