//! A disk with planned faults around any other disk: errors, full disk, torn writes, flipped bits, slowness.
//!
//! A sync that failed stays failed for its file: the kernel marks the dirty pages clean and would report success the next time although
//! the bytes are gone ("fsyncgate"). A caller that retries is wrong, and this disk shows it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, Lock, SharedDisk, Space, joined};
use crate::mmap::{Map, Source};

/// What a rule waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// `create_zeroed` and `create`.
    Create,
    /// `open`.
    Open,
    /// `write_at`.
    Write,
    /// `sync_data`.
    Sync,
    /// `read_at`, `try_read_at`, and reading a map.
    Read,
    /// `rename`; its path is the old name.
    Rename,
    /// `remove` and `remove_dir_all`.
    Remove,
}

/// What happens then.
#[derive(Clone)]
pub enum Fault {
    /// EIO, and nothing is done. A map cannot report it, so it reads zeros.
    Io,
    /// ENOSPC, and nothing is done.
    NoSpace,
    /// A write that puts down its first bytes and then reports EIO.
    Torn {
        /// How many bytes are written.
        bytes: usize,
    },
    /// A read that flips one bit, counted from the first bit of the buffer and wrapped at its end. Reports success.
    FlipBit {
        /// Which bit.
        bit: usize,
    },
    /// A `try_read_at` that answers `None`, as if the bytes were not in the page cache. Nothing for other operations.
    WouldBlock,
    /// A call before the operation, which then goes on: to wait, to count, to stop the test there.
    Slow(Arc<dyn Fn(&Path) + Send + Sync>),
}

/// One planned fault. As built by [`Rule::new`] it strikes the first operation of its kind, once.
#[derive(Clone)]
pub struct Rule {
    on: Operation,
    fault: Fault,
    path_contains: String,
    skip: u64,
    times: u64,
}

impl Rule {
    /// The fault for the next operation of this kind.
    pub fn new(on: Operation, fault: Fault) -> Rule {
        Rule { on, fault, path_contains: String::new(), skip: 0, times: 1 }
    }

    /// Strikes the `n`th matching operation from now, counted from 1.
    pub fn nth(self, n: u64) -> Rule {
        assert!(n > 0, "operations are counted from 1");
        Rule { skip: n - 1, ..self }
    }

    /// Strikes every matching operation from there on.
    pub fn forever(self) -> Rule {
        Rule { times: u64::MAX, ..self }
    }

    /// Only files whose path contains this text.
    pub fn path_contains(self, text: &str) -> Rule {
        Rule { path_contains: text.to_owned(), ..self }
    }

    fn matches(&self, on: Operation, path: &Path) -> bool {
        self.on == on && self.times > 0 && path.to_string_lossy().contains(&self.path_contains)
    }
}

/// A disk around another one, with rules. Clones share the rules.
#[derive(Clone)]
pub struct FaultyDisk {
    disk: SharedDisk,
    plan: Arc<Plan>,
}

#[derive(Default)]
struct Plan {
    state: Mutex<PlanState>,
}

#[derive(Default)]
struct PlanState {
    rules: Vec<Rule>,
    counts: BTreeMap<Operation, u64>,
    space: Option<Space>,
    /// For each name whether a sync of the file has failed.
    broken: BTreeMap<PathBuf, Arc<AtomicBool>>,
}

impl Plan {
    fn state(&self) -> MutexGuard<'_, PlanState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the operation and takes the faults that are due for it. Each matching rule counts it, the first due one strikes.
    fn due(&self, on: Operation, path: &Path) -> Option<Fault> {
        let mut state = self.state();
        *state.counts.entry(on).or_default() += 1;
        let mut due = None;
        for rule in state.rules.iter_mut().filter(|rule| rule.matches(on, path)) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if due.is_none() {
                rule.times -= 1;
                due = Some(rule.fault.clone());
            }
        }
        due
    }

    /// For operations that can only fail or be slow.
    fn check(&self, on: Operation, path: &Path) -> io::Result<()> {
        self.due(on, path).map_or(Ok(()), |fault| fault.strike(path))
    }
}

impl Fault {
    fn strike(&self, path: &Path) -> io::Result<()> {
        match self {
            Fault::Io | Fault::Torn { .. } => Err(io::Error::from_raw_os_error(libc::EIO)),
            Fault::NoSpace => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            Fault::FlipBit { .. } | Fault::WouldBlock => Ok(()),
            Fault::Slow(call) => {
                call(path);
                Ok(())
            }
        }
    }
}

impl FaultyDisk {
    /// A disk without faults yet.
    pub fn new(disk: SharedDisk) -> FaultyDisk {
        FaultyDisk { disk, plan: Arc::default() }
    }

    /// Adds a rule; it counts operations from now on.
    pub fn add(&self, rule: Rule) {
        self.plan.state().rules.push(rule);
    }

    /// Forgets all rules. A failed sync stays failed.
    pub fn clear(&self) {
        self.plan.state().rules.clear();
    }

    /// How many operations of this kind were asked for so far.
    pub fn count(&self, operation: Operation) -> u64 {
        self.plan.state().counts.get(&operation).copied().unwrap_or(0)
    }

    /// Makes `space` answer this, or the truth again.
    pub fn pretend_space(&self, space: Option<Space>) {
        self.plan.state().space = space;
    }

    fn handle(&self, path: &Path, file: Arc<dyn DiskFile>, broken: Arc<AtomicBool>) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile { file, path: path.to_path_buf(), plan: Arc::clone(&self.plan), broken })
    }

    fn new_handle(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let broken = Arc::new(AtomicBool::new(false));
        self.plan.state().broken.insert(path.to_path_buf(), Arc::clone(&broken));
        self.handle(path, file, broken)
    }
}

impl Disk for FaultyDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.plan.check(Operation::Create, path)?;
        Ok(self.new_handle(path, self.disk.create_zeroed(path, len)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.plan.check(Operation::Create, path)?;
        Ok(self.new_handle(path, self.disk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.plan.check(Operation::Open, path)?;
        let file = self.disk.open(path)?;
        let broken = Arc::clone(self.plan.state().broken.entry(path.to_path_buf()).or_default());
        Ok(self.handle(path, file, broken))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.plan.check(Operation::Rename, from)?;
        self.disk.rename(from, to)?;
        let mut state = self.plan.state();
        if let Some(broken) = state.broken.remove(from) {
            state.broken.insert(to.to_path_buf(), broken);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.plan.check(Operation::Remove, path)?;
        self.disk.remove(path)?;
        self.plan.state().broken.remove(path);
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.plan.check(Operation::Remove, dir)?;
        self.disk.remove_dir_all(dir)?;
        self.plan.state().broken.retain(|path, _| !path.starts_with(dir));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.plan.check(Operation::Sync, dir)?;
        self.disk.sync_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(dir)
    }

    fn space(&self) -> io::Result<Space> {
        let pretended = self.plan.state().space;
        pretended.map_or_else(|| self.disk.space(), Ok)
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.disk.lock(path)
    }
}

impl fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyDisk").field("disk", &self.disk).field("rules", &self.plan.state().rules.len()).finish()
    }
}

/// The path is the one the file was opened by, also after a rename: rules go by it.
struct FaultyFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    plan: Arc<Plan>,
    broken: Arc<AtomicBool>,
}

impl FaultyFile {
    /// Reads under the fault that is due: the error or the call comes first, the flipped bit last.
    fn spoil<T>(&self, fault: Option<Fault>, buf: &mut [u8], read: impl FnOnce(&mut [u8]) -> io::Result<T>) -> io::Result<T> {
        let Some(fault) = fault else { return read(buf) };
        fault.strike(&self.path)?;
        let done = read(buf)?;
        fault.flip(buf);
        Ok(done)
    }
}

impl Fault {
    fn flip(&self, buf: &mut [u8]) {
        if let Fault::FlipBit { bit } = self
            && !buf.is_empty()
        {
            let bit = bit % (buf.len() * 8);
            buf[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

impl DiskFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn write_at(&self, off: u64, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        match self.plan.due(Operation::Write, &self.path) {
            Some(Fault::Torn { bytes }) => {
                let mut whole = joined(bufs);
                whole.truncate(bytes);
                self.file.write_at(off, &[IoSlice::new(&whole)])?;
                Fault::Io.strike(&self.path)
            }
            Some(fault) => {
                fault.strike(&self.path)?;
                self.file.write_at(off, bufs)
            }
            None => self.file.write_at(off, bufs),
        }
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let fault = self.plan.due(Operation::Read, &self.path);
        self.spoil(fault, buf, |buf| self.file.read_at(off, buf))
    }

    fn try_read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match self.plan.due(Operation::Read, &self.path) {
            Some(Fault::WouldBlock) => Ok(None),
            fault => self.spoil(fault, buf, |buf| self.file.try_read_at(off, buf)),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let struck = self.plan.check(Operation::Sync, &self.path);
        if struck.is_err() {
            self.broken.store(true, Ordering::SeqCst);
        }
        struck?;
        if self.broken.load(Ordering::SeqCst) {
            return Fault::Io.strike(&self.path);
        }
        self.file.sync_data()
    }

    fn map(&self) -> io::Result<Map> {
        let map = self.file.map()?;
        let source = FaultySource { map: map.clone(), path: self.path.clone(), plan: Arc::clone(&self.plan) };
        Ok(Map::simulated(map.len(), source))
    }
}

impl fmt::Debug for FaultyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyFile").field("file", &self.file).finish_non_exhaustive()
    }
}

struct FaultySource {
    map: Map,
    path: PathBuf,
    plan: Arc<Plan>,
}

impl Source for FaultySource {
    fn read(&self, off: u64, buf: &mut [u8]) {
        self.map.read(off, buf).expect("the outer map has the length of the inner one");
        if let Some(fault) = self.plan.due(Operation::Read, &self.path) {
            fault.flip(buf);
            if fault.strike(&self.path).is_err() {
                buf.fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::disk::memory::MemoryDisk;
    use std::io::ErrorKind;

    fn disk() -> (FaultyDisk, Arc<dyn DiskFile>) {
        let disk = FaultyDisk::new(Arc::new(MemoryDisk::new()));
        let file = disk.create_zeroed(Path::new("segment-1"), 64).unwrap();
        (disk, file)
    }

    fn write(file: &dyn DiskFile, bytes: &[u8]) -> io::Result<()> {
        file.write_at(0, &[IoSlice::new(bytes)])
    }

    fn errno(result: io::Result<()>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn the_nth_write_fails_and_the_next_succeeds() {
        let (disk, file) = disk();
        disk.add(Rule::new(Operation::Write, Fault::Io).nth(2).path_contains("segment"));
        assert_eq!(errno(write(&*file, b"one")), None);
        assert_eq!(errno(write(&*file, b"two")), Some(libc::EIO));
        assert_eq!(errno(write(&*file, b"three")), None);
        assert_eq!(disk.count(Operation::Write), 3);
    }

    #[test]
    fn a_failed_sync_stays_failed_for_that_file_only() {
        let (disk, file) = disk();
        disk.add(Rule::new(Operation::Sync, Fault::Io));
        let other = disk.create(Path::new("other")).unwrap();
        assert_eq!(errno(file.sync_data()), Some(libc::EIO));
        disk.clear();
        assert_eq!(errno(file.sync_data()), Some(libc::EIO));
        disk.rename(Path::new("segment-1"), Path::new("segment-2")).unwrap();
        let reopened = disk.open(Path::new("segment-2")).unwrap();
        assert_eq!(errno(reopened.sync_data()), Some(libc::EIO));
        assert_eq!(errno(other.sync_data()), None);
    }

    #[test]
    fn a_torn_write_leaves_its_beginning() {
        let (disk, file) = disk();
        disk.add(Rule::new(Operation::Write, Fault::Torn { bytes: 2 }));
        assert_eq!(errno(write(&*file, b"abcd")), Some(libc::EIO));
        assert_eq!(file.map().unwrap().slice(0, 4).unwrap(), &b"ab\0\0"[..]);
    }

    #[test]
    fn a_flipped_bit_is_reported_as_success_by_read_and_map() {
        let (disk, file) = disk();
        disk.add(Rule::new(Operation::Read, Fault::FlipBit { bit: 9 }).forever());
        let mut buf = [0; 4];
        assert_eq!(file.read_at(0, &mut buf).unwrap(), 4);
        assert_eq!(buf, [0, 2, 0, 0]);
        assert_eq!(file.map().unwrap().slice(0, 4).unwrap(), &[0, 2, 0, 0][..]);
    }

    #[test]
    fn a_cold_range_is_not_read_without_blocking() {
        let (disk, file) = disk();
        disk.add(Rule::new(Operation::Read, Fault::WouldBlock).forever());
        assert_eq!(file.try_read_at(0, &mut [0; 4]).unwrap(), None);
        assert_eq!(file.read_at(0, &mut [0; 4]).unwrap(), 4);
    }

    #[test]
    fn a_full_disk_is_an_error_of_its_own() {
        let (disk, _file) = disk();
        disk.add(Rule::new(Operation::Create, Fault::NoSpace));
        assert_eq!(disk.create_zeroed(Path::new("x"), 1).unwrap_err().kind(), ErrorKind::StorageFull);
        disk.pretend_space(Some(Space { total: 100, free: 3 }));
        assert_eq!(disk.space().unwrap().free, 3);
    }

    #[test]
    fn a_slow_operation_calls_out_first() {
        let (disk, file) = disk();
        let (called, calls) = std::sync::mpsc::channel();
        let call = move |path: &Path| called.send(path.to_path_buf()).unwrap();
        disk.add(Rule::new(Operation::Sync, Fault::Slow(Arc::new(call))));
        file.sync_data().unwrap();
        assert_eq!(calls.try_recv().unwrap(), Path::new("segment-1"));
    }
}
