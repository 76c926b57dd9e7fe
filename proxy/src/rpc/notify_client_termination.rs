//! NotifyClientTermination: a client leaves in good order.
//!
//! Its polls end, and what it held with automatic renewal becomes visible to others. Saying it twice, or without ever having been known, is
//! fine; the group that comes along is not needed, so nothing about it can be wrong.

use crate::context::Context;
use crate::shared::Shared;
use crate::status::{self, Refusal};
use gantry_proto::v2::NotifyClientTerminationResponse;

pub async fn answer(shared: &Shared, context: Context) -> Result<NotifyClientTerminationResponse, Refusal> {
    shared.sessions.end(&context.session);
    Ok(NotifyClientTerminationResponse { status: Some(status::ok()) })
}
