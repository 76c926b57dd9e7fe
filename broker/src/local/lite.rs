//! Lite topics: what clients subscribe, and what there is.

use super::{CONTROL_BYTES, LocalBroker};
use crate::admission::Lane;
use crate::shard::inbox::Request;
use gantry_model::Topic;
use gantry_model::contract::broker::{LiteError, LiteSync, LiteTopic, LookupError};
use std::sync::Arc;

impl LocalBroker {
    pub(super) async fn put_lite_sync(&self, sync: LiteSync) -> Result<(), LiteError> {
        self.alive.heard(&sync.client);
        let bytes = CONTROL_BYTES + sync.names.iter().map(String::len).sum::<usize>();
        let _permit = self.admission.enter(Lane::Control, bytes).ok_or(LiteError::Busy)?;
        let stopped = || Err(LiteError::Failed { why: "the shard has stopped; the subscription is as it was before".into() });
        self.ask(|reply| Request::SyncLite { sync, reply }).await.unwrap_or_else(stopped)
    }

    pub(super) async fn list_lite_topics(&self, topic: &Topic, after: &str, limit: usize) -> Result<Vec<LiteTopic>, LookupError> {
        let (topic, after) = (Arc::new(topic.clone()), after.to_owned());
        self.ask(|reply| Request::LiteTopics { topic, after, limit, reply }).await.ok_or_else(|| self.unread())
    }
}
