//! RecallMessage: takes a delayed message back before it is due. The answer is definite: OK means that it will never be delivered.

use crate::context::Context;
use crate::first_use::existing_topic;
use crate::shared::Shared;
use crate::status::{self, Refusal};
use crate::validate;
use gantry_model::MessageKind;
use gantry_proto::v2::{Code, RecallMessageRequest, RecallMessageResponse};

pub async fn answer(shared: &Shared, context: Context, request: RecallMessageRequest) -> Result<RecallMessageResponse, Refusal> {
    let name = validate::topic(request.topic.as_ref(), context.namespace())?;
    if request.recall_handle.trim().is_empty() {
        return Err(Refusal::new(Code::BadRequest, "recall handle cannot be blank"));
    }
    let topic = existing_topic(&*shared.metadata, &name)?;
    if !topic.kind.accepts().contains(&MessageKind::Delay) {
        let text = format!("topic `{}` is of type {:?} and has no delayed messages", topic.name, topic.kind);
        return Err(Refusal::new(Code::MessagePropertyConflictWithType, text));
    }
    let Ok(handle) = shared.metadata.handle_keys().verify_recall(&request.recall_handle) else {
        return Err(Refusal::new(Code::BadRequest, "recall handle is not valid: it is malformed, was changed, or belongs to another cluster"));
    };
    if handle.topic != topic.id {
        return Err(Refusal::new(Code::BadRequest, format!("recall handle belongs to another topic than `{}`", topic.name)));
    }
    let message_id = handle.message_id.clone();
    shared.broker.recall(&topic, handle).await?;
    Ok(RecallMessageResponse { status: Some(status::ok()), message_id })
}
