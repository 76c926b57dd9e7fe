//! A core without a world: a test plays the driver, commits when it wants to, and keeps the log to replay it.

use super::asks::{Ask, Told};
use super::core::{Action, After, Core, Draft, Entries, Entry, Event, Given, Limits, Reply, Token};
use super::lite::Lost;
use super::parked;
use super::polls::{Poll, Seeks, Wanted};
use super::send::Class;
use super::state::State;
use super::state::lite::is_lite;
use super::state::seen::Row;
use crate::record::{EpochStart, Record};
use gantry_model::contract::broker::{AttemptCount, LeaseError, LeaseTerm, QueuePosition, Sent};
use gantry_model::filter::{Properties, Sql, Verdict};
use gantry_model::group::{GroupSpec, Order};
use gantry_model::handle::TransactionHandle;
use gantry_model::topic::{Permission, Queue, QueueState, Retention, TopicType};
use gantry_model::{
    ClientId, Filter, Group, GroupId, GroupName, Lsn, MessageKind, Offset, QueueKey, ReceiptHandle, RetryPolicy, ShardId, Topic, TopicId, TopicName,
};
use gantry_store::index::{Due, KeyKind, Timer, key_hash};
use gantry_store::record::tag_hash;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A message without a body.
#[derive(Debug, Clone)]
pub struct Note {
    pub tag: Option<&'static str>,
    pub class: Class,
}

impl Note {
    /// A message that goes to the queues in turn.
    pub fn plain(id: u128, tag: Option<&'static str>) -> Note {
        let class = Class { kind: MessageKind::Normal, id, group: None, priority: None, deliver_ms: None, lite: None, recovery_ms: None };
        Note { tag, class }
    }

    /// A message that is due later.
    pub fn delayed(id: u128, deliver_ms: u64) -> Note {
        let plain = Note::plain(id, None);
        Note { class: Class { kind: MessageKind::Delay, deliver_ms: Some(deliver_ms), ..plain.class }, ..plain }
    }

    /// A message whose producer has yet to commit it.
    pub fn half(id: u128) -> Note {
        let plain = Note::plain(id, None);
        Note { class: Class { kind: MessageKind::Transaction, ..plain.class }, ..plain }
    }
}

impl Draft for Note {
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

/// The index, as far as the core asks.
#[derive(Default)]
pub struct Notes {
    queues: BTreeMap<QueueKey, (u64, Vec<Entry>)>,
    timers: BTreeSet<Timer>,
    /// The message id of each frame that has one.
    pub ids: BTreeMap<Lsn, u128>,
    /// Frames below are gone.
    pub start: Lsn,
}

impl Notes {
    fn add(&mut self, queue: QueueKey, offset: Offset, entry: Entry) {
        // Only a lite topic that has an old number begins above 0.
        let start = if is_lite(queue) { offset.0 } else { 0 };
        let (start, entries) = self.queues.entry(queue).or_insert((start, Vec::new()));
        assert_eq!(*start + entries.len() as u64, offset.0, "offsets are dense");
        entries.push(entry);
    }

    fn add_timer(&mut self, record: Option<&Record>, position: Lsn) {
        if let Some(Record::Delayed(delayed)) = record {
            self.timers.insert(Timer { due: Due { time: delayed.deliver_ms, position }, queue: delayed.queue });
        }
    }

    /// The ids of the messages of a queue, in its order.
    pub fn ids_of(&self, queue: QueueKey) -> Vec<u128> {
        self.queues.get(&queue).into_iter().flat_map(|(_, entries)| entries).map(|entry| self.ids[&entry.lsn]).collect()
    }

    fn after(&self, after: Due, limit: usize, wanted: impl Fn(&Timer) -> bool) -> Vec<Timer> {
        let live = |timer: &&Timer| timer.due > after && timer.due.position >= self.start && wanted(timer);
        self.timers.iter().filter(live).take(limit).copied().collect()
    }
}

/// The record, after a look at its bytes.
fn written(record: Record) -> Record {
    assert_eq!(Record::decode(record.kind(), &record.encode()), Ok(Some(record.clone())), "what is applied is what is written");
    record
}

impl Entries for Notes {
    fn entry(&self, queue: QueueKey, offset: u64) -> Option<Entry> {
        let (start, entries) = self.queues.get(&queue)?;
        entries.get(offset.checked_sub(*start)? as usize).copied()
    }

    fn verdict(&self, _: &Entry, sql: &Sql) -> Verdict {
        struct Nothing;
        impl Properties for Nothing {
            fn get(&self, _: &str) -> Option<std::borrow::Cow<'_, str>> {
                None
            }
        }
        sql.matches(&Nothing)
    }

    fn first_at(&self, queue: QueueKey, time: u64) -> Option<u64> {
        let (start, entries) = self.queues.get(&queue)?;
        entries.iter().position(|entry| entry.time >= time).map(|at| *start + at as u64)
    }

    fn timers(&self, after: Due, until: u64, limit: usize) -> Option<Vec<Timer>> {
        Some(self.after(after, limit, |timer| timer.due.time <= until))
    }

    fn next_timer(&self, after: Due) -> Option<u64> {
        self.after(after, 1, |_| true).first().map(|timer| timer.due.time)
    }

    fn timers_of(&self, (from, to): (Lsn, Lsn), after: Due, limit: usize) -> Option<Vec<Timer>> {
        Some(self.after(after, limit, |timer| (from..to).contains(&timer.due.position)))
    }

    fn by_key(&self, hash: u64, limit: usize) -> Option<Vec<Lsn>> {
        let named = |id: &u128| key_hash(topic().id, KeyKind::MessageId, id.to_string().as_bytes()) == hash;
        let found = self.ids.iter().rev().filter(|(lsn, id)| **lsn >= self.start && named(id));
        Some(found.map(|(lsn, _)| *lsn).take(limit).collect())
    }

    fn end(&self) -> Lsn {
        Lsn(u64::MAX)
    }
}

/// What the log holds, for a replay.
#[derive(Clone, Debug)]
pub enum Logged {
    Message(Row),
    /// A record that brings a message which a client just sent.
    Sent(Record, Row),
    Record(Record),
}

pub struct Rig {
    pub core: Core<Note>,
    pub notes: Notes,
    pub log: Vec<Logged>,
    pub now: u64,
    pub replies: BTreeMap<Token, Reply>,
    /// Of the topic that sends and receives use.
    pub kind: TopicType,
    /// Questions about transactions that nobody reported on yet.
    pub checks: Vec<(TransactionHandle, ClientId)>,
    pub lost: Vec<Lost>,
    tokens: u64,
}

pub const QUEUES: u32 = 3;

pub fn topic() -> Arc<Topic> {
    Arc::new(Topic {
        id: TopicId(1),
        name: TopicName { namespace: String::new(), name: "t".into() },
        kind: TopicType::Normal,
        permission: Permission::ReadWrite,
        queues: vec![Queue { shard: ShardId(0), state: QueueState::Active }; QUEUES as usize],
        retention: Retention::default(),
        options: Default::default(),
        created_ms: 0,
    })
}

pub fn group(id: u32, max_attempts: u32) -> Arc<Group> {
    let spec = GroupSpec::on_first_use(GroupName { namespace: String::new(), name: format!("g{id}") });
    Arc::new(Group {
        id: GroupId(id),
        name: spec.name,
        order: Order::None,
        max_attempts,
        retry: RetryPolicy::Customized { delays_ms: vec![1_000] },
        start: spec.start,
        dead_letter: TopicId(100 + id),
        auto_renew_cap_ms: 3_600_000,
        options: Default::default(),
        created_ms: 0,
    })
}

impl Rig {
    pub fn new() -> Rig {
        Rig::over(State::default(), Notes::default(), Vec::new(), 1_000)
    }

    pub fn over(state: State, notes: Notes, log: Vec<Logged>, now: u64) -> Rig {
        let core = Core::new(state, ShardId(0), Limits::default(), now);
        let mut rig =
            Rig { core, notes, log, now, replies: BTreeMap::new(), kind: TopicType::Normal, checks: Vec::new(), lost: Vec::new(), tokens: 0 };
        let epoch = rig.core.state.head.epoch + 1;
        let actions = rig.core.start(EpochStart { epoch, shift_ms: 0, unclean: false, copies: None });
        rig.perform(actions);
        rig
    }

    /// A crash after everything was committed: the state comes from the log alone.
    pub fn restart(self) -> Rig {
        let state = replay(&self.log);
        assert!(state == self.core.state, "the log says what the leader knew");
        let mut rig = Rig::over(state, self.notes, self.log, self.now);
        (rig.tokens, rig.kind) = (self.tokens, self.kind);
        rig
    }

    pub fn step(&mut self, event: Event<Note>) {
        let mut actions = Vec::new();
        self.core.step(self.now, event, &self.notes, &mut actions);
        self.perform(actions);
    }

    /// Everything that a driver's round does after its events.
    pub fn settle(&mut self) {
        self.step(Event::Settle);
        self.step(Event::Committed { appended: self.core.appended() });
        self.step(Event::Tick);
        while let Some(timer) = self.core.due_timer() {
            assert!(timer.due.time <= self.now, "never early");
            self.step(Event::TimerDue { timer, readable: true });
        }
        self.step(Event::Committed { appended: self.core.appended() });
        for (_, _, cursor) in self.core.state.cursors() {
            cursor.check();
        }
    }

    fn perform(&mut self, actions: Vec<Action<Note>>) {
        for action in actions {
            let lsn = Lsn(self.log.len() as u64);
            match action {
                Action::Store { queue, offset, head, draft, .. } => {
                    let entry = Entry {
                        lsn,
                        len: 0,
                        tag_hash: draft.tag.map_or(0, tag_hash),
                        lane: draft.class.group.map_or(0, |group| group as u32),
                        time: self.now,
                    };
                    self.notes.add(queue, offset, entry);
                    self.notes.ids.insert(lsn, draft.class.id);
                    self.notes.add_timer(head.as_ref(), lsn);
                    let row = Row { id: draft.class.id, queue, offset: offset.0, time: self.now };
                    self.log.push(head.map_or(Logged::Message(row), |record| Logged::Sent(written(record), row)));
                }
                Action::Append { record } => {
                    if let Record::Trim(trim) = &record {
                        self.notes.start = self.notes.start.max(trim.start);
                    }
                    if let Record::LiteDrop(drop) = &record {
                        self.notes.queues.retain(|queue, _| !drop.queues.contains(queue));
                    }
                    self.log.push(Logged::Record(written(record)));
                }
                Action::Lost(lost) => self.lost.push(lost),
                Action::Copy { record, from } => {
                    let id = self.notes.ids[&from];
                    self.notes.ids.insert(lsn, id);
                    self.notes.add_timer(Some(&record), lsn);
                    let (queue, offset) = record.placed().expect("a copy has a place");
                    self.notes.add(queue, offset, Entry { lsn, len: 0, tag_hash: 0, lane: 0, time: self.now });
                    self.log.push(Logged::Record(written(record)));
                }
                Action::Check { handle, sender, at } => {
                    assert!(self.notes.entry(parked::halves(handle.topic), at.0).is_some(), "the message of the question is there");
                    self.checks.push((handle, sender));
                }
                Action::Reply { token, reply } => assert!(self.replies.insert(token, reply).is_none(), "one answer per request"),
            }
        }
    }

    pub fn topic(&self) -> Arc<Topic> {
        Arc::new(Topic { kind: self.kind, ..(*topic()).clone() })
    }

    /// Sends one message after the other, each with an id of its own.
    pub fn send_notes(&mut self, notes: Vec<Note>) -> Vec<Sent> {
        let mut sent = Vec::new();
        for note in notes {
            let token = self.token();
            self.step(Event::Send { token, topic: self.topic(), client: ClientId::new("p"), drafts: vec![note] });
            self.settle();
            let Some(Reply::Sent(answers)) = self.replies.remove(&token) else { panic!("expected an answer") };
            sent.extend(answers.into_iter().map(|answer| answer.expect("nothing refuses a send here")));
        }
        sent
    }

    /// Sends messages of these groups, in this order.
    pub fn send_groups(&mut self, groups: &[u64]) -> Vec<Sent> {
        let notes = groups.iter().map(|&group| {
            let mut note = Note::plain(u128::from(self.token().0) << 64, None);
            (note.class.kind, note.class.group) = (MessageKind::Fifo, Some(group));
            note
        });
        let notes = notes.collect();
        self.send_notes(notes)
    }

    pub fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    pub fn send(&mut self, tags: &[Option<&'static str>]) {
        for &tag in tags {
            let token = self.token();
            let drafts = vec![Note::plain(u128::from(token.0), tag)];
            self.step(Event::Send { token, topic: topic(), client: ClientId::new("p"), drafts });
        }
        self.settle();
    }

    pub fn poll(&mut self, group: &Arc<Group>, client: &str, max: u32, filter: Filter, term: LeaseTerm, wait_ms: u64) -> Token {
        let token = self.token();
        let poll = Poll {
            group: group.clone(),
            topic: self.topic(),
            wanted: Wanted::new(Arc::new(filter)),
            client: ClientId::new(client),
            max,
            term,
            deadline: self.now + wait_ms,
            attempt_id: None,
            ordered_batch: true,
            member: "host".into(),
            seeks: Seeks::Messages,
        };
        self.step(Event::Receive { token, poll });
        self.settle();
        token
    }

    /// A receive that doesn't wait, for 10 s.
    pub fn receive(&mut self, group: &Arc<Group>, max: u32) -> Vec<Given> {
        let token = self.poll(group, "c", max, Filter::All, LeaseTerm::For(Duration::from_secs(10)), 0);
        self.answer(token)
    }

    pub fn answer(&mut self, token: Token) -> Vec<Given> {
        match self.replies.remove(&token) {
            Some(Reply::Delivered { lease, .. }) => lease,
            other => panic!("expected deliveries for {token:?}, got {other:?}"),
        }
    }

    pub fn ack(&mut self, group: &Arc<Group>, given: &[Given]) -> Vec<Result<(), LeaseError>> {
        let token = self.token();
        let handles = given.iter().map(|given| handle(group, given)).collect();
        self.step(Event::Ack { token, group: group.id, handles });
        self.settle();
        match self.replies.remove(&token) {
            Some(Reply::Acked(answers)) => answers,
            other => panic!("expected acknowledgements, got {other:?}"),
        }
    }

    pub fn change(&mut self, group: &Arc<Group>, given: &Given, after_ms: u64, attempt: AttemptCount) -> Result<(), LeaseError> {
        let token = self.token();
        self.step(Event::Change {
            token,
            group: group.clone(),
            handle: handle(group, given),
            after: After { asked_ms: after_ms, failed_ms: 0 },
            attempt,
        });
        self.settle();
        match self.replies.remove(&token) {
            Some(Reply::Changed(answer)) => answer,
            other => panic!("expected a change, got {other:?}"),
        }
    }

    /// Asks something that is answered at once.
    pub fn ask(&mut self, ask: Ask) -> Told {
        let token = self.token();
        self.step(Event::Ask { token, ask });
        self.settle();
        match self.replies.remove(&token) {
            Some(Reply::Told(told)) => told,
            other => panic!("expected an answer, got {other:?}"),
        }
    }

    pub fn sleep(&mut self, ms: u64) {
        self.now += ms;
        self.settle();
    }

    pub fn positions(&mut self, group: &Arc<Group>) -> QueuePosition {
        let token = self.token();
        self.step(Event::Positions { token, group: group.clone(), topic: topic() });
        let Some(Reply::Positions(positions)) = self.replies.remove(&token) else { panic!("expected positions") };
        positions.into_iter().fold(QueuePosition::default(), |mut sum, one| {
            sum.ready += one.ready;
            sum.in_flight += one.in_flight;
            sum.waiting += one.waiting;
            sum
        })
    }
}

pub fn handle(group: &Group, given: &Given) -> ReceiptHandle {
    ReceiptHandle {
        shard: ShardId(0),
        topic: given.queue.topic(),
        group: group.id,
        queue: given.queue.queue(),
        offset: Offset(given.offset),
        lease: given.lease,
        reset: given.reset,
        attempt: given.attempt,
    }
}

/// The state that a log amounts to.
pub fn replay(log: &[Logged]) -> State {
    replay_over(State::default(), log)
}

pub fn replay_over(mut state: State, log: &[Logged]) -> State {
    for logged in log {
        match logged {
            Logged::Message(row) => {
                assert_eq!(state.apply_message_at(row.queue, Offset(row.offset)), Offset(row.offset));
                state.seen.remember(*row);
                state.lite.touched(row.queue, row.time);
            }
            Logged::Sent(record, row) => {
                state.apply(record);
                state.seen.remember(*row);
            }
            Logged::Record(record) => state.apply(record),
        }
    }
    state
}
