//! AckMessage, ChangeInvisibleDuration, ForwardMessageToDeadLetterQueue: what ends or changes a delivery.

use crate::rig::{Rig, call, resource, seconds};
use gantry_model::contract::Metadata;
use gantry_model::contract::broker::{AttemptCount, LeaseError};
use gantry_model::group::GroupSpec;
use gantry_model::topic::TopicType;
use gantry_model::{GroupName, TopicName};
use gantry_proto::v2::*;
use std::time::Duration;

fn entry(handle: &str) -> AckMessageEntry {
    AckMessageEntry { message_id: format!("id of {handle}"), receipt_handle: handle.into(), lite_topic: None }
}

async fn ack(rig: &Rig, topic: &str, group: &str, handles: &[&str]) -> (Code, Vec<Code>) {
    let entries: Vec<AckMessageEntry> = handles.iter().map(|handle| entry(handle)).collect();
    let request = AckMessageRequest { group: resource(group), topic: resource(topic), entries: entries.clone() };
    let answer = rig.client.clone().ack_message(call(request)).await.unwrap().into_inner();
    for (asked, answered) in entries.iter().zip(&answer.entries) {
        assert_eq!((&asked.message_id, &asked.receipt_handle), (&answered.message_id, &answered.receipt_handle), "entries are echoed in order");
    }
    (answer.status.unwrap().code(), answer.entries.iter().map(|entry| entry.status.as_ref().unwrap().code()).collect())
}

async fn change(rig: &Rig, topic: &str, group: &str, handle: &str, duration: Option<prost_types::Duration>) -> Code {
    let request = ChangeInvisibleDurationRequest {
        group: resource(group),
        topic: resource(topic),
        receipt_handle: handle.into(),
        invisible_duration: duration,
        ..Default::default()
    };
    let answer = rig.client.clone().change_invisible_duration(call(request)).await.unwrap().into_inner();
    assert_eq!(answer.receipt_handle, handle, "every answer carries the handle");
    answer.status.unwrap().code()
}

async fn forward(rig: &Rig, topic: &str, group: &str, handle: &str) -> Code {
    let request = ForwardMessageToDeadLetterQueueRequest {
        group: resource(group),
        topic: resource(topic),
        receipt_handle: handle.into(),
        ..Default::default()
    };
    rig.client.clone().forward_message_to_dead_letter_queue(call(request)).await.unwrap().into_inner().status.unwrap().code()
}

#[tokio::test]
async fn a_good_handle_ends_its_delivery() {
    let (rig, _) = Rig::with_topic().await;
    let handle = rig.handle("orders", "group");
    let text = rig.sign(&handle);
    assert_eq!(ack(&rig, "orders", "group", &[&text]).await, (Code::Ok, vec![Code::Ok]));
    assert_eq!(forward(&rig, "orders", "group", &text).await, Code::Ok);
    rig.broker.with(|state| assert_eq!((&state.acked, &state.dead), (&vec![handle], &vec![handle])));
}

#[tokio::test]
async fn a_change_moves_the_time_or_suspends() {
    let (rig, _) = Rig::with_topic().await;
    let text = rig.sign(&rig.handle("orders", "group"));
    for (duration, expected) in [
        (None, Code::Ok),
        (Some(seconds(0)), Code::Ok),
        (Some(seconds(43_200)), Code::Ok),
        (Some(seconds(43_201)), Code::IllegalInvisibleTime),
        (Some(seconds(-1)), Code::IllegalInvisibleTime),
    ] {
        assert_eq!(change(&rig, "orders", "group", &text, duration).await, expected, "{duration:?}");
    }
    let suspend = ChangeInvisibleDurationRequest {
        group: resource("group"),
        topic: resource("orders"),
        receipt_handle: text,
        invisible_duration: Some(seconds(5)),
        suspend: Some(true),
        ..Default::default()
    };
    rig.client.clone().change_invisible_duration(call(suspend)).await.unwrap();
    let changes: Vec<_> = rig.broker.with(|state| state.changes.iter().map(|change| (change.after, change.attempt)).collect());
    let counted = |seconds| (Duration::from_secs(seconds), AttemptCount::Counts);
    assert_eq!(changes, [counted(0), counted(0), counted(43_200), (Duration::from_secs(5), AttemptCount::Suspended)]);
}

#[tokio::test]
async fn a_handle_that_is_not_for_this_topic_and_group_is_refused_for_good() {
    let (rig, _) = Rig::with_topic().await;
    rig.metadata.add_topic("other", TopicType::Normal);
    rig.metadata.create_group(GroupSpec::new(GroupName::parse("", "others").unwrap())).await.unwrap();
    let good = rig.sign(&rig.handle("orders", "group"));
    let mut forged = good.clone();
    forged.replace_range(10..11, if &good[10..11] == "A" { "B" } else { "A" });
    let long = "v1.".repeat(200);
    for (topic, group, handle) in [
        ("orders", "group", forged.as_str()),
        ("orders", "group", ""),
        ("orders", "group", "1 2 3 4 5 broker 6 7 8"),
        ("orders", "group", long.as_str()),
        ("other", "group", good.as_str()),
        ("orders", "others", good.as_str()),
        ("missing", "group", good.as_str()),
        ("orders", "missing", good.as_str()),
    ] {
        let invalid = Code::InvalidReceiptHandle;
        assert_eq!(ack(&rig, topic, group, &[handle]).await, (invalid, vec![invalid]), "{topic} {group} {handle}");
        assert_eq!(change(&rig, topic, group, handle, None).await, invalid, "{topic} {group} {handle}");
        assert_eq!(forward(&rig, topic, group, handle).await, invalid, "{topic} {group} {handle}");
    }
    rig.broker.with(|state| assert!(state.acked.is_empty() && state.changes.is_empty() && state.dead.is_empty()));
    rig.metadata.delete_topic(&TopicName::parse("", "orders").unwrap()).await.unwrap();
    assert_eq!(ack(&rig, "orders", "group", &[&good]).await.0, Code::InvalidReceiptHandle, "else a consumer would repeat it for ever");
}

#[tokio::test]
async fn names_are_checked_first() {
    let (rig, _) = Rig::with_topic().await;
    assert_eq!(ack(&rig, "a.b", "group", &["x"]).await, (Code::IllegalTopic, vec![]));
    assert_eq!(ack(&rig, "orders", "a.b", &["x"]).await, (Code::IllegalConsumerGroup, vec![]));
    assert_eq!(change(&rig, "a.b", "group", "x", None).await, Code::IllegalTopic);
    assert_eq!(change(&rig, "orders", "a.b", "x", None).await, Code::IllegalConsumerGroup);
    assert_eq!(forward(&rig, "a.b", "group", "x").await, Code::IllegalTopic);
    assert_eq!(forward(&rig, "orders", "a.b", "x").await, Code::IllegalConsumerGroup);
    assert_eq!(ack(&rig, "orders", "group", &[]).await, (Code::BadRequest, vec![]));
    assert_eq!(ack(&rig, "orders", "group", &["x"; 1_025]).await, (Code::BadRequest, vec![]));
}

#[tokio::test]
async fn each_entry_has_its_own_status() {
    let (rig, _) = Rig::with_topic().await;
    let good = rig.sign(&rig.handle("orders", "group"));
    let expected = (Code::MultipleResults, vec![Code::Ok, Code::InvalidReceiptHandle, Code::Ok]);
    assert_eq!(ack(&rig, "orders", "group", &[&good, "bad", &good]).await, expected);
    assert_eq!(rig.broker.with(|state| state.acked.len()), 2);
}

#[tokio::test]
async fn answers_of_the_broker_become_codes() {
    let (rig, _) = Rig::with_topic().await;
    let good = rig.sign(&rig.handle("orders", "group"));
    for (error, expected) in [
        (LeaseError::Ended, Code::InvalidReceiptHandle),
        (LeaseError::Foreign, Code::InvalidReceiptHandle),
        (LeaseError::Busy, Code::TooManyRequests),
        (LeaseError::Failed { why: "no shard".into() }, Code::InternalServerError),
    ] {
        rig.broker.with(|state| state.lease_error = Some(error));
        assert_eq!(ack(&rig, "orders", "group", &[&good]).await, (expected, vec![expected]));
        assert_eq!(change(&rig, "orders", "group", &good, None).await, expected);
        assert_eq!(forward(&rig, "orders", "group", &good).await, expected);
    }
}

#[tokio::test]
async fn a_change_without_a_client_id_still_echoes_the_handle() {
    let (rig, _) = Rig::with_topic().await;
    let request = ChangeInvisibleDurationRequest { receipt_handle: "mine".into(), ..Default::default() };
    let answer = rig.client.clone().change_invisible_duration(request).await.unwrap().into_inner();
    assert_eq!((answer.status.unwrap().code(), answer.receipt_handle.as_str()), (Code::ClientIdRequired, "mine"));
}
