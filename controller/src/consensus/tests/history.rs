//! Random histories: whatever is cut, lost, crashed and handed over, what was acknowledged stays, and all nodes have the same state.

use super::world::{World, address, name, topic};
use crate::consensus::{Applied, ProposeError, RequestId};
use crate::state::event::Event;
use gantry_platform::Chance;
use gantry_platform::clock::{sleep, timeout};
use gantry_platform::tasks::{Task, spawn};
use std::collections::BTreeMap;
use std::time::Duration;

type Asked = BTreeMap<String, Task<Result<Applied, ProposeError>>>;

/// One change of the world.
async fn disturb(world: &mut World, machines: u64) {
    let machine = 1 + world.chance.below(machines);
    match world.chance.below(8) {
        0 => world.net.isolate(&address(machine)),
        1 => world.net.cut(&address(machine), &address(1 + world.chance.below(machines))),
        2 | 3 => world.net.heal(),
        4 => world.net.lose(world.chance.below(200)),
        5 if world.running.contains_key(&machine) => world.crash(machine).await,
        6 if world.running.contains_key(&machine) => {
            // It may well not lead.
            _ = timeout(Duration::from_secs(3), world.at(machine).hand_over(None)).await;
        }
        _ if !world.running.contains_key(&machine) => world.start(machine).await.unwrap(),
        _ => {}
    }
}

fn ask(world: &mut World, asked: &mut Asked, number: usize) {
    let machines: Vec<u64> = world.running.keys().copied().collect();
    if machines.is_empty() {
        return;
    }
    let machine = machines[world.chance.below(machines.len() as u64) as usize];
    let consensus = world.at(machine);
    let (text, request) = (format!("t{number}"), RequestId(number as u128));
    let event = topic(&text);
    asked.insert(text, spawn("proposer", async move { consensus.propose_as(request, event).await }));
}

async fn run(seed: u64, machines: u64) -> usize {
    let mut world = World::of(seed, machines).await;
    let mut asked = Asked::new();
    for number in 0..60 {
        ask(&mut world, &mut asked, number);
        if world.chance.ratio(1, 3) {
            disturb(&mut world, machines).await;
        }
        let pause = Duration::from_millis(world.chance.below(700));
        sleep(pause).await;
    }
    world.net.heal();
    world.net.lose(0);
    for machine in 1..=machines {
        if !world.running.contains_key(&machine) {
            world.start(machine).await.unwrap();
        }
    }
    let mut acknowledged = Vec::new();
    for (text, proposal) in asked {
        if let Ok(Ok(applied)) = proposal.join().await {
            acknowledged.push((text, applied.version));
        }
    }
    world.led().await;
    // Whoever repeats a request is told the first outcome.
    for (text, version) in &acknowledged {
        let request = RequestId(text[1..].parse().unwrap());
        assert_eq!(world.at(1).propose_as(request, topic(text)).await.unwrap().version, *version, "seed {seed}: `{text}`");
    }
    world.at(1).propose(Event::ClusterRenamed { name: "end".into() }).await.unwrap();
    world.agree().await;
    for (text, _) in &acknowledged {
        assert!(world.at(1).read(|state| state.topic(&name(text)).is_some()), "seed {seed}: `{text}` was acknowledged and is lost");
    }
    acknowledged.len()
}

#[tokio::test(start_paused = true)]
async fn three_controllers_lose_nothing_and_agree() {
    let mut acknowledged = 0;
    for seed in 0..6 {
        acknowledged += run(100 + seed, 3).await;
    }
    assert!(acknowledged > 6 * 20, "{acknowledged} changes were acknowledged");
}

#[tokio::test(start_paused = true)]
async fn five_controllers_lose_nothing_and_agree() {
    let mut acknowledged = 0;
    for seed in 0..3 {
        acknowledged += run(200 + seed, 5).await;
    }
    assert!(acknowledged > 3 * 20, "{acknowledged} changes were acknowledged");
}
