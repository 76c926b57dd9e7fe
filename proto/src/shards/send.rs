//! Sends and what became of each message; transactions and open ones.

use super::message::{self, stored_from_wire, stored_to_wire};
use super::ms;
use super::refusal::Refuse;
use crate::broker as pb;
use gantry_model::contract::broker::{Check, EndedBy, OpenTransaction, PackedSend, Resolution, SendRequest, Sent, Ticket};
use gantry_model::handle::TransactionHandle;
use gantry_model::{ClientId, Offset, QueueId, Topic};
use pb::sent::Ticket as WireTicket;
use pb::sent_each::One;
use pb::sent_each::one::Body;
use std::sync::Arc;
use std::time::Duration;

pub fn send_to_wire(request: &SendRequest) -> pb::Send {
    pb::Send {
        topic: request.topic.id.0,
        messages: request.messages.iter().map(message::to_wire).collect(),
        client: request.client.as_str().to_owned(),
        wait_ms: ms(request.wait),
    }
}

/// The request; `None` if one of its messages can't be one.
pub fn send_from_wire(wire: pb::Send, topic: Arc<Topic>) -> Option<PackedSend> {
    Some(PackedSend {
        topic,
        messages: wire.messages.into_iter().map(message::packed_from_wire).collect::<Option<_>>()?,
        client: ClientId::new(&wire.client),
        wait: Duration::from_millis(wire.wait_ms),
    })
}

fn sent_to_wire(sent: &Sent) -> pb::Sent {
    let ticket = sent.ticket.as_ref().map(|ticket| match ticket {
        Ticket::Transaction(handle) => WireTicket::Transaction(handle.into()),
        Ticket::Recall(handle) => WireTicket::Recall(handle.into()),
    });
    pb::Sent { queue: sent.queue.0, offset: sent.offset.0, duplicate: sent.duplicate, ticket }
}

fn sent_from_wire(wire: pb::Sent) -> Sent {
    let ticket = wire.ticket.map(|ticket| match ticket {
        WireTicket::Transaction(handle) => Ticket::Transaction(handle.into()),
        WireTicket::Recall(handle) => Ticket::Recall(handle.into()),
    });
    Sent { queue: QueueId(wire.queue), offset: Offset(wire.offset), duplicate: wire.duplicate, ticket }
}

/// What became of each message, or dead letter.
pub fn sent_each_to_wire<E: Refuse>(answers: &[Result<Sent, E>]) -> pb::SentEach {
    let one = |answer: &Result<Sent, E>| match answer {
        Ok(sent) => One { body: Some(Body::Sent(sent_to_wire(sent))) },
        Err(error) => One { body: Some(Body::Refused(error.refusal())) },
    };
    pb::SentEach { each: answers.iter().map(one).collect() }
}

pub fn sent_each_from_wire<E: Refuse>(wire: pb::SentEach) -> Vec<Result<Sent, E>> {
    let one = |one: One| match one.body {
        Some(Body::Sent(sent)) => Ok(sent_from_wire(sent)),
        Some(Body::Refused(refusal)) => Err(E::refused(refusal)),
        None => Err(E::refused(pb::Refusal::default())),
    };
    wire.each.into_iter().map(one).collect()
}

pub fn end_to_wire(topic: &Topic, handle: &TransactionHandle, resolution: Resolution, by: EndedBy) -> pb::End {
    let (commit, by_operator) = (resolution == Resolution::Commit, by == EndedBy::Operator);
    pb::End { topic: topic.id.0, transaction: Some(handle.into()), commit, by_operator }
}

pub fn end_from_wire(wire: pb::End) -> Option<(TransactionHandle, Resolution, EndedBy)> {
    let resolution = if wire.commit { Resolution::Commit } else { Resolution::Rollback };
    let by = if wire.by_operator { EndedBy::Operator } else { EndedBy::Producer };
    Some((wire.transaction?.into(), resolution, by))
}

pub fn open_to_wire(open: &OpenTransaction) -> pb::open_transactions::One {
    pb::open_transactions::One {
        transaction: Some((&open.handle).into()),
        message: Some(stored_to_wire(&open.message)),
        sender: open.sender.as_str().to_owned(),
        checks: open.checks,
        next_check_ms: open.next_check_ms,
        given_up: open.given_up,
    }
}

pub fn open_from_wire(wire: pb::open_transactions::One) -> Option<OpenTransaction> {
    Some(OpenTransaction {
        handle: wire.transaction?.into(),
        message: stored_from_wire(wire.message?)?,
        sender: ClientId::new(&wire.sender),
        checks: wire.checks,
        next_check_ms: wire.next_check_ms,
        given_up: wire.given_up,
    })
}

pub fn check_to_wire(number: u64, check: &Check) -> pb::Question {
    let sender = check.sender.as_str().to_owned();
    pb::Question { number, transaction: Some((&check.handle).into()), message: Some(stored_to_wire(&check.message)), sender }
}

pub fn check_from_wire(wire: pb::Question) -> Option<Check> {
    let (handle, message) = (wire.transaction?.into(), stored_from_wire(wire.message?)?);
    Some(Check { handle, message, sender: ClientId::new(&wire.sender) })
}
