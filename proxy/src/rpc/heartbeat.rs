//! Heartbeat: keeps a client known.
//!
//! The call itself is the sign of life. A client that is not known, because the proxy restarted or because it calls another one, is
//! registered from the request; nobody needs to have sent settings before.

use crate::context::Context;
use crate::shared::Shared;
use crate::status::{self, Refusal};
use crate::validate;
use gantry_proto::v2::{HeartbeatRequest, HeartbeatResponse};

pub async fn answer(shared: &Shared, context: Context, request: HeartbeatRequest) -> Result<HeartbeatResponse, Refusal> {
    // Producers have no group; some clients send an empty one, and mean the one of their settings.
    if request.group.as_ref().is_some_and(|group| !group.name.trim().is_empty()) {
        let name = validate::group(request.group.as_ref(), context.namespace())?;
        context.session.consumes(request.client_type(), &name, None);
        // A group that can't be made now is reported by the calls that need it; the client is alive all the same.
        if let Err(refusal) = shared.first_use().group(&*shared.metadata, &name).await {
            tracing::debug!(group = %name, reason = %refusal.message, "heartbeat of a group that does not exist");
        }
    }
    Ok(HeartbeatResponse { status: Some(status::ok()) })
}
