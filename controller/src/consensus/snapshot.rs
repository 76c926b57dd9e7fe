//! Snapshots: the state at one place of the log, each in a file of frames.
//!
//! ```text
//!  snapshot-<index, 20 digits>   frame: Head        format, the last entry it holds, the members at that place
//!                                frames: Part …     the state, as `state/image.rs` cuts it
//!  snapshot.new                  one that is being written
//!  snapshot.incoming             one that comes from the leader
//! ```
//! A file gets its name when it is whole and synced. The newest two are kept, and the log keeps the entries since the older one, so that
//! one damaged snapshot costs nothing.

use super::OpenError;
use super::frame::{self, FrameError, Frames};
use super::kinds::{LogId, Membership, SnapshotMeta, StoredMembership};
use crate::state::State;
use crate::state::image::{Part, Rebuild};
use gantry_model::NodeId;
use gantry_platform::disk::{DiskFile, SharedDisk};
use openraft::{CommittedLeaderId, LogId as RaftLogId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The format that this version writes, and the newest it reads.
const FORMAT: u32 = 1;
/// Snapshots are written in pieces of this size.
const PIECE: usize = 1024 * 1024;
/// Room that must be there before anything is proposed: the log file grows in pieces of up to this size.
const ROOM: u64 = 4 * 1024 * 1024;
/// How many are kept.
const KEPT: usize = 2;
const PREFIX: &str = "snapshot-";

/// An open snapshot file.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    pub file: Arc<dyn DiskFile>,
    pub path: PathBuf,
    pub len: u64,
}

/// A snapshot that was read whole.
#[derive(Debug)]
pub struct Loaded {
    pub meta: SnapshotMeta,
    pub state: State,
    pub file: SnapshotFile,
}

/// The first frame.
#[derive(Serialize, Deserialize)]
struct Head {
    v: u32,
    last: Option<Place>,
    members_at: Option<Place>,
    voters: Vec<BTreeSet<NodeId>>,
    members: BTreeMap<NodeId, String>,
}

/// A place in the log.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Place {
    term: u64,
    node: NodeId,
    index: u64,
}

impl From<LogId> for Place {
    fn from(id: LogId) -> Place {
        Place { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl From<Place> for LogId {
    fn from(place: Place) -> LogId {
        RaftLogId::new(CommittedLeaderId::new(place.term, place.node), place.index)
    }
}

impl Head {
    fn of(last: Option<LogId>, membership: &StoredMembership) -> Head {
        let members = membership.membership();
        Head {
            v: FORMAT,
            last: last.map(Place::from),
            members_at: membership.log_id().map(Place::from),
            voters: members.get_joint_config().clone(),
            members: members.nodes().map(|(id, member)| (*id, member.address.clone())).collect(),
        }
    }

    fn meta(self) -> SnapshotMeta {
        let members: BTreeMap<_, _> = self.members.into_iter().map(|(id, address)| (id, super::kinds::Member { address })).collect();
        let last_log_id = self.last.map(LogId::from);
        let membership = Membership::new(self.voters, members);
        SnapshotMeta {
            last_log_id,
            last_membership: StoredMembership::new(self.members_at.map(LogId::from), membership),
            snapshot_id: last_log_id.map_or_else(|| "0".to_owned(), |id| format!("{}-{}-{}", id.leader_id.term, id.leader_id.node_id, id.index)),
        }
    }
}

/// The folder of the snapshots. Clones are the same folder.
#[derive(Clone, Debug)]
pub struct Snapshots {
    disk: SharedDisk,
    dir: PathBuf,
}

impl Snapshots {
    pub fn new(disk: SharedDisk, dir: &Path) -> Snapshots {
        Snapshots { disk, dir: dir.to_owned() }
    }

    /// The newest that can be read; an older one only if the log holds all that came after it. Answers nothing if nothing is there.
    pub fn newest(&self, purged: Option<LogId>) -> Result<Option<Loaded>, OpenError> {
        let paths = self.list().map_err(|error| OpenError::io(&self.dir, error))?;
        let mut newest = None;
        for path in paths.iter().rev() {
            match self.load(path) {
                Ok(loaded) if loaded.meta.last_log_id >= purged => return Ok(Some(loaded)),
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "a snapshot of the controller can't be read; trying the one before");
                    newest.get_or_insert(error);
                }
            }
        }
        match (newest, purged) {
            (Some(error), _) => Err(error),
            (None, Some(id)) => {
                let why = format!("the log begins after entry {}, and no snapshot holds what came before", id.index);
                Err(OpenError::Damaged { path: self.dir.clone(), at: 0, why })
            }
            (None, None) => Ok(None),
        }
    }

    /// Writes the state and forgets snapshots that are no longer needed. Blocks.
    pub fn write(&self, last: Option<LogId>, membership: &StoredMembership, state: &State) -> io::Result<(SnapshotMeta, SnapshotFile)> {
        let new = self.dir.join("snapshot.new");
        let file = self.disk.create(&new)?;
        let head = Head::of(last, membership);
        let len = write_frames(file.as_ref(), &head, state)?;
        file.sync_data()?;
        let meta = head.meta();
        let path = self.path_of(&meta);
        self.disk.rename(&new, &path)?;
        self.prune()?;
        Ok((meta, SnapshotFile { file, path, len }))
    }

    /// An empty file for a snapshot that comes from elsewhere.
    pub fn incoming(&self) -> io::Result<SnapshotFile> {
        let path = self.incoming_path();
        Ok(SnapshotFile { file: self.disk.create(&path)?, path, len: 0 })
    }

    /// Whether the disk has room for what a proposal may need.
    pub fn has_room(&self) -> bool {
        // Who can't say how much room there is finds out by writing.
        self.disk.space().map_or(true, |space| space.free >= ROOM)
    }

    /// Makes a file that came from elsewhere one of ours. Blocks.
    pub fn keep(&self, meta: &SnapshotMeta, incoming: &SnapshotFile) -> io::Result<SnapshotFile> {
        let here = self.incoming_path();
        let incoming = if incoming.path == here { incoming.clone() } else { self.copy(incoming)? };
        incoming.file.sync_data()?;
        let path = self.path_of(meta);
        self.disk.rename(&here, &path)?;
        self.prune()?;
        Ok(SnapshotFile { path, ..incoming })
    }

    fn copy(&self, from: &SnapshotFile) -> io::Result<SnapshotFile> {
        let mut to = self.incoming()?;
        let mut bytes = vec![0; PIECE];
        while to.len < from.len {
            let read = from.file.read_at(to.len, &mut bytes)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            to.file.write_at(to.len, &[IoSlice::new(&bytes[..read])])?;
            to.len += read as u64;
        }
        Ok(to)
    }

    fn load(&self, path: &Path) -> Result<Loaded, OpenError> {
        let io = |error| OpenError::io(path, error);
        let file = self.disk.open(path).map_err(io)?;
        let len = file.len().map_err(io)?;
        Snapshots::read(SnapshotFile { file, path: path.to_owned(), len })
    }

    /// Reads a snapshot to its end.
    pub fn read(source: SnapshotFile) -> Result<Loaded, OpenError> {
        let path = source.path.as_path();
        let io = |error| OpenError::io(path, error);
        let mut frames = Frames::new(source.file.as_ref()).map_err(io)?;
        let damaged = |at: u64, why: String| OpenError::Damaged { path: path.to_owned(), at, why };
        let head: Head = next(&mut frames, path)?.ok_or_else(|| damaged(0, "it is empty".into()))?;
        if head.v > FORMAT {
            return Err(OpenError::Newer { path: path.to_owned(), format: head.v });
        }
        let Some(Part::Head(begin)) = next(&mut frames, path)? else {
            return Err(damaged(frames.position(), "the head of the state is missing".into()));
        };
        let mut rebuild = Rebuild::new(begin).map_err(|unfit| damaged(0, unfit.0))?;
        while let Some(part) = next(&mut frames, path)? {
            rebuild.add(part).map_err(|unfit| damaged(frames.position(), unfit.0))?;
        }
        let state = rebuild.finish().map_err(|unfit| damaged(frames.position(), unfit.0))?;
        Ok(Loaded { meta: head.meta(), state, file: source })
    }

    fn incoming_path(&self) -> PathBuf {
        self.dir.join("snapshot.incoming")
    }

    fn path_of(&self, meta: &SnapshotMeta) -> PathBuf {
        self.dir.join(format!("{PREFIX}{:020}", meta.last_log_id.map_or(0, |id| id.index)))
    }

    /// The oldest first.
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = self.disk.list(&self.dir)?;
        paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)));
        Ok(paths)
    }

    fn prune(&self) -> io::Result<()> {
        let paths = self.list()?;
        let surplus = paths.len().saturating_sub(KEPT);
        paths[..surplus].iter().try_for_each(|path| self.disk.remove(path))
    }
}

fn write_frames(file: &dyn DiskFile, head: &Head, state: &State) -> io::Result<u64> {
    let mut written = 0;
    let mut bytes = Vec::with_capacity(PIECE);
    frame::encode(&json(head), &mut bytes);
    for part in state.parts() {
        frame::encode(&json(&part), &mut bytes);
        if bytes.len() >= PIECE {
            file.write_at(written, &[IoSlice::new(&bytes)])?;
            written += bytes.len() as u64;
            bytes.clear();
        }
    }
    file.write_at(written, &[IoSlice::new(&bytes)])?;
    Ok(written + bytes.len() as u64)
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("parts have no maps with odd keys, so they are JSON")
}

fn next<T: for<'a> Deserialize<'a>>(frames: &mut Frames<'_>, path: &Path) -> Result<Option<T>, OpenError> {
    let at = frames.position();
    let payload = frames.next().map_err(|error| match error {
        FrameError::Io(error) => OpenError::io(path, error),
        FrameError::Damaged { at } => OpenError::Damaged { path: path.to_owned(), at, why: "the checksum is wrong".into() },
    })?;
    let read = |payload: Vec<u8>| serde_json::from_slice(&payload);
    payload.map(read).transpose().map_err(|error| OpenError::Damaged { path: path.to_owned(), at, why: format!("its text makes no sense: {error}") })
}
