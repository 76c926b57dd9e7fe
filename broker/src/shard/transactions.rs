//! Transactions as the leader handles them: begun, asked about, ended.
//!
//! What is true of a transaction is in the state. What is here beside it is soft: who is being asked right now, and when somebody is asked again
//! because nobody was there. A leader that forgets it asks once more, which harms nobody.

use super::core::{Action, BatchPart, Core, Draft, Entries, Reply, Token};
use super::parked::halves;
use super::state::seen::Row;
use super::state::transactions::{Open, TxnKey};
use crate::record::{CheckStep, Half, Outcome, Record, Repark, TxnCheck, TxnEnd};
use gantry_model::contract::broker::{EndError, EndedBy, Resolution, SendError, Sent, Ticket};
use gantry_model::handle::TransactionHandle;
use gantry_model::{ClientId, Offset, QueueKey, Topic, TopicId, placement};
use gantry_store::zoo;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Nobody is asked about a transaction that is younger; its producer may ask for more.
const FIRST_CHECK_MS: u64 = 6_000;
/// From one question to the next; the last pause is that of all later ones.
const PAUSES_MS: [u64; 6] = [30_000, 30_000, 60_000, 120_000, 300_000, 600_000];
/// Questions that may stay without an answer.
const CHECKS_MAX: u32 = 15;
/// A transaction that nobody could be asked about is given up at this age.
const AGE_MAX_MS: u64 = 24 * 3600 * 1000;
/// How long operators have for a transaction that was given up; it is rolled back then.
const GIVEN_UP_MS: u64 = 30 * 24 * 3600 * 1000;
/// When nobody could be asked, the next try is this much later, or when a producer shows up.
const AGAIN_MS: u64 = 30_000;
/// Questions under way at the same time.
const ASKING_MAX: usize = 256;
/// Transactions looked at in one go.
const LOOK_MAX: usize = 1_000;

/// Whether a question was written to a producer's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Written,
    NobodyThere,
}

/// When open transactions are looked at, and which questions are under way.
#[derive(Debug, Default)]
pub(super) struct Checks {
    due: BTreeSet<(u64, TxnKey)>,
    times: HashMap<TxnKey, u64>,
    /// Questions under way, with the time at which their report counts as lost.
    asking: HashMap<TxnKey, u64>,
    /// Due, and nobody was there.
    unreached: BTreeSet<TxnKey>,
    /// Topics without a producer, until when that is believed.
    nobody: BTreeMap<TopicId, u64>,
}

impl Checks {
    fn set(&mut self, key: TxnKey, time: u64) {
        if let Some(before) = self.times.insert(key, time) {
            self.due.remove(&(before, key));
        }
        self.due.insert((time, key));
    }

    fn forget(&mut self, key: TxnKey) {
        if let Some(time) = self.times.remove(&key) {
            self.due.remove(&(time, key));
        }
        self.asking.remove(&key);
        self.unreached.remove(&key);
    }

    pub(super) fn forget_topic(&mut self, topic: TopicId) {
        let keys: Vec<TxnKey> = self.times.keys().filter(|key| key.0 == topic).copied().collect();
        keys.into_iter().for_each(|key| self.forget(key));
        self.nobody.remove(&topic);
    }

    fn is_full(&self) -> bool {
        self.asking.len() >= ASKING_MAX
    }

    /// When something is to be looked at next; not before a report if as many are asked as may be.
    pub(super) fn next_event(&self) -> Option<u64> {
        let &(time, _) = self.due.first()?;
        let room = if self.is_full() { self.asking.values().min().copied() } else { None };
        Some(time.max(room.unwrap_or(0)))
    }

    fn take_due(&mut self, now: u64) -> Option<TxnKey> {
        if self.is_full() {
            self.asking.retain(|_, lost| *lost > now);
        }
        let &(time, key) = self.due.first().filter(|(time, _)| *time <= now && !self.is_full())?;
        self.due.remove(&(time, key));
        self.times.remove(&key);
        Some(key)
    }
}

impl<D: Draft> Core<D> {
    /// Stores a message that is visible once its producer commits it.
    pub(super) fn store_half(&mut self, topic: &Topic, client: &ClientId, draft: D) -> Result<Sent, SendError> {
        if self.open_queues(topic).next().is_none() {
            return Err(SendError::NoWritableQueue);
        }
        self.room_for_one(topic)?;
        let queue = halves(topic.id);
        let id = self.state.bounds(queue).next;
        let first_check = self.now + draft.class().recovery_ms.unwrap_or(0).max(FIRST_CHECK_MS);
        let record = Record::Half(Half { queue, id, time: self.now, first_check, sender: client.clone() });
        self.state.apply(&record);
        self.remember(draft.class().id, queue, Offset(id));
        self.hide(queue, Offset(id));
        self.out.push(Action::Store { queue, offset: Offset(id), batch: BatchPart::Alone, head: Some(record), draft });
        self.checks.set((topic.id, id), first_check);
        Ok(Sent { queue: queue.queue(), offset: Offset(id), duplicate: false, ticket: Some(self.ticket(topic.id, id)) })
    }

    fn room_for_one(&self, topic: &Topic) -> Result<(), SendError> {
        let transactions = &self.state.transactions;
        if transactions.count() >= self.limits.transactions {
            let what = format!("the shard has {} open transactions, the most allowed", transactions.count());
            return Err(SendError::QuotaExceeded { what });
        }
        match topic.options.quota.transactions.map(|most| placement::share_of(topic, self.shard, most)) {
            Some(most) if transactions.count_of(topic.id) >= most => {
                Err(SendError::QuotaExceeded { what: format!("topic `{}` has {most} open transactions on its shard, the most allowed", topic.name) })
            }
            _ => Ok(()),
        }
    }

    /// What a repeated send of a transaction is answered.
    pub(super) fn half_ticket(&self, topic: &Topic, row: &Row) -> Option<Ticket> {
        (row.queue == halves(topic.id)).then(|| self.ticket(topic.id, row.offset))
    }

    fn ticket(&self, topic: TopicId, id: u64) -> Ticket {
        Ticket::Transaction(TransactionHandle { shard: self.shard, topic, id })
    }

    pub(super) fn end_transaction(&mut self, token: Token, topic: &Topic, id: u64, wish: (Resolution, EndedBy), entries: &dyn Entries) {
        let answer = self.try_end(topic, id, wish, entries);
        self.reply(token, Reply::Ended(answer));
    }

    fn try_end(&mut self, topic: &Topic, id: u64, (resolution, by): (Resolution, EndedBy), entries: &dyn Entries) -> Result<(), EndError> {
        let key = (topic.id, id);
        let Some(open) = self.state.transactions.get(key) else {
            return match self.state.transactions.ended.find(topic.id, id, self.now) {
                Some(ended) if ended == resolution || zoo!(CommitAfterRollback) => Ok(()),
                Some(ended) => Err(EndError::Contradicts { ended }),
                None => Err(EndError::Unknown),
            };
        };
        if open.given_up && by == EndedBy::Producer {
            return Err(EndError::GivenUp);
        }
        match resolution {
            Resolution::Rollback => self.roll_back(key),
            Resolution::Commit => {
                let at = open.at;
                self.commit_transaction(topic, id, at, entries)?;
            }
        }
        Ok(())
    }

    /// Gives the message its place in a queue of the topic.
    fn commit_transaction(&mut self, topic: &Topic, id: u64, at: Offset, entries: &dyn Entries) -> Result<(), EndError> {
        let Some(half) = entries.entry(halves(topic.id), at.0) else {
            return Err(EndError::Failed { why: "the message of the transaction is lost in a damaged part of the log; roll it back".into() });
        };
        // A topic that shrank takes new messages on other shards only; this one was accepted here before.
        let accepted = |core: &Self| core.queue_to_end_in(topic).filter(|_| topic.permission.can_write());
        let queue = self.next_queue(topic).or_else(|| accepted(self)).ok_or(EndError::NoWritableQueue)?;
        let queue = QueueKey::new(topic.id, queue);
        let outcome = Outcome::Committed(queue, Offset(self.state.bounds(queue).next));
        self.append_copy(Record::TxnEnd(TxnEnd { topic: topic.id, id, time: self.now, outcome }), half.lsn);
        self.checks.forget((topic.id, id));
        Ok(())
    }

    fn roll_back(&mut self, (topic, id): TxnKey) {
        self.append(Record::TxnEnd(TxnEnd { topic, id, time: self.now, outcome: Outcome::RolledBack }));
        self.checks.forget((topic, id));
    }

    /// Has a transaction that was given up asked about again; one that was not is asked about anyway.
    pub(super) fn resume_transaction(&mut self, token: Token, key: TxnKey) {
        let answer = match self.state.transactions.get(key) {
            Some(open) if open.given_up => {
                self.note(key, CheckStep::Resumed, self.now);
                Ok(())
            }
            Some(_) => Ok(()),
            None => Err(match self.state.transactions.ended.find(key.0, key.1, self.now) {
                Some(ended) => EndError::Contradicts { ended },
                None => EndError::Unknown,
            }),
        };
        self.reply(token, Reply::Ended(answer));
    }

    pub(super) fn open_transactions(&mut self, token: Token, topic: TopicId, from: u64, limit: usize) {
        let open: Vec<(u64, Open)> = self.state.transactions.from(topic, from).take(limit).map(|(id, open)| (id, open.clone())).collect();
        self.reply(token, Reply::OpenTransactions(open));
    }

    /// Looks at the transactions whose time has come: somebody is asked, or they are given up, or dropped.
    pub(super) fn look_at_transactions(&mut self) {
        for _ in 0..LOOK_MAX {
            let Some(key) = self.checks.take_due(self.now) else { return };
            let Some(open) = self.state.transactions.get(key).cloned() else { continue };
            if open.next > self.now {
                self.checks.set(key, open.next);
            } else if open.given_up {
                self.roll_back(key);
            } else if open.checks >= CHECKS_MAX || self.now >= open.since + AGE_MAX_MS {
                self.note(key, CheckStep::GivenUp, self.now + GIVEN_UP_MS);
            } else {
                self.ask(key, &open);
            }
        }
    }

    fn ask(&mut self, key: TxnKey, open: &Open) {
        let again = match self.checks.nobody.get(&key.0) {
            Some(&until) if until > self.now => {
                self.checks.unreached.insert(key);
                return self.checks.set(key, until);
            }
            _ => self.now + AGAIN_MS,
        };
        self.checks.asking.insert(key, again);
        self.checks.set(key, again);
        let handle = TransactionHandle { shard: self.shard, topic: key.0, id: key.1 };
        self.out.push(Action::Check { handle, sender: open.sender.clone(), at: open.at });
    }

    /// What became of a question. Only one that a producer got counts.
    pub(super) fn asked(&mut self, key: TxnKey, asked: Asked) {
        self.checks.asking.remove(&key);
        let Some(open) = self.state.transactions.get(key).filter(|open| !open.given_up) else { return };
        match asked {
            Asked::Written => {
                let pause = PAUSES_MS[(open.checks as usize).min(PAUSES_MS.len() - 1)];
                self.note(key, CheckStep::Sent, self.now + pause);
            }
            Asked::NobodyThere => {
                self.checks.unreached.insert(key);
                self.checks.nobody.insert(key.0, self.now + AGAIN_MS);
                self.checks.set(key, self.now + AGAIN_MS);
            }
        }
    }

    fn note(&mut self, (topic, id): TxnKey, step: CheckStep, next: u64) {
        self.append(Record::TxnCheck(TxnCheck { topic, id, step, time: self.now, next }));
        self.checks.unreached.remove(&(topic, id));
        self.checks.set((topic, id), next);
    }

    /// A producer of these topics can be reached: those questions that found nobody are asked now.
    pub(super) fn producer_ready(&mut self, topics: &[TopicId]) {
        for &topic in topics {
            self.checks.nobody.remove(&topic);
            let waiting: Vec<TxnKey> = self.checks.unreached.range((topic, 0)..=(topic, u64::MAX)).copied().collect();
            for key in waiting {
                self.checks.unreached.remove(&key);
                self.checks.set(key, self.now);
            }
        }
    }

    /// Stores the messages of open transactions again, so that the part of the log where they are can go.
    pub(super) fn repark_halves(&mut self, topic: TopicId, ids: &[u64], entries: &dyn Entries) {
        let queue = halves(topic);
        for &id in ids {
            let Some(open) = self.state.transactions.get((topic, id)) else { continue };
            let Some(old) = entries.entry(queue, open.at.0) else { continue };
            let at = Offset(self.state.bounds(queue).next);
            self.append_copy(Record::Repark(Repark { queue, id, at }), old.lsn);
        }
    }

    /// Reads from the state when each open transaction is to be looked at.
    pub(super) fn rearm_checks(&mut self) {
        self.checks = Checks::default();
        for (key, open) in self.state.transactions.all() {
            self.checks.set(key, open.next);
        }
    }
}
