//! The files of one node: a journal of events and a snapshot of the state, and how they become a state again.
//!
//! A frame of the journal holds the events that were made durable by one sync, so after a power loss it is there whole or not at all.
//! A frame that can't be read is a torn tail if nothing sound follows it: nobody was told of its events, and it is cut off. If a sound
//! frame follows, something that was acknowledged is damaged, and the node refuses to start rather than forget it.
//!
//! When the journal is long, the state is written to `snapshot.new`, synced and renamed, and then an empty journal takes the old one's
//! place in the same way. A crash between the two leaves events in the journal that the snapshot has already; they are skipped by number.

use super::OpenError;
use super::frame::{self, FrameError, Frames};
use crate::state::State;
use crate::state::event::Event;
use crate::state::image::{Part, Rebuild};
use gantry_platform::disk::{DiskFile, SharedDisk};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The journal's length at which a snapshot is due. Replaying it takes about 40 ms.
pub const JOURNAL_MAX: u64 = 4 * 1024 * 1024;
/// The format of the journal that this version writes, and the newest it reads.
const FORMAT: u32 = 1;
/// Snapshots are written in pieces of this size.
const PIECE: usize = 1024 * 1024;

/// How the run before this one ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastEnd {
    /// In order: nothing was under way.
    Clean,
    /// By a crash, for all that is known: the last write may be torn.
    #[default]
    Unknown,
}

/// The files, owned by the one thread that writes them.
#[derive(Debug)]
pub struct Log {
    disk: SharedDisk,
    files: Files,
    journal: Arc<dyn DiskFile>,
    /// Where the next frame goes.
    end: u64,
    /// The number of the last event in the log.
    last: u64,
    /// Whether a failed write left bytes after `end` that nobody knows.
    tail_unknown: bool,
    journal_max: u64,
    snapshot_len: u64,
}

#[derive(Clone, Debug)]
struct Files {
    journal: PathBuf,
    journal_new: PathBuf,
    snapshot: PathBuf,
    snapshot_new: PathBuf,
}

/// A frame of the journal.
#[derive(Serialize, Deserialize)]
struct Batch<'a> {
    v: u32,
    /// The number of the first of the events; the first of all is 1.
    first: u64,
    events: Cow<'a, [Event]>,
}

impl Log {
    /// Reads what the folder holds, or begins an empty log in it.
    pub fn open(disk: SharedDisk, dir: &Path, journal_max: u64, end: LastEnd) -> Result<(Log, State), OpenError> {
        let files = Files {
            journal: dir.join("journal"),
            journal_new: dir.join("journal.new"),
            snapshot: dir.join("snapshot"),
            snapshot_new: dir.join("snapshot.new"),
        };
        disk.create_dir_all(dir).map_err(|error| OpenError::io(dir, error))?;
        let (state, snapshot_len) = read_snapshot(&disk, &files.snapshot)?;
        let journal = open_journal(&disk, &files, state.version().0)?;
        let mut log = Log { disk, files, journal, end: 0, last: 0, tail_unknown: false, journal_max, snapshot_len };
        let state = log.replay(state, end)?;
        Ok((log, state))
    }

    /// Makes these events durable, all or none. After `StorageFull` it may be tried again; after any other error it may not.
    pub fn append(&mut self, events: &[Event]) -> io::Result<()> {
        self.forget_tail()?;
        let batch = Batch { v: FORMAT, first: self.last + 1, events: Cow::Borrowed(events) };
        let payload = serde_json::to_vec(&batch).expect("events have no maps with odd keys, so they are JSON");
        let mut bytes = Vec::with_capacity(frame::size(&payload));
        frame::encode(&payload, &mut bytes);
        self.tail_unknown = true;
        self.journal.write_at(self.end, &[IoSlice::new(&bytes)])?;
        self.journal.sync_data()?;
        self.tail_unknown = false;
        self.end += bytes.len() as u64;
        self.last += events.len() as u64;
        Ok(())
    }

    /// Whether the journal is long enough. With a large state it may grow to half of it, so that snapshots don't cost more than they save.
    pub fn snapshot_due(&self) -> bool {
        self.end > self.journal_max.max(self.snapshot_len / 2)
    }

    /// Writes the state and begins an empty journal. After an error the log goes on as it was.
    pub fn snapshot(&mut self, state: &State) -> io::Result<()> {
        assert_eq!(state.version().0, self.last, "a snapshot holds every event of the log");
        let file = self.disk.create(&self.files.snapshot_new)?;
        let len = write_snapshot(file.as_ref(), state)?;
        file.sync_data()?;
        self.disk.rename(&self.files.snapshot_new, &self.files.snapshot)?;
        self.snapshot_len = len;
        self.replace_journal(&[])
    }

    /// After a write that failed, the journal is written anew up to its last synced byte: a file isn't written twice at the same place.
    fn forget_tail(&mut self) -> io::Result<()> {
        if self.tail_unknown {
            let mut content = read_all(self.journal.as_ref())?;
            content.truncate(self.end as usize);
            self.replace_journal(&content)?;
        }
        Ok(())
    }

    fn replay(&mut self, mut state: State, end: LastEnd) -> Result<State, OpenError> {
        let bytes = read_all(self.journal.as_ref()).map_err(|error| OpenError::io(&self.files.journal, error))?;
        let in_snapshot = state.version().0;
        let mut at = 0;
        let mut last = None;
        while let Some(payload) = frame::at(&bytes, at) {
            let batch = self.batch(payload, at)?;
            let expected = last.map_or_else(|| batch.first.min(in_snapshot + 1), |last: u64| last + 1);
            if batch.first != expected {
                return Err(self.damaged(at, format!("event {} stands where event {expected} belongs", batch.first)));
            }
            for (number, event) in (batch.first..).zip(batch.events.iter()) {
                if number > in_snapshot {
                    state.apply(event);
                }
                last = Some(number);
            }
            at += frame::size(payload);
        }
        let last = last.unwrap_or(in_snapshot);
        if last < in_snapshot {
            return Err(self.damaged(at, format!("it ends with event {last}, but the snapshot has {in_snapshot} events")));
        }
        self.last = last;
        self.end = at as u64;
        self.cut_tail(&bytes, at, end)?;
        Ok(state)
    }

    fn batch<'a>(&self, payload: &'a [u8], at: usize) -> Result<Batch<'a>, OpenError> {
        // The format comes first: a newer one may have events that this version doesn't know.
        #[derive(Deserialize)]
        struct Format {
            v: u32,
        }
        let unreadable = |error: serde_json::Error| self.damaged(at, format!("its text makes no sense: {error}"));
        let format: Format = serde_json::from_slice(payload).map_err(unreadable)?;
        if format.v > FORMAT {
            return Err(OpenError::Newer { path: self.files.journal.clone(), format: format.v });
        }
        serde_json::from_slice(payload).map_err(unreadable)
    }

    /// Removes what follows the last sound frame, unless it is more than one torn write can leave.
    fn cut_tail(&mut self, bytes: &[u8], at: usize, end: LastEnd) -> Result<(), OpenError> {
        if at == bytes.len() {
            return Ok(());
        }
        if end == LastEnd::Clean {
            return Err(self.damaged(at, "the last run ended cleanly, so all that it wrote was acknowledged".into()));
        }
        if let Some(sound) = frame::next_after(bytes, at) {
            return Err(self.damaged(at, format!("acknowledged changes follow at byte {sound}")));
        }
        tracing::warn!(file = %self.files.journal.display(), at, cut = bytes.len() - at, "cut an unfinished write off the journal");
        self.replace_journal(&bytes[..at]).map_err(|error| OpenError::io(&self.files.journal_new, error))
    }

    fn replace_journal(&mut self, content: &[u8]) -> io::Result<()> {
        self.journal = new_journal(&self.disk, &self.files, content)?;
        self.end = content.len() as u64;
        self.tail_unknown = false;
        Ok(())
    }

    fn damaged(&self, at: usize, why: String) -> OpenError {
        OpenError::Damaged { path: self.files.journal.clone(), at: at as u64, why }
    }
}

/// The journal must exist whenever there is a snapshot: it is made before the first one and never removed.
fn open_journal(disk: &SharedDisk, files: &Files, in_snapshot: u64) -> Result<Arc<dyn DiskFile>, OpenError> {
    let io = |error| OpenError::io(&files.journal, error);
    if disk.exists(&files.journal).map_err(io)? {
        return disk.open(&files.journal).map_err(io);
    }
    if in_snapshot > 0 {
        return Err(OpenError::Damaged { path: files.journal.clone(), at: 0, why: "the file is missing".into() });
    }
    new_journal(disk, files, &[]).map_err(io)
}

fn new_journal(disk: &SharedDisk, files: &Files, content: &[u8]) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(&files.journal_new)?;
    file.write_at(0, &[IoSlice::new(content)])?;
    file.sync_data()?;
    disk.rename(&files.journal_new, &files.journal)?;
    Ok(file)
}

fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.len()? as usize];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn write_snapshot(file: &dyn DiskFile, state: &State) -> io::Result<u64> {
    let mut written = 0;
    let mut bytes = Vec::with_capacity(PIECE);
    for part in state.parts() {
        let payload = serde_json::to_vec(&part).expect("parts have no maps with odd keys, so they are JSON");
        frame::encode(&payload, &mut bytes);
        if bytes.len() >= PIECE {
            file.write_at(written, &[IoSlice::new(&bytes)])?;
            written += bytes.len() as u64;
            bytes.clear();
        }
    }
    file.write_at(written, &[IoSlice::new(&bytes)])?;
    Ok(written + bytes.len() as u64)
}

/// The state of the snapshot and its length; an empty state if there is none.
fn read_snapshot(disk: &SharedDisk, path: &Path) -> Result<(State, u64), OpenError> {
    let io = |error| OpenError::io(path, error);
    if !disk.exists(path).map_err(io)? {
        return Ok((State::default(), 0));
    }
    let file = disk.open(path).map_err(io)?;
    let mut frames = Frames::new(file.as_ref()).map_err(io)?;
    let damaged = |at: u64, why: String| OpenError::Damaged { path: path.to_owned(), at, why };
    let Some(Part::Head(head)) = next_part(&mut frames, path)? else {
        return Err(damaged(0, "the head is missing".into()));
    };
    let mut rebuild = Rebuild::new(head).map_err(|unfit| damaged(0, unfit.0))?;
    while let Some(part) = next_part(&mut frames, path)? {
        rebuild.add(part).map_err(|unfit| damaged(frames.position(), unfit.0))?;
    }
    let state = rebuild.finish().map_err(|unfit| damaged(frames.position(), unfit.0))?;
    Ok((state, frames.position()))
}

fn next_part(frames: &mut Frames<'_>, path: &Path) -> Result<Option<Part>, OpenError> {
    let at = frames.position();
    let payload = frames.next().map_err(|error| match error {
        FrameError::Io(error) => OpenError::io(path, error),
        FrameError::Damaged { at } => OpenError::Damaged { path: path.to_owned(), at, why: "the checksum is wrong".into() },
    })?;
    let read = |payload: Vec<u8>| serde_json::from_slice(&payload);
    payload.map(read).transpose().map_err(|error| OpenError::Damaged { path: path.to_owned(), at, why: format!("its text makes no sense: {error}") })
}

#[cfg(test)]
mod tests;
