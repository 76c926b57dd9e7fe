//! What a connection does, job by job. A thread has one runtime without work stealing; its tasks share one tally without locks.

use super::phase::{Board, Job, Tally};
use super::place::Place;
use super::stamp::Stamp;
use super::traffic::{Source, Traffic};
use super::wire::{Calls, StampedSend, encode_receive};
use super::{AckStyle, Settings};
use crate::connect::{self, resource};
use crate::failure::{Exit, Failure};
use crate::group::wire;
use bytes::Bytes;
use gantry_proto::v2::{AckMessageEntry, AckMessageRequest, Message, MessageQueue, ReceiveMessageRequest};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinSet, LocalSet};

/// A poll this long is a poll that official clients make; shorter ones would measure how empty polls end.
const POLL: Duration = Duration::from_secs(20);
/// Others must not get the messages during the run.
const INVISIBLE: Duration = Duration::from_secs(600);
/// After a failed call, so that a server in trouble is not beaten.
const PAUSE: Duration = Duration::from_millis(50);
/// A message that comes sooner than this before its time came too early: the two clocks that are compared differ by up to 1 ms.
const EARLY: Duration = Duration::from_millis(2);
/// Most open-loop sends without an answer on one connection; beyond, sends begin late and the report says so.
const OPEN_LOOP_MOST: usize = 10_000;

/// How a thread tells the phase that it is ready, waits for the start, and hands in what it saw.
pub struct Start {
    pub ready: oneshot::Sender<Result<(), Failure>>,
    pub go: watch::Receiver<bool>,
    pub tally: oneshot::Sender<Tally>,
}

/// What all connections of a thread work with.
#[derive(Clone)]
pub struct Crew {
    place: Arc<Place>,
    settings: Arc<Settings>,
    board: Arc<Board>,
    /// The delivery time of delayed messages, in the clock of the board.
    deliver_at: Option<u64>,
}

impl Crew {
    pub fn new(place: &Place, settings: &Settings, board: Arc<Board>) -> Crew {
        let deliver_at = match settings.traffic {
            Traffic::Delay { at_ms } => Some(board.at_wall(at_ms)),
            _ => None,
        };
        Crew { place: Arc::new(place.clone()), settings: Arc::new(settings.clone()), board, deliver_at }
    }
}

/// A whole thread: connect, wait for the start, work, hand in.
pub fn run_thread(share: Vec<(u32, Job)>, crew: Crew, start: Start) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(Exit::Failed, "cannot start a runtime").because(error);
            // A phase that has ended meanwhile needs no answer; the same holds below.
            let _ = start.ready.send(Err(failure));
            return;
        }
    };
    LocalSet::new().block_on(&runtime, async move {
        let Start { ready, mut go, tally } = start;
        let connections = match connect_all(share, &crew).await {
            Ok(connections) => connections,
            Err(failure) => {
                let _ = ready.send(Err(failure));
                return;
            }
        };
        if ready.send(Ok(())).is_err() || go.wait_for(|go| *go).await.is_err() {
            return;
        }
        let seen = work(connections).await;
        let _ = tally.send(seen);
    });
}

async fn connect_all(share: Vec<(u32, Job)>, crew: &Crew) -> Result<Vec<(Connection, Job)>, Failure> {
    let tally = Rc::new(RefCell::new(Tally::new()));
    let mut connections = Vec::new();
    for (number, job) in share {
        let channel = connect::messaging_channel(&crew.place.global).await?;
        let calls = Calls::new(channel, &crew.place.global);
        connections.push((Connection { number, calls, crew: crew.clone(), tally: tally.clone() }, job));
    }
    Ok(connections)
}

async fn work(connections: Vec<(Connection, Job)>) -> Tally {
    let Some(tally) = connections.first().map(|(connection, _)| connection.tally.clone()) else { return Tally::new() };
    let mut jobs = JoinSet::new();
    for (connection, job) in connections {
        jobs.spawn_local(connection.run(job));
    }
    while jobs.join_next().await.is_some() {}
    // All tasks have ended, so nobody else looks at it.
    tally.replace(Tally::new())
}

/// One connection. Clones share it.
#[derive(Clone)]
struct Connection {
    number: u32,
    calls: Calls,
    crew: Crew,
    tally: Rc<RefCell<Tally>>,
}

impl Connection {
    async fn run(self, job: Job) {
        match job {
            Job::Produce => self.produce().await,
            Job::Paced(due) => self.produce_on_time(due).await,
            Job::Consume => self.consume(Keep::No).await,
            Job::Receive => self.consume(Keep::Yes).await,
            Job::Ack(entries) => self.acknowledge_all(entries).await,
            Job::Wait => self.consume(Keep::No).await,
        }
    }

    /// Closed loop: `in_flight` producers, each with one send at a time.
    async fn produce(self) {
        let slots = self.crew.settings.in_flight;
        let mut sends = JoinSet::new();
        for slot in 0..slots {
            sends.spawn_local(self.clone().produce_in_turn(self.number * slots + slot));
        }
        while sends.join_next().await.is_some() {}
        self.crew.board.producer_ends();
    }

    async fn produce_in_turn(mut self, producer: u32) {
        let mut source = self.source(producer);
        loop {
            let due = self.crew.board.now();
            if !self.crew.board.take_ticket(due) {
                return;
            }
            let (message, wanted) = source.next(due);
            self.send(message, wanted).await;
        }
    }

    /// Open loop: one producer, sends as they are due.
    async fn produce_on_time(self, mut due: mpsc::Receiver<u64>) {
        let producer = self.number * self.crew.settings.in_flight;
        let mut source = self.source(producer);
        let mut sends = JoinSet::new();
        while let Some(due) = due.recv().await {
            while sends.len() >= OPEN_LOOP_MOST {
                sends.join_next().await;
            }
            while sends.try_join_next().is_some() {}
            if self.crew.board.measures(due) {
                self.tally.borrow_mut().late.record(due, self.crew.board.now(), 1);
            }
            let (mut connection, (message, wanted)) = (self.clone(), source.next(due));
            sends.spawn_local(async move { connection.send(message, wanted).await });
        }
        while sends.join_next().await.is_some() {}
        self.crew.board.producer_ends();
    }

    fn source(&self, producer: u32) -> Source {
        let Crew { place, settings, .. } = &self.crew;
        Source::new(settings.traffic, place, settings.size_bytes as usize, producer, settings.producers())
    }

    /// Sends a message, and notes it if consumers will ask for it.
    async fn send(&mut self, message: StampedSend, wanted: bool) {
        let (due, seq, producer) = (message.due, message.seq, message.template.producer());
        let Crew { place, settings, board, .. } = &self.crew;
        let sent = match settings.traffic {
            Traffic::Transaction => self.calls.send_and_commit(message, resource(&place.global, &place.topic)).await,
            _ => self.calls.send(message).await,
        };
        match sent {
            Ok(()) => {
                board.count_sent();
                let mut tally = self.tally.borrow_mut();
                if wanted {
                    tally.confirmed.insert(producer, seq);
                }
                // By the time when it was due, so that sends held up in the warm-up don't count as sends of the measured time.
                if board.measures(due) {
                    tally.send.record(due, board.now(), 1);
                }
            }
            Err(error) => {
                board.count_error(format!("send: {error}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Receives until the phase stops, for all groups.
    async fn consume(self, keep: Keep) {
        let mut polls = JoinSet::new();
        let acks = Arc::new(Semaphore::new(self.crew.settings.in_flight as usize));
        for _ in 0..self.crew.settings.polls {
            for group in 0..self.crew.place.groups.len() {
                polls.spawn_local(self.clone().poll(group, keep, acks.clone()));
            }
        }
        while polls.join_next().await.is_some() {}
    }

    async fn poll(self, group: usize, keep: Keep, slots: Arc<Semaphore>) {
        let request = self.receive_request(group);
        let mut calls = self.calls.with_timeout((POLL + self.crew.place.global.timeout).as_millis() as u64);
        let mut stopped = self.crew.board.stopped();
        let mut acks = JoinSet::new();
        loop {
            if self.crew.place.is_floor() && !self.crew.board.has_backlog() && !*stopped.borrow() {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let began = self.crew.board.now();
            // A poll that is dropped is withdrawn: it leases nothing that nobody would read.
            let received = tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => break,
                received = calls.receive(request.clone()) => received,
            };
            match received {
                Ok(messages) if messages.is_empty() => self.tally.borrow_mut().empty_polls += 1,
                Ok(messages) => {
                    self.note(group, &messages, began);
                    match keep {
                        Keep::Yes => self.tally.borrow_mut().kept.extend(messages.into_iter().filter_map(ack_entry)),
                        Keep::No => self.acknowledge(group, messages, &slots, &mut acks).await,
                    }
                }
                Err(error) => {
                    self.crew.board.count_error(format!("receive: {error}"));
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        while acks.join_next().await.is_some() {}
    }

    fn receive_request(&self, group: usize) -> Bytes {
        let Crew { place, settings, .. } = &self.crew;
        encode_receive(&ReceiveMessageRequest {
            group: Some(resource(&place.global, &place.groups[group])),
            message_queue: Some(MessageQueue { topic: Some(resource(&place.global, &place.topic)), id: -1, ..Default::default() }),
            filter_expression: Some(settings.traffic.filter()),
            batch_size: settings.batch as i32,
            invisible_duration: wire(INVISIBLE),
            long_polling_timeout: wire(POLL),
            ..Default::default()
        })
    }

    /// Writes down what came.
    fn note(&self, group: usize, messages: &[Message], began: u64) {
        let board = &self.crew.board;
        let stamps: Vec<Stamp> = {
            let mut ledger = board.ledger();
            messages.iter().filter_map(|message| ledger.note(group, &message.body)).collect()
        };
        let mut tally = self.tally.borrow_mut();
        let now = board.now();
        if board.measures(now) {
            tally.receive.record(began, now, messages.len() as u64);
            for stamp in &stamps {
                tally.end_to_end.record(self.crew.deliver_at.unwrap_or(stamp.due), now, 1);
            }
            if self.crew.deliver_at.is_some_and(|due| now + (EARLY.as_nanos() as u64) < due) {
                tally.early += stamps.len() as u64;
            }
        }
        drop(tally);
        // The empty handler gives messages of nobody; there they all count.
        board.count_received(if self.crew.place.is_floor() { messages.len() } else { stamps.len() } as u64);
    }

    /// Begins the acknowledgements of a batch as slots become free.
    async fn acknowledge(&self, group: usize, messages: Vec<Message>, slots: &Arc<Semaphore>, acks: &mut JoinSet<()>) {
        let entries: Vec<AckMessageEntry> = messages.into_iter().filter_map(ack_entry).collect();
        let size = if self.crew.settings.ack == AckStyle::Each { 1 } else { entries.len().max(1) };
        for part in entries.chunks(size) {
            let slot = slots.clone().acquire_owned().await;
            let (mut connection, part) = (self.clone(), part.to_vec());
            acks.spawn_local(async move {
                connection.ack(group, part).await;
                drop(slot);
            });
        }
        while acks.try_join_next().is_some() {}
    }

    async fn ack(&mut self, group: usize, entries: Vec<AckMessageEntry>) {
        let Crew { place, board, .. } = &self.crew;
        let (began, messages) = (board.now(), entries.len() as u64);
        let group = Some(resource(&place.global, &place.groups[group]));
        let request = AckMessageRequest { group, topic: Some(resource(&place.global, &place.topic)), entries };
        match self.calls.ack(&request).await {
            Ok(()) => {
                board.count_acked(messages);
                if board.measures(board.now()) {
                    self.tally.borrow_mut().ack.record(began, board.now(), messages);
                }
            }
            Err(error) => {
                board.count_error(format!("ack: {error}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Acknowledges handles that an earlier phase kept for the first group, `in_flight` at a time.
    async fn acknowledge_all(self, entries: Vec<AckMessageEntry>) {
        let size = if self.crew.settings.ack == AckStyle::Each { 1 } else { self.crew.settings.batch as usize };
        let parts = Rc::new(RefCell::new(entries.chunks(size).map(<[AckMessageEntry]>::to_vec).collect::<Vec<_>>()));
        let mut acks = JoinSet::new();
        for _ in 0..self.crew.settings.in_flight {
            let (mut connection, parts) = (self.clone(), parts.clone());
            acks.spawn_local(async move {
                loop {
                    let Some(part) = parts.borrow_mut().pop() else { return };
                    connection.ack(0, part).await;
                }
            });
        }
        while acks.join_next().await.is_some() {}
    }
}

/// Whether handles are kept for a later phase instead of being acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Yes,
    No,
}

fn ack_entry(message: Message) -> Option<AckMessageEntry> {
    let system = message.system_properties?;
    Some(AckMessageEntry { message_id: system.message_id, receipt_handle: system.receipt_handle.unwrap_or_default(), lite_topic: None })
}
