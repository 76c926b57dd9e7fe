//! Subscriptions: which group reads which topic with which filter, as its members say.
//!
//! The server keeps no subscription of a group without members: each receive carries its own filter. What is left of a group that reads no
//! more is its position.

use super::{Call, refused, resource};
use crate::admin::groups::rows_of_all;
use crate::convert::timestamp;
use crate::sessions::{Facts, Session};
use crate::status::{self, Refusal};
use crate::validate;
use describe_subscription_response::ClientSubscriptionInfo;
use gantry_model::group::Sharing;
use gantry_model::{Group, GroupName, TopicName};
use gantry_proto::v2::settings::PubSub;
use gantry_proto::v2::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The protocol has no pages for subscriptions; an answer has at most so many.
const LIST_MAX: usize = 5_000;

/// What a member reads: topics, and the filter of each that it told in its settings.
pub type Subscribed = BTreeMap<TopicName, Option<FilterExpression>>;

/// What a client reads.
pub fn subscribed(facts: &Facts) -> Subscribed {
    let mut topics: Subscribed = match facts.client_type {
        ClientType::Producer => BTreeMap::new(),
        _ => facts.topics.iter().map(|topic| (topic.clone(), None)).collect(),
    };
    if let Some(PubSub::Subscription(subscription)) = facts.settings.as_ref().and_then(|settings| settings.pub_sub.as_ref()) {
        for entry in &subscription.subscriptions {
            // The settings were refused if a name in them was wrong.
            if let Ok(topic) = validate::topic(entry.topic.as_ref(), &facts.namespace) {
                topics.insert(topic, Some(plain(entry.expression.as_ref())));
            }
        }
    }
    topics
}

/// An expression as two ways to say the same are compared.
fn plain(expression: Option<&FilterExpression>) -> FilterExpression {
    let said = expression.cloned().unwrap_or_default();
    let kind = if said.r#type() == FilterType::Unspecified { FilterType::Tag as i32 } else { said.r#type };
    let text = if said.expression.trim().is_empty() { "*".to_owned() } else { said.expression };
    FilterExpression { r#type: kind, expression: text }
}

/// How the members of a group share messages, as the protocol names it.
pub fn message_model(kind: ClientType, group: Option<&Group>) -> MessageModel {
    match (kind, group.map(|group| group.options.sharing)) {
        (ClientType::LitePushConsumer | ClientType::LiteSimpleConsumer, _) => MessageModel::LiteSelective,
        (_, Some(Sharing::Broadcasting)) => MessageModel::Broadcasting,
        _ => MessageModel::Clustering,
    }
}

/// One member of a group.
struct Member {
    session: Arc<Session>,
    kind: ClientType,
    topics: Subscribed,
}

/// The connected members of groups.
fn members(call: &Call, wanted: Option<&GroupName>) -> BTreeMap<GroupName, Vec<Member>> {
    let mut groups: BTreeMap<GroupName, Vec<Member>> = BTreeMap::new();
    let mut sessions = call.shared.sessions.all();
    sessions.sort_unstable_by(|a, b| a.client.cmp(&b.client));
    for session in sessions {
        let facts = session.facts();
        for group in facts.groups.iter().filter(|group| wanted.is_none_or(|wanted| wanted == *group)) {
            let member = Member { session: session.clone(), kind: facts.client_type, topics: subscribed(&facts) };
            groups.entry(group.clone()).or_default().push(member);
        }
    }
    groups
}

/// The topic and the group of a request, which names at least one of them.
struct Wanted {
    topic: Option<TopicName>,
    group: Option<Arc<Group>>,
}

impl Wanted {
    fn read(call: &Call, topic: Option<&Resource>, group: Option<&Resource>) -> Result<Wanted, Refusal> {
        if topic.is_none() && group.is_none() {
            return Err(Refusal::new(Code::BadRequest, "name a topic, a group, or both"));
        }
        let topic = topic.map(|topic| call.topic(Some(topic))).transpose()?.map(|topic| topic.name.clone());
        Ok(Wanted { topic, group: group.map(|group| call.group(Some(group))).transpose()? })
    }

    fn members(&self, call: &Call) -> BTreeMap<GroupName, Vec<Member>> {
        members(call, self.group.as_ref().map(|group| &group.name))
    }

    fn has(&self, topic: &TopicName) -> bool {
        self.topic.as_ref().is_none_or(|wanted| wanted == topic)
    }
}

pub async fn list(call: Call, request: ListSubscriptionRequest) -> Result<ListSubscriptionResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    let wanted = Wanted::read(&call, request.topic.as_ref(), request.group.as_ref())?;
    let mut found = Vec::new();
    for (group, members) in wanted.members(&call) {
        let topics: BTreeSet<&TopicName> = members.iter().flat_map(|member| member.topics.keys()).filter(|topic| wanted.has(topic)).collect();
        found.extend(topics.into_iter().map(|topic| info(&call, &group, topic, &members)));
    }
    found.extend(left_behind(&call, &wanted, &found).await?);
    let status = Some(bounded(&mut found));
    Ok(ListSubscriptionResponse { status, subscription_info: found })
}

pub async fn describe(call: Call, request: DescribeSubscriptionRequest) -> Result<DescribeSubscriptionResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    let wanted = Wanted::read(&call, request.topic.as_ref(), request.group.as_ref())?;
    let mut found = Vec::new();
    for (group, members) in wanted.members(&call) {
        for member in &members {
            for topic in member.topics.keys().filter(|topic| wanted.has(topic)) {
                let mut subscription = info(&call, &group, topic, &members);
                subscription.expression = member.topics.get(topic).cloned().flatten();
                subscription.last_update_timestamp = Some(timestamp(seen_ms(&call, &member.session)));
                let definition = call.shared.metadata.group(&group);
                let client_info = Some(super::clients::info(&member.session.client, &member.session.facts(), definition.as_deref()));
                found.push(ClientSubscriptionInfo { client_info, subscription_info: Some(subscription) });
            }
        }
    }
    let status = Some(bounded(&mut found));
    Ok(DescribeSubscriptionResponse { status, client_subscription_info: found })
}

/// What nobody uses is not kept, so it is gone already; what somebody uses would be there again at once.
pub async fn delete(call: Call, request: DeleteSubscriptionRequest) -> Result<DeleteSubscriptionResponse, Refusal> {
    call.deployment(request.deployment_name.as_deref())?;
    let (group, topic) = (call.group(request.group.as_ref())?, call.topic(request.topic.as_ref())?);
    let expression = request.expression.as_ref();
    validate::filter(expression)?;
    let uses = |member: &&Member| match (member.topics.get(&topic.name), expression) {
        (None, _) => false,
        (Some(Some(used)), Some(asked)) => *used == plain(Some(asked)),
        (Some(_), _) => true,
    };
    let members = members(&call, Some(&group.name)).remove(&group.name).unwrap_or_default();
    match members.iter().find(uses) {
        None => Ok(DeleteSubscriptionResponse { status: Some(status::ok()) }),
        Some(member) => {
            let text = format!("client `{}` of the group uses the subscription; stop it, or have it unsubscribe", member.session.client);
            Err(Refusal::new(Code::PreconditionFailed, text))
        }
    }
}

fn info(call: &Call, group: &GroupName, topic: &TopicName, members: &[Member]) -> SubscriptionInfo {
    let users: Vec<&Member> = members.iter().filter(|member| member.topics.contains_key(topic)).collect();
    let newest = users.iter().max_by_key(|member| member.session.last_seen());
    let definition = call.shared.metadata.group(group);
    let first = members.first().map(|member| member.topics.get(topic));
    SubscriptionInfo {
        group: resource(&group.namespace, &group.name),
        topic: resource(&topic.namespace, &topic.name),
        expression: newest.and_then(|member| member.topics.get(topic).cloned().flatten()),
        online: !users.is_empty(),
        last_update_timestamp: newest.map(|member| timestamp(seen_ms(call, &member.session))),
        message_model: message_model(newest.map(|member| member.kind).unwrap_or_default(), definition.as_deref()) as i32,
        subscription_consistency: members.iter().all(|member| Some(member.topics.get(topic)) == first),
    }
}

/// Topics on which the group has a position and that no member reads.
async fn left_behind(call: &Call, wanted: &Wanted, online: &[SubscriptionInfo]) -> Result<Vec<SubscriptionInfo>, Refusal> {
    let Some(group) = &wanted.group else { return Ok(Vec::new()) };
    let rows = rows_of_all(&call.shared, group).await.map_err(refused)?;
    let topics: BTreeSet<TopicName> =
        rows.iter().map(|row| TopicName { namespace: group.name.namespace.clone(), name: row.topic.to_string() }).collect();
    let is_online = |topic: &TopicName| online.iter().any(|info| info.topic == resource(&topic.namespace, &topic.name));
    let left = topics.into_iter().filter(|topic| wanted.has(topic) && !is_online(topic));
    Ok(left.map(|topic| info(call, &group.name, &topic, &[])).collect())
}

/// When a client last called, by the wall clock.
fn seen_ms(call: &Call, session: &Session) -> u64 {
    let ago = call.shared.clock.mono().saturating_sub(session.last_seen());
    call.shared.clock.wall_ms().saturating_sub(ago.as_millis() as u64)
}

/// Cuts a list, and says so.
fn bounded<T>(found: &mut Vec<T>) -> Status {
    let all = found.len();
    found.truncate(LIST_MAX);
    let mut status = status::ok();
    if all > LIST_MAX {
        status.message = format!("the first {LIST_MAX} of {all}; name a group to see fewer");
    }
    status
}
