//! Many shards as one broker: every call goes to the shard that it concerns, or to all of them.
//!
//! [`Routed`] is an implementation of the contract `Broker` over others, of which each leads some shards; it uses nothing but the contract. It
//! remembers nothing that a client was told: handles name their shard, and where a message goes follows from the topic (`model::placement`).
//! `shards` says who leads, `send` and `receive` are the two ways that have rules of their own, the other files take what remains by subject.

pub mod shards;
mod race;
mod apart;
mod ask;
mod send;
mod receive;
mod joined;
mod finish;
mod lookup;
mod offsets;
mod letters;
mod lite;

use crate::route::joined::Joined;
use crate::route::receive::PassedOn;
use crate::route::send::Loads;
use crate::route::shards::{Leader, Shards};
use async_trait::async_trait;
use gantry_model::contract::broker::{
    Clients, Delivery, EndError, EndedBy, LeaseError, LetterError, LetterId, Life, LiteError, LiteSync, LiteTopic, LookupError, Moved, Offer,
    OffsetError, OpenTransaction, PullError, PullRequest, Pulled, Query, QueueBounds, QueuePosition, RecallError, ReceiveError, ReceiveRequest,
    Resolution, SeekRequest, SendError, SendRequest, Sent, ShardStatus, Standing, VisibilityChange,
};
use gantry_model::contract::{Broker, Metadata};
use gantry_model::handle::{RecallHandle, TransactionHandle};
use gantry_model::message::StoredMessage;
use gantry_model::{ClientId, Group, Offset, QueueId, ReceiptHandle, Topic, TopicId};
use gantry_platform::clock::SharedClock;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use tokio::sync::watch;

/// Many shards behind the contract that the proxy calls.
#[derive(Debug)]
pub struct Routed {
    shards: Arc<dyn Shards>,
    metadata: Arc<dyn Metadata>,
    clock: SharedClock,
    loads: Loads,
    joined: Joined,
    passed_on: PassedOn,
    /// Where the next receive begins to ask.
    turn: AtomicUsize,
    draining: watch::Sender<bool>,
}

impl Routed {
    pub fn new(shards: Arc<dyn Shards>, metadata: Arc<dyn Metadata>, clock: SharedClock) -> Routed {
        let draining = watch::Sender::new(false);
        Routed {
            shards,
            metadata,
            clock,
            loads: Loads::default(),
            joined: Joined::default(),
            passed_on: PassedOn::default(),
            turn: AtomicUsize::new(0),
            draining,
        }
    }

    /// The brokers that lead something now, one for each shard.
    fn leaders(&self) -> impl Iterator<Item = Arc<dyn Broker>> + '_ {
        self.shards.ids().into_iter().filter_map(|shard| match self.shards.leader(shard) {
            Leader::Known(lead) => Some(lead.broker),
            Leader::Electing | Leader::NoShard => None,
        })
    }
}

#[async_trait]
impl Broker for Routed {
    async fn send(&self, request: SendRequest) -> Vec<Result<Sent, SendError>> {
        self.send_apart(request).await
    }

    async fn receive(&self, request: ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        self.receive_from_one(request).await
    }

    async fn join(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        self.join_all(request).await
    }

    async fn offered(&self, request: &ReceiveRequest) -> Result<Option<Offer>, ReceiveError> {
        self.first_offer(request).await
    }

    async fn take(&self, request: &ReceiveRequest, offer: Offer) -> Result<Vec<Delivery>, ReceiveError> {
        self.take_first(request, offer).await
    }

    async fn ack(&self, group: &Group, handles: Vec<ReceiptHandle>) -> Vec<Result<(), LeaseError>> {
        self.ack_apart(group, handles).await
    }

    async fn change_visibility(&self, request: VisibilityChange) -> Result<(), LeaseError> {
        self.ask(request.handle.shard, |broker| {
            let request = request.clone();
            async move { broker.change_visibility(request).await }
        })
        .await
    }

    async fn dead_letter(&self, group: &Group, handle: ReceiptHandle) -> Result<(), LeaseError> {
        self.ask(handle.shard, |broker| async move { broker.dead_letter(group, handle).await }).await
    }

    fn release(&self, handles: Vec<ReceiptHandle>) {
        self.release_apart(handles);
    }

    fn client_alive(&self, client: &ClientId) {
        self.leaders().for_each(|broker| broker.client_alive(client));
    }

    fn client_gone(&self, client: &ClientId) {
        self.leaders().for_each(|broker| broker.client_gone(client));
    }

    async fn positions(&self, group: &Group, topic: &Topic) -> Result<Vec<QueuePosition>, LookupError> {
        self.positions_on_all(group, topic).await
    }

    async fn queues(&self, topic: &Topic) -> Result<Vec<QueueBounds>, LookupError> {
        self.queues_of_all(topic).await
    }

    async fn topics_of(&self, group: &Group) -> Result<Vec<TopicId>, LookupError> {
        self.topics_on_all(group).await
    }

    async fn standing(&self, group: &Group, topic: &Topic, messages: Vec<(QueueId, Offset)>) -> Result<Vec<Standing>, LookupError> {
        self.standing_apart(group, topic, messages).await
    }

    async fn find(&self, topic: &Topic, query: Query, limit: usize) -> Result<Vec<StoredMessage>, LookupError> {
        self.find_on_all(topic, query, limit).await
    }

    async fn end_transaction(&self, topic: &Topic, handle: TransactionHandle, resolution: Resolution, by: EndedBy) -> Result<(), EndError> {
        self.ask(handle.shard, |broker| async move { broker.end_transaction(topic, handle, resolution, by).await }).await
    }

    async fn open_transactions(&self, topic: &Topic, after: Option<TransactionHandle>, limit: usize) -> Result<Vec<OpenTransaction>, LookupError> {
        self.transactions_in_turn(topic, after, limit).await
    }

    async fn resume_transaction(&self, handle: TransactionHandle) -> Result<(), EndError> {
        self.ask(handle.shard, |broker| async move { broker.resume_transaction(handle).await }).await
    }

    fn attach(&self, clients: Arc<dyn Clients>) {
        self.shards.attach(clients);
    }

    fn producer_ready(&self, topics: &[TopicId]) {
        self.leaders().for_each(|broker| broker.producer_ready(topics));
    }

    async fn recall(&self, topic: &Topic, handle: RecallHandle) -> Result<(), RecallError> {
        self.ask(handle.shard, |broker| {
            let handle = handle.clone();
            async move { broker.recall(topic, handle).await }
        })
        .await
    }

    async fn pull(&self, request: PullRequest) -> Result<Pulled, PullError> {
        self.pull_from_owner(request).await
    }

    async fn committed(&self, group: &Group, topic: &Topic, queue: QueueId) -> Result<Option<Offset>, LookupError> {
        self.at_owner(topic, queue, |broker| async move { broker.committed(group, topic, queue).await }).await
    }

    async fn commit_offset(&self, group: &Group, topic: &Topic, queue: QueueId, offset: Offset) -> Result<(), OffsetError> {
        self.commit_at_owner(group, topic, queue, offset).await
    }

    async fn offset_at(&self, topic: &Topic, queue: QueueId, time_ms: u64) -> Result<Offset, LookupError> {
        self.at_owner(topic, queue, |broker| async move { broker.offset_at(topic, queue, time_ms).await }).await
    }

    async fn seek(&self, request: SeekRequest) -> Result<Vec<Moved>, OffsetError> {
        self.seek_on_all(request).await
    }

    async fn skip(&self, group: &Group, topic: &Topic, queue: QueueId, offsets: Vec<Offset>) -> Result<u64, OffsetError> {
        self.at_owner(topic, queue, |broker| {
            let offsets = offsets.clone();
            async move { broker.skip(group, topic, queue, offsets).await }
        })
        .await
    }

    async fn redrive(&self, group: &Group, letters: Vec<LetterId>, to: Option<Arc<Topic>>) -> Vec<Result<Sent, LetterError>> {
        self.redrive_apart(group, letters, to).await
    }

    async fn purge(&self, group: &Group, letters: Vec<LetterId>) -> Vec<Result<(), LetterError>> {
        self.purge_apart(group, letters).await
    }

    async fn life(&self, topic: &Topic, queue: QueueId, offset: Offset) -> Result<Life, LookupError> {
        self.at_owner(topic, queue, |broker| async move { broker.life(topic, queue, offset).await }).await
    }

    async fn sync_lite(&self, sync: LiteSync) -> Result<(), LiteError> {
        self.sync_lite_apart(sync).await
    }

    async fn lite_topics(&self, topic: &Topic, after: &str, limit: usize) -> Result<Vec<LiteTopic>, LookupError> {
        self.lite_topics_of_all(topic, after, limit).await
    }

    async fn shards(&self) -> Vec<ShardStatus> {
        self.shards_of_all().await
    }

    async fn drain(&self) {
        self.draining.send_replace(true);
        let drains = self.leaders().map(|broker| -> race::Call<'_, ()> { Box::pin(async move { broker.drain().await }) });
        race::all(drains.collect()).await;
    }
}
