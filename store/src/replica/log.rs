//! What the rules need to know of a log: where it ends, what it had at an address, in which epochs its frames were appended.

use crate::frame::{self, FrameHeader};
use bytes::Bytes;
use gantry_model::{Epoch, Lsn};

/// How far a log reaches. The greater one has everything that was committed of the smaller one: a later epoch counts more than more bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The epoch of the last frame.
    pub epoch: Epoch,
    pub end: Lsn,
}

/// The last frame of a log that ends at `end`. Equal tails mean equal logs, because each frame has the checksum of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tail {
    pub end: Lsn,
    pub epoch: Epoch,
    pub crc: u32,
}

impl Tail {
    pub fn position(self) -> Position {
        Position { epoch: self.epoch, end: self.end }
    }
}

/// A frame as a link of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    pub lsn: Lsn,
    pub prev_crc: u32,
    /// The log as it ends with this frame.
    pub tail: Tail,
}

impl From<&FrameHeader> for Link {
    fn from(header: &FrameHeader) -> Link {
        let end = Lsn(header.lsn.0 + frame::padded(header.len as usize) as u64);
        Link { lsn: header.lsn, prev_crc: header.prev_crc, tail: Tail { end, epoch: header.epoch, crc: header.crc } }
    }
}

/// A log as the rules see it: everything that was written, durable or not.
pub trait Log {
    /// The oldest frame.
    fn start(&self) -> Lsn;

    /// The last frame.
    fn tail(&self) -> Tail;

    /// The tail that this log had, or would have, if it ended at `lsn`. `None` before its start, behind its end, inside a frame, and where
    /// frames are damaged. (The checksum is in the frame that follows, the epoch in the epoch table.)
    fn tail_at(&self, lsn: Lsn) -> Option<Tail>;

    /// Where the epochs begin.
    fn epochs(&self) -> EpochTable;
}

/// The epochs of a log with the address of the first frame of each, as its `EpochStart` frames tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochTable {
    /// Both ascend.
    starts: Vec<(Epoch, Lsn)>,
}

impl EpochTable {
    /// A message carries so many epochs at most, the newest. Who disagrees about older ones is sent everything anew.
    pub const SENT: usize = 1024;

    /// The table that a peer sent, or `None` if it can't be one.
    pub fn received(starts: Vec<(Epoch, Lsn)>) -> Option<EpochTable> {
        let ascends = starts.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        ascends.then_some(EpochTable { starts })
    }

    /// Notes the epoch of a frame at `lsn`. Frames come in the order of the log.
    pub fn note(&mut self, epoch: Epoch, lsn: Lsn) {
        match self.starts.last() {
            Some((last, _)) if *last == epoch => {}
            last => {
                assert!(last.is_none_or(|(last, at)| *last < epoch && *at < lsn), "epochs and addresses grow along a log");
                self.starts.push((epoch, lsn));
            }
        }
    }

    /// Adds what is newer of another part of the same log.
    pub fn extend(&mut self, newer: &EpochTable) {
        let last = self.starts.last().map_or(Epoch(0), |(epoch, _)| *epoch);
        let known = self.starts.is_empty();
        self.starts.extend(newer.starts.iter().filter(|(epoch, _)| known || *epoch > last));
    }

    /// The log was cut at `end`.
    pub fn cut(&mut self, end: Lsn) {
        self.starts.retain(|(_, first)| *first < end);
    }

    /// The log begins at `start` from now on.
    pub fn trim(&mut self, start: Lsn) {
        let gone = self.starts.iter().take_while(|(_, first)| *first <= start).count();
        // The epoch of the first frame that is left began before it.
        if let Some(kept) = gone.checked_sub(1) {
            self.starts.drain(..kept);
            self.starts[0].1 = start;
        }
    }

    /// Epochs with their first addresses, in order.
    pub fn starts(&self) -> &[(Epoch, Lsn)] {
        &self.starts
    }

    /// The newest epochs, as many as a message carries.
    pub fn to_send(&self) -> EpochTable {
        let skipped = self.starts.len().saturating_sub(EpochTable::SENT);
        EpochTable { starts: self.starts[skipped..].to_vec() }
    }

    /// The epoch of the frame that ends at `end`, or `None` if there is none.
    pub fn epoch_before(&self, end: Lsn) -> Option<Epoch> {
        self.starts.iter().rev().find(|(_, first)| *first < end).map(|(epoch, _)| *epoch)
    }

    /// Up to where this log, which ends at `own_end`, and the other one are the same: the shorter end of the newest epoch that both have. One leader
    /// writes an epoch and never takes anything back in it, so within an epoch one log is a beginning of the other. `None` if the tables don't tell.
    pub fn agreed(&self, own_end: Lsn, other: &EpochTable, other_end: Lsn) -> Option<Lsn> {
        let begins = |table: &EpochTable| table.starts.first().is_none_or(|(_, first)| *first == Lsn(0));
        for (at, (epoch, first)) in self.starts.iter().enumerate().rev() {
            let Ok(theirs) = other.starts.binary_search_by_key(epoch, |(epoch, _)| *epoch) else { continue };
            let agreed = self.end_of(at, own_end).min(other.end_of(theirs, other_end));
            return (agreed >= *first && agreed >= other.starts[theirs].1).then_some(agreed);
        }
        (begins(self) && begins(other)).then_some(Lsn(0))
    }

    /// For a checkpoint: epoch u32 and address u64 of each.
    pub fn encode(&self) -> Bytes {
        let rows = self.starts.iter().flat_map(|(epoch, lsn)| [&epoch.0.to_le_bytes()[..], &lsn.0.to_le_bytes()[..]].concat());
        rows.collect()
    }

    /// `None` if it is not a table.
    pub fn decode(bytes: &[u8]) -> Option<EpochTable> {
        let (rows, rest) = bytes.as_chunks::<12>();
        let row = |row: &[u8; 12]| {
            let (epoch, lsn) = row.split_first_chunk::<4>()?;
            Some((Epoch(u32::from_le_bytes(*epoch)), Lsn(u64::from_le_bytes(*lsn.first_chunk()?))))
        };
        let starts: Vec<_> = rows.iter().map(row).collect::<Option<_>>()?;
        if rest.is_empty() { EpochTable::received(starts) } else { None }
    }

    fn end_of(&self, at: usize, end: Lsn) -> Lsn {
        self.starts.get(at + 1).map_or(end, |(_, next)| *next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(starts: &[(u32, u64)]) -> EpochTable {
        let mut table = EpochTable::default();
        starts.iter().for_each(|(epoch, first)| table.note(Epoch(*epoch), Lsn(*first)));
        table
    }

    #[test]
    fn logs_agree_up_to_the_shorter_end_of_their_newest_common_epoch() {
        let check = |own: (&[(u32, u64)], u64), other: (&[(u32, u64)], u64), expected: Option<u64>| {
            let (a, b) = (table(own.0), table(other.0));
            assert_eq!(a.agreed(Lsn(own.1), &b, Lsn(other.1)), expected.map(Lsn), "{own:?} and {other:?}");
            assert_eq!(b.agreed(Lsn(other.1), &a, Lsn(own.1)), expected.map(Lsn), "{other:?} and {own:?}");
        };
        check((&[(1, 0)], 80), (&[(1, 0)], 64), Some(64));
        check((&[(1, 0), (3, 80)], 160), (&[(1, 0), (2, 64)], 240), Some(64));
        check((&[(1, 0), (2, 80), (4, 160)], 200), (&[(1, 0), (2, 80), (3, 120)], 999), Some(120));
        check((&[(1, 0), (4, 160)], 200), (&[], 0), Some(0));
        check((&[(2, 0)], 80), (&[(1, 0)], 80), Some(0));
        // One of them has lost its beginning.
        check((&[(3, 400)], 480), (&[(1, 0), (3, 160)], 440), Some(440));
        check((&[(3, 400)], 480), (&[(1, 0), (3, 160)], 390), None);
        check((&[(3, 400)], 480), (&[(1, 0)], 80), None);
        check((&[(3, 400)], 480), (&[], 0), None);
    }

    #[test]
    fn a_table_that_does_not_ascend_is_refused() {
        let received = |starts: &[(u32, u64)]| EpochTable::received(starts.iter().map(|(epoch, first)| (Epoch(*epoch), Lsn(*first))).collect());
        for good in [&[][..], &[(1, 0), (3, 80)]] {
            assert_eq!(received(good), Some(table(good)));
        }
        for bad in [[(3, 0), (1, 80)], [(1, 80), (3, 0)], [(1, 0), (1, 80)], [(1, 80), (3, 80)]] {
            assert_eq!(received(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn cutting_and_trimming_keep_what_is_left() {
        let mut cut = table(&[(1, 0), (2, 80), (3, 160)]);
        cut.cut(Lsn(160));
        assert_eq!((cut.epoch_before(Lsn(160)), cut), (Some(Epoch(2)), table(&[(1, 0), (2, 80)])));
        let mut trimmed = table(&[(1, 0), (2, 80), (3, 160)]);
        trimmed.trim(Lsn(120));
        assert_eq!(trimmed, table(&[(2, 120), (3, 160)]));
        assert_eq!((trimmed.epoch_before(Lsn(120)), trimmed.epoch_before(Lsn(161))), (None, Some(Epoch(3))));
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        for written in [table(&[]), table(&[(1, 0)]), table(&[(1, 0), (7, 1 << 40), (u32::MAX, u64::MAX)])] {
            assert_eq!(EpochTable::decode(&written.encode()), Some(written));
        }
        let bytes = table(&[(1, 0), (2, 80)]).encode();
        assert_eq!(EpochTable::decode(&bytes[..23]), None);
        assert_eq!(EpochTable::decode(&[&bytes[12..], &bytes[..12]].concat()), None, "epochs ascend");
    }

    #[test]
    fn a_later_epoch_counts_more_than_more_bytes() {
        let at = |epoch, end| Position { epoch: Epoch(epoch), end: Lsn(end) };
        assert!(at(3, 8) > at(2, u64::MAX) && at(2, 1 << 33) > at(2, 1 << 32));
    }
}
