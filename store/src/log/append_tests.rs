//! Appending and reading without accidents, and disks that are full or broken.

#![allow(clippy::unwrap_used)]

use super::rig::*;
use super::*;
use gantry_platform::disk::Space;
use gantry_platform::disk::faulty::{Fault, Operation, Rule};
use gantry_platform::{FaultyDisk, MemoryDisk, RealDisk};
use std::collections::BTreeMap;

fn memory() -> SharedDisk {
    shared(MemoryDisk::new())
}

fn fill(log: &mut CommitLog, numbers: std::ops::Range<u64>, len: usize) -> BTreeMap<u64, Vec<u8>> {
    let staged = numbers.map(|number| (stage(log, number, len).0, payload(number, len))).collect();
    commit(log);
    staged
}

#[test]
fn frames_come_back_in_order_over_many_segments_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let disks: [SharedDisk; 2] = [memory(), shared(RealDisk::new(dir.path().to_path_buf()))];
    for disk in disks {
        let (mut log, recovery) = open(&disk);
        assert_eq!((recovery.end, recovery.verdict), (Lsn(0), Verdict::Clean));
        let mut expected = fill(&mut log, 0..40, 333);
        assert!(log.segments().len() > 3);
        assert_eq!(contents(&log), expected);
        for round in 1..4 {
            let end = log.end();
            drop(log);
            let (again, recovery) = open(&disk);
            assert_eq!((recovery.end, recovery.verdict, recovery.last_time), (end, Verdict::Clean, 999 + round * 40));
            log = again;
            expected.extend(fill(&mut log, round * 40..round * 40 + 40, 100 * round as usize));
            assert_eq!(contents(&log), expected);
        }
    }
}

#[test]
fn only_what_is_written_can_be_read_and_only_what_is_synced_is_durable() {
    let disk = memory();
    let (mut log, _) = open(&disk);
    let reader = log.reader();
    let lsn = stage(&mut log, 1, 10);
    assert!(matches!(reader.frame(lsn), Err(ReadError::Beyond { .. })));
    assert_eq!(log.staged_bytes(), 56);
    let end = log.write().unwrap();
    assert_eq!((reader.end(), reader.durable(), log.durable(), log.staged_bytes()), (end, Lsn(0), Lsn(0), 0));
    assert_eq!(reader.frame(lsn).unwrap().payload, payload(1, 10));
    assert_eq!((log.sync().unwrap(), reader.durable()), (end, end));
    assert!(matches!(reader.frame(Lsn(8)), Err(ReadError::Damaged { .. })), "no frame begins there");
}

#[test]
fn nothing_is_published_before_it_is_written() {
    let disk = FaultyDisk::new(memory());
    let (mut log, _) = open(&shared(disk.clone()));
    let (reader, seen) = (log.reader(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let note = Arc::clone(&seen);
    let look = move |_: &Path| note.lock().unwrap().push((reader.end(), reader.durable()));
    disk.add(Rule::new(Operation::Write, Fault::Slow(Arc::new(look.clone()))).forever());
    disk.add(Rule::new(Operation::Sync, Fault::Slow(Arc::new(look))).forever());
    stage(&mut log, 1, 10);
    commit(&mut log);
    assert_eq!(*seen.lock().unwrap(), [(Lsn(0), Lsn(0)), (Lsn(56), Lsn(0))], "as it was when the write and the sync began");
}

#[test]
fn segments_double_up_to_the_largest_size() {
    let disk = memory();
    let sizes = Options { max_segment: SMALL * 4, ..options() };
    let (mut log, _) = open_with(&disk, sizes.clone(), Lsn(0)).unwrap();
    fill(&mut log, 0..100, 1000);
    let files: Vec<u64> = log.segments().iter().map(|segment| segment.file).collect();
    assert_eq!(files[..4], [SMALL, SMALL * 2, SMALL * 4, SMALL * 4]);
    drop(log);
    let (mut log, _) = open_with(&disk, sizes, Lsn(0)).unwrap();
    fill(&mut log, 100..200, 1000);
    assert_eq!(log.segments().last().unwrap().file, SMALL * 4);
    let infos = log.segments();
    assert!(infos.windows(2).all(|pair| pair[0].sealed && pair[0].base.0 + pair[0].len == pair[1].base.0));
    assert_eq!((infos.last().unwrap().sealed, infos.last().unwrap().base), (false, log.active_base()));
}

#[test]
fn a_frame_may_have_the_greatest_length_and_no_more() {
    let (mut log, _) = open(&memory());
    let most = 4096 - END_FRAME as usize - frame::HEADER;
    stage(&mut log, 1, most);
    let refused = log.stage(Kind::Message, Flags::default(), 0, &[&vec![0; most + 1]]);
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
    stage(&mut log, 2, most);
    commit(&mut log);
    assert_eq!(contents(&log).len(), 2);
}

#[test]
fn a_batch_that_does_not_fit_is_withdrawn_and_one_that_was_reserved_fits() {
    let disk = memory();
    let (mut log, _) = open(&disk);
    let stage_batch = |log: &mut CommitLog| {
        let flags = [Flags::FIRST, Flags::CONT, Flags::LAST];
        flags.map(|flags| log.stage(Kind::Message, flags, 5, &[&payload(9, 900)]))
    };
    let before = stage(&mut log, 1, 2000);
    let [first, second, third] = stage_batch(&mut log);
    assert!(first.is_ok() && second.is_ok() && matches!(third, Err(AppendError::TooLarge { .. })), "{third:?}");
    commit(&mut log);
    assert_eq!(contents(&log).into_keys().collect::<Vec<_>>(), [before.0]);
    log.reserve(3 * 944).unwrap();
    let staged = stage_batch(&mut log).map(Result::unwrap);
    assert_eq!(staged[0], log.active_base(), "the batch begins a segment of its own");
    commit(&mut log);
    assert!(matches!(log.reserve(4096), Err(AppendError::TooLarge { .. })));
    drop(log);
    assert_eq!(contents(&open(&disk).0).len(), 4);
}

#[test]
fn many_small_messages_fit_where_their_bytes_were_reserved() {
    let (mut log, _) = open(&memory());
    for round in 0..40 {
        // 89 bytes is the worst case: seven of zeros behind each frame.
        let count = 10 + round % 31;
        log.reserve(count * 89).unwrap();
        for at in 0..count {
            let flags = [Flags::FIRST, Flags::CONT, Flags::LAST][usize::from(at > 0) + usize::from(at + 1 == count)];
            log.stage(Kind::Message, flags, 0, &[&payload(1, 49)]).unwrap();
        }
    }
    commit(&mut log);
}

#[test]
fn epochs_and_times_never_decrease() {
    let disk = memory();
    let (mut log, _) = open(&disk);
    let begin = |log: &mut CommitLog, epoch: u32| log.stage(Kind::EpochStart, Flags::default(), 500, &[&epoch.to_le_bytes(), b"more"]);
    begin(&mut log, 4).unwrap();
    let lsn = log.stage(Kind::Ack, Flags::default(), 100, &[b"x"]).unwrap();
    assert!(matches!(begin(&mut log, 3), Err(AppendError::OldEpoch { epoch: Epoch(3), current: Epoch(4) })));
    commit(&mut log);
    let header = log.reader().frame(lsn).unwrap().header;
    assert_eq!((header.epoch, header.time, header.flags), (Epoch(4), 500, Flags::CRITICAL));
    drop(log);
    let (mut log, recovery) = open(&disk);
    assert_eq!((recovery.last_epoch, recovery.last_time, log.epoch()), (Epoch(4), 500, Epoch(4)));
    assert!(begin(&mut log, 3).is_err());
    log.set_epoch(Epoch(6)).unwrap();
    assert!(begin(&mut log, 5).is_err());
}

#[test]
fn trimming_drops_whole_segments_and_spares_what_readers_hold() {
    let dir = tempfile::tempdir().unwrap();
    let disk = shared(RealDisk::new(dir.path().to_path_buf()));
    let (mut log, _) = open_with(&disk, Options { spares: 2, ..options() }, Lsn(0)).unwrap();
    let frames = fill(&mut log, 0..40, 333);
    let bases: Vec<Lsn> = log.segments().iter().map(|segment| segment.base).collect();
    let held = log.reader().frame(bases[1]).unwrap();
    log.trim(Lsn(bases[1].0 - 1)).unwrap();
    assert_eq!(log.start(), Lsn(0), "a segment goes only when all of it goes");
    log.trim(bases[1]).unwrap();
    assert_eq!(log.start(), bases[1]);
    log.trim(Lsn(bases[3].0 + 8)).unwrap();
    assert_eq!(log.start(), bases[3]);
    assert!(log.reader().frame(bases[1]).unwrap_err().is_trimmed());
    let spares = log_files(&*disk).iter().filter(|name| name.starts_with("spare")).count();
    assert_eq!(spares, 2, "the first and the third file are spares now, the second is held");
    fill(&mut log, 40..120, 333);
    assert_eq!(held.payload, frames[&bases[1].0], "recycling never touches what a reader holds");
    log.trim(Lsn(u64::MAX)).unwrap();
    assert_eq!((log.segments().len(), log.start()), (1, log.active_base()));
    let (start, expected) = (log.start(), contents(&log));
    drop(log);
    let (log, recovery) = open_with(&disk, Options { spares: 2, ..options() }, Lsn(0)).unwrap();
    assert_eq!((log.start(), recovery.verdict), (start, Verdict::Clean));
    assert_eq!(contents(&log), expected, "nothing of a file's earlier use is taken for frames");
}

#[test]
fn a_failed_write_or_sync_closes_the_log_for_ever() {
    for operation in [Operation::Write, Operation::Sync] {
        let disk = FaultyDisk::new(memory());
        let (mut log, _) = open(&shared(disk.clone()));
        let kept = stage(&mut log, 1, 10);
        commit(&mut log);
        disk.add(Rule::new(operation, Fault::Io));
        stage(&mut log, 2, 10);
        let failed = log.write().and_then(|_| log.sync());
        assert!(matches!(failed, Err(AppendError::Failed { .. })), "{failed:?}");
        disk.clear();
        let calls = (disk.count(Operation::Write), disk.count(Operation::Sync));
        assert!(matches!(log.sync(), Err(AppendError::Failed { .. })));
        assert!(matches!(log.write(), Err(AppendError::Failed { .. })));
        assert!(log.stage(Kind::Ack, Flags::default(), 0, &[]).is_err() && log.reserve(1).is_err() && log.idle().is_err());
        assert_eq!((disk.count(Operation::Write), disk.count(Operation::Sync)), calls, "nothing is tried again");
        assert_eq!(log.reader().frame(kept).unwrap().payload, payload(1, 10), "reading goes on");
        assert_eq!(log.durable(), Lsn(56));
    }
}

#[test]
fn a_full_disk_refuses_messages_and_takes_the_rest_until_there_is_room() {
    let disk = FaultyDisk::new(memory());
    let (mut log, _) = open_with(&shared(disk.clone()), Options { spares: 1, ..options() }, Lsn(0)).unwrap();
    while log.spare_maker().make().unwrap() {}
    disk.pretend_space(Some(Space { total: 1 << 30, free: 0 }));
    let mut stored = 0;
    let message = |log: &mut CommitLog| log.stage(Kind::Message, Flags::default(), 1, &[&payload(1, 500)]);
    while message(&mut log).is_ok() {
        stored += 1;
    }
    assert_eq!(stored, 7, "one segment");
    assert!(matches!(log.reserve(500), Err(AppendError::Full)));
    let mut acks = 0;
    while log.stage(Kind::Ack, Flags::default(), 1, &[&payload(2, 100)]).is_ok() {
        acks += 1;
    }
    assert!((28..=30).contains(&acks), "the rest of the segment and the one that is reserved: {acks}");
    assert!(matches!(message(&mut log), Err(AppendError::Full)));
    commit(&mut log);
    disk.pretend_space(None);
    log.reserve(500).unwrap();
    message(&mut log).unwrap();
    commit(&mut log);
    assert_eq!(contents(&log).len(), stored + acks + 1);
}

#[test]
fn messages_leave_the_last_part_of_a_segment_to_others_until_the_next_is_in_hand() {
    let disk = FaultyDisk::new(memory());
    let (mut log, _) = open(&shared(disk.clone()));
    disk.pretend_space(Some(Space { total: 1 << 30, free: 0 }));
    stage(&mut log, 1, 2500);
    log.reserve(400).unwrap();
    assert!(matches!(log.reserve(600), Err(AppendError::Full)), "a quarter of the segment is not for messages");
    disk.pretend_space(None);
    log.reserve(600).unwrap();
    assert_eq!(log.segments().len(), 1, "there is room in this one");
    disk.pretend_space(Some(Space { total: 1 << 30, free: 0 }));
    log.reserve(1300).unwrap();
    assert_eq!(log.segments().len(), 1);
    log.stage(Kind::Ack, Flags::default(), 0, &[&payload(2, 160)]).unwrap();
    assert_eq!(log.segments().len(), 2, "what is reserved is kept free from others");
    stage(&mut log, 3, 1260);
}

#[test]
fn spares_are_made_beside_and_used_for_the_next_segment() {
    let disk = FaultyDisk::new(memory());
    let (mut log, _) = open_with(&shared(disk.clone()), Options { spares: 2, ..options() }, Lsn(0)).unwrap();
    assert!(log.needs_spare());
    let maker = log.spare_maker();
    assert_eq!([maker.make().unwrap(), maker.make().unwrap(), maker.make().unwrap()], [true, true, false]);
    let created = disk.count(Operation::Create);
    fill(&mut log, 0..10, 500);
    assert_eq!(disk.count(Operation::Create), created, "the segment was a spare");
    assert!(log.needs_spare());
    assert_eq!(log_files(&disk).iter().filter(|name| name.starts_with("spare")).count(), 1);
    drop(log);
    let (log, _) = open_with(&shared(disk.clone()), Options { spares: 2, ..options() }, Lsn(0)).unwrap();
    assert!(log.needs_spare(), "one was found");
    assert!(log.spare_maker().make().unwrap() && !log.needs_spare());
}

#[test]
fn a_start_reads_only_what_the_checkpoint_does_not_have() {
    let disk = memory();
    let (mut log, _) = open(&disk);
    fill(&mut log, 0..400, 333);
    let (segments, end, active) = (log.segments().len(), log.end(), log.active_base());
    drop(log);
    assert!(segments > 30);
    let (_, all) = open_with(&disk, options(), Lsn(0)).unwrap();
    let (log, little) = open_with(&disk, options(), active).unwrap();
    assert_eq!((all.end, little.end, little.last_epoch, little.last_time), (end, end, all.last_epoch, all.last_time));
    assert!(all.bytes_scanned > segments as u64 * 3000 && little.bytes_scanned <= 4096, "{} {}", all.bytes_scanned, little.bytes_scanned);
    assert_eq!(contents(&log).len(), 400);
}

#[test]
fn the_last_commit_is_marked_when_nothing_follows_it() {
    let disk = FaultyDisk::new(memory());
    let (mut log, _) = open(&shared(disk.clone()));
    stage(&mut log, 1, 10);
    commit(&mut log);
    let mark = |log: &CommitLog| log.active.newest_mark().unwrap().0;
    log.idle().unwrap();
    assert_eq!(mark(&log), Lsn(0), "there was traffic since the last call");
    log.idle().unwrap();
    assert_eq!(mark(&log), Lsn(56));
    let syncs = disk.count(Operation::Sync);
    log.idle().unwrap();
    assert_eq!(disk.count(Operation::Sync), syncs);
    stage(&mut log, 2, 10);
    log.close().unwrap();
    let (log, recovery) = open(&shared(disk.clone()));
    assert_eq!((mark(&log), recovery.end), (Lsn(112), Lsn(112)));
}

#[test]
fn other_owners_and_later_versions_are_refused_by_name() {
    let disk = memory();
    let (mut log, _) = open(&disk);
    stage(&mut log, 1, 10);
    commit(&mut log);
    drop(log);
    for other in [Options { cluster: [8; 16], ..options() }, Options { shard: ShardId(4), ..options() }] {
        let refused = open_with(&disk, other, Lsn(0));
        assert!(matches!(refused, Err(OpenError::Header { error: HeaderError::Foreign, .. })), "{refused:?}");
    }
    let mut bytes = vec![0; 56];
    file_of(&*disk, Lsn(0)).read_at(FRAMES, &mut bytes).unwrap();
    bytes[32] = 99;
    let crc = frame::checksum(&bytes[..50]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    overwrite(&*disk, Lsn(0), FRAMES, &bytes);
    let refused = open_with(&disk, Options { skip_damaged: true, ..options() }, Lsn(0));
    assert!(matches!(refused, Err(OpenError::Newer { kind: 99, version: 1, lsn: Lsn(0), .. })), "{refused:?}");
}

#[test]
fn readers_on_other_threads_see_whole_frames_only() {
    let dir = tempfile::tempdir().unwrap();
    let disk = shared(RealDisk::new(dir.path().to_path_buf()));
    let (mut log, _) = open_with(&disk, Options { max_segment: 1 << 20, spares: 2, ..options() }, Lsn(0)).unwrap();
    let reader = log.reader();
    let follow = gantry_platform::tasks::thread("follower", move || {
        let (mut at, mut seen) = (Lsn(0), 0u64);
        while seen < 2000 {
            for frame in reader.frames(at, reader.end()) {
                let (lsn, frame) = frame.unwrap();
                at = Lsn(lsn.0 + frame::padded(frame.header.len as usize) as u64);
                if frame.header.kind == Kind::Message {
                    assert_eq!(frame.payload, payload(seen, 200));
                    seen += 1;
                }
            }
        }
    });
    for number in 0..2000 {
        stage(&mut log, number, 200);
        log.write().unwrap();
    }
    follow.unwrap().join().unwrap();
}
