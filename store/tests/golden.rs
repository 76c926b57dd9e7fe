//! The bytes of version 1: a data folder written once and kept in `golden/v1`, so that no change of a format goes unnoticed and every later
//! version is shown to read it. After a change that is meant, with a new version number, `UPDATE_GOLDEN=1` writes the folder again.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use gantry_model::message::{BodyEncoding, Message};
use gantry_model::packed::encode_properties;
use gantry_model::{Epoch, Lsn, MessageKind, Offset, QueueId, QueueKey, ShardId, TopicId};
use gantry_platform::disk::{Disk, SharedDisk};
use gantry_platform::{MemoryDisk, RealDisk, SeededChance};
use gantry_store::checkpoint;
use gantry_store::data_folder::{DataFolder, LastRun};
use gantry_store::frame::{Flags, Kind};
use gantry_store::log::{CommitLog, Known, Options, Verdict};
use gantry_store::record::{Fixed, MessageView};
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ROOT: &str = "v1";
const SHARD: ShardId = ShardId(7);
const TIME: u64 = 1_700_000_000_000;

fn golden() -> SharedDisk {
    Arc::new(RealDisk::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")))
}

/// Small files: what is on the disk is mostly zeros.
fn options(folder: &DataFolder) -> Options {
    let size = 8192 + 2048;
    Options { first_segment: size, max_segment: size, spares: 0, ..Options::new(SHARD, folder.cluster) }
}

fn message() -> Message {
    Message {
        id: "01F9A8B7C6D5E4".into(),
        kind: MessageKind::Delay,
        tag: Some("paid".into()),
        keys: vec!["order-1".into(), "order-2".into()],
        group: Some("customer-7".into()),
        properties: vec![("colour".into(), "blue".into()), ("empty".into(), String::new())],
        body: Bytes::from_static(b"the body comes last"),
        encoding: BodyEncoding::Gzip,
        digest: [0x5a; 20],
        born_ms: TIME - 5,
        born_host: "10.1.2.3".into(),
        trace_context: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        deliver_ms: Some(TIME + 60_000),
        priority: Some(3),
        lite_topic: Some("room-12".into()),
        recovery_ms: None,
    }
}

fn stage_message(log: &mut CommitLog, flags: Flags, message: &Message, offset: u64) {
    let properties = encode_properties(message, &message.digest);
    let fixed = Fixed::of(message, QueueKey::new(TopicId(2), QueueId(5)), Offset(offset), properties.len());
    log.stage(Kind::Message, flags, TIME + offset, &[&fixed.encode(), &properties, &message.body]).unwrap();
}

/// Two runs of a process: folder, log over two segments, two checkpoints.
fn build(disk: &SharedDisk) {
    let mut chance = SeededChance::new(1);
    let folder = DataFolder::open(Arc::clone(disk), Path::new(ROOT), "boot-1", &mut chance).unwrap();
    let mut shard = folder.open_shard(&mut chance, SHARD).unwrap();
    shard.set_meta(gantry_store::data_folder::Meta { promised: Epoch(2), checkpoint: Lsn(64), ..shard.meta() }).unwrap();
    let (mut log, _) = CommitLog::open(Arc::clone(disk), shard.dir(), options(&folder), Known::default()).unwrap();
    log.stage(Kind::EpochStart, Flags::default(), TIME, &[&2u32.to_le_bytes()]).unwrap();
    stage_message(&mut log, Flags::default(), &message(), 0);
    log.write().unwrap();
    log.sync().unwrap();
    for (at, flags) in [Flags::FIRST, Flags::CONT, Flags::LAST].into_iter().enumerate() {
        let plain = Message { id: at.to_string(), body: Bytes::from(vec![at as u8; 100]), ..Message::default() };
        stage_message(&mut log, flags, &plain, 1 + at as u64);
    }
    log.stage(Kind::Noop, Flags::default(), TIME + 10, &[]).unwrap();
    log.write().unwrap();
    log.sync().unwrap();
    for number in 0..6u8 {
        log.stage(Kind::Lease, Flags::default(), TIME + 20, &[&[number; 200]]).unwrap();
    }
    log.close().unwrap();
    let state = shard.dir().join("state");
    let bucket = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    checkpoint::write(&**disk, &state, Lsn(40), [(0, bucket("zero")), (1, bucket("one"))].into_iter()).unwrap();
    checkpoint::write(&**disk, &state, Lsn(64), [(0, None), (1, bucket("changed")), (4097, bucket("new"))].into_iter()).unwrap();
    folder.close().unwrap();
}

/// Every file but the lock, by its path.
fn files(disk: &dyn Disk, dir: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for path in disk.list(dir).unwrap() {
        let from_root = path.components().skip_while(|part| part.as_os_str() != ROOT).collect::<PathBuf>();
        if disk.list(&path).is_ok() {
            files(disk, &path, into);
        } else if !from_root.ends_with("lock") {
            let file = disk.open(&path).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_at(0, &mut bytes).unwrap();
            into.insert(from_root, bytes);
        }
    }
}

fn all_files(disk: &dyn Disk) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    files(disk, Path::new(ROOT), &mut found);
    found
}

fn write_files(disk: &dyn Disk, files: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in files {
        disk.create_dir_all(path.parent().unwrap()).unwrap();
        disk.create(path).unwrap().write_at(0, &[IoSlice::new(bytes)]).unwrap();
    }
}

#[test]
fn version_1_is_written_as_ever() {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    build(&disk);
    let written = all_files(&*disk);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        write_files(&*golden(), &written);
    }
    let kept = all_files(&*golden());
    assert_eq!(written.keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>());
    for (path, bytes) in &written {
        let different = bytes.iter().zip(&kept[path]).position(|(new, old)| new != old);
        assert_eq!((different, bytes.len()), (None, kept[path].len()), "`{}`: old folders can't be read if this changes", path.display());
    }
}

#[test]
fn version_1_is_read() {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    write_files(&*disk, &all_files(&*golden()));
    let folder = DataFolder::open(Arc::clone(&disk), Path::new(ROOT), "boot-2", &mut SeededChance::new(9)).unwrap();
    assert_eq!((folder.last_run, folder.incarnation, folder.shards().unwrap()), (LastRun::Clean, 2, vec![SHARD]));
    let shard = folder.open_shard(&mut SeededChance::new(9), SHARD).unwrap();
    assert_eq!((shard.meta().promised, shard.meta().checkpoint), (Epoch(2), Lsn(64)));
    let checkpoint = checkpoint::load_newest(&*disk, &shard.dir().join("state")).unwrap().unwrap();
    let buckets = [(0, "zero"), (1, "changed"), (4097, "new")].map(|(number, text)| (number, Bytes::from_static(text.as_bytes())));
    assert_eq!((checkpoint.lsn, checkpoint.buckets), (Lsn(64), buckets.to_vec()));
    let (log, recovery) = CommitLog::open(Arc::clone(&disk), shard.dir(), options(&folder), Known::default()).unwrap();
    assert_eq!((recovery.verdict, recovery.last_epoch, recovery.last_time), (Verdict::Clean, Epoch(2), TIME + 20));
    let frames: Vec<_> = log.reader().frames(log.start(), log.end()).map(|frame| frame.unwrap().1).collect();
    let kinds: Vec<Kind> = frames.iter().map(|frame| frame.header.kind).filter(|kind| *kind != Kind::Lease).collect();
    assert_eq!(kinds, [Kind::EpochStart, Kind::Message, Kind::Message, Kind::Message, Kind::Message, Kind::Noop, Kind::End]);
    assert_eq!(MessageView::parse(&frames[1].payload).unwrap().message().unwrap(), message());
    assert_eq!(MessageView::parse(&frames[4].payload).unwrap().body(), &[2; 100][..]);
}
