//! The controller as other roles see it: through the `Metadata` contract, over restarts.

#![allow(clippy::unwrap_used)]

use gantry_controller::{Controller, OpenError, Options, Settings};
use gantry_model::contract::Metadata;
use gantry_model::contract::metadata::{MetadataError, Version};
use gantry_model::group::{GroupChange, GroupSpec};
use gantry_model::topic::{TopicChange, TopicSpec};
use gantry_model::{GroupName, LeaseId, Offset, QueueId, ReceiptHandle, ShardId, TopicName};
use gantry_platform::{Disk, DiskFile, ManualClock, MemoryDisk, SeededChance, tasks};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

struct Machine {
    disk: Arc<MemoryDisk>,
    clock: Arc<ManualClock>,
}

impl Machine {
    fn new() -> Machine {
        Machine { disk: Arc::new(MemoryDisk::new()), clock: Arc::new(ManualClock::new(1_000)) }
    }

    async fn open(&self, options: Options) -> Result<Arc<Controller>, OpenError> {
        let settings = Settings::alone(self.disk.clone(), Path::new("/data/controller"), self.clock.clone(), Box::new(SeededChance::new(1)));
        Controller::open(settings, options).await
    }

    async fn start(&self) -> Arc<Controller> {
        self.open(standalone()).await.unwrap()
    }
}

fn standalone() -> Options {
    Options { cluster_name: None, cluster_id: None, shards: Some(1), join: None }
}

fn topic(name: &str) -> TopicName {
    TopicName::parse("", name).unwrap()
}

fn group(name: &str) -> GroupName {
    GroupName::parse("", name).unwrap()
}

#[tokio::test]
async fn an_empty_folder_becomes_a_cluster_that_keeps_its_identity() {
    let machine = Machine::new();
    let controller = machine.start().await;
    let (cluster, keys) = (controller.cluster(), controller.handle_keys());
    assert_eq!((cluster.id.len(), cluster.name.as_str(), cluster.shards), (32, "gantry", 1));
    let handle = ReceiptHandle {
        shard: ShardId(0),
        topic: gantry_model::TopicId(1),
        group: gantry_model::GroupId(1),
        queue: QueueId(0),
        offset: Offset(0),
        lease: LeaseId(1),
        reset: 0,
        attempt: 1,
    };
    let text = keys.sign(&handle);
    controller.close().await;
    let controller = machine.start().await;
    assert_eq!(controller.cluster(), cluster);
    assert_eq!(controller.handle_keys().verify(&text), Ok(handle), "handles survive a restart");
}

#[tokio::test]
async fn a_folder_of_another_cluster_is_refused() {
    let machine = Machine::new();
    let id = "0123456789abcdef".repeat(2);
    machine.open(Options { cluster_id: Some(id.clone()), ..standalone() }).await.unwrap().close().await;
    machine.open(Options { cluster_id: Some(id), ..standalone() }).await.unwrap().close().await;
    assert!(matches!(machine.open(Options { cluster_id: Some("f".repeat(32)), ..standalone() }).await, Err(OpenError::OtherCluster { .. })));
    assert!(matches!(machine.open(Options { shards: Some(3), ..standalone() }).await, Err(OpenError::OtherShards { found: 1, wanted: 3 })));
    assert!(matches!(machine.open(Options { cluster_name: Some("a b".into()), ..standalone() }).await, Err(OpenError::Refused(_))));
}

#[tokio::test]
async fn the_cluster_takes_the_name_it_is_given_and_keeps_it() {
    let machine = Machine::new();
    machine.start().await.close().await;
    machine.open(Options { cluster_name: Some("prod".into()), ..standalone() }).await.unwrap().close().await;
    assert_eq!(machine.start().await.cluster().name, "prod");
}

#[tokio::test]
async fn topics_are_created_found_changed_and_deleted() {
    let controller = Machine::new().start().await;
    let made = controller.create_topic(TopicSpec::on_first_use(topic("orders"))).await.unwrap();
    assert_eq!(made.created_ms, 1_000);
    assert_eq!(controller.topic(&topic("orders")), Some(made.clone()));
    assert_eq!(controller.topic_by_id(made.id), Some(made.clone()));
    let more = controller.update_topic(&topic("orders"), TopicChange { queues: Some(12), ..TopicChange::default() }).await.unwrap();
    assert_eq!((more.id, more.queues.len()), (made.id, 12));
    controller.delete_topic(&topic("orders")).await.unwrap();
    assert_eq!(controller.topic(&topic("orders")), None);
    assert_eq!(controller.delete_topic(&topic("orders")).await, Err(MetadataError::NotFound { what: "topic `orders`".into() }));
}

#[tokio::test]
async fn groups_are_created_found_changed_and_deleted() {
    let controller = Machine::new().start().await;
    let made = controller.create_group(GroupSpec::on_first_use(group("payments"))).await.unwrap();
    assert_eq!(controller.topic_by_id(made.dead_letter).unwrap().name, topic("%DLQ%payments"));
    let fewer = controller.update_group(&group("payments"), GroupChange { max_attempts: Some(3), ..GroupChange::default() }).await.unwrap();
    assert_eq!((fewer.id, fewer.max_attempts), (made.id, 3));
    assert_eq!(controller.groups(None, 10), vec![fewer.clone()]);
    assert_eq!(controller.group_by_id(made.id), Some(fewer));
    controller.delete_group(&group("payments")).await.unwrap();
    assert_eq!((controller.group(&group("payments")), controller.topics(None, 10)), (None, vec![]));
}

#[tokio::test]
async fn what_changes_nothing_is_not_written() {
    let controller = Machine::new().start().await;
    let spec = TopicSpec::on_first_use(topic("t"));
    let made = controller.create_topic(spec.clone()).await.unwrap();
    let version = controller.version();
    assert_eq!(controller.create_topic(spec.clone()).await, Ok(made));
    let other = TopicSpec { queues: 1, ..spec };
    assert_eq!(controller.create_topic(other).await, Err(MetadataError::Exists { what: "topic `t`".into() }));
    assert!(controller.delete_group(&group("g")).await.is_err());
    assert_eq!(controller.version(), version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_users_of_one_topic_get_the_same_topic() {
    let controller = Machine::new().start().await;
    let users: Vec<_> = (0..64)
        .map(|_| {
            let controller = controller.clone();
            tasks::spawn("proposer", async move { controller.create_topic(TopicSpec::on_first_use(topic("t"))).await.unwrap() })
        })
        .collect();
    for user in users {
        assert_eq!(user.join().await.unwrap().id.0, 1);
    }
}

#[tokio::test]
async fn a_change_wakes_those_who_wait_for_it() {
    let controller = Machine::new().start().await;
    let version = controller.version();
    assert_eq!(controller.changed(Version(0)).await, version, "what is past is answered at once");
    let waiter = tasks::spawn("waiter", {
        let controller = controller.clone();
        async move { controller.changed(version).await }
    });
    tokio::task::yield_now().await;
    controller.create_topic(TopicSpec::on_first_use(topic("t"))).await.unwrap();
    assert!(waiter.join().await.unwrap() > version);
}

#[tokio::test]
async fn keys_are_replaced_every_thirty_days() {
    let machine = Machine::new();
    let controller = machine.start().await;
    let version = controller.version();
    controller.rotate_keys().await.unwrap();
    assert_eq!(controller.version(), version, "a young key stays");
    machine.clock.advance(Duration::from_secs(31 * 24 * 3600));
    controller.rotate_keys().await.unwrap();
    assert!(controller.version() > version);
    let text = format!("{:?}", controller.handle_keys());
    controller.close().await;
    assert_eq!(format!("{:?}", machine.start().await.handle_keys()), text);
    assert!(text.contains("signing: 2"), "{text}");
}

#[tokio::test]
async fn a_topic_of_two_hundred_thousand_queues_is_small_on_disk() {
    let machine = Machine::new();
    let controller = machine.start().await;
    controller.create_topic(TopicSpec { queues: 200_000, ..TopicSpec::on_first_use(topic("wide")) }).await.unwrap();
    controller.update_topic(&topic("wide"), TopicChange { queues: Some(150_000), ..TopicChange::default() }).await.unwrap();
    controller.snapshot().await.unwrap();
    controller.close().await;
    let files = machine.disk.list(Path::new("/data/controller")).unwrap();
    let snapshot = files.iter().find(|path| path.to_string_lossy().contains("snapshot-")).unwrap();
    let snapshot = machine.disk.open(snapshot).unwrap();
    let len = DiskFile::len(snapshot.as_ref()).unwrap();
    assert!(len < 2_000, "{len} bytes");
    assert_eq!(machine.start().await.topic(&topic("wide")).unwrap().queues.len(), 200_000);
}
