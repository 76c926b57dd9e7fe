//! Random histories over three shards: producers that repeat until they are answered, consumers that fail, forget and lose patience, leaders that
//! die. Whatever happens, a message group stays in order over the whole topic, what was acknowledged never comes again, nothing is lost, and no
//! poll has two leases.

#![allow(clippy::unwrap_used)]

use gantry_model::contract::Broker;
use gantry_model::contract::broker::*;
use gantry_model::message::Property;
use gantry_model::topic::TopicType;
use gantry_model::{ClientId, Epoch, Filter, Group, Message, MessageKind, ReceiptHandle, ShardId, Topic};
use gantry_platform::chance::{Chance, SeededChance};
use gantry_platform::clock::{RuntimeClock, SharedClock, sleep, timeout};
use gantry_platform::tasks;
use gantry_proxy::route::Routed;
use gantry_proxy::route::shards::{Lead, Leader, Table};
use gantry_routing::catalogue::{self, ONE, ORDERS};
use gantry_routing::ledger::Ledger;
use gantry_routing::stepped::Stepped;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SHARDS: u32 = 3;
const GROUPS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const PER_GROUP: usize = 15;
const CONSUMERS: u32 = 4;

/// What producers and consumers saw.
#[derive(Debug, Default)]
struct Book {
    stored: BTreeSet<(String, usize)>,
    /// An acknowledgement is on its way, or may be.
    perhaps: BTreeSet<(String, usize)>,
    acked: BTreeSet<(String, usize)>,
}

impl Book {
    /// Messages that came to one consumer together.
    fn delivered(&self, seed: u64, batch: &[(String, usize)]) {
        let mut before: BTreeSet<&(String, usize)> = BTreeSet::new();
        for message in batch {
            let (group, number) = message;
            assert!(!self.acked.contains(message), "seed {seed}: {message:?} was acknowledged and comes again");
            let earlier = (0..*number).map(|earlier| (group.clone(), earlier));
            let open: Vec<_> =
                earlier.filter(|earlier| !self.perhaps.contains(earlier) && !self.acked.contains(earlier) && !before.contains(earlier)).collect();
            assert!(open.is_empty(), "seed {seed}: {message:?} comes before {open:?} in {batch:?}");
            before.insert(message);
        }
    }
}

#[derive(Clone)]
struct World {
    seed: u64,
    broker: Arc<Routed>,
    shards: Vec<Arc<Stepped>>,
    table: Arc<Table>,
    topic: Arc<Topic>,
    group: Arc<Group>,
    ledger: Ledger,
    book: Arc<Mutex<Book>>,
}

impl World {
    fn new(seed: u64) -> World {
        let topic = Arc::new(catalogue::topic(ORDERS, "orders", TopicType::Mixed, catalogue::spread(7, SHARDS)));
        let clock: SharedClock = Arc::new(RuntimeClock::new(0));
        let ledger = Ledger::default();
        let shard = |number| Stepped::new(ShardId(number), topic.clone(), clock.clone(), ledger.clone(), seed * 10 + u64::from(number));
        let shards: Vec<Arc<Stepped>> = (0..SHARDS).map(shard).collect();
        let lead = |(number, shard): (usize, &Arc<Stepped>)| (ShardId(number as u32), Lead { broker: shard.clone(), epoch: Epoch(1) });
        let table = Arc::new(Table::new(shards.iter().enumerate().map(lead)));
        let broker = Arc::new(Routed::new(table.clone(), catalogue::over(SHARDS), clock));
        let group = Arc::new(Group { max_attempts: 1_000, ..catalogue::group(ONE, "one") });
        World { seed, broker, shards, table, topic, group, ledger, book: Arc::default() }
    }

    /// Sends the messages of one group, each until it is stored.
    async fn produce(self, group: &'static str, mut chance: SeededChance) {
        for number in 0..PER_GROUP {
            let message = Message { id: format!("{group}{number}"), kind: MessageKind::Fifo, group: Some(group.into()), ..Message::default() };
            loop {
                let (topic, messages) = (self.topic.clone(), vec![message.clone()]);
                let request = SendRequest { topic, messages, client: ClientId::new(group), wait: Duration::from_millis(chance.below(900)) };
                if self.broker.send(request).await.remove(0).is_ok() {
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
            self.book.lock().unwrap().stored.insert((group.into(), number));
            sleep(Duration::from_millis(chance.below(120))).await;
        }
    }

    async fn consume(self, number: u32, mut chance: SeededChance) {
        let all = GROUPS.len() * PER_GROUP;
        while self.book.lock().unwrap().acked.len() < all {
            let wish = ReceiveRequest {
                group: self.group.clone(),
                topic: self.topic.clone(),
                filter: Arc::new(Filter::All),
                client: ClientId::new(&format!("consumer-{number}-{}", chance.below(u64::MAX))),
                max: 1 + chance.below(5) as u32,
                lease: LeaseTerm::For(Duration::from_secs(4)),
                wait: Duration::from_millis(300),
                attempt_id: None,
                ordered_batch: true,
                member: String::new(),
            };
            let patience = if chance.below(4) == 0 { chance.below(60) } else { 60_000 };
            let Ok(Ok(deliveries)) = timeout(Duration::from_millis(patience), self.broker.receive(wish)).await else { continue };
            let batch: Vec<((String, usize), ReceiptHandle)> = deliveries.iter().map(|delivery| (name_of(delivery), delivery.handle)).collect();
            let names: Vec<(String, usize)> = batch.iter().map(|(name, _)| name.clone()).collect();
            self.book.lock().unwrap().delivered(self.seed, &names);
            self.work(batch, &mut chance).await;
        }
    }

    /// Works on messages in their order. Who fails with one of a group leaves those behind it alone.
    async fn work(&self, batch: Vec<((String, usize), ReceiptHandle)>, chance: &mut SeededChance) {
        let mut failed: BTreeSet<String> = BTreeSet::new();
        for (name, handle) in batch {
            if failed.contains(&name.0) {
                continue;
            }
            match chance.below(10) {
                0 => drop(failed.insert(name.0)),
                1 | 2 => {
                    failed.insert(name.0);
                    let after = Duration::from_millis(chance.below(3) * 100);
                    let (group, failed_for_at_least) = (self.group.clone(), Duration::ZERO);
                    let change = VisibilityChange { group, handle, after, failed_for_at_least, attempt: AttemptCount::Counts };
                    let _ = self.broker.change_visibility(change).await;
                }
                _ => {
                    self.book.lock().unwrap().perhaps.insert(name.clone());
                    let answer = self.broker.ack(&self.group, vec![handle]).await.remove(0);
                    let mut book = self.book.lock().unwrap();
                    match answer {
                        Ok(()) => drop(book.acked.insert(name)),
                        // It was done or it was not; the next delivery, if there is one, tells.
                        Err(LeaseError::NoLeader) => drop(failed.insert(name.0)),
                        Err(_) => {
                            book.perhaps.remove(&name);
                            failed.insert(name.0);
                        }
                    }
                }
            }
        }
    }

    /// Leaders die and others follow, for some time.
    async fn disturb(self, mut chance: SeededChance) {
        for epoch in 2..8 {
            sleep(Duration::from_millis(200 + chance.below(500))).await;
            let shard = ShardId(chance.below(u64::from(SHARDS)) as u32);
            self.shards[shard.0 as usize].crash();
            if chance.below(2) == 0 {
                self.table.set(shard, Leader::Electing);
            }
            sleep(Duration::from_millis(chance.below(1_500))).await;
            let broker = self.shards[shard.0 as usize].clone();
            broker.start();
            self.table.set(shard, Leader::Known(Lead { broker, epoch: Epoch(epoch) }));
        }
    }
}

fn name_of(delivery: &Delivery) -> (String, usize) {
    let mut name = (String::new(), 0);
    delivery.message.each_property(&mut |property| {
        if let Property::Id(id) = property {
            let (group, number) = id.split_at(1);
            name = (group.to_owned(), number.parse().unwrap());
        }
    });
    name
}

async fn play(seed: u64) -> BTreeMap<&'static str, usize> {
    let world = World::new(seed);
    let chance = |part: u64| SeededChance::new(seed * 1_000 + part);
    let mut tasks = vec![tasks::spawn("disturb", world.clone().disturb(chance(1)))];
    tasks.extend(GROUPS.iter().enumerate().map(|(number, group)| tasks::spawn("produce", world.clone().produce(group, chance(10 + number as u64)))));
    tasks.extend((0..CONSUMERS).map(|number| tasks::spawn("consume", world.clone().consume(number, chance(100 + u64::from(number))))));
    let end = async {
        for task in tasks {
            task.join().await.unwrap();
        }
    };
    timeout(Duration::from_secs(600), end).await.unwrap_or_else(|_| panic!("seed {seed} comes to no end: {:?}", world.book.lock().unwrap()));
    world.ledger.check();
    world.shards.iter().for_each(|shard| shard.check());
    let book = world.book.lock().unwrap();
    assert_eq!(book.stored.len(), GROUPS.len() * PER_GROUP);
    let again: u32 = world.ledger.leased().values().map(|times| times - 1).sum();
    BTreeMap::from([("acked", book.acked.len()), ("again", again as usize)])
}

#[tokio::test(start_paused = true)]
async fn a_message_group_stays_in_order_over_three_shards_whatever_happens() {
    let mut again = 0;
    for seed in 0..25 {
        again += play(seed).await["again"];
    }
    assert!(again > 100, "the histories must have deliveries that fail, and had {again}");
}
