//! Message ids of the last minutes, so that a send that is repeated is answered and not stored again.
//!
//! The window is ten minutes or the newest 1,048,576 ids of the shard, whichever is shorter. Ids lie in chunks of 8,192 in the order of the
//! log; a full chunk never changes, so a checkpoint writes only the newest ones. An id is a 128-bit hash of topic and text: two ids of one
//! window share one with a probability below 10^-26. Time is that of the frames, so every replica forgets at the same frame.

use crate::codec::{Reader, Writer};
use gantry_model::QueueKey;
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::sync::Arc;

/// How long an id is remembered.
pub const WINDOW_MS: u64 = 10 * 60 * 1000;
/// Ids remembered at the same time.
pub const MOST: u64 = 1 << 20;
const CHUNK: u64 = 8_192;
/// Chunks have numbers that repeat after twice the window, so that no two live ones share one.
pub const CHUNK_NUMBERS: u64 = 2 * MOST / CHUNK;

/// Where a message with some id went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: u128,
    pub queue: QueueKey,
    pub offset: u64,
    pub time: u64,
}

/// Rows that follow each other in the log.
pub type Chunk = Vec<Row>;

/// The ids of the window.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Number of the oldest row that counts; rows are counted from the first message ever.
    first: u64,
    next: u64,
    /// The chunk of `first` comes first.
    chunks: VecDeque<Arc<Chunk>>,
    /// Row numbers by id, cut to 32 bits: the window is far smaller.
    rows: HashTable<u32>,
    /// First chunk that changed since the last checkpoint.
    dirty: u64,
}

impl PartialEq for Seen {
    fn eq(&self, other: &Seen) -> bool {
        (self.first, self.next) == (other.first, other.next) && self.live().eq(other.live())
    }
}

impl Seen {
    /// Where the message with this id is, if it was stored within the window before `now`.
    pub fn find(&self, id: u128, now: u64) -> Option<Row> {
        let number = *self.rows.find(id as u64, |&number| self.row(number).is_some_and(|row| row.id == id))?;
        self.row(number).filter(|row| row.time + WINDOW_MS > now).copied()
    }

    /// A message was stored. The newest counts if an id comes twice.
    pub fn remember(&mut self, row: Row) {
        if let Ok(old) = self.rows.find_entry(row.id as u64, |&number| {
            let known = row_of(&self.chunks, self.first, number);
            known.is_some_and(|known| known.id == row.id)
        }) {
            old.remove();
        }
        if self.next.is_multiple_of(CHUNK) || self.chunks.is_empty() {
            self.chunks.push_back(Arc::new(Chunk::new()));
        }
        let newest = self.chunks.back_mut().expect("there is a chunk to write to");
        Arc::make_mut(newest).push(row);
        let (number, chunks, first) = (self.next as u32, &self.chunks, self.first);
        self.next += 1;
        self.rows.insert_unique(row.id as u64, number, |&number| row_of(chunks, first, number).map_or(0, |row| row.id as u64));
        self.forget_before(row.time);
    }

    /// How many ids are remembered.
    pub fn len(&self) -> u64 {
        self.next - self.first
    }

    pub fn is_empty(&self) -> bool {
        self.first == self.next
    }

    fn forget_before(&mut self, now: u64) {
        while let Some(&oldest) = row_of(&self.chunks, self.first, self.first as u32) {
            if oldest.time + WINDOW_MS > now && self.next - self.first <= MOST {
                return;
            }
            let number = self.first as u32;
            if let Ok(entry) = self.rows.find_entry(oldest.id as u64, |&known| known == number) {
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
        let oldest = self.first / CHUNK;
        let frozen = self.chunks.iter().zip(oldest..).map(|(chunk, at)| {
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

    /// The numbers that go into the head of a checkpoint: the first and the next row.
    pub fn span(&self) -> (u64, u64) {
        (self.first, self.next)
    }

    /// Puts back what a checkpoint kept; `None` if its chunks don't add up to the span.
    pub fn restore((first, next): (u64, u64), mut chunks: Vec<(u16, Chunk)>) -> Option<Seen> {
        let mut seen = Seen { first, next, dirty: next / CHUNK, ..Seen::default() };
        if first == next {
            return Some(seen);
        }
        for at in first / CHUNK..=(next - 1) / CHUNK {
            let place = chunks.iter().position(|(number, _)| u64::from(*number) == at % CHUNK_NUMBERS)?;
            let chunk = chunks.swap_remove(place).1;
            let whole = if (at + 1) * CHUNK <= next { CHUNK } else { next % CHUNK };
            if chunk.len() as u64 != whole {
                return None;
            }
            seen.chunks.push_back(Arc::new(chunk));
        }
        for number in first..next {
            let id = row_of(&seen.chunks, first, number as u32)?.id;
            let (chunks, rows) = (&seen.chunks, &mut seen.rows);
            let hasher = |&number: &u32| row_of(chunks, first, number).map_or(0, |row| row.id as u64);
            if let Ok(old) = rows.find_entry(id as u64, |&known| row_of(chunks, first, known).is_some_and(|row| row.id == id)) {
                old.remove();
            }
            rows.insert_unique(id as u64, number as u32, hasher);
        }
        Some(seen)
    }
}

fn row_of(chunks: &VecDeque<Arc<Chunk>>, first: u64, number: u32) -> Option<&Row> {
    // The distance to the first row undoes the cut to 32 bits.
    let number = first + u64::from(number.wrapping_sub(first as u32));
    let chunk = chunks.get((number / CHUNK - first / CHUNK) as usize)?;
    chunk.get((number % CHUNK) as usize)
}

/// Writes one chunk.
pub fn encode_chunk(chunk: &Chunk) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(chunk.len() * 32));
    out.varint(chunk.len() as u64);
    let mut time = 0;
    for row in chunk {
        out.u64(row.id as u64);
        out.u64((row.id >> 64) as u64);
        out.varints([row.queue.0, row.offset, row.time - time]);
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
        let id = u128::from(input.u64()?) | u128::from(input.u64()?) << 64;
        let (queue, offset) = (QueueKey(input.varint()?), input.varint()?);
        time = time.checked_add(input.varint()?)?;
        chunk.push(Row { id, queue, offset, time });
    }
    input.is_empty().then_some(chunk)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn row(id: u128, offset: u64, time: u64) -> Row {
        Row { id, queue: QueueKey(7 << 8), offset, time }
    }

    fn copy_of(seen: &mut Seen) -> Seen {
        seen.touch_all();
        let chunks = seen.freeze().into_iter().map(|(number, chunk)| (number, decode_chunk(&encode_chunk(&chunk.unwrap())).unwrap()));
        Seen::restore(seen.span(), chunks.collect()).unwrap()
    }

    #[test]
    fn an_id_is_known_for_ten_minutes() {
        let mut seen = Seen::default();
        seen.remember(row(5, 1, 1_000));
        assert_eq!(seen.find(5, 1_000 + WINDOW_MS - 1).map(|row| row.offset), Some(1));
        assert_eq!(seen.find(5, 1_000 + WINDOW_MS), None);
        assert_eq!(seen.find(6, 1_000), None);
        seen.remember(row(6, 2, 1_000 + WINDOW_MS));
        assert_eq!(seen.len(), 1, "the old one is forgotten");
    }

    #[test]
    fn only_the_newest_million_is_known() {
        let mut seen = Seen::default();
        for n in 0..MOST + 5 {
            seen.remember(row(u128::from(n) << 64 | u128::from(n), n, 1));
        }
        assert_eq!(seen.len(), MOST);
        assert_eq!(seen.find(4 << 64 | 4, 1), None);
        assert_eq!(seen.find(5 << 64 | 5, 1).map(|row| row.offset), Some(5));
        let copy = copy_of(&mut seen);
        assert_eq!(copy, seen);
        assert_eq!(copy.find(9 << 64 | 9, 1).map(|row| row.offset), Some(9));
    }

    #[test]
    fn a_checkpoint_writes_full_chunks_once() {
        let mut seen = Seen::default();
        for n in 0..2 * CHUNK + 1 {
            seen.remember(row(u128::from(n), n, 1));
        }
        assert!(seen.freeze().iter().all(|(_, chunk)| chunk.is_some()));
        seen.remember(row(u128::MAX, 0, 1));
        assert_eq!(seen.freeze().iter().map(|(_, chunk)| chunk.is_some()).collect::<Vec<_>>(), [false, false, true]);
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_map_and_survives_a_checkpoint(steps in prop::collection::vec((0u128..40, 0u64..200_000), 1..200)) {
            let mut seen = Seen::default();
            let mut map = std::collections::HashMap::new();
            let mut now = 0;
            for (offset, (id, pause)) in steps.into_iter().enumerate() {
                now += pause;
                seen.remember(row(id, offset as u64, now));
                map.insert(id, (offset as u64, now));
            }
            let copy = copy_of(&mut seen);
            for id in 0..40 {
                let expected = map.get(&id).filter(|(_, time)| time + WINDOW_MS > now).map(|(offset, _)| *offset);
                prop_assert_eq!(seen.find(id, now).map(|row| row.offset), expected);
                prop_assert_eq!(copy.find(id, now).map(|row| row.offset), expected);
            }
        }
    }
}
