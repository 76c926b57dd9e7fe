//! Files made ready for the log before it needs them: written with zeros, so that using one costs no allocation and can't run out of room.
//!
//! A background thread makes them with a [`SpareMaker`]; the shard's thread takes them. One is kept back for frames that help to empty the disk.

use gantry_platform::disk::{Disk, DiskFile, SharedDisk};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A file that waits to become a segment.
#[derive(Debug)]
pub(super) struct Spare {
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    pub size: u64,
    /// How often it was a segment before.
    pub uses: u64,
}

/// The spares of one log.
#[derive(Debug)]
pub(super) struct Spares {
    dir: PathBuf,
    ready: Mutex<Vec<Spare>>,
    /// Size of the next one to make.
    size: AtomicU64,
    named: AtomicU64,
    wanted: usize,
}

/// Makes spares on another thread, so that writing 256 MiB of zeros (about half a second) never holds up the shard.
#[derive(Clone)]
pub struct SpareMaker {
    disk: SharedDisk,
    spares: Arc<Spares>,
}

impl fmt::Debug for SpareMaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpareMaker").field("dir", &self.spares.dir).finish_non_exhaustive()
    }
}

impl SpareMaker {
    pub(super) fn new(disk: SharedDisk, spares: Arc<Spares>) -> SpareMaker {
        SpareMaker { disk, spares }
    }

    /// Makes one spare if fewer are ready than wanted. Answers whether it made one, so the caller can go on until `false`. A disk that
    /// is too full for another one is no error: there is just none to make.
    pub fn make(&self) -> io::Result<bool> {
        if !self.spares.is_short() {
            return Ok(false);
        }
        let made = self.spares.create(&*self.disk, self.spares.size.load(Ordering::Relaxed));
        match made {
            Ok(spare) => {
                self.spares.ready().push(spare);
                Ok(true)
            }
            Err(error) if is_full(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Spares {
    /// The spares found in `dir`, for a log whose next segment has `size` bytes.
    pub fn new(dir: &Path, found: Vec<Spare>, wanted: usize, size: u64) -> Spares {
        let named = found.iter().filter_map(|spare| number_of(&spare.path)).max().unwrap_or(0);
        let (ready, dir) = (Mutex::new(found), dir.to_path_buf());
        Spares { dir, ready, size: AtomicU64::new(size), named: AtomicU64::new(named), wanted }
    }

    pub fn is_short(&self) -> bool {
        self.ready().len() < self.wanted
    }

    /// How many are never taken for messages.
    pub fn reserve(&self) -> usize {
        self.wanted.min(1)
    }

    pub fn want_size(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
    }

    /// The largest spare, if taking it leaves `keep`.
    pub fn take(&self, keep: usize) -> Option<Spare> {
        let mut ready = self.ready();
        if ready.len() <= keep {
            return None;
        }
        let largest = (0..ready.len()).max_by_key(|&at| ready[at].size)?;
        Some(ready.swap_remove(largest))
    }

    /// Writes a new file of zeros.
    pub fn create(&self, disk: &dyn Disk, size: u64) -> io::Result<Spare> {
        let path = self.new_path();
        let file = disk.create_zeroed(&path, size)?;
        Ok(Spare { path, file, size, uses: 0 })
    }

    /// Takes back a file that was a segment, instead of removing it. What is in it can't be taken for frames: their addresses are others.
    pub fn recycle(&self, disk: &dyn Disk, from: &Path, file: Arc<dyn DiskFile>, size: u64, uses: u64) -> io::Result<()> {
        let path = self.new_path();
        disk.rename(from, &path)?;
        self.ready().push(Spare { path, file, size, uses });
        Ok(())
    }

    /// Whether a file of this size is worth keeping.
    pub fn has_place_for(&self, size: u64) -> bool {
        self.is_short() && size >= self.size.load(Ordering::Relaxed)
    }

    fn new_path(&self) -> PathBuf {
        self.dir.join(format!("spare-{:04}.log", self.named.fetch_add(1, Ordering::Relaxed) + 1))
    }

    fn ready(&self) -> MutexGuard<'_, Vec<Spare>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number in the name of a spare.
pub(super) fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("spare-")?.strip_suffix(".log")?.parse().ok()
}

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
