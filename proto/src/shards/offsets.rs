//! Positions that are moved, and queues that are read by offset.

use super::ms;
use super::receive::filter_to_wire;
use crate::broker as pb;
use gantry_model::contract::broker::{Moved, PullRequest, SeekRequest, SeekTarget};
use gantry_model::{Filter, Group, Offset, QueueId, Topic};
use pb::seek::Target;
use std::sync::Arc;
use std::time::Duration;

pub fn pull_to_wire(request: &PullRequest) -> pb::Pull {
    pb::Pull {
        topic: request.topic.id.0,
        queue: request.queue.0,
        offset: request.offset.0,
        max: request.max,
        filter: filter_to_wire(&request.filter),
        wait_ms: ms(request.wait),
    }
}

pub fn pull_from_wire(wire: &pb::Pull, topic: Arc<Topic>, filter: Arc<Filter>) -> PullRequest {
    let (queue, offset, wait) = (QueueId(wire.queue), Offset(wire.offset), Duration::from_millis(wire.wait_ms));
    PullRequest { topic, queue, offset, max: wire.max, filter, wait }
}

pub fn seek_to_wire(request: &SeekRequest) -> pb::Seek {
    let target = match &request.target {
        SeekTarget::Earliest => Target::Earliest(pb::Empty {}),
        SeekTarget::Latest => Target::Latest(pb::Empty {}),
        SeekTarget::Offset(offset) => Target::Offset(offset.0),
        SeekTarget::Time(ms) => Target::TimeMs(*ms),
        SeekTarget::Like(group) => Target::Like(group.id.0),
    };
    pb::Seek {
        group: request.group.id.0,
        topic: request.topic.id.0,
        queues: request.queues.iter().map(|queue| queue.0).collect(),
        target: Some(target),
        dry_run: request.dry_run,
    }
}

/// The request; `like` is the group that it names, if it names one.
pub fn seek_from_wire(wire: pb::Seek, group: Arc<Group>, topic: Arc<Topic>, like: Option<Arc<Group>>) -> Option<SeekRequest> {
    let target = match wire.target? {
        Target::Earliest(_) => SeekTarget::Earliest,
        Target::Latest(_) => SeekTarget::Latest,
        Target::Offset(offset) => SeekTarget::Offset(Offset(offset)),
        Target::TimeMs(ms) => SeekTarget::Time(ms),
        Target::Like(_) => SeekTarget::Like(like?),
    };
    Some(SeekRequest { group, topic, queues: wire.queues.into_iter().map(QueueId).collect(), target, dry_run: wire.dry_run })
}

pub fn moved_to_wire(moved: &[Moved]) -> pb::MovedEach {
    let one = |&Moved { queue, from, to, dropped }: &Moved| pb::moved_each::One { queue: queue.0, from: from.0, to: to.0, dropped };
    pb::MovedEach { each: moved.iter().map(one).collect() }
}

pub fn moved_from_wire(wire: pb::MovedEach) -> Vec<Moved> {
    let one = |one: pb::moved_each::One| Moved { queue: QueueId(one.queue), from: Offset(one.from), to: Offset(one.to), dropped: one.dropped };
    wire.each.into_iter().map(one).collect()
}
