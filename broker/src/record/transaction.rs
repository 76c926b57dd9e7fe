//! Transactions: a message whose producer has yet to say what becomes of it, the questions about it, and its end.

use crate::codec::{Reader, Writer};
use gantry_model::contract::broker::Resolution;
use gantry_model::{ClientId, Offset, QueueKey, TopicId};

/// A transaction begins. The frame ends with its message, which nobody sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half {
    /// The hidden queue and the offset there, which is the transaction's number.
    pub queue: QueueKey,
    pub id: u64,
    pub time: u64,
    /// When its producer is asked first.
    pub first_check: u64,
    /// The first to be asked.
    pub sender: ClientId,
}

/// A message in a hidden queue lies at a newer place, so that its old segment can go. The frame ends with a copy of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repark {
    pub queue: QueueKey,
    /// What the message is known by: its first offset.
    pub id: u64,
    pub at: Offset,
}

/// Something about the checks of an open transaction changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnCheck {
    pub topic: TopicId,
    pub id: u64,
    pub step: CheckStep,
    pub time: u64,
    /// When it is looked at next: for the next question, or, once given up, to drop it.
    pub next: u64,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CheckStep {
    /// A question was written to a producer's stream.
    Sent = 1,
    /// Nobody is asked any more.
    GivenUp = 2,
    /// It counts as new: its producers are asked again.
    Resumed = 3,
}

/// A transaction ends, for good. The frame of a commit ends with a copy of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnEnd {
    pub topic: TopicId,
    pub id: u64,
    pub time: u64,
    pub outcome: Outcome,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its message is visible at this place.
    Committed(QueueKey, Offset),
    RolledBack,
}

impl Outcome {
    pub fn resolution(self) -> Resolution {
        match self {
            Outcome::Committed(..) => Resolution::Commit,
            Outcome::RolledBack => Resolution::Rollback,
        }
    }
}

impl Half {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u64(self.queue.0);
        out.u64(self.id);
        out.u64(self.time);
        out.u64(self.first_check);
        out.text(self.sender.as_str());
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Half> {
        let (queue, id, time, first_check) = (QueueKey(input.u64()?), input.u64()?, input.u64()?, input.u64()?);
        Some(Half { queue, id, time, first_check, sender: ClientId::new(input.text()?) })
    }

    /// Bytes of the payload before the message.
    pub(super) fn head_len(payload: &[u8]) -> Option<usize> {
        let mut input = Reader(payload);
        Half::decode(&mut input)?;
        Some(payload.len() - input.0.len())
    }
}

impl Repark {
    /// Bytes of the payload before the copy of the message.
    pub const HEAD: usize = 8 + 8 + 8;

    pub(super) fn encode(&self, out: &mut Writer) {
        out.u64(self.queue.0);
        out.u64(self.id);
        out.u64(self.at.0);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Repark> {
        Some(Repark { queue: QueueKey(input.u64()?), id: input.u64()?, at: Offset(input.u64()?) })
    }
}

impl TxnCheck {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.topic.0);
        out.u64(self.id);
        out.u8(self.step as u8);
        out.u64(self.time);
        out.u64(self.next);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<TxnCheck> {
        let (topic, id) = (TopicId(input.u32()?), input.u64()?);
        let step = match input.u8()? {
            1 => CheckStep::Sent,
            2 => CheckStep::GivenUp,
            3 => CheckStep::Resumed,
            _ => return None,
        };
        Some(TxnCheck { topic, id, step, time: input.u64()?, next: input.u64()? })
    }
}

impl TxnEnd {
    /// Where the resolution stands, which says whether a message follows.
    const RESOLUTION_AT: usize = 4 + 8 + 8;
    const COMMIT_HEAD: usize = TxnEnd::RESOLUTION_AT + 1 + 8 + 8;

    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.topic.0);
        out.u64(self.id);
        out.u64(self.time);
        out.u8(self.outcome.resolution() as u8);
        if let Outcome::Committed(queue, offset) = self.outcome {
            out.u64(queue.0);
            out.u64(offset.0);
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<TxnEnd> {
        let (topic, id, time) = (TopicId(input.u32()?), input.u64()?, input.u64()?);
        let outcome = match resolution(input.u8()?)? {
            Resolution::Commit => Outcome::Committed(QueueKey(input.u64()?), Offset(input.u64()?)),
            Resolution::Rollback => Outcome::RolledBack,
        };
        Some(TxnEnd { topic, id, time, outcome })
    }

    /// Bytes of the payload before the message, if there is one.
    pub(super) fn head_len(payload: &[u8]) -> Option<usize> {
        match resolution(*payload.get(TxnEnd::RESOLUTION_AT)?)? {
            Resolution::Commit => Some(TxnEnd::COMMIT_HEAD),
            Resolution::Rollback => Some(payload.len()),
        }
    }
}

/// The resolution with that number, as stored.
pub fn resolution(number: u8) -> Option<Resolution> {
    [Resolution::Commit, Resolution::Rollback].into_iter().find(|&known| known as u8 == number)
}
