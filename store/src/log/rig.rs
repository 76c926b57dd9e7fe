//! What the tests of the log share: small logs on simulated disks, and a model of what was appended.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::frame::Frame;
use gantry_platform::disk::Disk;
use std::collections::BTreeMap;

pub const SHARD: ShardId = ShardId(3);
pub const DIR: &str = "shard";
/// Room for about 4 KiB of frames in a segment.
pub const SMALL: u64 = FRAMES + 4096;

pub fn options() -> Options {
    Options { first_segment: SMALL, max_segment: SMALL, spares: 0, ..Options::new(SHARD, [7; 16]) }
}

pub fn open_with(disk: &SharedDisk, options: Options, known: Lsn) -> Result<(CommitLog, Recovery), OpenError> {
    CommitLog::open(Arc::clone(disk), Path::new(DIR), options, Known { until: known, ..Known::default() })
}

pub fn open(disk: &SharedDisk) -> (CommitLog, Recovery) {
    open_with(disk, options(), Lsn(0)).unwrap()
}

pub fn shared(disk: impl Disk + 'static) -> SharedDisk {
    Arc::new(disk)
}

/// A payload of its own for each number.
pub fn payload(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number as usize * 31 + at * 7 + 1) as u8).collect()
}

pub fn stage(log: &mut CommitLog, number: u64, len: usize) -> Lsn {
    log.stage(Kind::Message, Flags::default(), 1000 + number, &[&payload(number, len)]).unwrap()
}

pub fn commit(log: &mut CommitLog) -> Lsn {
    log.write().unwrap();
    log.sync().unwrap()
}

/// Everything a log holds but what it writes itself: address and payload.
pub fn contents(log: &CommitLog) -> BTreeMap<u64, Vec<u8>> {
    let reader = log.reader();
    let frames: Vec<(Lsn, Frame)> = reader.frames(log.start(), log.end()).collect::<Result<_, _>>().unwrap();
    // Each way of reading must give the same.
    for (lsn, frame) in &frames {
        assert_eq!(reader.frame(*lsn).unwrap(), *frame);
        assert_eq!(reader.try_frame(*lsn, frame.header.len).unwrap().unwrap(), *frame);
        assert_eq!(reader.try_frame(*lsn, 0).unwrap().unwrap(), *frame);
        assert_eq!(reader.frame_of(*lsn, frame.header.len).unwrap(), *frame);
    }
    frames
        .iter()
        .filter(|(_, frame)| !matches!(frame.header.kind, Kind::End | Kind::Gap))
        .map(|(lsn, frame)| (lsn.0, frame.payload.to_vec()))
        .collect()
}

pub fn log_files(disk: &dyn Disk) -> Vec<String> {
    let paths = disk.list(&Path::new(DIR).join("log")).unwrap();
    paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// The file of the segment that begins at `base`.
pub fn file_of(disk: &dyn Disk, base: Lsn) -> Arc<dyn gantry_platform::disk::DiskFile> {
    disk.open(&segment::path_of(&Path::new(DIR).join("log"), base)).unwrap()
}

pub fn overwrite(disk: &dyn Disk, base: Lsn, off: u64, bytes: &[u8]) {
    file_of(disk, base).write_at(off, &[IoSlice::new(bytes)]).unwrap();
}

pub fn flip(disk: &dyn Disk, base: Lsn, off: u64, bit: u8) {
    let file = file_of(disk, base);
    let mut byte = [0];
    file.read_at(off, &mut byte).unwrap();
    file.write_at(off, &[IoSlice::new(&[byte[0] ^ 1 << bit])]).unwrap();
}
