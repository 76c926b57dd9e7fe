//! A broker and metadata in memory: small, exact about the contracts, and with knobs for the answers that a real one gives rarely.

use async_trait::async_trait;
use bytes::Bytes;
use gantry_model::contract::broker::*;
use gantry_model::contract::metadata::{Cluster, MetadataError, Version};
use gantry_model::contract::{Broker, Metadata};
use gantry_model::group::{GroupChange, GroupSpec};
use gantry_model::handle::{HandleKey, HandleKeys, RecallHandle, TransactionHandle};
use gantry_model::message::{Origin, StoredMessage};
use gantry_model::topic::{Permission, Queue, Retention, TopicChange, TopicSpec, TopicType};
use gantry_model::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, watch};

/// Names, definitions and keys in memory.
#[derive(Debug)]
pub struct FakeMetadata {
    topics: Mutex<BTreeMap<TopicName, Arc<Topic>>>,
    groups: Mutex<BTreeMap<GroupName, Arc<Group>>>,
    version: watch::Sender<u64>,
    keys: Arc<HandleKeys>,
}

impl FakeMetadata {
    pub fn new() -> FakeMetadata {
        let keys = HandleKeys::new(&[HandleKey { id: 1, secret: [7; 32] }]).unwrap();
        FakeMetadata { topics: Mutex::default(), groups: Mutex::default(), version: watch::Sender::new(1), keys: Arc::new(keys) }
    }

    fn next_id(&self) -> u32 {
        self.version.send_modify(|version| *version += 1);
        *self.version.borrow() as u32
    }

    fn put_topic(&self, spec: TopicSpec) -> Arc<Topic> {
        let queues = vec![Queue { shard: ShardId(0), state: Default::default() }; spec.queues as usize];
        let id = TopicId(self.next_id());
        let topic = Arc::new(Topic {
            id,
            name: spec.name,
            kind: spec.kind,
            permission: spec.permission,
            queues,
            retention: spec.retention,
            options: spec.options,
            created_ms: 5,
        });
        self.topics.lock().unwrap().insert(topic.name.clone(), topic.clone());
        topic
    }

    pub fn add_topic(&self, name: &str, kind: TopicType) -> Arc<Topic> {
        self.add_topic_with(name, kind, Permission::ReadWrite)
    }

    pub fn add_topic_with(&self, name: &str, kind: TopicType, permission: Permission) -> Arc<Topic> {
        let name = TopicName::parse("", name).unwrap();
        self.put_topic(TopicSpec { name, kind, queues: 8, permission, retention: Retention::default(), options: Default::default() })
    }
}

fn unknown(what: impl std::fmt::Display) -> MetadataError {
    MetadataError::NotFound { what: format!("`{what}`") }
}

#[async_trait]
impl Metadata for FakeMetadata {
    fn topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.topics.lock().unwrap().get(name).cloned()
    }

    fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.topics.lock().unwrap().values().find(|topic| topic.id == id).cloned()
    }

    fn group(&self, name: &GroupName) -> Option<Arc<Group>> {
        self.groups.lock().unwrap().get(name).cloned()
    }

    fn group_by_id(&self, id: GroupId) -> Option<Arc<Group>> {
        self.groups.lock().unwrap().values().find(|group| group.id == id).cloned()
    }

    fn topics(&self, after: Option<&TopicName>, limit: usize) -> Vec<Arc<Topic>> {
        self.topics.lock().unwrap().values().filter(|topic| after.is_none_or(|after| topic.name > *after)).take(limit).cloned().collect()
    }

    fn groups(&self, after: Option<&GroupName>, limit: usize) -> Vec<Arc<Group>> {
        self.groups.lock().unwrap().values().filter(|group| after.is_none_or(|after| group.name > *after)).take(limit).cloned().collect()
    }

    fn cluster(&self) -> Arc<Cluster> {
        Arc::new(Cluster { id: "0".repeat(32), name: "test-cluster".into(), shards: 1 })
    }

    fn handle_keys(&self) -> Arc<HandleKeys> {
        self.keys.clone()
    }

    fn version(&self) -> Version {
        Version(*self.version.borrow())
    }

    async fn changed(&self, since: Version) -> Version {
        let version = *self.version.subscribe().wait_for(|version| *version > since.0).await.unwrap();
        Version(version)
    }

    async fn create_topic(&self, spec: TopicSpec) -> Result<Arc<Topic>, MetadataError> {
        match self.topic(&spec.name) {
            Some(topic) if topic.kind == spec.kind && topic.queues.len() == spec.queues as usize => Ok(topic),
            Some(topic) => Err(MetadataError::Exists { what: format!("topic `{}`", topic.name) }),
            None => Ok(self.put_topic(spec)),
        }
    }

    async fn update_topic(&self, name: &TopicName, change: TopicChange) -> Result<Arc<Topic>, MetadataError> {
        let mut topic = (*self.topic(name).ok_or_else(|| unknown(name))?).clone();
        topic.kind = change.kind.unwrap_or(topic.kind);
        topic.permission = change.permission.unwrap_or(topic.permission);
        topic.retention = change.retention.unwrap_or(topic.retention);
        topic.options = change.options.unwrap_or(topic.options);
        let topic = Arc::new(topic);
        self.topics.lock().unwrap().insert(name.clone(), topic.clone());
        self.next_id();
        Ok(topic)
    }

    async fn delete_topic(&self, name: &TopicName) -> Result<(), MetadataError> {
        self.topics.lock().unwrap().remove(name).map(|_| ()).ok_or_else(|| unknown(name))
    }

    async fn create_group(&self, spec: GroupSpec) -> Result<Arc<Group>, MetadataError> {
        if let Some(group) = self.group(&spec.name) {
            return Ok(group);
        }
        let name = TopicName::dead_letter_of(&spec.name);
        let dead_letter = TopicSpec { kind: TopicType::Unchecked, queues: 1, ..TopicSpec::on_first_use(name) };
        let group = Arc::new(Group {
            id: GroupId(self.next_id()),
            name: spec.name,
            order: spec.order,
            max_attempts: spec.max_attempts,
            retry: spec.retry,
            start: spec.start,
            dead_letter: self.put_topic(dead_letter).id,
            auto_renew_cap_ms: spec.auto_renew_cap_ms,
            options: spec.options,
            created_ms: 6,
        });
        self.groups.lock().unwrap().insert(group.name.clone(), group.clone());
        Ok(group)
    }

    async fn update_group(&self, name: &GroupName, change: GroupChange) -> Result<Arc<Group>, MetadataError> {
        let mut group = (*self.group(name).ok_or_else(|| unknown(name))?).clone();
        group.order = change.order.unwrap_or(group.order);
        group.max_attempts = change.max_attempts.unwrap_or(group.max_attempts);
        group.retry = change.retry.unwrap_or(group.retry);
        group.options = change.options.unwrap_or(group.options);
        let group = Arc::new(group);
        self.groups.lock().unwrap().insert(name.clone(), group.clone());
        self.next_id();
        Ok(group)
    }

    async fn delete_group(&self, name: &GroupName) -> Result<(), MetadataError> {
        self.groups.lock().unwrap().remove(name).map(|_| ()).ok_or_else(|| unknown(name))
    }
}

/// What a fake broker was asked, and what it answers next.
#[derive(Debug, Default)]
pub struct State {
    pub stored: Vec<StoredMessage>,
    /// Messages before this one were given out.
    pub given: usize,
    pub receives: Vec<ReceiveRequest>,
    pub acked: Vec<ReceiptHandle>,
    pub changes: Vec<VisibilityChange>,
    pub dead: Vec<ReceiptHandle>,
    pub released: Vec<ReceiptHandle>,
    pub alive: Vec<ClientId>,
    pub gone: Vec<ClientId>,
    pub waiting: usize,
    pub drained: bool,
    pub send_error: Option<SendError>,
    pub second_send_error: Option<SendError>,
    pub receive_error: Option<ReceiveError>,
    pub lease_error: Option<LeaseError>,
    pub send_takes: std::time::Duration,
    pub condition: ShardCondition,
    pub ended: Vec<(TransactionHandle, Resolution, EndedBy)>,
    pub end_error: Option<EndError>,
    pub transactions: Vec<OpenTransaction>,
    pub clients: Option<Arc<dyn Clients>>,
    pub ready_producers: Vec<TopicId>,
    pub recalled: Vec<RecallHandle>,
    pub recall_error: Option<RecallError>,
    pub pull_error: Option<PullError>,
    pub pull_waits: bool,
    pub committed: Option<Offset>,
    pub offset_error: Option<OffsetError>,
    pub seeks: Vec<SeekRequest>,
    /// Message ids of dead letters that were sent again, with the topic, or removed.
    pub taken: Vec<(String, Option<TopicId>)>,
    /// The last one is the next answer.
    pub letter_errors: Vec<LetterError>,
    pub positions_on: Vec<TopicId>,
    pub standing: BTreeMap<Offset, Standing>,
    pub life: Vec<LifeEvent>,
    pub syncs: Vec<LiteSync>,
    pub lite_error: Option<LiteError>,
    pub lites: Vec<LiteTopic>,
}

/// Stores messages in memory and leases each once.
#[derive(Debug, Default)]
pub struct FakeBroker {
    state: Mutex<State>,
    arrived: Notify,
}

/// Counts a poll while it waits.
struct Waiting<'a>(&'a FakeBroker);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.with(|state| state.waiting -= 1);
    }
}

impl FakeBroker {
    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// Stores a message behind the edge's back.
    pub fn put(&self, topic: &Topic, id: &str, body: impl Into<Bytes>) {
        let message = Message { id: id.into(), body: body.into(), born_ms: 1_000, born_host: "there".into(), ..Message::default() };
        self.store(topic.id, message);
    }

    pub fn store(&self, topic: TopicId, message: Message) -> Sent {
        let sent = self.with(|state| {
            let offset = state.stored.last().map_or(Offset(0), |last| last.offset.next());
            let handle = message.deliver_ms.map(|deliver_ms| RecallHandle {
                shard: ShardId(0),
                topic,
                deliver_ms,
                id: offset.0,
                message_id: message.id.clone(),
            });
            state.stored.push(StoredMessage { message, topic, queue: QueueId(3), offset, store_ms: 2_000 + offset.0, origin: None });
            Sent { ticket: handle.map(Ticket::Recall), ..Sent::at(QueueId(3), offset) }
        });
        self.arrived.notify_waiters();
        sent
    }

    /// Puts a dead letter into the group's queue.
    pub fn bury(&self, dead_letters: TopicId, id: &str, origin: Origin) {
        let message = Message { id: id.into(), body: "dead".into(), ..Message::default() };
        self.store(dead_letters, message);
        self.with(|state| {
            let letter = state.stored.last_mut().unwrap();
            (letter.queue, letter.origin) = (QueueId(0), Some(origin));
        });
    }

    fn take_letter(&self, group: &Group, letter: LetterId, to: Option<TopicId>) -> Result<Sent, LetterError> {
        self.with(|state| {
            let there = |message: &StoredMessage| (message.topic, message.queue, message.offset) == (group.dead_letter, letter.queue, letter.offset);
            let place = state.stored.iter().position(there).ok_or(LetterError::Gone)?;
            if let Some(error) = state.letter_errors.pop() {
                return Err(error);
            }
            let message = state.stored.remove(place);
            state.taken.push((message.message.id, to));
            Ok(Sent::at(letter.queue, letter.offset))
        })
    }

    fn lease(&self, request: &ReceiveRequest) -> Vec<Delivery> {
        self.with(|state| {
            let mut deliveries = Vec::new();
            while let Some(message) = state.stored.get(state.given).filter(|_| deliveries.len() < request.max as usize) {
                let (topic, group) = (request.topic.id, request.group.id);
                let lease = LeaseId(state.given as u64);
                let handle =
                    ReceiptHandle { shard: ShardId(0), topic, group, queue: message.queue, offset: message.offset, lease, reset: 0, attempt: 1 };
                deliveries.push(Delivery { message: Box::new(message.clone()), handle, attempt: 1 });
                state.given += 1;
            }
            deliveries
        })
    }

    fn lease_answer(&self) -> Result<(), LeaseError> {
        self.with(|state| state.lease_error.clone().map_or(Ok(()), Err))
    }
}

#[async_trait]
impl Broker for FakeBroker {
    async fn send(&self, request: SendRequest) -> Vec<Result<Sent, SendError>> {
        let (first, second, takes) = self.with(|state| (state.send_error.clone(), state.second_send_error.clone(), state.send_takes));
        tokio::time::sleep(takes).await;
        let topic = request.topic.id;
        let answer = |(at, message): (usize, Message)| match (at, &first, &second) {
            (_, Some(error), _) | (1, None, Some(error)) => Err(error.clone()),
            _ => {
                let transaction = message.kind == MessageKind::Transaction;
                let sent = self.store(topic, message);
                let handle = TransactionHandle { shard: ShardId(0), topic, id: sent.offset.0 };
                let ticket = if transaction { Some(Ticket::Transaction(handle)) } else { sent.ticket };
                Ok(Sent { ticket, ..sent })
            }
        };
        request.messages.into_iter().enumerate().map(answer).collect()
    }

    async fn receive(&self, request: ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        let error = self.with(|state| {
            state.receives.push(request.clone());
            state.waiting += 1;
            state.receive_error.clone()
        });
        let _waiting = Waiting(self);
        if let Some(error) = error {
            return Err(error);
        }
        let end = tokio::time::Instant::now() + request.wait;
        loop {
            let arrived = self.arrived.notified();
            let deliveries = self.lease(&request);
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            if tokio::time::timeout_at(end, arrived).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    async fn join(&self, _: &ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        self.with(|state| state.receive_error.clone()).map_or(Ok(Vec::new()), Err)
    }

    async fn offered(&self, request: &ReceiveRequest) -> Result<Option<Offer>, ReceiveError> {
        let end = tokio::time::Instant::now() + request.wait;
        loop {
            let arrived = self.arrived.notified();
            if self.with(|state| state.given < state.stored.len()) {
                return Ok(Some(Offer::new(0, || ())));
            }
            if tokio::time::timeout_at(end, arrived).await.is_err() {
                return Ok(None);
            }
        }
    }

    async fn take(&self, request: &ReceiveRequest, offer: Offer) -> Result<Vec<Delivery>, ReceiveError> {
        offer.accept();
        Ok(self.lease(request))
    }

    async fn ack(&self, _: &Group, handles: Vec<ReceiptHandle>) -> Vec<Result<(), LeaseError>> {
        let answers = handles.iter().map(|_| self.lease_answer()).collect();
        self.with(|state| state.acked.extend(handles));
        answers
    }

    async fn change_visibility(&self, request: VisibilityChange) -> Result<(), LeaseError> {
        self.with(|state| state.changes.push(request));
        self.lease_answer()
    }

    async fn dead_letter(&self, _: &Group, handle: ReceiptHandle) -> Result<(), LeaseError> {
        self.with(|state| state.dead.push(handle));
        self.lease_answer()
    }

    fn release(&self, handles: Vec<ReceiptHandle>) {
        self.with(|state| state.released.extend(handles));
    }

    fn client_alive(&self, client: &ClientId) {
        self.with(|state| state.alive.push(client.clone()));
    }

    fn client_gone(&self, client: &ClientId) {
        self.with(|state| state.gone.push(client.clone()));
    }

    async fn positions(&self, _: &Group, topic: &Topic) -> Result<Vec<QueuePosition>, LookupError> {
        let count = self.with(|state| state.stored.iter().filter(|message| message.topic == topic.id).count() as u64);
        let position = |(queue, _)| match queue {
            QueueId(3) if count > 0 => {
                QueuePosition { queue, committed: Offset(1), end: Offset(count), ready: count - 1, oldest_ms: Some(2_001), ..Default::default() }
            }
            queue => QueuePosition { queue, ..Default::default() },
        };
        Ok(topic.queues().map(position).collect())
    }

    async fn topics_of(&self, _: &Group) -> Result<Vec<TopicId>, LookupError> {
        Ok(self.with(|state| state.positions_on.clone()))
    }

    async fn standing(&self, _: &Group, _: &Topic, messages: Vec<(QueueId, Offset)>) -> Result<Vec<Standing>, LookupError> {
        Ok(self.with(|state| {
            let standing = |(_, offset)| state.standing.get(&offset).cloned().unwrap_or(Standing::Ready { attempts: 0 });
            messages.into_iter().map(standing).collect()
        }))
    }

    async fn queues(&self, topic: &Topic) -> Result<Vec<QueueBounds>, LookupError> {
        Ok(topic
            .queues()
            .map(|(queue, _)| QueueBounds { queue, min: Offset(0), max: Offset(u64::from(queue.0)), bytes: u64::from(queue.0) * 100 })
            .collect())
    }

    async fn find(&self, topic: &Topic, query: Query, limit: usize) -> Result<Vec<StoredMessage>, LookupError> {
        let wanted = |message: &&StoredMessage| {
            message.topic == topic.id
                && match &query {
                    Query::MessageId(id) => message.message.id == *id,
                    Query::Key(key) => message.message.keys.contains(key),
                    Query::Offset { queue, offset } => message.queue == *queue && message.offset >= *offset,
                    Query::Stored { from_ms, to_ms } => (*from_ms..*to_ms).contains(&message.store_ms),
                }
        };
        Ok(self.with(|state| state.stored.iter().filter(wanted).take(limit).cloned().collect()))
    }

    async fn end_transaction(&self, _: &Topic, handle: TransactionHandle, resolution: Resolution, by: EndedBy) -> Result<(), EndError> {
        self.with(|state| {
            state.ended.push((handle, resolution, by));
            state.end_error.clone().map_or(Ok(()), Err)
        })
    }

    async fn open_transactions(&self, _: &Topic, after: Option<TransactionHandle>, limit: usize) -> Result<Vec<OpenTransaction>, LookupError> {
        let shown = |open: &&OpenTransaction| after.is_none_or(|after| open.handle.id > after.id);
        Ok(self.with(|state| state.transactions.iter().filter(shown).take(limit).cloned().collect()))
    }

    async fn resume_transaction(&self, _: TransactionHandle) -> Result<(), EndError> {
        self.with(|state| state.end_error.clone().map_or(Ok(()), Err))
    }

    fn attach(&self, clients: Arc<dyn Clients>) {
        self.with(|state| state.clients = Some(clients));
    }

    fn producer_ready(&self, topics: &[TopicId]) {
        self.with(|state| state.ready_producers.extend(topics));
    }

    async fn recall(&self, _: &Topic, handle: RecallHandle) -> Result<(), RecallError> {
        self.with(|state| {
            state.recalled.push(handle);
            state.recall_error.clone().map_or(Ok(()), Err)
        })
    }

    async fn pull(&self, request: PullRequest) -> Result<Pulled, PullError> {
        self.with(|state| state.pull_error.clone().map_or(Ok(()), Err))?;
        if self.with(|state| state.pull_waits) {
            self.with(|state| state.waiting += 1);
            let _waiting = Waiting(self);
            tokio::time::sleep(request.wait).await;
        }
        let found = Query::Offset { queue: request.queue, offset: request.offset };
        let messages = self.find(&request.topic, found, request.max as usize).await.unwrap();
        let next = messages.last().map_or(request.offset, |last| last.offset.next());
        Ok(Pulled { messages, next })
    }

    async fn committed(&self, _: &Group, _: &Topic, _: QueueId) -> Result<Option<Offset>, LookupError> {
        Ok(self.with(|state| state.committed))
    }

    async fn commit_offset(&self, _: &Group, _: &Topic, _: QueueId, offset: Offset) -> Result<(), OffsetError> {
        self.with(|state| {
            state.offset_error.clone().map_or(Ok(()), Err)?;
            state.committed = Some(offset);
            Ok(())
        })
    }

    async fn offset_at(&self, _: &Topic, queue: QueueId, time_ms: u64) -> Result<Offset, LookupError> {
        let end = self.with(|state| state.stored.last().map_or(0, |last| last.offset.0 + 1));
        if queue.0 > 7 { Err(LookupError::NoSuchQueue) } else { Ok(Offset(time_ms.saturating_sub(2_000).min(end))) }
    }

    async fn seek(&self, request: SeekRequest) -> Result<Vec<Moved>, OffsetError> {
        self.with(|state| {
            state.offset_error.clone().map_or(Ok(()), Err)?;
            let moved = Moved { queue: QueueId(3), from: Offset(1), to: Offset(2), dropped: 0 };
            state.seeks.push(request);
            Ok(vec![moved])
        })
    }

    async fn skip(&self, _: &Group, _: &Topic, _: QueueId, offsets: Vec<Offset>) -> Result<u64, OffsetError> {
        self.with(|state| state.offset_error.clone().map_or(Ok(offsets.len() as u64), Err))
    }

    async fn redrive(&self, group: &Group, letters: Vec<LetterId>, to: Option<Arc<Topic>>) -> Vec<Result<Sent, LetterError>> {
        letters.into_iter().map(|letter| self.take_letter(group, letter, to.as_ref().map(|topic| topic.id))).collect()
    }

    async fn purge(&self, group: &Group, letters: Vec<LetterId>) -> Vec<Result<(), LetterError>> {
        letters.into_iter().map(|letter| self.take_letter(group, letter, None).map(|_| ())).collect()
    }

    async fn life(&self, _: &Topic, _: QueueId, _: Offset) -> Result<Life, LookupError> {
        Ok(self.with(|state| Life { events: state.life.clone(), complete: true }))
    }

    async fn sync_lite(&self, sync: LiteSync) -> Result<(), LiteError> {
        self.with(|state| {
            state.syncs.push(sync);
            state.lite_error.clone().map_or(Ok(()), Err)
        })
    }

    async fn lite_topics(&self, _: &Topic, after: &str, limit: usize) -> Result<Vec<LiteTopic>, LookupError> {
        Ok(self.with(|state| state.lites.iter().filter(|lite| lite.name.as_str() > after).take(limit).cloned().collect()))
    }

    async fn shards(&self) -> Vec<ShardStatus> {
        vec![ShardStatus { condition: self.with(|state| state.condition), end: 100, durable: 90, disk_free: 7, ..Default::default() }]
    }

    async fn drain(&self) {
        self.with(|state| state.drained = true);
    }
}
