//! The bytes of each version: run files written once and kept, so that a change of the format can't go unnoticed.

#![allow(clippy::unwrap_used)]

use super::*;
use bytes::Bytes;
use std::path::Path;

const GOLDEN_1: &[u8] = include_bytes!("../../tests/golden/index-v1.idx");
const GOLDEN_2: &[u8] = include_bytes!("../../tests/golden/index-v2.idx");
const BASE: Lsn = Lsn(0x1000_0000);
const NEXT: Lsn = Lsn(0x2000_0000);
const SMALL: QueueKey = QueueKey(1 << 32 | 3 << 8);
const LARGE: QueueKey = QueueKey(2 << 32);

/// Version 1 knows no lanes.
fn table(version: u32) -> Memtable {
    let mut table = Memtable::new(BASE);
    for n in 0..300u64 {
        let lane = if version > 1 && n > 200 { n as u32 % 5 } else { 0 };
        let entry = Entry {
            queue: LARGE,
            offset: Offset(1000 + n),
            position: Lsn(BASE.0 + n * 1264),
            len: 1264,
            tag_hash: 0xABCD_0000 + n as u32 % 3,
            lane,
            time: 1_700_000_000_000 + n / 4,
        };
        table.insert_after(entry, Some(Lsn(0x0800_0000)));
        table.insert_key(key_hash(gantry_model::TopicId(2), KeyKind::MessageId, format!("id-{n}").as_bytes()), entry.position);
    }
    for (offset, position) in [(7, BASE.0 + 8), (9, 64)] {
        let time = 1_700_000_000_100;
        table.insert_after(Entry { queue: SMALL, offset: Offset(offset), position: Lsn(position), len: 200, tag_hash: 0, lane: 0, time }, None);
    }
    table.insert_key(key_hash(gantry_model::TopicId(1), KeyKind::Key, b"order-9"), Lsn(64));
    table.insert_timer(Due { time: 1_700_000_060_000, position: Lsn(BASE.0 + 800) }, LARGE);
    table
}

#[test]
fn version_2_is_written_as_ever() {
    assert_eq!(RunWriter::encode(&table(2), NEXT), GOLDEN_2, "stored runs can't be read if this changes: make it version 3");
}

#[test]
fn every_version_is_read() {
    for (version, golden) in [(1, GOLDEN_1), (2, GOLDEN_2)] {
        check(&table(version), golden);
    }
}

fn check(table: &Memtable, golden: &'static [u8]) {
    let run = Run::from_bytes(Path::new("golden.idx"), Bytes::from_static(golden)).unwrap();
    run.verify().unwrap();
    assert_eq!((run.base(), run.next_base(), run.len()), (BASE, NEXT, 302));
    for queue in [SMALL, LARGE] {
        assert_eq!(run.range(queue, Offset(0), 1000).unwrap(), table.range(queue, Offset(0), 1000).collect::<Vec<_>>());
    }
    assert_eq!(run.head(LARGE).unwrap().unwrap().previous, Some(Lsn(0x0800_0000)));
    assert_eq!(run.head(SMALL).unwrap().unwrap().previous, None);
    assert_eq!(run.keys(key_hash(gantry_model::TopicId(1), KeyKind::Key, b"order-9"), 9).unwrap(), [Lsn(64)]);
    assert_eq!(run.timers(Due::default(), u64::MAX, 9).unwrap(), table.timers(Due::default(), u64::MAX, 9));
}
