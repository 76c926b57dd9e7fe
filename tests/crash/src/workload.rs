//! A mixed workload on a recording disk: sends of many sizes, receives, acknowledgements, failures, dead letters, checkpoints, new segments.

use crate::catalogue::{self, Catalogue, GROUP, TOPIC};
use bytes::Bytes;
use gantry_broker::recover::Sizes;
use gantry_broker::{LocalBroker, Options, Retention};
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{AttemptCount, LeaseTerm, RecallError, ReceiveRequest, SendRequest, Ticket, VisibilityChange};
use gantry_model::handle::RecallHandle;
use gantry_model::{ClientId, Filter, Message, Offset, QueueId, ReceiptHandle, ShardId};
use gantry_platform::chance::{Chance, SeededChance};
use gantry_platform::clock::{Clock, SystemClock};
use gantry_platform::disk::recording::{Op, RecordingDisk};
use gantry_platform::disk::{Disk, SharedDisk};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a client was told.
#[derive(Clone, Debug)]
pub enum Fact {
    Sent {
        queue: QueueId,
        offset: Offset,
        id: String,
        body: Bytes,
    },
    Acked {
        queue: QueueId,
        offset: Offset,
    },
    Dead,
    Delayed {
        handle: RecallHandle,
        body: Bytes,
    },
    /// The answer to a recall is under way.
    Recalling {
        message_id: String,
    },
    Recalled {
        message_id: String,
    },
}

/// A recording, and what its notes mean.
pub struct Recorded {
    pub operations: Vec<Op>,
    pub facts: Vec<Fact>,
}

/// How a shard is opened here: small files, so that a short run has many of each kind.
pub fn options(disk: SharedDisk) -> Options {
    Options {
        disk,
        dir: PathBuf::from("/data/shard-0"),
        clock: Arc::new(SystemClock::new()),
        metadata: catalogue::new(),
        shard: ShardId(0),
        cluster: [7; 16],
        retention: Retention { age_ms: 3_600_000, bytes: Some(160 * 1024) },
        skip_damaged: false,
        sizes: Sizes { first_segment: 32 * 1024, max_segment: 64 * 1024, checkpoint: 48 * 1024 },
    }
}

struct Run {
    broker: Arc<LocalBroker>,
    disk: Arc<RecordingDisk>,
    catalogue: Arc<Catalogue>,
    chance: SeededChance,
    facts: Vec<Fact>,
    held: Vec<ReceiptHandle>,
    delayed: Vec<RecallHandle>,
}

/// Plays the workload of a seed.
pub fn record(seed: u64) -> Recorded {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let disk = Arc::new(RecordingDisk::new());
    disk.create_dir_all(&PathBuf::from("/data")).expect("a memory disk");
    let facts = runtime.block_on(async {
        let broker = LocalBroker::open(options(disk.clone())).expect("a new shard opens");
        let chance = SeededChance::new(seed);
        let mut run =
            Run { broker, disk: disk.clone(), catalogue: catalogue::new(), chance, facts: Vec::new(), held: Vec::new(), delayed: Vec::new() };
        for _ in 0..150 {
            run.step().await;
        }
        run.broker.close();
        run.facts
    });
    Recorded { operations: disk.ops(), facts }
}

impl Run {
    fn told(&mut self, fact: Fact) {
        self.disk.note(self.facts.len() as u64);
        self.facts.push(fact);
    }

    async fn step(&mut self) {
        match self.chance.next_u64() % 13 {
            0..=3 => self.send().await,
            4..=5 => self.receive().await,
            6..=7 => self.ack().await,
            8 => self.fail().await,
            9..=10 => self.delay().await,
            11 => self.recall().await,
            _ => self.bury().await,
        }
    }

    /// Several sends at once, so that they share a commit.
    async fn send(&mut self) {
        let mut sends = Vec::new();
        for _ in 0..1 + self.chance.next_u64() % 4 {
            let size = 1 + self.chance.next_u64() as usize % if self.chance.next_u64().is_multiple_of(8) { 9_000 } else { 700 };
            let id = format!("{:016x}", self.chance.next_u64());
            let body: Bytes = (0..size).map(|at| (at as u64 * 31 + size as u64) as u8).collect();
            let message = Message { id: id.clone(), body: body.clone(), tag: Some("T".into()), keys: vec![id.clone()], ..Message::default() };
            let message = Message { kind: gantry_model::MessageKind::Normal, ..message };
            let broker = self.broker.clone();
            let request = SendRequest {
                topic: self.catalogue.the_topic(TOPIC),
                messages: vec![message],
                client: ClientId::new("producer"),
                wait: Duration::ZERO,
            };
            sends.push((gantry_platform::tasks::spawn("send", async move { broker.send(request).await }), id, body));
        }
        for (send, id, body) in sends {
            let answers = send.join().await.expect("a send ends");
            let Ok(sent) = &answers[0] else { panic!("a memory disk takes everything: {answers:?}") };
            self.told(Fact::Sent { queue: sent.queue, offset: sent.offset, id, body });
        }
    }

    /// A message for the next moments or for much later.
    async fn delay(&mut self) {
        let soon = self.chance.next_u64().is_multiple_of(2);
        let after = if soon { 1 + self.chance.next_u64() % 30 } else { 3_600_000 };
        let body: Bytes = vec![after as u8; 1 + self.chance.next_u64() as usize % 900].into();
        let id = format!("{:016x}", self.chance.next_u64());
        let deliver_ms = Some(SystemClock::new().wall_ms() + after);
        let message = Message { id, body: body.clone(), kind: gantry_model::MessageKind::Delay, deliver_ms, ..Message::default() };
        let request =
            SendRequest { topic: self.catalogue.the_topic(TOPIC), messages: vec![message], client: ClientId::new("producer"), wait: Duration::ZERO };
        let answers = self.broker.send(request).await;
        let Ok(sent) = &answers[0] else { panic!("a memory disk takes everything: {answers:?}") };
        // One whose time came on the way is stored at once.
        let Some(Ticket::Recall(handle)) = &sent.ticket else { return };
        self.delayed.push(handle.clone());
        self.told(Fact::Delayed { handle: handle.clone(), body });
    }

    async fn recall(&mut self) {
        let count = self.delayed.len() as u64;
        if count == 0 {
            return;
        }
        let handle = self.delayed.swap_remove((self.chance.next_u64() % count) as usize);
        let message_id = handle.message_id.clone();
        self.told(Fact::Recalling { message_id: message_id.clone() });
        match self.broker.recall(&self.catalogue.the_topic(TOPIC), handle).await {
            Ok(()) => self.told(Fact::Recalled { message_id }),
            Err(error) => assert_eq!(error, RecallError::Delivered),
        }
    }

    async fn receive(&mut self) {
        let request = ReceiveRequest {
            group: self.catalogue.the_group(GROUP),
            topic: self.catalogue.the_topic(TOPIC),
            filter: Arc::new(Filter::All),
            client: ClientId::new("c"),
            max: 1 + (self.chance.next_u64() % 8) as u32,
            lease: LeaseTerm::For(Duration::from_secs(600)),
            wait: Duration::ZERO,
            attempt_id: None,
            ordered_batch: true,
            member: String::new(),
        };
        let deliveries = self.broker.receive(request).await.expect("a shard that works");
        self.held.extend(deliveries.into_iter().map(|delivery| delivery.handle));
    }

    fn pick(&mut self) -> Option<ReceiptHandle> {
        let count = self.held.len() as u64;
        (count > 0).then(|| self.held.swap_remove((self.chance.next_u64() % count) as usize))
    }

    async fn ack(&mut self) {
        for _ in 0..3 {
            let Some(handle) = self.pick() else { return };
            let answers = self.broker.ack(&self.catalogue.the_group(GROUP), vec![handle]).await;
            if answers[0].is_ok() {
                self.told(Fact::Acked { queue: handle.queue, offset: handle.offset });
            }
        }
    }

    async fn fail(&mut self) {
        let Some(handle) = self.pick() else { return };
        let group = self.catalogue.the_group(GROUP);
        // Retention may have taken the message meanwhile; then the shard says so.
        let _ = self
            .broker
            .change_visibility(VisibilityChange {
                group,
                handle,
                after: Duration::ZERO,
                failed_for_at_least: Duration::ZERO,
                attempt: AttemptCount::Counts,
            })
            .await;
    }

    async fn bury(&mut self) {
        let Some(handle) = self.pick() else { return };
        if self.broker.dead_letter(&self.catalogue.the_group(GROUP), handle).await.is_ok() {
            self.told(Fact::Acked { queue: handle.queue, offset: handle.offset });
            self.told(Fact::Dead);
        }
    }
}
