//! PullMessage: reads a queue from an offset. Checked here, answered by a later version with more than a status.

use crate::metrics::Rpc;
use crate::rpc::Messaging;
use crate::status::Refusal;
use crate::validate;
use gantry_proto::v2::pull_message_response::Content;
use gantry_proto::v2::{Code, PullMessageRequest, PullMessageResponse};
use std::time::Duration;
use tonic::Request;

/// One element: the status.
pub type Answers = tokio_stream::Once<Result<PullMessageResponse, tonic::Status>>;

pub fn answer(edge: &Messaging, request: Request<PullMessageRequest>) -> Answers {
    let (metadata, _, request) = request.into_parts();
    let refusal = edge.context(metadata).and_then(|context| check(context.namespace(), &request)).err();
    let refusal = refusal.unwrap_or_else(|| Refusal::not_implemented("pulling messages"));
    edge.shared.metrics.answered(Rpc::PullMessage, refusal.code, Duration::ZERO);
    tokio_stream::once(Ok(PullMessageResponse { content: Some(Content::Status(refusal.into())) }))
}

fn check(namespace: &str, request: &PullMessageRequest) -> Result<(), Refusal> {
    validate::topic(request.message_queue.as_ref().and_then(|queue| queue.topic.as_ref()), namespace)?;
    validate::group(request.group.as_ref(), namespace)?;
    validate::filter(request.filter_expression.as_ref())?;
    if request.offset < 0 {
        return Err(Refusal::new(Code::BadRequest, format!("offset {} is negative", request.offset)));
    }
    Ok(())
}
