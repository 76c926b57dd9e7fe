//! The data folder of one node: whose it is, whether anybody else uses it, and how the last run ended.
//!
//! ```text
//! <root>/
//!   lock                  held while a process uses the folder; its content is the process id
//!   node                  node id, cluster id, format: written once
//!   boot.a boot.b         how the last run began and whether it ended cleanly
//!   shard-0000000007/     one shard: meta.a meta.b log/ idx/ state/ bad/
//! ```

pub mod copies;

use crate::frame::crc32c;
use crate::twin::Twin;
use bytes::Bytes;
use gantry_model::{Epoch, Lsn, ShardId};
use gantry_platform::chance::Chance;
use gantry_platform::disk::{Disk, Lock, SharedDisk, write_whole};
use hex::FromHex;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// The newest format of a data folder that this program reads, and the one it gives to a new one.
pub const FORMAT: u32 = 1;
const TITLE: &str = "gantry data folder";

/// What the `node` file says. It never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    id: [u8; 16],
    cluster: [u8; 16],
    format: u32,
}

/// How the run before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastRun {
    /// There was none.
    Fresh,
    Clean,
    /// The process died, and the page cache kept what it wrote.
    ProcessCrash,
    /// The machine stopped: what was not synced may be lost.
    MachineCrash,
}

/// Why a folder can't be used.
#[derive(Debug)]
pub enum FolderError {
    Io {
        path: PathBuf,
        error: io::Error,
    },
    /// Another process has it.
    Locked {
        root: PathBuf,
        pid: String,
    },
    /// It holds other things and no `node` file.
    NotOurs {
        root: PathBuf,
        found: String,
    },
    /// The `node` file can't be read.
    Damaged {
        path: PathBuf,
    },
    Newer {
        root: PathBuf,
        format: u32,
    },
    /// A copy of a shard was made here and is gone.
    Lost {
        dir: PathBuf,
    },
}

impl fmt::Display for FolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FolderError::Io { path, error } => write!(f, "`{}`: {error}", path.display()),
            FolderError::Locked { root, pid } => {
                write!(
                    f,
                    "the data folder `{}` is in use by process {pid}; stop that process, or choose another folder with `--data`",
                    root.display()
                )
            }
            FolderError::NotOurs { root, found } => {
                write!(f, "`{}` is not a data folder: it holds `{found}` and no `node` file; choose an empty folder with `--data`", root.display())
            }
            FolderError::Damaged { path } => write!(f, "`{}` is damaged; restore it from a backup, its content never changes", path.display()),
            FolderError::Lost { dir } => write!(
                f,
                "`{}` is gone, and with it what this copy of the shard promised; restore it, or let the cluster put another copy here",
                dir.display()
            ),
            FolderError::Newer { root, format } => write!(
                f,
                "the data folder `{}` has format {format}, this program knows formats up to {FORMAT}; nothing was changed, start the newer version",
                root.display()
            ),
        }
    }
}

impl std::error::Error for FolderError {}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FolderError + '_ {
    move |error| FolderError::Io { path: path.to_path_buf(), error }
}

/// The folder, held as long as this lives.
#[derive(Debug)]
pub struct DataFolder {
    disk: SharedDisk,
    root: PathBuf,
    /// This node's name, drawn when the folder was made.
    pub node: [u8; 16],
    /// The cluster it founded, of which it may stay the only node.
    pub cluster: [u8; 16],
    pub last_run: LastRun,
    /// The number of this run; grows with each.
    pub incarnation: u64,
    boot: Boot,
    twin: Twin,
    _lock: Lock,
}

/// What `boot.a` and `boot.b` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Boot {
    /// A hash of what the kernel calls this run of the machine.
    machine: u64,
    /// Counts the runs.
    incarnation: u64,
    clean: bool,
}

impl DataFolder {
    /// Takes the folder, which is made if there is none. `boot_id` is what the kernel calls this run of the machine: it tells the death of a
    /// process from that of the machine.
    pub fn open(disk: SharedDisk, root: &Path, boot_id: &str, chance: &mut dyn Chance) -> Result<DataFolder, FolderError> {
        disk.create_dir_all(root).map_err(at(root))?;
        // A folder of somebody else's is left alone, to its lock file.
        read_node(&*disk, root)?;
        let lock = lock(&*disk, root)?;
        let node = match read_node(&*disk, root)? {
            Some(node) => node,
            None => new_node(&*disk, chance, root)?,
        };
        let mut twin = Twin::open(&*disk, root, "boot", *b"GANTRYBT").map_err(at(root))?;
        let before = twin.value().and_then(Boot::decode);
        let machine = xxh3_64(boot_id.trim().as_bytes());
        let last_run = match before {
            None => LastRun::Fresh,
            Some(boot) if boot.clean => LastRun::Clean,
            Some(boot) if boot.machine == machine => LastRun::ProcessCrash,
            Some(_) => LastRun::MachineCrash,
        };
        let incarnation = before.map_or(1, |boot| boot.incarnation + 1);
        let boot = Boot { machine, incarnation, clean: false };
        twin.store(&boot.encode()).map_err(at(root))?;
        let Node { id, cluster, .. } = node;
        Ok(DataFolder { disk, root: root.to_path_buf(), node: id, cluster, last_run, incarnation, boot, twin, _lock: lock })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a shard; not made yet.
    pub fn shard(&self, shard: ShardId) -> PathBuf {
        self.root.join(format!("shard-{:010}", shard.0))
    }

    /// The shards that have a folder here, ascending.
    pub fn shards(&self) -> Result<Vec<ShardId>, FolderError> {
        let paths = self.disk.list(&self.root).map_err(at(&self.root))?;
        let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("shard-")?.parse().ok().map(ShardId);
        Ok(paths.iter().filter_map(number).collect())
    }

    /// Opens a shard's folder and its meta; makes them if there are none.
    pub fn open_shard(&self, chance: &mut dyn Chance, shard: ShardId) -> Result<ShardFolder, FolderError> {
        ShardFolder::open(&*self.disk, chance, &self.shard(shard))
    }

    /// The end of a clean run: everything is written and synced. Gives the folder up.
    pub fn close(mut self) -> Result<(), FolderError> {
        self.boot.clean = true;
        self.twin.store(&self.boot.encode()).map_err(at(&self.root))
    }
}

fn lock(disk: &dyn Disk, root: &Path) -> Result<Lock, FolderError> {
    let path = root.join("lock");
    disk.lock(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            let pid = read_text(disk, &path).unwrap_or_default();
            FolderError::Locked { root: root.to_path_buf(), pid: pid.trim().to_owned() }
        }
        _ => FolderError::Io { path, error },
    })
}

fn read_text(disk: &dyn Disk, path: &Path) -> io::Result<String> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; file.len()?.min(4096) as usize];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The node file, or `None` in a folder that may become ours.
fn read_node(disk: &dyn Disk, root: &Path) -> Result<Option<Node>, FolderError> {
    let path = root.join("node");
    if !disk.exists(&path).map_err(at(&path))? {
        let paths = disk.list(root).map_err(at(root))?;
        // A fresh ext4 volume has a `lost+found`, and a crash while the folder was made leaves the others.
        let harmless = |name: &str| name == "lost+found" || name == "lock" || name == "node.tmp" || name.starts_with('.');
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return match paths.iter().map(name).find(|name| !harmless(name)) {
            Some(found) => Err(FolderError::NotOurs { root: root.to_path_buf(), found }),
            None => Ok(None),
        };
    }
    let text = read_text(disk, &path).map_err(at(&path))?;
    let (format, node) = parse_node(&text).ok_or(FolderError::Damaged { path: path.clone() })?;
    if format > FORMAT {
        return Err(FolderError::Newer { root: root.to_path_buf(), format });
    }
    node.map(Some).ok_or(FolderError::Damaged { path })
}

fn new_node(disk: &dyn Disk, chance: &mut dyn Chance, root: &Path) -> Result<Node, FolderError> {
    let mut draw = || {
        let mut id = [0; 16];
        chance.fill(&mut id);
        id
    };
    let node = Node { id: draw(), cluster: draw(), format: FORMAT };
    let path = root.join("node");
    write_whole(disk, &path, node_text(&node).as_bytes()).map_err(at(&path))?;
    Ok(node)
}

/// Text, so that an operator can read it; the last line protects the others.
fn node_text(node: &Node) -> String {
    let body = format!("{TITLE}\nformat {}\nnode {}\ncluster {}\n", node.format, hex::encode(node.id), hex::encode(node.cluster));
    let crc = crc32c(&[body.as_bytes()]);
    format!("{body}crc {crc:08x}\n")
}

/// The format, and the rest if it is of a format that this program can read.
fn parse_node(text: &str) -> Option<(u32, Option<Node>)> {
    let (body, crc) = text.trim_end().rsplit_once("crc ")?;
    if u32::from_str_radix(crc, 16).ok()? != crc32c(&[body.as_bytes()]) {
        return None;
    }
    let mut lines = body.lines();
    if lines.next()? != TITLE {
        return None;
    }
    let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
    let format = value("format")?.parse().ok()?;
    let mut node = || {
        let (id, cluster) = (read_id(&value("node")?)?, read_id(&value("cluster")?)?);
        Some(Node { id, cluster, format })
    };
    Some((format, node()))
}

/// 32 hexadecimal digits.
fn read_id(text: &str) -> Option<[u8; 16]> {
    <[u8; 16]>::from_hex(text).ok()
}

impl Boot {
    fn encode(&self) -> [u8; 17] {
        let mut out = [0; 17];
        out[..8].copy_from_slice(&self.machine.to_le_bytes());
        out[8..16].copy_from_slice(&self.incarnation.to_le_bytes());
        out[16] = u8::from(self.clean);
        out
    }

    fn decode(bytes: &Bytes) -> Option<Boot> {
        let bytes: &[u8; 17] = bytes.as_ref().try_into().ok()?;
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Some(Boot { machine: u64_at(0), incarnation: u64_at(8), clean: bytes[16] == 1 })
    }
}

/// What a shard's replica must not forget, besides its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// This replica's name: a lost and remade one has another.
    pub store: [u8; 16],
    /// No leader of an older epoch is followed.
    pub promised: Epoch,
    /// The generation of the set of replicas.
    pub configuration: u64,
    /// Below this address acknowledged frames may be missing here.
    pub suspect_until: Lsn,
    pub log_start: Lsn,
    pub checkpoint: Lsn,
}

const META: usize = 52;

impl Meta {
    fn encode(&self) -> [u8; META] {
        let mut out = [0; META];
        out[..16].copy_from_slice(&self.store);
        out[16..20].copy_from_slice(&self.promised.0.to_le_bytes());
        out[20..28].copy_from_slice(&self.configuration.to_le_bytes());
        out[28..36].copy_from_slice(&self.suspect_until.0.to_le_bytes());
        out[36..44].copy_from_slice(&self.log_start.0.to_le_bytes());
        out[44..52].copy_from_slice(&self.checkpoint.0.to_le_bytes());
        out
    }

    fn decode(bytes: &Bytes) -> Option<Meta> {
        let bytes: &[u8; META] = bytes.as_ref().try_into().ok()?;
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Some(Meta {
            store: bytes[..16].try_into().expect("sixteen bytes"),
            promised: Epoch(u32::from_le_bytes(bytes[16..20].try_into().expect("four bytes"))),
            configuration: u64_at(20),
            suspect_until: Lsn(u64_at(28)),
            log_start: Lsn(u64_at(36)),
            checkpoint: Lsn(u64_at(44)),
        })
    }
}

/// One shard's folder.
#[derive(Debug)]
pub struct ShardFolder {
    dir: PathBuf,
    meta: Meta,
    twin: Twin,
}

impl ShardFolder {
    fn open(disk: &dyn Disk, chance: &mut dyn Chance, dir: &Path) -> Result<ShardFolder, FolderError> {
        ShardFolder::open_with(disk, dir, || {
            let mut store = [0; 16];
            chance.fill(&mut store);
            store
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn meta(&self) -> Meta {
        self.meta
    }

    /// Replaces the meta, durably: a promise is kept before it is answered.
    pub fn set_meta(&mut self, meta: Meta) -> Result<(), FolderError> {
        self.twin.store(&meta.encode()).map_err(at(&self.dir))?;
        self.meta = meta;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_platform::disk::crash::CrashStates;
    use gantry_platform::{MemoryDisk, RecordingDisk, SeededChance};
    use std::io::IoSlice;
    use std::sync::Arc;

    const ROOT: &str = "gantry-data";

    fn open_on(disk: &SharedDisk, boot_id: &str) -> Result<DataFolder, FolderError> {
        DataFolder::open(Arc::clone(disk), Path::new(ROOT), boot_id, &mut SeededChance::new(7))
    }

    fn open(disk: &SharedDisk) -> Result<DataFolder, FolderError> {
        open_on(disk, "boot-1")
    }

    fn memory() -> SharedDisk {
        Arc::new(MemoryDisk::new())
    }

    #[test]
    fn a_folder_keeps_its_identity_and_counts_its_runs() {
        let disk = memory();
        let first = open(&disk).unwrap();
        let names = (first.node, first.cluster);
        assert_eq!((first.last_run, first.incarnation), (LastRun::Fresh, 1));
        first.close().unwrap();
        let second = open(&disk).unwrap();
        assert_eq!(((second.node, second.cluster), second.last_run, second.incarnation), (names, LastRun::Clean, 2));
        drop(second);
        let third = open(&disk).unwrap();
        assert_eq!((third.last_run, third.incarnation), (LastRun::ProcessCrash, 3));
        drop(third);
        assert_eq!(open_on(&disk, "boot-2").unwrap().last_run, LastRun::MachineCrash);
    }

    #[test]
    fn a_second_process_is_told_who_has_the_folder() {
        let disk = memory();
        let _held = open(&disk).unwrap();
        let text = open(&disk).unwrap_err().to_string();
        let pid = std::process::id();
        let expected = format!("the data folder `gantry-data` is in use by process {pid}; stop that process, or choose another folder with `--data`");
        assert_eq!(text, expected);
    }

    #[test]
    fn a_folder_of_a_newer_format_is_refused_with_what_to_do() {
        let disk = memory();
        disk.create_dir_all(Path::new(ROOT)).unwrap();
        let file = disk.create(&Path::new(ROOT).join("node")).unwrap();
        let body = format!("{TITLE}\nformat 3\nsomething else\n");
        let text = format!("{body}crc {:08x}\n", crc32c(&[body.as_bytes()]));
        file.write_at(0, &[IoSlice::new(text.as_bytes())]).unwrap();
        assert_eq!(
            open(&disk).unwrap_err().to_string(),
            "the data folder `gantry-data` has format 3, this program knows formats up to 1; nothing was changed, start the newer version"
        );
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let disk = memory();
        disk.create_dir_all(Path::new("gantry-data/lost+found")).unwrap();
        open(&disk).unwrap().close().unwrap();
        let disk = memory();
        disk.create_dir_all(Path::new("gantry-data/photos")).unwrap();
        let error = open(&disk).unwrap_err();
        assert!(matches!(&error, FolderError::NotOurs { found, .. } if found == "photos"), "{error}");
    }

    #[test]
    fn every_damaged_byte_of_the_node_file_is_noticed() {
        let disk = memory();
        open(&disk).unwrap().close().unwrap();
        let path = Path::new("gantry-data/node");
        let file = disk.open(path).unwrap();
        for off in 0..file.len().unwrap() - 1 {
            let mut byte = [0];
            file.read_at(off, &mut byte).unwrap();
            file.write_at(off, &[IoSlice::new(&[byte[0] ^ 1])]).unwrap();
            let error = open(&disk).err();
            assert!(matches!(error, Some(FolderError::Damaged { .. })), "byte {off}: {error:?}");
            file.write_at(off, &[IoSlice::new(&byte)]).unwrap();
        }
        assert!(open(&disk).is_ok());
    }

    #[test]
    fn a_power_loss_while_the_folder_is_made_leaves_one_that_opens() {
        let recording = RecordingDisk::new();
        let disk: SharedDisk = Arc::new(recording.clone());
        let folder = open(&disk).unwrap();
        folder.open_shard(&mut SeededChance::new(1), ShardId(7)).unwrap();
        folder.close().unwrap();
        let ops = recording.ops();
        let mut states = CrashStates::new(&ops);
        for prefix in 0..=ops.len() {
            let point = states.at(prefix);
            for kept in 0..1u32 << point.unsynced_len().min(10) {
                let disk: SharedDisk = Arc::new(point.materialize(|n| kept >> n & 1 == 1));
                let folder = open_on(&disk, "boot-2").unwrap();
                folder.open_shard(&mut SeededChance::new(1), ShardId(7)).unwrap();
                assert_eq!(folder.shards().unwrap(), [ShardId(7)]);
            }
        }
    }

    #[test]
    fn a_shard_keeps_its_promises() {
        let disk = memory();
        let folder = open(&disk).unwrap();
        let mut shard = folder.open_shard(&mut SeededChance::new(1), ShardId(7)).unwrap();
        assert_eq!(shard.dir(), Path::new("gantry-data/shard-0000000007"));
        let meta = Meta { promised: Epoch(9), configuration: 2, suspect_until: Lsn(64), log_start: Lsn(8), checkpoint: Lsn(16), ..shard.meta() };
        shard.set_meta(meta).unwrap();
        assert_eq!(folder.open_shard(&mut SeededChance::new(2), ShardId(7)).unwrap().meta(), meta);
    }
}
