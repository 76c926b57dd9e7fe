//! AckMessage: ends deliveries with success.
//!
//! Push consumers repeat a failed acknowledgement for ever, except on `40013`: so what can never succeed, like a handle of a topic that was
//! deleted, is answered with that code.

use crate::context::Context;
use crate::rpc::overall;
use crate::shared::Shared;
use crate::status::{self, Refusal};
use crate::validate;
use gantry_model::contract::broker::LeaseError;
use gantry_model::{Group, GroupName, ReceiptHandle, TopicName};
use gantry_proto::v2::{AckMessageRequest, AckMessageResponse, AckMessageResultEntry, Resource};
use std::sync::Arc;

pub async fn answer(shared: &Shared, context: Context, request: AckMessageRequest) -> Result<AckMessageResponse, Refusal> {
    let names = Names::parse(request.topic.as_ref(), request.group.as_ref(), context.namespace())?;
    validate::ack_entries(request.entries.len())?;
    let mut handles = Vec::with_capacity(request.entries.len());
    let checked: Vec<Result<(), Refusal>> =
        request.entries.iter().map(|entry| names.handle(shared, &entry.receipt_handle).map(|(_, handle)| handles.push(handle))).collect();
    let group = shared.metadata.group(&names.group);
    let acked = match &group {
        Some(group) if !handles.is_empty() => shared.broker.ack(group, handles).await,
        _ => Vec::new(),
    };
    let mut acked = acked.into_iter();
    let outcome = |checked: Result<(), Refusal>| match checked {
        Ok(()) => acked.next().unwrap_or(Err(LeaseError::Foreign)).map_err(Refusal::from),
        Err(refusal) => Err(refusal),
    };
    let outcomes = checked.into_iter().map(outcome);
    let entries: Vec<AckMessageResultEntry> = request
        .entries
        .into_iter()
        .zip(outcomes)
        .map(|(entry, outcome)| AckMessageResultEntry {
            message_id: entry.message_id,
            receipt_handle: entry.receipt_handle,
            status: Some(outcome.map_or_else(Into::into, |()| status::ok())),
        })
        .collect();
    let status = overall(entries.iter().map(|entry| entry.status.clone().unwrap_or_default()));
    Ok(AckMessageResponse { status: Some(status), entries })
}

/// The topic and group of a call about deliveries.
pub struct Names {
    pub topic: TopicName,
    pub group: GroupName,
}

impl Names {
    pub fn parse(topic: Option<&Resource>, group: Option<&Resource>, namespace: &str) -> Result<Names, Refusal> {
        Ok(Names { topic: validate::topic(topic, namespace)?, group: validate::group(group, namespace)? })
    }

    /// The delivery that a handle stands for, if it is one of this topic and group. One code for everything that is wrong with a handle.
    pub fn handle(&self, shared: &Shared, text: &str) -> Result<(Arc<Group>, ReceiptHandle), Refusal> {
        let checked = shared.metadata.handle_keys().verify(text).map_err(Refusal::from).and_then(|handle| {
            let topic = shared.metadata.topic(&self.topic).filter(|topic| topic.id == handle.topic);
            let group = shared.metadata.group(&self.group).filter(|group| group.id == handle.group || handle.group.is_member());
            match (topic, group) {
                (Some(_), Some(group)) => Ok((group, handle)),
                _ => Err(Refusal::from(LeaseError::Foreign)),
            }
        });
        checked.inspect_err(|_| shared.metrics.invalid_handles.add(1))
    }
}
