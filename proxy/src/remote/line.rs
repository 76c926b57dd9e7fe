//! What waits on one connection: requests to be written, and callers for their answers. It never waits itself.
//!
//! # The life of a call
//! - *queued*: nobody has seen it. If the connection can't be had, or its caller goes away, it was not done.
//! - *written*: the transport has it. If the stream breaks now, it may have been done. If its caller goes away, the broker is told.
//! - *answered*: its caller has the answer, or went away at the same moment; then deliveries go back and offers are declined.
//!
//! What needs no answer and must not be lost, deliveries that go back and clients that ended, waits for the next stream if there is none.

use super::fault::Fault;
use gantry_model::contract::Metadata;
use gantry_model::{ClientId, ShardId, TopicId};
use gantry_platform::clock::SharedClock;
use gantry_proto::broker::answer::Body as Said;
use gantry_proto::broker::request::Body;
use gantry_proto::broker::{Answer, Client, Clients, Handles, Request, ToBroker, ToProxy, TopicIds};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_stream::Stream;

/// Bytes of requests that go together; a larger one goes alone.
const BATCH_BYTES: usize = 64 * 1024;
/// Small requests that go together.
const BATCH_REQUESTS: usize = 1_024;
/// Bytes of messages that may be under way, from the call to its answer, and of everything else.
const DATA_MAX: usize = 64 * 1024 * 1024;
const CONTROL_MAX: usize = 16 * 1024 * 1024;
/// Bytes that each small thing counts for.
pub const EACH: usize = 48;
/// Calls that may wait for their answers; most of them are polls.
const CALLS_MAX: usize = 200_000;
/// Requests without an answer that may wait for a stream. Beyond, the oldest are dropped: what they would have ended, ends by its time.
const NOTES_MAX: usize = 10_000;
/// Clients and topics that are remembered for the broker.
const REMEMBERED_MAX: usize = 200_000;

/// What kind of call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It brings messages.
    Data,
    Control,
    /// It waits for something, and is withdrawn when its caller goes away.
    Poll,
}

/// A request on its way to a shard.
#[derive(Debug)]
pub struct Asking {
    pub shard: ShardId,
    pub kind: Kind,
    pub body: Body,
    /// Bytes that it counts for.
    pub size: usize,
    /// How long its caller waits at most.
    pub time: Duration,
}

/// A whole answer: its last part, and those before.
#[derive(Debug)]
pub struct Answered {
    pub before: Vec<Said>,
    pub last: Said,
}

type Outcome = Result<Answered, Fault>;

#[derive(Debug)]
struct Waiting {
    reply: oneshot::Sender<Outcome>,
    before: Vec<Said>,
    shard: ShardId,
    kind: Kind,
    size: usize,
    until: Duration,
    written: bool,
}

/// How the connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Calls wait for it.
    #[default]
    Connecting,
    Open,
    /// It can't be had at the moment; calls fail at once.
    Down,
    Closed,
}

#[derive(Debug, Default)]
struct Inside {
    phase: Phase,
    /// Counts the streams.
    stream: u64,
    last_call: u64,
    waiting: BTreeMap<u64, Waiting>,
    control: VecDeque<(Request, usize)>,
    data: VecDeque<(Request, usize)>,
    data_bytes: usize,
    control_bytes: usize,
    /// Number of the newest message that came on this stream, and what the broker was told of it. Until the next one is open, of the last.
    heard: u64,
    told: u64,
    /// Something is to be said even if there are no requests.
    speak: bool,
    alive: BTreeSet<ClientId>,
    ready: BTreeSet<TopicId>,
    writer: Option<Waker>,
}

/// One connection's requests and callers.
pub struct Line {
    clock: SharedClock,
    inside: Mutex<Inside>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line {{ phase: {:?} }}", self.inside().phase)
    }
}

impl Line {
    pub fn new(clock: SharedClock) -> Line {
        Line { clock, inside: Mutex::default() }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a request over and waits for its answer. Dropping this withdraws it.
    pub async fn ask(&self, asking: Asking) -> Outcome {
        let mut call = self.begin(asking)?;
        // The sender is dropped only with the line itself.
        let outcome = (&mut call.answer).await.unwrap_or(Err(Fault::Lost("the connection was given up".into())));
        call.over = true;
        outcome
    }

    fn begin(&self, asking: Asking) -> Result<Call<'_>, Fault> {
        let Asking { shard, kind, body, size, time } = asking;
        let until = self.clock.mono() + time;
        let (reply, answer) = oneshot::channel();
        let mut inside = self.inside();
        inside.admit(kind, size)?;
        inside.last_call += 1;
        let number = inside.last_call;
        inside.waiting.insert(number, Waiting { reply, before: Vec::new(), shard, kind, size, until, written: false });
        let request = Request { call: number, shard: shard.0, body: Some(body) };
        match kind {
            Kind::Data => inside.data.push_back((request, size)),
            Kind::Control | Kind::Poll => inside.control.push_back((request, size)),
        }
        inside.wake();
        drop(inside);
        Ok(Call { line: self, number, answer, over: false })
    }

    /// Says something that needs no answer. It waits for the next stream if there is none.
    pub fn note(&self, shard: ShardId, body: Body) {
        let mut inside = self.inside();
        inside.note(Request { call: 0, shard: shard.0, body: Some(body) });
        inside.wake();
    }

    /// Says something that only matters on this stream.
    pub fn note_on(&self, stream: u64, shard: ShardId, body: Body) {
        let mut inside = self.inside();
        if inside.phase == Phase::Open && inside.stream == stream {
            inside.note(Request { call: 0, shard: shard.0, body: Some(body) });
            inside.wake();
        }
    }

    /// Whether the connection was given up for good.
    pub fn is_closed(&self) -> bool {
        self.inside().phase == Phase::Closed
    }

    /// The present stream's number.
    pub fn stream(&self) -> u64 {
        self.inside().stream
    }

    /// Notes that a client called; the broker hears of it within a second or so.
    pub fn alive(&self, client: &ClientId) {
        let mut inside = self.inside();
        if inside.alive.len() < REMEMBERED_MAX {
            inside.alive.insert(client.clone());
        }
    }

    /// Forgets that a client called, and says that it ended.
    pub fn gone(&self, shard: ShardId, client: &ClientId) {
        self.inside().alive.remove(client);
        self.note(shard, Body::Gone(Client { client: client.as_str().to_owned() }));
    }

    /// Producers of these topics can be reached; said again on each stream.
    pub fn ready(&self, topics: &[TopicId]) {
        let mut inside = self.inside();
        if inside.ready.len() < REMEMBERED_MAX {
            inside.ready.extend(topics);
        }
        if inside.phase == Phase::Open {
            let topics = topics.iter().map(|topic| topic.0).collect();
            inside.note(Request { call: 0, shard: 0, body: Some(Body::ProducerReady(TopicIds { topics })) });
            inside.wake();
        }
    }

    /// Ends the polls of a shard: their callers get nothing, as if their time were over.
    pub fn end_polls(&self, shard: ShardId) {
        let mut inside = self.inside();
        let polls: Vec<u64> =
            inside.waiting.iter().filter(|(_, call)| call.kind == Kind::Poll && call.shard == shard).map(|(&call, _)| call).collect();
        let replies: Vec<_> = polls.into_iter().filter_map(|call| inside.withdraw(call)).collect();
        inside.wake();
        drop(inside);
        replies.into_iter().for_each(|reply| drop(reply.send(Err(Fault::Drained))));
    }

    /// Calls of a shard that wait for their answers.
    pub fn under_way(&self, shard: ShardId) -> usize {
        self.inside().waiting.values().filter(|call| call.shard == shard).count()
    }

    pub fn connecting(&self) {
        let mut inside = self.inside();
        if inside.phase != Phase::Closed {
            inside.phase = Phase::Connecting;
        }
    }

    /// A new stream, whose greeting is on its way. Answers its number, and that of the newest message that came on earlier ones.
    pub fn greeting(&self) -> (u64, u64) {
        let mut inside = self.inside();
        inside.stream += 1;
        (inside.stream, inside.heard)
    }

    /// The broker let us in.
    pub fn opened(&self) {
        let mut inside = self.inside();
        if inside.phase == Phase::Closed {
            return;
        }
        inside.phase = Phase::Open;
        // The broker took in what came on earlier streams; if it is another run of it, it counts anew.
        (inside.heard, inside.told) = (0, 0);
        if !inside.ready.is_empty() {
            let topics = inside.ready.iter().map(|topic| topic.0).collect();
            inside.note(Request { call: 0, shard: 0, body: Some(Body::ProducerReady(TopicIds { topics })) });
        }
        inside.wake();
    }

    /// The stream is over, or could not be had: nobody will answer what is under way.
    pub fn broke(&self, why: &str) {
        self.end(Phase::Down, why);
    }

    /// The connection is given up for good.
    pub fn close(&self) {
        self.end(Phase::Closed, "the connection was given up, because the node is not one of the cluster any more");
    }

    fn end(&self, phase: Phase, why: &str) {
        let mut inside = self.inside();
        if inside.phase != Phase::Closed {
            inside.phase = phase;
        }
        inside.stream += 1;
        let waiting = mem::take(&mut inside.waiting);
        inside.data.clear();
        (inside.data_bytes, inside.control_bytes) = (0, 0);
        // Calls and what was said about them end with the stream.
        inside.control.retain(|(request, _)| matches!(request.body, Some(Body::Release(_) | Body::Gone(_))));
        for call in waiting.values() {
            call.before.iter().for_each(|part| inside.give_back(part, None));
        }
        inside.wake();
        drop(inside);
        let why: Arc<str> = why.into();
        for (_, call) in waiting {
            let fault = if call.written { Fault::Lost(why.clone()) } else { Fault::Unsent };
            // A caller that went away at this moment needs no answer.
            let _ = call.reply.send(Err(fault));
        }
    }

    /// Takes in what the broker said. Commands are the caller's.
    pub fn take_in(&self, message: &mut ToProxy) {
        let mut ended = Vec::with_capacity(message.answers.len());
        let mut inside = self.inside();
        inside.heard = message.number;
        let stream = inside.stream;
        for Answer { call, more, body } in message.answers.drain(..) {
            let Some(body) = body else { continue };
            match inside.waiting.get_mut(&call) {
                // Its caller went away meanwhile.
                None => inside.give_back(&body, Some(stream)),
                Some(waiting) if more => waiting.before.push(body),
                Some(_) => ended.extend(inside.remove(call).map(|waiting| (waiting, body))),
            }
        }
        drop(inside);
        for (Waiting { reply, before, .. }, last) in ended {
            if let Err(Ok(Answered { before, last })) = reply.send(Ok(Answered { before, last })) {
                let mut inside = self.inside();
                before.iter().chain([&last]).for_each(|part| inside.give_back(part, Some(stream)));
                inside.wake();
            }
        }
    }

    /// What is done about once a second: clients that called are named, the broker hears what arrived, overdue calls end.
    pub fn tick(&self) {
        let now = self.clock.mono();
        let mut inside = self.inside();
        if inside.phase == Phase::Open {
            let clients: Vec<String> = mem::take(&mut inside.alive).iter().map(|client| client.as_str().to_owned()).collect();
            if !clients.is_empty() {
                inside.note(Request { call: 0, shard: 0, body: Some(Body::Alive(Clients { clients })) });
            }
            inside.speak = inside.heard != inside.told;
        }
        let overdue: Vec<u64> = inside.waiting.iter().filter(|(_, call)| call.until < now).map(|(&call, _)| call).collect();
        let mut ended = Vec::new();
        for call in overdue {
            let written = inside.waiting.get(&call).is_some_and(|call| call.written);
            ended.extend(inside.withdraw(call).map(|reply| (reply, written)));
        }
        inside.wake();
        drop(inside);
        for (reply, written) in ended {
            let fault = if written { Fault::Lost("the broker did not answer in time".into()) } else { Fault::Unsent };
            let _ = reply.send(Err(fault));
        }
    }

    /// What is to be written next: the number of the newest message that came, and requests.
    fn poll_batch(&self, stream: u64, cx: &mut Context<'_>) -> Poll<Option<(u64, Vec<Request>)>> {
        let mut inside = self.inside();
        if inside.phase == Phase::Closed || inside.stream != stream {
            return Poll::Ready(None);
        }
        let requests = if inside.phase == Phase::Open { inside.take_batch() } else { Vec::new() };
        if requests.is_empty() && !inside.speak {
            inside.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        inside.speak = false;
        inside.told = inside.heard;
        Poll::Ready(Some((inside.heard, requests)))
    }
}

impl Inside {
    fn admit(&mut self, kind: Kind, size: usize) -> Result<(), Fault> {
        if matches!(self.phase, Phase::Down | Phase::Closed) {
            return Err(Fault::Unsent);
        }
        let (used, most) = match kind {
            Kind::Data => (&mut self.data_bytes, DATA_MAX),
            Kind::Control | Kind::Poll => (&mut self.control_bytes, CONTROL_MAX),
        };
        // One that is larger than the bound passes alone.
        if self.waiting.len() >= CALLS_MAX || (*used > 0 && *used + size > most) {
            return Err(Fault::Full);
        }
        *used += size;
        Ok(())
    }

    fn remove(&mut self, call: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&call)?;
        match waiting.kind {
            Kind::Data => self.data_bytes -= waiting.size,
            Kind::Control | Kind::Poll => self.control_bytes -= waiting.size,
        }
        Some(waiting)
    }

    /// Forgets a call, and tells the broker if it has to know.
    fn withdraw(&mut self, call: u64) -> Option<oneshot::Sender<Outcome>> {
        let waiting = self.remove(call)?;
        if waiting.written && waiting.kind == Kind::Poll {
            self.note(Request { call: 0, shard: waiting.shard.0, body: Some(Body::Cancel(call)) });
        }
        let stream = self.stream;
        waiting.before.iter().for_each(|part| self.give_back(part, Some(stream)));
        Some(waiting.reply)
    }

    fn note(&mut self, request: Request) {
        if self.phase != Phase::Open && self.control.len() >= NOTES_MAX {
            self.control.pop_front();
        }
        let size = note_size(&request);
        self.control.push_back((request, size));
    }

    /// Nobody takes this part of an answer. Offers are worth something on their own stream only.
    fn give_back(&mut self, part: &Said, stream: Option<u64>) {
        match part {
            Said::Deliveries(deliveries) => {
                let handles: Vec<_> = deliveries.deliveries.iter().filter_map(|delivery| delivery.handle).collect();
                if !handles.is_empty() {
                    self.note(Request { call: 0, shard: 0, body: Some(Body::Release(Handles { handles })) });
                }
            }
            Said::Offer(made) if stream == Some(self.stream) => {
                if let Some(offer) = made.offer {
                    self.note(Request { call: 0, shard: 0, body: Some(Body::Decline(offer)) });
                }
            }
            _ => {}
        }
    }

    /// Takes the next requests, and notes that they were written. Those that nobody waits for any more are left out.
    fn take_batch(&mut self) -> Vec<Request> {
        let mut requests = Vec::with_capacity(self.control.len().min(BATCH_REQUESTS) + self.data.len().min(BATCH_REQUESTS));
        let (mut control, mut data) = (mem::take(&mut self.control), mem::take(&mut self.data));
        self.take_from(&mut control, &mut requests);
        self.take_from(&mut data, &mut requests);
        (self.control, self.data) = (control, data);
        requests
    }

    fn take_from(&mut self, queue: &mut VecDeque<(Request, usize)>, requests: &mut Vec<Request>) {
        let (mut bytes, mut count) = (0, 0);
        while let Some((_, size)) = queue.front() {
            if count >= BATCH_REQUESTS || (bytes > 0 && bytes + size > BATCH_BYTES) {
                break;
            }
            let Some((request, size)) = queue.pop_front() else { break };
            if self.write(request.call) {
                bytes += size;
                count += 1;
                requests.push(request);
            }
        }
    }

    fn write(&mut self, call: u64) -> bool {
        if call == 0 {
            return true;
        }
        let Some(waiting) = self.waiting.get_mut(&call) else { return false };
        waiting.written = true;
        true
    }

    fn wake(&mut self) {
        if (!self.control.is_empty() || !self.data.is_empty() || self.speak || self.phase != Phase::Open)
            && let Some(writer) = self.writer.take()
        {
            writer.wake();
        }
    }
}

/// Bytes that a request without an answer counts for.
fn note_size(request: &Request) -> usize {
    match &request.body {
        Some(Body::Release(handles)) => EACH * handles.handles.len(),
        Some(Body::Alive(alive)) => alive.clients.iter().map(|client| client.len() + EACH).sum(),
        Some(Body::ProducerReady(ready)) => EACH * ready.topics.len(),
        _ => EACH,
    }
}

/// A call that waits for its answer.
struct Call<'a> {
    line: &'a Line,
    number: u64,
    answer: oneshot::Receiver<Outcome>,
    over: bool,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // The answer may have come and not been looked at; from now on none can come.
        self.answer.close();
        let mut inside = self.line.inside();
        let stream = inside.stream;
        match self.answer.try_recv() {
            Ok(Ok(Answered { before, last })) => before.iter().chain([&last]).for_each(|part| inside.give_back(part, Some(stream))),
            Ok(Err(_)) => {}
            Err(_) => drop(inside.withdraw(self.number)),
        }
        inside.wake();
    }
}

/// The writing end of one stream, as the transport reads it.
pub struct Lines {
    line: Arc<Line>,
    stream: u64,
    metadata: Arc<dyn Metadata>,
    /// What is said before anything else.
    first: Option<ToBroker>,
}

impl Lines {
    pub fn new(line: Arc<Line>, stream: u64, metadata: Arc<dyn Metadata>, first: ToBroker) -> Lines {
        Lines { line, stream, metadata, first: Some(first) }
    }
}

impl Stream for Lines {
    type Item = ToBroker;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ToBroker>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let batch = self.line.poll_batch(self.stream, cx);
        // Looked up after the requests were made, so it is at least what their callers knew.
        batch.map(|batch| batch.map(|(heard, requests)| ToBroker { arrival: None, metadata: self.metadata.version().0, heard, requests }))
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
