//! The streams between brokers: one for each pair of a follower and a leader, which carries all shards that the one follows at the other.
//!
//! A stream may break at any time, and what was under way is lost; the rules cope with it, and the follower says `Hello` again on the next one. A broker
//! that is not the one that was meant, or belongs to another cluster, ends the stream with the reason.

use super::Handle;
use super::message::{Message, Outlet, PeerEvent};
use super::wire;
use bytes::Bytes;
use gantry_model::{Lsn, ShardId};
use gantry_proto::broker::replicas_client::ReplicasClient;
use gantry_proto::broker::replicas_server::{Replicas, ReplicasServer};
use gantry_proto::broker::{Greeting, Range, Stretch, ToFollower, ToLeader, to_leader};
use gantry_store::log::ReadError;
use gantry_store::replica::NodeId;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// The longest message: an append of one batch, which may be longer than appends usually are.
const MESSAGE_MAX: usize = 24 * 1024 * 1024;
/// Bytes that are read for a peer's repair at a time, unless one frame is longer.
const STRETCH: usize = 4 * 1024 * 1024;

/// The copies of shards that are in this process.
#[derive(Debug)]
pub struct Copies {
    pub cluster: [u8; 16],
    pub node: NodeId,
    handles: RwLock<BTreeMap<ShardId, Handle>>,
}

impl Copies {
    pub fn new(cluster: [u8; 16], node: NodeId) -> Arc<Copies> {
        Arc::new(Copies { cluster, node, handles: RwLock::default() })
    }

    pub fn add(&self, shard: ShardId, handle: Handle) {
        self.handles.write().unwrap_or_else(PoisonError::into_inner).insert(shard, handle);
    }

    pub fn remove(&self, shard: ShardId) {
        self.handles.write().unwrap_or_else(PoisonError::into_inner).remove(&shard);
    }

    pub fn get(&self, shard: ShardId) -> Option<Handle> {
        self.handles.read().unwrap_or_else(PoisonError::into_inner).get(&shard).cloned()
    }

    /// The service for followers elsewhere.
    pub fn server(self: &Arc<Copies>) -> ReplicasServer<Door> {
        ReplicasServer::new(Door { copies: self.clone() }).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX)
    }

    /// Why something is not for this broker that is meant for a node of a cluster.
    fn refuses(&self, meant: &str, node: u64) -> Option<Status> {
        let cluster = hex::encode(self.cluster);
        if meant != cluster {
            let why = format!("this broker belongs to cluster `{cluster}`, not to `{meant}`; check the address, and that no volume was mixed up");
            return Some(Status::permission_denied(why));
        }
        (node != self.node.0)
            .then(|| Status::not_found(format!("this is node `{}`, not `{node}`: the address belongs to another broker now", self.node)))
    }
}

/// Where followers elsewhere come in.
#[derive(Clone, Debug)]
pub struct Door {
    copies: Arc<Copies>,
}

#[tonic::async_trait]
impl Replicas for Door {
    type FollowStream = UnboundedReceiverStream<Result<ToFollower, Status>>;

    async fn follow(&self, request: Request<Streaming<ToLeader>>) -> Result<Response<Self::FollowStream>, Status> {
        let mut said = request.into_inner();
        let first = said.message().await?.and_then(|first| first.body);
        let Some(to_leader::Body::Greeting(greeting)) = first else {
            return Err(Status::invalid_argument("a stream begins with a greeting"));
        };
        if let Some(refusal) = self.copies.refuses(&greeting.cluster, greeting.to) {
            return Err(refusal);
        }
        let (out, answers) = unbounded_channel();
        let copies = self.copies.clone();
        // Ends with the stream.
        gantry_platform::tasks::spawn("a follower's stream", async move {
            while let Some(Ok(message)) = said.next().await {
                let Some((shard, message)) = wire::from_follower(message) else {
                    let _ = out.send(Err(Status::invalid_argument("a message that makes no sense")));
                    return;
                };
                if let Some(handle) = copies.get(shard) {
                    handle.tell(PeerEvent::Said { message, back: Arc::new(Down { shard, out: out.clone() }) });
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(answers)))
    }

    async fn read(&self, request: Request<Range>) -> Result<Response<Stretch>, Status> {
        let range = request.into_inner();
        if let Some(refusal) = self.copies.refuses(&range.cluster, range.node) {
            return Err(refusal);
        }
        let shard = ShardId(range.shard);
        let copy = self.copies.get(shard).ok_or_else(|| Status::not_found(format!("no copy of shard {shard} runs here")))?;
        let read = gantry_platform::tasks::blocking("read for a peer", move || read(&copy, &range));
        read.await.map_err(|error| Status::internal(error.to_string()))?.map(Response::new)
    }
}

/// Reads for a copy elsewhere that lost a part of its log.
fn read(copy: &Handle, range: &Range) -> Result<Stretch, Status> {
    let (view, from, until) = (copy.view(), Lsn(range.from), Lsn(range.until));
    if from >= until {
        return Ok(Stretch { frames: Bytes::new(), serves: view.serves });
    }
    if until > view.hw && !view.serves {
        // A leader that has just been chosen does not know yet what is committed.
        return Err(Status::unavailable(format!("only what is before {} is known to be committed here so far", view.hw)));
    }
    if until > view.hw {
        return Err(Status::out_of_range(format!("only what is before {} is known to be committed here", view.hw)));
    }
    match copy.reader().stretch(from, until, STRETCH) {
        Ok(frames) => Ok(Stretch { frames, serves: view.serves }),
        Err(error @ (ReadError::Trimmed { .. } | ReadError::Beyond { .. })) => Err(Status::out_of_range(error.to_string())),
        Err(error) => Err(Status::data_loss(error.to_string())),
    }
}

/// From a leader here to a follower elsewhere.
struct Down {
    shard: ShardId,
    out: UnboundedSender<Result<ToFollower, Status>>,
}

impl fmt::Debug for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to a follower of shard {}", self.shard)
    }
}

impl Outlet for Down {
    fn send(&self, message: Message) {
        // A stream that ended takes nothing more; the follower opens another.
        if let Some(message) = wire::to_follower(self.shard, message) {
            let _ = self.out.send(Ok(message));
        }
    }
}

/// From a follower here to a leader elsewhere.
#[derive(Clone)]
pub struct Up {
    shard: ShardId,
    out: UnboundedSender<ToLeader>,
}

impl fmt::Debug for Up {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to the leader of shard {}", self.shard)
    }
}

impl Outlet for Up {
    fn send(&self, message: Message) {
        if let Some(message) = wire::to_leader(self.shard, message) {
            let _ = self.out.send(message);
        }
    }
}

/// An open stream to a leader elsewhere.
#[derive(Debug)]
pub struct Upstream {
    out: UnboundedSender<ToLeader>,
}

impl Upstream {
    /// Opens a stream to the broker `to`. What its leaders say goes to the copies here.
    pub async fn open(channel: Channel, copies: Arc<Copies>, to: NodeId) -> Result<Upstream, Status> {
        let mut client = ReplicasClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        let (out, messages) = unbounded_channel();
        let greeting = Greeting { cluster: hex::encode(copies.cluster), from: copies.node.0, to: to.0 };
        let _ = out.send(ToLeader { shard: 0, body: Some(to_leader::Body::Greeting(greeting)) });
        let mut said = client.follow(UnboundedReceiverStream::new(messages)).await?.into_inner();
        let up = out.clone();
        // Ends with the stream.
        gantry_platform::tasks::spawn("a leader's stream", async move {
            while let Some(Ok(message)) = said.next().await {
                let Some((shard, message)) = wire::from_leader(message) else { return };
                if let Some(handle) = copies.get(shard) {
                    handle.tell(PeerEvent::Said { message, back: Arc::new(Up { shard, out: up.clone() }) });
                }
            }
        });
        Ok(Upstream { out })
    }

    /// Whether the other side is still there, as far as is known.
    pub fn is_open(&self) -> bool {
        !self.out.is_closed()
    }

    /// Has a shard's copy here follow the leader there.
    pub fn follow(&self, shard: ShardId, copy: &Handle) {
        copy.tell(PeerEvent::Leader { outlet: Arc::new(Up { shard, out: self.out.clone() }) });
    }
}
