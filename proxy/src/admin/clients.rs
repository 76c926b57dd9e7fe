//! Clients that called this proxy lately, and what can be asked of them.

use super::{Page, lookup_error, topic};
use crate::convert::{self, Envelope, timestamp};
use crate::errands::{ErrandError, STACK_PATIENCE, VERIFY_PATIENCE};
use crate::sessions::{Facts, Session};
use crate::shared::Shared;
use gantry_model::contract::broker::Query;
use gantry_model::message::StoredMessage;
use gantry_model::{Offset, QueueId, Topic};
use gantry_proto::admin::verify_message_request::Message;
use gantry_proto::admin::*;
use gantry_proto::v2::{self, Code, Resource};
use std::sync::Arc;
use tonic::Status;

/// Messages with one id that are looked through for the newest.
const TWINS_MAX: usize = 64;

pub fn list(shared: &Shared, request: ListClientsRequest) -> Result<ListClientsResponse, Status> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let mut sessions = shared.sessions.all();
    sessions.sort_unstable_by(|a, b| a.client.cmp(&b.client));
    let behind = |session: &Session| page.after.as_ref().is_none_or(|after| session.client.as_str() > after.as_str());
    let wanted = sessions.iter().filter(|session| behind(session) && shows(&request, &session.facts()));
    let mut clients: Vec<Client> = wanted.take(page.size + 1).map(|session| to_wire(shared, session)).collect();
    let next_page_token = page.cut(&mut clients, |client| client.client_id.clone());
    Ok(ListClientsResponse { clients, next_page_token })
}

fn shows(request: &ListClientsRequest, facts: &Facts) -> bool {
    (request.client_type == 0 || request.client_type == facts.client_type as i32)
        && request.namespace.as_ref().is_none_or(|namespace| is_of(facts, namespace))
        && (request.group.is_empty() || facts.groups.iter().any(|group| group.name == request.group && in_namespace(request, &group.namespace)))
        && (request.topic.is_empty() || facts.topics.iter().any(|topic| topic.name == request.topic && in_namespace(request, &topic.namespace)))
}

fn in_namespace(request: &ListClientsRequest, namespace: &str) -> bool {
    request.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
}

/// Whether a client works in a namespace, by its header or by what it names.
fn is_of(facts: &Facts, namespace: &str) -> bool {
    let mut named = facts.groups.iter().map(|group| &group.namespace).chain(facts.topics.iter().map(|topic| &topic.namespace));
    match facts.groups.is_empty() && facts.topics.is_empty() {
        true => facts.namespace == namespace,
        false => named.any(|name| name == namespace),
    }
}

pub async fn print_stack(shared: &Shared, request: PrintThreadStackRequest) -> Result<PrintThreadStackResponse, Status> {
    let session = connected(shared, &request.client_id)?;
    let answer = shared.errands.print_stack(&session, STACK_PATIENCE).await.map_err(unanswered)?;
    match answer.status.code() {
        Code::Ok | Code::Unspecified => Ok(PrintThreadStackResponse { stack: answer.stack }),
        code => Err(Status::failed_precondition(format!("the client answered {}: {}", code.as_str_name(), answer.status.message))),
    }
}

pub async fn verify(shared: &Shared, request: VerifyMessageRequest) -> Result<VerifyMessageResponse, Status> {
    let session = connected(shared, &request.client_id)?;
    let topic = topic(shared, &request.namespace, &request.topic)?;
    let message = message(shared, &topic, request.message).await?;
    let started = shared.clock.mono();
    let answer = shared.errands.verify(&session, shown_to_client(shared, &topic, message), VERIFY_PATIENCE).await.map_err(unanswered)?;
    let took = shared.clock.mono().saturating_sub(started);
    Ok(VerifyMessageResponse {
        outcome: outcome(answer.status.code()) as i32,
        text: answer.status.message,
        took: Some(prost_types::Duration { seconds: took.as_secs() as i64, nanos: took.subsec_nanos() as i32 }),
    })
}

fn connected(shared: &Shared, client_id: &str) -> Result<Arc<Session>, Status> {
    let unknown = || Status::not_found(format!("no client `{}` called lately; ListClients shows those that did", client_id.escape_debug()));
    shared.sessions.get(client_id).ok_or_else(unknown)
}

fn unanswered(error: ErrandError) -> Status {
    let text = error.to_string();
    match error {
        ErrandError::NoStream => Status::failed_precondition(text),
        ErrandError::StreamEnded => Status::unavailable(text),
        ErrandError::Silent(_) => Status::deadline_exceeded(text),
        ErrandError::Busy => Status::resource_exhausted(text),
    }
}

async fn message(shared: &Shared, topic: &Topic, wanted: Option<Message>) -> Result<StoredMessage, Status> {
    let (query, limit) = match wanted {
        Some(Message::ById(id)) if !id.is_empty() => (Query::MessageId(id), TWINS_MAX),
        Some(Message::ByOffset(place)) => (Query::Offset { queue: QueueId(place.queue), offset: Offset(place.offset) }, 1),
        _ => return Err(Status::invalid_argument("say which message: by_id or by_offset")),
    };
    let at = if let Query::Offset { offset, .. } = &query { Some(*offset) } else { None };
    let found = shared.broker.find(topic, query, limit).await.map_err(lookup_error)?;
    let fitting = found.into_iter().rfind(|message| at.is_none_or(|at| message.offset == at));
    fitting.ok_or_else(|| Status::not_found(format!("topic `{}` has no such message, or keeps it no more", topic.name)))
}

/// A stored message as a client gets it that is asked to consume it: without a handle, so that nothing comes of an acknowledgement.
pub fn shown_to_client(shared: &Shared, topic: &Topic, message: StoredMessage) -> v2::Message {
    let name = Resource { resource_namespace: topic.name.namespace.clone(), name: topic.name.name.clone() };
    let messaging = shared.config.endpoints.iter().find(|(purpose, _)| purpose == "messaging");
    let store_host = messaging.map_or_else(String::new, |(_, address)| address.clone());
    let mut shown = convert::stored_to_wire(message, &Envelope { topic: name, store_host });
    if let Some(system) = &mut shown.system_properties {
        system.delivery_attempt = Some(1);
    }
    shown
}

fn outcome(code: Code) -> VerifyOutcome {
    match code {
        Code::Ok => VerifyOutcome::Consumed,
        Code::FailedToConsumeMessage => VerifyOutcome::Failed,
        Code::MessageCorrupted => VerifyOutcome::Corrupted,
        Code::VerifyFifoMessageUnsupported => VerifyOutcome::FifoUnsupported,
        Code::NotImplemented | Code::Unsupported => VerifyOutcome::Unsupported,
        _ => VerifyOutcome::Unspecified,
    }
}

fn to_wire(shared: &Shared, session: &Session) -> Client {
    let ago = shared.clock.mono().saturating_sub(session.last_seen());
    let facts = session.facts();
    Client {
        client_id: session.client.to_string(),
        client_type: facts.client_type as i32,
        namespace: facts.namespace.clone(),
        groups: facts.groups.iter().map(|group| group.name.clone()).collect(),
        topics: facts.topics.iter().map(|topic| topic.name.clone()).collect(),
        remote_address: facts.address.to_string(),
        last_seen: Some(timestamp(shared.clock.wall_ms().saturating_sub(ago.as_millis() as u64))),
        language: facts.language as i32,
        version: facts.version.clone(),
    }
}
