//! Reading the log from any thread: frames by their address, and in their order.
//!
//! Bytes that this process wrote lately are sliced from the mapped file without a copy. Older ones are asked of the page cache without waiting,
//! and only then, on a thread that may block, of the disk.

use super::segment::{FRAMES, Segment};
use crate::frame::{self, Frame, HEADER, Kind, padded};
use bytes::Bytes;
use gantry_model::Lsn;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Bytes behind the end that are surely in memory, as far as this process wrote them.
const TAIL: u64 = 64 * 1024 * 1024;

/// What the owner and the readers of a log share.
#[derive(Debug)]
pub struct Shared {
    /// By base, without gaps.
    segments: RwLock<Vec<Arc<Segment>>>,
    published: AtomicU64,
    /// Where this process began to write.
    opened: Lsn,
}

impl Shared {
    pub fn new(segments: Vec<Arc<Segment>>, end: Lsn) -> Shared {
        Shared { segments: RwLock::new(segments), published: AtomicU64::new(end.0), opened: end }
    }

    pub fn publish(&self, end: Lsn) {
        self.published.store(end.0, Ordering::Release);
    }

    pub fn add(&self, segment: Arc<Segment>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).push(segment);
    }

    pub fn start(&self) -> Lsn {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).first().map_or(Lsn(0), |segment| segment.base())
    }

    pub fn segments(&self, end: Lsn) -> Vec<super::SegmentInfo> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let ends = segments.iter().skip(1).map(|next| (next.base(), true)).chain([(end, false)]);
        segments.iter().zip(ends).map(|(segment, (end, sealed))| super::SegmentInfo { base: segment.base(), len: end.0 - segment.base().0, sealed }).collect()
    }

    /// Takes out the segments that end at or before `before`; never the last one.
    pub fn trim(&self, before: Lsn) -> Vec<PathBuf> {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let gone = segments.iter().skip(1).take_while(|next| next.base() <= before).count();
        segments.drain(..gone).map(|segment| segment.path.clone()).collect()
    }

    fn segment_of(&self, lsn: Lsn) -> Result<Arc<Segment>, ReadError> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|segment| segment.base() <= lsn);
        match after.checked_sub(1) {
            Some(at) => Ok(segments[at].clone()),
            None => Err(ReadError::Trimmed(lsn)),
        }
    }
}

/// Why a frame could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The log begins later.
    Trimmed(Lsn),
    /// Nothing was written there yet.
    Beyond(Lsn),
    /// What is there is not the frame that was written.
    Damaged { lsn: Lsn, segment: PathBuf },
    Io(io::Error),
}

impl ReadError {
    pub fn is_trimmed(&self) -> bool {
        matches!(self, ReadError::Trimmed(_))
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Trimmed(lsn) => write!(f, "address {lsn} is below the start of the log"),
            ReadError::Beyond(lsn) => write!(f, "address {lsn} is beyond the end of the log"),
            ReadError::Damaged { lsn, segment } => write!(f, "`{}` is damaged at address {lsn}", segment.display()),
            ReadError::Io(error) => write!(f, "reading the log failed: {error}"),
        }
    }
}

impl std::error::Error for ReadError {}

/// A cheap handle for reading a log.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
    shard: u32,
}

impl LogReader {
    pub fn new(shared: Arc<Shared>, shard: u32) -> LogReader {
        LogReader { shared, shard }
    }

    /// The frame at an address. May block on the disk.
    pub fn frame(&self, lsn: Lsn) -> Result<Frame, ReadError> {
        let segment = self.segment(lsn)?;
        self.from_map(&segment, lsn)
    }

    /// The frame of `len` bytes at an address, or `None` if the disk would have to be asked.
    pub fn try_frame(&self, lsn: Lsn, len: u32) -> Result<Option<Frame>, ReadError> {
        let segment = self.segment(lsn)?;
        let published = self.shared.published.load(Ordering::Acquire);
        if lsn >= self.shared.opened && lsn.0 + TAIL >= published || len == 0 && !segment.map.is_shared() {
            return self.from_map(&segment, lsn).map(Some);
        }
        if len == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; len as usize];
        match segment.file.try_read_at(segment.position(lsn), &mut bytes).map_err(ReadError::Io)? {
            Some(read) if read == bytes.len() => self.decode(Bytes::from(bytes), &segment, lsn).map(Some),
            Some(_) => Err(damaged(&segment, lsn)),
            None => Ok(None),
        }
    }

    /// The frames from one address to another, both of which begin a frame. Ends early with the first that can't be read.
    pub fn frames(&self, from: Lsn, to: Lsn) -> impl Iterator<Item = Result<(Lsn, Frame), ReadError>> + '_ {
        let mut at = from;
        let mut over = false;
        std::iter::from_fn(move || {
            if over || at >= to {
                return None;
            }
            let read = self.frame(at);
            let lsn = at;
            match &read {
                Ok(frame) => at = Lsn(at.0 + padded(frame.header.len as usize) as u64),
                Err(_) => over = true,
            }
            Some(read.map(|frame| (lsn, frame)))
        })
        .filter(|read| read.as_ref().map_or(true, |(_, frame)| frame.header.kind != Kind::End))
    }

    fn segment(&self, lsn: Lsn) -> Result<Arc<Segment>, ReadError> {
        if lsn.0 >= self.shared.published.load(Ordering::Acquire) {
            return Err(ReadError::Beyond(lsn));
        }
        self.shared.segment_of(lsn)
    }

    fn from_map(&self, segment: &Segment, lsn: Lsn) -> Result<Frame, ReadError> {
        read_mapped(segment, lsn, self.shard).ok_or_else(|| damaged(segment, lsn))
    }

    fn decode(&self, bytes: Bytes, segment: &Segment, lsn: Lsn) -> Result<Frame, ReadError> {
        frame::decode(&bytes, lsn, self.shard).ok_or_else(|| damaged(segment, lsn))
    }
}

fn damaged(segment: &Segment, lsn: Lsn) -> ReadError {
    ReadError::Damaged { lsn, segment: segment.path.clone() }
}

/// The frame at an address of a segment, if a good one is there.
pub fn read_mapped(segment: &Segment, lsn: Lsn, shard: u32) -> Option<Frame> {
    let position = segment.position(lsn);
    let end = FRAMES + segment.header.size;
    if position + HEADER as u64 > end {
        return None;
    }
    let head = segment.map.slice(position, HEADER)?;
    let len = frame::claimed_len(&head)?;
    if position + len as u64 > end {
        return None;
    }
    frame::decode(&segment.map.slice(position, len)?, lsn, shard)
}
