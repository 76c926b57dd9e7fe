//! State checkpoints: what a shard knew at one position of its log, so that a restart need not read all of it.
//!
//! A checkpoint is one folder `state/<lsn>.ckpt` with one file: the parts that changed, and for the others the name of the checkpoint that holds
//! them. It is written under another name and renamed, so it is there whole or not at all. A damaged one is passed over: the one before, or the
//! log itself, says the same. `docs/design/001-file-format.md` draws the bytes.

use crate::frame::crc32c;
use bytes::Bytes;
use gantry_model::Lsn;
use gantry_platform::disk::Disk;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"GANTRYCP";
const FORMAT: u32 = 1;
/// Magic, format, count of parts, LSN, CRC over all that follows.
const HEAD: usize = 28;
/// Part number u16, reserved u16, length u32, CRC u32, LSN of the checkpoint that holds it u64, position in it u64.
const ROW: usize = 28;
/// Every so many checkpoints all parts are written, so that old folders can go.
const FULL_EVERY: usize = 8;

/// A checkpoint in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub lsn: Lsn,
    pub buckets: Vec<(u16, Bytes)>,
}

/// Why a checkpoint could not be written. The ones before are as they were.
#[derive(Debug)]
pub struct WriteError(io::Error);

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "writing a checkpoint failed: {}", self.0)
    }
}

impl std::error::Error for WriteError {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    part: u16,
    len: u32,
    crc: u32,
    /// The checkpoint whose file has the bytes.
    home: Lsn,
    position: u64,
}

/// Writes a checkpoint. `None` for a part means that it is as in the newest checkpoint. The one before is kept; older ones that nothing refers to
/// are deleted.
pub fn write(disk: &dyn Disk, dir: &Path, lsn: Lsn, parts: impl Iterator<Item = (u16, Option<Bytes>)>) -> Result<(), WriteError> {
    write_inner(disk, dir, lsn, parts).map_err(WriteError)
}

fn write_inner(disk: &dyn Disk, dir: &Path, lsn: Lsn, parts: impl Iterator<Item = (u16, Option<Bytes>)>) -> io::Result<()> {
    disk.create_dir_all(dir)?;
    let older = checkpoints(disk, dir)?;
    let newest: BTreeMap<u16, Row> = match older.last() {
        Some(&at) => read_rows(disk, dir, at)?.into_iter().map(|row| (row.part, row)).collect(),
        None => BTreeMap::new(),
    };
    let homes: BTreeSet<Lsn> = newest.values().map(|row| row.home).collect();
    let (mut rows, mut data) = (Vec::new(), Vec::new());
    for (part, bytes) in parts {
        let bytes = match (bytes, newest.get(&part)) {
            (Some(bytes), _) => bytes,
            (None, Some(row)) if homes.len() < FULL_EVERY => {
                rows.push(*row);
                continue;
            }
            (None, Some(row)) => read_part(disk, dir, row)?,
            (None, None) => return Err(io::Error::other(format!("part {part} is unchanged since a checkpoint that is not there"))),
        };
        rows.push(Row { part, len: bytes.len() as u32, crc: crc32c(&[&bytes]), home: lsn, position: data.len() as u64 });
        data.extend_from_slice(&bytes);
    }
    put(disk, dir, lsn, &mut rows, &data)?;
    let kept: BTreeSet<Lsn> = rows.iter().map(|row| row.home).chain(homes).chain(older.last().copied()).chain([lsn]).collect();
    older.iter().filter(|at| !kept.contains(at)).try_for_each(|&at| disk.remove_dir_all(&path_of(dir, at)))
}

fn put(disk: &dyn Disk, dir: &Path, lsn: Lsn, rows: &mut [Row], data: &[u8]) -> io::Result<()> {
    let start = (HEAD + rows.len() * ROW) as u64;
    let mut table = Vec::with_capacity(rows.len() * ROW);
    for row in rows.iter_mut() {
        if row.home == lsn {
            row.position += start;
        }
        table.extend_from_slice(&row.part.to_le_bytes());
        table.extend_from_slice(&[0; 2]);
        table.extend_from_slice(&row.len.to_le_bytes());
        table.extend_from_slice(&row.crc.to_le_bytes());
        table.extend_from_slice(&row.home.0.to_le_bytes());
        table.extend_from_slice(&row.position.to_le_bytes());
    }
    let mut head = Vec::with_capacity(HEAD);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&(rows.len() as u32).to_le_bytes());
    head.extend_from_slice(&lsn.0.to_le_bytes());
    let crc = crc32c(&[&head, &table]);
    head.extend_from_slice(&crc.to_le_bytes());
    let unfinished = dir.join("unfinished");
    if disk.exists(&unfinished)? {
        disk.remove_dir_all(&unfinished)?;
    }
    disk.create_dir_all(&unfinished)?;
    let file = disk.create(&unfinished.join("parts"))?;
    file.write_at(0, &[IoSlice::new(&head), IoSlice::new(&table), IoSlice::new(data)])?;
    file.sync_data()?;
    disk.sync_dir(&unfinished)?;
    let path = path_of(dir, lsn);
    if disk.exists(&path)? {
        disk.remove_dir_all(&path)?;
    }
    disk.rename(&unfinished, &path)
}

/// The newest checkpoint that can be read in full, if there is one.
pub fn load_newest(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Checkpoint>> {
    if !disk.exists(dir)? {
        return Ok(None);
    }
    for lsn in checkpoints(disk, dir)?.into_iter().rev() {
        let load = || -> io::Result<Checkpoint> {
            let rows = read_rows(disk, dir, lsn)?;
            let buckets = rows.iter().map(|row| Ok((row.part, read_part(disk, dir, row)?))).collect::<io::Result<_>>()?;
            Ok(Checkpoint { lsn, buckets })
        };
        if let Ok(checkpoint) = load() {
            return Ok(Some(checkpoint));
        }
    }
    Ok(None)
}

fn read_rows(disk: &dyn Disk, dir: &Path, lsn: Lsn) -> io::Result<Vec<Row>> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("checkpoint {lsn} is damaged"));
    let file = disk.open(&path_of(dir, lsn).join("parts"))?;
    let mut head = [0; HEAD];
    if file.read_at(0, &mut head)? < HEAD || &head[..8] != MAGIC || head[8..12] != FORMAT.to_le_bytes() {
        return Err(damaged());
    }
    let count = u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize;
    if (HEAD + count * ROW) as u64 > file.len()? || head[16..24] != lsn.0.to_le_bytes() {
        return Err(damaged());
    }
    let mut table = vec![0; count * ROW];
    file.read_at(HEAD as u64, &mut table)?;
    if head[24..28] != crc32c(&[&head[..24], &table]).to_le_bytes() {
        return Err(damaged());
    }
    let (rows, _) = table.as_chunks::<ROW>();
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    let row = |row: &[u8; ROW]| Row {
        part: number(&row[..2]) as u16,
        len: number(&row[4..8]) as u32,
        crc: number(&row[8..12]) as u32,
        home: Lsn(number(&row[12..20])),
        position: number(&row[20..28]),
    };
    Ok(rows.iter().map(row).collect())
}

fn read_part(disk: &dyn Disk, dir: &Path, row: &Row) -> io::Result<Bytes> {
    let file = disk.open(&path_of(dir, row.home).join("parts"))?;
    if row.position + u64::from(row.len) > file.len()? {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a part of a checkpoint is cut off"));
    }
    let mut bytes = vec![0; row.len as usize];
    file.read_at(row.position, &mut bytes)?;
    if crc32c(&[&bytes]) != row.crc {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("part {} of checkpoint {} is damaged", row.part, row.home)));
    }
    Ok(bytes.into())
}

fn path_of(dir: &Path, lsn: Lsn) -> PathBuf {
    dir.join(format!("{:020}.ckpt", lsn.0))
}

/// The checkpoints that are there, oldest first.
fn checkpoints(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<Lsn>> {
    let mut found: Vec<Lsn> = disk
        .list(dir)?
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.strip_suffix(".ckpt")?.parse().ok().map(Lsn))
        .collect();
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_platform::disk::memory::MemoryDisk;

    fn part(number: u16, text: &str) -> (u16, Option<Bytes>) {
        (number, Some(Bytes::copy_from_slice(text.as_bytes())))
    }

    fn texts(checkpoint: &Checkpoint) -> Vec<String> {
        checkpoint.buckets.iter().map(|(number, bytes)| format!("{number}={}", String::from_utf8_lossy(bytes))).collect()
    }

    #[test]
    fn unchanged_parts_stay_where_they_are_and_folders_do_not_pile_up() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/state");
        write(&disk, dir, Lsn(8), [part(1, "a"), part(2, "b")].into_iter()).unwrap();
        for lsn in 2..40u64 {
            write(&disk, dir, Lsn(lsn * 8), [(1, None), part(2, &lsn.to_string())].into_iter()).unwrap();
            let newest = load_newest(&disk, dir).unwrap().unwrap();
            assert_eq!((newest.lsn, texts(&newest)), (Lsn(lsn * 8), vec!["1=a".to_owned(), format!("2={lsn}")]));
            assert!(checkpoints(&disk, dir).unwrap().len() <= FULL_EVERY + 2);
        }
    }

    #[test]
    fn a_damaged_checkpoint_gives_way_to_the_one_before() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/state");
        write(&disk, dir, Lsn(8), [part(1, "old")].into_iter()).unwrap();
        write(&disk, dir, Lsn(16), [part(1, "new")].into_iter()).unwrap();
        let file = disk.open(&path_of(dir, Lsn(16)).join("parts")).unwrap();
        for at in 0..file.len().unwrap() {
            let mut byte = [0];
            file.read_at(at, &mut byte).unwrap();
            file.write_at(at, &[IoSlice::new(&[byte[0] ^ 1])]).unwrap();
            assert_eq!(load_newest(&disk, dir).unwrap().unwrap().lsn, Lsn(8), "byte {at}");
            file.write_at(at, &[IoSlice::new(&byte)]).unwrap();
        }
        assert_eq!(load_newest(&disk, dir).unwrap().unwrap().lsn, Lsn(16));
    }
}
