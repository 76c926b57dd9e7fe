//! What a controller answers to the others. Who asks for another cluster or another node is refused before anything is done.

use super::campaign;
use super::kinds::Vote;
use super::members;
use super::peers::Answer;
use super::propose;
use super::seat::{Incoming, Seat, refused};
use super::snapshot::Snapshots;
use super::wire;
use async_trait::async_trait;
use gantry_model::NodeId;
use gantry_proto::controller as pb;
use openraft::Snapshot;
use openraft::raft::AppendEntriesResponse;
use pb::peer_reply::Body as Reply;
use pb::peer_request::Body as Request;
use pb::refused::Code;
use std::fmt::Display;
use std::io::IoSlice;

type Answered = Result<Reply, pb::Refused>;

#[async_trait]
impl Answer for Seat {
    async fn answer(&self, request: pb::PeerRequest) -> pb::PeerReply {
        let reply = match self.meant(&request) {
            Ok(()) => self.dispatch(NodeId(request.from), request.body).await,
            Err(refusal) => Err(refusal),
        };
        pb::PeerReply { body: Some(reply.unwrap_or_else(Reply::Refused)) }
    }
}

fn nonsense(error: impl Display) -> pb::Refused {
    refused(Code::Invalid, format!("the request makes no sense: {error}"))
}

/// Raft ended, or could not do it.
fn unavailable(error: impl Display) -> pb::Refused {
    refused(Code::Unavailable, error.to_string())
}

impl Seat {
    /// Whether this node of this cluster is meant. Only who joins may not know the cluster yet.
    fn meant(&self, request: &pb::PeerRequest) -> Result<(), pb::Refused> {
        let (cluster, id) = (&self.identity.cluster, self.id());
        let joins = matches!(request.body, Some(Request::Join(_)));
        if request.cluster != *cluster && !(joins && request.cluster.is_empty()) {
            let why = format!("this is node {id} of cluster `{cluster}`, not of cluster `{}`; check the addresses", request.cluster.escape_debug());
            return Err(refused(Code::OtherCluster, why));
        }
        if request.to != id.0 && request.to != 0 {
            let why = format!("this is node {id}, not node {}, which may have lost its disk or moved; check the addresses", request.to);
            return Err(refused(Code::OtherNode, why));
        }
        Ok(())
    }

    async fn dispatch(&self, from: NodeId, body: Option<Request>) -> Answered {
        match body.ok_or_else(|| nonsense("it is empty"))? {
            Request::Append(append) => self.append(&append).await,
            Request::Vote(vote) => self.vote(&vote).await,
            Request::Canvass(canvass) => {
                let would = campaign::would_vote(self, canvass.last.as_ref().map(wire::read_log_id)).await;
                Ok(Reply::Canvassed(pb::Canvassed { would }))
            }
            Request::Snapshot(piece) => self.take_piece(piece).await,
            Request::Lead(_) => {
                campaign::elect(self).await;
                Ok(Reply::Done(pb::Done {}))
            }
            Request::Propose(proposal) => {
                let (request, event) =
                    (wire::read_request(&proposal.request).map_err(nonsense)?, wire::read_event(&proposal.event).map_err(nonsense)?);
                let applied = propose::propose_here(self, request, event.into(), self.pace.patience).await?;
                let outcome = wire::outcome(&applied.effect.outcome()).into();
                Ok(Reply::Proposed(pb::Proposed { version: applied.version.0, outcome }))
            }
            Request::ReadIndex(_) => {
                let index = propose::read_index_here(self).await?;
                Ok(Reply::ReadIndex(pb::ReadIndexGiven { index }))
            }
            Request::Join(join) => members::answer_join(self, &join).await.map(Reply::Joined),
            Request::Admit(admit) => members::answer_admit(self, from, &admit.address).await.map(|()| Reply::Done(pb::Done {})),
        }
    }

    async fn append(&self, append: &pb::Append) -> Answered {
        let request = wire::read_append(append).map_err(nonsense)?;
        let response = self.raft.append_entries(request).await.map_err(unavailable)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.heard.touch();
        }
        Ok(Reply::Appended(wire::appended(&response)))
    }

    async fn vote(&self, vote: &pb::Vote) -> Answered {
        let request = wire::read_vote(vote).map_err(nonsense)?;
        let response = self.raft.vote(request).await.map_err(unavailable)?;
        if response.vote_granted {
            // Who got the vote is given time to lead.
            self.heard.touch();
        }
        Ok(Reply::Voted(wire::voted(&response)))
    }

    /// Takes pieces in their order; the last one makes the snapshot the state of this node.
    async fn take_piece(&self, piece: pb::SnapshotPiece) -> Answered {
        let ballot = wire::need_ballot(&piece.ballot).map_err(nonsense)?;
        let own = self.raft.metrics().borrow().vote;
        if own > ballot {
            return Ok(taken(own));
        }
        self.heard.touch();
        let mut slot = self.incoming.lock().await;
        if piece.offset == 0 {
            let file = self.snapshots.incoming().map_err(unavailable)?;
            *slot = Some(Incoming { name: piece.name.clone(), file });
        }
        let expected = slot.as_mut().filter(|incoming| incoming.name == piece.name && incoming.file.len == piece.offset);
        let incoming = expected.ok_or_else(|| refused(Code::Invalid, "this piece does not follow the one before; begin again"))?;
        incoming.file.file.write_at(piece.offset, &[IoSlice::new(&piece.bytes)]).map_err(unavailable)?;
        incoming.file.len += piece.bytes.len() as u64;
        if !piece.last {
            return Ok(taken(ballot));
        }
        let file = slot.take().expect("it is there").file;
        let loaded = Snapshots::read(file.clone()).map_err(|error| refused(Code::Invalid, error.to_string()))?;
        let snapshot = Snapshot { meta: loaded.meta, snapshot: Box::new(file) };
        let response = self.raft.install_full_snapshot(ballot, snapshot).await.map_err(unavailable)?;
        self.heard.touch();
        Ok(taken(response.vote))
    }
}

fn taken(vote: Vote) -> Reply {
    Reply::Snapshot(pb::SnapshotTaken { ballot: Some(wire::ballot(&vote)) })
}
