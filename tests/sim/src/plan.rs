//! What a seed decides before a run begins: how many nodes, how small the files, and which kinds of faults. Each run has a few kinds only, so that
//! rare ones are not drowned by common ones.

use gantry_platform::chance::{Chance, SeededChance};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Kill,
    Power,
    PowerOfAll,
    Isolate,
    OneWay,
    Partial,
    Reset,
    Pause,
    ClockJump,
    FailSync,
    FullDisk,
    SlowDisk,
    Rot,
    LoseDisk,
    Forget,
    TwoElectors,
    Silence,
    Transfer,
    Reconfigure,
}

const KINDS: [Kind; 19] = [
    Kind::Kill,
    Kind::Power,
    Kind::PowerOfAll,
    Kind::Isolate,
    Kind::OneWay,
    Kind::Partial,
    Kind::Reset,
    Kind::Pause,
    Kind::ClockJump,
    Kind::FailSync,
    Kind::FullDisk,
    Kind::SlowDisk,
    Kind::Rot,
    Kind::LoseDisk,
    Kind::Forget,
    Kind::TwoElectors,
    Kind::Silence,
    Kind::Transfer,
    Kind::Reconfigure,
];

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Members of the first configuration.
    pub members: u64,
    /// Nodes that have no copy at first.
    pub spares: u64,
    pub kinds: Vec<Kind>,
    /// Milliseconds of simulated time with faults.
    pub faults_ms: u64,
    /// Longest pause between two faults.
    pub pause_ms: u64,
    pub producers: u64,
    pub consumers: u64,
    pub first_segment: u64,
    pub max_segment: u64,
    pub checkpoint: u64,
    /// Bytes of log that are kept, where the run is about retention.
    pub keep: Option<u64>,
    pub loss: Option<u64>,
    pub twice: Option<u64>,
    pub overtaking: bool,
    pub way_us: u64,
    /// Longest body.
    pub body: u64,
}

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let mut chance = SeededChance::new(seed ^ 0x5eed);
        let members = [1, 2, 3, 3, 3, 3, 3, 5][chance.below(8) as usize];
        let kinds: Vec<Kind> = KINDS.into_iter().filter(|_| chance.ratio(1, 4)).collect();
        let keep = chance.ratio(1, 4).then_some([48, 128, 256][(seed % 3) as usize] * 1024);
        let small = chance.ratio(1, 2);
        Plan {
            seed,
            members,
            spares: chance.below(3),
            kinds,
            faults_ms: 8_000 + chance.below(20_000),
            pause_ms: [200, 1_000, 3_000][chance.below(3) as usize],
            producers: 1 + chance.below(4),
            consumers: 1 + chance.below(2),
            first_segment: if small { 32 * 1024 } else { 128 * 1024 },
            max_segment: if small { 64 * 1024 } else { 512 * 1024 },
            checkpoint: 1024 << chance.below(8),
            keep,
            loss: chance.ratio(1, 6).then(|| 20 + chance.below(200)),
            twice: chance.ratio(1, 6).then(|| 10 + chance.below(100)),
            overtaking: chance.ratio(1, 8),
            way_us: [500, 2_000, 20_000, 150_000][chance.below(4) as usize],
            body: [40, 400, 6_000][chance.below(3) as usize],
        }
    }

    /// The same with these kinds of faults and no others.
    pub fn with_only(self, kinds: &[Kind]) -> Plan {
        Plan { kinds: kinds.to_vec(), ..self }
    }

    /// The same with many faults, one right behind the other, and three members at least.
    pub fn restless(self) -> Plan {
        Plan { members: self.members.max(3), faults_ms: 40_000, pause_ms: 60, way_us: self.way_us.min(20_000), ..self }
    }

    pub fn has(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }
}
