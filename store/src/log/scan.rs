//! Reads the frames of one segment in order and checks everything about them, without trusting anything that is on the disk.

use super::chain::{Chain, END_FRAME, END_PAYLOAD, Position};
use super::segment::Segment;
use crate::frame::{self, FrameHeader, HEADER, Invalid, Kind};
use crate::replica::EpochTable;
use gantry_model::{Lsn, ShardId};
use std::io;

/// Bytes asked of the disk at a time.
const CHUNK: usize = 1024 * 1024;
/// How far to step when a place can't be read: a page.
const UNREADABLE: u64 = 4096;
/// Where a frame's header has its address.
const ADDRESS: usize = 16;
const ZEROS: [u8; 4096] = [0; 4096];

/// A segment's bytes, read forward through one buffer.
pub(super) struct Window<'a> {
    segment: &'a Segment,
    buffer: Vec<u8>,
    /// Address of the first byte in `buffer`.
    start: Lsn,
    /// Bytes read so far.
    pub total: u64,
}

impl<'a> Window<'a> {
    pub fn new(segment: &'a Segment) -> Window<'a> {
        Window { segment, buffer: Vec::new(), start: segment.base(), total: 0 }
    }

    /// `len` bytes at `at`; fewer where the segment ends.
    pub fn get(&mut self, at: Lsn, len: usize) -> io::Result<&[u8]> {
        let most = self.segment.limit().0.saturating_sub(at.0) as usize;
        let len = len.min(most);
        if len == 0 {
            return Ok(&[]);
        }
        let inside = at >= self.start && at.0 + len as u64 <= self.start.0 + self.buffer.len() as u64;
        if !inside {
            self.buffer.resize(len.max(CHUNK).min(most), 0);
            let read = self.segment.file.read_at(self.segment.position(at), &mut self.buffer)?;
            self.buffer.truncate(read);
            self.start = at;
            self.total += read as u64;
        }
        let from = (at.0 - self.start.0) as usize;
        Ok(&self.buffer[from..(from + len).min(self.buffer.len())])
    }

    /// The header of the frame at `at`, if all of it is sound and it fits into the segment.
    pub fn frame(&mut self, at: Lsn, shard: ShardId) -> io::Result<Result<FrameHeader, Invalid>> {
        let limit = self.segment.limit();
        let Some(head) = self.get(at, HEADER)?.first_chunk::<HEADER>() else { return Ok(Err(Invalid::Blank)) };
        let len = match frame::claimed_len(head, at, shard) {
            Ok(len) => len,
            Err(invalid) => return Ok(Err(invalid)),
        };
        let end = at.0 + frame::padded(len) as u64;
        if end > limit.0 {
            return Ok(Err(Invalid::Length(len as u32)));
        }
        let header = match frame::check(self.get(at, len)?, at, shard) {
            Ok(header) => header,
            Err(invalid) => return Ok(Err(invalid)),
        };
        // Every other frame leaves room for the end.
        let closes = header.kind == Kind::End || header.kind == Kind::Gap;
        Ok(if closes || end + END_FRAME <= limit.0 { Ok(header) } else { Err(Invalid::Length(len as u32)) })
    }

    /// The first address in `from..to` at which something carries its own address as a frame does, sound or not.
    pub fn next_candidate(&mut self, from: Lsn, to: Lsn) -> io::Result<Option<Lsn>> {
        let mut at = from;
        while at.0 + HEADER as u64 <= to.0 {
            let chunk = self.get(at, CHUNK.min((to.0 - at.0) as usize))?;
            if chunk.len() < HEADER {
                return Ok(None);
            }
            if let Some(off) = candidate_in(chunk, at) {
                return Ok(Some(Lsn(at.0 + off as u64)));
            }
            let places = (chunk.len() - HEADER) / frame::ALIGN + 1;
            at = Lsn(at.0 + (places * frame::ALIGN) as u64);
        }
        Ok(None)
    }

    /// As `next_candidate`, stepping over what can't be read.
    pub fn next_readable_candidate(&mut self, mut at: Lsn, to: Lsn) -> Option<Lsn> {
        while at < to {
            match self.next_candidate(at, to) {
                Ok(found) => return found,
                Err(_) => at = Lsn(at.0 + UNREADABLE),
            }
        }
        None
    }
}

/// Where in `chunk`, which begins at `at`, something carries its own address as a frame does.
fn candidate_in(chunk: &[u8], at: Lsn) -> Option<usize> {
    let mut off = 0;
    while off + HEADER <= chunk.len() {
        // Most of what is behind the end of a log is zeros, which are skipped a page at a time; no address but the first is zero.
        let ahead = &chunk[off + ADDRESS..];
        if ahead.len() >= ZEROS.len() && at.0 + off as u64 > 0 && ahead[..ZEROS.len()] == ZEROS {
            off += ZEROS.len();
            continue;
        }
        let page_end = (off + ZEROS.len()).min(chunk.len() - HEADER + 1);
        for off in (off..page_end).step_by(frame::ALIGN) {
            let lsn = at.0 + off as u64;
            if chunk[off + ADDRESS..off + ADDRESS + 8] == lsn.to_le_bytes() && chunk[off..off + 4] != [0; 4] {
                return Some(off);
            }
        }
        off += ZEROS.len();
    }
    None
}

/// How far a segment could be read.
#[derive(Debug)]
pub(super) struct Scanned {
    /// Behind the last frame that counts: a batch counts only as a whole.
    pub position: Position,
    pub stop: Stop,
    /// Bytes read.
    pub bytes: u64,
    /// The epochs of the frames before `position`.
    pub epochs: EpochTable,
}

/// Why a scan stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// The segment is closed, and all of it is sound.
    Closed,
    /// There is no sound frame at this address. It may lie behind the position: in a batch.
    Invalid { at: Lsn, why: Invalid },
    /// The disk could not read there.
    Unreadable { at: Lsn, error: io::Error },
}

/// Reads a segment from its base. `closing` is the base of the segment behind it, when there is one.
pub(super) fn scan(segment: &Segment, chain: Chain, closing: Option<Lsn>) -> Scanned {
    let mut window = Window::new(segment);
    let mut position = Position::begin(segment.base(), chain);
    let mut inner = position;
    let mut in_batch = false;
    let mut epochs = EpochTable::default();
    let stop = loop {
        if Some(inner.at) == closing && inner.gaps {
            break Stop::Closed;
        }
        let header = match window.frame(inner.at, segment.header.owner.shard) {
            Ok(Ok(header)) => header,
            Ok(Err(why)) => break Stop::Invalid { at: inner.at, why },
            Err(error) => break Stop::Unreadable { at: inner.at, error },
        };
        match follow(&mut window, &inner, &header, in_batch) {
            Ok(still) => in_batch = still,
            Err(why) => break Stop::Invalid { at: inner.at, why },
        }
        inner.pass(&header);
        epochs.note(header.epoch, header.lsn);
        if !in_batch {
            position = inner;
        }
        if header.kind == Kind::End {
            break Stop::Closed;
        }
    };
    epochs.cut(position.at);
    Scanned { position, stop, bytes: window.total, epochs }
}

/// Whether a frame may stand here, and whether a batch goes on behind it.
fn follow(window: &mut Window<'_>, position: &Position, header: &FrameHeader, in_batch: bool) -> Result<bool, Invalid> {
    let payload = window.get(Lsn(header.lsn.0 + HEADER as u64), END_PAYLOAD).unwrap_or_default();
    position.may_follow(header, payload, in_batch)
}

/// The place in a segment where the frame that ends at `end` ends; `None` if none does.
pub(super) fn position_at(segment: &Segment, end: Lsn) -> io::Result<Option<Position>> {
    let mut window = Window::new(segment);
    let mut position = Position::begin(segment.base(), segment.header.before);
    while position.at < end {
        match window.frame(position.at, segment.header.owner.shard)? {
            Ok(header) if position.admits(&header).is_ok() => position.pass(&header),
            _ => return Ok(None),
        }
    }
    Ok(Some(position).filter(|position| position.at == end))
}

/// Whether a closed segment ends as its successor says, without reading the rest of it.
pub(super) fn ends_soundly(segment: &Segment, next: &Segment) -> io::Result<bool> {
    let (Some(at), shard) = (next.base().0.checked_sub(END_FRAME).map(Lsn), segment.header.owner.shard) else { return Ok(false) };
    if at < segment.base() || next.base() > segment.limit() {
        return Ok(false);
    }
    let end = Window::new(segment).frame(at, shard)?;
    Ok(end.is_ok_and(|header| header.kind == Kind::End && header.crc == next.header.before.crc))
}
