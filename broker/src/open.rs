//! From files to a running shard: what was recovered, its thread, and the tasks beside it.

use crate::admission::Admission;
use crate::alive::Alive;
use crate::local::LocalBroker;
use crate::local::transactions::{Reach, ask_producers};
use crate::post::PostOffice;
use crate::read::Messages;
use crate::record::Forget;
use crate::recover::{OpenError, Options, Recovered, recover};
use crate::replica::{self, Ended, Identity, Replica};
use crate::shard::clock::ShardClock;
use crate::shard::core::{Core, Limits};
use crate::shard::halves::Question;
use crate::shard::inbox::{Inbox, Request, Status};
use crate::shard::state::State;
use crate::shard::thread::{Catalogue, Driver, Parts};
use crate::shard::upkeep::{Job, Place, Upkeep};
use gantry_model::contract::Metadata;
use gantry_model::{GroupId, Lsn, TopicId};
use gantry_platform::tasks::{self, Thread};
use gantry_platform::workers::{ByHand, SharedWorkers, Threads};
use gantry_store::log::{CommitLog, LogReader};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// Bytes that may be under way into a shard.
const INBOX_BYTES: usize = 64 * 1024 * 1024;
/// Lives of messages that are read from the log at the same time.
const LIVES: usize = 2;
/// Topics and groups looked at in one go while the catalogue is read.
const PAGE: usize = 1_000;
/// Changes of the catalogue are gathered for this long.
const GATHER: Duration = Duration::from_millis(200);

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
fn connect(options: &Options, log: CommitLog, checkpoint: Lsn, workers: SharedWorkers) -> Result<(Parts, Wires), OpenError> {
    let (inbox, requests) = Inbox::new();
    let place = Place {
        disk: options.disk.clone(),
        dir: options.dir.clone(),
        metadata: options.metadata.clone(),
        retention: options.retention,
        checkpoint_bytes: options.sizes.checkpoint,
    };
    let upkeep = Upkeep::start(place, inbox.clone(), checkpoint, &*workers).map_err(OpenError::of)?;
    let (questions, asked) = tokio::sync::mpsc::unbounded_channel();
    let (status, alive, reach) = (Arc::new(Status::default()), Arc::new(Alive::new(options.clock.clone())), Reach::default());
    let wires = Wires { asked, reader: log.reader(), inbox: inbox.clone(), status: status.clone(), alive: alive.clone(), reach: reach.clone() };
    let (clock, catalogue) = (options.clock.clone(), Catalogue::default());
    let parts = Parts { log, clock, inbox, requests, status, upkeep, questions, alive, reach, catalogue, workers };
    Ok((parts, wires))
}

impl LocalBroker {
    /// Recovers a shard that has no other copies, and starts its thread. Needs a tokio runtime, for the watch on the catalogue.
    pub fn open(options: Options) -> Result<Arc<LocalBroker>, OpenError> {
        let mut recovered = recover(&options)?;
        recovered.apply_all()?;
        let (clock, shift) = ShardClock::after(options.clock.clone(), recovered.last_time);
        let Recovered { log, applied, checkpoint, last_time, seals, .. } = recovered;
        let (parts, wires) = connect(&options, log, checkpoint, Arc::new(Threads))?;
        seals.into_iter().for_each(|job| parts.upkeep.give(Job::Seal(job)));
        let known = Known::of(&applied.state);
        let core = Core::new(applied.state, options.shard, Limits::default(), last_time);
        let mut driver = Driver::new(parts, core, applied.index, clock);
        driver.start(shift).map_err(OpenError::of)?;
        let thread = thread_of(&options, move || driver.run().is_ok())?;
        Ok(LocalBroker::begin(options, wires, known, Some(thread)))
    }

    /// Recovers a copy of a shard and starts its thread, which follows or leads as the controller says. Only while it leads, requests are answered.
    /// `ended` is told when the thread has ended by itself.
    pub fn open_replica(
        options: Options,
        identity: Identity,
        ended: impl FnOnce(Ended) + Send + 'static,
    ) -> Result<(Arc<LocalBroker>, replica::Handle), OpenError> {
        let (replica, handle, wires, known) = LocalBroker::replica(&options, identity, Arc::new(Threads))?;
        let thread = thread_of(&options, move || {
            let how = replica.run();
            ended(how);
            how == Ended::Clean
        })?;
        Ok((LocalBroker::begin(options, wires, known, Some(thread)), handle))
    }

    /// As `open_replica`, without a thread: the replica takes a round when it is told to, and work beside it is done by hand.
    pub fn open_stepped(options: Options, identity: Identity, workers: ByHand) -> Result<(Arc<LocalBroker>, replica::Handle, Replica), OpenError> {
        let (replica, handle, wires, known) = LocalBroker::replica(&options, identity, Arc::new(workers))?;
        Ok((LocalBroker::begin(options, wires, known, None), handle, replica))
    }

    fn replica(options: &Options, identity: Identity, workers: SharedWorkers) -> Result<(Replica, replica::Handle, Wires, Known), OpenError> {
        let recovered = recover(options)?;
        let known = Known::of(&recovered.applied.state);
        let Recovered { log, applied, checkpoint, seals, waits, .. } = recovered;
        let (parts, wires) = connect(options, log, checkpoint, workers)?;
        seals.into_iter().for_each(|job| parts.upkeep.give(Job::Seal(job)));
        let (replica, handle) = Replica::new(options.clone(), identity, parts, applied, waits);
        Ok((replica, handle, wires, known))
    }

    fn begin(options: Options, wires: Wires, known: Known, thread: Option<Thread<bool>>) -> Arc<LocalBroker> {
        let Wires { asked, reader, inbox, status, alive, reach } = wires;
        let watch = tasks::spawn("catalogue watch", watch(options.metadata.clone(), inbox.clone(), known));
        let messages = Messages::new(reader, options.metadata);
        // Ends with the shard's thread. Without it nobody is asked, and transactions wait.
        tasks::spawn("transaction checks", ask_producers(asked, messages.clone(), reach.clone(), inbox.clone()));
        Arc::new(LocalBroker {
            shard: options.shard,
            inbox,
            posts: PostOffice::default(),
            messages,
            lives: tokio::sync::Semaphore::new(LIVES),
            admission: Admission::new(INBOX_BYTES),
            alive,
            status,
            clock: options.clock,
            thread: Mutex::new(thread),
            watch,
            reach,
        })
    }
}

fn thread_of(options: &Options, run: impl FnOnce() -> bool + Send + 'static) -> Result<Thread<bool>, OpenError> {
    tasks::thread(format!("gantry-shard-{}", options.shard), run).map_err(OpenError::of)
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
