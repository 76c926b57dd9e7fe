//! Controllers over gRPC: one unary method, over whatever network `platform` gives, real or simulated.
//!
//! A connection is made when it is first needed and made again when it broke; whether the other answered is for each call to find out.
//! Calls are few (a handful a second between idle nodes, one for a batch of entries), so unary calls are cheap enough here.

use super::{Answer, Peers, Unreachable};
use async_trait::async_trait;
use gantry_platform::clock::{sleep, timeout};
use gantry_platform::net::{Connection, Incoming, Net};
use gantry_platform::tasks::{Stop, TaskGroup};
use gantry_proto::controller as pb;
use hyper_util::rt::TokioIo;
use pb::peer_client::PeerClient;
use pb::peer_server::{Peer, PeerServer};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};

/// Largest message: a piece of a snapshot has 256 KiB, an append up to 256 entries.
const MESSAGE_MAX: usize = 64 * 1024 * 1024;
/// Connections that wait to be served.
const BACKLOG: usize = 16;
/// Calls under way on one connection.
const STREAMS: u32 = 256;
const HEADERS_MAX: u32 = 16 * 1024;
/// A connection on which nothing is heard for this long and then this long after a ping is dead.
const KEEPALIVE: Duration = Duration::from_secs(5);
const PONG: Duration = Duration::from_secs(3);
/// The pause after a connection could not be accepted: mostly because there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// The way to other controllers.
pub struct GrpcPeers {
    net: Arc<dyn Net>,
    channels: Mutex<HashMap<String, Channel>>,
}

impl fmt::Debug for GrpcPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcPeers").field("net", &self.net).finish_non_exhaustive()
    }
}

impl GrpcPeers {
    pub fn new(net: Arc<dyn Net>) -> GrpcPeers {
        GrpcPeers { net, channels: Mutex::default() }
    }

    fn channel(&self, address: &str) -> Result<Channel, Unreachable> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| Unreachable(format!("`{address}`: {error}")))?;
        let endpoint = endpoint.http2_keep_alive_interval(KEEPALIVE).keep_alive_timeout(PONG).keep_alive_while_idle(true);
        let (net, target) = (self.net.clone(), address.to_owned());
        let connect = tower::service_fn(move |_: Uri| {
            let (net, target) = (net.clone(), target.clone());
            async move { net.connect(&target).await.map(TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector_lazy(connect);
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

#[async_trait]
impl Peers for GrpcPeers {
    async fn call(&self, address: &str, request: pb::PeerRequest, patience: Duration) -> Result<pb::PeerReply, Unreachable> {
        let mut client = PeerClient::new(self.channel(address)?).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        match timeout(patience, client.call(Request::new(request))).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(Unreachable(format!("`{address}`: {}", status.message()))),
            Err(_) => Err(Unreachable(format!("`{address}` did not answer within {patience:?}"))),
        }
    }
}

struct Service(Arc<dyn Answer>);

#[async_trait]
impl Peer for Service {
    async fn call(&self, request: Request<pb::PeerRequest>) -> Result<Response<pb::PeerReply>, Status> {
        Ok(Response::new(self.0.answer(request.into_inner()).await))
    }
}

/// Answers other controllers until it is told to stop; the acceptor is a task of the group.
pub async fn serve(incoming: Box<dyn Incoming>, answer: Arc<dyn Answer>, tasks: &TaskGroup) -> Result<(), tonic::transport::Error> {
    let (accepted, connections) = mpsc::channel(BACKLOG);
    let stop = tasks.signal();
    tasks.spawn("controller acceptor", accept(incoming, accepted, stop.clone()));
    let service = PeerServer::new(Service(answer)).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
    let mut server = Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADERS_MAX)
        .http2_max_pending_accept_reset_streams(Some(32))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(PONG));
    server.add_service(service).serve_with_incoming_shutdown(ReceiverStream::new(connections), async move { stop.stopped().await }).await
}

async fn accept(mut incoming: Box<dyn Incoming>, accepted: mpsc::Sender<io::Result<Accepted>>, stop: Stop) {
    loop {
        let connection = tokio::select! {
            () = stop.stopped() => return,
            connection = incoming.accept() => connection,
        };
        match connection {
            Ok(connection) => {
                if accepted.send(Ok(Accepted(connection))).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection of another controller could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// A connection that came in, as tonic wants it.
struct Accepted(Connection);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
