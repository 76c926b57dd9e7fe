//! Clients: who is a member of a group, what it does, what its threads do, and whether it can consume a message.

use super::subscriptions::{message_model, subscribed};
use super::{Call, looked_up, resource};
use crate::admin::clients::shown_to_client;
use crate::errands::ErrandError;
use crate::sessions::{Facts, Session};
use crate::status::{self, Refusal};
use gantry_model::contract::broker::Query;
use gantry_model::{ClientId, Group, GroupName};
use gantry_proto::v2::*;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Messages with one id that are looked through for the newest.
const TWINS_MAX: usize = 64;
/// What is kept back of the caller's time for the answer to it.
const RESERVE: Duration = Duration::from_millis(200);

/// A client, as the protocol shows it.
pub fn info(client: &ClientId, facts: &Facts, group: Option<&Group>) -> ClientInfo {
    let agent = facts.settings.as_ref().and_then(|settings| settings.user_agent.as_ref());
    ClientInfo {
        client_id: client.to_string(),
        version: facts.version.clone(),
        language: facts.language.as_str_name().to_owned(),
        hostname: agent.map_or_else(String::new, |agent| agent.hostname.clone()),
        egress_ip: facts.address.ip().to_canonical().to_string(),
        message_model: message_model(facts.client_type, group) as i32,
    }
}

pub async fn list(call: Call, request: ListConsumerConnectionRequest) -> Result<ListConsumerConnectionResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    if request.lite_topic.is_some_and(|lite| !lite.is_empty()) {
        return Err(Refusal::not_implemented("listing the subscribers of one lite topic"));
    }
    let group = call.group(request.group.as_ref())?;
    let topic = request.topic.as_ref().map(|topic| call.topic(Some(topic))).transpose()?;
    let mut sessions = call.shared.sessions.all();
    sessions.sort_unstable_by(|a, b| a.client.cmp(&b.client));
    let member = |session: &Arc<Session>| {
        let facts = session.facts();
        let reads = topic.as_ref().is_none_or(|topic| subscribed(&facts).contains_key(&topic.name));
        (facts.groups.contains(&group.name) && reads).then(|| info(&session.client, &facts, Some(&group)))
    };
    Ok(ListConsumerConnectionResponse { status: Some(status::ok()), client_info: sessions.iter().filter_map(member).collect() })
}

/// What the server knows of a consumer. What only the consumer knows, such as its cache, is left at zero.
pub async fn running_info(call: Call, request: GetConsumerRunningInfoRequest) -> Result<GetConsumerRunningInfoResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    let group = call.group(request.group.as_ref())?;
    let session = connected(&call, &request.client_id, Some(&group.name))?;
    let (properties, topics) = {
        let facts = session.facts();
        (properties(&facts), subscribed(&facts))
    };
    let mut queues = Vec::new();
    for topic in topics.keys().filter_map(|name| call.shared.metadata.topic(name)) {
        for position in call.shared.broker.positions(&group, &topic).await.map_err(looked_up)? {
            let name = resource(&topic.name.namespace, &topic.name.name);
            let message_queue = MessageQueue { topic: name, id: position.queue.0 as i32, ..Default::default() };
            let held = ProcessQueueInfo { commit_offset: position.committed.0 as i64, ..Default::default() };
            queues.push(MessageQueueItem { message_queue: Some(message_queue), process_queue_info: Some(held) });
        }
    }
    let subscriptions = topics.into_iter().map(|(topic, expression)| (topic.to_string(), expression.unwrap_or_default())).collect();
    let info = ConsumerRunningInfo { properties, subscriptions, message_queue_table: queues, consume_status_table: HashMap::new() };
    Ok(GetConsumerRunningInfoResponse { status: Some(status::ok()), consumer_running_info: Some(info) })
}

/// What the client says about itself; its own properties can't hide ours.
fn properties(facts: &Facts) -> HashMap<String, String> {
    let settings = facts.settings.as_deref();
    let mut properties = settings.map(|settings| settings.client_properties.clone()).unwrap_or_default();
    let agent = settings.and_then(|settings| settings.user_agent.clone()).unwrap_or_default();
    let own = [
        ("client_type", facts.client_type.as_str_name().to_owned()),
        ("language", facts.language.as_str_name().to_owned()),
        ("version", facts.version.clone()),
        ("address", facts.address.to_string()),
        ("namespace", facts.namespace.clone()),
        ("hostname", agent.hostname),
        ("platform", agent.platform),
    ];
    properties.extend(own.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.to_owned(), value)));
    properties
}

pub async fn print_stack(call: Call, request: PrintThreadStackTraceRequest) -> Result<PrintThreadStackTraceResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    let group = request.group.as_ref().map(|group| call.group_name(Some(group))).transpose()?;
    let session = connected(&call, &request.client_id, group.as_ref())?;
    let answer = call.shared.errands.print_stack(&session, patience(&call)).await.map_err(unanswered)?;
    let status = match answer.status.code() {
        // Some clients answer without a status.
        Code::Unspecified => status::ok(),
        _ => verdict(answer.status, &[Code::Ok, Code::NotImplemented, Code::Unsupported])?,
    };
    Ok(PrintThreadStackTraceResponse { status: Some(status), thread_stack_trace: Some(answer.stack) })
}

pub async fn verify(call: Call, request: VerifyMessageRequest) -> Result<VerifyMessageResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    let group = request.group.as_ref().map(|group| call.group_name(Some(group))).transpose()?;
    let topic = call.topic(request.topic.as_ref())?;
    if request.message_id.is_empty() {
        return Err(Refusal::new(Code::BadRequest, "say which message: `message_id` is empty"));
    }
    let session = connected(&call, &request.client_id, group.as_ref())?;
    let query = Query::MessageId(request.message_id.clone());
    let found = call.shared.broker.find(&topic, query, TWINS_MAX).await.map_err(looked_up)?;
    let message = found.into_iter().next_back().ok_or_else(|| {
        let id = request.message_id.escape_debug();
        Refusal::new(Code::MessageNotFound, format!("topic `{}` has no message with the id `{id}`, or keeps it no more", topic.name))
    })?;
    let shown = shown_to_client(&call.shared, &topic, message);
    let answer = call.shared.errands.verify(&session, shown, patience(&call)).await.map_err(unanswered)?;
    let known =
        [Code::Ok, Code::FailedToConsumeMessage, Code::MessageCorrupted, Code::VerifyFifoMessageUnsupported, Code::NotImplemented, Code::Unsupported];
    Ok(VerifyMessageResponse { status: Some(verdict(answer.status, &known)?) })
}

fn patience(call: &Call) -> Duration {
    call.headers.patience().saturating_sub(RESERVE)
}

/// What the client said, if it is one of the answers that mean something here.
fn verdict(status: Status, known: &[Code]) -> Result<Status, Refusal> {
    if known.contains(&status.code()) {
        return Ok(status);
    }
    Err(Refusal::new(Code::InternalServerError, format!("the client answered with code {}: {}", status.code, status.message)))
}

/// A client that called lately, as a member of a group if one is named.
fn connected(call: &Call, client_id: &str, group: Option<&GroupName>) -> Result<Arc<Session>, Refusal> {
    if client_id.trim().is_empty() {
        return Err(Refusal::new(Code::BadRequest, "say which client: `client_id` is empty"));
    }
    let session = call.shared.sessions.get(client_id);
    let member = session.filter(|session| group.is_none_or(|group| session.facts().groups.contains(group)));
    member.ok_or_else(|| {
        let of = group.map_or_else(String::new, |group| format!(" of group `{group}`"));
        Refusal::new(Code::NotFound, format!("no client `{}`{of} called lately", client_id.escape_debug()))
    })
}

fn unanswered(error: ErrandError) -> Refusal {
    let code = match error {
        ErrandError::NoStream | ErrandError::StreamEnded => Code::PreconditionFailed,
        ErrandError::Silent(_) => Code::ProxyTimeout,
        ErrandError::Busy => Code::TooManyRequests,
    };
    Refusal::new(code, error.to_string())
}
