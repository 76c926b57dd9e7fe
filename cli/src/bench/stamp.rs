//! Is every message there, once and whole? A body begins with a stamp that says who sent it and as which; a ledger notes what came.
//!
//! ```text
//!  0        8          12     20        28      32
//!  | run u64 | producer u32 | seq u64 | due u64 | crc32c | filler …
//! ```
//! Numbers are little-endian; the checksum is over everything else, filler included; `due` is the time at which the send was due, in
//! nanoseconds of this process's clock.

use crc_fast::{CrcAlgorithm, Digest};
use serde::Serialize;
use std::collections::BTreeMap;

/// Bytes of a stamp.
pub const STAMP_BYTES: usize = 32;
const CHECKED: usize = 28;

/// What a body says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub run: u64,
    pub producer: u32,
    pub seq: u64,
    pub due: u64,
}

impl Stamp {
    /// The first bytes of a body that goes on with `filler`.
    pub fn bytes(&self, filler: &[u8]) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..8].copy_from_slice(&self.run.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.producer.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.seq.to_le_bytes());
        bytes[20..CHECKED].copy_from_slice(&self.due.to_le_bytes());
        let crc = checksum(&bytes[..CHECKED], filler);
        bytes[CHECKED..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The stamp of a whole body; none when its checksum does not fit.
    pub fn read(body: &[u8]) -> Option<Stamp> {
        let (stamp, filler) = body.split_at_checked(STAMP_BYTES)?;
        let long = |at: usize| Some(u64::from_le_bytes(stamp.get(at..at + 8)?.try_into().ok()?));
        let short = |at: usize| Some(u32::from_le_bytes(stamp.get(at..at + 4)?.try_into().ok()?));
        if short(CHECKED)? != checksum(&stamp[..CHECKED], filler) {
            return None;
        }
        Some(Stamp { run: long(0)?, producer: short(8)?, seq: long(12)?, due: long(20)? })
    }
}

fn checksum(stamp: &[u8], filler: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(stamp);
    digest.update(filler);
    digest.finalize() as u32
}

/// A set of numbers, a bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// Adds a number; false if it was there.
    fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        new
    }

    fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many numbers are here and not there.
    fn without(&self, other: &Bits) -> u64 {
        let there = other.words.iter().copied().chain(std::iter::repeat(0));
        self.words.iter().zip(there).map(|(here, there)| u64::from((here & !there).count_ones())).sum()
    }
}

/// Messages that the server said it stored, by producer.
#[derive(Clone, Debug, Default)]
pub struct Confirmed {
    producers: BTreeMap<u32, Bits>,
}

impl Confirmed {
    pub fn insert(&mut self, producer: u32, seq: u64) {
        self.producers.entry(producer).or_default().insert(seq);
    }

    /// Takes over what another thread saw; its producers are others.
    pub fn merge(&mut self, other: Confirmed) {
        self.producers.extend(other.producers);
    }

    pub fn count(&self) -> u64 {
        self.producers.values().map(Bits::count).sum()
    }
}

/// Messages that came, by consumer group and producer.
#[derive(Clone, Debug)]
pub struct Ledger {
    run: u64,
    groups: Vec<BTreeMap<u32, Seen>>,
    duplicated: u64,
    reordered: u64,
    corrupt: u64,
    foreign: u64,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    seqs: Bits,
    latest: u64,
}

impl Ledger {
    /// For so many consumer groups, each of which gets every message.
    pub fn new(run: u64, groups: usize) -> Ledger {
        Ledger { run, groups: vec![BTreeMap::new(); groups], duplicated: 0, reordered: 0, corrupt: 0, foreign: 0 }
    }

    /// Notes a body that came to a consumer group; its stamp if the message is of this run and was not there before.
    pub fn note(&mut self, group: usize, body: &[u8]) -> Option<Stamp> {
        let Some(stamp) = Stamp::read(body) else {
            self.corrupt += 1;
            return None;
        };
        if stamp.run != self.run {
            self.foreign += 1;
            return None;
        }
        let seen = self.groups[group].entry(stamp.producer).or_default();
        if !seen.seqs.insert(stamp.seq) {
            self.duplicated += 1;
            return None;
        }
        if stamp.seq < seen.latest {
            self.reordered += 1;
        }
        seen.latest = seen.latest.max(stamp.seq);
        Some(stamp)
    }

    /// Holds what came against what was confirmed.
    pub fn compare(&self, confirmed: &Confirmed) -> Verification {
        let nothing = Bits::default();
        let stored = |producer: &u32| confirmed.producers.get(producer).unwrap_or(&nothing);
        let came = || self.groups.iter().flatten();
        let lost = |group: &BTreeMap<u32, Seen>| -> u64 {
            let seen = |producer: &u32| group.get(producer).map_or(&nothing, |seen| &seen.seqs);
            confirmed.producers.iter().map(|(producer, seqs)| seqs.without(seen(producer))).sum()
        };
        Verification {
            confirmed: confirmed.count() * self.groups.len() as u64,
            received: came().map(|(_, seen)| seen.seqs.count()).sum(),
            lost: self.groups.iter().map(lost).sum(),
            unconfirmed: came().map(|(producer, seen)| seen.seqs.without(stored(producer))).sum(),
            duplicated: self.duplicated,
            reordered: self.reordered,
            corrupt: self.corrupt,
            foreign: self.foreign,
        }
    }
}

/// How what came differs from what was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Sends that the server answered with OK, once for each consumer group.
    pub confirmed: u64,
    /// Different messages of this run that came.
    pub received: u64,
    /// Confirmed, and never came.
    pub lost: u64,
    /// Came although their send was not confirmed; allowed, since an answer can be lost.
    pub unconfirmed: u64,
    /// Came again after they had come; allowed (delivery is at least once), and each one deserves a reason.
    pub duplicated: u64,
    /// Came after a later message of the same producer; a fault only with `--fifo`.
    pub reordered: u64,
    /// The checksum of the body did not fit.
    pub corrupt: u64,
    /// Of another run; only on a topic that was there before.
    pub foreign: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn body(run: u64, producer: u32, seq: u64) -> Vec<u8> {
        let filler = b"filler";
        [&Stamp { run, producer, seq, due: 5 }.bytes(filler)[..], filler].concat()
    }

    #[test]
    fn a_stamp_survives_and_damage_shows() {
        let whole = body(1, 2, 3);
        assert_eq!(Stamp::read(&whole), Some(Stamp { run: 1, producer: 2, seq: 3, due: 5 }));
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(Stamp::read(&damaged), None, "byte {at}");
        }
        assert_eq!(Stamp::read(&whole[..20]), None);
    }

    #[test]
    fn the_ledger_finds_what_is_lost_doubled_late_broken_and_foreign() {
        let mut confirmed = Confirmed::default();
        for seq in 0..100 {
            confirmed.insert(1, seq);
        }
        confirmed.insert(2, 0);
        let mut ledger = Ledger::new(7, 1);
        for seq in (0..100).filter(|seq| *seq != 64 && *seq != 50).chain([50, 51, 100]) {
            ledger.note(0, &body(7, 1, seq));
        }
        ledger.note(0, &body(8, 1, 0));
        ledger.note(0, b"hello");
        let expected = Verification { confirmed: 101, received: 100, lost: 2, unconfirmed: 1, duplicated: 1, reordered: 1, corrupt: 1, foreign: 1 };
        assert_eq!(ledger.compare(&confirmed), expected);
    }

    #[test]
    fn every_group_must_get_every_message_and_no_group_twice() {
        let mut confirmed = Confirmed::default();
        confirmed.insert(1, 0);
        confirmed.insert(1, 1);
        let mut ledger = Ledger::new(7, 2);
        assert!(ledger.note(0, &body(7, 1, 0)).is_some());
        assert!(ledger.note(1, &body(7, 1, 0)).is_some());
        assert!(ledger.note(1, &body(7, 1, 0)).is_none());
        assert!(ledger.note(0, &body(7, 1, 1)).is_some());
        let expected = Verification { confirmed: 4, received: 3, lost: 1, duplicated: 1, ..Default::default() };
        assert_eq!(ledger.compare(&confirmed), expected);
    }
}
