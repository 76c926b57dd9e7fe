//! The life of the shard itself: reigns, the beginning of the log, deleted topics and groups.

use crate::codec::{Reader, Writer};
use gantry_model::{GroupId, Lsn, QueueKey, TopicId};

/// A leader begins; leases move by the time that nobody led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: u32,
    pub shift_ms: u64,
}

/// The log begins later; queues begin later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trim {
    pub start: Lsn,
    /// Queues whose first offset moved, with the new one.
    pub queues: Vec<(QueueKey, u64)>,
}

/// A topic or a group was deleted; what the shard holds of it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget {
    Topic(TopicId),
    Group(GroupId),
}

impl EpochStart {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.epoch);
        out.u64(self.shift_ms);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<EpochStart> {
        Some(EpochStart { epoch: input.u32()?, shift_ms: input.u64()? })
    }
}

impl Trim {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u64(self.start.0);
        out.varint(self.queues.len() as u64);
        for &(queue, min) in &self.queues {
            out.u64(queue.0);
            out.varint(min);
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Trim> {
        let start = Lsn(input.u64()?);
        let mut queues = Vec::new();
        for _ in 0..input.varint()? {
            queues.push((QueueKey(input.u64()?), input.varint()?));
        }
        Some(Trim { start, queues })
    }
}

impl Forget {
    pub(super) fn encode(&self, out: &mut Writer) {
        let (what, id) = match self {
            Forget::Topic(topic) => (0, topic.0),
            Forget::Group(group) => (1, group.0),
        };
        out.u8(what);
        out.u32(id);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Forget> {
        match input.u8()? {
            0 => Some(Forget::Topic(TopicId(input.u32()?))),
            1 => Some(Forget::Group(GroupId(input.u32()?))),
            _ => None,
        }
    }
}
