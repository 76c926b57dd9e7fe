//! Power losses at every moment of a recorded run: what was acknowledged is there, what is there was appended, batches are whole, and what
//! was cut off never comes back.

#![allow(clippy::unwrap_used)]

use super::rig::*;
use super::*;
use gantry_platform::disk::crash::{CrashPoint, CrashStates};
use gantry_platform::{Chance, MemoryDisk, RecordingDisk, SeededChance};
use std::collections::{BTreeMap, BTreeSet};

/// What a run appended.
#[derive(Default)]
struct Run {
    frames: BTreeMap<u64, Vec<u8>>,
    /// Addresses behind which a batch goes on.
    inside: BTreeSet<u64>,
}

fn run(disk: &RecordingDisk, seed: u64, spares: usize) -> Run {
    let mut chance = SeededChance::new(seed);
    let (mut log, _) = open_with(&shared(disk.clone()), Options { spares, ..options() }, Lsn(0)).unwrap();
    let mut run = Run::default();
    for number in 0..36u64 {
        let len = chance.below(900) as usize;
        if chance.ratio(1, 4) {
            log.reserve(3 * 944).unwrap();
            for flags in [Flags::FIRST, Flags::CONT, Flags::LAST] {
                let lsn = log.stage(Kind::Message, flags, 1000 + number, &[&payload(number, len)]).unwrap();
                run.frames.insert(lsn.0, payload(number, len));
                if flags != Flags::LAST {
                    run.inside.insert(lsn.0);
                }
            }
        } else {
            run.frames.insert(stage(&mut log, number, len).0, payload(number, len));
        }
        if chance.ratio(2, 3) {
            log.write().unwrap();
        }
        if chance.ratio(1, 2) {
            log.write().unwrap();
            disk.note(log.sync().unwrap().0);
        }
        if chance.ratio(1, 8) {
            log.idle().unwrap();
            log.idle().unwrap();
        }
        if chance.ratio(1, 6) && log.segments().len() > 2 {
            let second = log.segments()[1].base;
            log.trim(second).unwrap();
        }
        while spares > 0 && chance.ratio(1, 2) && log.spare_maker().make().unwrap() {}
    }
    run
}

/// Opens what a crash left, and checks it against the run.
fn check(run: &Run, disk: MemoryDisk, promised: u64) {
    let disk = shared(disk);
    let (mut log, recovery) = open(&disk);
    let end = log.end().0;
    assert!(end >= promised, "{promised} was promised, the log ends at {end} ({:?})", recovery.verdict);
    let found = contents(&log);
    let expected: BTreeMap<u64, Vec<u8>> = run.frames.range(log.start().0..end).map(|(lsn, bytes)| (*lsn, bytes.clone())).collect();
    assert_eq!(found, expected);
    assert!(found.keys().next_back().is_none_or(|last| !run.inside.contains(last)), "the last batch is whole");
    // Life goes on with frames like those that were lost, and nothing of the lost ones may follow them.
    let before = log.end();
    let mut written = BTreeMap::new();
    for number in 0..2 {
        written.insert(stage(&mut log, number, 40).0, payload(number, 40));
    }
    commit(&mut log);
    drop(log);
    let (log, again) = open(&disk);
    assert_eq!(again.verdict, Verdict::Clean, "what was cut at {before} is gone");
    let mut expected = found;
    expected.extend(written);
    assert_eq!(contents(&log), expected);
}

/// The extreme states, and some between.
fn subsets(point: &CrashPoint, chance: &mut SeededChance) -> Vec<u64> {
    let bits = point.unsynced_len().min(63);
    let all = (1u64 << bits) - 1;
    if bits <= 3 {
        return (0..=all).collect();
    }
    let mut masks = vec![0, all, all & !1, all >> 1];
    masks.extend((0..4).map(|_| chance.next_u64() & all));
    masks
}

#[test]
fn every_power_loss_keeps_what_was_acknowledged() {
    let mut states_checked = 0;
    for seed in 0..6 {
        let disk = RecordingDisk::new();
        let run = run(&disk, seed, seed as usize % 3);
        let ops = disk.ops();
        let mut states = CrashStates::new(&ops);
        let mut chance = SeededChance::new(seed);
        for prefix in 1..=ops.len() {
            let point = states.at(prefix);
            let promised = states.notes(prefix).last().unwrap_or(0);
            for kept in subsets(&point, &mut chance) {
                check(&run, point.materialize(|n| n >= 63 || kept >> n & 1 == 1), promised);
                states_checked += 1;
            }
        }
    }
    assert!(states_checked > 2000, "{states_checked}");
}

#[test]
fn a_write_cut_at_any_byte_is_a_torn_tail_and_never_comes_back() {
    let make = || {
        let disk = shared(MemoryDisk::new());
        let (mut log, _) = open(&disk);
        stage(&mut log, 1, 100);
        let durable = commit(&mut log);
        for number in 2..5 {
            stage(&mut log, number, 60);
        }
        log.write().unwrap();
        (disk, durable, log.end())
    };
    let (_, durable, end) = make();
    let ends: Vec<u64> = (0..=3).map(|n| durable.0 + n * 104).collect();
    assert_eq!(end.0, ends[3]);
    for cut in durable.0..end.0 {
        let (disk, ..) = make();
        overwrite(&*disk, Lsn(0), FRAMES + cut, &vec![0; (end.0 - cut) as usize]);
        let (mut log, recovery) = open(&disk);
        let whole = ends.iter().rev().find(|boundary| **boundary <= cut + 4).copied().unwrap();
        // The last bytes of each frame here are padding, which nothing depends on.
        assert_eq!(log.end().0, whole, "cut at {cut}: {recovery:?}");
        // The same frame again, so that checksums fit what was behind it.
        stage(&mut log, 2, 60);
        commit(&mut log);
        drop(log);
        assert_eq!(open(&disk).0.end().0, whole + 104, "cut at {cut}");
    }
}

#[test]
fn later_parts_of_a_torn_write_are_reported_and_cut() {
    let disk = shared(MemoryDisk::new());
    let (mut log, _) = open(&disk);
    let first = stage(&mut log, 1, 100);
    let second = stage(&mut log, 2, 100);
    log.write().unwrap();
    drop(log);
    overwrite(&*disk, Lsn(0), FRAMES + first.0, &[0; 8]);
    let (log, recovery) = open(&disk);
    assert_eq!((recovery.verdict, log.end()), (Verdict::UnorderedTail { at: first }, first));
    assert!(log.reader().frame(second).is_err());
    drop(log);
    assert_eq!(open(&disk).1.verdict, Verdict::Clean);
}

#[test]
fn a_batch_without_its_end_is_cut_at_its_beginning() {
    for kept in 1..3 {
        let disk = shared(MemoryDisk::new());
        let (mut log, _) = open(&disk);
        let before = stage(&mut log, 0, 10);
        let flags = [Flags::FIRST, Flags::CONT, Flags::LAST];
        let batch = flags.map(|flags| log.stage(Kind::Message, flags, 2000, &[&payload(1, 50)]).unwrap());
        log.write().unwrap();
        let end = log.end().0;
        drop(log);
        overwrite(&*disk, Lsn(0), FRAMES + batch[kept].0, &vec![0; (end - batch[kept].0) as usize]);
        let (log, recovery) = open(&disk);
        assert_eq!(recovery.verdict, Verdict::TornTail { at: batch[0] });
        assert_eq!(contents(&log).into_keys().collect::<Vec<_>>(), [before.0]);
    }
}

#[test]
fn frames_that_were_never_synced_are_made_durable_before_they_count() {
    let disk = RecordingDisk::new();
    let as_shared = shared(disk.clone());
    let (mut log, _) = open(&as_shared);
    stage(&mut log, 1, 100);
    let end = log.write().unwrap();
    drop(log);
    // The process died, the machine did not: the page cache has the frame.
    let (log, _) = open(&as_shared);
    assert_eq!((log.end(), log.durable()), (end, end));
    drop(log);
    let ops = disk.ops();
    let lost = CrashStates::new(&ops).at(ops.len()).materialize(|_| false);
    assert_eq!(open(&shared(lost)).0.end(), end);
}

#[test]
fn a_frame_of_another_history_is_not_taken_in() {
    let make = |number: u64| {
        let disk = shared(MemoryDisk::new());
        let (mut log, _) = open(&disk);
        stage(&mut log, number, 60);
        let second = stage(&mut log, 9, 60);
        log.write().unwrap();
        (disk, second)
    };
    let ((one, second), (other, _)) = (make(1), make(2));
    let mut stale = vec![0; 104];
    file_of(&*one, Lsn(0)).read_at(FRAMES + second.0, &mut stale).unwrap();
    overwrite(&*other, Lsn(0), FRAMES + second.0, &stale);
    let (log, _) = open(&other);
    assert_eq!(log.end(), second, "address and checksum are right, the predecessor is not");
}

#[test]
fn an_end_that_counts_other_frames_closes_nothing() {
    let disk = shared(MemoryDisk::new());
    let (mut log, _) = open(&disk);
    for number in 0..5 {
        stage(&mut log, number, 1000);
    }
    let next = log.active_base();
    drop(log);
    disk.remove(&segment::path_of(&Path::new(DIR).join("log"), next)).unwrap();
    let at = FRAMES + next.0 - END_FRAME;
    let mut end = vec![0; END_FRAME as usize];
    file_of(&*disk, Lsn(0)).read_at(at, &mut end).unwrap();
    end[frame::HEADER] += 1;
    let crc = frame::checksum(&end[..frame::HEADER + 12]);
    end[4..8].copy_from_slice(&crc.to_le_bytes());
    overwrite(&*disk, Lsn(0), at, &end);
    let (log, recovery) = open(&disk);
    assert_eq!((log.end().0, recovery.verdict), (next.0 - END_FRAME, Verdict::UnorderedTail { at: log.end() }));
}
