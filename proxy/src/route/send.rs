//! Sending: each message goes to the shard where it belongs, and what was surely not stored is sent again.
//!
//! A message whose place matters (a message group, a priority, a lite topic, a delayed message, a transaction) waits for its shard, as long as the
//! request may take. Another one waits for a second and goes elsewhere then; its id is remembered there and not where it belongs, so a
//! repetition may be stored twice.

use super::Routed;
use super::apart::Numbered;
use super::ask::Absent;
use super::race::{Call, all};
use super::shards::{Lead, Leader};
use gantry_model::contract::broker::{SendError, SendRequest, Sent};
use gantry_model::placement::{Marks, Placement, open_queues, place};
use gantry_model::{ClientId, Message, MessageKind, ShardId, Topic};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How long a message that may go anywhere waits for the shard that remembers its id.
const ROAM_AFTER: Duration = Duration::from_secs(1);

/// Requests under way, by shard.
#[derive(Debug, Default)]
pub(super) struct Loads(RwLock<BTreeMap<ShardId, Arc<AtomicUsize>>>);

impl Loads {
    fn of(&self, shard: ShardId) -> Arc<AtomicUsize> {
        if let Some(load) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&shard) {
            return load.clone();
        }
        self.0.write().unwrap_or_else(PoisonError::into_inner).entry(shard).or_default().clone()
    }
}

/// A request that counts as long as it is under way.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn begin(load: Arc<AtomicUsize>) -> UnderWay {
        load.fetch_add(1, Ordering::Relaxed);
        UnderWay(load)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Messages of one request that go together.
struct Part {
    topic: Arc<Topic>,
    client: ClientId,
    shard: ShardId,
    /// Whether they may go to another shard if theirs has no leader.
    roams: bool,
    /// With their numbers in the request.
    messages: Numbered<Message>,
    until: Duration,
}

type Answered = Numbered<Result<Sent, SendError>>;

impl Routed {
    pub(super) async fn send_apart(&self, request: SendRequest) -> Vec<Result<Sent, SendError>> {
        let mut answers = vec![Err(SendError::NoWritableQueue); request.messages.len()];
        let parts = self.parts(request);
        let calls = parts.into_iter().map(|part| -> Call<'_, Answered> { Box::pin(self.send_part(part)) }).collect();
        for (number, answer) in all(calls).await.into_iter().flatten() {
            answers[number] = answer;
        }
        answers
    }

    /// The messages of a request by where they go; those that can go nowhere are left out.
    fn parts(&self, request: SendRequest) -> Vec<Part> {
        let SendRequest { topic, messages, client, wait } = request;
        let until = self.clock.mono() + wait;
        let mut apart: BTreeMap<(ShardId, bool), Numbered<Message>> = BTreeMap::new();
        for (number, message) in messages.into_iter().enumerate() {
            let shard = match place(&topic, &marks(&message)) {
                Placement::Queue(_, shard) | Placement::Shard(shard) => Some(shard),
                Placement::Anywhere => self.least_loaded(&topic, &[]),
                Placement::Nowhere => None,
            };
            if let Some(shard) = shard {
                apart.entry((shard, message.kind == MessageKind::Normal)).or_default().push((number, message));
            }
        }
        let part = |((shard, roams), messages)| Part { topic: topic.clone(), client: client.clone(), shard, roams, messages, until };
        apart.into_iter().map(part).collect()
    }

    /// Of two shards with queues that take messages, the one with fewer requests under way. Those that nobody leads count only if there are no
    /// others.
    fn least_loaded(&self, topic: &Topic, tried: &[ShardId]) -> Option<ShardId> {
        let mut shards: Vec<ShardId> = open_queues(topic).map(|(_, queue)| queue.shard).filter(|shard| !tried.contains(shard)).collect();
        shards.sort_unstable();
        shards.dedup();
        let led = |shard: &ShardId| matches!(self.shards.leader(*shard), Leader::Known(_));
        if shards.iter().any(led) {
            shards.retain(led);
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        // Two that are spread over all pairs in the course of time.
        let pair = [first, first.wrapping_add(1 + (first / shards.len().max(1)) % shards.len().saturating_sub(1).max(1))];
        pair.into_iter()
            .filter_map(|at| shards.get(at % shards.len().max(1)))
            .copied()
            .min_by_key(|&shard| self.loads.of(shard).load(Ordering::Relaxed))
    }

    async fn send_part(&self, part: Part) -> Answered {
        let Part { topic, client, mut shard, roams, messages: mut left, until } = part;
        let mut answered = Answered::with_capacity(left.len());
        let mut tried = Vec::new();
        let mut patience = if roams { until.min(self.clock.mono() + ROAM_AFTER) } else { until };
        let mut refusal = SendError::NoLeader;
        loop {
            match self.leader(shard, patience).await {
                Ok(Lead { broker, epoch }) => {
                    let messages = left.iter().map(|(_, message)| message.clone()).collect();
                    let wait = until.saturating_sub(self.clock.mono());
                    let request = SendRequest { topic: topic.clone(), messages, client: client.clone(), wait };
                    let under_way = UnderWay::begin(self.loads.of(shard));
                    let answers = broker.send(request).await;
                    drop(under_way);
                    refusal = sort(answers, &mut left, &mut answered).unwrap_or(refusal);
                    if left.is_empty() {
                        return answered;
                    }
                    if self.led_anew(shard, Some(epoch), patience).await.is_ok() {
                        continue;
                    }
                }
                Err(Absent::NoShard) => refusal = SendError::NoWritableQueue,
                Err(Absent::NoLeader) => {}
            }
            tried.push(shard);
            match self.least_loaded(&topic, &tried).filter(|_| roams && self.clock.mono() < until) {
                Some(other) => shard = other,
                None if patience < until && !*self.draining.borrow() => {
                    patience = until;
                    tried.clear();
                }
                None => break,
            }
        }
        answered.extend(left.into_iter().map(|(number, _)| (number, Err(refusal.clone()))));
        answered
    }
}

/// Keeps in `left` what was surely not stored because of who was asked, and answers why.
fn sort(answers: Vec<Result<Sent, SendError>>, left: &mut Numbered<Message>, answered: &mut Answered) -> Option<SendError> {
    let mut refusal = None;
    let again = std::mem::take(left);
    debug_assert_eq!(answers.len(), again.len(), "one answer per message");
    for ((number, message), answer) in again.into_iter().zip(answers) {
        match answer {
            Err(error @ (SendError::NoLeader | SendError::Draining)) => {
                refusal = Some(error);
                left.push((number, message));
            }
            answer => answered.push((number, answer)),
        }
    }
    refusal
}

fn marks(message: &Message) -> Marks<'_> {
    let (group, lite) = (message.group.as_deref(), message.lite_topic.as_deref());
    Marks { kind: message.kind, id: &message.id, group, priority: message.priority, lite }
}
