//! Time, chance, and what is under way: the one place from which all parts of a run take them.
//!
//! Everything that will happen lies in one list, by the time at which it does and then by the order in which it was put there. Nothing else moves
//! time, so a seed decides everything.

use crate::book::Book;
use crate::marks::Marks;
use crate::trace::Trace;
use gantry_broker::LocalBroker;
use gantry_broker::replica::View;
use gantry_broker::replica::message::Message;
use gantry_platform::chance::{Chance, SeededChance};
use gantry_store::replica::message::{Ack, Grant, Refused, Seal, SealOk};
use gantry_store::replica::{Incarnation, Member};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// The controller's place among the nodes.
pub const CONTROLLER: u64 = 0;
/// The clients' place among the nodes.
pub const CLIENTS: u64 = 99;

/// One run of one node's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub node: u64,
    pub run: u64,
}

/// A stream between two processes, seen from one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream {
    pub number: u64,
    pub from: Process,
    pub to: Process,
}

/// From the controller to a process.
#[derive(Clone, Debug)]
pub enum Order {
    Seal(Seal),
    Become(Grant),
    HandOver(Option<Member>),
    /// The leader is there.
    Follow(u64),
    /// These are to be sent the log as well.
    Teach(BTreeSet<Member>),
}

/// From a process to the controller.
#[derive(Clone, Debug)]
pub enum Word {
    SealOk(SealOk),
    Refused(Refused),
    Began { epoch: gantry_model::Epoch, refused: Option<String> },
    Ready(Result<Member, String>),
    Report { member: Member, incarnation: Incarnation, view: View },
}

/// What a replica gave its word for.
#[derive(Clone, Copy, Debug)]
pub enum Said {
    Ack(Ack),
    Promise(Member, gantry_model::Epoch),
}

/// What will happen.
#[derive(Debug)]
pub enum Event {
    /// A replica takes a round.
    Turn(Process),
    /// A worker of a process does a job.
    Job(Process),
    /// A message arrives.
    Peer(Stream, Message),
    Order(Process, Order),
    Word(Process, Word),
    /// A process tells the controller how it does.
    Report(Process),
    /// The controller looks around.
    Tick,
    /// A node's process starts.
    Start(u64),
    Fault,
    /// Something that a fault did ends.
    Mend(crate::faults::Mend),
    /// A client goes on.
    Wake(oneshot::Sender<()>),
}

/// How the network is.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// One message in so many is lost.
    pub loss: Option<u64>,
    /// One message in so many comes twice.
    pub twice: Option<u64>,
    /// Messages overtake each other.
    pub overtaking: bool,
    /// The longest way, in µs.
    pub way_us: u64,
    /// Pairs between which nothing arrives, from and to.
    pub cut: BTreeSet<(u64, u64)>,
}

/// What is shared by all parts of a run.
pub struct Inside {
    pub now: Duration,
    order: u64,
    events: BTreeMap<(Duration, u64), Event>,
    pub chance: SeededChance,
    pub weather: Weather,
    pub trace: Trace,
    pub book: Book,
    pub marks: Marks,
    /// Processes that run, by their nodes.
    pub brokers: BTreeMap<u64, (Process, Arc<LocalBroker>)>,
    /// Nodes whose replica has something to do.
    pub stirred: BTreeSet<u64>,
    /// Streams by number, with the time before which nothing more arrives at either end.
    arrivals: BTreeMap<(u64, Process), Duration>,
    streams: u64,
    /// Acknowledgements and promises of the round that is taken, in their order.
    pub said: Vec<Said>,
    /// What is wrong, once something is.
    pub broken: Option<String>,
    /// Faults are over.
    pub peace: bool,
}

/// A handle to the run.
#[derive(Clone)]
pub struct Sim(Arc<Mutex<Inside>>);

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sim")
    }
}

impl Sim {
    pub fn new(seed: u64, trace: Trace, book: Book) -> Sim {
        let chance = SeededChance::new(seed);
        Sim(Arc::new(Mutex::new(Inside {
            now: Duration::ZERO,
            order: 0,
            events: BTreeMap::new(),
            chance,
            weather: Weather { way_us: 1_500, ..Weather::default() },
            trace,
            book,
            marks: Marks::default(),
            brokers: BTreeMap::new(),
            stirred: BTreeSet::new(),
            arrivals: BTreeMap::new(),
            streams: 0,
            said: Vec::new(),
            broken: None,
            peace: false,
        })))
    }

    pub fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Duration {
        self.inside().now
    }

    /// A number below `n`.
    pub fn below(&self, n: u64) -> u64 {
        self.inside().chance.below(n)
    }

    pub fn in_one_of(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A time between two, in milliseconds.
    pub fn between_ms(&self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1_000 + self.below((to - from) * 1_000 + 1))
    }

    /// Something happens after this time.
    pub fn after(&self, time: Duration, event: Event) {
        self.inside().after(time, event);
    }

    pub fn note(&self, line: fmt::Arguments<'_>) {
        let mut inside = self.inside();
        let now = inside.now;
        inside.trace.note(now, line);
    }

    /// An invariant does not hold. The first one counts.
    pub fn broken(&self, why: String) {
        self.inside().broken(why);
    }

    /// Waits in the time of the run.
    pub async fn sleep(&self, time: Duration) {
        let (wake, woken) = oneshot::channel();
        self.after(time, Event::Wake(wake));
        // Only the end of the run drops the other end.
        let _ = woken.await;
    }

    /// A message leaves one end of a stream.
    pub fn send(&self, stream: Stream, message: Message) {
        let mut inside = self.inside();
        if let Message::Ack(ack) = &message {
            inside.said.push(Said::Ack(*ack));
        }
        let Some(way) = inside.way(stream.from.node, stream.to.node) else { return };
        let mut at = inside.now + way;
        if !inside.weather.overtaking {
            let last = inside.arrivals.entry((stream.number, stream.to)).or_default();
            at = at.max(*last + Duration::from_nanos(1));
            *last = at;
        }
        if inside.weather.twice.is_some_and(|one_in| inside.chance.below(one_in) == 0) {
            let again = at + Duration::from_micros(inside.chance.below(20_000));
            inside.at(again, Event::Peer(stream, message.clone()));
        }
        inside.at(at, Event::Peer(stream, message));
    }

    /// A process tells the controller something.
    pub fn tell(&self, from: Process, word: Word) {
        let mut inside = self.inside();
        if let Word::SealOk(ok) = &word {
            inside.said.push(Said::Promise(ok.member, ok.epoch));
        }
        if let Some(way) = inside.way(from.node, CONTROLLER) {
            inside.after(way, Event::Word(from, word));
        }
    }

    /// The controller tells a process something.
    pub fn order(&self, to: Process, order: Order) {
        let mut inside = self.inside();
        if let Some(way) = inside.way(CONTROLLER, to.node) {
            inside.after(way, Event::Order(to, order));
        }
    }
}

impl Inside {
    fn at(&mut self, time: Duration, event: Event) {
        self.order += 1;
        self.events.insert((time, self.order), event);
    }

    pub fn after(&mut self, time: Duration, event: Event) {
        self.at(self.now + time, event);
    }

    /// The next event with its time.
    pub fn take_next(&mut self) -> Option<(Duration, Event)> {
        let ((time, _), event) = self.events.pop_first()?;
        Some((time, event))
    }

    /// What was taken from the list and is not to happen yet.
    pub fn put_back(&mut self, time: Duration, event: Event) {
        // Nothing else that happens at this time was put there before it.
        self.events.insert((time, 0), event);
    }

    pub fn new_stream(&mut self) -> u64 {
        self.streams += 1;
        self.streams
    }

    /// How long something takes from one node to another; `None` if it never arrives.
    pub fn way(&mut self, from: u64, to: u64) -> Option<Duration> {
        if self.weather.cut.contains(&(from, to)) {
            return None;
        }
        if self.weather.loss.is_some_and(|one_in| self.chance.below(one_in) == 0) {
            return None;
        }
        let longest = self.weather.way_us;
        // Most ways are short.
        let us = if self.chance.ratio(4, 5) { longest / 8 } else { longest };
        Some(Duration::from_micros(50 + self.chance.below(us.max(1))))
    }

    /// Nothing more arrives of what is on its way between two nodes.
    pub fn reset(&mut self, one: u64, other: u64) -> usize {
        let before = self.events.len();
        let between = |stream: &Stream| [(one, other), (other, one)].contains(&(stream.from.node, stream.to.node));
        self.events.retain(|_, event| !matches!(event, Event::Peer(stream, _) if between(stream)));
        before - self.events.len()
    }

    pub fn broken(&mut self, why: String) {
        if self.broken.is_none() {
            let now = self.now;
            self.trace.note(now, format_args!("BROKEN: {why}"));
            self.broken = Some(why);
        }
    }
}
