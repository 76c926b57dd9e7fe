//! Single cases, each one thing that a sound server may do or may not.

#![allow(clippy::unwrap_used)]

use super::{Broken, check};
use crate::verify::history::{History, line};

/// Lane 0 is normal, lane 1 FIFO, lane 2 delayed, lane 3 transactions. Invisible for 10 s, clocks 0.2 s apart.
const HEADER: &str = r#"{"version":1,"run":"0000000000000001","began":"","began_unix_ms":0,"topics":[
{"name":"normal","kind":"normal","once":true,"own":true},{"name":"fifo","kind":"fifo","once":true,"own":true},
{"name":"delay","kind":"delay","once":true,"own":false},{"name":"transaction","kind":"transaction","once":false,"own":true}],
"groups":["g"],"lanes":[{"topic":0},{"topic":1},{"topic":2},{"topic":3}],"invisible":10000000,"skew":200000,"gap":100000}"#;

/// Times are in milliseconds; a word is what `event` reads.
fn history(text: &str) -> History {
    let mut lines = HEADER.replace('\n', "") + "\n";
    let words: Vec<&str> = text.split(';').map(str::trim).filter(|words| !words.is_empty()).collect();
    for (number, words) in words.iter().enumerate() {
        lines += &line(&event(number as u64, words));
    }
    History::read(&lines).unwrap()
}

/// `send 1/0 5-10 ok`, `commit 3/0 5-10 ok`, `got 0-20 c7 1/0#1,1/1#1`, `cut …` (the same, broken off), `empty 900 topic`,
/// `ack 1/0 c7 30-40 ok`, `nack 1/0 c7 30-40 ok 500`, `end`.
fn event(number: u64, text: &str) -> serde_json::Value {
    use serde_json::json;
    let words: Vec<&str> = text.split_whitespace().collect();
    let id = |text: &str| text.split_once('/').map(|(lane, seq)| (lane.parse::<u32>().unwrap(), seq.parse::<u32>().unwrap())).unwrap();
    let ms = |text: &str| text.parse::<u64>().unwrap() * 1_000;
    let span = |text: &str| text.split_once('-').map(|(from, to)| (ms(from), ms(to))).unwrap();
    let call = |text: &str| text.trim_start_matches('c').parse::<u64>().unwrap();
    match words[..] {
        ["send", name, time, outcome, ref rest @ ..] => {
            let ((lane, seq), (from, to)) = (id(name), span(time));
            let due = rest.first().map(|due| ms(due));
            json!({"event":"send","lane":lane,"seq":seq,"from":from,"to":to,"attempts":1,"outcome":outcome,"due":due})
        }
        [verb @ ("commit" | "rollback"), name, time, outcome] => {
            let ((lane, seq), (from, to)) = (id(name), span(time));
            json!({"event":"end","lane":lane,"seq":seq,"from":from,"to":to,"resolution":verb,"outcome":outcome})
        }
        [verb @ ("got" | "cut"), time, number, list] => {
            let (from, to) = span(time);
            let message = |text: &str| {
                let (name, attempt) = text.split_once('#').unwrap();
                let ((lane, seq), attempt) = (id(name), attempt.parse::<i32>().unwrap());
                json!({"lane":lane,"seq":seq,"at":to,"queue":0,"offset":lane * 100 + seq,"attempt":attempt,"state":"whole"})
            };
            let messages: Vec<_> = list.split(',').map(message).collect();
            let topic = id(list.split(['#', ',']).next().unwrap()).0;
            json!({"event":"receive","call":call(number),"topic":topic,"group":0,"from":from,"to":to,"complete":verb == "got","messages":messages})
        }
        ["empty", at, topic] => {
            let (at, topic) = (ms(at), topic.parse::<u16>().unwrap());
            json!({"event":"receive","call":1_000 + number,"topic":topic,"group":0,"from":at,"to":at,"complete":true,"messages":[]})
        }
        ["ack", name, number, time, outcome] => {
            let ((lane, seq), (from, to)) = (id(name), span(time));
            json!({"event":"ack","lane":lane,"seq":seq,"group":0,"call":call(number),"from":from,"to":to,"outcome":outcome})
        }
        ["nack", name, number, time, outcome, hidden] => {
            let ((lane, seq), (from, to), hidden) = (id(name), span(time), ms(hidden));
            json!({"event":"nack","lane":lane,"seq":seq,"group":0,"call":call(number),"from":from,"to":to,"outcome":outcome,"hidden":hidden})
        }
        ["end"] => json!({"event":"drained","at":99_000_000}),
        _ => panic!("`{text}`"),
    }
}

fn expect(text: &str, expected: &[Broken]) {
    let verdict = check(&history(text));
    let found: Vec<Broken> = verdict.violations.keys().copied().collect();
    assert_eq!(found, expected, "{text}\n{:#?}", verdict.stories);
}

#[test]
fn an_acknowledged_send_must_come_once_the_group_has_looked_everywhere() {
    expect("send 0/0 0-5 ok; empty 900 0; end", &[Broken::Lost]);
    expect("send 0/0 0-5 unknown; empty 900 0; end", &[]);
    expect("send 0/0 0-5 refused; empty 900 0; end", &[]);
    expect("send 0/0 0-5 ok; got 0-9 c1 0/0#1; empty 900 0; end", &[]);
    // An answer that broke off does not say that there was nothing.
    expect("send 0/0 0-5 ok; send 0/1 6-7 ok; got 0-9 c1 0/1#1; ack 0/1 c1 10-20 ok; end", &[]);
    // Looked before it was there, in another topic, or the run was cut off.
    expect("send 0/0 0-5 ok; empty 4 0; end", &[]);
    expect("send 0/0 0-5 ok; empty 900 1; end", &[]);
    expect("send 0/0 0-5 ok; empty 900 0", &[]);
    assert_eq!(check(&history("send 0/0 0-5 ok; empty 900 0")).undecided, 1);
}

#[test]
fn delayed_and_transactional_messages_are_lost_only_when_they_had_to_come() {
    expect("send 2/0 0-5 ok 2000; empty 900 2; end", &[]);
    expect("send 2/0 0-5 ok 2000; empty 2900 2; end", &[Broken::Lost]);
    expect("send 3/0 0-5 ok; empty 900 3; end", &[]);
    expect("send 3/0 0-5 ok; commit 3/0 6-9 ok; empty 900 3; end", &[Broken::Lost]);
    expect("send 3/0 0-5 ok; commit 3/0 6-9 unknown; empty 900 3; end", &[]);
    // Looked before the commit was answered.
    expect("send 3/0 0-5 ok; commit 3/0 6-950 ok; empty 900 3; end", &[]);
    expect("send 3/0 0-5 ok; rollback 3/0 6-9 ok; empty 900 3; end", &[]);
}

#[test]
fn what_came_must_have_been_sent_and_committed() {
    expect("got 0-9 c1 0/0#1; end", &[Broken::Phantom]);
    // Cut off: the send was on its way and is not written down.
    expect("got 0-9 c1 0/0#1", &[]);
    expect("send 0/0 10-15 ok; got 0-9 c1 0/0#1", &[Broken::Phantom]);
    expect("send 0/0 0-5 refused; got 0-9 c1 0/0#1", &[Broken::Phantom]);
    expect("send 0/0 0-5 unknown; got 0-9 c1 0/0#1", &[]);
    expect("send 3/0 0-5 ok; got 0-9 c1 3/0#1", &[Broken::Phantom]);
    expect("send 3/0 0-5 ok; commit 3/0 12-15 ok; got 0-9 c1 3/0#1", &[Broken::Phantom]);
    expect("send 3/0 0-5 ok; rollback 3/0 6-8 unknown; got 0-9 c1 3/0#1", &[Broken::Phantom]);
    expect("send 3/0 0-5 ok; commit 3/0 6-8 refused; got 0-9 c1 3/0#1", &[Broken::Phantom]);
    // The answer to the commit was not there yet, and its effect was.
    expect("send 3/0 0-5 unknown; commit 3/0 6-30 unknown; got 0-9 c1 3/0#1", &[]);
}

#[test]
fn delayed_messages_may_be_late_and_never_early_beyond_the_skew() {
    expect("send 2/0 0-5 ok 2000; got 0-1799 c1 2/0#1", &[Broken::Early]);
    expect("send 2/0 0-5 ok 2000; got 0-1800 c1 2/0#1", &[]);
    expect("send 2/0 0-5 ok 2000; got 0-9000 c1 2/0#1", &[]);
}

#[test]
fn an_acknowledgement_that_counted_is_final() {
    let begin = "send 0/0 0-5 ok; got 0-9 c1 0/0#1;";
    expect(&format!("{begin} ack 0/0 c1 10-20 ok; got 30-40 c2 0/0#2"), &[Broken::Duplicated]);
    expect(&format!("{begin} ack 0/0 c1 10-20 ok; cut 30-40 c2 0/0#2"), &[Broken::Duplicated]);
    // Hours later as well.
    expect(&format!("{begin} ack 0/0 c1 10-20 ok; got 9000000-9000001 c2 0/0#2"), &[Broken::Duplicated]);
    // The call was waiting when the acknowledgement came, while the first lease was surely alive.
    expect(&format!("{begin} ack 0/0 c1 10-20 ok; got 5-40 c2 0/0#2"), &[Broken::Duplicated]);
    // The first lease may have been over when its acknowledgement came; then the second one is older than that.
    expect(&format!("{begin} ack 0/0 c1 10000-11000 ok; got 9000-11500 c2 0/0#2"), &[]);
    expect(&format!("{begin} ack 0/0 c1 10000-11000 ok; got 11000-11500 c2 0/0#2"), &[Broken::Duplicated]);
    // The attempts of a call that began after the answer don't matter.
    expect("send 0/0 0-5 ok; got 0-9 c1 0/0#3; ack 0/0 c1 10-20 ok; got 20-40 c2 0/0#1", &[Broken::Duplicated]);
    // An answer that was on its way for a long time.
    expect("send 0/0 0-5 ok; got 12000-12010 c2 0/0#2; ack 0/0 c2 12020-12030 ok; got 0-13000 c1 0/0#1", &[]);
    // An acknowledgement that may not have counted, or surely did not.
    expect(&format!("{begin} ack 0/0 c1 10-20 unknown; got 10100-10200 c2 0/0#2"), &[]);
    expect(&format!("{begin} ack 0/0 c1 10-20 refused; got 10100-10200 c2 0/0#2"), &[]);
}

#[test]
fn a_message_is_held_until_its_lease_can_be_over() {
    let begin = "send 0/0 0-5 ok; got 4-9 c1 0/0#1;";
    expect(&format!("{begin} got 10-5000 c2 0/0#2"), &[Broken::Redelivered]);
    expect(&format!("{begin} got 10-9803 c2 0/0#2"), &[Broken::Redelivered]);
    expect(&format!("{begin} got 10-9804 c2 0/0#2"), &[]);
    // One lease for two consumers.
    expect(&format!("{begin} got 3-10 c2 0/0#1"), &[Broken::Redelivered]);
    // Broken off, so given back.
    expect("send 0/0 0-5 ok; cut 4-9 c1 0/0#1; got 10-50 c2 0/0#2", &[]);
    // An acknowledgement without answer ends no lease; a give-back may.
    expect(&format!("{begin} ack 0/0 c1 10-20 unknown; got 10-50 c2 0/0#2"), &[Broken::Redelivered]);
    expect(&format!("{begin} nack 0/0 c1 10-20 ok 500; got 10-300 c2 0/0#2"), &[Broken::Redelivered]);
    expect(&format!("{begin} nack 0/0 c1 10-20 ok 500; got 10-310 c2 0/0#2"), &[]);
    expect(&format!("{begin} nack 0/0 c1 10-20 unknown 500; got 10-310 c2 0/0#2"), &[]);
    expect(&format!("{begin} nack 0/0 c1 10-20 refused 500; got 10-600 c2 0/0#2"), &[Broken::Redelivered]);
    // A give-back with a long time makes the lease longer, if it counted.
    expect(&format!("{begin} nack 0/0 c1 10-20 ok 30000; got 10-15000 c2 0/0#2"), &[Broken::Redelivered]);
    expect(&format!("{begin} nack 0/0 c1 10-20 unknown 30000; got 10-15000 c2 0/0#2"), &[]);
}

#[test]
fn a_message_that_goes_back_takes_those_behind_it_along() {
    let begin = "send 1/0 0-5 ok; send 1/1 6-8 ok; got 0-9 c1 1/0#1,1/1#1; nack 1/0 c1 10-20 ok 300;";
    expect(&format!("{begin} got 15-320 c2 1/0#2; ack 1/0 c2 330-340 ok; got 330-350 c3 1/1#1"), &[]);
    // The same on a topic without order is one lease for two.
    let normal = begin.replace("1/", "0/");
    expect(&format!("{normal} got 15-320 c2 0/0#2; ack 0/0 c2 330-340 ok; got 330-350 c3 0/1#1"), &[Broken::Redelivered]);
}

#[test]
fn a_message_group_is_delivered_in_its_order() {
    let sent = "send 1/0 0-5 ok; send 1/1 6-8 ok; send 1/2 9-11 ok;";
    expect(&format!("{sent} got 0-20 c1 1/1#1"), &[Broken::Reordered]);
    expect(&format!("{sent} got 0-20 c1 1/1#1,1/0#1"), &[Broken::Reordered]);
    expect(&format!("{sent} got 0-20 c1 1/0#1,1/1#1,1/2#1"), &[]);
    expect(&format!("{sent} got 0-20 c1 1/0#1; got 0-21 c2 1/1#1"), &[Broken::Reordered]);
    expect(&format!("{sent} got 0-20 c1 1/0#1; ack 1/0 c1 21-25 ok; got 0-24 c2 1/1#1"), &[]);
    expect(&format!("{sent} got 0-20 c1 1/0#1; ack 1/0 c1 21-25 unknown; got 0-24 c2 1/1#1"), &[]);
    expect(&format!("{sent} got 0-20 c1 1/0#1; ack 1/0 c1 21-25 refused; got 0-24 c2 1/1#1"), &[Broken::Reordered]);
    // The one in the middle is passed.
    expect(&format!("{sent} got 0-20 c1 1/0#1; ack 1/0 c1 21-25 ok; got 0-30 c2 1/2#1"), &[Broken::Reordered]);
    // Nobody knows whether or when it was stored.
    expect("send 1/0 0-5 unknown; send 1/1 6-8 ok; got 0-20 c1 1/1#1; got 0-30 c2 1/0#1", &[]);
    // Other lanes and topics without order don't wait.
    expect("send 0/0 0-5 ok; send 0/1 6-8 ok; got 0-20 c1 0/1#1; got 0-30 c2 0/0#1", &[]);
}

fn count(history: &History, broken: Broken) -> u64 {
    check(history).violations.get(&broken).copied().unwrap_or_default()
}

#[test]
fn one_send_is_stored_once_unless_the_server_promises_nothing_of_the_kind() {
    let mut history = history("send 0/0 0-5 ok; got 0-9 c1 0/0#1; ack 0/0 c1 10-20 ok");
    let text = line(&history.events[1]).replace("\"offset\":0", "\"offset\":7").replace("\"call\":1", "\"call\":2");
    history.events.push(serde_json::from_str(&text).unwrap());
    assert_eq!(count(&history, Broken::StoredTwice), 1);
    let resent = line(&history.events[0]).replace("\"attempts\":1", "\"attempts\":2");
    history.events[0] = serde_json::from_str(&resent).unwrap();
    assert_eq!(count(&history, Broken::StoredTwice), 1);
    history.header.topics[0].once = false;
    assert_eq!(count(&history, Broken::StoredTwice), 0);
}

#[test]
fn strangers_are_phantoms_only_on_topics_of_the_run() {
    let mut history = history("got 0-9 c1 0/0#1; got 0-9 c2 2/0#1");
    for event in &mut history.events {
        if let crate::verify::history::Event::Receive(receive) = event {
            receive.messages.clear();
            receive.strangers.push("who".to_owned());
        }
    }
    let verdict = check(&history);
    assert_eq!((count(&history, Broken::Phantom), verdict.strangers), (1, 1));
}

#[test]
fn stories_name_the_message_as_the_server_knows_it() {
    let verdict = check(&history("send 0/0 0-5 ok; empty 900 0; end"));
    let story = &verdict.stories[0];
    assert_eq!((story.topic.as_str(), story.group.as_deref()), ("normal", Some("g")));
    assert_eq!(story.message_id, "00000000000000010000000000000000");
    assert_eq!(story.story, "acknowledged at 0.005 s, to be seen from 0.005 s on, and never delivered to the end");
}
