//! Rules 1 to 4, one by one.

use crate::chain::Chain;
use gantry_model::{Epoch, Lsn};
use gantry_store::replica::follower::{Action, Answer, Fatal};
use gantry_store::replica::leader::StartRefused;
use gantry_store::replica::log::{Link, Tail};
use gantry_store::replica::message::{Append, Grant, Malformed, Refused, Seal, Welcome};
use gantry_store::replica::{Config, Follower, Incarnation, Log, Member, NodeId, Promise, StoreId};

fn member(node: u64) -> Member {
    Member { node: NodeId(node), store: StoreId([node as u8; 16]) }
}

/// A log with frames of 40 bytes in these epochs.
fn chain(epochs: &[u32]) -> Chain {
    let mut chain = Chain::default();
    for (at, epoch) in epochs.iter().enumerate() {
        chain.append(Epoch(*epoch), 40, at as u64);
    }
    chain
}

/// A replica that promised epoch `promised`.
fn follower(log: &Chain, promised: u32) -> Follower {
    let promise = Promise { store: member(1).store, epoch: Epoch(promised), ..Promise::default() };
    Follower::new(member(1), Incarnation(3), promise, log.tail().end, Lsn(0))
}

/// The frames of a leader's log behind `from`.
fn append(epoch: u32, log: &Chain, from: Lsn, hw: Lsn) -> Append {
    let prev = log.tail_at(from).expect("between two frames");
    Append { epoch: Epoch(epoch), prev, frames: log.links_from(from, u64::MAX), hw, leader_time: 9 }
}

fn refused(promised: u32) -> Action {
    Action::Answer(Answer::Refused(Refused { member: member(1), promised: Epoch(promised) }))
}

fn seal(epoch: u32) -> Seal {
    Seal { epoch: Epoch(epoch), generation: 4 }
}

#[test]
fn a_promise_is_durable_before_it_is_answered() {
    let log = chain(&[1]);
    let mut follower = follower(&log, 1);
    let actions = follower.seal(&log, &seal(2)).expect("nothing is wrong");
    let [Action::Persist(promise), Action::Answer(Answer::SealOk(answer))] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((promise.epoch, promise.generation), (Epoch(2), 4));
    assert_eq!((answer.epoch, answer.log, answer.suspect), (Epoch(2), log.tail().position(), false));
    let again = follower.seal(&log, &seal(2)).expect("nothing is wrong");
    assert_eq!(again, actions[1..], "what is promised is not written again");
    assert_eq!(follower.seal(&log, &seal(1)), Ok(vec![refused(2)]));
}

#[test]
fn frames_of_a_later_epoch_raise_the_promise_first() {
    let (own, leader) = (chain(&[1]), chain(&[1, 3]));
    let mut follower = follower(&own, 1);
    let actions = follower.append(&own, &append(3, &leader, Lsn(40), Lsn(0))).expect("nothing is wrong");
    let raised = Promise { epoch: Epoch(3), ..follower.promise() };
    assert_eq!(actions, [Action::Persist(raised), Action::Write { first: 0 }]);
    assert_eq!(follower.append(&own, &append(2, &chain(&[1, 2]), Lsn(40), Lsn(0))), Ok(vec![refused(3)]));
}

#[test]
fn frames_are_taken_behind_a_frame_that_both_have() {
    let leader = chain(&[1, 1, 2, 2]);
    let check = |own: &[u32], from: u64, expected: &[Action]| {
        let own = chain(own);
        let actions = follower(&own, 2).append(&own, &append(2, &leader, Lsn(from), Lsn(0)));
        assert_eq!(actions.as_deref(), Ok(expected), "{own:?} from {from}");
    };
    check(&[], 0, &[Action::Write { first: 0 }]);
    check(&[1, 1], 80, &[Action::Write { first: 0 }]);
    check(&[1, 1, 2], 40, &[Action::Write { first: 2 }]);
    check(&[1, 1, 2, 2], 0, &[]);
    check(&[1, 1, 1, 1], 80, &[Action::Cut(leader.tail_at(Lsn(80)).expect("a frame ends there")), Action::Write { first: 0 }]);
    let own = chain(&[1, 1, 1]);
    let actions = follower(&own, 2).append(&own, &append(2, &leader, Lsn(120), Lsn(0))).expect("nothing is wrong");
    let [Action::Answer(Answer::Mismatch(mismatch))] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((mismatch.end, mismatch.epochs.starts()), (Lsn(120), &[(Epoch(1), Lsn(0))][..]));
}

#[test]
fn what_is_known_to_be_committed_is_never_cut() {
    let own = chain(&[1, 1, 1]);
    let mut follower = follower(&own, 1);
    follower.append(&own, &append(1, &own, Lsn(0), Lsn(120))).expect("nothing is wrong");
    assert_eq!(follower.hw(), Lsn(120));
    let lacking = chain(&[1, 1, 2]);
    let fatal = Fatal::CutsCommitted { at: Lsn(80), hw: Lsn(120), epoch: Epoch(2) };
    assert_eq!(follower.append(&own, &append(2, &lacking, Lsn(80), Lsn(0))), Err(fatal));
    assert_eq!(follower.seal(&own, &seal(9)), Err(fatal), "nothing is done any more");
    assert!(fatal.to_string().contains("the files are kept"));
}

#[test]
fn what_a_leader_committed_counts_as_far_as_the_logs_agree() {
    let (own, leader) = (chain(&[1, 1, 1]), chain(&[1, 1, 2]));
    let mut follower = follower(&own, 2);
    follower.append(&own, &append(2, &chain(&[1, 1]), Lsn(0), leader.tail().end)).expect("nothing is wrong");
    assert_eq!(follower.hw(), Lsn(80), "the third frame is another one here");
    let told = follower.ack().map(|ack| (ack.received, ack.durable));
    assert_eq!(told, Some((Lsn(80), Lsn(80))), "what comes behind may not be the leader's");
}

#[test]
fn only_what_is_synced_is_acknowledged_as_durable_and_applied() {
    let leader = chain(&[1, 1]);
    let mut own = Chain::default();
    let mut follower = follower(&own, 1);
    assert_eq!(follower.ack(), None, "nobody is followed");
    follower.append(&own, &append(1, &leader, Lsn(0), Lsn(80))).expect("nothing is wrong");
    own.extend(leader.links());
    follower.written(Lsn(80));
    let told = |follower: &Follower| follower.ack().map(|ack| (ack.received, ack.durable)).expect("a leader is followed");
    assert_eq!((told(&follower), follower.may_apply()), ((Lsn(80), Lsn(0)), Lsn(0)));
    let sync = follower.syncing();
    follower.synced(sync);
    assert_eq!((told(&follower), follower.may_apply()), ((Lsn(80), Lsn(80)), Lsn(80)));
}

#[test]
fn a_sync_that_began_before_a_cut_says_nothing() {
    let mut own = chain(&[1, 1]);
    let mut follower = follower(&own, 1);
    own.append(Epoch(1), 40, 7);
    follower.written(Lsn(120));
    let sync = follower.syncing();
    let leader = chain(&[1, 1, 2]);
    follower.append(&own, &append(2, &leader, Lsn(80), Lsn(0))).expect("nothing is wrong");
    own.cut(Lsn(80));
    own.extend(&leader.links_from(Lsn(80), 40));
    follower.written(Lsn(120));
    follower.synced(sync);
    assert_eq!(follower.durable(), Lsn(80));
    let sync = follower.syncing();
    follower.synced(sync);
    assert_eq!(follower.durable(), Lsn(120));
}

#[test]
fn nonsense_ends_the_stream() {
    let own = Chain::default();
    let good = append(2, &chain(&[1, 1, 2]), Lsn(0), Lsn(0));
    let check = |spoil: fn(&mut Vec<Link>), expected| {
        let mut bad = good.clone();
        spoil(&mut bad.frames);
        assert_eq!(follower(&own, 1).append(&own, &bad), Ok(vec![Action::HangUp(expected)]), "{bad:?}");
    };
    check(|frames| frames.swap(0, 1), Malformed::Chain(Lsn(40)));
    check(|frames| frames[1].prev_crc ^= 1, Malformed::Chain(Lsn(40)));
    check(|frames| frames[1].tail.end = Lsn(40), Malformed::Chain(Lsn(40)));
    check(|frames| frames[2].tail.epoch = Epoch(0), Malformed::Epoch(Lsn(80)));
    check(|frames| frames[2].tail.epoch = Epoch(3), Malformed::Epoch(Lsn(80)));
    let later = Append { prev: Tail { epoch: Epoch(7), ..good.prev }, ..good.clone() };
    assert_eq!(follower(&own, 1).append(&own, &later), Ok(vec![Action::HangUp(Malformed::Epoch(Lsn(0)))]));
}

fn grant(log: &Chain) -> Grant {
    let config = Config::new(1, [0, 1, 2].map(member)).expect("three members");
    Grant { epoch: Epoch(2), leader: member(1), incarnation: Incarnation(3), log: log.tail().position(), config, unclean: false }
}

#[test]
fn a_replica_leads_only_as_it_was_sealed() {
    let log = chain(&[1, 1]);
    let check = |promised, change: fn(&mut Grant), expected| {
        let mut grant = grant(&log);
        change(&mut grant);
        assert_eq!(follower(&log, promised).lead(&log, &grant), expected, "{grant:?}");
    };
    check(2, |_| {}, Ok(Vec::new()));
    check(1, |_| {}, Err(StartRefused::Promised(Epoch(1))));
    check(3, |_| {}, Err(StartRefused::Promised(Epoch(3))));
    check(2, |grant| grant.leader = member(2), Err(StartRefused::Other(member(2))));
    check(2, |grant| grant.leader.store = StoreId([9; 16]), Err(StartRefused::Other(Member { store: StoreId([9; 16]), ..member(1) })));
    check(2, |grant| grant.incarnation = Incarnation(2), Err(StartRefused::Restarted(Incarnation(3))));
    check(2, |grant| grant.log.end = Lsn(120), Err(StartRefused::Changed(chain(&[1, 1]).tail().position())));
    let mut suspect = follower(&log, 2);
    suspect.suspect();
    assert_eq!(suspect.lead(&log, &grant(&log)), Err(StartRefused::Suspect));
    let unclean = |change: fn(&mut Grant)| {
        let mut grant = Grant { unclean: true, ..grant(&log) };
        change(&mut grant);
        grant
    };
    assert_eq!(suspect.lead(&log, &unclean(|grant| grant.log.end = Lsn(120))), Err(StartRefused::Changed(log.tail().position())));
    let believed = Action::Persist(Promise { suspect: false, ..suspect.promise() });
    assert_eq!(suspect.lead(&log, &unclean(|_| {})), Ok(vec![believed]), "what it lacks was given up");
    assert!(!suspect.promise().suspect);
}

#[test]
fn a_leader_stops_at_a_later_epoch_and_at_a_second_leader() {
    let log = chain(&[1, 1]);
    let leading = || {
        let mut follower = follower(&log, 2);
        follower.lead(&log, &grant(&log)).expect("as it was sealed");
        follower
    };
    let mut sealed = leading();
    assert_eq!(sealed.lead(&log, &grant(&log)), Err(StartRefused::Leading));
    let actions = sealed.seal(&log, &seal(3)).expect("nothing is wrong");
    assert!(matches!(actions[..], [Action::Persist(_), Action::StepDown, Action::Answer(Answer::SealOk(_))]), "{actions:?}");
    let mut deposed = leading();
    assert_eq!((deposed.deposed(Epoch(2)), deposed.deposed(Epoch(3)), deposed.leading()), (false, true, None));
    assert_eq!(leading().append(&log, &append(2, &log, Lsn(0), Lsn(0))), Err(Fatal::TwoLeaders { epoch: Epoch(2) }));
}

#[test]
fn a_suspect_is_believed_when_it_has_all_its_leader_had_when_it_came() {
    let leader = chain(&[1, 1, 1]);
    let mut own = chain(&[1]);
    let mut follower = follower(&own, 1);
    let old = follower.hello(&own);
    assert!(matches!(follower.suspect()[..], [Action::Persist(Promise { suspect: true, .. })]));
    let welcome = |session, target| Welcome { epoch: Epoch(1), session, target: Lsn(target) };
    follower.append(&own, &append(1, &leader, Lsn(0), Lsn(0))).expect("nothing is wrong");
    own.extend(&leader.links_from(Lsn(40), 80));
    follower.written(Lsn(120));
    assert_eq!(follower.welcome(&welcome(old.session, 40)), Ok(vec![]), "what was asked for before the loss says nothing");
    let hello = follower.hello(&own);
    assert!(hello.suspect);
    assert_eq!(follower.welcome(&welcome(hello.session, 120)), Ok(vec![]), "not synced yet");
    let sync = follower.syncing();
    let actions = follower.synced(sync);
    assert!(matches!(actions[..], [Action::Persist(Promise { suspect: false, .. })]), "{actions:?}");
}

#[test]
fn a_log_is_given_up_by_a_suspect_only() {
    let own = chain(&[1]);
    let mut follower = follower(&own, 1);
    let actions = follower.offered(Epoch(1), Lsn(400)).expect("nothing is wrong");
    assert!(matches!(actions[..], [Action::Persist(Promise { suspect: true, .. }), Action::GiveUp]), "{actions:?}");
    assert_eq!(follower.offered(Epoch(1), Lsn(400)), Ok(vec![Action::GiveUp]), "it is known to be a suspect");
    follower.append(&own, &append(1, &own, Lsn(0), Lsn(40))).expect("nothing is wrong");
    assert_eq!((follower.hw(), follower.offered(Epoch(1), Lsn(39))), (Lsn(40), Ok(vec![])), "an offer that came late");
    assert_eq!(follower.offered(Epoch(0), Lsn(999)), Ok(vec![refused(1)]));
}
