//! ChangeInvisibleDuration: shortens or extends a delivery; push consumers use it to say that a message failed.
//!
//! The handle stays the same for the whole delivery, so every handle that the client holds remains good. The answer always carries it, with
//! every status.

use crate::context::Context;
use crate::rpc::ack_message::Names;
use crate::shared::Shared;
use crate::status::{self, Refusal};
use crate::validate;
use gantry_model::contract::broker::{AttemptCount, VisibilityChange};
use gantry_proto::v2::{ChangeInvisibleDurationRequest, ChangeInvisibleDurationResponse, Language};
use std::time::Duration;

pub async fn answer(shared: &Shared, context: Context, request: ChangeInvisibleDurationRequest) -> Result<ChangeInvisibleDurationResponse, Refusal> {
    let names = Names::parse(request.topic.as_ref(), request.group.as_ref(), context.namespace())?;
    let after = validate::invisible_on_change(request.invisible_duration.as_ref())?;
    let (group, handle) = names.handle(shared, &request.receipt_handle)?;
    let attempt = if request.suspend() { AttemptCount::Suspended } else { AttemptCount::Counts };
    // Node.js reads the seconds of its retry policy as milliseconds, so the policy's own delay counts.
    let failed_for_at_least = match context.language() {
        Language::NodeJs => Duration::from_millis(group.retry.delay_ms(handle.attempt)),
        _ => Duration::ZERO,
    };
    shared.broker.change_visibility(VisibilityChange { group, handle, after, failed_for_at_least, attempt }).await?;
    Ok(ChangeInvisibleDurationResponse { status: Some(status::ok()), receipt_handle: request.receipt_handle })
}
