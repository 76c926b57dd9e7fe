//! The state as bytes, for checkpoints. `docs/design/003-records.md` draws them; the version byte comes first and an unknown one is refused, so
//! that the state is computed from the log again.

use super::cursor::{Cursor, Lease, Waiting};
use super::{Bounds, Bucket, Head};
use crate::codec::{Reader, Writer};
use gantry_model::{ClientId, GroupId, LeaseId, QueueKey, TopicId};
use std::sync::Arc;

const VERSION: u8 = 1;

/// Writes the head.
pub fn encode_head(head: &Head) -> Vec<u8> {
    let mut out = Writer(vec![VERSION]);
    out.varint(u64::from(head.epoch));
    for number in [head.last_lease, head.messages, head.delivered, head.acked, head.dead_letters, head.expired_unfinished] {
        out.varint(number);
    }
    out.varint(head.attempts.len() as u64);
    for ((group, topic, client, attempt), given) in &head.attempts {
        out.varint(u64::from(group.0));
        out.varint(u64::from(topic.0));
        out.text(client.as_str());
        out.text(attempt);
        out.varint(given.len() as u64);
        for (queue, offset, lease) in given {
            out.varints([queue.0, *offset, lease.0]);
        }
    }
    out.0
}

/// Reads the head; `None` if the bytes are not a head of this version.
pub fn decode_head(bytes: &[u8]) -> Option<Head> {
    let mut input = versioned(bytes)?;
    let mut head = Head { epoch: input.varint32()?, ..Head::default() };
    for field in
        [&mut head.last_lease, &mut head.messages, &mut head.delivered, &mut head.acked, &mut head.dead_letters, &mut head.expired_unfinished]
    {
        *field = input.varint()?;
    }
    for _ in 0..input.varint()? {
        let key = (GroupId(input.varint32()?), TopicId(input.varint32()?), ClientId::new(input.text()?), input.text()?.to_owned());
        let mut given = Vec::new();
        for _ in 0..input.varint()? {
            given.push((QueueKey(input.varint()?), input.varint()?, LeaseId(input.varint()?)));
        }
        head.attempts.insert(key, given);
    }
    input.is_empty().then_some(head)
}

/// Writes one bucket.
pub fn encode_bucket(bucket: &Arc<Bucket>) -> Vec<u8> {
    let mut out = Writer(vec![VERSION]);
    out.varint(bucket.queues.len() as u64);
    for (queue, bounds) in &bucket.queues {
        out.varints([queue.0, bounds.min, bounds.next]);
    }
    out.varint(bucket.cursors.len() as u64);
    for ((queue, group), cursor) in &bucket.cursors {
        out.varints([queue.0, u64::from(group.0)]);
        encode_cursor(&mut out, cursor);
    }
    out.0
}

fn encode_cursor(out: &mut Writer, cursor: &Cursor) {
    out.varints([cursor.base, cursor.next, u64::from(cursor.reset), cursor.done.iter().count() as u64]);
    cursor.done.iter().for_each(|(start, end)| out.varints([start, end]));
    out.varint(cursor.leases.len() as u64);
    for (offset, lease) in &cursor.leases {
        out.varints([*offset, lease.id.0, u64::from(lease.attempt), lease.deadline]);
        // An owner is never empty, so an empty text says that there is none.
        out.text(lease.owner.as_ref().map_or("", ClientId::as_str));
    }
    out.varint(cursor.waiting.len() as u64);
    for (offset, waiting) in &cursor.waiting {
        out.varints([*offset, waiting.visible, u64::from(waiting.attempts), waiting.last.0]);
    }
}

/// Reads one bucket; `None` if the bytes are not a bucket of this version.
pub fn decode_bucket(bytes: &[u8]) -> Option<Bucket> {
    let mut input = versioned(bytes)?;
    let mut bucket = Bucket::default();
    for _ in 0..input.varint()? {
        let queue = QueueKey(input.varint()?);
        bucket.queues.insert(queue, Bounds { min: input.varint()?, next: input.varint()? });
    }
    for _ in 0..input.varint()? {
        let key = (QueueKey(input.varint()?), GroupId(input.varint32()?));
        bucket.cursors.insert(key, decode_cursor(&mut input)?);
    }
    input.is_empty().then_some(bucket)
}

fn decode_cursor(input: &mut Reader<'_>) -> Option<Cursor> {
    let mut cursor = Cursor::between(input.varint()?, input.varint()?, input.varint32()?);
    for _ in 0..input.varint()? {
        let (start, end) = (input.varint()?, input.varint()?);
        cursor.done.insert(start, end);
    }
    for _ in 0..input.varint()? {
        let (offset, id, attempt, deadline) = (input.varint()?, LeaseId(input.varint()?), input.varint32()?, input.varint()?);
        let owner = Some(input.text()?).filter(|owner| !owner.is_empty()).map(ClientId::new);
        cursor.restore(offset, Ok(Lease { id, attempt, deadline, owner }));
    }
    for _ in 0..input.varint()? {
        let offset = input.varint()?;
        let waiting = Waiting { visible: input.varint()?, attempts: input.varint32()?, last: LeaseId(input.varint()?) };
        cursor.restore(offset, Err(waiting));
    }
    Some(cursor)
}

fn versioned(bytes: &[u8]) -> Option<Reader<'_>> {
    let (&version, rest) = bytes.split_first()?;
    (version == VERSION).then_some(Reader(rest))
}
