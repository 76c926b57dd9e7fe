//! What happened to one message.

use super::letters::reason;
use super::{lookup_error, topic};
use crate::convert::timestamp;
use crate::shared::Shared;
use gantry_model::contract::broker::{LifeEvent as Event, LifeStep as Step};
use gantry_model::{GroupId, Offset, QueueId, TopicId};
use gantry_proto::admin::{GetMessageLifeRequest, GetMessageLifeResponse, LifeEvent, LifeStep, QueueOffset};
use tonic::Status;

pub async fn get(shared: &Shared, request: GetMessageLifeRequest) -> Result<GetMessageLifeResponse, Status> {
    let topic = topic(shared, &request.namespace, &request.topic)?;
    let life = shared.broker.life(&topic, QueueId(request.queue), Offset(request.offset)).await.map_err(lookup_error)?;
    if life.events.is_empty() {
        let place = format!("{}/{}/{}", topic.name, request.queue, request.offset);
        return Err(Status::not_found(format!("no message is stored at `{place}`; retention may have removed it")));
    }
    let events = life.events.into_iter().map(|event| to_wire(shared, event)).collect();
    Ok(GetMessageLifeResponse { events, complete: life.complete })
}

fn to_wire(shared: &Shared, event: Event) -> LifeEvent {
    let group = |id: GroupId| shared.metadata.group_by_id(id).map_or_else(String::new, |group| group.name.name.clone());
    let topic = |id: TopicId| shared.metadata.topic_by_id(id).map_or_else(String::new, |topic| topic.name.name.clone());
    let place = |queue: QueueId, offset: Offset| Some(QueueOffset { queue: queue.0, offset: offset.0 });
    let base = |step: LifeStep| LifeEvent { time: Some(timestamp(event.time_ms)), lsn: event.lsn.0, step: step as i32, ..Default::default() };
    match event.what {
        Step::Stored => base(LifeStep::Stored),
        Step::Released => base(LifeStep::Released),
        Step::Leased { group: id, client, attempt, until_ms, .. } => {
            LifeEvent { group: group(id), client_id: client.to_string(), attempt, visible_time: Some(timestamp(until_ms)), ..base(LifeStep::Leased) }
        }
        Step::Extended { group: id, until_ms } => LifeEvent { group: group(id), visible_time: Some(timestamp(until_ms)), ..base(LifeStep::Extended) },
        Step::GivenBack { group: id, visible_ms, counted } => {
            LifeEvent { group: group(id), visible_time: Some(timestamp(visible_ms)), counted, ..base(LifeStep::GivenBack) }
        }
        Step::Lapsed { group: id, visible_ms } => LifeEvent { group: group(id), visible_time: Some(timestamp(visible_ms)), ..base(LifeStep::Lapsed) },
        Step::Acked { group: id } => LifeEvent { group: group(id), ..base(LifeStep::Acked) },
        Step::Filtered { group: id } => LifeEvent { group: group(id), ..base(LifeStep::Filtered) },
        Step::Skipped { group: id } => LifeEvent { group: group(id), ..base(LifeStep::Skipped) },
        Step::Dead { group: id, reason: why, attempts, letter } => {
            let to_topic = shared.metadata.group_by_id(id).map_or_else(String::new, |group| topic(group.dead_letter));
            let to = place(letter.queue, letter.offset);
            LifeEvent { group: group(id), attempt: attempts, reason: reason(why) as i32, to_topic, to, ..base(LifeStep::Dead) }
        }
        Step::Redriven { topic: id, queue, offset } => LifeEvent { to_topic: topic(id), to: place(queue, offset), ..base(LifeStep::Redriven) },
        Step::Purged => base(LifeStep::Purged),
        Step::Reset { group: id, to } => {
            let to = Some(QueueOffset { queue: 0, offset: to.0 });
            LifeEvent { group: group(id), to, ..base(LifeStep::Reset) }
        }
    }
}
