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
use crate::shard::clock::ShardClock;
use crate::shard::core::{Core, Limits};
use crate::shard::inbox::{Inbox, Request, Status};
use crate::shard::replay::{Applied, table_of};
use crate::shard::state::State;
use crate::shard::thread::Driver;
use crate::shard::upkeep::{Job, Place, Retention, Upkeep, restore};
use gantry_model::contract::Metadata;
use gantry_model::{GroupId, Lsn, ShardId, TopicId};
use gantry_platform::clock::SharedClock;
use gantry_platform::disk::SharedDisk;
use gantry_platform::tasks;
use gantry_store::checkpoint;
use gantry_store::index::Index;
use gantry_store::log::{self, CommitLog, Known, Verdict};
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
        let mut recovered = recover(&options)?;
        recovered.apply_all()?;
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
        let Applied { state, index, .. } = recovered.applied;
        let core = Core::new(state, options.shard, Limits::default(), recovered.last_time);
        let alive = Arc::new(Alive::new(options.clock.clone()));
        let (questions, asked) = tokio::sync::mpsc::unbounded_channel();
        let log = recovered.log;
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
        self.seals.extend(self.applied.advance(&self.log, end).map_err(failed)?);
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
    let known = restored.as_ref().map_or_else(Known::default, |restored| Known { until: restored.at, epochs: restored.epochs.clone() });
    let Sizes { first_segment, max_segment, .. } = options.sizes;
    let settings =
        log::Options { first_segment, max_segment, skip_damaged: options.skip_damaged, ..log::Options::new(options.shard, options.cluster) };
    let (log, recovery) = CommitLog::open(disk.clone(), &options.dir, settings, known).map_err(failed)?;
    for (from, to) in &recovery.set_aside {
        tracing::error!(%from, %to, "a damaged range of the log was set aside in `bad/`; what was in it is lost");
    }
    let (checkpoint, state, slots) = match restored {
        Some(restored) if restored.at <= log.end() => (restored.at, restored.state, Some(restored.slots)),
        _ => (log.start(), State::default(), None),
    };
    let segments = log.segments();
    // The index goes along with the state, so it begins in the segment where the checkpoint is.
    let segment = segments.iter().rev().map(|segment| segment.base).find(|base| *base <= checkpoint).unwrap_or(log.start());
    let sealed: Vec<Lsn> = segments.iter().map(|segment| segment.base).filter(|base| *base < segment).collect();
    let opened = Index::open(&**disk, &options.dir.join("idx"), &sealed, segment, slots).map_err(failed)?;
    opened.refused.iter().for_each(|error| tracing::warn!(%error, "an index run can't be used; its segment is read again"));
    let mut index = opened.index;
    let reader = log.reader();
    let mut seals = Vec::new();
    for base in index.missing() {
        let end = sealed.iter().copied().find(|next| *next > base).unwrap_or(segment);
        seals.extend(index.replayed(table_of(&reader, base, end).map_err(failed)?));
    }
    let applied = Applied::new(state, index, checkpoint, segment);
    Ok(Recovered { log, applied, checkpoint, last_time: recovery.last_time, torn: recovery.verdict != Verdict::Clean, seals })
}

/// The topics and groups that a shard holds something of.
#[derive(Debug, Default)]
pub struct Catalogue {
    pub topics: BTreeSet<TopicId>,
    pub groups: BTreeSet<GroupId>,
}

impl Driver {
    /// What the state mentions, so that the watch can tell what was deleted while nobody looked.
    fn known(&self) -> Catalogue {
        let state = &self.core.state;
        Catalogue { topics: state.queues().map(|(queue, _)| queue.topic()).collect(), groups: state.cursors().map(|(_, group, _)| group).collect() }
    }
}

/// Follows the catalogue: tells the shard which groups there are, and what was deleted.
///
/// What was unknown to the catalogue at the start is kept: ids are never used again, so it harms nobody, and if the catalogue lost something, the
/// messages must not go as well.
async fn watch(metadata: Arc<dyn Metadata>, inbox: Inbox, held: Catalogue) {
    let mut known = Catalogue::default();
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

fn tell(metadata: &dyn Metadata, inbox: &Inbox, known: &mut Catalogue) {
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
    *known = Catalogue { topics, groups };
}

fn failed(error: impl fmt::Display) -> OpenError {
    OpenError(error.to_string())
}
