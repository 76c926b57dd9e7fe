//! The consume queue index: finds the frame of (queue, offset), of a time, of a message id or key, and the timers that are due.
//!
//! Everything here is derived from the CommitLog and may be deleted: what is missing or damaged is named, so that the shard replays that
//! segment. There is one immutable run file per sealed segment and one memtable for the segment being written, never a file per queue.
//! The index is fed with committed frames only, so it never has to forget one. It knows no threads, no clock and no network; it touches
//! the disk only when it opens runs and inside a `SealJob`, which a background thread carries out.
//!
//! Lookups happen on the shard's thread, which owns the `Index`. What is below the memtable never changes, so a `Backlog` (a cheap clone
//! of the list of sealed segments) answers reads of old offsets on any other thread. The bytes are drawn in
//! `docs/design/002-index-run.md`. Read `set` first.

pub mod set;
pub mod slots;
pub mod backlog;
pub mod memtable;
mod chunks;
mod far;
pub mod run;
mod writer;
mod block;
mod bloom;
mod layout;
mod varint;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod reference_tests;

use gantry_model::{Lsn, Offset, QueueKey};
use std::fmt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use backlog::Backlog;
pub use memtable::Memtable;
pub use run::{Run, RunError};
pub use set::{Index, Memory, OpenIndexError, Opened, SealJob};
pub use slots::{Slot, SlotSnapshot};
pub use writer::RunWriter;

/// One message of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub queue: QueueKey,
    pub offset: Offset,
    /// The frame that holds the body. It may lie in an older segment: a committed transaction, a released or a dead message points at its
    /// original. It may even lie below the log's start, if that original was trimmed: the read path then says so.
    pub position: Lsn,
    /// Length of that frame in bytes.
    pub len: u32,
    pub tag_hash: u32,
    /// The message group, as a number; 0 without one. Messages of a group keep their order, so two groups that share a number only wait for
    /// each other.
    pub lane: u32,
    /// Store time in ms of the frame that made this entry, which never decreases along the log.
    pub time: u64,
}

/// A message that becomes visible later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timer {
    pub due: Due,
    pub queue: QueueKey,
}

/// The order in which timers are released: by deliver time, then by position. The shard's timer watermark is one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// Deliver time in ms since the Unix epoch.
    pub time: u64,
    pub position: Lsn,
}

/// What a key hash was made from, so that a message id never finds a message that has the same text as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    MessageId,
    Key,
}

/// The 64-bit name under which a message id or key is indexed: xxh3 over the text, seeded with topic id and kind. Different texts may share
/// a hash, so the caller compares the text of what it finds.
pub fn key_hash(topic: gantry_model::TopicId, kind: KeyKind, text: &[u8]) -> u64 {
    let tag = match kind {
        KeyKind::MessageId => 1,
        KeyKind::Key => 2,
    };
    xxh3_64_with_seed(text, u64::from(topic.0) << 8 | tag)
}

/// Where a queue begins inside one segment's part of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Offset of the first entry of this queue in this segment.
    pub first: Offset,
    pub count: u32,
    /// No segment after `previous` and before this one holds the queue. `None`: no older segment does.
    pub previous: Option<Lsn>,
    gaps: bool,
    block: u32,
}

/// A part of a run that can't be what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Shorter than a footer, or not as long as the footer says.
    Length,
    /// The footer isn't that of an index run, or its checksum is wrong.
    Footer,
    /// Written by a newer version.
    Version(u32),
    /// A 4 KiB page doesn't match its checksum.
    Checksum { page: usize },
    /// Checksums match, yet the content contradicts itself.
    Content(&'static str),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Length => f.write_str("the length is wrong"),
            Damage::Footer => f.write_str("the footer is not that of an index run"),
            Damage::Version(version) => write!(f, "version `{version}` is newer than this program"),
            Damage::Checksum { page } => write!(f, "4 KiB page `{page}` does not match its checksum"),
            Damage::Content(what) => write!(f, "the content contradicts itself: {what}"),
        }
    }
}

impl std::error::Error for Damage {}

/// Why a lookup has no answer. Both mean: replay this segment (`Index::replayed`), then ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// The segment's run was missing or damaged at start, and it has not been replayed yet.
    Missing {
        segment: Lsn,
    },
    Damaged {
        segment: Lsn,
        damage: Damage,
    },
}

impl LookupError {
    /// The segment that has to be replayed.
    pub fn segment(&self) -> Lsn {
        match *self {
            LookupError::Missing { segment } | LookupError::Damaged { segment, .. } => segment,
        }
    }
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LookupError::Missing { segment } => write!(f, "segment `{segment}` has no index run yet; it is rebuilt from the log"),
            LookupError::Damaged { segment, damage } => {
                write!(f, "the index run of segment `{segment}` is damaged ({damage}); it is rebuilt from the log")
            }
        }
    }
}

impl std::error::Error for LookupError {}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::TopicId;

    #[test]
    fn key_hashes_differ_by_topic_and_kind_and_never_change() {
        let id = key_hash(TopicId(1), KeyKind::MessageId, b"order-1");
        assert_ne!(id, key_hash(TopicId(2), KeyKind::MessageId, b"order-1"));
        assert_ne!(id, key_hash(TopicId(1), KeyKind::Key, b"order-1"));
        assert_eq!(id, 8_642_321_656_325_258_773, "stored in run files, so it is part of their format");
    }
}
