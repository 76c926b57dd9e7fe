//! The cores of replication, driven by random schedules: leader, followers and elector over a network that loses, repeats and reorders, on disks that forget
//! what was not synced. What must hold (P1 to P9) is looked at after each step; when the faults end, the shard is whole again (L1).

mod broker;
mod chain;
mod cluster;
mod truth;
mod wire;

use cluster::{Choice, Cluster, Faults};
use gantry_store::replica::leader::Durability;
use proptest::prelude::*;

const DISK: Faults = Faults { durability: Durability::Disk, damage: false };
const MEMORY: Faults = Faults { durability: Durability::Memory, damage: false };
const DAMAGE: Faults = Faults { durability: Durability::Disk, damage: true };

fn schedules() -> impl Strategy<Value = Vec<Choice>> {
    prop::collection::vec(any::<Choice>(), 200..1500)
}

fn run(n: u64, faults: Faults, schedule: &[Choice]) {
    let mut cluster = Cluster::new(n, faults);
    schedule.iter().for_each(|choice| cluster.step(*choice));
    cluster.heal();
    if cluster.can_elect() {
        cluster.is_whole();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_member(schedule in schedules()) {
        run(1, DISK, &schedule);
    }

    #[test]
    fn two_members(schedule in schedules()) {
        run(2, DISK, &schedule);
    }

    #[test]
    fn three_members(schedule in schedules()) {
        run(3, DISK, &schedule);
    }

    #[test]
    fn five_members(schedule in schedules()) {
        run(5, DISK, &schedule);
    }

    #[test]
    fn acknowledged_from_memory(schedule in schedules()) {
        run(3, MEMORY, &schedule);
    }

    #[test]
    fn damaged_logs(schedule in schedules()) {
        run(3, DAMAGE, &schedule);
    }
}
