//! A shard that is led in another process, behind the contract.
//!
//! What can't be written was not done, and says `NoLeader`; what was written and never answered may have been done. `drain` is about this
//! process: the broker goes on for others.

use super::fault::{Fault, Faulty};
use super::line::{Answered, Asking, EACH, Kind};
use super::{Hint, Upstream};
use async_trait::async_trait;
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{
    Clients, Delivery, EndError, EndedBy, LeaseError, LetterError, LetterId, Life, LiteError, LiteSync, LiteTopic, LookupError, Moved, Offer,
    OffsetError, OpenTransaction, PullError, PullRequest, Pulled, Query, QueueBounds, QueuePosition, RecallError, ReceiveError, ReceiveRequest,
    Resolution, SeekRequest, SendError, SendRequest, Sent, ShardStatus, Standing, VisibilityChange,
};
use gantry_model::handle::{RecallHandle, TransactionHandle};
use gantry_model::message::StoredMessage;
use gantry_model::{ClientId, Epoch, Group, NodeId, Offset, QueueId, ReceiptHandle, ShardId, Topic, TopicId};
use gantry_platform::clock::sleep;
use gantry_proto::broker as pb;
use gantry_proto::broker::answer::Body as Said;
use gantry_proto::broker::request::Body;
use gantry_proto::shards::{Refuse, handle, life, lite, lookup, message, offsets, receive, send, status};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes that a small request counts for.
const SMALL: usize = 128;
/// How long a call may take beyond what it asks for, before nobody waits for its answer any more.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a call without a time of its own may take.
const LOOKUP: Duration = Duration::from_secs(30);
/// How long calls may take to finish when this process drains, and how often that is looked at.
const FINISH: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);
/// Numbers of offers say which stream they came on, in the bits above.
const OFFER_BITS: u32 = 40;

/// Reads an answer of one kind.
macro_rules! pick {
    ($variant:ident) => {
        |answered: Answered| match answered.last {
            Said::$variant(said) => Some(said),
            _ => None,
        }
    };
}

/// One shard on one connection.
#[derive(Debug)]
pub struct RemoteBroker {
    upstream: Arc<Upstream>,
    shard: ShardId,
    draining: AtomicBool,
}

/// An answer that is none to what was asked.
fn strange<E: Faulty>() -> E {
    E::of(Fault::Lost("the broker's answer can't be read; it may be of another version than the proxy".into()))
}

impl RemoteBroker {
    pub fn new(upstream: Arc<Upstream>, shard: ShardId) -> RemoteBroker {
        RemoteBroker { upstream, shard, draining: AtomicBool::new(false) }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The error that a refusal stands for. What it says of the leader goes to whoever keeps the routes.
    fn refused<E: Refuse>(&self, refusal: pb::Refusal) -> E {
        if let Some(pb::Reign { epoch, node }) = refusal.leader {
            self.upstream.hint(Hint { shard: self.shard, epoch: Epoch(epoch), leader: node.map(NodeId) });
        }
        E::refused(refusal)
    }

    async fn call(&self, kind: Kind, size: usize, time: Duration, body: Body) -> Result<Answered, Fault> {
        self.upstream.line.ask(Asking { shard: self.shard, kind, body, size, time }).await
    }

    /// Asks, and reads the answer.
    async fn ask<T, E: Refuse + Faulty>(&self, size: usize, body: Body, read: impl FnOnce(Answered) -> Option<T>) -> Result<T, E> {
        let answered = self.call(Kind::Control, size, LOOKUP, body).await.map_err(E::of)?;
        self.read(answered, read)
    }

    fn read<T, E: Refuse + Faulty>(&self, answered: Answered, read: impl FnOnce(Answered) -> Option<T>) -> Result<T, E> {
        match answered.last {
            Said::Refused(refusal) => Err(self.refused(refusal)),
            _ => read(answered).ok_or_else(strange),
        }
    }

    /// Asks for something that says only whether it was done.
    async fn have_done<E: Refuse + Faulty>(&self, size: usize, body: Body) -> Result<(), E> {
        self.ask(size, body, |answered| matches!(answered.last, Said::Done(_)).then_some(())).await
    }

    /// A poll: `None` if this process stops.
    async fn poll<T, E: Refuse + Faulty>(&self, wait: Duration, body: Body, read: impl FnOnce(Answered) -> Option<T>) -> Result<Option<T>, E> {
        if self.is_draining() {
            return Ok(None);
        }
        match self.call(Kind::Poll, SMALL, wait + PATIENCE, body).await {
            Ok(answered) => self.read(answered, read).map(Some),
            Err(Fault::Drained) => Ok(None),
            Err(fault) => Err(E::of(fault)),
        }
    }

    async fn deliveries(&self, wait: Duration, body: Body) -> Result<Vec<Delivery>, ReceiveError> {
        let read = |answered| parts(answered, |part| if let Said::Deliveries(some) = part { Some(some.deliveries) } else { None });
        let Some(deliveries) = self.poll(wait, body, read).await? else { return Ok(Vec::new()) };
        let handles: Vec<_> = deliveries.iter().filter_map(|delivery| delivery.handle).collect();
        let read: Option<Vec<Delivery>> = deliveries.into_iter().map(message::delivery_from_wire).collect();
        read.ok_or_else(|| {
            self.upstream.line.note(self.shard, Body::Release(pb::Handles { handles }));
            strange()
        })
    }

    /// Finishes or sends again several things, each with an answer of its own.
    async fn each<T, E: Refuse + Faulty + Clone>(
        &self,
        count: usize,
        body: Body,
        read: impl FnOnce(Answered) -> Option<Vec<Result<T, E>>>,
    ) -> Vec<Result<T, E>> {
        let answers = self.ask(SMALL + EACH * count, body, |answered| read(answered).filter(|answers| answers.len() == count)).await;
        answers.unwrap_or_else(|error: E| (0..count).map(|_| Err(error.clone())).collect())
    }

    async fn send_all(&self, request: SendRequest) -> Result<Vec<Result<Sent, SendError>>, SendError> {
        if self.is_draining() {
            return Err(SendError::Draining);
        }
        let count = request.messages.len();
        let wire = send::send_to_wire(&request);
        let size = SMALL + wire.messages.iter().map(message::size).sum::<usize>();
        let answered = self.call(Kind::Data, size, request.wait + PATIENCE, Body::Send(wire)).await.map_err(SendError::of)?;
        let sent = self.read(answered, pick!(Sent))?;
        let answers = send::sent_each_from_wire(sent);
        if answers.len() == count { Ok(answers) } else { Err(strange()) }
    }
}

/// What all parts of an answer hold together.
fn parts<T>(answered: Answered, pick: impl Fn(Said) -> Option<Vec<T>>) -> Option<Vec<T>> {
    let mut all = Vec::new();
    for part in answered.before.into_iter().chain([answered.last]) {
        all.append(&mut pick(part)?);
    }
    Some(all)
}

#[async_trait]
impl Broker for RemoteBroker {
    async fn send(&self, request: SendRequest) -> Vec<Result<Sent, SendError>> {
        let count = request.messages.len();
        self.send_all(request).await.unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn receive(&self, request: ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        self.deliveries(request.wait, Body::Receive(receive::receive_to_wire(&request))).await
    }

    async fn join(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        self.deliveries(Duration::ZERO, Body::Join(receive::receive_to_wire(request))).await
    }

    async fn offered(&self, request: &ReceiveRequest) -> Result<Option<Offer>, ReceiveError> {
        let line = &self.upstream.line;
        let made = self.poll(request.wait, Body::Offered(receive::receive_to_wire(request)), pick!(Offer)).await?;
        let Some(number) = made.and_then(|made| made.offer) else { return Ok(None) };
        let (stream, shard, line) = (line.stream(), self.shard, line.clone());
        let id = stream << OFFER_BITS | number;
        Ok(Some(Offer::new(id, move || line.note_on(stream, shard, Body::Decline(number)))))
    }

    async fn take(&self, request: &ReceiveRequest, offer: Offer) -> Result<Vec<Delivery>, ReceiveError> {
        let id = offer.accept();
        let (stream, number) = (id >> OFFER_BITS, id & ((1 << OFFER_BITS) - 1));
        if stream != self.upstream.line.stream() {
            // It ended with the stream on which it came.
            return Ok(Vec::new());
        }
        let take = pb::Take { receive: Some(receive::receive_to_wire(request)), offer: number };
        self.deliveries(Duration::ZERO, Body::Take(take)).await
    }

    async fn ack(&self, group: &Group, handles: Vec<ReceiptHandle>) -> Vec<Result<(), LeaseError>> {
        let count = handles.len();
        let body = Body::Ack(pb::Acks { group: group.id.0, handles: handle::handles_to_wire(&handles) });
        self.each(count, body, |answered| receive::done_each_from_wire(pick!(DoneEach)(answered)?, count)).await
    }

    async fn change_visibility(&self, request: VisibilityChange) -> Result<(), LeaseError> {
        self.have_done(SMALL, Body::Change(receive::change_to_wire(&request))).await
    }

    async fn dead_letter(&self, group: &Group, handle: ReceiptHandle) -> Result<(), LeaseError> {
        self.have_done(SMALL, Body::DeadLetter(pb::DeadLetter { group: group.id.0, handle: Some((&handle).into()) })).await
    }

    fn release(&self, handles: Vec<ReceiptHandle>) {
        if !handles.is_empty() {
            self.upstream.line.note(self.shard, Body::Release(pb::Handles { handles: handle::handles_to_wire(&handles) }));
        }
    }

    fn client_alive(&self, client: &ClientId) {
        self.upstream.line.alive(client);
    }

    fn client_gone(&self, client: &ClientId) {
        self.upstream.line.gone(self.shard, client);
    }

    async fn positions(&self, group: &Group, topic: &Topic) -> Result<Vec<QueuePosition>, LookupError> {
        let body = Body::Positions(pb::GroupOnTopic { group: group.id.0, topic: topic.id.0 });
        self.ask(SMALL, body, pick!(Positions)).await.map(lookup::positions_from_wire)
    }

    async fn queues(&self, topic: &Topic) -> Result<Vec<QueueBounds>, LookupError> {
        self.ask(SMALL, Body::Queues(pb::OnTopic { topic: topic.id.0 }), pick!(Queues)).await.map(lookup::queues_from_wire)
    }

    async fn topics_of(&self, group: &Group) -> Result<Vec<TopicId>, LookupError> {
        let topics: pb::TopicIds = self.ask(SMALL, Body::TopicsOf(pb::OnGroup { group: group.id.0 }), pick!(Topics)).await?;
        Ok(topics.topics.into_iter().map(TopicId).collect())
    }

    async fn standing(&self, group: &Group, topic: &Topic, messages: Vec<(QueueId, Offset)>) -> Result<Vec<Standing>, LookupError> {
        let size = SMALL + EACH * messages.len();
        let body = Body::Standing(pb::StandingOf { group: group.id.0, topic: topic.id.0, messages: handle::places_to_wire(&messages) });
        self.ask(size, body, |answered| lookup::standings_from_wire(pick!(Standings)(answered)?)).await
    }

    async fn find(&self, topic: &Topic, query: Query, limit: usize) -> Result<Vec<StoredMessage>, LookupError> {
        let body = Body::Find(lookup::find_to_wire(topic, &query, limit));
        let read = |answered| {
            let found = parts(answered, |part| if let Said::Messages(some) = part { Some(some.messages) } else { None })?;
            found.into_iter().map(message::stored_from_wire).collect()
        };
        self.ask(SMALL, body, read).await
    }

    async fn end_transaction(&self, topic: &Topic, handle: TransactionHandle, resolution: Resolution, by: EndedBy) -> Result<(), EndError> {
        self.have_done(SMALL, Body::End(send::end_to_wire(topic, &handle, resolution, by))).await
    }

    async fn open_transactions(&self, topic: &Topic, after: Option<TransactionHandle>, limit: usize) -> Result<Vec<OpenTransaction>, LookupError> {
        let body = Body::OpenTransactions(pb::OpenAfter { topic: topic.id.0, after: after.as_ref().map(Into::into), limit: limit as u64 });
        let read = |answered| {
            let open = parts(answered, |part| if let Said::Transactions(some) = part { Some(some.each) } else { None })?;
            open.into_iter().map(send::open_from_wire).collect()
        };
        self.ask(SMALL, body, read).await
    }

    async fn resume_transaction(&self, handle: TransactionHandle) -> Result<(), EndError> {
        self.have_done(SMALL, Body::Resume((&handle).into())).await
    }

    fn attach(&self, clients: Arc<dyn Clients>) {
        self.upstream.attach(clients);
    }

    fn producer_ready(&self, topics: &[TopicId]) {
        self.upstream.line.ready(topics);
    }

    async fn recall(&self, topic: &Topic, handle: RecallHandle) -> Result<(), RecallError> {
        self.have_done(SMALL, Body::Recall(pb::Recall { topic: topic.id.0, id: Some((&handle).into()) })).await
    }

    async fn pull(&self, request: PullRequest) -> Result<Pulled, PullError> {
        let read = |answered| {
            let mut next = Offset(0);
            let parts = parts(answered, |part| {
                let Said::Pulled(some) = part else { return None };
                Some(vec![some])
            })?;
            let mut messages = Vec::new();
            for part in parts {
                next = Offset(part.next);
                for stored in part.messages {
                    messages.push(message::stored_from_wire(stored)?);
                }
            }
            Some(Pulled { messages, next })
        };
        let pulled = self.poll(request.wait, Body::Pull(offsets::pull_to_wire(&request)), read).await?;
        Ok(pulled.unwrap_or(Pulled { messages: Vec::new(), next: request.offset }))
    }

    async fn committed(&self, group: &Group, topic: &Topic, queue: QueueId) -> Result<Option<Offset>, LookupError> {
        let body = Body::Committed(pb::GroupOnQueue { group: group.id.0, topic: topic.id.0, queue: queue.0 });
        let committed: pb::MaybeOffset = self.ask(SMALL, body, pick!(Committed)).await?;
        Ok(committed.offset.map(Offset))
    }

    async fn commit_offset(&self, group: &Group, topic: &Topic, queue: QueueId, offset: Offset) -> Result<(), OffsetError> {
        let body = pb::CommitOffset { group: group.id.0, topic: topic.id.0, queue: queue.0, offset: offset.0 };
        self.have_done(SMALL, Body::CommitOffset(body)).await
    }

    async fn offset_at(&self, topic: &Topic, queue: QueueId, time_ms: u64) -> Result<Offset, LookupError> {
        let body = Body::OffsetAt(pb::OffsetAt { topic: topic.id.0, queue: queue.0, time_ms });
        self.ask(SMALL, body, pick!(Number)).await.map(Offset)
    }

    async fn seek(&self, request: SeekRequest) -> Result<Vec<Moved>, OffsetError> {
        let size = SMALL + EACH * request.queues.len();
        self.ask(size, Body::Seek(offsets::seek_to_wire(&request)), pick!(Moved)).await.map(offsets::moved_from_wire)
    }

    async fn skip(&self, group: &Group, topic: &Topic, queue: QueueId, offsets: Vec<Offset>) -> Result<u64, OffsetError> {
        let offsets: Vec<u64> = offsets.into_iter().map(|offset| offset.0).collect();
        let size = SMALL + EACH * offsets.len();
        self.ask(size, Body::Skip(pb::Skip { group: group.id.0, topic: topic.id.0, queue: queue.0, offsets }), pick!(Number)).await
    }

    async fn redrive(&self, group: &Group, letters: Vec<LetterId>, to: Option<Arc<Topic>>) -> Vec<Result<Sent, LetterError>> {
        let count = letters.len();
        let letters = pb::Letters { group: group.id.0, letters: letters.iter().map(Into::into).collect() };
        let body = Body::Redrive(pb::Redrive { letters: Some(letters), to: to.map(|to| to.id.0) });
        self.each(count, body, |answered| pick!(Sent)(answered).map(send::sent_each_from_wire)).await
    }

    async fn purge(&self, group: &Group, letters: Vec<LetterId>) -> Vec<Result<(), LetterError>> {
        let count = letters.len();
        let body = Body::Purge(pb::Letters { group: group.id.0, letters: letters.iter().map(Into::into).collect() });
        self.each(count, body, |answered| receive::done_each_from_wire(pick!(DoneEach)(answered)?, count)).await
    }

    async fn life(&self, topic: &Topic, queue: QueueId, offset: Offset) -> Result<Life, LookupError> {
        let body = Body::Life(pb::Place { topic: topic.id.0, queue: queue.0, offset: offset.0 });
        self.ask(SMALL, body, |answered| life::life_from_wire(pick!(Life)(answered)?)).await
    }

    async fn sync_lite(&self, sync: LiteSync) -> Result<(), LiteError> {
        let names = sync.names.iter().chain(&sync.elsewhere).map(|name| EACH + name.len());
        self.have_done(SMALL + names.sum::<usize>(), Body::SyncLite(lite::sync_to_wire(&sync))).await
    }

    async fn lite_topics(&self, topic: &Topic, after: &str, limit: usize) -> Result<Vec<LiteTopic>, LookupError> {
        let body = Body::LiteTopics(pb::LiteAfter { topic: topic.id.0, after: after.to_owned(), limit: limit as u64 });
        self.ask(SMALL, body, pick!(LiteTopics)).await.map(lite::topics_from_wire)
    }

    async fn shards(&self) -> Vec<ShardStatus> {
        let statuses: Result<pb::Statuses, LookupError> = self.ask(SMALL, Body::Status(pb::Empty {}), pick!(Statuses)).await;
        // Nothing is known of a shard that can't be asked.
        statuses.map(status::statuses_from_wire).unwrap_or_default()
    }

    async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let line = &self.upstream.line;
        line.end_polls(self.shard);
        let mut waited = Duration::ZERO;
        while line.under_way(self.shard) > 0 && waited < FINISH {
            sleep(LOOK).await;
            waited += LOOK;
        }
    }
}
