//! EndTransaction: makes a transactional message visible or drops it. Checked here, answered by a later version.

use crate::context::Context;
use crate::status::Refusal;
use crate::validate;
use gantry_proto::v2::{Code, EndTransactionRequest, EndTransactionResponse};

pub async fn answer(context: Context, request: EndTransactionRequest) -> Result<EndTransactionResponse, Refusal> {
    validate::topic(request.topic.as_ref(), context.namespace())?;
    if request.transaction_id.trim().is_empty() {
        return Err(Refusal::new(Code::InvalidTransactionId, "transaction id cannot be blank"));
    }
    Err(Refusal::not_implemented("ending a transaction"))
}
