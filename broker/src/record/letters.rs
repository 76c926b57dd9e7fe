//! What becomes of dead letters: sent again, or removed.

use crate::codec::{Reader, Writer};
use gantry_model::{GroupId, Offset, QueueKey};

/// A dead letter is sent again, and is gone from the dead letter queue. The frame ends with a copy of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redrive {
    pub group: GroupId,
    pub dead_queue: QueueKey,
    pub dead_offset: Offset,
    pub queue: QueueKey,
    pub offset: Offset,
}

/// Dead letters are removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    pub dead_queue: QueueKey,
    pub offsets: Vec<u64>,
}

impl Redrive {
    /// Bytes of the payload before the copy of the message.
    pub const HEAD: usize = 4 + 8 + 8 + 8 + 8;

    pub(super) fn encode(&self, out: &mut Writer) {
        super::put_place(out, self.group, self.dead_queue, self.dead_offset);
        out.u64(self.queue.0);
        out.u64(self.offset.0);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Redrive> {
        let (group, dead_queue, dead_offset) = super::place(input)?;
        Some(Redrive { group, dead_queue, dead_offset, queue: QueueKey(input.u64()?), offset: Offset(input.u64()?) })
    }
}

impl Purge {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u64(self.dead_queue.0);
        out.ascending(self.offsets.iter().copied());
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Purge> {
        Some(Purge { dead_queue: QueueKey(input.u64()?), offsets: input.ascending()? })
    }
}
