//! The CommitLog of one shard: appends by one thread, group commit, recovery, and readers that never block it.
//!
//! The owner stages frames, writes them with one `pwrite`, syncs, and then tells who waits. After an I/O error the log is failed for good: the
//! kernel may have dropped what it could not write, so a later sync proves nothing.

pub mod reader;
mod recovery;
mod segment;
mod spares;
pub mod watermark;

use crate::frame::{self, Flags, FrameHeader, HEADER, Kind, VERSION, crc32c, padded};
use gantry_model::Lsn;
use gantry_platform::disk::SharedDisk;
use reader::Shared;
pub use reader::{LogReader, ReadError};
pub use recovery::{OpenError, Recovery};
use segment::{FRAMES, Header, Owner, Segment};
use spares::Spares;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of an `End` frame with its padding: header, count u64, digest u32.
pub(crate) const END_FRAME: u64 = 56;
const MIB: u64 = 1024 * 1024;

/// How a log is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub shard: u32,
    pub cluster: [u8; 16],
    /// Size of the first segment's file; each further one doubles.
    pub first_segment: u64,
    pub max_segment: u64,
    /// Cuts a damaged log instead of refusing to open; what is cut off is set aside in `bad/`.
    pub skip_damaged: bool,
}

impl Options {
    pub fn new(shard: gantry_model::ShardId, cluster: [u8; 16]) -> Options {
        Options { shard: shard.0, cluster, first_segment: 16 * MIB, max_segment: 256 * MIB, skip_damaged: false }
    }
}

/// Why something could not be appended.
#[derive(Debug)]
pub enum AppendError {
    /// There is no room for another segment. Nothing was appended; the log goes on once there is.
    Full,
    /// The disk failed. The log is failed for good.
    Failed(io::Error),
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppendError::Full => f.write_str("the disk has no room for another log segment"),
            AppendError::Failed(error) => write!(f, "writing the log failed: {error}; restart to verify what is on the disk"),
        }
    }
}

impl std::error::Error for AppendError {}

/// A segment as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub base: Lsn,
    /// Bytes of frames in it.
    pub len: u64,
    pub sealed: bool,
}

/// The log of one shard, owned by one thread.
#[derive(Debug)]
pub struct CommitLog {
    disk: SharedDisk,
    dir: PathBuf,
    options: Options,
    shared: Arc<Shared>,
    active: Arc<Segment>,
    /// A zeroed file for the next segment.
    next: Option<(PathBuf, Arc<dyn gantry_platform::disk::DiskFile>, u64)>,
    spares: Spares,
    staged: Vec<u8>,
    /// Everything before is written.
    end: Lsn,
    durable: Lsn,
    marked: Lsn,
    mark_number: u64,
    chain: u32,
    epoch: u32,
    time: u64,
    frames: u64,
    digest: u32,
    failed: bool,
}

impl CommitLog {
    /// The epoch of frames staged from now on.
    pub fn set_epoch(&mut self, epoch: u32) {
        assert!(epoch >= self.epoch, "epochs never decrease");
        self.epoch = epoch;
    }

    /// Adds a frame to what will be written next, and answers its address. May write and sync what was staged, to begin a new segment.
    pub fn stage(&mut self, kind: Kind, flags: Flags, time: u64, payload: &[&[u8]]) -> Result<Lsn, AppendError> {
        let len = padded(HEADER + payload.iter().map(|part| part.len()).sum::<usize>()) as u64;
        if self.staged_end().0 + len + END_FRAME > self.active.limit().0 {
            self.roll()?;
        }
        Ok(self.push(kind, flags, time, payload))
    }

    fn push(&mut self, kind: Kind, flags: Flags, time: u64, payload: &[&[u8]]) -> Lsn {
        let lsn = self.staged_end();
        self.time = self.time.max(time);
        let header = FrameHeader {
            len: 0, crc: 0, prev_crc: self.chain, epoch: self.epoch, lsn, time: self.time, kind, version: VERSION, flags, shard: self.options.shard,
        };
        self.chain = frame::encode(&mut self.staged, header, payload);
        self.frames += 1;
        self.digest = crc32c(&[&self.digest.to_le_bytes(), &self.chain.to_le_bytes()]);
        lsn
    }

    /// Makes sure that this many bytes of payload can be appended; begins to fill the next segment's file if the active one can't take them.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), AppendError> {
        let room = self.active.limit().0.saturating_sub(self.staged_end().0 + END_FRAME);
        if (bytes + 2 * HEADER) as u64 <= room || self.next.is_some() {
            return Ok(());
        }
        self.prepare_next()
    }

    /// Writes what is staged, and a mark of what was durable before. Answers the new end.
    pub fn write(&mut self) -> Result<Lsn, AppendError> {
        self.check()?;
        if self.staged.is_empty() {
            return Ok(self.end);
        }
        let position = self.active.position(self.end);
        self.guard(|log| log.active.file.write_at(position, &[IoSlice::new(&log.staged)]))?;
        if self.durable > self.marked {
            self.mark()?;
        }
        self.end = self.staged_end();
        self.staged.clear();
        self.shared.publish(self.end);
        self.ask_for_spare();
        Ok(self.end)
    }

    /// Makes what was written durable.
    pub fn sync(&mut self) -> Result<Lsn, AppendError> {
        self.check()?;
        self.guard(|log| log.active.file.sync_data())?;
        self.durable = self.end;
        Ok(self.durable)
    }

    /// Marks the last commit when nothing follows it.
    pub fn idle(&mut self) -> Result<(), AppendError> {
        self.check()?;
        if self.durable == self.marked {
            return Ok(());
        }
        self.mark()?;
        self.guard(|log| log.active.file.sync_data())
    }

    /// The last mark of a clean end.
    pub fn close(mut self) -> Result<(), AppendError> {
        self.write()?;
        self.sync()?;
        self.idle()
    }

    fn mark(&mut self) -> Result<(), AppendError> {
        self.mark_number += 1;
        let (durable, number) = (self.durable, self.mark_number);
        self.guard(|log| log.active.mark(durable, number))?;
        self.marked = durable;
        Ok(())
    }

    /// Ends the active segment and begins the next one. The old one is synced first, whatever is asked of the log.
    fn roll(&mut self) -> Result<(), AppendError> {
        if self.next.is_none() {
            self.prepare_next()?;
        }
        let (frames, digest) = (self.frames, self.digest);
        self.push(Kind::End, Flags::CRITICAL, self.time, &[&frames.to_le_bytes(), &digest.to_le_bytes()]);
        self.write()?;
        self.sync()?;
        self.begin_segment()
    }

    fn begin_segment(&mut self) -> Result<(), AppendError> {
        if self.next.is_none() {
            self.prepare_next()?;
        }
        let Some((spare, file, size)) = self.next.take() else { return Err(AppendError::Full) };
        let header = Header {
            owner: Owner { shard: self.options.shard, cluster: self.options.cluster },
            base: self.end,
            size: size - FRAMES,
            generation: 0,
            epoch: self.epoch,
            prev_crc: self.chain,
        };
        let made = Segment::create(&self.disk, &spare, file, &self.dir, header);
        let segment = Arc::new(made.map_err(|error| self.fail(error))?);
        self.shared.add(segment.clone());
        self.active = segment;
        (self.frames, self.digest, self.marked, self.mark_number) = (0, 0, self.end, 0);
        Ok(())
    }

    /// The size of the segment after the active one: twice as large, up to the maximum.
    fn next_size(&self) -> u64 {
        ((self.active.header.size + FRAMES) * 2).clamp(self.options.first_segment, self.options.max_segment)
    }

    fn prepare_next(&mut self) -> Result<(), AppendError> {
        let size = self.next_size();
        let made = self.spares.take(&self.disk, &self.dir, size);
        match made {
            Ok((path, file)) => {
                self.next = Some((path, file, size));
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Err(AppendError::Full),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Half a segment before it is needed, the next file is zeroed in the background.
    fn ask_for_spare(&mut self) {
        let used = self.end.0 - self.active.base().0;
        if self.next.is_none() && used > self.active.header.size / 2 {
            let size = self.next_size();
            self.spares.ask(&self.disk, &self.dir, size);
        }
    }

    fn check(&self) -> Result<(), AppendError> {
        if self.failed { Err(AppendError::Failed(io::Error::other("the log failed before"))) } else { Ok(()) }
    }

    fn guard(&mut self, act: impl FnOnce(&CommitLog) -> io::Result<()>) -> Result<(), AppendError> {
        act(self).map_err(|error| self.fail(error))
    }

    fn fail(&mut self, error: io::Error) -> AppendError {
        self.failed = true;
        AppendError::Failed(error)
    }

    /// Deletes the segments that lie wholly below `before`. Readers that hold one keep it until they let go.
    pub fn trim(&mut self, before: Lsn) -> io::Result<()> {
        for path in self.shared.trim(before) {
            self.disk.remove(&path)?;
        }
        Ok(())
    }

    pub fn staged_bytes(&self) -> usize {
        self.staged.len()
    }

    fn staged_end(&self) -> Lsn {
        Lsn(self.end.0 + self.staged.len() as u64)
    }

    /// One past the last byte written.
    pub fn end(&self) -> Lsn {
        self.end
    }

    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// The first address that is kept.
    pub fn start(&self) -> Lsn {
        self.shared.start()
    }

    /// Where the segment that is being filled begins.
    pub fn active_base(&self) -> Lsn {
        self.active.base()
    }

    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.segments(self.end)
    }

    pub fn reader(&self) -> LogReader {
        LogReader::new(self.shared.clone(), self.options.shard)
    }

    /// Opens the log in `dir/log`, makes it if there is none, and recovers what a crash left. The log before `checked` was read in full by a
    /// checkpoint, so that only its segment headers are looked at.
    pub fn open(disk: SharedDisk, dir: &Path, options: Options, checked: Lsn) -> Result<(CommitLog, Recovery), OpenError> {
        recovery::open(disk, dir, options, checked)
    }
}
