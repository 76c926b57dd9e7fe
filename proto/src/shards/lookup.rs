//! Looking: positions, bounds, queries, and where messages stand.

use crate::broker as pb;
use gantry_model::contract::broker::{Query, QueueBounds, QueuePosition, Standing};
use gantry_model::{ClientId, Offset, QueueId, Topic};
use pb::find::Query as WireQuery;
use pb::standings::one::Body;

pub fn positions_to_wire(positions: &[QueuePosition]) -> pb::Positions {
    let one = |at: &QueuePosition| pb::positions::One {
        queue: at.queue.0,
        committed: at.committed.0,
        end: at.end.0,
        ready: at.ready,
        in_flight: at.in_flight,
        waiting: at.waiting,
        oldest_ms: at.oldest_ms,
        receives: at.receives,
    };
    pb::Positions { each: positions.iter().map(one).collect() }
}

pub fn positions_from_wire(wire: pb::Positions) -> Vec<QueuePosition> {
    let one = |at: pb::positions::One| QueuePosition {
        queue: QueueId(at.queue),
        committed: Offset(at.committed),
        end: Offset(at.end),
        ready: at.ready,
        in_flight: at.in_flight,
        waiting: at.waiting,
        oldest_ms: at.oldest_ms,
        receives: at.receives,
    };
    wire.each.into_iter().map(one).collect()
}

pub fn queues_to_wire(queues: &[QueueBounds]) -> pb::Queues {
    let one = |&QueueBounds { queue, min, max, bytes }: &QueueBounds| pb::queues::One { queue: queue.0, min: min.0, max: max.0, bytes };
    pb::Queues { each: queues.iter().map(one).collect() }
}

pub fn queues_from_wire(wire: pb::Queues) -> Vec<QueueBounds> {
    let one = |one: pb::queues::One| QueueBounds { queue: QueueId(one.queue), min: Offset(one.min), max: Offset(one.max), bytes: one.bytes };
    wire.each.into_iter().map(one).collect()
}

pub fn find_to_wire(topic: &Topic, query: &Query, limit: usize) -> pb::Find {
    let query = match query {
        Query::MessageId(id) => WireQuery::MessageId(id.clone()),
        Query::Key(key) => WireQuery::Key(key.clone()),
        Query::Offset { queue, offset } => WireQuery::From(pb::QueueAndOffset { queue: queue.0, offset: offset.0 }),
        &Query::Stored { from_ms, to_ms } => WireQuery::Stored(pb::Span { from_ms, to_ms }),
    };
    pb::Find { topic: topic.id.0, limit: limit as u64, query: Some(query) }
}

pub fn query_from_wire(wire: pb::Find) -> Option<Query> {
    Some(match wire.query? {
        WireQuery::MessageId(id) => Query::MessageId(id),
        WireQuery::Key(key) => Query::Key(key),
        WireQuery::From(place) => Query::Offset { queue: QueueId(place.queue), offset: Offset(place.offset) },
        WireQuery::Stored(span) => Query::Stored { from_ms: span.from_ms, to_ms: span.to_ms },
    })
}

pub fn standings_to_wire(standings: &[Standing]) -> pb::Standings {
    let one = |standing: &Standing| match standing {
        &Standing::Ready { attempts } => Body::Ready(pb::standings::Ready { attempts }),
        Standing::InFlight { client, attempt, until_ms } => {
            let client = client.as_ref().map(|client| client.as_str().to_owned());
            Body::InFlight(pb::standings::InFlight { client, attempt: *attempt, until_ms: *until_ms })
        }
        &Standing::Waiting { attempts, visible_ms } => Body::Waiting(pb::standings::Waiting { attempts, visible_ms }),
        Standing::Done => Body::Done(pb::Empty {}),
    };
    pb::Standings { each: standings.iter().map(|standing| pb::standings::One { body: Some(one(standing)) }).collect() }
}

pub fn standings_from_wire(wire: pb::Standings) -> Option<Vec<Standing>> {
    let one = |one: pb::standings::One| {
        Some(match one.body? {
            Body::Ready(ready) => Standing::Ready { attempts: ready.attempts },
            Body::InFlight(pb::standings::InFlight { client, attempt, until_ms }) => {
                Standing::InFlight { client: client.map(|client| ClientId::new(&client)), attempt, until_ms }
            }
            Body::Waiting(pb::standings::Waiting { attempts, visible_ms }) => Standing::Waiting { attempts, visible_ms },
            Body::Done(_) => Standing::Done,
        })
    };
    wire.each.into_iter().map(one).collect()
}
