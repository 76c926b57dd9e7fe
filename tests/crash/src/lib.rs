//! Every state in which a power loss can leave a shard must contain all that was acknowledged.
//!
//! A real shard works on a disk that records each write and sync. Each time a client gets an answer, the recording notes what it was told. Then
//! every prefix of the recording, with random subsets of the sectors that were not synced at that moment, becomes a disk; the shard is recovered
//! from it, and must know everything that had been noted before.

pub mod catalogue;
pub mod workload;
pub mod check;

use gantry_platform::chance::{Chance, SeededChance};
use gantry_platform::disk::crash::CrashStates;

/// What a run saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub operations: usize,
    pub states: u64,
    /// States in which a tail had to be cut off.
    pub torn: u64,
    pub facts: usize,
}

/// Records one workload and checks about `states` crash states of it.
pub fn run(seed: u64, states: u64) -> Report {
    let recorded = workload::record(seed);
    let mut chance = SeededChance::new(seed ^ 0x5eed);
    let mut walk = CrashStates::new(&recorded.operations);
    let per_prefix = states.div_ceil(recorded.operations.len() as u64 + 1).max(1);
    let mut report = Report { operations: recorded.operations.len(), facts: recorded.facts.len(), ..Report::default() };
    for prefix in 0..=recorded.operations.len() {
        let point = walk.at(prefix);
        let told: Vec<u64> = walk.notes(prefix).collect();
        let unsynced = point.unsynced_len();
        // With nothing unsynced there is one state only.
        let rounds = if unsynced == 0 { 1 } else { per_prefix.min(1 << unsynced.min(30)) };
        for round in 0..rounds {
            let disk = match round {
                0 => point.materialize(|_| false),
                1 => point.materialize(|_| true),
                _ => {
                    let odds = 1 + chance.next_u64() % 8;
                    point.materialize(|_| chance.next_u64() % 9 < odds)
                }
            };
            let told = told.iter().map(|&note| &recorded.facts[note as usize]);
            let torn = check::recovered(disk, told).unwrap_or_else(|why| panic!("seed {seed}, prefix {prefix}, round {round}: {why}"));
            report.states += 1;
            report.torn += u64::from(torn);
        }
    }
    report
}
