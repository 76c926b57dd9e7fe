//! Transactions of a whole shard on a memory disk: over restarts, through the questions to producers, and past the end of their segments.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use gantry_broker::recover::Sizes;
use gantry_broker::{LocalBroker, Options, Retention};
use gantry_fixed_catalogue::{Catalogue, group, spread, topic};
use gantry_model::contract::Broker;
use gantry_model::contract::broker::*;
use gantry_model::handle::TransactionHandle;
use gantry_model::message::StoredMessage;
use gantry_model::topic::TopicType;
use gantry_model::*;
use gantry_platform::clock::{ManualClock, sleep};
use gantry_platform::disk::Disk;
use gantry_platform::disk::memory::MemoryDisk;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TOPIC: TopicId = TopicId(1);
const GROUP: GroupId = GroupId(1);

/// One topic and one group.
fn catalogue() -> Arc<Catalogue> {
    let group = Group { dead_letter: TopicId(2), ..group(GROUP, "readers") };
    Catalogue::new(1, vec![topic(TOPIC, "orders", TopicType::Mixed, spread(3, 1))], vec![group])
}

/// Producers that can always be reached, and only listen.
#[derive(Debug, Default)]
struct Listeners(Mutex<Vec<Check>>);

#[async_trait]
impl Clients for Listeners {
    async fn check(&self, check: Check) -> bool {
        self.0.lock().unwrap().push(check);
        true
    }
    fn lost_lite(&self, _: &ClientId, _: GroupId, _: TopicId, _: &str) {}
}

/// A shard that can be closed and opened again.
struct Rig {
    disk: Arc<MemoryDisk>,
    clock: Arc<ManualClock>,
    catalogue: Arc<Catalogue>,
    broker: Arc<LocalBroker>,
    clients: Arc<Listeners>,
}

const AGE_MS: u64 = 600_000;

impl Rig {
    fn new() -> Rig {
        let disk = Arc::new(MemoryDisk::new());
        disk.create_dir_all(&PathBuf::from("/data")).unwrap();
        let (clock, catalogue) = (Arc::new(ManualClock::new(1_700_000_000_000)), catalogue());
        let broker = Rig::open(&disk, &clock, &catalogue);
        let clients = Arc::new(Listeners::default());
        broker.attach(clients.clone());
        Rig { disk, clock, catalogue, broker, clients }
    }

    /// Small files, so that a short run has many of each kind.
    fn open(disk: &Arc<MemoryDisk>, clock: &Arc<ManualClock>, catalogue: &Arc<Catalogue>) -> Arc<LocalBroker> {
        LocalBroker::open(Options {
            disk: disk.clone(),
            dir: PathBuf::from("/data/shard-0"),
            clock: clock.clone(),
            metadata: catalogue.clone(),
            shard: ShardId(0),
            cluster: [7; 16],
            retention: Retention { age_ms: AGE_MS, bytes: None },
            skip_damaged: false,
            sizes: Sizes { first_segment: 32 * 1024, max_segment: 64 * 1024, checkpoint: 48 * 1024 },
        })
        .unwrap()
    }

    fn restart(&mut self) {
        assert!(self.broker.close());
        self.broker = Rig::open(&self.disk, &self.clock, &self.catalogue);
        self.broker.attach(self.clients.clone());
    }

    async fn send(&self, id: &str, kind: MessageKind) -> Sent {
        let message = Message {
            id: id.into(),
            kind,
            body: vec![b'b'; 1_000].into(),
            tag: Some("T".into()),
            keys: vec![format!("key-{id}")],
            ..Default::default()
        };
        let request =
            SendRequest { topic: self.catalogue.the_topic(TOPIC), messages: vec![message], client: ClientId::new("sender"), wait: Duration::ZERO };
        self.broker.send(request).await.remove(0).unwrap()
    }

    async fn begin(&self, id: &str) -> TransactionHandle {
        match self.send(id, MessageKind::Transaction).await.ticket {
            Some(Ticket::Transaction(handle)) => handle,
            other => panic!("a transaction gets a handle, not {other:?}"),
        }
    }

    async fn end(&self, handle: TransactionHandle, resolution: Resolution) -> Result<(), EndError> {
        self.broker.end_transaction(&self.catalogue.the_topic(TOPIC), handle, resolution, EndedBy::Producer).await
    }

    async fn list(&self) -> Vec<OpenTransaction> {
        self.broker.open_transactions(&self.catalogue.the_topic(TOPIC), None, 10).await.unwrap()
    }

    async fn receive(&self) -> Vec<StoredMessage> {
        let request = ReceiveRequest {
            group: self.catalogue.the_group(GROUP),
            topic: self.catalogue.the_topic(TOPIC),
            filter: Arc::new(Filter::All),
            client: ClientId::new("c"),
            max: 32,
            lease: LeaseTerm::For(Duration::from_secs(600)),
            wait: Duration::ZERO,
            attempt_id: None,
            ordered_batch: true,
            member: String::new(),
        };
        self.broker.receive(request).await.unwrap().into_iter().map(|delivery| self.stored(&delivery)).collect()
    }

    fn stored(&self, delivery: &Delivery) -> StoredMessage {
        let facts = delivery.message.facts();
        let (message, topic) = (delivery.message.message(), self.catalogue.the_topic(TOPIC).id);
        StoredMessage { message, topic, queue: facts.queue, offset: facts.offset, store_ms: facts.store_ms, origin: None }
    }

    /// Lets the shard's time pass and the shard notice it.
    async fn pass(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
        self.broker.queues(&self.catalogue.the_topic(TOPIC)).await.unwrap();
    }

    /// Waits for the shard, which notices some things only by itself.
    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        for _ in 0..1_000 {
            if holds().await {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("never came true: {what}");
    }

    fn questions(&self) -> usize {
        self.clients.0.lock().unwrap().len()
    }
}

fn ids(messages: &[StoredMessage]) -> Vec<&str> {
    messages.iter().map(|message| message.message.id.as_str()).collect()
}

#[tokio::test]
async fn transactions_survive_restarts_in_every_state() {
    let mut rig = Rig::new();
    let (open, committed, rolled_back) = (rig.begin("open").await, rig.begin("committed").await, rig.begin("rolled-back").await);
    assert_eq!(rig.end(committed, Resolution::Commit).await, Ok(()));
    assert_eq!(rig.end(rolled_back, Resolution::Rollback).await, Ok(()));
    rig.restart();
    let messages = rig.receive().await;
    assert_eq!(ids(&messages), ["committed"]);
    let message = &messages[0].message;
    assert_eq!((message.kind, message.tag.as_deref(), &message.keys[..]), (MessageKind::Transaction, Some("T"), &["key-committed".to_owned()][..]));
    assert!(messages[0].queue.0 < 3, "it has its place in a queue that clients know");
    assert_eq!(rig.end(committed, Resolution::Rollback).await, Err(EndError::Contradicts { ended: Resolution::Commit }));
    assert_eq!(rig.end(rolled_back, Resolution::Rollback).await, Ok(()));
    assert_eq!(rig.end(TransactionHandle { id: 99, ..open }, Resolution::Commit).await, Err(EndError::Unknown));
    assert_eq!(rig.end(TransactionHandle { shard: ShardId(1), ..open }, Resolution::Commit).await, Err(EndError::Unknown));
    let again = rig.send("open", MessageKind::Transaction).await;
    assert_eq!((again.duplicate, again.ticket), (true, Some(Ticket::Transaction(open))), "a repeated send begins nothing");
    assert_eq!(rig.list().await.iter().map(|open| open.handle).collect::<Vec<_>>(), [open]);
    assert_eq!(rig.end(open, Resolution::Commit).await, Ok(()));
    rig.restart();
    assert_eq!(ids(&rig.receive().await), ["open"]);
    let counts = rig.broker.shards().await[0].transactions;
    assert_eq!(counts, TransactionCounts { open: 0, committed: 2, rolled_back: 1, given_up: 0, checks: 0 });
}

#[tokio::test]
async fn look_ups_find_only_what_is_visible() {
    let rig = Rig::new();
    let handle = rig.begin("half").await;
    let find = async |query: Query| rig.broker.find(&rig.catalogue.the_topic(TOPIC), query, 10).await.unwrap();
    assert!(find(Query::MessageId("half".into())).await.is_empty());
    assert!(find(Query::Key("key-half".into())).await.is_empty());
    assert_eq!(rig.end(handle, Resolution::Commit).await, Ok(()));
    assert_eq!(ids(&find(Query::MessageId("half".into())).await), ["half"]);
    assert_eq!(ids(&find(Query::Key("key-half".into())).await), ["half"]);
    assert_eq!(rig.broker.queues(&rig.catalogue.the_topic(TOPIC)).await.unwrap().len(), 3, "the hidden queue is not shown");
}

#[tokio::test]
async fn producers_are_asked_with_the_whole_message_and_the_count_survives_a_restart() {
    let mut rig = Rig::new();
    let handle = rig.begin("asked").await;
    rig.pass(5_999).await;
    assert_eq!(rig.questions(), 0);
    rig.pass(1).await;
    rig.until("the first question", async || rig.questions() == 1).await;
    let check = rig.clients.0.lock().unwrap()[0].clone();
    assert_eq!((check.handle, check.sender.as_str(), check.message.message.id.as_str()), (handle, "sender", "asked"));
    assert_eq!(check.message.message.body.len(), 1_000);
    rig.until("it is counted", async || rig.list().await[0].checks == 1).await;
    let next = rig.list().await[0].next_check_ms;
    rig.restart();
    let listed = rig.list().await.remove(0);
    assert_eq!((listed.checks, listed.next_check_ms, listed.given_up, listed.message.message.id.as_str()), (1, next, false, "asked"));
    rig.pass(31_000).await;
    rig.until("the second question", async || rig.questions() == 2).await;
    assert_eq!(rig.end(handle, Resolution::Commit).await, Ok(()));
    rig.pass(600_000).await;
    assert_eq!((rig.questions(), rig.list().await.len()), (2, 0), "nobody is asked about what has ended");
}

#[tokio::test]
async fn an_open_transaction_outlives_its_segment_and_gives_the_disk_back() {
    let mut rig = Rig::new();
    let (open, committed) = (rig.begin("old").await, rig.begin("committed").await);
    assert_eq!(rig.end(committed, Resolution::Commit).await, Ok(()));
    let fill = async |rig: &Rig, round: u32| {
        for number in 0..150 {
            rig.send(&format!("filler-{round}-{number}"), MessageKind::Normal).await;
        }
    };
    fill(&rig, 0).await;
    for round in 1..4 {
        let end = rig.broker.shards().await[0].end;
        fill(&rig, round).await;
        // Each question moves time on by less than a day, so it is never given up here.
        rig.until("the log begins behind what is old", async || {
            rig.pass(AGE_MS / 20).await;
            rig.send(&format!("tick-{}", gantry_platform::clock::Clock::mono(&*rig.clock).as_millis()), MessageKind::Normal).await;
            rig.broker.shards().await[0].start >= end
        })
        .await;
        rig.restart();
        assert_eq!(rig.list().await.iter().map(|open| (open.handle, open.message.message.body.len())).collect::<Vec<_>>(), [(open, 1_000)]);
    }
    assert_eq!(rig.end(open, Resolution::Commit).await, Ok(()));
    rig.restart();
    let mut seen = Vec::new();
    loop {
        let messages = rig.receive().await;
        if messages.is_empty() {
            break;
        }
        seen.extend(messages.into_iter().map(|message| message.message.id));
    }
    assert_eq!(seen.iter().filter(|id| *id == "old").count(), 1);
}
