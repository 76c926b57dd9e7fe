//! Transactions that ended lately, so that one that is ended again is answered: how it ended, or that it is too late to end it otherwise.
//!
//! The window is 24 hours or the newest 1,048,576 ends of the shard, whichever is shorter. Ends lie in chunks in the order of the log; a full
//! chunk never changes, so a checkpoint writes only the newest ones. Time is that of the records, so every replica forgets at the same one.
//! Ends of a deleted topic go with time: its number is never used again, so nobody asks for them.

use crate::codec::{Reader, Writer};
use crate::record::transaction::resolution;
use gantry_model::TopicId;
use gantry_model::contract::broker::Resolution;
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::sync::Arc;

/// How long an end is remembered.
pub const WINDOW_MS: u64 = 24 * 3600 * 1000;
/// Ends remembered at the same time.
pub const MOST: u64 = 1 << 20;
const CHUNK: u64 = 32_768;
/// Chunks have numbers that repeat after twice the window, so that no two live ones share one.
pub const CHUNK_NUMBERS: u64 = 2 * MOST / CHUNK;

/// One transaction that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub topic: TopicId,
    pub id: u64,
    pub resolution: Resolution,
    pub time: u64,
}

/// Rows that follow each other in the log.
pub type Chunk = Vec<Row>;

/// The ends of the window.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// Number of the oldest row that counts; rows are counted from the first end ever.
    first: u64,
    next: u64,
    /// The chunk of `first` comes first.
    chunks: VecDeque<Arc<Chunk>>,
    /// Row numbers by transaction, cut to 32 bits: the window is far smaller.
    rows: HashTable<u32>,
    /// First chunk that changed since the last checkpoint.
    dirty: u64,
}

impl PartialEq for Ended {
    fn eq(&self, other: &Ended) -> bool {
        (self.first, self.next) == (other.first, other.next) && self.live().eq(other.live())
    }
}

impl Ended {
    /// How a transaction ended, if that was within the window before `now`.
    pub fn find(&self, topic: TopicId, id: u64, now: u64) -> Option<Resolution> {
        let number = self.rows.find(hash(topic, id), |&number| self.row(number).is_some_and(|row| (row.topic, row.id) == (topic, id)))?;
        self.row(*number).filter(|row| row.time + WINDOW_MS > now).map(|row| row.resolution)
    }

    /// A transaction ended, which none does twice.
    pub fn remember(&mut self, mut row: Row) {
        // Times are stored as distances.
        row.time = row.time.max(self.newest_time());
        if self.next.is_multiple_of(CHUNK) || self.chunks.is_empty() {
            self.chunks.push_back(Arc::new(Chunk::new()));
        }
        let newest = self.chunks.back_mut().expect("there is a chunk to write to");
        Arc::make_mut(newest).push(row);
        self.index(self.next as u32, &row);
        self.next += 1;
        self.forget_before(row.time);
    }

    fn newest_time(&self) -> u64 {
        self.chunks.back().and_then(|chunk| chunk.last()).map_or(0, |row| row.time)
    }

    fn index(&mut self, number: u32, row: &Row) {
        let (chunks, first) = (&self.chunks, self.first);
        self.rows.insert_unique(hash(row.topic, row.id), number, |&number| row_of(chunks, first, number).map_or(0, |row| hash(row.topic, row.id)));
    }

    /// How many ends are remembered.
    pub fn len(&self) -> u64 {
        self.next - self.first
    }

    pub fn is_empty(&self) -> bool {
        self.first == self.next
    }

    fn forget_before(&mut self, now: u64) {
        while let Some(&oldest) = self.row(self.first as u32) {
            if oldest.time + WINDOW_MS > now && self.len() <= MOST {
                return;
            }
            let number = self.first as u32;
            if let Ok(entry) = self.rows.find_entry(hash(oldest.topic, oldest.id), |&known| known == number) {
                entry.remove();
            }
            self.first += 1;
            if self.first.is_multiple_of(CHUNK) {
                self.chunks.pop_front();
            }
        }
    }

    fn row(&self, number: u32) -> Option<&Row> {
        row_of(&self.chunks, self.first, number)
    }

    fn live(&self) -> impl Iterator<Item = &Row> {
        (self.first..self.next).filter_map(|number| self.row(number as u32))
    }

    /// The chunks by their numbers, `None` for those that did not change since the last time.
    pub fn freeze(&mut self) -> Vec<(u16, Option<Arc<Chunk>>)> {
        let frozen = self.chunks.iter().zip(self.first / CHUNK..).map(|(chunk, at)| {
            let changed = at >= self.dirty;
            ((at % CHUNK_NUMBERS) as u16, changed.then(|| chunk.clone()))
        });
        let frozen = frozen.collect();
        self.dirty = self.next / CHUNK;
        frozen
    }

    /// Counts everything as changed, after a checkpoint failed.
    pub fn touch_all(&mut self) {
        self.dirty = 0;
    }

    /// The first and the next row, which a checkpoint keeps beside the chunks.
    pub fn span(&self) -> (u64, u64) {
        (self.first, self.next)
    }

    /// Puts back what a checkpoint kept; `None` if its chunks don't add up to the span.
    pub fn restore((first, next): (u64, u64), mut chunks: Vec<(u16, Chunk)>) -> Option<Ended> {
        let mut ended = Ended { first, next, dirty: next / CHUNK, ..Ended::default() };
        if first == next {
            return Some(ended);
        }
        for at in first / CHUNK..=next.checked_sub(1)? / CHUNK {
            let place = chunks.iter().position(|(number, _)| u64::from(*number) == at % CHUNK_NUMBERS)?;
            let chunk = chunks.swap_remove(place).1;
            let whole = if (at + 1) * CHUNK <= next { CHUNK } else { next % CHUNK };
            if chunk.len() as u64 != whole {
                return None;
            }
            ended.chunks.push_back(Arc::new(chunk));
        }
        for number in first..next {
            let row = *ended.row(number as u32)?;
            ended.index(number as u32, &row);
        }
        Some(ended)
    }
}

/// Spreads topic and number over 64 bits; the multiplier is 2^64 divided by the golden ratio.
fn hash(topic: TopicId, id: u64) -> u64 {
    let mixed = (id ^ u64::from(topic.0) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ mixed >> 32
}

fn row_of(chunks: &VecDeque<Arc<Chunk>>, first: u64, number: u32) -> Option<&Row> {
    // The distance to the first row undoes the cut to 32 bits.
    let number = first + u64::from(number.wrapping_sub(first as u32));
    let chunk = chunks.get((number / CHUNK - first / CHUNK) as usize)?;
    chunk.get((number % CHUNK) as usize)
}

/// Writes one chunk.
pub fn encode_chunk(chunk: &Chunk) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(chunk.len() * 12));
    out.varint(chunk.len() as u64);
    let mut time = 0;
    for row in chunk {
        out.varints([u64::from(row.topic.0), row.id, row.time - time]);
        out.u8(row.resolution as u8);
        time = row.time;
    }
    out.0
}

/// Reads one chunk; `None` if the bytes are not one.
pub fn decode_chunk(bytes: &[u8]) -> Option<Chunk> {
    let mut input = Reader(bytes);
    let mut chunk = Chunk::new();
    let mut time = 0u64;
    for _ in 0..input.varint()? {
        let (topic, id) = (TopicId(input.varint32()?), input.varint()?);
        time = time.checked_add(input.varint()?)?;
        chunk.push(Row { topic, id, resolution: resolution(input.u8()?)?, time });
    }
    input.is_empty().then_some(chunk)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn row(id: u64, time: u64) -> Row {
        let resolution = if id.is_multiple_of(2) { Resolution::Commit } else { Resolution::Rollback };
        Row { topic: TopicId((id % 3) as u32), id, resolution, time }
    }

    fn found(ended: &Ended, id: u64, now: u64) -> Option<Resolution> {
        ended.find(TopicId((id % 3) as u32), id, now)
    }

    fn copy_of(ended: &mut Ended) -> Ended {
        ended.touch_all();
        let chunks = ended.freeze().into_iter().map(|(number, chunk)| (number, decode_chunk(&encode_chunk(&chunk.unwrap())).unwrap()));
        Ended::restore(ended.span(), chunks.collect()).unwrap()
    }

    #[test]
    fn an_end_is_known_for_a_day_and_only_for_its_topic() {
        let mut ended = Ended::default();
        ended.remember(row(7, 1_000));
        assert_eq!(found(&ended, 7, 1_000 + WINDOW_MS - 1), Some(Resolution::Rollback));
        assert_eq!(found(&ended, 7, 1_000 + WINDOW_MS), None);
        assert_eq!(ended.find(TopicId(2), 7, 1_000), None);
        ended.remember(row(8, 1_000 + WINDOW_MS));
        assert_eq!(ended.len(), 1, "the old one is forgotten");
    }

    #[test]
    fn only_the_newest_million_is_known_and_full_chunks_are_written_once() {
        let mut ended = Ended::default();
        for id in 0..MOST + 5 {
            ended.remember(row(id, 1));
        }
        assert_eq!(ended.len(), MOST);
        assert_eq!([4, 5].map(|id| found(&ended, id, 1)), [None, Some(Resolution::Rollback)]);
        let copy = copy_of(&mut ended);
        assert_eq!(copy, ended);
        assert_eq!(found(&copy, MOST, 1), Some(Resolution::Commit));
        ended.remember(row(MOST + 5, 1));
        let written = ended.freeze().iter().filter(|(_, chunk)| chunk.is_some()).count();
        assert_eq!(written, 1, "the newest chunk only");
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_list_and_survives_a_checkpoint(pauses in prop::collection::vec(0u64..WINDOW_MS / 20, 1..100)) {
            let mut ended = Ended::default();
            let mut list = Vec::new();
            let mut now = 0;
            for (id, pause) in pauses.into_iter().enumerate() {
                now += pause;
                list.push(row(id as u64, now));
                ended.remember(row(id as u64, now));
            }
            let copy = copy_of(&mut ended);
            for row in list {
                let expected = (row.time + WINDOW_MS > now).then_some(row.resolution);
                prop_assert_eq!(found(&ended, row.id, now), expected);
                prop_assert_eq!(found(&copy, row.id, now), expected);
            }
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode_chunk(&bytes);
        }
    }
}
