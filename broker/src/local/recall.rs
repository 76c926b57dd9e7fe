//! Taking delayed messages back.

use super::{CONTROL_BYTES, LocalBroker};
use crate::admission::Lane;
use crate::shard::inbox::Request;
use gantry_model::Topic;
use gantry_model::contract::broker::RecallError;
use gantry_model::handle::RecallHandle;

impl LocalBroker {
    pub(super) async fn take_back(&self, topic: &Topic, handle: RecallHandle) -> Result<(), RecallError> {
        if handle.topic != topic.id || handle.shard != self.shard {
            return Err(RecallError::Unknown);
        }
        let _permit = self.admission.enter(Lane::Control, CONTROL_BYTES).ok_or(RecallError::Busy)?;
        let stopped = || RecallError::Failed { why: "the shard has stopped; the message may or may not be taken back".into() };
        self.ask(|reply| Request::Recall { handle, reply }).await.unwrap_or_else(|| Err(stopped()))
    }
}
