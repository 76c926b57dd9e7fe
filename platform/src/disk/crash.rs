//! Crash states: what a power loss may leave at one moment, and the walk through all moments of a recorded run.
//!
//! A [`CrashPoint`] is the durable base plus a list of what is not synced, in the order it was written. Every subset of the list is a
//! state a power loss may leave: sectors reach the device in any order, and of two writes to one sector the later one that is kept
//! wins. So a list of n things stands for up to 2^n disks, each made by [`CrashPoint::materialize`] in microseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::content::Content;
use super::memory::MemoryDisk;
use super::recording::Op;
use super::volume::{Device, Node, Tree, UnsyncedName, UnsyncedSector};
use super::{Disk, SECTOR};
use crate::chance::{Chance, SeededChance};

/// All disks that a power loss at one moment may leave.
#[derive(Clone)]
pub struct CrashPoint {
    capacity: u64,
    dirs: Arc<BTreeSet<Arc<Path>>>,
    names: BTreeMap<Arc<Path>, usize>,
    files: Vec<Content>,
    unsynced: Vec<Unsynced>,
}

/// One thing that a power loss keeps or loses.
#[derive(Clone, Debug)]
pub struct Unsynced {
    file: usize,
    path: Option<Arc<Path>>,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    /// The file gets its name.
    Name,
    /// The sector at `off` gets this content, and the file reaches at least to `end`.
    Sector { off: u64, data: Bytes, end: u64 },
}

impl Unsynced {
    /// The file it belongs to by its name at the moment of the crash; `None` if it has none any more.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The place and content of the sector; `None` if it is a name.
    pub fn sector(&self) -> Option<(u64, &[u8])> {
        match &self.change {
            Change::Name => None,
            Change::Sector { off, data, .. } => Some((*off, data)),
        }
    }
}

/// What a power loss does to one thing that is not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It reached the device.
    Kept,
    /// It did not.
    Lost,
    /// The sector holds neither the old nor the new, if it never held anything durable: a device writes over what it has whole or not at all.
    Garbage(u64),
}

/// Fills a sector that was never written with what nobody wrote.
fn spoil(file: &mut Content, off: u64, seed: u64) {
    let mut sector = [0; SECTOR];
    let count = file.read(off, &mut sector);
    if sector.iter().all(|byte| *byte == 0) {
        SeededChance::new(seed).fill(&mut sector);
        file.store(off, &sector[..count]);
    }
}

impl CrashPoint {
    pub(super) fn of(tree: &Tree) -> CrashPoint {
        let mut files = Files::default();
        let names = tree.durable.iter().map(|(path, node)| (Arc::clone(path), files.number(node))).collect();
        for name in &tree.unsynced {
            files.add_name(name);
        }
        files.unsynced.sort_by_key(|(sequence, _)| *sequence);
        CrashPoint {
            capacity: tree.device.capacity,
            dirs: Arc::clone(&tree.dirs),
            names,
            files: files.contents,
            unsynced: files.unsynced.into_iter().map(|(_, unsynced)| unsynced).collect(),
        }
    }

    /// How many things are not synced.
    pub fn unsynced_len(&self) -> usize {
        self.unsynced.len()
    }

    /// What is not synced, in the order it was written.
    pub fn unsynced(&self) -> &[Unsynced] {
        &self.unsynced
    }

    /// The disk on which of the unsynced things those survived for which `keep` says so. Each is asked for once, in order.
    pub fn materialize(&self, mut keep: impl FnMut(usize) -> bool) -> MemoryDisk {
        self.materialize_as(|number| if keep(number) { Fate::Kept } else { Fate::Lost })
    }

    /// The disk on which each of the unsynced things has this fate. Each is asked for once, in order.
    pub fn materialize_as(&self, mut fate: impl FnMut(usize) -> Fate) -> MemoryDisk {
        let mut names = self.names.clone();
        let mut files = self.files.clone();
        for (number, unsynced) in self.unsynced.iter().enumerate() {
            match (fate(number), &unsynced.change, &unsynced.path) {
                (Fate::Kept, Change::Sector { off, data, end }, _) => {
                    files[unsynced.file].store(*off, data);
                    files[unsynced.file].grow(*end);
                }
                (Fate::Garbage(seed), Change::Sector { off, .. }, _) => spoil(&mut files[unsynced.file], *off, seed),
                (Fate::Kept, Change::Name, Some(path)) => {
                    names.insert(Arc::clone(path), unsynced.file);
                }
                (Fate::Lost, ..) | (_, Change::Name, _) => {}
            }
        }
        let device = Device::new(self.capacity);
        let place = |content| Node::new(&device, content).expect("a crash does not make files longer than they were");
        let names = names.into_iter().map(|(path, file)| (path, place(files[file].clone()))).collect();
        MemoryDisk::of(Tree::of(Arc::clone(&device), Arc::clone(&self.dirs), names))
    }
}

/// Gives numbers to files while a crash point is collected.
#[derive(Default)]
struct Files {
    numbers: BTreeMap<*const Node, usize>,
    contents: Vec<Content>,
    unsynced: Vec<(u64, Unsynced)>,
}

impl Files {
    fn number(&mut self, node: &Arc<Node>) -> usize {
        let address = Arc::as_ptr(node);
        if let Some(number) = self.numbers.get(&address) {
            return *number;
        }
        let number = self.contents.len();
        self.numbers.insert(address, number);
        let state = node.state();
        self.contents.push(state.durable.clone());
        for UnsyncedSector { sequence, off, data, end } in &state.unsynced {
            let change = Change::Sector { off: *off, data: data.clone(), end: *end };
            self.unsynced.push((*sequence, Unsynced { file: number, path: state.name.clone(), change }));
        }
        number
    }

    fn add_name(&mut self, name: &UnsyncedName) {
        let file = self.number(&name.node);
        let unsynced = Unsynced { file, path: Some(Arc::clone(&name.path)), change: Change::Name };
        self.unsynced.push((name.sequence, unsynced));
    }
}

/// The crash points of a recorded run. Walking forward costs what the operations between two points cost; going back starts again.
pub struct CrashStates<'a> {
    ops: &'a [Op],
    done: usize,
    disk: MemoryDisk,
}

impl<'a> CrashStates<'a> {
    /// The walk through `ops`, which began on an empty disk.
    pub fn new(ops: &'a [Op]) -> CrashStates<'a> {
        CrashStates { ops, done: 0, disk: MemoryDisk::new() }
    }

    /// The crash point after the first `prefix` operations. An operation in progress needs no point of its own: half a write is a subset
    /// at the point after it, half a sync is a subset at the point before it, and the others are atomic.
    pub fn at(&mut self, prefix: usize) -> CrashPoint {
        assert!(prefix <= self.ops.len(), "the run has {} operations, not {prefix}", self.ops.len());
        if prefix < self.done {
            *self = CrashStates::new(self.ops);
        }
        for op in &self.ops[self.done..prefix] {
            apply(&self.disk, op);
        }
        self.done = prefix;
        self.disk.crash_point()
    }

    /// The marks noted in the first `prefix` operations, in order: what the application had promised by then.
    pub fn notes(&self, prefix: usize) -> impl Iterator<Item = u64> + use<'a> {
        self.ops[..prefix].iter().filter_map(|op| if let Op::Note(mark) = op { Some(*mark) } else { None })
    }
}

/// The crash point after the first `upto` operations, for who needs only one.
pub fn replay(ops: &[Op], upto: usize) -> CrashPoint {
    CrashStates::new(ops).at(upto)
}

/// Repeats one operation, which succeeded when it was recorded.
fn apply(disk: &MemoryDisk, op: &Op) {
    let open = |path: &PathBuf| disk.open(path).expect("the file was there when the operation was recorded");
    let done = match op {
        Op::CreateDirAll { dir } => disk.create_dir_all(dir),
        Op::CreateZeroed { path, len } => disk.create_zeroed(path, *len).map(drop),
        Op::Create { path } => disk.create(path).map(drop),
        Op::Write { path, off, bytes } => open(path).write_at(*off, &[IoSlice::new(bytes)]),
        Op::Sync { path } => open(path).sync_data(),
        Op::SyncDir { dir } => disk.sync_dir(dir),
        Op::Rename { from, to } => disk.rename(from, to),
        Op::Remove { path } => disk.remove(path),
        Op::RemoveDirAll { dir } => disk.remove_dir_all(dir),
        Op::Note(_) => Ok(()),
    };
    done.expect("an operation that succeeded once succeeds again");
}
