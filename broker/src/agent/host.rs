//! The copies of shards in this process: opened when the directory names this broker, closed when it doesn't any more.

use super::repair::Peers;
use super::scrub;
use crate::LocalBroker;
use crate::recover::{Damage, Options, Sizes};
use crate::replica::streams::Copies;
use crate::replica::{Ended, Handle, Identity};
use crate::shard::upkeep::Retention;
use gantry_model::contract::Metadata;
use gantry_model::contract::directory::{Copy, ShardRoute};
use gantry_model::{NodeId, ShardId};
use gantry_platform::clock::{SharedClock, sleep, timeout};
use gantry_platform::disk::SharedDisk;
use gantry_platform::tasks::{self, Stop, TaskGroup};
use gantry_store::data_folder::DataFolder;
use gantry_store::replica::Incarnation;
use gantry_store::replica::leader::Durability;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

/// A copy that could not be opened is tried again after this long.
const RETRY: Duration = Duration::from_secs(5);
/// Damaged ranges of a copy that are repaired in one go.
const REPAIRS: usize = 64;
/// Files of copies that are needed no more are kept for this long.
const KEEP_LEFT: Duration = Duration::from_secs(600);

/// What all copies of this process are opened with.
#[derive(Clone)]
pub struct HostSettings {
    pub folder: Arc<DataFolder>,
    pub disk: SharedDisk,
    pub clock: SharedClock,
    pub metadata: Arc<dyn Metadata>,
    pub node: NodeId,
    pub cluster: [u8; 16],
    pub retention: Retention,
    pub skip_damaged: bool,
    pub sizes: Sizes,
}

/// The copies.
pub struct Host {
    settings: HostSettings,
    /// Those that other brokers can speak to.
    copies: Arc<Copies>,
    open: RwLock<BTreeMap<ShardId, Opened>>,
    /// Why a copy that should be here is not.
    failed: Mutex<BTreeMap<ShardId, Failed>>,
    /// Changes whenever `open` does.
    changed: watch::Sender<u64>,
    /// How often each copy was opened.
    opened: Mutex<BTreeMap<ShardId, u32>>,
    /// Copies whose threads ended by themselves.
    ended: UnboundedSender<(ShardId, Ended)>,
    endings: tokio::sync::Mutex<UnboundedReceiver<(ShardId, Ended)>>,
    counts: Counts,
}

/// What was found of damage here, and done about it.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bytes that were looked through.
    pub scrubbed: AtomicU64,
    /// Places that could not be read.
    pub damaged: AtomicU64,
    /// Ranges that were repaired with another broker's bytes, and how long they were.
    pub mended: AtomicU64,
    pub mended_bytes: AtomicU64,
    /// Copies that began anew because their files could not be used.
    pub begun_anew: AtomicU64,
}

/// A copy that runs.
#[derive(Clone, Debug)]
pub struct Opened {
    pub store: [u8; 16],
    pub broker: Arc<LocalBroker>,
    pub handle: Handle,
}

/// A copy that does not.
#[derive(Clone, Debug)]
pub struct Failed {
    pub store: [u8; 16],
    pub why: String,
    at: Duration,
}

/// Why a copy is not open, and what is damaged of it.
struct NotOpened {
    why: String,
    damage: Option<Damage>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("node", &self.settings.node).finish_non_exhaustive()
    }
}

impl Host {
    pub fn new(settings: HostSettings) -> Arc<Host> {
        let copies = Copies::new(settings.cluster, settings.node);
        let (ended, endings) = unbounded_channel();
        Arc::new(Host {
            settings,
            copies,
            open: RwLock::default(),
            failed: Mutex::default(),
            changed: watch::Sender::new(0),
            opened: Mutex::default(),
            ended,
            endings: tokio::sync::Mutex::new(endings),
            counts: Counts::default(),
        })
    }

    pub(super) fn settings(&self) -> &HostSettings {
        &self.settings
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub fn node(&self) -> NodeId {
        self.settings.node
    }

    /// The door for followers elsewhere.
    pub fn copies(&self) -> &Arc<Copies> {
        &self.copies
    }

    /// The copies that run, by shard.
    pub fn open(&self) -> BTreeMap<ShardId, Opened> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn get(&self, shard: ShardId) -> Option<Opened> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&shard).cloned()
    }

    pub fn failed(&self) -> BTreeMap<ShardId, Failed> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Told whenever a copy was opened or closed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How many shards are led here.
    pub fn leads(&self) -> usize {
        self.open().values().filter(|copy| copy.handle.view().leads.is_some()).count()
    }

    /// Opens and closes copies as the directory says, and looks after those that are open.
    pub fn start(self: Arc<Host>, peers: Peers, tasks: &TaskGroup) {
        tasks.spawn("copies of shards", self.clone().run(peers.clone(), tasks.signal()));
        tasks.spawn("scrub", scrub::run(self, peers, tasks.signal()));
    }

    /// Opens and closes copies until it is told to stop.
    async fn run(self: Arc<Host>, peers: Peers, stop: Stop) {
        let directory = peers.directory.clone();
        let sweep = tasks::spawn("removal of old copies", self.clone().sweep());
        let mut endings = self.endings.lock().await;
        while !stop.is_stopped() {
            let version = directory.version();
            self.look(&peers).await;
            tokio::select! {
                biased;
                () = stop.stopped() => break,
                Some((shard, how)) = endings.recv() => self.ended(shard, how).await,
                _ = timeout(RETRY, directory.changed(version)) => {}
            }
        }
        sweep.abort();
    }

    async fn look(self: &Arc<Host>, peers: &Peers) {
        let directory = &*peers.directory;
        let wanted = |route: ShardRoute| Some((route.shard, *route.copies.iter().find(|copy| copy.node == self.settings.node)?));
        let wanted: BTreeMap<ShardId, Copy> = directory.shards().into_iter().filter_map(wanted).collect();
        // A broker that knows nothing of the cluster yet closes nothing.
        if directory.version().0 > 0 {
            for (shard, opened) in self.open() {
                if wanted.get(&shard).is_none_or(|copy| copy.store != opened.store) {
                    tracing::info!(%shard, "this copy is needed here no more");
                    self.close(shard, true).await;
                }
            }
        }
        for (shard, copy) in wanted {
            if self.get(shard).is_none() && !self.failed_lately(shard, copy.store) {
                self.open_copy(peers, shard, copy.store).await;
            }
        }
    }

    /// A copy's thread ended by itself. It is opened again: at once if its files are others now, after a while if the disk failed.
    async fn ended(self: &Arc<Host>, shard: ShardId, how: Ended) {
        let Some(opened) = self.get(shard).filter(|_| how != Ended::Clean) else { return };
        let failed = Failed { store: opened.store, why: opened.handle.view().failed.unwrap_or_default(), at: self.settings.clock.mono() };
        self.close(shard, false).await;
        if how == Ended::Failed {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, failed);
        }
    }

    fn failed_lately(&self, shard: ShardId, store: [u8; 16]) -> bool {
        let now = self.settings.clock.mono();
        self.failed().get(&shard).is_some_and(|failed| failed.store == store && now < failed.at + RETRY)
    }

    /// Opens a copy, and repairs it where it is damaged.
    async fn open_copy(self: &Arc<Host>, peers: &Peers, shard: ShardId, store: [u8; 16]) {
        for _ in 0..REPAIRS {
            let why = match self.try_open(shard, store).await {
                Ok(opened) => {
                    tracing::info!(%shard, end = %opened.handle.view().end, "a copy is open");
                    self.copies.add(shard, opened.handle.clone());
                    self.open.write().unwrap_or_else(PoisonError::into_inner).insert(shard, opened);
                    self.failed.lock().unwrap_or_else(PoisonError::into_inner).remove(&shard);
                    self.changed.send_modify(|count| *count += 1);
                    return;
                }
                Err(NotOpened { why, damage: None }) => why,
                Err(NotOpened { why, damage: Some(damage) }) => match self.repair(peers, shard, store, damage).await {
                    Ok(()) => continue,
                    Err(not_yet) => format!("{why} ({not_yet})"),
                },
            };
            tracing::error!(%shard, %why, "a copy can't be opened; its files are kept, and it is tried again");
            let failed = Failed { store, why, at: self.settings.clock.mono() };
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, failed);
            return;
        }
    }

    async fn try_open(self: &Arc<Host>, shard: ShardId, store: [u8; 16]) -> Result<Opened, NotOpened> {
        let host = self.clone();
        // Recovery reads the log; the runtime stays here because a copy starts tasks.
        let runtime = tokio::runtime::Handle::current();
        let opened = tasks::blocking("recovery of a copy", move || {
            let _inside = runtime.enter();
            host.recover(shard, store)
        });
        opened.await.unwrap_or_else(|error| Err(NotOpened { why: error.to_string(), damage: None }))
    }

    fn recover(&self, shard: ShardId, store: [u8; 16]) -> Result<Opened, NotOpened> {
        let HostSettings { folder, disk, clock, metadata, node, cluster, retention, skip_damaged, sizes } = self.settings.clone();
        let of_shard = folder.open_copy(shard, store).map_err(|error| NotOpened { why: error.to_string(), damage: None })?;
        let dir = of_shard.dir().to_owned();
        let options = Options { disk, dir, clock, metadata, shard, cluster, retention, skip_damaged, sizes };
        let opened_before = {
            let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            let count = opened.entry(shard).or_default();
            std::mem::replace(count, *count + 1)
        };
        let incarnation = Incarnation(folder.incarnation);
        let identity = Identity { node, folder: of_shard, incarnation, durability: Durability::Disk, opened_before };
        let ended = self.ended.clone();
        let tell = move |how| _ = ended.send((shard, how));
        let (broker, handle) =
            LocalBroker::open_replica(options, identity, tell).map_err(|error| NotOpened { why: error.to_string(), damage: error.damage })?;
        Ok(Opened { store, broker, handle })
    }

    /// Ends a copy; one that is needed no more is put aside.
    async fn close(self: &Arc<Host>, shard: ShardId, for_good: bool) -> bool {
        self.copies.remove(shard);
        let Some(opened) = self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&shard) else { return true };
        self.changed.send_modify(|count| *count += 1);
        let host = self.clone();
        let closed = tasks::blocking("end of a copy", move || {
            let clean = opened.broker.close();
            if for_good && let Err(error) = host.settings.folder.put_aside(shard) {
                tracing::warn!(%shard, %error, "the files of a copy that is needed no more could not be put aside");
            }
            clean
        });
        closed.await.unwrap_or(false)
    }

    /// Ends all copies in order. `false` if one had failed.
    pub async fn close_all(self: &Arc<Host>) -> bool {
        let mut clean = true;
        for shard in self.open().into_keys() {
            clean &= self.close(shard, false).await;
        }
        clean
    }

    /// Removes the files of copies that were given up long enough ago: those of earlier runs too.
    async fn sweep(self: Arc<Host>) {
        loop {
            let left = self.settings.folder.left().unwrap_or_default();
            sleep(KEEP_LEFT).await;
            for path in left {
                if let Err(error) = self.settings.folder.remove_left(&path) {
                    tracing::warn!(%error, "the files of a copy that is needed no more could not be removed");
                }
            }
        }
    }
}
