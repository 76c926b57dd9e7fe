//! Quotas as clients meet them: sends that are refused before they are stored, receives that wait.

use crate::rig::{Rig, call, call_from, message, receive, simple_poll, until};
use gantry_model::contract::Metadata;
use gantry_model::group::{GroupChange, GroupOptions};
use gantry_model::topic::{TopicChange, TopicOptions};
use gantry_model::{GroupName, TopicName};
use gantry_platform::clock::{Clock, SystemClock, sleep};
use gantry_proto::v2::{Code, SendMessageRequest, Status};
use std::time::Duration;

async fn limit_sends(rig: &Rig, messages: Option<u64>, bytes: Option<u64>) {
    let mut options = TopicOptions::default();
    (options.quota.send_messages_per_s, options.quota.send_bytes_per_s) = (messages, bytes);
    let change = TopicChange { options: Some(options), ..Default::default() };
    rig.metadata.update_topic(&TopicName::parse("", "orders").unwrap(), change).await.unwrap();
}

async fn limit_receives(rig: &Rig, messages: Option<u64>, bytes: Option<u64>) {
    let mut options = GroupOptions::default();
    (options.quota.receive_messages_per_s, options.quota.receive_bytes_per_s) = (messages, bytes);
    let change = GroupChange { options: Some(options), ..Default::default() };
    rig.metadata.update_group(&GroupName::parse("", "group").unwrap(), change).await.unwrap();
}

async fn send(rig: &Rig, count: usize) -> Status {
    let request = SendMessageRequest { messages: vec![message("orders"); count] };
    rig.client.clone().send_message(call(request)).await.unwrap().into_inner().status.unwrap()
}

#[tokio::test]
async fn a_send_over_the_quota_is_refused_before_it_is_stored() {
    let (rig, _) = Rig::with_topic().await;
    limit_sends(&rig, Some(2), None).await;
    assert_eq!(send(&rig, 2).await.code(), Code::Ok);
    let refused = send(&rig, 1).await;
    assert_eq!(refused.code(), Code::TooManyRequests);
    assert!(
        refused.message.starts_with("topic `orders` takes 2 messages a second (setting `quota.send.messages`): nothing was stored, try again in ")
    );
    assert_eq!(rig.broker.with(|state| state.stored.len()), 2);
    sleep(Duration::from_millis(550)).await;
    assert_eq!(send(&rig, 1).await.code(), Code::Ok, "half a second gives one message of two");
    let text = rig.proxy.metrics_text().await;
    assert!(text.contains("gantry_throttled_total{scope=\"topic\",name=\"orders\"} 1\n"), "{text}");

    limit_sends(&rig, None, Some(7)).await;
    assert_eq!(send(&rig, 4).await.code(), Code::Ok, "20 bytes are more than a second gives, and pass after a quiet one");
    assert!(send(&rig, 1).await.message.contains("quota.send.bytes"));
    limit_sends(&rig, None, None).await;
    assert_eq!(send(&rig, 100).await.code(), Code::Ok);
}

#[tokio::test]
async fn a_receive_over_the_quota_gets_less_and_later_but_no_error() {
    let (rig, topic) = Rig::with_topic().await;
    limit_receives(&rig, Some(10), None).await;
    for number in 0..14 {
        rig.broker.put(&topic, &format!("id-{number}"), "x");
    }
    let clock = SystemClock::new();
    let (status, messages, _) = receive(&mut rig.client.clone(), call(simple_poll("orders", "group", 900))).await;
    assert_eq!((status.code(), messages.len()), (Code::Ok, 10), "a second's worth at once");
    let mut all = 10;
    while all < 14 {
        let (status, messages, _) = receive(&mut rig.client.clone(), call(simple_poll("orders", "group", 900))).await;
        assert_eq!(status.code(), Code::Ok);
        all += messages.len();
    }
    assert!(clock.mono() >= Duration::from_millis(390), "4 more take 400 ms: {:?}", clock.mono());
    let text = rig.proxy.metrics_text().await;
    assert!(text.contains("gantry_throttled_total{scope=\"group\",name=\"group\"} "), "{text}");
}

#[tokio::test]
async fn a_poll_that_never_gets_its_turn_ends_empty_at_the_end_of_its_time() {
    let (rig, topic) = Rig::with_topic().await;
    limit_receives(&rig, None, Some(1_000)).await;
    rig.broker.put(&topic, "large", vec![1; 60_000]);
    rig.broker.put(&topic, "next", "x");
    let (_, messages, _) = receive(&mut rig.client.clone(), call(simple_poll("orders", "group", 200))).await;
    assert_eq!(messages.len(), 2, "how large messages are is known afterwards");
    rig.broker.put(&topic, "held back", "x");
    let clock = SystemClock::new();
    let (status, messages, _) = receive(&mut rig.client.clone(), call(simple_poll("orders", "group", 300))).await;
    assert_eq!((status.code(), messages.len()), (Code::MessageNotFound, 0));
    assert!(clock.mono() >= Duration::from_millis(290), "{:?}", clock.mono());
    assert_eq!(rig.broker.with(|state| state.receives.len()), 1, "the broker was not asked");
}

#[tokio::test]
async fn polls_wait_in_line_and_what_they_don_t_use_goes_back() {
    let (rig, topic) = Rig::with_topic().await;
    limit_receives(&rig, Some(4), None).await;
    let (empty, _, _) = receive(&mut rig.client.clone(), call(simple_poll("orders", "group", 10))).await;
    assert_eq!(empty.code(), Code::MessageNotFound);
    // A poll that its client gives up while it waits takes nothing with it either.
    let stream = rig.client.clone().receive_message(call(simple_poll("orders", "group", 900))).await.unwrap();
    until("the poll waits", || rig.broker.with(|state| state.waiting == 1)).await;
    drop(stream);
    until("the poll is withdrawn", || rig.broker.with(|state| state.waiting == 0)).await;
    for number in 0..8 {
        rig.broker.put(&topic, &format!("id-{number}"), "x");
    }
    let (_, messages, _) = receive(&mut rig.client.clone(), call(simple_poll("orders", "group", 900))).await;
    assert_eq!(messages.len(), 4, "the whole second is there");
    let poll = |client: &str| {
        let (mut caller, request) = (rig.client.clone(), call_from(client, simple_poll("orders", "group", 900)));
        async move { receive(&mut caller, request).await.1.len() }
    };
    let (a, b) = tokio::join!(poll("a"), poll("b"));
    assert!(a > 0 && b > 0, "both members get something: {a}, {b}");
}
