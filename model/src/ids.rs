//! Numbers that must not be mixed up: each has its own type, so that a queue number can't be passed where an offset is meant.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A topic's number, given out by the controller and never used again, so that a topic that is deleted and made anew under the same
    /// name can't meet records of its predecessor.
    TopicId(u32)
);
number!(
    /// A consumer group's number, given out by the controller and never used again.
    GroupId(u32)
);
number!(
    /// A queue's number within its topic, `0..n` over the whole topic.
    QueueId(u32)
);
number!(
    /// A position in a queue: the first message has offset 0.
    Offset(u64)
);
number!(
    /// A byte address in the CommitLog of one shard.
    Lsn(u64)
);
number!(
    /// The reign of one leader of a shard; grows with each change of leader.
    Epoch(u32)
);
number!(
    /// One CommitLog and all that lives in it.
    ShardId(u32)
);
number!(
    /// One grant of messages to a consumer; grows within a shard.
    LeaseId(u64)
);

number!(
    /// One process of the cluster, given its number by the controller when it joins. A node that lost its disk is another node.
    NodeId(u64)
);

impl From<u64> for NodeId {
    fn from(number: u64) -> NodeId {
        NodeId(number)
    }
}

impl GroupId {
    /// Numbers above belong to the members of broadcasting groups; shards give them out for themselves.
    pub const MEMBERS: u32 = 1 << 31;

    pub fn is_member(self) -> bool {
        self.0 > GroupId::MEMBERS
    }
}

impl Offset {
    /// The position after this one.
    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }
}

/// A queue as the log and its index know it: topic, queue number and priority lane in one integer that sorts by topic first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct QueueKey(pub u64);

impl QueueKey {
    /// The largest queue number that fits: 24 bits.
    pub const MAX_QUEUE: u32 = (1 << 24) - 1;

    /// Lane 0 of a queue. A number that no queue can have gives a key that no queue has, so that whoever asks for it finds nothing.
    pub fn new(topic: TopicId, queue: QueueId) -> QueueKey {
        let low = if queue.0 <= QueueKey::MAX_QUEUE { queue.0 << 8 } else { u32::MAX };
        QueueKey(u64::from(topic.0) << 32 | u64::from(low))
    }

    pub fn topic(self) -> TopicId {
        TopicId((self.0 >> 32) as u32)
    }

    pub fn queue(self) -> QueueId {
        QueueId((self.0 as u32) >> 8)
    }

    pub fn lane(self) -> u8 {
        self.0 as u8
    }
}

impl fmt::Debug for QueueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic(), self.queue())
    }
}

/// The identity a client gives itself in the `x-mq-client-id` header: opaque, 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub Arc<str>);

impl ClientId {
    pub fn new(text: &str) -> ClientId {
        ClientId(Arc::from(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_key_gives_back_its_parts_and_sorts_by_topic() {
        let key = QueueKey::new(TopicId(7), QueueId(QueueKey::MAX_QUEUE));
        assert_eq!((key.topic(), key.queue(), key.lane()), (TopicId(7), QueueId(QueueKey::MAX_QUEUE), 0));
        assert!(key < QueueKey::new(TopicId(8), QueueId(0)));
        let beyond = QueueKey::new(TopicId(7), QueueId(QueueKey::MAX_QUEUE + 1));
        assert_eq!((beyond.topic(), beyond == key, beyond.lane()), (TopicId(7), false, u8::MAX));
    }
}
