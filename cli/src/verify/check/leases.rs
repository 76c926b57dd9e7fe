//! Whether a delivery belongs to one consumer at a time: nothing comes again after its acknowledgement counted, and nothing comes again while
//! somebody holds it.
//!
//! A lease begins after its call began, so it ends no sooner than the invisible duration after that. It ends sooner if it was given back, if
//! the call broke off, or if a message of the same message group that came before it in the same answer went back.

use super::book::{Book, Life, Seen};
use super::{Broken, Verdict, show, violation};
use crate::verify::history::{Id, Kind, Micros, Outcome};

pub fn check(book: &Book<'_>, verdict: &mut Verdict) {
    for (&(group, id), life) in book.lives.iter().filter(|((_, id), _)| has_one_copy(book, *id)) {
        for later in 1..life.len() {
            let again = &life[later];
            let found = duplicated(book, life, again).map(|story| (Broken::Duplicated, story));
            let found = found.or_else(|| redelivered(book, life, later).map(|story| (Broken::Redelivered, story)));
            if let Some((broken, story)) = found {
                verdict.add(violation(book, broken, id, Some(group), again.delivery.at, story));
            }
        }
    }
}

/// A message that was sent several times to a server that keeps each of them is several messages with one name.
fn has_one_copy(book: &Book<'_>, id: Id) -> bool {
    book.topic(id).is_some_and(|topic| topic.once) || book.sends.get(&id).is_none_or(|send| send.attempts <= 1)
}

/// The reason why a delivery should not be, if the message was acknowledged before.
fn duplicated(book: &Book<'_>, life: &Life<'_>, again: &Seen<'_>) -> Option<String> {
    let acked = |seen: &&Seen<'_>| seen.receive.call != again.receive.call && seen.ack.is_some_and(|ack| ack.outcome == Outcome::Ok);
    let breaks = |first: &&Seen<'_>| {
        let Some(ack) = first.ack.filter(|ack| ack.to < again.delivery.at) else { return false };
        if again.receive.from >= ack.to {
            return true;
        }
        // The call began before the answer: its lease may be older, and if the first one was over by then, also younger.
        let younger = again.delivery.attempt > first.delivery.attempt;
        younger && lease_end(book, first).is_some_and(|end| ack.to < end)
    };
    let first = life.iter().filter(acked).find(breaks)?;
    let ack = first.ack?;
    let attempts = (first.delivery.attempt, again.delivery.attempt);
    Some(format!("attempt {} was acknowledged with OK at {}, attempt {} came at {}", attempts.0, show(ack.to), attempts.1, show(again.delivery.at)))
}

/// The reason why a delivery should not be, if another one held the message.
fn redelivered(book: &Book<'_>, life: &Life<'_>, later: usize) -> Option<String> {
    let again = &life[later];
    // An answer that was long on its way shows a lease that was over: its attempt is an older one.
    let before = life[..later].iter().filter(|seen| seen.delivery.attempt <= again.delivery.attempt);
    let held = before.filter(|seen| seen.ack.is_none_or(|ack| ack.outcome != Outcome::Ok));
    let (holder, end) = held.filter_map(|seen| Some((seen, lease_end(book, seen)?))).find(|(_, end)| again.delivery.at < *end)?;
    Some(format!(
        "attempt {} came at {} and was held until {} at least, attempt {} came at {}",
        holder.delivery.attempt,
        show(holder.delivery.at),
        show(end),
        again.delivery.attempt,
        show(again.delivery.at)
    ))
}

/// The soonest time at which the lease of a delivery can be over; none if it may be over at any time.
fn lease_end(book: &Book<'_>, seen: &Seen<'_>) -> Option<Micros> {
    if !seen.receive.complete {
        return None;
    }
    let own = own_end(book, seen);
    let end = sooner_by_order(book, seen).map_or(own, |taken_back| taken_back.min(own));
    Some(Micros(end.0.saturating_sub(book.history.header.skew.0)))
}

fn own_end(book: &Book<'_>, seen: &Seen<'_>) -> Micros {
    let expiry = seen.receive.from.plus(book.history.header.invisible);
    let Some(nack) = seen.nack else { return expiry };
    let given_back = nack.from.plus(nack.hidden);
    match nack.outcome {
        Outcome::Ok => given_back,
        Outcome::Refused => expiry,
        Outcome::Unknown => expiry.min(given_back),
    }
}

/// When a message that came before it in its message group went back, at the soonest: those behind it are taken back with it.
fn sooner_by_order(book: &Book<'_>, seen: &Seen<'_>) -> Option<Micros> {
    if book.topic(seen.delivery.id).is_none_or(|topic| topic.kind != Kind::Fifo) {
        return None;
    }
    let ahead = seen.receive.messages[..seen.place].iter().filter(|other| other.id.lane == seen.delivery.id.lane);
    let lives = ahead.filter_map(|other| book.lives.get(&(seen.receive.group, other.id)));
    let same_call = lives.filter_map(|life| life.iter().find(|other| other.receive.call == seen.receive.call));
    same_call.filter_map(|other| other.nack).filter(|nack| nack.outcome != Outcome::Refused).map(|nack| nack.from).min()
}
