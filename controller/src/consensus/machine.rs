//! The state as openraft wants it: it is given entries that are committed, in order, and applies them to the pure state.
//!
//! Who reads the state does not wait for disks: the lock is held only while entries are applied. A snapshot is taken of a copy, which
//! shares topics and groups with the state.

use super::kinds::{Entry, Kinds, LogId, Member, Proposal, SnapshotMeta, StorageError, StorageIOError, StoredMembership};
use super::log_store::Desk;
use super::recent::{Change, Recent};
use super::snapshot::{Loaded, SnapshotFile, Snapshots};
use crate::state::{Applied, Effect, State};
use gantry_model::NodeId;
use gantry_model::contract::metadata::Version;
use gantry_platform::clock::timeout;
use gantry_platform::tasks::{self, TaskError};
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// The time from a snapshot that failed to the next try.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(5);
/// Why the lock is never poisoned.
const UNPOISONED: &str = "applying an event doesn't panic, and a panic of raft ends it";

/// The state and how far it is, for all who read it.
#[derive(Debug)]
pub struct Shared {
    inner: RwLock<Inner>,
    version: watch::Sender<Version>,
    /// The index of the last entry applied.
    applied: watch::Sender<Option<u64>>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    state: State,
    recent: Recent,
    last: Option<LogId>,
    membership: StoredMembership,
}

impl Shared {
    pub fn new(loaded: Option<&Loaded>) -> Arc<Shared> {
        let inner = loaded.map(|loaded| Inner {
            state: loaded.state.clone(),
            recent: Recent::since(loaded.state.version()),
            last: loaded.meta.last_log_id,
            membership: loaded.meta.last_membership.clone(),
        });
        let inner = inner.unwrap_or_default();
        let (version, applied) = (inner.state.version(), inner.last.map(|id| id.index));
        Arc::new(Shared { inner: RwLock::new(inner), version: watch::Sender::new(version), applied: watch::Sender::new(applied) })
    }

    /// Looks at the newest state. The closure must be quick: changes wait for it.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.inner.read().expect(UNPOISONED).state)
    }

    /// What happened after a version, at most so much of it; `None` if that is not known any more.
    pub fn changes(&self, after: Version, most: usize) -> Option<Vec<Arc<Change>>> {
        self.inner.read().expect(UNPOISONED).recent.after(after, most)
    }

    pub fn membership(&self) -> StoredMembership {
        self.inner.read().expect(UNPOISONED).membership.clone()
    }

    pub fn member(&self, id: NodeId) -> Option<Member> {
        self.inner.read().expect(UNPOISONED).membership.membership().get_node(&id).cloned()
    }

    pub fn versions(&self) -> watch::Receiver<Version> {
        self.version.subscribe()
    }

    pub fn applied(&self) -> watch::Receiver<Option<u64>> {
        self.applied.subscribe()
    }

    fn replace(&self, inner: Inner) {
        let (version, applied) = (inner.state.version(), inner.last.map(|id| id.index));
        *self.inner.write().expect(UNPOISONED) = inner;
        self.tell(version, applied);
    }

    fn apply(&self, entries: impl IntoIterator<Item = Entry>) -> Vec<Applied> {
        let mut inner = self.inner.write().expect(UNPOISONED);
        let applied = entries.into_iter().map(|entry| inner.apply(entry)).collect();
        let (version, last) = (inner.state.version(), inner.last.map(|id| id.index));
        drop(inner);
        self.tell(version, last);
        applied
    }

    fn tell(&self, version: Version, applied: Option<u64>) {
        self.version.send_if_modified(|told| std::mem::replace(told, version) != version);
        self.applied.send_replace(applied);
    }
}

impl Inner {
    fn apply(&mut self, entry: Entry) -> Applied {
        self.last = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Normal(Proposal { request, time_ms, event }) => {
                let before = self.state.version();
                let applied = self.state.take(request, time_ms, &event);
                if self.state.version() != before {
                    self.recent.push(event);
                }
                applied
            }
            EntryPayload::Blank => self.unchanged(),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                self.unchanged()
            }
        }
    }

    fn unchanged(&self) -> Applied {
        Applied { version: self.state.version(), effect: Effect::Done }
    }
}

/// The state machine of one node.
#[derive(Debug)]
pub struct Machine {
    shared: Arc<Shared>,
    snapshots: Snapshots,
    newest: Newest,
    desk: Desk,
    /// Told when the node ends.
    ending: watch::Receiver<bool>,
}

/// The newest snapshot there is.
type Newest = Arc<Mutex<Option<(SnapshotMeta, SnapshotFile)>>>;

impl Machine {
    pub fn new(shared: Arc<Shared>, snapshots: Snapshots, loaded: Option<Loaded>, desk: Desk, ending: watch::Receiver<bool>) -> Machine {
        let newest = loaded.map(|loaded| (loaded.meta, loaded.file));
        Machine { shared, snapshots, newest: Arc::new(Mutex::new(newest)), desk, ending }
    }
}

/// Runs what blocks where the desk wants it.
async fn at<T: Send + 'static>(desk: Desk, name: &'static str, run: impl FnOnce() -> T + Send + 'static) -> Result<T, TaskError> {
    match desk {
        Desk::Thread => tasks::blocking(name, run).await,
        Desk::Caller => Ok(run()),
    }
}

fn failed(error: impl Error + 'static) -> StorageError {
    StorageIOError::write_snapshot(None, AnyError::new(&error)).into()
}

/// Takes the state as it was when this was made.
#[derive(Debug)]
pub struct Photographer {
    inner: Inner,
    snapshots: Snapshots,
    newest: Newest,
    desk: Desk,
    ending: watch::Receiver<bool>,
}

impl Photographer {
    async fn write(&self) -> Result<io::Result<(SnapshotMeta, SnapshotFile)>, TaskError> {
        let (inner, snapshots) = (self.inner.clone(), self.snapshots.clone());
        at(self.desk, "controller snapshot", move || snapshots.write(inner.last, &inner.membership, &inner.state)).await
    }
}

impl RaftSnapshotBuilder<Kinds> for Photographer {
    /// A snapshot that fails is no harm: the log has everything, and grows until one succeeds. To raft a failure would be the end.
    async fn build_snapshot(&mut self) -> Result<Snapshot<Kinds>, StorageError> {
        loop {
            let error = match self.write().await.map_err(failed)? {
                Ok((meta, file)) => {
                    *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some((meta.clone(), file.clone()));
                    return Ok(Snapshot { meta, snapshot: Box::new(file) });
                }
                Err(error) => error,
            };
            tracing::warn!(%error, "the controller could not write a snapshot; its log goes on, and it tries again");
            if timeout(SNAPSHOT_RETRY, self.ending.wait_for(|ending| *ending)).await.is_ok() {
                return Err(failed(error));
            }
        }
    }
}

impl RaftStateMachine<Kinds> for Machine {
    type SnapshotBuilder = Photographer;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let inner = self.shared.inner.read().expect(UNPOISONED);
        Ok((inner.last, inner.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        Ok(self.shared.apply(entries))
    }

    async fn get_snapshot_builder(&mut self) -> Photographer {
        let inner = self.shared.inner.read().expect(UNPOISONED).clone();
        Photographer { inner, snapshots: self.snapshots.clone(), newest: self.newest.clone(), desk: self.desk, ending: self.ending.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError> {
        self.snapshots.incoming().map(Box::new).map_err(failed)
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Box<SnapshotFile>) -> Result<(), StorageError> {
        let (snapshots, wanted) = (self.snapshots.clone(), meta.clone());
        let install = move || -> io::Result<(Loaded, SnapshotFile)> {
            let loaded = Snapshots::read(SnapshotFile::clone(&snapshot)).map_err(|error| io::Error::other(error.to_string()))?;
            if loaded.meta.last_log_id != wanted.last_log_id {
                return Err(io::Error::other("the snapshot is of another place in the log than was said"));
            }
            let file = snapshots.keep(&wanted, &snapshot)?;
            Ok((loaded, file))
        };
        let (loaded, file) = at(self.desk, "controller snapshot", install).await.map_err(failed)?.map_err(failed)?;
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some((meta.clone(), file));
        let recent = Recent::since(loaded.state.version());
        self.shared.replace(Inner { state: loaded.state, recent, last: meta.last_log_id, membership: meta.last_membership.clone() });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Kinds>>, StorageError> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(newest.map(|(meta, file)| Snapshot { meta, snapshot: Box::new(file) }))
    }
}
