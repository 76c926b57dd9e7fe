//! What is remembered in memory for each queue of the shard, busy or idle: where it starts, where it goes on, where to look for the rest.
//!
//! Next offsets can't be told from the runs alone: a queue whose messages were all trimmed has no run left and must not start again at
//! zero. So the slots belong into the shard's checkpoint (`SlotSnapshot`), and a checkpoint must be as new as the log's start.

use super::Damage;
use bytes::Bytes;
use gantry_model::{Lsn, Offset, QueueKey};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// One queue: 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// No entry below this offset is given out.
    pub min: Offset,
    /// The offset of the next message.
    pub next: Offset,
    last: u64,
}

const NO_SEGMENT: u64 = u64::MAX;

impl Slot {
    pub fn new(min: Offset, next: Offset, last: Option<Lsn>) -> Slot {
        Slot { min, next, last: last.map_or(NO_SEGMENT, |lsn| lsn.0) }
    }

    /// Base of the newest segment that holds the queue.
    pub fn last(&self) -> Option<Lsn> {
        (self.last != NO_SEGMENT).then_some(Lsn(self.last))
    }

    pub(super) fn set_last(&mut self, segment: Lsn) {
        self.last = segment.0;
    }
}

pub(super) type QueueMap<V> = HashMap<QueueKey, V, BuildHasherDefault<QueueHasher>>;

/// Spreads queue keys by one multiplication. They are small numbers given out by the controller, not chosen by clients, so a keyed hash
/// would protect from nobody; and the same run of the program has to behave the same twice.
#[derive(Default)]
pub(super) struct QueueHasher(u64);

impl Hasher for QueueHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a queue key hashes as one u64");
    }

    fn write_u64(&mut self, key: u64) {
        let product = u128::from(key) * 0x9E37_79B9_7F4A_7C15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The slots of a shard at one moment, for its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSnapshot {
    /// What lies in segments before this one is contained. Runs from here on are read again at start.
    pub through: Lsn,
    /// Sorted by queue. `Slot::last` is older than `through`.
    pub rows: Vec<(QueueKey, Slot)>,
}

const HEAD: usize = 8;
const ROW: usize = 32;

impl SlotSnapshot {
    /// Little endian: `through`, then 32 bytes a queue: key, min, next, last. The checkpoint's file carries the checksum.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(HEAD + self.rows.len() * ROW);
        out.extend_from_slice(&self.through.0.to_le_bytes());
        for (queue, slot) in &self.rows {
            for number in [queue.0, slot.min.0, slot.next.0, slot.last] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out.into()
    }

    pub fn decode(bytes: &[u8]) -> Result<SlotSnapshot, Damage> {
        let (head, rows) = bytes.split_first_chunk::<HEAD>().ok_or(Damage::Length)?;
        let (rows, []) = rows.as_chunks::<ROW>() else { return Err(Damage::Length) };
        let row = |row: &[u8; ROW]| {
            let (numbers, _) = row.as_chunks::<8>();
            let [queue, min, next, last] = std::array::from_fn(|n| u64::from_le_bytes(numbers[n]));
            (QueueKey(queue), Slot { min: Offset(min), next: Offset(next), last })
        };
        Ok(SlotSnapshot { through: Lsn(u64::from_le_bytes(*head)), rows: rows.iter().map(row).collect() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_snapshot_comes_back_and_a_cut_one_is_refused() {
        let slot = |n| Slot::new(Offset(n), Offset(n + 5), (n > 0).then_some(Lsn(n << 28)));
        let rows = (0..3).map(|n| (QueueKey(n << 8), slot(n))).collect();
        let snapshot = SlotSnapshot { through: Lsn(7 << 28), rows };
        let bytes = snapshot.encode();
        assert_eq!(SlotSnapshot::decode(&bytes), Ok(snapshot));
        for cut in [0, 7, 9, bytes.len() - 1] {
            assert_eq!(SlotSnapshot::decode(&bytes[..cut]), Err(Damage::Length));
        }
    }

    #[test]
    fn queue_keys_spread_over_all_bits() {
        use std::hash::{BuildHasher, BuildHasherDefault};
        let hasher = BuildHasherDefault::<QueueHasher>::default();
        let mut low = std::collections::HashSet::new();
        for key in 0..1000u64 {
            low.insert(hasher.hash_one(QueueKey(key << 8)) & 0xFFFF);
        }
        assert!(low.len() > 950, "{} of 1000 differ in their low 16 bits", low.len());
    }
}
