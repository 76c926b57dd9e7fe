//! The cores of replication, driven by random schedules: leader, followers and elector over a network that loses, repeats and reorders, on disks that forget
//! what was not synced. What must hold (P1 to P9) is looked at after each step; when the faults end, the shard is whole again (L1).

mod broker;
mod chain;
mod cluster;
mod elector_rules;
mod follower_rules;
mod leader_rules;
mod truth;
mod unclean_rules;
mod wire;

use cluster::{Cluster, Faults};
use gantry_platform::chance::{Chance, SeededChance};
use gantry_store::replica::leader::Durability;
use proptest::prelude::*;
use std::collections::BTreeSet;

const DISK: Faults = Faults { durability: Durability::Disk, damage: false };
const MEMORY: Faults = Faults { durability: Durability::Memory, damage: false };
const DAMAGE: Faults = Faults { durability: Durability::Disk, damage: true };

/// 32 schedules a test, or as many as `PROPTEST_CASES` says.
fn configuration() -> ProptestConfig {
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let cases = if default.cases == 256 { 32 } else { default.cases };
    ProptestConfig { cases, ..default }
}

/// A seed, and how many of its choices are made.
fn schedules() -> impl Strategy<Value = (u64, usize)> {
    (any::<u64>(), 0usize..1500)
}

fn run(n: u64, faults: Faults, (seed, steps): (u64, usize)) -> Cluster {
    let mut cluster = Cluster::new(n, faults);
    let mut chance = SeededChance::new(seed);
    for _ in 0..steps {
        let [what, which, how, ..] = chance.next_u64().to_le_bytes();
        cluster.step((what, which, how));
    }
    cluster.heal();
    if cluster.can_elect() {
        cluster.is_whole();
    }
    cluster
}

/// Schedules in which nothing happens prove nothing.
#[test]
fn schedules_see_everything() {
    let mut seen = BTreeSet::new();
    for seed in 0..12 {
        seen.extend(run(3, DISK, (seed, 1500)).marks());
        seen.extend(run(3, DAMAGE, (seed, 1500)).marks());
    }
    let marks = [
        "a change is taken back",
        "a grant is void",
        "a leader is refused",
        "a leader is sealed",
        "a log is cut",
        "a log is installed",
        "a suspect is believed again",
        "logs differ",
        "members changed",
    ];
    assert_eq!(seen, BTreeSet::from(marks));
}

/// A shard of three of which two are lost for ever, at whatever moment: nobody leads, until an operator gives up what the third lacks. Then it
/// serves, and gets two copies more.
fn lose_two_of_three(faults: Faults, (seed, steps): (u64, usize)) {
    let mut cluster = Cluster::new(3, faults);
    let mut chance = SeededChance::new(seed);
    for _ in 0..steps {
        let [what, which, how, ..] = chance.next_u64().to_le_bytes();
        cluster.step((what, which, how));
    }
    let Some(kept) = cluster.lose_all_but_one() else { return };
    cluster.heal();
    assert!(!cluster.is_served(), "without an order nobody leads what may lack something");
    cluster.recover(kept);
    cluster.heal();
    cluster.is_whole();
    for node in [7, 8] {
        cluster.join(node);
        cluster.heal();
        cluster.is_whole();
    }
}

proptest! {
    #![proptest_config(configuration())]

    #[test]
    fn one_of_three_is_left(schedule in schedules()) {
        lose_two_of_three(DISK, schedule);
    }

    #[test]
    fn one_of_three_is_left_and_may_be_a_suspect(schedule in schedules()) {
        lose_two_of_three(MEMORY, schedule);
    }

    #[test]
    fn one_member(schedule in schedules()) {
        run(1, DISK, schedule);
    }

    #[test]
    fn two_members(schedule in schedules()) {
        run(2, DISK, schedule);
    }

    #[test]
    fn three_members(schedule in schedules()) {
        run(3, DISK, schedule);
    }

    #[test]
    fn five_members(schedule in schedules()) {
        run(5, DISK, schedule);
    }

    #[test]
    fn acknowledged_from_memory(schedule in schedules()) {
        run(3, MEMORY, schedule);
    }

    #[test]
    fn damaged_logs(schedule in schedules()) {
        run(3, DAMAGE, schedule);
    }
}
