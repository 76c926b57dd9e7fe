//! What a log is after a crash: which frames count, and whether something that was acknowledged is damaged.
//!
//! The first bad frame decides. At or after the newest durable mark, with no later segment, it is the torn tail of a write that was never
//! acknowledged: the log ends there. Before the mark, or with a later segment behind it, acknowledged data is damaged: nothing is cut, and the
//! log is refused unless the operator says otherwise.

use super::reader::{Shared, read_mapped};
use super::segment::{FRAMES, HeaderError, Segment, base_of};
use super::{CommitLog, END_FRAME, Options, spares};
use crate::frame::{Flags, Frame, Kind, crc32c, padded};
use gantry_model::Lsn;
use gantry_platform::disk::{PARTIAL_SUFFIX, SharedDisk};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that are zeroed behind a cut, so that nothing of the old tail follows the new one directly.
const CUT_ZEROES: u64 = 64 * 1024;

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    pub end: Lsn,
    pub last_epoch: u32,
    pub last_time: u64,
    /// Where an unacknowledged tail was cut off.
    pub torn_at: Option<Lsn>,
    pub bytes_scanned: u64,
}

/// Why a log can't be opened. Nothing was changed.
#[derive(Debug)]
pub enum OpenError {
    /// Acknowledged frames can't be read.
    Damaged { segment: PathBuf, from: Lsn, durable: Lsn },
    /// A file that is no segment of this shard.
    Foreign { segment: PathBuf, why: &'static str },
    /// Written by another version.
    Version { segment: PathBuf, found: u32 },
    /// A segment between two others is gone.
    Missing { dir: PathBuf, from: Lsn, to: Lsn },
    Io { path: PathBuf, error: io::Error },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Damaged { segment, from, durable } => write!(
                f,
                "`{}` is damaged at address {from}, before {durable} up to which data was acknowledged; nothing was changed. Restore the file from a \
                 backup, or start once with `--skip-damaged` to set the rest of the log aside in `bad/` and go on without it",
                segment.display()
            ),
            OpenError::Foreign { segment, why } => {
                write!(f, "`{}` {why}; nothing was changed. Move the file away if it does not belong here", segment.display())
            }
            OpenError::Version { segment, found } => {
                write!(f, "`{}` has format {found}, this version of gantry reads format 1; run the version that wrote it", segment.display())
            }
            OpenError::Missing { dir, from, to } => {
                write!(f, "a segment is missing in `{}`: addresses {from} to {to}; restore it from a backup", dir.display())
            }
            OpenError::Io { path, error } => write!(f, "`{}`: {error}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {}

pub fn open(disk: SharedDisk, dir: &Path, options: Options, checked: Lsn) -> Result<(CommitLog, Recovery), OpenError> {
    let dir = dir.join("log");
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| OpenError::Io { path, error }
    };
    disk.create_dir_all(&dir).map_err(io(&dir))?;
    for path in disk.list(&dir).map_err(io(&dir))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(PARTIAL_SUFFIX) || name.starts_with("spare-") {
            disk.remove(&path).map_err(io(&path))?;
        }
    }
    let segments = open_segments(&disk, &dir, &options)?;
    let Some(last) = segments.last().cloned() else { return create(disk, dir, options) };
    check_joints(&segments, &dir, options.shard, checked)?;
    let scan = Scan::run(&last, options.shard, options.skip_damaged);
    let (durable, mark_number) = last.newest_mark().map_err(io(&last.path))?;
    if scan.end < durable {
        if !options.skip_damaged {
            return Err(OpenError::Damaged { segment: last.path.clone(), from: scan.end, durable });
        }
        set_aside(&disk, &dir, &last, scan.end).map_err(io(&last.path))?;
    }
    cut(&last, scan.end).map_err(io(&last.path))?;
    let recovery = Recovery {
        end: scan.end,
        last_epoch: scan.epoch.max(last.header.epoch),
        last_time: scan.time,
        torn_at: scan.torn.then_some(scan.end),
        bytes_scanned: scan.end.0 - last.base().0,
    };
    let log = CommitLog {
        shared: Arc::new(Shared::new(segments, scan.end)),
        active: last,
        next: None,
        spares: spares::Spares::default(),
        staged: Vec::new(),
        end: scan.end,
        durable: scan.end,
        marked: durable.min(scan.end),
        mark_number,
        chain: scan.chain,
        epoch: recovery.last_epoch,
        time: scan.time,
        frames: scan.frames,
        digest: scan.digest,
        failed: false,
        disk,
        dir,
        options,
    };
    finish_open(log, scan.ended, recovery)
}

/// The tail that recovery accepted must be as durable as what is appended to it; and a segment that was ended gets its successor.
fn finish_open(mut log: CommitLog, ended: bool, recovery: Recovery) -> Result<(CommitLog, Recovery), OpenError> {
    let path = log.active.path.clone();
    log.active.file.sync_data().map_err(|error| OpenError::Io { path: path.clone(), error })?;
    if ended {
        log.begin_segment().map_err(|error| OpenError::Io { path, error: io::Error::other(error.to_string()) })?;
    }
    Ok((log, recovery))
}

fn create(disk: SharedDisk, dir: PathBuf, options: Options) -> Result<(CommitLog, Recovery), OpenError> {
    let fail = |error| OpenError::Io { path: dir.clone(), error };
    let (spare, file) = spares::Spares::default().take(&disk, &dir, options.first_segment).map_err(fail)?;
    let owner = super::segment::Owner { shard: options.shard, cluster: options.cluster };
    let size = options.first_segment - FRAMES;
    let header = super::segment::Header { owner, base: Lsn(0), size, generation: 0, epoch: 0, prev_crc: 0 };
    let active = Arc::new(Segment::create(&disk, &spare, file, &dir, header).map_err(fail)?);
    let log = CommitLog {
        shared: Arc::new(Shared::new(vec![active.clone()], Lsn(0))),
        active,
        next: None,
        spares: spares::Spares::default(),
        staged: Vec::new(),
        end: Lsn(0),
        durable: Lsn(0),
        marked: Lsn(0),
        mark_number: 0,
        chain: 0,
        epoch: 0,
        time: 0,
        frames: 0,
        digest: 0,
        failed: false,
        disk,
        dir,
        options,
    };
    Ok((log, Recovery::default()))
}

fn open_segments(disk: &SharedDisk, dir: &Path, options: &Options) -> Result<Vec<Arc<Segment>>, OpenError> {
    let mut segments = Vec::new();
    for path in disk.list(dir).map_err(|error| OpenError::Io { path: dir.to_owned(), error })? {
        let Some(base) = base_of(&path) else { continue };
        let foreign = |why| OpenError::Foreign { segment: path.clone(), why };
        let opened = Segment::open(disk, &path).map_err(|error| OpenError::Io { path: path.clone(), error })?;
        let segment = match opened {
            Ok(segment) => segment,
            Err(HeaderError::NotOurs) => return Err(foreign("is not a log segment")),
            Err(HeaderError::Version(found)) => return Err(OpenError::Version { segment: path, found }),
            Err(HeaderError::Damaged) => return Err(OpenError::Damaged { segment: path, from: base, durable: base }),
        };
        if segment.header.owner.cluster != options.cluster {
            return Err(foreign("belongs to another cluster"));
        }
        if segment.header.owner.shard != options.shard || segment.base() != base {
            return Err(foreign("belongs to another shard or place"));
        }
        segments.push(Arc::new(segment));
    }
    Ok(segments)
}

/// Each segment must end with an `End` frame right where the next begins, with the checksum that the next one names.
fn check_joints(segments: &[Arc<Segment>], dir: &Path, shard: u32, checked: Lsn) -> Result<(), OpenError> {
    for pair in segments.windows(2) {
        let (segment, next) = (&pair[0], &pair[1]);
        let room = next.base().0.checked_sub(END_FRAME).filter(|end| *end >= segment.base().0 && next.base() <= segment.limit());
        let Some(end) = room else {
            return Err(OpenError::Missing { dir: dir.to_owned(), from: segment.limit(), to: next.base() });
        };
        let frame = read_mapped(segment, Lsn(end), shard).filter(|frame| frame.header.kind == Kind::End && frame.header.crc == next.header.prev_crc);
        if frame.is_none() {
            return Err(OpenError::Damaged { segment: segment.path.clone(), from: Lsn(end), durable: next.base() });
        }
        if next.base() > checked {
            let scan = Scan::run(segment, shard, false);
            if scan.end != next.base() {
                return Err(OpenError::Damaged { segment: segment.path.clone(), from: scan.end, durable: next.base() });
            }
        }
    }
    Ok(())
}

/// The good frames of a segment, from its beginning.
struct Scan {
    end: Lsn,
    chain: u32,
    epoch: u32,
    time: u64,
    frames: u64,
    digest: u32,
    ended: bool,
    torn: bool,
}

impl Scan {
    fn run(segment: &Segment, shard: u32, _skip: bool) -> Scan {
        let mut scan = Scan {
            end: segment.base(),
            chain: segment.header.prev_crc,
            epoch: segment.header.epoch,
            time: 0,
            frames: 0,
            digest: 0,
            ended: false,
            torn: false,
        };
        // Where an unfinished batch began: it counts as a whole or not at all.
        let mut batch: Option<Scan> = None;
        while !scan.ended {
            let Some(frame) = read_mapped(segment, scan.end, shard).filter(|frame| scan.follows(frame)) else {
                scan.torn = scan.end < segment.limit() && !segment.rest_is_zero(scan.end);
                break;
            };
            if frame.header.flags.contains(Flags::FIRST) && !frame.header.flags.contains(Flags::LAST) {
                batch = Some(Scan { ..scan });
            }
            scan.take(&frame);
            if frame.header.flags.contains(Flags::LAST) {
                batch = None;
            }
        }
        match batch {
            Some(before) => Scan { torn: true, ..before },
            None => scan,
        }
    }

    fn follows(&self, frame: &Frame) -> bool {
        frame.header.prev_crc == self.chain && frame.header.epoch >= self.epoch && frame.header.time >= self.time
    }

    fn take(&mut self, frame: &Frame) {
        let header = &frame.header;
        self.end = Lsn(self.end.0 + padded(header.len as usize) as u64);
        (self.chain, self.epoch, self.time) = (header.crc, header.epoch, header.time);
        self.frames += 1;
        self.digest = crc32c(&[&self.digest.to_le_bytes(), &header.crc.to_le_bytes()]);
        self.ended = header.kind == Kind::End;
    }
}

impl Segment {
    /// Whether the first bytes behind the end are as they were before any write.
    fn rest_is_zero(&self, end: Lsn) -> bool {
        let position = self.position(end);
        let len = (FRAMES + self.header.size - position).min(64);
        self.map.slice(position, len as usize).is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
    }
}

/// Ends a segment at `end`: what follows directly is zeroed.
fn cut(segment: &Segment, end: Lsn) -> io::Result<()> {
    let position = segment.position(end);
    let len = (FRAMES + segment.header.size - position).min(CUT_ZEROES) as usize;
    if segment.map.slice(position, len).is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0)) {
        return Ok(());
    }
    segment.file.write_at(position, &[IoSlice::new(&vec![0; len])])?;
    segment.file.sync_data()
}

/// Copies a segment from its first bad frame on into `bad/`, for the operator.
fn set_aside(disk: &SharedDisk, dir: &Path, segment: &Segment, from: Lsn) -> io::Result<()> {
    let bad = dir.parent().unwrap_or(dir).join("bad");
    disk.create_dir_all(&bad)?;
    let copy = disk.create(&bad.join(format!("{:020}-from-{:020}.part", segment.base().0, from.0)))?;
    let (mut position, mut to) = (segment.position(from), 0);
    let mut bytes = vec![0; 1024 * 1024];
    loop {
        let read = segment.file.read_at(position, &mut bytes)?;
        if read == 0 {
            break;
        }
        copy.write_at(to, &[IoSlice::new(&bytes[..read])])?;
        position += read as u64;
        to += read as u64;
    }
    copy.sync_data()?;
    disk.sync_dir(&bad)
}
