//! Tests of the façade: one order, shared syncs, what a failing disk does, and who learns of a change.

#![allow(clippy::unwrap_used)]

use super::*;
use gantry_model::TopicName;
use gantry_model::topic::TopicSpec;
use gantry_platform::disk::faulty::{Fault, Operation, Rule};
use gantry_platform::{FaultyDisk, MemoryDisk};
use std::sync::mpsc as channel;

fn founded() -> Event {
    Event::ClusterCreated { id: "c".repeat(32), name: "gantry".into(), shards: 1, time_ms: 0 }
}

fn name(text: &str) -> TopicName {
    TopicName::parse("", text).unwrap()
}

fn topic(text: &str) -> Event {
    Event::TopicCreated { topic: TopicSpec::on_first_use(name(text)), time_ms: 1 }
}

fn open(disk: &FaultyDisk) -> Consensus {
    let first = |state: &State| Ok(if state.cluster().is_none() { vec![founded()] } else { Vec::new() });
    Consensus::open(Arc::new(disk.clone()), Path::new("/controller"), JOURNAL_MAX, LastEnd::Unknown, first).unwrap()
}

fn disk() -> FaultyDisk {
    FaultyDisk::new(Arc::new(MemoryDisk::new()))
}

#[tokio::test]
async fn what_was_proposed_is_seen_at_once_and_after_a_restart() {
    let disk = disk();
    let consensus = open(&disk);
    let applied = consensus.propose(topic("a")).await.unwrap();
    assert_eq!(applied.version, Version(2));
    assert!(matches!(applied.effect, Effect::Topic(topic) if topic.name == name("a")));
    assert!(consensus.read(|state| state.topic(&name("a")).is_some()));
    drop(consensus);
    let consensus = open(&disk);
    assert_eq!(consensus.read(State::version), Version(2));
    assert!(consensus.read(|state| state.topic(&name("a")).is_some()));
}

#[tokio::test]
async fn a_refusal_is_an_effect_and_takes_its_place_in_the_order() {
    let consensus = open(&disk());
    let applied = consensus.propose(Event::TopicDeleted { name: name("a") }).await.unwrap();
    assert!(matches!(applied, Applied { version: Version(2), effect: Effect::Refused(MetadataError::NotFound { .. }) }));
}

#[tokio::test]
async fn proposals_that_wait_for_the_disk_share_one_sync() {
    let disk = disk();
    let consensus = Arc::new(open(&disk));
    // The first sync is held until all others wait in the inbox.
    let (held, wait) = channel::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    disk.add(Rule::new(Operation::Sync, Fault::Slow(Arc::new(move |_| _ = wait.lock().unwrap().recv()))));
    let before = disk.count(Operation::Sync);
    let propose = |number: u32| {
        let consensus = consensus.clone();
        tasks::spawn("proposer", async move { consensus.propose(topic(&format!("t{number}"))).await })
    };
    let mut proposals = vec![propose(0)];
    while disk.count(Operation::Sync) == before {
        tokio::task::yield_now().await;
    }
    proposals.extend((1..50).map(propose));
    while consensus.inbox.as_ref().unwrap().capacity() > INBOX - 49 {
        tokio::task::yield_now().await;
    }
    held.send(()).unwrap();
    let mut versions = Vec::new();
    for proposal in proposals {
        versions.push(proposal.join().await.unwrap().unwrap().version.0);
    }
    versions.sort_unstable();
    assert_eq!(versions, (2..52).collect::<Vec<_>>());
    assert_eq!(disk.count(Operation::Sync) - before, 2);
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let disk = disk();
    let consensus = open(&disk);
    consensus.propose(topic("a")).await.unwrap();
    disk.add(Rule::new(Operation::Write, Fault::NoSpace));
    assert_eq!(consensus.propose(topic("b")).await, Err(ProposeError::DiskFull));
    assert!(consensus.read(|state| state.topic(&name("b")).is_none()));
    let applied = consensus.propose(topic("c")).await.unwrap();
    assert_eq!(applied.version, Version(3));
    drop(consensus);
    let consensus = open(&disk);
    let there = ["a", "b", "c"].map(|text| consensus.read(|state| state.topic(&name(text)).is_some()));
    assert_eq!(there, [true, false, true]);
}

#[tokio::test]
async fn a_failed_sync_ends_all_changes_but_not_reading() {
    let disk = disk();
    let consensus = open(&disk);
    consensus.propose(topic("a")).await.unwrap();
    disk.add(Rule::new(Operation::Sync, Fault::Io));
    assert!(matches!(consensus.propose(topic("b")).await, Err(ProposeError::Failed { .. })));
    disk.clear();
    assert!(matches!(consensus.propose(topic("c")).await, Err(ProposeError::Failed { .. })));
    assert!(consensus.read(|state| state.topic(&name("a")).is_some() && state.topic(&name("b")).is_none()));
}

#[tokio::test]
async fn a_failed_snapshot_leaves_the_journal_as_it_was() {
    let disk = disk();
    let consensus = open(&disk);
    consensus.propose(topic("a")).await.unwrap();
    disk.add(Rule::new(Operation::Rename, Fault::Io));
    assert!(consensus.snapshot().await.is_err());
    consensus.propose(topic("b")).await.unwrap();
    consensus.snapshot().await.unwrap();
    consensus.propose(topic("c")).await.unwrap();
    drop(consensus);
    assert_eq!(open(&disk).read(|state| state.topics_after(None).count()), 3);
}

#[tokio::test]
async fn watchers_learn_of_every_change() {
    let consensus = open(&disk());
    let mut versions = consensus.watch();
    assert_eq!(*versions.borrow_and_update(), Version(1));
    consensus.propose(topic("a")).await.unwrap();
    assert_eq!(*versions.borrow_and_update(), Version(2));
}
