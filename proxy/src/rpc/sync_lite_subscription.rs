//! SyncLiteSubscription: the lite topics that a client wants. Checked here, answered by a later version.

use crate::context::Context;
use crate::status::Refusal;
use crate::validate;
use gantry_proto::v2::{SyncLiteSubscriptionRequest, SyncLiteSubscriptionResponse};

pub async fn answer(context: Context, request: SyncLiteSubscriptionRequest) -> Result<SyncLiteSubscriptionResponse, Refusal> {
    validate::topic(request.topic.as_ref(), context.namespace())?;
    validate::group(request.group.as_ref(), context.namespace())?;
    request.lite_topic_set.iter().try_for_each(|name| validate::lite_topic(name))?;
    Err(Refusal::not_implemented("lite topics"))
}
