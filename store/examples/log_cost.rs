//! What appending, opening and reading a log costs here: `cargo run --release -p gantry-store --example log_cost -- FOLDER`. Writes 2 GiB
//! into the folder, which must not exist, and removes it.

use gantry_model::{Lsn, ShardId};
use gantry_platform::disk::SharedDisk;
use gantry_platform::{Clock, RealDisk, SystemClock};
use gantry_store::frame::{Flags, Kind};
use gantry_store::log::{CommitLog, Known, Options};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const BYTES: u64 = 2 << 30;
/// With its header a frame of 1,224 bytes: a message of 1 KiB and its properties.
const PAYLOAD: usize = 1184;

fn main() {
    let root = std::env::args().nth(1).expect("name a folder to write to");
    let disk: SharedDisk = Arc::new(RealDisk::new(std::path::PathBuf::from(&root)));
    let clock = SystemClock::new();
    append(&disk, &clock);
    reopen(&disk, &clock);
    disk.remove_dir_all(Path::new(&root)).expect("the folder is ours");
}

fn open(disk: &SharedDisk, until: Lsn) -> (CommitLog, u64) {
    let known = Known { until, ..Known::default() };
    let options = Options::new(ShardId(1), [1; 16]);
    let (log, recovery) = CommitLog::open(Arc::clone(disk), Path::new("shard"), options, known).expect("a sound log");
    (log, recovery.bytes_scanned)
}

/// Batches of 128 messages, each written and synced. Rolls are counted apart: there is no spare maker here.
fn append(disk: &SharedDisk, clock: &SystemClock) {
    let (mut log, _) = open(disk, Lsn(0));
    let payload = vec![7; PAYLOAD];
    let (mut messages, mut rolling) = (0u64, Duration::ZERO);
    let began = clock.mono();
    while log.end().0 < BYTES {
        for _ in 0..128 {
            let (base, before) = (log.active_base(), clock.mono());
            log.stage(Kind::Message, Flags::default(), messages, &[&payload]).expect("room");
            messages += 1;
            if log.active_base() != base {
                rolling += clock.mono() - before;
            }
        }
        log.write().expect("a disk");
        log.sync().expect("a disk");
    }
    let appending = clock.mono() - began - rolling;
    println!("append: {:.0} messages/s in synced batches of 128; rolls took {rolling:.1?}", messages as f64 / appending.as_secs_f64());
}

fn reopen(disk: &SharedDisk, clock: &SystemClock) {
    for (what, known) in [("all of it", Lsn(0)), ("a checkpoint 64 MiB before the end", Lsn(BYTES - (64 << 20)))] {
        let began = clock.mono();
        let (log, read) = open(disk, known);
        println!("open from {what}: {:.0?}, {} MiB read", clock.mono() - began, read >> 20);
        let (reader, began) = (log.reader(), clock.mono());
        let frames = reader.frames(log.active_base(), log.end()).count();
        println!("  {frames} frames in order: {:.0?} each", (clock.mono() - began) / frames.max(1) as u32);
        let began = clock.mono();
        (0..100_000).for_each(|_| drop(reader.frame(log.active_base()).expect("a frame")));
        println!("  one frame, cached: {:.0?}", (clock.mono() - began) / 100_000);
    }
}
