//! What a shard's thread does for transactions beside appending: it finds their messages, refuses commits that can't be written, hands questions
//! to those who can reach producers, and chooses messages that must move before a part of the log can go.

use super::core::Event;
use super::inbox::Found;
use super::parked::halves;
use super::state::transactions::{Open, TxnKey};
use super::thread::Driver;
use super::transactions::Asked;
use gantry_model::contract::broker::{EndError, Resolution, ShardCondition};
use gantry_model::handle::TransactionHandle;
use gantry_model::{ClientId, Offset, QueueKey, TopicId};
use gantry_store::log::AppendError;

/// Bytes of messages that move in one go.
const REPARK_BYTES: u64 = 8 * 1024 * 1024;

/// A question to a producer, with the place of the message that it is about.
#[derive(Debug)]
pub struct Question {
    pub handle: TransactionHandle,
    pub sender: ClientId,
    pub found: Found,
}

/// An open transaction with the place of its message.
#[derive(Debug)]
pub struct Listed {
    pub id: u64,
    pub open: Open,
    pub found: Found,
}

impl Driver {
    /// Where a parked message is.
    fn parked_at(&self, queue: QueueKey, at: Offset) -> Option<Found> {
        self.index.lookup(queue, at).ok().flatten().map(Found::from)
    }

    /// Why a transaction can't be committed right now, if it is open at all: there is no room for the message, or it can't be read.
    pub(super) fn why_not_commit(&mut self, key: TxnKey, resolution: Resolution) -> Result<Option<EndError>, AppendError> {
        let Some(at) = self.core.state.transactions.get(key).filter(|_| resolution == Resolution::Commit).map(|open| open.at) else {
            return Ok(None);
        };
        let Some(found) = self.parked_at(halves(key.0), at) else { return Ok(None) };
        if let Err(error) = self.reader.frame(found.lsn) {
            let why = format!("the message of the transaction can't be read, it stays open: {error}");
            return Ok(Some(EndError::Failed { why }));
        }
        let full = self.upkeep.full(&mut self.log, found.len as usize)?;
        if full.is_some() {
            self.status.set_condition(ShardCondition::Full);
        }
        Ok(full.map(|used_percent| EndError::DiskFull { used_percent }))
    }

    /// Hands a question to those who can reach producers.
    pub(super) fn put_question(&mut self, handle: TransactionHandle, sender: ClientId, at: Offset) {
        // Nobody is shown what may yet be cut off; it is asked about when it is committed, or by the next leader.
        let hw = self.hw();
        let known = self.parked_at(halves(handle.topic), at).filter(|found| found.lsn < hw);
        let asked = known.map(|found| self.questions.send(Question { handle, sender, found }));
        if !matches!(asked, Some(Ok(()))) {
            self.own.push_back(Event::Asked { key: (handle.topic, handle.id), asked: Asked::NobodyThere });
        }
    }

    /// Open transactions with the places of their messages; one whose message is lost can't be shown.
    pub(super) fn list(&self, topic: TopicId, open: Vec<(u64, Open)>) -> Vec<Listed> {
        let listed = open.into_iter().filter_map(|(id, open)| {
            let found = self.parked_at(halves(topic), open.at)?;
            Some(Listed { id, open, found })
        });
        listed.collect()
    }

    /// The messages of open transactions, up to an offset in their hidden queue, that are stored again next. What can't be read stays where it is.
    pub(super) fn movers(&self, queue: QueueKey, last: Offset) -> Option<Event<crate::draft::Draft>> {
        let topic = queue.topic();
        if queue != halves(topic) {
            return None;
        }
        let mut bytes = 0;
        let mut ids = Vec::new();
        for (id, open) in self.core.state.transactions.of(topic).filter(|(_, open)| open.at <= last) {
            let Some(found) = self.parked_at(queue, open.at) else { continue };
            if bytes > REPARK_BYTES {
                break;
            }
            match self.reader.frame(found.lsn) {
                Ok(_) => ids.push(id),
                Err(error) => tracing::error!(topic = topic.0, transaction = id, %error, "the message of a transaction can't be read; it stays"),
            }
            bytes += u64::from(found.len);
        }
        (!ids.is_empty()).then_some(Event::Repark { topic, ids })
    }
}
