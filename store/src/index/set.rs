//! The index of a shard: slots, the memtable that is being filled, and the sealed segments behind it.
//!
//! # Life of a segment's index
//! - *filled*: `append` while the segment's frames are applied.
//! - *sealing*: `seal` when the segment's last frame was applied; a background thread runs the `SealJob`.
//! - *run*: `sealed` takes the finished run; the memtable is freed.
//! - *missing*: found without a valid run at start, or damaged later. The shard replays the segment into a memtable, hands it to
//!   `replayed` and runs that `SealJob`.
//! - *gone*: `trim`, before the log drops the segment.
//!
//! At start: `open`, then replay what is `missing` in ascending order, then `append` what the active segment holds from its
//! beginning. Replaying frames that the slots of a checkpoint already contain is harmless.

use super::backlog::{Backlog, Source};
use super::slots::{QueueMap, Slot, SlotSnapshot};
use super::{Due, Entry, LookupError, Memtable, Run, RunError, RunWriter, Timer};
use crate::zoo;
use gantry_model::{Lsn, Offset, QueueKey, TopicId};
use gantry_platform::Disk;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// File name extension of a run that is being written; one found at start is left over from a crash.
pub(super) const UNFINISHED: &str = "tmp";
const RUN: &str = "idx";

/// More memtables than this waiting for their run mean that the disk can't keep up: the shard stops rolling segments.
pub const MAX_SEALING: usize = 4;

/// Entries reserved for at once when a caller asks for many.
const FIRST_RESERVE: usize = 64;

/// Owned by the shard's thread.
#[derive(Debug)]
pub struct Index {
    dir: PathBuf,
    slots: QueueMap<Slot>,
    active: Memtable,
    backlog: Backlog,
    /// Segments whose queues are not in the slots yet. They go in from the oldest on, and a missing one holds up those behind it, because
    /// the first segment that is seen decides where a queue starts.
    unfolded: BTreeSet<Lsn>,
    /// Nothing below is given out any more.
    start: Lsn,
    /// Run files that no segment needs.
    orphans: Vec<PathBuf>,
}

/// What opening an index found. `Index::missing` names the segments to replay.
#[derive(Debug)]
pub struct Opened {
    pub index: Index,
    /// Runs that were there and could not be used: for the program's log.
    pub refused: Vec<RunError>,
}

/// Writes the run of one segment; made by `seal`, carried out by a background thread, repeated if it fails.
#[derive(Clone, Debug)]
pub struct SealJob {
    table: Arc<Memtable>,
    path: PathBuf,
    next_base: Lsn,
}

impl SealJob {
    pub fn segment(&self) -> Lsn {
        self.table.base()
    }

    /// Encodes, writes, syncs, renames: about 50 ms for a million entries, then the disk's share. Give the run to `Index::sealed`.
    pub fn write(&self, disk: &dyn Disk) -> Result<Run, RunError> {
        RunWriter::write(disk, &self.path, &self.table, self.next_base)
    }
}

/// Bytes of memory by part, for metrics and limits. Runs are mapped files and count with their file length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub slots: usize,
    pub active: usize,
    pub sealing: usize,
    pub mapped: usize,
}

impl Index {
    /// An index without segments before `active`, for a new shard. `dir` is the shard's `idx` folder, which exists.
    pub fn new(dir: &Path, active: Lsn) -> Index {
        Index {
            dir: dir.to_owned(),
            slots: QueueMap::default(),
            active: Memtable::new(active),
            backlog: Backlog::default(),
            unfolded: BTreeSet::new(),
            start: Lsn(0),
            orphans: Vec::new(),
        }
    }

    /// Opens the runs of the sealed segments (their bases, ascending), and deletes files that belong to none. `slots` comes from the
    /// newest checkpoint; without it the slots are made from all run directories, which doesn't know queues that were trimmed empty.
    pub fn open(disk: &dyn Disk, dir: &Path, sealed: &[Lsn], active: Lsn, slots: Option<SlotSnapshot>) -> Result<Opened, OpenIndexError> {
        let mut index = Index::new(dir, active);
        index.start = sealed.first().copied().unwrap_or(active);
        index.clean(disk, sealed).map_err(|error| OpenIndexError { dir: dir.to_owned(), error })?;
        let folded = slots.as_ref().map_or(Lsn(0), |slots| slots.through);
        index.slots = slots.map_or_else(QueueMap::default, |slots| slots.rows.into_iter().collect());
        index.unfolded = sealed.iter().copied().filter(|base| *base >= folded).collect();
        let mut refused = Vec::new();
        let ends = sealed.iter().copied().skip(1).chain([active]);
        for (base, end) in sealed.iter().copied().zip(ends) {
            let source = load(disk, dir, base, end).unwrap_or_else(|error| {
                refused.push(error);
                Source::Missing
            });
            index.backlog.segments_mut().push((base, source));
        }
        index.fold();
        Ok(Opened { index, refused })
    }

    /// Sealed segments without a valid run, ascending. The shard replays them before the active segment.
    pub fn missing(&self) -> Vec<Lsn> {
        let missing = self.backlog.segments().iter().filter(|(_, source)| matches!(source, Source::Missing));
        missing.map(|(base, _)| *base).collect()
    }

    /// Adds a committed message to its queue, and its keys (`key_hash`).
    pub fn append(&mut self, entry: Entry, keys: &[u64]) {
        assert!(self.unfolded.is_empty(), "missing segments are replayed before the active one");
        let base = self.active.base();
        let slot = self.slots.entry(entry.queue).or_insert_with(|| Slot::new(entry.offset, entry.offset, None));
        let previous = slot.last();
        slot.set_last(base);
        slot.next = slot.next.max(entry.offset.next());
        self.active.insert_after(entry, previous);
        for hash in keys {
            self.active.insert_key(*hash, entry.position);
        }
    }

    /// Makes a frame findable that isn't in a queue, or not yet: a delayed message by its id.
    pub fn append_key(&mut self, hash: u64, position: Lsn) {
        self.active.insert_key(hash, position);
    }

    /// Remembers a delayed message.
    pub fn append_timer(&mut self, due: Due, queue: QueueKey) {
        self.active.insert_timer(due, queue);
    }

    /// Ends the active segment after its last frame was applied. Its entries stay visible all the time.
    pub fn seal(&mut self, segment: Lsn, next_base: Lsn) -> SealJob {
        assert_eq!(segment, self.active.base(), "only the segment that is being filled can be sealed");
        assert!(next_base > segment, "segments ascend");
        let next = Memtable::with_capacity(next_base, self.active.queues());
        let table = Arc::new(std::mem::replace(&mut self.active, next));
        self.backlog.segments_mut().push((segment, Source::Sealing(table.clone())));
        SealJob { table, path: run_path(&self.dir, segment), next_base }
    }

    /// Takes over a finished run. One whose segment was trimmed meanwhile is dropped; `trim` names its file next time.
    pub fn sealed(&mut self, run: Run) {
        match self.backlog.place(run.base()) {
            Some(place) => self.backlog.segments_mut()[place].1 = Source::Run(Arc::new(run)),
            None => self.orphans.push(run.path().to_owned()),
        }
    }

    /// Takes a segment that was replayed because its run was missing or damaged. It is visible from now on. `None` if the segment was
    /// trimmed meanwhile.
    pub fn replayed(&mut self, mut table: Memtable) -> Option<SealJob> {
        let base = table.base();
        let place = self.backlog.place(base)?;
        let next_base = self.backlog.segments().get(place + 1).map_or(self.active.base(), |(next, _)| *next);
        table.bound_older(|queue| self.older_than(queue, base));
        let table = Arc::new(table);
        self.backlog.segments_mut()[place].1 = Source::Sealing(table.clone());
        self.fold();
        Some(SealJob { table, path: run_path(&self.dir, base), next_base })
    }

    /// The entry at exactly this offset.
    pub fn lookup(&self, queue: QueueKey, offset: Offset) -> Result<Option<Entry>, LookupError> {
        let found = self.range(queue, offset, 1)?;
        Ok(found.into_iter().find(|entry| entry.offset == offset))
    }

    /// At most `limit` entries from the first at or after `from`, in the order of the queue.
    pub fn range(&self, queue: QueueKey, from: Offset, limit: usize) -> Result<Vec<Entry>, LookupError> {
        let Some(slot) = self.slots.get(&queue) else { return Ok(Vec::new()) };
        let from = from.max(slot.min);
        if from >= slot.next || limit == 0 {
            return Ok(Vec::new());
        }
        let mut out = Vec::with_capacity(limit.min(FIRST_RESERVE));
        if self.active.part(queue).is_none_or(|part| from < part.head().first) {
            self.backlog.range(queue, self.newest_segment(queue), from, limit, &mut out)?;
        }
        out.extend(self.active.range(queue, from, limit - out.len()));
        Ok(out)
    }

    /// Offset of the first entry with this store time (ms) or a later one; the next offset if there is none.
    pub fn first_at_or_after_time(&self, queue: QueueKey, ms: u64) -> Result<Offset, LookupError> {
        let Some(slot) = self.slots.get(&queue) else { return Ok(Offset(0)) };
        let active = self.active.part(queue);
        let older = match active {
            Some(part) if part.first_time() < ms => None,
            _ => self.backlog.by_time(queue, self.newest_segment(queue), ms)?,
        };
        let found = older.or_else(|| self.active.by_time(queue, ms));
        Ok(found.unwrap_or(slot.next).max(slot.min))
    }

    /// Positions of at most `limit` frames with this key hash: newest segment first, and newest first within it.
    pub fn by_key(&self, hash: u64, limit: usize) -> Result<Vec<Lsn>, LookupError> {
        let mut out = self.active.lookup_key(hash, limit);
        out.retain(|position| *position >= self.start);
        self.backlog.by_key(hash, self.start, limit, &mut out)?;
        Ok(out)
    }

    /// At most `limit` timers after `after` (the timer watermark) and not later than `until` (ms), in the order of release.
    pub fn timers(&self, after: Due, until: u64, limit: usize) -> Result<Vec<Timer>, LookupError> {
        let mut out = self.active.timers(after, until, limit);
        self.backlog.timers(after, until, limit, &mut out)?;
        out.sort_unstable();
        out.truncate(limit);
        Ok(out)
    }

    /// At most `limit` timers of one sealed segment after `after`, in the order of release.
    pub fn timers_of(&self, segment: Lsn, after: Due, limit: usize) -> Result<Vec<Timer>, LookupError> {
        let mut out = Vec::new();
        self.backlog.timers_of(segment, after, limit, &mut out)?;
        Ok(out)
    }

    /// No entry below is given out. 0 for a queue that never had one.
    pub fn min_offset(&self, queue: QueueKey) -> Offset {
        self.slots.get(&queue).map_or(Offset(0), |slot| slot.min)
    }

    /// The offset of the next message. 0 for a queue that never had one.
    pub fn next_offset(&self, queue: QueueKey) -> Offset {
        self.slots.get(&queue).map_or(Offset(0), |slot| slot.next)
    }

    /// Drops the segments that end at or before `before`; call it before the log drops them. Names the files to be removed, which may
    /// happen on any thread, at any time: what is left is removed at the next start. An error changes nothing.
    pub fn trim(&mut self, before: Lsn) -> Result<Vec<PathBuf>, LookupError> {
        let segments = self.backlog.segments();
        let ends = segments.iter().skip(1).map(|(base, _)| *base).chain([self.active.base()]);
        let gone = segments.iter().zip(ends).take_while(|(_, end)| *end <= before).count();
        let queues = (0..gone).map(|index| self.backlog.queues(index)).collect::<Result<Vec<_>, _>>()?;
        for (queue, _, last) in queues.into_iter().flatten() {
            self.trim_queue(queue, last.next());
        }
        let dropped: Vec<(Lsn, Source)> = self.backlog.segments_mut().drain(..gone).collect();
        self.start = self.backlog.segments().first().map_or(self.active.base(), |(base, _)| *base);
        let files = dropped.into_iter().map(|(segment, _)| run_path(&self.dir, segment));
        Ok(files.chain(std::mem::take(&mut self.orphans)).collect())
    }

    /// Gives out nothing below `min` any more: retention of a topic that is shorter than the log's.
    pub fn trim_queue(&mut self, queue: QueueKey, min: Offset) {
        if let Some(slot) = self.slots.get_mut(&queue) {
            slot.min = slot.min.max(min.min(slot.next));
        }
    }

    /// Forgets a deleted queue. Its entries go with their segments.
    pub fn drop_queue(&mut self, queue: QueueKey) {
        self.slots.remove(&queue);
    }

    /// Forgets a deleted topic.
    pub fn drop_topic(&mut self, topic: TopicId) {
        self.slots.retain(|queue, _| queue.topic() != topic);
    }

    /// The last offset of each queue in a sealed segment. An error if the segment is none, or its run can't be read.
    pub fn last_offsets(&self, segment: Lsn) -> Result<Vec<(QueueKey, Offset)>, LookupError> {
        let Some(place) = self.backlog.place(segment) else { return Ok(Vec::new()) };
        Ok(self.backlog.queues(place)?.into_iter().map(|(queue, _, last)| (queue, last)).collect())
    }

    /// The slots for a checkpoint: 32 bytes and about 0.1 µs a queue.
    pub fn snapshot_slots(&self) -> Result<SlotSnapshot, LookupError> {
        let kept = |source: &Source| !matches!(source, Source::Run(_));
        let through = self.backlog.segments().iter().find(|(_, source)| kept(source)).map_or(self.active.base(), |(base, _)| *base);
        let mut rows = Vec::with_capacity(self.slots.len());
        for (queue, slot) in &self.slots {
            let last = self.backlog.newest_before(*queue, self.newest_segment(*queue), through)?;
            rows.push((*queue, Slot::new(slot.min, slot.next, last)));
        }
        rows.sort_unstable_by_key(|(queue, _)| *queue);
        Ok(SlotSnapshot { through, rows })
    }

    /// The sealed part, for reads of old offsets on another thread; `newest` of `Backlog::range` is `newest_segment`.
    pub fn backlog(&self) -> Backlog {
        self.backlog.clone()
    }

    /// The newest sealed segment that holds the queue, where a search in the backlog begins.
    pub fn newest_segment(&self, queue: QueueKey) -> Option<Lsn> {
        match self.active.part(queue) {
            Some(part) => part.head().previous,
            None => self.slots.get(&queue)?.last(),
        }
    }

    /// Number of memtables that wait for their run. At `MAX_SEALING` the shard waits before it rolls the next segment.
    pub fn sealing(&self) -> usize {
        self.backlog.segments().iter().filter(|(_, source)| matches!(source, Source::Sealing(_))).count()
    }

    pub fn queues(&self) -> usize {
        self.slots.len()
    }

    pub fn memory(&self) -> Memory {
        let slots = self.slots.capacity() * 8 / 7 * (size_of::<(QueueKey, Slot)>() + 1);
        let mut memory = Memory { slots, active: self.active.bytes(), ..Memory::default() };
        for (_, source) in self.backlog.segments() {
            match source {
                Source::Missing => {}
                Source::Sealing(table) => memory.sealing += table.bytes(),
                Source::Run(run) => memory.mapped += run.file_len(),
            }
        }
        memory
    }

    /// Removes files that no sealed segment needs: unfinished runs, and runs of segments that are gone.
    fn clean(&self, disk: &dyn Disk, sealed: &[Lsn]) -> io::Result<()> {
        disk.create_dir_all(&self.dir)?;
        let needed: BTreeSet<PathBuf> = sealed.iter().map(|base| run_path(&self.dir, *base)).collect();
        for path in disk.list(&self.dir)? {
            let ours = path.extension().is_some_and(|extension| extension == RUN || extension == UNFINISHED);
            if ours && !needed.contains(&path) {
                disk.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Takes queues of segments into the slots until one is missing. A run that can't be read becomes missing.
    fn fold(&mut self) {
        while let Some(segment) = self.unfolded.first().copied() {
            let place = self.backlog.place(segment).expect("only sealed segments wait to be folded");
            match self.backlog.queues(place) {
                Err(LookupError::Missing { .. }) => return,
                Err(LookupError::Damaged { .. }) => {
                    self.backlog.segments_mut()[place].1 = Source::Missing;
                    return;
                }
                Ok(queues) => {
                    for (queue, first, last) in queues {
                        let slot = self.slots.entry(queue).or_insert_with(|| Slot::new(first, first, None));
                        slot.next = slot.next.max(last.next());
                        slot.set_last(segment);
                    }
                }
            }
            self.unfolded.remove(&segment);
        }
    }

    /// Where entries of the queue older than this segment are at most, if the slots know.
    fn older_than(&self, queue: QueueKey, base: Lsn) -> Option<Option<Lsn>> {
        let last = self.slots.get(&queue).and_then(Slot::last);
        let from = last.unwrap_or(Lsn(0));
        // A segment in between whose queues nobody has seen might hold the queue.
        let known = from < base && self.unfolded.range(from..base).next().is_none();
        known.then_some(last)
    }
}

/// Opens the run of one segment. A run for another stretch of the log is refused: the segment ended elsewhere when it was made.
fn load(disk: &dyn Disk, dir: &Path, base: Lsn, end: Lsn) -> Result<Source, RunError> {
    let path = run_path(dir, base);
    if !disk.exists(&path).map_err(|error| RunError::io(&path, error))? {
        return Ok(Source::Missing);
    }
    let run = Run::open(disk, &path)?;
    // All of it: what a damaged page hides would be taken for messages that are not there.
    if !zoo!(BelieveDamagedIndex) {
        run.verify().map_err(|damage| RunError::damage(&path, damage))?;
    }
    if (run.base(), run.next_base()) != (base, end) {
        return Err(RunError::damage(&path, super::Damage::Content("it covers another stretch of the log")));
    }
    Ok(Source::Run(Arc::new(run)))
}

fn run_path(dir: &Path, segment: Lsn) -> PathBuf {
    dir.join(format!("{:020}.{RUN}", segment.0))
}

/// The folder of the index can't be read or cleaned.
#[derive(Debug)]
pub struct OpenIndexError {
    pub dir: PathBuf,
    pub error: io::Error,
}

impl fmt::Display for OpenIndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "index folder `{}`: {}", self.dir.display(), self.error)
    }
}

impl std::error::Error for OpenIndexError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
