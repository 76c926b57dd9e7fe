//! What consumers finished, in order, kept by the runner as notes (`<consumer> <lane> <number>`) so that it outlives this program. Take a
//! message down just before it is acknowledged: then one that comes again after a kill is here twice, never missing.

use std::sync::{Arc, Mutex};

use crate::harness::{note, require, say, Outcome, Run, Verdict};

/// One message that one consumer finished. A lane is a stream whose messages have an order: a message group.
#[derive(Clone, PartialEq)]
struct Entry {
    who: String,
    lane: String,
    number: i64,
}

/// Shared by the tasks of a scenario.
#[derive(Clone)]
pub struct Ledger(Arc<Mutex<Vec<Entry>>>);

impl Ledger {
    pub async fn of(run: &Run) -> Outcome<Self> {
        let notes = run.notes().await?;
        let entries: Option<Vec<_>> = notes.iter().map(|note| note.split_once(' ').and_then(|(who, body)| entry(who, body))).collect();
        let entries = entries.ok_or_else(|| Verdict::Failed(format!("these are not the notes of a ledger: {notes:?}")))?;
        Ok(Ledger(Arc::new(Mutex::new(entries))))
    }

    fn entries(&self) -> Vec<Entry> {
        self.0.lock().expect("nobody panics while holding this lock").clone()
    }

    /// `body` is `<lane> <number>`.
    pub fn add(&self, who: &str, body: &str) -> Outcome {
        let entry = entry(who, body).ok_or_else(|| Verdict::Failed(format!("`{body}` is not a lane and a number")))?;
        note(&format!("{who} {body}"));
        self.0.lock().expect("nobody panics while holding this lock").push(entry);
        Ok(())
    }

    pub fn numbers(&self, who: &str, lane: &str) -> Vec<i64> {
        self.entries().into_iter().filter(|entry| entry.who == who && entry.lane == lane).map(|entry| entry.number).collect()
    }

    /// The bodies that the consumer finished for the first time, in order.
    pub fn firsts(&self, who: &str) -> Vec<String> {
        let mut firsts = Vec::new();
        for entry in self.entries().into_iter().filter(|entry| entry.who == who) {
            let body = format!("{} {}", entry.lane, entry.number);
            if !firsts.contains(&body) {
                firsts.push(body);
            }
        }
        firsts
    }

    /// The first successes are 0, 1, … in this order. `once`: and nothing came a second time.
    pub fn expect_in_order(&self, who: &str, lane: &str, length: i64, once: bool) -> Outcome {
        let came = self.numbers(who, lane);
        let mut firsts = Vec::new();
        for number in &came {
            if !firsts.contains(number) {
                firsts.push(*number);
            }
        }
        require(firsts.iter().copied().eq(0..length), || format!("{who} finished {lane} in the order {firsts:?} instead of 0..{length}"))?;
        if came.len() > firsts.len() {
            say(format!("{who} finished {} messages of {lane} more than once", came.len() - firsts.len()));
        }
        require(!once || came.len() == firsts.len(), || format!("{who} got messages of {lane} more than once: {came:?}"))
    }

    /// The numbers below `length` in any order. `once`: each once.
    pub fn expect_all(&self, who: &str, lane: &str, length: i64, once: bool) -> Outcome {
        let came = self.numbers(who, lane);
        let mut different = came.clone();
        different.sort_unstable();
        different.dedup();
        require(different.iter().copied().eq(0..length), || format!("of `{lane}` came {came:?}"))?;
        require(!once || came.len() == different.len(), || format!("of `{lane}` some came more than once: {came:?}"))
    }
}

fn entry(who: &str, body: &str) -> Option<Entry> {
    let (lane, number) = body.split_once(' ')?;
    Some(Entry { who: who.into(), lane: lane.into(), number: number.parse().ok()? })
}
