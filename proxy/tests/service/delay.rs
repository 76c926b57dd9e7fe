//! Delayed messages: what a send answers, what a consumer gets, and how they are taken back.

use crate::rig::{Rig, call, changed, receive, resource, simple_poll};
use gantry_model::MessageKind;
use gantry_model::TopicName;
use gantry_model::contract::Metadata;
use gantry_model::contract::broker::RecallError;
use gantry_model::handle::{HandleKey, HandleKeys, RecallHandle};
use gantry_model::topic::{TopicOptions, TopicSpec, TopicType};
use gantry_proto::v2::*;
use prost_types::Timestamp;

fn soon() -> Timestamp {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    Timestamp { seconds: now.as_secs() as i64 + 3_600, nanos: 250_000_000 }
}

async fn send(rig: &Rig, topic: &str, due: Timestamp) -> SendMessageResponse {
    let message = changed(topic, |_, system| {
        system.message_type = MessageType::Delay as i32;
        system.delivery_timestamp = Some(due);
    });
    rig.client.clone().send_message(call(SendMessageRequest { messages: vec![message] })).await.unwrap().into_inner()
}

async fn recall(rig: &Rig, topic: &str, handle: &str) -> RecallMessageResponse {
    let request = RecallMessageRequest { topic: resource(topic), recall_handle: handle.into() };
    rig.client.clone().recall_message(call(request)).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_delayed_message_is_answered_with_a_handle_and_delivered_with_its_time() {
    let (rig, topic) = Rig::with_topic().await;
    let due = soon();
    let answer = send(&rig, "orders", due.clone()).await;
    let entry = &answer.entries[0];
    assert_eq!(entry.status.as_ref().unwrap().code(), Code::Ok);
    let stored = rig.broker.with(|state| state.stored[0].clone());
    let deliver_ms = due.seconds as u64 * 1_000 + 250;
    assert_eq!((stored.topic, stored.message.kind, stored.message.deliver_ms), (topic.id, MessageKind::Delay, Some(deliver_ms)));
    let handle = rig.metadata.handle_keys().verify_recall(&entry.recall_handle).expect("signed by this cluster");
    assert_eq!((handle.deliver_ms, handle.message_id.as_str()), (deliver_ms, "01020304"));

    let (_, messages, _) = receive(&mut rig.client.clone(), call(simple_poll("orders", "group", 0))).await;
    let system = messages[0].system_properties.as_ref().unwrap();
    assert_eq!((system.message_type(), system.delivery_timestamp.clone()), (MessageType::Delay, Some(due)));
}

#[tokio::test]
async fn an_ordinary_message_has_no_handle() {
    let (rig, _) = Rig::with_topic().await;
    let request = SendMessageRequest { messages: vec![crate::rig::message("orders")] };
    let answer = rig.client.clone().send_message(call(request)).await.unwrap().into_inner();
    assert_eq!(answer.entries[0].recall_handle, "");
}

#[tokio::test]
async fn a_topic_may_have_its_own_longest_delay() {
    let rig = Rig::start().await;
    let name = TopicName::parse("", "short").unwrap();
    let options = TopicOptions { delay_max_ms: 1_800_000, ..TopicOptions::default() };
    rig.metadata.create_topic(TopicSpec { options, ..TopicSpec::on_first_use(name) }).await.unwrap();
    let status = send(&rig, "short", soon()).await.status.unwrap();
    assert_eq!(status.code(), Code::IllegalDeliveryTime);
    assert!(status.message.contains("1800 s"), "{}", status.message);
    let due = Timestamp { seconds: soon().seconds - 1_860, nanos: 0 };
    assert_eq!(send(&rig, "short", due).await.status.unwrap().code(), Code::Ok);
}

#[tokio::test]
async fn a_recall_says_what_became_of_the_message() {
    let (rig, topic) = Rig::with_topic().await;
    let sent = send(&rig, "orders", soon()).await;
    let handle = sent.entries[0].recall_handle.as_str();
    let answer = recall(&rig, "orders", handle).await;
    assert_eq!((answer.status.unwrap().code(), answer.message_id.as_str()), (Code::Ok, "01020304"));
    assert_eq!(rig.broker.with(|state| state.recalled[0].topic), topic.id);
    for (error, expected) in [
        (RecallError::Delivered, Code::MessageNotFound),
        (RecallError::Unknown, Code::MessageNotFound),
        (RecallError::Busy, Code::TooManyRequests),
        (RecallError::Failed { why: "the shard has stopped".into() }, Code::InternalServerError),
    ] {
        rig.broker.with(|state| state.recall_error = Some(error.clone()));
        let answer = recall(&rig, "orders", handle).await;
        let status = answer.status.unwrap();
        assert_eq!((status.code(), status.message, answer.message_id), (expected, error.to_string(), String::new()));
    }
}

#[tokio::test]
async fn recalls_are_checked() {
    let (rig, topic) = Rig::with_topic().await;
    rig.metadata.add_topic("other", TopicType::Delay);
    rig.metadata.add_topic("normal", TopicType::Normal);
    let handle = RecallHandle { shard: gantry_model::ShardId(0), topic: topic.id, deliver_ms: 1, id: 2, message_id: "m".into() };
    let good = rig.metadata.handle_keys().sign_recall(&handle);
    let foreign = HandleKeys::new(&[HandleKey { id: 1, secret: [8; 32] }]).unwrap().sign_recall(&handle);
    for (topic, handle, expected) in [
        ("orders", good.as_str(), Code::Ok),
        ("orders", "", Code::BadRequest),
        ("orders", " ", Code::BadRequest),
        ("orders", "handle", Code::BadRequest),
        ("orders", foreign.as_str(), Code::BadRequest),
        ("other", good.as_str(), Code::BadRequest),
        ("normal", good.as_str(), Code::MessagePropertyConflictWithType),
        ("missing", good.as_str(), Code::TopicNotFound),
        ("a.b", good.as_str(), Code::IllegalTopic),
    ] {
        let status = recall(&rig, topic, handle).await.status.unwrap();
        assert_eq!(status.code(), expected, "{topic} {handle}: {}", status.message);
    }
    assert_eq!(rig.broker.with(|state| state.recalled.len()), 1, "only a good one reaches the broker");
}
