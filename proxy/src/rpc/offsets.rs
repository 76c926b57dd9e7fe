//! UpdateOffset, GetOffset and QueryOffset: the positions of groups that pull, and the bounds of queues.

use crate::context::Context;
use crate::first_use::existing_topic;
use crate::shared::Shared;
use crate::status::{self, Refusal};
use crate::{convert, validate};
use gantry_model::{Group, Offset, QueueId, Topic};
use gantry_proto::v2::{
    ClientType, Code, GetOffsetRequest, GetOffsetResponse, MessageQueue, QueryOffsetPolicy, QueryOffsetRequest, QueryOffsetResponse, Resource,
    UpdateOffsetRequest, UpdateOffsetResponse,
};
use std::sync::Arc;

pub async fn update(shared: &Shared, context: Context, request: UpdateOffsetRequest) -> Result<UpdateOffsetResponse, Refusal> {
    let place = Place::find(shared, &context, request.message_queue.as_ref(), request.group.as_ref()).await?;
    let offset = u64::try_from(request.offset);
    let offset = offset.map_err(|_| Refusal::new(Code::IllegalOffset, format!("offset {} is negative", request.offset)))?;
    shared.broker.commit_offset(&place.group, &place.topic, place.queue, Offset(offset)).await?;
    Ok(UpdateOffsetResponse { status: Some(status::ok()) })
}

pub async fn get(shared: &Shared, context: Context, request: GetOffsetRequest) -> Result<GetOffsetResponse, Refusal> {
    let Place { topic, group, queue } = Place::find(shared, &context, request.message_queue.as_ref(), request.group.as_ref()).await?;
    match shared.broker.committed(&group, &topic, queue).await? {
        Some(offset) => Ok(GetOffsetResponse { status: Some(status::ok()), offset: offset.0 as i64 }),
        None => Err(Refusal::new(Code::OffsetNotFound, format!("group `{}` has no position on queue {queue} of `{}`", group.name, topic.name))),
    }
}

pub async fn query(shared: &Shared, context: Context, request: QueryOffsetRequest) -> Result<QueryOffsetResponse, Refusal> {
    let message_queue = request.message_queue.as_ref();
    let name = validate::topic(message_queue.and_then(|queue| queue.topic.as_ref()), context.namespace())?;
    let queue = validate::queue(message_queue)?;
    let time_ms = match (QueryOffsetPolicy::try_from(request.query_offset_policy), &request.timestamp) {
        (Ok(QueryOffsetPolicy::Beginning), _) => 0,
        (Ok(QueryOffsetPolicy::End), _) => u64::MAX,
        (Ok(QueryOffsetPolicy::Timestamp), Some(time)) => convert::ms(time),
        (Ok(QueryOffsetPolicy::Timestamp), None) => return Err(Refusal::new(Code::BadRequest, "policy TIMESTAMP needs a timestamp")),
        (Err(_), _) => return Err(Refusal::new(Code::BadRequest, format!("offset policy {} is unknown", request.query_offset_policy))),
    };
    let topic = existing_topic(&*shared.metadata, &name)?;
    let offset = shared.broker.offset_at(&topic, queue, time_ms).await?;
    Ok(QueryOffsetResponse { status: Some(status::ok()), offset: offset.0 as i64 })
}

/// A queue as a group sees it.
struct Place {
    topic: Arc<Topic>,
    group: Arc<Group>,
    queue: QueueId,
}

impl Place {
    async fn find(shared: &Shared, context: &Context, queue: Option<&MessageQueue>, group: Option<&Resource>) -> Result<Place, Refusal> {
        let topic_name = validate::topic(queue.and_then(|queue| queue.topic.as_ref()), context.namespace())?;
        let group_name = validate::group(group, context.namespace())?;
        let queue = validate::queue(queue)?;
        let topic = existing_topic(&*shared.metadata, &topic_name)?;
        let group = shared.first_use().group(&*shared.metadata, &group_name).await?;
        context.session.consumes(ClientType::PullConsumer, &group_name, Some(&topic_name));
        Ok(Place { topic, group, queue })
    }
}
