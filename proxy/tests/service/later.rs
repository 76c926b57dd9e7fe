//! The rpcs of later versions: validated, then answered inside the response.

use crate::rig::{Rig, call, resource};
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
