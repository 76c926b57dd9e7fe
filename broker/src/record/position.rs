//! Positions that are moved otherwise than by deliveries: resets, skipped messages, commits of groups that pull.

use crate::codec::{Reader, Writer};
use gantry_model::{GroupId, Offset, QueueKey};

/// A group begins anew at the given positions: what it held there is dropped, and handles from before are void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seek {
    pub group: GroupId,
    pub queues: Vec<SeekQueue>,
}

/// The part of a [`Seek`] on one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeekQueue {
    pub queue: QueueKey,
    pub to: Offset,
    /// Offsets behind `to` that count as finished: half-open ranges, ascending.
    pub done: Vec<(u64, u64)>,
}

/// Messages finished for a group by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    pub group: GroupId,
    pub queue: QueueKey,
    /// Where the group starts, if it has no position on this queue yet.
    pub start: Offset,
    pub offsets: Vec<u64>,
}

/// A group that pulls has worked on everything below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    pub group: GroupId,
    pub queue: QueueKey,
    pub offset: Offset,
}

impl Seek {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.group.0);
        out.varint(self.queues.len() as u64);
        for SeekQueue { queue, to, done } in &self.queues {
            out.u64(queue.0);
            out.varint(to.0);
            out.ascending(done.iter().map(|&(start, _)| start));
            done.iter().for_each(|&(start, end)| out.varint(end - start));
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Seek> {
        let group = GroupId(input.u32()?);
        let mut queues = Vec::new();
        for _ in 0..input.varint()? {
            let (queue, to) = (QueueKey(input.u64()?), Offset(input.varint()?));
            let starts = input.ascending()?;
            let mut done = Vec::with_capacity(starts.len());
            for start in starts {
                done.push((start, start.checked_add(input.varint()?)?));
            }
            queues.push(SeekQueue { queue, to, done });
        }
        Some(Seek { group, queues })
    }
}

impl Skip {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.group.0);
        out.u64(self.queue.0);
        out.varint(self.start.0);
        out.ascending(self.offsets.iter().copied());
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Skip> {
        let (group, queue) = (GroupId(input.u32()?), QueueKey(input.u64()?));
        Some(Skip { group, queue, start: Offset(input.varint()?), offsets: input.ascending()? })
    }
}

impl OffsetCommit {
    pub(super) fn encode(&self, out: &mut Writer) {
        super::put_place(out, self.group, self.queue, self.offset);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<OffsetCommit> {
        let (group, queue, offset) = super::place(input)?;
        Some(OffsetCommit { group, queue, offset })
    }
}
