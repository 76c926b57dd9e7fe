//! Consumer groups: create, change, delete, show, list, and how far they are behind.

use super::{CHUNK, Page, bad_name, group, lookup_error, metadata_error, name_key, read_name_key, settings, shown, shows, topic};
use crate::convert::timestamp;
use crate::shared::Shared;
use crate::validate::duration_ms;
use gantry_model::contract::broker::QueuePosition;
use gantry_model::group::{GroupChange, GroupSpec, Order, StartPosition};
use gantry_model::limits::INVISIBLE_MAX_MS;
use gantry_model::{Group, GroupName, RetryPolicy, Topic, TopicName};
use gantry_proto::admin::{self, retry_policy::Policy, *};
use gantry_proto::v2::{CustomizedBackoff, ExponentialBackoff};
use prost_types::Duration;
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic::Status;

/// Most delays of a customized policy.
const DELAYS_MAX: usize = 64;

pub async fn create(shared: &Shared, request: CreateGroupRequest) -> Result<CreateGroupResponse, Status> {
    let wanted = request.group.ok_or_else(|| Status::invalid_argument("the request names no group"))?;
    let mut spec = GroupSpec::new(GroupName::parse(&wanted.namespace, &wanted.name).map_err(bad_name)?);
    if wanted.order != 0 {
        spec.order = order(wanted.order)?;
    }
    if wanted.max_attempts > 0 {
        spec.max_attempts = wanted.max_attempts;
    }
    if let Some(policy) = &wanted.retry_policy {
        spec.retry = retry(policy)?;
    }
    if wanted.start_position != 0 {
        spec.start = start(wanted.start_position)?;
    }
    if let Some(cap) = wanted.auto_renew_cap.as_ref().filter(|cap| **cap != Duration::default()) {
        spec.auto_renew_cap_ms = renew_cap(cap)?;
    }
    spec.options = settings(&spec.options, &wanted.settings, &[])?;
    let made = shared.metadata.create_group(spec).await.map_err(metadata_error)?;
    tracing::info!(group = %made.name, "group created");
    Ok(CreateGroupResponse { group: Some(to_wire(&made)) })
}

pub async fn update(shared: &Shared, request: UpdateGroupRequest) -> Result<UpdateGroupResponse, Status> {
    let present = group(shared, &request.namespace, &request.name)?;
    if request.max_attempts == Some(0) {
        return Err(Status::invalid_argument("a message is delivered at least once: `max_attempts` is at least 1"));
    }
    let options = settings(&present.options, &request.settings, &request.settings_to_reset)?;
    let change = GroupChange {
        order: request.order.map(order).transpose()?,
        max_attempts: request.max_attempts,
        retry: request.retry_policy.as_ref().map(retry).transpose()?,
        auto_renew_cap_ms: request.auto_renew_cap.as_ref().map(renew_cap).transpose()?,
        options: (options != present.options).then_some(options),
    };
    let changed = shared.metadata.update_group(&present.name, change.clone()).await.map_err(metadata_error)?;
    tracing::info!(group = %changed.name, ?change, "group changed");
    Ok(UpdateGroupResponse { group: Some(to_wire(&changed)) })
}

pub async fn delete(shared: &Shared, request: DeleteGroupRequest) -> Result<DeleteGroupResponse, Status> {
    let name = GroupName::parse(&request.namespace, &request.name).map_err(bad_name)?;
    shared.metadata.delete_group(&name).await.map_err(metadata_error)?;
    tracing::info!(group = %name, "group deleted");
    Ok(DeleteGroupResponse {})
}

pub fn get(shared: &Shared, request: GetGroupRequest) -> Result<GetGroupResponse, Status> {
    Ok(GetGroupResponse { group: Some(to_wire(&*group(shared, &request.namespace, &request.name)?)) })
}

pub fn list(shared: &Shared, request: ListGroupsRequest) -> Result<ListGroupsResponse, Status> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let mut after = match &page.after {
        Some(key) => read_name_key(key).map(|(namespace, name)| Some(GroupName { namespace, name }))?,
        None => None,
    };
    let mut groups = Vec::new();
    while groups.len() <= page.size {
        let chunk = shared.metadata.groups(after.as_ref(), CHUNK);
        let Some(last) = chunk.last() else { break };
        after = Some(last.name.clone());
        let wanted = |group: &&Arc<Group>| shows(request.namespace.as_deref(), &request.name_prefix, (&group.name.namespace, &group.name.name));
        groups.extend(chunk.iter().filter(wanted).map(|group| to_wire(group)));
    }
    let next_page_token = page.cut(&mut groups, |group| name_key(&group.namespace, &group.name));
    Ok(ListGroupsResponse { groups, next_page_token })
}

pub async fn lag(shared: &Shared, request: GetGroupLagRequest) -> Result<GetGroupLagResponse, Status> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let group = group(shared, &request.namespace, &request.group)?;
    let rows = if request.topic.is_empty() {
        rows_of_all(shared, &group).await?
    } else {
        let topic = topic(shared, &request.namespace, &request.topic)?;
        rows(&topic, shared.broker.positions(&group, &topic).await.map_err(lookup_error)?)
    };
    let mut total = Sum::default();
    rows.iter().for_each(|row| total.add(&row.position));
    let first = match &page.after {
        Some(key) => rows.iter().position(|row| row.key() > *key).unwrap_or(rows.len()),
        None => 0,
    };
    let mut shown = rows[first..].to_vec();
    let next_page_token = page.cut(&mut shown, Row::key);
    Ok(GetGroupLagResponse { total: Some(total.to_wire()), queues: shown.iter().map(Row::to_wire).collect(), next_page_token })
}

/// Every topic that the group has to do with: one on which it has a position, or that a member subscribes.
pub async fn rows_of_all(shared: &Shared, group: &Group) -> Result<Vec<Row>, Status> {
    let mut topics: BTreeSet<TopicName> = BTreeSet::new();
    for session in shared.sessions.all() {
        let facts = session.facts();
        if facts.groups.contains(&group.name) {
            topics.extend(facts.topics.iter().cloned());
        }
    }
    let been = shared.broker.topics_of(group).await.map_err(lookup_error)?;
    topics.extend(been.into_iter().filter_map(|id| shared.metadata.topic_by_id(id)).map(|topic| topic.name.clone()));
    let mut found = Vec::new();
    // Rows show the names without their namespace.
    let topics = topics.iter().filter(|name| name.namespace == group.name.namespace);
    for topic in topics.filter_map(|name| shared.metadata.topic(name)) {
        found.extend(rows(&topic, shared.broker.positions(group, &topic).await.map_err(lookup_error)?));
    }
    Ok(found)
}

/// Where a group stands on one queue of a topic.
#[derive(Clone)]
pub struct Row {
    pub topic: Arc<str>,
    pub position: QueuePosition,
}

/// The positions of a group on one topic, by queue number.
pub fn rows(topic: &Topic, mut positions: Vec<QueuePosition>) -> Vec<Row> {
    positions.sort_unstable_by_key(|position| position.queue);
    let name: Arc<str> = Arc::from(topic.name.name.as_str());
    positions.into_iter().map(|position| Row { topic: name.clone(), position }).collect()
}

impl Row {
    /// Sorts like the rows: by topic, then by number.
    fn key(&self) -> String {
        format!("{}/{:010}", self.topic, self.position.queue.0)
    }

    fn to_wire(&self) -> QueueLag {
        let mut sum = Sum::default();
        sum.add(&self.position);
        QueueLag {
            topic: self.topic.to_string(),
            queue: self.position.queue.0,
            backlog: Some(sum.to_wire()),
            committed_offset: self.position.committed.0,
            end_offset: self.position.end.0,
        }
    }
}

#[derive(Default)]
struct Sum {
    ready: u64,
    in_flight: u64,
    waiting: u64,
    oldest_ms: Option<u64>,
}

impl Sum {
    fn add(&mut self, position: &QueuePosition) {
        self.ready += position.ready;
        self.in_flight += position.in_flight;
        self.waiting += position.waiting;
        self.oldest_ms = self.oldest_ms.into_iter().chain(position.oldest_ms).min();
    }

    fn to_wire(&self) -> Backlog {
        Backlog {
            ready: self.ready,
            in_flight: self.in_flight,
            waiting: self.waiting,
            lag: self.ready + self.in_flight + self.waiting,
            oldest_unacked_time: self.oldest_ms.map(timestamp),
        }
    }
}

fn order(number: i32) -> Result<Order, Status> {
    match admin::Order::try_from(number) {
        Ok(admin::Order::FollowTopic) => Ok(Order::FollowTopic),
        Ok(admin::Order::Fifo) => Ok(Order::Fifo),
        Ok(admin::Order::None) => Ok(Order::None),
        Ok(admin::Order::Unspecified) | Err(_) => Err(Status::invalid_argument(format!("order {number} is unknown"))),
    }
}

fn start(number: i32) -> Result<StartPosition, Status> {
    match admin::StartPosition::try_from(number) {
        Ok(admin::StartPosition::FirstAfterCreation) => Ok(StartPosition::Created),
        Ok(admin::StartPosition::Earliest) => Ok(StartPosition::Earliest),
        Ok(admin::StartPosition::Latest) => Ok(StartPosition::Latest),
        Ok(admin::StartPosition::Unspecified) | Err(_) => Err(Status::invalid_argument(format!("start position {number} is unknown"))),
    }
}

fn retry(policy: &admin::RetryPolicy) -> Result<RetryPolicy, Status> {
    match &policy.policy {
        Some(Policy::Exponential(backoff)) => {
            let (initial_ms, max_ms) = (delay(backoff.initial.as_ref())?, delay(backoff.max.as_ref())?);
            if initial_ms > max_ms || !(1.0..=1e6).contains(&backoff.multiplier) {
                return Err(Status::invalid_argument("a retry policy needs a multiplier of at least 1 and an initial delay up to its maximum"));
            }
            Ok(RetryPolicy::Exponential { initial_ms, max_ms, multiplier: backoff.multiplier })
        }
        Some(Policy::Customized(backoff)) if (1..=DELAYS_MAX).contains(&backoff.next.len()) => {
            let delays_ms = backoff.next.iter().map(|next| delay(Some(next))).collect::<Result<_, _>>()?;
            Ok(RetryPolicy::Customized { delays_ms })
        }
        Some(Policy::Customized(backoff)) => {
            Err(Status::invalid_argument(format!("a retry policy has 1 to {DELAYS_MAX} delays, this one has {}", backoff.next.len())))
        }
        None => Err(Status::invalid_argument("the retry policy says neither exponential nor customized")),
    }
}

fn delay(duration: Option<&Duration>) -> Result<u64, Status> {
    let ms = duration.and_then(duration_ms).filter(|ms| *ms <= INVISIBLE_MAX_MS);
    ms.ok_or_else(|| Status::invalid_argument("a retry delay is missing, negative or longer than 12 h"))
}

fn renew_cap(cap: &Duration) -> Result<u64, Status> {
    let ms = duration_ms(cap).filter(|ms| (1..=INVISIBLE_MAX_MS).contains(ms));
    ms.ok_or_else(|| Status::invalid_argument("the cap of automatic renewal is more than 0 and at most 12 h"))
}

fn to_wire(group: &Group) -> admin::Group {
    let order = match group.order {
        Order::FollowTopic => admin::Order::FollowTopic,
        Order::Fifo => admin::Order::Fifo,
        Order::None => admin::Order::None,
    };
    let start = match group.start {
        StartPosition::Created => admin::StartPosition::FirstAfterCreation,
        StartPosition::Earliest => admin::StartPosition::Earliest,
        StartPosition::Latest => admin::StartPosition::Latest,
    };
    let policy = match &group.retry {
        RetryPolicy::Exponential { initial_ms, max_ms, multiplier } => {
            Policy::Exponential(ExponentialBackoff { initial: Some(duration(*initial_ms)), max: Some(duration(*max_ms)), multiplier: *multiplier })
        }
        RetryPolicy::Customized { delays_ms } => Policy::Customized(CustomizedBackoff { next: delays_ms.iter().map(|&ms| duration(ms)).collect() }),
    };
    admin::Group {
        name: group.name.name.clone(),
        namespace: group.name.namespace.clone(),
        id: u64::from(group.id.0),
        order: order as i32,
        max_attempts: group.max_attempts,
        retry_policy: Some(admin::RetryPolicy { policy: Some(policy) }),
        start_position: start as i32,
        auto_renew_cap: Some(duration(group.auto_renew_cap_ms)),
        created_time: Some(timestamp(group.created_ms)),
        settings: shown(&group.options),
    }
}

fn duration(ms: u64) -> Duration {
    Duration { seconds: (ms / 1_000) as i64, nanos: (ms % 1_000) as i32 * 1_000_000 }
}
