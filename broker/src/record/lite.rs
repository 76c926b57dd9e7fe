//! Lite topics: how they begin and end, who subscribes them, and where a group begins on one.

use crate::codec::{Reader, Writer};
use gantry_model::{ClientId, GroupId, Offset, QueueId, QueueKey, TopicId};

/// A lite topic begins. It is a queue of its parent, with a number that the shard gave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteCreate {
    pub queue: QueueKey,
    /// Offset of its first message: above all of an older lite topic that had the number.
    pub start: Offset,
    pub time: u64,
    pub name: String,
}

/// Lite topics end, with all that is known of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteDrop {
    pub queues: Vec<QueueKey>,
}

/// What clients of one group subscribe of one parent has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteSync {
    pub topic: TopicId,
    pub group: GroupId,
    pub clients: Vec<LiteSubscriber>,
}

/// The change for one client. Numbers ascend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteSubscriber {
    pub client: ClientId,
    pub added: Vec<QueueId>,
    /// Taken out, or no longer remembered as lost.
    pub removed: Vec<QueueId>,
    /// Taken by a newer subscriber; this client doesn't get them back until it has stopped asking for them.
    pub lost: Vec<QueueId>,
}

/// A group begins on queues, or begins again there: what it held of them is void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    pub group: GroupId,
    pub queues: Vec<(QueueKey, Offset)>,
}

impl LiteCreate {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u64(self.queue.0);
        out.varints([self.start.0, self.time]);
        out.text(&self.name);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<LiteCreate> {
        let queue = QueueKey(input.u64()?);
        Some(LiteCreate { queue, start: Offset(input.varint()?), time: input.varint()?, name: input.text()?.to_owned() })
    }
}

impl LiteDrop {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.ascending(self.queues.iter().map(|queue| queue.0));
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<LiteDrop> {
        Some(LiteDrop { queues: input.ascending()?.into_iter().map(QueueKey).collect() })
    }
}

impl LiteSync {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.topic.0);
        out.u32(self.group.0);
        out.varint(self.clients.len() as u64);
        for LiteSubscriber { client, added, removed, lost } in &self.clients {
            out.text(client.as_str());
            for numbers in [added, removed, lost] {
                out.ascending(numbers.iter().map(|id| u64::from(id.0)));
            }
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<LiteSync> {
        let (topic, group) = (TopicId(input.u32()?), GroupId(input.u32()?));
        let mut clients = Vec::new();
        for _ in 0..input.varint()? {
            let client = ClientId::new(input.text()?);
            clients.push(LiteSubscriber { client, added: numbers(input)?, removed: numbers(input)?, lost: numbers(input)? });
        }
        Some(LiteSync { topic, group, clients })
    }
}

fn numbers(input: &mut Reader<'_>) -> Option<Vec<QueueId>> {
    let legal = |number: u64| u32::try_from(number).ok().filter(|number| *number <= QueueKey::MAX_QUEUE).map(QueueId);
    input.ascending()?.into_iter().map(legal).collect()
}

impl Begin {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.group.0);
        out.varint(self.queues.len() as u64);
        for (queue, start) in &self.queues {
            out.u64(queue.0);
            out.varint(start.0);
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Begin> {
        let group = GroupId(input.u32()?);
        let mut queues = Vec::new();
        for _ in 0..input.varint()? {
            queues.push((QueueKey(input.u64()?), Offset(input.varint()?)));
        }
        Some(Begin { group, queues })
    }
}
