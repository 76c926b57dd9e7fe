//! The state as bytes, for checkpoints. `docs/design/003-records.md` draws them; the version byte comes first and an unknown one is refused, so
//! that the state is computed from the log again.

use super::cursor::{Cursor, Lease, Waiting};
use super::ended;
use super::lite::{self, Lites, Slice};
use super::offsets::Mode;
use super::ranges::Ranges;
use super::seen::{Chunk, Seen, decode_chunk, encode_chunk};
use super::timers::{self, Timers};
use super::transactions;
use super::{BUCKETS, Bounds, Bucket, Head, State};
use crate::codec::{Reader, Writer};
use crate::record::Member;
use gantry_model::{ClientId, GroupId, LeaseId, QueueKey, TopicId};
use std::sync::Arc;

const VERSION: u8 = 4;

/// Numbers of the parts of a checkpoint: the buckets come first, and the index's slots stand between them and the rest.
pub const SLOTS: u16 = BUCKETS as u16;
pub const HEAD: u16 = SLOTS + 1;
/// The log's epochs, which stand beside the state.
pub const EPOCHS: u16 = SLOTS + 2;
pub const TIMERS: u16 = SLOTS + 3;
/// Open transactions.
pub const TRANSACTIONS: u16 = SLOTS + 16;
/// Transactions that ended, in chunks.
pub const ENDED: u16 = SLOTS + 128;
const ENDED_LAST: u16 = ENDED + ended::CHUNK_NUMBERS as u16 - 1;
pub const LITE: u16 = SLOTS + 64;
const LITE_LAST: u16 = LITE + lite::SLICES - 1;
pub const SEEN: u16 = SLOTS + 256;

/// A part of the state as it was at one moment.
#[derive(Clone, Debug)]
pub enum Part {
    Head(Box<Head>, (u64, u64)),
    Bucket(Arc<Bucket>),
    Seen(Arc<Chunk>),
    Timers(Arc<Timers>),
    Transactions(transactions::Frozen),
    Ended(Arc<ended::Chunk>),
    Lite(Arc<Slice>),
}

impl Part {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Part::Head(head, seen) => encode_head(head, *seen),
            Part::Bucket(bucket) => encode_bucket(bucket),
            Part::Seen(chunk) => encode_chunk(chunk),
            Part::Timers(timers) => encode_timers(timers),
            Part::Transactions(open) => encode_transactions(open),
            Part::Ended(chunk) => [&[VERSION], &ended::encode_chunk(chunk)[..]].concat(),
            Part::Lite(slice) => encode_lite(slice),
        }
    }
}

/// The state that these parts are; `None` if one of them is missing or not readable by this version.
pub fn restore<B: AsRef<[u8]>>(parts: impl IntoIterator<Item = (u16, B)>) -> Option<State> {
    let (mut head, mut buckets, mut chunks, mut timers) = (None, Vec::new(), Vec::new(), Timers::default());
    let (mut open, mut ends) = (None, Vec::new());
    let mut slices = Vec::new();
    for (number, bytes) in parts {
        match number {
            HEAD => head = Some(decode_head(bytes.as_ref())?),
            bucket if bucket < SLOTS => buckets.push((number, decode_bucket(bytes.as_ref())?)),
            TIMERS => timers = timers::decode(&mut versioned(bytes.as_ref())?)?,
            TRANSACTIONS => open = Some(decode_transactions(bytes.as_ref())?),
            ENDED..=ENDED_LAST => ends.push((number - ENDED, ended::decode_chunk(versioned(bytes.as_ref())?.0)?)),
            LITE..=LITE_LAST => slices.push((number - LITE, lite::decode_slice(&mut versioned(bytes.as_ref())?)?)),
            SEEN.. => chunks.push((number - SEEN, decode_chunk(bytes.as_ref())?)),
            _ => return None,
        }
    }
    let (head, span) = head?;
    // A checkpoint from before there were transactions has none.
    let transactions = open.unwrap_or_default().thaw(ends)?;
    Some(State::assemble(head, Seen::restore(span, chunks)?, timers, transactions, Lites::restore(slices), buckets))
}

fn encode_head(head: &Head, seen: (u64, u64)) -> Vec<u8> {
    let mut out = Writer(vec![VERSION]);
    out.varints([seen.0, seen.1]);
    out.varint(u64::from(head.epoch));
    for number in [head.last_lease, head.messages, head.delivered, head.acked, head.dead_letters, head.expired_unfinished] {
        out.varint(number);
    }
    out.varints([u64::from(head.last_member), head.members.len() as u64]);
    for member in head.members.values() {
        out.varints([u64::from(member.id.0), u64::from(member.group.0), member.joined_ms]);
        out.text(&member.name);
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

fn decode_head(bytes: &[u8]) -> Option<(Head, (u64, u64))> {
    let mut input = versioned(bytes)?;
    let seen = (input.varint()?, input.varint()?);
    let mut head = Head { epoch: input.varint32()?, ..Head::default() };
    for field in
        [&mut head.last_lease, &mut head.messages, &mut head.delivered, &mut head.acked, &mut head.dead_letters, &mut head.expired_unfinished]
    {
        *field = input.varint()?;
    }
    head.last_member = input.varint32()?;
    for _ in 0..input.varint()? {
        let (id, group, joined_ms) = (GroupId(input.varint32()?), GroupId(input.varint32()?), input.varint()?);
        head.members.insert(id, Member { id, group, name: input.text()?.to_owned(), joined_ms });
    }
    for _ in 0..input.varint()? {
        let key = (GroupId(input.varint32()?), TopicId(input.varint32()?), ClientId::new(input.text()?), input.text()?.to_owned());
        let mut given = Vec::new();
        for _ in 0..input.varint()? {
            given.push((QueueKey(input.varint()?), input.varint()?, LeaseId(input.varint()?)));
        }
        head.attempts.insert(key, given);
    }
    input.is_empty().then_some((head, seen))
}

fn encode_timers(pending: &Timers) -> Vec<u8> {
    let mut out = Writer(vec![VERSION]);
    timers::encode(pending, &mut out);
    out.0
}

fn encode_bucket(bucket: &Bucket) -> Vec<u8> {
    let mut out = Writer(vec![VERSION]);
    out.varint(bucket.queues.len() as u64);
    for (queue, bounds) in &bucket.queues {
        out.varints([queue.0, bounds.min, bounds.next, bounds.bytes]);
    }
    out.varint(bucket.cursors.len() as u64);
    for ((queue, group), cursor) in &bucket.cursors {
        out.varints([queue.0, u64::from(group.0)]);
        encode_cursor(&mut out, cursor);
    }
    out.varint(bucket.modes.len() as u64);
    for ((queue, group), mode) in &bucket.modes {
        // Zero is undecided, so an offset stands one higher.
        let number = match mode {
            Mode::Undecided => 0,
            Mode::Pulls(offset) => offset + 1,
        };
        out.varints([queue.0, u64::from(group.0), number]);
    }
    out.varint(bucket.gone.len() as u64);
    for (queue, gone) in &bucket.gone {
        out.varint(queue.0);
        encode_ranges(&mut out, gone);
    }
    out.0
}

fn encode_ranges(out: &mut Writer, ranges: &Ranges) {
    out.varint(ranges.iter().count() as u64);
    ranges.iter().for_each(|(start, end)| out.varints([start, end]));
}

fn decode_ranges(input: &mut Reader<'_>) -> Option<Ranges> {
    let mut ranges = Ranges::default();
    for _ in 0..input.varint()? {
        let (start, end) = (input.varint()?, input.varint()?);
        ranges.insert(start, end);
    }
    Some(ranges)
}

fn encode_cursor(out: &mut Writer, cursor: &Cursor) {
    out.varints([cursor.base, cursor.next, u64::from(cursor.reset)]);
    encode_ranges(out, &cursor.done);
    out.varint(cursor.leases.len() as u64);
    for (offset, lease) in &cursor.leases {
        out.varints([*offset, lease.id.0, u64::from(lease.attempt), lease.deadline, u64::from(lease.lane)]);
        // An owner is never empty, so an empty text says that there is none.
        out.text(lease.owner.as_ref().map_or("", ClientId::as_str));
    }
    out.varint(cursor.waiting.len() as u64);
    for (offset, waiting) in &cursor.waiting {
        out.varints([*offset, waiting.visible, u64::from(waiting.attempts), waiting.last.0, u64::from(waiting.lane)]);
    }
    out.varint(cursor.passed.len() as u64);
    for (offset, lane) in &cursor.passed {
        out.varints([*offset, u64::from(*lane)]);
    }
}

fn decode_bucket(bytes: &[u8]) -> Option<Bucket> {
    let mut input = versioned(bytes)?;
    let mut bucket = Bucket::default();
    for _ in 0..input.varint()? {
        let queue = QueueKey(input.varint()?);
        bucket.queues.insert(queue, Bounds { min: input.varint()?, next: input.varint()?, bytes: input.varint()? });
    }
    for _ in 0..input.varint()? {
        let key = (QueueKey(input.varint()?), GroupId(input.varint32()?));
        bucket.cursors.insert(key, Box::new(decode_cursor(&mut input)?));
    }
    for _ in 0..input.varint()? {
        let key = (QueueKey(input.varint()?), GroupId(input.varint32()?));
        let mode = input.varint()?.checked_sub(1).map_or(Mode::Undecided, Mode::Pulls);
        bucket.modes.insert(key, mode);
    }
    for _ in 0..input.varint()? {
        let queue = QueueKey(input.varint()?);
        bucket.gone.insert(queue, decode_ranges(&mut input)?);
    }
    input.is_empty().then_some(bucket)
}

fn decode_cursor(input: &mut Reader<'_>) -> Option<Cursor> {
    let mut cursor = Cursor::between(input.varint()?, input.varint()?, input.varint32()?);
    cursor.done = decode_ranges(input)?;
    for _ in 0..input.varint()? {
        let (offset, id, attempt, deadline) = (input.varint()?, LeaseId(input.varint()?), input.varint32()?, input.varint()?);
        let lane = input.varint32()?;
        let owner = Some(input.text()?).filter(|owner| !owner.is_empty()).map(ClientId::new);
        cursor.restore(offset, Ok(Lease { id, attempt, deadline, owner, lane }));
    }
    for _ in 0..input.varint()? {
        let offset = input.varint()?;
        let (visible, attempts, last) = (input.varint()?, input.varint32()?, LeaseId(input.varint()?));
        cursor.restore(offset, Err(Waiting { visible, attempts, last, lane: input.varint32()? }));
    }
    for _ in 0..input.varint()? {
        cursor.pass(input.varint()?, input.varint32()?);
    }
    Some(cursor)
}

fn encode_transactions(open: &transactions::Frozen) -> Vec<u8> {
    let mut out = Writer(vec![VERSION]);
    open.encode(&mut out);
    out.0
}

fn decode_transactions(bytes: &[u8]) -> Option<transactions::Frozen> {
    transactions::Frozen::decode(&mut versioned(bytes)?)
}

fn encode_lite(slice: &Slice) -> Vec<u8> {
    let mut out = Writer(vec![VERSION]);
    lite::encode_slice(slice, &mut out);
    out.0
}

fn versioned(bytes: &[u8]) -> Option<Reader<'_>> {
    let (&version, rest) = bytes.split_first()?;
    (version == VERSION).then_some(Reader(rest))
}
