//! ForwardMessageToDeadLetterQueue: a consumer gives up on a message.
//!
//! The message moves to the dead letter queue and its delivery ends, in one step of the broker. The attempts that the client counted are
//! ignored; the broker has its own count.

use crate::context::Context;
use crate::rpc::ack_message::Names;
use crate::shared::Shared;
use crate::status::{self, Refusal};
use gantry_proto::v2::{ForwardMessageToDeadLetterQueueRequest, ForwardMessageToDeadLetterQueueResponse};

pub async fn answer(
    shared: &Shared,
    context: Context,
    request: ForwardMessageToDeadLetterQueueRequest,
) -> Result<ForwardMessageToDeadLetterQueueResponse, Refusal> {
    let names = Names::parse(request.topic.as_ref(), request.group.as_ref(), context.namespace())?;
    let (group, handle) = names.handle(shared, &request.receipt_handle)?;
    shared.broker.dead_letter(&group, handle).await?;
    Ok(ForwardMessageToDeadLetterQueueResponse { status: Some(status::ok()) })
}
