//! Delayed messages when the disk is slow, full or broken for a while: they wait, and none is lost or stops another for good.

use gantry_broker::{LocalBroker, Options};
use gantry_crash::catalogue::{self, TOPIC};
use gantry_crash::workload::options;
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{SendRequest, ShardCondition, ShardStatus};
use gantry_model::{ClientId, Message, MessageKind};
use gantry_platform::clock::{Clock, ManualClock, sleep};
use gantry_platform::disk::faulty::{Fault, FaultyDisk, Operation, Rule};
use gantry_platform::disk::memory::MemoryDisk;
use gantry_platform::disk::{Disk, Space};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const COUNT: u64 = 20;
const DELAY_MS: u64 = 60_000;

struct World {
    disk: FaultyDisk,
    clock: Arc<ManualClock>,
    broker: Arc<LocalBroker>,
}

impl World {
    /// A shard that was started again since its messages were stored, so that it has to read them from the disk.
    async fn new() -> World {
        let disk = FaultyDisk::new(Arc::new(MemoryDisk::new()));
        disk.create_dir_all(Path::new("/data")).expect("a memory disk");
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let opened = || LocalBroker::open(Options { clock: clock.clone(), ..options(Arc::new(disk.clone())) }).expect("the shard opens");
        let broker = opened();
        for number in 0..COUNT {
            let (id, deliver_ms) = (format!("{number:032x}"), Some(clock.wall_ms() + DELAY_MS + number));
            let message = Message { id, kind: MessageKind::Delay, deliver_ms, body: "body".into(), ..Message::default() };
            let request =
                SendRequest { topic: catalogue::new().the_topic(TOPIC), messages: vec![message], client: ClientId::new("p"), wait: Duration::ZERO };
            assert!(broker.send(request).await[0].is_ok());
        }
        broker.close();
        World { broker: opened(), disk: disk.clone(), clock }
    }

    async fn pass(&self, ms: u64) -> ShardStatus {
        self.clock.advance(Duration::from_millis(ms));
        // The shard's thread sleeps by the machine's clock; a request wakes it.
        for _ in 0..3 {
            self.broker.release(Vec::new());
            sleep(Duration::from_millis(3)).await;
        }
        let status = self.broker.shards().await.remove(0);
        assert_ne!(status.condition, ShardCondition::Failed);
        status
    }

    /// Lets time pass in steps until all messages are released.
    async fn until_released(&self, step_ms: u64) {
        for _ in 0..200 {
            let status = self.pass(step_ms).await;
            assert_eq!((status.timers_pending + status.timers_released, status.timers_damaged), (COUNT, 0));
            if status.timers_released == COUNT {
                return;
            }
        }
        panic!("they are never released");
    }
}

#[tokio::test]
async fn messages_that_are_not_in_memory_are_asked_for_and_then_waited_for() {
    let world = World::new().await;
    world.disk.add(Rule::new(Operation::Read, Fault::WouldBlock).path_contains("log").forever());
    assert_eq!(world.pass(DELAY_MS + COUNT).await.timers_released, 0, "the shard doesn't wait for the disk at once");
    world.until_released(2).await;
}

#[tokio::test]
async fn messages_that_cannot_be_read_for_a_while_are_released_later() {
    let world = World::new().await;
    for n in 1..=6 {
        world.disk.add(Rule::new(Operation::Read, Fault::Io).path_contains("log").nth(n));
    }
    assert_eq!(world.pass(DELAY_MS + COUNT).await.timers_released, 0);
    world.until_released(500).await;
}

#[tokio::test]
async fn one_bit_that_was_read_wrong_loses_no_message() {
    let world = World::new().await;
    world.disk.add(Rule::new(Operation::Read, Fault::FlipBit { bit: 800 }).path_contains("log"));
    world.pass(DELAY_MS + COUNT).await;
    world.until_released(2).await;
}

#[tokio::test]
async fn messages_wait_while_the_disk_is_full() {
    let world = World::new().await;
    world.disk.pretend_space(Some(Space { total: 100, free: 2 }));
    assert_eq!(world.pass(2_000).await.condition, ShardCondition::Full);
    for _ in 0..5 {
        assert_eq!(world.pass(DELAY_MS).await.timers_released, 0);
    }
    world.disk.pretend_space(None);
    world.until_released(1_000).await;
}
