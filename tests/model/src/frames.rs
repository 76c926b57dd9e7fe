//! The log of a replica in the model: a few frames of length 1, so that a frame's address is its number.

use gantry_model::{Epoch, Lsn};
use gantry_store::replica::log::{EpochTable, Link, Log, Tail};

/// More frames than any run makes.
pub const FRAMES: usize = 12;

/// A frame: the epoch in which it was appended, and what it says. Value 0 is `EpochStart`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Entry {
    pub epoch: u8,
    pub value: u8,
}

/// Frames in order. Those before `start` are known by the state that they led to, and can't be sent or compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frames {
    entries: [Entry; FRAMES],
    len: u8,
    start: u8,
}

impl Frames {
    pub fn push(&mut self, entry: Entry) {
        self.entries[usize::from(self.len)] = entry;
        self.len += 1;
    }

    pub fn cut(&mut self, len: u8) {
        self.entries[usize::from(len)..].fill(Entry::default());
        self.len = len;
    }

    pub fn trim(&mut self, start: u8) {
        self.start = start;
    }

    pub fn len(&self) -> u8 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn first(&self) -> u8 {
        self.start
    }

    pub fn get(&self, at: u8) -> Option<Entry> {
        (at < self.len).then(|| self.entries[usize::from(at)])
    }

    pub fn iter(&self) -> impl Iterator<Item = Entry> {
        self.entries.into_iter().take(usize::from(self.len))
    }

    /// How many frames at the beginning are the same in both.
    pub fn shared(&self, other: &Frames) -> u8 {
        self.iter().zip(other.iter()).take_while(|(a, b)| a == b).count() as u8
    }

    /// The epoch of the last frame.
    pub fn last_epoch(&self) -> u8 {
        self.iter().last().map_or(0, |entry| entry.epoch)
    }

    /// The frame at `at` as it is sent.
    pub fn link(&self, at: u8) -> Link {
        Link { lsn: Lsn(u64::from(at)), prev_crc: self.ending(at).crc, tail: self.ending(at + 1) }
    }

    /// The log as it was when it had `len` frames.
    fn ending(&self, len: u8) -> Tail {
        let mut tail = Tail { end: Lsn(u64::from(len)), ..Tail::default() };
        for entry in self.iter().take(usize::from(len)) {
            tail.epoch = Epoch(u32::from(entry.epoch));
            // Stands for a checksum: it depends on all frames before.
            tail.crc = (tail.crc ^ (u32::from(entry.epoch) << 8 | u32::from(entry.value))).wrapping_add(1).wrapping_mul(0x9E37_79B1).rotate_left(13);
        }
        tail
    }
}

impl Log for Frames {
    fn start(&self) -> Lsn {
        Lsn(u64::from(self.start))
    }

    fn tail(&self) -> Tail {
        self.ending(self.len)
    }

    fn tail_at(&self, lsn: Lsn) -> Option<Tail> {
        (self.start()..=Lsn(u64::from(self.len))).contains(&lsn).then(|| self.ending(lsn.0 as u8))
    }

    fn epochs(&self) -> EpochTable {
        let mut table = EpochTable::default();
        for (at, entry) in self.iter().enumerate() {
            table.note(Epoch(u32::from(entry.epoch)), Lsn(at as u64));
        }
        table.trim(self.start());
        table
    }
}
