//! UpdateOffset, GetOffset and QueryOffset: the positions of pulling groups. Checked here, answered by a later version.

use crate::context::Context;
use crate::status::Refusal;
use crate::validate;
use gantry_proto::v2::{
    Code, GetOffsetRequest, GetOffsetResponse, MessageQueue, QueryOffsetPolicy, QueryOffsetRequest, QueryOffsetResponse, Resource,
    UpdateOffsetRequest, UpdateOffsetResponse,
};

pub async fn update(context: Context, request: UpdateOffsetRequest) -> Result<UpdateOffsetResponse, Refusal> {
    check(&context, request.message_queue.as_ref(), request.group.as_ref())?;
    Err(Refusal::not_implemented("updating an offset"))
}

pub async fn get(context: Context, request: GetOffsetRequest) -> Result<GetOffsetResponse, Refusal> {
    check(&context, request.message_queue.as_ref(), request.group.as_ref())?;
    Err(Refusal::not_implemented("reading an offset"))
}

pub async fn query(context: Context, request: QueryOffsetRequest) -> Result<QueryOffsetResponse, Refusal> {
    validate::topic(request.message_queue.as_ref().and_then(|queue| queue.topic.as_ref()), context.namespace())?;
    if request.query_offset_policy() == QueryOffsetPolicy::Timestamp && request.timestamp.is_none() {
        return Err(Refusal::new(Code::BadRequest, "policy TIMESTAMP needs a timestamp"));
    }
    Err(Refusal::not_implemented("querying an offset"))
}

fn check(context: &Context, queue: Option<&MessageQueue>, group: Option<&Resource>) -> Result<(), Refusal> {
    validate::topic(queue.and_then(|queue| queue.topic.as_ref()), context.namespace())?;
    validate::group(group, context.namespace())?;
    Ok(())
}
