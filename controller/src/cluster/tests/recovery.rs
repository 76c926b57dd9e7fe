//! Copies that are lost for ever, and what an operator may order then.

use super::*;
use crate::state::shards::Shard;
use std::sync::Arc;

fn shard(all: &Box) -> Arc<Shard> {
    all.state.shards_placed().get(ShardId(0)).unwrap().clone()
}

/// Which copy is left of three.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Leader,
    Follower,
}

/// Nodes that were lost, with what they had.
type Lost = Vec<(u64, BTreeMap<u32, Held>)>;

/// A shard of which only the copy of the node that is answered is left.
fn with_one_left(which: Left) -> (Box, u64, Lost) {
    let mut all = Box::of_three(1);
    let leader = all.leaders()[0].unwrap();
    let left = *all.brokers.keys().find(|node| (**node == leader) == (which == Left::Leader)).unwrap();
    let lost: Vec<u64> = all.brokers.keys().copied().filter(|node| *node != left).collect();
    let lost = lost.into_iter().map(|node| (node, all.kill(node))).collect();
    (all, left, lost)
}

fn order(all: &Box, node: u64) -> Recover {
    let (shard, epoch) = (ShardId(0), shard(all).epoch);
    Recover { shard, epoch, node: NodeId(node), phrase: loss_phrase(shard), by: "eve\u{7}".into() }
}

#[track_caller]
fn check_refused(all: &mut Box, order: &Recover, expected: &str) {
    let before = shard(all);
    let why = all.recover(order).unwrap_err();
    assert!(why.contains(expected), "{why}");
    assert_eq!(shard(all), before);
}

#[test]
fn nothing_is_given_up_while_something_better_can_be_had() {
    let mut all = Box::of_three(1);
    let leader = all.leaders()[0].unwrap();
    let others: Vec<u64> = all.brokers.keys().copied().filter(|node| *node != leader).collect();
    let left = order(&all, others[0]);
    check_refused(&mut all, &left, "leads shard 0; nothing is to be recovered");
    all.kill(leader);
    all.pass(8_000);
    let now = order(&all, others[0]);
    check_refused(&mut all, &now, "nothing is to be recovered");
    all.kill(others[1]);
    all.pass(3_000);
    let now = order(&all, others[0]);
    check_refused(&mut all, &now, "its broker was heard of a moment ago; wait, and look again");
    all.pass(4_000);
    assert_eq!(all.survey().best, Ok(NodeId(others[0])));
    all.kill(others[0]);
    all.pass(8_000);
    check_refused(&mut all, &now, "no copy of shard 0 answers");
}

#[test]
fn a_controller_that_has_just_begun_does_not_know_who_is_lost() {
    let (mut all, left, _) = with_one_left(Left::Leader);
    all.pass(2_000);
    let now = order(&all, left);
    check_refused(&mut all, &now, "leads since a moment ago");
}

#[test]
fn enough_copies_that_are_no_suspects_are_an_election_and_suspects_are_none() {
    let mut all = Box::of_three(1);
    let leader = all.leaders()[0].unwrap();
    all.brokers.values_mut().for_each(|broker| broker.suspect = true);
    all.kill(leader);
    all.pass(10_000);
    assert_eq!(shard(&all).leader(), None, "suspects choose nobody");
    let best = all.survey().best.unwrap().0;
    let other = *all.brokers.keys().find(|node| **node != best).unwrap();
    let wrong = order(&all, other);
    check_refused(&mut all, &wrong, &format!("the best copy of shard 0 is on node {best} now, not on node {other}"));
    all.brokers.values_mut().for_each(|broker| broker.suspect = false);
    // A report comes before anybody was chosen.
    all.brokers.keys().copied().collect::<Vec<_>>().into_iter().for_each(|node| all.work(node));
    let now = order(&all, best);
    check_refused(&mut all, &now, "2 of the 3 copies of shard 0 answer");
    all.brokers.values_mut().for_each(|broker| broker.suspect = true);
    all.brokers.keys().copied().collect::<Vec<_>>().into_iter().for_each(|node| all.work(node));
    all.recover(&now).unwrap();
    all.pass(1_000);
    assert_eq!((all.leaders(), shard(&all).unclean), (vec![Some(best)], false), "the suspect leads");
}

#[test]
fn an_order_says_what_the_operator_saw_and_means() {
    let (mut all, left, _) = with_one_left(Left::Follower);
    all.pass(8_000);
    let good = order(&all, left);
    let check = |all: &mut Box, change: fn(&mut Recover), expected| {
        let mut wrong = good.clone();
        change(&mut wrong);
        check_refused(all, &wrong, expected);
    };
    check(&mut all, |order| order.phrase = "yes".into(), "who means it says `lose data of shard 0`");
    check(&mut all, |order| order.phrase = "lose data of shard 1".into(), "nothing was changed");
    check(&mut all, |order| order.epoch.0 -= 1, "now, not in");
    check(&mut all, |order| order.node.0 += 100, "the best copy of shard 0 is on node");
    all.recover(&good).unwrap();
    check(&mut all, |_| {}, "now, not in");
}

#[test]
fn one_copy_goes_on_alone_and_gets_others_again() {
    for which in [Left::Follower, Left::Leader] {
        let (mut all, left, lost) = with_one_left(which);
        all.pass(8_000);
        let before = shard(&all);
        assert!(all.survey().copies.iter().filter(|surveyed| surveyed.log.is_err()).count() == 2);
        all.pass(60_000);
        assert_eq!(shard(&all).epoch, before.epoch, "nobody gives anything up unasked");
        let now = order(&all, left);
        all.recover(&now).unwrap();
        assert!(shard(&all).unclean);
        all.pass(1_000);
        let after = shard(&all);
        assert_eq!((after.leader().map(|leader| leader.node.0), after.unclean, after.unclean_recoveries), (Some(left), false, 1));
        assert_eq!((after.stable.members.len(), after.stable.w), (1, 1));
        let told = &after.recoveries[0];
        assert_eq!((told.given_up.len(), told.by.as_str(), told.time_ms, told.epoch), (2, "eve", 77, Epoch(before.epoch.0 + 1)));
        // Those that were given up come back with what they had: they are nobody, and are made anew.
        for (node, mut copies) in lost {
            copies.values_mut().for_each(|copy| copy.leads = 0);
            all.open(node, 2, copies);
        }
        all.brokers.values_mut().for_each(|broker| broker.teaches = true);
        all.pass(10_000);
        let whole = shard(&all);
        assert_eq!((whole.stable.members.len(), whole.leader().map(|leader| leader.node.0)), (3, Some(left)));
        assert!(whole.stable.members.iter().all(|member| !told.given_up.contains(member)), "none under its old name");
    }
}
