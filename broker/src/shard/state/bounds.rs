//! What a queue holds: its first and next offset, and how many bytes of log its messages take.
//!
//! Bytes are exact while messages come. When the oldest go, the share that goes with them is their number's share: the log knows the length of
//! each message, and reading thousands of them to subtract would cost more than the number is worth. A queue that is empty holds zero.

use super::State;
use gantry_model::{QueueKey, TopicId};

/// First and next offset of a queue that ever had a message, and the bytes between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub min: u64,
    pub next: u64,
    pub bytes: u64,
}

impl Bounds {
    /// Nothing before `min` counts any more. Answers how many bytes went.
    pub(super) fn trim(&mut self, min: u64) -> u64 {
        let min = min.clamp(self.min, self.next);
        let (gone, all) = (min - self.min, self.next - self.min);
        self.min = min;
        if gone == 0 {
            return 0;
        }
        let freed = (u128::from(self.bytes) * u128::from(gone) / u128::from(all)) as u64;
        self.bytes -= freed;
        freed
    }
}

impl State {
    /// A message that was placed in this queue takes so many bytes of the log.
    pub fn hold(&mut self, queue: QueueKey, bytes: u32) {
        let bucket = self.bucket_mut(queue);
        let Some(bounds) = bucket.queues.get_mut(&queue) else { return };
        bounds.bytes += u64::from(bytes);
        *self.held.entry(queue.topic()).or_default() += u64::from(bytes);
    }

    /// Bytes of log that the messages of a topic take; delayed ones and those of open transactions count as well.
    pub fn held(&self, topic: TopicId) -> u64 {
        self.held.get(&topic).copied().unwrap_or(0)
    }

    pub(super) fn freed(&mut self, topic: TopicId, bytes: u64) {
        if let Some(held) = self.held.get_mut(&topic) {
            *held = held.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_with_the_messages_and_an_empty_queue_holds_none() {
        let mut bounds = Bounds { min: 10, next: 20, bytes: 1_001 };
        assert_eq!(bounds.trim(9), 0, "what went before goes once");
        assert_eq!((bounds.trim(13), bounds.bytes), (300, 701));
        assert_eq!((bounds.trim(25), bounds), (701, Bounds { min: 20, next: 20, bytes: 0 }));
        assert_eq!(bounds.trim(25), 0);
    }
}
