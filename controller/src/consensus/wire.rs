//! Raft's values in our own bytes, the same on disk and between nodes: `proto/proto/gantry/controller/v1/peer.proto`.

use super::kinds::{Entry, Kinds, LogId, Member, Membership, Proposal, Vote};
use crate::state::event::Event;
use crate::state::requests::{self, RequestId};
use gantry_model::NodeId;
use gantry_proto::controller as pb;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::{CommittedLeaderId, EntryPayload, LeaderId};
use pb::appended::Outcome;
use pb::entry::Payload;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Bytes that make no sense here: damaged, or of a newer version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreadable {}

pub fn missing(what: &str) -> Unreadable {
    Unreadable(format!("the {what} is missing"))
}

pub fn log_id(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, node: id.leader_id.node_id.0, index: id.index }
}

pub fn read_log_id(id: &pb::LogId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term, NodeId(id.node)), id.index)
}

pub fn ballot(vote: &Vote) -> pb::Ballot {
    pb::Ballot { term: vote.leader_id.term, node: vote.leader_id.node_id.0, committed: vote.committed }
}

pub fn read_ballot(ballot: &pb::Ballot) -> Vote {
    Vote { leader_id: LeaderId::new(ballot.term, NodeId(ballot.node)), committed: ballot.committed }
}

/// The ballot of a message that must have one.
pub fn need_ballot(ballot: &Option<pb::Ballot>) -> Result<Vote, Unreadable> {
    ballot.as_ref().map(read_ballot).ok_or_else(|| missing("ballot"))
}

pub fn member(id: NodeId, member: &Member) -> pb::Member {
    pb::Member { node: id.0, address: member.address.clone() }
}

pub fn read_member(member: &pb::Member) -> (NodeId, Member) {
    (NodeId(member.node), Member { address: member.address.clone() })
}

pub fn membership(membership: &Membership) -> pb::Membership {
    let voters = |set: &BTreeSet<NodeId>| pb::membership::Voters { nodes: set.iter().map(|id| id.0).collect() };
    pb::Membership {
        configs: membership.get_joint_config().iter().map(voters).collect(),
        members: membership.nodes().map(|(id, node)| member(*id, node)).collect(),
    }
}

pub fn read_membership(membership: &pb::Membership) -> Membership {
    let configs = membership.configs.iter().map(|set| set.nodes.iter().copied().map(NodeId).collect());
    let members: BTreeMap<NodeId, Member> = membership.members.iter().map(read_member).collect();
    Membership::new(configs.collect(), members)
}

pub fn event(event: &Event) -> Vec<u8> {
    serde_json::to_vec(event).expect("events have no maps with odd keys, so they are JSON")
}

pub fn read_event(bytes: &[u8]) -> Result<Event, Unreadable> {
    serde_json::from_slice(bytes).map_err(|error| Unreadable(format!("an event makes no sense to this version: {error}")))
}

pub fn read_request(bytes: &[u8]) -> Result<RequestId, Unreadable> {
    let bytes = bytes.try_into().map_err(|_| Unreadable(format!("a request id has 16 bytes, not {}", bytes.len())))?;
    Ok(RequestId(u128::from_be_bytes(bytes)))
}

pub fn entry(entry: &Entry) -> pb::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(pb::Done {}),
        EntryPayload::Normal(Proposal { request, time_ms, event: happened }) => {
            Payload::Proposal(pb::Proposal { request: request.bytes().into(), time_ms: *time_ms, event: event(happened).into() })
        }
        EntryPayload::Membership(members) => Payload::Membership(membership(members)),
    };
    pb::Entry { id: Some(log_id(&entry.log_id)), payload: Some(payload) }
}

pub fn read_entry(entry: &pb::Entry) -> Result<Entry, Unreadable> {
    let payload = match entry.payload.as_ref().ok_or_else(|| missing("payload of an entry"))? {
        Payload::Blank(_) => EntryPayload::Blank,
        Payload::Proposal(proposal) => EntryPayload::Normal(Proposal {
            request: read_request(&proposal.request)?,
            time_ms: proposal.time_ms,
            event: Arc::new(read_event(&proposal.event)?),
        }),
        Payload::Membership(members) => EntryPayload::Membership(read_membership(members)),
    };
    let id = entry.id.as_ref().ok_or_else(|| missing("id of an entry"))?;
    Ok(Entry { log_id: read_log_id(id), payload })
}

pub fn append(request: &AppendEntriesRequest<Kinds>) -> pb::Append {
    pb::Append {
        ballot: Some(ballot(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id),
        entries: request.entries.iter().map(entry).collect(),
        committed: request.leader_commit.as_ref().map(log_id),
    }
}

pub fn read_append(append: &pb::Append) -> Result<AppendEntriesRequest<Kinds>, Unreadable> {
    Ok(AppendEntriesRequest {
        vote: need_ballot(&append.ballot)?,
        prev_log_id: append.previous.as_ref().map(read_log_id),
        entries: append.entries.iter().map(read_entry).collect::<Result<_, _>>()?,
        leader_commit: append.committed.as_ref().map(read_log_id),
    })
}

pub fn appended(response: &AppendEntriesResponse<NodeId>) -> pb::Appended {
    let outcome = match response {
        AppendEntriesResponse::Success => Outcome::Success(pb::Done {}),
        // Raft never takes nothing in part; a conflict says the same.
        AppendEntriesResponse::PartialSuccess(None) | AppendEntriesResponse::Conflict => Outcome::Conflict(pb::Done {}),
        AppendEntriesResponse::PartialSuccess(Some(id)) => Outcome::UpTo(log_id(id)),
        AppendEntriesResponse::HigherVote(vote) => Outcome::Higher(ballot(vote)),
    };
    pb::Appended { outcome: Some(outcome) }
}

pub fn read_appended(appended: &pb::Appended) -> Result<AppendEntriesResponse<NodeId>, Unreadable> {
    Ok(match appended.outcome.as_ref().ok_or_else(|| missing("outcome of an append"))? {
        Outcome::Success(_) => AppendEntriesResponse::Success,
        Outcome::UpTo(id) => AppendEntriesResponse::PartialSuccess(Some(read_log_id(id))),
        Outcome::Conflict(_) => AppendEntriesResponse::Conflict,
        Outcome::Higher(vote) => AppendEntriesResponse::HigherVote(read_ballot(vote)),
    })
}

pub fn vote(request: &VoteRequest<NodeId>) -> pb::Vote {
    pb::Vote { ballot: Some(ballot(&request.vote)), last: request.last_log_id.as_ref().map(log_id) }
}

pub fn read_vote(vote: &pb::Vote) -> Result<VoteRequest<NodeId>, Unreadable> {
    Ok(VoteRequest { vote: need_ballot(&vote.ballot)?, last_log_id: vote.last.as_ref().map(read_log_id) })
}

pub fn voted(response: &VoteResponse<NodeId>) -> pb::Voted {
    pb::Voted { ballot: Some(ballot(&response.vote)), granted: response.vote_granted, last: response.last_log_id.as_ref().map(log_id) }
}

pub fn read_voted(voted: &pb::Voted) -> Result<VoteResponse<NodeId>, Unreadable> {
    Ok(VoteResponse::new(need_ballot(&voted.ballot)?, voted.last.as_ref().map(read_log_id), voted.granted))
}

pub fn outcome(outcome: &requests::Outcome) -> Vec<u8> {
    serde_json::to_vec(outcome).expect("outcomes have no maps with odd keys, so they are JSON")
}

pub fn read_outcome(bytes: &[u8]) -> Result<requests::Outcome, Unreadable> {
    serde_json::from_slice(bytes).map_err(|error| Unreadable(format!("an outcome makes no sense to this version: {error}")))
}
