//! Offers against a model: what is promised can be kept, nothing is promised twice, nobody waits beside something that nobody else was offered.

#![allow(clippy::unwrap_used)]

use super::core::{Event, Given, Reply, Token};
use super::polls::{Poll, Seeks, Wanted};
use super::rig::{Rig, group, topic};
use gantry_model::contract::broker::{AttemptCount, LeaseTerm};
use gantry_model::group::Order;
use gantry_model::topic::TopicType;
use gantry_model::{ClientId, Filter, Group, QueueKey};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// One message, of a message group or without one.
    Send(u64),
    /// A receive seeks an offer.
    Seek,
    /// The n-th offer that is out is taken, or declined.
    Take(usize),
    Decline(usize),
    /// The n-th receive that waits goes away.
    Leave(usize),
    /// A receive that doesn't wait and was offered nothing.
    Pass,
    Ack(usize),
    /// Fails, and comes again after so long.
    Nack(usize, u64),
    Sleep(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..5u64).prop_map(Step::Send),
        5 => Just(Step::Seek),
        3 => (0..8usize).prop_map(Step::Take),
        1 => (0..8usize).prop_map(Step::Decline),
        1 => (0..8usize).prop_map(Step::Leave),
        1 => Just(Step::Pass),
        2 => (0..8usize).prop_map(Step::Ack),
        1 => (0..8usize, prop_oneof![Just(0), Just(300)]).prop_map(|(at, after)| Step::Nack(at, after)),
        2 => prop_oneof![Just(10), Just(50), Just(400)].prop_map(Step::Sleep),
    ];
    prop::collection::vec(step, 1..80)
}

/// One message as a client may know it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Free,
    Held(Given),
    /// Comes again then.
    Waits(u64),
    Done,
}

struct Play {
    rig: Rig,
    group: Arc<Group>,
    kind: TopicType,
    max: u32,
    waiting: VecDeque<Token>,
    /// Offers that are out, with the time at which they are void.
    out: Vec<(Token, u64)>,
    messages: BTreeMap<(QueueKey, u64), (u64, Fate)>,
}

impl Play {
    fn new(kind: TopicType, max: u32) -> Play {
        let mut rig = Rig::new();
        rig.kind = kind;
        let order = if kind == TopicType::Fifo { Order::FollowTopic } else { Order::None };
        let group = Arc::new(Group { order, ..(*group(7, 1_000)).clone() });
        Play { rig, group, kind, max, waiting: VecDeque::new(), out: Vec::new(), messages: BTreeMap::new() }
    }

    fn ask(&mut self, seeks: Seeks) -> Token {
        let token = self.rig.token();
        let wait = if seeks == Seeks::Offer { 60_000 } else { 0 };
        let poll = Poll {
            group: self.group.clone(),
            topic: self.rig.topic(),
            wanted: Wanted::new(Arc::new(Filter::All)),
            client: ClientId::new("c"),
            max: self.max,
            term: LeaseTerm::For(Duration::from_secs(1_000)),
            deadline: self.rig.now + wait,
            attempt_id: None,
            ordered_batch: true,
            member: String::new(),
            seeks,
        };
        self.rig.step(Event::Receive { token, poll });
        self.rig.settle();
        token
    }

    /// For how many receives there is something: free messages, or message groups whose next message is free.
    fn units(&self) -> usize {
        let now = self.rig.now;
        let free = |fate: &Fate| matches!(fate, Fate::Free) || matches!(fate, Fate::Waits(at) if *at <= now);
        if self.kind != TopicType::Fifo {
            return self.messages.values().filter(|(_, fate)| free(fate)).count();
        }
        let lanes: BTreeSet<u64> = self.messages.values().map(|(lane, _)| *lane).collect();
        let next = |lane: &u64| self.messages.values().find(|(of, fate)| of == lane && *fate != Fate::Done).map(|(_, fate)| *fate);
        lanes.iter().filter(|lane| next(lane).is_some_and(|fate| free(&fate))).count()
    }

    fn play(&mut self, step: &Step) {
        match *step {
            Step::Send(lane) => {
                let sent = if self.kind == TopicType::Fifo {
                    self.rig.send_groups(&[lane])
                } else {
                    let note = super::rig::Note::plain(u128::from(self.rig.token().0) << 64, None);
                    self.rig.send_notes(vec![note])
                };
                for sent in sent {
                    self.messages.insert((QueueKey::new(topic().id, sent.queue), sent.offset.0), (lane, Fate::Free));
                }
            }
            Step::Seek => {
                let token = self.ask(Seeks::Offer);
                self.waiting.push_back(token);
            }
            Step::Take(at) if at < self.out.len() => {
                let (token, until) = self.out.remove(at);
                let in_time = self.rig.now < until;
                let given = self.lease(Seeks::Offered(token));
                assert!(!in_time || given > 0, "what was offered was kept");
            }
            Step::Decline(at) if at < self.out.len() => {
                let (token, _) = self.out.remove(at);
                self.rig.step(Event::Cancel { token });
            }
            Step::Leave(at) if at < self.waiting.len() => {
                let token = self.waiting.remove(at).unwrap();
                self.rig.step(Event::Cancel { token });
            }
            Step::Pass => {
                let (units, out) = (self.units(), self.out.len());
                let given = self.lease(Seeks::Messages);
                assert!(given <= units.saturating_sub(out), "{given} given beside {out} offers of {units}");
            }
            Step::Ack(at) => self.finish(at, None),
            Step::Nack(at, after) => self.finish(at, Some(after)),
            Step::Sleep(ms) => self.rig.sleep(ms),
            _ => {}
        }
        self.rig.settle();
        self.take_offers();
    }

    /// Leases and answers how many.
    fn lease(&mut self, seeks: Seeks) -> usize {
        let token = self.ask(seeks);
        let given = self.rig.answer(token);
        for given in &given {
            let (_, fate) = self.messages.get_mut(&(given.queue, given.offset)).unwrap();
            assert!(matches!(fate, Fate::Free | Fate::Waits(_)), "{given:?} is leased once");
            *fate = Fate::Held(*given);
        }
        given.len()
    }

    fn finish(&mut self, at: usize, nack: Option<u64>) {
        let held: Vec<Given> =
            self.messages.values().filter_map(|(_, fate)| if let Fate::Held(given) = fate { Some(*given) } else { None }).collect();
        let Some(given) = held.get(at) else { return };
        let fate = match nack {
            None => {
                assert_eq!(self.rig.ack(&self.group.clone(), &[*given]), [Ok(())]);
                Fate::Done
            }
            Some(after) => {
                assert_eq!(self.rig.change(&self.group.clone(), given, after, AttemptCount::Counts), Ok(()));
                Fate::Waits(self.rig.now + after)
            }
        };
        self.messages.get_mut(&(given.queue, given.offset)).unwrap().1 = fate;
    }

    fn take_offers(&mut self) {
        let now = self.rig.now;
        self.out.retain(|(_, until)| now < *until);
        let mut passed = Vec::new();
        for token in self.waiting.clone() {
            match self.rig.replies.remove(&token) {
                Some(Reply::Offered) => {
                    assert!(passed.is_empty(), "{token:?} went before {passed:?}");
                    self.waiting.retain(|other| *other != token);
                    self.out.push((token, now + 50));
                }
                Some(other) => panic!("an offer was sought, and answered with {other:?}"),
                None => passed.push(token),
            }
        }
    }

    fn check(&self) {
        let units = self.units();
        assert!(self.out.len() <= units, "{} offers are out for {units}", self.out.len());
        assert!(self.waiting.is_empty() || self.out.len() == units, "{} wait, {} offers, {units} to be had", self.waiting.len(), self.out.len());
    }
}

fn run(kind: TopicType, max: u32, steps: &[Step]) {
    let mut play = Play::new(kind, max);
    for step in steps {
        play.play(step);
        play.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_offered_is_there_and_what_is_there_is_offered(steps in steps(), max in 1..4u32) {
        run(TopicType::Normal, max, &steps);
    }

    #[test]
    fn a_message_group_is_offered_to_one_receive_at_a_time(steps in steps()) {
        run(TopicType::Fifo, 1, &steps);
    }
}

#[test]
fn an_offer_that_nobody_takes_goes_to_the_next_after_fifty_milliseconds() {
    let mut play = Play::new(TopicType::Normal, 32);
    [Step::Seek, Step::Seek, Step::Send(1)].iter().for_each(|step| play.play(step));
    let first = play.out[0].0;
    assert_eq!((play.out.len(), play.waiting.len()), (1, 1));
    play.play(&Step::Sleep(49));
    assert_eq!(play.out[0].0, first);
    play.play(&Step::Sleep(1));
    assert_eq!((play.out.len(), play.waiting.len()), (1, 0));
    assert_ne!(play.out[0].0, first);
    // Who comes too late gets what is left beside the offers of others, which is nothing.
    assert_eq!(play.lease(Seeks::Offered(first)), 0);
    let second = play.out[0].0;
    assert_eq!(play.lease(Seeks::Offered(second)), 1);
}

#[test]
fn a_client_that_is_gone_is_offered_nothing() {
    let mut play = Play::new(TopicType::Normal, 32);
    [Step::Seek, Step::Send(1)].iter().for_each(|step| play.play(step));
    assert_eq!(play.out.len(), 1);
    play.rig.step(Event::ClientGone { client: ClientId::new("c") });
    play.rig.settle();
    play.out.clear();
    play.play(&Step::Seek);
    assert_eq!(play.out.len(), 1, "the message is there for the next");
}

#[test]
fn filters_of_others_never_keep_a_message_from_who_wants_it() {
    let mut rig = Rig::new();
    let members = group(7, 16);
    let seek = |rig: &mut Rig, tag: &str| {
        let token = rig.token();
        let wanted = Wanted::new(Arc::new(Filter::Tags(vec![tag.into()])));
        let (term, deadline) = (LeaseTerm::For(Duration::from_secs(100)), rig.now + 10_000);
        let client = ClientId::new(tag);
        let (group, topic) = (members.clone(), rig.topic());
        let poll = Poll {
            group,
            topic,
            wanted,
            client,
            max: 32,
            term,
            deadline,
            attempt_id: None,
            ordered_batch: true,
            member: String::new(),
            seeks: Seeks::Offer,
        };
        rig.step(Event::Receive { token, poll: poll.clone() });
        rig.settle();
        (token, poll)
    };
    let (red, red_poll) = seek(&mut rig, "red");
    let (blue, blue_poll) = seek(&mut rig, "blue");
    rig.send(&[Some("red"), Some("blue"), None]);
    assert_eq!(rig.replies.remove(&red), Some(Reply::Offered));
    // The reckoning is for one filter at a time, so the second waits until the first was served.
    for (offer, poll) in [(red, red_poll), (blue, blue_poll)] {
        assert!(offer == red || rig.replies.remove(&offer) == Some(Reply::Offered));
        let token = rig.token();
        rig.step(Event::Receive { token, poll: Poll { seeks: Seeks::Offered(offer), deadline: rig.now, ..poll } });
        rig.settle();
        assert_eq!(rig.answer(token).len(), 1);
    }
}
