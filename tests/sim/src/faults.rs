//! Faults: which happens when and to whom, and how each ends.

use crate::machine::{Death, Doom, Machine};
use crate::marks::Mark;
use crate::plan::{Kind, Plan};
use crate::sim::{CLIENTS, CONTROLLER, Event, Process};
use crate::world::World;
use gantry_platform::Disk;
use gantry_store::replica::Member;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What ends later.
#[derive(Clone, Debug)]
pub enum Mend {
    /// These pairs reach each other again.
    Join(Vec<(u64, u64)>),
    /// If it did not die in the middle of something, it dies now.
    DieNow(Process, Death),
    MakeRoom(u64),
    Unite,
    /// Members are replaced whose copies are lost.
    Replace,
}

/// The faults of a run.
#[derive(Debug)]
pub struct Faults {
    kinds: Vec<Kind>,
}

impl Faults {
    pub fn new(plan: &Plan) -> Faults {
        Faults { kinds: plan.kinds.clone() }
    }
}

impl World {
    fn pick_node(&self) -> u64 {
        1 + self.sim.below(self.machines.len() as u64)
    }

    /// The next fault.
    pub fn fault(&mut self) {
        if self.sim.inside().peace {
            return;
        }
        if !self.faults.kinds.is_empty() {
            let kind = self.faults.kinds[self.sim.below(self.faults.kinds.len() as u64) as usize];
            let node = self.pick_node();
            self.sim.note(format_args!("fault: {kind:?} at {node}"));
            self.strike(kind, node);
        }
        // Faults come in bursts, with time between them in which something can be done.
        let pause = if self.sim.in_one_of(5) { self.sim.between_ms(1_000, 5_000) } else { self.sim.between_ms(1, self.plan.pause_ms) };
        self.sim.after(pause, Event::Fault);
    }

    fn strike(&mut self, kind: Kind, node: u64) {
        match kind {
            Kind::Kill => self.doom_node(node, Death::Killed),
            Kind::Power => self.doom_node(node, Death::NoPower),
            Kind::PowerOfAll => (1..=self.machines.len() as u64).for_each(|node| self.doom_node(node, Death::NoPower)),
            Kind::Isolate => {
                let all = self.places().into_iter().filter(|other| *other != node);
                self.part(all.flat_map(|other| [(node, other), (other, node)]).collect());
            }
            Kind::OneWay => {
                let all: Vec<u64> = self.places().into_iter().filter(|other| *other != node).collect();
                let inward = self.sim.in_one_of(2);
                self.part(all.into_iter().map(|other| if inward { (other, node) } else { (node, other) }).collect());
            }
            Kind::Partial => {
                let places = self.places();
                let other = places[self.sim.below(places.len() as u64) as usize];
                if other != node {
                    self.part(vec![(node, other), (other, node)]);
                }
            }
            Kind::Reset => {
                let other = self.pick_node();
                self.sim.inside().reset(node, other);
                self.mark(Mark::Resets);
            }
            Kind::Pause => {
                let until = self.sim.now() + self.sim.between_ms(100, 5_000);
                if let Some(machine) = self.machines.get_mut(&node) {
                    machine.paused_until = until;
                }
                self.mark(Mark::Pauses);
            }
            Kind::ClockJump => self.jump(node),
            Kind::FailSync | Kind::FullDisk | Kind::SlowDisk | Kind::Rot | Kind::LoseDisk => self.strike_disk(kind, node),
            Kind::Forget | Kind::TwoElectors | Kind::Silence | Kind::Transfer | Kind::Reconfigure => self.strike_control(kind),
        }
    }

    fn mark(&self, mark: Mark) {
        self.sim.inside().marks.add(mark);
    }

    fn places(&self) -> Vec<u64> {
        self.machines.keys().copied().chain([CONTROLLER, CLIENTS]).collect()
    }

    /// The process dies within the next changes of its disk, or soon.
    fn doom_node(&mut self, node: u64, death: Death) {
        let changes = self.sim.below(40);
        let soon = self.sim.between_ms(0, 60);
        let Some(machine) = self.machines.get_mut(&node) else { return };
        let Some(process) = machine.process().filter(|_| machine.doom == Doom::None) else { return };
        machine.doom = Doom::Dies(death);
        machine.disk.lose_power_after(changes);
        self.sim.after(soon, Event::Mend(Mend::DieNow(process, death)));
    }

    fn part(&mut self, pairs: Vec<(u64, u64)>) {
        self.mark(Mark::Partitions);
        self.sim.inside().weather.cut.extend(pairs.iter().copied());
        let longest = if self.sim.in_one_of(4) { 4_000 } else { 600 };
        let time = self.sim.between_ms(20, longest);
        self.sim.after(time, Event::Mend(Mend::Join(pairs)));
    }

    fn jump(&mut self, node: u64) {
        let by = [50, 3_000, 60_000, 3_600_000][self.sim.below(4) as usize];
        let by = if self.sim.in_one_of(2) { by } else { -by };
        if let Some(machine) = self.machines.get_mut(&node) {
            machine.set_clock(by);
        }
        self.mark(Mark::ClockJumps);
    }

    fn strike_disk(&mut self, kind: Kind, node: u64) {
        let (now, sim) = (self.sim.now(), self.sim.clone());
        let spare = self.may_lose(node);
        let Some(machine) = self.machines.get_mut(&node) else { return };
        match kind {
            Kind::FailSync => {
                machine.disk.fail_sync_after(sim.below(20));
                self.mark(Mark::FailedSyncs);
            }
            Kind::FullDisk => {
                machine.full = true;
                machine.disk.fill();
                sim.after(sim.between_ms(300, 4_000), Event::Mend(Mend::MakeRoom(node)));
                self.mark(Mark::FullDisks);
            }
            Kind::SlowDisk => {
                machine.slow_until = now + sim.between_ms(200, 4_000);
                self.mark(Mark::SlowDisks);
            }
            Kind::Rot if spare => self.rot(node),
            Kind::LoseDisk if spare => {
                self.kill(node, Death::Killed);
                if let Some(machine) = self.machines.get_mut(&node) {
                    machine.lose_disk();
                }
                self.mark(Mark::Replacements);
                sim.after(sim.between_ms(500, 2_500), Event::Mend(Mend::Replace));
            }
            _ => {}
        }
    }

    /// Whether the copy on a node may be lost for good: all others are there, and one of them is enough to have everything.
    fn may_lose(&self, node: u64) -> bool {
        let config = self.control.reign.config();
        let sound = |machine: &Machine| !machine.rotten && !machine.given_up && machine.disk.failed_syncs() == 0 && machine.has_all_it_acknowledged();
        let whole = |member: &Member| self.machines.get(&member.node.0).is_some_and(|machine| machine.member == Some(*member) && sound(machine));
        let others = config.members().iter().filter(|member| member.node.0 != node);
        config.w() > 1 && self.members_are_there() && others.into_iter().all(whole)
    }

    /// Whether the members are not about to change, and no copy is lost.
    fn members_are_there(&self) -> bool {
        let there = |member: &Member| {
            self.machines.get(&member.node.0).is_some_and(|machine| machine.member == Some(*member) && !machine.given_up && !machine.rotten)
        };
        !self.control.changes() && self.control.reign.config().members().iter().all(there)
    }

    /// A bit of a file turns over while the machine is off, or a file is gone.
    fn rot(&mut self, node: u64) {
        self.kill(node, Death::Killed);
        let sim = self.sim.clone();
        let Some(machine) = self.machines.get_mut(&node) else { return };
        let disk = machine.disk.inner();
        let mut files = Vec::new();
        files_below(disk, Path::new("data"), &mut files);
        let shard = Path::new("data/shard-0000000000");
        let mut segments: Vec<PathBuf> = files.iter().filter(|path| path.to_string_lossy().contains("/log/0")).cloned().collect();
        segments.sort();
        // What was synced last has no mark yet, and a promise has no second copy: rot there can't be told from a write that never came to its end.
        let newest = segments.pop();
        files.retain(|path| path.starts_with(shard) && path.parent() != Some(shard) && Some(path) != newest.as_ref());
        let of_log = sim.in_one_of(2) && !segments.is_empty();
        let from = if of_log { &segments } else { &files };
        let Some(path) = from.get(sim.below(from.len().max(1) as u64) as usize) else { return };
        if of_log {
            // Without a checkpoint all of the log is read.
            let _ = disk.remove_dir_all(&shard.join("state"));
        }
        if of_log && sim.in_one_of(4) {
            sim.note(format_args!("{} is gone", path.display()));
            machine.rotten = disk.remove(path).is_ok();
        } else {
            let len = disk.open(path).and_then(|file| file.len()).unwrap_or(0);
            let bit = sim.below(len.max(1) * 8);
            sim.note(format_args!("bit {bit} of {} rots", path.display()));
            machine.rotten = disk.rot(path, bit).is_ok();
        }
        sim.inside().marks.add(Mark::Rot);
        sim.after(sim.between_ms(3_000, 5_000), Event::Mend(Mend::Replace));
    }

    fn strike_control(&mut self, kind: Kind) {
        let sim = self.sim.clone();
        match kind {
            Kind::Forget => {
                self.control.forget();
                self.mark(Mark::ControllerForgot);
            }
            Kind::TwoElectors => {
                self.control.split();
                sim.after(sim.between_ms(100, 3_000), Event::Mend(Mend::Unite));
            }
            Kind::Silence => self.control.silent_until = sim.now() + sim.between_ms(200, 4_000),
            Kind::Transfer => {
                let members = self.control.reign.config().members();
                let to = members[sim.below(members.len() as u64) as usize];
                self.control.hand_over(&sim, Some(to).filter(|_| sim.in_one_of(2)));
            }
            _ => self.change_members(),
        }
    }

    /// A member moves to another node, or there are more or fewer of them.
    fn change_members(&mut self) {
        if !self.members_are_there() {
            return;
        }
        let sim = self.sim.clone();
        let may = |machine: &&Machine| !machine.given_up && !machine.rotten && machine.has_all_it_acknowledged();
        let all: Vec<Member> = self.machines.values().filter(may).filter_map(|machine| machine.member).collect();
        let mut members: Vec<Member> = self.control.reign.config().members().to_vec();
        let others: Vec<Member> = all.iter().filter(|member| !members.contains(member)).copied().collect();
        if others.is_empty() || sim.in_one_of(4) {
            members.remove(sim.below(members.len() as u64) as usize);
        } else if sim.in_one_of(2) {
            let at = sim.below(members.len() as u64) as usize;
            members[at] = others[sim.below(others.len() as u64) as usize];
        } else {
            members.push(others[0]);
        }
        sim.note(format_args!("members are to be {:?}", members.iter().map(|member| member.node.0).collect::<Vec<_>>()));
        self.other_members(members);
    }

    /// Changes the members, at once or when those that are new have the log: at once only where nothing of the log is ever gone.
    fn other_members(&mut self, members: Vec<Member>) {
        if self.plan.keep.is_some() || self.sim.in_one_of(2) {
            self.control.learn(members);
        } else {
            self.control.reconfigure(&self.sim, members);
        }
    }

    /// Members whose copies are lost are replaced by new copies on the same nodes.
    pub fn replace_lost(&mut self) {
        let sim = self.sim.clone();
        // Somebody looks through the files of a machine whose disk is not sound, and takes it away.
        let rotten: Vec<u64> = self.machines.values().filter(|machine| machine.rotten).map(|machine| machine.node).collect();
        for node in rotten {
            self.kill(node, Death::Killed);
            if let Some(machine) = self.machines.get_mut(&node) {
                machine.given_up = true;
            }
        }
        if self.control.changes() {
            return;
        }
        for machine in self.machines.values_mut().filter(|machine| machine.given_up) {
            machine.lose_disk();
            sim.after(Duration::from_millis(10), Event::Start(machine.node));
        }
        let members = self.control.reign.config().members();
        let now: Vec<Member> =
            members.iter().map(|member| self.machines.get(&member.node.0).and_then(|machine| machine.member).unwrap_or(*member)).collect();
        if now != members {
            sim.inside().marks.add(Mark::Replacements);
            sim.note(format_args!("lost copies are replaced"));
            self.other_members(now);
        }
    }

    pub fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Join(pairs) => {
                let cut = &mut self.sim.inside().weather.cut;
                cut.retain(|pair| !pairs.contains(pair));
            }
            Mend::DieNow(process, death) => {
                let runs = self.machines.get(&process.node).is_some_and(|machine| machine.process() == Some(process));
                if runs {
                    if let Some(machine) = self.machines.get(&process.node) {
                        machine.disk.lose_power_after(0);
                    }
                    self.kill(process.node, death);
                }
            }
            Mend::MakeRoom(node) => {
                if let Some(machine) = self.machines.get_mut(&node) {
                    machine.full = false;
                    machine.disk.make_room();
                }
            }
            Mend::Unite => self.control.unite(),
            Mend::Replace => {
                let before = self.control.reign.config().clone();
                self.replace_lost();
                let lost = before.members().iter().any(|member| self.machines.get(&member.node.0).and_then(|m| m.member) != Some(*member));
                if lost {
                    self.sim.after(self.sim.between_ms(500, 1_500), Event::Mend(Mend::Replace));
                }
            }
        }
    }

    /// All faults end.
    pub fn make_peace(&mut self) {
        let sim = self.sim.clone();
        sim.note(format_args!("peace"));
        {
            let mut inside = sim.inside();
            inside.peace = true;
            inside.weather.cut.clear();
            (inside.weather.loss, inside.weather.twice, inside.weather.overtaking) = (None, None, false);
            inside.weather.way_us = inside.weather.way_us.min(2_000);
        }
        self.control.unite();
        self.control.silent_until = Duration::ZERO;
        for machine in self.machines.values_mut() {
            (machine.paused_until, machine.slow_until, machine.full) = (Duration::ZERO, Duration::ZERO, false);
            machine.disk.make_room();
            machine.disk.fail_sync_after(u64::MAX);
            sim.after(Duration::from_millis(20), Event::Start(machine.node));
        }
        let nodes: Vec<u64> = self.machines.keys().copied().collect();
        nodes.into_iter().for_each(|node| self.plan_turn(node, Duration::ZERO));
        sim.after(Duration::from_millis(200), Event::Mend(Mend::Replace));
    }
}

fn files_below(disk: &dyn Disk, dir: &Path, files: &mut Vec<PathBuf>) {
    for path in disk.list(dir).unwrap_or_default() {
        if disk.list(&path).is_ok() { files_below(disk, &path, files) } else { files.push(path) }
    }
}
