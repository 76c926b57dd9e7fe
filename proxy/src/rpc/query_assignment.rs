//! QueryAssignment: which queues a push consumer polls.
//!
//! Every member of a group gets the same constant queues, whatever the topic's real ones are: a poll may return messages of any queue, so the
//! assignments only set how many polls a consumer keeps open. They never change while a topic lives, since a change makes consumers drop
//! what they have cached.

use crate::context::Context;
use crate::first_use::existing_topic;
use crate::rpc::{Messaging, query_route};
use crate::settings::is_ordered;
use crate::status::{self, Refusal};
use crate::validate;
use gantry_model::topic::QueueState;
use gantry_proto::v2::{Assignment, ClientType, Code, MessageQueue, QueryAssignmentRequest, QueryAssignmentResponse};

/// Polls that a consumer keeps open on a topic.
const UNORDERED: i32 = 4;
/// The same when messages of a group wait for each other: a consumer works on one assignment at a time, so more of them keep it busy.
const ORDERED: i32 = 8;

pub async fn answer(edge: &Messaging, context: Context, request: QueryAssignmentRequest) -> Result<QueryAssignmentResponse, Refusal> {
    let shared = &edge.shared;
    let topic_name = validate::topic(request.topic.as_ref(), context.namespace())?;
    let group_name = validate::group(request.group.as_ref(), context.namespace())?;
    let broker = query_route::broker(edge, request.endpoints)?;
    let topic = existing_topic(&*shared.metadata, &topic_name)?;
    let group = shared.first_use().group(&*shared.metadata, &group_name).await?;
    if !topic.permission.can_read() {
        return Err(Refusal::new(Code::Forbidden, format!("no readable queue: topic `{topic_name}` cannot be read")));
    }
    context.session.consumes(ClientType::PushConsumer, &group_name, Some(&topic_name));
    let count = if is_ordered(Some(&group), &[topic.kind]) { ORDERED } else { UNORDERED };
    let permission = query_route::permission(topic.permission, QueueState::Active) as i32;
    let assignment = |id| {
        let queue = MessageQueue { topic: request.topic.clone(), id, permission, broker: Some(broker.clone()), accept_message_types: Vec::new() };
        Assignment { message_queue: Some(queue) }
    };
    Ok(QueryAssignmentResponse { status: Some(status::ok()), assignments: (0..count).map(assignment).collect() })
}
