//! Streams that fill up, and what is large.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use gantry_model::Message;
use gantry_model::contract::Broker;
use gantry_model::contract::broker::*;
use gantry_model::limits::BODY_MAX;
use gantry_platform::tasks;
use gantry_remote::{Rig, id_of, message, until};
use gantry_routing::catalogue::{ONE, ORDERS};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn large(number: u8) -> Message {
    Message { body: Bytes::from(vec![number; BODY_MAX]), ..message(format!("large{number}")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_bodies_go_both_ways_whole() {
    let rig = Rig::new().await;
    let proxy = rig.proxy("proxy", 100);
    for number in [1, 3, 5] {
        let answers = proxy.broker.send(rig.sending(vec![large(number), large(number + 1)])).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    let mut got = BTreeMap::new();
    while got.len() < 6 {
        for delivery in proxy.broker.receive(rig.wish(SOON)).await.unwrap() {
            let body = delivery.message.body();
            assert!(body.len() == BODY_MAX && body.iter().all(|&byte| byte == body[0]));
            got.insert(id_of(&delivery), body[0]);
        }
    }
    let expected: BTreeMap<String, u8> = (1..=6).map(|number| (format!("large{number}"), number)).collect();
    assert_eq!(got, expected);
    let found = proxy.broker.find(&rig.catalogue.the_topic(ORDERS), Query::Stored { from_ms: 0, to_ms: u64::MAX }, 10).await.unwrap();
    assert_eq!(found.len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_full_says_busy_and_acknowledgements_still_pass() {
    let rig = Arc::new(Rig::new().await);
    let proxy = Arc::new(rig.proxy("proxy", 100));
    proxy.send(rig.sending(vec![message("first")])).await.unwrap();
    let got = proxy.broker.receive(rig.wish(SOON)).await.unwrap();
    rig.net.cut("proxy", gantry_remote::BROKER);
    let sends: Vec<_> = (0..24)
        .map(|number| {
            let (rig, proxy) = (rig.clone(), proxy.clone());
            tasks::spawn("send", async move { proxy.send(rig.sending(vec![large(number)])).await })
        })
        .collect();
    until("the stream is full", async || sends.iter().filter(|send| send.is_finished()).count() >= 9).await;
    let refused = sends.iter().filter(|send| send.is_finished()).count();
    assert_eq!(refused, 9, "64 MiB are 15 bodies of 4 MiB with their properties");
    let acks = {
        let (rig, proxy) = (rig.clone(), proxy.clone());
        let handles = got.iter().map(|delivery| delivery.handle).collect();
        tasks::spawn("ack", async move { proxy.broker.ack(&rig.catalogue.the_group(ONE), handles).await })
    };
    rig.net.heal("proxy", gantry_remote::BROKER);
    assert_eq!(acks.await.unwrap(), vec![Ok(()); got.len()]);
    let mut stored = 0;
    for send in sends {
        match send.await.unwrap() {
            Ok(_) => stored += 1,
            // The broker's own bound is a little lower.
            Err(SendError::Busy) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!((10..=15).contains(&stored), "{stored} stored");
    until("there is room again", async || proxy.send(rig.sending(vec![message("last")])).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_polls_wait_on_one_stream_and_end_at_their_time() {
    let rig = Arc::new(Rig::new().await);
    let proxy = Arc::new(rig.proxy("proxy", 100));
    let polls: Vec<_> = (0..3_000)
        .map(|_| {
            let (rig, proxy) = (rig.clone(), proxy.clone());
            let wish = ReceiveRequest { max: 1, ..rig.wish(Duration::from_millis(1_500)) };
            tasks::spawn("poll", async move { proxy.broker.receive(wish).await.unwrap().len() })
        })
        .collect();
    until("they wait", async || rig.local.shards().await[0].open_polls > 2_000).await;
    proxy.broker.send(rig.sending((0..100).map(message).collect())).await.iter().for_each(|sent| assert!(sent.is_ok()));
    let mut got = 0;
    for poll in polls {
        got += poll.await.unwrap();
    }
    assert_eq!(got, 100, "each message once, and all others empty");
}
