//! Recovers a shard from a disk and compares it with what clients were told.

use crate::workload::{Fact, options};
use gantry_broker::draft;
use gantry_broker::recover::{Recovered, recover};
use gantry_broker::shard::state::cursor::Found;
use gantry_model::handle::RecallHandle;
use gantry_model::{GroupId, LeaseId, QueueId, QueueKey, TopicId};
use gantry_platform::disk::SharedDisk;
use gantry_platform::disk::memory::MemoryDisk;
use gantry_store::frame::{Frame, Kind};
use gantry_store::index::{Due, KeyKind, key_hash};
use gantry_store::record::MessageView;
use std::collections::BTreeMap;
use std::sync::Arc;

const TOPIC: TopicId = TopicId(1);
const DEAD: TopicId = TopicId(2);
const GROUP: GroupId = GroupId(1);

/// Checks one crash state. Answers whether a tail was cut off.
pub fn recovered<'a>(disk: MemoryDisk, told: impl Iterator<Item = &'a Fact>) -> Result<bool, String> {
    let disk: SharedDisk = Arc::new(disk);
    let refused = |error| format!("the shard does not open: {error}");
    let mut shard = recover(&options(disk.clone())).map_err(refused)?;
    shard.apply_all().map_err(refused)?;
    let reader = shard.log.reader();
    for (queue, bounds) in shard.applied.state.queues() {
        for offset in bounds.min..bounds.next {
            let entry = shard.applied.index.lookup(queue, gantry_model::Offset(offset)).ok().flatten();
            let entry = entry.ok_or_else(|| format!("queue {queue:?} has a hole at {offset} (it holds {bounds:?})"))?;
            reader.frame(entry.position).map_err(|error| format!("queue {queue:?} offset {offset}: {error}"))?;
        }
    }
    let (mut dead, mut delayed, mut recalled) = (0, BTreeMap::new(), BTreeMap::new());
    for fact in told {
        match fact {
            Fact::Sent { queue, offset, id, body } => {
                let key = QueueKey::new(TOPIC, *queue);
                if offset.0 < shard.applied.state.bounds(key).min {
                    continue;
                }
                let entry = shard
                    .applied
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
                let cursor = shard.applied.state.cursor(GROUP, key).ok_or("a position is gone")?;
                if cursor.find(offset.0, LeaseId(u64::MAX)) != Found::Finished {
                    return Err(format!("{key:?} {offset} was finished and would be delivered again"));
                }
            }
            Fact::Dead => dead += 1,
            Fact::Delayed { handle, body } => {
                delayed.insert(handle.message_id.as_str(), (handle, body));
            }
            Fact::Recalling { message_id } => drop(recalled.insert(message_id.as_str(), false)),
            Fact::Recalled { message_id } => drop(recalled.insert(message_id.as_str(), true)),
        }
    }
    let letters = shard.applied.state.bounds(QueueKey::new(DEAD, QueueId(0))).next;
    if letters < dead {
        return Err(format!("{dead} dead letters were acknowledged, {letters} are there"));
    }
    for (id, (handle, body)) in delayed {
        check_delayed(&shard, handle, body, recalled.get(id).copied()).map_err(|why| format!("delayed message {id}: {why}"))?;
    }
    shard.applied.state.cursors().for_each(|(_, _, cursor)| cursor.check());
    Ok(shard.log.end().0 > 0 && shard.torn)
}

/// A delayed message waits or was released, never both and never neither; one that was taken back (`Some(true)`) does neither.
fn check_delayed(shard: &Recovered, handle: &RecallHandle, body: &[u8], recalled: Option<bool>) -> Result<(), String> {
    let reader = shard.log.reader();
    let hash = key_hash(TOPIC, KeyKind::MessageId, handle.message_id.as_bytes());
    let mut places = 0;
    for position in shard.applied.index.by_key(hash, usize::MAX).map_err(|error| error.to_string())? {
        let frame = reader.frame(position).map_err(|error| error.to_string())?;
        let due = Due { time: handle.deliver_ms, position };
        let timers = shard.applied.index.timers(Due::default(), u64::MAX, usize::MAX).map_err(|error| error.to_string())?;
        let waits = timers.iter().any(|timer| timer.due == due) && shard.applied.state.timers.waits(due);
        if waits || frame.header.kind == Kind::Release {
            places += 1;
            check_body(&frame, handle, body)?;
        }
    }
    // The size bound may have taken a message that was released.
    let trimmed = shard.log.start().0 > 0 && handle.deliver_ms <= shard.last_time;
    match (recalled, places) {
        (Some(true), 0) | (None, 1) | (Some(false), 0 | 1) => Ok(()),
        (None, 0) if trimmed => Ok(()),
        _ => Err(format!("it has {places} places (taken back: {recalled:?})")),
    }
}

fn check_body(frame: &Frame, handle: &RecallHandle, body: &[u8]) -> Result<(), String> {
    let message = MessageView::parse(&draft::message_of(frame)).and_then(|view| view.message()).ok_or("no message in the frame")?;
    if message.id != handle.message_id || message.body != body || message.deliver_ms != Some(handle.deliver_ms) {
        return Err("another message than the one that was acknowledged".into());
    }
    Ok(())
}
