//! Reading by offset, and positions: each queue has its owner; a move of a whole topic is tried everywhere before it is done anywhere.

use super::Routed;
use gantry_model::contract::broker::{LookupError, Moved, OffsetError, PullError, PullRequest, Pulled, SeekRequest};
use gantry_model::{Group, Offset, QueueId, ShardId, Topic, placement};
use std::collections::BTreeMap;

impl Routed {
    pub(super) async fn pull_from_owner(&self, request: PullRequest) -> Result<Pulled, PullError> {
        let until = self.clock.mono() + request.wait;
        let owner = placement::owner_of(&request.topic, request.queue).ok_or(PullError::NoSuchQueue)?;
        self.ask_until(owner, until, |broker| {
            let request = PullRequest { wait: until.saturating_sub(self.clock.mono()), ..request.clone() };
            async move { broker.pull(request).await }
        })
        .await
    }

    /// One commit keeps a group from receiving on the whole topic, so the first one asks every shard whether it receives there.
    pub(super) async fn commit_at_owner(&self, group: &Group, topic: &Topic, queue: QueueId, offset: Offset) -> Result<(), OffsetError> {
        let committed = self.at_owner(topic, queue, |broker| async move { broker.committed(group, topic, queue).await }).await.map_err(unread)?;
        if committed.is_none() && self.positions_on_all(group, topic).await.map_err(unread)?.iter().any(|position| position.receives) {
            return Err(OffsetError::GroupReceives);
        }
        self.at_owner(topic, queue, |broker| async move { broker.commit_offset(group, topic, queue, offset).await }).await
    }

    pub(super) async fn seek_on_all(&self, request: SeekRequest) -> Result<Vec<Moved>, OffsetError> {
        let apart = self.queues_apart(&request)?;
        let tried = self.seek_apart(&request, &apart, DryRun::Yes).await?;
        if request.dry_run {
            return Ok(tried);
        }
        self.seek_apart(&request, &apart, DryRun::No).await
    }

    async fn seek_apart(&self, request: &SeekRequest, apart: &BTreeMap<ShardId, Vec<QueueId>>, dry_run: DryRun) -> Result<Vec<Moved>, OffsetError> {
        let parts = self.ask_all(apart.keys().copied(), |shard, broker| {
            let queues = apart.get(&shard).cloned().unwrap_or_default();
            let part = SeekRequest { queues, dry_run: dry_run == DryRun::Yes, ..request.clone() };
            async move { broker.seek(part).await }
        });
        let mut moved: Vec<Moved> = parts.await?.into_iter().flatten().collect();
        moved.sort_by_key(|moved| moved.queue);
        Ok(moved)
    }

    /// Which queues each shard moves; none named means all it has.
    fn queues_apart(&self, request: &SeekRequest) -> Result<BTreeMap<ShardId, Vec<QueueId>>, OffsetError> {
        if request.queues.is_empty() {
            return Ok(placement::shards_of(&request.topic).into_iter().map(|shard| (shard, Vec::new())).collect());
        }
        let mut apart: BTreeMap<ShardId, Vec<QueueId>> = BTreeMap::new();
        for &queue in &request.queues {
            let owner = placement::owner_of(&request.topic, queue).ok_or(OffsetError::NoSuchQueue)?;
            apart.entry(owner).or_default().push(queue);
        }
        Ok(apart)
    }
}

fn unread(error: LookupError) -> OffsetError {
    match error {
        LookupError::NoSuchQueue => OffsetError::NoSuchQueue,
        LookupError::NoLeader => OffsetError::NoLeader,
        LookupError::Busy => OffsetError::Busy,
        LookupError::Failed { why } => OffsetError::Failed { why },
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DryRun {
    Yes,
    No,
}
