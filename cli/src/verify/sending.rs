//! A lane: one producer that sends a message, waits for the answer, and sends the next one. What got no answer is sent again under the same id,
//! as RocketMQ's clients do; what is still without one after that stays unknown for ever.

use super::history::{End, Event, Id, Kind, Micros, Outcome, Resolution, Send};
use super::link::{self, Link, Role, outcome};
use super::run::Run;
use super::workload::Ending;
use crate::connect::within;
use gantry_proto::v2::{Code, EndTransactionRequest, SendMessageRequest, Status, TransactionSource};
use std::sync::Arc;
use std::time::Duration;

/// A commit or rollback without an answer is repeated for this long: until it is answered nobody knows whether the message must come.
const END_WITHIN: Duration = Duration::from_secs(60);
/// Lanes wait for the consumers when this many messages are not acknowledged.
const OPEN_MAX: u64 = 200_000;
const REASON_MAX: usize = 200;

/// Sends until the run stops or has sent enough.
pub async fn produce(run: Arc<Run>, lane: u32) {
    let topic = run.header.lanes[lane as usize].topic;
    let role = Role::Producer { topic: run.topic_resource(topic) };
    let link = run.link(role, lane as usize);
    let kind = run.topic(topic).kind;
    let lanes = run.header.lanes.len() as u64;
    // The first lanes send what cannot be divided.
    let share = run.messages / lanes + u64::from(u64::from(lane) < run.messages % lanes);
    let mut producer = Lane { run: run.clone(), link, topic, kind };
    let mut due = run.recorder.now().plus(Micros::of(run.interval.mul_f64(f64::from(lane) / lanes as f64)));
    for seq in 0..u32::try_from(share).unwrap_or(u32::MAX) {
        producer.wait_until(due).await;
        if !run.producing.goes_on() {
            break;
        }
        producer.send(Id { lane, seq }).await;
        // What could not be sent in time is not made up for: a burst would hide what comes after a failure.
        due = due.plus(Micros::of(run.interval)).max(run.recorder.now());
    }
}

struct Lane {
    run: Arc<Run>,
    link: Link,
    topic: u16,
    kind: Kind,
}

/// What came of the sends of one message.
struct Sent {
    outcome: Outcome,
    attempts: u32,
    transaction_id: String,
    reason: Option<String>,
}

impl Lane {
    async fn wait_until(&self, due: Micros) {
        tokio::time::sleep(due.since(self.run.recorder.now()).duration()).await;
        while self.run.recorder.counts().open > OPEN_MAX && self.run.producing.goes_on() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn send(&mut self, id: Id) {
        let recorder = self.run.recorder.clone();
        let from = recorder.now();
        let (message, delay) = self.run.workload.message(id, self.kind, self.run.topic_resource(self.topic));
        let sent = self.try_to_send(&SendMessageRequest { messages: vec![message] }).await;
        let to = recorder.now();
        let due = delay.map(|delay| from.plus(Micros::of(delay)));
        let Sent { outcome, attempts, transaction_id, reason } = sent;
        recorder.add(Event::Send(Send { id, from, to, attempts, outcome, due, reason }));
        let stored = outcome == Outcome::Ok;
        recorder.sent(stored.then_some(to));
        match (self.kind, stored) {
            (_, false) => {}
            (Kind::Transaction, true) => self.end(id, transaction_id).await,
            (_, true) => recorder.expect(id),
        }
    }

    async fn try_to_send(&mut self, ask: &SendMessageRequest) -> Sent {
        let mut sent = Sent { outcome: Outcome::Refused, attempts: 0, transaction_id: String::new(), reason: None };
        let mut uncertain = false;
        while sent.attempts < self.run.attempts {
            sent.attempts += 1;
            let answer = self.link.client().await.send_message(within(ask.clone(), self.run.send_timeout)).await;
            let status = match answer {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    let entry = answer.entries.into_iter().next().unwrap_or_default();
                    sent.transaction_id = entry.transaction_id;
                    // The entry is about the message; the status above it says the same unless there is no entry.
                    entry.status.or(answer.status)
                }
                Err(status) => {
                    uncertain = true;
                    sent.reason = Some(shortened(format!("{:?}: {}", status.code(), status.message())));
                    self.link.broke().await;
                    continue;
                }
            };
            sent.outcome = outcome(status.as_ref());
            if sent.outcome == Outcome::Ok {
                self.link.worked();
                return Sent { reason: None, ..sent };
            }
            uncertain |= sent.outcome == Outcome::Unknown;
            sent.reason = status.as_ref().map(|status| shortened(format!("{}: {}", status.code, status.message)));
            self.link.put_off().await;
            if !passes(status.as_ref()) {
                break;
            }
        }
        // One attempt without a clear answer is enough to be uncertain, whatever was said to the others.
        Sent { outcome: if uncertain { Outcome::Unknown } else { Outcome::Refused }, ..sent }
    }

    /// Ends the transaction as the workload wants it, or leaves that to the server's question.
    async fn end(&mut self, id: Id, transaction_id: String) {
        let Ending::End(resolution) = self.run.workload.ending(id) else { return };
        let recorder = self.run.recorder.clone();
        let ask = EndTransactionRequest {
            topic: Some(self.run.topic_resource(self.topic)),
            message_id: id.wire(self.run.workload.run),
            transaction_id,
            resolution: link::wire(resolution) as i32,
            source: TransactionSource::SourceClient as i32,
            ..Default::default()
        };
        let from = recorder.now();
        let (mut uncertain, mut said) = (false, Outcome::Unknown);
        while said != Outcome::Ok && recorder.now().since(from).duration() < END_WITHIN {
            match self.link.client().await.end_transaction(within(ask.clone(), self.run.send_timeout)).await {
                Ok(answer) => {
                    let status = answer.into_inner().status;
                    said = outcome(status.as_ref());
                    if said == Outcome::Ok {
                        self.link.worked();
                    } else if said == Outcome::Refused && !passes(status.as_ref()) {
                        break;
                    } else {
                        self.link.put_off().await;
                    }
                }
                Err(_) => self.link.broke().await,
            }
            uncertain |= said != Outcome::Ok;
        }
        let outcome = if said == Outcome::Refused && uncertain { Outcome::Unknown } else { said };
        recorder.add(Event::End(End { id, from, to: recorder.now(), resolution, outcome }));
        if resolution == Resolution::Commit && outcome == Outcome::Ok {
            recorder.expect(id);
        }
    }
}

/// Whether an answer may be another one in a moment.
fn passes(status: Option<&Status>) -> bool {
    match status.map(|status| (status.code, outcome(Some(status)))) {
        Some((code, Outcome::Refused)) => code == Code::TooManyRequests as i32,
        _ => true,
    }
}

fn shortened(mut reason: String) -> String {
    if let Some((end, _)) = reason.char_indices().nth(REASON_MAX) {
        reason.truncate(end);
    }
    reason
}
