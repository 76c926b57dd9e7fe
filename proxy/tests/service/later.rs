//! The rpcs of later versions: validated, then answered inside the response.

use crate::rig::{Rig, call, resource};
use gantry_proto::v2::*;

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
