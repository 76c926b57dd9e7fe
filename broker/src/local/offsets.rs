//! Positions: read, committed, reset, skipped past.

use super::{CONTROL_BYTES, LocalBroker};
use crate::admission::Lane;
use crate::shard::asks::{Ask, Told};
use gantry_model::contract::broker::{LookupError, Moved, OffsetError, SeekRequest, Standing};
use gantry_model::{Group, Offset, QueueId, QueueKey, Topic, TopicId};
use std::sync::Arc;

/// Bytes that one offset of a longer list counts for while it is under way.
const OFFSET_BYTES: usize = 16;
const STOPPED: &str = "the shard has stopped; nothing was changed that was not answered";

fn unmoved() -> OffsetError {
    OffsetError::Failed { why: STOPPED.into() }
}

impl LocalBroker {
    /// Asks the shard about positions or dead letters; `None` if it has stopped.
    pub(super) async fn inquire(&self, ask: Ask) -> Option<Told> {
        let token = self.inbox.token();
        self.ask(|reply| crate::shard::inbox::Request::Ask { token, ask, reply }).await
    }

    pub(super) async fn committed_offset(&self, group: &Group, topic: &Topic, queue: QueueId) -> Result<Option<Offset>, LookupError> {
        let (group, topic) = (Arc::new(group.clone()), Arc::new(topic.clone()));
        match self.inquire(Ask::Committed { group, topic, queue }).await {
            Some(Told::Committed(offset)) => Ok(offset),
            _ => Err(self.unread()),
        }
    }

    pub(super) async fn commit(&self, group: &Group, topic: &Topic, queue: QueueId, offset: Offset) -> Result<(), OffsetError> {
        let _permit = self.admission.enter(Lane::Control, CONTROL_BYTES).ok_or(OffsetError::Busy)?;
        let (group, topic) = (Arc::new(group.clone()), Arc::new(topic.clone()));
        match self.inquire(Ask::Commit { group, topic, queue, offset }).await {
            Some(Told::Commit(answer)) => answer,
            _ => Err(unmoved()),
        }
    }

    pub(super) async fn first_at(&self, topic: &Topic, queue: QueueId, time_ms: u64) -> Result<Offset, LookupError> {
        match self.inquire(Ask::OffsetAt { topic: Arc::new(topic.clone()), queue, time_ms }).await {
            Some(Told::OffsetAt(Some(offset))) => Ok(offset),
            Some(Told::OffsetAt(None)) => Err(LookupError::NoSuchQueue),
            _ => Err(self.unread()),
        }
    }

    pub(super) async fn move_position(&self, request: SeekRequest) -> Result<Vec<Moved>, OffsetError> {
        let _permit = self.admission.enter(Lane::Control, CONTROL_BYTES).ok_or(OffsetError::Busy)?;
        match self.inquire(Ask::Seek(Box::new(request))).await {
            Some(Told::Seek(answer)) => answer,
            _ => Err(unmoved()),
        }
    }

    pub(super) async fn skip_messages(&self, group: &Group, topic: &Topic, queue: QueueId, offsets: Vec<Offset>) -> Result<u64, OffsetError> {
        let _permit = self.admission.enter(Lane::Control, CONTROL_BYTES + OFFSET_BYTES * offsets.len()).ok_or(OffsetError::Busy)?;
        let (group, topic) = (Arc::new(group.clone()), Arc::new(topic.clone()));
        match self.inquire(Ask::Skip { group, topic, queue, offsets }).await {
            Some(Told::Skip(answer)) => answer,
            _ => Err(unmoved()),
        }
    }

    pub(super) async fn read_topics(&self, group: &Group) -> Result<Vec<TopicId>, LookupError> {
        match self.inquire(Ask::TopicsOf { group: Arc::new(group.clone()) }).await {
            Some(Told::TopicsOf(topics)) => Ok(topics),
            _ => Err(self.unread()),
        }
    }

    pub(super) async fn standings(&self, group: &Group, topic: &Topic, messages: Vec<(QueueId, Offset)>) -> Result<Vec<Standing>, LookupError> {
        let messages = messages.into_iter().map(|(queue, offset)| (QueueKey::new(topic.id, queue), offset.0)).collect();
        match self.inquire(Ask::Standing { group: Arc::new(group.clone()), messages }).await {
            Some(Told::Standing(standing)) => Ok(standing),
            _ => Err(self.unread()),
        }
    }
}
