//! The log, the vote and the snapshots on disk: openraft's own suite, and what a crash, a full disk and damage leave.

use super::world::{DIR, founded, topic};
use crate::consensus::OpenError;
use crate::consensus::books::{Books, Identity, encode_entry};
use crate::consensus::kinds::{Entry, Kinds, LogId, Proposal, StorageError, StoredMembership, Vote};
use crate::consensus::log_store::{Desk, LogStore};
use crate::consensus::machine::{Machine, Shared};
use crate::consensus::snapshot::Snapshots;
use crate::state::State;
use crate::state::requests::RequestId;
use gantry_model::NodeId;
use gantry_platform::disk::faulty::{Fault, Operation, Rule};
use gantry_platform::disk::{DiskFile, SharedDisk};
use gantry_platform::{FaultyDisk, MemoryDisk, SeededChance};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader};
use std::io::{ErrorKind, IoSlice};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

fn identity() -> Identity {
    Identity { cluster: "c".repeat(32), node: NodeId(3) }
}

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, NodeId(1)), index)
}

fn entry(term: u64, index: u64) -> Entry {
    let proposal = Proposal { request: RequestId(u128::from(index)), time_ms: 5, event: topic(&format!("t{index}")).into() };
    Entry { log_id: id(term, index), payload: EntryPayload::Normal(proposal) }
}

fn encoded(range: std::ops::Range<u64>) -> Vec<(u64, Vec<u8>)> {
    range.map(|index| encode_entry(&entry(1, index))).collect()
}

fn open(disk: &SharedDisk) -> Result<Books, OpenError> {
    Books::open(disk, dir()).map(|books| books.expect("they were created"))
}

struct Builder(Desk);

impl StoreBuilder<Kinds, LogStore, Machine> for Builder {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError> {
        let disk: SharedDisk = Arc::new(MemoryDisk::new());
        let books = Books::create(&disk, dir(), &identity()).unwrap();
        let (log, _) = LogStore::start(books, self.0, watch::Sender::new(false)).unwrap();
        let machine = Machine::new(Shared::new(None), Snapshots::new(disk, dir()), None, self.0, log.ending());
        Ok(((), log, machine))
    }
}

#[test]
fn openraft_finds_nothing_wrong_with_the_store() {
    Suite::test_all(Builder(Desk::Caller)).unwrap();
    Suite::test_all(Builder(Desk::Thread)).unwrap();
}

#[test]
fn what_was_written_is_there_after_a_power_loss_and_nothing_else() {
    for seed in 0..40 {
        let disk = MemoryDisk::new();
        let shared: SharedDisk = Arc::new(disk.clone());
        let mut books = Books::create(&shared, dir(), &identity()).unwrap();
        let vote = Vote::new_committed(3, NodeId(2));
        books.append(&encoded(0..10)).unwrap();
        books.save_vote(&vote).unwrap();
        books.truncate(8).unwrap();
        books.purge(id(1, 2)).unwrap();
        // Without a sync of its own: it may be lost, but it harms nothing.
        books.save_committed(Some(id(1, 7))).unwrap();
        let crashed: SharedDisk = Arc::new(disk.crash(&mut SeededChance::new(seed)));
        let books = open(&crashed).unwrap();
        assert_eq!((books.identity().unwrap(), books.vote().unwrap()), (identity(), Some(vote)), "seed {seed}");
        assert_eq!(books.entries(..).unwrap(), (3..8).map(|index| entry(1, index)).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!((books.extent().unwrap().purged, books.extent().unwrap().last), (Some(id(1, 2)), Some(id(1, 7))));
    }
}

/// A crash in the middle of an append leaves all of it or nothing.
#[test]
fn an_append_is_whole_or_not_there() {
    let (mut whole, mut nothing) = (0, 0);
    for seed in 0..60 {
        let memory = MemoryDisk::new();
        let faulty = FaultyDisk::new(Arc::new(memory.clone()));
        let disk: SharedDisk = Arc::new(faulty.clone());
        let mut books = Books::create(&disk, dir(), &identity()).unwrap();
        books.append(&encoded(0..5)).unwrap();
        // The power goes before one of the calls that the append makes.
        let (on, nth) = if seed % 4 == 0 { (Operation::Sync, 1) } else { (Operation::Write, 1 + seed % 7) };
        faulty.add(Rule::new(on, Fault::Io).nth(nth).forever());
        let appended = books.append(&encoded(5..9)).is_ok();
        faulty.clear();
        let crashed: SharedDisk = Arc::new(memory.crash(&mut SeededChance::new(seed)));
        let found = open(&crashed).unwrap().entries(..).unwrap().len();
        assert!(found == 9 || (found == 5 && !appended), "seed {seed}: {found} entries");
        if found == 9 { whole += 1 } else { nothing += 1 }
    }
    assert!(whole > 0 && nothing > 0, "{whole} {nothing}");
}

#[test]
fn a_damaged_entry_is_found_at_the_start() {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let mut books = Books::create(&disk, dir(), &identity()).unwrap();
    books.append(&encoded(0..50)).unwrap();
    drop(books);
    let file = disk.open(&dir().join("log.redb")).unwrap();
    let mut bytes = vec![0; DiskFile::len(file.as_ref()).unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    let text = b"\"t27\"";
    let places: Vec<usize> = (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text)).collect();
    assert!(!places.is_empty());
    for at in places {
        file.write_at(at as u64 + 1, &[IoSlice::new(b"u")]).unwrap();
    }
    let error = open(&disk).unwrap_err().to_string();
    assert!(error.contains("log.redb` is damaged"), "{error}");
}

#[test]
fn one_folder_serves_one_process() {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let books = Books::create(&disk, dir(), &identity()).unwrap();
    let error = Books::open(&disk, dir()).unwrap_err();
    assert!(matches!(&error, OpenError::Io { error, .. } if error.kind() == ErrorKind::WouldBlock), "{error}");
    drop(books);
    open(&disk).unwrap();
}

#[tokio::test]
async fn a_full_disk_makes_a_change_wait_and_says_so() {
    let memory = MemoryDisk::new();
    let faulty = FaultyDisk::new(Arc::new(memory.clone()));
    let disk: SharedDisk = Arc::new(faulty.clone());
    let books = Books::create(&disk, dir(), &identity()).unwrap();
    let (told, mut full) = watch::channel(false);
    let (mut log, closing) = LogStore::start(books, Desk::Thread, told).unwrap();
    faulty.add(Rule::new(Operation::Write, Fault::NoSpace).forever());
    let mut other = log.clone();
    let vote = Vote::new(7, NodeId(1));
    let saving = gantry_platform::tasks::spawn("saves", async move { other.save_vote(&vote).await });
    full.wait_for(|full| *full).await.unwrap();
    assert!(!saving.is_finished());
    faulty.clear();
    saving.join().await.unwrap().unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert!(!*full.borrow());
    log.close();
    closing.wait();
    assert!(log.read_vote().await.is_err(), "it is closed");
}

#[tokio::test]
async fn who_waits_for_room_is_let_go_at_the_end() {
    let faulty = FaultyDisk::new(Arc::new(MemoryDisk::new()));
    let disk: SharedDisk = Arc::new(faulty.clone());
    let books = Books::create(&disk, dir(), &identity()).unwrap();
    let (told, mut full) = watch::channel(false);
    let (mut log, closing) = LogStore::start(books, Desk::Thread, told).unwrap();
    faulty.add(Rule::new(Operation::Write, Fault::NoSpace).forever());
    let mut other = log.clone();
    let saving = gantry_platform::tasks::spawn("saves", async move { other.save_vote(&Vote::new(7, NodeId(1))).await });
    full.wait_for(|full| *full).await.unwrap();
    log.give_up_waiting();
    assert!(saving.join().await.unwrap().is_err());
    log.close();
    closing.wait();
    assert!(log.try_get_log_entries(0..1).await.is_err());
}

#[tokio::test]
async fn entries_come_back_in_our_bytes() {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let books = Books::create(&disk, dir(), &identity()).unwrap();
    let (mut log, _) = LogStore::start(books, Desk::Caller, watch::Sender::new(false)).unwrap();
    log.blocking_append([entry(1, 0), entry(1, 1)]).await.unwrap();
    assert_eq!(log.try_get_log_entries(0..2).await.unwrap(), [entry(1, 0), entry(1, 1)]);
    // The stored form of an entry is forever.
    let (index, bytes) = encode_entry(&Entry {
        log_id: id(2, 9),
        payload: EntryPayload::Normal(Proposal {
            request: RequestId(0x0102),
            time_ms: 5,
            event: crate::state::event::Event::ClusterRenamed { name: "b".into() }.into(),
        }),
    });
    assert_eq!(index, 9);
    let text =
        "0a060802100118091a3b0a100000000000000000000000000000010210051a257b2274797065223a22636c75737465725f72656e616d6564222c226e616d65223a2262227d";
    assert_eq!(hex::encode(&bytes[4..]), text);
}

fn state(topics: u64) -> State {
    let mut state = State::default();
    state.apply(&founded());
    (0..topics).for_each(|number| _ = state.take(RequestId(u128::from(number)), 7, &topic(&format!("t{number}"))));
    state
}

#[test]
fn the_newest_two_snapshots_are_kept_and_the_older_stands_in() {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    disk.create_dir_all(dir()).unwrap();
    let snapshots = Snapshots::new(disk.clone(), dir());
    for index in [10, 20, 30] {
        snapshots.write(Some(id(1, index)), &StoredMembership::default(), &state(index)).unwrap();
    }
    let names: Vec<_> = disk.list(dir()).unwrap().iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["snapshot-00000000000000000020", "snapshot-00000000000000000030"]);
    let loaded = snapshots.newest(Some(id(1, 12))).unwrap().unwrap();
    assert_eq!((loaded.meta.last_log_id, super::world::image(&loaded.state)), (Some(id(1, 30)), super::world::image(&state(30))));

    let file = disk.open(&dir().join(&names[1])).unwrap();
    file.write_at(200, &[IoSlice::new(b"\xff")]).unwrap();
    assert_eq!(snapshots.newest(Some(id(1, 12))).unwrap().unwrap().meta.last_log_id, Some(id(1, 20)));
    let error = snapshots.newest(Some(id(1, 22))).unwrap_err().to_string();
    assert!(error.contains("snapshot-00000000000000000030` is damaged: the checksum is wrong"), "{error}");
}

#[test]
fn a_log_that_begins_after_all_snapshots_is_refused() {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    disk.create_dir_all(dir()).unwrap();
    let error = Snapshots::new(disk, dir()).newest(Some(id(1, 5))).unwrap_err().to_string();
    assert!(error.contains("the log begins after entry 5, and no snapshot holds what came before"), "{error}");
}
