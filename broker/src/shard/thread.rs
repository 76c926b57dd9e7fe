//! The thread of a shard: brings requests to the core, performs what the core decided, and makes it durable.
//!
//! One round is: take what is in the inbox, step the core for each, write what was staged with one `pwrite`, `fdatasync`, then answer and
//! make messages visible. While the disk syncs, the inbox fills: the sync is the batching window, and there is no commit timer.
//!
//! Nothing here waits but the inbox and the disk. A disk that fails ends the thread: nothing more is acknowledged (a second sync after a failed
//! one proves nothing), the status says so, and the process is to restart.

use super::asks::Told;
use super::clock::ShardClock;
use super::commit::Rounds;
use super::core::{Action, Core, Entries, Entry, Event, Given, Reply, Token};
use super::due::{Leaving, OldReads};
use super::halves::{Listed, Question};
use super::inbox::{Find, Found, Inbox, Leased, Request, Status, Wish, next_request};
use super::lead::{HandingOver, Mail};
use super::polls::{Poll, Wanted};
use super::upkeep::Upkeep;
use crate::admission::Permit;
use crate::alive::Alive;
use crate::draft::{self, Draft};
use crate::filter;
use crate::local::transactions::Reach;
use crate::post::{Letter, ReplyTo};
use crate::record::{EpochStart, Forget};
use crate::replica::leading::{LOOK, Leading};
use gantry_model::contract::broker::{EndError, LeaseError, LiteError, QueueBounds, QueuePosition, RecallError, SendError, Sent, ShardCondition};
use gantry_model::filter::{Sql, Verdict};
use gantry_model::{Group, GroupId, Lsn, Offset, QueueKey, ReceiptHandle, ShardId, Topic, TopicId};
use gantry_platform::clock::SharedClock;
use gantry_platform::workers::SharedWorkers;
use gantry_store::frame::{Flags, Kind};
use gantry_store::index::{self, Due, Index, LookupError, Timer};
use gantry_store::log::{AppendError, CommitLog, LogReader};
use gantry_store::zoo;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// Most requests of one round, and most bytes staged before a write; both only bound the latency of the first.
const ROUND_REQUESTS: usize = 4_096;
pub(super) const ROUND_BYTES: usize = 1024 * 1024;
/// Without work the thread looks up this often: durable marks, retention, the disk's room.
const IDLE: Duration = Duration::from_millis(1_000);
/// While the lead is handed over, clients wait.
const HURRY: Duration = Duration::from_millis(5);
/// While messages are leased, the log gets a frame at least this often.
const HEARTBEAT_MS: u64 = 1_000;

/// Who waits for an answer.
pub(super) enum Waiter {
    Send { reply: ReplyTo<Vec<Result<Sent, SendError>>>, _permit: Permit },
    Receive(ReplyTo<Leased>),
    Ack(ReplyTo<Vec<Result<(), LeaseError>>>),
    Change(ReplyTo<Result<(), LeaseError>>),
    Positions(ReplyTo<Vec<QueuePosition>>),
    Queues(ReplyTo<Vec<QueueBounds>>),
    Recall(ReplyTo<Result<(), RecallError>>),
    Ended(ReplyTo<Result<(), EndError>>),
    OpenTransactions { reply: ReplyTo<Vec<Listed>>, topic: TopicId },
    Ask(ReplyTo<Told>),
    SyncLite(ReplyTo<Result<(), LiteError>>),
}

/// Who waits, by their tokens. Those who still do when a leader ends are told in an order that a simulation can repeat.
pub(super) type Waiters = HashMap<Token, Waiter, BuildHasherDefault<TokenHasher>>;

/// Spreads tokens, which count up, over a table. They come from ourselves, so nobody can choose them to collide.
#[derive(Default)]
pub(super) struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, token: u64) {
        // The high bits of the product are the mixed ones; the table looks at the low and the highest.
        let mixed = (self.0 ^ token).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What a shard's thread has in any role.
pub struct Parts {
    pub log: CommitLog,
    pub clock: SharedClock,
    pub inbox: Inbox,
    pub requests: Receiver<Request>,
    pub status: Arc<Status>,
    pub upkeep: Upkeep,
    /// To those who can reach producers; the core bounds how many are under way.
    pub questions: UnboundedSender<Question>,
    pub alive: Arc<Alive>,
    pub reach: Reach,
    pub catalogue: Catalogue,
    /// Who reads for followers that lack much.
    pub workers: SharedWorkers,
}

/// What the controller said while this replica followed, for when it leads.
#[derive(Default)]
pub struct Catalogue {
    pub topics: BTreeMap<TopicId, Arc<Topic>>,
    pub groups: BTreeMap<GroupId, Arc<Group>>,
    pub forgotten: Vec<Forget>,
}

/// Everything a leading shard's thread owns.
pub struct Driver {
    pub core: Core<Draft>,
    pub log: CommitLog,
    pub reader: LogReader,
    pub index: Index,
    pub clock: ShardClock,
    pub(super) machine: SharedClock,
    pub inbox: Inbox,
    pub requests: Receiver<Request>,
    pub status: Arc<Status>,
    pub upkeep: Upkeep,
    pub(super) questions: UnboundedSender<Question>,
    alive: Arc<Alive>,
    pub(super) reach: Reach,
    /// The segment that the index is being filled for.
    pub(super) indexed: Lsn,
    pub(super) waiters: Waiters,
    /// What waits to be committed.
    pub(super) rounds: Rounds,
    /// The other copies of the shard, if it is to have any.
    pub(super) leading: Option<Leading>,
    pub(super) mail: Mail,
    pub(super) handing_over: Option<HandingOver>,
    catalogue: Catalogue,
    pub(super) workers: SharedWorkers,
    /// Events that the driver itself brings, before the next request.
    pub(super) own: VecDeque<Event<Draft>>,
    pub(super) actions: Vec<Action<Draft>>,
    /// The time of the last frame.
    pub(super) written: u64,
    /// A message that was just read to be appended again, with its old address.
    pub(super) in_hand: Option<(Lsn, bytes::Bytes)>,
    /// The segment that pending delayed messages are moved out of.
    pub(super) leaving: Option<Leaving>,
    pub(super) old: OldReads,
    /// Requests of the round before.
    last_taken: usize,
    stop: bool,
}

/// The index as the core sees it. Once something of it could not be read, what the core concludes counts for nothing: a message that is only not found
/// would be passed over for ever.
pub(super) struct IndexEntries<'a> {
    index: &'a Index,
    reader: &'a LogReader,
    unreadable: Cell<Option<LookupError>>,
}

impl IndexEntries<'_> {
    fn found<T>(&self, looked_up: Result<T, LookupError>) -> Option<T> {
        looked_up.map_err(|error| self.unreadable.set(Some(error))).ok()
    }
}

impl Entries for IndexEntries<'_> {
    fn entry(&self, queue: QueueKey, offset: u64) -> Option<Entry> {
        let found = self.found(self.index.lookup(queue, Offset(offset))).flatten()?;
        Some(Entry { lsn: found.position, len: found.len, tag_hash: found.tag_hash, lane: found.lane, time: found.time })
    }

    fn verdict(&self, entry: &Entry, sql: &Sql) -> Verdict {
        // A message that can't be read is given out, and the read that follows says what is wrong.
        let Ok(frame) = self.reader.frame_of(entry.lsn, entry.len) else { return Verdict::Match };
        filter::verdict(&draft::message_of(&frame), sql)
    }

    fn first_at(&self, queue: QueueKey, time: u64) -> Option<u64> {
        self.found(self.index.first_at_or_after_time(queue, time)).map(|offset| offset.0)
    }

    fn timers(&self, after: Due, until: u64, limit: usize) -> Option<Vec<Timer>> {
        readable(self.index.timers(after, until, limit))
    }

    fn next_timer(&self, after: Due) -> Option<u64> {
        self.timers(after, u64::MAX, 1)?.first().map(|timer| timer.due.time)
    }

    fn timers_of(&self, segment: (Lsn, Lsn), after: Due, limit: usize) -> Option<Vec<Timer>> {
        readable(self.index.timers_of(segment.0, after, limit))
    }

    fn by_key(&self, hash: u64, limit: usize) -> Option<Vec<Lsn>> {
        readable(self.index.by_key(hash, limit))
    }

    fn end(&self) -> Lsn {
        self.reader.end()
    }
}

fn readable<T>(found: Result<Vec<T>, LookupError>) -> Option<Vec<T>> {
    found.inspect_err(|error| tracing::error!(%error, "the index of delayed messages can't be read; they wait")).ok()
}

impl Driver {
    /// A leader of a shard whose state and index have everything in the log.
    pub fn new(parts: Parts, core: Core<Draft>, index: Index, clock: ShardClock) -> Driver {
        let Parts { log, clock: machine, inbox, requests, status, upkeep, questions, alive, reach, mut catalogue, workers } = parts;
        let (reader, indexed) = (log.reader(), log.active_base());
        let groups = catalogue.groups.values().map(|group| Event::GroupKnown { group: group.clone() });
        let topics = catalogue.topics.values().map(|topic| Event::TopicKnown { topic: topic.clone() });
        let forgotten = catalogue.forgotten.drain(..).map(|what| Event::Forget { what });
        let own = groups.chain(topics).chain(forgotten).collect();
        Driver {
            core,
            log,
            reader,
            index,
            clock,
            machine,
            inbox,
            requests,
            status,
            upkeep,
            questions,
            alive,
            reach,
            indexed,
            waiters: Waiters::default(),
            rounds: Rounds::default(),
            leading: None,
            mail: Mail::default(),
            handing_over: None,
            catalogue,
            workers,
            own,
            actions: Vec::new(),
            written: 0,
            in_hand: None,
            leaving: None,
            old: OldReads::default(),
            last_taken: 0,
            stop: false,
        }
    }

    /// Gives up leading. Who waits for an answer is told nothing.
    pub fn into_parts(mut self) -> Parts {
        self.refuse_held();
        let Driver { log, machine, inbox, requests, status, upkeep, questions, alive, reach, catalogue, workers, .. } = self;
        Parts { log, clock: machine, inbox, requests, status, upkeep, questions, alive, reach, catalogue, workers }
    }

    /// Begins the reign and makes its first record durable, so that nothing is served before.
    pub fn start(&mut self, shift_ms: u64) -> Result<(), AppendError> {
        self.clock.now_ms();
        let epoch = self.core.state.head.epoch + 1;
        self.actions = self.core.start(EpochStart { epoch, shift_ms, unclean: false, copies: None });
        self.perform()?;
        self.commit()?;
        self.publish();
        Ok(())
    }

    /// Works until it is told to stop or the disk fails.
    pub fn run(mut self) -> Result<(), AppendError> {
        while !self.stop {
            let patience = self.patience();
            let first = next_request(&self.requests, patience);
            if let Err(error) = self.round(first) {
                tracing::error!(shard = self.core.shard.0, %error, "the log can't be written; nothing more is acknowledged");
                self.status.set_condition(ShardCondition::Failed);
                return Err(error);
            }
        }
        self.close()
    }

    /// The end of a clean run.
    pub fn close(mut self) -> Result<(), AppendError> {
        let end = self.log.end();
        // What is not committed may yet be cut off, so nothing derived from it is kept.
        if self.hw() == end && self.log.staged_bytes() == 0 {
            self.upkeep.finish(&mut self.core.state, &self.index, &self.log, end);
        }
        self.log.close()
    }

    pub fn is_stopped(&self) -> bool {
        self.stop
    }

    /// One round, which begins with this request and takes all that wait behind it.
    pub fn round(&mut self, first: Option<Request>) -> Result<(), AppendError> {
        let now = self.clock.now_ms();
        while let Some(event) = self.own.pop_front() {
            self.step(now, event)?;
        }
        let mut taken = self.take_waiting(now, first)?;
        if taken > 0 && taken * 2 < self.last_taken {
            // Under load a commit that begins with the first of a burst is nearly empty, and costs as much as a full one. Letting the others
            // run once fills it; a lone client never waits, because its rounds are never larger than this one.
            std::thread::yield_now();
            let next = self.requests.try_recv().ok();
            taken += self.take_waiting(now, next)?;
        }
        self.last_taken = taken;
        self.step(now, Event::Settle)?;
        if self.core.next_event().is_some_and(|time| time <= now) {
            self.step(now, Event::Tick)?;
        }
        self.release_due(now)?;
        self.leave_segment(now)?;
        self.commit()?;
        self.keep_up(now)?;
        self.tend_followers();
        for request in self.go_on_handing_over() {
            self.take(now, request)?;
        }
        Ok(())
    }

    /// Takes a request and those that wait behind it, as far as a round goes. Answers how many.
    fn take_waiting(&mut self, now: u64, first: Option<Request>) -> Result<usize, AppendError> {
        let mut taken = 0;
        let mut next = first;
        while let Some(request) = next.take() {
            self.take(now, request)?;
            taken += 1;
            if taken < ROUND_REQUESTS && self.log.staged_bytes() < ROUND_BYTES {
                next = self.requests.try_recv().ok();
            }
        }
        Ok(taken)
    }

    /// How long the next request may be waited for. Not at all if something else is to be done.
    pub(crate) fn patience(&mut self) -> Duration {
        if self.log.staged_bytes() > 0 || self.rounds.is_begun() || !self.own.is_empty() {
            return Duration::ZERO;
        }
        let now = self.clock.now_ms();
        let next = self.core.next_event().into_iter().chain(self.leaving.map(|leaving| leaving.again)).min();
        let idle = match (&self.handing_over, &self.leading) {
            (Some(_), _) => HURRY,
            (None, Some(_)) => LOOK,
            (None, None) => IDLE,
        };
        next.map_or(idle, |time| Duration::from_millis(time.saturating_sub(now)).min(idle))
    }

    fn take(&mut self, now: u64, request: Request) -> Result<(), AppendError> {
        if !self.may_take(&request) {
            request.refuse();
            return Ok(());
        }
        let Some(request) = self.hold(request) else { return Ok(()) };
        match request {
            Request::Peer(event) => self.take_peer(event),
            Request::CaughtUp(read) => {
                self.caught_up(read);
                Ok(())
            }
            Request::Send { topic, client, drafts, permit, reply } => {
                let bytes = drafts.iter().map(super::core::Draft::size).sum();
                let count = drafts.len();
                self.take_send(now, bytes, count, permit, reply, |token| Event::Send { token, topic, client, drafts })
            }
            Request::Receive { token, wish, reply } => self.take_receive(now, token, wish, reply),
            Request::Cancel { token } => {
                // One that was granted a moment ago is taken back when its answer finds nobody.
                if self.core.is_waiting(token) {
                    self.waiters.remove(&token);
                }
                self.step(now, Event::Cancel { token })
            }
            Request::Ack { group, handles, reply } => {
                let token = self.wait_for(Waiter::Ack(reply));
                self.step(now, Event::Ack { token, group, handles })
            }
            Request::Change { group, handle, after, attempt, reply } => {
                let token = self.wait_for(Waiter::Change(reply));
                self.step(now, Event::Change { token, group, handle, after, attempt })
            }
            Request::Dead { group, handle, reply } => {
                let token = self.wait_for(Waiter::Change(reply));
                self.step(now, Event::Dead { token, group, handle })
            }
            Request::Release { handles } => self.step(now, Event::Release { handles }),
            Request::ClientGone { client } => self.step(now, Event::ClientGone { client }),
            Request::Positions { group, topic, reply } => {
                let token = self.wait_for(Waiter::Positions(reply));
                self.step(now, Event::Positions { token, group, topic })
            }
            Request::Queues { topic, reply } => {
                let token = self.wait_for(Waiter::Queues(reply));
                self.step(now, Event::Queues { token, topic })
            }
            Request::Recall { handle, reply } => {
                let token = self.wait_for(Waiter::Recall(reply));
                self.step(now, Event::Recall { token, handle })
            }
            Request::TopicKnown { topic } => self.step(now, Event::TopicKnown { topic }),
            Request::Ask { token, ask, reply } => self.take_ask(now, token, ask, reply),
            Request::SyncLite { sync, reply } => {
                let token = self.wait_for(Waiter::SyncLite(reply));
                self.step(now, Event::SyncLite { token, sync })
            }
            Request::GroupKnown { group } => self.step(now, Event::GroupKnown { group }),
            Request::Forget { what } => self.step(now, Event::Forget { what }),
            other => self.take_transaction(now, other),
        }
    }

    fn take_transaction(&mut self, now: u64, request: Request) -> Result<(), AppendError> {
        match request {
            Request::EndTransaction { topic, id, resolution, by, reply } => {
                if let Some(error) = self.why_not_commit((topic.id, id), resolution)? {
                    let _ = reply.send(Err(error));
                    return Ok(());
                }
                let token = self.wait_for(Waiter::Ended(reply));
                self.step(now, Event::EndTransaction { token, topic, id, resolution, by })
            }
            Request::ResumeTransaction { key, reply } => {
                let token = self.wait_for(Waiter::Ended(reply));
                self.step(now, Event::ResumeTransaction { token, key })
            }
            Request::OpenTransactions { topic, from, limit, reply } => {
                let token = self.wait_for(Waiter::OpenTransactions { reply, topic });
                self.step(now, Event::OpenTransactions { token, topic, from, limit })
            }
            Request::Asked { key, asked } => self.step(now, Event::Asked { key, asked }),
            Request::ProducerReady { topics } => self.step(now, Event::ProducerReady { topics }),
            other => self.take_chore(now, other),
        }
    }

    fn take_chore(&mut self, now: u64, request: Request) -> Result<(), AppendError> {
        match request {
            Request::Find { find, limit, reply } => {
                let _ = reply.send(self.find(&find, limit));
            }
            Request::LiteTopics { topic, after, limit, reply } => {
                let _ = reply.send(self.core.lite_topics(&topic, &after, limit));
            }
            Request::Sealed { run: Ok(run) } => self.index.sealed(run),
            Request::Sealed { run: Err(error) } => tracing::warn!(%error, "an index run could not be written; it is rebuilt at the next start"),
            Request::Checkpointed { at, error } => {
                self.upkeep.checkpointed(at, error, &mut self.core.state);
                self.upkeep.trim_log(&mut self.index, &mut self.log);
            }
            Request::Spared { error } => self.upkeep.spared(error),
            Request::Drain { reply } => {
                self.status.set_condition(ShardCondition::Draining);
                self.step(now, Event::Drain)?;
                let _ = reply.send(());
            }
            _ => self.stop = true,
        }
        Ok(())
    }

    fn take_send(
        &mut self,
        now: u64,
        bytes: usize,
        count: usize,
        permit: Permit,
        reply: ReplyTo<Vec<Result<Sent, SendError>>>,
        event: impl FnOnce(Token) -> Event<Draft>,
    ) -> Result<(), AppendError> {
        if let Some(used_percent) = self.upkeep.full(&mut self.log, bytes)? {
            self.status.set_condition(ShardCondition::Full);
            let _ = reply.send(vec![Err(SendError::DiskFull { used_percent }); count]);
            return Ok(());
        }
        let token = self.wait_for(Waiter::Send { reply, _permit: permit });
        self.step(now, event(token))
    }

    fn take_receive(&mut self, now: u64, token: Token, wish: Wish, reply: ReplyTo<Leased>) -> Result<(), AppendError> {
        self.waiters.insert(token, Waiter::Receive(reply));
        let poll = Poll {
            group: wish.group,
            topic: wish.topic,
            wanted: Wanted::new(wish.filter),
            client: wish.client,
            max: wish.max,
            term: wish.term,
            deadline: now + wish.wait.as_millis() as u64,
            attempt_id: wish.attempt_id,
            ordered_batch: wish.ordered_batch,
            member: wish.member,
            seeks: wish.seeks,
        };
        self.step(now, Event::Receive { token, poll })
    }

    fn wait_for(&mut self, waiter: Waiter) -> Token {
        let token = self.inbox.token();
        self.waiters.insert(token, waiter);
        token
    }

    pub(super) fn entries(&self) -> IndexEntries<'_> {
        IndexEntries { index: &self.index, reader: &self.reader, unreadable: Cell::new(None) }
    }

    pub(super) fn step(&mut self, now: u64, event: Event<Draft>) -> Result<(), AppendError> {
        let entries = IndexEntries { index: &self.index, reader: &self.reader, unreadable: Cell::new(None) };
        self.core.step(now, event, &entries, &mut self.actions);
        // Nothing of this step is written. A start looks through the whole index, and makes anew what is damaged.
        if let Some(error) = entries.unreadable.take().filter(|_| !zoo!(BelieveDamagedIndex)) {
            return Err(AppendError::Failed { doing: "reading the index", error: Arc::new(std::io::Error::other(error.to_string())) });
        }
        self.perform()
    }

    fn keep_up(&mut self, now: u64) -> Result<(), AppendError> {
        self.publish();
        if !self.upkeep.is_due(now) {
            return Ok(());
        }
        if self.core.holds_leases() && now >= self.written + HEARTBEAT_MS {
            // The next leader counts from the last frame how long nobody led.
            self.stage(Kind::Noop, Flags::default(), now, &[])?;
        }
        self.log.idle()?;
        let idle = self.core.idle_members().into_iter().map(|member| Event::Forget { what: Forget::Group(member) });
        self.own.extend(idle);
        let silent = self.core.silent_clients();
        let dead: BTreeSet<_> = self.core.owners().chain(&silent).filter(|client| self.alive.is_dead(client)).cloned().collect();
        self.own.extend(dead.into_iter().map(|client| Event::ClientGone { client }));
        self.upkeep.look_at_disk(&self.status);
        self.upkeep.make_spares(&self.log);
        let idle = self.upkeep.idle_lites(now, &self.core.state);
        self.own.extend(idle.into_iter().map(|(topic, queues, idle_since)| Event::DropLites { topic, queues, idle_since }));
        let removal = self.upkeep.retention(now, &self.core.state, &self.index, &self.log);
        self.leaving = removal.leave.map(|segment| Leaving { segment, again: now });
        let movers: Vec<_> = removal.open.iter().filter_map(|&(queue, last)| self.movers(queue, last)).collect();
        self.own.extend(movers);
        if removal.start > self.log.start() || !removal.queues.is_empty() {
            self.own.push_back(Event::Trim { start: removal.start, queues: removal.queues });
        }
        Ok(())
    }

    fn publish(&self) {
        let (status, head, timers) = (&self.status, &self.core.state.head, &self.core.state.timers);
        let transactions = &self.core.state.transactions;
        let numbers = [
            (&status.epoch, u64::from(head.epoch)),
            (&status.start, self.log.start().0),
            (&status.end, self.log.end().0),
            (&status.durable, self.log.durable().0),
            (&status.open_polls, self.core.open_polls() as u64),
            (&status.messages_stored, head.messages),
            (&status.messages_delivered, head.delivered),
            (&status.messages_acked, head.acked),
            (&status.dead_letters, head.dead_letters),
            (&status.filter_errors, self.core.filter_errors.get()),
            (&status.timers_pending, timers.pending()),
            (&status.timers_released, timers.counts.released),
            (&status.timers_recalled, timers.counts.recalled),
            (&status.timers_orphaned, timers.counts.orphaned),
            (&status.timers_damaged, timers.counts.damaged),
            (&status.timer_lateness_ms, self.core.timer_lateness_ms()),
            (&status.transactions.open, transactions.count() as u64),
            (&status.transactions.committed, transactions.totals.committed),
            (&status.transactions.rolled_back, transactions.totals.rolled_back),
            (&status.transactions.given_up, transactions.totals.given_up),
            (&status.transactions.checks, transactions.totals.checks),
        ];
        numbers.into_iter().for_each(|(place, number)| place.store(number, Ordering::Relaxed));
    }

    /// The letter that answers a request, unless nobody asked any more.
    pub(super) fn answer(&mut self, token: Token, reply: Reply) -> Option<Letter> {
        let shard = self.core.shard;
        match (self.waiters.remove(&token)?, reply) {
            (Waiter::Send { reply, _permit }, Reply::Sent(answers)) => Some(Letter::Sent(reply, answers)),
            (Waiter::Ack(reply), Reply::Acked(answers)) => Some(Letter::Acked(reply, answers)),
            (Waiter::Change(reply), Reply::Changed(answer)) => Some(Letter::Changed(reply, answer)),
            (Waiter::Positions(reply), Reply::Positions(positions)) => Some(Letter::Positions(reply, positions)),
            (Waiter::Recall(reply), Reply::Recalled(answer)) => Some(Letter::Recalled(reply, answer)),
            (Waiter::Queues(reply), Reply::Queues(bounds)) => Some(Letter::Queues(reply, bounds)),
            (Waiter::Ask(reply), Reply::Told(told)) => Some(Letter::Told(reply, told)),
            (Waiter::Receive(reply), Reply::GroupPulls) => Some(Letter::Leased { reply, leased: Leased::GroupPulls, shard }),
            (Waiter::Ended(reply), Reply::Ended(answer)) => Some(Letter::Ended(reply, answer)),
            (Waiter::OpenTransactions { reply, topic }, Reply::OpenTransactions(open)) => {
                Some(Letter::OpenTransactions(reply, self.list(topic, open)))
            }
            (Waiter::SyncLite(reply), Reply::LiteSynced(answer)) => Some(Letter::LiteSynced(reply, answer)),
            (Waiter::Receive(reply), Reply::TooManyPolls) => Some(Letter::Leased { reply, leased: Leased::TooManyPolls, shard }),
            (Waiter::Receive(reply), Reply::Offered) => Some(Letter::Leased { reply, leased: Leased::Offered(token), shard }),
            (Waiter::Receive(reply), Reply::Delivered { lease, .. }) => {
                let leased = Leased::Messages(self.places(lease));
                Some(Letter::Leased { reply, leased, shard })
            }
            _ => None,
        }
    }

    /// Where the leased messages are. Offsets that follow each other are looked up together.
    fn places(&mut self, lease: Vec<Given>) -> Vec<(Given, Found)> {
        let mut messages = Vec::with_capacity(lease.len());
        for run in lease.chunk_by(|one, next| next.queue == one.queue && next.offset == one.offset + 1) {
            let entries = match self.index.range(run[0].queue, Offset(run[0].offset), run.len()) {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::error!(queue = ?run[0].queue, offset = run[0].offset, %error, "the index can't be read; the messages come again");
                    continue;
                }
            };
            for given in run {
                match entries.binary_search_by_key(&given.offset, |entry| entry.offset.0) {
                    Ok(at) => messages.push((*given, Found::from(entries[at]))),
                    // Retention took the message between the grant and now: the group is finished with it.
                    Err(_) => {
                        let handles = vec![handle(self.core.shard, given)];
                        self.own.push_back(Event::Ack { token: Token(0), group: given.group, handles });
                    }
                }
            }
        }
        messages
    }

    fn find(&self, find: &Find, limit: usize) -> Vec<Found> {
        let entries = match find {
            Find::Key { hash } => {
                let mut places = self.index.by_key(*hash, limit).unwrap_or_default();
                let hw = self.hw();
                places.retain(|lsn| *lsn < hw);
                return places.into_iter().map(|lsn| Found { queue: QueueKey(0), offset: 0, lsn, len: 0, tag_hash: 0 }).collect();
            }
            Find::From { queue, offset } => self.readable(*queue, *offset, limit),
            Find::Place { queue, offset } if *offset < self.core.visible_end(*queue) => {
                self.index.lookup(*queue, Offset(*offset)).ok().flatten().into_iter().collect()
            }
            Find::Place { .. } => Vec::new(),
            Find::Stored { topic, from_ms, to_ms } => self.find_stored(topic, *from_ms, *to_ms, limit),
        };
        entries.into_iter().map(Found::from).collect()
    }

    /// What clients may see of a queue from an offset on: committed, and not a dead letter that is gone.
    fn readable(&self, queue: QueueKey, from: u64, limit: usize) -> Vec<index::Entry> {
        let end = self.core.visible_end(queue);
        let gone = self.core.state.gone(queue);
        let mut found: Vec<index::Entry> = Vec::new();
        let mut next = from;
        while found.len() < limit {
            next = gone.map_or(next, |gone| gone.behind(next));
            let entries = self.index.range(queue, Offset(next), limit - found.len()).unwrap_or_default();
            let Some(last) = entries.last().filter(|_| next < end) else { break };
            next = last.offset.0 + 1;
            found.extend(entries.into_iter().filter(|entry| entry.offset.0 < end && gone.is_none_or(|gone| !gone.contains(entry.offset.0))));
        }
        found
    }

    fn find_stored(&self, topic: &Topic, from_ms: u64, to_ms: u64, limit: usize) -> Vec<index::Entry> {
        let mut found: Vec<index::Entry> = Vec::new();
        for (queue, _) in topic.queues() {
            let key = QueueKey::new(topic.id, queue);
            let Ok(first) = self.index.first_at_or_after_time(key, from_ms) else { continue };
            found.extend(self.readable(key, first.0, limit).into_iter().filter(|entry| entry.time < to_ms));
        }
        found.sort_unstable_by_key(|entry| (entry.time, entry.queue, entry.offset));
        found.truncate(limit);
        found
    }
}

/// The handle that stands for a delivery.
pub fn handle(shard: ShardId, given: &Given) -> ReceiptHandle {
    ReceiptHandle {
        shard,
        topic: given.queue.topic(),
        group: given.group,
        queue: given.queue.queue(),
        offset: Offset(given.offset),
        lease: given.lease,
        reset: given.reset,
        attempt: given.attempt,
    }
}
