//! One node on a real thread: one order, restarts, what a failing disk does, and who learns of a change.

use super::world::{cluster_id, founded, name, topic};
use crate::consensus::{Begin, Consensus, OpenError, Pace, ProposeError, RequestId, Settings};
use crate::state::event::Event;
use crate::state::{Applied, Effect, State};
use gantry_model::contract::metadata::{MetadataError, Version};
use gantry_platform::disk::faulty::{Fault, Operation, Rule};
use gantry_platform::disk::{Disk, Space};
use gantry_platform::{FaultyDisk, MemoryDisk, SeededChance, SystemClock, tasks};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn disk() -> FaultyDisk {
    FaultyDisk::new(Arc::new(MemoryDisk::new()))
}

async fn try_open(disk: &FaultyDisk, cluster: &str, pace: Pace) -> Result<Consensus, OpenError> {
    let settings = Settings::alone(Arc::new(disk.clone()), Path::new("/controller"), Arc::new(SystemClock::new()), Box::new(SeededChance::new(1)));
    Consensus::open(Settings { pace, ..settings }, Begin::Found { cluster: cluster.into() }, Some(cluster)).await
}

async fn open(disk: &FaultyDisk) -> Consensus {
    open_at(disk, Pace::default()).await
}

async fn open_at(disk: &FaultyDisk, pace: Pace) -> Consensus {
    let consensus = try_open(disk, &cluster_id(), pace).await.unwrap();
    consensus.barrier().await.unwrap();
    if consensus.read(|state| state.cluster().is_none()) {
        consensus.propose(founded()).await.unwrap();
    }
    consensus
}

fn has(consensus: &Consensus, text: &str) -> bool {
    consensus.read(|state| state.topic(&name(text)).is_some())
}

#[tokio::test]
async fn what_was_proposed_is_seen_at_once_and_after_a_restart() {
    let disk = disk();
    let consensus = open(&disk).await;
    let applied = consensus.propose(topic("a")).await.unwrap();
    assert_eq!(applied.version, Version(2));
    assert!(matches!(applied.effect, Effect::Topic(topic) if topic.name == name("a")));
    assert!(has(&consensus, "a"));
    consensus.close().await;
    let consensus = open(&disk).await;
    assert_eq!(consensus.read(State::version), Version(2));
    assert!(has(&consensus, "a"));
}

#[tokio::test]
async fn a_refusal_is_an_effect_and_takes_its_place_in_the_order() {
    let consensus = open(&disk()).await;
    let applied = consensus.propose(Event::TopicDeleted { name: name("a") }).await.unwrap();
    assert!(matches!(applied, Applied { version: Version(2), effect: Effect::Refused(MetadataError::NotFound { .. }) }));
}

#[tokio::test]
async fn the_same_request_happens_once_also_after_a_restart() {
    let disk = disk();
    let consensus = open(&disk).await;
    let first = consensus.propose_as(RequestId(7), topic("a")).await.unwrap();
    consensus.propose(Event::TopicDeleted { name: name("a") }).await.unwrap();
    let again = consensus.propose_as(RequestId(7), topic("a")).await.unwrap();
    assert_eq!(again.version, first.version);
    assert!(matches!(again.effect, Effect::Refused(MetadataError::NotFound { .. })), "it was made and deleted since");
    assert!(!has(&consensus, "a"));
    consensus.snapshot().await.unwrap();
    consensus.close().await;
    let consensus = open(&disk).await;
    assert_eq!(consensus.propose_as(RequestId(7), topic("a")).await.unwrap().version, first.version);
    assert!(!has(&consensus, "a"));
}

#[tokio::test]
async fn the_disk_is_checked_for_room_before_anything_is_proposed() {
    let disk = disk();
    let consensus = open(&disk).await;
    disk.pretend_space(Some(Space { total: 1 << 30, free: 1 << 20 }));
    assert_eq!(consensus.propose(topic("b")).await, Err(ProposeError::DiskFull));
    assert!(!has(&consensus, "b"));
    disk.pretend_space(None);
    assert_eq!(consensus.propose(topic("c")).await.unwrap().version, Version(2));
}

#[tokio::test]
async fn a_disk_that_becomes_full_holds_the_change_until_there_is_room() {
    let disk = disk();
    let consensus = open_at(&disk, Pace { patience: Duration::from_millis(100), ..Pace::default() }).await;
    disk.add(Rule::new(Operation::Write, Fault::NoSpace).forever());
    let held = consensus.propose(topic("b")).await;
    assert!(matches!(held, Err(ProposeError::Unknown { .. })), "{held:?}");
    assert!(consensus.status().disk_full);
    assert_eq!(consensus.propose(topic("c")).await, Err(ProposeError::DiskFull));
    assert!(!has(&consensus, "b"), "reads go on, and nothing shows that isn't durable");
    let mut versions = consensus.watch();
    disk.clear();
    versions.wait_for(|version| *version == Version(2)).await.unwrap();
    assert!(has(&consensus, "b") && !has(&consensus, "c"));
    consensus.close().await;
    assert!(has(&open(&disk).await, "b"));
}

#[tokio::test]
async fn a_failed_sync_ends_all_changes_but_not_reading() {
    let memory = MemoryDisk::new();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    let consensus = open(&disk).await;
    consensus.propose(topic("a")).await.unwrap();
    disk.add(Rule::new(Operation::Sync, Fault::Io));
    assert!(matches!(consensus.propose(topic("b")).await, Err(ProposeError::Failed { .. })));
    disk.clear();
    assert!(matches!(consensus.propose(topic("c")).await, Err(ProposeError::Failed { .. })));
    assert!(consensus.status().failed.is_some());
    assert!(has(&consensus, "a") && !has(&consensus, "b"));
    consensus.close().await;
    let consensus = open(&FaultyDisk::new(Arc::new(memory))).await;
    assert!(has(&consensus, "a") && !has(&consensus, "c"));
}

#[tokio::test]
async fn a_change_costs_one_sync_and_those_that_wait_share_theirs() {
    let disk = disk();
    let consensus = Arc::new(open(&disk).await);
    let before = disk.count(Operation::Sync);
    consensus.propose(topic("one")).await.unwrap();
    let one = disk.count(Operation::Sync) - before;
    // The next sync is held until all others wait.
    let (held, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    disk.add(Rule::new(Operation::Sync, Fault::Slow(Arc::new(move |_| _ = wait.lock().unwrap().recv()))));
    let before = disk.count(Operation::Sync);
    let propose = |number: u32| {
        let consensus = consensus.clone();
        tasks::spawn("proposer", async move { consensus.propose(topic(&format!("t{number}"))).await.unwrap() })
    };
    let mut proposals: Vec<_> = (0..50).map(propose).collect();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    held.send(()).unwrap();
    let mut versions = Vec::new();
    for proposal in proposals.drain(..) {
        versions.push(proposal.join().await.unwrap().version.0);
    }
    versions.sort_unstable();
    assert_eq!(versions, (3..53).collect::<Vec<_>>());
    let many = disk.count(Operation::Sync) - before;
    assert!(one <= 2 && many <= 50 * one, "{one} syncs for one, {many} for fifty");
}

#[tokio::test]
async fn a_snapshot_shortens_the_log_and_gives_back_the_state() {
    let disk = disk();
    let pace = Pace { snapshot_every: 20, ..Pace::default() };
    let consensus = open_at(&disk, pace).await;
    for number in 0..100 {
        consensus.propose(topic(&format!("t{number}"))).await.unwrap();
    }
    consensus.snapshot().await.unwrap();
    let image = consensus.read(super::world::image);
    consensus.close().await;
    let consensus = open_at(&disk, pace).await;
    assert_eq!(consensus.read(super::world::image), image);
    let snapshots = disk.list(Path::new("/controller")).unwrap();
    assert_eq!(snapshots.iter().filter(|path| path.to_string_lossy().contains("snapshot-")).count(), 2);
}

#[tokio::test]
async fn a_snapshot_that_fails_harms_nothing() {
    let disk = disk();
    let consensus = open_at(&disk, Pace { patience: Duration::from_millis(200), ..Pace::default() }).await;
    consensus.propose(topic("a")).await.unwrap();
    disk.add(Rule::new(Operation::Rename, Fault::NoSpace).forever());
    assert!(matches!(consensus.snapshot().await, Err(ProposeError::Failed { .. })));
    consensus.propose(topic("b")).await.unwrap();
    consensus.close().await;
    disk.clear();
    let consensus = open(&disk).await;
    consensus.snapshot().await.unwrap();
    assert!(has(&consensus, "a") && has(&consensus, "b"));
}

#[tokio::test]
async fn a_start_reads_nothing_old() {
    let disk = disk();
    let mut expected = Version(1);
    open(&disk).await.close().await;
    for round in 0..20 {
        let consensus = open(&disk).await;
        assert_eq!(consensus.barrier().await.unwrap(), expected, "round {round}");
        expected = consensus.propose(topic(&format!("t{round}"))).await.unwrap().version;
        consensus.close().await;
    }
}

#[tokio::test]
async fn a_folder_of_another_cluster_is_refused_and_left_as_it_is() {
    let disk = disk();
    let consensus = open(&disk).await;
    consensus.propose(topic("a")).await.unwrap();
    consensus.close().await;
    let error = try_open(&disk, &"d".repeat(32), Pace::default()).await.unwrap_err();
    assert!(matches!(error, OpenError::OtherCluster { .. }), "{error}");
    assert!(has(&open(&disk).await, "a"));
}

#[tokio::test]
async fn a_folder_without_its_log_is_refused() {
    let disk = disk();
    let consensus = open(&disk).await;
    consensus.snapshot().await.unwrap();
    consensus.close().await;
    disk.remove(Path::new("/controller/log.redb")).unwrap();
    let error = try_open(&disk, &cluster_id(), Pace::default()).await.unwrap_err();
    assert!(error.to_string().contains("the log is missing, though there are snapshots of it"), "{error}");
}

#[tokio::test]
async fn watchers_learn_of_every_change() {
    let consensus = open(&disk()).await;
    let mut versions = consensus.watch();
    assert_eq!(*versions.borrow_and_update(), Version(1));
    consensus.propose(topic("a")).await.unwrap();
    assert_eq!(*versions.borrow_and_update(), Version(2));
}

#[tokio::test]
async fn a_node_that_stands_alone_gives_its_lead_to_nobody_and_stays() {
    let consensus = open(&disk()).await;
    assert!(matches!(consensus.hand_over(None).await, Err(ProposeError::NoLeader { .. })));
    let own = consensus.status().node;
    assert!(matches!(consensus.remove(own).await, Err(ProposeError::Failed { .. })));
    consensus.propose(topic("a")).await.unwrap();
}
