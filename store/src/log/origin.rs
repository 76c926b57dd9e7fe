//! Where a log begins, so that another replica's log can begin there too and be the same from its first byte on.

use super::chain::Chain;
use super::segment::{FRAMES, Header, Owner, Segment};
use super::{CommitLog, Options};
use gantry_model::{Epoch, Lsn};
use gantry_platform::disk::Disk;
use std::io;
use std::path::Path;

/// The beginning of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    pub start: Lsn,
    /// Bytes of the file that the first frame is in; 0 if that doesn't matter.
    pub file: u64,
    /// The frame before the first one: checksum, epoch and store time.
    pub crc: u32,
    pub epoch: Epoch,
    pub time: u64,
}

impl Origin {
    pub const LEN: usize = 32;

    pub fn encode(&self) -> [u8; Origin::LEN] {
        let mut out = [0; Origin::LEN];
        out[..8].copy_from_slice(&self.start.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.file.to_le_bytes());
        out[16..24].copy_from_slice(&self.time.to_le_bytes());
        out[24..28].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[28..].copy_from_slice(&self.crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8; Origin::LEN]) -> Origin {
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Origin { start: Lsn(u64_at(0)), file: u64_at(8), time: u64_at(16), epoch: Epoch(u32_at(24)), crc: u32_at(28) }
    }
}

impl CommitLog {
    /// Where this log begins.
    pub fn origin(&self) -> Origin {
        let Header { base, size, before, .. } = self.shared.holding(self.start()).header;
        Origin { start: base, file: size, crc: before.crc, epoch: before.epoch, time: before.time }
    }

    /// Makes an empty log that begins there, durably, in a folder that has none.
    pub fn begin_at(disk: &dyn Disk, shard_dir: &Path, options: &Options, origin: &Origin) -> io::Result<()> {
        let dir = shard_dir.join("log");
        disk.create_dir_all(&dir)?;
        let size = if origin.file > FRAMES { origin.file } else { options.first_segment };
        let spare = dir.join("spare-0000.log");
        if disk.exists(&spare)? {
            disk.remove(&spare)?;
        }
        let file = disk.create_zeroed(&spare, size)?;
        let owner = Owner { cluster: options.cluster, shard: options.shard };
        let before = Chain { crc: origin.crc, epoch: origin.epoch, time: origin.time };
        Segment::begin(disk, &spare, file, &dir, Header { owner, base: origin.start, size, generation: 0, before })?;
        disk.sync_dir(&dir)
    }
}
