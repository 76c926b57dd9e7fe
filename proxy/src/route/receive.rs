//! Receiving from a topic that lies on several shards: a poll has one right to lease, and gives it to one shard at a time.
//!
//! # The way of a poll
//! 1. It tells all shards that it is there, if they don't know it: its filter counts on each, and what it lost the answer of is given to it again.
//! 2. It asks one shard after the other for what is there already, beginning with another one each time, or with the one that has the highest
//!    priority.
//! 3. It waits for offers of all shards, takes the first, and declines the others, which go to other polls at once.
//! 4. If the offer came to nothing it waits on, until its time is over.
//!
//! At any time at most one of its calls can lease, so dropping it gives back what that call leased, and a poll never has two leases.

use super::Routed;
use super::joined::Reigns;
use super::race::{Call, all, first};
use super::shards::{Lead, Leader};
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{Delivery, Offer, ReceiveError, ReceiveRequest};
use gantry_model::topic::TopicType;
use gantry_model::{QueueId, ShardId, Topic, placement};
use gantry_platform::clock::timeout;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a race for offers came to.
enum Won {
    Offer(Arc<dyn Broker>, Offer),
    Error(ReceiveError),
}

/// An offer, and who made it.
type Made = (Arc<dyn Broker>, Offer);

/// Offers that were passed on under numbers of our own.
#[derive(Clone, Debug, Default)]
pub(super) struct PassedOn {
    next: Arc<AtomicU64>,
    offers: Arc<Mutex<HashMap<u64, Made>>>,
}

impl PassedOn {
    fn offers(&self) -> MutexGuard<'_, HashMap<u64, Made>> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass_on(&self, broker: Arc<dyn Broker>, offer: Offer) -> Offer {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.offers().insert(id, (broker, offer));
        let passed_on = self.clone();
        Offer::new(id, move || drop(passed_on.take(id)))
    }

    fn take(&self, id: u64) -> Option<Made> {
        self.offers().remove(&id)
    }
}

impl Routed {
    pub(super) async fn receive_from_one(&self, request: ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        if !request.topic.permission.can_read() {
            return Err(ReceiveError::NoReadableQueue);
        }
        let until = self.clock.mono() + request.wait;
        match placement::shards_of(&request.topic)[..] {
            [shard] => self.receive_from(shard, request, until).await,
            _ => self.receive_in_turn(request, until).await,
        }
    }

    /// A topic on one shard: that shard has the right to lease from the start.
    async fn receive_from(&self, shard: ShardId, request: ReceiveRequest, until: Duration) -> Result<Vec<Delivery>, ReceiveError> {
        let received = self.ask_until(shard, until, |broker| {
            let wait = until.saturating_sub(self.clock.mono());
            let request = ReceiveRequest { wait, ..request.clone() };
            async move { broker.receive(request).await }
        });
        match received.await {
            // A shard without a leader has nothing to give.
            Err(ReceiveError::NoLeader) => Ok(Vec::new()),
            received => received,
        }
    }

    async fn receive_in_turn(&self, request: ReceiveRequest, until: Duration) -> Result<Vec<Delivery>, ReceiveError> {
        let reigns = Reigns::of(&self.leads(&request.topic));
        if request.attempt_id.is_some() || self.joined.is_due(&request, reigns, self.clock.mono()) {
            let held = self.join_all(&request).await?;
            if !held.is_empty() {
                return Ok(held);
            }
        }
        let there = self.ask_around(&request).await?;
        if !there.is_empty() {
            return Ok(there);
        }
        while self.clock.mono() < until && !*self.draining.borrow() {
            let Some(won) = self.race(&request, until).await else { return Ok(Vec::new()) };
            let deliveries = match won {
                Won::Offer(broker, offer) => broker.take(&request, offer).await,
                Won::Error(error) => return Err(error),
            };
            match deliveries {
                Ok(deliveries) if !deliveries.is_empty() => return Ok(deliveries),
                // It went to somebody else, or its shard has no leader any more.
                Ok(_) | Err(ReceiveError::NoLeader) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Vec::new())
    }

    /// The shards of a topic with those that lead them.
    fn leads(&self, topic: &Topic) -> Vec<(ShardId, Option<Lead>)> {
        let lead = |shard| match self.shards.leader(shard) {
            Leader::Known(lead) => Some(lead),
            Leader::Electing | Leader::NoShard => None,
        };
        placement::shards_of(topic).into_iter().map(|shard| (shard, lead(shard))).collect()
    }

    /// The shards of a topic, beginning with another one each time.
    fn in_turn(&self, request: &ReceiveRequest) -> Vec<ShardId> {
        let mut shards = placement::shards_of(&request.topic);
        let count = shards.len().max(1);
        shards.rotate_left(self.turn.fetch_add(1, Ordering::Relaxed) % count);
        shards
    }

    /// The shards of a topic, first the one that has the highest queue with something to give. Within a batch, the shard that gives it decides.
    async fn by_priority(&self, request: &ReceiveRequest) -> Vec<ShardId> {
        let mut shards = self.in_turn(request);
        // Without an answer of all of them the turn decides.
        let Ok(positions) = self.positions_on_all(&request.group, &request.topic).await else { return shards };
        let owner = |queue: QueueId| request.topic.queues.get(queue.0 as usize).map(|place| place.shard);
        let ready = positions.iter().filter(|position| position.ready > 0);
        let highest: BTreeMap<ShardId, QueueId> = ready.filter_map(|position| Some((owner(position.queue)?, position.queue))).collect();
        shards.sort_by_key(|shard| Reverse(highest.get(shard).copied()));
        shards
    }

    /// Asks one shard after the other for what is there already.
    async fn ask_around(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        let mut failed = None;
        let shards = match request.topic.kind {
            TopicType::Priority => self.by_priority(request).await,
            _ => self.in_turn(request),
        };
        let count = shards.len();
        let mut failures = 0;
        for shard in shards {
            let Leader::Known(Lead { broker, .. }) = self.shards.leader(shard) else { continue };
            match broker.receive(ReceiveRequest { wait: Duration::ZERO, ..request.clone() }).await {
                Ok(deliveries) if deliveries.is_empty() => {}
                Ok(deliveries) => return Ok(deliveries),
                Err(ReceiveError::NoLeader) => {}
                // The others may have something all the same.
                Err(error @ ReceiveError::Failed { .. }) => {
                    failures += 1;
                    failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) if failures == count => Err(error),
            _ => Ok(Vec::new()),
        }
    }

    /// Waits for the first offer of any shard; the others are declined, those that wait are withdrawn. `None` when the time is over.
    async fn race(&self, request: &ReceiveRequest, until: Duration) -> Option<Won> {
        let calls = self.in_turn(request).into_iter().map(|shard| -> Call<'_, Option<Won>> { Box::pin(self.offer_of(shard, request, until)) });
        let calls = calls.collect();
        timeout(until.saturating_sub(self.clock.mono()), first(calls)).await.ok().flatten()
    }

    /// Waits for an offer of one shard, of whichever leader it has by then.
    async fn offer_of(&self, shard: ShardId, request: &ReceiveRequest, until: Duration) -> Option<Won> {
        loop {
            let Lead { broker, epoch } = self.leader(shard, until).await.ok()?;
            let wait = until.saturating_sub(self.clock.mono());
            match broker.offered(&ReceiveRequest { wait, ..request.clone() }).await {
                Ok(Some(offer)) => return Some(Won::Offer(broker, offer)),
                Err(error @ (ReceiveError::GroupPulls | ReceiveError::TooManyPolls | ReceiveError::NoReadableQueue)) => {
                    return Some(Won::Error(error));
                }
                // Its time is over, or it drains or failed, and another leader may go on.
                Ok(None) | Err(ReceiveError::NoLeader | ReceiveError::Failed { .. }) => self.led_anew(shard, Some(epoch), until).await.ok()?,
            }
        }
    }

    /// Tells all shards of a topic that a member receives. Answers what an earlier answer to the same attempt gave, and is still held.
    pub(super) async fn join_all(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        let now = self.clock.mono();
        let leads = self.leads(&request.topic);
        let reigns = Reigns::of(&leads);
        let mut whole = leads.iter().all(|(_, lead)| lead.is_some());
        let leads: Vec<Lead> = leads.into_iter().filter_map(|(_, lead)| lead).collect();
        let calls = leads.iter().map(|lead| -> Call<'_, Result<Vec<Delivery>, ReceiveError>> { Box::pin(lead.broker.join(request)) });
        let calls = calls.collect();
        let mut held: Vec<Delivery> = Vec::new();
        for (lead, answer) in leads.iter().zip(all(calls).await) {
            match answer {
                Ok(deliveries) if held.is_empty() => held = deliveries,
                // An answer that was lost while a shard had no leader may have been given twice; a poll holds one.
                Ok(deliveries) => lead.broker.release(deliveries.iter().map(|delivery| delivery.handle).collect()),
                Err(ReceiveError::NoLeader | ReceiveError::Failed { .. }) => whole = false,
                Err(error) => return Err(error),
            }
        }
        if whole {
            self.joined.told(request, reigns, now);
        }
        Ok(held)
    }

    /// The first offer of any shard, under a number of our own.
    pub(super) async fn first_offer(&self, request: &ReceiveRequest) -> Result<Option<Offer>, ReceiveError> {
        match self.race(request, self.clock.mono() + request.wait).await {
            Some(Won::Offer(broker, offer)) => Ok(Some(self.passed_on.pass_on(broker, offer))),
            Some(Won::Error(error)) => Err(error),
            None => Ok(None),
        }
    }

    pub(super) async fn take_first(&self, request: &ReceiveRequest, offer: Offer) -> Result<Vec<Delivery>, ReceiveError> {
        match self.passed_on.take(offer.accept()) {
            Some((broker, offer)) => broker.take(request, offer).await,
            None => Ok(Vec::new()),
        }
    }
}
