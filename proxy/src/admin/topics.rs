//! Topics: create, change, delete, show, list, and what their queues hold.

use super::{CHUNK, Page, bad_name, lookup_error, metadata_error, name_key, read_name_key, settings, shown, shows, topic};
use crate::convert::{message_type, timestamp};
use crate::shared::Shared;
use gantry_model::topic::{Permission, QueueState, Retention, TopicChange, TopicOptions, TopicSpec, TopicType};
use gantry_model::{Topic, TopicName, contract::broker::QueueBounds};
use gantry_proto::admin::{self, *};
use gantry_proto::v2::{self, MessageType};
use std::collections::HashMap;
use tonic::Status;

pub async fn create(shared: &Shared, request: CreateTopicRequest) -> Result<CreateTopicResponse, Status> {
    let wanted = request.topic.ok_or_else(|| Status::invalid_argument("the request names no topic"))?;
    let name = ordinary_name(&wanted.namespace, &wanted.name)?;
    let kind = if wanted.message_types.is_empty() { TopicType::Mixed } else { kind(&wanted.message_types)? };
    let mut options = settings(&TopicOptions::default(), &wanted.settings, &[])?;
    options.dedup = request.dedup.unwrap_or(options.dedup);
    let spec = TopicSpec {
        name,
        kind,
        queues: if wanted.queue_count == 0 { kind.queues_default() } else { wanted.queue_count },
        permission: if wanted.permission == 0 { Permission::ReadWrite } else { permission(wanted.permission)? },
        retention: Retention { age_ms: some(wanted.retention_ms), bytes: some(wanted.retention_bytes) },
        options,
    };
    let made = shared.metadata.create_topic(spec).await.map_err(metadata_error)?;
    tracing::info!(topic = %made.name, kind = ?made.kind, queues = made.queues.len(), "topic created");
    Ok(CreateTopicResponse { topic: Some(to_wire(&made)) })
}

pub async fn update(shared: &Shared, request: UpdateTopicRequest) -> Result<UpdateTopicResponse, Status> {
    let present = topic(shared, &request.namespace, &request.name)?;
    ordinary_name(&request.namespace, &request.name)?;
    let mut options = settings(&present.options, &request.settings, &request.settings_to_reset)?;
    options.dedup = request.dedup.unwrap_or(options.dedup);
    if request.queue_count == Some(0) {
        return Err(Status::invalid_argument("a topic has at least 1 queue"));
    }
    let retention = Retention {
        age_ms: request.retention_ms.map_or(present.retention.age_ms, some),
        bytes: request.retention_bytes.map_or(present.retention.bytes, some),
    };
    let change = TopicChange {
        kind: if request.message_types.is_empty() { None } else { Some(kind(&request.message_types)?) },
        queues: request.queue_count,
        permission: request.permission.map(permission).transpose()?,
        retention: (retention != present.retention).then_some(retention),
        options: (options != present.options).then_some(options),
    };
    let changed = shared.metadata.update_topic(&present.name, change.clone()).await.map_err(metadata_error)?;
    tracing::info!(topic = %changed.name, ?change, "topic changed");
    Ok(UpdateTopicResponse { topic: Some(to_wire(&changed)) })
}

pub async fn delete(shared: &Shared, request: DeleteTopicRequest) -> Result<DeleteTopicResponse, Status> {
    let name = ordinary_name(&request.namespace, &request.name)?;
    shared.metadata.delete_topic(&name).await.map_err(metadata_error)?;
    tracing::info!(topic = %name, "topic deleted");
    Ok(DeleteTopicResponse {})
}

pub fn get(shared: &Shared, request: GetTopicRequest) -> Result<GetTopicResponse, Status> {
    Ok(GetTopicResponse { topic: Some(to_wire(&*topic(shared, &request.namespace, &request.name)?)) })
}

pub fn list(shared: &Shared, request: ListTopicsRequest) -> Result<ListTopicsResponse, Status> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let mut after = match &page.after {
        Some(key) => read_name_key(key).map(|(namespace, name)| Some(TopicName { namespace, name }))?,
        None => None,
    };
    let mut topics = Vec::new();
    while topics.len() <= page.size {
        let chunk = shared.metadata.topics(after.as_ref(), CHUNK);
        let Some(last) = chunk.last() else { break };
        after = Some(last.name.clone());
        let wanted = |topic: &&std::sync::Arc<Topic>| {
            let name = &topic.name;
            shows(request.namespace.as_deref(), &request.name_prefix, (&name.namespace, &name.name))
                && (request.include_dead_letter || !name.is_system())
        };
        topics.extend(chunk.iter().filter(wanted).map(|topic| to_wire(topic)));
    }
    let next_page_token = page.cut(&mut topics, |topic| name_key(&topic.namespace, &topic.name));
    Ok(ListTopicsResponse { topics, next_page_token })
}

pub async fn stats(shared: &Shared, request: GetTopicStatsRequest) -> Result<GetTopicStatsResponse, Status> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let first = match &page.after {
        Some(key) => key.parse::<u32>().map_err(|_| super::foreign_token())?.saturating_add(1),
        None => 0,
    };
    let topic = topic(shared, &request.namespace, &request.topic)?;
    let bounds = shared.broker.queues(&topic).await.map_err(lookup_error)?;
    let bounds: HashMap<u32, QueueBounds> = bounds.into_iter().map(|bounds| (bounds.queue.0, bounds)).collect();
    let mut queues: Vec<QueueStats> = topic
        .queues()
        .filter(|(id, _)| id.0 >= first)
        .map(|(id, queue)| {
            let bounds = bounds.get(&id.0).copied().unwrap_or_default();
            let writable = queue.state == QueueState::Active;
            QueueStats { queue: id.0, shard: queue.shard.0, min_offset: bounds.min.0, max_offset: bounds.max.0, stored_bytes: bounds.bytes, writable }
        })
        .collect();
    let next_page_token = page.cut(&mut queues, |queue| queue.queue.to_string());
    Ok(GetTopicStatsResponse { queues, next_page_token })
}

fn ordinary_name(namespace: &str, name: &str) -> Result<TopicName, Status> {
    let name = TopicName::parse(namespace, name).map_err(bad_name)?;
    if name.is_system() {
        return Err(Status::invalid_argument(format!("topic `{name}` belongs to the server: names that begin with `%` can only be read")));
    }
    Ok(name)
}

/// Zero stands for the server's default.
fn some(number: u64) -> Option<u64> {
    (number > 0).then_some(number)
}

fn kind(types: &[i32]) -> Result<TopicType, Status> {
    let mut types: Vec<MessageType> = types
        .iter()
        .map(|&number| MessageType::try_from(number).map_err(|_| Status::invalid_argument(format!("message type {number} is unknown"))))
        .collect::<Result<_, _>>()?;
    types.sort_unstable_by_key(|kind| *kind as i32);
    types.dedup();
    match types.as_slice() {
        [MessageType::Normal] => Ok(TopicType::Normal),
        [MessageType::Fifo] => Ok(TopicType::Fifo),
        [MessageType::Delay] => Ok(TopicType::Delay),
        [MessageType::Transaction] => Ok(TopicType::Transaction),
        [MessageType::Lite] => Ok(TopicType::Lite),
        [MessageType::Priority] => Ok(TopicType::Priority),
        [MessageType::Normal, MessageType::Fifo, MessageType::Delay, MessageType::Transaction] => Ok(TopicType::Mixed),
        _ => Err(Status::invalid_argument("a topic has one message type, or NORMAL, FIFO, DELAY and TRANSACTION together")),
    }
}

fn permission(number: i32) -> Result<Permission, Status> {
    match v2::Permission::try_from(number) {
        Ok(v2::Permission::None) => Ok(Permission::None),
        Ok(v2::Permission::Read) => Ok(Permission::Read),
        Ok(v2::Permission::Write) => Ok(Permission::Write),
        Ok(v2::Permission::ReadWrite) => Ok(Permission::ReadWrite),
        Ok(v2::Permission::Unspecified) | Err(_) => Err(Status::invalid_argument(format!("permission {number} is unknown"))),
    }
}

fn to_wire(topic: &Topic) -> admin::Topic {
    let permission = match topic.permission {
        Permission::None => v2::Permission::None,
        Permission::Read => v2::Permission::Read,
        Permission::Write => v2::Permission::Write,
        Permission::ReadWrite => v2::Permission::ReadWrite,
    };
    admin::Topic {
        name: topic.name.name.clone(),
        namespace: topic.name.namespace.clone(),
        id: u64::from(topic.id.0),
        message_types: topic.kind.accepts().iter().map(|&kind| message_type(kind) as i32).collect(),
        queue_count: topic.queues.iter().filter(|queue| queue.state == QueueState::Active).count() as u32,
        permission: permission as i32,
        retention_ms: topic.retention.age_ms.unwrap_or(0),
        retention_bytes: topic.retention.bytes.unwrap_or(0),
        dedup: topic.options.dedup,
        created_time: Some(timestamp(topic.created_ms)),
        settings: shown(&topic.options),
        state: TopicState::Active as i32,
    }
}
