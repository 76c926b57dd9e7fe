//! Prints what the consume queue index costs: bytes an entry, milliseconds to write a run of a million entries, nanoseconds a lookup, and
//! bytes of memory a queue. Run it with `cargo run --release -p gantry-store --example index_cost`.

use gantry_model::{Lsn, Offset, QueueKey, TopicId};
use gantry_platform::{Clock, Disk, MemoryDisk, SystemClock};
use gantry_store::index::{Entry, Index, KeyKind, Memtable, Run, RunWriter, key_hash};
use std::path::Path;
use std::time::Duration;

const ENTRIES: u64 = 1_000_000;
/// A message of 1 KiB with 150 bytes of properties takes this much of the log.
const FRAME: u64 = 1_264;

fn main() {
    let clock = SystemClock::new();
    println!("{:>9} {:>10} {:>9} {:>9} {:>9} {:>9} {:>10}", "queues", "memtable", "encode", "B/entry", "get hot", "get cold", "insert");
    for queues in [1, 1_000, 100_000, 1_000_000] {
        run_cost(&clock, queues);
    }
    key_cost(&clock);
    slot_cost(&clock);
    segments_cost(&clock);
}

fn entry(n: u64, queues: u64) -> Entry {
    // Round robin: the positions of one queue lie as far apart as they can.
    Entry {
        queue: QueueKey((n % queues) << 8),
        offset: Offset(n / queues),
        position: Lsn(n * FRAME),
        len: FRAME as u32,
        tag_hash: (n % 7) as u32,
        lane: 0,
        time: 1_700_000_000_000 + n / 100,
    }
}

fn run_cost(clock: &SystemClock, queues: u64) {
    let (table, insert) = timed(clock, || {
        let mut table = Memtable::new(Lsn(0));
        (0..ENTRIES).for_each(|n| table.insert(entry(n, queues)));
        table
    });
    let (bytes, encode) = timed(clock, || RunWriter::encode(&table, Lsn(ENTRIES * FRAME)));
    let len = bytes.len();
    let run = Run::from_bytes(Path::new("run"), bytes.into()).expect("a run just written");
    let (_, cold) = timed(clock, || gets(&run, queues));
    let (_, hot) = timed(clock, || gets(&run, queues));
    println!(
        "{queues:>9} {:>6.1} MiB {:>6.1} ms {:>9.2} {:>6.0} ns {:>6.0} ns {:>7.0} ns",
        table.bytes() as f64 / 1_048_576.0,
        encode.as_secs_f64() * 1e3,
        len as f64 / ENTRIES as f64,
        nanos(hot, GETS),
        nanos(cold, GETS),
        nanos(insert, ENTRIES),
    );
}

const GETS: u64 = 200_000;

fn gets(run: &Run, queues: u64) {
    for n in 0..GETS {
        let wanted = entry(n.wrapping_mul(7_919_317) % ENTRIES, queues);
        assert_eq!(run.get(wanted.queue, wanted.offset), Ok(Some(wanted)));
    }
}

fn key_cost(clock: &SystemClock) {
    let mut table = Memtable::new(Lsn(0));
    let hash = |n: u64| key_hash(TopicId(1), KeyKind::MessageId, &n.to_le_bytes());
    let (_, insert) = timed(clock, || (0..ENTRIES).for_each(|n| table.insert_key(hash(n), Lsn(n * FRAME))));
    let (_, find) = timed(clock, || (0..1000).for_each(|n| assert_eq!(table.lookup_key(hash(n), 1).len(), 1)));
    let (bytes, encode) = timed(clock, || RunWriter::encode(&table, Lsn(ENTRIES * FRAME)));
    println!(
        "a million keys: insert {:.0} ns, look up in the memtable {:.1} µs, {:.1} B in memory, {:.1} B on disk, encode {:.0} ms",
        nanos(insert, ENTRIES),
        nanos(find, 1000) / 1e3,
        table.bytes() as f64 / ENTRIES as f64,
        bytes.len() as f64 / ENTRIES as f64,
        encode.as_secs_f64() * 1e3,
    );
}

fn slot_cost(clock: &SystemClock) {
    for queues in [100_000, 1_000_000] {
        let mut index = Index::new(Path::new("idx"), Lsn(0));
        (0..queues).for_each(|n| index.append(entry(n, queues), &[]));
        let memory = index.memory();
        let (snapshot, took) = timed(clock, || index.snapshot_slots().expect("no run is damaged"));
        println!(
            "{queues} queues with one message each: {:.0} B a slot, {:.0} B a queue in the memtable, snapshot {:.0} ms, {} KiB",
            memory.slots as f64 / queues as f64,
            memory.active as f64 / queues as f64,
            took.as_secs_f64() * 1e3,
            snapshot.encode().len() / 1024,
        );
    }
}

/// Random lookups in a backlog of many segments, for a queue in each of them and for one in every hundredth.
fn segments_cost(clock: &SystemClock) {
    const SEGMENTS: u64 = 2_000;
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("idx")).expect("a memory disk");
    let mut index = Index::new(Path::new("idx"), Lsn(0));
    let mut offsets = [0u64; 2];
    for segment in 0..SEGMENTS {
        let base = segment << 20;
        let mut append = |queue: usize, position: u64| {
            let offset = Offset(offsets[queue]);
            offsets[queue] += 1;
            let queue = QueueKey((queue as u64) << 8);
            index.append(Entry { queue, offset, position: Lsn(position), len: 80, tag_hash: 0, lane: 0, time: position }, &[]);
        };
        (0..100).for_each(|n| append(0, base + n * 800));
        if segment % 100 == 0 {
            append(1, base + 800_000);
        }
        let run = index.seal(Lsn(base), Lsn(base + (1 << 20))).write(&disk).expect("a memory disk");
        index.sealed(run);
    }
    for (queue, count) in offsets.into_iter().enumerate() {
        let key = QueueKey((queue as u64) << 8);
        let (_, took) = timed(clock, || {
            for n in 0..GETS {
                let offset = Offset(n.wrapping_mul(7_919_317) % count);
                assert!(index.lookup(key, offset).expect("no run is damaged").is_some());
            }
        });
        println!("{SEGMENTS} segments, {count} entries: {:.0} ns a random lookup", nanos(took, GETS));
    }
}

fn timed<T>(clock: &SystemClock, work: impl FnOnce() -> T) -> (T, Duration) {
    let start = clock.mono();
    let result = work();
    (result, clock.mono() - start)
}

fn nanos(took: Duration, count: u64) -> f64 {
    took.as_nanos() as f64 / count as f64
}
