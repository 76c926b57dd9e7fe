//! Transactions in a history: half messages, their ends, questions to producers, and what must be true of them (T1): visible exactly if committed,
//! ended once and for good, asked about until then.

use crate::history::{Asked, History};
use gantry_broker::shard::core::Event;
use gantry_broker::shard::transactions::Asked as Question;
use gantry_model::MessageKind;
use gantry_model::contract::broker::{EndError, EndedBy, Resolution, Ticket};
use gantry_model::handle::TransactionHandle;

/// What is known of the end of one half message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fate {
    perhaps_committed: bool,
    perhaps_rolled_back: bool,
    /// What somebody was told.
    ended: Option<Resolution>,
}

impl Fate {
    fn asked(&mut self, resolution: Resolution) {
        match resolution {
            Resolution::Commit => self.perhaps_committed = true,
            Resolution::Rollback => self.perhaps_rolled_back = true,
        }
    }

    fn may_be(&self, resolution: Resolution) -> bool {
        match resolution {
            Resolution::Commit => self.perhaps_committed,
            Resolution::Rollback => self.perhaps_rolled_back,
        }
    }

    fn ended(&mut self, resolution: Resolution) {
        assert!(self.may_be(resolution), "T1: it ended as {resolution:?}, which nobody asked for: {self:?}");
        assert!(self.ended.is_none_or(|ended| ended == resolution), "T1: it ended twice, now as {resolution:?}: {self:?}");
        self.ended = Some(resolution);
    }
}

impl History {
    /// A producer ends one of the transactions that it was answered about.
    pub(crate) fn end_one(&mut self) {
        let known = self.letters.iter().filter_map(|letter| match &letter.sent.as_ref()?.ticket {
            Some(Ticket::Transaction(handle)) => Some((letter.id, *handle)),
            _ => None,
        });
        let known: Vec<(u128, TransactionHandle)> = known.collect();
        if known.is_empty() {
            return;
        }
        let (id, handle) = known[self.pick(known.len())];
        let resolution = if self.pick(3) == 0 { Resolution::Rollback } else { Resolution::Commit };
        self.end(id, handle, resolution);
    }

    fn end(&mut self, id: u128, handle: TransactionHandle, resolution: Resolution) {
        self.fates.entry(id).or_default().asked(resolution);
        let token = self.world.token();
        self.asked.insert(token, Asked::End { id, resolution });
        let topic = self.topic.clone();
        self.world.step(Event::EndTransaction { token, topic, id: handle.id, resolution, by: EndedBy::Producer });
        self.outcome.ends += 1;
    }

    pub(crate) fn note_ended(&mut self, id: u128, resolution: Resolution, answer: Result<(), EndError>) {
        let fate = self.fates.entry(id).or_default();
        match answer {
            Ok(()) => fate.ended(resolution),
            Err(EndError::Contradicts { ended }) => {
                assert_ne!(ended, resolution, "T1: an end that contradicts nothing was refused");
                fate.ended(ended);
            }
            Err(error) => panic!("T1: the end of half message {id}: {error}"),
        }
    }

    /// Questions find a producer that decides, one that has no answer yet, or nobody. In peace there is always one that decides.
    pub(crate) fn answer_questions(&mut self, peace: bool) {
        for (handle, _, at) in std::mem::take(&mut self.world.checks) {
            let queue = gantry_broker::shard::parked::halves(handle.topic);
            let number = self.world.index.number(queue, at.0).expect("T1: a question is about a message that is there");
            let id = self.letters[number].id;
            let key = (handle.topic, handle.id);
            if !peace && self.pick(4) == 0 {
                self.world.step(Event::Asked { key, asked: Question::NobodyThere });
                continue;
            }
            self.world.step(Event::Asked { key, asked: Question::Written });
            self.outcome.questions += 1;
            match (self.pick(4), self.fates.get(&id).and_then(|fate| fate.ended)) {
                // The question and the end of the transaction crossed.
                (_, Some(_)) => {}
                (0, _) if !peace => {}
                (1, _) => self.end(id, handle, Resolution::Rollback),
                _ => self.end(id, handle, Resolution::Commit),
            }
        }
    }

    pub(crate) fn producer_comes(&mut self) {
        let topics = vec![self.topic.id];
        self.world.step(Event::ProducerReady { topics });
    }

    /// Whether a consumer may see a message, as far as transactions go.
    pub(crate) fn check_visible(&self, number: usize) {
        let letter = &self.letters[number];
        if letter.kind == MessageKind::Transaction {
            let fate = self.fates.get(&letter.id).copied().unwrap_or_default();
            assert!(fate.perhaps_committed && fate.ended != Some(Resolution::Rollback), "T1: half message {} is visible: {fate:?}", letter.id);
        }
    }

    /// Every transaction came to its end, and its message is in a queue exactly if that was a commit.
    pub(crate) fn check_halves(&self) {
        assert_eq!(self.world.core.state.transactions.count(), 0, "T1: every transaction is asked about until it ends");
        for letter in self.letters.iter().filter(|letter| letter.kind == MessageKind::Transaction) {
            let (copies, fate) = (self.copies(letter.id), self.fates.get(&letter.id).copied().unwrap_or_default());
            let right = match fate.ended {
                Some(Resolution::Commit) => copies == 1,
                Some(Resolution::Rollback) => copies == 0,
                None => copies == 0 || copies == 1 && fate.perhaps_committed,
            };
            assert!(right, "T1: {copies} copies of half message {}: {fate:?}", letter.id);
            assert!(letter.sent.is_none() || fate.perhaps_committed || fate.perhaps_rolled_back, "T1: nobody was asked about {}", letter.id);
        }
    }
}
