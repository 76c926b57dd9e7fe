//! A memory disk of a machine that a simulation torments: the power fails between any two changes, a sync fails and takes with it what it should
//! have written, and there is no room left.
//!
//! After a power loss every call fails, so a process on it can do nothing more; what is found when the power is back is another disk.

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::crash::{CrashPoint, Fate};
use super::memory::{MemoryDisk, MemoryFile};
use super::volume::Node;
use super::{Disk, DiskFile, Lock, Space, total_len};
use crate::chance::Chance;
use crate::mmap::Map;

/// Of so many unsynced sectors that were never durable before, one comes back as garbage.
const GARBAGE_ONE_IN: u64 = 12;

/// A memory disk and what is going to happen to it. Clones are the same disk.
#[derive(Clone)]
pub struct FragileDisk {
    disk: MemoryDisk,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    /// Changes that are still made before the power fails.
    power: Option<u64>,
    /// What was on the disk when it failed.
    lost: Option<CrashPoint>,
    /// Syncs that still succeed before one fails.
    syncs: Option<u64>,
    full: bool,
    changes: u64,
    failed_syncs: u64,
}

impl FragileDisk {
    /// A disk that nothing happens to yet.
    pub fn new(disk: MemoryDisk) -> FragileDisk {
        FragileDisk { disk, plan: Arc::default() }
    }

    /// The disk itself, as a process that starts later finds it if the power never failed.
    pub fn inner(&self) -> &MemoryDisk {
        &self.disk
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power fails after so many more changes.
    pub fn lose_power_after(&self, changes: u64) {
        let mut plan = self.plan();
        plan.power = Some(changes);
        if changes == 0 && plan.lost.is_none() {
            plan.lost = Some(self.disk.crash_point());
        }
    }

    /// Whether the power has not failed.
    pub fn has_power(&self) -> bool {
        self.plan().lost.is_none()
    }

    /// One of the disks that a power loss left, or would leave now.
    pub fn after_power_loss(&self, chance: &mut dyn Chance) -> MemoryDisk {
        let point = self.plan().lost.clone().unwrap_or_else(|| self.disk.crash_point());
        let kept_of_four = chance.below(5);
        point.materialize_as(|_| match chance.ratio(kept_of_four, 4) {
            true => Fate::Kept,
            false if chance.ratio(1, GARBAGE_ONE_IN) => Fate::Garbage(chance.next_u64()),
            false => Fate::Lost,
        })
    }

    /// A sync fails after so many that succeed. The kernel takes what it should have written for clean, so no later sync writes it either.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.plan().syncs = Some(syncs);
    }

    /// Nothing grows any more.
    pub fn fill(&self) {
        self.plan().full = true;
    }

    /// There is room again.
    pub fn make_room(&self) {
        self.plan().full = false;
    }

    /// How many sectors and names a power loss may take, or took.
    pub fn unsynced(&self) -> usize {
        self.plan().lost.as_ref().map_or_else(|| self.disk.crash_point().unsynced_len(), CrashPoint::unsynced_len)
    }

    /// Writes, syncs and changes of names so far.
    pub fn changes(&self) -> u64 {
        self.plan().changes
    }

    /// Syncs that failed.
    pub fn failed_syncs(&self) -> u64 {
        self.plan().failed_syncs
    }

    fn alive(&self) -> io::Result<()> {
        if self.plan().lost.is_some() { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    /// Before each change of the disk.
    fn change(&self) -> io::Result<()> {
        self.alive()?;
        let mut plan = self.plan();
        plan.changes += 1;
        match &mut plan.power {
            Some(0) => {
                plan.lost = Some(self.disk.crash_point());
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn grow(&self) -> io::Result<()> {
        if self.plan().full { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(()) }
    }

    /// Whether this sync fails.
    fn sync_fails(&self) -> bool {
        let mut plan = self.plan();
        match &mut plan.syncs {
            Some(0) => {
                plan.syncs = None;
                plan.failed_syncs += 1;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn handle(&self, node: Arc<Node>) -> Arc<dyn DiskFile> {
        Arc::new(FragileFile { file: MemoryFile { node }, disk: self.clone() })
    }
}

impl fmt::Debug for FragileDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FragileDisk").field("disk", &self.disk).field("has_power", &self.has_power()).finish()
    }
}

impl Disk for FragileDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.change()?;
        self.disk.create_dir_all(dir)
    }

    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.change()?;
        self.grow()?;
        Ok(self.handle(self.disk.create_zeroed_node(path, len)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.change()?;
        self.grow()?;
        Ok(self.handle(self.disk.create_node(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.alive()?;
        Ok(self.handle(self.disk.open_node(path)?))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.alive()?;
        self.disk.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.disk.remove(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.change()?;
        self.disk.remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change()?;
        self.disk.sync_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.alive()?;
        self.disk.list(dir)
    }

    fn space(&self) -> io::Result<Space> {
        self.alive()?;
        let space = self.disk.space()?;
        Ok(if self.plan().full { Space { free: 0, ..space } } else { space })
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.alive()?;
        self.disk.lock(path)
    }
}

struct FragileFile {
    file: MemoryFile,
    disk: FragileDisk,
}

impl fmt::Debug for FragileFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl DiskFile for FragileFile {
    fn len(&self) -> io::Result<u64> {
        self.disk.alive()?;
        self.file.len()
    }

    fn write_at(&self, off: u64, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        self.disk.change()?;
        if off + total_len(bufs) as u64 > self.file.len()? {
            self.disk.grow()?;
        }
        self.file.write_at(off, bufs)
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.disk.alive()?;
        self.file.read_at(off, buf)
    }

    fn try_read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        self.disk.alive()?;
        self.file.try_read_at(off, buf)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.change()?;
        if self.disk.sync_fails() {
            self.file.node.forget_unsynced();
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.file.sync_data()
    }

    fn map(&self) -> io::Result<Map> {
        self.disk.alive()?;
        self.file.map()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chance::SeededChance;

    fn write(file: &dyn DiskFile, off: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_at(off, &[IoSlice::new(bytes)])
    }

    fn first_byte(disk: &MemoryDisk, off: u64) -> u8 {
        let mut byte = [0];
        disk.open(Path::new("f")).unwrap().read_at(off, &mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn after_the_power_failed_nothing_works_and_what_was_synced_is_there() {
        let disk = FragileDisk::new(MemoryDisk::new());
        let file = disk.create_zeroed(Path::new("f"), 1024).unwrap();
        write(&*file, 0, b"a").unwrap();
        file.sync_data().unwrap();
        disk.lose_power_after(1);
        write(&*file, 512, b"b").unwrap();
        assert!(disk.has_power());
        assert!(file.sync_data().is_err() && !disk.has_power());
        assert!(file.len().is_err() && disk.open(Path::new("f")).is_err());
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let left = disk.after_power_loss(&mut SeededChance::new(seed));
            assert_eq!(first_byte(&left, 0), b'a');
            seen.insert(first_byte(&left, 512));
        }
        assert!(seen.contains(&0) && seen.contains(&b'b') && seen.len() > 2, "lost, kept, and rarely garbage: {seen:?}");
    }

    #[test]
    fn a_sync_that_failed_is_not_made_up_for_by_the_next() {
        let disk = FragileDisk::new(MemoryDisk::new());
        let file = disk.create_zeroed(Path::new("f"), 512).unwrap();
        write(&*file, 0, b"x").unwrap();
        disk.fail_sync_after(0);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(first_byte(disk.inner(), 0), b'x', "it can be read");
        assert_eq!(first_byte(&disk.after_power_loss(&mut SeededChance::new(1)), 0), 0, "and is not there");
    }

    #[test]
    fn a_full_disk_takes_what_it_has_room_for() {
        let disk = FragileDisk::new(MemoryDisk::new());
        let file = disk.create_zeroed(Path::new("f"), 512).unwrap();
        disk.fill();
        write(&*file, 0, b"x").unwrap();
        assert_eq!(write(&*file, 512, b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(disk.create_zeroed(Path::new("g"), 1).is_err());
        assert_eq!(disk.space().unwrap().free, 0);
        disk.make_room();
        assert!(disk.create_zeroed(Path::new("g"), 1).is_ok());
    }
}
