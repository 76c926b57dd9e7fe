//! A replica's log and state given up for those of its leader, because what it lacks is gone from the leader's log (design 4.7).
//!
//! The leader's state comes whole, as of one address, together with where its log begins. Then the replica begins anew with an empty log
//! that begins there, and is sent everything from there on as every follower is. When it has got as far as the state, the two belong together.
//!
//! ```text
//! <shard>/install-<n>/   the newest counts; log/ idx/ state/ are void until it has begun
//!   origin               where the log begins, and the address of the state
//!   state/               the leader's state, as a checkpoint
//!   begun                the old files are gone, and log/ is the new one
//! ```
//! The folder gets its name when everything in it is durable. A crash at any moment leaves either the old replica or one that goes on with this.

use crate::checkpoint::{self, Checkpoint};
use crate::frame::crc32c;
use crate::log::{CommitLog, Options, Origin};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use gantry_model::Lsn;
use gantry_platform::disk::Disk;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

const PREFIX: &str = "install-";
const STAGING: &str = "staging-install";
const GONE: &str = "gone-install-";
/// Origin, the state's address, checksum.
const ORIGIN_FILE: usize = Origin::LEN + 12;
/// Origin, the state's address, the number of buckets.
const HEAD: usize = Origin::LEN + 12;

/// What a leader sends: its state at one address, and where its log begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub origin: Origin,
    pub state: Checkpoint,
}

impl Image {
    /// The newest state on the disk of a shard whose log begins at `origin`. `None` if there is none that fits.
    pub fn read(disk: &dyn Disk, shard_dir: &Path, origin: Origin) -> io::Result<Option<Image>> {
        let state = checkpoint::peek_newest(disk, &shard_dir.join("state"))?;
        Ok(state.filter(|state| state.lsn >= origin.start).map(|state| Image { origin, state }))
    }

    /// Origin, address, number of buckets; each bucket with its number and length; a checksum of all.
    pub fn encode(&self) -> Bytes {
        let buckets: usize = self.state.buckets.iter().map(|(_, bytes)| bytes.len() + 6).sum();
        let mut out = BytesMut::with_capacity(HEAD + buckets + 4);
        out.put_slice(&self.origin.encode());
        out.put_u64_le(self.state.lsn.0);
        out.put_u32_le(self.state.buckets.len() as u32);
        for (number, bytes) in &self.state.buckets {
            out.put_u16_le(*number);
            out.put_u32_le(bytes.len() as u32);
            out.put_slice(bytes);
        }
        let crc = crc32c(&[&out]);
        out.put_u32_le(crc);
        out.freeze()
    }

    /// `None` if it is not what a leader encoded.
    pub fn decode(bytes: &Bytes) -> Option<Image> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c(&[body]) != u32::from_le_bytes(*crc) || body.len() < HEAD {
            return None;
        }
        let origin = Origin::decode(body.first_chunk()?);
        let mut rest = bytes.slice(Origin::LEN..body.len());
        let (lsn, count) = (Lsn(rest.get_u64_le()), rest.get_u32_le());
        let mut buckets = Vec::new();
        for _ in 0..count {
            if rest.len() < 6 {
                return None;
            }
            let (number, len) = (rest.get_u16_le(), rest.get_u32_le() as usize);
            if rest.len() < len {
                return None;
            }
            buckets.push((number, rest.split_to(len)));
        }
        (rest.is_empty() && lsn >= origin.start).then_some(Image { origin, state: Checkpoint { lsn, buckets } })
    }

    /// Writes everything durably where it doesn't count yet. [`begin`] makes it count.
    pub fn stage(&self, disk: &dyn Disk, shard_dir: &Path) -> io::Result<()> {
        let dir = stage_origin(disk, shard_dir, &self.origin, self.state.lsn)?;
        let buckets = self.state.buckets.iter().map(|(number, bytes)| (*number, Some(bytes.clone())));
        checkpoint::write(disk, &dir.join("state"), self.state.lsn, buckets).map_err(io::Error::other)?;
        disk.sync_dir(&dir)
    }
}

/// Stages an empty log without a state: for a replica whose log can't be used, while a leader has all of its own.
pub fn stage_nothing(disk: &dyn Disk, shard_dir: &Path) -> io::Result<()> {
    let dir = stage_origin(disk, shard_dir, &Origin::default(), Lsn(0))?;
    disk.sync_dir(&dir)
}

/// From now on what was staged counts, and the replica's log and state do not. It is to be marked as a suspect before, and opened anew after.
pub fn begin(disk: &dyn Disk, shard_dir: &Path) -> io::Result<()> {
    let newest = numbers(disk, shard_dir)?.last().map_or(1, |number| number + 1);
    disk.rename(&shard_dir.join(STAGING), &folder(shard_dir, newest))
}

fn stage_origin(disk: &dyn Disk, shard_dir: &Path, origin: &Origin, state: Lsn) -> io::Result<PathBuf> {
    let dir = shard_dir.join(STAGING);
    if disk.exists(&dir)? {
        disk.remove_dir_all(&dir)?;
    }
    disk.create_dir_all(&dir)?;
    let mut text = [0; ORIGIN_FILE];
    text[..Origin::LEN].copy_from_slice(&origin.encode());
    text[Origin::LEN..Origin::LEN + 8].copy_from_slice(&state.0.to_le_bytes());
    let crc = crc32c(&[&text[..ORIGIN_FILE - 4]]);
    text[ORIGIN_FILE - 4..].copy_from_slice(&crc.to_le_bytes());
    let file = disk.create(&dir.join("origin"))?;
    file.write_at(0, &[IoSlice::new(&text)])?;
    file.sync_data()?;
    Ok(dir)
}

/// An install that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    number: u64,
    dir: PathBuf,
    pub origin: Origin,
    /// The log has to have everything before this.
    pub state: Lsn,
}

impl Install {
    /// The one that a replica is in, if any, with its log begun.
    pub fn resume(disk: &dyn Disk, shard_dir: &Path, options: &Options) -> io::Result<Option<Install>> {
        if !disk.exists(shard_dir)? {
            return Ok(None);
        }
        for left in disk.list(shard_dir)?.iter().filter(|path| name_of(path).starts_with(GONE)) {
            disk.remove_dir_all(left)?;
        }
        let mut numbers = numbers(disk, shard_dir)?;
        let Some(newest) = numbers.pop() else { return Ok(None) };
        let dir = folder(shard_dir, newest);
        let (origin, state) = read_origin(disk, &dir.join("origin"))?;
        let begun = dir.join("begun");
        if !disk.exists(&begun)? {
            for part in ["log", "idx", "state"].map(|part| shard_dir.join(part)) {
                if disk.exists(&part)? {
                    disk.remove_dir_all(&part)?;
                }
            }
            CommitLog::begin_at(disk, shard_dir, options, &origin)?;
            disk.sync_dir(shard_dir)?;
            disk.create(&begun)?.sync_data()?;
            disk.sync_dir(&dir)?;
        }
        // Those that this one came in place of.
        for older in numbers {
            retire(disk, shard_dir, older)?;
        }
        Ok(Some(Install { number: newest, dir, origin, state }))
    }

    /// The state that waits for its log; `None` if it can't be read, or there is none.
    pub fn checkpoint(&self, disk: &dyn Disk) -> io::Result<Option<Checkpoint>> {
        checkpoint::peek_newest(disk, &self.dir.join("state"))
    }

    /// The log has got as far as the state, durably: this is an ordinary replica from now on.
    pub fn finish(self, disk: &dyn Disk, shard_dir: &Path) -> io::Result<()> {
        let (from, to) = (self.dir.join("state"), shard_dir.join("state"));
        if disk.exists(&from)? {
            if disk.exists(&to)? {
                disk.remove_dir_all(&to)?;
            }
            disk.rename(&from, &to)?;
        }
        retire(disk, shard_dir, self.number)
    }
}

/// Removes the folder of an install that counts no more. It loses its name first: one that lost only some of its files would be taken for a new one.
fn retire(disk: &dyn Disk, shard_dir: &Path, number: u64) -> io::Result<()> {
    let gone = shard_dir.join(format!("{GONE}{number}"));
    disk.rename(&folder(shard_dir, number), &gone)?;
    disk.remove_dir_all(&gone)
}

fn read_origin(disk: &dyn Disk, path: &Path) -> io::Result<(Origin, Lsn)> {
    let mut bytes = [0; ORIGIN_FILE];
    let read = disk.open(path)?.read_at(0, &mut bytes)?;
    let crc = u32::from_le_bytes(bytes[ORIGIN_FILE - 4..].try_into().expect("four bytes"));
    if read < ORIGIN_FILE || crc32c(&[&bytes[..ORIGIN_FILE - 4]]) != crc {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("`{}` is damaged", path.display())));
    }
    let state = u64::from_le_bytes(bytes[Origin::LEN..Origin::LEN + 8].try_into().expect("eight bytes"));
    Ok((Origin::decode(bytes.first_chunk().expect("it is longer")), Lsn(state)))
}

fn folder(shard_dir: &Path, number: u64) -> PathBuf {
    shard_dir.join(format!("{PREFIX}{number}"))
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Ascending.
fn numbers(disk: &dyn Disk, shard_dir: &Path) -> io::Result<Vec<u64>> {
    let number = |path: &PathBuf| name_of(path).strip_prefix(PREFIX)?.parse().ok();
    let mut numbers: Vec<u64> = disk.list(shard_dir)?.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}
