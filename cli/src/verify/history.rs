//! What a run did and what it was told: each send, each answered receive with its messages, each acknowledgement, with times and
//! outcomes. Kept in memory for the check, and written as JSON lines for those who want to look or to check again.
//!
//! ```text
//! {"version":1,"run":"…","topics":[…],"groups":[…],"lanes":[…],…}            the header, one line
//! {"event":"send","lane":3,"seq":17,"from":1200,"to":2950,"outcome":"ok",…}    then one line an event, in no order
//! ```
//! Times are microseconds from the begin of the run, on one clock that never jumps. A lane is a producer that waits for each answer before
//! it sends again; on a FIFO topic it has a message group of its own. Lane and sequence number name a message.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The form of the file. A reader refuses another one.
const VERSION: u32 = 1;

/// Microseconds from the begin of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub u64);

impl Micros {
    pub fn of(time: Duration) -> Micros {
        Micros(time.as_micros() as u64)
    }

    pub fn plus(self, time: Micros) -> Micros {
        Micros(self.0.saturating_add(time.0))
    }

    pub fn since(self, earlier: Micros) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }

    pub fn duration(self) -> Duration {
        Duration::from_micros(self.0)
    }

    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

/// Which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Id {
    pub lane: u32,
    pub seq: u32,
}

impl Id {
    /// The id of the message on the wire.
    pub fn wire(self, run: u64) -> String {
        format!("{run:016x}{:08x}{:08x}", self.lane, self.seq)
    }

    /// Reads an id of the wire; none if it is not one of this run.
    pub fn read(text: &str, run: u64) -> Option<Id> {
        if text.len() != 32 || !text.is_ascii() || u64::from_str_radix(&text[..16], 16) != Ok(run) {
            return None;
        }
        let part = |from: usize| u32::from_str_radix(&text[from..from + 8], 16).ok();
        Some(Id { lane: part(16)?, seq: part(24)? })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.lane, self.seq)
    }
}

/// What kind of messages a topic takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Normal,
    Fifo,
    Delay,
    Transaction,
    Priority,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Normal => "normal",
            Kind::Fifo => "fifo",
            Kind::Delay => "delay",
            Kind::Transaction => "transaction",
            Kind::Priority => "priority",
        }
    }
}

/// A topic of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    pub name: String,
    pub kind: Kind,
    /// The server keeps one of several sends with the same message id.
    pub once: bool,
    /// The run made the topic, so nobody else sends to it.
    pub own: bool,
}

/// A producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    pub topic: u16,
}

/// What a history is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub version: u32,
    pub run: String,
    /// What the wall clock showed at the begin.
    pub began: String,
    pub began_unix_ms: u64,
    pub topics: Vec<Topic>,
    /// Each gets every message of every topic.
    pub groups: Vec<String>,
    pub lanes: Vec<Lane>,
    /// How long a message that was received stays hidden from others.
    pub invisible: Micros,
    /// How far the clocks of client and servers may be apart.
    pub skew: Micros,
    /// A lane that waits longer for an acknowledged send counts as stalled.
    pub gap: Micros,
}

impl Header {
    pub fn new(run: u64, began: String, began_unix_ms: u64) -> Header {
        let zero = Micros::default();
        let run = format!("{run:016x}");
        Header { version: VERSION, run, began, began_unix_ms, topics: vec![], groups: vec![], lanes: vec![], invisible: zero, skew: zero, gap: zero }
    }

    pub fn topic_of(&self, lane: u32) -> Option<&Topic> {
        self.topics.get(usize::from(self.lanes.get(lane as usize)?.topic))
    }
}

/// What is known about a call that asked for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The server said it is done.
    Ok,
    /// The server said it is not done and will not be.
    Refused,
    /// No answer, or one that says nothing certain: it may be done, now or later.
    Unknown,
}

/// A message was sent, once or several times under one id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Send {
    #[serde(flatten)]
    pub id: Id,
    pub from: Micros,
    pub to: Micros,
    pub attempts: u32,
    pub outcome: Outcome,
    /// When a delayed message is to be delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Micros>,
    /// What the last answer said, unless it was OK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a transaction was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    Commit,
    Rollback,
}

/// A transaction was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    #[serde(flatten)]
    pub id: Id,
    pub from: Micros,
    pub to: Micros,
    pub resolution: Resolution,
    pub outcome: Outcome,
}

/// What a message was like when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Whole,
    /// The checksum of the body does not fit, or it is the body of another message.
    Torn,
    /// The body is whole, but tag, key, property or message group are not what was sent.
    Altered,
}

/// A message came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    #[serde(flatten)]
    pub id: Id,
    pub at: Micros,
    pub queue: i32,
    pub offset: i64,
    pub attempt: i32,
    pub state: State,
}

/// A receive call that was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receive {
    pub call: u64,
    pub topic: u16,
    pub group: u16,
    pub from: Micros,
    pub to: Micros,
    /// The answer came to its end. If not, what was in it is given back by the server and thrown away by the consumer.
    pub complete: bool,
    pub messages: Vec<Delivery>,
    /// Ids of messages that are none of this run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<String>,
}

/// A delivery was acknowledged; repeated until an answer came or the lease was over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    #[serde(flatten)]
    pub id: Id,
    pub group: u16,
    pub call: u64,
    pub from: Micros,
    pub to: Micros,
    pub outcome: Outcome,
}

/// A delivery was given back, to come again after a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    #[serde(flatten)]
    pub id: Id,
    pub group: u16,
    pub call: u64,
    pub from: Micros,
    pub to: Micros,
    pub outcome: Outcome,
    pub hidden: Micros,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Send(Send),
    End(End),
    Receive(Receive),
    Ack(Ack),
    Nack(Nack),
    /// Producers have stopped.
    Stopped {
        at: Micros,
    },
    /// Consumers have stopped, after nothing more came for a while.
    Drained {
        at: Micros,
    },
}

/// All of a run.
#[derive(Clone, Debug)]
pub struct History {
    pub header: Header,
    pub events: Vec<Event>,
}

impl History {
    /// Reads what [`line`] wrote. A last line that was cut off is left out: the process that wrote it was killed.
    pub fn read(text: &str) -> Result<History, String> {
        let mut lines = text.lines().enumerate();
        let (_, first) = lines.next().ok_or("the file is empty")?;
        let header: Header = serde_json::from_str(first).map_err(|error| format!("line 1 is no header of a history: {error}"))?;
        if header.version != VERSION {
            return Err(format!("the history has version {}, this program reads version {VERSION}", header.version));
        }
        if let Some(lane) = header.lanes.iter().find(|lane| usize::from(lane.topic) >= header.topics.len()) {
            return Err(format!("line 1 names topic {} and does not say what it is", lane.topic));
        }
        let mut events = Vec::new();
        for (number, text) in lines {
            match serde_json::from_str(text) {
                Ok(event) => events.push(event),
                Err(error) if error.is_eof() => break,
                Err(error) => return Err(format!("line {}: {error}", number + 1)),
            }
        }
        Ok(History { header, events })
    }
}

/// One line of the file.
pub fn line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("plain values have a JSON form");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all() -> (Header, Vec<Event>) {
        let mut header = Header::new(0xabc, "2026-08-01T12:00:00.000Z".to_owned(), 1_785_585_600_000);
        header.topics.push(Topic { name: "t".to_owned(), kind: Kind::Delay, once: true, own: true });
        header.lanes.push(Lane { topic: 0 });
        let (id, from, to) = (Id { lane: 0, seq: 7 }, Micros(10), Micros(20));
        let delivery = Delivery { id, at: to, queue: 3, offset: 9, attempt: 1, state: State::Altered };
        let events = vec![
            Event::Send(Send { id, from, to, attempts: 2, outcome: Outcome::Refused, due: Some(to), reason: Some("42900: no".to_owned()) }),
            Event::End(End { id, from, to, resolution: Resolution::Rollback, outcome: Outcome::Unknown }),
            Event::Receive(Receive {
                call: 4,
                topic: 0,
                group: 1,
                from,
                to,
                complete: true,
                messages: vec![delivery],
                strangers: vec!["x".to_owned()],
            }),
            Event::Ack(Ack { id, group: 1, call: 4, from, to, outcome: Outcome::Ok }),
            Event::Nack(Nack { id, group: 1, call: 4, from, to, outcome: Outcome::Ok, hidden: from }),
            Event::Stopped { at: to },
            Event::Drained { at: to },
        ];
        (header, events)
    }

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let (header, events) = all();
        let mut text = line(&header);
        text.extend(events.iter().map(line));
        let read = History::read(&text).unwrap();
        assert_eq!((read.header, read.events), (header, events));
    }

    #[test]
    fn a_killed_writer_costs_the_last_line_and_nothing_else() {
        let (header, events) = all();
        let text = line(&header) + &line(&events[0]) + &line(&events[1])[..40];
        assert_eq!(History::read(&text).unwrap().events, events[..1]);
        let damaged = line(&header) + "{\"event\":\"dance\"}\n" + &line(&events[1]);
        assert!(History::read(&damaged).unwrap_err().starts_with("line 2:"));
        assert!(History::read("").is_err() && History::read("{}\n").is_err());
        let newer = line(&header).replace("\"version\":1", "\"version\":2");
        assert!(History::read(&newer).unwrap_err().contains("version 2"));
    }

    #[test]
    fn ids_of_the_wire_are_of_one_run() {
        let id = Id { lane: 70_000, seq: 4_000_000_000 };
        let text = id.wire(0xfedc_ba98_7654_3210);
        assert_eq!((text.len(), Id::read(&text, 0xfedc_ba98_7654_3210)), (32, Some(id)));
        assert_eq!(Id::read(&text, 1), None);
        assert_eq!(Id::read("01F2C4A8E0", 1), None);
    }
}
