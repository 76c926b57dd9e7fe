//! Topics: what they are, and their route as older tools read it.

use super::Call;
use crate::convert::{message_type, timestamp};
use crate::status::{self, Refusal};
use gantry_model::topic::{Permission, QueueState};
use gantry_model::{Topic, setting};
use gantry_proto::v2::*;
use serde_json::json;
use std::collections::HashMap;

pub async fn describe(call: Call, request: DescribeTopicStatusRequest) -> Result<DescribeTopicStatusResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    let topic = call.topic(request.topic.as_ref())?;
    // A topic of several types has no type of its own; its labels name them.
    let kind = match topic.kind.accepts() {
        [kind] => message_type(*kind),
        _ => MessageType::Unspecified,
    };
    Ok(DescribeTopicStatusResponse {
        status: Some(status::ok()),
        topic_message_type: kind as i32,
        description: None,
        create_timestamp: Some(timestamp(topic.created_ms)),
        tags: labels(&topic),
    })
}

fn labels(topic: &Topic) -> HashMap<String, String> {
    let types: Vec<&str> = topic.kind.accepts().iter().map(|&kind| message_type(kind).as_str_name()).collect();
    let active = topic.queues.iter().filter(|queue| queue.state == QueueState::Active).count();
    let own = [("types", types.join(",")), ("queues", active.to_string()), ("permission", format!("{:?}", topic.permission))];
    own.into_iter().chain(setting::shown(&topic.options)).map(|(name, value)| (name.to_owned(), value)).collect()
}

pub async fn route(call: Call, request: GetTopicRouteRequest) -> Result<GetTopicRouteResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    let topic = call.topic(request.topic.as_ref())?;
    let cluster = &call.shared.metadata.cluster().name;
    let count = |wanted: fn(QueueState) -> bool| topic.queues.iter().filter(|queue| wanted(queue.state)).count();
    let text = json!({
        "queueDatas": [{
            "brokerName": cluster,
            "readQueueNums": count(|state| state != QueueState::Retired),
            "writeQueueNums": count(|state| state == QueueState::Active),
            "perm": permission(topic.permission),
            "topicSysFlag": 0,
        }],
        "brokerDatas": [{ "cluster": cluster, "brokerName": cluster, "brokerAddrs": { "0": address(&call) } }],
        "filterServerTable": {},
    });
    Ok(GetTopicRouteResponse { status: Some(status::ok()), topic_route_data: text.to_string() })
}

/// Bits that RocketMQ uses: 4 to read, 2 to write.
fn permission(permission: Permission) -> u8 {
    u8::from(permission.can_read()) * 4 + u8::from(permission.can_write()) * 2
}

/// Where clients reach the messaging service: every network sees the same.
fn address(call: &Call) -> String {
    let config = &call.shared.config;
    let listens = config.endpoints.iter().find(|(purpose, _)| purpose == "messaging").map(|(_, address)| address.clone());
    match &config.advertised {
        Some((host, port)) if host.contains(':') => format!("[{host}]:{port}"),
        Some((host, port)) => format!("{host}:{port}"),
        None => listens.unwrap_or_default(),
    }
}
