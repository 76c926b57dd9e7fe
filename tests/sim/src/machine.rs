//! One machine: its disk and its clock, and the process of the broker that runs on it, if one does.

use crate::catalogue::Catalogue;
use crate::plan::Plan;
use crate::sim::{Process, Sim};
use gantry_broker::recover::{Damage, Sizes};
use gantry_broker::replica::{Handle, Identity, Replica};
use gantry_broker::{LocalBroker, Options, Retention};
use gantry_model::{Lsn, ShardId};
use gantry_platform::clock::{Clock, ManualClock};
use gantry_platform::disk::SharedDisk;
use gantry_platform::workers::ByHand;
use gantry_platform::{FragileDisk, MemoryDisk, SeededChance};
use gantry_store::data_folder::DataFolder;
use gantry_store::replica::leader::Durability;
use gantry_store::replica::promise::Promise;
use gantry_store::replica::{Incarnation, Member, NodeId};
use gantry_store::{install, log};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The shard that all is about.
pub const SHARD: ShardId = ShardId(0);
/// The time of day when a run begins.
pub const BEGIN_MS: u64 = 1_700_000_000_000;
/// Longer than any clock is ever wrong.
const KEEP_MS: u64 = 30 * 24 * 3_600_000;
const ROOT: &str = "data";
const CLUSTER: [u8; 16] = [7; 16];

/// A process of a broker.
pub struct Running {
    pub process: Process,
    pub broker: Arc<LocalBroker>,
    pub handle: Handle,
    pub replica: Replica,
    pub crew: ByHand,
    pub clock: ManualClock,
    /// Held, so that nobody else opens it.
    _folder: DataFolder,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The page cache stays.
    Killed,
    /// What was not synced may be lost.
    NoPower,
}

/// What is to become of a machine whose process dies in the middle of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doom {
    None,
    Dies(Death),
}

/// Why a process did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStarted {
    /// The power failed meanwhile, or the disk is full: later.
    Later,
    /// Its files are damaged, in a way that another copy can help with or not.
    Refused(String, Option<Damage>),
}

pub struct Machine {
    pub node: u64,
    pub disk: FragileDisk,
    pub running: Option<Running>,
    /// Its copy's name, once it has one.
    pub member: Option<Member>,
    runs: u64,
    /// How often the machine itself was started.
    boots: u64,
    /// How far its wall clock is from the right time, in ms.
    pub wall_off: i64,
    pub paused_until: Duration,
    pub busy_until: Duration,
    pub slow_until: Duration,
    pub turn_at: Option<Duration>,
    pub doom: Doom,
    /// A bit of its files was turned over, so that it may refuse to start.
    pub rotten: bool,
    /// Its copy is lost for good.
    pub given_up: bool,
    /// There is no room on its disk.
    pub full: bool,
}

impl Machine {
    pub fn new(node: u64) -> Machine {
        Machine {
            node,
            disk: FragileDisk::new(MemoryDisk::new()),
            running: None,
            member: None,
            runs: 0,
            boots: 0,
            wall_off: 0,
            paused_until: Duration::ZERO,
            busy_until: Duration::ZERO,
            slow_until: Duration::ZERO,
            turn_at: None,
            doom: Doom::None,
            rotten: false,
            given_up: false,
            full: false,
        }
    }

    pub fn process(&self) -> Option<Process> {
        self.running.as_ref().map(|running| running.process)
    }

    /// Whether nothing is missing that its copy acknowledged, as far as it knows. One that is off is taken for what it was.
    pub fn has_all_it_acknowledged(&self) -> bool {
        self.running.as_ref().is_none_or(|running| !running.handle.view().suspect)
    }

    fn wall_ms(&self, now: Duration) -> u64 {
        (BEGIN_MS + now.as_millis() as u64).saturating_add_signed(self.wall_off)
    }

    /// The process starts.
    pub fn start(&mut self, now: Duration, plan: &Plan, catalogue: &Arc<Catalogue>) -> Result<Process, NotStarted> {
        assert!(self.running.is_none(), "one process on a machine");
        self.runs += 1;
        let process = Process { node: self.node, run: self.runs };
        let clock = ManualClock::new(self.wall_ms(now));
        match self.open(process, &clock, plan, catalogue) {
            Ok(running) => {
                self.member = Some(running.handle.member);
                (self.busy_until, self.turn_at) = (now, None);
                self.running = Some(running);
                Ok(process)
            }
            Err(_) if !self.disk.has_power() || self.disk.failed_syncs() > 0 || self.full => Err(NotStarted::Later),
            Err((why, damage)) => Err(NotStarted::Refused(why, damage)),
        }
    }

    fn open(&self, process: Process, clock: &ManualClock, plan: &Plan, catalogue: &Arc<Catalogue>) -> Result<Running, (String, Option<Damage>)> {
        let disk: SharedDisk = Arc::new(self.disk.clone());
        let mut chance = SeededChance::new(self.node * 1_000 + self.boots);
        let text = |error: &dyn std::fmt::Display| (error.to_string(), None);
        let boot = format!("boot-{}", self.boots);
        let folder = DataFolder::open(disk.clone(), Path::new(ROOT), &boot, &mut chance).map_err(|error| text(&error))?;
        let shard = folder.open_shard(&mut chance, SHARD).map_err(|error| text(&error))?;
        let options = options(disk, Arc::new(clock.clone()), shard.dir(), plan, catalogue);
        let incarnation = Incarnation(folder.incarnation);
        let identity = Identity { node: NodeId(self.node), folder: shard, incarnation, durability: Durability::Disk, opened_before: 0 };
        let crew = ByHand::new();
        let (broker, handle, replica) =
            LocalBroker::open_stepped(options, identity, crew.clone()).map_err(|error| (error.to_string(), error.damage))?;
        Ok(Running { process, broker, handle, replica, crew, clock: clock.clone(), _folder: folder })
    }

    /// The process is gone. What it had in memory is lost, and what it had not synced perhaps too.
    pub fn die(&mut self, death: Death, chance: &mut SeededChance) {
        if let Some(running) = self.running.take() {
            running.broker.close();
        }
        let left = match death {
            Death::Killed => self.disk.inner().clone(),
            Death::NoPower => {
                self.boots += 1;
                self.disk.after_power_loss(chance)
            }
        };
        self.disk = FragileDisk::new(left);
        if self.full {
            self.disk.fill();
        }
        (self.doom, self.turn_at) = (Doom::None, None);
    }

    /// Another disk is put in.
    pub fn lose_disk(&mut self) {
        self.disk = FragileDisk::new(MemoryDisk::new());
        self.boots += 1;
        (self.member, self.rotten, self.given_up) = (None, false, false);
    }

    /// While it is off: puts a sound copy's bytes where its own are damaged. `false` if they don't fit.
    pub fn mend(&self, from: Lsn, bytes: &[u8]) -> bool {
        let options = log::Options::new(SHARD, CLUSTER);
        log::mend(&self.disk, &Path::new(ROOT).join("shard-0000000000"), &options, from, bytes).is_ok()
    }

    /// While it is off: its copy has nothing any more, and knows that it had something.
    pub fn begin_anew(&self) -> Result<(), String> {
        let disk: SharedDisk = Arc::new(self.disk.clone());
        let mut chance = SeededChance::new(self.node);
        let boot = format!("boot-{}", self.boots);
        let folder = DataFolder::open(disk.clone(), Path::new(ROOT), &boot, &mut chance).map_err(|error| error.to_string())?;
        let mut shard = folder.open_shard(&mut chance, SHARD).map_err(|error| error.to_string())?;
        let promise = Promise { suspect: true, ..Promise::of(&shard.meta()) };
        shard.set_meta(promise.stored_in(shard.meta())).map_err(|error| error.to_string())?;
        install::stage_nothing(&*disk, shard.dir()).and_then(|()| install::begin(&*disk, shard.dir())).map_err(|error| error.to_string())
    }

    /// Time passes on its clock.
    pub fn pass(&self, time: Duration) {
        if let Some(running) = &self.running {
            running.clock.advance(time);
        }
    }

    /// Somebody sets the clock.
    pub fn set_clock(&mut self, by_ms: i64) {
        self.wall_off += by_ms;
        if let Some(running) = &self.running {
            running.clock.jump_wall(by_ms);
        }
    }

    /// The time of day that its process sees.
    pub fn sees_ms(&self) -> Option<u64> {
        self.running.as_ref().map(|running| running.clock.wall_ms())
    }

    /// Lets another part of the run know that there is something to do.
    pub fn stir(&self, sim: &Sim) {
        sim.inside().stirred.insert(self.node);
    }
}

/// How a copy is opened.
pub fn options(disk: SharedDisk, clock: Arc<dyn Clock>, dir: &Path, plan: &Plan, catalogue: &Arc<Catalogue>) -> Options {
    Options {
        disk,
        dir: dir.to_path_buf(),
        clock,
        metadata: catalogue.clone(),
        shard: SHARD,
        cluster: CLUSTER,
        retention: Retention { age_ms: KEEP_MS, bytes: plan.keep },
        skip_damaged: false,
        sizes: Sizes { first_segment: plan.first_segment, max_segment: plan.max_segment, checkpoint: plan.checkpoint },
    }
}
