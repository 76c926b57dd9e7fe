//! SyncLiteSubscription: the lite topics that a client wants.
//!
//! Clients send each change, and twice a minute the whole set, which keeps the subscription alive and mends what was lost on the way. The end of
//! a stream or of a connection changes nothing.

use crate::context::Context;
use crate::first_use::existing_topic;
use crate::shared::Shared;
use crate::status::{self, Refusal};
use crate::validate;
use gantry_model::contract::broker::{LiteChange, LiteStart, LiteSync};
use gantry_model::limits::LITE_ADDS_PER_S;
use gantry_model::topic::TopicType;
use gantry_model::{Group, Offset, Topic};
use gantry_proto::v2::offset_option::{OffsetType, Policy};
use gantry_proto::v2::{ClientType, Code, LiteSubscriptionAction, OffsetOption, SyncLiteSubscriptionRequest, SyncLiteSubscriptionResponse};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A list may be so much longer than the quota: the client counts by itself, and the list may be older than its last removal.
const LEEWAY: usize = 300;

pub async fn answer(shared: &Shared, context: Context, request: SyncLiteSubscriptionRequest) -> Result<SyncLiteSubscriptionResponse, Refusal> {
    let topic_name = validate::topic(request.topic.as_ref(), context.namespace())?;
    let group_name = validate::group(request.group.as_ref(), context.namespace())?;
    let change = change(request.action());
    let start = start(request.offset_option.as_ref())?;
    if matches!(change, LiteChange::Add | LiteChange::Replace) {
        request.lite_topic_set.iter().try_for_each(|name| validate::lite_topic(name))?;
    }
    let topic = existing_topic(&*shared.metadata, &topic_name)?;
    let group = shared.metadata.group(&group_name).ok_or_else(|| {
        let text = format!("consumer group `{group_name}` does not exist; create it with the setting `lite.bind.topic={}`", topic_name.name);
        Refusal::new(Code::ConsumerGroupNotFound, text)
    })?;
    check_bound(&topic, &group)?;
    check_request(&group, change, request.lite_topic_set.len())?;
    if change == LiteChange::Add && !shared.lite_adds.take(shared.clock.mono()) {
        let text = format!("more than {LITE_ADDS_PER_S} subscriptions of lite topics in a second, try again after a pause");
        return Err(Refusal::new(Code::TooManyRequests, text));
    }
    context.session.consumes(ClientType::LitePushConsumer, &group_name, Some(&topic_name));
    let client = context.session.client.clone();
    shared.broker.sync_lite(LiteSync { group, topic, client, names: request.lite_topic_set, elsewhere: Vec::new(), change, start }).await?;
    Ok(SyncLiteSubscriptionResponse { status: Some(status::ok()) })
}

fn change(action: LiteSubscriptionAction) -> LiteChange {
    match action {
        LiteSubscriptionAction::PartialAdd => LiteChange::Add,
        LiteSubscriptionAction::PartialRemove => LiteChange::Remove,
        LiteSubscriptionAction::CompleteAdd => LiteChange::Replace,
        LiteSubscriptionAction::CompleteRemove => LiteChange::Clear,
    }
}

/// Where the group begins on what is added.
fn start(option: Option<&OffsetOption>) -> Result<LiteStart, Refusal> {
    let Some(wished) = option.and_then(|option| option.offset_type) else { return Ok(LiteStart::Last) };
    let number = |number: i64| u64::try_from(number).map_err(|_| Refusal::new(Code::BadRequest, format!("offset option {number} is negative")));
    Ok(match wished {
        OffsetType::Policy(policy) => match Policy::try_from(policy) {
            Ok(Policy::Last) => LiteStart::Last,
            Ok(Policy::Min) => LiteStart::Min,
            Ok(Policy::Max) => LiteStart::Max,
            Err(_) => {
                return Err(Refusal::new(Code::BadRequest, format!("offset policy {policy} is unknown, known are LAST (0), MIN (1) and MAX (2)")));
            }
        },
        OffsetType::Offset(offset) => LiteStart::At(Offset(number(offset)?)),
        OffsetType::TailN(count) => LiteStart::Tail(number(count)?),
        OffsetType::Timestamp(time) => LiteStart::Time(number(time)?),
    })
}

/// Whether a group consumes the lite topics of this parent.
pub fn check_bound(topic: &Topic, group: &Group) -> Result<(), Refusal> {
    let bound = group.options.lite.as_ref().filter(|_| group.name.namespace == topic.name.namespace);
    let illegal = |text: String| Err(Refusal::new(Code::IllegalTopic, text));
    match bound {
        _ if topic.kind != TopicType::Lite => {
            illegal(format!("topic `{}` is of type {:?}; only one of type Lite has lite topics", topic.name, topic.kind))
        }
        Some(lite) if lite.topic == topic.name.name => Ok(()),
        Some(lite) => {
            illegal(format!("consumer group `{}` is bound to the lite topics of `{}`, not to those of `{}`", group.name, lite.topic, topic.name))
        }
        None => illegal(format!("consumer group `{}` is not bound to the lite topics of `{}`; set its `lite.bind.topic`", group.name, topic.name)),
    }
}

fn check_request(group: &Group, change: LiteChange, count: usize) -> Result<(), Refusal> {
    let Some(lite) = &group.options.lite else { return Ok(()) };
    if lite.wildcard && change == LiteChange::Add {
        let text = format!("the members of consumer group `{}` get every lite topic; single ones can't be subscribed", group.name);
        return Err(Refusal::new(Code::BadRequest, text));
    }
    if matches!(change, LiteChange::Add | LiteChange::Replace) && count > lite.client_quota as usize + LEEWAY {
        let text =
            format!("{count} lite topics are more than one client of consumer group `{}` may subscribe, which is {}", group.name, lite.client_quota);
        return Err(Refusal::new(Code::LiteSubscriptionQuotaExceeded, text));
    }
    Ok(())
}

/// How many subscriptions were added in the second at hand.
#[derive(Debug, Default)]
pub struct Adds(Mutex<(Duration, u64)>);

impl Adds {
    fn take(&self, now: Duration) -> bool {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= second.0 + Duration::from_secs(1) {
            *second = (now, 0);
        }
        second.1 += 1;
        second.1 <= LITE_ADDS_PER_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_additions_and_the_next_one_has_them_again() {
        let adds = Adds::default();
        let second = Duration::from_secs(100);
        assert_eq!((0..LITE_ADDS_PER_S + 7).filter(|_| adds.take(second)).count() as u64, LITE_ADDS_PER_S);
        assert!(adds.take(second + Duration::from_secs(1)));
    }
}
