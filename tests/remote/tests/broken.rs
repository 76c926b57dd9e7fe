//! Streams that break: nothing that was acknowledged is lost, nothing that was given is given twice, and what is not known says so.

#![allow(clippy::unwrap_used)]

use gantry_model::contract::Broker;
use gantry_model::contract::broker::*;
use gantry_model::{Epoch, NodeId, Offset, QueueId, ShardId};
use gantry_platform::clock::{SystemClock, sleep, timeout};
use gantry_platform::tasks;
use gantry_proxy::remote::{Hint, RemoteBroker};
use gantry_remote::{BROKER, Rig, id_of, message, until};
use gantry_routing::catalogue::{ONE, ORDERS};
use gantry_routing::wire::ProxySide;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// The ids of all stored messages, as the shard itself has them.
async fn stored(rig: &Rig) -> BTreeMap<String, usize> {
    let topic = rig.catalogue.the_topic(ORDERS);
    let mut ids = BTreeMap::new();
    for queue in 0..topic.queues.len() as u32 {
        let query = Query::Offset { queue: QueueId(queue), offset: Offset(0) };
        for stored in rig.local.find(&topic, query, 100_000).await.unwrap() {
            *ids.entry(stored.message.id).or_default() += 1;
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_over_a_stream_that_keeps_breaking_are_stored_once_or_say_what_is_not_known() {
    let rig = Arc::new(Rig::new().await);
    let proxy = Arc::new(rig.proxy("proxy", 100));
    let mut senders = Vec::new();
    for sender in 0..8 {
        let (rig, proxy) = (rig.clone(), proxy.clone());
        senders.push(tasks::spawn("sender", async move {
            let mut answers = Vec::new();
            for number in 0..150 {
                let id = format!("{sender}-{number}");
                answers.push((id.clone(), proxy.send(rig.sending(vec![message(id)])).await));
                if answers.last().is_some_and(|(_, answer)| answer.is_err()) {
                    sleep(Duration::from_millis(5)).await;
                }
            }
            answers
        }));
    }
    for _ in 0..30 {
        sleep(Duration::from_millis(12)).await;
        rig.cut_off("proxy");
    }
    let mut outcomes = BTreeMap::new();
    for sender in senders {
        outcomes.extend(sender.await.unwrap());
    }
    let stored = stored(&rig).await;
    let (mut acked, mut refused, mut unknown) = (0, 0, 0);
    for (id, outcome) in &outcomes {
        let copies = stored.get(id).copied().unwrap_or(0);
        match outcome {
            Ok(_) => assert_eq!(copies, 1, "`{id}` was acknowledged"),
            Err(SendError::NoLeader) => assert_eq!(copies, 0, "`{id}` was refused"),
            Err(SendError::Unknown { .. }) => assert!(copies <= 1, "`{id}` was sent once"),
            other => panic!("`{id}`: {other:?}"),
        }
        match outcome {
            Ok(_) => acked += 1,
            Err(SendError::NoLeader) => refused += 1,
            Err(_) => unknown += 1,
        }
    }
    assert_eq!(outcomes.len(), 8 * 150);
    assert!(acked > 0 && refused + unknown > 0, "{acked} acknowledged, {refused} refused, {unknown} unknown");
    until("the proxy comes back", async || proxy.send(rig.sending(vec![message("last")])).await.is_ok()).await;
}

#[tokio::test]
async fn a_send_whose_answer_is_lost_may_be_stored() {
    let rig = Rig::new().await;
    let proxy = rig.proxy("proxy", 100);
    proxy.send(rig.sending(vec![message("first")])).await.unwrap();
    rig.net.cut(BROKER, "proxy");
    let (sent, ()) = tokio::join!(proxy.send(rig.sending(vec![message("second")])), async {
        until("it is stored", async || stored(&rig).await.contains_key("second")).await;
        rig.cut_off("proxy");
    });
    assert!(matches!(sent, Err(SendError::Unknown { .. })), "{sent:?}");
}

#[tokio::test]
async fn what_could_never_be_written_was_not_done() {
    let rig = Rig::new().await;
    rig.side.stop();
    let proxy = rig.proxy("proxy", 100);
    assert_eq!(proxy.send(rig.sending(vec![message("m")])).await, Err(SendError::NoLeader));
    let group = rig.catalogue.the_group(ONE);
    assert_eq!(proxy.broker.positions(&group, &rig.catalogue.the_topic(ORDERS)).await, Err(LookupError::NoLeader));
    assert!(proxy.broker.shards().await.is_empty());
    assert_eq!(proxy.broker.receive(rig.wish(SOON)).await.unwrap_err(), ReceiveError::NoLeader);
    assert_eq!(stored(&rig).await.len(), 0);
}

#[tokio::test]
async fn deliveries_that_never_arrived_are_given_again_and_not_counted() {
    let rig = Rig::new().await;
    let proxy = rig.proxy("proxy", 100);
    proxy.send(rig.sending((0..5).map(message).collect())).await.unwrap();
    rig.net.cut(BROKER, "proxy");
    let (received, ()) = tokio::join!(proxy.broker.receive(rig.wish(SOON)), async {
        until("they are leased", async || rig.in_flight().await == 5).await;
        rig.cut_off("proxy");
        rig.net.heal(BROKER, "proxy");
    });
    assert!(matches!(received, Err(ReceiveError::Failed { .. })), "{received:?}");
    let mut again = Vec::new();
    until("all come again", async || {
        again.extend(proxy.broker.receive(rig.wish(Duration::from_millis(100))).await.unwrap_or_default());
        again.len() == 5
    })
    .await;
    assert!(again.iter().all(|delivery| delivery.attempt == 1), "what never arrived is no attempt");
}

#[tokio::test]
async fn what_arrived_stays_with_its_consumer_and_any_proxy_finishes_it() {
    let rig = Rig::new().await;
    let (one, other) = (rig.proxy("one", 100), rig.proxy("other", 101));
    one.send(rig.sending((0..5).map(message).collect())).await.unwrap();
    let got = one.broker.receive(rig.wish(SOON)).await.unwrap();
    rig.cut_off("one");
    until("the stream is over", async || rig.side.locals.attached() <= 1).await;
    until("the proxy comes back", async || one.send(rig.sending(vec![message("after")])).await.is_ok()).await;
    let left = rig.in_flight().await;
    assert_eq!(left, got.len() as u64, "leases that were told stay");
    let handles = got.iter().map(|delivery| delivery.handle).collect::<Vec<_>>();
    let answers = other.broker.ack(&rig.catalogue.the_group(ONE), handles).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(rig.in_flight().await, 0);
}

#[tokio::test]
async fn a_poll_that_is_dropped_at_any_moment_keeps_nothing() {
    let rig = Rig::new().await;
    let proxy = rig.proxy("proxy", 100);
    for way in [(BROKER, "proxy"), ("proxy", BROKER)] {
        rig.net.delay(way.0, way.1, Duration::from_millis(4));
    }
    until("it is connected", async || proxy.send(rig.sending(vec![message("first")])).await.is_ok()).await;
    proxy.send(rig.sending((0..20).map(message).collect())).await.unwrap();
    for after_ms in 0..14 {
        let poll = proxy.broker.receive(rig.wish(SOON));
        if let Ok(got) = timeout(Duration::from_millis(after_ms), poll).await {
            proxy.broker.release(got.unwrap().iter().map(|delivery| delivery.handle).collect());
        }
    }
    until("nothing stays leased", async || rig.in_flight().await == 0).await;
    let mut ids = BTreeSet::new();
    until("all are still there", async || {
        let got = proxy.broker.receive(rig.wish(Duration::from_millis(200))).await.unwrap();
        assert!(got.iter().all(|delivery| delivery.attempt == 1));
        ids.extend(got.iter().map(id_of));
        ids.len() == 21
    })
    .await;
}

#[tokio::test]
async fn polls_of_a_proxy_that_is_gone_end() {
    let rig = Rig::new().await;
    let (gone, here) = (rig.proxy("gone", 100), rig.proxy("here", 101));
    let mut poll = Box::pin(gone.broker.receive(rig.wish(SOON)));
    let polls = async || rig.local.shards().await[0].open_polls;
    assert!(timeout(Duration::from_millis(20), &mut poll).await.is_err());
    until("it waits", async || polls().await == 1).await;
    rig.net.cut("gone", BROKER);
    rig.cut_off("gone");
    assert!(poll.await.is_err());
    until("nobody waits", async || polls().await == 0).await;
    here.send(rig.sending(vec![message("m")])).await.unwrap();
    assert_eq!(here.broker.receive(rig.wish(SOON)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_broker_of_another_cluster_is_never_asked() {
    let rig = Rig::of_cluster([1; 16], Arc::new(SystemClock::new())).await;
    let proxy = rig.proxy("proxy", 100);
    assert_eq!(proxy.send(rig.sending(vec![message("m")])).await, Err(SendError::NoLeader));
    assert_eq!((rig.side.locals.attached(), stored(&rig).await.len()), (0, 0));
}

#[tokio::test]
async fn a_broker_that_is_another_node_now_is_never_asked() {
    let rig = Rig::new().await;
    let proxy = ProxySide::on(Arc::new(rig.net.node("proxy")), 100, rig.catalogue.clone(), rig.clock.clone());
    proxy.brokers.set(NodeId(9), &rig.side.address);
    let wrong = RemoteBroker::new(proxy.brokers.upstream(NodeId(9)).unwrap(), ShardId(0));
    assert_eq!(wrong.send(rig.sending(vec![message("m")])).await, [Err(SendError::NoLeader)]);
    assert_eq!((rig.side.locals.attached(), stored(&rig).await.len()), (0, 0));
}

#[tokio::test]
async fn a_shard_that_is_elsewhere_says_where() {
    let rig = Rig::new().await;
    let mut proxy = rig.proxy("proxy", 100);
    let upstream = proxy.side.brokers.upstream(rig.side.node).unwrap();
    let elsewhere = RemoteBroker::new(upstream, ShardId(5));
    let reign = gantry_broker::remote::Reign { epoch: Epoch(7), leader: Some(NodeId(3)) };
    rig.side.locals.led_by(ShardId(5), reign);
    assert_eq!(elsewhere.send(rig.sending(vec![message("m")])).await, [Err(SendError::NoLeader)]);
    let hint = Hint { shard: ShardId(5), epoch: Epoch(7), leader: Some(NodeId(3)) };
    assert_eq!(proxy.side.hints.recv().await, Some(hint));
    assert!(matches!(elsewhere.offered(&rig.wish(SOON)).await, Err(ReceiveError::NoLeader)));
    let handles = vec![gantry_model::ReceiptHandle {
        shard: ShardId(5),
        topic: ORDERS,
        group: ONE,
        queue: QueueId(0),
        offset: Offset(0),
        lease: gantry_model::LeaseId(1),
        reset: 0,
        attempt: 1,
    }];
    assert_eq!(elsewhere.ack(&rig.catalogue.the_group(ONE), handles).await, [Err(LeaseError::NoLeader)]);
    assert_eq!(proxy.side.hints.recv().await, Some(hint));
}

#[tokio::test]
async fn a_node_that_is_removed_is_asked_no_more() {
    let rig = Rig::new().await;
    let proxy = rig.proxy("proxy", 100);
    let poll = proxy.broker.receive(rig.wish(SOON));
    let (ended, ()) = tokio::join!(poll, async {
        until("it waits", async || rig.local.shards().await[0].open_polls == 1).await;
        proxy.side.brokers.remove(rig.side.node);
    });
    assert!(matches!(ended, Err(ReceiveError::Failed { .. })), "{ended:?}");
    assert_eq!(proxy.send(rig.sending(vec![message("m")])).await, Err(SendError::NoLeader));
    assert!(proxy.side.brokers.lead(ShardId(0), rig.side.node, Epoch(1)).is_none());
    until("its stream ends", async || rig.side.locals.attached() == 0).await;
}
