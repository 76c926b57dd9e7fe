//! Stored messages by id, key, position or time. Looking changes nothing.

use super::{foreign_token, group, lookup_error, read_token, token, topic};
use crate::convert::{self, message_type, timestamp};
use crate::shared::Shared;
use gantry_model::contract::broker::{Query, Standing};
use gantry_model::message::StoredMessage as Stored;
use gantry_model::{Offset, QueueId, Topic};
use gantry_proto::admin::lookup_messages_request::Selector;
use gantry_proto::admin::{Delivery, DeliveryState, LookupMessagesRequest, LookupMessagesResponse, StoredMessage};
use tonic::Status;

/// Messages in one answer that doesn't say how many, and the most.
const LIMIT_DEFAULT: usize = 32;
const LIMIT_MAX: usize = 1_000;
/// An answer holds at most one message more than this many body bytes.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Messages that a query may find again; pages of more than that many with one key or of one millisecond end there.
const AGAIN_MAX: usize = 100_000;
/// Groups whose delivery state is told.
const GROUPS_MAX: usize = 16;

pub async fn find(shared: &Shared, request: LookupMessagesRequest) -> Result<LookupMessagesResponse, Status> {
    let topic = topic(shared, &request.namespace, &request.topic)?;
    let limit = if request.limit == 0 { LIMIT_DEFAULT } else { (request.limit as usize).min(LIMIT_MAX) };
    let selector = request.selector.as_ref().ok_or_else(|| Status::invalid_argument("say what to look for: by_id, by_key, by_offset or by_time"))?;
    let after = read_token(&request.page_token)?.map(|key| Place::read(&key)).transpose()?;
    let query = query(selector, after.as_ref(), shared.clock.wall_ms())?;
    // What was shown before and would be found again is asked for on top.
    let again = after.as_ref().map_or(0, |after| after.again);
    let found = shared.broker.find(&topic, query, limit + 1 + again).await.map_err(lookup_error)?;
    let mut messages: Vec<Stored> =
        found.into_iter().filter(|message| after.as_ref().is_none_or(|after| after.is_before(selector, message))).collect();
    let all = messages.len();
    cut(&mut messages, limit);
    let next_page_token = match messages.last() {
        Some(last) if messages.len() < all => token(&Place::of(selector, last, &messages, after.as_ref()).key()),
        _ => String::new(),
    };
    let deliveries = deliveries(shared, &topic, &request, &messages).await?;
    let bodies = if request.omit_body { Bodies::Omitted } else { Bodies::Kept };
    let messages = messages.into_iter().zip(deliveries).map(|(message, deliveries)| to_wire(&topic, message, bodies, deliveries)).collect();
    Ok(LookupMessagesResponse { messages, next_page_token })
}

fn query(selector: &Selector, after: Option<&Place>, now_ms: u64) -> Result<Query, Status> {
    match selector {
        Selector::ById(id) if id.is_empty() => Err(Status::invalid_argument("the message id is empty")),
        Selector::ById(id) => Ok(Query::MessageId(id.clone())),
        Selector::ByKey(key) if key.is_empty() => Err(Status::invalid_argument("the key is empty")),
        Selector::ByKey(key) => Ok(Query::Key(key.clone())),
        Selector::ByOffset(place) => {
            let offset = after.map_or(place.offset, |after| after.offset + 1);
            Ok(Query::Offset { queue: QueueId(place.queue), offset: Offset(offset) })
        }
        Selector::ByTime(range) => {
            if range.from.is_none() && range.to.is_none() {
                return Err(Status::invalid_argument("a time range has at least one end"));
            }
            let from_ms = after.map_or_else(|| range.from.as_ref().map_or(0, convert::ms), |after| after.store_ms);
            let to_ms = range.to.as_ref().map_or(now_ms.saturating_add(1), convert::ms);
            Ok(Query::Stored { from_ms, to_ms })
        }
    }
}

/// Keeps what fits into one answer.
pub fn cut(messages: &mut Vec<Stored>, limit: usize) {
    messages.truncate(limit);
    let mut bytes = 0;
    let fitting = messages.iter().take_while(|message| {
        let fits = bytes <= BYTES_MAX;
        bytes += message.message.body.len();
        fits
    });
    let fitting = fitting.count();
    messages.truncate(fitting);
}

/// Where a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    store_ms: u64,
    queue: u32,
    offset: u64,
    /// Messages up to here that the query for the next page finds again.
    again: usize,
}

impl Place {
    fn of(selector: &Selector, last: &Stored, page: &[Stored], before: Option<&Place>) -> Place {
        let carried = |same: bool| before.filter(|before| !same || before.store_ms == last.store_ms).map_or(0, |before| before.again);
        let again = match selector {
            // The query begins behind the last message.
            Selector::ByOffset(_) => 0,
            // The query begins at the millisecond of the last message.
            Selector::ByTime(_) => page.iter().filter(|message| message.store_ms == last.store_ms).count() + carried(true),
            // The query begins anew.
            Selector::ById(_) | Selector::ByKey(_) => page.len() + carried(false),
        };
        Place { store_ms: last.store_ms, queue: last.queue.0, offset: last.offset.0, again: again.min(AGAIN_MAX) }
    }

    fn key(&self) -> String {
        format!("{}.{}.{}.{}", self.store_ms, self.queue, self.offset, self.again)
    }

    fn read(key: &str) -> Result<Place, Status> {
        let numbers: Option<Vec<u64>> = key.split('.').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[store_ms, queue, offset, again]) if queue <= u64::from(u32::MAX) && offset < u64::MAX && again <= AGAIN_MAX as u64 => {
                Ok(Place { store_ms, queue: queue as u32, offset, again: again as usize })
            }
            _ => Err(foreign_token()),
        }
    }

    /// Whether a message comes behind this place in the order of the answer.
    fn is_before(&self, selector: &Selector, message: &Stored) -> bool {
        match selector {
            Selector::ByOffset(_) => message.offset.0 > self.offset,
            _ => (message.store_ms, message.queue.0, message.offset.0) > (self.store_ms, self.queue, self.offset),
        }
    }
}

/// Where each message stands for each group that was asked for.
async fn deliveries(shared: &Shared, topic: &Topic, request: &LookupMessagesRequest, messages: &[Stored]) -> Result<Vec<Vec<Delivery>>, Status> {
    if request.delivery_groups.len() > GROUPS_MAX {
        return Err(Status::invalid_argument(format!("at most {GROUPS_MAX} groups can be asked for at once")));
    }
    let places: Vec<(QueueId, Offset)> = messages.iter().map(|message| (message.queue, message.offset)).collect();
    let mut deliveries = vec![Vec::with_capacity(request.delivery_groups.len()); messages.len()];
    for name in &request.delivery_groups {
        let group = group(shared, &request.namespace, name)?;
        let standing = shared.broker.standing(&group, topic, places.clone()).await.map_err(lookup_error)?;
        deliveries.iter_mut().zip(standing).for_each(|(of_message, standing)| of_message.push(delivery(name, standing)));
    }
    Ok(deliveries)
}

fn delivery(group: &str, standing: Standing) -> Delivery {
    let base = |state: DeliveryState, attempts| Delivery { group: group.to_owned(), state: state as i32, attempts, ..Default::default() };
    match standing {
        Standing::Ready { attempts } => base(DeliveryState::Ready, attempts),
        Standing::InFlight { client, attempt, until_ms } => Delivery {
            client_id: client.map_or_else(String::new, |client| client.to_string()),
            visible_time: until_ms.map(timestamp),
            ..base(DeliveryState::InFlight, attempt)
        },
        Standing::Waiting { attempts, visible_ms } => {
            Delivery { visible_time: Some(timestamp(visible_ms)), ..base(DeliveryState::Waiting, attempts) }
        }
        Standing::Done => base(DeliveryState::Done, 0),
    }
}

/// Whether an answer carries the bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bodies {
    Kept,
    Omitted,
}

/// A message without its body and without what became of it.
pub(super) fn outline(topic: &Topic, stored: Stored) -> StoredMessage {
    to_wire(topic, stored, Bodies::Omitted, Vec::new())
}

pub fn to_wire(topic: &Topic, stored: Stored, bodies: Bodies, deliveries: Vec<Delivery>) -> StoredMessage {
    let Stored { message, queue, offset, store_ms, .. } = stored;
    StoredMessage {
        message_id: message.id,
        namespace: topic.name.namespace.clone(),
        topic: topic.name.name.clone(),
        queue: queue.0,
        offset: offset.0,
        message_type: message_type(message.kind) as i32,
        tag: message.tag,
        keys: message.keys,
        properties: message.properties.into_iter().collect(),
        body_size: message.body.len() as u64,
        body: if bodies == Bodies::Omitted { Default::default() } else { message.body },
        body_encoding: convert::encoding(message.encoding) as i32,
        born_time: Some(timestamp(message.born_ms)),
        born_host: message.born_host,
        store_time: Some(timestamp(store_ms)),
        message_group: message.group,
        delivery_time: message.deliver_ms.map(timestamp),
        deliveries,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_place_where_a_page_ended_comes_back() {
        let place = Place { store_ms: 1_700_000_000_000, queue: 7, offset: 42, again: 3 };
        assert_eq!(Place::read(&place.key()).unwrap(), place);
        for foreign in ["", "1.2.3", "1.2.3.4.5", "1.2.3.x", "1.4294967296.3.4"] {
            assert!(Place::read(foreign).is_err(), "`{foreign}`");
        }
    }
}
