//! A shard's core behind the contract, without thread and disk: it lives in the time of a paused runtime, and requests and answers take a few
//! milliseconds on their way, so that calls cross each other as a seed wants it.
//!
//! It can send, receive and finish; what is not played here has no leader. A shard may crash: what was not committed and every answer on its way
//! is lost, and nobody leads it until it is started again.

use crate::ledger::Ledger;
use async_trait::async_trait;
use gantry_broker::shard::core::{After, Event, Given, Reply, Token};
use gantry_broker::shard::polls::{Poll, Seeks, Wanted};
use gantry_broker::shard::send::Class;
use gantry_broker::shard::thread::handle;
use gantry_histories::world::{Item, World};
use gantry_model::contract::Broker;
use gantry_model::contract::broker::*;
use gantry_model::handle::{RecallHandle, TransactionHandle};
use gantry_model::message::StoredMessage;
use gantry_model::placement::{group_hash, id_hash};
use gantry_model::{ClientId, Group, Message, Offset, QueueId, QueueKey, ReceiptHandle, ShardId, Topic, TopicId};
use gantry_platform::chance::{Chance, SeededChance};
use gantry_platform::clock::{SharedClock, sleep, timeout};
use gantry_platform::tasks;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Longest time that a request or an answer is on its way, in milliseconds.
const WAY_MS: u64 = 4;
/// The time of the core when the test begins.
const BEGIN_MS: u64 = 1_700_000_000_000;

struct Inside {
    world: World,
    /// The messages of the world, by their numbers there.
    messages: Vec<Message>,
    /// With the client, of receives.
    waiting: HashMap<Token, (Option<ClientId>, oneshot::Sender<Reply>)>,
    chance: SeededChance,
    led: bool,
}

/// One shard.
pub struct Stepped {
    me: Weak<Stepped>,
    shard: ShardId,
    topic: Arc<Topic>,
    inside: Mutex<Inside>,
    clock: SharedClock,
    ledger: Ledger,
    /// Something happened that may change when something happens by itself.
    stirred: Notify,
}

impl fmt::Debug for Stepped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stepped {{ shard: {} }}", self.shard)
    }
}

impl Stepped {
    pub fn new(shard: ShardId, topic: Arc<Topic>, clock: SharedClock, ledger: Ledger, seed: u64) -> Arc<Stepped> {
        let world = World::new(topic.clone(), shard);
        let chance = SeededChance::new(seed);
        let inside = Mutex::new(Inside { world, messages: Vec::new(), waiting: HashMap::new(), chance, led: true });
        let shard = Arc::new_cyclic(|me| Stepped { me: me.clone(), shard, topic, inside, clock, ledger, stirred: Notify::new() });
        tasks::spawn("stepped shard", live(Arc::downgrade(&shard)));
        shard
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an event over, and what it brings about to those who wait.
    fn step(&self, event: Option<Event<Item>>) {
        self.ledger.step();
        let mut inside = self.inside();
        if !inside.led {
            return;
        }
        inside.world.now = inside.world.now.max(BEGIN_MS + self.clock.mono().as_millis() as u64);
        if let Some(event) = event {
            inside.world.step(event);
        }
        inside.world.settle();
        let replies = std::mem::take(&mut inside.world.replies);
        let mut unheard = Vec::new();
        for (token, reply) in replies {
            let Some((client, waiter)) = inside.waiting.remove(&token) else { continue };
            if let (Some(client), Reply::Delivered { lease, .. }) = (client, &reply) {
                self.ledger.granted(&client, &self.handles(lease));
            }
            unheard.extend(waiter.send(reply).err());
        }
        drop(inside);
        assert!(unheard.is_empty(), "who goes away says so first");
        self.stirred.notify_one();
    }

    fn handles(&self, lease: &[Given]) -> Vec<ReceiptHandle> {
        lease.iter().map(|given| handle(self.shard, given)).collect()
    }

    async fn way(&self) {
        let ms = self.inside().chance.below(WAY_MS);
        sleep(Duration::from_millis(ms)).await;
    }

    /// A request that is answered; `None` if nobody leads the shard.
    async fn call(&self, event: impl FnOnce(Token) -> Event<Item>) -> Option<Reply> {
        self.way().await;
        let mut asked = self.ask(None, event)?;
        let reply = (&mut asked.answer).await.ok();
        asked.answered = true;
        self.way().await;
        reply
    }

    fn ask(&self, client: Option<&ClientId>, event: impl FnOnce(Token) -> Event<Item>) -> Option<Asked<'_>> {
        let (reply, answer) = oneshot::channel();
        let token = {
            let mut inside = self.inside();
            let token = inside.world.token();
            inside.led.then(|| inside.waiting.insert(token, (client.cloned(), reply)))?;
            token
        };
        self.step(Some(event(token)));
        Some(Asked { shard: self, token, answer, answered: false })
    }

    fn poll(&self, request: &ReceiveRequest, wait: Duration, seeks: Seeks) -> Poll {
        Poll {
            group: request.group.clone(),
            topic: request.topic.clone(),
            wanted: Wanted::new(request.filter.clone()),
            client: request.client.clone(),
            max: request.max,
            term: request.lease,
            deadline: BEGIN_MS + (self.clock.mono() + wait).as_millis() as u64,
            attempt_id: request.attempt_id.clone(),
            ordered_batch: request.ordered_batch,
            member: request.member.clone(),
            seeks,
        }
    }

    /// A receive in one of its forms. What it is given goes back if nobody waits for it any more.
    async fn receive_as(&self, request: &ReceiveRequest, wait: Duration, seeks: Seeks) -> Result<Vec<Delivery>, ReceiveError> {
        self.way().await;
        let poll = self.poll(request, wait, seeks);
        let mut asked = self.ask(Some(&request.client), |token| Event::Receive { token, poll }).ok_or(ReceiveError::NoLeader)?;
        let reply = (&mut asked.answer).await.map_err(|_| ReceiveError::NoLeader)?;
        asked.answered = true;
        match reply {
            Reply::Delivered { lease, .. } => {
                let mut back = GiveBack { shard: self, handles: self.handles(&lease) };
                self.way().await;
                let handles = std::mem::take(&mut back.handles);
                Ok(handles.into_iter().map(|handle| self.delivery(handle)).collect())
            }
            Reply::GroupPulls => Err(ReceiveError::GroupPulls),
            Reply::TooManyPolls => Err(ReceiveError::TooManyPolls),
            other => panic!("a receive was answered with {other:?}"),
        }
    }

    fn delivery(&self, handle: ReceiptHandle) -> Delivery {
        let inside = self.inside();
        let queue = QueueKey::new(handle.topic, handle.queue);
        let number = inside.world.index.number(queue, handle.offset.0).expect("what is delivered is stored");
        let (topic, queue, offset) = (handle.topic, handle.queue, handle.offset);
        let message = StoredMessage { message: inside.messages[number].clone(), topic, queue, offset, store_ms: 0, origin: None };
        Delivery { message: Box::new(message), handle, attempt: handle.attempt }
    }

    fn item(&self, message: &Message) -> Item {
        let mut inside = self.inside();
        let number = inside.messages.len();
        inside.messages.push(message.clone());
        let group = message.group.as_deref().map(group_hash);
        let class = Class {
            kind: message.kind,
            id: id_hash(self.topic.id, &message.id),
            group,
            priority: message.priority,
            deliver_ms: message.deliver_ms,
            lite: None,
            recovery_ms: message.recovery_ms,
        };
        Item { number, tag_hash: 0, lane: group.map_or(0, |group| (group as u32).max(2)), class }
    }

    /// The leader dies: everything that waits is lost, and with it the end of the log.
    pub fn crash(&self) {
        let mut inside = self.inside();
        inside.led = false;
        inside.waiting.clear();
        let uncommitted = inside.world.uncommitted();
        let kept = inside.chance.below(uncommitted as u64 + 1) as usize;
        inside.world.now = BEGIN_MS + self.clock.mono().as_millis() as u64;
        inside.world.crash(kept, 0);
    }

    pub fn start(&self) {
        self.inside().led = true;
        self.step(None);
    }

    /// Asserts what must always hold inside.
    pub fn check(&self) {
        self.inside().world.check();
    }
}

/// Lets happen what happens by itself: leases lapse, polls end.
async fn live(shard: Weak<Stepped>) {
    loop {
        let Some(alive) = shard.upgrade() else { return };
        let now = BEGIN_MS + alive.clock.mono().as_millis() as u64;
        let next = alive.inside().world.core.next_event().map_or(10_000, |time| time.saturating_sub(now).clamp(1, 10_000));
        if timeout(Duration::from_millis(next), alive.stirred.notified()).await.is_err() {
            alive.step(None);
        }
    }
}

/// A request on its way; who drops it goes away.
struct Asked<'a> {
    shard: &'a Stepped,
    token: Token,
    answer: oneshot::Receiver<Reply>,
    answered: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.shard.inside().waiting.remove(&self.token);
        self.answer.close();
        match self.answer.try_recv() {
            Ok(Reply::Delivered { lease, .. }) if !lease.is_empty() => {
                self.shard.release(self.shard.handles(&lease));
            }
            _ => self.shard.step(Some(Event::Cancel { token: self.token })),
        }
    }
}

/// Messages on their way to a client; who drops them gives them back.
struct GiveBack<'a> {
    shard: &'a Stepped,
    handles: Vec<ReceiptHandle>,
}

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        if !self.handles.is_empty() {
            self.shard.release(std::mem::take(&mut self.handles));
        }
    }
}

fn unled() -> LookupError {
    LookupError::NoLeader
}

#[async_trait]
impl Broker for Stepped {
    async fn send(&self, request: SendRequest) -> Vec<Result<Sent, SendError>> {
        let count = request.messages.len();
        self.way().await;
        if !self.inside().led {
            return vec![Err(SendError::NoLeader); count];
        }
        let drafts = request.messages.iter().map(|message| self.item(message)).collect();
        let SendRequest { topic, client, .. } = request;
        match self.call(|token| Event::Send { token, topic, client, drafts }).await {
            Some(Reply::Sent(answers)) => answers,
            _ => vec![Err(SendError::Unknown { why: "the leader died".into() }); count],
        }
    }

    async fn receive(&self, request: ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        self.receive_as(&request, request.wait, Seeks::Messages).await
    }

    async fn join(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        self.receive_as(request, Duration::ZERO, Seeks::Nothing).await
    }

    async fn offered(&self, request: &ReceiveRequest) -> Result<Option<Offer>, ReceiveError> {
        self.way().await;
        let poll = self.poll(request, request.wait, Seeks::Offer);
        let mut asked = self.ask(Some(&request.client), |token| Event::Receive { token, poll }).ok_or(ReceiveError::NoLeader)?;
        let reply = (&mut asked.answer).await.map_err(|_| ReceiveError::NoLeader)?;
        let (me, token) = (self.me.clone(), asked.token);
        asked.answered = true;
        match reply {
            Reply::Offered => {
                let decline = move || {
                    if let Some(shard) = me.upgrade() {
                        shard.step(Some(Event::Cancel { token }));
                    }
                };
                let offer = Offer::new(token.0, decline);
                self.way().await;
                Ok(Some(offer))
            }
            Reply::Delivered { lease, .. } => {
                assert!(lease.is_empty(), "who seeks an offer is given nothing");
                Ok(None)
            }
            other => panic!("an offer was sought, and answered with {other:?}"),
        }
    }

    async fn take(&self, request: &ReceiveRequest, offer: Offer) -> Result<Vec<Delivery>, ReceiveError> {
        self.receive_as(request, Duration::ZERO, Seeks::Offered(Token(offer.accept()))).await
    }

    async fn ack(&self, group: &Group, handles: Vec<ReceiptHandle>) -> Vec<Result<(), LeaseError>> {
        let (count, acked) = (handles.len(), handles.clone());
        match self.call(|token| Event::Ack { token, group: group.id, handles }).await {
            Some(Reply::Acked(answers)) => {
                self.ledger.ended(&acked);
                answers
            }
            _ => vec![Err(LeaseError::NoLeader); count],
        }
    }

    async fn change_visibility(&self, request: VisibilityChange) -> Result<(), LeaseError> {
        let VisibilityChange { group, handle, after, attempt, .. } = request;
        let after = After { asked_ms: after.as_millis() as u64, failed_ms: 0 };
        match self.call(|token| Event::Change { token, group, handle, after, attempt }).await {
            Some(Reply::Changed(answer)) => {
                self.ledger.ended(&[handle]);
                answer
            }
            _ => Err(LeaseError::NoLeader),
        }
    }

    async fn dead_letter(&self, _: &Group, _: ReceiptHandle) -> Result<(), LeaseError> {
        Err(LeaseError::NoLeader)
    }

    fn release(&self, handles: Vec<ReceiptHandle>) {
        self.ledger.ended(&handles);
        self.step(Some(Event::Release { handles }));
    }

    fn client_alive(&self, _: &ClientId) {}

    fn client_gone(&self, client: &ClientId) {
        self.step(Some(Event::ClientGone { client: client.clone() }));
    }

    async fn positions(&self, group: &Group, topic: &Topic) -> Result<Vec<QueuePosition>, LookupError> {
        let (group, topic) = (Arc::new(group.clone()), Arc::new(topic.clone()));
        match self.call(|token| Event::Positions { token, group, topic }).await {
            Some(Reply::Positions(positions)) => Ok(positions),
            _ => Err(unled()),
        }
    }

    async fn queues(&self, _: &Topic) -> Result<Vec<QueueBounds>, LookupError> {
        Err(unled())
    }

    async fn topics_of(&self, _: &Group) -> Result<Vec<TopicId>, LookupError> {
        Err(unled())
    }

    async fn standing(&self, _: &Group, _: &Topic, _: Vec<(QueueId, Offset)>) -> Result<Vec<Standing>, LookupError> {
        Err(unled())
    }

    async fn find(&self, _: &Topic, _: Query, _: usize) -> Result<Vec<StoredMessage>, LookupError> {
        Err(unled())
    }

    async fn end_transaction(&self, _: &Topic, _: TransactionHandle, _: Resolution, _: EndedBy) -> Result<(), EndError> {
        Err(EndError::NoLeader)
    }

    async fn open_transactions(&self, _: &Topic, _: Option<TransactionHandle>, _: usize) -> Result<Vec<OpenTransaction>, LookupError> {
        Err(unled())
    }

    async fn resume_transaction(&self, _: TransactionHandle) -> Result<(), EndError> {
        Err(EndError::NoLeader)
    }

    fn attach(&self, _: Arc<dyn Clients>) {}

    fn producer_ready(&self, _: &[TopicId]) {}

    async fn recall(&self, _: &Topic, _: RecallHandle) -> Result<(), RecallError> {
        Err(RecallError::NoLeader)
    }

    async fn pull(&self, _: PullRequest) -> Result<Pulled, PullError> {
        Err(PullError::NoLeader)
    }

    async fn committed(&self, _: &Group, _: &Topic, _: QueueId) -> Result<Option<Offset>, LookupError> {
        Err(unled())
    }

    async fn commit_offset(&self, _: &Group, _: &Topic, _: QueueId, _: Offset) -> Result<(), OffsetError> {
        Err(OffsetError::NoLeader)
    }

    async fn offset_at(&self, _: &Topic, _: QueueId, _: u64) -> Result<Offset, LookupError> {
        Err(unled())
    }

    async fn seek(&self, _: SeekRequest) -> Result<Vec<Moved>, OffsetError> {
        Err(OffsetError::NoLeader)
    }

    async fn skip(&self, _: &Group, _: &Topic, _: QueueId, _: Vec<Offset>) -> Result<u64, OffsetError> {
        Err(OffsetError::NoLeader)
    }

    async fn redrive(&self, _: &Group, letters: Vec<LetterId>, _: Option<Arc<Topic>>) -> Vec<Result<Sent, LetterError>> {
        vec![Err(LetterError::NoLeader); letters.len()]
    }

    async fn purge(&self, _: &Group, letters: Vec<LetterId>) -> Vec<Result<(), LetterError>> {
        vec![Err(LetterError::NoLeader); letters.len()]
    }

    async fn life(&self, _: &Topic, _: QueueId, _: Offset) -> Result<Life, LookupError> {
        Err(unled())
    }

    async fn sync_lite(&self, _: LiteSync) -> Result<(), LiteError> {
        Err(LiteError::NoLeader)
    }

    async fn lite_topics(&self, _: &Topic, _: &str, _: usize) -> Result<Vec<LiteTopic>, LookupError> {
        Err(unled())
    }

    async fn shards(&self) -> Vec<ShardStatus> {
        Vec::new()
    }

    async fn drain(&self) {
        self.step(Some(Event::Drain));
    }
}
