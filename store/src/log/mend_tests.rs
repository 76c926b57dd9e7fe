//! Damage is found and mended with another replica's bytes, and nothing else is taken for them.

#![allow(clippy::unwrap_used)]

use super::rig::*;
use super::*;
use gantry_platform::MemoryDisk;
use std::collections::BTreeMap;

/// Two equal logs with some closed segments, all of it acknowledged.
fn twins() -> (SharedDisk, CommitLog, SharedDisk) {
    let disks = [(); 2].map(|()| shared(MemoryDisk::new()));
    let mut logs = disks.each_ref().map(|disk| open(disk).0);
    for number in 0..60 {
        for log in &mut logs {
            stage(log, number, 20 + number as usize * 13 % 500);
            commit(log);
        }
    }
    let [sound, broken] = logs;
    broken.close().unwrap();
    let [disk, other] = disks;
    (disk, sound, other)
}

fn dir() -> &'static Path {
    Path::new(DIR)
}

/// Fetches damaged ranges from the sound log until the broken one opens. Answers how many there were.
fn repair(sound: &CommitLog, broken: &SharedDisk) -> usize {
    let mut ranges = 0;
    loop {
        match open_with(broken, options(), Lsn(0)) {
            Ok((log, _)) => {
                assert_eq!(contents(&log), contents(sound));
                return ranges;
            }
            Err(OpenError::Damaged { from, to, .. }) => {
                let bytes = sound.reader().stretch(from, to, usize::MAX).unwrap();
                mend(&**broken, dir(), &options(), from, &bytes).unwrap();
                ranges += 1;
                assert!(ranges < 20, "it goes on for ever at {from}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn every_flipped_bit_is_mended() {
    let (_, sound, broken) = twins();
    let bases: Vec<Lsn> = sound.segments().iter().map(|segment| segment.base).collect();
    let end = sound.end();
    for (at, base) in bases.iter().enumerate() {
        let next = bases.get(at + 1).copied().unwrap_or(end);
        for lsn in (base.0..next.0 - 8).step_by(97) {
            flip(&*broken, *base, lsn - base.0 + FRAMES, (lsn % 8) as u8);
            // A bit of the zeros behind a frame says nothing.
            assert!(repair(&sound, &broken) <= 1);
        }
    }
}

#[test]
fn wide_damage_and_several_ranges_are_mended() {
    let (_, sound, broken) = twins();
    let segments = sound.segments();
    overwrite(&*broken, segments[0].base, FRAMES + 200, &[0xee; 1500]);
    overwrite(&*broken, segments[1].base, FRAMES + 8, &[0; 3000]);
    overwrite(&*broken, segments[2].base, FRAMES, &[0; 64]);
    assert!(repair(&sound, &broken) >= 3);
    let kept = broken.list(&dir().join("bad")).unwrap();
    assert!(kept.len() >= 6, "what was there is kept, with a note: {kept:?}");
}

#[test]
fn bytes_that_do_not_fit_are_refused() {
    let (_, sound, broken) = twins();
    let base = sound.segments()[1].base;
    let reader = sound.reader();
    let frames: Vec<Lsn> = reader.frames(base, sound.end()).map(|frame| frame.unwrap().0).collect();
    overwrite(&*broken, base, frames[2].0 - base.0 + FRAMES + 60, &[0xaa; 8]);
    let good = reader.stretch(frames[2], frames[3], usize::MAX).unwrap();
    let check_refused = |from: Lsn, bytes: &[u8]| {
        let before = file_bytes(&broken, base);
        let refused = mend(&*broken, dir(), &options(), from, bytes);
        assert!(matches!(refused, Err(MendError::Foreign { .. })), "{refused:?}");
        assert_eq!(file_bytes(&broken, base), before, "nothing was changed");
    };
    let mut flipped = good.to_vec();
    flipped[50] ^= 1;
    check_refused(frames[2], &flipped);
    check_refused(frames[2], &good[..good.len() - 8]);
    check_refused(frames[1], &good);
    check_refused(Lsn(frames[2].0 + 8), &good);
    // A sound frame of another log at the same address.
    let other = shared(MemoryDisk::new());
    let mut another = open(&other).0;
    while another.end() < sound.end() {
        stage(&mut another, 7, 300);
        commit(&mut another);
    }
    let foreign = another.reader().frames(base, another.end()).find_map(|frame| frame.ok().filter(|(lsn, _)| *lsn >= frames[2]));
    if let Some((lsn, _)) = foreign.filter(|(lsn, _)| *lsn == frames[2]) {
        check_refused(lsn, &another.reader().stretch(lsn, Lsn(lsn.0 + 8), 1).unwrap());
    }
    mend(&*broken, dir(), &options(), frames[2], &good).unwrap();
    assert_eq!(repair(&sound, &broken), 0);
    let missing = mend(&*broken, Path::new("elsewhere"), &options(), frames[2], &good);
    assert!(missing.is_err());
}

fn file_bytes(disk: &SharedDisk, base: Lsn) -> Vec<u8> {
    let file = file_of(&**disk, base);
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_scrub_finds_each_place_and_only_damage() {
    let (_, sound, broken) = twins();
    let (log, _) = open(&broken);
    let reader = log.reader();
    let scrub_all = || {
        let mut found = BTreeMap::new();
        for segment in log.segments().into_iter().filter(|segment| segment.sealed) {
            let (mut scrub, to) = (reader.scrub_from(segment.base), Lsn(segment.base.0 + segment.len));
            while scrub.at < to {
                let before = scrub.at;
                if let Err(error) = reader.scrub(&mut scrub, to, 700) {
                    found.insert(scrub.at, error.to_string());
                    break;
                }
                assert!(scrub.at > before);
            }
        }
        found
    };
    assert_eq!(scrub_all(), BTreeMap::new());
    let segments = log.segments();
    let frames: Vec<Lsn> = reader.frames(segments[1].base, segments[2].base).map(|frame| frame.unwrap().0).collect();
    let sealed = segments.iter().filter(|segment| segment.sealed).count();
    assert!(sealed > 2);
    overwrite(&*broken, segments[1].base, frames[4].0 - segments[1].base.0 + FRAMES + 44, &[0x5a; 30]);
    let found = scrub_all();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [frames[4]], "{found:?}");
    let to = damaged_until(&*broken, dir(), &options(), frames[4], segments[2].base).unwrap();
    assert_eq!(to, frames[5]);
    mend(&*broken, dir(), &options(), frames[4], &sound.reader().stretch(frames[4], to, usize::MAX).unwrap()).unwrap();
    assert_eq!(scrub_all(), BTreeMap::new(), "it is mended while the log is open");
}
