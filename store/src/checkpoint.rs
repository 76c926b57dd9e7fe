//! Checkpoints: the shard's state as it was at one address, so that a restart reads only what came after.
//!
//! The state comes in numbered buckets. A checkpoint is one manifest, `<lsn>.ckpt`, which says for each bucket in which data file it is, and
//! one data file, `<number>.data`, with the buckets that changed since the checkpoint before. Both are complete and durable before the
//! manifest gets its name, and the two newest checkpoints are kept, so there is always one to fall back to. Everything here is derived
//! from the log and may be deleted.

use crate::frame::crc32c;
use bytes::Bytes;
use gantry_model::Lsn;
use gantry_platform::disk::{Disk, DiskFile};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"GANTRYCP";
const FORMAT: u32 = 1;
/// Manifest: magic, version, number of rows, lsn; then the rows, then a checksum.
const HEAD: usize = 24;
const ROW: usize = 32;
/// A data file begins with magic, version, zeros, its number.
const DATA_HEAD: usize = 24;
const DATA_MAGIC: &[u8; 8] = b"GANTRYCD";
/// Buckets are gathered to this size before they are written.
const STEP: usize = 1024 * 1024;
/// Buckets lie in at most so many data files; then the oldest file's buckets are copied into the new one.
const MAX_FILES: usize = 8;
/// Copied as well when the files hold more than so many times what is in use.
const MAX_WASTE: u64 = 3;
/// A small state may waste this much without being copied.
const SMALL: u64 = 1024 * 1024;

/// A state that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub lsn: Lsn,
    /// In order of their numbers.
    pub buckets: Vec<(u16, Bytes)>,
}

/// Why a checkpoint was not written. The checkpoints before are untouched; the next one has to bring every bucket.
#[derive(Debug)]
pub enum WriteError {
    Io {
        path: PathBuf,
        error: io::Error,
    },
    /// A bucket was given as unchanged, but there is no readable checkpoint that has it.
    NoPrevious {
        bucket: u16,
    },
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Io { path, error } => write!(f, "`{}`: {error}", path.display()),
            WriteError::NoPrevious { bucket } => write!(f, "bucket `{bucket}` is unchanged since a checkpoint that can't be read"),
        }
    }
}

impl std::error::Error for WriteError {}

fn at(path: &Path) -> impl FnOnce(io::Error) -> WriteError + '_ {
    move |error| WriteError::Io { path: path.to_path_buf(), error }
}

/// Where a bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// The number of the data file.
    file: u64,
    offset: u64,
    len: u32,
    crc: u32,
}

#[derive(Debug)]
struct Manifest {
    lsn: Lsn,
    places: BTreeMap<u16, Place>,
}

/// Writes the state at `lsn`: every bucket that there is, with `None` for one that is as in the checkpoint before. A bucket not mentioned is gone.
pub fn write(disk: &dyn Disk, dir: &Path, lsn: Lsn, buckets: impl Iterator<Item = (u16, Option<Bytes>)>) -> Result<(), WriteError> {
    disk.create_dir_all(dir).map_err(at(dir))?;
    let listed = list(disk, dir).map_err(at(dir))?;
    // A checkpoint of a later address belongs to a log that lost its end; it must not be taken for the newest.
    for later in listed.iter().filter(|listed| **listed > lsn) {
        retire(disk, dir, *later).map_err(at(dir))?;
    }
    let previous = listed.iter().rev().filter(|listed| **listed <= lsn).find_map(|listed| read_manifest(disk, dir, *listed).ok());
    let number = new_number(disk, dir).map_err(at(dir))?;
    let path = data_path(dir, number);
    let mut data = DataFile::create(disk, &path, number).map_err(at(&path))?;
    let mut places = BTreeMap::new();
    for (number, bucket) in buckets {
        let place = match bucket {
            Some(bytes) => data.put(&bytes).map_err(at(&path))?,
            None => *previous.as_ref().and_then(|previous| previous.places.get(&number)).ok_or(WriteError::NoPrevious { bucket: number })?,
        };
        places.insert(number, place);
    }
    copy_old(disk, dir, &mut data, &mut places).map_err(at(&path))?;
    data.finish().map_err(at(&path))?;
    publish(disk, dir, &Manifest { lsn, places }).map_err(at(&manifest_path(dir, lsn)))?;
    // The new checkpoint is in force; that older ones stay a while longer does no harm.
    let _ = clean(disk, dir, lsn);
    Ok(())
}

/// The newest checkpoint that can be read, if any. Those that can't be are put aside, so that the next one is not built on them.
pub fn load_newest(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Checkpoint>> {
    if !disk.exists(dir)? {
        return Ok(None);
    }
    for lsn in list(disk, dir)?.into_iter().rev() {
        match load(disk, dir, lsn) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            // Whatever the reason, the state can be had without it.
            Err(_) => retire(disk, dir, lsn)?,
        }
    }
    Ok(None)
}

/// The newest checkpoint that can be read, and nothing is changed: for a reader beside the one that writes.
pub fn peek_newest(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Checkpoint>> {
    if !disk.exists(dir)? {
        return Ok(None);
    }
    Ok(list(disk, dir)?.into_iter().rev().find_map(|lsn| load(disk, dir, lsn).ok()))
}

fn load(disk: &dyn Disk, dir: &Path, lsn: Lsn) -> io::Result<Checkpoint> {
    let manifest = read_manifest(disk, dir, lsn)?;
    let mut files = BTreeMap::new();
    let mut buckets = Vec::with_capacity(manifest.places.len());
    for (number, place) in manifest.places {
        let bytes = match files.entry(place.file) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(read_all(disk, &data_path(dir, place.file))?),
        };
        buckets.push((number, cut(bytes, place)?));
    }
    Ok(Checkpoint { lsn, buckets })
}

fn cut(file: &Bytes, place: Place) -> io::Result<Bytes> {
    let end = place.offset.checked_add(u64::from(place.len)).filter(|end| *end <= file.len() as u64);
    let end = end.ok_or_else(|| damaged("a bucket is outside its file"))?;
    let bytes = file.slice(place.offset as usize..end as usize);
    if crc32c(&[&bytes]) == place.crc { Ok(bytes) } else { Err(damaged("a bucket does not match its checksum")) }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_all(disk: &dyn Disk, path: &Path) -> io::Result<Bytes> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; file.len()? as usize];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(Bytes::from(bytes))
}

/// A data file being written.
struct DataFile<'a> {
    disk: &'a dyn Disk,
    path: PathBuf,
    number: u64,
    file: Arc<dyn DiskFile>,
    pending: Vec<u8>,
    written: u64,
}

impl<'a> DataFile<'a> {
    fn create(disk: &'a dyn Disk, path: &Path, number: u64) -> io::Result<DataFile<'a>> {
        let temporary = path.with_extension("tmp");
        let file = disk.create(&temporary)?;
        let mut pending = Vec::with_capacity(STEP);
        pending.extend_from_slice(DATA_MAGIC);
        pending.extend_from_slice(&FORMAT.to_le_bytes());
        pending.extend_from_slice(&[0; 4]);
        pending.extend_from_slice(&number.to_le_bytes());
        debug_assert_eq!(pending.len(), DATA_HEAD);
        Ok(DataFile { disk, path: path.to_path_buf(), number, file, pending, written: 0 })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<Place> {
        let offset = self.written + self.pending.len() as u64;
        let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= STEP {
            self.flush()?;
        }
        Ok(Place { file: self.number, offset, len, crc: crc32c(&[bytes]) })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(self.written, &[IoSlice::new(&self.pending)])?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.file.sync_data()?;
        self.disk.rename(&self.path.with_extension("tmp"), &self.path)
    }
}

/// Copies buckets out of old files into the new one, when they lie in too many files or the files are mostly waste.
fn copy_old(disk: &dyn Disk, dir: &Path, data: &mut DataFile<'_>, places: &mut BTreeMap<u16, Place>) -> io::Result<()> {
    let mut old: BTreeSet<u64> = places.values().map(|place| place.file).filter(|file| *file != data.number).collect();
    let live: u64 = places.values().map(|place| u64::from(place.len)).sum();
    let mut stored = data.written + data.pending.len() as u64;
    for file in &old {
        stored += disk.open(&data_path(dir, *file))?.len()?;
    }
    let wasteful = stored > live * MAX_WASTE + SMALL;
    // Without waste the oldest file is enough to keep the number in bounds.
    while let Some(file) = old.pop_first() {
        if !wasteful && old.len() + 2 <= MAX_FILES {
            break;
        }
        let bytes = read_all(disk, &data_path(dir, file))?;
        for place in places.values_mut().filter(|place| place.file == file) {
            *place = data.put(&cut(&bytes, *place)?)?;
        }
    }
    Ok(())
}

fn publish(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> io::Result<()> {
    let mut out = Vec::with_capacity(HEAD + manifest.places.len() * ROW + 4);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&(manifest.places.len() as u32).to_le_bytes());
    out.extend_from_slice(&manifest.lsn.0.to_le_bytes());
    for (number, place) in &manifest.places {
        out.extend_from_slice(&u32::from(*number).to_le_bytes());
        out.extend_from_slice(&place.len.to_le_bytes());
        out.extend_from_slice(&place.file.to_le_bytes());
        out.extend_from_slice(&place.offset.to_le_bytes());
        out.extend_from_slice(&place.crc.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }
    let crc = crc32c(&[&out]);
    out.extend_from_slice(&crc.to_le_bytes());
    let path = manifest_path(dir, manifest.lsn);
    let temporary = path.with_extension("ckpt-tmp");
    let file = disk.create(&temporary)?;
    file.write_at(0, &[IoSlice::new(&out)])?;
    file.sync_data()?;
    disk.rename(&temporary, &path)
}

fn read_manifest(disk: &dyn Disk, dir: &Path, lsn: Lsn) -> io::Result<Manifest> {
    let bytes = read_all(disk, &manifest_path(dir, lsn))?;
    parse_manifest(&bytes, lsn).ok_or_else(|| damaged("the manifest is damaged or of a later version"))
}

fn parse_manifest(bytes: &[u8], lsn: Lsn) -> Option<Manifest> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    let u32_at = |bytes: &[u8], at: usize| bytes.get(at..at + 4).map(|four| u32::from_le_bytes(four.try_into().expect("four bytes")));
    let u64_at = |bytes: &[u8], at: usize| bytes.get(at..at + 8).map(|eight| u64::from_le_bytes(eight.try_into().expect("eight bytes")));
    let sound = crc32c(&[body]) == u32::from_le_bytes(*crc) && body.starts_with(MAGIC) && u32_at(body, 8)? == FORMAT && u64_at(body, 16)? == lsn.0;
    if !sound || body.len() != HEAD + u32_at(body, 12)? as usize * ROW {
        return None;
    }
    let mut places = BTreeMap::new();
    for row in body[HEAD..].chunks_exact(ROW) {
        let number = u16::try_from(u32_at(row, 0)?).ok()?;
        let place = Place { len: u32_at(row, 4)?, file: u64_at(row, 8)?, offset: u64_at(row, 16)?, crc: u32_at(row, 24)? };
        places.insert(number, place);
    }
    Some(Manifest { lsn, places })
}

/// The addresses of all manifests, ascending.
fn list(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<Lsn>> {
    Ok(disk.list(dir)?.iter().filter_map(|path| number_in(path, ".ckpt")).map(Lsn).collect())
}

/// A number that no data file has had since the oldest one that is left.
fn new_number(disk: &dyn Disk, dir: &Path) -> io::Result<u64> {
    let newest = disk.list(dir)?.iter().filter_map(|path| number_in(path, ".data")).max();
    Ok(newest.map_or(1, |number| number + 1))
}

/// The number that a file's name consists of, before this ending.
fn number_in(path: &Path, ending: &str) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(ending)?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

fn manifest_path(dir: &Path, lsn: Lsn) -> PathBuf {
    dir.join(format!("{:020}.ckpt", lsn.0))
}

fn data_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.data"))
}

/// Takes a checkpoint out of the list; its manifest stays until the next one is complete, for who wants to know what happened.
fn retire(disk: &dyn Disk, dir: &Path, lsn: Lsn) -> io::Result<()> {
    let path = manifest_path(dir, lsn);
    disk.rename(&path, &path.with_extension("ckpt-bad"))
}

/// Removes what neither of the two newest checkpoints needs.
fn clean(disk: &dyn Disk, dir: &Path, newest: Lsn) -> io::Result<()> {
    let listed = list(disk, dir)?;
    let before = listed.iter().rev().copied().find(|lsn| *lsn < newest);
    let kept: BTreeSet<Lsn> = [Some(newest), before].into_iter().flatten().collect();
    let mut needed = BTreeSet::new();
    for lsn in &kept {
        // A damaged manifest needs nothing; it is put aside by the next load.
        let Ok(manifest) = read_manifest(disk, dir, *lsn) else { continue };
        needed.extend(manifest.places.into_values().map(|place| place.file));
    }
    for path in disk.list(dir)? {
        let stale_manifest = number_in(&path, ".ckpt").is_some_and(|lsn| !kept.contains(&Lsn(lsn)));
        let stale_data = number_in(&path, ".data").is_some_and(|number| !needed.contains(&number));
        let name = path.to_string_lossy();
        let leftover = [".tmp", ".ckpt-tmp", ".ckpt-bad"].iter().any(|ending| name.ends_with(ending));
        if stale_manifest || stale_data || leftover {
            disk.remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_platform::disk::crash::CrashStates;
    use gantry_platform::{MemoryDisk, RecordingDisk};
    use proptest::prelude::*;

    const DIR: &str = "state";

    fn bucket(text: &str) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn write_all(disk: &dyn Disk, lsn: u64, buckets: &[(u16, Option<Bytes>)]) -> Result<(), WriteError> {
        write(disk, Path::new(DIR), Lsn(lsn), buckets.iter().cloned())
    }

    fn load_texts(disk: &dyn Disk) -> Option<(u64, Vec<(u16, String)>)> {
        let checkpoint = load_newest(disk, Path::new(DIR)).unwrap()?;
        let texts = checkpoint.buckets.iter().map(|(number, bytes)| (*number, String::from_utf8(bytes.to_vec()).unwrap())).collect();
        Some((checkpoint.lsn.0, texts))
    }

    fn texts(texts: &[(u16, &str)]) -> Vec<(u16, String)> {
        texts.iter().map(|(number, text)| (*number, (*text).to_owned())).collect()
    }

    #[test]
    fn unchanged_buckets_come_from_the_checkpoint_before() {
        let disk = MemoryDisk::new();
        assert_eq!(load_texts(&disk), None);
        write_all(&disk, 8, &[(0, bucket("a")), (1, bucket("b")), (4097, bucket(""))]).unwrap();
        write_all(&disk, 16, &[(0, None), (1, bucket("B")), (7, bucket("new")), (4097, None)]).unwrap();
        assert_eq!(load_texts(&disk), Some((16, texts(&[(0, "a"), (1, "B"), (7, "new"), (4097, "")]))));
        write_all(&disk, 24, &[(1, None)]).unwrap();
        assert_eq!(load_texts(&disk), Some((24, texts(&[(1, "B")]))));
    }

    #[test]
    fn a_bucket_that_was_never_there_can_not_be_unchanged() {
        let disk = MemoryDisk::new();
        assert!(matches!(write_all(&disk, 8, &[(3, None)]), Err(WriteError::NoPrevious { bucket: 3 })));
        assert_eq!(load_texts(&disk), None);
    }

    #[test]
    fn the_number_of_files_stays_bounded() {
        let disk = MemoryDisk::new();
        let mut buckets: Vec<(u16, Option<Bytes>)> = (0..50).map(|number| (number, bucket("first"))).collect();
        for round in 1..60u64 {
            write_all(&disk, round * 8, &buckets).unwrap();
            buckets.iter_mut().for_each(|(_, bytes)| *bytes = None);
            buckets[round as usize % 50].1 = bucket(&format!("round {round}"));
            let files = disk.list(Path::new(DIR)).unwrap().len();
            assert!(files <= 2 + MAX_FILES + 2, "{files} files in round {round}");
        }
        let (lsn, found) = load_texts(&disk).unwrap();
        assert_eq!((lsn, found.len(), found[9].1.as_str(), found[10].1.as_str()), (472, 50, "round 9", "round 10"));
        assert_eq!(found[8].1, "round 58");
    }

    #[test]
    fn a_wasteful_pile_of_files_is_copied_together() {
        let disk = MemoryDisk::new();
        let large = || Some(Bytes::from(vec![7; 700_000]));
        for round in 1..20 {
            write_all(&disk, round * 8, &[(0, if round == 1 { large() } else { None }), (1, large())]).unwrap();
        }
        let stored: u64 = disk.list(Path::new(DIR)).unwrap().iter().map(|path| disk.open(path).unwrap().len().unwrap()).sum();
        assert!(stored < 8_000_000, "{stored} bytes for 1.4 MB of state");
    }

    #[test]
    fn any_damage_falls_back_to_the_checkpoint_before_and_the_next_one_needs_all() {
        for file in ["00000000000000000016.ckpt", "00000000000000000002.data"] {
            let disk = MemoryDisk::new();
            write_all(&disk, 8, &[(0, bucket("old")), (1, bucket("kept"))]).unwrap();
            write_all(&disk, 16, &[(0, bucket("new")), (1, None)]).unwrap();
            let path = Path::new(DIR).join(file);
            let len = disk.open(&path).unwrap().len().unwrap();
            disk.open(&path).unwrap().write_at(len - 1, &[IoSlice::new(&[0x55])]).unwrap();
            assert_eq!(load_texts(&disk), Some((8, texts(&[(0, "old"), (1, "kept")]))), "{file}");
            write_all(&disk, 24, &[(0, None), (1, bucket("changed"))]).unwrap();
            assert_eq!(load_texts(&disk), Some((24, texts(&[(0, "old"), (1, "changed")]))), "built on what was loaded");
        }
    }

    #[test]
    fn a_checkpoint_of_a_lost_end_is_not_the_newest() {
        let disk = MemoryDisk::new();
        write_all(&disk, 100, &[(0, bucket("lost"))]).unwrap();
        write_all(&disk, 40, &[(0, bucket("again"))]).unwrap();
        assert_eq!(load_texts(&disk), Some((40, texts(&[(0, "again")]))));
        write_all(&disk, 40, &[(0, bucket("same place"))]).unwrap();
        assert_eq!(load_texts(&disk), Some((40, texts(&[(0, "same place")]))));
    }

    #[test]
    fn a_power_loss_leaves_a_whole_checkpoint() {
        let disk = RecordingDisk::new();
        write_all(&disk, 8, &[(0, bucket("a1")), (1, bucket("b1"))]).unwrap();
        disk.note(8);
        write_all(&disk, 16, &[(0, bucket("a2")), (1, None)]).unwrap();
        disk.note(16);
        write_all(&disk, 24, &[(0, None), (1, bucket("b3"))]).unwrap();
        disk.note(24);
        let ops = disk.ops();
        let mut states = CrashStates::new(&ops);
        for prefix in 0..=ops.len() {
            let point = states.at(prefix);
            let promised = states.notes(prefix).last().unwrap_or(0);
            for kept in 0..1u32 << point.unsynced_len().min(8) {
                let found = load_texts(&point.materialize(|n| kept >> n & 1 == 1));
                let (lsn, found) = found.unwrap_or((0, Vec::new()));
                let expected = [texts(&[]), texts(&[(0, "a1"), (1, "b1")]), texts(&[(0, "a2"), (1, "b1")]), texts(&[(0, "a2"), (1, "b3")])];
                assert!(lsn >= promised, "{lsn} after {promised}");
                assert_eq!(found, expected[lsn as usize / 8]);
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_manifest_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), rows: u8) {
            let mut bytes = bytes;
            if bytes.len() > HEAD + 4 {
                bytes[..8].copy_from_slice(MAGIC);
                bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
                bytes[12..16].copy_from_slice(&u32::from(rows % 5).to_le_bytes());
                bytes[16..24].copy_from_slice(&8u64.to_le_bytes());
                let end = bytes.len() - 4;
                let crc = crc32c(&[&bytes[..end]]);
                bytes[end..].copy_from_slice(&crc.to_le_bytes());
            }
            let _ = parse_manifest(&bytes, Lsn(8));
        }
    }
}
