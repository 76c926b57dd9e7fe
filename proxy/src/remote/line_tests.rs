//! The line alone: what is written, who hears what, and that nothing is given to nobody.

use super::*;
use gantry_platform::clock::ManualClock;
use gantry_proto::broker::{Deliveries, Delivery, Handle, OfferMade, OnTopic, Send};
use proptest::prelude::*;
use std::cell::Cell;
use std::future::Future;

const SHARD: ShardId = ShardId(1);
const LONG: Duration = Duration::from_secs(60);

struct Rig {
    line: Line,
    clock: ManualClock,
    stream: Cell<u64>,
}

type Asked<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

impl Rig {
    fn new() -> Rig {
        let clock = ManualClock::new(0);
        let rig = Rig { line: Line::new(Arc::new(clock.clone())), clock, stream: Cell::new(0) };
        rig.open();
        rig
    }

    fn open(&self) {
        self.line.connecting();
        self.stream.set(self.line.greeting().0);
        self.line.opened();
    }

    /// Hands a request over.
    fn ask(&self, kind: Kind, size: usize) -> Asked<'_> {
        self.ask_within(kind, size, LONG)
    }

    fn ask_within(&self, kind: Kind, size: usize, time: Duration) -> Asked<'_> {
        let body = match kind {
            Kind::Data => Body::Send(Send::default()),
            Kind::Control => Body::Queues(OnTopic::default()),
            Kind::Poll => Body::Receive(Default::default()),
        };
        let mut asked: Asked<'_> = Box::pin(self.line.ask(Asking { shard: SHARD, kind, body, size, time }));
        if let Poll::Ready(outcome) = poll(&mut asked) {
            return Box::pin(std::future::ready(outcome));
        }
        asked
    }

    fn written(&self) -> Vec<Request> {
        match self.line.poll_batch(self.stream.get(), &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some((_, requests))) => requests,
            Poll::Ready(None) | Poll::Pending => Vec::new(),
        }
    }

    fn calls(&self) -> Vec<u64> {
        self.written().iter().map(|request| request.call).collect()
    }

    fn answer(&self, answers: Vec<Answer>) {
        self.line.take_in(&mut ToProxy { number: 1, answers, commands: Vec::new() });
    }
}

fn poll(asked: &mut Asked<'_>) -> Poll<Outcome> {
    asked.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn given(call: u64, leases: &[u64], more: bool) -> Answer {
    let delivery = |&lease| Delivery { handle: Some(Handle { lease, ..Handle::default() }), ..Delivery::default() };
    Answer { call, more, body: Some(Said::Deliveries(Deliveries { deliveries: leases.iter().map(delivery).collect() })) }
}

fn leases_of(part: &Said) -> Vec<u64> {
    match part {
        Said::Deliveries(deliveries) => deliveries.deliveries.iter().filter_map(|delivery| Some(delivery.handle?.lease)).collect(),
        _ => Vec::new(),
    }
}

fn released(requests: &[Request]) -> Vec<u64> {
    let handles = |request: &Request| match &request.body {
        Some(Body::Release(handles)) => handles.handles.iter().map(|handle| handle.lease).collect(),
        _ => Vec::new(),
    };
    requests.iter().flat_map(handles).collect()
}

#[test]
fn what_waits_goes_together_small_things_first_and_large_ones_alone() {
    let rig = Rig::new();
    let _asked = [
        rig.ask(Kind::Data, 50_000),
        rig.ask(Kind::Data, 10_000),
        rig.ask(Kind::Data, 4_000_000),
        rig.ask(Kind::Data, 10),
        rig.ask(Kind::Control, 10),
    ];
    assert_eq!(rig.calls(), [5, 1, 2]);
    assert_eq!(rig.calls(), [3]);
    assert_eq!(rig.calls(), [4]);
    assert!(rig.calls().is_empty());
}

#[test]
fn a_call_that_nobody_waits_for_is_not_written_or_is_withdrawn() {
    let rig = Rig::new();
    drop(rig.ask(Kind::Poll, 10));
    assert!(rig.written().is_empty(), "nobody has seen it");
    let poll = rig.ask(Kind::Poll, 10);
    let send = rig.ask(Kind::Data, 10);
    assert_eq!(rig.calls(), [2, 3]);
    drop((poll, send));
    let withdrawn = rig.written();
    assert_eq!(withdrawn.iter().map(|request| request.body.clone()).collect::<Vec<_>>(), [Some(Body::Cancel(2))], "a send may be stored");
}

#[test]
fn an_answer_that_nobody_waits_for_is_given_back() {
    let rig = Rig::new();
    let asked = rig.ask(Kind::Poll, 10);
    rig.written();
    rig.answer(vec![given(1, &[1, 2], true)]);
    drop(asked);
    rig.answer(vec![given(1, &[3], false), Answer { call: 9, more: false, body: Some(Said::Offer(OfferMade { offer: Some(5) })) }]);
    let requests = rig.written();
    assert_eq!(released(&requests), [1, 2, 3]);
    assert_eq!(requests.last().map(|request| request.body.clone()), Some(Some(Body::Decline(5))));
    // It came, and its caller went away before looking.
    let asked = rig.ask(Kind::Poll, 10);
    rig.written();
    rig.answer(vec![given(2, &[4], false)]);
    drop(asked);
    assert_eq!(released(&rig.written()), [4]);
}

#[test]
fn bytes_under_way_are_bounded_and_come_free_with_the_answer() {
    let rig = Rig::new();
    let full = |mut asked: Asked<'_>| matches!(poll(&mut asked), Poll::Ready(Err(Fault::Full)));
    let first = rig.ask(Kind::Data, DATA_MAX - 10);
    assert!(full(rig.ask(Kind::Data, 11)));
    assert!(!full(rig.ask(Kind::Control, 11)), "what ends deliveries passes");
    rig.written();
    assert!(full(rig.ask(Kind::Data, 11)), "it is under way until it is answered");
    rig.answer(vec![Answer { call: 1, more: false, body: Some(Said::Done(Default::default())) }]);
    let huge = rig.ask(Kind::Data, 2 * DATA_MAX);
    assert!(full(rig.ask(Kind::Data, 1)), "one that is larger than the bound passes alone");
    drop((huge, first));
    assert!(!full(rig.ask(Kind::Data, 1)));
}

#[test]
fn overdue_calls_end_and_say_whether_they_may_have_been_done() {
    let rig = Rig::new();
    let mut written = rig.ask_within(Kind::Poll, 10, Duration::from_secs(5));
    rig.written();
    let mut queued = rig.ask_within(Kind::Data, 10, Duration::from_secs(5));
    rig.clock.advance(Duration::from_secs(5));
    rig.line.tick();
    assert!(poll(&mut written).is_pending(), "its time is not over before it is over");
    rig.clock.advance(Duration::from_millis(1));
    rig.line.tick();
    assert!(matches!(poll(&mut written), Poll::Ready(Err(Fault::Lost(_)))));
    assert!(matches!(poll(&mut queued), Poll::Ready(Err(Fault::Unsent))));
    assert_eq!(rig.written().iter().map(|request| request.body.clone()).collect::<Vec<_>>(), [Some(Body::Cancel(1))]);
}

#[test]
fn clients_that_call_often_are_named_once_a_round() {
    let rig = Rig::new();
    let clients = ["one", "other"].map(ClientId::new);
    (0..1_000).for_each(|number| rig.line.alive(&clients[number % 2]));
    assert!(rig.written().is_empty());
    rig.line.tick();
    let told: Vec<_> = rig.written().into_iter().filter_map(|request| request.body).collect();
    assert_eq!(told, [Body::Alive(Clients { clients: vec!["one".into(), "other".into()] })]);
    rig.line.tick();
    assert!(rig.written().is_empty());
    rig.line.alive(&clients[0]);
    rig.line.gone(SHARD, &clients[0]);
    rig.line.tick();
    let told: Vec<_> = rig.written().into_iter().filter_map(|request| request.body).collect();
    assert_eq!(told, [Body::Gone(Client { client: "one".into() })], "who ended is not alive");
}

#[test]
fn what_must_not_be_lost_waits_for_the_next_stream() {
    let rig = Rig::new();
    rig.line.ready(&[TopicId(3)]);
    rig.written();
    rig.line.broke("test");
    let handles = vec![Handle { lease: 1, ..Handle::default() }];
    rig.line.note(SHARD, Body::Release(Handles { handles }));
    rig.line.gone(SHARD, &ClientId::new("c"));
    rig.line.note_on(rig.stream.get(), SHARD, Body::Decline(4));
    let mut refused = rig.ask(Kind::Control, 1);
    assert!(matches!(poll(&mut refused), Poll::Ready(Err(Fault::Unsent))), "nothing waits for a connection that can't be had");
    rig.open();
    let told: Vec<_> = rig.written().into_iter().filter_map(|request| request.body).collect();
    assert!(matches!(&told[..], [Body::Release(_), Body::Gone(_), Body::ProducerReady(ready)] if ready.topics == [3]), "{told:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Ask(Kind),
    /// The caller of one of the calls goes away.
    Drop(usize),
    Write,
    /// One of the calls that were written is answered: with so many deliveries, and whether more follow.
    Answer(usize, u8, bool),
    Break,
    Open,
    Tick(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![Just(Kind::Data), Just(Kind::Control), Just(Kind::Poll)].prop_map(Step::Ask),
        2 => any::<usize>().prop_map(Step::Drop),
        4 => Just(Step::Write),
        5 => (any::<usize>(), 0..3u8, any::<bool>()).prop_map(|(at, count, more)| Step::Answer(at, count, more)),
        1 => Just(Step::Break),
        2 => Just(Step::Open),
        1 => (0..40u64).prop_map(Step::Tick),
    ]
}

/// What happened in a run.
#[derive(Default)]
struct Seen {
    /// Calls that the broker has and did not answer whole.
    written: Vec<u64>,
    given: Vec<u64>,
    got: Vec<u64>,
    released: Vec<u64>,
}

impl Seen {
    /// Looks who has an outcome; answers who has none.
    fn hear<'a>(&mut self, asked: Vec<Asked<'a>>) -> Vec<Asked<'a>> {
        let mut still = Vec::new();
        for mut call in asked {
            match poll(&mut call) {
                Poll::Ready(Ok(Answered { before, last })) => before.iter().chain([&last]).for_each(|part| self.got.append(&mut leases_of(part))),
                Poll::Ready(Err(_)) => {}
                Poll::Pending => still.push(call),
            }
        }
        still
    }

    fn write(&mut self, rig: &Rig) {
        let requests = rig.written();
        self.released.append(&mut released(&requests));
        self.written.extend(requests.iter().map(|request| request.call).filter(|&call| call > 0));
    }

    fn answer(&mut self, rig: &Rig, at: usize, count: u8, more: bool) {
        if self.written.is_empty() {
            return;
        }
        let at = at % self.written.len();
        let call = if more { self.written[at] } else { self.written.swap_remove(at) };
        let first = self.given.len() as u64 + 1;
        let leases: Vec<u64> = (first..first + u64::from(count)).collect();
        self.given.extend(&leases);
        rig.answer(vec![given(call, &leases, more)]);
    }
}

proptest! {
    #[test]
    fn every_call_ends_and_every_delivery_is_got_or_given_back_once(steps in prop::collection::vec(step(), 1..80)) {
        let (rig, mut seen, mut asked, mut open) = (Rig::new(), Seen::default(), Vec::new(), true);
        for step in steps {
            match step {
                Step::Ask(kind) => {
                    let mut call = rig.ask_within(kind, 10, Duration::from_secs(30));
                    let refused = poll(&mut call);
                    prop_assert!(refused.is_ready() != open, "{refused:?}");
                    asked.extend(open.then_some(call));
                }
                Step::Drop(at) if !asked.is_empty() => drop(asked.swap_remove(at % asked.len())),
                Step::Drop(_) => {}
                Step::Write => seen.write(&rig),
                Step::Answer(at, count, more) => seen.answer(&rig, at, count, more),
                Step::Break => {
                    rig.line.broke("test");
                    seen.written.clear();
                    open = false;
                }
                Step::Open if !open => {
                    rig.open();
                    open = true;
                }
                Step::Open => {}
                Step::Tick(seconds) => {
                    rig.clock.advance(Duration::from_secs(seconds));
                    rig.line.tick();
                }
            }
            asked = seen.hear(asked);
        }
        rig.line.broke("the end");
        prop_assert!(seen.hear(asked).is_empty(), "a call that never ends");
        rig.open();
        seen.write(&rig);
        let mut ended = [seen.got, seen.released].concat();
        ended.sort_unstable();
        prop_assert_eq!(ended, seen.given);
        prop_assert_eq!(rig.line.under_way(SHARD), 0);
    }
}
