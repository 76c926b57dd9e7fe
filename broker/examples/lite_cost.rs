//! Prints what lite topics cost: memory for each, and the time of a subscription, its repetition, a delivery and a restart.
//!
//! `cargo run --release -p gantry-broker --example lite_cost -- FOLDER [LITE_TOPICS]` writes a shard into the folder, which must be empty or new.

#[path = "../tests/lite/catalogue.rs"]
mod catalogue;

use catalogue::{Catalogue, GROUP, TOPIC};
use gantry_broker::recover::Sizes;
use gantry_broker::{LocalBroker, Options, Retention};
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{Delivery, LeaseTerm, LiteChange, LiteStart, LiteSync, ReceiveRequest, SendRequest};
use gantry_model::{ClientId, Filter, Message, MessageKind, ShardId};
use gantry_platform::clock::{Clock, SystemClock};
use gantry_platform::{RealDisk, tasks};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Lite topics of one client.
const EACH: usize = 2_000;
const BATCH: usize = 128;
/// Sends under way at the same time.
const TOGETHER: usize = 64;

struct Run {
    clock: SystemClock,
    catalogue: Arc<Catalogue>,
    broker: Arc<LocalBroker>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("the folder to write to"));
    let count: usize = arguments.next().map_or(100_000, |count| count.parse().expect("a number of lite topics"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(&folder, count));
}

async fn measure(folder: &Path, count: usize) {
    let catalogue = catalogue::exclusive();
    let run = Run { clock: SystemClock::new(), broker: open(folder, &catalogue), catalogue };
    let names: Vec<String> = (0..count).map(|number| format!("session-{number:08}")).collect();
    let base = memory();
    println!("{count} lite topics; at the start {base} KiB");
    run.timed("first subscription of all, 2,000 a client", count, run.subscribe(&names)).await;
    run.report("subscribed", base, count);
    run.timed("one message for each, in batches of 128", count, run.send(&names, 0)).await;
    run.report("with a message each", base, count);
    run.timed("repetition of the subscriptions", count, run.subscribe(&names)).await;
    run.timed("delivery and acknowledgement of all", count, run.drain(count)).await;
    run.report("delivered", base, count);
    run.latency(&names).await;
    let closed = run.clock.mono();
    assert!(run.broker.close(), "the disk works");
    let opened = run.clock.mono();
    drop(open(folder, &run.catalogue));
    println!("closed in {:.0?}, opened again in {:.0?}", opened - closed, run.clock.mono() - opened);
}

fn open(folder: &Path, catalogue: &Arc<Catalogue>) -> Arc<LocalBroker> {
    let options = Options {
        disk: Arc::new(RealDisk::new(folder)),
        dir: PathBuf::from("shard-0"),
        clock: Arc::new(SystemClock::new()),
        metadata: catalogue.clone(),
        shard: ShardId(0),
        cluster: [7; 16],
        retention: Retention { age_ms: 24 * 3_600_000, bytes: None },
        skip_damaged: false,
        sizes: Sizes::default(),
    };
    LocalBroker::open(options).expect("a folder that can be written")
}

impl Run {
    async fn timed(&self, what: &str, count: usize, work: impl Future<Output = ()>) {
        let started = self.clock.mono();
        work.await;
        let took = self.clock.mono() - started;
        println!("{what}: {:.2} s, {:.1} us each", took.as_secs_f64(), took.as_secs_f64() * 1e6 / count as f64);
    }

    /// Memory beyond that of the start. What is mapped from files can be had again and is not counted.
    fn report(&self, when: &str, base: u64, count: usize) {
        let more = memory().saturating_sub(base);
        println!("{when}: {:.1} MiB more, {} bytes each", more as f64 / 1_024.0, more * 1_024 / count as u64);
    }

    fn subscribe(&self, names: &[String]) -> impl Future<Output = ()> + 'static {
        let (broker, catalogue) = (self.broker.clone(), self.catalogue.clone());
        let parts: Vec<Vec<String>> = names.chunks(EACH).map(<[String]>::to_vec).collect();
        async move {
            for (client, names) in parts.into_iter().enumerate() {
                let (group, topic) = (catalogue.the_group(GROUP), catalogue.the_topic(TOPIC));
                let sync = LiteSync {
                    group,
                    topic,
                    client: client_id(client),
                    names,
                    elsewhere: Vec::new(),
                    change: LiteChange::Replace,
                    start: LiteStart::Last,
                };
                broker.sync_lite(sync).await.expect("within the quota");
            }
        }
    }

    /// One message for each; messages are made only when they are sent, so that they don't count as memory of the shard.
    fn send(&self, names: &[String], ids: u64) -> impl Future<Output = ()> + 'static {
        let (broker, topic, names) = (self.broker.clone(), self.catalogue.the_topic(TOPIC), names.to_vec());
        async move {
            for (round, names) in names.chunks(BATCH * TOGETHER).enumerate() {
                let send = |(at, names): (usize, &[String])| {
                    let first = ids + ((round * TOGETHER + at) * BATCH) as u64;
                    let messages = names.iter().zip(first..).map(|(name, id)| message(name, id)).collect();
                    let request = SendRequest { topic: topic.clone(), messages, client: ClientId::new("producer"), wait: Duration::ZERO };
                    let broker = broker.clone();
                    tasks::spawn("send", async move { broker.send(request).await })
                };
                let sends: Vec<_> = names.chunks(BATCH).enumerate().map(send).collect();
                for send in sends {
                    let answers = send.join().await.expect("a send ends");
                    assert!(answers.iter().all(Result::is_ok), "{:?}", answers.iter().find(|answer| answer.is_err()));
                }
            }
        }
    }

    fn drain(&self, count: usize) -> impl Future<Output = ()> + 'static {
        let (broker, catalogue) = (self.broker.clone(), self.catalogue.clone());
        async move {
            let mut got = 0;
            for client in 0..count.div_ceil(EACH) {
                loop {
                    let deliveries = receive(&broker, &catalogue, client, Duration::ZERO).await;
                    if deliveries.is_empty() {
                        break;
                    }
                    got += deliveries.len();
                    broker.ack(&catalogue.the_group(GROUP), deliveries.iter().map(|delivery| delivery.handle).collect()).await;
                }
            }
            assert_eq!(got, count, "every message is delivered once");
        }
    }

    /// From a send to the receive that waits for it, while every client waits.
    async fn latency(&self, names: &[String]) {
        let clients = names.len().div_ceil(EACH);
        let mut waiting = Vec::new();
        for client in 0..clients {
            let (broker, catalogue) = (self.broker.clone(), self.catalogue.clone());
            let receive = async move { receive(&broker, &catalogue, client, Duration::from_secs(20)).await };
            waiting.push(tasks::spawn("receive", receive));
        }
        tokio::task::yield_now().await;
        let started = self.clock.mono();
        for (client, receive) in waiting.into_iter().enumerate() {
            self.send(&names[client * EACH..=client * EACH], (names.len() + client) as u64).await;
            assert_eq!(receive.join().await.expect("a receive ends").len(), 1);
        }
        let took = self.clock.mono() - started;
        println!("send and delivery to one of {clients} clients that wait: {:.0} us", took.as_secs_f64() * 1e6 / clients as f64);
    }
}

fn message(lite_topic: &str, id: u64) -> Message {
    let (id, body) = (format!("{id:032x}"), vec![7; 256].into());
    Message { id, kind: MessageKind::Lite, lite_topic: Some(lite_topic.to_owned()), body, ..Message::default() }
}

async fn receive(broker: &LocalBroker, catalogue: &Catalogue, client: usize, wait: Duration) -> Vec<Delivery> {
    let request = ReceiveRequest {
        group: catalogue.the_group(GROUP),
        topic: catalogue.the_topic(TOPIC),
        filter: Arc::new(Filter::All),
        client: client_id(client),
        max: 32,
        lease: LeaseTerm::For(Duration::from_secs(60)),
        wait,
        attempt_id: None,
        ordered_batch: false,
        member: String::new(),
    };
    broker.receive(request).await.expect("a shard that works")
}

fn client_id(number: usize) -> ClientId {
    ClientId::new(&format!("client-{number}@1@2"))
}

/// KiB of memory that belongs to this process alone; 0 where Linux's `/proc` is missing.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
