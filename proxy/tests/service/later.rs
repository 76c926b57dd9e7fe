//! The rpcs of later versions: validated, then answered inside the response.

use crate::rig::{Rig, call, resource};
use gantry_proto::v2::pull_message_response::Content;
use gantry_proto::v2::*;

#[tokio::test]
async fn ending_a_transaction() {
    let (rig, _) = Rig::with_topic().await;
    let check = async |topic: &str, id: &str, expected: Code| {
        let request = EndTransactionRequest { topic: resource(topic), transaction_id: id.into(), ..Default::default() };
        let answer = rig.client.clone().end_transaction(call(request)).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().code(), expected);
    };
    check("orders", "id", Code::NotImplemented).await;
    check("orders", " ", Code::InvalidTransactionId).await;
    check("a.b", "id", Code::IllegalTopic).await;
}

#[tokio::test]
async fn pulling_messages_answers_one_element() {
    let (rig, _) = Rig::with_topic().await;
    let check = async |topic: &str, group: &str, offset: i64, expected: Code| {
        let message_queue = Some(MessageQueue { topic: resource(topic), ..Default::default() });
        let request = PullMessageRequest { group: resource(group), message_queue, offset, ..Default::default() };
        let mut stream = rig.client.clone().pull_message(call(request)).await.unwrap().into_inner();
        let Some(Content::Status(status)) = stream.message().await.unwrap().unwrap().content else { panic!("a status") };
        assert_eq!(status.code(), expected);
        assert_eq!(stream.message().await.unwrap(), None);
    };
    check("orders", "group", 0, Code::NotImplemented).await;
    check("orders", "group", -1, Code::BadRequest).await;
    check("a.b", "group", 0, Code::IllegalTopic).await;
    check("orders", "a.b", 0, Code::IllegalConsumerGroup).await;
}

#[tokio::test]
async fn offsets() {
    let (rig, _) = Rig::with_topic().await;
    let queue = |topic: &str| Some(MessageQueue { topic: resource(topic), ..Default::default() });
    for (topic, group, expected) in
        [("orders", "group", Code::NotImplemented), ("a.b", "group", Code::IllegalTopic), ("orders", "", Code::IllegalConsumerGroup)]
    {
        let request = UpdateOffsetRequest { group: resource(group), message_queue: queue(topic), offset: 1 };
        assert_eq!(rig.client.clone().update_offset(call(request)).await.unwrap().into_inner().status.unwrap().code(), expected);
        let request = GetOffsetRequest { group: resource(group), message_queue: queue(topic) };
        assert_eq!(rig.client.clone().get_offset(call(request)).await.unwrap().into_inner().status.unwrap().code(), expected);
    }
    for (topic, policy, expected) in [("orders", 1, Code::NotImplemented), ("orders", 2, Code::BadRequest), ("a.b", 0, Code::IllegalTopic)] {
        let request = QueryOffsetRequest { message_queue: queue(topic), query_offset_policy: policy, timestamp: None };
        assert_eq!(rig.client.clone().query_offset(call(request)).await.unwrap().into_inner().status.unwrap().code(), expected);
    }
}

#[tokio::test]
async fn lite_subscriptions() {
    let (rig, _) = Rig::with_topic().await;
    for (topic, group, lite, expected) in [
        ("orders", "group", "chat-1", Code::NotImplemented),
        ("orders", "group", "a b", Code::IllegalLiteTopic),
        ("orders", "a.b", "chat-1", Code::IllegalConsumerGroup),
        ("a.b", "group", "chat-1", Code::IllegalTopic),
    ] {
        let request =
            SyncLiteSubscriptionRequest { topic: resource(topic), group: resource(group), lite_topic_set: vec![lite.into()], ..Default::default() };
        assert_eq!(rig.client.clone().sync_lite_subscription(call(request)).await.unwrap().into_inner().status.unwrap().code(), expected);
    }
}
