//! Delayed messages: stored, moved, released, taken back.

use crate::codec::{Reader, Writer};
use gantry_model::{Lsn, Offset, QueueKey, TopicId};
use gantry_store::index::Due;

/// A message that is due later, at its place among the delayed ones of its topic. The frame ends with the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// When it is due, in the shard's time.
    pub deliver_ms: u64,
    pub queue: QueueKey,
    pub offset: Offset,
    /// Where it was before; `None` when a client just sent it.
    pub moved: Option<Moved>,
}

/// A delayed message leaves a segment that is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub from: Lsn,
    /// Where the segment that it leaves ends. Everything there that is due before it, or is it, was looked at.
    pub end: Lsn,
}

/// A delayed message is due and gets its place in a queue. The frame ends with a copy of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Which one it was: when it was due, and where it lies.
    pub due: Due,
    /// The queue of the delayed messages of its topic.
    pub timers: QueueKey,
    pub queue: QueueKey,
    pub offset: Offset,
}

/// A delayed message will not be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recall {
    pub topic: TopicId,
    pub due: Due,
    /// Its number, as its producer knows it.
    pub id: u64,
    pub why: RecallCause,
}

/// Why a delayed message is not released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecallCause {
    /// Its producer took it back.
    Asked = 0,
    /// It can't be read any more.
    Damaged = 1,
}

/// Messages that were overdue when the leader began are released one by one beside those that fall due now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// They were due before this time; `None` when all of the oldest such stretch were released.
    pub until: Option<u64>,
}

impl Delayed {
    /// Bytes of the payload before the message.
    pub const HEAD: usize = 5 * 8;

    pub(super) fn encode(&self, out: &mut Writer) {
        let (from, end) = self.moved.map_or((0, 0), |moved| (moved.from.0, moved.end.0));
        [self.deliver_ms, self.queue.0, self.offset.0, from, end].into_iter().for_each(|number| out.u64(number));
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Delayed> {
        let (deliver_ms, queue, offset) = (input.u64()?, QueueKey(input.u64()?), Offset(input.u64()?));
        let (from, end) = (Lsn(input.u64()?), Lsn(input.u64()?));
        // No segment ends where the log begins.
        let moved = (end.0 != 0).then_some(Moved { from, end });
        Some(Delayed { deliver_ms, queue, offset, moved })
    }
}

impl Release {
    /// Bytes of the payload before the copy of the message.
    pub const HEAD: usize = 5 * 8;

    pub(super) fn encode(&self, out: &mut Writer) {
        [self.due.time, self.due.position.0, self.timers.0, self.queue.0, self.offset.0].into_iter().for_each(|number| out.u64(number));
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Release> {
        let due = due(input)?;
        Some(Release { due, timers: QueueKey(input.u64()?), queue: QueueKey(input.u64()?), offset: Offset(input.u64()?) })
    }
}

impl Recall {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.topic.0);
        [self.due.time, self.due.position.0, self.id].into_iter().for_each(|number| out.u64(number));
        out.u8(self.why as u8);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Recall> {
        let (topic, due, id) = (TopicId(input.u32()?), due(input)?, input.u64()?);
        let why = match input.u8()? {
            0 => RecallCause::Asked,
            1 => RecallCause::Damaged,
            _ => return None,
        };
        Some(Recall { topic, due, id, why })
    }
}

impl CatchUp {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u64(self.until.unwrap_or(0));
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<CatchUp> {
        let until = input.u64()?;
        Some(CatchUp { until: (until != 0).then_some(until) })
    }
}

fn due(input: &mut Reader<'_>) -> Option<Due> {
    Some(Due { time: input.u64()?, position: Lsn(input.u64()?) })
}
