//! The whole cluster: machines, the controller, clients and faults, and the loop that lets one thing happen after the other.

use crate::book::Book;
use crate::catalogue::{self, Catalogue, ORDERS};
use crate::clients::{self, Questions};
use crate::control::{Control, LOOK};
use crate::faults::Faults;
use crate::ghost::Ghost;
use crate::machine::{Death, Doom, Machine, NotStarted};
use crate::marks::{Mark, Marks};
use crate::plan::{Kind, Plan};
use crate::sim::{Event, Order, Process, Sim, Stream, Word};
use crate::trace::Trace;
use gantry_broker::recover::Damage;
use gantry_broker::replica::Turn;
use gantry_broker::replica::message::{Answer, Message, Outlet, PeerEvent};
use gantry_model::contract::Broker;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A process reports to the controller so often.
const REPORT: Duration = Duration::from_millis(100);
/// What one change of a disk takes.
const CHANGE_US: u64 = 60;
/// The same while the disk is slow.
const SLOW_CHANGE_US: u64 = 25_000;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub marks: Marks,
    /// The same for every run of the seed.
    pub hash: u64,
    pub lines: u64,
    /// Simulated time.
    pub passed: Duration,
}

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub struct Broken {
    pub seed: u64,
    pub at: Duration,
    pub why: String,
}

/// Which end of a run is meant: until then things happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Time(Duration),
    /// The first of both.
    Served(Duration),
    Level(Duration),
}

/// One end of a stream.
struct End {
    sim: Sim,
    stream: Stream,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.stream)
    }
}

impl Outlet for End {
    fn send(&self, message: Message) {
        self.sim.send(self.stream, message);
    }
}

pub struct World {
    pub seed: u64,
    pub sim: Sim,
    pub plan: Plan,
    pub catalogue: Arc<Catalogue>,
    pub machines: BTreeMap<u64, Machine>,
    pub control: Control,
    pub ghost: Ghost,
    pub faults: Faults,
}

impl World {
    pub fn new(plan: Plan, trace: Trace) -> World {
        let seed = plan.seed;
        let mut book = Book::default();
        (book.clocks_jump, book.trims) = (plan.has(Kind::ClockJump), plan.keep.is_some());
        let sim = Sim::new(seed, trace, book);
        {
            let weather = &mut sim.inside().weather;
            (weather.loss, weather.twice, weather.overtaking, weather.way_us) = (plan.loss, plan.twice, plan.overtaking, plan.way_us);
        }
        let catalogue = catalogue::new();
        let mut machines: BTreeMap<u64, Machine> = (1..=plan.members + plan.spares).map(|node| (node, Machine::new(node))).collect();
        let mut members = Vec::new();
        let mut ghost = Ghost::default();
        for machine in machines.values_mut() {
            machine.wall_off = sim.below(20) as i64 - 10;
            let process = machine.start(Duration::ZERO, &plan, &catalogue).expect("an empty disk is opened");
            let running = machine.running.as_ref().expect("it was just started");
            if machine.node <= plan.members {
                members.push(running.handle.member);
            }
            ghost.opened(process, running.handle.member, &running.handle.view()).expect("there is nothing to compare yet");
        }
        let control = Control::new(members);
        let faults = Faults::new(&plan);
        World { seed, sim, plan, catalogue, machines, control, ghost, faults }
    }

    /// Begins everything.
    pub fn begin(&mut self) {
        let sim = self.sim.clone();
        sim.note(format_args!("seed {}: {:?}", self.seed, self.plan));
        let processes: Vec<Process> = self.machines.values().filter_map(Machine::process).collect();
        processes.into_iter().for_each(|process| self.enter(process));
        sim.after(Duration::ZERO, Event::Tick);
        sim.after(sim.between_ms(0, self.plan.pause_ms), Event::Fault);
        clients::begin(&sim, &self.plan, &self.catalogue);
    }

    /// A process that was started takes part.
    pub fn enter(&mut self, process: Process) {
        let machine = &self.machines[&process.node];
        let Some(running) = &machine.running else { return };
        let questions = Questions { sim: self.sim.clone(), topic: self.catalogue.the_topic(ORDERS), nodes: self.machines.len() as u64 };
        running.broker.attach(Arc::new(questions));
        self.sim.inside().brokers.insert(process.node, (process, running.broker.clone()));
        self.sim.after(self.sim.between_ms(0, 100), Event::Report(process));
        machine.stir(&self.sim);
    }

    /// Lets happen what happens until then. `false` if it was not so in time, or something broke.
    pub async fn run(&mut self, until: Until) -> bool {
        loop {
            if self.sim.inside().broken.is_some() {
                return false;
            }
            let limit = match until {
                Until::Time(limit) => limit,
                Until::Served(limit) | Until::Level(limit) => limit,
            };
            let reached = match until {
                Until::Time(_) => false,
                Until::Served(_) => self.serves(),
                Until::Level(_) => self.is_level(),
            };
            if reached {
                return true;
            }
            let next = self.sim.inside().take_next();
            let Some((time, event)) = next else { return matches!(until, Until::Time(_)) };
            if time > limit {
                // It happens later.
                self.sim.inside().put_back(time, event);
                self.pass_to(limit).await;
                return matches!(until, Until::Time(_));
            }
            self.pass_to(time).await;
            self.happen(event);
            self.settle().await;
        }
    }

    async fn pass_to(&mut self, time: Duration) {
        let passed = time.saturating_sub(self.sim.now());
        if passed.is_zero() {
            return;
        }
        self.sim.inside().now = time;
        self.machines.values().for_each(|machine| machine.pass(passed));
        tokio::time::advance(passed).await;
    }

    /// Lets the tasks of brokers and clients do what they can, and plans the rounds that follow from it.
    async fn settle(&mut self) {
        // A request goes through three tasks at most: the client, the post, the question of a transaction.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        let stirred = std::mem::take(&mut self.sim.inside().stirred);
        for node in stirred {
            let soon = Duration::from_micros(10 + self.sim.below(60));
            self.plan_turn(node, soon);
        }
    }

    /// A replica takes its next round in this time, unless it does so earlier.
    pub fn plan_turn(&mut self, node: u64, soon: Duration) {
        let now = self.sim.now();
        let Some(machine) = self.machines.get_mut(&node) else { return };
        let Some(process) = machine.process() else { return };
        let at = (now + soon).max(machine.busy_until).max(machine.paused_until);
        if machine.turn_at.is_none_or(|planned| planned > at) {
            machine.turn_at = Some(at);
            self.sim.after(at - now, Event::Turn(process));
        }
    }

    fn runs(&self, process: Process) -> bool {
        self.machines.get(&process.node).is_some_and(|machine| machine.process() == Some(process))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn(process) if self.runs(process) => self.turn(process),
            Event::Job(process) if self.runs(process) => self.work(process),
            Event::Peer(stream, message) if self.runs(stream.to) => self.arrive(stream, message),
            Event::Order(process, order) if self.runs(process) => self.obey(process, order),
            Event::Word(process, word) => {
                // Reports come all the time and say what rounds said before.
                if !matches!(word, Word::Report { .. }) {
                    self.sim.note(format_args!("controller hears from {}: {word:?}", process.node));
                }
                let sim = self.sim.clone();
                self.control.hear(&sim, process, word);
            }
            Event::Report(process) if self.runs(process) => self.report(process),
            Event::Tick => {
                let sim = self.sim.clone();
                self.control.tick(&sim);
                sim.after(LOOK, Event::Tick);
            }
            Event::Start(node) => self.start(node),
            Event::Fault => self.fault(),
            Event::Mend(mend) => self.mend(mend),
            Event::Wake(wake) => drop(wake.send(())),
            Event::Turn(_) | Event::Job(_) | Event::Peer(..) | Event::Order(..) | Event::Report(_) => {}
        }
    }

    /// A replica takes a round.
    fn turn(&mut self, process: Process) {
        let (now, node) = (self.sim.now(), process.node);
        let Some(machine) = self.machines.get_mut(&node) else { return };
        if machine.turn_at != Some(now) {
            return;
        }
        machine.turn_at = None;
        if machine.paused_until > now {
            return self.plan_turn(node, Duration::ZERO);
        }
        let Some(running) = &mut machine.running else { return };
        let before = machine.disk.changes();
        let leads = running.handle.view().leads;
        let turn = running.replica.turn(Duration::ZERO);
        let patience = running.replica.patience();
        let changes = machine.disk.changes() - before;
        let each = if machine.slow_until > now { SLOW_CHANGE_US } else { CHANGE_US };
        machine.busy_until = now + Duration::from_micros(changes * (each / 2 + self.sim.below(each)));
        let busy = !running.crew.busy().is_empty();
        let view = running.handle.view();
        let said = std::mem::take(&mut self.sim.inside().said);
        if let Err(why) = said.iter().try_for_each(|said| self.ghost.said(said)) {
            return self.sim.broken(why);
        }
        if changes > 0 {
            self.sim.note(format_args!("{node} round: {turn:?}, {changes} changes, end {} hw {} leads {:?}", view.end, view.hw, view.leads));
        }
        match turn {
            Turn::GoesOn => {
                if leads.is_some() && view.leads.is_none() {
                    self.sim.inside().marks.add(Mark::StepDowns);
                }
                self.look_at(process);
                self.plan_turn(node, patience.max(Duration::from_micros(20)));
                if busy {
                    self.sim.after(self.sim.between_ms(0, 30), Event::Job(process));
                }
            }
            Turn::Stopped | Turn::Failed => self.fail(process, view.failed, leads.is_some()),
            Turn::Anew => self.begin_anew(process, view.installs.is_some()),
        }
        self.doom(process);
    }

    /// The files of a copy are others now: it is opened anew.
    fn begin_anew(&mut self, process: Process, ends: bool) {
        let (sim, node) = (self.sim.clone(), process.node);
        let Some(machine) = self.machines.get_mut(&node) else { return };
        sim.note(format_args!("{node} begins anew"));
        sim.inside().brokers.remove(&node);
        sim.inside().marks.add(if ends { Mark::InstallsEnded } else { Mark::Installs });
        if !machine.disk.has_power() {
            return;
        }
        let mut chance = sim.inside().chance.fork();
        machine.die(Death::Killed, &mut chance);
        sim.after(sim.between_ms(1, 20), Event::Start(node));
    }

    /// The replica can't go on: the process ends, and is started anew.
    fn fail(&mut self, process: Process, why: Option<String>, led: bool) {
        let sim = self.sim.clone();
        let Some(machine) = self.machines.get(&process.node) else { return };
        sim.note(format_args!("{} stops: {why:?}", process.node));
        if led {
            self.ghost.lost_sight();
        }
        let excused = !machine.disk.has_power() || machine.disk.failed_syncs() > 0 || machine.full || machine.rotten;
        if !excused {
            return sim.broken(format!("node {} stopped without a reason: {}", process.node, why.unwrap_or_default()));
        }
        if machine.disk.has_power() {
            self.kill(process.node, Death::Killed);
        }
    }

    /// What a machine does whose power failed in the middle of something.
    fn doom(&mut self, process: Process) {
        let Some(machine) = self.machines.get(&process.node).filter(|machine| machine.process() == Some(process)) else { return };
        if let Doom::Dies(death) = machine.doom
            && !machine.disk.has_power()
        {
            self.kill(process.node, death);
        }
    }

    /// A process ends at once.
    pub fn kill(&mut self, node: u64, death: Death) {
        let sim = self.sim.clone();
        let Some(machine) = self.machines.get_mut(&node).filter(|machine| machine.running.is_some()) else { return };
        sim.note(format_args!("{node} dies: {death:?}"));
        let mut inside = sim.inside();
        inside.brokers.remove(&node);
        inside.marks.add(if death == Death::Killed { Mark::Kills } else { Mark::PowerLosses });
        if death == Death::NoPower && machine.disk.unsynced() > 0 {
            inside.marks.add(Mark::TornTails);
        }
        let mut chance = inside.chance.fork();
        drop(inside);
        machine.die(death, &mut chance);
        let away = if sim.inside().peace { sim.between_ms(10, 100) } else { sim.between_ms(20, 3_000) };
        sim.after(away, Event::Start(node));
    }

    fn work(&mut self, process: Process) {
        let sim = self.sim.clone();
        let Some(machine) = self.machines.get(&process.node) else { return };
        let Some(running) = &machine.running else { return };
        if machine.paused_until > sim.now() {
            return sim.after(machine.paused_until - sim.now(), Event::Job(process));
        }
        let busy = running.crew.busy();
        if busy.is_empty() {
            return;
        }
        let worker = busy[sim.below(busy.len() as u64) as usize];
        sim.note(format_args!("{} does a job of worker {worker}", process.node));
        if worker > 0 {
            sim.inside().marks.add(Mark::CatchUps);
        }
        running.crew.work(worker);
        if !running.crew.busy().is_empty() {
            sim.after(sim.between_ms(0, 30), Event::Job(process));
        }
        machine.stir(&sim);
        self.doom(process);
    }

    fn arrive(&mut self, stream: Stream, message: Message) {
        let sim = self.sim.clone();
        sim.note(format_args!("{} to {}: {}", stream.from.node, stream.to.node, brief(&message)));
        let machine = &self.machines[&stream.to.node];
        let Some(running) = &machine.running else { return };
        let back = Stream { from: stream.to, to: stream.from, ..stream };
        running.handle.tell(PeerEvent::Said { message, back: Arc::new(End { sim: sim.clone(), stream: back }) });
        machine.stir(&sim);
    }

    fn obey(&mut self, process: Process, order: Order) {
        let sim = self.sim.clone();
        sim.note(format_args!("{} is told: {order:?}", process.node));
        let machine = &self.machines[&process.node];
        let Some(running) = &machine.running else { return };
        let (to, handle) = (sim.clone(), &running.handle);
        match order {
            Order::Seal(seal) => {
                let answer = Answer::new(move |answer| {
                    let word = match answer {
                        Ok(ok) => Word::SealOk(ok),
                        Err(refused) => Word::Refused(refused),
                    };
                    to.tell(process, word);
                });
                handle.tell(PeerEvent::Seal { seal, answer });
            }
            Order::Become(grant) => {
                let epoch = grant.epoch;
                let answer = Answer::new(move |answer: Result<(), String>| to.tell(process, Word::Began { epoch, refused: answer.err() }));
                handle.tell(PeerEvent::Become { grant, answer });
            }
            Order::HandOver(member) => {
                let answer = Answer::new(move |answer| to.tell(process, Word::Ready(answer)));
                handle.tell(PeerEvent::HandOver { to: member, answer });
            }
            Order::Teach(learners) => handle.tell(PeerEvent::Learners(learners)),
            Order::Follow(node) => {
                let Some(leader) = self.machines.get(&node).and_then(Machine::process) else { return };
                let number = sim.inside().new_stream();
                let stream = Stream { number, from: process, to: leader };
                handle.tell(PeerEvent::Leader { outlet: Arc::new(End { sim: sim.clone(), stream }) });
            }
        }
        machine.stir(&sim);
    }

    fn report(&mut self, process: Process) {
        let sim = self.sim.clone();
        let machine = &self.machines[&process.node];
        let Some(running) = &machine.running else { return };
        if machine.paused_until <= sim.now() {
            let view = running.handle.view();
            sim.tell(process, Word::Report { member: running.handle.member, incarnation: running.handle.incarnation, view });
        }
        sim.after(REPORT, Event::Report(process));
    }

    fn start(&mut self, node: u64) {
        let sim = self.sim.clone();
        let Some(machine) = self.machines.get_mut(&node).filter(|machine| machine.running.is_none() && !machine.given_up) else { return };
        match machine.start(sim.now(), &self.plan, &self.catalogue) {
            Ok(process) => {
                let running = machine.running.as_ref().expect("it was just started");
                let view = running.handle.view();
                sim.note(format_args!("{node} starts, its log ends at {}", view.end));
                if let Err(why) = self.ghost.opened(process, running.handle.member, &view) {
                    return sim.broken(why);
                }
                self.enter(process);
            }
            Err(NotStarted::Later) => {
                sim.note(format_args!("{node} does not start yet"));
                // Half a start leaves the disk in some state as well.
                let death = if machine.disk.has_power() { Death::Killed } else { Death::NoPower };
                let mut chance = sim.inside().chance.fork();
                machine.die(death, &mut chance);
                sim.after(sim.between_ms(100, 400), Event::Start(node));
            }
            Err(NotStarted::Refused(why, damage)) if machine.rotten => {
                sim.note(format_args!("{node} refuses to start: {why}"));
                sim.inside().marks.add(Mark::DamageRefused);
                match damage {
                    None => machine.given_up = true,
                    Some(damage) => {
                        let repaired = self.repair(node, damage);
                        let again = if repaired { sim.between_ms(1, 20) } else { sim.between_ms(200, 600) };
                        sim.after(again, Event::Start(node));
                    }
                }
            }
            Err(NotStarted::Refused(why, _)) => sim.broken(format!("R1: node {node} can't open what it wrote: {why}")),
        }
    }

    /// Repairs the copy of a machine that is off, as a broker does: a range with what the leader has, or the whole copy begins anew if somebody leads.
    fn repair(&self, node: u64, damage: Damage) -> bool {
        let serves = |machine: &&Machine| machine.node != node && machine.running.as_ref().is_some_and(|running| running.handle.view().serves);
        let Some(leader) = self.machines.values().find(serves).and_then(|machine| machine.running.as_ref()) else { return false };
        let Some(machine) = self.machines.get(&node) else { return false };
        let committed = leader.handle.view().hw;
        if let Damage::Range { from, to } = damage
            && to <= committed
            && let Ok(bytes) = leader.handle.reader().stretch(from, to, usize::MAX)
            && machine.mend(from, &bytes)
        {
            self.sim.note(format_args!("{node} is mended from {from} to {to}"));
            self.sim.inside().marks.add(Mark::Mended);
            return true;
        }
        self.sim.note(format_args!("{node} is to begin anew"));
        self.sim.inside().marks.add(Mark::MadeAnew);
        machine.begin_anew().is_ok()
    }

    /// Compares what a replica has now with what was committed.
    fn look_at(&mut self, process: Process) {
        let Some(machine) = self.machines.get(&process.node) else { return };
        let Some(running) = &machine.running else { return };
        let Some(log) = running.replica.log() else { return };
        let view = running.handle.view();
        let config = view.leads.and_then(|epoch| self.control.configs.get(&epoch));
        if machine.rotten {
            self.ghost.lost_sight();
            return;
        }
        if let Err(why) = self.ghost.observe(&self.sim, process, running.handle.member, &view, log, config) {
            self.sim.broken(why);
        }
    }

    /// Whether a leader of the current epoch serves.
    pub fn serves(&self) -> bool {
        let epoch = self.control.reign.epoch();
        let views = self.machines.values().filter_map(|machine| Some(machine.running.as_ref()?.handle.view()));
        self.control.reign.pending().is_none() && views.into_iter().any(|view| view.serves && view.leads == Some(epoch))
    }

    /// Whether all members have the same, all of it committed and applied.
    pub fn is_level(&self) -> bool {
        if self.control.changes() {
            return false;
        }
        let members = self.control.reign.config().members();
        let views: Vec<_> = self
            .machines
            .values()
            .filter(|machine| machine.member.is_some_and(|member| members.contains(&member)) && !machine.given_up)
            .map(|machine| machine.running.as_ref().map(|running| running.handle.view()))
            .collect();
        let Some(Some(first)) = views.first() else { return false };
        views.iter().all(|view| view.as_ref().is_some_and(|view| (view.end, view.hw, view.applied) == (first.end, first.end, first.end)))
    }
}

/// A message in few words.
fn brief(message: &Message) -> String {
    match message {
        Message::Frames(frames) => {
            format!("frames of epoch {} behind {:?}, {} bytes, hw {}", frames.epoch, frames.prev, frames.bytes.len(), frames.hw)
        }
        Message::Ack(ack) => format!("has {} of epoch {} durably, applied {}", ack.durable, ack.epoch, ack.applied),
        other => format!("{other:?}"),
    }
}
