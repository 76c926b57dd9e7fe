//! The deterministic heart of a shard: takes an event and the time, changes its state, and says what is to be done.
//!
//! It does no I/O, reads no clock and starts nothing. A thread (or a simulation) brings events, performs the actions in their order, and reports
//! what is committed. The rule that keeps clients safe: nothing leaves before what it rests on is committed. Messages become visible to
//! receivers with [`Event::Committed`]; a reply is sent by the driver once everything appended before it is committed.

use super::asks::{Ask, Told};
use super::lite::Lost;
use super::members::reading_for;
use super::offers::Offers;
use super::parked;
use super::polls::{Poll, Polls};
use super::pulls::Pulls;
use super::send::Class;
use super::state::transactions::{Open, TxnKey};
use super::state::{Bounds, State};
use super::timers::Releases;
use super::transactions::{Asked, Checks};
use crate::record::{EpochStart, Forget, Record, Trim};
use gantry_model::contract::broker::{
    AttemptCount, EndError, EndedBy, LeaseError, LiteError, LiteSync, QueueBounds, QueuePosition, RecallError, Resolution, SendError, Sent,
};
use gantry_model::filter::{Sql, Verdict};
use gantry_model::handle::{RecallHandle, TransactionHandle};
use gantry_model::{ClientId, Group, GroupId, LeaseId, Lsn, Offset, QueueKey, ReceiptHandle, ShardId, Topic, TopicId};
use gantry_store::index::{Due, Timer};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Names a request until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What the core asks about stored messages. The answers are functions of the log.
pub trait Entries {
    /// Where a message is, and its tag.
    fn entry(&self, queue: QueueKey, offset: u64) -> Option<Entry>;
    /// What an expression says of a message's properties.
    fn verdict(&self, entry: &Entry, sql: &Sql) -> Verdict;
    /// The first offset stored at or after a time.
    fn first_at(&self, queue: QueueKey, time: u64) -> Option<u64>;
    /// Delayed messages after `after` that are due at `until` or before, in the order of release; `None` if they can't be looked up now.
    fn timers(&self, after: Due, until: u64, limit: usize) -> Option<Vec<Timer>>;
    /// When the first delayed message after `after` is due.
    fn next_timer(&self, after: Due) -> Option<u64>;
    /// Delayed messages of one sealed segment, as `timers`.
    fn timers_of(&self, segment: (Lsn, Lsn), after: Due, limit: usize) -> Option<Vec<Timer>>;
    /// Frames with this key hash; `None` if they can't be looked up now.
    fn by_key(&self, hash: u64, limit: usize) -> Option<Vec<Lsn>>;
    /// Frames from here on can't be read yet.
    fn end(&self) -> Lsn;
}

/// What the index says of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub lsn: Lsn,
    /// Length of the frame there.
    pub len: u32,
    pub tag_hash: u32,
    /// The message group as a number; 0 without one.
    pub lane: u32,
    pub time: u64,
}

/// A message on its way into the log, encoded by the caller but for what the core decides.
pub trait Draft: Send {
    /// Bytes it will take in the log.
    fn size(&self) -> usize;
    fn class(&self) -> &Class;
    /// The client's own id.
    fn message_id(&self) -> String;
}

/// When a delivery ends that its consumer changes.
#[derive(Clone, Copy, Debug)]
pub struct After {
    pub asked_ms: u64,
    /// The least if it failed and was renewed automatically until now.
    pub failed_ms: u64,
}

/// What happens to a shard.
#[derive(Debug)]
pub enum Event<D> {
    Send {
        token: Token,
        topic: Arc<Topic>,
        client: ClientId,
        drafts: Vec<D>,
    },
    Receive {
        token: Token,
        poll: Poll,
    },
    /// The caller of a receive went away.
    Cancel {
        token: Token,
    },
    Ack {
        token: Token,
        group: GroupId,
        handles: Vec<ReceiptHandle>,
    },
    Change {
        token: Token,
        group: Arc<Group>,
        handle: ReceiptHandle,
        after: After,
        attempt: AttemptCount,
    },
    Dead {
        token: Token,
        group: Arc<Group>,
        handle: ReceiptHandle,
    },
    Release {
        handles: Vec<ReceiptHandle>,
    },
    ClientGone {
        client: ClientId,
    },
    Positions {
        token: Token,
        group: Arc<Group>,
        topic: Arc<Topic>,
    },
    Queues {
        token: Token,
        topic: Arc<Topic>,
    },
    /// A topic's definition as the controller has it now.
    TopicKnown {
        topic: Arc<Topic>,
    },
    /// What [`Core::due_timer`] named is due, and there is room for it.
    TimerDue {
        timer: Timer,
        /// Whether its message can be read.
        readable: bool,
    },
    /// What [`Core::next_move`] named is to leave the segment that ends at `end`.
    TimerMove {
        timer: Timer,
        end: Lsn,
        readable: bool,
    },
    /// A producer takes a delayed message back.
    Recall {
        token: Token,
        handle: RecallHandle,
    },
    EndTransaction {
        token: Token,
        topic: Arc<Topic>,
        id: u64,
        resolution: Resolution,
        by: EndedBy,
    },
    ResumeTransaction {
        token: Token,
        key: TxnKey,
    },
    OpenTransactions {
        token: Token,
        topic: TopicId,
        /// The lowest number to show.
        from: u64,
        limit: usize,
    },
    /// What became of an [`Action::Check`].
    Asked {
        key: TxnKey,
        asked: Asked,
    },
    /// A producer of these topics can be reached.
    ProducerReady {
        topics: Vec<TopicId>,
    },
    /// Messages of open transactions must move, so that the part of the log where they are can go.
    Repark {
        topic: TopicId,
        ids: Vec<u64>,
    },
    /// Something about positions or dead letters.
    Ask {
        token: Token,
        ask: Ask,
    },
    /// A client says which lite topics it wants.
    SyncLite {
        token: Token,
        sync: LiteSync,
    },
    /// Lite topics that got no message since a time: those that nobody needs end.
    DropLites {
        topic: Arc<Topic>,
        queues: Vec<QueueKey>,
        idle_since: u64,
    },
    /// A group's definition as the controller has it now.
    GroupKnown {
        group: Arc<Group>,
    },
    Forget {
        what: Forget,
    },
    /// Time for retention: the log should begin at `start`, these queues at these offsets.
    Trim {
        start: Lsn,
        queues: Vec<(QueueKey, u64)>,
    },
    /// Everything appended up to this number is durable on enough replicas.
    Committed {
        appended: u64,
    },
    /// Nothing else to do: collect what was put off.
    Settle,
    Tick,
    /// No more work: open polls end empty.
    Drain,
}

/// What the driver must do, in this order.
#[derive(Debug)]
pub enum Action<D> {
    /// Append a message with the place it was given, behind the record that brings it along, if one does.
    Store {
        queue: QueueKey,
        offset: Offset,
        batch: BatchPart,
        head: Option<Record>,
        draft: D,
    },
    Append {
        record: Record,
    },
    /// Append a record that brings along the message of an older frame.
    Copy {
        record: Record,
        from: Lsn,
    },
    /// Ask a producer of the topic what became of its transaction, and report with [`Event::Asked`]. The message is parked at `at`.
    Check {
        handle: TransactionHandle,
        sender: ClientId,
        at: Offset,
    },
    /// Tell a client that it lost a lite topic.
    Lost(Lost),
    Reply {
        token: Token,
        reply: Reply,
    },
}

/// Where a message stands in a batch that is stored as a whole or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchPart {
    Alone,
    First,
    Inner,
    Last,
}

impl BatchPart {
    pub(super) fn of(number: usize, count: usize) -> BatchPart {
        match number {
            _ if count == 1 => BatchPart::Alone,
            0 => BatchPart::First,
            _ if number + 1 == count => BatchPart::Last,
            _ => BatchPart::Inner,
        }
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Sent(Vec<Result<Sent, SendError>>),
    Delivered {
        lease: Vec<Given>,
        shard: ShardId,
    },
    /// There is something for a receive that seeks an offer; it may lease it under its own name.
    Offered,
    Acked(Vec<Result<(), LeaseError>>),
    Changed(Result<(), LeaseError>),
    Positions(Vec<QueuePosition>),
    Queues(Vec<QueueBounds>),
    Recalled(Result<(), RecallError>),
    LiteSynced(Result<(), LiteError>),
    TooManyPolls,
    Ended(Result<(), EndError>),
    OpenTransactions(Vec<(u64, Open)>),
    Told(Told),
    GroupPulls,
}

/// One delivery, before the message itself is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The group, or its member if it is a broadcasting one.
    pub group: GroupId,
    pub queue: QueueKey,
    pub offset: u64,
    pub lease: LeaseId,
    pub attempt: u32,
    pub reset: u32,
}

/// Bounds that a test or an operator may change.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Receives that may wait at the same time.
    pub polls: usize,
    pub leases_per_cursor: usize,
    pub cursor_span: u64,
    /// Messages that one delivery looks at before it lets others go on.
    pub scan: usize,
    /// Delayed messages that were overdue when the leader began are released at most this fast.
    pub overdue_per_s: u64,
    /// Open transactions, those included that were given up.
    pub transactions: usize,
    /// Lite topics that all clients together may subscribe.
    pub lite_subscriptions: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        use gantry_model::limits::{CURSOR_SPAN_MAX, LEASES_PER_CURSOR, LITE_SUBSCRIPTIONS_MAX};
        Limits {
            polls: 100_000,
            leases_per_cursor: LEASES_PER_CURSOR,
            cursor_span: CURSOR_SPAN_MAX,
            scan: 4_096,
            overdue_per_s: 20_000,
            transactions: 100_000,
            lite_subscriptions: LITE_SUBSCRIPTIONS_MAX,
        }
    }
}

/// How this leader began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reign {
    /// The time of the last frame of the leader before.
    pub log_ended: u64,
    /// By how much deadlines moved.
    pub shift_ms: u64,
}

/// One shard's leader.
pub struct Core<D> {
    pub state: State,
    pub shard: ShardId,
    pub limits: Limits,
    pub(super) now: u64,
    pub(super) polls: Polls,
    pub(super) offers: Offers,
    pub(super) pulls: Pulls,
    pub(super) groups: HashMap<GroupId, Arc<Group>>,
    pub(super) reign: Reign,
    /// When members of broadcasting groups last asked.
    pub(super) member_seen: HashMap<GroupId, u64>,
    pub(super) topics: HashMap<TopicId, Arc<Topic>>,
    pub(super) releases: Releases,
    /// Acknowledged in this round, not appended yet: many acks become one frame.
    pub(super) acks: BTreeMap<GroupId, BTreeMap<QueueKey, BTreeSet<u64>>>,
    /// When a cursor needs to be looked at; an entry may be early, never missing.
    pub(super) timers: BTreeSet<(u64, QueueKey, GroupId)>,
    /// Cursors whose time came before their group was known.
    pub(super) orphans: BTreeSet<(GroupId, QueueKey)>,
    /// What clients hold under leases that last as long as they live.
    pub(super) owned: BTreeMap<ClientId, BTreeSet<(QueueKey, GroupId, u64)>>,
    /// Groups that have more to look at on a topic for receives that wait.
    pub(super) scanning: BTreeSet<(TopicId, GroupId)>,
    /// Messages that a filter could not be asked about.
    pub filter_errors: Cell<u64>,
    /// Messages that are appended and not committed, in the order of the log.
    uncommitted: VecDeque<(u64, QueueKey, u64)>,
    /// First uncommitted offset and how many follow, per queue.
    hidden: HashMap<QueueKey, (u64, u64)>,
    appended: u64,
    pub(super) rotation: HashMap<TopicId, u32>,
    pub(super) checks: Checks,
    draining: bool,
    pub(super) out: Vec<Action<D>>,
}

impl<D: Draft> Core<D> {
    /// A leader over what the log said.
    pub fn new(state: State, shard: ShardId, limits: Limits, now: u64) -> Core<D> {
        let mut core = Core {
            state,
            shard,
            limits,
            now,
            polls: Polls::default(),
            offers: Offers::default(),
            pulls: Pulls::default(),
            groups: HashMap::new(),
            reign: Reign::default(),
            member_seen: HashMap::new(),
            topics: HashMap::new(),
            releases: Releases::new(),
            acks: BTreeMap::new(),
            timers: BTreeSet::new(),
            orphans: BTreeSet::new(),
            owned: BTreeMap::new(),
            scanning: BTreeSet::new(),
            filter_errors: Cell::new(0),
            uncommitted: VecDeque::new(),
            hidden: HashMap::new(),
            appended: 0,
            rotation: HashMap::new(),
            checks: Checks::default(),
            draining: false,
            out: Vec::new(),
        };
        core.rearm();
        core.greet_lite();
        core
    }

    /// Begins a reign.
    pub fn start(&mut self, start: EpochStart) -> Vec<Action<D>> {
        self.reign = Reign { log_ended: self.now, shift_ms: start.shift_ms };
        self.append(Record::EpochStart(start));
        self.rearm();
        std::mem::take(&mut self.out)
    }

    /// Handles one event at a time and adds what is to be done to `out`.
    pub fn step(&mut self, now: u64, event: Event<D>, entries: &dyn Entries, out: &mut Vec<Action<D>>) {
        self.now = self.now.max(now);
        std::mem::swap(out, &mut self.out);
        match event {
            Event::Send { token, topic, client, drafts } => self.send(token, &topic, &client, drafts),
            Event::Receive { token, poll } => self.receive(token, poll, entries),
            Event::Cancel { token } => {
                self.polls.cancel(token);
                self.pulls.cancel(token);
                self.decline(token, entries);
            }
            Event::Ack { token, group, handles } => self.ack(token, group, &handles),
            Event::Change { token, group, handle, after, attempt } => self.change(token, group, handle, after, attempt),
            Event::Dead { token, group, handle } => self.dead(token, group, handle, entries),
            Event::Release { handles } => self.release(&handles, entries),
            Event::ClientGone { client } => self.client_gone(&client, entries),
            Event::Positions { token, group, topic } => self.positions(token, &group, &topic, entries),
            Event::Queues { token, topic } => self.queues(token, &topic),
            Event::EndTransaction { token, topic, id, resolution, by } => self.end_transaction(token, &topic, id, (resolution, by), entries),
            Event::ResumeTransaction { token, key } => self.resume_transaction(token, key),
            Event::OpenTransactions { token, topic, from, limit } => self.open_transactions(token, topic, from, limit),
            Event::Asked { key, asked } => self.asked(key, asked),
            Event::ProducerReady { topics } => self.producer_ready(&topics),
            Event::Repark { topic, ids } => self.repark_halves(topic, &ids, entries),
            Event::Ask { token, ask } => self.tell(token, ask, entries),
            Event::SyncLite { token, sync } => self.sync_lite(token, &sync, entries),
            Event::DropLites { topic, queues, idle_since } => self.drop_lites(&topic, queues, idle_since, entries),
            Event::GroupKnown { group } => self.know(group),
            Event::TopicKnown { topic } => self.know_topic(topic),
            Event::TimerDue { timer, readable } => self.release_timer(timer, readable, entries),
            Event::TimerMove { timer, end, readable } => self.move_timer(timer, end, readable),
            Event::Recall { token, handle } => self.recall(token, &handle, entries),
            Event::Forget { what } => self.forget(what),
            Event::Trim { start, queues } => self.trim(start, queues),
            Event::Committed { appended } => self.committed(appended, entries),
            Event::Settle => self.settle(entries),
            Event::Tick => self.tick(entries),
            Event::Drain => self.drain(),
        }
        self.wake_lite(entries);
        std::mem::swap(out, &mut self.out);
    }

    /// When something happens by itself next, in the shard's time.
    pub fn next_event(&self) -> Option<u64> {
        let timer = self.timers.first().map(|&(time, ..)| time);
        let timer = if self.scanning.is_empty() { timer } else { Some(self.now) };
        let waits = self.polls.next_deadline().into_iter().chain(self.pulls.next_deadline()).chain(self.offers.next_deadline());
        timer.into_iter().chain(waits).chain(self.next_timer()).chain(self.checks.next_event()).min()
    }

    /// Whether something will end by itself: a lease, or the wait of a message.
    pub fn holds_leases(&self) -> bool {
        !self.timers.is_empty()
    }

    /// Clients that hold messages as long as they live.
    pub fn owners(&self) -> impl Iterator<Item = &ClientId> + '_ {
        self.owned.keys()
    }

    /// Number of the newest record or message appended.
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// Whether a receive or a pull is waiting and nothing was granted to it yet.
    pub fn is_waiting(&self, token: Token) -> bool {
        self.polls.get(token).is_some() || self.pulls.contains(token)
    }

    pub fn open_polls(&self) -> usize {
        self.polls.count() + self.pulls.count()
    }

    pub fn now(&self) -> u64 {
        self.now
    }

    /// A message was appended; nobody may see it before it is committed, and nobody ever sees what is parked.
    pub(super) fn hide(&mut self, queue: QueueKey, offset: Offset) {
        self.appended += 1;
        if parked::is_parked(queue) {
            return;
        }
        self.uncommitted.push_back((self.appended, queue, offset.0));
        self.hidden.entry(queue).or_insert((offset.0, 0)).1 += 1;
    }

    /// One past the newest message of a queue that may be delivered.
    pub(super) fn visible_end(&self, queue: QueueKey) -> u64 {
        match self.hidden.get(&queue) {
            Some(&(first, _)) => first,
            None => self.state.bounds(queue).next,
        }
    }

    fn committed(&mut self, appended: u64, entries: &dyn Entries) {
        let mut topics = BTreeSet::new();
        while let Some(&(number, queue, offset)) = self.uncommitted.front() {
            if number > appended {
                break;
            }
            self.uncommitted.pop_front();
            if let Some(hidden) = self.hidden.get_mut(&queue) {
                *hidden = (offset + 1, hidden.1 - 1);
                if hidden.1 == 0 {
                    self.hidden.remove(&queue);
                }
            }
            self.polls.arrived(queue);
            self.wake_pulls(queue);
            topics.insert(queue.topic());
        }
        for topic in topics {
            self.serve_topic(topic, entries);
        }
    }

    fn queues(&mut self, token: Token, topic: &Topic) {
        let bounds = topic.queues().filter(|(_, place)| place.shard == self.shard).map(|(queue, _)| {
            let key = QueueKey::new(topic.id, queue);
            let Bounds { min, bytes, .. } = self.state.bounds(key);
            QueueBounds { queue, min: Offset(min), max: Offset(self.visible_end(key)), bytes }
        });
        let reply = Reply::Queues(bounds.collect());
        self.reply(token, reply);
    }

    fn forget(&mut self, what: Forget) {
        self.flush_acks();
        if let Forget::Group(group) = what {
            let members: Vec<GroupId> = self.members_of(group).map(|member| member.id).collect();
            members.into_iter().for_each(|member| self.forget(Forget::Group(member)));
        }
        self.append(Record::Forget(what));
        self.polls.forget(what).into_iter().for_each(|token| self.end_poll(token));
        self.offers.forget(what);
        match what {
            Forget::Topic(topic) => {
                self.rotation.remove(&topic);
                self.topics.remove(&topic);
                self.checks.forget_topic(topic);
                let over = self.pulls.of_topic(topic);
                self.end_pulls(over);
            }
            Forget::Group(group) => drop(self.groups.remove(&group)),
        }
    }

    fn trim(&mut self, start: Lsn, queues: Vec<(QueueKey, u64)>) {
        self.flush_acks();
        self.lites_trimmed(&queues);
        self.append(Record::Trim(Trim { start, queues }));
    }

    fn drain(&mut self) {
        self.draining = true;
        self.polls.drain().into_iter().for_each(|token| self.end_poll(token));
        let over = self.pulls.overdue(u64::MAX);
        self.end_pulls(over);
    }

    pub(super) fn draining(&self) -> bool {
        self.draining
    }

    pub(super) fn end_poll(&mut self, token: Token) {
        let shard = self.shard;
        self.reply(token, Reply::Delivered { lease: Vec::new(), shard });
    }

    pub(super) fn reply(&mut self, token: Token, reply: Reply) {
        self.out.push(Action::Reply { token, reply });
    }

    /// Appends a record; the one way in which the state changes.
    pub(super) fn append(&mut self, record: Record) {
        self.state.apply(&record);
        self.appended += 1;
        self.out.push(Action::Append { record });
    }

    /// Appends a record that brings along the message in the frame at `from`.
    pub(super) fn append_copy(&mut self, record: Record, from: Lsn) {
        self.state.apply(&record);
        match record.placed() {
            Some((queue, offset)) => self.hide(queue, offset),
            None => self.appended += 1,
        }
        self.out.push(Action::Copy { record, from });
    }

    /// Learns a group's definition; what waited for it is looked at next.
    pub(super) fn know(&mut self, group: Arc<Group>) {
        let members: Vec<Arc<Group>> = self.members_of(group.id).map(|member| reading_for(&group, member)).collect();
        members.into_iter().for_each(|member| self.know_one(member));
        self.know_one(group);
    }

    fn know_one(&mut self, group: Arc<Group>) {
        let (id, attempts) = (group.id, group.max_attempts);
        let known = self.groups.insert(id, group).map(|known| known.max_attempts);
        if known.is_some_and(|known| known != attempts) {
            // What had used up its attempts may have some again, and the other way round.
            let held = self.state.cursors().filter(|(_, group, cursor)| *group == id && !cursor.waiting.is_empty());
            self.timers.extend(held.map(|(queue, group, _)| (self.now, queue, group)));
        }
        if known.is_none() {
            self.doubt_answers(id);
            let waiting: Vec<_> = self.orphans.range((id, QueueKey(0))..=(id, QueueKey(u64::MAX))).copied().collect();
            for (group, queue) in waiting {
                self.orphans.remove(&(group, queue));
                self.timers.insert((self.now, queue, group));
            }
        }
    }

    /// Makes sure that a cursor is looked at when its next lease lapses or its next message becomes visible.
    pub(super) fn arm(&mut self, queue: QueueKey, group: GroupId) {
        if let Some(time) = self.state.cursor(group, queue).and_then(|cursor| cursor.next_event(self.now)) {
            self.timers.insert((time, queue, group));
        }
    }

    fn rearm(&mut self) {
        self.timers.clear();
        self.owned.clear();
        self.rearm_checks();
        for (queue, group, cursor) in self.state.cursors() {
            if let Some(time) = cursor.next_event(0) {
                self.timers.insert((time, queue, group));
            }
            for (&offset, lease) in &cursor.leases {
                if let Some(owner) = &lease.owner {
                    self.owned.entry(owner.clone()).or_default().insert((queue, group, offset));
                }
            }
        }
    }
}
