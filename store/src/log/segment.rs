//! One file of the CommitLog: a header that says whose it is, durable marks, then frames. The file is written with zeros before use, so appending
//! changes neither its length nor its allocation.

use crate::frame::crc32c;
use gantry_model::Lsn;
use gantry_platform::disk::{DiskFile, SharedDisk};
use gantry_platform::mmap::Map;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where frames begin.
pub const FRAMES: u64 = 8192;
const MARKS: u64 = 4096;
const MARK_SLOTS: u64 = 4;
const MARK_SPACING: u64 = 512;
const MAGIC: &[u8; 8] = b"GANTRYLG";
const FORMAT: u32 = 1;
const HEADER_LEN: usize = 64;

/// Whose segments these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub shard: u32,
    pub cluster: [u8; 16],
}

/// The first 4 KiB of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub owner: Owner,
    pub base: Lsn,
    /// Bytes for frames.
    pub size: u64,
    /// How often the file was used before.
    pub generation: u64,
    pub epoch: u32,
    /// CRC of the last frame before this segment.
    pub prev_crc: u32,
}

/// What is wrong with a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderError {
    NotOurs,
    Version(u32),
    Damaged,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_LEN + 4] {
        let mut out = [0; HEADER_LEN + 4];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[12..16].copy_from_slice(&self.owner.shard.to_le_bytes());
        out[16..32].copy_from_slice(&self.owner.cluster);
        out[32..40].copy_from_slice(&self.base.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.size.to_le_bytes());
        out[48..56].copy_from_slice(&self.generation.to_le_bytes());
        out[56..60].copy_from_slice(&self.epoch.to_le_bytes());
        out[60..64].copy_from_slice(&self.prev_crc.to_le_bytes());
        let crc = crc32c(&[&out[..HEADER_LEN]]);
        out[HEADER_LEN..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; HEADER_LEN + 4]) -> Result<Header, HeaderError> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if &bytes[..8] != MAGIC {
            return Err(HeaderError::NotOurs);
        }
        if u32_at(8) != FORMAT {
            return Err(HeaderError::Version(u32_at(8)));
        }
        if crc32c(&[&bytes[..HEADER_LEN]]) != u32_at(HEADER_LEN) {
            return Err(HeaderError::Damaged);
        }
        let mut cluster = [0; 16];
        cluster.copy_from_slice(&bytes[16..32]);
        let owner = Owner { shard: u32_at(12), cluster };
        Ok(Header { owner, base: Lsn(u64_at(32)), size: u64_at(40), generation: u64_at(48), epoch: u32_at(56), prev_crc: u32_at(60) })
    }
}

/// An open segment. Readers share it; the file is unmapped when the last of them lets go.
#[derive(Debug)]
pub struct Segment {
    pub header: Header,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    pub map: Map,
}

impl Segment {
    /// Gives a zeroed file its header and its name, both durable.
    pub fn create(disk: &SharedDisk, spare: &Path, file: Arc<dyn DiskFile>, dir: &Path, header: Header) -> io::Result<Segment> {
        file.write_at(0, &[IoSlice::new(&header.encode())])?;
        file.sync_data()?;
        let path = path_of(dir, header.base);
        disk.rename(spare, &path)?;
        let map = file.map()?;
        Ok(Segment { header, path, file, map })
    }

    /// Opens a segment and checks its header.
    pub fn open(disk: &SharedDisk, path: &Path) -> io::Result<Result<Segment, HeaderError>> {
        let file = disk.open(path)?;
        let mut bytes = [0; HEADER_LEN + 4];
        if file.read_at(0, &mut bytes)? < bytes.len() {
            return Ok(Err(HeaderError::NotOurs));
        }
        let header = match Header::decode(&bytes) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error)),
        };
        if file.len()? < FRAMES + header.size {
            return Ok(Err(HeaderError::Damaged));
        }
        let map = file.map()?;
        Ok(Ok(Segment { header, path: path.to_owned(), file, map }))
    }

    pub fn base(&self) -> Lsn {
        self.header.base
    }

    /// Where an address of this segment is in the file.
    pub fn position(&self, lsn: Lsn) -> u64 {
        lsn.0 - self.header.base.0 + FRAMES
    }

    /// One past the last address that fits.
    pub fn limit(&self) -> Lsn {
        Lsn(self.header.base.0 + self.header.size)
    }

    /// Notes that everything before `durable` was synced. It becomes durable itself with the next sync.
    pub fn mark(&self, durable: Lsn, number: u64) -> io::Result<()> {
        let mut mark = [0; 20];
        mark[..8].copy_from_slice(&durable.0.to_le_bytes());
        mark[8..16].copy_from_slice(&number.to_le_bytes());
        let crc = crc32c(&[&mark[..16], &self.header.base.0.to_le_bytes()]);
        mark[16..].copy_from_slice(&crc.to_le_bytes());
        self.file.write_at(MARKS + number % MARK_SLOTS * MARK_SPACING, &[IoSlice::new(&mark)])
    }

    /// The newest durable mark, and its number; the segment's beginning if there is none.
    pub fn newest_mark(&self) -> io::Result<(Lsn, u64)> {
        let mut newest = (self.header.base, 0);
        for slot in 0..MARK_SLOTS {
            let mut mark = [0; 20];
            self.file.read_at(MARKS + slot * MARK_SPACING, &mut mark)?;
            let [a, b, c, d] = [mark[16], mark[17], mark[18], mark[19]];
            if crc32c(&[&mark[..16], &self.header.base.0.to_le_bytes()]) != u32::from_le_bytes([a, b, c, d]) {
                continue;
            }
            let number = |at: usize| mark[at..at + 8].iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
            let (durable, count) = (Lsn(number(0)), number(8));
            if durable > newest.0 {
                newest = (durable, count);
            }
        }
        Ok(newest)
    }
}

/// The file of the segment that begins at `base`.
pub fn path_of(dir: &Path, base: Lsn) -> PathBuf {
    dir.join(format!("{:020}.log", base.0))
}

/// The base that a file name says, if it is the name of a segment.
pub fn base_of(path: &Path) -> Option<Lsn> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".log")?;
    (stem.len() == 20).then(|| stem.parse().ok().map(Lsn))?
}
