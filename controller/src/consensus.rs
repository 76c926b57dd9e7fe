//! The façade of consensus: events go in, one order comes out, durable on most controllers before anybody sees its effect.
//!
//! One, three or five nodes run raft (openraft, pinned) over a log in redb. What others see is this file: propose, read, barrier, watch,
//! members, status. openraft's types stay inside; what is stored or sent is in our own bytes (`wire.rs`). A cluster of one is the same
//! code with one voter.
//!
//! Read in this order: `seat.rs` (this node), `propose.rs`, `campaign.rs` (elections), `members.rs`, `answer.rs` (what others ask),
//! `peers.rs` (how they are reached); below them `machine.rs` and `snapshot.rs` (the state), `log_store.rs` and `books.rs` (the log).
//! Why it is like this: `docs/design/011-controller-consensus.md`.

mod seat;
mod propose;
mod campaign;
mod members;
mod answer;
pub mod peers;
mod machine;
mod recent;
mod snapshot;
mod frame;
mod log_store;
mod books;
mod redb_file;
mod wire;
mod kinds;
mod runtime;

use crate::state::State;
use crate::state::event::Event;
use crate::state::nodes::FOUNDER;
use books::{Books, BooksError, Extent, Identity};
use gantry_model::NodeId;
use gantry_model::contract::metadata::{MetadataError, Version};
use gantry_platform::chance::Chance;
use gantry_platform::clock::SharedClock;
use gantry_platform::disk::SharedDisk;
use gantry_platform::tasks::{self, TaskGroup};
use gantry_proto::controller as pb;
use kinds::{Member, Raft};
use log_store::{Closing, LogStore};
use machine::{Machine, Shared};
use openraft::{Config, SnapshotPolicy};
use peers::{Answer, Caller, Links, Peers};
use seat::{Heard, Seat};
use snapshot::{Loaded, Snapshots};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

pub use crate::state::Applied;
pub use crate::state::requests::RequestId;
pub use log_store::Desk;
pub use members::{Status, VOTERS_MAX};
pub use recent::Change;
pub use seat::{Pace, Peer};

/// Most entries in one message between nodes.
const PAYLOAD: u64 = 256;
/// The address of a controller that nobody calls.
const ALONE: &str = "localhost:9082";
/// How long the tasks of a node may take to end.
const LINGER: Duration = Duration::from_secs(2);
/// How long a node with an empty disk tries to join before it gives up; whoever started it starts it again.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);

/// What a node needs besides its folder.
pub struct Settings {
    pub disk: SharedDisk,
    pub dir: PathBuf,
    pub clock: SharedClock,
    pub chance: Box<dyn Chance>,
    pub peers: Arc<dyn Peers>,
    /// `host:port` where other controllers reach this node.
    pub address: String,
    /// What a node must say to join here; without it none can.
    pub token: Option<String>,
    pub pace: Pace,
    pub desk: Desk,
}

impl Settings {
    /// Of a controller that has no peers: a standalone server.
    pub fn alone(disk: SharedDisk, dir: &Path, clock: SharedClock, chance: Box<dyn Chance>) -> Settings {
        Settings {
            disk,
            dir: dir.to_owned(),
            clock,
            chance,
            peers: Arc::new(peers::Alone),
            address: ALONE.to_owned(),
            token: None,
            pace: Pace::default(),
            desk: Desk::Thread,
        }
    }
}

/// What to do with an empty folder. A folder that belongs to a node already goes on as that node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Begin a cluster of this id, with this node as the first.
    Found { cluster: String },
    /// Become a node of the cluster that is found at these addresses.
    Join { seeds: Vec<String>, token: String },
    /// The same, if anybody answers there; else begin a cluster of this id.
    FindOrFound { seeds: Vec<String>, token: String, cluster: String },
}

/// One node of the controllers.
#[derive(Debug)]
pub struct Consensus {
    seat: Arc<Seat>,
    tasks: TaskGroup,
    closing: Mutex<Option<Closing>>,
}

impl Consensus {
    /// Opens the folder and takes the node's seat. `cluster` is the id that the folder must belong to, if that is known.
    pub async fn open(settings: Settings, begin: Begin, cluster: Option<&str>) -> Result<Consensus, OpenError> {
        let snapshots = Snapshots::new(settings.disk.clone(), &settings.dir);
        let mut books = open_books(&settings, &begin, cluster, &snapshots).await?;
        let path = books.path().to_owned();
        let broken = |error| OpenError::books(&path, error);
        books.lead_no_more().map_err(broken)?;
        let (identity, extent, vote) = (books.identity().map_err(broken)?, books.extent().map_err(broken)?, books.vote().map_err(broken)?);
        let loaded = snapshots.newest(extent.purged)?;
        let founds = identity.node == FOUNDER && extent == Extent::default() && vote.is_none() && loaded.is_none();
        let seeds = match begin {
            Begin::Found { .. } => Vec::new(),
            Begin::Join { seeds, .. } | Begin::FindOrFound { seeds, .. } => seeds,
        };
        let (seat, closing) = take_seat(settings, seeds, identity, books, snapshots, loaded).await?;
        if founds {
            let members = BTreeMap::from([(FOUNDER, Member { address: seat.address.clone() })]);
            seat.raft.initialize(members).await.map_err(|error| OpenError::Raft { why: error.to_string() })?;
        }
        let tasks = TaskGroup::new();
        tasks.spawn("controller campaign", campaign::run(seat.clone(), tasks.signal()));
        tasks.spawn("controller admission", members::be_admitted(seat.clone(), tasks.signal()));
        Ok(Consensus { seat, tasks, closing: Mutex::new(Some(closing)) })
    }

    /// Puts an event into the order. `Ok` means that it is durable and that every later read here sees it. Dropping the future doesn't
    /// take the event back.
    pub async fn propose(&self, event: Event) -> Result<Applied, ProposeError> {
        self.propose_as(self.seat.request_id(), event).await
    }

    /// As `propose`, under an id of the caller: the same id again within ten minutes answers what came of it and does nothing.
    pub async fn propose_as(&self, request: RequestId, event: Event) -> Result<Applied, ProposeError> {
        propose::propose(&self.seat, request, event).await
    }

    /// Fills the bytes by the node's chance.
    pub fn draw(&self, bytes: &mut [u8]) {
        self.seat.chance.lock().unwrap_or_else(PoisonError::into_inner).fill(bytes);
    }

    /// Looks at the newest state that this node knows. The closure must be quick: changes wait for it.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.seat.shared.read(look)
    }

    /// Returns when this node has applied all that was acknowledged anywhere before the call.
    pub async fn barrier(&self) -> Result<Version, ProposeError> {
        propose::barrier(&self.seat).await
    }

    /// Tells each new version.
    pub fn watch(&self) -> watch::Receiver<Version> {
        self.seat.shared.versions()
    }

    /// Writes a snapshot soon, so that the next start has less to read.
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        let mut applied = self.seat.raft.metrics();
        let at = applied.borrow_and_update().last_applied;
        self.seat.raft.trigger().snapshot().await.map_err(|fatal| propose::fatal_error(&fatal))?;
        let written = gantry_platform::clock::timeout(self.seat.pace.patience, applied.wait_for(|metrics| metrics.snapshot >= at)).await;
        written.map_err(|_| ProposeError::Failed { why: "the snapshot was not written in time".into() })?.map_err(|_| ProposeError::Stopped)?;
        Ok(())
    }

    /// What happened after a version, at most so much of it; `None` if that is not known any more.
    pub fn changes(&self, after: Version, most: usize) -> Option<Vec<Arc<Change>>> {
        self.seat.shared.changes(after, most)
    }

    /// Whether this node leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.seat.leads() && !*self.seat.leaving.borrow()
    }

    /// The refusal of who does not lead; it names who does.
    pub fn not_leader(&self) -> pb::Refused {
        self.seat.not_leader()
    }

    /// Why a caller is refused, if it is: it belongs to another cluster, or does not know the token.
    pub fn refuses(&self, caller: Option<&pb::Caller>) -> Option<pb::Refused> {
        self.seat.refuses(caller)
    }

    pub fn status(&self) -> Status {
        members::status(&self.seat)
    }

    /// Takes a node out of the cluster for good. On the leader only.
    pub async fn remove(&self, node: NodeId) -> Result<(), ProposeError> {
        members::remove(&self.seat, node).await
    }

    /// Hands the lead to this voter, or to one that has the whole log. On the leader only.
    pub async fn hand_over(&self, to: Option<NodeId>) -> Result<Peer, ProposeError> {
        members::hand_over(&self.seat, to).await
    }

    /// Who answers the requests of other controllers.
    pub fn answer(&self) -> Arc<dyn Answer> {
        self.seat.clone()
    }

    /// Ends in order: when it returns, the folder may be opened again.
    pub async fn close(&self) {
        self.seat.log.give_up_waiting();
        if let Err(error) = self.tasks.shutdown(LINGER).await {
            tracing::warn!(%error, "not all tasks of the controller ended by themselves");
        }
        if let Err(error) = self.seat.raft.shutdown().await {
            tracing::warn!(%error, "raft did not end by itself");
        }
        self.seat.log.close();
        let closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(closing) = closing {
            // A panic in the thread would have ended the process.
            _ = tasks::blocking("controller log", move || closing.wait()).await;
        }
    }
}

impl Drop for Consensus {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// The books of the folder, or new ones. Nothing that is there is ever overwritten.
async fn open_books(settings: &Settings, begin: &Begin, cluster: Option<&str>, snapshots: &Snapshots) -> Result<Books, OpenError> {
    let Settings { disk, dir, .. } = settings;
    disk.create_dir_all(dir).map_err(|error| OpenError::io(dir, error))?;
    if let Some(books) = Books::open(disk, dir)? {
        let found = books.identity().map_err(|error| OpenError::books(books.path(), error))?.cluster;
        return match cluster.filter(|wanted| *wanted != found) {
            Some(wanted) => Err(OpenError::OtherCluster { found, wanted: wanted.to_owned() }),
            None => Ok(books),
        };
    }
    if snapshots.newest(None)?.is_some() {
        let why = "the log is missing, though there are snapshots of it".to_owned();
        return Err(OpenError::Damaged { path: dir.clone(), at: 0, why });
    }
    let identity = match begin {
        Begin::Found { cluster } => Identity { cluster: cluster.clone(), node: FOUNDER },
        Begin::FindOrFound { seeds, cluster, .. } if !members::is_anybody_there(settings.peers.as_ref(), seeds).await => {
            Identity { cluster: cluster.clone(), node: FOUNDER }
        }
        Begin::Join { seeds, token } | Begin::FindOrFound { seeds, token, .. } => {
            let joined = members::join(settings.peers.as_ref(), seeds, token, &settings.address, JOIN_PATIENCE).await?;
            if let Some(wanted) = cluster.filter(|wanted| *wanted != joined.cluster) {
                return Err(OpenError::OtherCluster { found: joined.cluster, wanted: wanted.to_owned() });
            }
            Identity { cluster: joined.cluster, node: joined.node }
        }
    };
    Books::create(disk, dir, &identity)
}

async fn take_seat(
    settings: Settings,
    seeds: Vec<String>,
    identity: Identity,
    books: Books,
    snapshots: Snapshots,
    loaded: Option<Loaded>,
) -> Result<(Arc<Seat>, Closing), OpenError> {
    let Settings { dir, clock, chance, peers, address, token, pace, desk, .. } = settings;
    let (full_told, full) = watch::channel(false);
    let (log, closing) = LogStore::start(books, desk, full_told).map_err(|error| OpenError::io(&dir, error))?;
    let shared = Shared::new(loaded.as_ref());
    let machine = Machine::new(shared.clone(), snapshots.clone(), loaded, desk, log.ending());
    let caller = Caller { peers, cluster: identity.cluster.clone(), from: identity.node };
    let links = Links { caller: caller.clone(), shared: shared.clone() };
    let raft = Raft::new(identity.node, Arc::new(raft_config(&pace)), links, log.clone(), machine).await;
    let raft = raft.map_err(|error| OpenError::Raft { why: error.to_string() })?;
    let seat = Seat {
        identity,
        address,
        seeds,
        raft,
        shared,
        log,
        snapshots,
        caller,
        token,
        pace,
        clock,
        chance: Mutex::new(chance),
        full,
        heard: Heard::now(),
        leaving: watch::Sender::new(false),
        incoming: tokio::sync::Mutex::new(None),
    };
    Ok((Arc::new(seat), closing))
}

/// raft neither begins elections by itself nor sends a snapshot to who can have the log.
fn raft_config(pace: &Pace) -> Config {
    let ms = |time: Duration| time.as_millis() as u64;
    let config = Config {
        cluster_name: "gantry".into(),
        heartbeat_interval: ms(pace.heartbeat),
        election_timeout_min: ms(pace.lease) - 1,
        election_timeout_max: ms(pace.lease),
        install_snapshot_timeout: 60_000,
        max_payload_entries: PAYLOAD,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(pace.snapshot_every),
        max_in_snapshot_log_to_keep: pace.snapshot_every + pace.snapshot_every / 5,
        replication_lag_threshold: pace.snapshot_every * 2,
        enable_elect: false,
        ..Config::default()
    };
    config.validate().expect("the lease is longer than a heartbeat")
}

/// Why an event was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// Nothing was changed.
    DiskFull,
    /// Nothing was changed.
    NoLeader {
        why: String,
    },
    /// It may have happened or may still happen. The same request id may be proposed again.
    Unknown {
        why: String,
    },
    /// This node can't go on, or the request can never be done.
    Failed {
        why: String,
    },
    Stopped,
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProposeError::DiskFull => f.write_str("the controller's disk is full, nothing was changed; free space first"),
            ProposeError::NoLeader { why } => write!(f, "nothing was changed, because no controller can decide now: {why}"),
            ProposeError::Unknown { why } => write!(f, "it is not known whether the change was made: {why}; look before you repeat it"),
            ProposeError::Failed { why } => write!(f, "the controller can't do it: {why}; check its disk and its log, and restart it"),
            ProposeError::Stopped => f.write_str("the controller is stopping"),
        }
    }
}

impl std::error::Error for ProposeError {}

impl From<ProposeError> for MetadataError {
    fn from(error: ProposeError) -> MetadataError {
        MetadataError::Unavailable { why: error.to_string() }
    }
}

/// Why the controller's folder can't be used.
#[derive(Debug)]
pub enum OpenError {
    Io {
        path: PathBuf,
        error: io::Error,
    },
    /// Something that was acknowledged can't be read any more.
    Damaged {
        path: PathBuf,
        at: u64,
        why: String,
    },
    Newer {
        path: PathBuf,
        format: u32,
    },
    OtherCluster {
        found: String,
        wanted: String,
    },
    OtherShards {
        found: u32,
        wanted: u32,
    },
    NotJoined {
        why: String,
    },
    /// raft did not start, or not in time.
    Raft {
        why: String,
    },
    /// The options ask for what the rules forbid.
    Refused(MetadataError),
}

impl OpenError {
    pub(crate) fn io(path: &Path, error: io::Error) -> OpenError {
        OpenError::Io { path: path.to_owned(), error }
    }

    fn books(path: &Path, error: BooksError) -> OpenError {
        match error {
            BooksError::Io(error) => OpenError::io(path, error),
            BooksError::Damaged(why) => OpenError::Damaged { path: path.to_owned(), at: 0, why },
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io { path, error } => write!(f, "can't use `{}`: {error}", path.display()),
            OpenError::Damaged { path, why, .. } => write!(
                f,
                "`{}` is damaged: {why}. Topics and groups that were acknowledged would be lost, so the server does not start. \
                 Restore the data folder from a backup, or start with another folder; one of several controllers may clear its folder and join anew",
                path.display()
            ),
            OpenError::Newer { path, format } => {
                write!(f, "`{}` was written by a newer gantry (format {format}); use that version or a newer one", path.display())
            }
            OpenError::OtherCluster { found, wanted } => {
                write!(f, "the data folder belongs to cluster `{found}`, not to `{wanted}`; use another folder or leave the cluster id out")
            }
            OpenError::OtherShards { found, wanted } => {
                write!(f, "the data folder has {found} shards, not {wanted}; the number of shards can't be changed yet")
            }
            OpenError::NotJoined { why } => write!(f, "this controller could not join a cluster: {why}"),
            OpenError::Raft { why } => write!(f, "the controller does not start: {why}"),
            OpenError::Refused(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

#[cfg(test)]
mod tests;
