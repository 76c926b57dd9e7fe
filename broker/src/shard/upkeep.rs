//! What keeps a shard in good order beside its work: index runs, checkpoints, retention, and room on the disk.
//!
//! The slow parts are done by a worker, which hands its results back through the inbox. What is decided here is decided on the shard's
//! thread; a job that fails is tried again with the next one, since all of its results can be made again from the log.

use super::inbox::{Inbox, Request, Status};
use super::parked;
use super::state::State;
use super::state::lite;
use super::state::snapshot::{self, EPOCHS, Part, SLOTS};
use super::timers::{NextMove, next_move};
use crate::record::{Forget, Trim};
use gantry_model::contract::Metadata;
use gantry_model::contract::broker::ShardCondition;
use gantry_model::topic::TopicType;
use gantry_model::{Lsn, Offset, QueueKey, Topic, TopicId};
use gantry_platform::disk::SharedDisk;
use gantry_platform::workers::{Worker, Workers};
use gantry_store::checkpoint;
use gantry_store::index::{Index, SealJob, SlotSnapshot};
use gantry_store::log::watermark::{Watermark, watermark};
use gantry_store::log::{AppendError, CommitLog, SpareMaker};
use gantry_store::replica::EpochTable;
use gantry_store::replica::log::Log;
use gantry_store::zoo;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A checkpoint is made after this time if anything was appended, and earlier if much was.
const CHECKPOINT_MS: u64 = 60_000;
/// How often the disk's room, marks and retention are looked at.
const LOOK_MS: u64 = 1_000;
/// Queues whose retention is looked at in one go: 100,000 take 50 s.
const RETENTION_SLICE: usize = 2_000;
/// Dead letters are kept for 7 days unless their topic says otherwise.
const DEAD_LETTER_MS: u64 = 7 * 24 * 3600 * 1000;

/// A segment that is kept for delayed messages only is left after this time, or sooner if the size bound wants it. So messages that wait for
/// weeks are written again once a day.
const LEAVE_MS: u64 = 24 * 3600 * 1000;
const LEAVE_OVERSIZE_MS: u64 = 3600 * 1000;
/// Delayed messages looked up at a time.
const LOOK_UP: usize = 256;

/// Work beside the shard's thread.
pub enum Job {
    Seal(SealJob),
    Checkpoint(Frozen),
    /// Zeroed files for segments to come.
    Spare(SpareMaker),
}

/// A state as it was at one position of the log.
pub struct Frozen {
    at: Lsn,
    parts: Vec<(u16, Option<Part>)>,
    slots: bytes::Bytes,
    epochs: bytes::Bytes,
}

/// How long and how much to keep where a topic doesn't say.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub age_ms: u64,
    /// Bytes of log of the whole shard; `None` is bounded by the disk only.
    pub bytes: Option<u64>,
}

impl Retention {
    fn age_of(&self, topic: &Topic) -> u64 {
        // Somebody has to look at dead letters, so they are kept longer by default.
        let default = if topic.kind == TopicType::Unchecked { self.age_ms.max(DEAD_LETTER_MS) } else { self.age_ms };
        topic.retention.age_ms.unwrap_or(default)
    }
}

/// Where the shard's files are, and what to ask about topics.
#[derive(Clone)]
pub struct Place {
    pub disk: SharedDisk,
    pub dir: PathBuf,
    pub metadata: Arc<dyn Metadata>,
    pub retention: Retention,
    /// Bytes of log between two checkpoints.
    pub checkpoint_bytes: u64,
}

/// What retention takes away.
#[derive(Debug)]
pub struct Removal {
    /// Where the log should begin.
    pub start: Lsn,
    /// Queues whose first offset moves.
    pub queues: Vec<(QueueKey, u64)>,
    /// The segment that would go next if no delayed messages waited in it: they are to be moved.
    pub leave: Option<(Lsn, Lsn)>,
    /// The messages of open transactions in such a segment, if there are any: in these queues, up to these offsets.
    pub open: Vec<(QueueKey, Offset)>,
}

/// The shard thread's end of upkeep.
pub struct Upkeep {
    place: Place,
    inbox: Inbox,
    /// Until the end of a clean run.
    worker: Option<Worker>,
    looked: u64,
    checkpoint_at: Lsn,
    /// The log must reach back to the checkpoint before the newest, which counts when the newest is damaged.
    needed_from: Lsn,
    checkpoint_time: u64,
    checkpointing: bool,
    sparing: bool,
    watermark: Watermark,
    /// Where the log may begin.
    trim_to: Lsn,
    /// Whether the last try found no room for another segment.
    no_segment: bool,
    used_percent: u8,
    next_queue: QueueKey,
    /// Lite topics that are looked at next.
    next_slice: u16,
}

impl Upkeep {
    pub fn start(place: Place, inbox: Inbox, checkpoint_at: Lsn, workers: &dyn Workers) -> std::io::Result<Upkeep> {
        let worker = workers.hire("gantry-upkeep")?;
        Ok(Upkeep {
            place,
            inbox,
            worker: Some(worker),
            looked: 0,
            checkpoint_at,
            needed_from: Lsn(0),
            checkpoint_time: 0,
            checkpointing: false,
            sparing: false,
            watermark: Watermark::Ok,
            trim_to: Lsn(0),
            no_segment: false,
            used_percent: 0,
            next_queue: QueueKey(0),
            next_slice: 0,
        })
    }

    /// The disk, and the shard's folder on it.
    pub fn files(&self) -> (SharedDisk, PathBuf) {
        (self.place.disk.clone(), self.place.dir.clone())
    }

    pub fn give(&self, job: Job) {
        let Some(worker) = &self.worker else { return };
        let (place, inbox) = (self.place.clone(), self.inbox.clone());
        worker.give(Box::new(move || {
            inbox.put(perform(&place, job));
            Duration::ZERO
        }));
    }

    /// Has files for later segments made while there is time.
    pub fn make_spares(&mut self, log: &CommitLog) {
        if !self.sparing && self.watermark < Watermark::RefuseSends && log.needs_spare() {
            self.sparing = true;
            self.give(Job::Spare(log.spare_maker()));
        }
    }

    pub fn spared(&mut self, error: Option<String>) {
        self.sparing = false;
        if let Some(error) = error {
            tracing::warn!(%error, "no file for a later segment could be made; it is made when it is needed");
        }
    }

    pub fn is_due(&mut self, now: u64) -> bool {
        let due = now >= self.looked + LOOK_MS;
        if due {
            self.looked = now;
        }
        due
    }

    /// Freezes the state, which has everything before `at`, for a checkpoint when enough has happened. What comes of it may be given to the thread
    /// when all of that is committed.
    pub fn checkpoint_if_due(&mut self, now: u64, state: &mut State, index: &Index, log: &CommitLog, at: Lsn) -> Option<Frozen> {
        let grown = at.0.saturating_sub(self.checkpoint_at.0);
        let waited = now.saturating_sub(self.checkpoint_time) >= CHECKPOINT_MS;
        if self.checkpointing || !(grown >= self.place.checkpoint_bytes || waited && grown > 0 && state.changed()) {
            return None;
        }
        self.checkpoint_time = now;
        let frozen = freeze(state, index, log, at);
        self.checkpointing = frozen.is_some();
        frozen
    }

    pub fn checkpointed(&mut self, at: Lsn, error: Option<String>, state: &mut State) {
        self.checkpointing = false;
        match error {
            None => self.needed_from = std::mem::replace(&mut self.checkpoint_at, at),
            Some(error) => {
                tracing::warn!(%error, "a checkpoint could not be written; a restart reads more of the log");
                state.touch_all();
            }
        }
    }

    /// A last checkpoint at the end of a clean run, and the end of the work beside it.
    pub fn finish(&mut self, state: &mut State, index: &Index, log: &CommitLog, at: Lsn) {
        if at > self.checkpoint_at
            && let Some(frozen) = freeze(state, index, log, at)
        {
            self.give(Job::Checkpoint(frozen));
        }
        self.end();
    }

    /// Waits for the work under way, after which nothing is written any more.
    pub fn end(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.finish();
        }
    }

    /// Whether messages of this size must be refused; answers how full the disk is.
    pub fn full(&mut self, log: &mut CommitLog, bytes: usize) -> Result<Option<u8>, AppendError> {
        if self.watermark >= Watermark::RefuseSends {
            return Ok(Some(self.used_percent));
        }
        match log.reserve(bytes) {
            Ok(()) => {
                self.no_segment = false;
                Ok(None)
            }
            Err(AppendError::Full) => {
                self.no_segment = true;
                Ok(Some(self.used_percent))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a message that was accepted before may be appended again: a copy of it takes so many bytes.
    pub fn has_room(&mut self, log: &mut CommitLog, bytes: usize) -> Result<bool, AppendError> {
        if self.watermark >= Watermark::ControlOnly {
            return Ok(false);
        }
        match log.reserve(bytes) {
            Ok(()) => Ok(true),
            Err(AppendError::Full) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub fn look_at_disk(&mut self, status: &Status) {
        let Ok(space) = self.place.disk.space() else { return };
        status.disk_total.store(space.total, Ordering::Relaxed);
        status.disk_free.store(space.free, Ordering::Relaxed);
        self.used_percent = 100 - (space.free * 100).checked_div(space.total).unwrap_or(0).min(100) as u8;
        let before = self.watermark;
        self.watermark = watermark(space);
        if before < Watermark::RefuseSends && self.watermark >= Watermark::RefuseSends {
            tracing::error!(used_percent = self.used_percent, "the disk is nearly full: sends are refused until there is room; consuming goes on");
            status.set_condition(ShardCondition::Full);
        }
        if self.watermark < Watermark::RefuseSends && !self.no_segment && status.condition() == ShardCondition::Full {
            tracing::info!("the disk has room again: sends are taken");
            status.set_condition(ShardCondition::Ready);
        }
    }

    /// Lite topics of one slice without a message for as long as their parent says, with the time since when. All take a minute.
    pub fn idle_lites(&mut self, now: u64, state: &State) -> Vec<(Arc<Topic>, Vec<QueueKey>, u64)> {
        self.next_slice = (self.next_slice + 1) % lite::SLICES;
        let mut by_parent: BTreeMap<TopicId, Vec<(QueueKey, u64)>> = BTreeMap::new();
        for (queue, lite) in state.lite.of_slice(self.next_slice) {
            by_parent.entry(queue.topic()).or_default().push((queue, lite.active));
        }
        let idle = by_parent.into_iter().filter_map(|(parent, lites)| {
            let topic = self.place.metadata.topic_by_id(parent)?;
            let since = now.saturating_sub(topic.options.lite_expiry_ms?);
            let queues: Vec<QueueKey> = lites.into_iter().filter(|(_, active)| *active <= since).map(|(queue, _)| queue).collect();
            (!queues.is_empty()).then_some((topic, queues, since))
        });
        idle.collect()
    }

    /// What retention takes away now.
    pub fn retention(&mut self, now: u64, state: &State, index: &Index, log: &CommitLog) -> Removal {
        let mut moved = BTreeMap::new();
        self.by_age(now, state, index, &mut moved);
        by_end(state, &mut moved);
        if zoo!(DeleteWhenFull) && self.watermark >= Watermark::RefuseSends {
            moved.extend(state.queues().map(|(queue, bounds)| (queue, bounds.next)));
        }
        let removal = self.removable(now, state, index, log, &mut moved);
        Removal { queues: moved.into_iter().collect(), ..removal }
    }

    /// A slice of the queues: their messages that are older than their topic allows.
    fn by_age(&mut self, now: u64, state: &State, index: &Index, moved: &mut BTreeMap<QueueKey, u64>) {
        let mut keys: Vec<(QueueKey, super::state::Bounds)> =
            state.queues().filter(|(queue, bounds)| *queue >= self.next_queue && bounds.min < bounds.next && !parked::is_parked(*queue)).collect();
        let more = keys.len() > RETENTION_SLICE;
        if more {
            keys.select_nth_unstable_by_key(RETENTION_SLICE, |(queue, _)| *queue);
            keys.truncate(RETENTION_SLICE);
        }
        let last = keys.iter().map(|(queue, _)| *queue).max();
        self.next_queue = last.filter(|_| more).map_or(QueueKey(0), |queue| QueueKey(queue.0 + 1));
        for (queue, bounds) in keys {
            let topic = self.place.metadata.topic_by_id(queue.topic());
            let age = topic.map_or(self.place.retention.age_ms, |topic| self.place.retention.age_of(&topic));
            if let Ok(first) = index.first_at_or_after_time(queue, now.saturating_sub(age))
                && first.0 > bounds.min
            {
                moved.insert(queue, first.0);
            }
        }
    }

    /// The oldest sealed segments that hold no kept message, and those that the size bound takes together with their messages.
    /// Answers where the log should begin, and what must be written again before it can begin later.
    fn removable(&self, now: u64, state: &State, index: &Index, log: &CommitLog, moved: &mut BTreeMap<QueueKey, u64>) -> Removal {
        let mut removal = Removal { start: log.start(), queues: Vec::new(), leave: None, open: Vec::new() };
        let end = log.end();
        for segment in log.segments().into_iter().filter(|segment| segment.sealed) {
            let next = Lsn(segment.base.0 + segment.len);
            // What a restart needs must stay.
            if next > self.needed_from || index.missing().contains(&segment.base) {
                break;
            }
            let Ok(queues) = index.last_offsets(segment.base) else { break };
            let oversize = self.place.retention.bytes.is_some_and(|most| end.0 - next.0 >= most);
            let (delayed, queues): (Vec<_>, Vec<_>) = queues.into_iter().partition(|(queue, _)| parked::is_timers(*queue));
            let (halves, queues): (Vec<_>, Vec<_>) = queues.into_iter().partition(|(queue, _)| parked::is_halves(*queue));
            let kept = queues.iter().any(|&(queue, last)| {
                let min = moved.get(&queue).copied().unwrap_or(state.bounds(queue).min);
                last.0 >= min && min < state.bounds(queue).next
            });
            if kept && !oversize {
                break;
            }
            if !delayed.is_empty() {
                let span = (segment.base, next);
                match next_move(state, span, |after| index.timers_of(segment.base, after, LOOK_UP).ok()) {
                    NextMove::Done => {}
                    NextMove::Timer(_) if self.may_leave(now, index, &delayed, oversize) => return Removal { leave: Some(span), ..removal },
                    NextMove::Timer(_) | NextMove::Unreadable => break,
                }
            }
            let waits = |&(queue, last): &(QueueKey, Offset)| last.0 >= moved.get(&queue).copied().unwrap_or(state.bounds(queue).min);
            let open: Vec<(QueueKey, Offset)> = halves.into_iter().filter(waits).collect();
            if !open.is_empty() {
                return Removal { open, ..removal };
            }
            if oversize {
                for (queue, last) in queues {
                    let min = moved.get(&queue).copied().unwrap_or(state.bounds(queue).min);
                    if last.0 >= min {
                        moved.insert(queue, last.0 + 1);
                    }
                }
            }
            moved.extend(delayed.iter().map(|(queue, last)| (*queue, last.0 + 1)));
            removal.start = next;
        }
        removal
    }

    /// Whether the delayed messages of a segment lie there long enough to be written again. `last` is the newest of each topic.
    fn may_leave(&self, now: u64, index: &Index, last: &[(QueueKey, Offset)], oversize: bool) -> bool {
        let patience = self.place.retention.age_ms.min(if oversize { LEAVE_OVERSIZE_MS } else { LEAVE_MS });
        last.iter().all(|&(queue, offset)| {
            let stored = index.lookup(queue, offset).ok().flatten().map_or(0, |entry| entry.time);
            stored + patience <= now
        })
    }

    /// A `Trim` is committed: the index and the log follow.
    pub fn trimmed(&mut self, trim: &Trim, index: &mut Index, log: &mut CommitLog) {
        for &(queue, min) in &trim.queues {
            index.trim_queue(queue, Offset(min));
        }
        self.trim_to = self.trim_to.max(trim.start);
        self.trim_log(index, log);
    }

    /// Deletes what was given up, as far as no restart needs it: a follower's checkpoint may be older than that of the leader that decided.
    pub fn trim_log(&mut self, index: &mut Index, log: &mut CommitLog) {
        let start = self.trim_to.min(self.needed_from);
        if start <= log.start() {
            return;
        }
        match index.trim(start) {
            Ok(files) => files.iter().for_each(|file| drop(self.place.disk.remove(file))),
            Err(error) => tracing::warn!(%error, "an index run can't be read, its segment stays until the next start"),
        }
        if let Err(error) = log.trim(start) {
            tracing::warn!(%error, "old segments could not be deleted");
        }
    }

    /// The state went back to the newest checkpoint.
    pub fn restored(&mut self, at: Lsn) {
        self.checkpoint_at = at;
    }

    /// A topic or group was forgotten: the index drops its queues.
    pub fn forgotten(&mut self, forget: Forget, index: &mut Index, _state: &State) {
        if let Forget::Topic(topic) = forget {
            index.drop_topic(topic);
        }
    }
}

/// The hidden queues of transactions: what lies before their oldest open one.
fn by_end(state: &State, moved: &mut BTreeMap<QueueKey, u64>) {
    for (queue, bounds) in state.queues().filter(|(queue, bounds)| parked::is_halves(*queue) && bounds.min < bounds.next) {
        let oldest = state.transactions.oldest_parked(queue.topic()).map_or(bounds.next, |at| at.0);
        if oldest > bounds.min {
            moved.insert(queue, oldest);
        }
    }
}

fn freeze(state: &mut State, index: &Index, log: &CommitLog, at: Lsn) -> Option<Frozen> {
    let slots = index.snapshot_slots().ok()?.encode();
    let mut epochs = log.epochs();
    // What follows may yet be cut off.
    epochs.cut(at);
    Some(Frozen { at, parts: state.freeze(), slots, epochs: epochs.encode() })
}

fn perform(place: &Place, job: Job) -> Request {
    match job {
        Job::Seal(job) => Request::Sealed { run: job.write(&*place.disk) },
        Job::Spare(maker) => Request::Spared { error: maker.make().err().map(|error| error.to_string()) },
        Job::Checkpoint(frozen) => {
            let parts = frozen.parts.iter().map(|(number, part)| (*number, part.as_ref().map(|part| bytes::Bytes::from(part.encode()))));
            let slots = [(SLOTS, Some(frozen.slots.clone())), (EPOCHS, Some(frozen.epochs.clone()))];
            let written = checkpoint::write(&*place.disk, &place.dir.join("state"), frozen.at, parts.chain(slots));
            Request::Checkpointed { at: frozen.at, error: written.err().map(|error| error.to_string()) }
        }
    }
}

/// What a checkpoint holds.
pub struct Restored {
    pub at: Lsn,
    pub state: State,
    pub slots: SlotSnapshot,
    pub epochs: EpochTable,
}

/// `None` if a part of it is not readable by this version.
pub fn restore(checkpoint: checkpoint::Checkpoint) -> Option<Restored> {
    let (own, parts): (Vec<_>, Vec<_>) = checkpoint.buckets.into_iter().partition(|(number, _)| [SLOTS, EPOCHS].contains(number));
    let own: BTreeMap<u16, bytes::Bytes> = own.into_iter().collect();
    let slots = SlotSnapshot::decode(own.get(&SLOTS)?).ok()?;
    let epochs = EpochTable::decode(own.get(&EPOCHS)?)?;
    Some(Restored { at: checkpoint.lsn, state: snapshot::restore(parts)?, slots, epochs })
}
