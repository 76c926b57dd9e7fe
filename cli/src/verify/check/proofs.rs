//! The check against made-up histories: those of a sound queue have no violation, whatever was lost on the way; and each kind of violation
//! that is planted into one is found.

#![allow(clippy::unwrap_used)]

use super::{Broken, check};
use crate::verify::history::{
    Ack, Delivery, End, Event, Header, History, Id, Kind, Lane, Micros, Nack, Outcome, Receive, Resolution, Send, State, Topic,
};
use clap::ValueEnum;
use gantry_platform::{Chance, SeededChance};
use proptest::prelude::*;

const KINDS: [Kind; 4] = [Kind::Normal, Kind::Fifo, Kind::Delay, Kind::Transaction];
const GROUPS: u16 = 2;
const INVISIBLE: u64 = 10_000_000;

/// A queue that keeps every promise, and a network that loses answers.
struct World {
    chance: SeededChance,
    history: History,
    calls: u64,
    end: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut header = Header::new(1, String::new(), 0);
        header.invisible = Micros(INVISIBLE);
        header.skew = Micros(200_000);
        header.groups = (0..GROUPS).map(|number| format!("g{number}")).collect();
        header.topics = KINDS.map(|kind| Topic { name: kind.name().to_owned(), kind, once: true, own: true }).to_vec();
        header.lanes = (0..KINDS.len() as u16 * 2).map(|lane| Lane { topic: lane / 2 }).collect();
        World { chance: SeededChance::new(seed), history: History { header, events: vec![] }, calls: 0, end: 0 }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.chance.next_u64() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn add(&mut self, event: Event) {
        self.history.events.push(event);
    }

    /// A sound run.
    fn run(mut self, messages: u32) -> History {
        for lane in 0..self.history.header.lanes.len() as u32 {
            let stored = self.produce(lane, messages);
            for group in 0..GROUPS {
                if self.history.header.topic_of(lane).unwrap().kind == Kind::Fifo {
                    self.consume_in_order(group, &stored);
                    continue;
                }
                for message in &stored {
                    self.consume(group, std::slice::from_ref(message), message.1, 1);
                }
            }
        }
        self.finish();
        self.history
    }

    /// Sends the messages of a lane; those that are stored, each with the time at which it became visible.
    fn produce(&mut self, lane: u32, messages: u32) -> Vec<(Id, u64)> {
        let kind = self.history.header.topic_of(lane).unwrap().kind;
        let (mut now, mut stored) = (self.below(1_000_000), Vec::new());
        for seq in 0..messages {
            let (id, from) = (Id { lane, seq }, now);
            now += 1 + self.below(3_000_000);
            let outcome = [Outcome::Ok, Outcome::Ok, Outcome::Ok, Outcome::Unknown, Outcome::Refused][self.below(5) as usize];
            let due = (kind == Kind::Delay).then(|| Micros(from + self.below(5_000_000)));
            self.add(Event::Send(Send { id, from: Micros(from), to: Micros(now), attempts: 1, outcome, due, reason: None }));
            let is_stored = outcome == Outcome::Ok || (outcome == Outcome::Unknown && self.one_in(2));
            // What nobody answered may be stored long after its successors.
            let late = if outcome == Outcome::Unknown { self.below(20_000_000) } else { 0 };
            let visible = due.map_or(from, |due| due.0.max(from)) + late;
            if is_stored && (kind != Kind::Transaction || self.commits(id, &mut now)) {
                stored.push((id, visible.max(if kind == Kind::Transaction { now } else { 0 })));
            }
        }
        stored.sort_by_key(|(_, visible)| *visible);
        stored
    }

    /// Ends a transaction, or forgets to.
    fn commits(&mut self, id: Id, now: &mut u64) -> bool {
        if self.one_in(5) {
            return false;
        }
        let from = Micros(*now + 1);
        *now += 1 + self.below(500_000);
        let resolution = if self.one_in(3) { Resolution::Rollback } else { Resolution::Commit };
        let outcome = if self.one_in(4) { Outcome::Unknown } else { Outcome::Ok };
        self.add(Event::End(End { id, from, to: Micros(*now), resolution, outcome }));
        resolution == Resolution::Commit && (outcome == Outcome::Ok || self.one_in(2))
    }

    fn consume_in_order(&mut self, group: u16, stored: &[(Id, u64)]) {
        let (mut next, mut now, mut attempt) = (0, 0, 1);
        while next < stored.len() {
            let most = if attempt > 1 { 1 } else { 1 + self.below(3) as usize };
            let batch = &stored[next..stored.len().min(next + most)];
            let ready = batch.last().unwrap().1.max(now);
            let (done, free) = self.consume(group, batch, ready, attempt);
            next += done;
            attempt = if done < batch.len() { attempt + 1 } else { 1 };
            now = free;
        }
    }

    /// Delivers a batch in one call, again and again for a single message, else once; how many are done, and when the rest is free.
    fn consume(&mut self, group: u16, batch: &[(Id, u64)], ready: u64, first_attempt: i32) -> (usize, u64) {
        let (mut free, mut attempt) = (ready, first_attempt);
        loop {
            let leased = free + self.below(1_000_000);
            let from = leased.saturating_sub(self.below(5_000_000));
            let at = leased + 1 + self.below(300_000);
            let complete = !self.one_in(8);
            self.calls += 1;
            let call = self.calls;
            let delivery = |(id, _): &(Id, u64)| Delivery { id: *id, at: Micros(at), queue: 0, offset: place(*id), attempt, state: State::Whole };
            let messages = batch.iter().map(delivery).collect();
            let topic = self.history.header.lanes[batch[0].0.lane as usize].topic;
            self.add(Event::Receive(Receive { call, topic, group, from: Micros(from), to: Micros(at), complete, messages, strangers: vec![] }));
            let mut done = 0;
            // Given back at once, or after the time for which the server still believes in the call.
            free = if complete { leased + INVISIBLE } else { at + self.below(INVISIBLE) };
            let mut now = at;
            while complete && done < batch.len() && self.handled(group, batch[done].0, call, &mut now, &mut free) {
                done += 1;
            }
            self.end = self.end.max(now).max(free);
            if done == batch.len() || batch.len() > 1 {
                return (done, if done == batch.len() { now } else { free });
            }
            attempt += 1;
        }
    }

    /// What a consumer does with a delivery; whether the message is done.
    fn handled(&mut self, group: u16, id: Id, call: u64, now: &mut u64, free: &mut u64) -> bool {
        let from = Micros(*now + self.below(100_000));
        let to = Micros(from.0 + 1 + self.below(400_000));
        *now = to.0;
        match self.below(6) {
            0 => false,
            1 => {
                let hidden = Micros(self.below(3_000_000));
                *free = from.0 + hidden.0;
                self.add(Event::Nack(Nack { id, group, call, from, to, outcome: Outcome::Ok, hidden }));
                false
            }
            2 => {
                self.add(Event::Ack(Ack { id, group, call, from, to, outcome: Outcome::Unknown }));
                self.one_in(2)
            }
            _ => {
                self.add(Event::Ack(Ack { id, group, call, from, to, outcome: Outcome::Ok }));
                true
            }
        }
    }

    fn finish(&mut self) {
        self.end += 60_000_000;
        let at = Micros(self.end);
        for (topic, group) in (0..KINDS.len() as u16).flat_map(|topic| (0..GROUPS).map(move |group| (topic, group))) {
            self.calls += 1;
            let receive = Receive { call: self.calls, topic, group, from: at, to: at, complete: true, messages: vec![], strangers: vec![] };
            self.add(Event::Receive(receive));
        }
        self.add(Event::Drained { at });
        // Events are written in no order.
        for swap in 1..self.history.events.len() {
            let other = self.below(swap as u64 + 1) as usize;
            self.history.events.swap(swap, other);
        }
    }
}

fn place(id: Id) -> i64 {
    i64::from(id.lane) * 1_000 + i64::from(id.seq)
}

fn found(history: &History) -> Vec<Broken> {
    check(history).violations.into_keys().collect()
}

fn calls_from(history: &History) -> u64 {
    history.events.len() as u64 * 10
}

/// Deliveries of a history, each with its call.
fn deliveries(history: &History) -> Vec<(Receive, Delivery)> {
    let received = history.events.iter().filter_map(|event| if let Event::Receive(receive) = event { Some(receive) } else { None });
    let mut all: Vec<_> = received.flat_map(|receive| receive.messages.iter().map(|delivery| (receive.clone(), delivery.clone()))).collect();
    all.sort_by_key(|(receive, delivery)| (delivery.at, receive.call, delivery.id));
    all
}

fn acks(history: &History) -> Vec<Ack> {
    history.events.iter().filter_map(|event| if let Event::Ack(ack) = event { Some(ack.clone()) } else { None }).collect()
}

fn kind_of(history: &History, id: Id) -> Kind {
    history.header.topic_of(id.lane).unwrap().kind
}

fn change(history: &mut History, id: Id, with: impl Fn(&mut Event)) {
    let names = |event: &Event| match event {
        Event::Send(send) => send.id == id,
        Event::End(end) => end.id == id,
        Event::Receive(receive) => receive.messages.iter().any(|delivery| delivery.id == id),
        Event::Ack(ack) => ack.id == id,
        Event::Nack(nack) => nack.id == id,
        Event::Stopped { .. } | Event::Drained { .. } => false,
    };
    history.events.iter_mut().filter(|event| names(event)).for_each(with);
}

fn deliver_again(history: &mut History, receive: &Receive, delivery: &Delivery, from: u64, at: u64) {
    let call = calls_from(history) + at;
    let messages = vec![Delivery { at: Micros(at), attempt: delivery.attempt + 1, ..delivery.clone() }];
    let (from, to) = (Micros(from), Micros(at));
    history.events.push(Event::Receive(Receive { call, from, to, complete: false, messages, strangers: vec![], ..receive.clone() }));
}

fn lose(history: &mut History, id: Id, group: u16) {
    for event in &mut history.events {
        if let Event::Receive(receive) = event
            && receive.group == group
        {
            receive.messages.retain(|delivery| delivery.id != id);
        }
    }
    history.events.retain(|event| !matches!(event, Event::Ack(ack) if ack.id == id && ack.group == group));
    // A call that lost its only message is not one that found nothing.
    history.events.retain(|event| !matches!(event, Event::Receive(receive) if receive.messages.is_empty() && receive.from < receive.to));
}

/// Breaks one promise of a sound history somewhere; `false` if it has nothing that could break so.
fn plant(broken: Broken, history: &mut History, pick: u64) -> bool {
    match broken {
        Broken::Duplicated => plant_duplicate(history, pick),
        Broken::Redelivered => plant_redelivery(history, pick),
        Broken::Reordered => plant_disorder(history, pick),
        Broken::Phantom => plant_phantom(history, pick),
        Broken::Lost => {
            let acked: Vec<(Id, u16)> = acks(history).iter().filter(|ack| must_come(history, ack.id)).map(|ack| (ack.id, ack.group)).collect();
            choose(&acked, pick).is_some_and(|(id, group)| {
                lose(history, id, group);
                true
            })
        }
        Broken::StoredTwice => choose(&deliveries(history), pick).is_some_and(|(receive, delivery)| {
            // A first delivery of the same message to another group shows another place.
            let other = Receive { group: 1 - receive.group, ..receive };
            let elsewhere = Delivery { offset: delivery.offset + 500, attempt: 0, ..delivery };
            deliver_again(history, &other, &elsewhere, 0, 1_000_000_000_000);
            true
        }),
        Broken::Early => {
            let delayed: Vec<_> = deliveries(history).into_iter().filter(|(_, delivery)| kind_of(history, delivery.id) == Kind::Delay).collect();
            choose(&delayed, pick).is_some_and(|(_, delivery)| {
                let late = delivery.at.plus(history.header.skew).plus(Micros(1));
                change(history, delivery.id, |event| {
                    if let Event::Send(send) = event {
                        send.due = Some(late);
                    }
                });
                true
            })
        }
        Broken::Torn => choose(&deliveries(history), pick).is_some_and(|(_, delivery)| {
            let state = if pick.is_multiple_of(2) { State::Torn } else { State::Altered };
            change(history, delivery.id, |event| {
                if let Event::Receive(receive) = event {
                    receive.messages.iter_mut().filter(|other| other.id == delivery.id).for_each(|other| other.state = state);
                }
            });
            true
        }),
    }
}

fn must_come(history: &History, id: Id) -> bool {
    let sent = |event: &Event| matches!(event, Event::Send(send) if send.id == id && send.outcome == Outcome::Ok);
    let committed =
        |event: &Event| matches!(event, Event::End(end) if end.id == id && end.resolution == Resolution::Commit && end.outcome == Outcome::Ok);
    history.events.iter().any(sent) && (kind_of(history, id) != Kind::Transaction || history.events.iter().any(committed))
}

fn choose<T: Clone>(from: &[T], pick: u64) -> Option<T> {
    (!from.is_empty()).then(|| from[(pick % from.len() as u64) as usize].clone())
}

fn plant_duplicate(history: &mut History, pick: u64) -> bool {
    let acked: Vec<Ack> = acks(history).into_iter().filter(|ack| ack.outcome == Outcome::Ok).collect();
    let Some(ack) = choose(&acked, pick) else { return false };
    let (receive, delivery) = deliveries(history).into_iter().find(|(receive, delivery)| receive.call == ack.call && delivery.id == ack.id).unwrap();
    // Either the whole call comes after the answer, or it began before and its lease cannot have.
    let alive = ack.to.plus(history.header.skew) < receive.from.plus(history.header.invisible);
    let taken_back = kind_of(history, ack.id) == Kind::Fifo;
    let from = if alive && !taken_back && pick.is_multiple_of(2) { ack.from.0 } else { ack.to.0 };
    deliver_again(history, &receive, &delivery, from, ack.to.0 + 1);
    true
}

fn plant_redelivery(history: &mut History, pick: u64) -> bool {
    let settled = |receive: &Receive, id: Id| {
        history.events.iter().any(|event| match event {
            Event::Ack(ack) => ack.outcome == Outcome::Ok && ack.call == receive.call && ack.id == id,
            Event::Nack(nack) => nack.call == receive.call,
            _ => false,
        })
    };
    let held = |receive: &Receive, delivery: &Delivery| {
        receive.complete && !settled(receive, delivery.id) && delivery.at.plus(Micros(300_000)) < receive.from.plus(history.header.invisible)
    };
    let held: Vec<_> = deliveries(history).into_iter().filter(|(receive, delivery)| held(receive, delivery)).collect();
    let Some((receive, delivery)) = choose(&held, pick) else { return false };
    deliver_again(history, &receive, &delivery, delivery.at.0, delivery.at.0 + 1);
    true
}

fn plant_disorder(history: &mut History, pick: u64) -> bool {
    let all = deliveries(history);
    let first = |id: Id, group: u16| all.iter().find(|(receive, delivery)| delivery.id == id && receive.group == group).unwrap();
    let mut pairs = Vec::new();
    for ack in acks(history).iter().filter(|ack| kind_of(history, ack.id) == Kind::Fifo && must_come(history, ack.id)) {
        let only = acks(history).iter().filter(|other| other.id == ack.id && other.group == ack.group).count() == 1;
        let behind = all.iter().filter(|(receive, delivery)| {
            receive.group == ack.group && receive.call != ack.call && delivery.id.lane == ack.id.lane && delivery.id.seq > ack.id.seq
        });
        let later = behind.filter(|(_, delivery)| first(delivery.id, ack.group).1.at > ack.from);
        pairs.extend(later.filter(|_| only).map(|(_, delivery)| (ack.clone(), delivery.clone())));
    }
    let Some((ack, behind)) = choose(&pairs, pick) else { return false };
    for event in &mut history.events {
        if let Event::Ack(moved) = event
            && *moved == ack
        {
            moved.from = behind.at.plus(Micros(1));
            moved.to = moved.from.plus(Micros(1));
        }
    }
    true
}

fn plant_phantom(history: &mut History, pick: u64) -> bool {
    let Some((_, delivery)) = choose(&deliveries(history), pick) else { return false };
    let id = delivery.id;
    match (kind_of(history, id), pick % 3) {
        (Kind::Transaction, 0) => history.events.retain(|event| !matches!(event, Event::End(end) if end.id == id)),
        (Kind::Transaction, 1) => change(history, id, |event| {
            if let Event::End(end) = event {
                end.resolution = Resolution::Rollback;
            }
        }),
        (_, 2) => change(history, id, |event| {
            if let Event::Send(send) = event {
                send.outcome = Outcome::Refused;
            }
        }),
        _ => history.events.retain(|event| !matches!(event, Event::Send(send) if send.id == id)),
    }
    true
}

/// What else a planted violation breaks by its nature.
fn comes_with(broken: Broken) -> &'static [Broken] {
    match broken {
        // Who lost a message of a group has passed it, and what it took back with it came again without a reason.
        Broken::Lost => &[Broken::Reordered, Broken::Redelivered],
        // The second place is seen at the end of time, long after the acknowledgement.
        Broken::StoredTwice => &[Broken::Duplicated, Broken::Redelivered],
        // The copy comes without those that it was delivered behind.
        Broken::Redelivered => &[Broken::Reordered],
        _ => &[],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_sound_run_has_no_violation(seed: u64) {
        let history = World::new(seed).run(12);
        let verdict = check(&history);
        prop_assert!(verdict.stories.is_empty(), "{:#?}", verdict.stories);
        prop_assert_eq!(verdict.undecided, 0);
        prop_assert!(verdict.sends.ok > 0 && verdict.deliveries > 0 && verdict.acknowledged > 0);
    }

    #[test]
    fn every_planted_violation_is_found(seed: u64, pick: u64, which in 0..Broken::value_variants().len()) {
        let broken = Broken::value_variants()[which];
        let mut history = World::new(seed).run(12);
        prop_assume!(plant(broken, &mut history, pick));
        let found = found(&history);
        prop_assert!(found.contains(&broken), "{broken:?} was planted, found {found:?}");
        let strange: Vec<_> = found.iter().filter(|other| **other != broken && !comes_with(broken).contains(other)).collect();
        prop_assert!(strange.is_empty(), "{broken:?} was planted, {strange:?} was found as well");
    }
}

/// Without this a planter that never finds a place would pass.
#[test]
fn every_kind_can_be_planted() {
    for &broken in Broken::value_variants() {
        let planted = (0..20).filter(|seed| plant(broken, &mut World::new(*seed).run(12), *seed)).count();
        assert!(planted >= 15, "{broken:?} was planted {planted} times of 20");
    }
}
