//! Many shards, few messages, many pollers: each message is leased once, no poll gets two leases, idle polls end empty at their time, and no
//! message waits while somebody waits for it.

#![allow(clippy::unwrap_used)]

use gantry_model::contract::Broker;
use gantry_model::contract::broker::*;
use gantry_model::topic::TopicType;
use gantry_model::{ClientId, Epoch, Filter, Group, Message, ShardId, Topic};
use gantry_platform::chance::{Chance, SeededChance};
use gantry_platform::clock::{RuntimeClock, SharedClock, sleep, timeout};
use gantry_platform::tasks;
use gantry_proxy::route::Routed;
use gantry_proxy::route::shards::{Lead, Table};
use gantry_routing::catalogue::{self, ONE, ORDERS};
use gantry_routing::ledger::Ledger;
use gantry_routing::stepped::Stepped;
use std::sync::Arc;
use std::time::Duration;

const SHARDS: u32 = 16;
const POLLERS: u32 = 200;
const MESSAGES: usize = 3;
/// How long every poll waits, in milliseconds.
const WAIT_MS: u64 = 5_000;
/// No call takes longer on its way, there and back, once for each shard that is asked before the offers.
const WAYS_MS: u64 = 10 * (SHARDS as u64 + 3);

struct Cluster {
    broker: Arc<Routed>,
    shards: Vec<Arc<Stepped>>,
    topic: Arc<Topic>,
    group: Arc<Group>,
    clock: SharedClock,
    ledger: Ledger,
}

impl Cluster {
    fn new(seed: u64) -> Cluster {
        let topic = Arc::new(catalogue::topic(ORDERS, "orders", TopicType::Mixed, catalogue::spread(SHARDS, SHARDS)));
        let clock: SharedClock = Arc::new(RuntimeClock::new(0));
        let ledger = Ledger::default();
        let shard = |number| Stepped::new(ShardId(number), topic.clone(), clock.clone(), ledger.clone(), seed * 100 + u64::from(number));
        let shards: Vec<Arc<Stepped>> = (0..SHARDS).map(shard).collect();
        let lead = |(number, shard): (usize, &Arc<Stepped>)| (ShardId(number as u32), Lead { broker: shard.clone(), epoch: Epoch(1) });
        let table = Table::new(shards.iter().enumerate().map(lead));
        let broker = Arc::new(Routed::new(Arc::new(table), catalogue::over(SHARDS), clock.clone()));
        Cluster { broker, shards, topic, group: Arc::new(catalogue::group(ONE, "one")), clock, ledger }
    }

    fn wish(&self, poller: u32) -> ReceiveRequest {
        ReceiveRequest {
            group: self.group.clone(),
            topic: self.topic.clone(),
            filter: Arc::new(Filter::All),
            client: ClientId::new(&format!("poller-{poller}")),
            max: 32,
            lease: LeaseTerm::For(Duration::from_secs(3_600)),
            wait: Duration::from_millis(WAIT_MS),
            attempt_id: None,
            ordered_batch: true,
            member: String::new(),
        }
    }

    async fn send(&self, count: usize) {
        for number in 0..count {
            let message = Message { id: format!("message-{number}"), ..Message::default() };
            let request =
                SendRequest { topic: self.topic.clone(), messages: vec![message], client: ClientId::new("p"), wait: Duration::from_secs(1) };
            assert!(self.broker.send(request).await.iter().all(Result::is_ok));
        }
    }

    fn check(&self) {
        self.ledger.check();
        self.shards.iter().for_each(|shard| shard.check());
    }
}

/// What one poll came to.
struct Polled {
    took_ms: u64,
    messages: usize,
}

fn start_poll(cluster: &Cluster, poller: u32) -> tasks::Task<Polled> {
    let (broker, wish, clock) = (cluster.broker.clone(), cluster.wish(poller), cluster.clock.clone());
    tasks::spawn("poll", async move {
        let began = clock.mono();
        let messages = broker.receive(wish).await.unwrap().len();
        Polled { took_ms: (clock.mono() - began).as_millis() as u64, messages }
    })
}

async fn few_messages_for_many(seed: u64) {
    let cluster = Cluster::new(seed);
    let polls: Vec<_> = (0..POLLERS).map(|poller| start_poll(&cluster, poller)).collect();
    sleep(Duration::from_millis(1_000)).await;
    let before = cluster.ledger.steps();
    let sent_at = cluster.clock.mono();
    cluster.send(MESSAGES).await;
    // An answer is on its way for a few milliseconds, and so is an offer.
    let mut waited = 0;
    while cluster.ledger.leased().len() < MESSAGES {
        sleep(Duration::from_millis(1)).await;
        waited += 1;
        assert!(waited < 60, "{MESSAGES} messages are leased within a few ways");
    }
    assert!(cluster.ledger.steps() - before < 50 * u64::from(SHARDS), "so few messages stir so few shards: {}", cluster.ledger.steps() - before);
    let sent_ms = (sent_at.as_millis() as u64) + 60;
    let mut given = 0;
    for poll in polls {
        let Polled { took_ms, messages } = poll.join().await.unwrap();
        given += messages;
        match messages {
            0 => assert!((WAIT_MS..WAIT_MS + WAYS_MS).contains(&took_ms), "an idle poll ends at its time, not after {took_ms} ms"),
            _ => assert!(took_ms < sent_ms, "after {took_ms} ms"),
        }
    }
    assert_eq!(given, MESSAGES);
    assert!(cluster.ledger.leased().values().all(|times| *times == 1), "{:?}", cluster.ledger.leased());
    cluster.check();
}

#[tokio::test(start_paused = true)]
async fn each_message_goes_to_one_poll_and_idle_polls_end_at_their_time() {
    for seed in 0..4 {
        few_messages_for_many(seed).await;
    }
}

/// Pollers that lose patience at any moment of their polls, and come again.
async fn impatient(seed: u64) {
    let cluster = Cluster::new(seed);
    let mut chance = SeededChance::new(seed);
    let impatient: Vec<_> = (0..POLLERS / 2)
        .map(|poller| {
            let (broker, wish) = (cluster.broker.clone(), cluster.wish(poller));
            let patience: Vec<u64> = (0..20).map(|_| chance.below(120)).collect();
            tasks::spawn("impatient", async move {
                let mut kept = 0;
                for ms in patience {
                    let polled = timeout(Duration::from_millis(ms), broker.receive(wish.clone())).await;
                    if let Ok(deliveries) = polled {
                        let deliveries = deliveries.unwrap();
                        kept += deliveries.len();
                        // It goes on only when it has finished these.
                        broker.ack(&wish.group, deliveries.iter().map(|delivery| delivery.handle).collect()).await;
                    }
                }
                kept
            })
        })
        .collect();
    for _ in 0..10 {
        sleep(Duration::from_millis(chance.below(100))).await;
        let number = chance.below(u64::MAX);
        let message = Message { id: format!("message-{number}"), ..Message::default() };
        let request = SendRequest { topic: cluster.topic.clone(), messages: vec![message], client: ClientId::new("p"), wait: Duration::ZERO };
        assert!(cluster.broker.send(request).await.iter().all(Result::is_ok));
    }
    let mut kept = 0;
    for task in impatient {
        kept += task.join().await.unwrap();
    }
    // What is given back goes to those who wait: nothing stays leased that nobody has.
    assert_eq!(cluster.ledger.holders(), [], "nothing is leased that nobody has");
    let patient: Vec<_> = (0..POLLERS).map(|poller| start_poll(&cluster, POLLERS + poller)).collect();
    for poll in patient {
        kept += poll.join().await.unwrap().messages;
    }
    assert_eq!(kept, 10, "every message comes to somebody, once");
    cluster.check();
}

#[tokio::test(start_paused = true)]
async fn polls_that_are_dropped_at_any_moment_leave_nothing_leased() {
    for seed in 0..3 {
        impatient(seed).await;
    }
}
