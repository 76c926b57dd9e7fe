//! Whether each message group is delivered in its order: a message comes only when all earlier ones of its group are done, or in the same
//! answer behind them. A lane waits for each answer before it sends again, so of its acknowledged sends the order is known. A send without an
//! answer may be stored later than its successors and binds nobody.

use super::book::{Book, Seen};
use super::{Broken, Verdict, show, violation};
use crate::verify::history::{Id, Kind, Micros, Outcome};
use std::collections::{BTreeMap, BTreeSet};

/// What happens to a message group.
#[derive(Clone, Copy)]
struct Step<'a> {
    /// Time, call and place in the answer: these keep apart what came at the same microsecond.
    when: (Micros, u64, usize),
    what: What<'a>,
}

#[derive(Clone, Copy)]
enum What<'a> {
    /// An acknowledgement that may count was begun.
    Done(u32),
    Came(&'a Seen<'a>),
}

pub fn check(book: &Book<'_>, verdict: &mut Verdict) {
    let mut steps: BTreeMap<(u16, u32), Vec<Step<'_>>> = BTreeMap::new();
    let ordered = |id: Id| book.topic(id).is_some_and(|topic| topic.kind == Kind::Fifo);
    for (&(group, id), life) in book.lives.iter().filter(|((_, id), _)| ordered(*id)) {
        let lane = steps.entry((group, id.lane)).or_default();
        for seen in life {
            lane.push(Step { when: (seen.delivery.at, seen.receive.call, seen.place + 1), what: What::Came(seen) });
            if let Some(ack) = seen.ack.filter(|ack| ack.outcome != Outcome::Refused) {
                lane.push(Step { when: (ack.from, seen.receive.call, 0), what: What::Done(id.seq) });
            }
        }
    }
    for ((group, lane), mut steps) in steps {
        steps.sort_by_key(|step| step.when);
        walk(book, group, lane, &steps, verdict);
    }
}

fn walk(book: &Book<'_>, group: u16, lane: u32, steps: &[Step<'_>], verdict: &mut Verdict) {
    let all = Id { lane, seq: 0 }..=Id { lane, seq: u32::MAX };
    let acknowledged = book.sends.range(all).filter(|(_, send)| send.outcome == Outcome::Ok);
    let mut unfinished: BTreeSet<u32> = acknowledged.map(|(id, _)| id.seq).collect();
    for step in steps {
        let seen = match step.what {
            What::Done(seq) => {
                unfinished.remove(&seq);
                continue;
            }
            What::Came(seen) => seen,
        };
        let id = seen.delivery.id;
        let ahead = &seen.receive.messages[..seen.place];
        let with_it = |seq: &u32| ahead.iter().any(|other| other.id.lane == lane && other.id.seq == *seq);
        let passed: Vec<u32> = unfinished.range(..id.seq).filter(|seq| !with_it(seq)).copied().collect();
        if let Some(first) = passed.first() {
            let story = format!(
                "it came at {} and {} earlier one(s) of its message group, from {lane}/{first} on, were not done",
                show(seen.delivery.at),
                passed.len()
            );
            verdict.add(violation(book, Broken::Reordered, id, Some(group), seen.delivery.at, story));
        }
        // Each message that was passed is told once: what comes behind it would tell the same again.
        for seq in passed {
            unfinished.remove(&seq);
        }
    }
}
