//! What a run has seen: a simulation in which nothing goes wrong proves nothing.

use std::collections::BTreeMap;
use std::fmt;

/// Something rare that runs must come across.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    Elections,
    Kills,
    PowerLosses,
    TornTails,
    Cuts,
    CutsOfWholeSegments,
    Suspects,
    Trims,
    Transfers,
    Reconfigurations,
    Replacements,
    FailedSyncs,
    FullDisks,
    Rot,
    DamageRefused,
    Partitions,
    Resets,
    Pauses,
    ClockJumps,
    ControllerForgot,
    CatchUps,
    StepDowns,
    Acknowledged,
    Unknown,
    Repeated,
    Deliveries,
    Redeliveries,
    Acks,
    DeadLetters,
    Delayed,
    Committed,
    RolledBack,
    Questions,
    SlowDisks,
}

/// How often what was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<Mark, u64>);

impl Marks {
    pub fn add(&mut self, mark: Mark) {
        *self.0.entry(mark).or_default() += 1;
    }

    pub fn count(&self, mark: Mark) -> u64 {
        self.0.get(&mark).copied().unwrap_or(0)
    }

    pub fn extend(&mut self, other: &Marks) {
        other.0.iter().for_each(|(mark, count)| *self.0.entry(*mark).or_default() += count);
    }
}

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.0.iter().map(|(mark, count)| format!("{mark:?} {count}"));
        let first = parts.next().unwrap_or_else(|| "nothing".into());
        f.write_str(&parts.fold(first, |text, part| text + ", " + &part))
    }
}
