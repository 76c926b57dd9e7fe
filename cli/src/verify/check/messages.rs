//! Whether what came is what was sent: nothing lost, nothing stored twice, nothing early, nothing that should not be, nothing damaged.

use super::book::{Book, Life, Seen};
use super::{Broken, Verdict, Violation, show, violation};
use crate::verify::history::{Event, Id, Kind, Micros, Outcome, Resolution, Send, State};
use std::collections::BTreeSet;

pub fn check(book: &Book<'_>, verdict: &mut Verdict) {
    for send in book.sends.values() {
        lost(book, send, verdict);
        stored_twice(book, send, verdict);
    }
    for ((group, id), life) in &book.lives {
        for seen in life {
            let found = [phantom(book, *id, seen), early(book, *id, seen), torn(seen)];
            for (broken, story) in found.into_iter().flatten() {
                verdict.add(violation(book, broken, *id, Some(*group), seen.delivery.at, story));
            }
        }
    }
    strangers(book, verdict);
}

/// A message whose send was acknowledged must have come to each group before the group found nothing more.
fn lost(book: &Book<'_>, send: &Send, verdict: &mut Verdict) {
    let Some(visible) = book.visible(send) else { return };
    let topic = book.history.header.lanes.get(send.id.lane as usize).map_or(0, |lane| lane.topic);
    for group in book.groups().filter(|group| book.life(*group, send.id).is_empty()) {
        let emptied = book.emptied.get(&(topic, group)).is_some_and(|emptied| *emptied > visible);
        if book.drained.is_none() || !emptied {
            verdict.undecided += 1;
            continue;
        }
        let story = format!("acknowledged at {}, to be seen from {} on, and never delivered to the end", show(send.to), show(visible));
        verdict.add(violation(book, Broken::Lost, send.id, Some(group), send.to, story));
    }
}

/// First deliveries show where a message is stored; later ones may come from elsewhere, as Apache RocketMQ's retry topics.
fn stored_twice(book: &Book<'_>, send: &Send, verdict: &mut Verdict) {
    let once = book.topic(send.id).is_some_and(|topic| topic.once);
    let allowed = if once { 1 } else { send.attempts.max(1) as usize };
    let firsts = |life: &Life<'_>| -> BTreeSet<(i32, i64)> {
        life.iter().filter(|seen| seen.delivery.attempt <= 1).map(|seen| (seen.delivery.queue, seen.delivery.offset)).collect()
    };
    let places: BTreeSet<(i32, i64)> = book.groups().filter_map(|group| book.lives.get(&(group, send.id))).flat_map(firsts).collect();
    if places.len() > allowed {
        let places: Vec<String> = places.iter().map(|(queue, offset)| format!("{queue}:{offset}")).collect();
        let story = format!("sent {} time(s), stored at {}", send.attempts, places.join(" and "));
        verdict.add(violation(book, Broken::StoredTwice, send.id, None, send.from, story));
    }
}

fn phantom(book: &Book<'_>, id: Id, seen: &Seen<'_>) -> Option<(Broken, String)> {
    let came = seen.delivery.at;
    let found = |story: String| Some((Broken::Phantom, story));
    let Some(send) = book.sends.get(&id) else {
        // A history that was cut off lacks the sends that were on their way.
        return found("it was not sent".to_owned()).filter(|_| book.drained.is_some());
    };
    if came < send.from {
        return found(format!("it came at {}, before it was sent", show(came)));
    }
    if book.history.header.lanes.get(id.lane as usize).is_some_and(|lane| lane.topic != seen.receive.topic) {
        return found("it came from another topic than the one it was sent to".to_owned());
    }
    if send.outcome == Outcome::Refused {
        return found(format!("its send was refused at {} ({})", show(send.to), send.reason.as_deref().unwrap_or("no reason")));
    }
    if book.topic(id)?.kind != Kind::Transaction {
        return None;
    }
    let ends = book.ends.get(&id).map_or(&[][..], Vec::as_slice);
    let may_be_committed = |resolution, outcome| resolution == Resolution::Commit && outcome != Outcome::Refused;
    if ends.iter().any(|end| end.from <= came && may_be_committed(end.resolution, end.outcome)) {
        return None;
    }
    match ends.iter().find(|end| end.from <= came) {
        Some(end) => found(format!("its transaction was to be rolled back at {}, nobody asked for a commit", show(end.from))),
        None => found("its transaction was open: nobody had asked for a commit".to_owned()),
    }
}

fn early(book: &Book<'_>, id: Id, seen: &Seen<'_>) -> Option<(Broken, String)> {
    let (due, came) = (book.sends.get(&id)?.due?, seen.delivery.at);
    let soonest = Micros(due.0.saturating_sub(book.history.header.skew.0));
    (came < soonest).then(|| (Broken::Early, format!("due at {}, came at {}", show(due), show(came))))
}

fn torn(seen: &Seen<'_>) -> Option<(Broken, String)> {
    let story = match seen.delivery.state {
        State::Whole => return None,
        State::Torn => "the checksum of its body does not fit",
        State::Altered => "tag, key, property or message group are not what was sent",
    };
    Some((Broken::Torn, story.to_owned()))
}

/// Messages of nobody on a topic that only the run knows; elsewhere they are other people's.
fn strangers(book: &Book<'_>, verdict: &mut Verdict) {
    let header = &book.history.header;
    for event in &book.history.events {
        let Event::Receive(receive) = event else { continue };
        let Some(topic) = header.topics.get(usize::from(receive.topic)) else { continue };
        verdict.strangers += if topic.own { 0 } else { receive.strangers.len() as u64 };
        for message_id in receive.strangers.iter().filter(|_| topic.own) {
            let group = header.groups.get(usize::from(receive.group)).cloned();
            let story = "it is none of this run, on a topic that only this run knows".to_owned();
            let (topic, message_id) = (topic.name.clone(), message_id.clone());
            verdict.add(Violation { broken: Broken::Phantom, topic, group, message_id, at: receive.to, story });
        }
    }
}
