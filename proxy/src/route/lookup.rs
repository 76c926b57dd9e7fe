//! Looking: lists of all shards are merged in the order and with the limit that one shard would give.

use super::Routed;
use super::apart::{Numbered, apart, in_order};
use super::race::{Call, all};
use gantry_model::contract::broker::{LookupError, OpenTransaction, Query, QueueBounds, QueuePosition, ShardStatus, Standing};
use gantry_model::handle::TransactionHandle;
use gantry_model::message::StoredMessage;
use gantry_model::{Group, Offset, QueueId, Topic, TopicId, placement};
use std::collections::BTreeSet;

impl Routed {
    pub(super) async fn positions_on_all(&self, group: &Group, topic: &Topic) -> Result<Vec<QueuePosition>, LookupError> {
        let parts = self.ask_all(placement::shards_of(topic), |_, broker| async move { broker.positions(group, topic).await }).await?;
        let mut positions: Vec<QueuePosition> = parts.into_iter().flatten().collect();
        positions.sort_by_key(|position| position.queue);
        Ok(positions)
    }

    pub(super) async fn queues_of_all(&self, topic: &Topic) -> Result<Vec<QueueBounds>, LookupError> {
        let parts = self.ask_all(placement::shards_of(topic), |_, broker| async move { broker.queues(topic).await }).await?;
        let mut queues: Vec<QueueBounds> = parts.into_iter().flatten().collect();
        queues.sort_by_key(|bounds| bounds.queue);
        Ok(queues)
    }

    pub(super) async fn topics_on_all(&self, group: &Group) -> Result<Vec<TopicId>, LookupError> {
        let parts = self.ask_all(self.shards.ids(), |_, broker| async move { broker.topics_of(group).await }).await?;
        let topics: BTreeSet<TopicId> = parts.into_iter().flatten().collect();
        Ok(topics.into_iter().collect())
    }

    pub(super) async fn standing_apart(&self, group: &Group, topic: &Topic, messages: Vec<(QueueId, Offset)>) -> Result<Vec<Standing>, LookupError> {
        let count = messages.len();
        if messages.iter().any(|(queue, _)| placement::owner_of(topic, *queue).is_none()) {
            return Err(LookupError::NoSuchQueue);
        }
        let parts = &apart(messages, |(queue, _)| placement::owner_of(topic, *queue).unwrap_or_default());
        let answers = self.ask_all(parts.keys().copied(), |shard, broker| async move {
            let (numbers, messages): (Vec<usize>, Vec<_>) = parts[&shard].iter().copied().unzip();
            let standings = broker.standing(group, topic, messages).await?;
            Ok(numbers.into_iter().zip(standings).collect::<Numbered<Standing>>())
        });
        Ok(in_order(count, answers.await?))
    }

    pub(super) async fn find_on_all(&self, topic: &Topic, query: Query, limit: usize) -> Result<Vec<StoredMessage>, LookupError> {
        let query = &query;
        if let Query::Offset { queue, .. } = query {
            return self.at_owner(topic, *queue, |broker| async move { broker.find(topic, query.clone(), limit).await }).await;
        }
        let parts = self.ask_all(placement::shards_of(topic), |_, broker| async move { broker.find(topic, query.clone(), limit).await }).await?;
        let mut found: Vec<StoredMessage> = parts.into_iter().flatten().collect();
        found.sort_by_key(|message| (message.store_ms, message.queue, message.offset));
        let over = found.len().saturating_sub(limit);
        match query {
            // A shard shows the newest of those with one id or key, and the oldest of a stretch of time.
            Query::MessageId(_) | Query::Key(_) => drop(found.drain(..over)),
            Query::Offset { .. } | Query::Stored { .. } => found.truncate(limit),
        }
        Ok(found)
    }

    pub(super) async fn transactions_in_turn(
        &self,
        topic: &Topic,
        after: Option<TransactionHandle>,
        limit: usize,
    ) -> Result<Vec<OpenTransaction>, LookupError> {
        let mut open = Vec::new();
        for shard in placement::shards_of(topic) {
            if after.is_some_and(|after| shard < after.shard) {
                continue;
            }
            let (after, left) = (after.filter(|after| after.shard == shard), limit - open.len());
            open.extend(self.ask(shard, |broker| async move { broker.open_transactions(topic, after, left).await }).await?);
            if open.len() >= limit {
                break;
            }
        }
        Ok(open)
    }

    pub(super) async fn shards_of_all(&self) -> Vec<ShardStatus> {
        let leaders: Vec<_> = self.leaders().collect();
        let calls = leaders.iter().map(|broker| -> Call<'_, Vec<ShardStatus>> { Box::pin(broker.shards()) }).collect();
        let mut shards: Vec<ShardStatus> = all(calls).await.into_iter().flatten().collect();
        // One broker may lead several, and tell of all each time.
        shards.sort_by_key(|status| (status.shard, std::cmp::Reverse(status.epoch)));
        shards.dedup_by_key(|status| status.shard);
        shards
    }
}
