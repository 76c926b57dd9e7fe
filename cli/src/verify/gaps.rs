//! How long the cluster did not work, and how fast it was otherwise.
//!
//! A lane stalls from the begin of a send to the next acknowledged send: a slow answer, no answer and a refusal all count. Stalls of several
//! lanes that overlap are one incident, as after the crash of a node. What a lane waits between two sends by its rate does not count.

use super::history::{Event, History, Id, Micros, Outcome, Resolution};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// Latencies are counted up to an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// A time in which some lanes had no acknowledged send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Incident {
    #[serde(rename = "from_us")]
    pub from: Micros,
    /// From the first stalled lane to the last one.
    #[serde(rename = "length_us")]
    pub length: Micros,
    /// The longest stall of one lane.
    #[serde(rename = "longest_us")]
    pub longest: Micros,
    pub lanes: usize,
    /// Sends that ended without an acknowledgement.
    pub failed: usize,
    /// The longest time in which nobody at all had one.
    #[serde(rename = "silence_us")]
    pub silence: Micros,
}

/// A time without something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Gap {
    #[serde(rename = "from_us")]
    pub from: Micros,
    #[serde(rename = "length_us")]
    pub length: Micros,
}

/// Latency of one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// The times of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pace {
    /// How long acknowledged sends took.
    pub send: Latency,
    /// From when a message was there to its first delivery to each group.
    pub delivery: Latency,
    pub longest_without_send: Gap,
    pub longest_without_delivery: Gap,
    pub incidents: Vec<Incident>,
}

impl Pace {
    pub fn of(history: &History) -> Pace {
        let times = Times::read(history);
        Pace {
            send: latency(times.sends.iter().map(|(from, to)| to.since(*from))),
            delivery: latency(delays(history).into_iter()),
            longest_without_send: longest_gap(&times.acked, times.begin, times.stopped),
            longest_without_delivery: longest_gap(&times.delivered, times.begin, times.stopped),
            incidents: incidents(history, &times.acked),
        }
    }
}

/// Times of the sending part of a run, sorted.
struct Times {
    sends: Vec<(Micros, Micros)>,
    acked: Vec<Micros>,
    delivered: Vec<Micros>,
    begin: Micros,
    stopped: Micros,
}

impl Times {
    fn read(history: &History) -> Times {
        let mut times = Times { sends: vec![], acked: vec![], delivered: vec![], begin: Micros(u64::MAX), stopped: Micros::default() };
        let mut latest = Micros::default();
        for event in &history.events {
            match event {
                Event::Send(send) => {
                    times.begin = times.begin.min(send.from);
                    latest = latest.max(send.to);
                    if send.outcome == Outcome::Ok {
                        times.sends.push((send.from, send.to));
                        times.acked.push(send.to);
                    }
                }
                Event::Receive(receive) => times.delivered.extend(receive.messages.iter().map(|delivery| delivery.at)),
                Event::Stopped { at } => times.stopped = *at,
                Event::End(_) | Event::Ack(_) | Event::Nack(_) | Event::Drained { .. } => {}
            }
        }
        if times.stopped == Micros::default() {
            times.stopped = latest;
        }
        times.acked.sort_unstable();
        times.delivered.sort_unstable();
        times
    }
}

/// The longest time between two moments, of those from the begin to the end.
fn longest_gap(moments: &[Micros], begin: Micros, end: Micros) -> Gap {
    let (mut longest, mut before) = (Gap::default(), begin.min(end));
    for at in moments.iter().copied().filter(|at| *at >= begin && *at <= end).chain([end]) {
        if at.since(before) > longest.length {
            longest = Gap { from: before, length: at.since(before) };
        }
        before = at;
    }
    longest
}

fn latency(times: impl Iterator<Item = Micros>) -> Latency {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are sound");
    let mut max = 0;
    for time in times {
        histogram.saturating_record(time.0.max(1));
        max = time.0.max(max);
    }
    let at = |quantile| histogram.value_at_quantile(quantile).min(max);
    Latency { count: histogram.len(), p50_us: at(0.5), p99_us: at(0.99), max_us: max }
}

/// From when each message could be delivered to when it came to each group first.
fn delays(history: &History) -> Vec<Micros> {
    let mut ready: BTreeMap<Id, Micros> = BTreeMap::new();
    for event in &history.events {
        let (id, at) = match event {
            Event::Send(send) => (send.id, send.due.map_or(send.to, |due| due.max(send.to))),
            Event::End(end) if end.resolution == Resolution::Commit => (end.id, end.to),
            _ => continue,
        };
        let known = ready.entry(id).or_default();
        *known = at.max(*known);
    }
    let mut first: BTreeMap<(u16, Id), Micros> = BTreeMap::new();
    for event in &history.events {
        let Event::Receive(receive) = event else { continue };
        for delivery in &receive.messages {
            let known = first.entry((receive.group, delivery.id)).or_insert(delivery.at);
            *known = delivery.at.min(*known);
        }
    }
    first.into_iter().filter_map(|((_, id), at)| Some(at.since(*ready.get(&id)?))).collect()
}

/// One stall of one lane.
struct Stall {
    from: Micros,
    to: Micros,
    lane: u32,
    failed: usize,
}

fn incidents(history: &History, acked: &[Micros]) -> Vec<Incident> {
    let mut stalls = stalls(history);
    stalls.sort_by_key(|stall| stall.from);
    let mut together: Vec<Vec<Stall>> = Vec::new();
    let mut end = Micros::default();
    for stall in stalls {
        let overlaps = stall.from <= end;
        end = end.max(stall.to);
        match together.last_mut().filter(|_| overlaps) {
            Some(incident) => incident.push(stall),
            None => together.push(vec![stall]),
        }
    }
    together.iter().map(|stalls| incident(stalls, acked)).collect()
}

fn incident(stalls: &[Stall], acked: &[Micros]) -> Incident {
    let from = stalls.iter().map(|stall| stall.from).min().unwrap_or_default();
    let to = stalls.iter().map(|stall| stall.to).max().unwrap_or_default();
    let lanes: std::collections::BTreeSet<u32> = stalls.iter().map(|stall| stall.lane).collect();
    Incident {
        from,
        length: to.since(from),
        longest: stalls.iter().map(|stall| stall.to.since(stall.from)).max().unwrap_or_default(),
        lanes: lanes.len(),
        failed: stalls.iter().map(|stall| stall.failed).sum(),
        silence: longest_gap(acked, from, to).length,
    }
}

fn stalls(history: &History) -> Vec<Stall> {
    let mut lanes: BTreeMap<u32, Vec<(Micros, Micros, Outcome)>> = BTreeMap::new();
    for event in &history.events {
        if let Event::Send(send) = event {
            lanes.entry(send.id.lane).or_default().push((send.from, send.to, send.outcome));
        }
    }
    let mut stalls = Vec::new();
    for (lane, mut sends) in lanes {
        sends.sort_unstable_by_key(|(from, ..)| *from);
        let (mut begin, mut failed) = (None, 0);
        for (from, to, outcome) in &sends {
            let since = *begin.get_or_insert(*from);
            if *outcome != Outcome::Ok {
                failed += 1;
                continue;
            }
            stalls.push(Stall { from: since, to: *to, lane, failed });
            (begin, failed) = (None, 0);
        }
        // A lane that never came back is stalled to its last answer.
        let last = sends.last().map(|(_, to, _)| *to);
        stalls.extend(begin.zip(last).map(|(from, to)| Stall { from, to, lane, failed }));
    }
    stalls.retain(|stall| stall.to.since(stall.from) > history.header.gap);
    stalls
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::verify::history::{Delivery, Header, Kind, Lane, Receive, Send, State, Topic};

    fn ms(ms: u64) -> Micros {
        Micros(ms * 1_000)
    }

    /// `(lane, from, to, outcome)` in milliseconds.
    fn history(sends: &[(u32, u64, u64, Outcome)]) -> History {
        let mut header = Header::new(1, String::new(), 0);
        header.gap = ms(100);
        header.groups = vec!["g".to_owned()];
        header.topics = vec![Topic { name: "t".to_owned(), kind: Kind::Normal, once: true, own: true }];
        header.lanes = vec![Lane { topic: 0 }; 3];
        let send = |(seq, &(lane, from, to, outcome)): (usize, &(u32, u64, u64, Outcome))| {
            Event::Send(Send { id: Id { lane, seq: seq as u32 }, from: ms(from), to: ms(to), attempts: 1, outcome, due: None, reason: None })
        };
        History { header, events: sends.iter().enumerate().map(send).collect() }
    }

    #[test]
    fn a_crash_that_stalls_several_lanes_is_one_incident() {
        use Outcome::{Ok, Refused, Unknown};
        let pace = Pace::of(&history(&[
            (0, 0, 5, Ok),
            (1, 2, 6, Ok),
            (0, 1_000, 1_300, Unknown),
            (0, 1_310, 1_400, Refused),
            (0, 1_450, 1_900, Ok),
            (1, 1_100, 1_500, Ok),
            (2, 1_200, 1_210, Ok),
            (1, 3_000, 3_101, Ok),
            (0, 4_000, 4_100, Ok),
        ]));
        let first = Incident { from: ms(1_000), length: ms(900), longest: ms(900), lanes: 2, failed: 2, silence: ms(400) };
        let second = Incident { from: ms(3_000), length: ms(101), longest: ms(101), lanes: 1, failed: 0, silence: ms(101) };
        assert_eq!(pace.incidents, [first, second]);
        assert_eq!(pace.longest_without_send, Gap { from: ms(6), length: ms(1_204) });
        assert_eq!((pace.send.count, pace.send.max_us), (7, 450_000));
    }

    #[test]
    fn a_lane_that_never_comes_back_is_stalled_to_the_end() {
        let pace = Pace::of(&history(&[(0, 0, 5, Outcome::Ok), (0, 10, 3_010, Outcome::Unknown), (0, 3_020, 6_020, Outcome::Unknown)]));
        assert_eq!(pace.incidents.len(), 1);
        assert_eq!((pace.incidents[0].longest, pace.incidents[0].failed), (ms(6_010), 2));
    }

    #[test]
    fn pauses_between_sends_are_no_stalls() {
        let pace = Pace::of(&history(&[(0, 0, 5, Outcome::Ok), (0, 9_000, 9_005, Outcome::Ok)]));
        assert_eq!(pace.incidents, []);
    }

    #[test]
    fn delivery_is_measured_from_when_a_message_is_there_to_when_it_came_first() {
        let mut history = history(&[(0, 0, 5, Outcome::Ok)]);
        for (call, at) in [(2, 9_000), (1, 25)] {
            let id = Id { lane: 0, seq: 0 };
            let delivery = Delivery { id, at: ms(at), queue: 0, offset: 0, attempt: call as i32, state: State::Whole };
            let receive = Receive { call, topic: 0, group: 0, from: ms(0), to: ms(at), complete: true, messages: vec![delivery], strangers: vec![] };
            history.events.push(Event::Receive(receive));
        }
        let delivery = Pace::of(&history).delivery;
        assert_eq!((delivery.count, delivery.max_us), (1, 20_000));
    }
}
