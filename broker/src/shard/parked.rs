//! Messages that are stored and not visible yet: delayed ones, and those of open transactions.
//!
//! Each topic has two hidden queues for them, with numbers that no ordinary queue has. A message is parked at an offset there, which is its
//! name until it gets its place in a queue of the topic.

use gantry_model::{QueueId, QueueKey, TopicId};

/// The hidden queue of messages whose transaction is open.
pub fn halves(topic: TopicId) -> QueueKey {
    QueueKey::new(topic, QueueId(QueueKey::MAX_QUEUE))
}

/// The hidden queue of messages that are due later.
pub fn timers(topic: TopicId) -> QueueKey {
    QueueKey::new(topic, QueueId(QueueKey::MAX_QUEUE - 1))
}

/// Whether a queue is that of the delayed messages of a topic.
pub fn is_timers(queue: QueueKey) -> bool {
    queue == timers(queue.topic())
}

/// Whether a queue is that of the open transactions of a topic.
pub fn is_halves(queue: QueueKey) -> bool {
    queue == halves(queue.topic())
}

/// Whether a queue is hidden: clients never see its messages, and retention leaves it alone.
pub fn is_parked(queue: QueueKey) -> bool {
    is_timers(queue) || is_halves(queue)
}
