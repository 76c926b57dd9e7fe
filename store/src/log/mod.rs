//! The CommitLog of one shard: an endless sequence of frames in files of fixed size, appended by one thread, read by any.
//!
//! The owner stages frames, writes what it staged with one `pwrite`, syncs, and only then tells who waits. The sync in progress is the
//! batching window: what arrives meanwhile is staged together. After a write or sync that failed the log is failed for good, because the kernel may
//! have dropped what it could not write, and a later sync would prove nothing. Read this file first, then `recovery`.

mod chain;
mod follow;
mod mend;
mod origin;
pub mod reader;
pub mod recovery;
mod repair;
mod scan;
mod segment;
pub mod spares;
pub mod watermark;

#[cfg(test)]
mod append_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod follow_tests;
#[cfg(test)]
mod mend_tests;
#[cfg(test)]
mod rig;

use crate::frame::{self, FRAME_MAX, Flags, FrameHeader, Kind, VERSION};
use crate::replica::EpochTable;
use crate::zoo;
use chain::{Chain, END_FRAME, Part, Position, part};
use gantry_model::{Epoch, Lsn, ShardId};
use gantry_platform::disk::SharedDisk;
use reader::Shared;
use segment::{FRAMES, Header, Owner, Segment};
use spares::{Spare, Spares, is_full};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use follow::{TakeError, links, own_links};
pub use mend::{MendError, Scrub, damaged_until, mend};
pub use origin::Origin;
pub use reader::{Frames, LogReader, Raw, ReadError};
pub use recovery::{Damage, Known, OpenError, Recovery, Verdict};
pub use segment::HeaderError;
pub use spares::SpareMaker;

const MIB: u64 = 1024 * 1024;
/// The unit of the page cache.
const PAGE: u64 = 4096;
static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
/// Messages leave this much of a segment to the frames that must not be refused, unless the next segment is in hand already.
const CONTROL_ROOM: u64 = 2 * MIB;

/// How a log is laid out.
#[derive(Clone, Debug)]
pub struct Options {
    pub shard: ShardId,
    pub cluster: [u8; 16],
    /// Size of the first segment's file; each further one has twice the size of the one before.
    pub first_segment: u64,
    pub max_segment: u64,
    /// Files kept ready. If there are any, one of them is only for frames that are not messages.
    pub spares: usize,
    /// Goes on over damaged ranges instead of refusing to open; their bytes are kept in the shard's `bad/`.
    pub skip_damaged: bool,
}

impl Options {
    /// 16 MiB doubling to 256 MiB, two spares.
    pub fn new(shard: ShardId, cluster: [u8; 16]) -> Options {
        Options { shard, cluster, first_segment: 16 * MIB, max_segment: 256 * MIB, spares: 2, skip_damaged: false }
    }
}

/// Why something was not appended.
#[derive(Clone, Debug)]
pub enum AppendError {
    /// There is no room for another segment. Nothing was appended; the log goes on, and takes messages again when there is room.
    Full,
    /// The frame, or the batch it would complete, is longer than the log takes. Nothing of the batch was appended.
    TooLarge { bytes: u64, most: u64 },
    /// An `EpochStart` with an epoch below the log's, or without one. Nothing was appended.
    OldEpoch { epoch: Epoch, current: Epoch },
    /// The disk failed. The log takes nothing more; what was not acknowledged may or may not be there after a restart.
    Failed { doing: &'static str, error: Arc<io::Error> },
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppendError::Full => f.write_str("the disk has no room for another log segment"),
            AppendError::TooLarge { bytes, most } => write!(f, "a record of {bytes} bytes does not fit into the log, which takes {most}"),
            AppendError::OldEpoch { epoch, current } => write!(f, "epoch `{epoch}` can't begin, the log is in epoch `{current}`"),
            AppendError::Failed { doing, error } => {
                write!(f, "{doing} failed: {error}; the log is closed, restart to verify what is on the disk")
            }
        }
    }
}

impl std::error::Error for AppendError {}

/// One segment, for reports and retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub base: Lsn,
    /// Bytes of frames: the next segment begins at `base + len`.
    pub len: u64,
    /// Whether it is full, and another one follows.
    pub sealed: bool,
    /// Bytes that its file takes on the disk.
    pub file: u64,
}

/// What recovery hands over.
struct Parts {
    disk: SharedDisk,
    dir: PathBuf,
    options: Options,
    spares: Arc<Spares>,
    segments: Vec<Arc<Segment>>,
    position: Position,
    closed: bool,
    mark_number: u64,
    epochs: EpochTable,
}

/// The log of one shard. One thread owns it.
#[derive(Debug)]
pub struct CommitLog {
    disk: SharedDisk,
    dir: PathBuf,
    options: Options,
    spares: Arc<Spares>,
    shared: Arc<Shared>,
    active: Arc<Segment>,
    /// The file of the next segment, once it is sure that there will be one.
    next: Option<Spare>,
    /// Frames that are not written yet.
    staging: Vec<u8>,
    /// Behind the last staged frame.
    staged: Position,
    /// Room in the active segment that is promised to messages of this round.
    reserved: u64,
    /// Where the batch that is being staged began: position and length of `staging`.
    batch: Option<(Position, usize)>,
    written: Lsn,
    /// The frame before `written`.
    last: Chain,
    durable: Lsn,
    /// What the newest mark on the disk says.
    marked: Lsn,
    mark_number: u64,
    /// The end at the last call of `idle`.
    idle_end: Lsn,
    /// Of what is staged, too.
    epochs: EpochTable,
    failed: Option<AppendError>,
}

impl CommitLog {
    /// Opens the log in the shard's folder, or begins one. Segments before what is `known` are not read.
    pub fn open(disk: SharedDisk, shard_dir: &Path, options: Options, known: Known) -> Result<(CommitLog, Recovery), OpenError> {
        recovery::open(disk, shard_dir, options, known)
    }

    /// Puts a log together from sound segments, the last of which ends at `position`.
    fn assemble(parts: Parts) -> Result<CommitLog, OpenError> {
        let Parts { disk, dir, options, spares, mut segments, position, closed, mark_number, epochs } = parts;
        let owner = Owner { cluster: options.cluster, shard: options.shard };
        let mut staged = position;
        let mut number = mark_number;
        if closed {
            let size = next_size(&options, segments.last());
            let no_room = |error: io::Error| if is_full(&error) { None } else { Some(recovery::io_at(&dir)(error)) };
            let spare = match spares.take(0) {
                Some(spare) => spare,
                None => spares.create(&*disk, size).map_err(|error| no_room(error).unwrap_or(OpenError::NoRoom { dir: dir.clone(), bytes: size }))?,
            };
            staged = Position::begin(position.at, position.chain);
            let header = Header { owner, base: staged.at, size: spare.size, generation: spare.uses, before: staged.chain };
            let segment = Segment::begin(&*disk, &spare.path, spare.file, &dir, header).map_err(recovery::io_at(&dir))?;
            segments.push(Arc::new(segment));
            number = 0;
        }
        let active = Arc::clone(segments.last().expect("a closed log just got a segment, and an open one has one"));
        spares.want_size(next_size(&options, Some(&active)));
        let marked = active.newest_mark().map_err(recovery::io_at(&active.path))?.0;
        let shared = Arc::new(Shared::new(segments, options.shard, staged.at));
        Ok(CommitLog {
            disk,
            dir,
            options,
            spares,
            shared,
            active,
            next: None,
            staging: Vec::new(),
            staged,
            reserved: 0,
            batch: None,
            written: staged.at,
            last: staged.chain,
            durable: staged.at,
            marked,
            mark_number: number,
            idle_end: staged.at,
            epochs,
            failed: None,
        })
    }

    /// Encodes a frame behind what is staged, and returns its address. When the segment is full, it is closed and synced, and the next one begins;
    /// that is the only disk access here. A time below the last frame's is raised to it. An `EpochStart` moves the log to its epoch.
    pub fn stage(&mut self, kind: Kind, flags: Flags, time: u64, payload: &[&[u8]]) -> Result<Lsn, AppendError> {
        self.usable()?;
        let epoch = if kind == Kind::EpochStart { self.epoch_of(payload)? } else { self.staged.chain.epoch };
        let step = part(flags).expect("flags say one place in a batch");
        let inside = self.batch.is_some();
        assert_eq!(inside, matches!(step, Part::Inner | Part::Last), "a batch is staged from first to last with nothing between");
        let bytes = frame::padded(frame::len_of(payload)) as u64;
        if bytes > self.frame_max() || inside && bytes > self.room() {
            self.withdraw_batch();
            return Err(AppendError::TooLarge { bytes, most: self.frame_max() });
        }
        let promised = if kind.is_data() { 0 } else { self.reserved };
        if bytes + promised > self.room() && !inside {
            self.roll(kind.is_data())?;
        }
        if kind.is_data() {
            self.reserved = self.reserved.saturating_sub(bytes);
        }
        match step {
            Part::First => self.batch = Some((self.staged, self.staging.len())),
            Part::Last => self.batch = None,
            Part::Whole | Part::Inner => {}
        }
        Ok(self.put(kind, flags, time, epoch, payload))
    }

    /// Makes sure that messages whose frames have so many bytes together can be staged before the next write without meeting `Full`, and that
    /// a batch of them stays in one segment. Rolls when they would not fit.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), AppendError> {
        self.usable()?;
        assert!(self.batch.is_none(), "room is reserved before a batch begins");
        // The zeros behind each frame: at most 7 bytes, and the smallest message has 88.
        let bytes = bytes as u64 + bytes as u64 / 8 + frame::ALIGN as u64;
        if bytes > self.batch_max() {
            return Err(AppendError::TooLarge { bytes, most: self.batch_max() });
        }
        let control = CONTROL_ROOM.min((self.active.limit().0 - self.active.base().0) / 4);
        if bytes + control > self.room() {
            if self.next.is_none() {
                self.next = Some(self.obtain(true)?);
            }
            if bytes > self.room() {
                self.roll(true)?;
            }
        }
        self.reserved = bytes;
        Ok(())
    }

    /// Writes what is staged, and lets readers see it. Returns the new end, which is not durable yet.
    pub fn write(&mut self) -> Result<Lsn, AppendError> {
        self.usable()?;
        assert!(self.batch.is_none(), "a batch is written whole");
        self.reserved = 0;
        if self.staging.is_empty() {
            return Ok(self.written);
        }
        self.mark()?;
        let at = self.active.position(self.written);
        // Whole pages: the kernel need not read a page of a fresh file from the disk before a part of it changes. What is behind the end is zeros
        // anyway.
        let end = at + self.staging.len() as u64;
        let rest = (end.next_multiple_of(PAGE) - end).min(self.active.position(self.active.limit()) - end) as usize;
        let written = self.active.file.write_at(at, &[IoSlice::new(&self.staging), IoSlice::new(&ZEROS[..rest])]);
        self.check("writing the log", written)?;
        self.staging.clear();
        (self.written, self.last) = (self.staged.at, self.staged.chain);
        self.shared.publish(self.written);
        Ok(self.written)
    }

    /// Makes what is written durable, and returns the end of it.
    pub fn sync(&mut self) -> Result<Lsn, AppendError> {
        self.usable()?;
        let synced = self.active.file.sync_data();
        let synced = if zoo!(RetrySync) { synced.or_else(|_| self.active.file.sync_data()) } else { synced };
        self.check("syncing the log", synced)?;
        self.durable = self.written;
        self.shared.publish_durable(self.durable);
        Ok(self.durable)
    }

    /// To be called about once a second: when nothing was written since the last call, the last commit gets its own mark, so that damage
    /// to it can be told from a torn write.
    pub fn idle(&mut self) -> Result<(), AppendError> {
        self.usable()?;
        let quiet = self.idle_end == self.written && self.staging.is_empty() && self.durable == self.written;
        self.idle_end = self.written;
        if quiet && self.marked < self.durable {
            self.mark()?;
            self.sync()?;
        }
        Ok(())
    }

    /// Writes, syncs and marks everything: the end of a clean run.
    pub fn close(mut self) -> Result<(), AppendError> {
        self.write()?;
        self.sync()?;
        if self.marked < self.durable {
            self.mark()?;
            self.sync()?;
        }
        Ok(())
    }

    /// Moves the log to a new epoch without a frame, as a follower does on behalf of its leader.
    pub fn set_epoch(&mut self, epoch: Epoch) -> Result<(), AppendError> {
        let current = self.staged.chain.epoch;
        if epoch < current {
            return Err(AppendError::OldEpoch { epoch, current });
        }
        self.staged.chain.epoch = epoch;
        Ok(())
    }

    /// Drops the whole segments before an address. Their files become spares if some are wanted and nobody reads them, else they are
    /// removed; readers that still hold frames keep the bytes.
    pub fn trim(&mut self, before: Lsn) -> io::Result<()> {
        let trimmed = self.drop_before(before);
        self.epochs.trim(self.start());
        trimmed
    }

    fn drop_before(&mut self, before: Lsn) -> io::Result<()> {
        while let Some(segment) = self.shared.drop_oldest(before) {
            let Header { size, generation, .. } = segment.header;
            let path = segment.path.clone();
            // A slice of the map holds the map, a reader the segment: a file that either can see must not be written again.
            match Arc::try_unwrap(segment) {
                Ok(segment) if !segment.map.is_shared() && self.spares.has_place_for(size) => {
                    self.spares.recycle(&*self.disk, &path, segment.file, size, generation + 1)?;
                }
                _ => self.disk.remove(&path)?,
            }
        }
        Ok(())
    }

    /// Bytes that the next `write` will write.
    pub fn staged_bytes(&self) -> usize {
        self.staging.len()
    }

    /// Behind the last written frame.
    pub fn end(&self) -> Lsn {
        self.written
    }

    /// Behind the last synced frame.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// The oldest frame.
    pub fn start(&self) -> Lsn {
        self.shared.start()
    }

    /// Where the segment begins that takes the next frame.
    pub fn active_base(&self) -> Lsn {
        self.active.base()
    }

    /// The epoch of the frames that are staged now.
    pub fn epoch(&self) -> Epoch {
        self.staged.chain.epoch
    }

    /// The store time of the last staged frame.
    pub fn last_time(&self) -> u64 {
        self.staged.chain.time
    }

    /// All segments in order; the last one is active.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.segments(self.written)
    }

    /// A handle to read from any thread.
    pub fn reader(&self) -> LogReader {
        LogReader::new(Arc::clone(&self.shared))
    }

    /// Whether fewer spares are ready than wanted.
    pub fn needs_spare(&self) -> bool {
        self.spares.is_short()
    }

    /// What makes spares, for a background thread.
    pub fn spare_maker(&self) -> SpareMaker {
        SpareMaker::new(Arc::clone(&self.disk), Arc::clone(&self.spares))
    }

    fn usable(&self) -> Result<(), AppendError> {
        self.failed.as_ref().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Remembers a failure for ever.
    fn check<T>(&mut self, doing: &'static str, result: io::Result<T>) -> Result<T, AppendError> {
        result.map_err(|error| {
            let error = AppendError::Failed { doing, error: Arc::new(error) };
            self.failed = Some(error.clone());
            error
        })
    }

    fn epoch_of(&self, payload: &[&[u8]]) -> Result<Epoch, AppendError> {
        let current = self.staged.chain.epoch;
        let mut bytes = payload.iter().flat_map(|part| part.iter().copied());
        let mut number = [0; 4];
        number.iter_mut().for_each(|byte| *byte = bytes.next().unwrap_or(0));
        let epoch = Epoch(u32::from_le_bytes(number));
        if epoch < current { Err(AppendError::OldEpoch { epoch, current }) } else { Ok(epoch) }
    }

    /// Bytes left in the active segment.
    fn room(&self) -> u64 {
        self.active.limit().0 - END_FRAME - self.staged.at.0
    }

    /// The most that fits into an empty segment of the smallest size.
    fn batch_max(&self) -> u64 {
        self.options.first_segment - FRAMES - END_FRAME
    }

    fn frame_max(&self) -> u64 {
        self.batch_max().min(FRAME_MAX as u64)
    }

    fn withdraw_batch(&mut self) {
        if let Some((position, len)) = self.batch.take() {
            self.staged = position;
            self.staging.truncate(len);
        }
    }

    fn put(&mut self, kind: Kind, flags: Flags, time: u64, epoch: Epoch, payload: &[&[u8]]) -> Lsn {
        let lsn = self.staged.at;
        let critical = if kind.is_critical() { Flags::CRITICAL } else { Flags::default() };
        let mut header = FrameHeader {
            len: frame::len_of(payload) as u32,
            crc: 0,
            prev_crc: self.staged.chain.crc,
            epoch,
            lsn,
            time: time.max(self.staged.chain.time),
            kind,
            version: VERSION,
            flags: flags | critical,
            shard: self.options.shard,
        };
        header.crc = frame::encode(&mut self.staging, &header, payload);
        self.pass(&header);
        lsn
    }

    /// Moves behind a frame that was staged.
    fn pass(&mut self, header: &FrameHeader) {
        self.staged.pass(header);
        self.epochs.note(header.epoch, header.lsn);
    }

    /// Closes the segment and begins the next. If there is no room for one, everything stays as it was.
    fn roll(&mut self, data: bool) -> Result<(), AppendError> {
        let spare = match self.next.take() {
            Some(spare) => spare,
            None => self.obtain(data)?,
        };
        let payload = self.staged.end_payload();
        self.put(Kind::End, Flags::default(), 0, self.staged.chain.epoch, &[&payload]);
        self.begin_next(spare)
    }

    /// Makes the segment durable, whose `End` is staged, and goes on in a new file.
    fn begin_next(&mut self, spare: Spare) -> Result<(), AppendError> {
        self.write()?;
        self.sync()?;
        let begin = Position::begin(self.staged.at, self.staged.chain);
        let owner = self.active.header.owner;
        let header = Header { owner, base: begin.at, size: spare.size, generation: spare.uses, before: begin.chain };
        let begun = Segment::begin(&*self.disk, &spare.path, spare.file, &self.dir, header);
        let segment = Arc::new(self.check("beginning a log segment", begun)?);
        self.shared.add(Arc::clone(&segment));
        self.active = segment;
        self.staged = begin;
        // The new file's name says that everything before it is durable.
        (self.marked, self.mark_number) = (begin.at, 0);
        self.spares.want_size(next_size(&self.options, Some(&self.active)));
        Ok(())
    }

    /// A file for the next segment. The last spare is not for messages.
    fn obtain(&mut self, data: bool) -> Result<Spare, AppendError> {
        if let Some(spare) = self.spares.take(self.spares.reserve()) {
            return Ok(spare);
        }
        let mut size = next_size(&self.options, Some(&self.active));
        let free = self.disk.space().map_or(u64::MAX, |space| space.free);
        while size > free && size > self.options.first_segment {
            size = (size / 2).max(self.options.first_segment);
        }
        let made = if size > free { Err(io::ErrorKind::StorageFull.into()) } else { self.spares.create(&*self.disk, size) };
        match made {
            Ok(spare) => Ok(spare),
            Err(error) if is_full(&error) && data => Err(AppendError::Full),
            Err(error) if is_full(&error) => self.spares.take(0).ok_or(AppendError::Full),
            Err(error) => self.check("making a log segment", Err(error)),
        }
    }

    /// Says on the disk what the last sync made durable; made durable itself by the next one.
    fn mark(&mut self) -> Result<(), AppendError> {
        if self.marked == self.durable {
            return Ok(());
        }
        self.mark_number += 1;
        let written = self.active.mark(self.durable, self.mark_number);
        self.check("writing a durable mark", written)?;
        self.marked = self.durable;
        Ok(())
    }
}

fn next_size(options: &Options, last: Option<&Arc<Segment>>) -> u64 {
    last.map_or(options.first_segment, |segment| (segment.header.size * 2).min(options.max_segment))
}
