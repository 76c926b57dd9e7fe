//! ReceiveMessage: the shape of the answer, how long it takes, and what becomes of messages that do not arrive.

use crate::rig::{Client, Rig, call, call_from, channel, push_poll, receive, resource, seconds, simple_poll, until};
use gantry_model::contract::broker::{LeaseTerm, ReceiveError};
use gantry_model::message::{BodyEncoding, DeadReason, Origin};
use gantry_model::topic::{Permission, TopicType};
use gantry_model::{Filter, GroupName, MessageKind, Offset, QueueId, TopicName, contract::Metadata};
use gantry_proto::v2::*;
use gantry_proxy::Config;
use std::time::{Duration, Instant};
use tonic::Request;

/// A real clock: these tests measure what a client sees.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

fn within(mut request: Request<ReceiveMessageRequest>, deadline: Duration) -> Request<ReceiveMessageRequest> {
    request.set_timeout(deadline);
    request
}

#[tokio::test]
async fn a_delivered_message_has_everything_that_some_client_needs() {
    let (rig, topic) = Rig::with_topic().await;
    let message = gantry_model::Message {
        id: "id-1".into(),
        kind: MessageKind::Normal,
        tag: Some("tag".into()),
        keys: vec!["k 1".into(), "k2".into()],
        properties: vec![("a".into(), "b".into())],
        body: "abc".into(),
        encoding: BodyEncoding::Gzip,
        digest: [0xa9; 20],
        born_ms: 12_345,
        born_host: "host".into(),
        trace_context: Some("00-t".into()),
        ..Default::default()
    };
    rig.broker.store(topic.id, message);
    let (status, messages, timed) = receive(&mut rig.client.clone(), call(push_poll("orders", "group"))).await;
    assert_eq!((status.code(), messages.len(), timed), (Code::Ok, 1, true));
    let message = &messages[0];
    assert_eq!((&message.topic, &message.body[..]), (&resource("orders"), &b"abc"[..]));
    assert_eq!(message.user_properties, [("a".to_owned(), "b".to_owned())].into());
    let system = message.system_properties.as_ref().unwrap();
    let digest = Digest { r#type: DigestType::Sha1 as i32, checksum: "A9".repeat(20) };
    assert_eq!(
        (system.tag.as_deref(), &system.keys[..], &system.body_digest),
        (Some("tag"), &["k 1".to_owned(), "k2".to_owned()][..], &Some(digest))
    );
    assert_eq!((system.message_id.as_str(), system.body_encoding(), system.message_type()), ("id-1", Encoding::Gzip, MessageType::Normal));
    assert_eq!(system.born_timestamp, Some(prost_types::Timestamp { seconds: 12, nanos: 345_000_000 }));
    assert_eq!((system.born_host.as_str(), system.store_host.clone()), ("host", rig.messaging.to_string()));
    assert_eq!(system.store_timestamp, Some(prost_types::Timestamp { seconds: 2, nanos: 0 }));
    assert_eq!((system.queue_id, system.queue_offset, system.delivery_attempt), (3, Some(0), Some(1)));
    assert_eq!((system.trace_context.as_deref(), &system.delivery_timestamp, &system.dead_letter_queue), (Some("00-t"), &None, &None));
    let handle = rig.metadata.handle_keys().verify(system.receipt_handle.as_ref().unwrap()).unwrap();
    assert_eq!((handle.topic, handle.queue, handle.offset), (topic.id, QueueId(3), Offset(0)));
}

#[tokio::test]
async fn a_dead_letter_names_its_origin() {
    let (rig, orders) = Rig::with_topic().await;
    let dead = rig.metadata.topic(&TopicName::parse("", "%DLQ%group").unwrap()).unwrap();
    rig.broker.put(&dead, "id-1", "x");
    let name = Some(orders.name.clone());
    let origin = Origin { topic: orders.id, name, queue: QueueId(0), offset: Offset(0), attempts: 16, reason: DeadReason::MaxAttempts };
    rig.broker.with(|state| state.stored[0].origin = Some(origin));
    let (_, messages, _) = receive(&mut rig.client.clone(), call(push_poll("%DLQ%group", "readers"))).await;
    let expected = DeadLetterQueue { topic: "orders".into(), message_id: "id-1".into() };
    assert_eq!(messages[0].system_properties.as_ref().unwrap().dead_letter_queue, Some(expected));
}

#[tokio::test]
async fn a_poll_that_finds_nothing_takes_its_time() {
    let (rig, _) = Rig::with_topic().await;
    let started = now();
    let (status, messages, timed) = receive(&mut rig.client.clone(), call(simple_poll("orders", "group", 300))).await;
    assert_eq!((status.code(), messages.len(), timed), (Code::MessageNotFound, 0, true));
    assert!((290..1_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_message_that_arrives_ends_the_wait() {
    let (rig, topic) = Rig::with_topic().await;
    let mut client = rig.client.clone();
    let started = now();
    let poll = receive(&mut client, call(push_poll("orders", "group")));
    let arrives = async {
        until("the poll waits", || rig.broker.with(|state| state.waiting) == 1).await;
        rig.broker.put(&topic, "id", "body");
    };
    let ((status, messages, _), ()) = tokio::join!(poll, arrives);
    assert_eq!((status.code(), messages.len()), (Code::Ok, 1));
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn headers_come_before_the_wait_is_over() {
    let (rig, _) = Rig::with_topic().await;
    let started = now();
    let stream = rig.client.clone().receive_message(call(push_poll("orders", "group"))).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    drop(stream);
}

/// What the broker is asked for a request.
async fn asked(rig: &Rig, request: Request<ReceiveMessageRequest>) -> gantry_model::contract::broker::ReceiveRequest {
    let before = rig.broker.with(|state| state.receives.len());
    let stream = rig.client.clone().receive_message(request).await.unwrap();
    until("the broker is asked", || rig.broker.with(|state| state.receives.len()) > before).await;
    drop(stream);
    rig.broker.with(|state| state.receives.last().unwrap().clone())
}

#[tokio::test]
async fn the_wait_is_what_the_client_asks_within_bounds() {
    let (rig, _) = Rig::with_topic().await;
    let ms = |request| async { asked(&rig, request).await.wait.as_millis() };
    let timed = |ms: i64, renew: bool| {
        let timeout = Some(prost_types::Duration { seconds: ms / 1_000, nanos: (ms % 1_000) as i32 * 1_000_000 });
        call(ReceiveMessageRequest { long_polling_timeout: timeout, auto_renew: renew, ..simple_poll("orders", "group", 0) })
    };
    assert_eq!(ms(timed(0, false)).await, 0);
    assert_eq!(ms(timed(1_234, false)).await, 1_234);
    assert_eq!(ms(timed(0, true)).await, 1_000);
    assert_eq!(ms(timed(40_000, true)).await, 20_000);
    assert_eq!(ms(call(push_poll("orders", "group"))).await, 20_000);
    assert_eq!(ms(within(timed(10_000, true), Duration::from_secs(5))).await, 4_500);
    assert_eq!(ms(within(timed(10_000, true), Duration::from_millis(400))).await, 0);
    assert_eq!(ms(within(call(push_poll("orders", "group")), Duration::from_secs(10))).await, 7_000, "the deadline less the request timeout");
    assert_eq!(ms(within(call(push_poll("orders", "group")), Duration::from_secs(3_000))).await, 20_000);
}

#[tokio::test]
async fn the_broker_is_asked_for_what_the_client_wants() {
    let (rig, topic) = Rig::with_topic().await;
    let filter = |expression: &str| Some(FilterExpression { r#type: FilterType::Tag as i32, expression: expression.into() });
    let request = ReceiveMessageRequest {
        filter_expression: filter("b || a"),
        attempt_id: Some("try-1".into()),
        batch_size: 0,
        ..simple_poll("orders", "group", 0)
    };
    let wish = asked(&rig, call_from("me", request)).await;
    assert_eq!((wish.topic.id, wish.group.name.name.as_str(), wish.client.as_str(), wish.max), (topic.id, "group", "me", 1));
    assert_eq!((&*wish.filter, wish.attempt_id.as_deref()), (&Filter::Tags(vec!["a".into(), "b".into()]), Some("try-1")));
    assert_eq!(wish.lease, LeaseTerm::For(Duration::from_secs(30)));
    let sql = Some(FilterExpression { r#type: 2, expression: "a > 5".into() });
    let wish = asked(&rig, call(ReceiveMessageRequest { filter_expression: sql, ..simple_poll("orders", "group", 100) })).await;
    assert_eq!(*wish.filter, Filter::sql("a > 5").unwrap());
    let wish = asked(&rig, call(ReceiveMessageRequest { batch_size: 99, filter_expression: filter("*"), ..push_poll("orders", "group") })).await;
    assert_eq!((wish.max, &*wish.filter, wish.lease), (32, &Filter::All, LeaseTerm::WhileClientLives));
    asked(&rig, call(push_poll("orders", "brand-new"))).await;
    assert!(rig.metadata.group(&GroupName::parse("", "brand-new").unwrap()).is_some());
}

#[tokio::test]
async fn a_bad_request_is_refused_with_one_status() {
    let (rig, _) = Rig::with_topic().await;
    rig.metadata.add_topic_with("closed", TopicType::Normal, Permission::Write);
    let base = || simple_poll("orders", "group", 100);
    let filter = |kind: i32, expression: &str| ReceiveMessageRequest {
        filter_expression: Some(FilterExpression { r#type: kind, expression: expression.into() }),
        ..base()
    };
    let invisible = |duration| ReceiveMessageRequest { invisible_duration: duration, ..base() };
    let polling = |seconds| ReceiveMessageRequest { long_polling_timeout: Some(crate::rig::seconds(seconds)), ..base() };
    let check = async |request: ReceiveMessageRequest, expected: Code| {
        let (status, messages, _) = receive(&mut rig.client.clone(), call(request)).await;
        assert_eq!((status.code(), messages.len()), (expected, 0), "{}", status.message);
    };
    check(simple_poll("a.b", "group", 100), Code::IllegalTopic).await;
    check(ReceiveMessageRequest { message_queue: None, ..base() }, Code::IllegalTopic).await;
    check(simple_poll("orders", "a.b", 100), Code::IllegalConsumerGroup).await;
    check(simple_poll("missing", "group", 100), Code::TopicNotFound).await;
    check(simple_poll("%RETRY%group_orders", "group", 100), Code::TopicNotFound).await;
    check(simple_poll("closed", "group", 100), Code::Forbidden).await;
    check(invisible(None), Code::IllegalInvisibleTime).await;
    check(invisible(Some(seconds(9))), Code::IllegalInvisibleTime).await;
    check(invisible(Some(seconds(43_201))), Code::IllegalInvisibleTime).await;
    check(invisible(Some(seconds(-10))), Code::IllegalInvisibleTime).await;
    check(invisible(Some(seconds(i64::MAX))), Code::IllegalInvisibleTime).await;
    check(invisible(Some(seconds(43_200))), Code::MessageNotFound).await;
    check(invisible(Some(seconds(10))), Code::MessageNotFound).await;
    check(filter(1, "a|b"), Code::IllegalFilterExpression).await;
    check(filter(1, &"x".repeat(4_097)), Code::IllegalFilterExpression).await;
    check(filter(2, " "), Code::IllegalFilterExpression).await;
    check(filter(2, &"x".repeat(4_097)), Code::IllegalFilterExpression).await;
    check(filter(9, "a"), Code::IllegalFilterExpression).await;
    check(filter(2, "a > 5 OR b || c"), Code::IllegalFilterExpression).await;
    check(filter(0, "a||b"), Code::MessageNotFound).await;
    check(ReceiveMessageRequest { batch_size: -1, ..base() }, Code::BadRequest).await;
    check(polling(-1), Code::IllegalPollingTime).await;
    let mut old = call(polling(-1));
    old.metadata_mut().insert("x-mq-client-version", "5.0.2".parse().unwrap());
    assert_eq!(receive(&mut rig.client.clone(), old).await.0.code(), Code::BadRequest);
    assert_eq!(receive(&mut rig.client.clone(), call_from(" ", base())).await.0.code(), Code::ClientIdRequired);
}

#[tokio::test]
async fn answers_of_the_broker_become_codes() {
    let (rig, _) = Rig::with_topic().await;
    for (error, expected) in [
        (ReceiveError::TooManyPolls, Code::TooManyRequests),
        (ReceiveError::NoReadableQueue, Code::Forbidden),
        (ReceiveError::Failed { why: "no shard".into() }, Code::InternalServerError),
    ] {
        rig.broker.with(|state| state.receive_error = Some(error));
        let started = now();
        assert_eq!(receive(&mut rig.client.clone(), call(simple_poll("orders", "group", 100))).await.0.code(), expected);
        assert!(started.elapsed() < Duration::from_millis(500), "a simple consumer learns of an error at once");
    }
}

#[tokio::test]
async fn an_error_to_a_push_consumer_is_held_back() {
    let (rig, _) = Rig::with_topic().await;
    rig.broker.with(|state| state.receive_error = Some(ReceiveError::TooManyPolls));
    let started = now();
    let (status, _, timed) = receive(&mut rig.client.clone(), call(push_poll("orders", "group"))).await;
    assert_eq!((status.code(), timed), (Code::TooManyRequests, true));
    assert!((950..2_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    let started = now();
    let request = within(call(push_poll("orders", "group")), Duration::from_millis(900));
    assert_eq!(receive(&mut rig.client.clone(), request).await.0.code(), Code::TooManyRequests);
    assert!(started.elapsed() < Duration::from_millis(700), "but not past the deadline");
}

#[tokio::test]
async fn only_so_many_polls_wait() {
    let mut config = Config::default();
    config.limits.open_polls = 1;
    let rig = Rig::with(config).await;
    rig.metadata.add_topic("orders", TopicType::Normal);
    let first = rig.client.clone().receive_message(call(push_poll("orders", "group"))).await.unwrap();
    until("the first poll waits", || rig.broker.with(|state| state.waiting) == 1).await;
    assert_eq!(receive(&mut rig.client.clone(), call(simple_poll("orders", "group", 100))).await.0.code(), Code::TooManyRequests);
    drop(first);
    until("the first poll is withdrawn", || rig.broker.with(|state| state.waiting) == 0).await;
    assert_eq!(receive(&mut rig.client.clone(), call(simple_poll("orders", "group", 100))).await.0.code(), Code::MessageNotFound);
}

#[tokio::test]
async fn a_poll_ends_when_its_client_cancels_or_disconnects() {
    let (rig, topic) = Rig::with_topic().await;
    let stream = rig.client.clone().receive_message(call(push_poll("orders", "group"))).await.unwrap();
    until("the poll waits", || rig.broker.with(|state| state.waiting) == 1).await;
    drop(stream);
    until("a cancelled poll is withdrawn", || rig.broker.with(|state| state.waiting) == 0).await;

    let mut other = Client::new(channel(rig.messaging).await);
    let stream = other.receive_message(call(push_poll("orders", "group"))).await.unwrap();
    until("the poll waits", || rig.broker.with(|state| state.waiting) == 1).await;
    drop((stream, other));
    until("the poll of a lost connection is withdrawn", || rig.broker.with(|state| state.waiting) == 0).await;
    rig.broker.put(&topic, "id", "body");
    assert_eq!(rig.broker.with(|state| state.given), 0);
}

#[tokio::test]
async fn messages_of_an_answer_that_was_not_read_are_given_back() {
    let (rig, topic) = Rig::with_topic().await;
    for n in 0..32 {
        rig.broker.put(&topic, &format!("id-{n}"), vec![7; 256 * 1024]);
    }
    let mut other = Client::new(channel(rig.messaging).await);
    let mut stream = other.receive_message(call(push_poll("orders", "group"))).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    until("all are given back", || rig.broker.with(|state| state.released.len()) == 32).await;
}

#[tokio::test]
async fn messages_of_an_answer_that_was_read_stay_with_the_client() {
    let (rig, topic) = Rig::with_topic().await;
    for n in 0..40 {
        rig.broker.put(&topic, &format!("id-{n}"), "small");
    }
    let (_, messages, _) = receive(&mut rig.client.clone(), call(push_poll("orders", "group"))).await;
    assert_eq!(messages.len(), 32);
    let (_, messages, _) = receive(&mut rig.client.clone(), call(push_poll("orders", "group"))).await;
    assert_eq!(messages.len(), 8);
    assert!(rig.broker.with(|state| state.released.is_empty()));
}
