//! ChangeInvisibleDuration: shortens or extends a delivery; push consumers use it to say that a message failed.
//!
//! The handle stays the same for the whole delivery, so every handle that the client holds remains good. The answer always carries it, with
//! every status.

use crate::context::Context;
use crate::shared::Shared;
use crate::rpc::ack_message::Names;
use crate::status::{self, Refusal};
use crate::validate;
use gantry_model::contract::broker::{AttemptCount, VisibilityChange};
use gantry_proto::v2::{ChangeInvisibleDurationRequest, ChangeInvisibleDurationResponse};

pub async fn answer(shared: &Shared, context: Context, request: ChangeInvisibleDurationRequest) -> Result<ChangeInvisibleDurationResponse, Refusal> {
    let names = Names::parse(request.topic.as_ref(), request.group.as_ref(), context.namespace())?;
    let after = validate::invisible_on_change(request.invisible_duration.as_ref())?;
    let (group, handle) = names.handle(shared, &request.receipt_handle)?;
    let attempt = if request.suspend() { AttemptCount::Suspended } else { AttemptCount::Counts };
    shared.broker.change_visibility(VisibilityChange { group, handle, after, attempt }).await?;
    Ok(ChangeInvisibleDurationResponse { status: Some(status::ok()), receipt_handle: request.receipt_handle })
}
