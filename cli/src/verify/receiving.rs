//! A consumer: receives messages of one topic for one group, writes down what came, and acknowledges most of it. Some is given back and some
//! forgotten, as the workload says, so that redelivery is at work all the time.
//!
//! On a FIFO topic, what came behind a message that was not acknowledged is left alone: the server takes it back.

use super::history::{Ack, Delivery, Event, Id, Kind, Micros, Nack, Outcome, Receive};
use super::link::{Link, Role, outcome};
use super::run::Run;
use super::workload::Handling;
use crate::connect::within;
use crate::group;
use gantry_proto::v2::receive_message_response::Content;
use gantry_proto::v2::{
    AckMessageEntry, AckMessageRequest, AckMessageResponse, ChangeInvisibleDurationRequest, Code, FilterExpression, FilterType, Message,
    MessageQueue, ReceiveMessageRequest, Resource, Status,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How long the server waits for a message; also the longest that the end of a run waits for a consumer.
const POLL: Duration = Duration::from_secs(2);
const BATCH: i32 = 16;

/// Which consumer.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub topic: u16,
    pub group: u16,
    pub number: usize,
}

/// Receives until the run stops.
pub async fn consume(run: Arc<Run>, place: Place) {
    let (topic, group) = (run.topic_resource(place.topic), run.group_resource(place.group));
    let link = run.link(Role::Consumer { topic: topic.clone(), group: group.clone() }, place.number);
    let kind = run.topic(place.topic).kind;
    let mut consumer = Consumer { run: run.clone(), link, place, topic, group, kind };
    while run.consuming.goes_on() {
        if let Some(batch) = consumer.receive().await {
            consumer.handle(batch).await;
        }
    }
}

struct Consumer {
    run: Arc<Run>,
    link: Link,
    place: Place,
    topic: Resource,
    group: Resource,
    kind: Kind,
}

/// What one call brought.
struct Batch {
    call: u64,
    from: Micros,
    messages: Vec<Received>,
}

/// A message in the hands of the consumer.
#[derive(Clone)]
struct Received {
    id: Id,
    attempt: i32,
    handle: String,
}

/// An answer as far as it came.
#[derive(Default)]
struct Parts {
    messages: Vec<(Micros, Message)>,
    status: Option<Status>,
    complete: bool,
}

impl Consumer {
    /// One call; nothing if there is nothing to handle.
    async fn receive(&mut self) -> Option<Batch> {
        let recorder = self.run.recorder.clone();
        let (call, from) = (recorder.next_call(), recorder.now());
        let mut client = self.link.client().await;
        let longest = POLL + self.link.global().timeout;
        let mut parts = Parts::default();
        let ask = within(self.ask(), longest);
        // An answer that stops in its middle has no deadline but ours.
        let whole = tokio::time::timeout(longest, async {
            let mut stream = client.receive_message(ask).await?.into_inner();
            while let Some(part) = stream.message().await? {
                match part.content {
                    Some(Content::Message(message)) => parts.messages.push((recorder.now(), message)),
                    Some(Content::Status(status)) => parts.status = Some(status),
                    Some(Content::DeliveryTimestamp(_)) | None => {}
                }
            }
            Ok::<(), tonic::Status>(())
        });
        let ended = whole.await.is_ok_and(|answer| answer.is_ok());
        let code = parts.status.as_ref().map_or(0, |status| status.code);
        parts.complete = ended && (code == Code::Ok as i32 || code == Code::MessageNotFound as i32);
        let complete = parts.complete;
        let batch = self.note(call, from, parts);
        if complete {
            self.link.worked();
            return Some(batch).filter(|batch| !batch.messages.is_empty());
        }
        if ended && code != Code::UnrecognizedClientType as i32 {
            self.link.put_off().await;
        } else {
            self.link.broke().await;
        }
        None
    }

    fn ask(&self) -> ReceiveMessageRequest {
        ReceiveMessageRequest {
            group: Some(self.group.clone()),
            message_queue: Some(MessageQueue { topic: Some(self.topic.clone()), id: -1, ..Default::default() }),
            filter_expression: Some(FilterExpression { r#type: FilterType::Tag as i32, expression: "*".to_owned() }),
            batch_size: BATCH,
            invisible_duration: group::wire(self.run.header.invisible.duration()),
            long_polling_timeout: group::wire(POLL),
            ..Default::default()
        }
    }

    /// Writes down what came.
    fn note(&self, call: u64, from: Micros, parts: Parts) -> Batch {
        let recorder = &self.run.recorder;
        let (mut messages, mut strangers, mut received) = (Vec::new(), Vec::new(), Vec::new());
        for (at, message) in &parts.messages {
            let system = message.system_properties.clone().unwrap_or_default();
            let Some(id) = Id::read(&system.message_id, self.run.workload.run) else {
                strangers.push(system.message_id);
                continue;
            };
            let kind = self.run.header.topic_of(id.lane).map_or(self.kind, |topic| topic.kind);
            let attempt = system.delivery_attempt.unwrap_or(1);
            let state = self.run.workload.state(id, kind, message);
            let offset = system.queue_offset.unwrap_or(-1);
            messages.push(Delivery { id, at: *at, queue: system.queue_id, offset, attempt, state });
            received.push(Received { id, attempt, handle: system.receipt_handle.unwrap_or_default() });
            recorder.came(self.place.group, id, *at);
        }
        // A call that broke off with nothing tells nothing.
        if parts.complete || !parts.messages.is_empty() {
            let Place { topic, group, .. } = self.place;
            let (to, complete) = (recorder.now(), parts.complete);
            recorder.add(Event::Receive(Receive { call, topic, group, from, to, complete, messages, strangers }));
        }
        Batch { call, from, messages: received }
    }

    async fn handle(&mut self, batch: Batch) {
        let (mut acks, mut nacks) = (Vec::new(), Vec::new());
        let mut stopped = BTreeSet::new();
        for message in &batch.messages {
            if stopped.contains(&message.id.lane) {
                continue;
            }
            let handling = self.run.workload.handling(message.id, self.kind, self.place.group, message.attempt);
            match handling {
                Handling::Ack => acks.push(message.clone()),
                Handling::Nack(hidden) => nacks.push((message.clone(), hidden)),
                Handling::Forget => {}
            }
            if self.kind == Kind::Fifo && handling != Handling::Ack {
                stopped.insert(message.id.lane);
            }
        }
        self.acknowledge(&batch, acks).await;
        for (message, hidden) in nacks {
            self.give_back(&batch, message, hidden).await;
        }
    }

    /// Acknowledges until each message has a clear answer or its lease is over.
    async fn acknowledge(&mut self, batch: &Batch, mut left: Vec<Received>) {
        let recorder = self.run.recorder.clone();
        let (from, mut uncertain) = (recorder.now(), false);
        let over = batch.from.plus(self.run.header.invisible);
        while !left.is_empty() {
            let entry = |message: &Received| AckMessageEntry {
                message_id: message.id.wire(self.run.workload.run),
                receipt_handle: message.handle.clone(),
                lite_topic: None,
            };
            let entries = left.iter().map(entry).collect();
            let ask = AckMessageRequest { group: Some(self.group.clone()), topic: Some(self.topic.clone()), entries };
            let answer = self.link.client().await.ack_message(within(ask, self.run.send_timeout)).await;
            let to = recorder.now();
            let last = to >= over;
            let outcomes = answer.as_ref().map_or_else(|_| vec![Outcome::Unknown; left.len()], |answer| outcomes(answer.get_ref(), left.len()));
            let mut again = Vec::new();
            for (message, outcome) in left.into_iter().zip(outcomes) {
                if outcome == Outcome::Unknown && !last {
                    again.push(message);
                    continue;
                }
                // A handle that is refused after a try without an answer may have been used by that one.
                let outcome = if outcome == Outcome::Refused && uncertain { Outcome::Unknown } else { outcome };
                recorder.add(Event::Ack(Ack { id: message.id, group: self.place.group, call: batch.call, from, to, outcome }));
                if outcome == Outcome::Ok {
                    recorder.done(self.place.group, message.id);
                }
            }
            left = again;
            uncertain = true;
            self.after(answer.is_ok(), left.is_empty()).await;
        }
    }

    /// Chooses the server for the next call.
    async fn after(&mut self, answered: bool, settled: bool) {
        match (answered, settled) {
            (true, true) => self.link.worked(),
            (true, false) => self.link.put_off().await,
            (false, _) => self.link.broke().await,
        }
    }

    async fn give_back(&mut self, batch: &Batch, message: Received, hidden: Duration) {
        let recorder = self.run.recorder.clone();
        let ask = ChangeInvisibleDurationRequest {
            group: Some(self.group.clone()),
            topic: Some(self.topic.clone()),
            receipt_handle: message.handle,
            invisible_duration: group::wire(hidden),
            message_id: message.id.wire(self.run.workload.run),
            ..Default::default()
        };
        let from = recorder.now();
        let answer = self.link.client().await.change_invisible_duration(within(ask, self.run.send_timeout)).await;
        let outcome = answer.as_ref().map_or(Outcome::Unknown, |answer| outcome(answer.get_ref().status.as_ref()));
        let (id, group, hidden) = (message.id, self.place.group, Micros::of(hidden));
        recorder.add(Event::Nack(Nack { id, group, call: batch.call, from, to: recorder.now(), outcome, hidden }));
        // Not tried again: a message that is not given back comes when its lease is over.
        self.after(answer.is_ok(), true).await;
    }
}

/// The outcome of each entry. An answer without entries speaks for all of them.
fn outcomes(answer: &AckMessageResponse, count: usize) -> Vec<Outcome> {
    let whole = outcome(answer.status.as_ref());
    let each = |number: usize| answer.entries.get(number).and_then(|entry| entry.status.as_ref()).map_or(whole, |status| outcome(Some(status)));
    (0..count).map(each).collect()
}
