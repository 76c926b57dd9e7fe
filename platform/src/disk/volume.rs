//! The tree of a simulated disk: which names and bytes there are, and which of them a power loss would keep.
//!
//! A file has two contents: the *live* one that readers see and the *durable* one; between them lies the list of sectors written since
//! the last sync, in order. Names have the same two sides, but only `create` makes them differ.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::content::Content;
use super::{SECTOR, parent, total_len};

/// What the files of one disk share: the room that is left, and the order of what is not synced.
pub(super) struct Device {
    pub(super) capacity: u64,
    used: AtomicU64,
    sequence: AtomicU64,
}

impl Device {
    pub(super) fn new(capacity: u64) -> Arc<Device> {
        Arc::new(Device { capacity, used: AtomicU64::new(0), sequence: AtomicU64::new(0) })
    }

    pub(super) fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used.load(Ordering::SeqCst))
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let room = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.capacity);
        match self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        }
    }

    fn next(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::SeqCst)
    }
}

/// One file. It lives as long as a name or a handle refers to it, and gives its room back then.
pub(super) struct Node {
    device: Arc<Device>,
    state: Mutex<NodeState>,
}

pub(super) struct NodeState {
    /// The present name, if it has one.
    pub(super) name: Option<Arc<Path>>,
    pub(super) live: Content,
    pub(super) durable: Content,
    pub(super) unsynced: Vec<UnsyncedSector>,
}

/// A sector as it was after a write, with the place of that write in the order of all.
pub(super) struct UnsyncedSector {
    pub(super) sequence: u64,
    pub(super) off: u64,
    pub(super) data: Bytes,
    /// The length of the file after the write, or the end of the sector if that is smaller.
    pub(super) end: u64,
}

impl Node {
    /// A file whose whole content is durable.
    pub(super) fn new(device: &Arc<Device>, content: Content) -> io::Result<Arc<Node>> {
        device.reserve(content.len())?;
        let state = NodeState { name: None, live: content.clone(), durable: content, unsynced: Vec::new() };
        Ok(Arc::new(Node { device: Arc::clone(device), state: Mutex::new(state) }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self, off: u64, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        let len = total_len(bufs) as u64;
        if len == 0 {
            return Ok(());
        }
        let end = off.checked_add(len).ok_or(ErrorKind::FileTooLarge)?;
        let mut state = self.state();
        self.device.reserve(end.saturating_sub(state.live.len()))?;
        let mut at = off;
        for buf in bufs {
            state.live.write(at, buf);
            at += buf.len() as u64;
        }
        self.note_unsynced(&mut state, off, end);
        Ok(())
    }

    fn note_unsynced(&self, state: &mut NodeState, off: u64, end: u64) {
        let sector = SECTOR as u64;
        let first = off / sector * sector;
        let mut data = vec![0; (end.next_multiple_of(sector) - first) as usize];
        state.live.read_padded(first, &mut data);
        let data = Bytes::from(data);
        for start in (0..data.len()).step_by(SECTOR) {
            let off = first + start as u64;
            state.unsynced.push(UnsyncedSector {
                sequence: self.device.next(),
                off,
                data: data.slice(start..start + SECTOR),
                end: state.live.len().min(off + sector),
            });
        }
    }

    /// Takes what was not synced for clean: it can be read, and no sync will ever write it.
    pub(super) fn forget_unsynced(&self) {
        self.state().unsynced.clear();
    }

    /// A bit of the medium turns over.
    pub(super) fn rot(&self, bit: u64) {
        let state = &mut *self.state();
        for content in [&mut state.live, &mut state.durable] {
            let mut byte = [0];
            if content.read(bit / 8, &mut byte) == 1 {
                content.store(bit / 8, &[byte[0] ^ 1 << (bit % 8)]);
            }
        }
    }

    pub(super) fn sync(&self) {
        let state = &mut *self.state();
        for sector in state.unsynced.drain(..) {
            state.durable.adopt(&state.live, sector.off);
        }
        state.durable.grow(state.live.len());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let len = self.state().live.len();
        self.device.used.fetch_sub(len, Ordering::SeqCst);
    }
}

type Names = BTreeMap<Arc<Path>, Arc<Node>>;

/// A name given by `create` that its directory does not hold durably yet.
pub(super) struct UnsyncedName {
    pub(super) sequence: u64,
    pub(super) path: Arc<Path>,
    pub(super) node: Arc<Node>,
}

/// All names of a disk. The root and `/` are always there.
pub(super) struct Tree {
    pub(super) device: Arc<Device>,
    pub(super) dirs: Arc<BTreeSet<Arc<Path>>>,
    live: Names,
    pub(super) durable: Names,
    pub(super) unsynced: Vec<UnsyncedName>,
    pub(super) locks: BTreeSet<PathBuf>,
}

impl Tree {
    pub(super) fn new(device: Arc<Device>) -> Tree {
        let dirs = ["", "/"].map(|root| Arc::from(Path::new(root))).into();
        Tree::of(device, Arc::new(dirs), Names::new())
    }

    /// A tree in which everything is durable.
    pub(super) fn of(device: Arc<Device>, dirs: Arc<BTreeSet<Arc<Path>>>, names: Names) -> Tree {
        for (path, node) in &names {
            node.state().name = Some(Arc::clone(path));
        }
        Tree { device, dirs, live: names.clone(), durable: names, unsynced: Vec::new(), locks: BTreeSet::new() }
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        self.dirs.contains(path)
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.is_dir(path) || self.live.contains_key(path)
    }

    /// Checks that there is a directory for `path` to be in.
    fn check_parent(&self, path: &Path) -> io::Result<()> {
        if self.is_dir(parent(path)) {
            return Ok(());
        }
        let through_file = path.ancestors().skip(1).any(|dir| self.live.contains_key(dir));
        Err(if through_file { ErrorKind::NotADirectory } else { ErrorKind::NotFound }.into())
    }

    fn check_dir(&self, dir: &Path) -> io::Result<()> {
        if self.is_dir(dir) {
            return Ok(());
        }
        self.check_parent(dir)?;
        Err(if self.live.contains_key(dir) { ErrorKind::NotADirectory } else { ErrorKind::NotFound }.into())
    }

    pub(super) fn create_dir_all(&mut self, dir: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !self.is_dir(dir)).collect();
        if missing.iter().any(|dir| self.live.contains_key(*dir)) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        for dir in missing {
            self.sync_names(parent(dir));
            Arc::make_mut(&mut self.dirs).insert(Arc::from(dir));
        }
        Ok(())
    }

    pub(super) fn create_zeroed(&mut self, path: &Path, len: u64) -> io::Result<Arc<Node>> {
        self.check_parent(path)?;
        if self.exists(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let node = Node::new(&self.device, Content::zeroed(len))?;
        self.sync_names(parent(path));
        self.insert(Arc::from(path), &node);
        Ok(node)
    }

    /// A new node takes the name: to who reads by name the same as emptying the old one, and the old content may come back in a crash.
    pub(super) fn create(&mut self, path: &Path) -> io::Result<Arc<Node>> {
        self.check_parent(path)?;
        if self.is_dir(path) {
            return Err(ErrorKind::IsADirectory.into());
        }
        let node = Node::new(&self.device, Content::default())?;
        let path: Arc<Path> = Arc::from(path);
        self.insert_live(Arc::clone(&path), &node);
        self.unsynced.push(UnsyncedName { sequence: self.device.next(), path, node: Arc::clone(&node) });
        Ok(node)
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<Arc<Node>> {
        match self.live.get(path) {
            Some(node) => Ok(Arc::clone(node)),
            None if self.is_dir(path) => Err(ErrorKind::IsADirectory.into()),
            None => {
                self.check_parent(path)?;
                Err(ErrorKind::NotFound.into())
            }
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_rename(from, to)?;
        self.sync_names(parent(from));
        self.sync_names(parent(to));
        if self.is_dir(from) {
            self.move_dir(from, to);
        } else {
            let node = self.open(from)?;
            self.live.remove(from);
            self.durable.remove(from);
            self.insert(Arc::from(to), &node);
        }
        Ok(())
    }

    /// The refusals of Linux, in its order.
    fn check_rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_parent(from)?;
        self.check_parent(to)?;
        let refusal = match (self.is_dir(from), self.is_dir(to)) {
            _ if !self.exists(from) => ErrorKind::NotFound,
            _ if from == to => return Ok(()),
            _ if to.starts_with(from) => ErrorKind::InvalidInput,
            _ if from.starts_with(to) => ErrorKind::DirectoryNotEmpty,
            (false, true) => ErrorKind::IsADirectory,
            (true, false) if self.exists(to) => ErrorKind::NotADirectory,
            (true, true) if !self.list(to)?.is_empty() => ErrorKind::DirectoryNotEmpty,
            _ => return Ok(()),
        };
        Err(refusal.into())
    }

    fn move_dir(&mut self, from: &Path, to: &Path) {
        let moved = |path: &Arc<Path>| match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => Arc::from(to),
            Ok(rest) => Arc::from(to.join(rest)),
            Err(_) => Arc::clone(path),
        };
        self.dirs = Arc::new(self.dirs.iter().map(moved).collect());
        self.live = self.live.iter().map(|(path, node)| (moved(path), Arc::clone(node))).collect();
        self.durable = self.durable.iter().map(|(path, node)| (moved(path), Arc::clone(node))).collect();
        for name in &mut self.unsynced {
            name.path = moved(&name.path);
        }
        for (path, node) in &self.live {
            node.state().name = Some(Arc::clone(path));
        }
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let node = self.open(path)?;
        self.sync_names(parent(path));
        self.live.remove(path);
        self.durable.remove(path);
        node.state().name = None;
        Ok(())
    }

    pub(super) fn remove_dir_all(&mut self, dir: &Path) -> io::Result<()> {
        self.check_dir(dir)?;
        self.sync_names(parent(dir));
        for (_, node) in self.live.iter().filter(|(path, _)| path.starts_with(dir)) {
            node.state().name = None;
        }
        self.live.retain(|path, _| !path.starts_with(dir));
        self.durable.retain(|path, _| !path.starts_with(dir));
        self.unsynced.retain(|name| !name.path.starts_with(dir));
        Arc::make_mut(&mut self.dirs).retain(|path| !path.starts_with(dir));
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.check_dir(dir)?;
        self.sync_names(dir);
        Ok(())
    }

    /// Directories and files directly in `dir`, sorted.
    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.check_dir(dir)?;
        let inside = |path: &&Arc<Path>| path.parent() == Some(dir);
        let mut paths: Vec<PathBuf> = self.dirs.iter().chain(self.live.keys()).filter(inside).map(|p| p.to_path_buf()).collect();
        paths.sort();
        Ok(paths)
    }

    /// All files below `dir`, sorted.
    pub(super) fn files_below(&self, dir: &Path) -> Vec<PathBuf> {
        self.live.keys().filter(|path| path.starts_with(dir)).map(|path| path.to_path_buf()).collect()
    }

    fn insert(&mut self, path: Arc<Path>, node: &Arc<Node>) {
        self.durable.insert(Arc::clone(&path), Arc::clone(node));
        self.insert_live(path, node);
    }

    fn insert_live(&mut self, path: Arc<Path>, node: &Arc<Node>) {
        if let Some(replaced) = self.live.insert(Arc::clone(&path), Arc::clone(node)) {
            replaced.state().name = None;
        }
        node.state().name = Some(path);
    }

    /// Makes the names that `create` gave in `dir` durable.
    fn sync_names(&mut self, dir: &Path) {
        let durable = &mut self.durable;
        self.unsynced.retain(|name| {
            let here = parent(&name.path) == dir;
            if here {
                durable.insert(Arc::clone(&name.path), Arc::clone(&name.node));
            }
            !here
        });
    }
}
