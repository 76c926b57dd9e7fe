//! The broker of this process: one shard behind the contract that proxies call.

mod receive;
mod recall;
pub(crate) mod transactions;
mod offsets;
mod pull;
mod letters;
mod life;
mod lite;

use crate::admission::{Admission, Lane};
use crate::alive::Alive;
use crate::draft::{Draft, RawMessage};
use crate::post::{PostOffice, ReplyTo};
use crate::read::Messages;
use crate::shard::core::{After, Draft as _, Given, Token};
use crate::shard::inbox::{Find, Found, Inbox, Request, Status};
use crate::shard::polls::Seeks;
use crate::shard::thread::handle;
use async_trait::async_trait;
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{
    Clients, Delivery, EndError, EndedBy, LeaseError, LetterError, LetterId, Life, LiteError, LiteSync, LiteTopic, LookupError, Moved, Offer,
    OffsetError, OpenTransaction, PackedSend, PullError, PullRequest, Pulled, Query, QueueBounds, QueuePosition, RecallError, ReceiveError,
    ReceiveRequest, Resolution, SeekRequest, SendError, SendRequest, Sent, ShardCondition, ShardStatus, Standing, VisibilityChange,
};
use gantry_model::handle::{RecallHandle, TransactionHandle};
use gantry_model::message::StoredMessage;
use gantry_model::{ClientId, Group, Offset, QueueId, QueueKey, ReceiptHandle, ShardId, Topic, TopicId};
use gantry_platform::clock::{SharedClock, timeout};
use gantry_platform::tasks;
use gantry_store::index::{KeyKind, key_hash};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bytes that an acknowledgement or a similar small request counts for while it is under way.
const CONTROL_BYTES: usize = 128;
/// How long a drained shard may take to answer; its thread never waits for anything but the disk.
const DRAIN: Duration = Duration::from_secs(10);

/// One shard in this process.
pub struct LocalBroker {
    pub(crate) shard: ShardId,
    pub(crate) inbox: Inbox,
    pub(crate) posts: PostOffice,
    pub(crate) messages: Messages,
    /// Lives that may be read at the same time.
    pub(crate) lives: tokio::sync::Semaphore,
    pub(crate) admission: Admission,
    pub(crate) alive: Arc<Alive>,
    pub(crate) status: Arc<Status>,
    pub(crate) clock: SharedClock,
    pub(crate) thread: Mutex<Option<tasks::Thread<bool>>>,
    pub(crate) watch: tasks::Task,
    pub(crate) reach: transactions::Reach,
}

impl fmt::Debug for LocalBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalBroker {{ shard: {} }}", self.shard)
    }
}

impl LocalBroker {
    /// Whether the disk failed; the process should end then, and read its log anew at the next start.
    pub fn has_failed(&self) -> bool {
        self.status.condition() == ShardCondition::Failed
    }

    /// Ends the shard: what was accepted is written and synced, a last checkpoint is made. `false` if the disk had failed.
    pub fn close(&self) -> bool {
        self.watch.abort();
        self.inbox.put(Request::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        thread.is_none_or(|thread| thread.join().unwrap_or(false))
    }

    /// Why a look-up got no answer.
    pub(crate) fn unread(&self) -> LookupError {
        if self.status.follows.load(Ordering::Acquire) { LookupError::NoLeader } else { LookupError::Failed { why: "the shard has stopped".into() } }
    }

    /// Asks the shard something small and waits for its answer.
    async fn ask<T>(&self, request: impl FnOnce(ReplyTo<T>) -> Request) -> Option<T> {
        let (reply, answer) = self.posts.reply(&self.inbox);
        self.inbox.put(request(reply));
        answer.await.ok()
    }

    /// Reads what was leased. A message that can't be read stays leased and comes again later; one whose tag only seemed to match is finished.
    async fn read_leased(&self, request: &ReceiveRequest, leased: Vec<(Given, Found)>) -> Vec<Delivery> {
        let mut deliveries = Vec::with_capacity(leased.len());
        let mut finished = Vec::new();
        for (given, found) in leased {
            let handle = handle(self.shard, &given);
            match self.messages.read(found).await {
                Ok(Some(message)) if request.filter.wants(message.tag()) => {
                    deliveries.push(Delivery { message: Box::new(message), handle, attempt: given.attempt });
                }
                Ok(_) => finished.push(handle),
                Err(error) => tracing::error!(%error, group = %request.group.name, "a stored message can't be read; it stays with the group"),
            }
        }
        if !finished.is_empty() {
            let (reply, _) = self.posts.reply(&self.inbox);
            self.inbox.put(Request::Ack { group: request.group.id, handles: finished, reply });
        }
        deliveries
    }

    /// Refuses handles of other groups; what is left goes to the shard in one request.
    fn own_handles(group: &Group, handles: &[ReceiptHandle]) -> Vec<ReceiptHandle> {
        handles.iter().filter(|handle| belongs(group, handle)).copied().collect()
    }

    async fn store(&self, topic: Arc<Topic>, client: ClientId, drafts: Vec<Draft>) -> Vec<Result<Sent, SendError>> {
        let count = drafts.len();
        let bytes = drafts.iter().map(Draft::size).sum();
        let Some(permit) = self.admission.enter(Lane::Data, bytes) else {
            return vec![Err(SendError::Busy); count];
        };
        let answers = self.ask(|reply| Request::Send { topic, client, drafts, permit, reply }).await;
        answers.unwrap_or_else(|| vec![Err(SendError::Unknown { why: "the shard stopped while the message was under way".into() }); count])
    }

    async fn find_places(&self, topic: &Topic, query: &Query, limit: usize) -> Result<Vec<Found>, LookupError> {
        let find = match query {
            Query::MessageId(id) => Find::Key { hash: key_hash(topic.id, KeyKind::MessageId, id.as_bytes()) },
            Query::Key(key) => Find::Key { hash: key_hash(topic.id, KeyKind::Key, key.as_bytes()) },
            Query::Offset { queue, offset } => Find::From { queue: QueueKey::new(topic.id, *queue), offset: offset.0 },
            Query::Stored { from_ms, to_ms } => Find::Stored { topic: Arc::new(topic.clone()), from_ms: *from_ms, to_ms: *to_ms },
        };
        self.ask(|reply| Request::Find { find, limit, reply }).await.ok_or_else(|| self.unread())
    }
}

#[async_trait]
impl Broker for LocalBroker {
    async fn send(&self, request: SendRequest) -> Vec<Result<Sent, SendError>> {
        let drafts: Vec<Draft> = request.messages.iter().map(|message| Draft::new(request.topic.id, message)).collect();
        self.store(request.topic, request.client, drafts).await
    }

    async fn send_packed(&self, request: PackedSend) -> Option<Vec<Result<Sent, SendError>>> {
        let PackedSend { topic, messages, client, .. } = request;
        let drafts = messages.into_iter().map(|packed| Draft::packed(topic.id, packed)).collect::<Option<_>>()?;
        Some(self.store(topic, client, drafts).await)
    }

    async fn receive(&self, request: ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        self.receive_in_time(&request).await
    }

    async fn join(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        self.hear(request)?;
        self.receive_once(request, Duration::ZERO, Seeks::Nothing).await
    }

    async fn offered(&self, request: &ReceiveRequest) -> Result<Option<Offer>, ReceiveError> {
        self.next_offer(request).await
    }

    async fn take(&self, request: &ReceiveRequest, offer: Offer) -> Result<Vec<Delivery>, ReceiveError> {
        self.hear(request)?;
        self.receive_once(request, Duration::ZERO, Seeks::Offered(Token(offer.accept()))).await
    }

    async fn ack(&self, group: &Group, handles: Vec<ReceiptHandle>) -> Vec<Result<(), LeaseError>> {
        let own = Self::own_handles(group, &handles);
        let Some(_permit) = self.admission.enter(Lane::Control, CONTROL_BYTES * own.len()) else {
            return vec![Err(LeaseError::Busy); handles.len()];
        };
        let id = group.id;
        let count = own.len();
        let answers = self.ask(|reply| Request::Ack { group: id, handles: own, reply }).await.unwrap_or_else(|| vec![Err(stopped()); count]);
        let mut answers = answers.into_iter();
        handles
            .iter()
            .map(|handle| if belongs(group, handle) { answers.next().unwrap_or_else(|| Err(stopped())) } else { Err(LeaseError::Foreign) })
            .collect()
    }

    async fn change_visibility(&self, request: VisibilityChange) -> Result<(), LeaseError> {
        let VisibilityChange { group, handle, after, failed_for_at_least, attempt } = request;
        if !belongs(&group, &handle) {
            return Err(LeaseError::Foreign);
        }
        let _permit = self.admission.enter(Lane::Control, CONTROL_BYTES).ok_or(LeaseError::Busy)?;
        let after = After { asked_ms: after.as_millis() as u64, failed_ms: failed_for_at_least.as_millis() as u64 };
        self.ask(|reply| Request::Change { group, handle, after, attempt, reply }).await.unwrap_or_else(|| Err(stopped()))
    }

    async fn dead_letter(&self, group: &Group, handle: ReceiptHandle) -> Result<(), LeaseError> {
        if !belongs(group, &handle) {
            return Err(LeaseError::Foreign);
        }
        let _permit = self.admission.enter(Lane::Control, CONTROL_BYTES).ok_or(LeaseError::Busy)?;
        let group = Arc::new(group.clone());
        self.ask(|reply| Request::Dead { group, handle, reply }).await.unwrap_or_else(|| Err(stopped()))
    }

    fn release(&self, handles: Vec<ReceiptHandle>) {
        self.inbox.put(Request::Release { handles });
    }

    fn client_alive(&self, client: &ClientId) {
        self.alive.heard(client);
    }

    fn client_gone(&self, client: &ClientId) {
        self.alive.gone(client);
        self.inbox.put(Request::ClientGone { client: client.clone() });
    }

    async fn positions(&self, group: &Group, topic: &Topic) -> Result<Vec<QueuePosition>, LookupError> {
        let (group, topic) = (Arc::new(group.clone()), Arc::new(topic.clone()));
        self.ask(|reply| Request::Positions { group, topic, reply }).await.ok_or_else(|| self.unread())
    }

    async fn queues(&self, topic: &Topic) -> Result<Vec<QueueBounds>, LookupError> {
        let topic = Arc::new(topic.clone());
        self.ask(|reply| Request::Queues { topic, reply }).await.ok_or_else(|| self.unread())
    }

    async fn topics_of(&self, group: &Group) -> Result<Vec<TopicId>, LookupError> {
        self.read_topics(group).await
    }

    async fn standing(&self, group: &Group, topic: &Topic, messages: Vec<(QueueId, Offset)>) -> Result<Vec<Standing>, LookupError> {
        self.standings(group, topic, messages).await
    }

    async fn find(&self, topic: &Topic, query: Query, limit: usize) -> Result<Vec<StoredMessage>, LookupError> {
        let mut messages = Vec::new();
        for found in self.find_places(topic, &query, limit).await? {
            let Some(message) = self.messages.read(found).await?.and_then(RawMessage::decode) else { continue };
            // Two texts may share a hash; only the text itself decides.
            let meant = match &query {
                Query::MessageId(id) => message.message.id == *id,
                Query::Key(key) => message.message.keys.contains(key),
                Query::Offset { .. } | Query::Stored { .. } => true,
            };
            if meant && message.topic == topic.id {
                messages.push(message);
            }
        }
        if matches!(query, Query::MessageId(_) | Query::Key(_)) && topic.name.is_system() {
            self.hide_gone(&mut messages).await?;
        }
        messages.sort_by_key(|message| (message.store_ms, message.queue, message.offset));
        Ok(messages)
    }

    async fn end_transaction(&self, topic: &Topic, handle: TransactionHandle, resolution: Resolution, by: EndedBy) -> Result<(), EndError> {
        self.end(topic, handle, resolution, by).await
    }

    async fn open_transactions(&self, topic: &Topic, after: Option<TransactionHandle>, limit: usize) -> Result<Vec<OpenTransaction>, LookupError> {
        self.list_transactions(topic.id, after, limit).await
    }

    async fn resume_transaction(&self, handle: TransactionHandle) -> Result<(), EndError> {
        self.resume(handle).await
    }

    fn attach(&self, clients: Arc<dyn Clients>) {
        self.reach.set(clients);
    }

    fn producer_ready(&self, topics: &[TopicId]) {
        self.inbox.put(Request::ProducerReady { topics: topics.to_vec() });
    }

    async fn recall(&self, topic: &Topic, handle: RecallHandle) -> Result<(), RecallError> {
        self.take_back(topic, handle).await
    }

    async fn pull(&self, request: PullRequest) -> Result<Pulled, PullError> {
        self.read_on(&request).await
    }

    async fn committed(&self, group: &Group, topic: &Topic, queue: QueueId) -> Result<Option<Offset>, LookupError> {
        self.committed_offset(group, topic, queue).await
    }

    async fn commit_offset(&self, group: &Group, topic: &Topic, queue: QueueId, offset: Offset) -> Result<(), OffsetError> {
        self.commit(group, topic, queue, offset).await
    }

    async fn offset_at(&self, topic: &Topic, queue: QueueId, time_ms: u64) -> Result<Offset, LookupError> {
        self.first_at(topic, queue, time_ms).await
    }

    async fn seek(&self, request: SeekRequest) -> Result<Vec<Moved>, OffsetError> {
        self.move_position(request).await
    }

    async fn skip(&self, group: &Group, topic: &Topic, queue: QueueId, offsets: Vec<Offset>) -> Result<u64, OffsetError> {
        self.skip_messages(group, topic, queue, offsets).await
    }

    async fn redrive(&self, group: &Group, letters: Vec<LetterId>, to: Option<Arc<Topic>>) -> Vec<Result<Sent, LetterError>> {
        self.send_again(group, letters, to.as_ref()).await
    }

    async fn purge(&self, group: &Group, letters: Vec<LetterId>) -> Vec<Result<(), LetterError>> {
        self.remove_letters(group, letters).await
    }

    async fn life(&self, topic: &Topic, queue: QueueId, offset: Offset) -> Result<Life, LookupError> {
        self.read_life(topic, queue, offset).await
    }

    async fn sync_lite(&self, sync: LiteSync) -> Result<(), LiteError> {
        self.put_lite_sync(sync).await
    }

    async fn lite_topics(&self, topic: &Topic, after: &str, limit: usize) -> Result<Vec<LiteTopic>, LookupError> {
        self.list_lite_topics(topic, after, limit).await
    }

    async fn shards(&self) -> Vec<ShardStatus> {
        let status = &self.status;
        let number = |place: &std::sync::atomic::AtomicU64| place.load(Ordering::Relaxed);
        vec![ShardStatus {
            shard: self.shard,
            epoch: number(&status.epoch) as u32,
            start: number(&status.start),
            end: number(&status.end),
            durable: number(&status.durable),
            disk_total: number(&status.disk_total),
            disk_free: number(&status.disk_free),
            condition: status.condition(),
            open_polls: number(&status.open_polls),
            messages_stored: number(&status.messages_stored),
            messages_delivered: number(&status.messages_delivered),
            messages_acked: number(&status.messages_acked),
            dead_letters: number(&status.dead_letters),
            filter_errors: number(&status.filter_errors),
            timers_pending: number(&status.timers_pending),
            timers_released: number(&status.timers_released),
            timers_recalled: number(&status.timers_recalled),
            timers_orphaned: number(&status.timers_orphaned),
            timers_damaged: number(&status.timers_damaged),
            timer_lateness_ms: number(&status.timer_lateness_ms),
            transactions: transactions::counts(status),
        }]
    }

    async fn drain(&self) {
        let drained = timeout(DRAIN, self.ask(|reply| Request::Drain { reply })).await;
        if drained.is_err() {
            tracing::warn!("the shard did not drain within {DRAIN:?}");
        }
    }
}

/// Whether a handle may be one of the group: the shard knows which members it has.
fn belongs(group: &Group, handle: &ReceiptHandle) -> bool {
    handle.group == group.id || handle.group.is_member()
}

fn stopped() -> LeaseError {
    LeaseError::Failed { why: "the shard has stopped; nothing was changed that was not answered".into() }
}
