//! The world around the core: a log that may lose its end, an index made from it, and answers that leave when what they rest on is committed.

use gantry_broker::record::{EpochStart, Record};
use gantry_broker::shard::core::{Action, Core, Draft, Entries, Entry, Event, Limits, Reply, Token};
use gantry_broker::shard::send::Class;
use gantry_broker::shard::state::State;
use gantry_broker::shard::state::seen::Row;
use gantry_model::filter::{Sql, Verdict};
use gantry_model::handle::TransactionHandle;
use gantry_model::{ClientId, Lsn, Offset, QueueKey, ShardId, Topic};
use gantry_store::index::{Due, Timer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A message with nothing but what decides its way.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its number in this history.
    pub number: usize,
    pub tag_hash: u32,
    pub lane: u32,
    pub class: Class,
}

impl Draft for Item {
    fn size(&self) -> usize {
        1
    }

    fn class(&self) -> &Class {
        &self.class
    }

    fn message_id(&self) -> String {
        self.class.id.to_string()
    }
}

/// One frame of the log.
#[derive(Clone, Debug)]
struct Frame {
    time: u64,
    record: Option<Record>,
    /// The message that came with it, and the place it got.
    message: Option<Placed>,
    /// Set if a client sent it.
    id: Option<u128>,
}

/// A message at its place.
#[derive(Clone, Copy, Debug)]
struct Placed {
    queue: QueueKey,
    offset: Offset,
    number: usize,
    tag_hash: u32,
    lane: u32,
}

/// What the log says where messages are.
#[derive(Default)]
pub struct Index {
    rows: BTreeMap<QueueKey, Vec<(Entry, usize)>>,
    timers: BTreeSet<Timer>,
}

impl Index {
    fn add(&mut self, lsn: usize, time: u64, placed: &Placed) {
        let rows = self.rows.entry(placed.queue).or_default();
        assert_eq!(rows.len() as u64, placed.offset.0, "O1: the offsets of {:?} are dense", placed.queue);
        let entry = Entry { lsn: Lsn(lsn as u64), len: 0, tag_hash: placed.tag_hash, lane: placed.lane, time };
        rows.push((entry, placed.number));
    }

    fn add_timer(&mut self, lsn: usize, record: Option<&Record>) {
        if let Some(Record::Delayed(delayed)) = record {
            self.timers.insert(Timer { due: Due { time: delayed.deliver_ms, position: Lsn(lsn as u64) }, queue: delayed.queue });
        }
    }

    /// When the message at a place was stored there.
    pub fn stored_at(&self, queue: QueueKey, offset: u64) -> Option<u64> {
        self.entry(queue, offset).map(|entry| entry.time)
    }

    /// The number of the message at a place.
    pub fn number(&self, queue: QueueKey, offset: u64) -> Option<usize> {
        self.rows.get(&queue)?.get(offset as usize).map(|(_, number)| *number)
    }

    /// All messages of a queue by offset: number and lane.
    pub fn queue(&self, queue: QueueKey) -> impl Iterator<Item = (u64, usize, u32)> + '_ {
        self.rows.get(&queue).into_iter().flatten().enumerate().map(|(offset, (entry, number))| (offset as u64, *number, entry.lane))
    }

    pub fn queues(&self) -> impl Iterator<Item = QueueKey> + '_ {
        self.rows.keys().copied()
    }
}

impl Entries for Index {
    fn entry(&self, queue: QueueKey, offset: u64) -> Option<Entry> {
        self.rows.get(&queue)?.get(offset as usize).map(|(entry, _)| *entry)
    }

    fn verdict(&self, _: &Entry, _: &Sql) -> Verdict {
        Verdict::NoMatch
    }

    fn first_at(&self, queue: QueueKey, time: u64) -> Option<u64> {
        self.rows.get(&queue)?.iter().position(|(entry, _)| entry.time >= time).map(|at| at as u64)
    }

    fn timers(&self, after: Due, until: u64, limit: usize) -> Option<Vec<Timer>> {
        let due = self.timers.iter().filter(|timer| timer.due > after && timer.due.time <= until);
        Some(due.take(limit).copied().collect())
    }

    fn next_timer(&self, after: Due) -> Option<u64> {
        self.timers.iter().find(|timer| timer.due > after).map(|timer| timer.due.time)
    }

    fn timers_of(&self, (from, to): (Lsn, Lsn), after: Due, limit: usize) -> Option<Vec<Timer>> {
        let inside = |timer: &&Timer| timer.due > after && (from..to).contains(&timer.due.position);
        Some(self.timers.iter().filter(inside).take(limit).copied().collect())
    }

    fn by_key(&self, _: u64, _: usize) -> Option<Vec<Lsn>> {
        // Nothing is trimmed here, so no delayed message ever moves and has to be found by its id.
        Some(Vec::new())
    }

    fn end(&self) -> Lsn {
        Lsn(u64::MAX)
    }
}

/// A core, its log and its clock.
pub struct World {
    pub core: Core<Item>,
    pub index: Index,
    pub now: u64,
    log: Vec<Frame>,
    committed: usize,
    /// Answers with the length of the log they rest on.
    pending: Vec<(usize, Token, Reply)>,
    /// Answers that left.
    pub replies: BTreeMap<Token, Reply>,
    /// Questions about transactions that nobody answered yet.
    pub checks: Vec<(TransactionHandle, ClientId, Offset)>,
    tokens: u64,
    /// Tells what happens, for a person who looks for the reason of a failure.
    pub tell: bool,
    topic: Arc<Topic>,
}

impl World {
    /// A shard's world with one topic.
    pub fn new(topic: Arc<Topic>, shard: ShardId) -> World {
        let now = 1_700_000_000_000;
        let mut world = World {
            core: Core::new(State::default(), shard, Limits::default(), now),
            index: Index::default(),
            now,
            log: Vec::new(),
            committed: 0,
            pending: Vec::new(),
            replies: BTreeMap::new(),
            checks: Vec::new(),
            tokens: 0,
            tell: false,
            topic,
        };
        world.begin(0);
        world
    }

    fn begin(&mut self, shift_ms: u64) {
        let epoch = self.core.state.head.epoch + 1;
        let actions = self.core.start(EpochStart { epoch, shift_ms, unclean: false, copies: None });
        self.perform(actions);
        self.step(Event::TopicKnown { topic: self.topic.clone() });
        self.commit();
    }

    pub fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    pub fn step(&mut self, event: Event<Item>) {
        if self.tell && !matches!(event, Event::Settle | Event::Tick | Event::Committed { .. }) {
            println!("{} {event:?}", self.now);
        }
        let mut actions = Vec::new();
        self.core.step(self.now, event, &self.index, &mut actions);
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action<Item>>) {
        for action in actions {
            match action {
                Action::Store { queue, offset, head, draft, .. } => {
                    let placed = Placed { queue, offset, number: draft.number, tag_hash: draft.tag_hash, lane: draft.lane };
                    self.append(Frame { time: self.now, record: head, message: Some(placed), id: Some(draft.class.id) });
                }
                Action::Append { record } => self.append(Frame { time: self.now, record: Some(record), message: None, id: None }),
                Action::Copy { record, from } => {
                    let original = self.log[from.0 as usize].message.expect("a copy is made of a message");
                    let placed = record.placed().map(|(queue, offset)| Placed { queue, offset, ..original });
                    self.append(Frame { time: self.now, record: Some(record), message: placed, id: None });
                }
                Action::Check { handle, sender, at } => self.checks.push((handle, sender, at)),
                // Nobody has lite topics here.
                Action::Lost(_) => {}
                Action::Reply { token, reply } => self.pending.push((self.log.len(), token, reply)),
            }
        }
    }

    fn append(&mut self, frame: Frame) {
        self.index.add_timer(self.log.len(), frame.record.as_ref());
        if self.tell {
            println!("    {frame:?}");
        }
        if let Some(placed) = &frame.message {
            self.index.add(self.log.len(), frame.time, placed);
        }
        if let Some(record) = &frame.record {
            let read = Record::decode(record.kind(), &record.encode());
            assert_eq!(read.as_ref(), Ok(&Some(record.clone())), "what is applied is what is written");
        }
        self.log.push(frame);
    }

    /// Rounds until nothing is left to do at this time: what was put off is appended, everything becomes durable, answers leave, messages become
    /// visible.
    pub fn settle(&mut self) {
        loop {
            self.step(Event::Settle);
            if self.core.next_event().is_some_and(|time| time <= self.now) {
                self.step(Event::Tick);
            }
            while let Some(timer) = self.core.due_timer() {
                assert!(timer.due.time <= self.now, "S1: {timer:?} is released early, at {}", self.now);
                self.step(Event::TimerDue { timer, readable: true });
            }
            self.commit();
            if self.uncommitted() == 0 && self.pending.is_empty() {
                break;
            }
        }
    }

    /// Asserts what must always hold inside.
    pub fn check(&self) {
        self.core.state.cursors().for_each(|(_, _, cursor)| cursor.check());
    }

    fn commit(&mut self) {
        self.committed = self.log.len();
        for (_, token, reply) in std::mem::take(&mut self.pending) {
            if self.tell {
                println!("    {token:?}: {reply:?}");
            }
            self.replies.insert(token, reply);
        }
        let appended = self.core.appended();
        self.step(Event::Committed { appended });
    }

    /// How many frames would be lost by a crash now.
    pub fn uncommitted(&self) -> usize {
        self.log.len() - self.committed
    }

    /// Everything behind the commit is lost but for the first `kept` frames; a new core leads after a pause. Answers the tokens whose answers
    /// are lost.
    pub fn crash(&mut self, kept: usize, pause_ms: u64) -> Vec<Token> {
        if self.tell {
            println!("{} crash, {kept} of {} frames are kept, pause of {pause_ms} ms", self.now, self.uncommitted());
        }
        let whole = kept >= self.uncommitted();
        self.log.truncate(self.committed + kept);
        let state = self.replay();
        assert!(!whole || state == self.core.state, "L4: the log says what the leader knew");
        self.now += pause_ms;
        self.core = Core::new(state, self.core.shard, Limits::default(), self.now);
        self.checks.clear();
        let lost = self.pending.drain(..).map(|(_, token, _)| token).collect();
        self.begin(if pause_ms < 2_000 { 0 } else { pause_ms.min(30_000) });
        lost
    }

    /// The state and the index that the log amounts to.
    fn replay(&mut self) -> State {
        let mut state = State::default();
        self.index = Index::default();
        for (lsn, frame) in self.log.iter().enumerate() {
            self.index.add_timer(lsn, frame.record.as_ref());
            if let Some(placed) = &frame.message {
                self.index.add(lsn, frame.time, placed);
            }
            match (&frame.record, &frame.message) {
                (Some(record), _) => state.apply(record),
                (None, Some(placed)) => assert_eq!(state.apply_message_at(placed.queue, placed.offset), placed.offset, "O1"),
                (None, None) => {}
            }
            if let (Some(id), Some(placed)) = (frame.id, &frame.message) {
                state.seen.remember(Row { id, queue: placed.queue, offset: placed.offset.0, time: frame.time });
            }
        }
        state
    }

    /// Whether a message at a place is committed; deliveries of others are mistakes.
    pub fn is_committed(&self, queue: QueueKey, offset: u64) -> bool {
        self.index.entry(queue, offset).is_some_and(|entry| (entry.lsn.0 as usize) < self.committed)
    }
}
