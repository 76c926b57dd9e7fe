//! Producers and consumers: tasks that live in the time of the run, talk to whichever node leads, and write into the book what they see.

use crate::book::Given;
use crate::catalogue::{Catalogue, IMPATIENT, ORDERED, ORDERS};
use crate::machine::BEGIN_MS;
use crate::marks::Mark;
use crate::plan::Plan;
use crate::sim::{CLIENTS, Sim};
use async_trait::async_trait;
use gantry_broker::LocalBroker;
use gantry_model::contract::Broker;
use gantry_model::contract::broker::*;
use gantry_model::handle::TransactionHandle;
use gantry_model::{ClientId, Filter, Group, GroupId, Message, MessageKind, ReceiptHandle, Topic};
use gantry_platform::chance::Chance;
use gantry_platform::tasks;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// A call that got no answer in this time gets none.
const ANSWER: Duration = Duration::from_millis(2_500);
/// Tries of one message before its producer goes on with the next.
const TRIES: u32 = 12;

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// It never arrived.
    Refused,
    /// Nobody knows.
    Lost,
}

/// Calls a node's broker over the network. `op` notes what the broker answers before the answer is on its way.
async fn call<T, F: Future<Output = T>>(sim: &Sim, node: u64, wait: Duration, op: impl FnOnce(Arc<LocalBroker>) -> F) -> Result<T, Unanswered> {
    let way = sim.inside().way(CLIENTS, node);
    let Some(way) = way else {
        sim.sleep(ANSWER).await;
        return Err(Unanswered::Lost);
    };
    sim.sleep(way).await;
    let found = sim.inside().brokers.get(&node).map(|(_, broker)| broker.clone());
    let Some(broker) = found else { return Err(Unanswered::Refused) };
    sim.inside().stirred.insert(node);
    let answer = tokio::select! {
        biased;
        answer = op(broker) => Some(answer),
        () = sim.sleep(ANSWER + wait) => None,
    };
    // What the broker does about a call that was given up, or about a delivery that nobody wants, is for its next round.
    sim.inside().stirred.insert(node);
    let Some(answer) = answer else { return Err(Unanswered::Lost) };
    let back = sim.inside().way(node, CLIENTS);
    match back {
        Some(way) => {
            sim.sleep(way).await;
            Ok(answer)
        }
        None => {
            sim.sleep(ANSWER).await;
            Err(Unanswered::Lost)
        }
    }
}

/// Where a client believes the leader to be.
#[derive(Debug)]
struct Belief {
    node: u64,
    nodes: u64,
}

impl Belief {
    fn new(sim: &Sim, plan: &Plan) -> Belief {
        let nodes = plan.members + plan.spares;
        Belief { node: 1 + sim.below(nodes), nodes }
    }

    /// It is not there: the next one, so that no leader is missed for long.
    async fn is_wrong(&mut self, sim: &Sim) {
        self.node = self.node % self.nodes + 1;
        sim.sleep(sim.between_ms(2, 40)).await;
    }
}

/// Starts the clients of a run.
pub fn begin(sim: &Sim, plan: &Plan, catalogue: &Arc<Catalogue>) {
    for number in 0..plan.producers {
        let producer =
            Producer { sim: sim.clone(), plan: plan.clone(), topic: catalogue.the_topic(ORDERS), number, sent: 0, belief: Belief::new(sim, plan) };
        tasks::spawn("producer", producer.run());
    }
    for number in 0..plan.consumers {
        for group in [ORDERED, IMPATIENT] {
            tasks::spawn("consumer", Consumer::new(sim, plan, catalogue, group, number).run());
        }
    }
}

struct Producer {
    sim: Sim,
    plan: Plan,
    topic: Arc<Topic>,
    number: u64,
    sent: u64,
    belief: Belief,
}

impl Producer {
    async fn run(mut self) {
        while !self.sim.inside().peace {
            let message = self.write();
            self.send_until_it_is_known(&message).await;
            let ticket = self.sim.inside().book.ticket(&message.id).cloned();
            if let Some(Ticket::Transaction(handle)) = ticket
                && !self.sim.in_one_of(4)
            {
                end(&self.sim, &mut self.belief, &self.topic, &message.id, handle).await;
            }
            self.sim.sleep(self.sim.between_ms(1, 60)).await;
        }
    }

    fn write(&mut self) -> Message {
        self.sent += 1;
        let id = format!("p{}-{}", self.number, self.sent);
        let mut inside = self.sim.inside();
        let mut body = vec![0; inside.chance.below(self.plan.body) as usize];
        inside.chance.fill(&mut body);
        let kind = [MessageKind::Normal, MessageKind::Fifo, MessageKind::Fifo, MessageKind::Delay, MessageKind::Transaction]
            [[0, 0, 0, 1, 2, 3, 4][inside.chance.below(7) as usize]];
        let lane = (kind == MessageKind::Fifo).then(|| format!("lane-{}-{}", self.number, inside.chance.below(2)));
        let wall = BEGIN_MS + inside.now.as_millis() as u64;
        let deliver_ms = (kind == MessageKind::Delay).then(|| wall + inside.chance.below(6_000));
        let body = bytes::Bytes::from(body);
        inside.book.write(&id, kind, lane.clone(), deliver_ms.unwrap_or(0), body.clone());
        Message { id, kind, group: lane, body, deliver_ms, born_ms: wall, ..Message::default() }
    }

    /// The same message again and again, until somebody says that it is stored.
    async fn send_until_it_is_known(&mut self, message: &Message) {
        for attempt in 0..TRIES {
            if self.sim.inside().peace {
                return;
            }
            match self.send(message).await {
                Ok(sent) => {
                    let mut inside = self.sim.inside();
                    inside.marks.add(Mark::Acknowledged);
                    if sent.duplicate {
                        inside.marks.add(Mark::Repeated);
                    }
                    return;
                }
                // Message ids are remembered for ten minutes, which a clock may jump over.
                Err(Unanswered::Lost) if self.sim.inside().book.clocks_jump => return,
                Err(_) => self.belief.is_wrong(&self.sim).await,
            }
            if attempt + 1 == TRIES {
                self.sim.note(format_args!("`{}` is given up", message.id));
            }
        }
    }

    async fn send(&mut self, message: &Message) -> Result<Sent, Unanswered> {
        let (sim, id) = (self.sim.clone(), message.id.clone());
        let perhaps_before = sim.inside().book.attempt(&id);
        let topic = self.topic.clone();
        let client = ClientId::new(&format!("producer-{}", self.number));
        let request = SendRequest { topic, messages: vec![message.clone()], client, wait: ANSWER };
        let node = self.belief.node;
        let answer = call(&sim, node, Duration::ZERO, |broker| {
            let (sim, id) = (sim.clone(), id.clone());
            async move {
                let answer = broker.send(request).await.pop();
                if let Some(Ok(sent)) = &answer {
                    sim.note(format_args!("{node} stores `{id}`: {sent:?}"));
                    let mut inside = sim.inside();
                    if let Err(why) = inside.book.sent(&id, sent) {
                        inside.broken(why);
                    }
                }
                answer
            }
        })
        .await;
        match answer {
            Ok(Some(Ok(sent))) => Ok(sent),
            Ok(Some(Err(SendError::Unknown { .. })) | None) | Err(Unanswered::Lost) => {
                sim.inside().marks.add(Mark::Unknown);
                Err(Unanswered::Lost)
            }
            Ok(Some(Err(error))) => {
                sim.note(format_args!("{node} refuses `{id}`: {error}"));
                sim.inside().book.refused(&id, perhaps_before);
                Err(Unanswered::Refused)
            }
            Err(Unanswered::Refused) => {
                sim.inside().book.refused(&id, perhaps_before);
                Err(Unanswered::Refused)
            }
        }
    }
}

/// Ends a transaction one way or the other, with a few tries.
async fn end(sim: &Sim, belief: &mut Belief, topic: &Arc<Topic>, id: &str, handle: TransactionHandle) {
    let resolution = if sim.in_one_of(3) { Resolution::Rollback } else { Resolution::Commit };
    for _ in 0..TRIES {
        let node = belief.node;
        sim.inside().book.ending(id, resolution);
        let answer = call(sim, node, Duration::ZERO, |broker| {
            let (sim, id, topic) = (sim.clone(), id.to_owned(), topic.clone());
            async move {
                let answer = broker.end_transaction(&topic, handle, resolution, EndedBy::Producer).await;
                sim.note(format_args!("{node} ends `{id}` as {resolution:?}: {answer:?}"));
                let mut inside = sim.inside();
                if let Err(why) = inside.book.ended(&id, resolution, &answer) {
                    inside.broken(why);
                }
                answer
            }
        })
        .await;
        match answer {
            Ok(Ok(())) => {
                let mark = if resolution == Resolution::Commit { Mark::Committed } else { Mark::RolledBack };
                return sim.inside().marks.add(mark);
            }
            Ok(Err(EndError::Contradicts { .. } | EndError::Unknown | EndError::GivenUp)) => return,
            _ => belief.is_wrong(sim).await,
        }
    }
}

/// Producers that can be asked about their transactions.
pub struct Questions {
    pub sim: Sim,
    pub topic: Arc<Topic>,
    pub nodes: u64,
}

impl std::fmt::Debug for Questions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Questions")
    }
}

#[async_trait]
impl Clients for Questions {
    async fn check(&self, check: Check) -> bool {
        let peace = self.sim.inside().peace;
        if !peace && self.sim.in_one_of(3) {
            return false;
        }
        let id = check.message.message.id;
        self.sim.note(format_args!("somebody asks about `{id}`"));
        self.sim.inside().marks.add(Mark::Questions);
        if peace || !self.sim.in_one_of(4) {
            let (sim, topic, handle) = (self.sim.clone(), self.topic.clone(), check.handle);
            let mut belief = Belief { node: 1 + sim.below(self.nodes), nodes: self.nodes };
            tasks::spawn("answer", async move { end(&sim, &mut belief, &topic, &id, handle).await });
        }
        true
    }

    fn lost_lite(&self, _: &ClientId, _: GroupId, _: gantry_model::TopicId, _: &str) {}
}

/// What a consumer has of one delivery.
#[derive(Clone, Copy, Debug)]
struct Held {
    handle: ReceiptHandle,
}

pub struct Consumer {
    sim: Sim,
    topic: Arc<Topic>,
    group: Arc<Group>,
    name: ClientId,
    belief: Belief,
    /// How often what became of a batch.
    pub received: u64,
}

impl Consumer {
    pub fn new(sim: &Sim, plan: &Plan, catalogue: &Arc<Catalogue>, group: GroupId, number: u64) -> Consumer {
        Consumer {
            sim: sim.clone(),
            topic: catalogue.the_topic(ORDERS),
            group: catalogue.the_group(group),
            name: ClientId::new(&format!("consumer-{}-{number}", group.0)),
            belief: Belief::new(sim, plan),
            received: 0,
        }
    }

    async fn run(mut self) {
        while !self.sim.inside().peace {
            let (max, lease) = (1 + self.sim.below(8) as u32, self.sim.between_ms(1_500, 4_000));
            let wait = self.sim.between_ms(0, 500);
            match self.receive(max, lease, wait).await {
                Ok(batch) => {
                    self.sim.sleep(self.sim.between_ms(0, 200)).await;
                    self.work(batch).await;
                }
                Err(_) => self.belief.is_wrong(&self.sim).await,
            }
        }
    }

    /// In peace: receives and acknowledges, until nothing comes for a while.
    pub async fn drain(mut self) {
        let mut quiet_since = self.sim.now();
        while self.sim.now() < quiet_since + Duration::from_secs(45) {
            match self.receive(32, Duration::from_secs(30), Duration::from_secs(2)).await {
                Ok(batch) if batch.is_empty() => {}
                Ok(batch) => {
                    quiet_since = self.sim.now();
                    self.ack(&batch).await;
                }
                Err(_) => self.belief.is_wrong(&self.sim).await,
            }
        }
    }

    async fn receive(&mut self, max: u32, lease: Duration, wait: Duration) -> Result<Vec<Held>, Unanswered> {
        let (sim, group, node) = (self.sim.clone(), self.group.id, self.belief.node);
        let request = ReceiveRequest {
            group: self.group.clone(),
            topic: self.topic.clone(),
            filter: Arc::new(Filter::All),
            client: self.name.clone(),
            max,
            lease: LeaseTerm::For(lease),
            wait,
            attempt_id: None,
            ordered_batch: !sim.in_one_of(3),
            member: String::new(),
        };
        let from = sim.now();
        let given = call(&sim, node, wait, |broker| {
            let sim = sim.clone();
            async move {
                let deliveries = broker.receive(request).await?;
                let batch: Vec<Given> = deliveries.iter().map(given).collect();
                for one in &batch {
                    sim.note(format_args!("{node} gives `{}` to {}, attempt {}, from {:?}", one.id, group.0, one.attempt, one.place()));
                }
                let mut inside = sim.inside();
                let now = inside.now;
                batch.iter().for_each(|_| inside.marks.add(Mark::Deliveries));
                if let Err(why) = inside.book.delivered(group, &batch, (from, now), lease) {
                    inside.broken(why);
                }
                Ok::<_, ReceiveError>(batch.iter().map(|one| Held { handle: one.handle }).collect::<Vec<_>>())
            }
        })
        .await?;
        let batch = given.map_err(|_| Unanswered::Refused)?;
        self.received += batch.len() as u64;
        Ok(batch)
    }

    /// Finishes a batch, or a part of it, or fails, or forgets it.
    async fn work(&mut self, mut batch: Vec<Held>) {
        match self.sim.below(12) {
            0 => return,
            1 => batch.truncate(self.sim.below(batch.len() as u64 + 1) as usize),
            2 | 3 if !batch.is_empty() => {
                let failed = batch.remove(self.sim.below(batch.len() as u64) as usize);
                self.fail(failed).await;
                // In an ordered group what is behind it was taken back.
                if self.group.id == ORDERED {
                    return;
                }
            }
            4 if !batch.is_empty() && self.group.id == IMPATIENT => {
                let dead = batch.remove(0);
                self.bury(dead).await;
            }
            _ => {}
        }
        self.ack(&batch).await;
    }

    async fn ack(&mut self, batch: &[Held]) {
        let mut left: Vec<ReceiptHandle> = batch.iter().map(|held| held.handle).collect();
        for _ in 0..4 {
            if left.is_empty() {
                return;
            }
            let (sim, group, node) = (self.sim.clone(), self.group.clone(), self.belief.node);
            left.iter().for_each(|handle| sim.inside().book.finishing(group.id, handle));
            let handles = left.clone();
            let answers = call(&sim, node, Duration::ZERO, |broker| {
                let sim = sim.clone();
                async move {
                    let answers = broker.ack(&group, handles.clone()).await;
                    sim.note(format_args!("{node} finishes {handles:?}: {answers:?}"));
                    let mut inside = sim.inside();
                    for (handle, _) in handles.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()) {
                        inside.marks.add(Mark::Acks);
                        inside.book.finished(group.id, handle);
                    }
                    answers
                }
            })
            .await;
            match answers {
                Ok(answers) => {
                    let again = |answer: &Result<(), LeaseError>| matches!(answer, Err(LeaseError::NoLeader | LeaseError::Failed { .. }));
                    left = left.into_iter().zip(answers).filter(|(_, answer)| again(answer)).map(|(handle, _)| handle).collect();
                    if !left.is_empty() {
                        self.belief.is_wrong(&self.sim).await;
                    }
                }
                Err(_) => self.belief.is_wrong(&self.sim).await,
            }
        }
    }

    /// The consumer failed: the message is to come again.
    async fn fail(&mut self, held: Held) {
        let (sim, group, node) = (self.sim.clone(), self.group.clone(), self.belief.node);
        sim.inside().book.given_back(group.id, &held.handle);
        let after = sim.between_ms(0, 400);
        let request = VisibilityChange { group, handle: held.handle, after, failed_for_at_least: Duration::ZERO, attempt: AttemptCount::Counts };
        let answer = call(&sim, node, Duration::ZERO, |broker| async move { broker.change_visibility(request).await }).await;
        sim.note(format_args!("{node} takes back {:?}: {answer:?}", held.handle));
    }

    async fn bury(&mut self, held: Held) {
        let (sim, group, node) = (self.sim.clone(), self.group.clone(), self.belief.node);
        sim.inside().book.finishing(group.id, &held.handle);
        let id = group.id;
        let answer = call(&sim, node, Duration::ZERO, |broker| async move { broker.dead_letter(&group, held.handle).await }).await;
        sim.note(format_args!("{node} buries {:?}: {answer:?}", held.handle));
        if answer == Ok(Ok(())) {
            let mut inside = sim.inside();
            inside.marks.add(Mark::DeadLetters);
            inside.book.finished(id, &held.handle);
        }
    }
}

fn given(delivery: &Delivery) -> Given {
    let (facts, message) = (delivery.message.facts(), delivery.message.message());
    Given {
        handle: delivery.handle,
        attempt: delivery.attempt,
        id: message.id,
        body: message.body,
        deliver_ms: facts.deliver_ms,
        store_ms: facts.store_ms,
    }
}

/// Tells every broker that producers can be asked.
pub fn producers_are_there(sim: &Sim, topic: &Topic) {
    let brokers: BTreeMap<u64, Arc<LocalBroker>> = sim.inside().brokers.iter().map(|(node, (_, broker))| (*node, broker.clone())).collect();
    for (node, broker) in brokers {
        broker.producer_ready(&[topic.id]);
        sim.inside().stirred.insert(node);
    }
}
