//! Prints what delayed messages cost on a real disk: how fast they are stored, how much memory they take while they wait, how long a start takes, how
//! late 100,000 are that fall due within one second, and how fast a shard catches up after a pause.
//!
//! `cargo run --release -p gantry-broker --example timers_cost -- FOLDER [COUNT]`; COUNT is 1,000,000 unless said otherwise.

use bytes::Bytes;
use gantry_broker::recover::Sizes;
use gantry_broker::{LocalBroker, Options, Retention};
use gantry_crash::catalogue::{self, Catalogue, GROUP, TOPIC};
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{LeaseTerm, ReceiveRequest, SendRequest};
use gantry_model::{ClientId, Filter, Message, MessageKind, ShardId};
use gantry_platform::chance::{Chance, SeededChance};
use gantry_platform::clock::{Clock, SystemClock, sleep};
use gantry_platform::disk::Disk;
use gantry_platform::disk::real::RealDisk;
use gantry_platform::tasks;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const BODY: usize = 100;
const BATCH: usize = 128;
/// Sends under way at the same time.
const SENDERS: u64 = 16;
const BURST: u64 = 100_000;
const OVERDUE: u64 = 100_000;
const HOUR: u64 = 3_600_000;
const FORTY_DAYS: u64 = 40 * 24 * HOUR;

struct Bench {
    dir: PathBuf,
    clock: Arc<SystemClock>,
    catalogue: Arc<Catalogue>,
    numbers: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(dir) = arguments.first() else {
        eprintln!("usage: timers_cost FOLDER [COUNT]    FOLDER is made, and must be on the disk to be measured");
        std::process::exit(2);
    };
    let count = arguments.get(1).map_or(1_000_000, |count| count.parse().expect("COUNT is a number"));
    let mut bench = Bench { dir: dir.into(), clock: Arc::new(SystemClock::new()), catalogue: catalogue::new(), numbers: 0 };
    bench.run(count).await;
}

impl Bench {
    fn open(&self) -> Arc<LocalBroker> {
        let disk = Arc::new(RealDisk::new("/"));
        disk.create_dir_all(Path::new(&self.dir)).expect("the folder can be made");
        let started = self.clock.mono();
        let broker = LocalBroker::open(Options {
            disk,
            dir: self.dir.join("shard-0"),
            clock: self.clock.clone(),
            metadata: self.catalogue.clone(),
            shard: ShardId(0),
            cluster: [1; 16],
            retention: Retention { age_ms: 72 * HOUR, bytes: None },
            skip_damaged: false,
            sizes: Sizes::default(),
        });
        println!("open: {:.2} s, {}", (self.clock.mono() - started).as_secs_f64(), memory());
        broker.expect("the shard opens")
    }

    async fn run(&mut self, count: u64) {
        let broker = self.open();
        let far = count - BURST - OVERDUE;
        let million = 1_000_000;
        let mut stored = 0;
        while stored < far {
            let part = million.min(far - stored);
            self.store(&broker, part, HOUR, FORTY_DAYS - HOUR).await;
            stored += part;
        }
        self.burst(&broker).await;
        broker.close();
        drop(broker);
        let broker = self.open();
        println!("pending: {}", broker.shards().await[0].timers_pending);
        self.catch_up(broker).await;
    }

    /// Stores delayed messages that are due `from` ms from now or up to `span` later.
    async fn store(&mut self, broker: &Arc<LocalBroker>, count: u64, from: u64, span: u64) {
        let (started, first) = (self.clock.mono(), self.clock.wall_ms() + from);
        let mut senders = Vec::new();
        for sender in 0..SENDERS {
            let share = count / SENDERS + u64::from(sender < count % SENDERS);
            let (broker, topic, mut number) = (broker.clone(), self.catalogue.the_topic(TOPIC), self.numbers);
            self.numbers += share;
            senders.push(tasks::spawn("sender", async move {
                let mut chance = SeededChance::new(number);
                let mut left = share as usize;
                while left > 0 {
                    let batch = left.min(BATCH);
                    let message = |_| {
                        number += 1;
                        Message {
                            id: format!("{number:032x}"),
                            kind: MessageKind::Delay,
                            deliver_ms: Some(first + chance.below(span)),
                            body: Bytes::from_static(&[b'x'; BODY]),
                            ..Message::default()
                        }
                    };
                    let messages = (0..batch).map(message).collect();
                    let request = SendRequest { topic: topic.clone(), messages, client: ClientId::new("bench"), wait: Duration::ZERO };
                    assert!(broker.send(request).await.iter().all(Result::is_ok), "every message is taken");
                    left -= batch;
                }
            }));
        }
        for sender in senders {
            sender.join().await.expect("a sender ends");
        }
        let taken = (self.clock.mono() - started).as_secs_f64();
        println!("stored {count}: {:.0} a second, {} pending, {}", count as f64 / taken, broker.shards().await[0].timers_pending, memory());
    }

    /// 100,000 that fall due within one second.
    async fn burst(&mut self, broker: &Arc<LocalBroker>) {
        self.store(broker, BURST, 20_000, 1_000).await;
        let late = self.receive(broker, BURST).await;
        late.print("due within one second");
    }

    /// Overdue ones after a pause, with the others that fall due meanwhile.
    async fn catch_up(&mut self, broker: Arc<LocalBroker>) {
        self.store(&broker, OVERDUE, 10_000, 1_000).await;
        broker.close();
        drop(broker);
        sleep(Duration::from_secs(15)).await;
        let broker = self.open();
        let punctual = 500;
        self.store(&broker, punctual, 1_000, 1_000).await;
        let late = self.receive(&broker, OVERDUE + punctual).await;
        println!("catch-up: {:.0} overdue ones a second", OVERDUE as f64 / (late.span_ms() as f64 / 1_000.0));
        late.on_time(punctual as usize).print("falling due while others were overdue");
        println!("pending: {}, {}", broker.shards().await[0].timers_pending, memory());
        broker.close();
    }

    async fn receive(&self, broker: &Arc<LocalBroker>, count: u64) -> Lateness {
        let mut late = Lateness::default();
        while (late.released.len() as u64) < count {
            let request = ReceiveRequest {
                group: self.catalogue.the_group(GROUP),
                topic: self.catalogue.the_topic(TOPIC),
                filter: Arc::new(Filter::All),
                client: ClientId::new("bench"),
                max: 32,
                lease: LeaseTerm::For(Duration::from_secs(600)),
                wait: Duration::from_secs(30),
                attempt_id: None,
                ordered_batch: true,
                member: String::new(),
            };
            let deliveries = broker.receive(request).await.expect("a shard that works");
            let now = self.clock.wall_ms();
            for delivery in &deliveries {
                let facts = delivery.message.facts();
                let due = facts.deliver_ms.expect("only delayed messages were sent");
                assert!(facts.store_ms >= due, "never early");
                late.times.push(facts.store_ms);
                late.released.push(facts.store_ms - due);
                late.received.push(now.saturating_sub(due));
            }
            let handles = deliveries.into_iter().map(|delivery| delivery.handle).collect();
            broker.ack(&self.catalogue.the_group(GROUP), handles).await;
        }
        late
    }
}

/// Milliseconds between the time of a message and its release, and until a consumer had it.
#[derive(Default)]
struct Lateness {
    released: Vec<u64>,
    received: Vec<u64>,
    /// When they were released.
    times: Vec<u64>,
}

impl Lateness {
    /// From the first release to the last.
    fn span_ms(&self) -> u64 {
        let (first, last) = (self.times.iter().min(), self.times.iter().max());
        first.zip(last).map_or(0, |(first, last)| last - first).max(1)
    }

    /// Only the `count` that were least late.
    fn on_time(mut self, count: usize) -> Lateness {
        [&mut self.released, &mut self.received].into_iter().for_each(|times| {
            times.sort_unstable();
            times.truncate(count);
        });
        self
    }

    fn print(mut self, what: &str) {
        for (how, times) in [("released", &mut self.released), ("received", &mut self.received)] {
            times.sort_unstable();
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            println!("{} {what}, {how} late by: p50 {} ms, p99 {} ms, most {} ms", times.len(), at(0.5), at(0.99), at(1.0));
        }
    }
}

/// Resident memory, and how much of it is the process's own and not mapped files.
fn memory() -> String {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mib = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap_or(0) / 1_024
    };
    format!("{} MiB resident, {} MiB of it anonymous", mib("VmRSS:"), mib("RssAnon:"))
}
