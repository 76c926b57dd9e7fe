//! Proposals and reads, on the leader and through it.
//!
//! A node that does not lead hands a proposal to the leader under the same request id, as often as needed: the state remembers what
//! became of a request for ten minutes, so nothing happens twice. After the answer it waits until it has applied as much, so that who
//! proposed here sees here what it did.

use super::ProposeError;
use super::kinds::{Member, Proposal};
use super::peers::{CallError, odd};
use super::seat::{Seat, as_refusal, refused};
use super::wire;
use crate::state::Applied;
use crate::state::event::Event;
use crate::state::requests::RequestId;
use gantry_model::NodeId;
use gantry_model::contract::metadata::Version;
use gantry_platform::clock::{sleep, timeout};
use gantry_proto::controller as pb;
use openraft::error::{CheckIsLeaderError, ClientWriteError, Fatal, RaftError};
use pb::peer_reply::Body as Reply;
use pb::peer_request::Body as Request;
use pb::refused::Code;
use std::sync::Arc;
use std::time::Duration;

/// The time between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Proposes through whoever leads, until it is done or the patience ends.
pub async fn propose(seat: &Seat, request: RequestId, event: Event) -> Result<Applied, ProposeError> {
    let event = Arc::new(event);
    let mut last = None;
    let tries = async {
        loop {
            let refusal = match try_once(seat, request, event.clone()).await {
                Ok(applied) => return Ok(applied),
                Err(refusal) => refusal,
            };
            // Once it may have happened, only its outcome can say that it did not.
            let unsure = last.as_ref().is_some_and(|last: &pb::Refused| last.code() == Code::Unknown);
            match refusal.code() {
                _ if unsure => {}
                Code::NotLeader | Code::Unavailable | Code::Unknown => last = Some(refusal),
                _ => return Err(error_of(refusal)),
            }
            if let Some(fatal) = seat.fatal() {
                return Err(fatal_error(&fatal));
            }
            pause(seat).await;
        }
    };
    match timeout(seat.pace.patience, tries).await {
        Ok(done) => done,
        Err(_) => Err(match last {
            Some(refusal) if refusal.code() != Code::Unknown => ProposeError::NoLeader { why: refusal.why },
            Some(refusal) => ProposeError::Unknown { why: refusal.why },
            None => ProposeError::Unknown { why: "too few controllers answer".into() },
        }),
    }
}

/// Waits for a leader if there is none, else a moment.
async fn pause(seat: &Seat) {
    match seat.leader() {
        Some(_) => sleep(PAUSE).await,
        None => {
            let mut metrics = seat.raft.metrics();
            // Time out or raft's end: the next try tells.
            _ = timeout(PAUSE, metrics.wait_for(|metrics| metrics.current_leader.is_some())).await;
        }
    }
}

async fn try_once(seat: &Seat, request: RequestId, event: Arc<Event>) -> Result<Applied, pb::Refused> {
    let leader = seat.leader().ok_or_else(|| seat.not_leader())?;
    if leader.id == seat.id() {
        return propose_here(seat, request, event, seat.pace.patience).await;
    }
    let body = Request::Propose(pb::Propose { request: request.bytes().into(), event: wire::event(&event).into() });
    let reply = seat.caller.call(leader.id, &leader.address, body, seat.pace.patience / 2).await.map_err(as_refusal)?;
    let proposed = match reply {
        Reply::Proposed(proposed) => proposed,
        _ => return odd().map_err(as_refusal),
    };
    let outcome = wire::read_outcome(&proposed.outcome).map_err(|error| as_refusal(CallError::from(error)))?;
    let version = Version(proposed.version);
    let mut versions = seat.shared.versions();
    versions.wait_for(|known| *known >= version).await.map_err(|_| refused(Code::Unknown, "the controller is stopping"))?;
    Ok(Applied { version, effect: seat.shared.read(|state| state.effect(&outcome)) })
}

/// Proposes on this node, which must lead.
pub async fn propose_here(seat: &Seat, request: RequestId, event: Arc<Event>, patience: Duration) -> Result<Applied, pb::Refused> {
    if *seat.leaving.borrow() {
        return Err(refused(Code::Unavailable, "another controller is about to lead"));
    }
    if !seat.leads() {
        return Err(seat.not_leader());
    }
    let mut full = seat.full.clone();
    if *full.borrow() || !seat.snapshots.has_room() {
        return Err(refused(Code::DiskFull, ProposeError::DiskFull.to_string()));
    }
    let proposal = Proposal { request, time_ms: seat.clock.wall_ms(), event };
    let write = timeout(patience, seat.raft.client_write(proposal));
    tokio::select! {
        biased;
        written = write => match written {
            Ok(Ok(response)) => Ok(response.data),
            Ok(Err(error)) => Err(write_refusal(seat, error)),
            Err(_) => Err(refused(Code::Unknown, "too few controllers answered; it may still happen")),
        },
        Ok(_) = full.wait_for(|full| *full) => Err(refused(Code::Unknown, "the disk became full; it will happen when there is room")),
    }
}

fn write_refusal(seat: &Seat, error: RaftError<NodeId, ClientWriteError<NodeId, Member>>) -> pb::Refused {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => pb::Refused { code: Code::NotLeader.into(), ..seat.not_leader() },
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => refused(Code::Unavailable, error.to_string()),
        RaftError::Fatal(fatal) => refused(Code::Unavailable, fatal_error(&fatal).to_string()),
    }
}

/// Asks the leader how far a reader must be to see all that was acknowledged, and waits until this node is there.
pub async fn barrier(seat: &Seat) -> Result<Version, ProposeError> {
    let mut last = None;
    let tries = async {
        loop {
            match read_index(seat).await {
                Ok(index) => return index,
                Err(refusal) => last = Some(refusal),
            }
            pause(seat).await;
        }
    };
    let index = timeout(seat.pace.patience, tries)
        .await
        .map_err(|_| ProposeError::NoLeader { why: last.map_or_else(|| "too few controllers answer".into(), |refusal| refusal.why) })?;
    let mut applied = seat.shared.applied();
    let there = timeout(seat.pace.patience, applied.wait_for(|applied| *applied >= Some(index))).await;
    there.map_err(|_| ProposeError::NoLeader { why: "this controller is behind".into() })?.map_err(|_| ProposeError::Stopped)?;
    Ok(seat.shared.read(|state| state.version()))
}

async fn read_index(seat: &Seat) -> Result<u64, pb::Refused> {
    let leader = seat.leader().ok_or_else(|| seat.not_leader())?;
    if leader.id == seat.id() {
        return read_index_here(seat).await;
    }
    let body = Request::ReadIndex(pb::ReadIndex {});
    match seat.caller.call(leader.id, &leader.address, body, seat.pace.patience / 2).await.map_err(as_refusal)? {
        Reply::ReadIndex(given) => Ok(given.index),
        _ => odd().map_err(as_refusal),
    }
}

/// The place in the log up to which everything was acknowledged; asks the other voters whether this node still leads.
pub async fn read_index_here(seat: &Seat) -> Result<u64, pb::Refused> {
    match seat.raft.get_read_log_id().await {
        Ok((id, _)) => Ok(id.map_or(0, |id| id.index)),
        Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_))) => Err(seat.not_leader()),
        Err(RaftError::APIError(error)) => Err(refused(Code::Unavailable, error.to_string())),
        Err(RaftError::Fatal(fatal)) => Err(refused(Code::Unavailable, fatal_error(&fatal).to_string())),
    }
}

fn error_of(refusal: pb::Refused) -> ProposeError {
    match refusal.code() {
        Code::DiskFull => ProposeError::DiskFull,
        Code::Unknown => ProposeError::Unknown { why: refusal.why },
        _ => ProposeError::Failed { why: refusal.why },
    }
}

/// What the end of raft means to who proposes.
pub fn fatal_error(fatal: &Fatal<NodeId>) -> ProposeError {
    match fatal {
        Fatal::Stopped => ProposeError::Stopped,
        other => ProposeError::Failed { why: other.to_string() },
    }
}
