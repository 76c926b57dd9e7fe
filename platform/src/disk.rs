//! The contract of a disk: what a caller may rely on after a crash, and what it may not. Every implementation passes the same
//! comparison test (`tests/disks_agree.rs`).
//!
//! Durability, in four rules:
//!
//! 1. What [`DiskFile::write_at`] wrote survives a power loss only after a later [`DiskFile::sync_data`] of that file returned `Ok`. Before
//!    that, any subset of its 512-byte sectors may survive, in any order.
//! 2. `create_dir_all`, `create_zeroed`, `rename`, `remove` and `remove_dir_all` are durable when they return: each syncs the directories it
//!    changes. Until it returns the change may or may not survive, but never half of it, except that a `remove_dir_all` may stop in the middle.
//! 3. [`Disk::create`] alone leaves the name of the new file unsynced: it is lost or kept until the directory is synced by a call of rule 2
//!    in the same directory or by [`Disk::sync_dir`]. This is the first half of "write a temporary file, sync, rename".
//! 4. After a `write_at` or `sync_data` that failed, nothing is known about the bytes written since the last successful sync. The
//!    kernel may have dropped them and report success next time, so a caller never retries: it stops using the file.

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::mmap::Map;

mod content;
pub mod crash;
pub mod faulty;
pub mod fragile;
pub mod memory;
pub mod real;
pub mod recording;
mod volume;

/// Bytes that a device writes whole or not at all: the smallest logical block of the disks in use, and the one we assume.
pub const SECTOR: usize = 512;

/// The ending of a file that `create_zeroed` has not finished. It stays behind only after a crash; the next `create_zeroed` of the same
/// name replaces it, and who lists a directory may remove it.
pub const PARTIAL_SUFFIX: &str = ".partial";

/// A disk shared by several owners.
pub type SharedDisk = Arc<dyn Disk>;

/// One file on one device. A handle stays usable after the file was renamed or removed.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// True for a file without bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Writes all buffers one after the other at `off`, whole or error; a write behind the end makes the file longer.
    fn write_at(&self, off: u64, bufs: &[IoSlice<'_>]) -> io::Result<()>;

    /// Reads into `buf` and returns the count, which is smaller than `buf` only at the end of the file. May block on the device.
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// As `read_at`, but returns `None` at once if the device would have to be asked.
    fn try_read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<Option<usize>>;

    /// Says that this range will be read soon, so that the device may be asked for it meanwhile. A hint: it never fails and never blocks for long.
    fn will_need(&self, _off: u64, _len: u64) {}

    /// Makes everything written before this call durable (rule 1), the length included.
    fn sync_data(&self) -> io::Result<()>;

    /// A read-only view of the whole file, as long as it is now. The view is live: it shows later writes too.
    fn map(&self) -> io::Result<Map>;
}

/// A tree of files. Paths are absolute, or relative to the disk's root.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes `dir` and its missing parents, durably.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes a file of `len` zeros whose blocks are allocated *and written*, so that later writes inside it never run out of space and
    /// their syncs carry no metadata. Fails with `AlreadyExists` if there is such a file, and with `StorageFull` without leaving anything.
    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes an empty file that grows by writing; empties one that exists. Its name is not synced (rule 3).
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Whether there is a file or directory of this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Moves a file or a directory, atomically and durably; replaces a file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file, durably. Handles and maps of it stay usable.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and all it holds.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes the names in `dir` durable, those of `create` too.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// The full paths of the files and directories directly in `dir`, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// How much room the file system that holds the root has.
    fn space(&self) -> io::Result<Space>;

    /// Takes the exclusive lock file `path` until the returned value is dropped or the process ends. `WouldBlock` if another holds it; the
    /// file then holds the process id of the holder as decimal text.
    fn lock(&self, path: &Path) -> io::Result<Lock>;
}

/// The room of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What this process may still allocate.
    pub free: u64,
}

/// A lock file that is held. Dropping it releases the lock; the file stays.
#[must_use = "the lock is released when this is dropped"]
pub struct Lock {
    _hold: Box<dyn Send + Sync>,
}

impl Lock {
    fn new(hold: impl Send + Sync + 'static) -> Lock {
        Lock { _hold: Box::new(hold) }
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// The error for a lock file that another process holds.
fn locked(path: &Path, holder: &str) -> io::Error {
    let holder = holder.trim();
    let who = if holder.is_empty() { "another process".to_owned() } else { format!("process {holder}") };
    io::Error::new(io::ErrorKind::WouldBlock, format!("`{}` is locked by {who}", path.display()))
}

/// Writes a small file so that after a power loss it is there whole, as it was before or as it is now, and durably once this returns. What is
/// left of an attempt that failed is a file of the same name with `.tmp` behind it, which the next one replaces.
pub fn write_whole(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let file = disk.create(&temporary)?;
    file.write_at(0, &[IoSlice::new(bytes)])?;
    file.sync_data()?;
    disk.rename(&temporary, path)
}

/// The directory a path is in; the root of the disk for a bare name.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// The whole length of a list of buffers.
fn total_len(bufs: &[IoSlice<'_>]) -> usize {
    bufs.iter().map(|b| b.len()).sum()
}

/// The buffers as one.
fn joined(bufs: &[IoSlice<'_>]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(total_len(bufs));
    bufs.iter().for_each(|buf| whole.extend_from_slice(buf));
    whole
}
