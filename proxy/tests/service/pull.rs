//! PullMessage and the three rpcs about offsets.

use crate::rig::{Rig, call, resource, seconds, until};
use gantry_model::Offset;
use gantry_model::contract::broker::{OffsetError, PullError};
use gantry_model::topic::{Permission, TopicType};
use gantry_proto::v2::pull_message_response::Content;
use gantry_proto::v2::*;

fn queue(topic: &str, id: i32) -> Option<MessageQueue> {
    Some(MessageQueue { topic: resource(topic), id, ..Default::default() })
}

fn from(offset: i64) -> PullMessageRequest {
    PullMessageRequest {
        group: resource("group"),
        message_queue: queue("orders", 3),
        offset,
        batch_size: 32,
        long_polling_timeout: Some(seconds(0)),
        ..Default::default()
    }
}

/// A whole answer: its status, its messages, and where to go on.
async fn pull(rig: &Rig, request: PullMessageRequest) -> (Code, Vec<Message>, i64) {
    let mut stream = rig.client.clone().pull_message(call(request)).await.unwrap().into_inner();
    let (mut status, mut messages, mut next) = (None, Vec::new(), None);
    while let Some(element) = stream.message().await.unwrap() {
        assert_eq!(next, None, "the next offset is the last element");
        match element.content.expect("never an empty element") {
            Content::Status(first) => assert!(status.replace(first.code()).is_none() && messages.is_empty(), "one status, and it is first"),
            Content::Message(message) => messages.push(message),
            Content::NextOffset(offset) => next = Some(offset),
        }
    }
    (status.expect("a status"), messages, next.expect("every answer says where to go on"))
}

#[tokio::test]
async fn a_pull_gives_messages_without_handles_and_the_next_offset() {
    let (rig, topic) = Rig::with_topic().await;
    (0..3).for_each(|number| rig.broker.put(&topic, &format!("id-{number}"), "x"));
    let (code, messages, next) = pull(&rig, from(1)).await;
    assert_eq!((code, messages.len(), next), (Code::Ok, 2, 3));
    let system = messages[0].system_properties.as_ref().unwrap();
    assert_eq!((system.message_id.as_str(), system.queue_id, system.queue_offset), ("id-1", 3, Some(1)));
    assert_eq!((&system.receipt_handle, &system.delivery_attempt), (&None, &None));
    let (code, messages, next) = pull(&rig, PullMessageRequest { message_queue: queue("orders", 4), ..from(0) }).await;
    assert_eq!((code, messages.len(), next), (Code::MessageNotFound, 0, 0), "the queue is the one that was asked for");
    assert_eq!(pull(&rig, PullMessageRequest { batch_size: 1, ..from(0) }).await.2, 1);
}

#[tokio::test]
async fn a_refused_pull_has_one_status_and_the_offset_to_go_on_at() {
    let (rig, _) = Rig::with_topic().await;
    rig.metadata.add_topic_with("closed", TopicType::Normal, Permission::Write);
    let filter = |kind, expression: &str| Some(FilterExpression { r#type: kind, expression: expression.into() });
    for (request, expected) in [
        (PullMessageRequest { message_queue: queue("a.b", 0), ..from(7) }, Code::IllegalTopic),
        (PullMessageRequest { group: resource("a.b"), ..from(7) }, Code::IllegalConsumerGroup),
        (PullMessageRequest { message_queue: queue("missing", 0), ..from(7) }, Code::TopicNotFound),
        (PullMessageRequest { message_queue: queue("orders", -1), ..from(7) }, Code::BadRequest),
        (PullMessageRequest { batch_size: -1, ..from(7) }, Code::BadRequest),
        (PullMessageRequest { long_polling_timeout: Some(seconds(-1)), ..from(7) }, Code::IllegalPollingTime),
        (PullMessageRequest { filter_expression: filter(1, "A|B"), ..from(7) }, Code::IllegalFilterExpression),
        (PullMessageRequest { filter_expression: filter(2, "a >"), ..from(7) }, Code::IllegalFilterExpression),
    ] {
        assert_eq!(pull(&rig, request.clone()).await, (expected, Vec::new(), 7), "{request:?}");
    }
    assert_eq!(pull(&rig, from(-1)).await, (Code::BadRequest, Vec::new(), -1));
    for (error, expected, next) in [
        (PullError::OutOfRange { next: Offset(41) }, Code::IllegalOffset, 41),
        (PullError::NoSuchQueue, Code::BadRequest, 7),
        (PullError::NoReadableQueue, Code::Forbidden, 7),
        (PullError::TooManyPolls, Code::TooManyRequests, 7),
        (PullError::Busy, Code::TooManyRequests, 7),
        (PullError::Failed { why: "disk".into() }, Code::InternalServerError, 7),
    ] {
        rig.broker.with(|state| state.pull_error = Some(error));
        assert_eq!(pull(&rig, from(7)).await, (expected, Vec::new(), next));
    }
}

#[tokio::test]
async fn a_pull_makes_its_group_and_shows_who_pulls() {
    let (rig, _) = Rig::with_topic().await;
    pull(&rig, PullMessageRequest { group: resource("pullers"), ..from(0) }).await;
    let mut admin = crate::admin::client(&rig).await;
    let clients = admin.list_clients(gantry_proto::admin::ListClientsRequest { group: "pullers".into(), ..Default::default() });
    let clients = clients.await.unwrap().into_inner().clients;
    assert_eq!((clients.len(), clients[0].client_type()), (1, ClientType::PullConsumer));
}

#[tokio::test]
async fn a_pull_that_waits_ends_when_the_server_drains() {
    let (rig, _) = Rig::with_topic().await;
    rig.broker.with(|state| state.pull_waits = true);
    let request = PullMessageRequest { long_polling_timeout: Some(seconds(20)), ..from(0) };
    let drain = async {
        until("the pull waits", || rig.broker.with(|state| state.waiting) == 1).await;
        rig.proxy.drain().await;
    };
    let (answer, ()) = tokio::join!(pull(&rig, request), drain);
    assert_eq!(answer, (Code::MessageNotFound, Vec::new(), 0));
    until("the broker's pull is withdrawn", || rig.broker.with(|state| state.waiting) == 0).await;
}

async fn update(rig: &Rig, topic: &str, group: &str, id: i32, offset: i64) -> Code {
    let request = UpdateOffsetRequest { group: resource(group), message_queue: queue(topic, id), offset };
    rig.client.clone().update_offset(call(request)).await.unwrap().into_inner().status.unwrap().code()
}

async fn get(rig: &Rig, topic: &str, group: &str, id: i32) -> (Code, i64) {
    let request = GetOffsetRequest { group: resource(group), message_queue: queue(topic, id) };
    let answer = rig.client.clone().get_offset(call(request)).await.unwrap().into_inner();
    (answer.status.unwrap().code(), answer.offset)
}

#[tokio::test]
async fn a_position_is_committed_and_read() {
    let (rig, _) = Rig::with_topic().await;
    assert_eq!(get(&rig, "orders", "group", 3).await, (Code::OffsetNotFound, 0));
    assert_eq!(update(&rig, "orders", "group", 3, 5).await, Code::Ok);
    assert_eq!(get(&rig, "orders", "group", 3).await, (Code::Ok, 5));
    assert_eq!(update(&rig, "orders", "group", 3, -1).await, Code::IllegalOffset);
    for (topic, group, id, expected) in [
        ("a.b", "group", 0, Code::IllegalTopic),
        ("orders", "", 0, Code::IllegalConsumerGroup),
        ("missing", "group", 0, Code::TopicNotFound),
        ("orders", "group", -1, Code::BadRequest),
    ] {
        assert_eq!(update(&rig, topic, group, id, 1).await, expected);
        assert_eq!(get(&rig, topic, group, id).await.0, expected);
    }
    for (error, expected) in [
        (OffsetError::OutOfRange { min: Offset(1), max: Offset(2) }, Code::IllegalOffset),
        (OffsetError::Backwards { committed: Offset(3) }, Code::IllegalOffset),
        (OffsetError::GroupReceives, Code::PreconditionFailed),
        (OffsetError::NoSuchQueue, Code::BadRequest),
        (OffsetError::Busy, Code::TooManyRequests),
        (OffsetError::Failed { why: "disk".into() }, Code::InternalServerError),
    ] {
        rig.broker.with(|state| state.offset_error = Some(error));
        assert_eq!(update(&rig, "orders", "group", 3, 1).await, expected);
    }
}

#[tokio::test]
async fn without_auto_create_an_unknown_group_is_not_found() {
    let rig = Rig::with(gantry_proxy::Config { auto_create: false, ..Default::default() }).await;
    rig.metadata.add_topic("orders", TopicType::Normal);
    assert_eq!(update(&rig, "orders", "nobody", 0, 1).await, Code::ConsumerGroupNotFound);
    assert_eq!(get(&rig, "orders", "nobody", 0).await.0, Code::ConsumerGroupNotFound);
    assert_eq!(pull(&rig, from(0)).await.0, Code::ConsumerGroupNotFound);
}

#[tokio::test]
async fn an_offset_is_found_by_policy() {
    let (rig, topic) = Rig::with_topic().await;
    (0..4).for_each(|number| rig.broker.put(&topic, &format!("id-{number}"), "x"));
    let query = async |topic: &str, id, policy: i32, ms: Option<i64>| {
        let timestamp = ms.map(|ms| prost_types::Timestamp { seconds: ms / 1_000, nanos: (ms % 1_000) as i32 * 1_000_000 });
        let request = QueryOffsetRequest { message_queue: queue(topic, id), query_offset_policy: policy, timestamp };
        let answer = rig.client.clone().query_offset(call(request)).await.unwrap().into_inner();
        (answer.status.unwrap().code(), answer.offset)
    };
    assert_eq!(query("orders", 3, QueryOffsetPolicy::Beginning as i32, None).await, (Code::Ok, 0));
    assert_eq!(query("orders", 3, QueryOffsetPolicy::End as i32, None).await, (Code::Ok, 4));
    assert_eq!(query("orders", 3, QueryOffsetPolicy::Timestamp as i32, Some(2_002)).await, (Code::Ok, 2));
    assert_eq!(query("orders", 3, QueryOffsetPolicy::Timestamp as i32, None).await.0, Code::BadRequest);
    assert_eq!(query("orders", 3, 9, None).await.0, Code::BadRequest);
    assert_eq!(query("orders", 9, 0, None).await.0, Code::BadRequest);
    assert_eq!(query("a.b", 0, 0, None).await.0, Code::IllegalTopic);
    assert_eq!(query("missing", 0, 0, None).await.0, Code::TopicNotFound);
}
