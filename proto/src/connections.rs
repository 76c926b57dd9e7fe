//! Connections between roles, over whatever network `platform` gives, real or simulated: how a role reaches others and is reached.
//!
//! A connection is made when it is first needed and made again when it broke; whether the other side answered is for each call to find out.

use gantry_platform::clock::sleep;
use gantry_platform::net::{Connection, Incoming, Net};
use gantry_platform::tasks::{Stop, TaskGroup};
use hyper_util::rt::TokioIo;
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
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server, Uri};

/// Connections that wait to be served.
const BACKLOG: usize = 64;
/// Calls under way on one connection.
const STREAMS: u32 = 256;
const HEADERS_MAX: u32 = 16 * 1024;
/// A connection on which nothing is heard for this long and then this long after a ping is dead.
const KEEPALIVE: Duration = Duration::from_secs(2);
const PONG: Duration = Duration::from_secs(4);
/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(3);
/// Bytes on their way on one stream and on one connection: replicas send appends of a MiB, and more than one at a time.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Longest HTTP/2 frame: with the usual 16 KiB a batch would be cut into many.
const FRAME_MAX: u32 = 256 * 1024;
/// How long calls under way may take when the end has come.
const FINISH: Duration = Duration::from_millis(500);
/// The pause after a connection could not be accepted: mostly because there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// The way to other processes: one connection for each address.
pub struct Channels {
    net: Arc<dyn Net>,
    by_address: Mutex<HashMap<String, Channel>>,
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels").field("net", &self.net).finish_non_exhaustive()
    }
}

/// An address that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAddress(pub String);

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadAddress {}

impl Channels {
    pub fn new(net: Arc<dyn Net>) -> Channels {
        Channels { net, by_address: Mutex::default() }
    }

    /// The connection to `host:port`, made when it is first used.
    pub fn to(&self, address: &str) -> Result<Channel, BadAddress> {
        let mut channels = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| BadAddress(format!("`{address}`: {error}")))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(PONG)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
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

/// Serves other roles until it is told to stop; the acceptor is a task of the group.
pub async fn serve(incoming: Box<dyn Incoming>, services: Routes, tasks: &TaskGroup) -> Result<(), tonic::transport::Error> {
    let (accepted, connections) = mpsc::channel(BACKLOG);
    let stop = tasks.signal();
    tasks.spawn("acceptor of other roles", accept(incoming, accepted, stop.clone()));
    let mut server = Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADERS_MAX)
        .http2_max_pending_accept_reset_streams(Some(32))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(PONG))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX);
    let told = stop.clone();
    let served = server.add_routes(services).serve_with_incoming_shutdown(ReceiverStream::new(connections), async move { told.stopped().await });
    tokio::select! {
        served = served => served,
        // Streams that last as long as the process would never end by themselves.
        () = async { stop.stopped().await; sleep(FINISH).await } => Ok(()),
    }
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
                tracing::warn!(%error, "a connection of another role could not be accepted");
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

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
