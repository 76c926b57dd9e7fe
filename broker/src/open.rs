//! From files to a running shard: read the newest checkpoint, recover the log, replay what the checkpoint doesn't have, begin a reign.
//!
//! Only the log is needed. Without a checkpoint the state is computed from the whole log, without an index run its segment is read again.

use crate::admission::Admission;
use crate::alive::Alive;
use crate::draft;
use crate::local::LocalBroker;
use crate::local::transactions::{Reach, ask_producers};
use crate::post::PostOffice;
use crate::read::Messages;
use crate::record::{Forget, Record};
use crate::shard::clock::ShardClock;
use crate::shard::core::{Core, Limits};
use crate::shard::inbox::{Inbox, Request, Status};
use crate::shard::state::State;
use crate::shard::state::seen::Row;
use crate::shard::thread::Driver;
use crate::shard::upkeep::{Job, Place, Retention, Upkeep, restore};
use gantry_model::contract::Metadata;
use gantry_model::placement::id_hash;
use gantry_model::{GroupId, Lsn, Offset, ShardId, TopicId};
use gantry_platform::clock::SharedClock;
use gantry_platform::disk::SharedDisk;
use gantry_platform::tasks;
use gantry_store::checkpoint;
use gantry_store::frame::{Frame, Kind};
use gantry_store::index::{Entry, Index, Memtable};
use gantry_store::log::{self, CommitLog, LogReader, Verdict};
use gantry_store::record::MessageView;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes that may be under way into a shard.
const INBOX_BYTES: usize = 64 * 1024 * 1024;
const MIB: u64 = 1024 * 1024;
/// Lives of messages that are read from the log at the same time.
const LIVES: usize = 2;
/// Topics and groups looked at in one go while the catalogue is read.
const PAGE: usize = 1_000;
/// Changes of the catalogue are gathered for this long.
const GATHER: Duration = Duration::from_millis(200);

/// What a shard is opened with.
#[derive(Clone)]
pub struct Options {
    pub disk: SharedDisk,
    /// The shard's folder.
    pub dir: PathBuf,
    pub clock: SharedClock,
    pub metadata: Arc<dyn Metadata>,
    pub shard: ShardId,
    pub cluster: [u8; 16],
    pub retention: Retention,
    /// Goes on over damaged ranges of the log; what was in them is lost.
    pub skip_damaged: bool,
    pub sizes: Sizes,
}

/// Sizes of what is written; tests make them small to see many of each.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub first_segment: u64,
    pub max_segment: u64,
    /// Bytes of log between two checkpoints.
    pub checkpoint: u64,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { first_segment: 16 * MIB, max_segment: 256 * MIB, checkpoint: 64 * MIB }
    }
}

/// Why a shard could not be opened. Nothing was changed.
#[derive(Debug)]
pub struct OpenError(pub String);

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}

impl LocalBroker {
    /// Recovers the shard and starts its thread. Needs a tokio runtime, for the watch on the catalogue.
    pub fn open(options: Options) -> Result<Arc<LocalBroker>, OpenError> {
        let recovered = recover(&options)?;
        let (inbox, requests) = Inbox::new();
        let status = Arc::new(Status::default());
        let (clock, shift) = ShardClock::after(options.clock.clone(), recovered.last_time);
        let place = Place {
            disk: options.disk.clone(),
            dir: options.dir.clone(),
            metadata: options.metadata.clone(),
            retention: options.retention,
            checkpoint_bytes: options.sizes.checkpoint,
        };
        let upkeep = Upkeep::start(place, inbox.clone(), recovered.checkpoint).map_err(failed)?;
        recovered.seals.into_iter().for_each(|job| upkeep.give(Job::Seal(job)));
        let reader = recovered.log.reader();
        let core = Core::new(recovered.state, options.shard, Limits::default(), recovered.last_time);
        let alive = Arc::new(Alive::new(options.clock.clone()));
        let (questions, asked) = tokio::sync::mpsc::unbounded_channel();
        let Recovered { log, index, .. } = recovered;
        let reach = Reach::default();
        let mut driver =
            Driver::new(core, log, index, clock, inbox.clone(), requests, status.clone(), upkeep, questions, alive.clone(), reach.clone());
        driver.start(shift).map_err(failed)?;
        let known = driver.known();
        let thread = tasks::thread(format!("gantry-shard-{}", options.shard), move || driver.run().is_ok()).map_err(failed)?;
        let watch = tasks::spawn("catalogue watch", watch(options.metadata.clone(), inbox.clone(), known));
        let messages = Messages::new(reader, options.metadata);
        // Ends with the shard's thread. Without it nobody is asked, and transactions wait.
        tasks::spawn("transaction checks", ask_producers(asked, messages.clone(), reach.clone(), inbox.clone()));
        Ok(Arc::new(LocalBroker {
            shard: options.shard,
            inbox,
            posts: PostOffice::default(),
            messages,
            lives: tokio::sync::Semaphore::new(LIVES),
            admission: Admission::new(INBOX_BYTES),
            alive,
            status,
            clock: options.clock,
            thread: Mutex::new(Some(thread)),
            watch,
            reach,
        }))
    }
}

/// A shard as its files say it is, before anybody leads it.
pub struct Recovered {
    pub log: CommitLog,
    pub index: Index,
    pub state: State,
    /// The position of the checkpoint that the state came from.
    pub checkpoint: Lsn,
    pub last_time: u64,
    /// Whether an unacknowledged tail was cut off.
    pub torn: bool,
    /// Index runs that were missing and have to be written.
    pub seals: Vec<gantry_store::index::SealJob>,
}

/// Reads a shard's files, and mends what a crash left half done.
pub fn recover(options: &Options) -> Result<Recovered, OpenError> {
    let disk = &options.disk;
    let loaded = checkpoint::load_newest(&**disk, &options.dir.join("state")).map_err(failed)?;
    let at = loaded.as_ref().map(|checkpoint| checkpoint.lsn);
    let restored = loaded.and_then(restore);
    if at.is_some() && restored.is_none() {
        tracing::warn!("the newest checkpoint is of another version; the state is computed from the log");
    }
    let Sizes { first_segment, max_segment, .. } = options.sizes;
    let settings =
        log::Options { first_segment, max_segment, skip_damaged: options.skip_damaged, ..log::Options::new(options.shard, options.cluster) };
    let (log, recovery) =
        CommitLog::open(disk.clone(), &options.dir, settings, at.filter(|_| restored.is_some()).unwrap_or_default()).map_err(failed)?;
    for (from, to) in &recovery.set_aside {
        tracing::error!(%from, %to, "a damaged range of the log was set aside in `bad/`; what was in it is lost");
    }
    let (checkpoint, (state, slots)) = match (at, restored) {
        (Some(at), Some((state, slots))) if at <= log.end() => (at, (state, Some(slots))),
        _ => (log.start(), (State::default(), None)),
    };
    let segments = log.segments();
    let sealed: Vec<Lsn> = segments.iter().filter(|segment| segment.sealed).map(|segment| segment.base).collect();
    let active = log.active_base();
    let opened = Index::open(&**disk, &options.dir.join("idx"), &sealed, active, slots).map_err(failed)?;
    opened.refused.iter().for_each(|error| tracing::warn!(%error, "an index run can't be used; its segment is read again"));
    let mut index = opened.index;
    let reader = log.reader();
    let mut seals = Vec::new();
    for base in index.missing() {
        let end = sealed.iter().copied().find(|next| *next > base).unwrap_or(active);
        seals.extend(index.replayed(table_of(&reader, base, end)?));
    }
    let mut replay = Replay { state, index, checkpoint, active };
    replay.run(&reader, checkpoint.min(active), log.end())?;
    let Replay { state, index, .. } = replay;
    Ok(Recovered { log, index, state, checkpoint, last_time: recovery.last_time, torn: recovery.verdict != Verdict::Clean, seals })
}

/// The index of one segment, made from its frames.
fn table_of(reader: &LogReader, base: Lsn, end: Lsn) -> Result<Memtable, OpenError> {
    let mut table = Memtable::new(base);
    for frame in reader.frames(base, end) {
        let (lsn, frame) = frame.map_err(failed)?;
        if let Some((entry, keys)) = draft::entry_of(lsn, &frame) {
            table.insert(entry);
            keys.iter().for_each(|&hash| table.insert_key(hash, lsn));
        }
        if let Some(timer) = draft::timer_of(lsn, &frame) {
            table.insert_timer(timer.due, timer.queue);
        }
    }
    Ok(table)
}

/// Brings state and index up to the end of the log.
struct Replay {
    state: State,
    index: Index,
    /// The state has everything before this.
    checkpoint: Lsn,
    /// The index has everything before this.
    active: Lsn,
}

impl Replay {
    fn run(&mut self, reader: &LogReader, from: Lsn, to: Lsn) -> Result<(), OpenError> {
        for frame in reader.frames(from, to) {
            let (lsn, frame) = frame.map_err(failed)?;
            let placed = draft::entry_of(lsn, &frame);
            if lsn >= self.active {
                self.index_frame(lsn, &frame, placed.as_ref());
            }
            if lsn >= self.checkpoint {
                self.apply(lsn, &frame, placed.as_ref())?;
                if let Some((Entry { queue, len, .. }, _)) = placed {
                    self.state.hold(queue, len);
                }
            }
        }
        Ok(())
    }

    fn index_frame(&mut self, lsn: Lsn, frame: &Frame, placed: Option<&(Entry, Vec<u64>)>) {
        if let Some((entry, keys)) = placed {
            self.index.append(*entry, keys);
        }
        if let Some(timer) = draft::timer_of(lsn, frame) {
            self.index.append_timer(timer.due, timer.queue);
        }
    }

    /// Notes the id of a message that a client sent; copies of it are not sends.
    fn remember(&mut self, frame: &Frame) {
        if !draft::is_sent(frame) {
            return;
        }
        let message = draft::message_of(frame);
        if let Some(view) = MessageView::parse(&message)
            && let Some(id) = view.message_id()
        {
            let (queue, offset) = (view.fixed.queue, view.fixed.offset.0);
            self.state.seen.remember(Row { id: id_hash(queue.topic(), id), queue, offset, time: frame.header.time });
        }
    }

    fn apply(&mut self, lsn: Lsn, frame: &Frame, placed: Option<&(Entry, Vec<u64>)>) -> Result<(), OpenError> {
        if frame.header.kind == Kind::Gap {
            self.state.expect_holes();
        }
        self.remember(frame);
        if frame.header.kind == Kind::Message {
            let Some(&(Entry { queue, offset, .. }, _)) = placed else {
                return Err(OpenError(format!("the message at {lsn} can't be read by this version; run the version that wrote it")));
            };
            let given = self.state.apply_message_at(queue, offset);
            self.state.lite.touched(queue, frame.header.time);
            return if given == offset {
                Ok(())
            } else {
                Err(OpenError(format!(
                    "queue {queue:?} has offset {offset} at {lsn} where {given} was expected; please report this with the data folder"
                )))
            };
        }
        let record = Record::decode(frame.header.kind, &frame.payload)
            .map_err(|error| OpenError(format!("at {lsn}: {error}; run the version that wrote it")))?;
        let Some(record) = record else { return Ok(()) };
        self.state.apply(&record);
        match record {
            Record::Trim(trim) => trim.queues.iter().for_each(|&(queue, min)| self.index.trim_queue(queue, Offset(min))),
            Record::LiteDrop(drop) => drop.queues.iter().for_each(|&queue| self.index.drop_queue(queue)),
            Record::Forget(Forget::Topic(topic)) => self.index.drop_topic(topic),
            _ => {}
        }
        Ok(())
    }
}

/// The topics and groups that a shard holds something of.
#[derive(Debug, Default)]
pub struct Known {
    pub topics: BTreeSet<TopicId>,
    pub groups: BTreeSet<GroupId>,
}

impl Driver {
    /// What the state mentions, so that the watch can tell what was deleted while nobody looked.
    fn known(&self) -> Known {
        let state = &self.core.state;
        Known { topics: state.queues().map(|(queue, _)| queue.topic()).collect(), groups: state.cursors().map(|(_, group, _)| group).collect() }
    }
}

/// Follows the catalogue: tells the shard which groups there are, and what was deleted.
///
/// What was unknown to the catalogue at the start is kept: ids are never used again, so it harms nobody, and if the catalogue lost something, the
/// messages must not go as well.
async fn watch(metadata: Arc<dyn Metadata>, inbox: Inbox, held: Known) {
    let mut known = Known::default();
    let lost = held.topics.iter().filter(|topic| metadata.topic_by_id(**topic).is_none()).count();
    if lost > 0 {
        tracing::warn!(topics = lost, "the shard holds messages of topics that the catalogue does not know; they are kept");
    }
    loop {
        let version = metadata.version();
        tell(&*metadata, &inbox, &mut known);
        metadata.changed(version).await;
        gantry_platform::clock::sleep(GATHER).await;
    }
}

fn tell(metadata: &dyn Metadata, inbox: &Inbox, known: &mut Known) {
    let mut groups = BTreeSet::new();
    let mut after = None;
    loop {
        let page = metadata.groups(after.as_ref(), PAGE);
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        for group in page {
            groups.insert(group.id);
            inbox.put(Request::GroupKnown { group });
        }
    }
    let mut topics = BTreeSet::new();
    let mut after = None;
    loop {
        let page = metadata.topics(after.as_ref(), PAGE);
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        for topic in page {
            topics.insert(topic.id);
            inbox.put(Request::TopicKnown { topic });
        }
    }
    for &group in known.groups.difference(&groups) {
        inbox.put(Request::Forget { what: Forget::Group(group) });
    }
    for &topic in known.topics.difference(&topics) {
        inbox.put(Request::Forget { what: Forget::Topic(topic) });
    }
    *known = Known { topics, groups };
}

fn failed(error: impl fmt::Display) -> OpenError {
    OpenError(error.to_string())
}
