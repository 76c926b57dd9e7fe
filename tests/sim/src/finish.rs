//! The end of a run: faults stop, the cluster heals, everything is consumed, and then the disks are looked at with nobody running.

use crate::book::{Place, graveyard};
use crate::catalogue::{IMPATIENT, ORDERED, ORDERS};
use crate::clients::{Consumer, producers_are_there};
use crate::machine::{SHARD, options};
use crate::world::{Until, World};
use gantry_broker::draft::RawMessage;
use gantry_broker::recover::{Options, Recovered, recover};
use gantry_broker::shard::parked::is_parked;
use gantry_model::{GroupId, Lsn, Offset, QueueId, QueueKey};
use gantry_platform::clock::ManualClock;
use gantry_platform::disk::SharedDisk;
use gantry_platform::{Disk, MemoryDisk, tasks};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A shard whose members are there serves after this time (L1).
const SERVES_WITHIN: Duration = Duration::from_secs(10);
/// And all of them are equal after this time.
const LEVEL_WITHIN: Duration = Duration::from_secs(30);
const SHARD_DIR: &str = "data/shard-0000000000";

type Checked<T> = Result<T, String>;

impl World {
    /// Heals everything, and looks whether all is as it must be.
    pub async fn finish(&mut self) -> Checked<()> {
        self.make_peace();
        let from = self.sim.now();
        // A lost copy is replaced after a second or two, and then the members change.
        let patience = if self.loses_copies() { Duration::from_secs(5) } else { Duration::ZERO };
        if !self.run(Until::Served(from + SERVES_WITHIN + patience)).await {
            return self.complain(&format!("L1: nobody serves {SERVES_WITHIN:?} after the last fault: {:?}", self.control.reign));
        }
        producers_are_there(&self.sim, &self.catalogue.the_topic(ORDERS));
        self.drain().await?;
        let from = self.sim.now();
        if !self.run(Until::Level(from + LEVEL_WITHIN)).await {
            return self.complain("L1: the members do not become equal");
        }
        let end = self.ghost.end();
        self.look_at_disks(end)
    }

    fn loses_copies(&self) -> bool {
        use crate::plan::Kind::{LoseDisk, Reconfigure, Rot};
        [LoseDisk, Reconfigure, Rot].into_iter().any(|kind| self.plan.has(kind))
    }

    fn complain<T>(&self, why: &str) -> Checked<T> {
        let broken = self.sim.inside().broken.clone();
        let views: Vec<_> =
            self.machines.values().map(|machine| (machine.node, machine.running.as_ref().map(|running| running.handle.view()))).collect();
        Err(broken.unwrap_or_else(|| format!("{why}; {views:?}")))
    }

    /// Everything that can be consumed is.
    async fn drain(&mut self) -> Checked<()> {
        let drains: Vec<tasks::Task> = [ORDERED, IMPATIENT]
            .into_iter()
            .map(|group| tasks::spawn("drain", Consumer::new(&self.sim, &self.plan, &self.catalogue, group, 99).drain()))
            .collect();
        let limit = self.sim.now() + Duration::from_secs(600);
        while drains.iter().any(|drain| !drain.is_finished()) {
            let next = self.sim.now() + Duration::from_secs(5);
            if !self.run(Until::Time(next)).await {
                return self.complain("the run broke");
            }
            if next > limit {
                return self.complain("S4: there is no end of deliveries");
            }
        }
        Ok(())
    }

    /// R1, R2, S1 and the whole book, on what is stored.
    fn look_at_disks(&mut self, end: Lsn) -> Checked<()> {
        let members = self.control.reign.config().members().to_vec();
        let nodes: Vec<u64> = members.iter().map(|member| member.node.0).collect();
        let mut disks = Vec::new();
        for node in nodes {
            let mut chance = self.sim.inside().chance.fork();
            let Some(machine) = self.machines.get_mut(&node) else { continue };
            self.sim.inside().brokers.remove(&node);
            machine.die(crate::machine::Death::NoPower, &mut chance);
            disks.push((node, machine.disk.inner().clone()));
        }
        let mut first: Option<Stored> = None;
        for (node, disk) in disks {
            let stored = self.read(node, &disk, end)?;
            if first.as_ref().is_none_or(|first| first.begin > stored.begin) || first.is_none() {
                first = Some(stored);
            }
        }
        let Some(stored) = first else { return Err("there is no member".into()) };
        let inside = self.sim.inside();
        inside.book.check_end(&stored.visible, &stored.first, &stored.buried)
    }

    fn options_of(&self, disk: &MemoryDisk) -> Options {
        let shared: SharedDisk = Arc::new(disk.clone());
        let clock = Arc::new(ManualClock::new(crate::machine::BEGIN_MS));
        options(shared, clock, Path::new(SHARD_DIR), &self.plan, &self.catalogue)
    }

    fn read(&mut self, node: u64, disk: &MemoryDisk, end: Lsn) -> Checked<Stored> {
        let failed = |doing: &str, why: &dyn std::fmt::Display| format!("{doing} of node {node}: {why}");
        let options = self.options_of(disk);
        let mut once = recover(&options).map_err(|why| failed("R1: recovery", &why))?;
        once.apply_all().map_err(|why| failed("R2: replay", &why))?;
        if once.log.end() < end {
            return Err(format!("D1: the log of node {node} ends at {}, and everything before {end} is committed", once.log.end()));
        }
        self.compare_log(node, &once)?;
        let digest = digest(&mut once);
        let twice = disk.crash_point().materialize(|_| true);
        let again = self.options_of(&twice);
        let mut again = recover(&again).map_err(|why| failed("R1: the second recovery", &why))?;
        again.apply_all().map_err(|why| failed("R2: the second replay", &why))?;
        if (again.log.end(), self::digest(&mut again)) != (once.log.end(), digest) {
            return Err(format!("R1: the second recovery of node {node} ends elsewhere than the first"));
        }
        self.replay_all(node, &twice, again, digest)?;
        Stored::of(&once)
    }

    /// R2: the state that is computed from the whole log is that of the checkpoint and what follows it.
    fn replay_all(&self, node: u64, disk: &MemoryDisk, recovered: Recovered, digest: u64) -> Checked<()> {
        let begin = recovered.log.start();
        drop(recovered);
        if begin > Lsn(0) {
            return Ok(());
        }
        for part in ["state", "idx"] {
            let dir = Path::new(SHARD_DIR).join(part);
            if disk.exists(&dir).unwrap_or(false) {
                disk.remove_dir_all(&dir).map_err(|error| error.to_string())?;
            }
        }
        let mut fresh = recover(&self.options_of(disk)).map_err(|why| format!("R2: recovery of node {node} without checkpoint: {why}"))?;
        fresh.apply_all().map_err(|why| format!("R2: replay of node {node} from the beginning: {why}"))?;
        if self::digest(&mut fresh) == digest {
            Ok(())
        } else {
            Err(format!("R2: node {node}: the state from the log is not that of the checkpoint"))
        }
    }

    /// P2: what is committed is there, byte for byte.
    fn compare_log(&self, node: u64, recovered: &Recovered) -> Checked<()> {
        let reader = recovered.log.reader();
        for (lsn, tail) in self.ghost.frames().range(recovered.log.start()..) {
            let frame = reader.frame(*lsn).map_err(|error| format!("D1: node {node} can't read what is committed at {lsn}: {error}"))?;
            if frame.header.crc != tail.crc {
                return Err(format!("P2: node {node} has another frame at {lsn} than was committed"));
            }
        }
        Ok(())
    }
}

/// One number for a whole state.
fn digest(recovered: &mut Recovered) -> u64 {
    recovered.applied.state.touch_all();
    let mut parts: Vec<(u16, Vec<u8>)> =
        recovered.applied.state.freeze().into_iter().filter_map(|(number, part)| Some((number, part?.encode()))).collect();
    parts.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|(number, bytes)| number.to_le_bytes().into_iter().chain(bytes.iter().copied())) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash
}

/// What a log holds when nobody runs.
struct Stored {
    begin: Lsn,
    /// Messages of the topic that consumers can see.
    visible: BTreeMap<Place, String>,
    /// The first offset of each queue that retention left.
    first: BTreeMap<QueueId, Offset>,
    /// Ids of dead letters.
    buried: BTreeMap<GroupId, Vec<String>>,
}

impl Stored {
    fn of(recovered: &Recovered) -> Checked<Stored> {
        let mut stored = Stored { begin: recovered.log.start(), visible: BTreeMap::new(), first: BTreeMap::new(), buried: BTreeMap::new() };
        for (queue, bounds) in recovered.applied.state.queues().filter(|(queue, _)| queue.topic() == ORDERS && !is_parked(*queue)) {
            stored.first.insert(queue.queue(), Offset(bounds.min));
        }
        for group in [ORDERED, IMPATIENT] {
            stored.buried.insert(group, Vec::new());
        }
        let catalogue = crate::catalogue::new();
        let reader = recovered.log.reader();
        for frame in reader.frames(recovered.log.start(), recovered.log.end()) {
            let (lsn, frame) = frame.map_err(|error| format!("P9: {error}"))?;
            assert_eq!(frame.header.shard, SHARD, "a log has frames of its own shard");
            let Some((entry, _)) = gantry_broker::draft::entry_of(lsn, &frame) else { continue };
            if gantry_broker::draft::is_hidden(&frame) {
                continue;
            }
            let message = RawMessage::of(&frame, &*catalogue).and_then(RawMessage::decode);
            let Some(message) = message else { return Err(format!("R2: the message at {lsn} can't be read")) };
            stored.add(entry.queue, entry.offset, message.message.id);
        }
        Ok(stored)
    }

    fn add(&mut self, queue: QueueKey, offset: Offset, id: String) {
        if queue.topic() == ORDERS && !is_parked(queue) {
            self.visible.insert((queue.queue(), offset), id);
            return;
        }
        for (group, letters) in &mut self.buried {
            if graveyard(*group) == queue.topic() {
                letters.push(id.clone());
            }
        }
    }
}
