//! Damage to what was acknowledged: it is told from a crash, it stops the start, and with the operator's consent it costs only what was damaged.

#![allow(clippy::unwrap_used)]

use super::rig::*;
use super::*;
use gantry_platform::disk::Disk;
use gantry_platform::disk::faulty::{Fault, Operation, Rule};
use gantry_platform::{FaultyDisk, MemoryDisk};
use proptest::prelude::*;
use std::collections::BTreeMap;

type Contents = BTreeMap<u64, Vec<u8>>;

/// Some closed segments and an active one, all of it acknowledged and marked; the addresses of the segments.
fn make() -> (SharedDisk, Contents, Vec<Lsn>) {
    let disk = shared(MemoryDisk::new());
    let (mut log, _) = open(&disk);
    let mut frames = Contents::new();
    let mut number = 0;
    while log.segments().len() < 5 || log.staged.count < 7 {
        let len = 20 + number as usize * 13 % 500;
        frames.insert(stage(&mut log, number, len).0, payload(number, len));
        if number % 5 == 0 {
            commit(&mut log);
        }
        number += 1;
    }
    let bases = log.segments().iter().map(|segment| segment.base).collect::<Vec<_>>();
    log.close().unwrap();
    (disk, frames, bases)
}

fn skipping() -> Options {
    Options { skip_damaged: true, ..options() }
}

fn bad_files(disk: &dyn Disk) -> Vec<String> {
    let paths = disk.list(&Path::new(DIR).join("bad")).unwrap_or_default();
    paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// The start must refuse; with consent it loses only `lost`, and the log is sound afterwards.
fn check_costs(disk: &SharedDisk, mut frames: Contents, lost: &[u64]) {
    let refused = open_with(disk, options(), Lsn(0));
    assert!(matches!(refused, Err(OpenError::Damaged { .. } | OpenError::Missing { .. } | OpenError::Header { .. })), "{refused:?}");
    assert!(bad_files(&**disk).is_empty(), "nothing is touched without consent");
    let (mut log, _) = open_with(disk, skipping(), Lsn(0)).unwrap();
    lost.iter().for_each(|lsn| drop(frames.remove(lsn)));
    assert_eq!(contents(&log), frames);
    frames.insert(stage(&mut log, 99, 50).0, payload(99, 50));
    commit(&mut log);
    drop(log);
    let (log, recovery) = open_with(disk, options(), Lsn(0)).unwrap();
    assert_eq!((recovery.verdict, contents(&log)), (Verdict::Clean, frames), "sound without consent from now on");
}

#[test]
fn each_flipped_bit_of_acknowledged_frames_stops_the_start_and_names_the_place() {
    let (disk, frames, bases) = make();
    let end = open(&disk).0.end().0;
    let mut ends: Vec<u64> = frames.keys().copied().skip(1).chain([end]).collect();
    ends.sort_unstable();
    for (lsn, payload) in &frames {
        let at = bases.partition_point(|base| base.0 <= *lsn) - 1;
        let off = FRAMES + lsn - bases[at].0;
        // Every bit of the first and the last segment's headers, and some of each payload.
        let every = if at == 0 || at + 1 == bases.len() { 1 } else { 29 };
        for bit in (0..(frame::HEADER + payload.len()) * 8).step_by(every).filter(|bit| *bit < 320 || bit % 97 == 0) {
            flip(&*disk, bases[at], off + bit as u64 / 8, bit as u8 % 8);
            match open_with(&disk, options(), Lsn(0)) {
                Err(OpenError::Damaged { from, offset, .. }) => assert_eq!((from.0, offset), (*lsn, off), "bit {bit}"),
                other => panic!("bit {bit} of the frame at {lsn}: {other:?}"),
            }
            flip(&*disk, bases[at], off + bit as u64 / 8, bit as u8 % 8);
        }
    }
    assert_eq!(contents(&open(&disk).0), frames);
}

#[test]
fn a_flipped_bit_behind_the_last_mark_is_taken_for_a_torn_write() {
    for bit in 0..400 {
        let disk = shared(MemoryDisk::new());
        let (mut log, _) = open(&disk);
        let kept = stage(&mut log, 1, 10);
        let torn = stage(&mut log, 2, 10);
        log.write().unwrap();
        drop(log);
        flip(&*disk, Lsn(0), FRAMES + torn.0 + bit / 8, (bit % 8) as u8);
        let (log, _) = open(&disk);
        assert_eq!(contents(&log), [(kept.0, payload(1, 10))].into(), "bit {bit}");
    }
}

#[test]
fn one_damaged_frame_costs_one_frame() {
    let (_, frames, bases) = make();
    for (at, lsn) in frames.keys().enumerate() {
        // Payload, length, checksum, address, chain: with some the next frame must be searched for.
        for hurt in [frame::HEADER as u64, 0, 4, 16, 8] {
            if !(at + hurt as usize).is_multiple_of(3) {
                continue;
            }
            let (disk, frames, _) = make();
            let base = bases[bases.partition_point(|base| base.0 <= *lsn) - 1];
            overwrite(&*disk, base, FRAMES + lsn - base.0 + hurt, &[0xa5, 0x5a, 0xa5, 0x5a]);
            check_costs(&disk, frames, &[*lsn]);
        }
    }
}

#[test]
fn neighbours_that_are_damaged_are_set_aside_together_and_others_apart() {
    let (disk, frames, bases) = make();
    let lsns: Vec<u64> = frames.keys().copied().filter(|lsn| *lsn >= bases[1].0 && *lsn < bases[2].0).collect();
    let lost = [lsns[1], lsns[2], lsns[5]];
    for lsn in lost {
        overwrite(&*disk, bases[1], FRAMES + lsn - bases[1].0, &[0xff; 44]);
    }
    check_costs(&disk, frames, &lost);
    let names = bad_files(&*disk);
    let expected = [(lsns[1], lsns[3]), (lsns[5], lsns[6])].map(|(from, to)| format!("{from:020}-{to:020}"));
    assert_eq!(names, expected.iter().flat_map(|name| [format!("{name}.raw"), format!("{name}.txt")]).collect::<Vec<_>>());
    let raw = disk.open(&Path::new(DIR).join("bad").join(&names[0])).unwrap();
    let mut bytes = vec![0; 44];
    raw.read_at(0, &mut bytes).unwrap();
    assert_eq!((raw.len().unwrap(), bytes), (lsns[3] - lsns[1], vec![0xff; 44]), "the damaged bytes are kept");
}

#[test]
fn a_damaged_end_of_a_segment_costs_no_message() {
    let (disk, frames, bases) = make();
    overwrite(&*disk, bases[1], FRAMES + bases[2].0 - bases[1].0 - END_FRAME, &[0xff; 50]);
    check_costs(&disk, frames, &[]);
}

#[test]
fn the_rest_of_a_segment_can_be_lost_and_the_next_one_goes_on() {
    let (disk, frames, bases) = make();
    let lost: Vec<u64> = frames.keys().copied().filter(|lsn| *lsn >= bases[1].0 && *lsn < bases[2].0).skip(2).collect();
    let from = FRAMES + lost[0] - bases[1].0;
    overwrite(&*disk, bases[1], from, &vec![0xee; (SMALL - from) as usize]);
    check_costs(&disk, frames, &lost);
}

#[test]
fn a_damaged_header_is_made_anew() {
    let (_, _, bases) = make();
    for base in bases {
        let (disk, frames, _) = make();
        overwrite(&*disk, base, 30, &[0xff; 8]);
        check_costs(&disk, frames, &[]);
    }
}

#[test]
fn a_missing_file_costs_its_messages() {
    let (disk, frames, bases) = make();
    disk.remove(&segment::path_of(&Path::new(DIR).join("log"), bases[1])).unwrap();
    let refused = open_with(&disk, options(), Lsn(0));
    assert!(matches!(refused, Err(OpenError::Missing { from, to }) if from == bases[1] && to == bases[2]), "{refused:?}");
    let lost: Vec<u64> = frames.keys().copied().filter(|lsn| *lsn >= bases[1].0 && *lsn < bases[2].0).collect();
    check_costs(&disk, frames, &lost);
}

#[test]
fn a_lost_end_of_the_log_is_noticed_by_the_checkpoint() {
    let (disk, frames, bases) = make();
    let last = *bases.last().unwrap();
    disk.remove(&segment::path_of(&Path::new(DIR).join("log"), last)).unwrap();
    let known = Lsn(last.0 + 8);
    let refused = open_with(&disk, options(), known);
    assert!(matches!(refused, Err(OpenError::Missing { from, to }) if from == last && to == known), "{refused:?}");
    let (log, recovery) = open_with(&disk, skipping(), known).unwrap();
    assert_eq!((log.end(), recovery.set_aside.as_slice()), (last, [(last, known)].as_slice()));
    assert_eq!(contents(&log), frames.range(..last.0).map(|(lsn, bytes)| (*lsn, bytes.clone())).collect());
    let empty = shared(MemoryDisk::new());
    assert!(matches!(open_with(&empty, options(), Lsn(8)), Err(OpenError::Missing { .. })));
}

#[test]
fn a_damaged_tail_below_its_mark_is_given_up_only_with_consent() {
    let (disk, mut frames, bases) = make();
    let last = *bases.last().unwrap();
    let first_lost = *frames.range(last.0..).nth(2).unwrap().0;
    let from = FRAMES + first_lost - last.0;
    overwrite(&*disk, last, from, &vec![0; (SMALL - from) as usize]);
    let refused = open_with(&disk, options(), Lsn(0));
    assert!(matches!(refused, Err(OpenError::Damaged { from, .. }) if from.0 == first_lost), "{refused:?}");
    let lost: Vec<u64> = frames.range(first_lost..).map(|(lsn, _)| *lsn).collect();
    let (mut log, _) = open_with(&disk, skipping(), Lsn(0)).unwrap();
    lost.iter().for_each(|lsn| drop(frames.remove(lsn)));
    assert_eq!((contents(&log), log.end().0), (frames.clone(), first_lost));
    frames.insert(stage(&mut log, 1, 10).0, payload(1, 10));
    commit(&mut log);
    drop(log);
    assert_eq!(contents(&open(&disk).0), frames, "the old marks are forgotten");
}

#[test]
fn a_sector_that_can_not_be_read_is_damage_too() {
    let (inner, frames, bases) = make();
    let disk = FaultyDisk::new(inner);
    let name = format!("{:020}.log", bases[1].0);
    let file = disk.open(&segment::path_of(&Path::new(DIR).join("log"), bases[1])).unwrap();
    drop(file);
    // The first reads of the file are its header and marks.
    disk.add(Rule::new(Operation::Read, Fault::Io).path_contains(&name).nth(2).forever());
    let refused = open_with(&shared(disk.clone()), options(), Lsn(0));
    assert!(matches!(refused, Err(OpenError::Damaged { .. } | OpenError::Io { .. })), "{refused:?}");
    disk.clear();
    assert_eq!(contents(&open(&shared(disk)).0), frames);
}

#[test]
fn damage_met_while_reading_is_an_error_of_that_frame_only() {
    let (disk, frames, bases) = make();
    let (log, _) = open(&disk);
    let lsns: Vec<u64> = frames.keys().copied().collect();
    overwrite(&*disk, bases[0], FRAMES + lsns[3] + 45, &[0xff; 2]);
    let reader = log.reader();
    let hint = (frame::HEADER + frames[&lsns[3]].len()) as u32;
    let is_damaged = |result: Result<(), ReadError>| matches!(result, Err(ReadError::Damaged { lsn, .. }) if lsn.0 == lsns[3]);
    assert!(is_damaged(reader.frame(Lsn(lsns[3])).map(drop)));
    assert!(is_damaged(reader.try_frame(Lsn(lsns[3]), hint).map(drop)));
    assert_eq!(reader.frame(Lsn(lsns[4])).unwrap().payload, frames[&lsns[4]]);
    let read: Vec<_> = reader.frames(Lsn(0), log.end()).collect();
    assert_eq!((read.len(), read.iter().filter(|frame| frame.is_ok()).count()), (4, 3));
}

#[test]
fn a_frame_that_is_not_in_memory_is_left_to_who_may_wait() {
    let (inner, frames, _) = make();
    let disk = FaultyDisk::new(inner);
    let (log, _) = open(&shared(disk.clone()));
    disk.add(Rule::new(Operation::Read, Fault::WouldBlock));
    let lsn = *frames.keys().next().unwrap();
    assert!(log.reader().try_frame(Lsn(lsn), 60).unwrap().is_none());
    assert_eq!(log.reader().frame(Lsn(lsn)).unwrap().payload, frames[&lsn]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn random_damage_never_gives_a_wrong_frame(
        hits in prop::collection::vec((0usize..5, 0u64..SMALL, prop::collection::vec(any::<u8>(), 1..80)), 1..4),
    ) {
        let (disk, frames, bases) = make();
        for (at, off, bytes) in &hits {
            let base = bases[at % bases.len()];
            let len = bytes.len().min((SMALL - off) as usize);
            overwrite(&*disk, base, *off, &bytes[..len]);
        }
        let genuine = |log: &CommitLog| contents(log).iter().all(|(lsn, bytes)| frames.get(lsn) == Some(bytes));
        if let Ok((log, recovery)) = open_with(&disk, options(), Lsn(0)) {
            prop_assert!(genuine(&log));
            // One hit can't damage frames and the marks that protect them.
            prop_assert!(hits.len() > 1 || contents(&log).len() == frames.len(), "{:?}", recovery.verdict);
        }
        if let Ok((log, _)) = open_with(&disk, skipping(), Lsn(0)) {
            prop_assert!(genuine(&log));
            drop(log);
            prop_assert!(genuine(&open(&disk).0));
        }
    }
}
