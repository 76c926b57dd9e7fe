//! What a request is told that comes to a replica which does not lead, or can't commit: nothing was changed, ask the leader.

use super::inbox::{Leased, Request};
use gantry_model::contract::broker::{EndError, LeaseError, LiteError, RecallError, SendError};

impl Request {
    /// Whether it may change something, or waits for something that would.
    pub(crate) fn needs_commit(&self) -> bool {
        matches!(
            self,
            Request::Send { .. }
                | Request::Receive { .. }
                | Request::Ack { .. }
                | Request::Change { .. }
                | Request::Dead { .. }
                | Request::EndTransaction { .. }
                | Request::ResumeTransaction { .. }
                | Request::Recall { .. }
                | Request::SyncLite { .. }
                | Request::Ask { .. }
        )
    }

    /// Answers that nobody leads here. Where the answer has no words for it, the request is dropped, and the caller sees from the status why.
    pub(crate) fn refuse(self) {
        match self {
            Request::Send { drafts, reply, .. } => drop(reply.send(vec![Err(SendError::NoLeader); drafts.len()])),
            Request::Receive { reply, .. } => drop(reply.send(Leased::NoLeader)),
            Request::Ack { handles, reply, .. } => drop(reply.send(vec![Err(LeaseError::NoLeader); handles.len()])),
            Request::Change { reply, .. } | Request::Dead { reply, .. } => drop(reply.send(Err(LeaseError::NoLeader))),
            Request::EndTransaction { reply, .. } | Request::ResumeTransaction { reply, .. } => drop(reply.send(Err(EndError::NoLeader))),
            Request::Recall { reply, .. } => drop(reply.send(Err(RecallError::NoLeader))),
            Request::SyncLite { reply, .. } => drop(reply.send(Err(LiteError::NoLeader))),
            _ => {}
        }
    }
}
