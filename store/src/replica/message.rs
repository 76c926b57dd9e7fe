//! What controller, leader and followers say to each other about one shard.
//!
//! Any message may be lost, late, repeated or overtaken; no rule relies on more. Streams make that rare, so it costs nothing.

use super::config::{Config, Incarnation, Member, Session};
use super::log::{EpochTable, Link, Position, Tail};
use gantry_model::{Epoch, Lsn};
use std::fmt;

/// Controller to every member: promise this epoch, and say what you have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    pub epoch: Epoch,
    /// The generation of the configuration that the epoch will have.
    pub generation: u64,
}

/// The promise was given, durably. Acknowledgements of older epochs have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SealOk {
    pub member: Member,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub log: Position,
    pub hw: Lsn,
    pub durable: Lsn,
    pub suspect: bool,
}

/// A newer epoch was promised: to a leader this means that its reign has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub member: Member,
    pub promised: Epoch,
}

/// The controller's decision who leads an epoch; sent to the leader as `Become`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    pub epoch: Epoch,
    pub leader: Member,
    /// The leader's process when it was sealed.
    pub incarnation: Incarnation,
    /// The leader's log when it was sealed.
    pub log: Position,
    pub config: Config,
    /// An operator gave up what this log lacks, so a suspect may lead too.
    pub unclean: bool,
}

/// Leader to follower: frames behind `prev`, or none as a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    pub epoch: Epoch,
    pub prev: Tail,
    /// Whole batches only, so that a log never ends within one.
    pub frames: Vec<Link>,
    pub hw: Lsn,
    /// The leader's store time in ms.
    pub leader_time: u64,
}

/// Follower to leader: how much of the leader's log it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ack {
    pub member: Member,
    pub session: Session,
    pub epoch: Epoch,
    /// Written, and equal to the leader's log.
    pub received: Lsn,
    /// Synced, and equal to the leader's log.
    pub durable: Lsn,
    pub applied: Lsn,
}

/// Follower to leader: `prev` is not a frame of mine; this is what I have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub member: Member,
    pub session: Session,
    pub epoch: Epoch,
    pub epochs: EpochTable,
    pub end: Lsn,
}

/// Follower to leader, first on every stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub member: Member,
    pub session: Session,
    pub promised: Epoch,
    pub log: Position,
    pub suspect: bool,
}

/// Leader to follower, answers `Hello`: who has my log durably up to `target` lacks nothing that it acknowledged before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    pub epoch: Epoch,
    /// That of the `Hello`.
    pub session: Session,
    pub target: Lsn,
}

/// Why an `Append` can't be right, whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A frame does not follow the one before it: another address or checksum.
    Chain(Lsn),
    /// A frame's epoch is below the one before it, or above the leader's.
    Epoch(Lsn),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Chain(lsn) => write!(f, "the frame at `{lsn}` does not follow the one before it"),
            Malformed::Epoch(lsn) => write!(f, "the frame at `{lsn}` has an impossible epoch"),
        }
    }
}

impl std::error::Error for Malformed {}

impl Append {
    /// P9: frames lie behind each other, epochs don't decrease, the chain holds.
    pub fn check(&self) -> Result<(), Malformed> {
        if self.prev.epoch > self.epoch {
            return Err(Malformed::Epoch(self.prev.end));
        }
        let mut before = self.prev;
        for link in &self.frames {
            if link.lsn != before.end || link.prev_crc != before.crc || link.tail.end <= link.lsn {
                return Err(Malformed::Chain(link.lsn));
            }
            if link.tail.epoch < before.epoch || link.tail.epoch > self.epoch {
                return Err(Malformed::Epoch(link.lsn));
            }
            before = link.tail;
        }
        Ok(())
    }

    /// The log up to the end of what is sent.
    pub fn end(&self) -> Tail {
        self.frames.last().map_or(self.prev, |link| link.tail)
    }
}
