//! One file of the log: a header, the durable marks, then frames. A frame never crosses into the next file.
//!
//! The file is as long as it will ever be before its first frame is written, so writing in it can't run out of room, and its map never shrinks.

use super::chain::Chain;
use crate::frame::crc32c;
use crate::zoo;
use gantry_model::{Epoch, Lsn, ShardId};
use gantry_platform::disk::{Disk, DiskFile};
use gantry_platform::mmap::Map;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the marks begin.
pub(super) const MARKS: u64 = 4096;
/// Where the frames begin.
pub(super) const FRAMES: u64 = 8192;
/// The version of the file's layout.
const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"GANTRYLG";
const HEADER_LEN: usize = 80;
const MARK_LEN: usize = 32;
/// Marks take turns in so many sectors, so that a torn one leaves the one before it.
const MARK_SLOTS: u64 = 4;
const SECTOR: u64 = gantry_platform::disk::SECTOR as u64;

/// Whose log it is: files of other shards and clusters are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub cluster: [u8; 16],
    pub shard: ShardId,
}

/// What the first sector says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub owner: Owner,
    /// Address of the first frame.
    pub base: Lsn,
    /// Length of the file.
    pub size: u64,
    /// How often the file was used before.
    pub generation: u64,
    /// The frame before the first one.
    pub before: Chain,
}

/// Why a header can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    Damaged,
    /// Another cluster or shard wrote it.
    Foreign,
    Newer(u32),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Damaged => f.write_str("the header is damaged"),
            HeaderError::Foreign => f.write_str("the file belongs to another cluster or shard"),
            HeaderError::Newer(version) => write!(f, "format `{version}` is newer than this program"),
        }
    }
}

impl Header {
    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[12..16].copy_from_slice(&self.owner.shard.0.to_le_bytes());
        out[16..32].copy_from_slice(&self.owner.cluster);
        out[32..40].copy_from_slice(&self.base.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.size.to_le_bytes());
        out[48..56].copy_from_slice(&self.generation.to_le_bytes());
        out[56..64].copy_from_slice(&self.before.time.to_le_bytes());
        out[64..68].copy_from_slice(&self.before.epoch.0.to_le_bytes());
        out[68..72].copy_from_slice(&self.before.crc.to_le_bytes());
        let crc = crc32c(&[&out[..76]]);
        out[76..80].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; HEADER_LEN], owner: Owner) -> Result<Header, HeaderError> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[..8] != *MAGIC || crc32c(&[&bytes[..76]]) != u32_at(76) {
            return Err(HeaderError::Damaged);
        }
        if u32_at(8) > FORMAT {
            return Err(HeaderError::Newer(u32_at(8)));
        }
        if u32_at(12) != owner.shard.0 || bytes[16..32] != owner.cluster {
            return Err(HeaderError::Foreign);
        }
        let before = Chain { crc: u32_at(68), epoch: Epoch(u32_at(64)), time: u64_at(56) };
        Ok(Header { owner, base: Lsn(u64_at(32)), size: u64_at(40), generation: u64_at(48), before })
    }
}

/// An open file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub header: Header,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    pub map: Map,
}

impl Segment {
    /// Puts a spare file into use. The header is durable before the file gets its name, so a segment never lacks one.
    pub fn begin(disk: &dyn Disk, spare: &Path, file: Arc<dyn DiskFile>, dir: &Path, header: Header) -> io::Result<Segment> {
        let mut front = vec![0; FRAMES as usize];
        front[..HEADER_LEN].copy_from_slice(&header.encode());
        file.write_at(0, &[IoSlice::new(&front)])?;
        if !zoo!(HeaderUnsynced) {
            file.sync_data()?;
        }
        let path = path_of(dir, header.base);
        disk.rename(spare, &path)?;
        let map = file.map()?;
        Ok(Segment { header, path, file, map })
    }

    /// Opens a file by its name. The outer error is the disk's, the inner one that of the content.
    pub fn open(disk: &dyn Disk, path: &Path, owner: Owner) -> io::Result<Result<Segment, HeaderError>> {
        let file = disk.open(path)?;
        let mut bytes = [0; HEADER_LEN];
        if file.read_at(0, &mut bytes)? < HEADER_LEN {
            return Ok(Err(HeaderError::Damaged));
        }
        let header = match Header::decode(&bytes, owner) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error)),
        };
        if Some(header.base) != base_of(path) || header.size != file.len()? || header.size <= FRAMES {
            return Ok(Err(HeaderError::Damaged));
        }
        let map = file.map()?;
        Ok(Ok(Segment { header, path: path.to_path_buf(), file, map }))
    }

    /// Replaces a header that is damaged; the marks stay.
    pub fn write_header(file: &dyn DiskFile, header: Header) -> io::Result<()> {
        file.write_at(0, &[IoSlice::new(&header.encode())])?;
        file.sync_data()
    }

    pub fn base(&self) -> Lsn {
        self.header.base
    }

    /// The first address that is no longer in this file, if all of it were used.
    pub fn limit(&self) -> Lsn {
        Lsn(self.header.base.0 + self.header.size - FRAMES)
    }

    /// Where in the file an address is.
    pub fn position(&self, lsn: Lsn) -> u64 {
        debug_assert!(self.base() <= lsn && lsn <= self.limit(), "{lsn} is not in `{}`", self.path.display());
        lsn.0 - self.header.base.0 + FRAMES
    }

    /// Writes that everything before `durable` is durable; true once the next sync of this file is done, and not needed by it.
    pub fn mark(&self, durable: Lsn, number: u64) -> io::Result<()> {
        let mut mark = [0; MARK_LEN];
        mark[0..8].copy_from_slice(&durable.0.to_le_bytes());
        mark[8..16].copy_from_slice(&number.to_le_bytes());
        // The base keeps a mark of the file's earlier use from being taken for one of this use.
        mark[16..24].copy_from_slice(&self.base().0.to_le_bytes());
        let crc = crc32c(&[&mark[..28]]);
        mark[28..32].copy_from_slice(&crc.to_le_bytes());
        self.file.write_at(MARKS + number % MARK_SLOTS * SECTOR, &[IoSlice::new(&mark)])
    }

    /// The newest mark and its number; the base, which was durable before the file got its name, if there is none.
    pub fn newest_mark(&self) -> io::Result<(Lsn, u64)> {
        let mut newest = (self.base(), 0);
        for slot in 0..MARK_SLOTS {
            let mut mark = [0; MARK_LEN];
            self.file.read_at(MARKS + slot * SECTOR, &mut mark)?;
            let u64_at = |at: usize| u64::from_le_bytes(mark[at..at + 8].try_into().expect("eight bytes"));
            let crc = u32::from_le_bytes(mark[28..32].try_into().expect("four bytes"));
            let (durable, number) = (Lsn(u64_at(0)), u64_at(8));
            let ours = crc32c(&[&mark[..28]]) == crc && u64_at(16) == self.base().0 && durable <= self.limit();
            if ours && number > newest.1 {
                newest = (durable.max(self.base()), number);
            }
        }
        Ok(newest)
    }
}

/// The file of the segment with this base.
pub(super) fn path_of(dir: &Path, base: Lsn) -> PathBuf {
    dir.join(format!("{:020}.log", base.0))
}

/// The base in the name of a segment's file.
pub(super) fn base_of(path: &Path) -> Option<Lsn> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".log")?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Lsn)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_platform::MemoryDisk;

    const OWNER: Owner = Owner { cluster: [9; 16], shard: ShardId(4) };

    fn segment(disk: &dyn Disk) -> Segment {
        let file = disk.create_zeroed(Path::new("spare-0001.log"), 65_536).unwrap();
        let before = Chain { crc: 1, epoch: Epoch(2), time: 3 };
        let header = Header { owner: OWNER, base: Lsn(800), size: 65_536, generation: 5, before };
        Segment::begin(disk, Path::new("spare-0001.log"), file, Path::new(""), header).unwrap()
    }

    #[test]
    fn a_segment_is_opened_by_its_owner_only() {
        let disk = MemoryDisk::new();
        let written = segment(&disk);
        let open = |owner| Segment::open(&disk, &written.path, owner).unwrap();
        assert_eq!(open(OWNER).unwrap().header, written.header);
        assert_eq!(open(Owner { shard: ShardId(5), ..OWNER }).unwrap_err(), HeaderError::Foreign);
        assert_eq!(open(Owner { cluster: [8; 16], ..OWNER }).unwrap_err(), HeaderError::Foreign);
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let disk = MemoryDisk::new();
        let written = segment(&disk);
        let good = written.header.encode();
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            written.file.write_at(0, &[IoSlice::new(&bad)]).unwrap();
            assert_eq!(Segment::open(&disk, &written.path, OWNER).unwrap().unwrap_err(), HeaderError::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn the_newest_whole_mark_counts() {
        let disk = MemoryDisk::new();
        let segment = segment(&disk);
        assert_eq!(segment.newest_mark().unwrap(), (Lsn(800), 0));
        for number in 1..=6 {
            segment.mark(Lsn(800 + number * 8), number).unwrap();
        }
        assert_eq!(segment.newest_mark().unwrap(), (Lsn(848), 6));
        segment.file.write_at(MARKS + 2 * SECTOR, &[IoSlice::new(&[0xff])]).unwrap();
        assert_eq!(segment.newest_mark().unwrap(), (Lsn(840), 5), "the one before a damaged one");
    }

    #[test]
    fn a_mark_of_the_files_earlier_use_does_not_count() {
        let disk = MemoryDisk::new();
        let first = segment(&disk);
        first.mark(Lsn(1600), 9).unwrap();
        let header = Header { base: Lsn(80_000), ..first.header };
        let second = Segment::begin(&disk, &first.path, first.file.clone(), Path::new(""), header).unwrap();
        first.mark(Lsn(1600), 9).unwrap();
        assert_eq!(second.newest_mark().unwrap(), (Lsn(80_000), 0));
    }
}
