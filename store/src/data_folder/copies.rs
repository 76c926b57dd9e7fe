//! The copies of shards that a broker of a cluster holds, and who the broker is.
//!
//! ```text
//!  enrolment           the broker's number and its cluster, given when it joined
//!  copies              the names of all copies ever made here, one in each line
//!  shard-<number>      a copy's folder
//!  left-<number>-<at>  one that is needed no more; removed later
//! ```
//! A copy that was made and whose folder is gone has forgotten its promise, so it is never made again under its name.

use super::{DataFolder, FolderError, Meta, ShardFolder, at, crc32c, read_id, read_text};
use crate::twin::Twin;
use gantry_model::{Epoch, Lsn, NodeId, ShardId};
use gantry_platform::disk::{Disk, write_whole};
use std::io;
use std::path::{Path, PathBuf};

const ENROLMENT: &str = "enrolment";
const COPIES: &str = "copies";
const LEFT: &str = "left-";

/// Who a broker is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enrolment {
    pub node: NodeId,
    pub cluster: [u8; 16],
}

impl DataFolder {
    /// What the cluster gave to this folder, if it joined one.
    pub fn enrolment(&self) -> Result<Option<Enrolment>, FolderError> {
        let path = self.root.join(ENROLMENT);
        if !self.disk.exists(&path).map_err(at(&path))? {
            return Ok(None);
        }
        let text = read_text(&*self.disk, &path).map_err(at(&path))?;
        parse(&text).map(Some).ok_or(FolderError::Damaged { path })
    }

    /// Keeps what the cluster gave, durably.
    pub fn enrol(&self, enrolment: Enrolment) -> Result<(), FolderError> {
        let body = format!("node {}\ncluster {}\n", enrolment.node.0, hex::encode(enrolment.cluster));
        let crc = crc32c(&[body.as_bytes()]);
        let path = self.root.join(ENROLMENT);
        write_whole(&*self.disk, &path, format!("{body}crc {crc:08x}\n").as_bytes()).map_err(at(&path))
    }

    /// Opens the folder of a copy, which is made if it never was. A folder of another copy of the shard is put aside first.
    pub fn open_copy(&self, shard: ShardId, store: [u8; 16]) -> Result<ShardFolder, FolderError> {
        let (disk, dir, list) = (&*self.disk, self.shard(shard), self.root.join(COPIES));
        let found = match disk.exists(&dir).map_err(at(&dir))? {
            true => Twin::open(disk, &dir, "meta", *b"GANTRYMT").map_err(at(&dir))?.value().and_then(Meta::decode).map(|meta| meta.store),
            false => None,
        };
        let mut made = match disk.exists(&list).map_err(at(&list))? {
            true => read_long(disk, &list).map_err(at(&list))?,
            false => String::new(),
        };
        let name = hex::encode(store);
        let known = made.lines().any(|line| line == name);
        if found != Some(store) {
            if known {
                return Err(FolderError::Lost { dir });
            }
            if found.is_some() {
                self.put_aside(shard)?;
            }
        }
        let folder = ShardFolder::open_with(disk, &dir, || store)?;
        // From here on the copy may promise something, so it must not be made a second time.
        if !known {
            made.push_str(&name);
            made.push('\n');
            write_whole(disk, &list, made.as_bytes()).map_err(at(&list))?;
        }
        Ok(folder)
    }

    /// Gives up a copy that is needed no more. Its files stay under another name until [`DataFolder::remove_left`].
    pub fn put_aside(&self, shard: ShardId) -> Result<(), FolderError> {
        let from = self.shard(shard);
        if !self.disk.exists(&from).map_err(at(&from))? {
            return Ok(());
        }
        let taken = self.left()?.len();
        let to = self.root.join(format!("{LEFT}{:010}-{}-{taken}", shard.0, self.incarnation));
        self.disk.rename(&from, &to).map_err(at(&from))
    }

    /// The folders of copies that were given up.
    pub fn left(&self) -> Result<Vec<PathBuf>, FolderError> {
        let paths = self.disk.list(&self.root).map_err(at(&self.root))?;
        let is_left = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(LEFT));
        Ok(paths.into_iter().filter(is_left).collect())
    }

    /// Removes one of them for good.
    pub fn remove_left(&self, path: &Path) -> Result<(), FolderError> {
        self.disk.remove_dir_all(path).map_err(at(path))
    }
}

fn read_long(disk: &dyn Disk, path: &Path) -> io::Result<String> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; file.len()? as usize];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    String::from_utf8(bytes).map_err(io::Error::other)
}

fn parse(text: &str) -> Option<Enrolment> {
    let (body, crc) = text.trim_end().rsplit_once("crc ")?;
    if u32::from_str_radix(crc, 16).ok()? != crc32c(&[body.as_bytes()]) {
        return None;
    }
    let mut lines = body.lines();
    let node = lines.next()?.strip_prefix("node ")?.parse().ok()?;
    let cluster = read_id(lines.next()?.strip_prefix("cluster ")?)?;
    Some(Enrolment { node: NodeId(node), cluster })
}

impl ShardFolder {
    /// Opens the folder; a new one gets its name from `store`.
    pub(super) fn open_with(disk: &dyn Disk, dir: &Path, store: impl FnOnce() -> [u8; 16]) -> Result<ShardFolder, FolderError> {
        disk.create_dir_all(dir).map_err(at(dir))?;
        let mut twin = Twin::open(disk, dir, "meta", *b"GANTRYMT").map_err(at(dir))?;
        let meta = match twin.value() {
            Some(value) => Meta::decode(value).ok_or_else(|| FolderError::Damaged { path: dir.join("meta.a") })?,
            None => {
                let zero = Lsn(0);
                let meta = Meta { store: store(), promised: Epoch(0), configuration: 0, suspect_until: zero, log_start: zero, checkpoint: zero };
                twin.store(&meta.encode()).map_err(at(dir))?;
                meta
            }
        };
        Ok(ShardFolder { dir: dir.to_path_buf(), meta, twin })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_platform::disk::SharedDisk;
    use gantry_platform::{MemoryDisk, SeededChance};
    use std::io::IoSlice;
    use std::sync::Arc;

    const SHARD: ShardId = ShardId(3);

    fn open(disk: &SharedDisk) -> DataFolder {
        DataFolder::open(disk.clone(), Path::new("data"), "boot", &mut SeededChance::new(7)).unwrap()
    }

    fn memory() -> SharedDisk {
        Arc::new(MemoryDisk::new())
    }

    #[test]
    fn an_enrolment_is_kept_and_damage_is_told() {
        let disk = memory();
        let enrolment = Enrolment { node: NodeId(5), cluster: [9; 16] };
        let folder = open(&disk);
        assert_eq!(folder.enrolment().unwrap(), None);
        folder.enrol(enrolment).unwrap();
        drop(folder);
        assert_eq!(open(&disk).enrolment().unwrap(), Some(enrolment));
        disk.open(Path::new("data/enrolment")).unwrap().write_at(5, &[IoSlice::new(b"7")]).unwrap();
        assert!(matches!(open(&disk).enrolment(), Err(FolderError::Damaged { .. })));
    }

    #[test]
    fn a_copy_keeps_its_name_and_its_promise() {
        let disk = memory();
        let folder = open(&disk);
        let mut copy = folder.open_copy(SHARD, [1; 16]).unwrap();
        copy.set_meta(Meta { promised: Epoch(4), ..copy.meta() }).unwrap();
        drop((copy, folder));
        let meta = open(&disk).open_copy(SHARD, [1; 16]).unwrap().meta();
        assert_eq!((meta.store, meta.promised), ([1; 16], Epoch(4)));
    }

    #[test]
    fn a_copy_whose_folder_is_gone_is_not_made_again() {
        let disk = memory();
        let folder = open(&disk);
        let dir = folder.open_copy(SHARD, [1; 16]).unwrap().dir().to_owned();
        disk.remove_dir_all(&dir).unwrap();
        assert!(matches!(folder.open_copy(SHARD, [1; 16]), Err(FolderError::Lost { .. })));
        assert_eq!(folder.open_copy(SHARD, [2; 16]).unwrap().meta().store, [2; 16], "another copy may be");
    }

    #[test]
    fn another_copy_of_the_shard_is_put_aside_with_its_files() {
        let disk = memory();
        let folder = open(&disk);
        drop(folder.open_copy(SHARD, [1; 16]).unwrap());
        assert_eq!(folder.open_copy(SHARD, [2; 16]).unwrap().meta().store, [2; 16]);
        let left = folder.left().unwrap();
        assert_eq!(left.len(), 1);
        assert!(disk.exists(&left[0].join("meta.a")).unwrap() || disk.exists(&left[0].join("meta.b")).unwrap());
        folder.put_aside(SHARD).unwrap();
        assert_eq!(folder.left().unwrap().len(), 2);
        folder.left().unwrap().iter().for_each(|path| folder.remove_left(path).unwrap());
        assert_eq!(folder.left().unwrap(), Vec::<PathBuf>::new());
    }
}
