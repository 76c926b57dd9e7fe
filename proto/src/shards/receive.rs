//! Wishes to receive, and how deliveries end.

use super::ms;
use super::refusal::Refuse;
use crate::broker as pb;
use gantry_model::contract::broker::{AttemptCount, LeaseTerm, ReceiveRequest, VisibilityChange};
use gantry_model::{ClientId, Filter, Group, Topic};
use std::sync::Arc;
use std::time::Duration;

pub fn filter_to_wire(filter: &Filter) -> Option<pb::Wanted> {
    match filter {
        Filter::All => None,
        Filter::Tags(tags) => Some(pb::Wanted { tags: tags.clone(), sql: None }),
        Filter::Sql(sql) => Some(pb::Wanted { tags: Vec::new(), sql: Some(sql.source().to_owned()) }),
    }
}

/// The filter; `None` if its expression can't be read.
pub fn filter_from_wire(wire: Option<pb::Wanted>) -> Option<Filter> {
    match wire {
        None => Some(Filter::All),
        Some(pb::Wanted { sql: Some(expression), .. }) => Filter::sql(&expression).ok(),
        Some(pb::Wanted { tags, .. }) if tags.is_empty() => Some(Filter::All),
        Some(pb::Wanted { tags, .. }) => Some(Filter::Tags(tags)),
    }
}

pub fn receive_to_wire(request: &ReceiveRequest) -> pb::Receive {
    pb::Receive {
        group: request.group.id.0,
        topic: request.topic.id.0,
        filter: filter_to_wire(&request.filter),
        client: request.client.as_str().to_owned(),
        max: request.max,
        lease_ms: match request.lease {
            LeaseTerm::For(time) => Some(ms(time)),
            LeaseTerm::WhileClientLives => None,
        },
        wait_ms: ms(request.wait),
        attempt_id: request.attempt_id.clone(),
        ordered_batch: request.ordered_batch,
        member: request.member.clone(),
    }
}

pub fn receive_from_wire(wire: pb::Receive, group: Arc<Group>, topic: Arc<Topic>, filter: Arc<Filter>) -> ReceiveRequest {
    ReceiveRequest {
        group,
        topic,
        filter,
        client: ClientId::new(&wire.client),
        max: wire.max,
        lease: wire.lease_ms.map_or(LeaseTerm::WhileClientLives, |time| LeaseTerm::For(Duration::from_millis(time))),
        wait: Duration::from_millis(wire.wait_ms),
        attempt_id: wire.attempt_id,
        ordered_batch: wire.ordered_batch,
        member: wire.member,
    }
}

pub fn change_to_wire(change: &VisibilityChange) -> pb::Change {
    pb::Change {
        group: change.group.id.0,
        handle: Some((&change.handle).into()),
        after_ms: ms(change.after),
        failed_ms: ms(change.failed_for_at_least),
        suspended: change.attempt == AttemptCount::Suspended,
    }
}

pub fn change_from_wire(wire: pb::Change, group: Arc<Group>) -> Option<VisibilityChange> {
    Some(VisibilityChange {
        group,
        handle: wire.handle?.into(),
        after: Duration::from_millis(wire.after_ms),
        failed_for_at_least: Duration::from_millis(wire.failed_ms),
        attempt: if wire.suspended { AttemptCount::Suspended } else { AttemptCount::Counts },
    })
}

/// What became of each of several things, most of which went well.
pub fn done_each_to_wire<E: Refuse>(answers: &[Result<(), E>]) -> pb::DoneEach {
    let refused = answers.iter().enumerate().filter_map(|(at, answer)| {
        let refusal = answer.as_ref().err()?.refusal();
        Some(pb::done_each::Refused { at: at as u32, refusal: Some(refusal) })
    });
    pb::DoneEach { count: answers.len() as u32, refused: refused.collect() }
}

/// The answers, of which there must be `count`.
pub fn done_each_from_wire<E: Refuse>(wire: pb::DoneEach, count: usize) -> Option<Vec<Result<(), E>>> {
    if wire.count as usize != count {
        return None;
    }
    let mut answers: Vec<Result<(), E>> = (0..count).map(|_| Ok(())).collect();
    for pb::done_each::Refused { at, refusal } in wire.refused {
        *answers.get_mut(at as usize)? = Err(E::refused(refusal?));
    }
    Some(answers)
}
