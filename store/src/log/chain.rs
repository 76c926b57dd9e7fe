//! What ties each frame to the one before it, and the position that moves along with it.

use crate::frame::{self, Flags, FrameHeader, Invalid, Kind};
use gantry_model::{Epoch, Lsn};

/// The frame before a position, as the next one has to know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    pub crc: u32,
    pub epoch: Epoch,
    pub time: u64,
}

/// A place between two frames of a segment, and a digest of the segment up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub at: Lsn,
    pub chain: Chain,
    /// Frames of this segment before the place.
    pub count: u64,
    pub digest: u32,
    /// Whether one of them stands for a damaged range, so that the segment no longer is what its `End` counted.
    pub gaps: bool,
}

impl Position {
    /// The beginning of a segment.
    pub fn begin(base: Lsn, chain: Chain) -> Position {
        Position { at: base, chain, count: 0, digest: 0, gaps: false }
    }

    /// Whether a frame may follow here.
    pub fn admits(&self, header: &FrameHeader) -> Result<(), Invalid> {
        if header.prev_crc != self.chain.crc {
            return Err(Invalid::Chain);
        }
        // A gap's time was chosen to make its checksum fit, so it says nothing.
        let timely = header.time >= self.chain.time || header.kind == Kind::Gap;
        if timely && header.epoch >= self.chain.epoch { Ok(()) } else { Err(Invalid::Order) }
    }

    /// Whether a frame may stand here, and whether a batch goes on behind it. `payload` is that of an `End`.
    pub fn may_follow(&self, header: &FrameHeader, payload: &[u8], in_batch: bool) -> Result<bool, Invalid> {
        self.admits(header)?;
        if header.kind == Kind::Gap {
            // What was set aside may have taken the rest of a batch with it.
            return Ok(false);
        }
        if header.kind == Kind::End {
            let counted = self.gaps || payload == self.end_payload();
            return if counted && !in_batch { Ok(false) } else { Err(Invalid::Count) };
        }
        match (part(header.flags), in_batch || self.gaps) {
            (Some(Part::Whole), _) if !in_batch => Ok(false),
            (Some(Part::First), _) if !in_batch => Ok(true),
            (Some(Part::Inner), true) => Ok(in_batch),
            (Some(Part::Last), true) => Ok(false),
            _ => Err(Invalid::Batch),
        }
    }

    /// Moves behind a frame.
    pub fn pass(&mut self, header: &FrameHeader) {
        let time = if header.kind == Kind::Gap { self.chain.time } else { header.time };
        self.at = Lsn(self.at.0 + frame::padded(header.len as usize) as u64);
        self.chain = Chain { crc: header.crc, epoch: header.epoch, time };
        self.count += 1;
        self.digest = frame::crc32c(&[&self.digest.to_le_bytes(), &header.crc.to_le_bytes()]);
        self.gaps |= header.kind == Kind::Gap;
    }

    /// The payload of the `End` frame that closes a segment here.
    pub fn end_payload(&self) -> [u8; END_PAYLOAD] {
        let mut out = [0; END_PAYLOAD];
        out[..8].copy_from_slice(&self.count.to_le_bytes());
        out[8..].copy_from_slice(&self.digest.to_le_bytes());
        out
    }
}

/// Bytes of what an `End` frame says.
pub(super) const END_PAYLOAD: usize = 12;
/// The room an `End` frame takes, which every segment keeps for it.
pub(super) const END_FRAME: u64 = (frame::HEADER + END_PAYLOAD).next_multiple_of(frame::ALIGN) as u64;

/// Where a frame stands in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A batch of its own.
    Whole,
    First,
    Inner,
    Last,
}

/// The place in a batch that the flags say, or `None` if they contradict each other.
pub(super) fn part(flags: Flags) -> Option<Part> {
    let has = |flag| flags.contains(flag);
    match (has(Flags::FIRST), has(Flags::CONT), has(Flags::LAST)) {
        (false, false, false) | (true, false, true) => Some(Part::Whole),
        (true, false, false) => Some(Part::First),
        (false, true, false) => Some(Part::Inner),
        (false, false, true) => Some(Part::Last),
        _ => None,
    }
}
