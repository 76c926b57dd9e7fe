//! SendMessage: stores messages; OK means they are committed.
//!
//! The whole request is checked before anything is stored. The queue that a client names is ignored, because clients disagree about how to
//! choose one; the broker places messages. OK comes with exactly one entry per message, in order.

use crate::context::Context;
use crate::first_use::existing_topic;
use crate::rpc::{Messaging, overall};
use crate::status::{self, Refusal};
use crate::{convert, validate};
use gantry_model::contract::broker::{SendError, SendRequest, Sent, Ticket};
use gantry_model::handle::HandleKeys;
use gantry_model::limits::DELAY_MAX_MS;
use gantry_model::{Message, MessageKind, Topic};
use gantry_proto::v2::{Code, SendMessageRequest, SendMessageResponse, SendResultEntry};

pub async fn answer(edge: &Messaging, context: Context, request: SendMessageRequest) -> Result<SendMessageResponse, Refusal> {
    let shared = &edge.shared;
    let now_ms = shared.clock.wall_ms();
    let name = validate::topic(request.messages.first().and_then(|message| message.topic.as_ref()), context.namespace());
    let name = if request.messages.is_empty() { None } else { Some(name?) };
    let known = name.as_ref().and_then(|name| shared.metadata.topic(name));
    let kinds = validate::batch(&request.messages, now_ms, known.map_or(DELAY_MAX_MS, |topic| topic.options.delay_max_ms))?;
    let name = name.expect("a batch without messages was refused");
    if name.is_system() {
        return Err(Refusal::new(Code::Forbidden, format!("no writable queue: topic `{name}` is written by the server only")));
    }
    let topic = existing_topic(&*shared.metadata, &name)?;
    check_topic(&topic, &kinds)?;
    if kinds.len() > 1 && kinds.contains(&MessageKind::Transaction) {
        return Err(Refusal::new(Code::BadRequest, "a transaction has one message: send each in a request of its own"));
    }
    let bytes: u64 = request.messages.iter().map(|message| message.body.len() as u64).sum();
    shared.quotas.send(&topic, request.messages.len() as u64, bytes)?;
    context.session.produces(&name);
    let messages: Vec<Message> =
        request.messages.into_iter().zip(kinds).map(|(message, kind)| convert::from_wire(message, kind, now_ms, &edge.peer)).collect();
    let ids: Vec<String> = messages.iter().map(|message| message.id.clone()).collect();
    // The answer that says why comes before the time of the call is over.
    let wait = context.patience() * 3 / 4;
    let results = shared.broker.send(SendRequest { topic, messages, client: context.session.client.clone(), wait }).await;
    if results.iter().all(Result::is_ok) {
        shared.metrics.messages_sent.add(ids.len() as u64);
        shared.metrics.bytes_sent.add(bytes);
    }
    Ok(response(&shared.metadata.handle_keys(), ids, results))
}

/// Whether the topic takes messages of these kinds.
fn check_topic(topic: &Topic, kinds: &[MessageKind]) -> Result<(), Refusal> {
    if !topic.permission.can_write() {
        return Err(Refusal::new(Code::Forbidden, format!("no writable queue: topic `{}` is read-only", topic.name)));
    }
    if let Some(kind) = kinds.iter().find(|kind| !topic.kind.accepts().contains(kind)) {
        let text = format!("topic `{}` is of type {:?} and does not accept a {kind:?} message", topic.name, topic.kind);
        return Err(Refusal::new(Code::MessagePropertyConflictWithType, text));
    }
    Ok(())
}

fn response(keys: &HandleKeys, ids: Vec<String>, results: Vec<Result<Sent, SendError>>) -> SendMessageResponse {
    debug_assert_eq!(ids.len(), results.len(), "one result per message");
    let entries: Vec<SendResultEntry> = ids.into_iter().zip(results).map(|(id, result)| entry(keys, id, result)).collect();
    let status = overall(entries.iter().map(|entry| entry.status.clone().unwrap_or_default()));
    SendMessageResponse { status: Some(status), entries }
}

fn entry(keys: &HandleKeys, message_id: String, result: Result<Sent, SendError>) -> SendResultEntry {
    let sent = match result {
        Ok(sent) => sent,
        Err(error) => return SendResultEntry { status: Some(Refusal::from(error).into()), ..Default::default() },
    };
    let (transaction_id, recall_handle) = match &sent.ticket {
        Some(Ticket::Transaction(handle)) => (keys.sign_transaction(handle), String::new()),
        Some(Ticket::Recall(handle)) => (String::new(), keys.sign_recall(handle)),
        None => Default::default(),
    };
    SendResultEntry { status: Some(status::ok()), message_id, transaction_id, offset: sent.offset.0 as i64, recall_handle }
}
