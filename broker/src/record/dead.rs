//! Dead letters.

use super::{place, put_place};
use crate::codec::{Reader, Writer};
use gantry_model::message::DeadReason;
use gantry_model::{GroupId, Lsn, Offset, QueueKey};

/// A message goes to the dead letter queue, and the group is finished with it. The frame ends with a copy of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    pub group: GroupId,
    pub queue: QueueKey,
    pub offset: Offset,
    pub attempts: u32,
    pub reason: DeadReason,
    pub dead_queue: QueueKey,
    pub dead_offset: Offset,
    /// Where the message itself is.
    pub original: Lsn,
}

impl Dead {
    /// Bytes of the payload before the copy of the message.
    pub const HEAD: usize = 4 + 8 + 8 + 4 + 1 + 8 + 8 + 8;

    pub(super) fn encode(&self, out: &mut Writer) {
        put_place(out, self.group, self.queue, self.offset);
        out.u32(self.attempts);
        out.u8(self.reason as u8);
        out.u64(self.dead_queue.0);
        out.u64(self.dead_offset.0);
        out.u64(self.original.0);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Dead> {
        let (group, queue, offset) = place(input)?;
        let attempts = input.u32()?;
        let reason = DeadReason::from_number(input.u8()?)?;
        let (dead_queue, dead_offset, original) = (QueueKey(input.u64()?), Offset(input.u64()?), Lsn(input.u64()?));
        Some(Dead { group, queue, offset, attempts, reason, dead_queue, dead_offset, original })
    }
}
