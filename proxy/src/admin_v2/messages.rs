//! Messages: looking for stored ones, and sending one.

use super::{Call, refused};
use crate::admin::lookup;
use crate::context::Context;
use crate::convert::{self, Envelope, timestamp};
use crate::rpc::{Messaging, send_message};
use crate::sessions::Session;
use crate::status::{self, Refusal};
use gantry_model::ClientId;
use gantry_model::message::StoredMessage;
use gantry_platform::SystemChance;
use gantry_platform::chance::Chance;
use gantry_proto::admin::TimeRange;
use gantry_proto::admin::lookup_messages_request::Selector;
use gantry_proto::v2::list_message_request::SearchKey;
use gantry_proto::v2::*;
use std::sync::Arc;

/// Messages of an answer that doesn't say how many, and the most.
const COUNT_DEFAULT: usize = 32;
const COUNT_MAX: usize = 1_000;
/// Body bytes after which an answer ends early.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Messages that page numbers may skip; scrolling has no such bound.
const SKIP_MAX: usize = 10_000;
/// Pages that are read for one answer when few messages fit; the answer then says where to go on.
const ROUNDS_MAX: usize = 64;
/// What the sender of a message is called that has no client id.
const SENDER: &str = "administration";

/// What is looked for.
struct Search {
    selector: Selector,
    begin_ms: u64,
    /// Inclusive.
    end_ms: u64,
    queue: Option<u32>,
    count: usize,
    skip: usize,
}

impl Search {
    fn read(request: &ListMessageRequest) -> Result<Search, Refusal> {
        let begin_ms = request.begin_timestamp.as_ref().map_or(0, convert::ms);
        let end_ms = request.end_timestamp.as_ref().map_or(u64::MAX - 1, convert::ms).min(u64::MAX - 1);
        if begin_ms > end_ms {
            return bad("the time span ends before it begins");
        }
        let selector = match &request.search_key {
            Some(SearchKey::MessageId(id)) if !id.is_empty() => Selector::ById(id.clone()),
            Some(SearchKey::MessageKey(key)) if !key.is_empty() => Selector::ByKey(key.clone()),
            Some(SearchKey::MessageId(_) | SearchKey::MessageKey(_)) => return bad("the message id or key to look for is empty"),
            Some(SearchKey::Subscription(_)) => return Err(Refusal::not_implemented("looking for messages by subscription")),
            Some(SearchKey::LiteTopic(_)) => return Err(Refusal::not_implemented("looking for messages by lite topic")),
            // A distant end is left open: it has no place in a timestamp.
            None => {
                let to = request.end_timestamp.as_ref().map(|_| timestamp(end_ms + 1));
                Selector::ByTime(TimeRange { from: Some(timestamp(begin_ms)), to })
            }
        };
        let count = match at_most(request.max_message_nums, "max_message_nums")? {
            0 => COUNT_DEFAULT,
            count => count.min(COUNT_MAX),
        };
        let count = match at_most(request.page_size.unwrap_or(0), "page_size")? {
            0 => count,
            size => size.min(count),
        };
        let page = at_most(request.page_num.unwrap_or(0), "page_num")?;
        let skip = page.saturating_sub(1).saturating_mul(count);
        if page > 0 && request.scroll_id.as_ref().is_some_and(|id| !id.is_empty()) {
            return bad("`scroll_id` and `page_num` exclude each other");
        }
        if skip > SKIP_MAX {
            return bad(&format!("page {page} lies more than {SKIP_MAX} messages behind the first; go on with `scroll_id` instead"));
        }
        let queue = request.queue_id.map(|queue| at_most(queue, "queue_id")).transpose()?.map(|queue| queue as u32);
        Ok(Search { selector, begin_ms, end_ms, queue, count, skip })
    }

    fn wants(&self, message: &StoredMessage) -> bool {
        (self.begin_ms..=self.end_ms).contains(&message.store_ms) && self.queue.is_none_or(|queue| message.queue.0 == queue)
    }
}

fn bad<T>(text: &str) -> Result<T, Refusal> {
    Err(Refusal::new(Code::BadRequest, text.to_owned()))
}

fn at_most(number: i32, field: &str) -> Result<usize, Refusal> {
    usize::try_from(number).map_err(|_| Refusal::new(Code::BadRequest, format!("`{field}` is {number}, which is negative")))
}

pub async fn query(call: Call, request: ListMessageRequest) -> Result<ListMessageResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    let topic = call.topic(request.topic.as_ref())?;
    let search = Search::read(&request)?;
    let store_host = call.peer.as_ref().map_or_else(String::new, |peer| peer.store_host.clone());
    let envelope = Envelope { topic: request.topic.clone().unwrap_or_default(), store_host };
    let (mut messages, mut bytes, mut skip) = (Vec::new(), 0, search.skip);
    let mut scroll_id = request.scroll_id.unwrap_or_default();
    for _ in 0..ROUNDS_MAX {
        let (found, next) = lookup::page(&call.shared, &topic, &search.selector, search.count - messages.len(), &scroll_id).await.map_err(refused)?;
        scroll_id = next;
        for message in found.into_iter().filter(|message| search.wants(message)) {
            if skip > 0 {
                skip -= 1;
                continue;
            }
            bytes += message.message.body.len();
            messages.push(convert::stored_to_wire(message, &envelope));
        }
        if scroll_id.is_empty() || messages.len() == search.count || bytes > BYTES_MAX {
            break;
        }
    }
    Ok(ListMessageResponse { status: Some(status::ok()), messages, scroll_id })
}

/// Sends as any producer does, with all checks and quotas; only a client id is not needed.
pub async fn send(call: Call, request: AdminSendMessageRequest) -> Result<AdminSendMessageResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    let Call { shared, headers, peer } = call;
    let Some(peer) = peer else {
        return Err(Refusal::new(Code::InternalServerError, "the connection of the call is not known"));
    };
    let client = ClientId::new(headers.client_id().unwrap_or(SENDER));
    let session = Arc::new(Session::new(client, &headers, &peer));
    let messaging = Messaging::new(shared, peer);
    let wish = SendMessageRequest { messages: vec![message(request)] };
    let answer = send_message::answer(&messaging, Context::new(headers, session), wish).await?;
    let message_id = answer.entries.into_iter().next().map(|entry| entry.message_id).unwrap_or_default();
    Ok(AdminSendMessageResponse { status: answer.status, message_id })
}

fn message(request: AdminSendMessageRequest) -> Message {
    let mut system = request.system_properties.unwrap_or_default();
    system.tag = request.tag.or(system.tag);
    if let Some(key) = request.key.filter(|key| !system.keys.contains(key)) {
        system.keys.push(key);
    }
    if system.message_id.is_empty() {
        let mut bits = [0; 16];
        SystemChance.fill(&mut bits);
        system.message_id = format!("{:032X}", u128::from_ne_bytes(bits));
    }
    Message { topic: request.topic, user_properties: request.user_properties, system_properties: Some(system), body: request.body }
}
