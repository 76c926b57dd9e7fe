//! Files written by earlier versions, which every later version must read.

#![allow(clippy::unwrap_used)]

use gantry_controller::{Controller, Options};
use gantry_model::contract::Metadata;
use gantry_model::group::{Order, RetryPolicy, StartPosition};
use gantry_model::topic::{Permission, QueueState, Retention, TopicType};
use gantry_model::{GroupName, TopicName};
use gantry_platform::{Disk, ManualClock, MemoryDisk, SeededChance};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "/data/controller";

fn open(disk: Arc<MemoryDisk>) -> Arc<Controller> {
    let options = Options { cluster_name: None, cluster_id: None, shards: 3, last_end: Default::default() };
    Controller::open(disk, Path::new(DIR), Arc::new(ManualClock::new(2_000)), Box::new(SeededChance::new(1)), options).unwrap()
}

fn disk_with(files: &[(&str, &[u8])]) -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    for (name, bytes) in files {
        disk.create(&Path::new(DIR).join(name)).unwrap().write_at(0, &[IoSlice::new(bytes)]).unwrap();
    }
    Arc::new(disk)
}

/// What version 1 wrote: a snapshot with a shrunk topic and a group, and a journal that changes them and adds a topic.
#[test]
fn files_of_version_1_are_read() {
    let files: [(&str, &[u8]); 2] = [("snapshot", include_bytes!("golden/v1/snapshot")), ("journal", include_bytes!("golden/v1/journal"))];
    let controller = open(disk_with(&files));
    assert_eq!((controller.version().0, controller.cluster().id.as_str()), (8, "0123456789abcdef0123456789abcdef"));
    assert!(format!("{:?}", controller.handle_keys()).contains("signing: 1"));

    let orders = controller.topic(&TopicName::parse("shop", "orders").unwrap()).unwrap();
    assert_eq!((orders.id.0, orders.kind, orders.permission, orders.created_ms), (1, TopicType::Fifo, Permission::Read, 1_000));
    assert_eq!(orders.retention, Retention { age_ms: Some(60_000), bytes: None });
    let states: Vec<_> = orders.queues().map(|(_, queue)| (queue.shard.0, queue.state)).collect();
    assert_eq!(states, [(1, QueueState::Active), (2, QueueState::Active), (0, QueueState::ReadOnly), (1, QueueState::ReadOnly)]);

    let group = controller.group(&GroupName::parse("", "payments").unwrap()).unwrap();
    assert_eq!((group.id.0, group.dead_letter.0, group.order, group.max_attempts), (1, 2, Order::Fifo, 5));
    assert_eq!((group.retry.clone(), group.start), (RetryPolicy::Customized { delays_ms: vec![1, 2] }, StartPosition::Earliest));
    assert_eq!(controller.topic_by_id(group.dead_letter).unwrap().name.name, "%DLQ%payments");
    assert_eq!(controller.topics(None, 10).len(), 3);
}
