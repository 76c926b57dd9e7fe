//! Lite topics on a whole shard: its thread, its log on a memory disk, its checkpoints, and what a restart makes of them.

#![allow(clippy::unwrap_used)]

mod catalogue;

use async_trait::async_trait;
use catalogue::{Catalogue, GROUP, TOPIC};
use gantry_broker::recover::Sizes;
use gantry_broker::{LocalBroker, Options, Retention};
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{Check, Clients, Delivery, LeaseTerm, LiteChange, LiteStart, LiteSync, LiteTopic, ReceiveRequest, SendRequest};
use gantry_model::message::Property;
use gantry_model::{ClientId, Filter, GroupId, Message, MessageKind, Offset, ShardId, TopicId};
use gantry_platform::MemoryDisk;
use gantry_platform::clock::ManualClock;
use gantry_platform::disk::SharedDisk;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A shard with small files, so that a short run has segments, runs and checkpoints.
struct Shard {
    disk: SharedDisk,
    clock: ManualClock,
    catalogue: Arc<Catalogue>,
    broker: Arc<LocalBroker>,
    sent: u64,
}

#[derive(Debug, Default)]
struct Told(Mutex<Vec<(ClientId, String)>>);

#[async_trait]
impl Clients for Told {
    async fn check(&self, _: Check) -> bool {
        false
    }

    fn lost_lite(&self, client: &ClientId, _: GroupId, _: TopicId, lite: &str) {
        self.0.lock().unwrap().push((client.clone(), lite.to_owned()));
    }
}

impl Shard {
    fn new(catalogue: Arc<Catalogue>) -> Shard {
        let disk: SharedDisk = Arc::new(MemoryDisk::new());
        disk.create_dir_all(&PathBuf::from("/data")).unwrap();
        let clock = ManualClock::new(1_000_000);
        let broker = Shard::open(&disk, &clock, &catalogue);
        Shard { disk, clock, catalogue, broker, sent: 0 }
    }

    fn open(disk: &SharedDisk, clock: &ManualClock, catalogue: &Arc<Catalogue>) -> Arc<LocalBroker> {
        let options = Options {
            disk: disk.clone(),
            dir: PathBuf::from("/data/shard-0"),
            clock: Arc::new(clock.clone()),
            metadata: catalogue.clone(),
            shard: ShardId(0),
            cluster: [7; 16],
            retention: Retention { age_ms: 24 * 3_600_000, bytes: None },
            skip_damaged: false,
            sizes: Sizes { first_segment: 32 * 1024, max_segment: 64 * 1024, checkpoint: 48 * 1024 },
        };
        LocalBroker::open(options).unwrap()
    }

    fn restart(&mut self) {
        assert!(self.broker.close(), "a memory disk never fails");
        self.broker = Shard::open(&self.disk, &self.clock, &self.catalogue);
    }

    async fn send(&mut self, names: &[String]) {
        let message = |name: &String| {
            self.sent += 1;
            let id = format!("m{}", self.sent);
            Message { id, kind: MessageKind::Lite, lite_topic: Some(name.clone()), body: "hello".into(), ..Message::default() }
        };
        let messages = names.iter().map(message).collect();
        let request = SendRequest { topic: self.catalogue.the_topic(TOPIC), messages, client: ClientId::new("producer"), wait: Duration::ZERO };
        assert!(self.broker.send(request).await.iter().all(Result::is_ok));
    }

    async fn sync(&self, client: &str, change: LiteChange, names: &[String]) {
        let (group, topic) = (self.catalogue.the_group(GROUP), self.catalogue.the_topic(TOPIC));
        let sync =
            LiteSync { group, topic, client: ClientId::new(client), names: names.to_vec(), elsewhere: Vec::new(), change, start: LiteStart::Last };
        assert_eq!(self.broker.sync_lite(sync).await, Ok(()));
    }

    async fn receive(&self, client: &str, wait: Duration) -> Vec<Delivery> {
        let request = ReceiveRequest {
            group: self.catalogue.the_group(GROUP),
            topic: self.catalogue.the_topic(TOPIC),
            filter: Arc::new(Filter::All),
            client: ClientId::new(client),
            max: 32,
            lease: LeaseTerm::For(Duration::from_secs(60)),
            wait,
            attempt_id: None,
            ordered_batch: true,
            member: client.to_owned(),
        };
        self.broker.receive(request).await.unwrap()
    }

    /// Receives and acknowledges until nothing is left; answers the lite topics in the order of their messages.
    async fn drain(&self, client: &str) -> Vec<(String, u64)> {
        let mut got = Vec::new();
        loop {
            let deliveries = self.receive(client, Duration::ZERO).await;
            if deliveries.is_empty() {
                return got;
            }
            let handles = deliveries.iter().map(|delivery| delivery.handle).collect();
            got.extend(deliveries.iter().map(|delivery| (lite_of(delivery), delivery.handle.offset.0)));
            assert!(self.broker.ack(&self.catalogue.the_group(GROUP), handles).await.iter().all(Result::is_ok));
        }
    }

    async fn lites(&self) -> Vec<LiteTopic> {
        self.broker.lite_topics(&self.catalogue.the_topic(TOPIC), "", 10_000).await.unwrap()
    }

    /// Lets time pass second by second, so that the shard looks after its lite topics each time.
    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            // Answered at the end of a round.
            self.broker.positions(&self.catalogue.the_group(GROUP), &self.catalogue.the_topic(TOPIC)).await.unwrap();
        }
    }
}

fn lite_of(delivery: &Delivery) -> String {
    let mut lite = String::new();
    delivery.message.each_property(&mut |property| {
        if let Property::LiteTopic(name) = property {
            lite = name.to_owned();
        }
    });
    lite
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("session-{number:03}")).collect()
}

#[tokio::test]
async fn subscriptions_and_messages_survive_restarts() {
    let mut shard = Shard::new(catalogue::exclusive());
    let names = names(150);
    shard.sync("c", LiteChange::Replace, &names).await;
    for round in 0..6 {
        shard.send(&names[..75]).await;
        shard.send(&names[75..]).await;
        if round % 2 == 0 {
            shard.restart();
        }
    }
    let got = shard.drain("c").await;
    assert_eq!(got.len(), 900);
    for name in &names {
        let offsets: Vec<u64> = got.iter().filter(|(of, _)| of == name).map(|(_, offset)| *offset).collect();
        assert_eq!(offsets, [0, 1, 2, 3, 4, 5], "{name}");
    }
    shard.restart();
    assert!(shard.drain("c").await.is_empty());
    let lites = shard.lites().await;
    assert_eq!(lites.iter().map(|lite| lite.name.clone()).collect::<Vec<_>>(), names);
    assert!(lites.iter().all(|lite| (lite.min, lite.max, lite.subscribers) == (Offset(0), Offset(6), 1)));
}

#[tokio::test]
async fn a_receive_that_waits_is_answered_when_a_message_comes() {
    let mut shard = Shard::new(catalogue::exclusive());
    shard.sync("c", LiteChange::Add, &names(2)).await;
    let waiting = {
        let (broker, catalogue) = (shard.broker.clone(), shard.catalogue.clone());
        let shard = Shard { disk: shard.disk.clone(), clock: shard.clock.clone(), catalogue, broker, sent: 0 };
        gantry_platform::tasks::spawn("receive", async move { shard.receive("c", Duration::from_secs(20)).await })
    };
    shard.send(&names(1)).await;
    let got = waiting.join().await.unwrap();
    assert_eq!(lite_of(&got[0]), "session-000");
}

#[tokio::test]
async fn who_loses_a_lite_topic_is_told_once_it_is_certain() {
    let shard = Shard::new(catalogue::exclusive());
    let told = Arc::new(Told::default());
    shard.broker.attach(told.clone());
    shard.sync("old", LiteChange::Add, &names(2)).await;
    shard.sync("new", LiteChange::Add, &names(1)).await;
    assert_eq!(*told.0.lock().unwrap(), [(ClientId::new("old"), "session-000".to_owned())]);
}

#[tokio::test]
async fn a_client_that_fell_silent_subscribes_nothing_and_idle_lite_topics_end() {
    let mut shard = Shard::new(catalogue::exclusive());
    let names = names(100);
    shard.sync("c", LiteChange::Replace, &names).await;
    shard.send(&names[..50]).await;
    assert_eq!(shard.drain("c").await.len(), 50);
    shard.send(&names[..10]).await;
    shard.pass(150).await;
    assert_eq!(shard.lites().await.iter().map(|lite| lite.subscribers).sum::<u64>(), 100, "three minutes have not passed");
    shard.pass(60).await;
    assert_eq!(shard.lites().await.iter().map(|lite| lite.subscribers).sum::<u64>(), 0);
    shard.clock.advance(Duration::from_secs(15 * 60));
    shard.pass(70).await;
    let left: Vec<String> = shard.lites().await.into_iter().map(|lite| lite.name).collect();
    assert_eq!(left, names[..10], "those with unfinished messages stay");
    shard.restart();
    assert_eq!(shard.lites().await.len(), 10);
    shard.sync("c", LiteChange::Replace, &names).await;
    shard.send(&names).await;
    let got = shard.drain("c").await;
    assert_eq!(got.len(), 110, "the ten that waited, and one of each");
    let begun = got.iter().filter(|(name, offset)| names[10..].contains(name) && *offset == 0).count();
    assert_eq!(begun, 90, "what ended begins anew");
}
