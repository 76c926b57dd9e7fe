//! A cluster in memory, for one test: topics, groups and messages as both services show them. It keeps no leases and checks little.

use crate::bench::floor::{acked, not_served, ok, stand_in};
use gantry_proto::admin::admin_server::{Admin, AdminServer};
use gantry_proto::admin::dead_letter_selector::Selector as Meant;
use gantry_proto::admin::lookup_messages_request::Selector;
use gantry_proto::admin::{self, Group, Topic};
use gantry_proto::v2::messaging_service_server::{MessagingService, MessagingServiceServer};
use gantry_proto::v2::receive_message_response::Content;
use gantry_proto::v2::{self, Code};
use prost_types::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// 2026-08-01 12:00:00 UTC: the time at which everything happens here.
pub const NOON: i64 = 1_785_585_600;
/// Every topic has so many queues with messages, whatever it says.
const QUEUES: usize = 2;

/// Every group has so many dead letters.
const LETTERS: usize = 3;

/// What a move does to each queue.
fn moved(queues: &[u32]) -> Vec<admin::MovedOffset> {
    let both = [
        admin::MovedOffset { queue: 0, from_offset: 100, to_offset: 40, dropped: 3 },
        admin::MovedOffset { queue: 1, from_offset: 90, to_offset: 95, dropped: 0 },
    ];
    both.into_iter().filter(|moved| queues.is_empty() || queues.contains(&moved.queue)).collect()
}

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// Every hundredth message is confirmed and forgotten.
    Lose,
    /// Every hundredth message is delivered twice.
    Double,
}

/// The state that both services share.
#[derive(Debug, Default)]
pub struct Cluster {
    pub topics: BTreeMap<String, Topic>,
    pub groups: BTreeMap<String, Group>,
    /// In the order of arrival.
    pub messages: Vec<v2::Message>,
    /// Index of the next message to deliver, by group.
    pub delivered: BTreeMap<String, usize>,
    pub acked: Vec<String>,
    pub receives: Vec<v2::ReceiveMessageRequest>,
    pub goodbyes: u32,
    pub lookups: Vec<admin::LookupMessagesRequest>,
    pub resets: Vec<admin::ResetGroupOffsetsRequest>,
    pub redrives: Vec<admin::RedriveDeadLettersRequest>,
    pub selectors: Vec<Option<admin::DeadLetterSelector>>,
    pub client_ids: Vec<String>,
    pub fault: Fault,
    /// Transactions by id, with their resolution.
    pub ended: BTreeMap<String, i32>,
    /// Who had a shard recovered.
    pub recovered: Vec<String>,
}

/// A running fake.
pub struct Fake {
    pub messaging: String,
    pub admin: String,
    state: Service,
    /// Ends with the test.
    _task: JoinSet<()>,
}

#[derive(Clone, Debug, Default)]
struct Service(Arc<Mutex<Cluster>>);

impl Fake {
    /// Starts both services on one free port.
    pub async fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Service::default();
        let server = tonic::transport::Server::builder()
            .add_service(MessagingServiceServer::new(state.clone()).max_decoding_message_size(16 << 20))
            .add_service(AdminServer::new(state.clone()));
        let mut task = JoinSet::new();
        task.spawn(async move { server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap() });
        Fake { messaging: format!("http://{address}"), admin: address, state, _task: task }
    }

    pub fn state(&self) -> MutexGuard<'_, Cluster> {
        self.state.0.lock().unwrap()
    }
}

impl Service {
    fn state(&self) -> MutexGuard<'_, Cluster> {
        self.0.lock().unwrap()
    }
}

fn status(code: Code, message: &str) -> Option<v2::Status> {
    Some(v2::Status { code: code as i32, message: message.to_owned() })
}

/// Times that differ by a second and never by the machine.
fn at(second: usize) -> Option<Timestamp> {
    Some(Timestamp { seconds: NOON + second as i64, nanos: 0 })
}

impl Cluster {
    fn store(&mut self, mut message: v2::Message) -> v2::SendResultEntry {
        let number = self.messages.len();
        let system = message.system_properties.get_or_insert_default();
        system.queue_id = (number % QUEUES) as i32;
        system.queue_offset = Some((number / QUEUES) as i64);
        system.store_timestamp = at(number);
        system.born_timestamp = at(number);
        system.delivery_attempt = Some(1);
        system.receipt_handle = Some(format!("handle-{number}"));
        let entry =
            v2::SendResultEntry { status: ok(), message_id: system.message_id.clone(), offset: (number / QUEUES) as i64, ..Default::default() };
        self.messages.push(message);
        entry
    }

    /// Messages that a group gets next.
    fn deliver(&mut self, ask: &v2::ReceiveMessageRequest) -> Vec<v2::Message> {
        let group = ask.group.clone().unwrap_or_default().name;
        let from = *self.delivered.get(&group).unwrap_or(&0);
        let to = self.messages.len().min(from + ask.batch_size as usize);
        self.delivered.insert(group, to);
        let faulty = |number: usize| number % 100 == 99;
        (from..to)
            .filter(|number| self.fault != Fault::Lose || !faulty(*number))
            .flat_map(|number| {
                let times = if self.fault == Fault::Double && faulty(number) { 2 } else { 1 };
                std::iter::repeat_n(self.messages[number].clone(), times)
            })
            .collect()
    }

    fn stored(&self, number: usize) -> admin::StoredMessage {
        let message = self.messages[number].clone();
        let system = message.system_properties.unwrap_or_default();
        admin::StoredMessage {
            message_id: system.message_id,
            topic: message.topic.unwrap_or_default().name,
            queue: system.queue_id as u32,
            offset: system.queue_offset.unwrap_or_default() as u64,
            tag: system.tag,
            keys: system.keys,
            properties: message.user_properties,
            body: message.body,
            store_time: system.store_timestamp,
            message_type: system.message_type,
            ..Default::default()
        }
    }

    /// The dead letters that are meant, of the three that every group has.
    fn letters(&self, selector: Option<admin::DeadLetterSelector>) -> Vec<admin::DeadLetter> {
        let letter = |number: usize| {
            let message = admin::StoredMessage {
                message_id: format!("dead-{number}"),
                topic: "%DLQ%billing".to_owned(),
                offset: number as u64,
                body: format!("body {number}").into(),
                body_size: 6,
                store_time: at(number),
                ..Default::default()
            };
            admin::DeadLetter {
                message: Some(message),
                origin_topic: "orders".to_owned(),
                origin_queue: 1,
                origin_offset: 40 + number as u64,
                attempts: 16,
                reason: admin::DeadLetterReason::MaxAttempts as i32,
            }
        };
        let all = (0..LETTERS).map(letter);
        match selector.and_then(|selector| selector.selector) {
            Some(Meant::Places(places)) => all.filter(|letter| places.places.iter().any(|place| place.offset == letter.origin_offset - 40)).collect(),
            Some(Meant::MessageIds(ids)) => all.filter(|letter| ids.message_ids.contains(&letter.message.as_ref().unwrap().message_id)).collect(),
            Some(Meant::All(_) | Meant::Died(_)) | None => all.collect(),
        }
    }

    fn topic(&self, name: &str) -> Result<&Topic, Status> {
        self.topics.get(name).ok_or_else(|| Status::not_found(format!("there is no topic `{name}`")))
    }

    fn group(&self, name: &str) -> Result<&Group, Status> {
        self.groups.get(name).ok_or_else(|| Status::not_found(format!("there is no group `{name}`")))
    }
}

fn transaction_id(number: usize) -> String {
    format!("v1.1.transaction-{number}")
}

fn transaction(number: usize) -> admin::Transaction {
    let message = admin::StoredMessage { message_id: format!("message-{number}"), store_time: at(number), body_size: 100, ..Default::default() };
    let (checks, state) = if number == 1 { (15, admin::TransactionState::GivenUp) } else { (2, admin::TransactionState::Open) };
    admin::Transaction {
        transaction_id: transaction_id(number),
        message: Some(message),
        sender: "shop@1@2".into(),
        checks,
        state: state as i32,
        next_time: at(600 * number),
    }
}

type Parts = Vec<Result<v2::ReceiveMessageResponse, Status>>;

stand_in!(Service {
    async fn query_route(&self, request: Request<v2::QueryRouteRequest>) -> Result<Response<v2::QueryRouteResponse>, Status> {
        let name = request.into_inner().topic.unwrap_or_default().name;
        let missing = || status(Code::TopicNotFound, &format!("topic `{name}` does not exist"));
        let status = if self.state().topics.contains_key(&name) { ok() } else { missing() };
        Ok(Response::new(v2::QueryRouteResponse { status, message_queues: Vec::new() }))
    }

    async fn send_message(&self, request: Request<v2::SendMessageRequest>) -> Result<Response<v2::SendMessageResponse>, Status> {
        let mut state = self.state();
        state.client_ids.extend(request.metadata().get("x-mq-client-id").map(|id| id.to_str().unwrap().to_owned()));
        let messages = request.into_inner().messages;
        let topic = messages[0].topic.clone().unwrap_or_default().name;
        if !state.topics.contains_key(&topic) {
            let missing = status(Code::TopicNotFound, &format!("topic `{topic}` does not exist"));
            return Ok(Response::new(v2::SendMessageResponse { status: missing, entries: Vec::new() }));
        }
        let entries = messages.into_iter().map(|message| state.store(message)).collect();
        Ok(Response::new(v2::SendMessageResponse { status: ok(), entries }))
    }

    type ReceiveMessageStream = tokio_stream::Iter<std::vec::IntoIter<Result<v2::ReceiveMessageResponse, Status>>>;

    async fn receive_message(&self, request: Request<v2::ReceiveMessageRequest>) -> Result<Response<Self::ReceiveMessageStream>, Status> {
        let ask = request.into_inner();
        self.state().receives.push(ask.clone());
        let poll = ask.long_polling_timeout.map_or(Duration::ZERO, |time| Duration::try_from(time).unwrap());
        // Polling the state is good enough here: the real thing is woken.
        for _ in 0..=poll.as_millis() / 5 {
            let messages = self.state().deliver(&ask);
            if !messages.is_empty() {
                let part = |content| Ok(v2::ReceiveMessageResponse { content: Some(content) });
                let mut parts: Parts = vec![part(Content::Status(ok().unwrap()))];
                parts.extend(messages.into_iter().map(|message| part(Content::Message(message))));
                return Ok(Response::new(tokio_stream::iter(parts)));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let empty = Content::Status(status(Code::MessageNotFound, "no new message").unwrap());
        Ok(Response::new(tokio_stream::iter(vec![Ok(v2::ReceiveMessageResponse { content: Some(empty) })])))
    }

    async fn ack_message(&self, request: Request<v2::AckMessageRequest>) -> Result<Response<v2::AckMessageResponse>, Status> {
        let entries = request.into_inner().entries;
        self.state().acked.extend(entries.iter().map(|entry| entry.receipt_handle.clone()));
        Ok(Response::new(v2::AckMessageResponse { status: ok(), entries: entries.into_iter().map(acked).collect() }))
    }

    async fn notify_client_termination(
        &self,
        _: Request<v2::NotifyClientTerminationRequest>,
    ) -> Result<Response<v2::NotifyClientTerminationResponse>, Status> {
        self.state().goodbyes += 1;
        Ok(Response::new(v2::NotifyClientTerminationResponse { status: ok() }))
    }
});

#[tonic::async_trait]
impl Admin for Service {
    async fn create_topic(&self, request: Request<admin::CreateTopicRequest>) -> Result<Response<admin::CreateTopicResponse>, Status> {
        let ask = request.into_inner();
        let mut state = self.state();
        let mut topic = ask.topic.unwrap_or_default();
        if state.topics.contains_key(&topic.name) {
            return Err(Status::already_exists(format!("topic `{}` exists", topic.name)));
        }
        topic.id = state.topics.len() as u64 + 1;
        topic.dedup = ask.dedup.unwrap_or(true);
        topic.created_time = at(0);
        topic.state = admin::TopicState::Active as i32;
        state.topics.insert(topic.name.clone(), topic.clone());
        Ok(Response::new(admin::CreateTopicResponse { topic: Some(topic) }))
    }

    async fn update_topic(&self, request: Request<admin::UpdateTopicRequest>) -> Result<Response<admin::UpdateTopicResponse>, Status> {
        let ask = request.into_inner();
        let mut state = self.state();
        state.topic(&ask.name)?;
        let topic = state.topics.get_mut(&ask.name).unwrap();
        topic.queue_count = ask.queue_count.unwrap_or(topic.queue_count);
        topic.permission = ask.permission.unwrap_or(topic.permission);
        topic.retention_ms = ask.retention_ms.unwrap_or(topic.retention_ms);
        topic.dedup = ask.dedup.unwrap_or(topic.dedup);
        topic.settings.extend(ask.settings);
        topic.settings.retain(|name, _| !ask.settings_to_reset.contains(name));
        Ok(Response::new(admin::UpdateTopicResponse { topic: Some(topic.clone()) }))
    }

    async fn delete_topic(&self, request: Request<admin::DeleteTopicRequest>) -> Result<Response<admin::DeleteTopicResponse>, Status> {
        let name = request.into_inner().name;
        let mut state = self.state();
        state.topic(&name)?;
        state.topics.remove(&name);
        Ok(Response::new(admin::DeleteTopicResponse {}))
    }

    async fn get_topic(&self, request: Request<admin::GetTopicRequest>) -> Result<Response<admin::GetTopicResponse>, Status> {
        let topic = self.state().topic(&request.into_inner().name)?.clone();
        Ok(Response::new(admin::GetTopicResponse { topic: Some(topic) }))
    }

    /// One topic a page, so that paging is always tested.
    async fn list_topics(&self, request: Request<admin::ListTopicsRequest>) -> Result<Response<admin::ListTopicsResponse>, Status> {
        let ask = request.into_inner();
        let state = self.state();
        let wanted =
            |topic: &&Topic| topic.name.starts_with(&ask.name_prefix) && ask.namespace.as_ref().is_none_or(|space| *space == topic.namespace);
        let mut rest = state.topics.values().filter(wanted).filter(|topic| topic.name > ask.page_token).cloned();
        let topics: Vec<Topic> = rest.next().into_iter().collect();
        let next_page_token = rest.next().map(|_| topics[0].name.clone()).unwrap_or_default();
        Ok(Response::new(admin::ListTopicsResponse { topics, next_page_token }))
    }

    async fn create_group(&self, request: Request<admin::CreateGroupRequest>) -> Result<Response<admin::CreateGroupResponse>, Status> {
        let mut group = request.into_inner().group.unwrap_or_default();
        let mut state = self.state();
        group.id = state.groups.len() as u64 + 1;
        group.created_time = at(0);
        state.groups.insert(group.name.clone(), group.clone());
        Ok(Response::new(admin::CreateGroupResponse { group: Some(group) }))
    }

    async fn update_group(&self, request: Request<admin::UpdateGroupRequest>) -> Result<Response<admin::UpdateGroupResponse>, Status> {
        let ask = request.into_inner();
        let mut state = self.state();
        state.group(&ask.name)?;
        let group = state.groups.get_mut(&ask.name).unwrap();
        group.max_attempts = ask.max_attempts.unwrap_or(group.max_attempts);
        group.retry_policy = ask.retry_policy.or(group.retry_policy.take());
        group.settings.extend(ask.settings);
        group.settings.retain(|name, _| !ask.settings_to_reset.contains(name));
        Ok(Response::new(admin::UpdateGroupResponse { group: Some(group.clone()) }))
    }

    async fn delete_group(&self, request: Request<admin::DeleteGroupRequest>) -> Result<Response<admin::DeleteGroupResponse>, Status> {
        let name = request.into_inner().name;
        let mut state = self.state();
        state.group(&name)?;
        state.groups.remove(&name);
        Ok(Response::new(admin::DeleteGroupResponse {}))
    }

    async fn get_group(&self, request: Request<admin::GetGroupRequest>) -> Result<Response<admin::GetGroupResponse>, Status> {
        let group = self.state().group(&request.into_inner().name)?.clone();
        Ok(Response::new(admin::GetGroupResponse { group: Some(group) }))
    }

    async fn list_groups(&self, _: Request<admin::ListGroupsRequest>) -> Result<Response<admin::ListGroupsResponse>, Status> {
        let groups = self.state().groups.values().cloned().collect();
        Ok(Response::new(admin::ListGroupsResponse { groups, next_page_token: String::new() }))
    }

    /// The first queue of `orders` on one page, the rest on another.
    async fn get_group_lag(&self, request: Request<admin::GetGroupLagRequest>) -> Result<Response<admin::GetGroupLagResponse>, Status> {
        let ask = request.into_inner();
        self.state().group(&ask.group)?;
        let backlog = |ready, in_flight, waiting, second: Option<usize>| {
            Some(admin::Backlog { ready, in_flight, waiting, lag: ready + in_flight + waiting, oldest_unacked_time: second.and_then(at) })
        };
        let queue = |topic: &str, queue, backlog, committed_offset, end_offset| admin::QueueLag {
            topic: topic.to_owned(),
            queue,
            backlog,
            committed_offset,
            end_offset,
        };
        let first = vec![queue("orders", 0, backlog(5, 2, 1, Some(7)), 100, 108)];
        let rest = vec![queue("orders", 1, backlog(10, 0, 0, Some(3)), 90, 100), queue("payments", 0, backlog(0, 0, 0, None), 50, 50)];
        let (queues, next_page_token) = if ask.page_token.is_empty() { (first, "more".to_owned()) } else { (rest, String::new()) };
        Ok(Response::new(admin::GetGroupLagResponse { total: backlog(15, 2, 1, Some(3)), queues, next_page_token }))
    }

    async fn get_topic_stats(&self, request: Request<admin::GetTopicStatsRequest>) -> Result<Response<admin::GetTopicStatsResponse>, Status> {
        let state = self.state();
        state.topic(&request.into_inner().topic)?;
        let stats = |queue: usize| admin::QueueStats {
            queue: queue as u32,
            max_offset: ((state.messages.len() + QUEUES - 1 - queue) / QUEUES) as u64,
            stored_bytes: 1536 * queue as u64,
            writable: queue == 0,
            ..Default::default()
        };
        Ok(Response::new(admin::GetTopicStatsResponse { queues: (0..QUEUES).map(stats).collect(), next_page_token: String::new() }))
    }

    /// Three lite topics below each parent, two on a page.
    async fn list_lite_topics(&self, request: Request<admin::ListLiteTopicsRequest>) -> Result<Response<admin::ListLiteTopicsResponse>, Status> {
        let ask = request.into_inner();
        let parent = self.state().topic(&ask.topic)?.clone();
        if parent.message_types != [v2::MessageType::Lite as i32] {
            return Err(Status::failed_precondition(format!("topic `{}` has no lite topics", ask.topic)));
        }
        let after = if ask.page_token.is_empty() { ask.after } else { ask.page_token };
        let lite = |number: usize| {
            let name = format!("session-{number}");
            admin::LiteTopic { name, min_offset: 1, max_offset: 1 + number as u64, active_time: at(number), subscribers: number as u64 % 2 }
        };
        let mut lite_topics: Vec<admin::LiteTopic> = (1..=3).map(lite).filter(|lite| lite.name > after).collect();
        let size = (ask.page_size as usize).min(2);
        let next_page_token = if lite_topics.len() > size { lite_topics[size - 1].name.clone() } else { String::new() };
        lite_topics.truncate(size);
        Ok(Response::new(admin::ListLiteTopicsResponse { lite_topics, next_page_token }))
    }

    /// One client a page.
    async fn list_clients(&self, request: Request<admin::ListClientsRequest>) -> Result<Response<admin::ListClientsResponse>, Status> {
        let ask = request.into_inner();
        let client = |id: &str, kind: v2::ClientType, groups: &[&str]| admin::Client {
            client_id: id.to_owned(),
            client_type: kind as i32,
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            topics: vec!["orders".to_owned()],
            remote_address: "10.0.0.7:50412".to_owned(),
            last_seen: at(5),
            language: v2::Language::Java as i32,
            version: "5.2.0".to_owned(),
            ..Default::default()
        };
        let all = [client("consumer@1", v2::ClientType::PushConsumer, &["billing"]), client("producer@2", v2::ClientType::Producer, &[])];
        let wanted = |client: &&admin::Client| {
            (ask.client_type == 0 || ask.client_type == client.client_type)
                && (ask.group.is_empty() || client.groups.contains(&ask.group))
                && ask.namespace.as_ref().is_none_or(|namespace| *namespace == client.namespace)
        };
        let mut rest = all.iter().filter(wanted).filter(|client| client.client_id > ask.page_token);
        let clients: Vec<admin::Client> = rest.next().cloned().into_iter().collect();
        let next_page_token = rest.next().map(|_| clients[0].client_id.clone()).unwrap_or_default();
        Ok(Response::new(admin::ListClientsResponse { clients, next_page_token }))
    }

    /// Only `consumer@1` is connected.
    async fn print_thread_stack(
        &self,
        request: Request<admin::PrintThreadStackRequest>,
    ) -> Result<Response<admin::PrintThreadStackResponse>, Status> {
        match request.into_inner().client_id.as_str() {
            "consumer@1" => Ok(Response::new(admin::PrintThreadStackResponse { stack: "main\n  at Listener.consume\n\n".to_owned() })),
            "producer@2" => Err(Status::failed_precondition("the client has no open Telemetry stream, so it can't be asked")),
            other => Err(Status::not_found(format!("no client `{other}` called lately"))),
        }
    }

    /// The message with the id `bad` fails.
    async fn verify_message(&self, request: Request<admin::VerifyMessageRequest>) -> Result<Response<admin::VerifyMessageResponse>, Status> {
        let ask = request.into_inner();
        let outcome = match ask.message {
            Some(admin::verify_message_request::Message::ById(id)) if id == "bad" => admin::VerifyOutcome::Failed,
            Some(_) => admin::VerifyOutcome::Consumed,
            None => return Err(Status::invalid_argument("say which message")),
        };
        let took = Some(prost_types::Duration { seconds: 0, nanos: 12_000_000 });
        Ok(Response::new(admin::VerifyMessageResponse { outcome: outcome as i32, text: "said the listener".to_owned(), took }))
    }

    async fn list_nodes(&self, _: Request<admin::ListNodesRequest>) -> Result<Response<admin::ListNodesResponse>, Status> {
        not_served()
    }

    /// Only shard 7 can be recovered, and only as it was shown.
    async fn steer_cluster(&self, request: Request<admin::SteerClusterRequest>) -> Result<Response<admin::SteerClusterResponse>, Status> {
        let Some(admin::steer_cluster_request::Order::Recover(order)) = request.into_inner().order else { return not_served() };
        let expected = (7, 12, 4, "lose data of shard 7");
        if (order.shard, order.epoch, order.node, order.phrase.as_str()) != expected {
            return Err(Status::failed_precondition(format!("{order:?}")));
        }
        self.state().recovered.push(order.by);
        Ok(Response::new(admin::SteerClusterResponse { done: "node 4 leads shard 7 since epoch 13".to_owned() }))
    }

    /// Shard 7 has one copy left, shard 8 is led.
    async fn survey_shard(&self, request: Request<admin::SurveyShardRequest>) -> Result<Response<admin::SurveyShardResponse>, Status> {
        let shard = request.into_inner().shard;
        let log = admin::LogEnd { last_epoch: 11, end: 48_120, high_watermark: 48_000, last_time: at(0) };
        let gone = |node, away: &str| admin::SurveyedCopy { node, away: away.to_owned(), ..admin::SurveyedCopy::default() };
        let left = admin::SurveyedCopy { node: 4, log: Some(log), suspect: shard == 7, ..admin::SurveyedCopy::default() };
        let copies = vec![left, gone(5, "its broker is down"), gone(6, "it failed: the folder is gone")];
        let (best, refusal) = if shard == 7 { (4, String::new()) } else { (0, format!("node 4 leads shard {shard}; nothing is to be recovered")) };
        let phrase = format!("lose data of shard {shard}");
        match shard {
            7 | 8 => Ok(Response::new(admin::SurveyShardResponse { shard, epoch: 12, copies, best, refusal, phrase })),
            _ => Err(Status::invalid_argument(format!("there is no shard {shard}, or it was never given copies"))),
        }
    }

    async fn list_shards(&self, _: Request<admin::ListShardsRequest>) -> Result<Response<admin::ListShardsResponse>, Status> {
        not_served()
    }

    /// At most three messages a page.
    async fn lookup_messages(&self, request: Request<admin::LookupMessagesRequest>) -> Result<Response<admin::LookupMessagesResponse>, Status> {
        let ask = request.into_inner();
        let mut state = self.state();
        state.lookups.push(ask.clone());
        let wanted = |message: &admin::StoredMessage| match &ask.selector {
            Some(Selector::ByOffset(place)) => message.queue == place.queue && message.offset >= place.offset,
            Some(Selector::ByTime(range)) => range.from.as_ref().is_none_or(|from| message.store_time.as_ref().unwrap().seconds >= from.seconds),
            Some(Selector::ById(id)) => message.message_id == *id,
            Some(Selector::ByKey(key)) => message.keys.contains(key),
            None => false,
        };
        let mut found: Vec<admin::StoredMessage> = (0..state.messages.len()).map(|number| state.stored(number)).filter(wanted).collect();
        let delivery = |group: &String| admin::Delivery {
            group: group.clone(),
            state: admin::DeliveryState::Waiting as i32,
            attempts: 2,
            visible_time: at(60),
            ..Default::default()
        };
        found.iter_mut().for_each(|message| message.deliveries = ask.delivery_groups.iter().map(delivery).collect());
        let from: usize = ask.page_token.parse().unwrap_or(0);
        let to = found.len().min(from + 3.min(ask.limit as usize));
        let next_page_token = if to < found.len() { to.to_string() } else { String::new() };
        Ok(Response::new(admin::LookupMessagesResponse { messages: found[from..to].to_vec(), next_page_token }))
    }

    async fn get_cluster_info(&self, _: Request<admin::GetClusterInfoRequest>) -> Result<Response<admin::GetClusterInfoResponse>, Status> {
        not_served()
    }

    /// One transaction a page; the first was given up.
    async fn list_transactions(&self, request: Request<admin::ListTransactionsRequest>) -> Result<Response<admin::ListTransactionsResponse>, Status> {
        let ask = request.into_inner();
        let state = self.state();
        state.topic(&ask.topic)?;
        let open: Vec<usize> = (1..=2).filter(|number| !state.ended.contains_key(&transaction_id(*number))).collect();
        let mut rest = open.into_iter().filter(|number| transaction_id(*number) > ask.page_token);
        let transactions: Vec<admin::Transaction> = rest.next().into_iter().map(transaction).collect();
        let next_page_token = rest.next().map(|_| transactions[0].transaction_id.clone()).unwrap_or_default();
        Ok(Response::new(admin::ListTransactionsResponse { transactions, next_page_token }))
    }

    async fn end_transaction(&self, request: Request<admin::EndTransactionRequest>) -> Result<Response<admin::EndTransactionResponse>, Status> {
        let ask = request.into_inner();
        if !ask.transaction_id.starts_with("v1.1.") {
            return Err(Status::invalid_argument(format!("the transaction id is not one of topic `{}`; list them to see their ids", ask.topic)));
        }
        self.state().ended.insert(ask.transaction_id, ask.resolution);
        Ok(Response::new(admin::EndTransactionResponse {}))
    }

    async fn resume_transaction(
        &self,
        request: Request<admin::ResumeTransactionRequest>,
    ) -> Result<Response<admin::ResumeTransactionResponse>, Status> {
        match self.state().ended.get(&request.into_inner().transaction_id) {
            Some(_) => Err(Status::failed_precondition("the transaction has ended; nobody needs to be asked about it")),
            None => Ok(Response::new(admin::ResumeTransactionResponse {})),
        }
    }

    async fn reset_group_offsets(
        &self,
        request: Request<admin::ResetGroupOffsetsRequest>,
    ) -> Result<Response<admin::ResetGroupOffsetsResponse>, Status> {
        let ask = request.into_inner();
        let mut state = self.state();
        state.group(&ask.group)?;
        state.topic(&ask.topic)?;
        let queues = moved(&ask.queues);
        state.resets.push(ask);
        Ok(Response::new(admin::ResetGroupOffsetsResponse { queues }))
    }

    async fn copy_group_offsets(
        &self,
        request: Request<admin::CopyGroupOffsetsRequest>,
    ) -> Result<Response<admin::CopyGroupOffsetsResponse>, Status> {
        let ask = request.into_inner();
        let state = self.state();
        state.group(&ask.from_group)?;
        state.group(&ask.to_group)?;
        Ok(Response::new(admin::CopyGroupOffsetsResponse { queues: moved(&ask.queues) }))
    }

    async fn skip_messages(&self, request: Request<admin::SkipMessagesRequest>) -> Result<Response<admin::SkipMessagesResponse>, Status> {
        let ask = request.into_inner();
        self.state().group(&ask.group)?;
        Ok(Response::new(admin::SkipMessagesResponse { skipped: ask.offsets.len() as u64 }))
    }

    /// Two letters a page.
    async fn list_dead_letters(&self, request: Request<admin::ListDeadLettersRequest>) -> Result<Response<admin::ListDeadLettersResponse>, Status> {
        let ask = request.into_inner();
        let mut state = self.state();
        state.group(&ask.group)?;
        let meant = state.letters(ask.selector.clone());
        state.selectors.push(ask.selector);
        let from: usize = ask.page_token.parse().unwrap_or(0);
        let to = meant.len().min(from + 2.min(ask.page_size as usize));
        let next_page_token = if to < meant.len() { to.to_string() } else { String::new() };
        Ok(Response::new(admin::ListDeadLettersResponse { letters: meant[from..to].to_vec(), next_page_token }))
    }

    type RedriveDeadLettersStream = tokio_stream::Iter<std::vec::IntoIter<Result<admin::RedriveDeadLettersResponse, Status>>>;

    /// The last letter fails.
    async fn redrive_dead_letters(
        &self,
        request: Request<admin::RedriveDeadLettersRequest>,
    ) -> Result<Response<Self::RedriveDeadLettersStream>, Status> {
        let ask = request.into_inner();
        let mut state = self.state();
        state.group(&ask.group)?;
        if !ask.to_topic.is_empty() {
            state.topic(&ask.to_topic)?;
        }
        let meant = state.letters(ask.selector.clone()).len() as u64;
        let failed = u64::from(meant == LETTERS as u64);
        let place = Some(admin::QueueOffset { queue: 0, offset: meant - 1 });
        let failures = vec![admin::DeadLetterFailure { place, why: "the topic it should go to takes no messages".to_owned() }];
        let failures = if failed > 0 { failures } else { Vec::new() };
        let told = admin::RedriveDeadLettersResponse { redriven: meant - failed, failed, failures, ..Default::default() };
        let end = admin::RedriveDeadLettersResponse { done: true, failures: Vec::new(), ..told.clone() };
        state.redrives.push(ask);
        Ok(Response::new(tokio_stream::iter(vec![Ok(told), Ok(end)])))
    }

    type PurgeDeadLettersStream = tokio_stream::Iter<std::vec::IntoIter<Result<admin::PurgeDeadLettersResponse, Status>>>;

    async fn purge_dead_letters(&self, request: Request<admin::PurgeDeadLettersRequest>) -> Result<Response<Self::PurgeDeadLettersStream>, Status> {
        let ask = request.into_inner();
        let state = self.state();
        state.group(&ask.group)?;
        let purged = state.letters(ask.selector).len() as u64;
        Ok(Response::new(tokio_stream::iter(vec![Ok(admin::PurgeDeadLettersResponse { purged, gone: 1, done: true })])))
    }

    async fn get_message_life(&self, request: Request<admin::GetMessageLifeRequest>) -> Result<Response<admin::GetMessageLifeResponse>, Status> {
        use admin::LifeStep::*;
        let ask = request.into_inner();
        self.state().topic(&ask.topic)?;
        if ask.offset > 9 {
            return Err(Status::not_found(format!("no message is stored at `{}/{}/{}`", ask.topic, ask.queue, ask.offset)));
        }
        let event = |second: usize, step: admin::LifeStep, group: &str| admin::LifeEvent {
            time: at(second),
            lsn: 4096 + 64 * second as u64,
            step: step as i32,
            group: group.to_owned(),
            ..Default::default()
        };
        let leased = |second, client: &str, attempt| admin::LifeEvent {
            client_id: client.to_owned(),
            attempt,
            visible_time: at(second + 30),
            ..event(second, Leased, "billing")
        };
        let to = Some(admin::QueueOffset { queue: 0, offset: 7 });
        let events = vec![
            event(0, Stored, ""),
            leased(1, "worker-1", 1),
            admin::LifeEvent { visible_time: at(5), ..event(2, GivenBack, "billing") },
            event(3, Filtered, "audit"),
            leased(5, "worker-2", 1),
            admin::LifeEvent { visible_time: at(35), ..event(35, Lapsed, "billing") },
            admin::LifeEvent { attempt: 2, to_topic: "%DLQ%billing".to_owned(), to, ..event(36, Dead, "billing") },
            admin::LifeEvent { to, ..event(40, Reset, "billing") },
        ];
        Ok(Response::new(admin::GetMessageLifeResponse { events, complete: ask.offset != 1 }))
    }
}
