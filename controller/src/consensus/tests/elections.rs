//! Leaders come and go: elections, partitions, a flapping node, and the lead that is handed over.
//!
//! The first two tests of handing over and of flapping decided for openraft's stable line.

use super::world::{World, address, name, topic};
use crate::consensus::ProposeError;
use gantry_platform::clock::{Clock, RuntimeClock, sleep, timeout};
use std::time::Duration;

fn others(machines: u64, but: u64) -> Vec<u64> {
    (1..=machines).filter(|machine| *machine != but).collect()
}

#[tokio::test(start_paused = true)]
async fn the_lead_is_handed_over_in_half_a_second_and_in_one_term() {
    for machines in [3, 5] {
        let world = World::of(1, machines).await;
        let old = world.led().await;
        world.at(old).propose(topic("before")).await.unwrap();
        let term = world.status(old).term;
        let clock = RuntimeClock::new(0);
        let heir = world.at(old).hand_over(None).await.unwrap();
        let took = clock.mono();
        let new = world.led().await;
        assert_ne!(new, old);
        assert_eq!((world.status(new).node, world.status(new).term), (heir.id, term + 1));
        assert!(took < Duration::from_millis(700), "{machines} controllers: {took:?}");
        // The one who left follows, and proposals through it arrive.
        world.at(old).propose(topic("after")).await.unwrap();
        world.agree().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_named_voter_takes_the_lead_and_an_unreachable_one_does_not() {
    let world = World::of(2, 3).await;
    let old = world.led().await;
    let [one, other] = others(3, old).try_into().unwrap();
    let wanted = world.status(other).node;
    assert_eq!(world.at(old).hand_over(Some(wanted)).await.unwrap().id, wanted);
    assert_eq!(world.led().await, other);
    world.net.isolate(&address(one));
    world.at(other).propose(topic("more")).await.unwrap();
    let gone = world.status(one).node;
    assert!(matches!(world.at(other).hand_over(Some(gone)).await, Err(ProposeError::NoLeader { .. })));
    world.at(other).propose(topic("still")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leader_goes_on_when_nobody_waits_for_the_hand_over_any_more() {
    let world = World::of(21, 3).await;
    let leader = world.led().await;
    for machine in others(3, leader) {
        world.net.cut(&address(machine), &address(leader));
    }
    // Nobody takes over, because nobody has the whole log as far as the leader hears.
    let proposed = {
        let consensus = world.at(leader);
        gantry_platform::tasks::spawn("proposer", async move { consensus.propose(topic("a")).await })
    };
    assert!(timeout(Duration::from_millis(300), world.at(leader).hand_over(None)).await.is_err());
    world.net.heal();
    proposed.join().await.unwrap().unwrap();
    world.led().await;
    world.at(leader).propose(topic("b")).await.unwrap();
    world.agree().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_proposed_while_the_lead_moves_is_done_once() {
    let world = World::of(3, 3).await;
    let old = world.led().await;
    let proposals: Vec<_> = (0..30)
        .map(|number| {
            let consensus = world.at(1 + number % 3);
            gantry_platform::tasks::spawn("proposer", async move {
                sleep(Duration::from_millis(number * 30)).await;
                consensus.propose(topic(&format!("t{number}"))).await.unwrap().version
            })
        })
        .collect();
    world.at(old).hand_over(None).await.unwrap();
    for proposal in proposals {
        proposal.join().await.unwrap();
    }
    world.agree().await;
    assert_eq!(world.at(1).read(|state| (state.topics_after(None).count(), state.version().0)), (30, 31 + 2), "two nodes joined");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_flaps_deposes_nobody() {
    let world = World::of(4, 3).await;
    let leader = world.led().await;
    let flapping = others(3, leader)[0];
    let term = world.status(leader).term;
    for round in 0..20 {
        world.net.isolate(&address(flapping));
        sleep(Duration::from_millis(500 + 400 * (round % 7))).await;
        world.at(leader).propose(topic(&format!("t{round}"))).await.unwrap();
        world.net.heal();
        sleep(Duration::from_millis(100 + 300 * (round % 5))).await;
    }
    assert_eq!(world.led().await, leader);
    assert_eq!(world.status(leader).term, term, "nobody raised the term");
    world.agree().await;
}

/// It hears nobody, but everybody hears it: the worst kind of candidate.
#[tokio::test(start_paused = true)]
async fn a_deaf_node_deposes_nobody() {
    let world = World::of(5, 5).await;
    let leader = world.led().await;
    let deaf = others(5, leader)[0];
    let term = world.status(leader).term;
    world.net.cut(&address(leader), &address(deaf));
    sleep(Duration::from_secs(20)).await;
    world.at(leader).propose(topic("a")).await.unwrap();
    assert_eq!((world.leader_of(&others(5, deaf)), world.status(leader).term), (Some(leader), term));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_is_followed_within_two_seconds() {
    for seed in 10..20 {
        let mut world = World::of(seed, 3).await;
        let old = world.led().await;
        world.at(old).propose(topic("a")).await.unwrap();
        world.crash(old).await;
        let clock = RuntimeClock::new(0);
        let left = others(3, old);
        world.until("another leads", |world| world.leader_of(&left).is_some()).await;
        let took = clock.mono();
        assert!(took < Duration::from_millis(2_500), "seed {seed}: {took:?}");
        world.at(left[0]).propose(topic("b")).await.unwrap();
        world.start(old).await.unwrap();
        world.led().await;
        world.agree().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_others_decides_nothing_and_follows_when_it_is_back() {
    let world = World::of(6, 5).await;
    let old = world.led().await;
    world.net.isolate(&address(old));
    let lost = world.at(old).propose(topic("lost")).await;
    assert!(matches!(lost, Err(ProposeError::Unknown { .. } | ProposeError::NoLeader { .. })), "{lost:?}");
    assert!(world.at(old).barrier().await.is_err(), "it can't say what is newest");
    let rest = others(5, old);
    world.until("the rest has a leader", |world| world.leader_of(&rest).is_some()).await;
    world.at(rest[0]).propose(topic("kept")).await.unwrap();
    world.net.heal();
    world.led().await;
    world.at(old).barrier().await.unwrap();
    assert!(world.at(old).read(|state| state.topic(&name("kept")).is_some()));
    world.agree().await;
}

#[tokio::test(start_paused = true)]
async fn a_minority_decides_nothing() {
    let world = World::of(7, 5).await;
    let leader = world.led().await;
    let minority = others(5, leader)[..2].to_vec();
    for small in &minority {
        for large in (1..=5).filter(|machine| !minority.contains(machine)) {
            world.net.cut(&address(*small), &address(large));
            world.net.cut(&address(large), &address(*small));
        }
    }
    let term = world.status(leader).term;
    assert!(world.at(minority[0]).propose(topic("small")).await.is_err());
    world.at(leader).propose(topic("large")).await.unwrap();
    world.net.heal();
    world.led().await;
    assert_eq!(world.status(leader).term, term);
    world.agree().await;
}

#[tokio::test(start_paused = true)]
async fn a_read_after_a_barrier_sees_what_was_acknowledged_elsewhere() {
    let world = World::of(8, 3).await;
    let leader = world.led().await;
    let follower = others(3, leader)[0];
    for number in 0..20 {
        let topic_name = format!("t{number}");
        world.at(leader).propose(topic(&topic_name)).await.unwrap();
        world.at(follower).barrier().await.unwrap();
        assert!(world.at(follower).read(|state| state.topic(&name(&topic_name)).is_some()));
        // And what was proposed through the follower is seen there without any.
        let topic_name = format!("f{number}");
        world.at(follower).propose(topic(&topic_name)).await.unwrap();
        assert!(world.at(follower).read(|state| state.topic(&name(&topic_name)).is_some()));
    }
}

/// openraft by itself would lead on after such a start, with an old idea of what is committed; see also `a_start_reads_nothing_old`.
#[tokio::test(start_paused = true)]
async fn a_leader_that_starts_again_at_once_reads_nothing_old() {
    for seed in 30..40 {
        let mut world = World::of(seed, 3).await;
        for round in 0..3 {
            let leader = world.led().await;
            let text = format!("t{round}");
            world.at(leader).propose(topic(&text)).await.unwrap();
            world.crash(leader).await;
            world.start(leader).await.unwrap();
            world.at(leader).barrier().await.unwrap();
            assert!(world.at(leader).read(|state| state.topic(&name(&text)).is_some()), "seed {seed}, round {round}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn little_is_said_when_nothing_happens() {
    let world = World::of(9, 3).await;
    world.led().await;
    sleep(Duration::from_secs(5)).await;
    let before = world.net.calls();
    sleep(Duration::from_secs(60)).await;
    let per_second = (world.net.calls() - before) / 60;
    assert!((6..=20).contains(&per_second), "{per_second} calls a second");
}
