//! What became of a message.

use crate::broker as pb;
use gantry_model::contract::broker::{LetterId, Life, LifeEvent, LifeStep};
use gantry_model::message::DeadReason;
use gantry_model::{ClientId, GroupId, LeaseId, Lsn, Offset, QueueId, TopicId};
use pb::life::event::What;
use pb::life::{Dead, Event, GivenBack, Leased};

pub fn life_to_wire(life: &Life) -> pb::Life {
    let event = |event: &LifeEvent| {
        let (group, what) = step_to_wire(&event.what);
        Event { lsn: event.lsn.0, time_ms: event.time_ms, group: group.0, what: Some(what) }
    };
    pb::Life { events: life.events.iter().map(event).collect(), complete: life.complete }
}

fn step_to_wire(step: &LifeStep) -> (GroupId, What) {
    let nobody = GroupId(0);
    match *step {
        LifeStep::Stored => (nobody, What::Stored(pb::Empty {})),
        LifeStep::Released => (nobody, What::Released(pb::Empty {})),
        LifeStep::Leased { group, ref client, lease, attempt, until_ms } => {
            (group, What::Leased(Leased { client: client.as_str().to_owned(), lease: lease.0, attempt, until_ms }))
        }
        LifeStep::Extended { group, until_ms } => (group, What::ExtendedMs(until_ms)),
        LifeStep::GivenBack { group, visible_ms, counted } => (group, What::GivenBack(GivenBack { visible_ms, counted })),
        LifeStep::Lapsed { group, visible_ms } => (group, What::LapsedMs(visible_ms)),
        LifeStep::Acked { group } => (group, What::Acked(pb::Empty {})),
        LifeStep::Filtered { group } => (group, What::Filtered(pb::Empty {})),
        LifeStep::Skipped { group } => (group, What::Skipped(pb::Empty {})),
        LifeStep::Dead { group, reason, attempts, ref letter } => {
            (group, What::Dead(Dead { reason: reason as u32, attempts, letter: Some(letter.into()) }))
        }
        LifeStep::Redriven { topic, queue, offset } => (nobody, What::Redriven(pb::Place { topic: topic.0, queue: queue.0, offset: offset.0 })),
        LifeStep::Purged => (nobody, What::Purged(pb::Empty {})),
        LifeStep::Reset { group, to } => (group, What::Reset(to.0)),
    }
}

/// The life; `None` if an event of it isn't one.
pub fn life_from_wire(wire: pb::Life) -> Option<Life> {
    let event = |event: Event| {
        let what = step_from_wire(GroupId(event.group), event.what?)?;
        Some(LifeEvent { lsn: Lsn(event.lsn), time_ms: event.time_ms, what })
    };
    Some(Life { events: wire.events.into_iter().map(event).collect::<Option<_>>()?, complete: wire.complete })
}

fn step_from_wire(group: GroupId, what: What) -> Option<LifeStep> {
    Some(match what {
        What::Stored(_) => LifeStep::Stored,
        What::Released(_) => LifeStep::Released,
        What::Leased(Leased { client, lease, attempt, until_ms }) => {
            LifeStep::Leased { group, client: ClientId::new(&client), lease: LeaseId(lease), attempt, until_ms }
        }
        What::ExtendedMs(until_ms) => LifeStep::Extended { group, until_ms },
        What::GivenBack(GivenBack { visible_ms, counted }) => LifeStep::GivenBack { group, visible_ms, counted },
        What::LapsedMs(visible_ms) => LifeStep::Lapsed { group, visible_ms },
        What::Acked(_) => LifeStep::Acked { group },
        What::Filtered(_) => LifeStep::Filtered { group },
        What::Skipped(_) => LifeStep::Skipped { group },
        What::Dead(Dead { reason, attempts, letter }) => {
            let reason = DeadReason::from_number(u8::try_from(reason).ok()?)?;
            LifeStep::Dead { group, reason, attempts, letter: LetterId::from(letter?) }
        }
        What::Redriven(pb::Place { topic, queue, offset }) => {
            LifeStep::Redriven { topic: TopicId(topic), queue: QueueId(queue), offset: Offset(offset) }
        }
        What::Purged(_) => LifeStep::Purged,
        What::Reset(to) => LifeStep::Reset { group, to: Offset(to) },
    })
}
