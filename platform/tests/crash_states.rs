//! The recorded run of a small log, and every state a power loss may leave at each of its moments.

#![allow(clippy::unwrap_used)]

use std::io::IoSlice;
use std::path::Path;

use gantry_platform::disk::crash::{CrashPoint, CrashStates};
use gantry_platform::disk::recording::Op;
use gantry_platform::disk::write_whole;
use gantry_platform::{Disk, DiskFile, MemoryDisk, RecordingDisk};

fn write(file: &dyn DiskFile, off: u64, bytes: &[u8]) {
    file.write_at(off, &[IoSlice::new(bytes)]).unwrap();
}

fn read(disk: &MemoryDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(path)).ok()?;
    let mut buf = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut buf).unwrap();
    Some(buf)
}

/// Every subset of what is not synced.
fn all_states(point: &CrashPoint) -> impl Iterator<Item = MemoryDisk> {
    assert!(point.unsynced_len() <= 12, "2^{} states are too many for a test", point.unsynced_len());
    (0..1_u32 << point.unsynced_len()).map(move |kept| point.materialize(|number| kept >> number & 1 == 1))
}

/// Four records of 600 bytes, each synced and then noted.
fn log_run() -> Vec<Op> {
    let disk = RecordingDisk::new();
    disk.create_dir_all(Path::new("log")).unwrap();
    let file = disk.create_zeroed(Path::new("log/0"), 4096).unwrap();
    for number in 0..4_u8 {
        write(&*file, u64::from(number) * 600, &[number + 1; 600]);
        file.sync_data().unwrap();
        disk.note(u64::from(number));
    }
    disk.ops()
}

#[test]
fn what_was_synced_is_in_every_state() {
    let ops = log_run();
    let mut states = CrashStates::new(&ops);
    let mut seen = 0;
    for prefix in 0..=ops.len() {
        let point = states.at(prefix);
        let promised = states.notes(prefix).last();
        for disk in all_states(&point) {
            seen += 1;
            if let Some(last) = promised {
                let content = read(&disk, "log/0").unwrap();
                let synced = (last as usize + 1) * 600;
                assert!(content[..synced].iter().enumerate().all(|(at, byte)| usize::from(*byte) == at / 600 + 1));
            }
        }
    }
    assert!(seen > 4 * 4, "each record spans at least two sectors: {seen}");
}

#[test]
fn without_the_sync_some_state_loses_a_promise() {
    let ops: Vec<Op> = log_run().into_iter().filter(|op| !matches!(op, Op::Sync { .. })).collect();
    let point = CrashStates::new(&ops).at(ops.len());
    let lost = all_states(&point).filter(|disk| read(disk, "log/0").unwrap()[0] != 1).count();
    assert!(lost > 0);
}

#[test]
fn the_later_of_two_kept_writes_to_a_sector_wins() {
    let disk = RecordingDisk::new();
    let file = disk.create_zeroed(Path::new("f"), 512).unwrap();
    write(&*file, 0, &[1; 512]);
    write(&*file, 0, &[2; 512]);
    let ops = disk.ops();
    let point = CrashStates::new(&ops).at(ops.len());
    let contents: Vec<u8> = all_states(&point).map(|disk| read(&disk, "f").unwrap()[0]).collect();
    assert_eq!(contents, [0, 1, 2, 2]);
}

#[test]
fn replacing_a_file_by_rename_is_atomic() {
    let disk = RecordingDisk::new();
    let replace = |content: &[u8]| {
        let file = disk.create(Path::new("meta.tmp")).unwrap();
        write(&*file, 0, content);
        file.sync_data().unwrap();
        disk.rename(Path::new("meta.tmp"), Path::new("meta")).unwrap();
    };
    replace(b"old");
    disk.note(1);
    replace(&[7; 700]);
    let ops = disk.ops();
    let mut states = CrashStates::new(&ops);
    for prefix in 0..=ops.len() {
        let point = states.at(prefix);
        let promised = states.notes(prefix).next().is_some();
        for disk in all_states(&point) {
            let content = read(&disk, "meta");
            let whole = content.as_deref().is_none_or(|bytes| bytes == b"old" || bytes == [7; 700]);
            assert!(whole && (content.is_some() || !promised), "{content:?} at {prefix}");
        }
    }
}

#[test]
fn removing_a_folder_may_stop_in_the_middle() {
    let disk = RecordingDisk::new();
    disk.create_dir_all(Path::new("d")).unwrap();
    disk.create_zeroed(Path::new("d/a"), 1).unwrap();
    disk.create_zeroed(Path::new("d/b"), 1).unwrap();
    disk.remove_dir_all(Path::new("d")).unwrap();
    let ops = disk.ops();
    let mut states = CrashStates::new(&ops);
    let count = |prefix, states: &mut CrashStates<'_>| states.at(prefix).materialize(|_| true).list(Path::new("d")).ok().map(|l| l.len());
    let counts: Vec<_> = (3..=ops.len()).map(|prefix| count(prefix, &mut states)).collect();
    assert_eq!(counts, [Some(2), Some(1), Some(0), None]);
}

#[test]
fn handles_write_to_their_file_under_its_new_name() {
    let disk = RecordingDisk::new();
    let file = disk.create_zeroed(Path::new("spare-1"), 512).unwrap();
    disk.rename(Path::new("spare-1"), Path::new("segment")).unwrap();
    write(&*file, 0, b"renamed");
    file.sync_data().unwrap();
    disk.remove(Path::new("segment")).unwrap();
    write(&*file, 0, b"nobody finds this");
    let ops = disk.ops();
    let mut states = CrashStates::new(&ops);
    let before_removal = states.at(4).materialize(|_| false);
    assert_eq!(&read(&before_removal, "segment").unwrap()[..7], b"renamed");
    assert_eq!(states.at(ops.len()).unsynced_len(), 0);
    assert_eq!(ops.len(), 5);
}

#[test]
fn going_back_gives_the_same_states_as_going_forward() {
    let ops = log_run();
    let mut states = CrashStates::new(&ops);
    let forward: Vec<usize> = (0..=ops.len()).map(|prefix| states.at(prefix).unsynced_len()).collect();
    let back: Vec<usize> = (0..=ops.len()).rev().map(|prefix| states.at(prefix).unsynced_len()).collect();
    assert_eq!(forward, back.into_iter().rev().collect::<Vec<_>>());
}

#[test]
fn a_file_that_is_written_whole_is_never_seen_half() {
    let disk = RecordingDisk::new();
    disk.create_dir_all(Path::new("d")).unwrap();
    let versions = [vec![1; 700], vec![2; 1_300], vec![3; 5]];
    for (number, version) in versions.iter().enumerate() {
        write_whole(&disk, Path::new("d/f"), version).unwrap();
        disk.note(number as u64);
    }
    let ops = disk.ops();
    let mut states = CrashStates::new(&ops);
    for prefix in 0..=ops.len() {
        let point = states.at(prefix);
        let promised = states.notes(prefix).last().map(|last| last as usize);
        for disk in all_states(&point) {
            let found = read(&disk, "d/f").map(|content| versions.iter().position(|version| *version == content).expect("half of a file"));
            assert!(found >= promised, "{found:?} is there after {promised:?} was promised");
        }
    }
    assert_eq!(disk.list(Path::new("d")).unwrap(), [Path::new("d/f")], "nothing is left over");
}
