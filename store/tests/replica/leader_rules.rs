//! Rules 5 to 9, one by one.

use crate::chain::Chain;
use gantry_model::{Epoch, Lsn};
use gantry_store::replica::leader::{Durability, Greeting, HEARTBEAT, LIVE, Next, Pace, Reached, SETTLED, SILENCE, WINDOW, committed};
use gantry_store::replica::log::Position;
use gantry_store::replica::message::{Ack, Grant, Hello, Mismatch, Welcome};
use gantry_store::replica::{Config, Incarnation, Leader, Log, Member, NodeId, Session, StoreId};
use std::time::Duration;

const NOW: Duration = Duration::from_secs(100);

fn member(node: u64) -> Member {
    Member { node: NodeId(node), store: StoreId([node as u8; 16]) }
}

fn session(incarnation: u64, greeting: u64) -> Session {
    Session { incarnation: Incarnation(incarnation), greeting }
}

fn hello(node: u64, log: Position) -> Hello {
    Hello { member: member(node), session: session(1, 1), promised: Epoch(2), log, suspect: false }
}

fn ack(node: u64, end: u64) -> Ack {
    Ack { member: member(node), session: session(1, 1), epoch: Epoch(2), received: Lsn(end), durable: Lsn(end), applied: Lsn(0) }
}

/// A leader of three in epoch 2, behind a log of two frames of epoch 1 that the others have as well. Its `EpochStart` ends at 120.
fn leader(durability: Durability) -> (Chain, Leader) {
    let mut log = Chain::default();
    log.append(Epoch(1), 40, 0);
    log.append(Epoch(1), 40, 1);
    let config = Config::new(1, [0, 1, 2].map(member)).expect("three members");
    let grant = Grant { epoch: Epoch(2), leader: member(0), incarnation: Incarnation(1), log: log.tail().position(), config, unclean: false };
    let before = log.tail().position();
    let start = log.append(Epoch(2), 40, 2);
    let mut leader = Leader::begin(grant, &start, durability, Lsn(0));
    for node in [1, 2] {
        let welcome = Welcome { epoch: Epoch(2), session: session(1, 1), target: Lsn(120) };
        assert_eq!(leader.hello(&log, &hello(node, before), NOW), Greeting::Welcome(welcome));
    }
    (log, leader)
}

#[test]
fn committed_is_what_w_members_have_in_the_own_epoch() {
    let check = |n: u64, has: &[u64], expected: Option<u64>| {
        let config = Config::new(1, (0..n).map(member)).expect("a legal size");
        let found = committed(&config, Lsn(80), |member| Lsn(has[member.node.0 as usize]));
        assert_eq!(found, expected.map(Lsn), "{has:?} of {n}");
    };
    check(1, &[120], Some(120));
    check(2, &[160, 120], Some(120));
    check(3, &[160, 120, 0], Some(120));
    check(3, &[160, 160, 120], Some(160));
    check(3, &[160, 80, 80], None);
    check(5, &[200, 160, 120, 0, 0], Some(120));
    check(5, &[200, 200, 80, 80, 80], None);
}

#[test]
fn nothing_is_committed_before_the_epoch_start() {
    let (log, mut leader) = leader(Durability::Disk);
    assert!(!leader.acked(&ack(1, 80), NOW) && !leader.acked(&ack(2, 80), NOW) && !leader.synced(Lsn(80)));
    assert_eq!((leader.hw(), leader.started()), (Lsn(0), false), "all three have the frames of epoch 1");
    assert!(!leader.synced(log.tail().end));
    assert!(leader.acked(&ack(2, 120), NOW));
    assert_eq!((leader.hw(), leader.started()), (Lsn(120), true));
}

#[test]
fn what_counts_depends_on_the_durability() {
    let written = Ack { durable: Lsn(0), ..ack(1, 120) };
    let (_, mut disk) = leader(Durability::Disk);
    disk.synced(Lsn(120));
    assert!(!disk.acked(&written, NOW));
    let (_, mut memory) = leader(Durability::Memory);
    assert!(memory.acked(&written, NOW));
}

#[test]
fn acknowledgements_that_prove_nothing_do_not_count() {
    let (_, mut leader) = leader(Durability::Disk);
    leader.synced(Lsn(120));
    for void in [
        Ack { epoch: Epoch(1), ..ack(1, 120) },
        Ack { session: session(2, 1), ..ack(1, 120) },
        Ack { session: session(1, 0), ..ack(1, 120) },
        Ack { member: member(7), ..ack(1, 120) },
        Ack { member: Member { store: StoreId([9; 16]), ..member(1) }, ..ack(1, 120) },
        ack(1, 160),
    ] {
        assert!(!leader.acked(&void, NOW), "{void:?}");
    }
    assert!(leader.acked(&ack(1, 120), NOW));
}

#[test]
fn a_new_process_has_acknowledged_nothing() {
    let (log, mut leader) = leader(Durability::Disk);
    leader.acked(&ack(1, 120), NOW);
    let restarted = Hello { session: session(2, 1), ..hello(1, log.tail().position()) };
    assert!(matches!(leader.hello(&log, &restarted, NOW), Greeting::Welcome(_)));
    assert_eq!(leader.reached(member(1)), Some(Reached::default()));
    assert_eq!(leader.hello(&log, &hello(1, log.tail().position()), NOW), Greeting::Superseded, "the older process");
    leader.synced(Lsn(120));
    assert!(!leader.acked(&ack(1, 120), NOW), "an acknowledgement of the older process");
}

#[test]
fn strangers_and_a_later_epoch() {
    let (log, mut leader) = leader(Durability::Disk);
    let stranger = Hello { member: Member { store: StoreId([9; 16]), ..member(1) }, ..hello(1, log.tail().position()) };
    assert_eq!(leader.hello(&log, &stranger, NOW), Greeting::Stranger, "the same node with another folder");
    let later = Hello { promised: Epoch(3), session: session(1, 2), ..hello(1, log.tail().position()) };
    assert_eq!(leader.hello(&log, &later, NOW), Greeting::Deposed(Epoch(3)));
}

#[test]
fn frames_follow_when_it_is_known_where_logs_agree() {
    let (mut log, mut leader) = leader(Durability::Disk);
    let prev = log.tail_at(Lsn(80)).expect("a frame ends there");
    assert_eq!(leader.next(&log, member(1), NOW), Next::Heartbeat { prev });
    leader.append(member(1), prev, Vec::new(), 0, NOW);
    assert_eq!(leader.next(&log, member(1), NOW), Next::Wait, "one question at a time");
    assert_eq!(leader.next(&log, member(1), NOW + HEARTBEAT), Next::Heartbeat { prev }, "it may have been lost");
    leader.acked(&ack(1, 80), NOW);
    assert_eq!(leader.next(&log, member(1), NOW), Next::Frames { prev, bytes: WINDOW, pace: Pace::Live });
    leader.append(member(1), prev, log.links_from(Lsn(80), 40), 0, NOW);
    assert_eq!(leader.next(&log, member(1), NOW), Next::Wait);
    log.append(Epoch(2), WINDOW - 40, 3);
    leader.written(log.tail().end);
    let prev = log.tail_at(Lsn(120)).expect("a frame ends there");
    assert_eq!(leader.next(&log, member(1), NOW), Next::Frames { prev, bytes: WINDOW - 40, pace: Pace::CatchUp });
    leader.append(member(1), prev, log.links_from(Lsn(120), WINDOW), 0, NOW);
    log.append(Epoch(2), 40, 4);
    assert_eq!(leader.next(&log, member(1), NOW), Next::Wait, "16 MiB are on their way");
}

#[test]
fn a_mismatch_goes_back_to_where_the_epochs_agree() {
    let (log, mut leader) = leader(Durability::Disk);
    let mut other = Chain::default();
    other.append(Epoch(1), 40, 0);
    let mismatch = |end: Lsn, log: &Chain| Mismatch { member: member(1), session: session(1, 1), epoch: Epoch(2), epochs: log.epochs(), end };
    leader.mismatch(&log, &mismatch(Lsn(40), &other), NOW);
    let prev = log.tail_at(Lsn(40)).expect("a frame ends there");
    assert_eq!(leader.next(&log, member(1), NOW), Next::Heartbeat { prev });
    leader.acked(&ack(1, 80), NOW);
    leader.mismatch(&log, &mismatch(Lsn(40), &other), NOW);
    let prev = log.tail_at(Lsn(80)).expect("a frame ends there");
    assert_eq!(leader.next(&log, member(1), NOW), Next::Heartbeat { prev }, "more was acknowledged since");
}

#[test]
fn who_lacks_what_the_log_lacks_needs_an_install() {
    let (mut log, mut leader) = leader(Durability::Disk);
    leader.synced(Lsn(120));
    leader.acked(&ack(1, 120), NOW);
    log.trim(Lsn(120));
    let empty = Hello { session: session(1, 2), ..hello(2, Position::default()) };
    leader.hello(&log, &empty, NOW);
    assert_eq!(leader.next(&log, member(2), NOW), Next::Install);
    let installed = Hello { session: session(1, 3), suspect: true, ..hello(2, log.tail().position()) };
    leader.hello(&log, &installed, NOW);
    assert_eq!(leader.next(&log, member(2), NOW), Next::Heartbeat { prev: log.tail() });
}

#[test]
fn a_leader_that_hears_too_few_stops_serving() {
    let (_, mut leader) = leader(Durability::Disk);
    leader.synced(Lsn(120));
    assert!(!leader.serving(NOW), "nothing is committed");
    leader.acked(&ack(1, 120), NOW);
    assert!(leader.serving(NOW) && !leader.serving(NOW + SILENCE));
    leader.acked(&ack(2, 0), NOW + SILENCE);
    assert!(leader.serving(NOW + SILENCE), "one other is enough");
}

#[test]
fn the_lead_is_handed_to_who_has_everything() {
    let (_, mut leader) = leader(Durability::Disk);
    leader.synced(Lsn(120));
    leader.acked(&ack(1, 120), NOW);
    leader.acked(&ack(2, 80), NOW);
    assert_eq!(leader.successor(NOW, |_| false), Some(member(1)));
    assert_eq!(leader.successor(NOW, |other| other == member(2)), Some(member(2)), "in another zone");
    assert_eq!(leader.successor(NOW + SILENCE, |_| false), None);
    assert!(leader.may_hand_over(member(1)) && !leader.may_hand_over(member(2)));
    leader.written(Lsn(160));
    assert!(!leader.may_hand_over(member(1)), "a frame is not committed");
}

#[test]
fn a_learner_does_not_count_and_is_ready_when_it_has_been_live_for_a_while() {
    let (log, mut leader) = leader(Durability::Disk);
    leader.synced(Lsn(120));
    let learner = member(7);
    assert_eq!(leader.hello(&log, &hello(7, Position::default()), NOW), Greeting::Stranger);
    leader.teach(learner);
    let suspect = Hello { suspect: true, ..hello(7, Position::default()) };
    assert!(matches!(leader.hello(&log, &suspect, NOW), Greeting::Welcome(_)));
    assert!(!leader.acked(&ack(7, 80), NOW));
    let later = NOW + SETTLED;
    leader.acked(&ack(7, 80), later);
    assert!(!leader.learnt(learner, later), "its word does not count yet");
    assert!(!leader.acked(&ack(7, 120), later));
    assert!(leader.learnt(learner, later) && !leader.learnt(learner, later + SILENCE));
    assert_eq!(leader.hw(), Lsn(0));
    leader.written(Lsn(120 + 2 * LIVE));
    leader.acked(&ack(7, 120), later);
    assert!(!leader.learnt(learner, later), "it fell behind");
    leader.dismiss(learner);
    assert_eq!(leader.reached(learner), None);
}
