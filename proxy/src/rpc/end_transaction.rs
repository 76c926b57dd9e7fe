//! EndTransaction: makes a transactional message visible or drops it, from whatever client and through whatever proxy.
//!
//! A client that does not know yet says so, and changes nothing. Repeating an end is fine; changing it is not.

use crate::context::Context;
use crate::shared::Shared;
use crate::status::{self, Refusal};
use crate::validate;
use gantry_model::contract::broker::{EndedBy, Resolution};
use gantry_model::handle::TransactionHandle;
use gantry_proto::v2::{Code, EndTransactionRequest, EndTransactionResponse, TransactionResolution};

pub async fn answer(shared: &Shared, context: Context, request: EndTransactionRequest) -> Result<EndTransactionResponse, Refusal> {
    let name = validate::topic(request.topic.as_ref(), context.namespace())?;
    let handle = handle(shared, &request.transaction_id)?;
    let topic = shared.metadata.topic(&name).filter(|topic| topic.id == handle.topic).ok_or_else(|| {
        shared.metrics.invalid_handles.add(1);
        Refusal::new(Code::InvalidTransactionId, format!("transaction id belongs to another topic than `{name}`, or the topic was deleted"))
    })?;
    context.session.produces(&name);
    let resolution = match request.resolution() {
        TransactionResolution::Commit => Some(Resolution::Commit),
        TransactionResolution::Rollback => Some(Resolution::Rollback),
        TransactionResolution::Unspecified => None,
    };
    if let Some(resolution) = resolution {
        shared.broker.end_transaction(&topic, handle, resolution, EndedBy::Producer).await?;
    }
    Ok(EndTransactionResponse { status: Some(status::ok()) })
}

fn handle(shared: &Shared, text: &str) -> Result<TransactionHandle, Refusal> {
    if text.trim().is_empty() {
        return Err(Refusal::new(Code::InvalidTransactionId, "transaction id cannot be blank"));
    }
    shared.metadata.handle_keys().verify_transaction(text).map_err(|_| {
        shared.metrics.invalid_handles.add(1);
        Refusal::new(Code::InvalidTransactionId, "transaction id is not valid: it is malformed, was changed, or belongs to another cluster")
    })
}
