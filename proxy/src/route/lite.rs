//! Lite topics: each lives on one shard, which follows from its name; what a client subscribes is parted accordingly.

use super::Routed;
use gantry_model::contract::broker::{LiteChange, LiteError, LiteSync, LiteTopic, LookupError};
use gantry_model::{ShardId, Topic, placement};
use std::collections::BTreeMap;

impl Routed {
    /// Every shard of the topic learns of its own names, and of the others as far as it has them from a time when the topic lay elsewhere. Each
    /// does all or nothing; a client whose change was refused by one repeats the whole.
    pub(super) async fn sync_lite_apart(&self, sync: LiteSync) -> Result<(), LiteError> {
        let shards = placement::shards_of(&sync.topic);
        let mut own: BTreeMap<ShardId, Vec<String>> = BTreeMap::new();
        for name in &sync.names {
            // A topic that takes no messages has its lite topics where they were, and no new ones.
            let owner = placement::shard_of_lite(&sync.topic, name);
            own.entry(owner.unwrap_or(ShardId(u32::MAX))).or_default().push(name.clone());
        }
        let (sync, own, alone) = (&sync, &own, shards.len() == 1);
        let part = |shard: ShardId| {
            let names = own.get(&shard).cloned().unwrap_or_default();
            let elsewhere =
                if alone { Vec::new() } else { own.iter().filter(|(of, _)| **of != shard).flat_map(|(_, names)| names.clone()).collect() };
            LiteSync { names, elsewhere, ..sync.clone() }
        };
        let concerned = |part: &LiteSync| match sync.change {
            LiteChange::Add => !part.names.is_empty() || !part.elsewhere.is_empty(),
            LiteChange::Remove | LiteChange::Replace | LiteChange::Clear => true,
        };
        let parts = self.ask_all(shards, |shard, broker| {
            let part = part(shard);
            async move { if concerned(&part) { broker.sync_lite(part).await } else { Ok(()) } }
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
