//! RecallMessage: cancels a delayed message before it is due. Checked here, answered by a later version.

use crate::context::Context;
use crate::first_use::existing_topic;
use crate::shared::Shared;
use crate::status::Refusal;
use crate::validate;
use gantry_proto::v2::{Code, RecallMessageRequest, RecallMessageResponse};

pub async fn answer(shared: &Shared, context: Context, request: RecallMessageRequest) -> Result<RecallMessageResponse, Refusal> {
    let name = validate::topic(request.topic.as_ref(), context.namespace())?;
    if request.recall_handle.trim().is_empty() {
        return Err(Refusal::new(Code::BadRequest, "recall handle cannot be blank"));
    }
    existing_topic(&*shared.metadata, &name)?;
    Err(Refusal::not_implemented("recalling a message"))
}
