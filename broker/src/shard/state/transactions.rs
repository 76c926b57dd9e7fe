//! Transactions: those that are open, with where their message is parked and when somebody is asked, and those that ended lately.
//!
//! # Life of a transaction
//!
//! ## open → committed
//! `TxnEnd` with a place: the message is visible there.
//! ## open → rolled back
//! `TxnEnd` without a place.
//! ## open → given up
//! `TxnCheck` says so, after too many questions or too long a time. Only operators end it now; it counts as open in all else.
//! ## given up → open
//! `TxnCheck` says so; its questions are counted anew.
//!
//! Nothing leaves `committed` and `rolled back`. Both are remembered for a day, so that a late call is answered.

use super::State;
use super::ended::{Ended, Row};
use crate::codec::{Reader, Writer};
use crate::record::{CheckStep, Half, Outcome, Repark, TxnCheck, TxnEnd};
use crate::shard::parked;
use gantry_model::{ClientId, Offset, QueueKey, TopicId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The name of a transaction on its shard: its topic, and its number there.
pub type TxnKey = (TopicId, u64);

/// A transaction that is not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Where its message is now, in the hidden queue of the topic.
    pub at: Offset,
    /// Since when its producers are asked; its beginning, or when it was resumed.
    pub since: u64,
    /// When it is looked at next: for the next question, or, once given up, to drop it.
    pub next: u64,
    /// Questions that were written to a producer's stream.
    pub checks: u32,
    /// The first to be asked.
    pub sender: ClientId,
    pub given_up: bool,
}

/// Open transactions in the order of their beginning, topic by topic.
pub type Table = BTreeMap<TxnKey, Open>;

/// Numbers since the shard began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub committed: u64,
    pub rolled_back: u64,
    pub given_up: u64,
    pub checks: u64,
}

/// All transactions of a shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transactions {
    open: Arc<Table>,
    /// How many are open on each topic; derived.
    counts: BTreeMap<TopicId, u64>,
    pub ended: Ended,
    pub totals: Totals,
}

impl Transactions {
    pub fn get(&self, key: TxnKey) -> Option<&Open> {
        self.open.get(&key)
    }

    /// Open transactions, topic by topic, oldest first.
    pub fn all(&self) -> impl Iterator<Item = (TxnKey, &Open)> {
        self.open.iter().map(|(&key, open)| (key, open))
    }

    /// Open transactions of a topic, oldest first.
    pub fn of(&self, topic: TopicId) -> impl Iterator<Item = (u64, &Open)> {
        self.from(topic, 0)
    }

    /// Open transactions of a topic from this number on.
    pub fn from(&self, topic: TopicId, first: u64) -> impl Iterator<Item = (u64, &Open)> {
        self.open.range((topic, first)..=(topic, u64::MAX)).map(|(&(_, id), open)| (id, open))
    }

    /// The first offset of the hidden queue of a topic that is still of use.
    pub fn oldest_parked(&self, topic: TopicId) -> Option<Offset> {
        self.of(topic).map(|(_, open)| open.at).min()
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// How many are open on a topic.
    pub fn count_of(&self, topic: TopicId) -> u64 {
        self.counts.get(&topic).copied().unwrap_or(0)
    }

    fn insert(&mut self, key: TxnKey, open: Open) {
        if Arc::make_mut(&mut self.open).insert(key, open).is_none() {
            *self.counts.entry(key.0).or_default() += 1;
        }
    }

    fn remove(&mut self, key: TxnKey) {
        if self.open.contains_key(&key) {
            Arc::make_mut(&mut self.open).remove(&key);
            let left = self.count_of(key.0) - 1;
            if left == 0 {
                self.counts.remove(&key.0)
            } else {
                self.counts.insert(key.0, left)
            };
        }
    }

    fn change(&mut self, key: TxnKey, with: impl FnOnce(&mut Open)) {
        if self.open.contains_key(&key)
            && let Some(open) = Arc::make_mut(&mut self.open).get_mut(&key)
        {
            with(open);
        }
    }

    /// Drops what is open on a deleted topic.
    pub(super) fn forget(&mut self, topic: TopicId) {
        if self.counts.remove(&topic).is_some() {
            Arc::make_mut(&mut self.open).retain(|&(of, _), _| of != topic);
        }
    }

    /// What a checkpoint keeps beside the chunks of the ended ones.
    pub(super) fn freeze(&self) -> Frozen {
        Frozen { open: self.open.clone(), totals: self.totals, ended: self.ended.span() }
    }
}

/// The open transactions as they were at one moment.
#[derive(Clone, Debug, Default)]
pub struct Frozen {
    open: Arc<Table>,
    totals: Totals,
    ended: (u64, u64),
}

impl Frozen {
    pub(super) fn encode(&self, out: &mut Writer) {
        let Totals { committed, rolled_back, given_up, checks } = self.totals;
        out.varints([committed, rolled_back, given_up, checks, self.ended.0, self.ended.1, self.open.len() as u64]);
        for ((topic, id), open) in &*self.open {
            out.varints([u64::from(topic.0), *id, open.at.0, open.since, open.next, u64::from(open.checks)]);
            out.text(open.sender.as_str());
            out.u8(u8::from(open.given_up));
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Frozen> {
        let totals = Totals { committed: input.varint()?, rolled_back: input.varint()?, given_up: input.varint()?, checks: input.varint()? };
        let ended = (input.varint()?, input.varint()?);
        let mut table = Table::new();
        for _ in 0..input.varint()? {
            let key = (TopicId(input.varint32()?), input.varint()?);
            let (at, since, next, checks) = (Offset(input.varint()?), input.varint()?, input.varint()?, input.varint32()?);
            let sender = ClientId::new(input.text()?);
            table.insert(key, Open { at, since, next, checks, sender, given_up: input.u8()? != 0 });
        }
        input.is_empty().then(|| Frozen { open: Arc::new(table), totals, ended })
    }

    /// Puts back what a checkpoint kept; `None` if its chunks don't add up.
    pub(super) fn thaw(self, chunks: Vec<(u16, super::ended::Chunk)>) -> Option<Transactions> {
        let mut counts = BTreeMap::new();
        self.open.keys().for_each(|(topic, _)| *counts.entry(*topic).or_default() += 1);
        Some(Transactions { open: self.open, counts, ended: Ended::restore(self.ended, chunks)?, totals: self.totals })
    }
}

impl State {
    /// A message takes the next offset of a hidden queue. It counts as stored when it becomes visible.
    fn park(&mut self, queue: QueueKey, offset: Offset) {
        let given = self.apply_message_at(queue, offset);
        self.head.messages -= 1;
        assert_eq!(given, offset, "hidden queues have dense offsets");
    }

    pub(super) fn apply_half(&mut self, half: &Half) {
        self.park(half.queue, Offset(half.id));
        let open = Open { at: Offset(half.id), since: half.time, next: half.first_check, checks: 0, sender: half.sender.clone(), given_up: false };
        self.transactions.insert((half.queue.topic(), half.id), open);
    }

    pub(super) fn apply_repark(&mut self, moved: &Repark) {
        self.park(moved.queue, moved.at);
        if moved.queue == parked::halves(moved.queue.topic()) {
            self.transactions.change((moved.queue.topic(), moved.id), |open| open.at = moved.at);
        }
    }

    pub(super) fn apply_txn_check(&mut self, check: &TxnCheck) {
        let totals = &mut self.transactions.totals;
        match check.step {
            CheckStep::Sent => totals.checks += 1,
            CheckStep::GivenUp => totals.given_up += 1,
            CheckStep::Resumed => {}
        }
        self.transactions.change((check.topic, check.id), |open| {
            open.next = check.next;
            match check.step {
                CheckStep::Sent => open.checks += 1,
                CheckStep::GivenUp => open.given_up = true,
                CheckStep::Resumed => (open.given_up, open.checks, open.since) = (false, 0, check.time),
            }
        });
    }

    pub(super) fn apply_txn_end(&mut self, end: &TxnEnd) {
        match end.outcome {
            Outcome::Committed(queue, offset) => {
                let given = self.apply_message_at(queue, offset);
                assert_eq!(given, offset, "committed messages get dense offsets");
                self.transactions.totals.committed += 1;
            }
            Outcome::RolledBack => self.transactions.totals.rolled_back += 1,
        }
        self.transactions.remove((end.topic, end.id));
        let resolution = end.outcome.resolution();
        self.transactions.ended.remember(Row { topic: end.topic, id: end.id, resolution, time: end.time });
    }
}
