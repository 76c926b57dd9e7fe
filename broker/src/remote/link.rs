//! The life of one proxy's stream: requests are read, calls run, answers are put into the outbox. One task does it all, so that the answers of
//! many calls wake it once; what may take long runs in tasks of its own.
//!
//! # How a stream ends
//! The proxy goes, the connection breaks, or the proxy comes again on another one. Then calls that run are dropped, which withdraws them;
//! offers are declined; what was leased and never written is given back at once, and what was written is kept until the proxy says what it got.

use super::Locals;
use super::calls::{Answering, Call, is_lookup, is_withdrawn};
use super::outbox::{Outbox, Ready};
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use gantry_model::contract::broker::Offer;
use gantry_model::contract::metadata::Version;
use gantry_model::{ClientId, NodeId, ShardId, TopicId};
use gantry_platform::clock::SharedClock;
use gantry_platform::tasks;
use gantry_proto::broker::refusal::Code;
use gantry_proto::broker::request::Body;
use gantry_proto::broker::{Answer, Command, Question, Refusal, Request, ToBroker, answer, command};
use gantry_proto::shards::handle;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio_stream::Stream;
use tonic::Streaming;

/// Calls that may run for one proxy; most of them are polls that wait.
const CALLS_MAX: usize = 200_000;
/// Look-ups that run at the same time, and those that may wait for their turn.
const LOOKUPS: usize = 32;
const LOOKUPS_WAITING: usize = 4_096;
/// Answers that are put into the outbox together, at most.
const TOGETHER: usize = 512;
/// Offers void themselves after much less; what is older than this was never taken nor declined.
const OFFER_KEPT: Duration = Duration::from_secs(2);
/// Offers that a proxy may hold.
const OFFERS_MAX: usize = 100_000;
/// Clients of which it is remembered that this proxy heard of them, and for how long.
const CLIENTS_MAX: usize = 100_000;
const CLIENT_KEPT: Duration = Duration::from_secs(120);

/// What is known of one proxy's stream.
#[derive(Debug)]
pub struct Link {
    outbox: Arc<Outbox>,
    node: NodeId,
    run: u64,
    clock: SharedClock,
    questions: Mutex<HashMap<u64, oneshot::Sender<bool>>>,
    clients: Mutex<HashMap<ClientId, Duration>>,
    offers: Mutex<Offers>,
}

#[derive(Debug, Default)]
struct Offers {
    next: u64,
    made: HashMap<u64, (Offer, Duration)>,
}

impl Link {
    pub fn new(outbox: Arc<Outbox>, node: NodeId, run: u64, clock: SharedClock) -> Link {
        Link { outbox, node, run, clock, questions: Mutex::default(), clients: Mutex::default(), offers: Mutex::default() }
    }

    pub fn run(&self) -> (NodeId, u64) {
        (self.node, self.run)
    }

    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Has the proxy ask a producer. `true` once the question was written to one.
    pub async fn ask(&self, number: u64, question: Question) -> bool {
        let (reply, reached) = oneshot::channel();
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).insert(number, reply);
        self.outbox.command(Command { body: Some(command::Body::Question(question)) }) && reached.await.unwrap_or(false)
    }

    pub fn forget_question(&self, number: u64) {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    fn reached(&self, question: u64, written: bool) {
        let reply = self.questions.lock().unwrap_or_else(PoisonError::into_inner).remove(&question);
        // Who asked may have given up.
        let _ = reply.map(|reply| reply.send(written));
    }

    /// When this proxy last heard of a client.
    pub fn heard_of(&self, client: &ClientId) -> Option<Duration> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(client).copied()
    }

    fn hears_of(&self, client: ClientId) {
        let now = self.clock.mono();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS_MAX {
            clients.retain(|_, at| *at + CLIENT_KEPT > now);
        }
        if clients.len() < CLIENTS_MAX {
            clients.insert(client, now);
        }
    }

    /// Keeps an offer until the proxy takes or declines it, under the number that is answered.
    pub fn keep_offer(&self, offer: Offer) -> u64 {
        let now = self.clock.mono();
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        if offers.made.len() >= OFFERS_MAX {
            offers.made.retain(|_, (_, at)| *at + OFFER_KEPT > now);
        }
        offers.next += 1;
        let number = offers.next;
        if offers.made.len() < OFFERS_MAX {
            offers.made.insert(number, (offer, now));
        }
        number
    }

    pub fn take_offer(&self, number: u64) -> Option<Offer> {
        let taken = self.offers.lock().unwrap_or_else(PoisonError::into_inner).made.remove(&number);
        taken.map(|(offer, _)| offer)
    }

    fn end(&self) {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).clear();
        // Dropped outside of the lock: each one tells its shard.
        let made = std::mem::take(&mut self.offers.lock().unwrap_or_else(PoisonError::into_inner).made);
        drop(made);
    }
}

/// Serves one stream until it ends.
pub struct Served {
    locals: Arc<Locals>,
    link: Arc<Link>,
    said: Streaming<ToBroker>,
    calls: FuturesUnordered<Answering>,
    /// Calls that can be withdrawn.
    withdrawable: HashMap<u64, AbortHandle>,
    lookups: Arc<Semaphore>,
    lookups_waiting: Arc<Semaphore>,
    answers: Vec<Ready>,
}

impl Served {
    pub fn new(locals: Arc<Locals>, link: Arc<Link>, said: Streaming<ToBroker>) -> Served {
        Served {
            locals,
            link,
            said,
            calls: FuturesUnordered::new(),
            withdrawable: HashMap::new(),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            lookups_waiting: Arc::new(Semaphore::new(LOOKUPS_WAITING)),
            answers: Vec::new(),
        }
    }

    fn take_in(&mut self, message: ToBroker) {
        self.link.outbox.arrived(message.heard);
        let version = Version(message.metadata);
        for Request { call, shard, body } in message.requests {
            // A request without a body is of a later version, and its caller has to hear that.
            let Some(body) = body else {
                self.refuse(call, Code::Failed, "this broker does not know the request; it may be of an older version than the proxy");
                continue;
            };
            match call {
                0 => self.note(ShardId(shard), body),
                call => self.begin(call, ShardId(shard), version, body),
            }
        }
    }

    fn refuse(&mut self, call: u64, code: Code, why: &str) {
        let refusal = Refusal { code: code as i32, why: why.to_owned(), ..Refusal::default() };
        self.answers.push(Ready::Small(Answer { call, more: false, body: Some(answer::Body::Refused(refusal)) }));
    }

    /// What needs no answer.
    fn note(&mut self, shard: ShardId, body: Body) {
        match body {
            Body::Release(handles) => self.locals.release(handle::handles_from_wire(handles.handles)),
            Body::Alive(alive) => {
                let brokers = self.locals.all();
                for client in alive.clients.iter().map(|client| ClientId::new(client)) {
                    brokers.iter().for_each(|broker| broker.client_alive(&client));
                    self.link.hears_of(client);
                }
            }
            Body::Gone(gone) => {
                if let Some(broker) = self.locals.get(shard) {
                    broker.client_gone(&ClientId::new(&gone.client));
                }
            }
            Body::ProducerReady(ready) => {
                let topics: Vec<TopicId> = ready.topics.into_iter().map(TopicId).collect();
                self.locals.all().iter().for_each(|broker| broker.producer_ready(&topics));
            }
            Body::Cancel(call) => {
                if let Some(running) = self.withdrawable.remove(&call) {
                    running.abort();
                }
            }
            Body::Decline(offer) => drop(self.link.take_offer(offer)),
            Body::Reached(reached) => self.link.reached(reached.question, reached.written),
            _ => tracing::debug!("a request without a number, whose answer nobody could hear"),
        }
    }

    fn begin(&mut self, number: u64, shard: ShardId, version: Version, body: Body) {
        if self.calls.len() >= CALLS_MAX {
            let code = if is_withdrawn(&body) { Code::TooManyPolls } else { Code::Busy };
            return self.refuse(number, code, "too many calls of one proxy");
        }
        let (lookup, withdrawn) = (is_lookup(&body), is_withdrawn(&body));
        let call = Call { locals: self.locals.clone(), link: self.link.clone(), number, shard, version };
        let Some(answering) = call.begin(body) else {
            return self.refuse(number, Code::Failed, "the request does not go with a number");
        };
        if lookup {
            self.begin_lookup(number, answering);
        } else if withdrawn {
            let (handle, registration) = AbortHandle::new_pair();
            self.withdrawable.insert(number, handle);
            let abortable = Abortable::new(answering, registration);
            self.calls.push(Box::pin(async move { abortable.await.ok().flatten() }));
        } else {
            self.calls.push(answering);
        }
    }

    /// Runs what may take long apart, so many at the same time.
    fn begin_lookup(&mut self, number: u64, answering: Answering) {
        let Ok(waiting) = self.lookups_waiting.clone().try_acquire_owned() else {
            return self.refuse(number, Code::Busy, "too many look-ups of one proxy");
        };
        let lookups = self.lookups.clone();
        let task = tasks::spawn("a proxy's look-up", async move {
            // Never closed.
            let turn = lookups.acquire_owned().await.ok();
            drop(waiting);
            let answer = answering.await;
            drop(turn);
            answer
        });
        self.calls.push(Box::pin(async move { task.await.ok().flatten() }));
    }

    /// Hands over what was answered.
    fn flush(&mut self) {
        if !self.answers.is_empty() {
            let lost = self.link.outbox.put(&mut self.answers);
            self.locals.release(lost);
        }
    }

    /// One round: what has ended, then what has come. `None` when there is nothing.
    fn poll_round(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        let mut moved = false;
        while self.answers.len() < TOGETHER {
            let Poll::Ready(Some(ended)) = Pin::new(&mut self.calls).poll_next(cx) else { break };
            moved = true;
            if let Some((number, ready)) = ended {
                self.withdrawable.remove(&number);
                self.answers.push(ready);
            }
        }
        match Pin::new(&mut self.said).poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => {
                self.take_in(message);
                moved = true;
            }
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        if moved { Poll::Ready(Some(())) } else { Poll::Pending }
    }

    fn end(&mut self) {
        // Dropping what runs takes it back.
        self.calls = FuturesUnordered::new();
        let mut lost: Vec<_> = self.answers.drain(..).flat_map(|ready| ready.handles()).collect();
        let mut left = self.link.outbox.close();
        lost.append(&mut left.unwritten);
        self.locals.release(lost);
        self.locals.proxies.departed(&self.link, left);
        self.link.end();
        tracing::info!(from = self.link.node.0, "a proxy's stream ended");
    }
}

impl Future for Served {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let served = &mut *self;
        loop {
            if served.link.outbox.poll_room(cx).is_pending() {
                return Poll::Pending;
            }
            let round = served.poll_round(cx);
            served.flush();
            if round == Poll::Ready(None) || served.link.outbox.is_closed() {
                served.end();
                return Poll::Ready(());
            }
            if round.is_pending() {
                return Poll::Pending;
            }
        }
    }
}
