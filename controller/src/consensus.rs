//! The façade of consensus: events go in, one order comes out, durable before anybody sees its effect.
//!
//! This is the implementation for one node: the order is that of a journal on this node's disk. Its shape is what more nodes need too
//! (propose, read, watch, snapshot), so a replicated log takes its place without a change outside this module.
//!
//! One thread owns the files. Proposals that arrive while it waits for the disk share the next sync. After a failed write or sync nothing
//! is accepted any more, since what the disk holds is no longer known; reads go on.

mod frame;
mod log;

use crate::state::event::Event;
use crate::state::{Effect, State};
use gantry_model::contract::metadata::{MetadataError, Version};
use gantry_platform::disk::SharedDisk;
use gantry_platform::tasks::{self, Thread};
use log::Log;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use tokio::sync::{mpsc, oneshot, watch};

pub use log::{JOURNAL_MAX, LastEnd};

/// Proposals that wait for the writer; more make the proposers wait.
const INBOX: usize = 1_024;
/// Most events made durable by one sync.
const BATCH: usize = 256;

/// One ordered, durable sequence of events, and the state that they make.
#[derive(Debug)]
pub struct Consensus {
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    inbox: Option<mpsc::Sender<Work>>,
    writer: Option<Thread>,
}

#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    version: watch::Sender<Version>,
}

#[derive(Debug)]
enum Work {
    Propose { event: Box<Event>, reply: oneshot::Sender<Result<Applied, ProposeError>> },
    Snapshot { reply: oneshot::Sender<Result<(), ProposeError>> },
}

/// An event that is durable and applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Its place in the order.
    pub version: Version,
    pub effect: Effect,
}

/// Why an event was not taken. Except for `Failed` and `Stopped`, nothing was changed; with these it will show after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposeError {
    DiskFull,
    /// The disk failed; the process must be restarted.
    Failed {
        why: String,
    },
    Stopped,
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProposeError::DiskFull => f.write_str("the controller's disk is full, nothing was changed; free space first"),
            ProposeError::Failed { why } => write!(f, "the controller can't write its journal: {why}; check the disk and restart the server"),
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

impl Consensus {
    /// Reads the folder and starts the writer. `first` sees the state that was found and says which events must come before any other.
    pub fn open(
        disk: SharedDisk,
        dir: &Path,
        journal_max: u64,
        end: LastEnd,
        first: impl FnOnce(&State) -> Result<Vec<Event>, OpenError>,
    ) -> Result<Consensus, OpenError> {
        let (mut log, mut state) = Log::open(disk, dir, journal_max, end)?;
        let events = first(&state)?;
        if !events.is_empty() {
            log.append(&events).map_err(|error| OpenError::io(dir, error))?;
        }
        for event in &events {
            if let Effect::Refused(why) = state.apply(event) {
                return Err(OpenError::Refused(why));
            }
        }
        let shared = Arc::new(Shared { version: watch::Sender::new(state.version()), state: RwLock::new(state) });
        let (inbox, work) = mpsc::channel(INBOX);
        let writer = Writer { log, shared: shared.clone(), failed: None };
        let writer = tasks::thread("controller-log", move || writer.run(work)).map_err(|error| OpenError::io(dir, error))?;
        Ok(Consensus { shared, inbox: Some(inbox), writer: Some(writer) })
    }

    /// Puts an event into the order. `Ok` means that it is durable and that every later read sees it. Dropping the future doesn't take
    /// the event back.
    pub async fn propose(&self, event: Event) -> Result<Applied, ProposeError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Work::Propose { event: Box::new(event), reply }, answer).await
    }

    /// Writes the state to the snapshot and empties the journal.
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Work::Snapshot { reply }, answer).await
    }

    /// Looks at the newest state. The closure must be quick: changes wait for it.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.shared.state.read().expect(UNPOISONED))
    }

    /// Tells each new version.
    pub fn watch(&self) -> watch::Receiver<Version> {
        self.shared.version.subscribe()
    }

    async fn ask<T>(&self, work: Work, answer: oneshot::Receiver<Result<T, ProposeError>>) -> Result<T, ProposeError> {
        let inbox = self.inbox.as_ref().expect("there until it is dropped");
        inbox.send(work).await.map_err(|_| ProposeError::Stopped)?;
        answer.await.unwrap_or(Err(ProposeError::Stopped))
    }
}

/// Why the lock is never poisoned.
const UNPOISONED: &str = "applying an event doesn't panic, and a panic ends the process";

impl Drop for Consensus {
    /// Ends the writer, which first finishes what it was given.
    fn drop(&mut self) {
        self.inbox = None;
        if let Some(writer) = self.writer.take() {
            // A panic in it would have ended the process.
            _ = writer.join();
        }
    }
}

/// The thread that owns the files.
struct Writer {
    log: Log,
    shared: Arc<Shared>,
    /// Set by the first failure, for good.
    failed: Option<ProposeError>,
}

type Reply = oneshot::Sender<Result<Applied, ProposeError>>;

impl Writer {
    fn run(mut self, mut inbox: mpsc::Receiver<Work>) {
        while let Some(first) = inbox.blocking_recv() {
            let (mut events, mut replies, mut snapshots) = (Vec::new(), Vec::new(), Vec::new());
            let more = std::iter::from_fn(|| inbox.try_recv().ok());
            for work in std::iter::once(first).chain(more).take(BATCH) {
                match work {
                    Work::Propose { event, reply } => {
                        events.push(*event);
                        replies.push(reply);
                    }
                    Work::Snapshot { reply } => snapshots.push(reply),
                }
            }
            self.commit(&events, replies);
            if self.log.snapshot_due() || !snapshots.is_empty() {
                let result = self.snapshot();
                snapshots.into_iter().for_each(|reply| _ = reply.send(result.clone()));
            }
        }
    }

    fn commit(&mut self, events: &[Event], replies: Vec<Reply>) {
        if events.is_empty() {
            return;
        }
        if let Err(error) = self.append(events) {
            replies.into_iter().for_each(|reply| _ = reply.send(Err(error.clone())));
            return;
        }
        let mut state = self.shared.state.write().expect(UNPOISONED);
        let applied: Vec<Applied> = events
            .iter()
            .map(|event| {
                let effect = state.apply(event);
                Applied { version: state.version(), effect }
            })
            .collect();
        let version = state.version();
        drop(state);
        self.shared.version.send_replace(version);
        applied.into_iter().zip(replies).for_each(|(applied, reply)| _ = reply.send(Ok(applied)));
    }

    fn append(&mut self, events: &[Event]) -> Result<(), ProposeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.log.append(events).map_err(|error| {
            if error.kind() == io::ErrorKind::StorageFull {
                return ProposeError::DiskFull;
            }
            let failed = ProposeError::Failed { why: error.to_string() };
            tracing::error!(%error, "the controller's journal can't be written; topics and groups can't be changed until the server is restarted");
            self.failed = Some(failed.clone());
            failed
        })
    }

    /// A snapshot that fails is no harm: the journal has everything, and grows until one succeeds.
    fn snapshot(&mut self) -> Result<(), ProposeError> {
        let state = self.shared.state.read().expect(UNPOISONED);
        self.log.snapshot(&state).map_err(|error| {
            tracing::warn!(%error, "the controller could not write a snapshot; its journal goes on");
            ProposeError::Failed { why: error.to_string() }
        })
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
    /// The options ask for what the rules forbid.
    Refused(MetadataError),
}

impl OpenError {
    pub(crate) fn io(path: &Path, error: io::Error) -> OpenError {
        OpenError::Io { path: path.to_owned(), error }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io { path, error } => write!(f, "can't use `{}`: {error}", path.display()),
            OpenError::Damaged { path, at, why } => write!(
                f,
                "`{}` is damaged at byte {at}: {why}. Topics and groups that were acknowledged would be lost, so the server does not start. \
                 Restore the data folder from a backup, or start with another folder",
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
            OpenError::Refused(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

#[cfg(test)]
mod tests;
