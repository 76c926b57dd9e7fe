//! The data folder of a process: held by one process at a time, made by one cluster, and aware of how the last run ended.

use crate::frame::crc32c;
use gantry_platform::chance::Chance;
use gantry_platform::disk::{Lock, SharedDisk};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

/// The format of the folder as a whole. A folder of another format is refused.
pub const FORMAT: u32 = 1;
const NODE_MAGIC: &[u8; 8] = b"GANTRYND";
const BOOT_MAGIC: &[u8; 8] = b"GANTRYBT";
const NODE_LEN: usize = 8 + 4 + 16 + 16;
const BOOT_LEN: usize = 8 + 8 + 36 + 8 + 1;

/// How the run before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastRun {
    /// There was none.
    Fresh,
    Clean,
    /// The process died; the machine went on, and with it what was written.
    ProcessCrash,
    /// The machine stopped: only what was synced is sure.
    MachineCrash,
}

/// A folder that this process holds.
#[derive(Debug)]
pub struct DataFolder {
    disk: SharedDisk,
    root: PathBuf,
    _lock: Lock,
    pub node: [u8; 16],
    pub cluster: [u8; 16],
    pub last_run: LastRun,
    /// Counts the runs on this folder.
    pub incarnation: u64,
    boot: Boot,
}

/// Why a folder can't be used. Nothing was changed.
#[derive(Debug)]
pub enum FolderError {
    InUse { root: PathBuf, holder: String },
    Format { root: PathBuf, found: u32 },
    NotOurs { root: PathBuf, file: &'static str },
    Io { root: PathBuf, error: io::Error },
}

impl fmt::Display for FolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FolderError::InUse { root, holder } => write!(
                f,
                "`{}` is in use: {holder}; stop that process, or give this one another folder with `--data`",
                root.display()
            ),
            FolderError::Format { root, found } if *found > FORMAT => write!(
                f,
                "`{}` was written by a newer version of gantry (format {found}, this one reads {FORMAT}); nothing was changed, run the newer version",
                root.display()
            ),
            FolderError::Format { root, found } => {
                write!(f, "`{}` has format {found}, this version of gantry reads {FORMAT}; nothing was changed", root.display())
            }
            FolderError::NotOurs { root, file } => write!(
                f,
                "`{}` holds a file `{file}` that gantry did not write or that is damaged; nothing was changed. Give another folder with `--data`, or restore \
                 the file from a backup",
                root.display()
            ),
            FolderError::Io { root, error } => write!(f, "the data folder `{}` can't be used: {error}", root.display()),
        }
    }
}

impl std::error::Error for FolderError {}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Boot {
    number: u64,
    kernel: [u8; 36],
    incarnation: u64,
    clean: bool,
}

impl DataFolder {
    /// Takes the folder, and makes it if there is none. `kernel` is the kernel's boot id, which tells a crash of the process from one of the machine.
    pub fn open(disk: SharedDisk, root: &Path, kernel: &str, chance: &mut dyn Chance) -> Result<DataFolder, FolderError> {
        let fail = |error| FolderError::Io { root: root.to_owned(), error };
        disk.create_dir_all(root).map_err(fail)?;
        let lock = disk.lock(&root.join("lock")).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => FolderError::InUse { root: root.to_owned(), holder: error.to_string() },
            _ => fail(error),
        })?;
        let (node, cluster) = match read_node(&disk, root)? {
            Some(ids) => ids,
            None => write_node(&disk, root, chance).map_err(fail)?,
        };
        let mut name = [0; 36];
        kernel.bytes().take(36).zip(&mut name).for_each(|(byte, place)| *place = byte);
        let before = newest_boot(&disk, root).map_err(fail)?;
        let last_run = match &before {
            None => LastRun::Fresh,
            Some(boot) if boot.clean => LastRun::Clean,
            Some(boot) if boot.kernel == name => LastRun::ProcessCrash,
            Some(_) => LastRun::MachineCrash,
        };
        let (number, incarnation) = before.map_or((1, 1), |boot| (boot.number + 1, boot.incarnation + 1));
        let boot = Boot { number, kernel: name, incarnation, clean: false };
        write_boot(&disk, root, &boot).map_err(fail)?;
        Ok(DataFolder { disk, root: root.to_owned(), _lock: lock, node, cluster, last_run, incarnation, boot })
    }

    /// Notes that everything was synced and this run ends.
    pub fn close(mut self) -> io::Result<()> {
        self.boot.number += 1;
        self.boot.clean = true;
        write_boot(&self.disk, &self.root, &self.boot)
    }

    /// The folder of a shard.
    pub fn shard(&self, shard: gantry_model::ShardId) -> PathBuf {
        self.root.join(format!("shard-{:010}", shard.0))
    }
}

fn read_node(disk: &SharedDisk, root: &Path) -> Result<Option<([u8; 16], [u8; 16])>, FolderError> {
    let fail = |error| FolderError::Io { root: root.to_owned(), error };
    let path = root.join("node");
    if !disk.exists(&path).map_err(fail)? {
        return Ok(None);
    }
    let mut bytes = [0; NODE_LEN + 4];
    let read = disk.open(&path).and_then(|file| file.read_at(0, &mut bytes)).map_err(fail)?;
    let not_ours = FolderError::NotOurs { root: root.to_owned(), file: "node" };
    if read < 12 || &bytes[..8] != NODE_MAGIC {
        return Err(not_ours);
    }
    let format = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if format != FORMAT {
        return Err(FolderError::Format { root: root.to_owned(), found: format });
    }
    if read < bytes.len() || bytes[NODE_LEN..] != crc32c(&[&bytes[..NODE_LEN]]).to_le_bytes() {
        return Err(not_ours);
    }
    let (mut node, mut cluster) = ([0; 16], [0; 16]);
    node.copy_from_slice(&bytes[12..28]);
    cluster.copy_from_slice(&bytes[28..44]);
    Ok(Some((node, cluster)))
}

fn write_node(disk: &SharedDisk, root: &Path, chance: &mut dyn Chance) -> io::Result<([u8; 16], [u8; 16])> {
    let (mut node, mut cluster) = ([0; 16], [0; 16]);
    chance.fill(&mut node);
    chance.fill(&mut cluster);
    let mut bytes = Vec::with_capacity(NODE_LEN + 4);
    bytes.extend_from_slice(NODE_MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&node);
    bytes.extend_from_slice(&cluster);
    bytes.extend_from_slice(&crc32c(&[&bytes]).to_le_bytes());
    let unfinished = root.join("node.tmp");
    let file = disk.create(&unfinished)?;
    file.write_at(0, &[IoSlice::new(&bytes)])?;
    file.sync_data()?;
    disk.rename(&unfinished, &root.join("node"))?;
    Ok((node, cluster))
}

fn boot_path(root: &Path, number: u64) -> PathBuf {
    root.join(if number.is_multiple_of(2) { "boot.a" } else { "boot.b" })
}

fn newest_boot(disk: &SharedDisk, root: &Path) -> io::Result<Option<Boot>> {
    let mut newest: Option<Boot> = None;
    for slot in 0..2 {
        let path = boot_path(root, slot);
        if !disk.exists(&path)? {
            continue;
        }
        let mut bytes = [0; BOOT_LEN + 4];
        disk.open(&path)?.read_at(0, &mut bytes)?;
        if &bytes[..8] != BOOT_MAGIC || bytes[BOOT_LEN..] != crc32c(&[&bytes[..BOOT_LEN]]).to_le_bytes() {
            continue;
        }
        let number = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        let mut kernel = [0; 36];
        kernel.copy_from_slice(&bytes[16..52]);
        let boot = Boot { number: number(8), kernel, incarnation: number(52), clean: bytes[60] == 1 };
        if newest.as_ref().is_none_or(|known| boot.number > known.number) {
            newest = Some(boot);
        }
    }
    Ok(newest)
}

fn write_boot(disk: &SharedDisk, root: &Path, boot: &Boot) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(BOOT_LEN + 4);
    bytes.extend_from_slice(BOOT_MAGIC);
    bytes.extend_from_slice(&boot.number.to_le_bytes());
    bytes.extend_from_slice(&boot.kernel);
    bytes.extend_from_slice(&boot.incarnation.to_le_bytes());
    bytes.push(u8::from(boot.clean));
    bytes.extend_from_slice(&crc32c(&[&bytes]).to_le_bytes());
    let file = disk.create(&boot_path(root, boot.number))?;
    file.write_at(0, &[IoSlice::new(&bytes)])?;
    file.sync_data()?;
    disk.sync_dir(root)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_platform::chance::SeededChance;
    use gantry_platform::disk::memory::MemoryDisk;
    use std::sync::Arc;

    fn open(disk: &SharedDisk, kernel: &str) -> Result<DataFolder, FolderError> {
        DataFolder::open(disk.clone(), Path::new("/data"), kernel, &mut SeededChance::new(1))
    }

    #[test]
    fn a_folder_keeps_its_ids_and_knows_how_the_last_run_ended() {
        let disk: SharedDisk = Arc::new(MemoryDisk::new());
        let first = open(&disk, "k1").unwrap();
        let ids = (first.node, first.cluster);
        assert_eq!((first.last_run, first.incarnation), (LastRun::Fresh, 1));
        assert!(matches!(open(&disk, "k1"), Err(FolderError::InUse { .. })));
        drop(first);
        let second = open(&disk, "k1").unwrap();
        assert_eq!((second.last_run, (second.node, second.cluster)), (LastRun::ProcessCrash, ids));
        second.close().unwrap();
        let third = open(&disk, "k2").unwrap();
        assert_eq!((third.last_run, third.incarnation), (LastRun::Clean, 3));
        drop(third);
        assert_eq!(open(&disk, "k3").unwrap().last_run, LastRun::MachineCrash);
    }

    #[test]
    fn foreign_and_newer_folders_are_refused_and_left_alone() {
        let disk: SharedDisk = Arc::new(MemoryDisk::new());
        drop(open(&disk, "k").unwrap());
        let node = disk.open(Path::new("/data/node")).unwrap();
        node.write_at(8, &[IoSlice::new(&2u32.to_le_bytes())]).unwrap();
        let error = open(&disk, "k").unwrap_err();
        assert!(error.to_string().contains("newer version"), "{error}");
        node.write_at(0, &[IoSlice::new(b"x")]).unwrap();
        assert!(matches!(open(&disk, "k"), Err(FolderError::NotOurs { file: "node", .. })));
    }
}
