//! Reading the log from any thread, while its owner appends.
//!
//! What was published never changes, so a reader needs no lock but for a moment, to find the segment. Frames that this process wrote a
//! short while ago are slices of the file's map: no copy, no system call. Older ones are read with `pread`, since touching a page of a map that
//! is not in memory would stop the thread, and a page that can't be read would end the process.

use super::SegmentInfo;
use super::chain::{Part, part};
use super::segment::Segment;
use crate::frame::{self, Frame, HEADER, Invalid};
use bytes::Bytes;
use gantry_model::{Lsn, ShardId};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// How far behind the end frames are taken from the map: what was written last is in the page cache.
const TAIL: u64 = 64 * 1024 * 1024;
/// First read of a frame whose length is not known; most frames are shorter.
const FIRST_READ: usize = 4096;
/// Bytes read at a time where many frames are read in order.
const CHUNK: usize = 1024 * 1024;

/// What the owner and the readers of a log share.
pub(super) struct Shared {
    shard: ShardId,
    /// The end when the log was opened: this process wrote everything from here on.
    opened: Lsn,
    end: AtomicU64,
    durable: AtomicU64,
    /// In order of their bases, never empty, the last one active.
    segments: RwLock<Vec<Arc<Segment>>>,
    /// Segments in which somebody could not read a frame.
    doubted: Mutex<BTreeSet<Lsn>>,
}

impl Shared {
    pub fn new(segments: Vec<Arc<Segment>>, shard: ShardId, end: Lsn) -> Shared {
        Shared {
            shard,
            opened: end,
            end: AtomicU64::new(end.0),
            durable: AtomicU64::new(end.0),
            segments: RwLock::new(segments),
            doubted: Mutex::default(),
        }
    }

    /// Lets readers see everything before `end`, which was written before this call.
    pub fn publish(&self, end: Lsn) {
        self.end.store(end.0, Ordering::Release);
    }

    pub fn publish_durable(&self, durable: Lsn) {
        self.durable.store(durable.0, Ordering::Release);
    }

    pub fn add(&self, segment: Arc<Segment>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).push(segment);
    }

    /// Takes out the oldest segment if all of it is before `before`. The active one stays.
    pub fn drop_oldest(&self, before: Lsn) -> Option<Arc<Segment>> {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let droppable = segments.get(1).is_some_and(|next| next.base() <= before);
        droppable.then(|| segments.remove(0))
    }

    /// Takes out the newest segment if it begins behind `base`.
    pub fn drop_newest(&self, base: Lsn) -> Option<Arc<Segment>> {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        if segments.last()?.base() > base { segments.pop() } else { None }
    }

    pub fn replace_last(&self, segment: Arc<Segment>) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.pop();
        segments.push(segment);
    }

    /// The segment in which a frame at this address is or would be.
    pub fn holding(&self, lsn: Lsn) -> Arc<Segment> {
        self.read(|segments| Arc::clone(&segments[segments.partition_point(|segment| segment.base() <= lsn).saturating_sub(1)]))
    }

    pub fn start(&self) -> Lsn {
        self.read(|segments| segments[0].base())
    }

    pub fn segments(&self, end: Lsn) -> Vec<SegmentInfo> {
        self.read(|segments| {
            let ends = segments[1..].iter().map(|next| next.base()).chain([end]);
            let last = segments.len() - 1;
            let info = |(at, (segment, end)): (usize, (&Arc<Segment>, Lsn))| SegmentInfo {
                base: segment.base(),
                len: end.0.saturating_sub(segment.base().0),
                sealed: at < last,
                file: segment.header.size,
            };
            segments.iter().zip(ends).enumerate().map(info).collect()
        })
    }

    /// Passes on what was read, and notes where it could not be.
    fn noted<T>(&self, read: Result<T, ReadError>) -> Result<T, ReadError> {
        if let Err(ReadError::Damaged { lsn, .. } | ReadError::Io { lsn, .. }) = &read {
            let base = self.holding(*lsn).base();
            self.doubted.lock().unwrap_or_else(PoisonError::into_inner).insert(base);
        }
        read
    }

    fn read<T>(&self, look: impl FnOnce(&[Arc<Segment>]) -> T) -> T {
        look(&self.segments.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("shard", &self.shard).field("end", &self.end).field("durable", &self.durable).finish_non_exhaustive()
    }
}

/// Why a frame could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The log begins later.
    Trimmed {
        lsn: Lsn,
    },
    /// Nothing was written there yet.
    Beyond {
        lsn: Lsn,
    },
    /// What is there is not the frame that was written, or the address is not that of a frame.
    Damaged {
        segment: PathBuf,
        lsn: Lsn,
        why: Invalid,
    },
    Io {
        segment: PathBuf,
        lsn: Lsn,
        error: io::Error,
    },
}

impl ReadError {
    /// Whether retention took it: an answer, not a fault.
    pub fn is_trimmed(&self) -> bool {
        matches!(self, ReadError::Trimmed { .. })
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Trimmed { lsn } => write!(f, "address {lsn} is before the start of the log"),
            ReadError::Beyond { lsn } => write!(f, "address {lsn} is behind the end of the log"),
            ReadError::Damaged { segment, lsn, why } => write!(f, "no frame at address {lsn} in `{}`: {why}", segment.display()),
            ReadError::Io { segment, lsn, error } => write!(f, "reading address {lsn} in `{}` failed: {error}", segment.display()),
        }
    }
}

impl std::error::Error for ReadError {}

/// A cheap handle to read a log with.
#[derive(Clone, Debug)]
pub struct LogReader {
    pub(super) shared: Arc<Shared>,
}

/// Frames as they stand in the log.
#[derive(Clone, Debug)]
pub struct Raw {
    /// Whole batches, one at least.
    pub bytes: Bytes,
    /// Length of the file that they are in.
    pub file: u64,
}

/// A segment, and the end of what may be read in it.
type Found = (Arc<Segment>, Lsn);

impl LogReader {
    pub(super) fn new(shared: Arc<Shared>) -> LogReader {
        LogReader { shared }
    }

    /// Behind the last frame that can be read.
    pub fn end(&self) -> Lsn {
        Lsn(self.shared.end.load(Ordering::Acquire))
    }

    /// Behind the last frame that is durable on this disk.
    pub fn durable(&self) -> Lsn {
        Lsn(self.shared.durable.load(Ordering::Acquire))
    }

    /// The oldest frame.
    pub fn start(&self) -> Lsn {
        self.shared.start()
    }

    /// The frame at an address, checked. May wait for the disk.
    pub fn frame(&self, lsn: Lsn) -> Result<Frame, ReadError> {
        self.frame_of(lsn, 0)
    }

    /// The segments in which a frame could not be read since this was asked last, by their bases. An address that begins no frame is such a place, too.
    pub fn take_doubted(&self) -> BTreeSet<Lsn> {
        std::mem::take(&mut *self.shared.doubted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All segments in order; the last one is active.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.segments(self.end())
    }

    /// The frame of `len` bytes at an address, checked: no more than that is read. 0 if the length is not known. May wait for the disk.
    pub fn frame_of(&self, lsn: Lsn, len: u32) -> Result<Frame, ReadError> {
        self.shared.noted(self.read_frame(lsn, len))
    }

    fn read_frame(&self, lsn: Lsn, len: u32) -> Result<Frame, ReadError> {
        let (segment, end) = self.find(lsn)?;
        if self.is_recent(lsn) {
            return self.take_from_map(&segment, lsn, end);
        }
        let (mut bytes, mut len) = (Bytes::new(), if len == 0 { FIRST_READ } else { len as usize });
        loop {
            if bytes.len() < len {
                bytes = read(&segment, lsn, end, len).map_err(|error| failed(&segment, lsn, error))?;
            }
            let head = bytes.first_chunk().ok_or_else(|| damaged(&segment, lsn, Invalid::Blank))?;
            let claimed = frame::claimed_len(head, lsn, self.shared.shard).map_err(|why| damaged(&segment, lsn, why))?;
            if bytes.len() >= claimed || len >= claimed {
                return self.decode(&bytes, &segment, lsn);
            }
            len = claimed;
        }
    }

    /// The frame of `len` bytes at an address, or `None` if the disk would have to be waited for. Without a known length (0) one more
    /// read may be needed.
    pub fn try_frame(&self, lsn: Lsn, len: u32) -> Result<Option<Frame>, ReadError> {
        self.shared.noted(self.try_read_frame(lsn, len))
    }

    fn try_read_frame(&self, lsn: Lsn, len: u32) -> Result<Option<Frame>, ReadError> {
        let (segment, end) = self.find(lsn)?;
        if self.is_recent(lsn) {
            return self.take_from_map(&segment, lsn, end).map(Some);
        }
        let mut len = if len == 0 { FIRST_READ } else { len as usize };
        loop {
            let mut bytes = vec![0; len.min((end.0 - lsn.0) as usize)];
            let read = segment.file.try_read_at(segment.position(lsn), &mut bytes).map_err(|error| failed(&segment, lsn, error))?;
            let Some(read) = read else { return Ok(None) };
            // The page cache may hold the first part only; the rest would have to be waited for.
            if read < bytes.len() {
                return Ok(None);
            }
            let head = bytes.first_chunk().ok_or_else(|| damaged(&segment, lsn, Invalid::Blank))?;
            let claimed = frame::claimed_len(head, lsn, self.shared.shard).map_err(|why| damaged(&segment, lsn, why))?;
            if bytes.len() >= claimed || len >= claimed {
                return self.decode(&Bytes::from(bytes), &segment, lsn).map(Some);
            }
            len = claimed;
        }
    }

    /// Says that the frame at an address will be read soon; its first page is fetched meanwhile.
    pub fn will_need(&self, lsn: Lsn) {
        if let Ok((segment, _)) = self.find(lsn)
            && !self.is_recent(lsn)
        {
            segment.file.will_need(segment.position(lsn), FIRST_READ as u64);
        }
    }

    /// The frames from one address to another, each of which begins a frame, as far as the log goes. Ends with the first error. May wait for the
    /// disk.
    pub fn frames(&self, from: Lsn, to: Lsn) -> Frames<'_> {
        Frames { reader: self, at: from, to: to.min(self.end()), chunk: Bytes::new(), chunk_at: from, segment: None }
    }

    /// Whole batches from an address on, which begins one: as many as fit into `most` bytes, but one at least, all of one segment. May wait for the
    /// disk.
    pub fn raw(&self, from: Lsn, most: usize) -> Result<Raw, ReadError> {
        self.shared.noted(self.read_raw(from, most))
    }

    fn read_raw(&self, from: Lsn, most: usize) -> Result<Raw, ReadError> {
        let (segment, end) = self.find(from)?;
        let mut want = most.max(HEADER);
        loop {
            let bytes = self.bytes_at(&segment, from, end, want)?;
            let (whole, next) = self.batches(&segment, from, &bytes)?;
            if whole > 0 {
                return Ok(Raw { bytes: bytes.slice(..whole), file: segment.header.size });
            }
            if next <= bytes.len() || from.0 + next as u64 > end.0 {
                return Err(damaged(&segment, from, Invalid::Length(next as u32)));
            }
            want = next;
        }
    }

    fn bytes_at(&self, segment: &Segment, from: Lsn, end: Lsn, want: usize) -> Result<Bytes, ReadError> {
        let len = want.min((end.0 - from.0) as usize);
        if self.is_recent(from)
            && let Some(bytes) = segment.map.slice(segment.position(from), len)
        {
            return Ok(bytes);
        }
        read(segment, from, end, len).map_err(|error| failed(segment, from, error))
    }

    /// How many of the bytes are whole batches; and how many bytes would be one frame more.
    fn batches(&self, segment: &Segment, from: Lsn, bytes: &[u8]) -> Result<(usize, usize), ReadError> {
        let (mut whole, mut at) = (0, 0);
        while let Some(head) = bytes[at..].first_chunk::<HEADER>() {
            let lsn = Lsn(from.0 + at as u64);
            let len = frame::claimed_len(head, lsn, self.shared.shard).map_err(|why| damaged(segment, lsn, why))?;
            let next = at + frame::padded(len);
            if next > bytes.len() {
                return Ok((whole, next));
            }
            at = next;
            if !matches!(part(frame::flags_of(head)), Some(Part::First | Part::Inner)) {
                whole = at;
            }
        }
        Ok((whole, at + HEADER))
    }

    fn find(&self, lsn: Lsn) -> Result<Found, ReadError> {
        let published = self.end();
        if lsn >= published {
            return Err(ReadError::Beyond { lsn });
        }
        self.shared.read(|segments| {
            let after = segments.partition_point(|segment| segment.base() <= lsn);
            let segment = after.checked_sub(1).map(|at| Arc::clone(&segments[at])).ok_or(ReadError::Trimmed { lsn })?;
            let end = segments.get(after).map_or(published, |next| next.base()).min(segment.limit());
            if lsn < end { Ok((segment, end)) } else { Err(ReadError::Beyond { lsn }) }
        })
    }

    fn is_recent(&self, lsn: Lsn) -> bool {
        lsn >= self.shared.opened && lsn.0 + TAIL >= self.shared.end.load(Ordering::Relaxed)
    }

    fn take_from_map(&self, segment: &Segment, lsn: Lsn, end: Lsn) -> Result<Frame, ReadError> {
        let mut head = [0; HEADER];
        let position = segment.position(lsn);
        segment.map.read(position, &mut head).ok_or_else(|| damaged(segment, lsn, Invalid::Blank))?;
        let len = frame::claimed_len(&head, lsn, self.shared.shard).map_err(|why| damaged(segment, lsn, why))?;
        // Only published bytes may be sliced, so a length that reaches beyond them is not believed.
        let inside = lsn.0 + len as u64 <= end.0;
        let bytes = inside.then(|| segment.map.slice(position, len)).flatten();
        self.decode(&bytes.ok_or_else(|| damaged(segment, lsn, Invalid::Length(len as u32)))?, segment, lsn)
    }

    fn decode(&self, bytes: &Bytes, segment: &Segment, lsn: Lsn) -> Result<Frame, ReadError> {
        frame::decode(bytes, lsn, self.shared.shard).map_err(|why| damaged(segment, lsn, why))
    }
}

/// Up to `len` bytes at an address, none of them behind `end`.
fn read(segment: &Segment, lsn: Lsn, end: Lsn, len: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; len.min((end.0 - lsn.0) as usize)];
    let read = segment.file.read_at(segment.position(lsn), &mut bytes)?;
    bytes.truncate(read);
    Ok(Bytes::from(bytes))
}

fn damaged(segment: &Segment, lsn: Lsn, why: Invalid) -> ReadError {
    ReadError::Damaged { segment: segment.path.clone(), lsn, why }
}

fn failed(segment: &Segment, lsn: Lsn, error: io::Error) -> ReadError {
    ReadError::Io { segment: segment.path.clone(), lsn, error }
}

/// Frames in order, with those that the log writes itself (`End`, `Gap`). Payloads are slices of the chunks that were read.
#[derive(Debug)]
pub struct Frames<'a> {
    reader: &'a LogReader,
    at: Lsn,
    to: Lsn,
    chunk: Bytes,
    chunk_at: Lsn,
    segment: Option<Found>,
}

impl Frames<'_> {
    fn read_next(&mut self) -> Result<Frame, ReadError> {
        let lsn = self.at;
        let (segment, end) = match &self.segment {
            Some(found) if lsn < found.1 => found.clone(),
            _ => self.segment.insert(self.reader.find(lsn)?).clone(),
        };
        let head = self.bytes(&segment, end, HEADER)?;
        let head = head.first_chunk().ok_or_else(|| damaged(&segment, lsn, Invalid::Blank))?;
        let len = frame::claimed_len(head, lsn, self.reader.shared.shard).map_err(|why| damaged(&segment, lsn, why))?;
        let bytes = self.bytes(&segment, end, len)?;
        self.reader.decode(&bytes, &segment, lsn)
    }

    /// The next `len` bytes, and what else of the chunk follows them; fewer at the end.
    fn bytes(&mut self, segment: &Segment, end: Lsn, len: usize) -> Result<Bytes, ReadError> {
        let lsn = self.at;
        if self.chunk_at.0 + (self.chunk.len() as u64) < lsn.0 + len as u64 {
            self.chunk = read(segment, lsn, end, len.max(CHUNK)).map_err(|error| failed(segment, lsn, error))?;
            self.chunk_at = lsn;
        }
        Ok(self.chunk.slice((lsn.0 - self.chunk_at.0) as usize..))
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<(Lsn, Frame), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.to {
            return None;
        }
        let lsn = self.at;
        match self.read_next() {
            Ok(frame) => {
                self.at = Lsn(lsn.0 + frame::padded(frame.header.len as usize) as u64);
                Some(Ok((lsn, frame)))
            }
            Err(error) => {
                self.at = self.to;
                Some(Err(error))
            }
        }
    }
}
