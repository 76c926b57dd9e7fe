//! Tests of the files: what comes back after a stop, a crash at any byte, damage, and a full disk.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::state::tests::any_event;
use gantry_platform::disk::crash::CrashStates;
use gantry_platform::{Chance, MemoryDisk, RecordingDisk, SeededChance};
use proptest::prelude::*;

const DIR: &str = "/controller";

fn founded() -> Event {
    Event::ClusterCreated { id: "c".repeat(32), name: "gantry".into(), shards: 3, time_ms: 0 }
}

fn topic(name: &str) -> Event {
    let name = gantry_model::TopicName::parse("", name).unwrap();
    Event::TopicCreated { topic: gantry_model::topic::TopicSpec::on_first_use(name), time_ms: 1 }
}

fn memory() -> SharedDisk {
    Arc::new(MemoryDisk::new())
}

fn open(disk: &SharedDisk) -> Result<(Log, State), OpenError> {
    Log::open(disk.clone(), Path::new(DIR), JOURNAL_MAX, LastEnd::Unknown)
}

fn write(disk: &SharedDisk, name: &str, bytes: &[u8]) {
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let file = disk.create(&Path::new(DIR).join(name)).unwrap();
    file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
}

fn content(disk: &SharedDisk, name: &str) -> Vec<u8> {
    read_all(disk.open(&Path::new(DIR).join(name)).unwrap().as_ref()).unwrap()
}

/// Everything that a state is, as text.
fn image(state: &State) -> Vec<String> {
    state.parts().map(|part| serde_json::to_string(&part).unwrap()).collect()
}

fn append(log: &mut Log, state: &mut State, events: &[Event]) {
    log.append(events).unwrap();
    for event in events {
        state.apply(event);
    }
}

fn check_error(disk: &SharedDisk, expected: &str) {
    assert_eq!(open(disk).unwrap_err().to_string(), expected);
}

#[test]
fn a_journal_gives_back_the_state() {
    let disk = memory();
    let (mut log, mut state) = open(&disk).unwrap();
    append(&mut log, &mut state, &[founded(), topic("a")]);
    append(&mut log, &mut state, &[topic("b")]);
    let (again, found) = open(&disk).unwrap();
    assert_eq!(image(&found), image(&state));
    assert_eq!((again.last, again.end), (3, log.end));
}

#[test]
fn a_snapshot_and_a_journal_give_back_the_state() {
    let disk = memory();
    let (mut log, mut state) = open(&disk).unwrap();
    append(&mut log, &mut state, &[founded(), topic("a")]);
    log.snapshot(&state).unwrap();
    assert_eq!(content(&disk, "journal"), b"");
    append(&mut log, &mut state, &[topic("b")]);
    let (again, found) = open(&disk).unwrap();
    assert_eq!(image(&found), image(&state));
    assert_eq!(again.last, 3);
}

#[test]
fn a_crash_between_snapshot_and_empty_journal_counts_no_event_twice() {
    let disk = memory();
    let (mut log, mut state) = open(&disk).unwrap();
    append(&mut log, &mut state, &[founded(), topic("a")]);
    append(&mut log, &mut state, &[topic("b")]);
    let old = content(&disk, "journal");
    log.snapshot(&state).unwrap();
    write(&disk, "journal", &old);
    assert_eq!(image(&open(&disk).unwrap().1), image(&state));
}

#[test]
fn a_crash_at_any_byte_of_the_journal_keeps_every_whole_frame() {
    let disk = memory();
    let (mut log, mut state) = open(&disk).unwrap();
    let mut ends = vec![(0, image(&state))];
    for events in [&[founded(), topic("a")][..], &[topic("b")], &[topic("c"), topic("d"), topic("a")]] {
        append(&mut log, &mut state, events);
        ends.push((log.end, image(&state)));
    }
    let whole = content(&disk, "journal");
    for len in 0..=whole.len() {
        let disk = memory();
        write(&disk, "journal", &whole[..len]);
        let (mut log, mut found) = open(&disk).unwrap();
        let (end, expected) = ends.iter().rev().find(|(end, _)| *end <= len as u64).unwrap();
        assert_eq!((log.end, image(&found)), (*end, expected.clone()), "cut to {len}");
        // What was cut off is gone: the log goes on and can be read again.
        append(&mut log, &mut found, &[founded(), topic("z")]);
        assert_eq!(image(&open(&disk).unwrap().1), image(&found), "cut to {len}, went on");
    }
}

#[test]
fn damage_before_acknowledged_changes_is_refused_and_named() {
    let disk = memory();
    let (mut log, mut state) = open(&disk).unwrap();
    append(&mut log, &mut state, &[founded()]);
    append(&mut log, &mut state, &[topic("a")]);
    let whole = content(&disk, "journal");
    let first = frame::next_after(&whole, 0).unwrap();
    for at in 0..first {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        let disk = memory();
        write(&disk, "journal", &damaged);
        let expected = format!(
            "`/controller/journal` is damaged at byte 0: acknowledged changes follow at byte {first}. Topics and groups that were acknowledged would be \
             lost, so the server does not start. Restore the data folder from a backup, or start with another folder"
        );
        check_error(&disk, &expected);
        assert_eq!(content(&disk, "journal"), damaged, "nothing is changed");
    }
}

#[test]
fn every_changed_byte_of_a_snapshot_is_seen() {
    let disk = memory();
    let (mut log, mut state) = open(&disk).unwrap();
    append(&mut log, &mut state, &[founded(), topic("a")]);
    log.snapshot(&state).unwrap();
    let whole = content(&disk, "snapshot");
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        write(&disk, "snapshot", &damaged);
        assert!(matches!(open(&disk), Err(OpenError::Damaged { .. })), "byte {at}");
        write(&disk, "snapshot", &whole[..at]);
        assert!(matches!(open(&disk), Err(OpenError::Damaged { .. })), "cut to {at}");
    }
}

#[test]
fn a_missing_half_is_refused() {
    let disk = memory();
    let (mut log, mut state) = open(&disk).unwrap();
    append(&mut log, &mut state, &[founded(), topic("a")]);
    log.snapshot(&state).unwrap();
    append(&mut log, &mut state, &[topic("b")]);
    let snapshot = content(&disk, "snapshot");
    disk.remove(&Path::new(DIR).join("snapshot")).unwrap();
    assert!(open(&disk).unwrap_err().to_string().contains("event 3 stands where event 1 belongs"));
    write(&disk, "snapshot", &snapshot);
    disk.remove(&Path::new(DIR).join("journal")).unwrap();
    assert!(open(&disk).unwrap_err().to_string().contains("the file is missing"));
}

#[test]
fn a_journal_of_a_newer_version_is_refused() {
    let disk = memory();
    let mut bytes = Vec::new();
    frame::encode(br#"{"v":2,"first":1,"events":[{"type":"from_the_future"}]}"#, &mut bytes);
    write(&disk, "journal", &bytes);
    check_error(&disk, "`/controller/journal` was written by a newer gantry (format 2); use that version or a newer one");
}

/// Runs a workload on a recording disk and notes each version that was acknowledged; answers the image of each version.
fn recorded_workload(recording: &RecordingDisk) -> Vec<Vec<String>> {
    let disk: SharedDisk = Arc::new(recording.clone());
    let (mut log, mut state) = open(&disk).unwrap();
    let mut images = vec![image(&state)];
    for number in 0..12 {
        let events = if number == 0 { vec![founded()] } else { vec![topic(&format!("a{number}")), topic(&"long".repeat(number))] };
        log.append(&events).unwrap();
        for event in &events {
            state.apply(event);
            images.push(image(&state));
        }
        recording.note(state.version().0);
        if number % 4 == 3 {
            log.snapshot(&state).unwrap();
        }
    }
    images
}

#[test]
fn a_power_loss_at_any_moment_keeps_what_was_acknowledged() {
    let recording = RecordingDisk::new();
    let images = recorded_workload(&recording);
    let ops = recording.ops();
    let mut states = CrashStates::new(&ops);
    let mut chance = SeededChance::new(7);
    for prefix in 0..=ops.len() {
        let point = states.at(prefix);
        let acknowledged = states.notes(prefix).last().unwrap_or(0);
        for subset in 0..20 {
            let keep = |at: usize| match subset {
                0 => false,
                1 => true,
                // Each sector alone, and all but each one.
                2..=6 => at == subset - 2,
                7..=11 => at != subset - 7,
                _ => chance.ratio(1, 2),
            };
            let mut keep = keep;
            let disk: SharedDisk = Arc::new(point.materialize(&mut keep));
            let (_, found) = open(&disk).unwrap_or_else(|error| panic!("after {prefix} operations, subset {subset}: {error}"));
            assert!(found.version().0 >= acknowledged, "after {prefix} operations, subset {subset}");
            assert_eq!(image(&found), images[found.version().0 as usize], "after {prefix} operations, subset {subset}");
        }
    }
}

#[test]
fn snapshots_come_when_the_journal_is_long_and_less_often_for_large_states() {
    let disk = memory();
    let (mut log, mut state) = Log::open(disk, Path::new(DIR), 1_000, LastEnd::Unknown).unwrap();
    append(&mut log, &mut state, &[founded()]);
    assert!(!log.snapshot_due());
    for number in 0..10 {
        append(&mut log, &mut state, &[topic(&format!("t{number}"))]);
    }
    assert!(log.snapshot_due());
    log.snapshot(&state).unwrap();
    assert!(!log.snapshot_due());
    log.end = 1_001;
    log.snapshot_len = 2_100;
    assert!(!log.snapshot_due(), "half of the snapshot is more than the least");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn replaying_any_history_gives_its_state(
        batches in prop::collection::vec(prop::collection::vec(any_event(), 1..5), 0..12),
        snapshots in prop::collection::vec(any::<bool>(), 12),
    ) {
        let disk = memory();
        let (mut log, mut state) = open(&disk).unwrap();
        append(&mut log, &mut state, &[founded()]);
        for (events, snapshot) in batches.iter().zip(snapshots) {
            append(&mut log, &mut state, events);
            if snapshot {
                log.snapshot(&state).unwrap();
            }
        }
        prop_assert_eq!(image(&open(&disk).unwrap().1), image(&state));
    }
}
