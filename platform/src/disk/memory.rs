//! A disk in memory that knows what a power loss would keep: the bottom of the simulator and of most tests.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::crash::CrashPoint;
use super::volume::{Device, Node, Tree};
use super::{Disk, DiskFile, Lock, Space, locked};
use crate::chance::Chance;
use crate::mmap::{Map, Source};

/// The room of a disk whose test does not care: 1 TiB.
const AMPLE: u64 = 1 << 40;

/// A whole file system in memory. Clones are the same disk.
#[derive(Clone)]
pub struct MemoryDisk {
    tree: Arc<Mutex<Tree>>,
}

/// An open file of a memory disk.
pub(super) struct MemoryFile {
    pub(super) node: Arc<Node>,
}

impl MemoryDisk {
    /// An empty disk with ample room.
    pub fn new() -> MemoryDisk {
        MemoryDisk::with_capacity(AMPLE)
    }

    /// An empty disk of this many bytes.
    pub fn with_capacity(bytes: u64) -> MemoryDisk {
        MemoryDisk::of(Tree::new(Device::new(bytes)))
    }

    pub(super) fn of(tree: Tree) -> MemoryDisk {
        MemoryDisk { tree: Arc::new(Mutex::new(tree)) }
    }

    /// A disk as this one could be found after a power loss now: every unsynced sector and name is kept or lost by chance. This disk
    /// goes on as it is, so the test must stop what still writes to it.
    pub fn crash(&self, chance: &mut dyn Chance) -> MemoryDisk {
        // The share of what survives varies too: sectors that are all kept or all lost are the commonest crashes of real disks.
        let kept_of_four = chance.below(5);
        self.crash_point().materialize(|_| chance.ratio(kept_of_four, 4))
    }

    /// All states a power loss could leave now.
    pub fn crash_point(&self) -> CrashPoint {
        CrashPoint::of(&self.tree())
    }

    /// Turns over one bit of a file, counted from its first: the medium forgets.
    pub fn rot(&self, path: &Path, bit: u64) -> io::Result<()> {
        self.open_node(path)?.rot(bit);
        Ok(())
    }

    pub(super) fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open_node(&self, path: &Path) -> io::Result<Arc<Node>> {
        self.tree().open(path)
    }

    pub(super) fn create_node(&self, path: &Path) -> io::Result<Arc<Node>> {
        self.tree().create(path)
    }

    pub(super) fn create_zeroed_node(&self, path: &Path, len: u64) -> io::Result<Arc<Node>> {
        self.tree().create_zeroed(path, len)
    }
}

impl Default for MemoryDisk {
    fn default() -> MemoryDisk {
        MemoryDisk::new()
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDisk").field("free", &self.tree().device.free()).finish_non_exhaustive()
    }
}

impl Disk for MemoryDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.tree().create_dir_all(dir)
    }

    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(MemoryFile { node: self.create_zeroed_node(path, len)? }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(MemoryFile { node: self.create_node(path)? }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(MemoryFile { node: self.open_node(path)? }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.tree().exists(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.tree().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.tree().remove(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.tree().remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.tree().sync_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.tree().list(dir)
    }

    fn space(&self) -> io::Result<Space> {
        let tree = self.tree();
        Ok(Space { total: tree.device.capacity, free: tree.device.free() })
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let pid = std::process::id().to_string();
        let mut tree = self.tree();
        if tree.locks.contains(path) {
            return Err(locked(path, &pid));
        }
        let node = match tree.open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => tree.create(path)?,
            opened => opened?,
        };
        node.write(0, &[IoSlice::new(pid.as_bytes())])?;
        tree.locks.insert(path.to_path_buf());
        Ok(Lock::new(HeldLock { tree: Arc::clone(&self.tree), path: path.to_path_buf() }))
    }
}

struct HeldLock {
    tree: Arc<Mutex<Tree>>,
    path: PathBuf,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner).locks.remove(&self.path);
    }
}

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.node.state().live.len())
    }

    fn write_at(&self, off: u64, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        self.node.write(off, bufs)
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.node.state().live.read(off, buf))
    }

    fn try_read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        self.read_at(off, buf).map(Some)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.node.sync();
        Ok(())
    }

    fn map(&self) -> io::Result<Map> {
        let len = self.len()?;
        Ok(Map::simulated(len, NodeSource(Arc::clone(&self.node))))
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.node.state();
        f.debug_struct("MemoryFile").field("name", &state.name).field("len", &state.live.len()).finish_non_exhaustive()
    }
}

struct NodeSource(Arc<Node>);

impl Source for NodeSource {
    fn read(&self, off: u64, buf: &mut [u8]) {
        self.0.state().live.read_padded(off, buf);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chance::SeededChance;

    fn write(file: &dyn DiskFile, off: u64, bytes: &[u8]) {
        file.write_at(off, &[IoSlice::new(bytes)]).unwrap();
    }

    fn read(disk: &dyn Disk, path: &str) -> Vec<u8> {
        let file = disk.open(Path::new(path)).unwrap();
        let mut buf = vec![0; file.len().unwrap() as usize];
        assert_eq!(file.read_at(0, &mut buf).unwrap(), buf.len());
        buf
    }

    #[test]
    fn a_crash_keeps_synced_bytes_and_any_unsynced_sectors() {
        let disk = MemoryDisk::new();
        let file = disk.create_zeroed(Path::new("f"), 1536).unwrap();
        write(&*file, 0, &[1; 1536]);
        file.sync_data().unwrap();
        write(&*file, 0, &[2; 1536]);
        let mut seen = std::collections::BTreeSet::new();
        let mut chance = SeededChance::new(1);
        for _ in 0..200 {
            let content = read(&disk.crash(&mut chance), "f");
            assert!(content.chunks(512).all(|s| s.iter().all(|b| *b == s[0])), "a sector is never torn");
            seen.insert([content[0], content[512], content[1024]]);
        }
        assert_eq!(seen.len(), 8, "every subset of three sectors appears: {seen:?}");
        assert_eq!(read(&disk, "f"), [2; 1536]);
    }

    #[test]
    fn a_created_name_needs_a_directory_sync() {
        let disk = MemoryDisk::new();
        let file = disk.create(Path::new("new.tmp")).unwrap();
        write(&*file, 0, b"content");
        file.sync_data().unwrap();
        let lost = disk.crash_point().materialize(|_| false);
        assert!(!lost.exists(Path::new("new.tmp")).unwrap());
        disk.rename(Path::new("new.tmp"), Path::new("new")).unwrap();
        let kept = disk.crash_point().materialize(|_| false);
        assert_eq!(read(&kept, "new"), b"content");
    }

    #[test]
    fn a_file_renamed_without_a_sync_may_be_empty() {
        let disk = MemoryDisk::new();
        let file = disk.create(Path::new("a")).unwrap();
        write(&*file, 0, b"content");
        disk.rename(Path::new("a"), Path::new("b")).unwrap();
        assert_eq!(read(&disk.crash_point().materialize(|_| false), "b"), b"");
        assert_eq!(read(&disk.crash_point().materialize(|_| true), "b"), b"content");
    }

    #[test]
    fn an_emptied_file_may_have_its_old_content_after_a_crash() {
        let disk = MemoryDisk::new();
        let file = disk.create(Path::new("f")).unwrap();
        write(&*file, 0, b"old");
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        disk.create(Path::new("f")).unwrap();
        assert_eq!(read(&disk, "f"), b"");
        assert_eq!(read(&disk.crash_point().materialize(|_| false), "f"), b"old");
        assert_eq!(read(&disk.crash_point().materialize(|_| true), "f"), b"");
    }

    #[test]
    fn a_full_disk_refuses_growth_and_gives_room_back() {
        let disk = MemoryDisk::with_capacity(1_000);
        let first = disk.create_zeroed(Path::new("a"), 900).unwrap();
        let refused = disk.create_zeroed(Path::new("b"), 101).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        assert!(!disk.exists(Path::new("b")).unwrap());
        write(&*first, 0, &[1; 900]);
        assert_eq!(disk.space().unwrap(), Space { total: 1_000, free: 100 });
        disk.remove(Path::new("a")).unwrap();
        assert_eq!(disk.space().unwrap().free, 100, "an open file keeps its room");
        drop(first);
        assert_eq!(disk.space().unwrap().free, 1_000);
    }

    #[test]
    fn a_lock_is_exclusive_until_dropped() {
        let disk = MemoryDisk::new();
        let lock = disk.lock(Path::new("lock")).unwrap();
        assert_eq!(disk.lock(Path::new("lock")).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(lock);
        let _again = disk.lock(Path::new("lock")).unwrap();
    }

    #[test]
    fn a_map_shows_later_writes() {
        let disk = MemoryDisk::new();
        let file = disk.create_zeroed(Path::new("f"), 8).unwrap();
        let map = file.map().unwrap();
        write(&*file, 2, b"now");
        assert_eq!(map.slice(0, 8).unwrap(), &b"\0\0now\0\0\0"[..]);
    }
}
