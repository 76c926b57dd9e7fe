//! Opening a log: which frames count after a crash, and what is damage rather than a crash.
//!
//! A crash leaves an unsynced write in pieces at the very end. Nothing of it was acknowledged, so it is cut off. Everything before the newest
//! durable mark, and everything in a segment that has a successor, was synced: if that can't be read, the disk lost what was acknowledged,
//! and the log refuses to open rather than forget it. `repair.rs` goes on over such a range when the operator says so.
//!
//! Only segments from the caller's checkpoint on are read. Older ones are closed; their ends are compared with their successors' headers.

use super::chain::{Chain, Position};
use super::repair::{self, Gap};
use super::scan::{Scanned, Stop, Window, ends_soundly, scan};
use super::segment::{self, HeaderError, Owner, Segment};
use super::spares::{self, Spare, Spares};
use super::{CommitLog, Options, Parts};
use crate::frame::Invalid;
use crate::replica::EpochTable;
use crate::zoo;
use gantry_model::{Epoch, Lsn};
use gantry_platform::disk::{Disk, PARTIAL_SUFFIX, SharedDisk};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// At least this much behind a cut is zeroed, so that what was torn there can't be met again.
pub(super) const BARRIER: u64 = 64 * 1024;
/// Bytes written at a time while the tail is made durable.
const STEP: usize = 1024 * 1024;

/// What is known of a log before it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Everything before it was durable once: the newest checkpoint.
    pub until: Lsn,
    /// The epochs up to there. Those behind are found.
    pub epochs: EpochTable,
}

/// What was found when a log was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    pub end: Lsn,
    /// Epoch and store time of the last frame; zero in an empty log.
    pub last_epoch: Epoch,
    pub last_time: u64,
    pub verdict: Verdict,
    /// Damaged ranges that were skipped because [`Options::skip_damaged`] said so.
    pub set_aside: Vec<(Lsn, Lsn)>,
    pub bytes_scanned: u64,
}

/// How the end of the log looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing follows the last frame.
    Clean,
    /// An unsynced write was torn; what was left of it is cut off.
    TornTail { at: Lsn },
    /// As before, and later parts of the write had reached the disk whole.
    UnorderedTail { at: Lsn },
}

/// What is lost of a log that can't be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The frames from one address to another.
    Range { from: Lsn, to: Lsn },
    /// So much that it had better be made anew.
    Whole,
}

/// Why a log can't be opened.
#[derive(Debug)]
pub enum OpenError {
    Io {
        path: PathBuf,
        error: io::Error,
    },
    /// What was durable can't be read any more. `offset` is the place in the file; frames in `from..to` are lost.
    Damaged {
        segment: PathBuf,
        offset: u64,
        from: Lsn,
        to: Lsn,
        why: String,
    },
    Header {
        segment: PathBuf,
        error: HeaderError,
    },
    /// Segments are missing between others, or all of them behind the checkpoint.
    Missing {
        from: Lsn,
        to: Lsn,
    },
    /// A later version wrote this, and skipping it would give a wrong state.
    Newer {
        segment: PathBuf,
        lsn: Lsn,
        kind: u8,
        version: u8,
    },
    /// The last segment is full, and there is no room for another one.
    NoRoom {
        dir: PathBuf,
        bytes: u64,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io { path, error } => write!(f, "`{}`: {error}", path.display()),
            OpenError::Damaged { segment, offset, from, to, why } => write!(
                f,
                "acknowledged messages can't be read: `{}` is damaged at byte {offset} ({why}), addresses {from} to {to}; restore the file, or \
                 start with `--skip-damaged` to set the range aside in `bad/` and go on without it",
                segment.display()
            ),
            OpenError::Header { segment, error: HeaderError::Damaged } => {
                write!(f, "the header of `{}` is damaged; restore the file, or start with `--skip-damaged` to make it anew", segment.display())
            }
            OpenError::Header { segment, error } => write!(f, "`{}` can't be used: {error}", segment.display()),
            OpenError::Missing { from, to } => {
                write!(f, "the log lacks addresses {from} to {to}; restore the missing files, or start with `--skip-damaged` to go on without them")
            }
            OpenError::Newer { segment, lsn, kind, version } => write!(
                f,
                "`{}` holds a record at {lsn} of kind `{kind}` in version `{version}`, which is newer than this program; start the newer version",
                segment.display()
            ),
            OpenError::NoRoom { dir, bytes } => {
                write!(f, "no room for another log segment of {bytes} bytes in `{}`; free some space", dir.display())
            }
        }
    }
}

impl std::error::Error for OpenError {}

impl OpenError {
    /// What another replica of the log could help with.
    pub fn damage(&self) -> Option<Damage> {
        match self {
            OpenError::Damaged { from, to, .. } if from < to => Some(Damage::Range { from: *from, to: *to }),
            OpenError::Damaged { .. } | OpenError::Missing { .. } | OpenError::Header { error: HeaderError::Damaged, .. } => Some(Damage::Whole),
            OpenError::Header { .. } | OpenError::Io { .. } | OpenError::Newer { .. } | OpenError::NoRoom { .. } => None,
        }
    }
}

pub(super) fn io_at(path: &Path) -> impl FnOnce(io::Error) -> OpenError + '_ {
    move |error| OpenError::Io { path: path.to_path_buf(), error }
}

/// Opens the log in `shard_dir`/log, or begins one.
pub(super) fn open(disk: SharedDisk, shard_dir: &Path, options: Options, known: Known) -> Result<(CommitLog, Recovery), OpenError> {
    let dir = shard_dir.join("log");
    disk.create_dir_all(&dir).map_err(io_at(&dir))?;
    let (paths, found) = list(&*disk, &dir, options.first_segment)?;
    let Known { until, epochs } = known;
    if paths.is_empty() && until > Lsn(0) && !options.skip_damaged {
        return Err(OpenError::Missing { from: Lsn(0), to: until });
    }
    let mut work = Work { disk: &*disk, shard_dir, options: &options, segments: Vec::new(), known: until, scanned: 0, set_aside: Vec::new(), epochs };
    work.open_all(&paths)?;
    work.close_all()?;
    let last = work.last()?;
    let Work { segments, scanned: bytes_scanned, set_aside, mut epochs, .. } = work;
    let nothing = Tail { position: Position::begin(Lsn(0), Chain::default()), closed: true, mark_number: 0, verdict: Verdict::Clean };
    let Tail { position, closed, mark_number, verdict } = last.unwrap_or(nothing);
    let largest = segments.iter().map(|segment| segment.header.size).max();
    let size = largest.map_or(options.first_segment, |size| (size * 2).min(options.max_segment));
    let spares = Arc::new(Spares::new(&dir, found, options.spares, size));
    let segments: Vec<_> = segments.into_iter().map(Arc::new).collect();
    // What is known may reach further than what is left, and begin earlier.
    epochs.cut(position.at);
    epochs.trim(segments.first().map_or(position.at, |segment| segment.base()));
    let log = CommitLog::assemble(Parts { disk, dir, options, spares, segments, position, closed, mark_number, epochs })?;
    let recovery = Recovery { end: log.end(), last_epoch: position.chain.epoch, last_time: position.chain.time, verdict, set_aside, bytes_scanned };
    Ok((log, recovery))
}

/// The segments' files in order of their bases, and the spares. Half-made spares of a crashed process, and spares that are too small for a
/// segment of today's settings, are removed.
fn list(disk: &dyn Disk, dir: &Path, smallest: u64) -> Result<(Vec<PathBuf>, Vec<Spare>), OpenError> {
    let (mut segments, mut found) = (Vec::new(), Vec::new());
    for path in disk.list(dir).map_err(io_at(dir))? {
        if path.to_string_lossy().ends_with(PARTIAL_SUFFIX) {
            disk.remove(&path).map_err(io_at(&path))?;
        } else if segment::base_of(&path).is_some() {
            segments.push(path);
        } else if spares::number_of(&path).is_some() {
            let file = disk.open(&path).map_err(io_at(&path))?;
            let size = file.len().map_err(io_at(&path))?;
            if size < smallest {
                disk.remove(&path).map_err(io_at(&path))?;
            } else {
                found.push(Spare { path, file, size, uses: 0 });
            }
        }
    }
    Ok((segments, found))
}

/// The end of the last segment.
struct Tail {
    position: Position,
    /// The segment is full, and the next one is to be begun.
    closed: bool,
    mark_number: u64,
    verdict: Verdict,
}

struct Work<'a> {
    disk: &'a dyn Disk,
    shard_dir: &'a Path,
    options: &'a Options,
    segments: Vec<Segment>,
    known: Lsn,
    scanned: u64,
    set_aside: Vec<(Lsn, Lsn)>,
    epochs: EpochTable,
}

impl Work<'_> {
    fn open_all(&mut self, paths: &[PathBuf]) -> Result<(), OpenError> {
        let owner = Owner { cluster: self.options.cluster, shard: self.options.shard };
        for path in paths {
            let opened = match Segment::open(self.disk, path, owner).map_err(io_at(path))? {
                Err(HeaderError::Damaged) if self.options.skip_damaged => {
                    repair::header(self.disk, path, owner, self.segments.last()).map_err(io_at(path))?;
                    Segment::open(self.disk, path, owner).map_err(io_at(path))?
                }
                opened => opened,
            };
            self.segments.push(opened.map_err(|error| OpenError::Header { segment: path.clone(), error })?);
        }
        Ok(())
    }

    /// Makes sure that each segment but the last ends where the next begins.
    fn close_all(&mut self) -> Result<(), OpenError> {
        let mut at = 0;
        while at + 1 < self.segments.len() {
            let (segment, next) = (&self.segments[at], &self.segments[at + 1]);
            // A segment before the checkpoint is not needed to start, so its end is all that is looked at.
            let old = next.base() <= self.known;
            if !(old && ends_soundly(segment, next).map_err(io_at(&segment.path))?) {
                self.close(at)?;
            }
            at += 1;
        }
        Ok(())
    }

    fn close(&mut self, at: usize) -> Result<(), OpenError> {
        let mut repaired = None;
        loop {
            let (segment, next) = (&self.segments[at], &self.segments[at + 1]);
            let Scanned { position, stop, bytes, epochs } = scan(segment, segment.header.before, Some(next.base()));
            self.scanned += bytes;
            match stop {
                Stop::Closed if position.at == next.base() && position.chain.crc == next.header.before.crc => {
                    self.epochs.extend(&epochs);
                    return Ok(());
                }
                Stop::Closed if position.at < next.base() => {
                    self.epochs.extend(&epochs);
                    return self.fill_missing(at, position);
                }
                Stop::Closed => return Err(self.damaged(segment, position.at, next.base(), "the next segment continues another history")),
                Stop::Invalid { at: lsn, why: Invalid::Newer { kind, version } } => {
                    return Err(OpenError::Newer { segment: segment.path.clone(), lsn, kind, version });
                }
                Stop::Invalid { at: from, .. } | Stop::Unreadable { at: from, .. } => {
                    let (segment, bound, wanted) = (&self.segments[at], next.base(), next.header.before.crc);
                    let found = repair::resume(segment, from, bound).map_err(io_at(&segment.path))?;
                    let (to, crc) = found.unwrap_or((bound, wanted));
                    let error = self.damaged(segment, from, to, &reason(&stop));
                    // A repair that did not move the damage would be tried for ever.
                    if !self.options.skip_damaged || repaired >= Some(from) {
                        return Err(error);
                    }
                    repaired = Some(from);
                    let chain = chain_before(segment, from);
                    self.skip(at, Gap { from, to, crc, chain }, &error)?;
                }
            }
        }
    }

    fn skip(&mut self, at: usize, gap: Gap, error: &OpenError) -> Result<(), OpenError> {
        let segment = &self.segments[at];
        let failed = io_at(&segment.path);
        repair::set_aside(self.disk, &self.shard_dir.join("bad"), segment, gap.from, gap.to, &error.to_string()).map_err(failed)?;
        repair::fill(segment, gap).map_err(io_at(&segment.path))?;
        self.set_aside.push((gap.from, gap.to));
        Ok(())
    }

    /// Files between two segments are gone: a file of gaps takes their place.
    fn fill_missing(&mut self, at: usize, position: Position) -> Result<(), OpenError> {
        let (segment, next) = (&self.segments[at], &self.segments[at + 1]);
        let (from, to) = (position.at, next.base());
        if !self.options.skip_damaged || segment.limit() < from {
            return Err(OpenError::Missing { from, to });
        }
        let dir = self.shard_dir.join("log");
        let gap = Gap { from, to, crc: next.header.before.crc, chain: position.chain };
        let made = repair::missing(self.disk, &dir, segment.header.owner, gap).map_err(io_at(&dir))?;
        self.segments.insert(at + 1, made);
        self.set_aside.push((from, to));
        Ok(())
    }

    fn damaged(&self, segment: &Segment, from: Lsn, to: Lsn, why: &str) -> OpenError {
        OpenError::Damaged { segment: segment.path.clone(), offset: segment.position(from), from, to, why: why.to_owned() }
    }

    /// Decides where the last segment ends, and makes that end durable.
    fn last(&mut self) -> Result<Option<Tail>, OpenError> {
        let mut repaired = None;
        loop {
            let Some(segment) = self.segments.last() else { return Ok(None) };
            let failed = || io_at(&segment.path);
            let (mark, mark_number) = segment.newest_mark().map_err(failed())?;
            let durable = mark.max(self.known);
            let Scanned { position, stop, bytes, epochs } = scan(segment, segment.header.before, None);
            self.scanned += bytes;
            let from = match stop {
                Stop::Invalid { at: lsn, why: Invalid::Newer { kind, version } } => {
                    return Err(OpenError::Newer { segment: segment.path.clone(), lsn, kind, version });
                }
                _ if position.at >= durable => {
                    let verdict = settle(segment, position.at, mark, &stop).map_err(failed())?;
                    self.epochs.extend(&epochs);
                    return Ok(Some(Tail { position, closed: matches!(stop, Stop::Closed), mark_number, verdict }));
                }
                // Whole segments behind this one are gone.
                Stop::Closed => position.at,
                Stop::Invalid { at, .. } | Stop::Unreadable { at, .. } => at,
            };
            if matches!(stop, Stop::Closed) || durable > segment.limit() {
                let missing = OpenError::Missing { from, to: durable };
                if !self.options.skip_damaged {
                    return Err(missing);
                }
            }
            let bound = durable.min(segment.limit());
            let found = if matches!(stop, Stop::Closed) { None } else { repair::resume(segment, from, bound).map_err(failed())? };
            let to = found.map_or(bound.max(from), |(to, _)| to);
            let error = self.damaged(segment, from, to, &reason(&stop));
            if !self.options.skip_damaged || repaired >= Some(from) {
                return Err(error);
            }
            repaired = Some(from);
            let Some((to, crc)) = found else {
                let tail = self.give_up_tail(position, durable, &stop, &error);
                self.epochs.extend(&epochs);
                return tail.map(Some);
            };
            let chain = chain_before(segment, from);
            self.skip(self.segments.len() - 1, Gap { from, to, crc, chain }, &error)?;
        }
    }

    /// Nothing can be read behind the damage: the log ends before it, and what was there is set aside.
    fn give_up_tail(&mut self, position: Position, durable: Lsn, stop: &Stop, error: &OpenError) -> Result<Tail, OpenError> {
        let segment = self.segments.last().expect("the tail is that of a segment");
        let failed = || io_at(&segment.path);
        let closed = matches!(stop, Stop::Closed);
        if !closed {
            let to = durable.min(segment.limit());
            repair::set_aside(self.disk, &self.shard_dir.join("bad"), segment, position.at, to, &error.to_string()).map_err(failed())?;
        }
        settle(segment, position.at, segment.base(), stop).map_err(failed())?;
        repair::forget_marks(segment).map_err(failed())?;
        self.set_aside.push((position.at, durable));
        Ok(Tail { position, closed, mark_number: 0, verdict: Verdict::TornTail { at: position.at } })
    }
}

fn reason(stop: &Stop) -> String {
    match stop {
        Stop::Closed => "the segments behind it are missing".to_owned(),
        Stop::Invalid { why, .. } => why.to_string(),
        Stop::Unreadable { error, .. } => error.to_string(),
    }
}

/// The chain right before `at`, inside a batch too.
pub(super) fn chain_before(segment: &Segment, at: Lsn) -> Chain {
    let mut window = Window::new(segment);
    let mut position = Position::begin(segment.base(), segment.header.before);
    while position.at < at {
        let Ok(Ok(header)) = window.frame(position.at, segment.header.owner.shard) else { break };
        position.pass(&header);
    }
    position.chain
}

/// What is behind the last frame that counts.
struct Behind {
    verdict: Verdict,
    /// How far to zero, so that no frame of a torn write can ever follow a new one: over the last place that carries its own address as a
    /// frame does.
    barrier: Lsn,
}

/// Looks at everything from `end` to the end of the file; reading stopped at `broken`. In a recycled file something follows always, but
/// nothing that carries its own address.
fn look_behind(segment: &Segment, end: Lsn, broken: Lsn) -> Behind {
    let mut window = Window::new(segment);
    let mut verdict = if broken > end { Verdict::TornTail { at: end } } else { Verdict::Clean };
    let (mut last, mut at) = (broken, broken);
    while let Some(lsn) = window.next_readable_candidate(at, segment.limit()) {
        let sound = window.frame(lsn, segment.header.owner.shard).is_ok_and(|frame| frame.is_ok());
        if sound {
            verdict = Verdict::UnorderedTail { at: end };
        } else if verdict == Verdict::Clean {
            verdict = Verdict::TornTail { at: end };
        }
        (last, at) = (lsn, Lsn(lsn.0 + 8));
    }
    Behind { verdict, barrier: Lsn((last.0 + BARRIER).min(segment.limit().0)) }
}

/// Puts a zeroed barrier behind the end and makes everything before it durable, whatever the last process left undone.
fn settle(segment: &Segment, end: Lsn, mark: Lsn, stop: &Stop) -> io::Result<Verdict> {
    let (mut verdict, mut changed) = (Verdict::Clean, false);
    if let Stop::Invalid { at: broken, .. } | Stop::Unreadable { at: broken, .. } = stop {
        let behind = look_behind(segment, end, *broken);
        let unreadable = matches!(stop, Stop::Unreadable { .. }) && behind.verdict == Verdict::Clean;
        verdict = if unreadable { Verdict::TornTail { at: end } } else { behind.verdict };
        changed = zero(segment, end, behind.barrier)?;
    }
    // Frames behind the mark may be in the page cache only, perhaps after a sync that failed: then the kernel takes the pages for
    // clean and would not write them. So they are written again.
    let mut at = if zoo!(TrustPageCache) { end } else { mark.max(segment.base()) };
    while at < end {
        let mut bytes = vec![0; STEP.min((end.0 - at.0) as usize)];
        segment.file.read_at(segment.position(at), &mut bytes)?;
        segment.file.write_at(segment.position(at), &[IoSlice::new(&bytes)])?;
        at = Lsn(at.0 + bytes.len() as u64);
        changed = true;
    }
    if changed {
        segment.file.sync_data()?;
    }
    Ok(verdict)
}

/// Zeros a range; answers whether there was anything else in it.
pub(super) fn zero(segment: &Segment, from: Lsn, to: Lsn) -> io::Result<bool> {
    let zeros = vec![0; STEP];
    let mut found = vec![0; STEP];
    let mut changed = false;
    let mut at = from;
    while at < to {
        let len = STEP.min((to.0 - at.0) as usize);
        let blank = segment.file.read_at(segment.position(at), &mut found[..len]).is_ok_and(|read| found[..read].iter().all(|byte| *byte == 0));
        if !blank {
            segment.file.write_at(segment.position(at), &[IoSlice::new(&zeros[..len])])?;
            changed = true;
        }
        at = Lsn(at.0 + len as u64);
    }
    Ok(changed)
}
