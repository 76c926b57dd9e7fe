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
    Committed,
    RolledBack,
    Questions,
    SlowDisks,
    Installs,
    InstallsEnded,
    Mended,
    MadeAnew,
}

/// What the runs of every build must have seen.
pub const EXPECTED: [Mark; 33] = [
    Mark::Elections,
    Mark::Kills,
    Mark::PowerLosses,
    Mark::Cuts,
    Mark::Trims,
    Mark::Transfers,
    Mark::Reconfigurations,
    Mark::Replacements,
    Mark::FailedSyncs,
    Mark::FullDisks,
    Mark::SlowDisks,
    Mark::Rot,
    Mark::DamageRefused,
    Mark::TornTails,
    Mark::Partitions,
    Mark::Resets,
    Mark::Pauses,
    Mark::ClockJumps,
    Mark::ControllerForgot,
    Mark::CatchUps,
    Mark::StepDowns,
    Mark::Unknown,
    Mark::Repeated,
    Mark::Redeliveries,
    Mark::Acks,
    Mark::DeadLetters,
    Mark::Committed,
    Mark::RolledBack,
    Mark::Questions,
    Mark::Installs,
    Mark::InstallsEnded,
    Mark::Mended,
    Mark::MadeAnew,
];

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

    /// What was to be seen and was not.
    pub fn missing(&self) -> Vec<Mark> {
        EXPECTED.into_iter().filter(|mark| self.count(*mark) == 0).collect()
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
