//! Putting back what a disk lost of the log, with the same bytes from another replica, and looking for such places.
//!
//! Replicas' logs are equal byte by byte, so what is damaged here is sound there. The bytes are believed only if they fit to what is before and behind
//! them here: each frame names the checksum of the one before. What they replace is kept in the shard's `bad/`.

use super::recovery::chain_before;
use super::scan::{Window, position_at};
use super::segment::{HeaderError, Owner, Segment, base_of};
use super::{LogReader, Options, ReadError, repair};
use crate::frame::{self, HEADER, Invalid};
use bytes::Bytes;
use gantry_model::Lsn;
use gantry_platform::disk::Disk;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;

/// Why a range was not mended. Nothing was changed.
#[derive(Debug)]
pub enum MendError {
    Io(io::Error),
    /// No file holds the range, or its header can't be read: there is more to repair than a range.
    NoSegment(Lsn),
    /// The bytes don't fit to what is here.
    Foreign {
        lsn: Lsn,
        why: Invalid,
    },
}

impl fmt::Display for MendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MendError::Io(error) => write!(f, "the log can't be mended: {error}"),
            MendError::NoSegment(lsn) => write!(f, "no readable file of the log holds the address {lsn}"),
            MendError::Foreign { lsn, why } => write!(f, "the frames that are to be put at {lsn} don't fit to the log: {why}"),
        }
    }
}

impl std::error::Error for MendError {}

impl From<io::Error> for MendError {
    fn from(error: io::Error) -> MendError {
        MendError::Io(error)
    }
}

/// Puts whole frames where damaged ones are, durably. The log may be open meanwhile.
pub fn mend(disk: &dyn Disk, shard_dir: &Path, options: &Options, from: Lsn, bytes: &[u8]) -> Result<(), MendError> {
    let segment = holding(disk, shard_dir, options, from)?;
    let to = Lsn(from.0 + bytes.len() as u64);
    if to > segment.limit() {
        return Err(MendError::Foreign { lsn: from, why: Invalid::Length(bytes.len() as u32) });
    }
    let shard = options.shard;
    let mut position = match position_at(&segment, from)? {
        Some(position) => position,
        None => return Err(MendError::Foreign { lsn: from, why: Invalid::Chain }),
    };
    debug_assert_eq!(position.chain, chain_before(&segment, from));
    while position.at < to {
        let at = (position.at.0 - from.0) as usize;
        let foreign = |why| MendError::Foreign { lsn: position.at, why };
        let head = bytes[at..].first_chunk::<HEADER>().ok_or_else(|| foreign(Invalid::Blank))?;
        let len = frame::claimed_len(head, position.at, shard).map_err(foreign)?;
        let whole = bytes.get(at..at + len).filter(|_| at + frame::padded(len) <= bytes.len()).ok_or_else(|| foreign(Invalid::Length(len as u32)))?;
        let header = frame::check(whole, position.at, shard).map_err(foreign)?;
        position.admits(&header).map_err(foreign)?;
        position.pass(&header);
    }
    // What is sound behind the range was sound before, and must go on from it.
    if let Ok(Ok(next)) = Window::new(&segment).frame(to, shard)
        && let Err(why) = position.admits(&next)
    {
        return Err(MendError::Foreign { lsn: to, why });
    }
    let why = "these bytes were damaged; others came in their place from another replica";
    repair::set_aside(disk, &shard_dir.join("bad"), &segment, from, to, why)?;
    segment.file.write_at(segment.position(from), &[IoSlice::new(bytes)])?;
    Ok(segment.file.sync_data()?)
}

/// Up to where frames are damaged that can't be read from `from` on: where the log goes on, or `bound`, where it is known to.
pub fn damaged_until(disk: &dyn Disk, shard_dir: &Path, options: &Options, from: Lsn, bound: Lsn) -> Result<Lsn, MendError> {
    let segment = holding(disk, shard_dir, options, from)?;
    let bound = bound.min(segment.limit());
    Ok(repair::resume(&segment, from, bound)?.map_or(bound, |(to, _)| to.min(bound)))
}

fn holding(disk: &dyn Disk, shard_dir: &Path, options: &Options, lsn: Lsn) -> Result<Segment, MendError> {
    let paths = disk.list(&shard_dir.join("log"))?;
    let path = paths.iter().filter_map(|path| Some((base_of(path)?, path))).filter(|(base, _)| *base <= lsn).max();
    let (_, path) = path.ok_or(MendError::NoSegment(lsn))?;
    let owner = Owner { cluster: options.cluster, shard: options.shard };
    match Segment::open(disk, path, owner)? {
        Ok(segment) if lsn < segment.limit() => Ok(segment),
        Ok(_) | Err(HeaderError::Damaged | HeaderError::Foreign | HeaderError::Newer(_)) => Err(MendError::NoSegment(lsn)),
    }
}

/// How far a log has been looked through for damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrub {
    pub at: Lsn,
    /// The checksum of the frame before.
    crc: u32,
}

impl LogReader {
    /// Begins to look through the sealed segment that begins at `base`.
    pub fn scrub_from(&self, base: Lsn) -> Scrub {
        Scrub { at: base, crc: self.shared.holding(base).header.before.crc }
    }

    /// Looks at frames up to `to`, which ends a segment, but at so many bytes only and at one frame at least. An error names the first frame that can't be
    /// read or does not follow the one before it.
    pub fn scrub(&self, scrub: &mut Scrub, to: Lsn, most: u64) -> Result<(), ReadError> {
        let begin = scrub.at;
        for frame in self.frames(begin, to) {
            let (lsn, frame) = frame?;
            if frame.header.prev_crc != scrub.crc {
                let segment = self.shared.holding(lsn).path.clone();
                return Err(ReadError::Damaged { segment, lsn, why: Invalid::Chain });
            }
            let end = Lsn(lsn.0 + frame::padded(frame.header.len as usize) as u64);
            *scrub = Scrub { at: end, crc: frame.header.crc };
            if end.0 - begin.0 >= most {
                break;
            }
        }
        Ok(())
    }

    /// Whole frames as they stand in the log, each of them sound: from `from` up to the first that ends at `to` or behind, or as many as fit into `most`
    /// bytes, but one at least.
    pub fn stretch(&self, from: Lsn, to: Lsn, most: usize) -> Result<Bytes, ReadError> {
        let mut end = from;
        for frame in self.frames(from, to) {
            let (lsn, frame) = frame?;
            let next = Lsn(lsn.0 + frame::padded(frame.header.len as usize) as u64);
            if end > from && next.0 - from.0 > most as u64 {
                break;
            }
            end = next;
        }
        if end == from {
            return Err(ReadError::Beyond { lsn: from });
        }
        let segment = self.shared.holding(from);
        // A range is in one segment.
        let end = end.min(segment.limit());
        let mut bytes = vec![0; (end.0 - from.0) as usize];
        let read = segment.file.read_at(segment.position(from), &mut bytes);
        let read = read.map_err(|error| ReadError::Io { segment: segment.path.clone(), lsn: from, error })?;
        bytes.truncate(read);
        Ok(bytes.into())
    }
}
