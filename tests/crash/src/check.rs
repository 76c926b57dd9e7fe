//! Recovers a shard from a disk and compares it with what clients were told.

use crate::workload::{Fact, options};
use gantry_broker::draft;
use gantry_broker::open::recover;
use gantry_broker::shard::state::cursor::Found;
use gantry_model::{GroupId, LeaseId, QueueId, QueueKey, TopicId};
use gantry_platform::disk::SharedDisk;
use gantry_platform::disk::memory::MemoryDisk;
use gantry_store::record::MessageView;
use std::sync::Arc;

const TOPIC: TopicId = TopicId(1);
const DEAD: TopicId = TopicId(2);
const GROUP: GroupId = GroupId(1);

/// Checks one crash state. Answers whether a tail was cut off.
pub fn recovered<'a>(disk: MemoryDisk, told: impl Iterator<Item = &'a Fact>) -> Result<bool, String> {
    let disk: SharedDisk = Arc::new(disk);
    let shard = recover(&options(disk.clone())).map_err(|error| format!("the shard does not open: {error}"))?;
    let reader = shard.log.reader();
    for (queue, bounds) in shard.state.queues() {
        for offset in bounds.min..bounds.next {
            let entry = shard.index.lookup(queue, gantry_model::Offset(offset)).ok().flatten();
            let entry = entry.ok_or_else(|| format!("queue {queue:?} has a hole at {offset} (it holds {bounds:?})"))?;
            reader.frame(entry.position).map_err(|error| format!("queue {queue:?} offset {offset}: {error}"))?;
        }
    }
    let mut dead = 0;
    for fact in told {
        match fact {
            Fact::Sent { queue, offset, id, body } => {
                let key = QueueKey::new(TOPIC, *queue);
                if offset.0 < shard.state.bounds(key).min {
                    continue;
                }
                let entry = shard
                    .index
                    .lookup(key, *offset)
                    .ok()
                    .flatten()
                    .ok_or_else(|| format!("an acknowledged message is gone: {key:?} {offset} {id}"))?;
                let frame = reader.frame(entry.position).map_err(|error| error.to_string())?;
                let view = MessageView::parse(&draft::message_of(&frame)).ok_or("no message in the frame")?;
                let message = view.message().ok_or("no text in the message")?;
                if message.id != *id || message.body != *body {
                    return Err(format!("{key:?} {offset} holds another message than the one that was acknowledged"));
                }
            }
            Fact::Acked { queue, offset } => {
                let key = QueueKey::new(TOPIC, *queue);
                let cursor = shard.state.cursor(GROUP, key).ok_or("a position is gone")?;
                if cursor.find(offset.0, LeaseId(u64::MAX)) != Found::Finished {
                    return Err(format!("{key:?} {offset} was finished and would be delivered again"));
                }
            }
            Fact::Dead => dead += 1,
        }
    }
    let letters = shard.state.bounds(QueueKey::new(DEAD, QueueId(0))).next;
    if letters < dead {
        return Err(format!("{dead} dead letters were acknowledged, {letters} are there"));
    }
    shard.state.cursors().for_each(|(_, _, cursor)| cursor.check());
    Ok(shard.log.end().0 > 0 && shard.torn)
}
