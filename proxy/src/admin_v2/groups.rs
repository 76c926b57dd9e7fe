//! Groups: how far behind they are, as numbers and as times, and moving them in time.

use super::{Call, looked_up, not_moved, refused, resource};
use crate::admin::groups::{Row, rows, rows_of_all};
use crate::convert;
use crate::status::{self, Refusal};
use describe_group_accumulation_response::GroupAccumulation;
use gantry_model::contract::broker::{Query, QueuePosition, SeekRequest, SeekTarget};
use gantry_model::{Group, Offset, QueueId, Topic, TopicName};
use gantry_proto::v2::query_time_span_response::QueueTimeSpan;
use gantry_proto::v2::*;
use std::collections::HashMap;
use std::sync::Arc;

pub async fn accumulation(call: Call, request: DescribeGroupAccumulationRequest) -> Result<DescribeGroupAccumulationResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    if request.lite_topic.is_some_and(|lite| !lite.is_empty()) {
        return Err(Refusal::not_implemented("the backlog of one lite topic"));
    }
    let group = call.group(request.group.as_ref())?;
    let (mut total, mut by_topic) = (Backlog::default(), HashMap::new());
    for (topic, positions) in asked(&call, &group, &request.topics).await? {
        let mut backlog = Backlog::default();
        for position in positions {
            let consumed_ms = store_time(&call, &topic, position.queue, position.committed.0.checked_sub(1)).await?;
            backlog.add(&position, consumed_ms);
        }
        total.merge(&backlog);
        by_topic.insert(topic.name.name.clone(), backlog.to_wire(&call));
    }
    Ok(DescribeGroupAccumulationResponse {
        status: Some(status::ok()),
        accumulation: Some(total.to_wire(&call)),
        topic_accumulation: by_topic,
        lite_topic_accumulation: HashMap::new(),
    })
}

/// The positions of a group on the topics that are asked for; on all that it has to do with if none is.
async fn asked(call: &Call, group: &Group, topics: &[Resource]) -> Result<Vec<(Arc<Topic>, Vec<QueuePosition>)>, Refusal> {
    let mut found: Vec<(Arc<Topic>, Vec<QueuePosition>)> = Vec::new();
    if topics.is_empty() {
        for row in rows_of_all(&call.shared, group).await.map_err(refused)? {
            match found.last_mut().filter(|(topic, _)| topic.name.name == *row.topic) {
                Some((_, positions)) => positions.push(row.position),
                None => found.extend(topic_of(call, group, &row).map(|topic| (topic, vec![row.position]))),
            }
        }
        return Ok(found);
    }
    for named in topics {
        let topic = call.topic(Some(named))?;
        let positions = call.shared.broker.positions(group, &topic).await.map_err(looked_up)?;
        found.push((topic.clone(), rows(&topic, positions).into_iter().map(|row| row.position).collect()));
    }
    Ok(found)
}

/// It may have been deleted since.
fn topic_of(call: &Call, group: &Group, row: &Row) -> Option<Arc<Topic>> {
    call.shared.metadata.topic(&TopicName { namespace: group.name.namespace.clone(), name: row.topic.to_string() })
}

/// When the message at an offset was stored; `None` if it is not there, or no more.
async fn store_time(call: &Call, topic: &Topic, queue: QueueId, offset: Option<u64>) -> Result<Option<u64>, Refusal> {
    let Some(offset) = offset else { return Ok(None) };
    let found = call.shared.broker.find(topic, Query::Offset { queue, offset: Offset(offset) }, 1).await.map_err(looked_up)?;
    Ok(found.first().filter(|message| message.offset.0 == offset).map(|message| message.store_ms))
}

/// What several queues say together.
#[derive(Default)]
struct Backlog {
    ready: u64,
    in_flight: u64,
    waiting: u64,
    oldest_ms: Option<u64>,
    consumed_ms: Option<u64>,
}

impl Backlog {
    fn add(&mut self, position: &QueuePosition, consumed_ms: Option<u64>) {
        let QueuePosition { ready, in_flight, waiting, oldest_ms, .. } = *position;
        self.merge(&Backlog { ready, in_flight, waiting, oldest_ms, consumed_ms });
    }

    fn merge(&mut self, other: &Backlog) {
        self.ready += other.ready;
        self.in_flight += other.in_flight;
        self.waiting += other.waiting;
        self.oldest_ms = self.oldest_ms.into_iter().chain(other.oldest_ms).min();
        self.consumed_ms = self.consumed_ms.max(other.consumed_ms);
    }

    fn to_wire(&self, call: &Call) -> GroupAccumulation {
        let oldest = if self.ready > 0 { self.oldest_ms } else { None };
        let age_ms = oldest.map_or(0, |oldest| call.shared.clock.wall_ms().saturating_sub(oldest));
        GroupAccumulation {
            inflight_messages: self.in_flight as i64,
            ready_messages: self.ready as i64,
            accumulation: (self.ready + self.in_flight + self.waiting) as i64,
            deliver_delay_time: Some(prost_types::Duration { seconds: (age_ms / 1_000) as i64, nanos: (age_ms % 1_000) as i32 * 1_000_000 }),
            last_consume_timestamp: self.consumed_ms.unwrap_or(0) as i64,
        }
    }
}

pub async fn time_span(call: Call, request: QueryTimeSpanRequest) -> Result<QueryTimeSpanResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    let group = call.group(request.group.as_ref())?;
    let mut spans = Vec::new();
    for (topic, positions) in asked(&call, &group, &request.topics).await? {
        let bounds = call.shared.broker.queues(&topic).await.map_err(looked_up)?;
        for position in positions {
            let bounds = bounds.iter().find(|bounds| bounds.queue == position.queue).copied().unwrap_or_default();
            let holds = bounds.max > bounds.min;
            let min = store_time(&call, &topic, position.queue, holds.then_some(bounds.min.0)).await?;
            let max = store_time(&call, &topic, position.queue, holds.then(|| bounds.max.0 - 1)).await?;
            let consumed = store_time(&call, &topic, position.queue, position.committed.0.checked_sub(1)).await?;
            spans.push(span(&topic, position.queue, (min, max), consumed.or(min).filter(|_| holds)));
        }
    }
    Ok(QueryTimeSpanResponse { status: Some(status::ok()), queue_time_span_list: spans })
}

/// A group that finished nothing stands at the oldest message.
fn span(topic: &Topic, queue: QueueId, (min, max): (Option<u64>, Option<u64>), consumed: Option<u64>) -> QueueTimeSpan {
    let message_queue = MessageQueue {
        topic: resource(&topic.name.namespace, &topic.name.name),
        id: queue.0 as i32,
        accept_message_types: topic.kind.accepts().iter().map(|&kind| convert::message_type(kind) as i32).collect(),
        ..Default::default()
    };
    let behind = max.unwrap_or(0).saturating_sub(consumed.or(max).unwrap_or(0));
    QueueTimeSpan {
        message_queue: Some(message_queue),
        min_timestamp: min.unwrap_or(0) as i64,
        max_timestamp: max.unwrap_or(0) as i64,
        consume_timestamp: consumed.unwrap_or(0) as i64,
        delay_time_ms: behind as i64,
    }
}

pub async fn reset(call: Call, request: ResetGroupOffsetRequest) -> Result<ResetGroupOffsetResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    let (group, topic) = (call.group(request.group.as_ref())?, call.topic(request.topic.as_ref())?);
    let Some(time) = request.reset_timestamp.as_ref() else {
        return Err(Refusal::new(Code::BadRequest, "say to which time: `reset_timestamp` is absent"));
    };
    let target = SeekTarget::Time(convert::ms(time));
    tracing::info!(group = %group.name, topic = %topic.name, ?target, "position moved by an operator");
    let seek = SeekRequest { group, topic, queues: Vec::new(), target, dry_run: false };
    call.shared.broker.seek(seek).await.map_err(not_moved)?;
    Ok(ResetGroupOffsetResponse { status: Some(status::ok()) })
}
