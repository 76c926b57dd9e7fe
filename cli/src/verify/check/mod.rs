//! The check: a function of a history that finds broken promises, and nothing that a sound server may do. In this order: this file (what
//! may be found), `book` (the history sorted by message), `messages` (lost, stored twice, early, phantom, torn), `leases` (delivered
//! again after an acknowledgement, or too soon), `order` (message groups).
//!
//! Unknown outcomes stay unknown: a send without an answer may be stored, now or later, or never; an acknowledgement without an answer may
//! count or not. Only what contradicts both is a violation.

mod book;
mod leases;
mod messages;
mod order;

#[cfg(test)]
mod proofs;
#[cfg(test)]
mod tests;

use super::history::{History, Id, Micros};
use book::Book;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Violations of one kind that are kept with their story; beyond it they are only counted.
const STORIES_MAX: u64 = 1_000;

/// What kind of promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Broken {
    /// The send was acknowledged and the message never came
    Lost,
    /// It came again after its acknowledgement was answered OK
    Duplicated,
    /// One send was stored at two places
    StoredTwice,
    /// It came again while somebody else held it: neither expired nor given back
    Redelivered,
    /// A message came before an earlier one of its message group was done
    Reordered,
    /// It came before its delivery time
    Early,
    /// It was never sent, was refused, or its transaction was not committed
    Phantom,
    /// Body, tag, key or property are not what was sent
    Torn,
}

impl Broken {
    pub fn name(self) -> &'static str {
        match self {
            Broken::Lost => "lost",
            Broken::Duplicated => "duplicated",
            Broken::StoredTwice => "stored twice",
            Broken::Redelivered => "redelivered",
            Broken::Reordered => "reordered",
            Broken::Early => "early",
            Broken::Phantom => "phantom",
            Broken::Torn => "torn",
        }
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    pub broken: Broken,
    pub topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    pub message_id: String,
    #[serde(rename = "at_us")]
    pub at: Micros,
    /// What happened, with times.
    pub story: String,
}

/// What the check came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub sends: Sends,
    /// Deliveries of messages of the run, the repeated ones included.
    pub deliveries: u64,
    /// Deliveries of messages that had come to the same group before.
    pub repeated: u64,
    /// Deliveries that were acknowledged with OK.
    pub acknowledged: u64,
    pub acks_unknown: u64,
    pub acks_refused: u64,
    /// Deliveries that were given back.
    pub given_back: u64,
    /// Messages that are none of the run, on topics that it did not make.
    pub strangers: u64,
    /// Acknowledged sends that did not come to some group, where the history ends too early to call them lost.
    pub undecided: u64,
    pub violations: BTreeMap<Broken, u64>,
    pub stories: Vec<Violation>,
}

/// Sends by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sends {
    pub ok: u64,
    pub refused: u64,
    pub unknown: u64,
    /// Sends without an answer that came all the same.
    pub unknown_but_stored: u64,
}

impl Verdict {
    fn add(&mut self, violation: Violation) {
        let count = self.violations.entry(violation.broken).or_default();
        *count += 1;
        if *count <= STORIES_MAX {
            self.stories.push(violation);
        }
    }
}

/// Finds every broken promise of a history.
pub fn check(history: &History) -> Verdict {
    let book = Book::new(history);
    let mut verdict = book.totals();
    messages::check(&book, &mut verdict);
    leases::check(&book, &mut verdict);
    order::check(&book, &mut verdict);
    verdict.stories.sort_by(|a, b| (a.at, &a.message_id, a.broken).cmp(&(b.at, &b.message_id, b.broken)));
    verdict
}

/// A violation about a message, in the names of the history.
fn violation(book: &Book<'_>, broken: Broken, id: Id, group: Option<u16>, at: Micros, story: String) -> Violation {
    let header = &book.history.header;
    let topic = header.topic_of(id.lane).map_or("?", |topic| &topic.name);
    let run = u64::from_str_radix(&header.run, 16).unwrap_or_default();
    let group = group.and_then(|group| header.groups.get(usize::from(group)).cloned());
    Violation { broken, topic: topic.to_owned(), group, message_id: id.wire(run), at, story }
}

/// A time as stories tell it.
fn show(at: Micros) -> String {
    format!("{:.3} s", at.seconds())
}
