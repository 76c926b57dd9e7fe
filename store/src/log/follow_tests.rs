//! A replica's log: equal to the leader's byte by byte, cut where another history begins, whole after every power loss.

#![allow(clippy::unwrap_used)]

use super::rig::*;
use super::*;
use crate::frame::{Frame, Invalid};
use crate::replica::log::{Log, Tail};
use gantry_platform::disk::crash::CrashStates;
use gantry_platform::{Chance, MemoryDisk, RecordingDisk, SeededChance};

fn memory() -> SharedDisk {
    shared(MemoryDisk::new())
}

/// A leader's log over several segments and two epochs, with batches.
fn leader(disk: &SharedDisk, options: Options, count: u64) -> CommitLog {
    let (mut log, _) = open_with(disk, options, Lsn(0)).unwrap();
    for number in 0..count {
        if number == count / 2 {
            log.stage(Kind::EpochStart, Flags::default(), 1000 + number, &[&7u32.to_le_bytes()]).unwrap();
        }
        if number % 5 == 4 {
            log.reserve(2 * 500).unwrap();
            log.stage(Kind::Message, Flags::FIRST, 1000 + number, &[&payload(number, 400)]).unwrap();
            log.stage(Kind::Message, Flags::LAST, 1000 + number, &[&payload(number, 399)]).unwrap();
        } else {
            stage(&mut log, number, 40 + number as usize * 37 % 300);
        }
        if number % 3 == 0 {
            commit(&mut log);
        }
    }
    commit(&mut log);
    log
}

/// Brings a follower up to the leader's end, `most` bytes at a time.
fn follow(leader: &CommitLog, follower: &mut CommitLog, most: usize) {
    while follower.end() < leader.end() {
        let raw = leader.reader().raw(follower.end(), most).unwrap();
        follower.take(&raw.bytes, raw.file).unwrap();
        follower.write().unwrap();
    }
    follower.sync().unwrap();
}

fn frames_of(log: &CommitLog) -> Vec<(Lsn, Frame)> {
    log.reader().frames(log.start(), log.end()).collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_follower_has_the_leaders_bytes() {
    for most in [1, 700, 1 << 20] {
        let (leader, disk) = (leader(&memory(), options(), 60), memory());
        let (mut follower, _) = open(&disk);
        follow(&leader, &mut follower, most);
        assert!(leader.segments().len() > 3);
        assert_eq!(leader.segments(), follower.segments());
        assert_eq!(frames_of(&leader), frames_of(&follower));
        assert_eq!((leader.tail(), leader.epochs()), (follower.tail(), follower.epochs()));
        drop(follower);
        let (follower, recovery) = open(&disk);
        assert_eq!((recovery.verdict, follower.tail(), follower.epochs()), (Verdict::Clean, leader.tail(), leader.epochs()));
    }
}

#[test]
fn a_followers_files_are_as_long_as_the_leaders() {
    let (leader, disk) = (leader(&memory(), options(), 60), memory());
    let larger = Options { first_segment: options().first_segment * 4, max_segment: options().max_segment * 4, ..options() };
    let (mut follower, _) = open_with(&disk, larger, Lsn(0)).unwrap();
    follow(&leader, &mut follower, 1 << 20);
    assert_eq!(leader.segments(), follower.segments(), "so that all have room for what this one writes when it leads");
}

#[test]
fn a_follower_that_leads_goes_on_behind_the_last_frame() {
    let leader = leader(&memory(), options(), 20);
    let (mut follower, _) = open(&memory());
    follow(&leader, &mut follower, 4096);
    let before = frames_of(&follower).len();
    for number in 0..30 {
        stage(&mut follower, number, 200);
        commit(&mut follower);
    }
    assert_eq!(frames_of(&follower).iter().filter(|(_, frame)| frame.header.kind != Kind::End).count(), before + 30 - ends(&leader));
}

fn ends(log: &CommitLog) -> usize {
    frames_of(log).iter().filter(|(_, frame)| frame.header.kind == Kind::End).count()
}

#[test]
fn what_is_told_of_a_place_is_what_the_log_was_there() {
    let log = leader(&memory(), options(), 40);
    let mut tail = Tail::default();
    for (lsn, frame) in frames_of(&log) {
        assert_eq!(log.tail_at(lsn), Some(tail), "at {lsn}");
        assert_eq!(log.tail_at(Lsn(lsn.0 + 8)), None, "inside of {lsn}");
        tail = crate::replica::log::Link::from(&frame.header).tail;
    }
    assert_eq!(log.tail_at(log.end()), Some(tail));
    assert_eq!(log.tail_at(Lsn(log.end().0 + 8)), None);
}

#[test]
fn every_flipped_bit_is_refused_and_nothing_is_taken() {
    let leader = leader(&memory(), options(), 3);
    let raw = leader.reader().raw(Lsn(0), 1 << 20).unwrap();
    let (mut follower, _) = open(&memory());
    for bit in 0..raw.bytes.len() * 8 {
        let mut bad = raw.bytes.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        let error = follower.take(&bad, raw.file).unwrap_err();
        assert!(matches!(error, TakeError::Invalid { .. }), "bit {bit}: {error}");
        assert_eq!(follower.staged_bytes(), 0, "bit {bit}");
        assert!(links(&bad, Lsn(0), SHARD).is_err(), "bit {bit}");
    }
    assert_eq!(links(&raw.bytes, Lsn(0), SHARD).unwrap().last().unwrap().tail, leader.tail());
    follower.take(&raw.bytes, raw.file).unwrap();
    follower.write().unwrap();
    assert_eq!((follower.tail(), follower.epochs()), (leader.tail(), leader.epochs()), "nothing is left of what was refused");
}

#[test]
fn frames_that_do_not_follow_and_torn_batches_are_refused() {
    let leader = leader(&memory(), options(), 10);
    let (mut follower, _) = open(&memory());
    let all = leader.reader().raw(Lsn(0), 1 << 20).unwrap();
    let frames = frames_of(&leader);
    let second = frames[1].0;
    let refused = |follower: &mut CommitLog, bytes: &[u8]| match follower.take(bytes, all.file) {
        Err(TakeError::Invalid { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let later = all.bytes.slice(second.0 as usize..);
    assert_eq!(refused(&mut follower, &later), Invalid::Address(second));
    let batch = frames.iter().find(|(_, frame)| frame.header.flags.contains(Flags::FIRST)).unwrap().0;
    let upto = |lsn: Lsn| all.bytes.slice(..lsn.0 as usize);
    follower.take(&upto(batch), all.file).unwrap();
    let half = all.bytes.slice(batch.0 as usize..leader.reader().frame(batch).unwrap().header.len.next_multiple_of(8) as usize + batch.0 as usize);
    refused(&mut follower, &half);
    follower.write().unwrap();
    assert_eq!(follower.tail().end, batch);
    // Another history with the same addresses.
    let (mut other, _) = open(&memory());
    stage(&mut other, 99, 40);
    stage(&mut other, 1, 77);
    commit(&mut other);
    let (mut fresh, _) = open(&memory());
    fresh.take(&upto(second), all.file).unwrap();
    let strange = other.reader().raw(second, 1 << 20).unwrap();
    assert_eq!(refused(&mut fresh, &strange.bytes), Invalid::Chain);
}

#[test]
fn a_leader_with_larger_files_is_followed() {
    let larger = Options { first_segment: SMALL * 2, max_segment: SMALL * 8, ..options() };
    let (leader, disk) = (leader(&memory(), larger, 250), memory());
    let (mut follower, _) = open(&disk);
    follow(&leader, &mut follower, 2000);
    assert_eq!(frames_of(&leader), frames_of(&follower));
    assert!(leader.segments().len() > 2);
    drop(follower);
    assert_eq!(open(&disk).0.tail(), leader.tail());
    // In the middle of a file nothing can be done but to begin anew.
    let (mut late, _) = open(&memory());
    let raw = leader.reader().raw(Lsn(0), 1000).unwrap();
    late.take(&raw.bytes, 0).unwrap();
    let mut refused = false;
    while late.end() < leader.end() && !refused {
        late.write().unwrap();
        let raw = leader.reader().raw(late.end(), 1000).unwrap();
        refused = matches!(late.take(&raw.bytes, raw.file), Err(TakeError::NoRoom { .. }));
    }
    assert!(refused);
}

#[test]
fn a_log_is_cut_behind_any_frame_and_follows_another_history_from_there() {
    let length = frames_of(&leader(&memory(), options(), 30)).len();
    for cut_at in 0..=length {
        let (disk, other_disk) = (memory(), memory());
        let mut log = leader(&disk, options(), 30);
        let frames = frames_of(&log);
        let end = frames.get(cut_at).map_or(log.end(), |(lsn, _)| *lsn);
        // Cuts never fall into a batch: the leader sends whole ones.
        if frames.get(cut_at).is_some_and(|(_, frame)| frame.header.flags.contains(Flags::LAST)) {
            continue;
        }
        let expected = log.tail_at(end).unwrap();
        log.cut(end).unwrap();
        assert_eq!((log.tail(), log.end(), log.durable(), log.reader().end()), (expected, end, end, end), "cut at {end}");
        assert_eq!(frames_of(&log)[..], frames[..cut_at]);
        // Another leader shares the log up to here, and goes on otherwise.
        let (mut other, _) = open(&other_disk);
        follow(&log, &mut other, 1 << 20);
        let epoch = Epoch(expected.epoch.0 + 3);
        other.stage(Kind::EpochStart, Flags::default(), 5000, &[&epoch.0.to_le_bytes()]).unwrap();
        for number in 0..12 {
            stage(&mut other, 500 + number, 333);
            commit(&mut other);
        }
        follow(&other, &mut log, 900);
        assert_eq!((frames_of(&log), log.epochs()), (frames_of(&other), other.epochs()));
        drop(log);
        let (log, recovery) = open(&disk);
        assert_eq!((recovery.verdict, log.tail(), log.epochs()), (Verdict::Clean, other.tail(), other.epochs()), "cut at {end}");
    }
}

#[test]
fn a_power_loss_during_a_cut_leaves_a_sound_log() {
    let mut checked = 0;
    for seed in 0..8 {
        let mut chance = SeededChance::new(seed);
        let disk = RecordingDisk::new();
        let mut log = leader(&shared(disk.clone()), options(), 24);
        let frames = frames_of(&log);
        let cut_at = loop {
            let at = chance.below(frames.len() as u64) as usize;
            if !frames[at].1.header.flags.contains(Flags::LAST) {
                break at;
            }
        };
        let (end, before) = (frames[cut_at].0, disk.ops().len());
        log.cut(end).unwrap();
        disk.note(end.0);
        for number in 0..3 {
            stage(&mut log, 700 + number, 100);
        }
        commit(&mut log);
        let ops = disk.ops();
        let mut states = CrashStates::new(&ops);
        for prefix in before..=ops.len() {
            let point = states.at(prefix);
            let cut = states.notes(prefix).last().is_some();
            for mask in [0, u64::MAX, chance.next_u64(), chance.next_u64()] {
                let left = shared(point.materialize(|n| n >= 63 || mask >> n & 1 == 1));
                let (found, _) = open(&left);
                assert!(found.end() >= end, "seed {seed}: what was before the cut is there");
                let found = frames_of(&found);
                let kept = found.len().min(cut_at);
                assert_eq!(found[..kept], frames[..kept]);
                let old = found.iter().zip(&frames).skip(cut_at).filter(|(one, other)| one == other).count();
                assert!(!cut || old == 0, "seed {seed}: what was cut came back");
                checked += 1;
            }
        }
    }
    assert!(checked > 200, "{checked}");
}
