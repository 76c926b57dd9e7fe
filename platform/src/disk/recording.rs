//! A memory disk that writes down every change, so that a crash test can stand at each moment of a run (`crash.rs`).

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::memory::{MemoryDisk, MemoryFile};
use super::{Disk, DiskFile, Lock, Space, joined};
use crate::mmap::Map;

/// One change of the disk, or a mark of the application. Names are those the file had at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The variants are the methods of `Disk` and `DiskFile`, with their arguments.
pub enum Op {
    CreateDirAll {
        dir: PathBuf,
    },
    CreateZeroed {
        path: PathBuf,
        len: u64,
    },
    Create {
        path: PathBuf,
    },
    Write {
        path: PathBuf,
        off: u64,
        bytes: Bytes,
    },
    Sync {
        path: PathBuf,
    },
    SyncDir {
        dir: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    RemoveDirAll {
        dir: PathBuf,
    },
    /// What the application noted, such as "offset 7 is acknowledged".
    Note(u64),
}

/// A memory disk with a log of its changes. Only changes that succeeded are in the log; reads and locks are not. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct RecordingDisk {
    disk: MemoryDisk,
    log: OpLog,
}

#[derive(Clone, Default)]
struct OpLog(Arc<Mutex<Vec<Op>>>);

impl OpLog {
    /// Held while an operation runs, so that the log has the order of the disk.
    fn lock(&self) -> MutexGuard<'_, Vec<Op>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for OpLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations", self.lock().len())
    }
}

struct RecordingFile {
    file: MemoryFile,
    log: OpLog,
}

impl RecordingDisk {
    /// An empty disk.
    pub fn new() -> RecordingDisk {
        RecordingDisk::default()
    }

    /// Writes a mark of the application into the log.
    pub fn note(&self, mark: u64) {
        self.log.lock().push(Op::Note(mark));
    }

    /// Everything that happened so far.
    pub fn ops(&self) -> Vec<Op> {
        self.log.lock().clone()
    }

    fn record<T>(&self, op: Op, act: impl FnOnce(&MemoryDisk) -> io::Result<T>) -> io::Result<T> {
        let mut log = self.log.lock();
        let done = act(&self.disk)?;
        log.push(op);
        Ok(done)
    }

    fn handle(&self, node: Arc<super::volume::Node>) -> Arc<dyn DiskFile> {
        Arc::new(RecordingFile { file: MemoryFile { node }, log: self.log.clone() })
    }
}

impl Disk for RecordingDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.record(Op::CreateDirAll { dir: dir.into() }, |disk| disk.create_dir_all(dir))
    }

    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let op = Op::CreateZeroed { path: path.into(), len };
        self.record(op, |disk| disk.create_zeroed_node(path, len)).map(|node| self.handle(node))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.record(Op::Create { path: path.into() }, |disk| disk.create_node(path)).map(|node| self.handle(node))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open_node(path).map(|node| self.handle(node))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.record(Op::Rename { from: from.into(), to: to.into() }, |disk| disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.record(Op::Remove { path: path.into() }, |disk| disk.remove(path))
    }

    /// Recorded file by file: a crash may stop it in the middle.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let files = self.disk.tree().files_below(dir);
        if self.disk.tree().is_dir(dir) {
            files.iter().try_for_each(|path| self.remove(path))?;
        }
        self.record(Op::RemoveDirAll { dir: dir.into() }, |disk| disk.remove_dir_all(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.record(Op::SyncDir { dir: dir.into() }, |disk| disk.sync_dir(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(dir)
    }

    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }

    /// Kept off the disk: a lock file says nothing after a crash, and the log does not know it.
    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.disk.lock(path)
    }
}

impl RecordingFile {
    /// A file without a name is not recorded: nobody can find it after a crash.
    fn record(&self, act: impl FnOnce(&MemoryFile) -> io::Result<()>, op: impl FnOnce(PathBuf) -> Op) -> io::Result<()> {
        let mut log = self.log.lock();
        act(&self.file)?;
        if let Some(name) = &self.file.node.state().name {
            log.push(op(name.to_path_buf()));
        }
        Ok(())
    }
}

impl DiskFile for RecordingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn write_at(&self, off: u64, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        self.record(|file| file.write_at(off, bufs), |path| Op::Write { path, off, bytes: joined(bufs).into() })
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(off, buf)
    }

    fn try_read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        self.file.try_read_at(off, buf)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.record(|file| file.sync_data(), |path| Op::Sync { path })
    }

    fn map(&self) -> io::Result<Map> {
        self.file.map()
    }
}

impl fmt::Debug for RecordingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}
