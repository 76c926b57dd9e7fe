//! Delayed messages on a real shard with small files: over index runs, checkpoints, retention that moves them, and crashes, each is delivered once
//! and not before its time, unless it was taken back.

use bytes::Bytes;
use gantry_broker::{LocalBroker, Options, Retention};
use gantry_crash::catalogue::{self, Catalogue, GROUP, TOPIC};
use gantry_crash::workload::options;
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{LeaseTerm, Query, RecallError, ReceiveRequest, SendRequest, Ticket};
use gantry_model::handle::RecallHandle;
use gantry_model::{ClientId, Filter, Message, MessageKind, Offset, QueueId, QueueKey};
use gantry_platform::chance::{Chance, SeededChance};
use gantry_platform::clock::{Clock, ManualClock, sleep};
use gantry_platform::disk::Disk;
use gantry_platform::disk::memory::MemoryDisk;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const START: u64 = 1_700_000_000_000;
const SECOND: u64 = 1_000;

struct World {
    disk: MemoryDisk,
    clock: Arc<ManualClock>,
    catalogue: Arc<Catalogue>,
    broker: Arc<LocalBroker>,
    chance: SeededChance,
    /// By message id: the handle, and whether it was taken back.
    sent: BTreeMap<String, (RecallHandle, bool)>,
    /// By message id: how often it came.
    came: BTreeMap<String, u32>,
}

fn opened(disk: &MemoryDisk, clock: &Arc<ManualClock>) -> Arc<LocalBroker> {
    let retention = Retention { age_ms: 20 * SECOND, bytes: None };
    let options = Options { clock: clock.clone(), retention, ..options(Arc::new(disk.clone())) };
    LocalBroker::open(options).expect("the shard opens")
}

impl World {
    fn new(seed: u64) -> World {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/data")).expect("a memory disk");
        let clock = Arc::new(ManualClock::new(START));
        let broker = opened(&disk, &clock);
        World { disk, clock, catalogue: catalogue::new(), broker, chance: SeededChance::new(seed), sent: BTreeMap::new(), came: BTreeMap::new() }
    }

    async fn store(&mut self, kind: MessageKind, deliver_ms: Option<u64>) -> Option<Ticket> {
        let id = format!("{:016x}", self.chance.next_u64());
        let body: Bytes = id.as_bytes().repeat(1 + self.chance.below(60) as usize).into();
        let message = Message { id: id.clone(), kind, body, deliver_ms, ..Message::default() };
        let request =
            SendRequest { topic: self.catalogue.the_topic(TOPIC), messages: vec![message], client: ClientId::new("p"), wait: Duration::ZERO };
        let sent = self.broker.send(request).await.remove(0).expect("a memory disk takes everything");
        sent.ticket
    }

    async fn delay(&mut self) {
        let after = 10 * SECOND + self.chance.below(600 * SECOND);
        let ticket = self.store(MessageKind::Delay, Some(self.clock.wall_ms() + after)).await;
        let Some(Ticket::Recall(handle)) = ticket else { panic!("a recall handle, not {ticket:?}") };
        self.sent.insert(handle.message_id.clone(), (handle, false));
    }

    async fn recall(&mut self) {
        let number = self.chance.below(self.sent.len() as u64) as usize;
        let Some((id, (handle, gone))) = self.sent.iter_mut().nth(number) else { return };
        match self.broker.recall(&self.catalogue.the_topic(TOPIC), handle.clone()).await {
            Ok(()) => {
                assert!(!self.came.contains_key(id), "what was delivered can't be taken back");
                *gone = true;
            }
            Err(error) => {
                assert_eq!(error, RecallError::Delivered);
                assert!(handle.deliver_ms <= self.clock.wall_ms(), "what is not due yet can be taken back");
            }
        }
    }

    /// Receives everything that is there.
    async fn receive(&mut self) {
        loop {
            let request = ReceiveRequest {
                group: self.catalogue.the_group(GROUP),
                topic: self.catalogue.the_topic(TOPIC),
                filter: Arc::new(Filter::All),
                client: ClientId::new("c"),
                max: 32,
                lease: LeaseTerm::For(Duration::from_secs(36_000)),
                wait: Duration::ZERO,
                attempt_id: None,
                ordered_batch: true,
                member: String::new(),
            };
            let deliveries = self.broker.receive(request).await.expect("a shard that works");
            if deliveries.is_empty() {
                return;
            }
            for delivery in deliveries {
                let facts = delivery.message.facts();
                if facts.kind == MessageKind::Delay {
                    let id = delivery.message.message().id;
                    assert!(facts.deliver_ms.is_some_and(|due| due <= self.clock.wall_ms()), "never early: {facts:?}");
                    assert!(delivery.message.body().starts_with(id.as_bytes()), "the body is its own");
                    *self.came.entry(id).or_insert(0) += 1;
                }
                assert_eq!(self.broker.ack(&self.catalogue.the_group(GROUP), vec![delivery.handle]).await, [Ok(())]);
            }
        }
    }

    async fn pass(&mut self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
        // The shard's thread sleeps by the machine's clock; a request wakes it.
        for _ in 0..3 {
            self.broker.release(Vec::new());
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn restart(&mut self) {
        if self.chance.below(2) == 0 {
            assert!(self.broker.close());
        } else {
            let crashed = self.disk.crash(&mut self.chance);
            self.broker.close();
            self.disk = crashed;
        }
        self.broker = opened(&self.disk, &self.clock);
    }

    async fn start(&self) -> u64 {
        self.broker.shards().await[0].start
    }
}

async fn play(seed: u64) {
    let mut world = World::new(seed);
    let mut starts = vec![0];
    for round in 0..60 {
        if round < 40 {
            for _ in 0..world.chance.below(12) {
                world.delay().await;
            }
        }
        for _ in 0..world.chance.below(30) {
            world.store(MessageKind::Normal, None).await;
        }
        if world.chance.below(3) == 0 && !world.sent.is_empty() {
            world.recall().await;
        }
        let pause = 1 + world.chance.below(20 * SECOND);
        world.pass(pause).await;
        world.receive().await;
        if world.chance.below(6) == 0 {
            world.restart().await;
        }
        starts.push(world.start().await);
    }
    for _ in 0..40 {
        world.pass(20 * SECOND).await;
        world.receive().await;
    }
    let expected: BTreeMap<String, u32> = world.sent.iter().filter(|(_, (_, gone))| !gone).map(|(id, _)| (id.clone(), 1)).collect();
    assert_eq!(world.came, expected, "seed {seed}: each delayed message once");
    let status = world.broker.shards().await.remove(0);
    assert_eq!(status.timers_pending, 0, "seed {seed}");
    starts.dedup();
    assert!(starts.len() > 5, "seed {seed}: segments with waiting messages were dropped again and again: {starts:?}");
    assert!(world.broker.close());
}

#[tokio::test]
async fn each_comes_once_over_runs_checkpoints_moves_and_crashes() {
    for seed in 1..=6 {
        play(seed).await;
    }
}

#[tokio::test]
async fn nobody_finds_a_message_that_is_not_due() {
    let mut world = World::new(9);
    world.delay().await;
    let (id, (handle, _)) = world.sent.clone().pop_first().expect("one was sent");
    let topic = world.catalogue.the_topic(TOPIC);
    let hidden = QueueId(QueueKey::MAX_QUEUE - 1);
    for query in [Query::MessageId(id.clone()), Query::Offset { queue: hidden, offset: Offset(0) }] {
        assert_eq!(world.broker.find(&topic, query, 9).await, Ok(Vec::new()));
    }
    assert_eq!(world.broker.shards().await[0].timers_pending, 1);
    world.clock.advance(Duration::from_millis(handle.deliver_ms - START));
    world.pass(0).await;
    let found = world.broker.find(&topic, Query::MessageId(id.clone()), 9).await.expect("a shard that works");
    assert_eq!(found.iter().map(|message| message.message.deliver_ms).collect::<Vec<_>>(), [Some(handle.deliver_ms)]);
    assert!(world.broker.close());
}
