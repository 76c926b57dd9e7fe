//! Shards without a leader: what waits, what goes elsewhere, what is refused, and that the others go on.

#![allow(clippy::unwrap_used)]

use gantry_model::contract::Broker;
use gantry_model::contract::broker::*;
use gantry_model::placement::{queue_of_group, shard_of_id};
use gantry_model::topic::TopicType;
use gantry_model::{ClientId, Epoch, Filter, Group, Message, MessageKind, ShardId, Topic, placement};
use gantry_platform::clock::{RuntimeClock, SharedClock, sleep};
use gantry_platform::tasks;
use gantry_proxy::route::Routed;
use gantry_proxy::route::shards::{Lead, Leader, Table};
use gantry_routing::catalogue::{self, ONE, ORDERS};
use gantry_routing::ledger::Ledger;
use gantry_routing::stepped::Stepped;
use std::sync::Arc;
use std::time::Duration;

const SHARDS: u32 = 4;

struct Cluster {
    broker: Arc<Routed>,
    shards: Vec<Arc<Stepped>>,
    table: Arc<Table>,
    topic: Arc<Topic>,
    group: Arc<Group>,
    clock: SharedClock,
}

impl Cluster {
    fn new() -> Cluster {
        let topic = Arc::new(catalogue::topic(ORDERS, "orders", TopicType::Mixed, catalogue::spread(8, SHARDS)));
        let clock: SharedClock = Arc::new(RuntimeClock::new(0));
        let shards: Vec<Arc<Stepped>> =
            (0..SHARDS).map(|number| Stepped::new(ShardId(number), topic.clone(), clock.clone(), Ledger::default(), u64::from(number))).collect();
        let lead = |(number, shard): (usize, &Arc<Stepped>)| (ShardId(number as u32), Lead { broker: shard.clone(), epoch: Epoch(1) });
        let table = Arc::new(Table::new(shards.iter().enumerate().map(lead)));
        let broker = Arc::new(Routed::new(table.clone(), catalogue::over(SHARDS), clock.clone()));
        Cluster { broker, shards, table, topic, group: Arc::new(catalogue::group(ONE, "one")), clock }
    }

    /// The leader dies, and the table learns of it later, if at all.
    fn crash(&self, shard: ShardId) {
        self.shards[shard.0 as usize].crash();
    }

    fn elect(&self, shard: ShardId, epoch: u32) {
        let broker = self.shards[shard.0 as usize].clone();
        broker.start();
        self.table.set(shard, Leader::Known(Lead { broker, epoch: Epoch(epoch) }));
    }

    /// Sends with 3 s of patience; answers how long it took too.
    fn send(&self, message: Message) -> tasks::Task<(Result<Sent, SendError>, u64)> {
        let (broker, clock, topic) = (self.broker.clone(), self.clock.clone(), self.topic.clone());
        tasks::spawn("send", async move {
            let began = clock.mono();
            let request = SendRequest { topic, messages: vec![message], client: ClientId::new("p"), wait: Duration::from_secs(3) };
            let sent = broker.send(request).await.remove(0);
            (sent, (clock.mono() - began).as_millis() as u64)
        })
    }

    fn shard_of(&self, sent: &Sent) -> ShardId {
        self.topic.queues[sent.queue.0 as usize].shard
    }

    fn wish(&self, wait: Duration) -> ReceiveRequest {
        ReceiveRequest {
            group: self.group.clone(),
            topic: self.topic.clone(),
            filter: Arc::new(Filter::All),
            client: ClientId::new("c"),
            max: 32,
            lease: LeaseTerm::For(Duration::from_secs(60)),
            wait,
            attempt_id: None,
            ordered_batch: true,
            member: String::new(),
        }
    }
}

fn normal(id: &str) -> Message {
    Message { id: id.into(), ..Message::default() }
}

fn fifo(group: &str) -> Message {
    Message { kind: MessageKind::Fifo, group: Some(group.into()), ..normal("in order") }
}

/// Where a message group lives.
fn home(cluster: &Cluster, group: &str) -> ShardId {
    queue_of_group(&cluster.topic, placement::group_hash(group)).unwrap().1
}

#[tokio::test(start_paused = true)]
async fn a_message_that_may_go_anywhere_waits_a_second_and_goes_elsewhere() {
    let cluster = Cluster::new();
    let shard = shard_of_id(&cluster.topic, "m").unwrap();
    // The table knows, or the broker says so itself.
    for known in [true, false] {
        if known {
            cluster.table.set(shard, Leader::Electing);
        } else {
            cluster.elect(shard, 2);
            cluster.crash(shard);
        }
        let (sent, took) = cluster.send(normal("m")).join().await.unwrap();
        assert_ne!(cluster.shard_of(&sent.unwrap()), shard);
        assert!((1_000..1_100).contains(&took), "{took} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_goes_to_its_own_shard_if_that_has_a_leader_in_time() {
    let cluster = Cluster::new();
    let shard = shard_of_id(&cluster.topic, "m").unwrap();
    cluster.table.set(shard, Leader::Electing);
    let sending = cluster.send(normal("m"));
    sleep(Duration::from_millis(600)).await;
    cluster.elect(shard, 2);
    let (sent, took) = sending.join().await.unwrap();
    assert_eq!(cluster.shard_of(&sent.unwrap()), shard);
    assert!((600..650).contains(&took), "{took} ms");
}

#[tokio::test(start_paused = true)]
async fn messages_whose_ids_nobody_remembers_spread_and_avoid_a_shard_without_a_leader() {
    let cluster = Cluster::new();
    let mut free = (*cluster.topic).clone();
    free.options.dedup = false;
    let free = Arc::new(free);
    for down in [None, Some(ShardId(2))] {
        if let Some(down) = down {
            cluster.table.set(down, Leader::Electing);
        }
        let began = cluster.clock.mono();
        let mut counts = [0; SHARDS as usize];
        for number in 0..400 {
            let request = SendRequest {
                topic: free.clone(),
                messages: vec![normal(&format!("{number} with {down:?} down"))],
                client: ClientId::new("p"),
                wait: Duration::from_secs(3),
            };
            let sent = cluster.broker.send(request).await.remove(0).unwrap();
            counts[cluster.shard_of(&sent).0 as usize] += 1;
        }
        let even = 400 / if down.is_some() { 3 } else { 4 };
        for (shard, count) in counts.into_iter().enumerate() {
            let expected = if down == Some(ShardId(shard as u32)) { 0..1 } else { even / 2..even * 2 };
            assert!(expected.contains(&count), "{counts:?}");
        }
        assert!(cluster.clock.mono() - began < Duration::from_millis(400 * 12), "nobody waits for an election");
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_its_place_waits_for_it_and_never_goes_elsewhere() {
    let cluster = Cluster::new();
    let shard = home(&cluster, "a");
    cluster.crash(shard);
    let sending = cluster.send(fifo("a"));
    sleep(Duration::from_millis(2_000)).await;
    cluster.elect(shard, 2);
    let (sent, took) = sending.join().await.unwrap();
    assert_eq!(cluster.shard_of(&sent.unwrap()), shard);
    assert!((2_000..2_050).contains(&took), "{took} ms");
    cluster.crash(shard);
    let (sent, took) = cluster.send(fifo("a")).join().await.unwrap();
    assert_eq!(sent, Err(SendError::NoLeader));
    assert!((3_000..3_050).contains(&took), "{took} ms");
}

#[tokio::test(start_paused = true)]
async fn messages_of_one_batch_wait_for_their_own_shards_only() {
    let cluster = Cluster::new();
    let groups: Vec<String> = (0..12).map(|number| format!("group-{number}")).collect();
    let down = home(&cluster, &groups[0]);
    cluster.crash(down);
    let messages = groups.iter().map(|group| Message { id: group.clone(), ..fifo(group) }).collect();
    let request = SendRequest { topic: cluster.topic.clone(), messages, client: ClientId::new("p"), wait: Duration::from_millis(500) };
    let answers = cluster.broker.send(request).await;
    for (group, answer) in groups.iter().zip(answers) {
        match answer {
            Ok(sent) => assert!(cluster.shard_of(&sent) == home(&cluster, group) && home(&cluster, group) != down),
            Err(error) => assert_eq!((error, home(&cluster, group)), (SendError::NoLeader, down)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_to_the_wrong_shard_is_refused_with_the_right_one() {
    let cluster = Cluster::new();
    let right = home(&cluster, "a");
    let wrong = (right.0 + 1) % SHARDS;
    let request = SendRequest { topic: cluster.topic.clone(), messages: vec![fifo("a")], client: ClientId::new("p"), wait: Duration::ZERO };
    let answer = cluster.shards[wrong as usize].send(request).await.remove(0);
    assert!(matches!(answer, Err(SendError::Misplaced { shard, .. }) if shard == right), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn polls_go_on_without_a_shard_and_find_it_again() {
    let cluster = Cluster::new();
    let down = shard_of_id(&cluster.topic, "m").unwrap();
    let other = (0..100).map(|number| format!("n{number}")).find(|id| shard_of_id(&cluster.topic, id).unwrap() != down).unwrap();
    cluster.send(normal("m")).join().await.unwrap().0.unwrap();
    cluster.crash(down);
    cluster.table.set(down, Leader::Electing);
    let began = cluster.clock.mono();
    assert!(cluster.broker.receive(cluster.wish(Duration::from_millis(400))).await.unwrap().is_empty());
    assert!(cluster.clock.mono() - began >= Duration::from_millis(400));
    cluster.send(normal(&other)).join().await.unwrap().0.unwrap();
    let got = cluster.broker.receive(cluster.wish(Duration::from_secs(5))).await.unwrap();
    assert!(got.len() == 1 && got[0].handle.shard != down);
    // A poll that waits finds the new leader by itself, and what waits there.
    let (broker, wish) = (cluster.broker.clone(), cluster.wish(Duration::from_secs(5)));
    let poll = tasks::spawn("poll", async move { broker.receive(wish).await.unwrap() });
    sleep(Duration::from_millis(300)).await;
    cluster.elect(down, 2);
    let got = poll.join().await.unwrap();
    assert!(got.len() == 1 && got[0].handle.shard == down);
    // Its acknowledgement waits for the leader after the next.
    cluster.crash(down);
    let (broker, group, handle) = (cluster.broker.clone(), cluster.group.clone(), got[0].handle);
    let ack = tasks::spawn("ack", async move { broker.ack(&group, vec![handle]).await });
    sleep(Duration::from_millis(300)).await;
    cluster.elect(down, 3);
    assert_eq!(ack.join().await.unwrap(), [Ok(())]);
}

#[tokio::test(start_paused = true)]
async fn an_offer_of_a_leader_that_dies_costs_the_poll_nothing_but_time() {
    let cluster = Cluster::new();
    for epoch in 2..12 {
        let shard = shard_of_id(&cluster.topic, &format!("m{epoch}")).unwrap();
        let (broker, wish) = (cluster.broker.clone(), cluster.wish(Duration::from_secs(10)));
        let poll = tasks::spawn("poll", async move { broker.receive(wish).await.unwrap() });
        sleep(Duration::from_millis(100)).await;
        cluster.send(normal(&format!("m{epoch}"))).join().await.unwrap().0.unwrap();
        // At another moment of offer and lease each time.
        sleep(Duration::from_millis(epoch as u64 / 2)).await;
        cluster.crash(shard);
        sleep(Duration::from_millis(50)).await;
        cluster.elect(shard, epoch);
        let mut got = poll.join().await.unwrap();
        while got.is_empty() {
            // What was leased and never told is given again when the client says who it is, or its time is over.
            sleep(Duration::from_secs(60)).await;
            got = cluster.broker.receive(cluster.wish(Duration::from_secs(10))).await.unwrap();
        }
        assert_eq!(got.len(), 1);
        let handles = got.iter().map(|delivery| delivery.handle).collect();
        assert_eq!(cluster.broker.ack(&cluster.group, handles).await, [Ok(())]);
    }
}
