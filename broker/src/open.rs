//! From files to a running shard: read the newest checkpoint, recover the log, replay what the checkpoint doesn't have, begin a reign.
//!
//! Only the log is needed. Without a checkpoint the state is computed from the whole log, without an index run its segment is read again.

use crate::admission::Admission;
use crate::alive::Alive;
use crate::local::LocalBroker;
use crate::local::transactions::{Reach, ask_producers};
use crate::post::PostOffice;
use crate::read::Messages;
use crate::record::Forget;
use crate::replica::{self, Identity, Replica};
use crate::shard::clock::ShardClock;
use crate::shard::core::{Core, Limits};
use crate::shard::halves::Question;
use crate::shard::inbox::{Inbox, Request, Status};
use crate::shard::replay::{Applied, table_of};
use crate::shard::state::State;
use crate::shard::thread::{Catalogue, Driver, Parts};
use crate::shard::upkeep::{Job, Place, Restored, Retention, Upkeep, restore};
use gantry_model::contract::Metadata;
use gantry_model::{GroupId, Lsn, ShardId, TopicId};
use gantry_platform::clock::SharedClock;
use gantry_platform::disk::SharedDisk;
use gantry_platform::tasks;
use gantry_store::checkpoint;
use gantry_store::index::{Index, SealJob};
use gantry_store::log::{self, CommitLog, LogReader, Verdict};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

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

/// The ends of a shard's channels that are not its thread's.
struct Wires {
    asked: UnboundedReceiver<Question>,
    reader: LogReader,
    inbox: Inbox,
    status: Arc<Status>,
    alive: Arc<Alive>,
    reach: Reach,
}

/// What a shard's thread needs in any role, and the other ends of it.
fn connect(options: &Options, log: CommitLog, checkpoint: Lsn) -> Result<(Parts, Wires), OpenError> {
    let (inbox, requests) = Inbox::new();
    let place = Place {
        disk: options.disk.clone(),
        dir: options.dir.clone(),
        metadata: options.metadata.clone(),
        retention: options.retention,
        checkpoint_bytes: options.sizes.checkpoint,
    };
    let upkeep = Upkeep::start(place, inbox.clone(), checkpoint).map_err(failed)?;
    let (questions, asked) = tokio::sync::mpsc::unbounded_channel();
    let (status, alive, reach) = (Arc::new(Status::default()), Arc::new(Alive::new(options.clock.clone())), Reach::default());
    let wires = Wires { asked, reader: log.reader(), inbox: inbox.clone(), status: status.clone(), alive: alive.clone(), reach: reach.clone() };
    let parts =
        Parts { log, clock: options.clock.clone(), inbox, requests, status, upkeep, questions, alive, reach, catalogue: Catalogue::default() };
    Ok((parts, wires))
}

impl LocalBroker {
    /// Recovers a shard that has no other copies, and starts its thread. Needs a tokio runtime, for the watch on the catalogue.
    pub fn open(options: Options) -> Result<Arc<LocalBroker>, OpenError> {
        let mut recovered = recover(&options)?;
        recovered.apply_all()?;
        let (clock, shift) = ShardClock::after(options.clock.clone(), recovered.last_time);
        let Recovered { log, applied, checkpoint, last_time, seals, .. } = recovered;
        let (parts, wires) = connect(&options, log, checkpoint)?;
        seals.into_iter().for_each(|job| parts.upkeep.give(Job::Seal(job)));
        let known = Known::of(&applied.state);
        let core = Core::new(applied.state, options.shard, Limits::default(), last_time);
        let mut driver = Driver::new(parts, core, applied.index, clock);
        driver.start(shift).map_err(failed)?;
        LocalBroker::begin(options, wires, known, move || driver.run().is_ok())
    }

    /// Recovers a copy of a shard and starts its thread, which follows or leads as the controller says. Only while it leads, requests are answered.
    pub fn open_replica(options: Options, identity: Identity) -> Result<(Arc<LocalBroker>, replica::Handle), OpenError> {
        let recovered = recover(&options)?;
        let known = Known::of(&recovered.applied.state);
        let Recovered { log, applied, checkpoint, seals, .. } = recovered;
        let (parts, wires) = connect(&options, log, checkpoint)?;
        seals.into_iter().for_each(|job| parts.upkeep.give(Job::Seal(job)));
        let (replica, handle) = Replica::new(options.clone(), identity, parts, applied);
        Ok((LocalBroker::begin(options, wires, known, move || replica.run())?, handle))
    }

    fn begin(options: Options, wires: Wires, known: Known, run: impl FnOnce() -> bool + Send + 'static) -> Result<Arc<LocalBroker>, OpenError> {
        let Wires { asked, reader, inbox, status, alive, reach } = wires;
        let thread = tasks::thread(format!("gantry-shard-{}", options.shard), run).map_err(failed)?;
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
    /// As of the newest checkpoint: what follows may not be committed.
    pub applied: Applied,
    /// The position of the checkpoint that the state came from.
    pub checkpoint: Lsn,
    pub last_time: u64,
    /// Whether an unacknowledged tail was cut off.
    pub torn: bool,
    /// Index runs that were missing and have to be written.
    pub seals: Vec<gantry_store::index::SealJob>,
}

impl Recovered {
    /// Takes everything in the log for committed, as it is where there are no other copies.
    pub fn apply_all(&mut self) -> Result<(), OpenError> {
        let end = self.log.end();
        self.seals.extend(self.applied.advance(&self.log, end).map_err(failed)?.seals);
        Ok(())
    }
}

/// Reads a shard's files, and mends what a crash left half done.
pub fn recover(options: &Options) -> Result<Recovered, OpenError> {
    let disk = &options.disk;
    let loaded = checkpoint::load_newest(&**disk, &options.dir.join("state")).map_err(failed)?;
    let written = loaded.is_some();
    let restored = loaded.and_then(restore);
    if written && restored.is_none() {
        tracing::warn!("the newest checkpoint is of another version; the state is computed from the log");
    }
    let known = restored.as_ref().map_or_else(log::Known::default, |restored| log::Known { until: restored.at, epochs: restored.epochs.clone() });
    let Sizes { first_segment, max_segment, .. } = options.sizes;
    let settings =
        log::Options { first_segment, max_segment, skip_damaged: options.skip_damaged, ..log::Options::new(options.shard, options.cluster) };
    let (log, recovery) = CommitLog::open(disk.clone(), &options.dir, settings, known).map_err(failed)?;
    for (from, to) in &recovery.set_aside {
        tracing::error!(%from, %to, "a damaged range of the log was set aside in `bad/`; what was in it is lost");
    }
    let (applied, seals) = applied_at(options, &log, restored.filter(|restored| restored.at <= log.end()))?;
    let checkpoint = applied.at();
    Ok(Recovered { log, applied, checkpoint, last_time: recovery.last_time, torn: recovery.verdict != Verdict::Clean, seals })
}

/// State and index as of the newest checkpoint, of a shard whose log is open.
pub(crate) fn reload(options: &Options, log: &CommitLog) -> Result<(Applied, Vec<SealJob>), OpenError> {
    let loaded = checkpoint::load_newest(&*options.disk, &options.dir.join("state")).map_err(failed)?;
    applied_at(options, log, loaded.and_then(restore))
}

/// What a checkpoint holds, or the beginning of the log, with the index up to the segment where that is. Answers also the index runs that were missing.
fn applied_at(options: &Options, log: &CommitLog, restored: Option<Restored>) -> Result<(Applied, Vec<SealJob>), OpenError> {
    let (at, state, slots) = match restored {
        Some(restored) => (restored.at, restored.state, Some(restored.slots)),
        None => (log.start(), State::default(), None),
    };
    let segments = log.segments();
    let segment = segments.iter().rev().map(|segment| segment.base).find(|base| *base <= at).unwrap_or(log.start());
    let sealed: Vec<Lsn> = segments.iter().map(|segment| segment.base).filter(|base| *base < segment).collect();
    let opened = Index::open(&*options.disk, &options.dir.join("idx"), &sealed, segment, slots).map_err(failed)?;
    opened.refused.iter().for_each(|error| tracing::warn!(%error, "an index run can't be used; its segment is read again"));
    let mut index = opened.index;
    let reader = log.reader();
    let mut seals = Vec::new();
    for base in index.missing() {
        let end = sealed.iter().copied().find(|next| *next > base).unwrap_or(segment);
        seals.extend(index.replayed(table_of(&reader, base, end).map_err(failed)?));
    }
    Ok((Applied::new(state, index, at, segment), seals))
}

/// The topics and groups that a shard holds something of.
#[derive(Debug, Default)]
pub struct Known {
    pub topics: BTreeSet<TopicId>,
    pub groups: BTreeSet<GroupId>,
}

impl Known {
    /// What the state mentions, so that the watch can tell what was deleted while nobody looked.
    fn of(state: &State) -> Known {
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
