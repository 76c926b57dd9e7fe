//! A replica that takes over its leader's state and log: what a power loss leaves, at each moment of it, is the old replica or the new one.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use gantry_model::{Lsn, ShardId};
use gantry_platform::disk::SharedDisk;
use gantry_platform::disk::crash::CrashStates;
use gantry_platform::{MemoryDisk, RecordingDisk};
use gantry_store::checkpoint::{self, Checkpoint};
use gantry_store::frame::{Flags, Kind};
use gantry_store::install::{self, Image, Install};
use gantry_store::log::{CommitLog, Known, Options};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "shard";

fn options() -> Options {
    Options { first_segment: 12_288, max_segment: 12_288, spares: 0, ..Options::new(ShardId(3), [7; 16]) }
}

fn open(disk: &SharedDisk, until: Lsn) -> CommitLog {
    CommitLog::open(disk.clone(), Path::new(DIR), options(), Known { until, ..Known::default() }).unwrap().0
}

fn append(log: &mut CommitLog, numbers: std::ops::Range<u64>) {
    for number in numbers {
        log.stage(Kind::Message, Flags::default(), 1000 + number, &[&number.to_le_bytes(), &[number as u8; 700]]).unwrap();
        log.write().unwrap();
    }
    log.sync().unwrap();
}

fn contents(log: &CommitLog) -> BTreeMap<u64, Bytes> {
    let reader = log.reader();
    reader.frames(log.start(), log.end()).map(|frame| frame.map(|(lsn, frame)| (lsn.0, frame.payload)).unwrap()).collect()
}

/// A leader whose log begins later than 0, with a state somewhere in it.
fn leader() -> (SharedDisk, CommitLog, Image) {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let mut log = open(&disk, Lsn(0));
    append(&mut log, 0..40);
    let segments = log.segments();
    log.trim(segments[2].base).unwrap();
    let at = segments[5].base;
    let buckets = [(1, Bytes::from_static(b"one")), (9, Bytes::from(vec![5; 5000]))];
    checkpoint::write(&*disk, &Path::new(DIR).join("state"), at, buckets.into_iter().map(|(number, bytes)| (number, Some(bytes)))).unwrap();
    let image = Image::read(&*disk, Path::new(DIR), log.origin()).unwrap().unwrap();
    (disk, log, image)
}

#[test]
fn an_image_is_read_back_as_it_was_sent_or_not_at_all() {
    let (_, log, image) = leader();
    assert_eq!((image.origin.start, image.state.buckets.len()), (log.start(), 2));
    let sent = image.encode();
    assert_eq!(Image::decode(&sent), Some(image));
    for at in 0..sent.len() {
        let mut bad = sent.to_vec();
        bad[at] ^= 0x40;
        assert_eq!(Image::decode(&bad.into()), None, "byte {at}");
        assert_eq!(Image::decode(&sent.slice(..at)), None, "{at} bytes");
    }
}

/// Sends what the log behind `to` lacks, a piece at a time.
fn follow(leader: &CommitLog, to: &mut CommitLog) {
    while to.end() < leader.end() {
        let raw = leader.reader().raw(to.end(), 2_000).unwrap();
        to.take(&raw.bytes, raw.file).unwrap();
        to.write().unwrap();
        to.sync().unwrap();
    }
}

/// Goes on with an install as far as it goes, as a replica does that is opened.
fn go_on(disk: &SharedDisk, leader: &CommitLog) -> Option<CommitLog> {
    let dir = Path::new(DIR);
    let install = Install::resume(&**disk, dir, &options()).unwrap()?;
    let mut log = open(disk, install.origin.start);
    assert_eq!(log.origin(), install.origin);
    follow(leader, &mut log);
    assert!(install.checkpoint(&**disk).unwrap().is_some() || disk.exists(&dir.join("state")).unwrap());
    install.finish(&**disk, dir).unwrap();
    Some(log)
}

#[test]
fn a_power_loss_leaves_the_old_replica_or_one_that_goes_on() {
    let (_, leader, image) = leader();
    let recording = RecordingDisk::new();
    let disk: SharedDisk = Arc::new(recording.clone());
    let mut old = open(&disk, Lsn(0));
    append(&mut old, 500..506);
    let before = contents(&old);
    drop(old);
    checkpoint::write(&*disk, &Path::new(DIR).join("state"), Lsn(0), [(4, Some(Bytes::from_static(b"old")))].into_iter()).unwrap();
    let built = recording.ops().len();
    image.stage(&*disk, Path::new(DIR)).unwrap();
    let staged = recording.ops().len();
    install::begin(&*disk, Path::new(DIR)).unwrap();
    let begun = recording.ops().len();
    let log = go_on(&disk, &leader).unwrap();
    assert_eq!(contents(&log), contents(&leader));
    drop(log);

    let ops = recording.ops();
    let mut states = CrashStates::new(&ops);
    let mut seen = [0; 2];
    for prefix in built..=ops.len() {
        let point = states.at(prefix);
        for kept in [0, u64::MAX, 0x5555_5555, 0x3333_cccc] {
            let disk: SharedDisk = Arc::new(point.materialize(|n| kept >> (n % 64) & 1 == 1));
            let Some(log) = go_on(&disk, &leader) else {
                // Not begun, or ended.
                let state = checkpoint::load_newest(&*disk, &Path::new(DIR).join("state")).unwrap().unwrap();
                if state.lsn == Lsn(0) {
                    assert!(prefix < begun, "an install that began is not forgotten");
                    assert_eq!(contents(&open(&disk, Lsn(0))), before);
                    seen[0] += 1;
                } else {
                    let log = open(&disk, state.lsn);
                    assert_eq!((state, contents(&log)), (image.state.clone(), contents(&leader)));
                }
                continue;
            };
            assert!(prefix >= staged, "only what is whole begins");
            seen[1] += 1;
            assert_eq!(contents(&log), contents(&leader));
            assert_eq!(Install::resume(&*disk, Path::new(DIR), &options()).unwrap(), None, "it has ended");
            let state: Checkpoint = checkpoint::load_newest(&*disk, &Path::new(DIR).join("state")).unwrap().unwrap();
            assert_eq!(state, image.state);
        }
    }
    assert!(seen.iter().all(|seen| *seen > 10), "{seen:?}");
}

#[test]
fn a_later_install_takes_the_place_of_one_that_did_not_end() {
    let (leader_disk, mut leader, image) = leader();
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let dir = Path::new(DIR);
    image.stage(&*disk, dir).unwrap();
    install::begin(&*disk, dir).unwrap();
    let first = Install::resume(&*disk, dir, &options()).unwrap().unwrap();
    drop(open(&disk, first.origin.start));
    let segments = leader.segments();
    checkpoint::write(&*leader_disk, &dir.join("state"), segments[4].base, [(1, None), (9, None)].into_iter()).unwrap();
    leader.trim(segments[2].base).unwrap();
    let later = Image::read(&*leader_disk, dir, leader.origin()).unwrap().unwrap();
    assert!(later.origin.start > image.origin.start);
    later.stage(&*disk, dir).unwrap();
    install::begin(&*disk, dir).unwrap();
    assert_eq!(contents(&go_on(&disk, &leader).unwrap()), contents(&leader));
    let left: Vec<_> = disk.list(dir).unwrap().into_iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(left, ["log", "state"]);
}

#[test]
fn a_replica_may_begin_with_nothing() {
    let (leader_disk, ..) = leader();
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let dir = Path::new(DIR);
    append(&mut open(&disk, Lsn(0)), 0..20);
    install::stage_nothing(&*disk, dir).unwrap();
    install::begin(&*disk, dir).unwrap();
    let install = Install::resume(&*disk, dir, &options()).unwrap().unwrap();
    assert_eq!((install.state, install.checkpoint(&*disk).unwrap()), (Lsn(0), None));
    install.finish(&*disk, dir).unwrap();
    assert_eq!(open(&disk, Lsn(0)).end(), Lsn(0));
    drop(leader_disk);
}
