//! Positions of groups, moved by hand.

use super::{group, topic};
use crate::convert;
use crate::shared::Shared;
use gantry_model::contract::broker::{Moved, OffsetError, SeekRequest, SeekTarget};
use gantry_model::{Offset, QueueId};
use gantry_proto::admin::reset_group_offsets_request::Target;
use gantry_proto::admin::*;
use tonic::Status;

/// Most offsets of one skip.
const SKIP_MAX: usize = 10_000;

pub async fn reset(shared: &Shared, request: ResetGroupOffsetsRequest) -> Result<ResetGroupOffsetsResponse, Status> {
    let group = group(shared, &request.namespace, &request.group)?;
    let topic = topic(shared, &request.namespace, &request.topic)?;
    let target = match request.target {
        Some(Target::Earliest(true)) => SeekTarget::Earliest,
        Some(Target::Latest(true)) => SeekTarget::Latest,
        Some(Target::Offset(_)) if request.queues.is_empty() => {
            return Err(Status::invalid_argument("an offset means something in one queue only: name the queues"));
        }
        Some(Target::Offset(offset)) => SeekTarget::Offset(Offset(offset)),
        Some(Target::Time(time)) => SeekTarget::Time(convert::ms(&time)),
        Some(Target::Earliest(false) | Target::Latest(false)) | None => {
            return Err(Status::invalid_argument("say where to: earliest, latest, an offset or a time"));
        }
    };
    let dry_run = request.dry_run;
    tracing::info!(group = %group.name, topic = %topic.name, ?target, dry_run, "position reset");
    let seek = SeekRequest { group, topic, queues: queues(&request.queues), target, dry_run };
    Ok(ResetGroupOffsetsResponse { queues: moved(shared, seek).await? })
}

pub async fn copy(shared: &Shared, request: CopyGroupOffsetsRequest) -> Result<CopyGroupOffsetsResponse, Status> {
    let from = group(shared, &request.namespace, &request.from_group)?;
    let to = group(shared, &request.namespace, &request.to_group)?;
    if from.id == to.id {
        return Err(Status::invalid_argument(format!("`{}` is the group to copy from and the one to copy to", to.name)));
    }
    let topic = topic(shared, &request.namespace, &request.topic)?;
    let dry_run = request.dry_run;
    tracing::info!(group = %to.name, topic = %topic.name, from = %from.name, dry_run, "position copied");
    let seek = SeekRequest { group: to, topic, queues: queues(&request.queues), target: SeekTarget::Like(from), dry_run };
    Ok(CopyGroupOffsetsResponse { queues: moved(shared, seek).await? })
}

pub async fn skip(shared: &Shared, request: SkipMessagesRequest) -> Result<SkipMessagesResponse, Status> {
    let group = group(shared, &request.namespace, &request.group)?;
    let topic = topic(shared, &request.namespace, &request.topic)?;
    if !(1..=SKIP_MAX).contains(&request.offsets.len()) {
        return Err(Status::invalid_argument(format!("1 to {SKIP_MAX} offsets can be skipped at once, not {}", request.offsets.len())));
    }
    let offsets = request.offsets.iter().map(|&offset| Offset(offset)).collect();
    let skipped = shared.broker.skip(&group, &topic, QueueId(request.queue), offsets).await.map_err(offset_error)?;
    tracing::info!(group = %group.name, topic = %topic.name, queue = request.queue, skipped, "messages skipped");
    Ok(SkipMessagesResponse { skipped })
}

fn queues(numbers: &[u32]) -> Vec<QueueId> {
    numbers.iter().map(|&number| QueueId(number)).collect()
}

async fn moved(shared: &Shared, seek: SeekRequest) -> Result<Vec<MovedOffset>, Status> {
    let mut moved = shared.broker.seek(seek).await.map_err(offset_error)?;
    moved.sort_unstable_by_key(|moved| moved.queue);
    let to_wire = |Moved { queue, from, to, dropped }| MovedOffset { queue: queue.0, from_offset: from.0, to_offset: to.0, dropped };
    Ok(moved.into_iter().map(to_wire).collect())
}

fn offset_error(error: OffsetError) -> Status {
    let text = error.to_string();
    match error {
        OffsetError::OutOfRange { .. } | OffsetError::NoSuchQueue => Status::invalid_argument(text),
        OffsetError::Backwards { .. } | OffsetError::GroupReceives | OffsetError::GroupPulls | OffsetError::GroupBroadcasts => {
            Status::failed_precondition(text)
        }
        OffsetError::Busy | OffsetError::NoLeader | OffsetError::Failed { .. } => Status::unavailable(text),
    }
}
