//! A damaged run is an error or it answers as before: never a panic, never another answer.

#![allow(clippy::unwrap_used)]

use super::*;
use bytes::Bytes;
use gantry_platform::disk::crash::CrashStates;
use gantry_platform::{Disk, RealDisk, RecordingDisk};
use proptest::prelude::*;
use std::path::Path;

const BASE: Lsn = Lsn(1 << 24);

/// All sections are filled: a queue of several blocks, one with gaps, far positions, keys, timers.
fn table() -> Memtable {
    let mut table = Memtable::new(BASE);
    for n in 0..700u64 {
        let (queue, offset) = match n % 7 {
            0..4 => (1 << 8, n / 7 * 4 + n % 7),
            4 | 5 => (2 << 8, n * n),
            _ => ((10 + n) << 8, n),
        };
        let (queue, offset) = (QueueKey(queue), Offset(offset));
        let position = Lsn(if n % 50 == 0 { n * 8 } else { BASE.0 + n * 160 });
        table.insert(Entry { queue, offset, position, len: 160, tag_hash: n as u32 * 77, lane: 0, time: 5_000 + n });
        table.insert_key(key_hash(gantry_model::TopicId(3), KeyKind::MessageId, &n.to_le_bytes()), position);
        if n % 9 == 0 {
            table.insert_timer(Due { time: 9_000 - n, position }, queue);
        }
    }
    table
}

/// Everything a run can be asked.
#[derive(Debug, PartialEq)]
struct Answers {
    queues: Vec<(QueueKey, Head)>,
    entries: Vec<Vec<Entry>>,
    times: Vec<Option<Offset>>,
    keys: Vec<Vec<Lsn>>,
    timers: Vec<Timer>,
}

fn ask(run: &Run) -> Result<Answers, Damage> {
    let queues: Vec<(QueueKey, Head)> = run.directory().collect::<Result<_, _>>()?;
    let entries = queues.iter().map(|(queue, _)| run.range(*queue, Offset(0), 1000)).collect::<Result<_, _>>()?;
    let times = queues.iter().map(|(queue, head)| run.by_time(*queue, head, 5_300)).collect::<Result<_, _>>()?;
    let key = |n: u64| key_hash(gantry_model::TopicId(3), KeyKind::MessageId, &n.to_le_bytes());
    let keys = (0..800).step_by(13).map(|n| run.keys(key(n), 9)).collect::<Result<_, _>>()?;
    let timers = run.timers(Due::default(), 8_900, 1000)?;
    for (queue, head) in &queues {
        run.last_offset(*queue, head)?;
        run.first_time(*queue, head)?;
    }
    Ok(Answers { queues, entries, times, keys, timers })
}

fn open(bytes: Vec<u8>) -> Result<Run, RunError> {
    Run::from_bytes(Path::new("x.idx"), Bytes::from(bytes))
}

#[test]
fn a_run_answers_what_its_memtable_answers() {
    let table = table();
    let run = open(RunWriter::encode(&table, Lsn(BASE.0 * 2))).unwrap();
    let answers = ask(&run).unwrap();
    assert_eq!(run.len(), 700);
    assert!(answers.queues.is_sorted_by_key(|(queue, _)| *queue));
    for ((queue, head), entries) in answers.queues.iter().zip(&answers.entries) {
        assert_eq!(*entries, table.range(*queue, Offset(0), usize::MAX).collect::<Vec<_>>());
        assert_eq!((head.first, head.count as usize), (entries[0].offset, entries.len()));
        for entry in entries {
            assert_eq!(run.get(*queue, entry.offset).unwrap(), Some(*entry));
            assert_eq!(run.by_time(*queue, head, entry.time).unwrap(), table.by_time(*queue, entry.time));
        }
        assert_eq!(run.get(*queue, Offset(9_999)).unwrap(), None);
    }
    assert_eq!(answers.timers, table.timers(Due::default(), 8_900, 1000));
    assert_eq!(run.range(QueueKey(7), Offset(0), 10).unwrap(), []);
}

#[test]
fn an_empty_run_answers_nothing() {
    let run = open(RunWriter::encode(&Memtable::new(BASE), Lsn(BASE.0 * 2))).unwrap();
    let answers = ask(&run).unwrap();
    assert!(run.is_empty() && answers.queues.is_empty() && answers.timers.is_empty());
    assert_eq!((run.base(), run.next_base()), (BASE, Lsn(BASE.0 * 2)));
}

#[test]
fn a_run_of_a_newer_version_is_refused_by_name() {
    let mut bytes = RunWriter::encode(&table(), Lsn(BASE.0 * 2));
    let footer = bytes.len() - layout::FOOTER;
    bytes[footer + layout::FOOTER - 16] = 9;
    let crc = layout::crc32c(&bytes[footer..footer + layout::FOOTER - 4]);
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&crc.to_le_bytes());
    let message = open(bytes).unwrap_err().to_string();
    assert_eq!(message, "index run `x.idx`: version `9` is newer than this program; the file can be deleted, it is rebuilt from the log");
}

#[test]
fn a_crash_while_a_run_is_written_leaves_the_old_run_or_the_new_one() {
    let (disk, dir) = (RecordingDisk::new(), Path::new("/idx"));
    let path = dir.join("00000000000016777216.idx");
    disk.create_dir_all(dir).unwrap();
    RunWriter::write(&disk, &path, &Memtable::new(BASE), Lsn(BASE.0 * 2)).unwrap();
    let first = disk.ops().len();
    RunWriter::write(&disk, &path, &table(), Lsn(BASE.0 * 2)).unwrap();
    let ops = disk.ops();
    let mut states = CrashStates::new(&ops);
    for prefix in first..=ops.len() {
        let point = states.at(prefix);
        for pattern in 0..40u64 {
            let coin = |sector: usize| xxhash_rust::xxh3::xxh3_64(&[sector as u8, pattern as u8]) & 3 > 0;
            let kept = point.materialize(coin);
            let run = Run::open(&kept, &path).unwrap();
            run.verify().unwrap();
            assert!(run.is_empty() || run.len() == 700, "{} entries", run.len());
        }
    }
}

#[test]
fn a_run_on_a_real_disk_is_mapped_and_stays_readable_when_its_file_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(dir.path());
    let path = dir.path().join("00000000000016777216.idx");
    let run = RunWriter::write(&disk, &path, &table(), Lsn(BASE.0 * 2)).unwrap();
    disk.remove(&path).unwrap();
    run.verify().unwrap();
    assert_eq!(ask(&run).unwrap(), ask(&open(RunWriter::encode(&table(), Lsn(BASE.0 * 2))).unwrap()).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bits_are_an_error_or_change_no_answer(flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4)) {
        let good = RunWriter::encode(&table(), Lsn(BASE.0 * 2));
        let expected = ask(&open(good.clone()).unwrap()).unwrap();
        let mut bad = good;
        for (at, bit) in flips {
            let at = at.index(bad.len());
            bad[at] ^= 1 << bit;
        }
        if let Ok(Ok(answers)) = open(bad).map(|run| ask(&run)) {
            prop_assert_eq!(answers, expected);
        }
    }

    #[test]
    fn a_cut_file_is_an_error(cut in any::<prop::sample::Index>()) {
        let mut bytes = RunWriter::encode(&table(), Lsn(BASE.0 * 2));
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(open(bytes).is_err());
    }

    /// Damage that checksums don't see, as a wrong writer would make it: the checksums are made right again.
    #[test]
    fn wrong_content_never_panics(writes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut bytes = RunWriter::encode(&table(), Lsn(BASE.0 * 2));
        let (footer, end) = (bytes.len() - layout::FOOTER, bytes.len());
        let checksums = open(bytes.clone()).unwrap().checksums_start();
        for (at, byte) in writes {
            // Every other write hits the footer, which decides where everything lies.
            let at = if byte % 2 == 0 { at.index(checksums) } else { footer + at.index(layout::FOOTER - 24) };
            bytes[at] = byte;
        }
        let sums: Vec<u8> = bytes[..checksums].chunks(layout::PAGE).flat_map(|page| layout::crc32c(page).to_le_bytes()).collect();
        bytes[checksums..checksums + sums.len()].copy_from_slice(&sums);
        let sums = layout::crc32c(&sums).to_le_bytes();
        bytes[end - 20..end - 16].copy_from_slice(&sums);
        let crc = layout::crc32c(&bytes[footer..end - 4]).to_le_bytes();
        bytes[end - 4..].copy_from_slice(&crc);
        if let Ok(run) = open(bytes) {
            let _ = ask(&run);
        }
    }

    #[test]
    fn random_bytes_are_no_run(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(open(bytes).is_err());
    }
}
