//! A block: up to 128 entries of one queue, as differences.
//!
//! `{length u16, count-1 and gaps u8, first offset, position, time}` and then one entry after the other: offset step (only with gaps),
//! position step in 8-byte units, length step, time step, tag hash in four bytes, and the lane in four more if any entry of the block has
//! one, which the top bit of the block's length says. Messages of one size that follow each other take eight bytes. The block's own length comes first, so that a reader checks only the pages it touches.

use super::layout::BLOCK_ENTRIES;
use super::varint::{Reader, put, put_signed};
use super::{Damage, Entry};
use gantry_model::{Lsn, Offset, QueueKey};

const GAPS: u8 = 0x80;
/// In the block's length: entries have lanes.
pub(super) const LANES: u16 = 0x8000;
pub(super) const LENGTH: usize = 2;

/// What positions and times of a run are relative to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub base: Lsn,
    pub time: u64,
}

/// Encodes one block; offsets ascend.
pub(super) fn encode(out: &mut Vec<u8>, origin: Origin, entries: &[Entry]) {
    let (first, last) = (entries.first().expect("a block has an entry"), entries[entries.len() - 1]);
    assert!(entries.len() <= BLOCK_ENTRIES, "the count has seven bits");
    let lanes = entries.iter().any(|entry| entry.lane != 0);
    let gaps = last.offset.0 - first.offset.0 >= entries.len() as u64;
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    out.push((entries.len() - 1) as u8 | if gaps { GAPS } else { 0 });
    put(out, first.offset.0);
    put_signed(out, position_step(origin.base, first.position));
    put_signed(out, first.time.wrapping_sub(origin.time) as i64);
    let mut before = Entry { len: 0, ..*first };
    for (index, entry) in entries.iter().enumerate() {
        if gaps && index > 0 {
            put(out, entry.offset.0 - before.offset.0 - 1);
        }
        put_signed(out, position_step(before.position, entry.position));
        put_signed(out, i64::from(entry.len) - i64::from(before.len));
        put_signed(out, entry.time.wrapping_sub(before.time) as i64);
        out.extend_from_slice(&entry.tag_hash.to_le_bytes());
        if lanes {
            out.extend_from_slice(&entry.lane.to_le_bytes());
        }
        before = *entry;
    }
    let length = u16::try_from(out.len() - start - LENGTH).expect("128 entries of at most 43 bytes are less than 32 KiB");
    let length = length | if lanes { LANES } else { 0 };
    out[start..start + LENGTH].copy_from_slice(&length.to_le_bytes());
}

fn position_step(from: Lsn, to: Lsn) -> i64 {
    (to.0 / 8).wrapping_sub(from.0 / 8) as i64
}

fn step_position(from: Lsn, units: i64) -> Lsn {
    Lsn((from.0 / 8).wrapping_add(units as u64).wrapping_mul(8))
}

/// The entries of one block, decoded one by one.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    rest: Reader<'a>,
    gaps: bool,
    lanes: bool,
    left: usize,
    started: bool,
    /// Before the first step: the block's first offset, position and time, with length 0.
    at: Entry,
}

impl<'a> Block<'a> {
    /// `body` is what follows the block's length, whose top bit is `lanes`.
    pub fn open(body: &'a [u8], lanes: bool, origin: Origin, queue: QueueKey) -> Result<Block<'a>, Damage> {
        let mut rest = Reader(body);
        let shape = rest.byte()?;
        let at = Entry {
            queue,
            offset: Offset(rest.unsigned()?),
            position: step_position(origin.base, rest.signed()?),
            len: 0,
            tag_hash: 0,
            lane: 0,
            time: origin.time.wrapping_add(rest.signed()? as u64),
        };
        Ok(Block { rest, gaps: shape & GAPS != 0, lanes, left: usize::from(shape & !GAPS) + 1, started: false, at })
    }

    pub fn first_offset(&self) -> Offset {
        self.at.offset
    }

    pub fn first_time(&self) -> u64 {
        self.at.time
    }

    fn step(&mut self) -> Result<Entry, Damage> {
        if self.started {
            let gap = if self.gaps { self.rest.unsigned()? } else { 0 };
            self.at.offset = Offset(self.at.offset.0.wrapping_add(gap).wrapping_add(1));
        }
        self.started = true;
        self.at.position = step_position(self.at.position, self.rest.signed()?);
        self.at.len = (i64::from(self.at.len).wrapping_add(self.rest.signed()?)) as u32;
        self.at.time = self.at.time.wrapping_add(self.rest.signed()? as u64);
        self.at.tag_hash = self.rest.fixed_u32()?;
        if self.lanes {
            self.at.lane = self.rest.fixed_u32()?;
        }
        Ok(self.at)
    }
}

impl Iterator for Block<'_> {
    type Item = Result<Entry, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let step = self.step();
        if step.is_err() {
            self.left = 0;
        }
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const ORIGIN: Origin = Origin { base: Lsn(1 << 30), time: 1_700_000_000_000 };

    fn entry(offset: u64, position: u64, len: u32, time: u64) -> Entry {
        Entry { queue: QueueKey(5), offset: Offset(offset), position: Lsn(position * 8), len, tag_hash: len ^ 0xABCD, lane: 0, time }
    }

    fn round_trip(entries: &[Entry]) -> Vec<Entry> {
        let mut bytes = Vec::new();
        encode(&mut bytes, ORIGIN, entries);
        let length = u16::from_le_bytes([bytes[0], bytes[1]]);
        assert_eq!(usize::from(length & !LANES), bytes.len() - LENGTH);
        Block::open(&bytes[LENGTH..], length & LANES != 0, ORIGIN, QueueKey(5)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    proptest! {
        #[test]
        fn a_block_gives_back_its_entries(rows in prop::collection::vec((0u64..5, any::<u64>(), any::<u32>(), any::<u64>()), 1..=BLOCK_ENTRIES), lanes: bool) {
            let mut offset = 0;
            let entries: Vec<Entry> = rows.into_iter().map(|(gap, position, len, time)| {
                offset += 1 + gap / 4;
                Entry { lane: if lanes { len.rotate_left(7) } else { 0 }, ..entry(offset, position >> 3, len, time) }
            }).collect();
            prop_assert_eq!(round_trip(&entries), entries);
        }

        #[test]
        fn random_bytes_are_an_error_or_entries_but_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(block) = Block::open(&bytes, bytes.len() % 2 == 0, ORIGIN, QueueKey(5)) {
                block.for_each(drop);
            }
        }
    }

    #[test]
    fn messages_of_one_size_take_eight_bytes() {
        let entries: Vec<Entry> = (0..128).map(|n| entry(n, (1 << 27) + n * 158, 1264, ORIGIN.time + n / 4)).collect();
        let mut bytes = Vec::new();
        encode(&mut bytes, ORIGIN, &entries);
        assert!(bytes.len() < 128 * 8 + 12, "{} bytes", bytes.len());
    }
}
