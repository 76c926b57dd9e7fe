//! How controllers reach each other, and how raft speaks through it.
//!
//! [`Peers`] is the seam: one request, one answer, to an address. `peers/memory.rs` is a network that a test cuts and delays,
//! `peers/grpc.rs` the real one. A request names the cluster and the node that it is meant for, and whoever else is reached refuses it.

use super::kinds::{Kinds, Member, Vote};
use super::machine::Shared;
use super::snapshot::SnapshotFile;
use super::wire::{self, Unreadable, missing};
use async_trait::async_trait;
use gantry_model::NodeId;
use gantry_proto::controller as pb;
use openraft::error::{NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{OptionalSend, RaftNetwork, RaftNetworkFactory, Snapshot};
use pb::peer_reply::Body as Reply;
use pb::peer_request::Body as Request;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub mod grpc;
pub mod memory;

/// Bytes of a snapshot in one request.
const PIECE: usize = 256 * 1024;
/// How long one piece of a snapshot may take; the last one is answered when all is installed.
const PIECE_PATIENCE: Duration = Duration::from_secs(30);

/// The way to other controllers.
///
/// - An answer comes from whoever listens at the address; who that is, the request itself makes sure of.
/// - After an error the request may have been answered, or may still be.
/// - Dropping the future may or may not take the request back.
/// - Requests of one sender to one address may overtake each other.
#[async_trait]
pub trait Peers: Send + Sync + fmt::Debug {
    async fn call(&self, address: &str, request: pb::PeerRequest, patience: Duration) -> Result<pb::PeerReply, Unreachable>;
}

/// Who answers the requests of other controllers.
#[async_trait]
pub trait Answer: Send + Sync {
    async fn answer(&self, request: pb::PeerRequest) -> pb::PeerReply;
}

/// Peers of a node that has none and never calls any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

#[async_trait]
impl Peers for Alone {
    async fn call(&self, address: &str, _: pb::PeerRequest, _: Duration) -> Result<pb::PeerReply, Unreachable> {
        Err(Unreachable(format!("this controller stands alone and can't reach `{address}`")))
    }
}

/// No answer came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable(pub String);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

impl From<Unreadable> for Unreachable {
    fn from(error: Unreadable) -> Unreachable {
        Unreachable(format!("the answer makes no sense: {error}"))
    }
}

/// Why a call did not do what it should.
#[derive(Clone, Debug, PartialEq)]
pub enum CallError {
    Unreachable(Unreachable),
    Refused(pb::Refused),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Unreachable(error) => error.fmt(f),
            CallError::Refused(refused) => f.write_str(&refused.why),
        }
    }
}

impl std::error::Error for CallError {}

impl From<Unreadable> for CallError {
    fn from(error: Unreadable) -> CallError {
        CallError::Unreachable(error.into())
    }
}

/// The other controllers as this node calls them.
#[derive(Clone, Debug)]
pub struct Caller {
    pub peers: Arc<dyn Peers>,
    pub cluster: String,
    pub from: NodeId,
}

impl Caller {
    /// Calls a node, and gives its answer if it did not refuse.
    pub async fn call(&self, to: NodeId, address: &str, body: Request, patience: Duration) -> Result<Reply, CallError> {
        let request = pb::PeerRequest { cluster: self.cluster.clone(), from: self.from.0, to: to.0, body: Some(body) };
        let reply = self.peers.call(address, request, patience).await.map_err(CallError::Unreachable)?;
        match reply.body {
            Some(Reply::Refused(refused)) => Err(CallError::Refused(refused)),
            Some(body) => Ok(body),
            None => Err(missing("body of the answer").into()),
        }
    }
}

/// An answer of another kind than was asked for.
pub fn odd<T>() -> Result<T, CallError> {
    Err(Unreadable("it belongs to another question".into()).into())
}

/// What openraft calls its network.
#[derive(Clone)]
pub struct Links {
    pub caller: Caller,
    pub shared: Arc<Shared>,
}

impl RaftNetworkFactory<Kinds> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, member: &Member) -> Link {
        Link { links: self.clone(), target, address: member.address.clone() }
    }
}

/// The way to one node.
pub struct Link {
    links: Links,
    target: NodeId,
    address: String,
}

type RpcError = RPCError<NodeId, Member, RaftError<NodeId>>;

impl Link {
    /// A node that moved is reached at its new address, though the link is older.
    async fn call(&self, body: Request, patience: Duration) -> Result<Reply, CallError> {
        let address = self.links.shared.member(self.target).map_or_else(|| self.address.clone(), |member| member.address);
        self.links.caller.call(self.target, &address, body, patience).await
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot<Kinds>) -> Result<SnapshotResponse<NodeId>, CallError> {
        let name = snapshot.meta.snapshot_id.clone();
        let mut offset = 0;
        loop {
            let piece = read_piece(&snapshot.snapshot, offset)?;
            let len = piece.len() as u64;
            let last = offset + len >= snapshot.snapshot.len;
            let piece = pb::SnapshotPiece { ballot: Some(wire::ballot(&vote)), name: name.clone(), offset, bytes: piece.into(), last };
            match self.call(Request::Snapshot(piece), PIECE_PATIENCE).await? {
                Reply::Snapshot(taken) if last => return Ok(SnapshotResponse::new(wire::need_ballot(&taken.ballot)?)),
                Reply::Snapshot(taken) => {
                    // A follower of somebody newer says so at once, and the rest needn't be sent.
                    let follows = wire::need_ballot(&taken.ballot)?;
                    if follows > vote {
                        return Ok(SnapshotResponse::new(follows));
                    }
                }
                _ => return odd(),
            }
            offset += len;
        }
    }
}

fn read_piece(file: &SnapshotFile, offset: u64) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = vec![0; (file.len - offset).min(PIECE as u64) as usize];
    let read = file.file.read_at(offset, &mut bytes).map_err(|error| Unreadable(error.to_string()))?;
    if read < bytes.len() {
        return Err(Unreadable("the snapshot file became shorter".into()));
    }
    Ok(bytes)
}

/// A refusal is as final as a dead line: raft waits a moment and tries again.
fn rpc(error: CallError) -> RpcError {
    RPCError::Unreachable(openraft::error::Unreachable::new(&error))
}

impl RaftNetwork<Kinds> for Link {
    async fn append_entries(&mut self, request: AppendEntriesRequest<Kinds>, option: RPCOption) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        match self.call(Request::Append(wire::append(&request)), option.hard_ttl()).await.map_err(rpc)? {
            Reply::Appended(appended) => wire::read_appended(&appended).map_err(|error| RPCError::Network(NetworkError::new(&error))),
            _ => odd().map_err(rpc),
        }
    }

    async fn vote(&mut self, request: VoteRequest<NodeId>, option: RPCOption) -> Result<VoteResponse<NodeId>, RpcError> {
        match self.call(Request::Vote(wire::vote(&request)), option.hard_ttl()).await.map_err(rpc)? {
            Reply::Voted(voted) => wire::read_voted(&voted).map_err(|error| RPCError::Network(NetworkError::new(&error))),
            _ => odd().map_err(rpc),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Kinds>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<Kinds, openraft::error::Fatal<NodeId>>> {
        let sent = self.send_snapshot(vote, snapshot);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sent => sent.map_err(|error| StreamingError::Unreachable(openraft::error::Unreachable::new(&error))),
        }
    }

    fn backoff(&self) -> openraft::network::Backoff {
        openraft::network::Backoff::new(std::iter::repeat(Duration::from_millis(200)))
    }
}
