//! A small value in two files that take turns: a crash while one is written leaves the other.
//!
//! Each file holds magic, version, length, a sequence number, the value and a checksum; the sound one with the higher number counts.

use crate::frame::crc32c;
use crate::zoo;
use bytes::Bytes;
use gantry_platform::disk::{Disk, DiskFile};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The length of each file.
const SIZE: usize = 4096;
const FORMAT: u32 = 1;
/// Magic, version, length, sequence number.
const HEAD: usize = 24;

/// A value that is kept in `<name>.a` and `<name>.b`.
#[derive(Debug)]
pub(crate) struct Twin {
    files: [Arc<dyn DiskFile>; 2],
    magic: [u8; 8],
    sequence: u64,
    value: Option<Bytes>,
}

impl Twin {
    /// Opens the two files, or makes them. Fails with `InvalidData` if something was written but nothing of it is sound.
    pub fn open(disk: &dyn Disk, dir: &Path, name: &str, magic: [u8; 8]) -> io::Result<Twin> {
        let open = |path: PathBuf| if disk.exists(&path)? { disk.open(&path) } else { disk.create_zeroed(&path, SIZE as u64) };
        let files = [open(dir.join(format!("{name}.a")))?, open(dir.join(format!("{name}.b")))?];
        let mut twin = Twin { files, magic, sequence: 0, value: None };
        let (mut blank, mut newest) = (true, None);
        for file in twin.files.clone() {
            let mut bytes = vec![0; SIZE];
            let read = file.read_at(0, &mut bytes)?;
            bytes.truncate(read);
            blank &= bytes.iter().all(|byte| *byte == 0);
            let bytes = Bytes::from(bytes);
            if let Some((sequence, value)) = parse(&bytes, magic)
                && sequence > twin.sequence
            {
                (twin.sequence, twin.value) = (sequence, Some(value));
                newest = Some((file, bytes));
            }
        }
        // It may be in the page cache only, after a sync that failed. Then the kernel takes it for clean, so it is written again.
        if let Some((file, bytes)) = newest
            && !zoo!(PromiseFromThePageCache)
        {
            file.write_at(0, &[IoSlice::new(&bytes)])?;
            file.sync_data()?;
        }
        if twin.value.is_none() && !blank {
            let what = format!("neither `{name}.a` nor `{name}.b` in `{}` is sound", dir.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(twin)
    }

    /// The newest value, or `None` if none was ever stored.
    pub fn value(&self) -> Option<&Bytes> {
        self.value.as_ref()
    }

    /// Replaces the value, durably. After an error the value is the old or the new one, and the caller must not go on.
    pub fn store(&mut self, value: &[u8]) -> io::Result<()> {
        assert!(HEAD + value.len() + 4 <= SIZE, "a twin holds a small value");
        let sequence = self.sequence + 1;
        let mut out = Vec::with_capacity(SIZE);
        out.extend_from_slice(&self.magic);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(&sequence.to_le_bytes());
        out.extend_from_slice(value);
        let crc = crc32c(&[&out]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.resize(SIZE, 0);
        let file = &self.files[sequence as usize % 2];
        file.write_at(0, &[IoSlice::new(&out)])?;
        file.sync_data()?;
        (self.sequence, self.value) = (sequence, Some(Bytes::copy_from_slice(value)));
        Ok(())
    }
}

fn parse(bytes: &Bytes, magic: [u8; 8]) -> Option<(u64, Bytes)> {
    let head: &[u8; HEAD] = bytes.first_chunk()?;
    let version = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
    let len = u32::from_le_bytes(head[12..16].try_into().expect("four bytes")) as usize;
    let sequence = u64::from_le_bytes(head[16..24].try_into().expect("eight bytes"));
    let body = bytes.get(..HEAD.checked_add(len)?)?;
    let crc: [u8; 4] = bytes.get(body.len()..body.len() + 4)?.try_into().ok()?;
    let sound = head[..8] == magic && version == FORMAT && u32::from_le_bytes(crc) == crc32c(&[body]);
    sound.then(|| (sequence, bytes.slice(HEAD..HEAD + len)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_platform::disk::crash::CrashStates;
    use gantry_platform::{FragileDisk, MemoryDisk, RecordingDisk, SeededChance};

    fn open(disk: &dyn Disk) -> io::Result<Twin> {
        Twin::open(disk, Path::new(""), "meta", *b"GANTRYTT")
    }

    #[test]
    fn a_value_that_is_read_is_durable_even_if_its_sync_had_failed() {
        let disk = FragileDisk::new(MemoryDisk::new());
        let mut twin = open(&disk).unwrap();
        twin.store(b"old").unwrap();
        disk.fail_sync_after(0);
        twin.store(b"new").unwrap_err();
        assert_eq!(open(&disk).unwrap().value().unwrap(), &b"new"[..]);
        for seed in 0..20 {
            let left = disk.after_power_loss(&mut SeededChance::new(seed));
            assert_eq!(open(&left).unwrap().value().unwrap(), &b"new"[..], "somebody relied on it");
        }
    }

    #[test]
    fn the_newest_value_survives_every_power_loss() {
        let disk = RecordingDisk::new();
        let mut twin = open(&disk).unwrap();
        for value in 1..=4u64 {
            // Longer than a sector, so that a write can be torn.
            twin.store(&[value as u8; 1500]).unwrap();
            disk.note(value);
        }
        let ops = disk.ops();
        let mut states = CrashStates::new(&ops);
        for prefix in 0..=ops.len() {
            let point = states.at(prefix);
            let promised = states.notes(prefix).last().unwrap_or(0);
            for kept in 0..1u32 << point.unsynced_len() {
                let disk = point.materialize(|n| kept >> n & 1 == 1);
                // A first write that was torn leaves nothing sound, and nothing was promised.
                let found = match open(&disk) {
                    Ok(twin) => twin.value().map_or(0, |value| u64::from(value[1499])),
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                        0
                    }
                };
                assert!(found == promised || found == promised + 1, "{found} after {promised}");
            }
        }
    }

    #[test]
    fn a_damaged_file_leaves_the_older_value_and_two_leave_an_error() {
        let disk = MemoryDisk::new();
        let mut twin = open(&disk).unwrap();
        twin.store(b"old").unwrap();
        twin.store(b"new").unwrap();
        let spoil = |file: &str| disk.open(Path::new(file)).unwrap().write_at(25, &[IoSlice::new(b"?")]).unwrap();
        spoil("meta.a");
        assert_eq!(open(&disk).unwrap().value().unwrap(), "old");
        spoil("meta.b");
        assert_eq!(open(&disk).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
