//! Lite topics: each lives on one shard, which follows from its name; what a client subscribes is parted accordingly.

use super::Routed;
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{LiteError, LiteSync, LiteTopic, LookupError};
use gantry_model::{Topic, placement};
use std::sync::Arc;

async fn broker_sync(broker: Arc<dyn Broker>, sync: LiteSync) -> Result<(), LiteError> {
    broker.sync_lite(sync).await
}

impl Routed {
    /// Every shard of the topic learns of its own names, and of the others as far as it has them from a time when the topic lay elsewhere. Each
    /// does all or nothing; a client whose change was refused by one repeats the whole.
    pub(super) async fn sync_lite_apart(&self, sync: LiteSync) -> Result<(), LiteError> {
        let shards = placement::shards_of(&sync.topic);
        if let [shard] = shards[..] {
            return self.ask(shard, |broker| broker_sync(broker, sync.clone())).await;
        }
        let sync = &sync;
        let parts = self.ask_all(shards, |shard, broker| {
            // A topic that takes no messages has its lite topics where they were, and no new ones.
            let is_own = |name: &&String| placement::shard_of_lite(&sync.topic, name) == Some(shard);
            let (names, others): (Vec<&String>, Vec<&String>) = sync.names.iter().partition(is_own);
            let elsewhere = others.into_iter().chain(&sync.elsewhere).cloned().collect();
            broker_sync(broker, LiteSync { names: names.into_iter().cloned().collect(), elsewhere, ..sync.clone() })
        });
        parts.await.map(drop)
    }

    pub(super) async fn lite_topics_of_all(&self, topic: &Topic, after: &str, limit: usize) -> Result<Vec<LiteTopic>, LookupError> {
        let parts = self.ask_all(placement::shards_of(topic), |_, broker| async move { broker.lite_topics(topic, after, limit).await }).await?;
        let mut topics: Vec<LiteTopic> = parts.into_iter().flatten().collect();
        // Of two with one name the one that is in use is where the topic lies now.
        topics.sort_by(|one, other| (&one.name, other.active_ms).cmp(&(&other.name, one.active_ms)));
        topics.dedup_by(|later, first| later.name == first.name);
        topics.truncate(limit);
        Ok(topics)
    }
}
