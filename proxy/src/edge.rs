//! The edge: the layers that a connection and then a call meet, in this order.
//!
//! 1. **connections**: at most so many at a time; one more is closed at once, before it costs anything.
//! 2. **first byte**: tells TLS from plaintext; a connection that stays silent is closed.
//! 3. **handshake**: at most so many at a time, each with a time limit, because they are what costs an attacker little and us much.
//! 4. **HTTP/2**: streams, resets, headers and windows are bounded, pings find dead peers.
//! 5. **idle**: a connection without calls is closed after a while; an open stream is a call.
//! 6. **size and memory**: each rpc has its own largest request, and all requests together a budget.
//! 7. **service**: who calls, validation, work (`rpc`).
//!
//! When the proxy stops, a connection says so (GOAWAY), finishes its calls, and ends.

use crate::budget::{Budget, Charge, Charged};
use crate::context::{Headers, Peer};
use crate::metrics::Rpc;
use crate::rpc::{Messaging, receive_message};
use crate::shared::{Phase, Shared};
use crate::status::Refusal;
use crate::tls::{Choice, Tls};
use crate::wire::{self, Answer};
use bytes::Bytes;
use gantry_platform::clock::{sleep, timeout};
use gantry_platform::tasks::{self, Stop};
use gantry_proto::v2::Code;
use gantry_proto::v2::messaging_service_server::MessagingServiceServer;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tonic::service::Routes;
use tower::Service;

/// What the edge bounds. The defaults are measured; `docs/compatibility.md` lists those that a client can meet.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// TLS handshakes under way.
    pub handshakes: usize,
    pub handshake_time: Duration,
    /// From the connection to its first call.
    pub first_call_time: Duration,
    /// Without a call, then the connection is closed.
    pub idle_time: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    /// Open calls of a connection. A push consumer keeps several polls per topic open on one connection.
    pub streams: u32,
    /// Streams that we reset because of the peer's mistakes, before the connection is closed.
    pub error_resets: usize,
    /// Streams that the peer reset before we looked at them, before the connection is closed.
    pub pending_resets: usize,
    pub header_list_bytes: u32,
    pub window_bytes: u32,
    /// The largest request of SendMessage. A body over its own limit must get through, to be answered inside the response.
    pub send_bytes: usize,
    /// The largest request of the rpcs that carry lists.
    pub list_bytes: usize,
    /// The largest request of the rpcs that carry names only.
    pub names_bytes: usize,
    /// Bytes of all requests that are being read or worked on.
    pub decode_bytes: usize,
    /// Receive calls that wait.
    pub open_polls: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 10_000,
            handshakes: 64,
            handshake_time: Duration::from_secs(5),
            first_call_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(120),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            streams: 1_024,
            error_resets: 256,
            pending_resets: 20,
            header_list_bytes: 16 * 1024,
            window_bytes: 1024 * 1024,
            send_bytes: 16 * 1024 * 1024,
            list_bytes: 1024 * 1024,
            names_bytes: 64 * 1024,
            decode_bytes: 256 * 1024 * 1024,
            open_polls: 100_000,
        }
    }
}

impl Limits {
    fn request_bytes(&self, rpc: Rpc) -> usize {
        match rpc {
            Rpc::SendMessage => self.send_bytes,
            Rpc::QueryRoute | Rpc::QueryAssignment | Rpc::Heartbeat | Rpc::NotifyClientTermination => self.names_bytes,
            _ => self.list_bytes,
        }
    }
}

/// Which services a port offers.
#[derive(Clone)]
pub struct Door {
    pub offers: Offers,
    /// Everything off the hot path: health, reflection, administration.
    pub routes: Routes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offers {
    Messaging,
    Administration,
}

/// Makes calls out of connections.
pub struct Edge {
    pub shared: Arc<Shared>,
    pub tls: Tls,
    connections: Arc<Semaphore>,
    handshakes: Semaphore,
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Edge {{ tls: {:?} }}", self.tls)
    }
}

impl Edge {
    pub fn new(shared: Arc<Shared>, tls: Tls) -> Edge {
        let limits = &shared.config.limits;
        let (connections, handshakes) = (Arc::new(Semaphore::new(limits.connections)), Semaphore::new(limits.handshakes));
        Edge { shared, tls, connections, handshakes }
    }

    /// Serves a connection in a task of its own, which holds `alive` as long as it runs.
    pub fn start(self: &Arc<Edge>, stream: TcpStream, door: &Door, stop: &Stop, alive: mpsc::Sender<Infallible>) {
        let Ok(permit) = self.connections.clone().try_acquire_owned() else {
            self.shared.metrics.connections_refused.add(1);
            tracing::warn!(limit = self.shared.config.limits.connections, "too many connections; a new one was closed");
            return;
        };
        let (edge, door, stop) = (self.clone(), door.clone(), stop.clone());
        // If it fails, the connection ends; its client comes back.
        tasks::spawn("connection", async move {
            let _held = (permit, alive, edge.shared.metrics.connections.hold());
            edge.connection(stream, door, stop).await;
        });
    }

    async fn connection(&self, stream: TcpStream, door: Door, stop: Stop) {
        let (Ok(remote), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
        let peer = Arc::new(Peer::new(remote, local));
        let limits = &self.shared.config.limits;
        let mut first = [0];
        let Ok(Ok(1)) = timeout(limits.first_call_time, stream.peek(&mut first)).await else { return };
        match self.tls.choose(first[0]) {
            Choice::Plain => self.http2(stream, peer, door, stop).await,
            Choice::Tls(acceptor) => {
                let handshake = async {
                    let _permit = self.handshakes.acquire().await;
                    timeout(limits.handshake_time, acceptor.accept(stream)).await
                };
                match timeout(limits.first_call_time, handshake).await {
                    Ok(Ok(Ok(stream))) => self.http2(stream, peer, door, stop).await,
                    Ok(Ok(Err(error))) => self.handshake_failed(&peer, &error.to_string()),
                    Ok(Err(_)) | Err(_) => self.handshake_failed(&peer, "it took too long"),
                }
            }
            Choice::Refuse => tracing::debug!(peer = %peer.remote, "plaintext is not allowed; a connection was closed"),
        }
    }

    fn handshake_failed(&self, peer: &Peer, why: &str) {
        self.shared.metrics.tls_handshakes_failed.add(1);
        tracing::debug!(peer = %peer.remote, why, "a TLS handshake failed");
    }

    async fn http2(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Arc<Peer>, door: Door, stop: Stop) {
        let limits = &self.shared.config.limits;
        let activity = Arc::new(Activity::default());
        let calls = Arc::new(Calls::new(self.shared.clone(), peer.clone(), door, activity.clone()));
        let service = service_fn(move |request| calls.call(request));
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(limits.streams)
            .max_local_error_reset_streams(limits.error_resets)
            .max_pending_accept_reset_streams(limits.pending_resets)
            .max_header_list_size(limits.header_list_bytes)
            .initial_stream_window_size(limits.window_bytes)
            .initial_connection_window_size(limits.window_bytes)
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut end = pin!(async {
            tokio::select! {
                () = activity.idle(limits) => {}
                () = self.shared.reached(Phase::Draining) => {}
                () = stop.stopped() => {}
            }
        });
        let mut ending = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(peer = %peer.remote, %error, "a connection broke");
                    }
                    return;
                }
                () = end.as_mut(), if !ending => {
                    ending = true;
                    if activity.is_new() {
                        // Whoever opens a connection without ever calling gets no polite end.
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// What happens on a connection.
#[derive(Debug, Default)]
struct Activity {
    open: AtomicUsize,
    calls: AtomicU64,
}

impl Activity {
    fn enter(self: &Arc<Activity>) -> OpenCall {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        OpenCall(self.clone())
    }

    fn is_new(&self) -> bool {
        self.calls.load(Ordering::Relaxed) == 0
    }

    /// Waits until the connection has been without calls for too long.
    async fn idle(&self, limits: &Limits) {
        sleep(limits.first_call_time).await;
        let step = (limits.idle_time / 8).max(Duration::from_millis(1));
        let (mut seen, mut quiet) = (0, Duration::ZERO);
        while !self.is_new() && quiet < limits.idle_time {
            let calls = self.calls.load(Ordering::Relaxed);
            let busy = calls != seen || self.open.load(Ordering::Relaxed) > 0;
            quiet = if busy { Duration::ZERO } else { quiet + step };
            seen = calls;
            sleep(step).await;
        }
    }
}

struct OpenCall(Arc<Activity>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call under way.
type Call = Pin<Box<dyn Future<Output = Result<Response<Guarded>, Infallible>> + Send>>;

/// The calls of one connection.
struct Calls {
    messaging: Arc<Messaging>,
    door: Door,
    activity: Arc<Activity>,
    budget: Arc<Budget>,
}

impl Calls {
    fn new(shared: Arc<Shared>, peer: Arc<Peer>, door: Door, activity: Arc<Activity>) -> Calls {
        Calls { budget: Arc::new(Budget::new(shared.clone())), messaging: Arc::new(Messaging::new(shared, peer)), door, activity }
    }

    /// What a call will come to. Each kind of call has a box of its own size: hyper moves what it gets several times before it first runs, and most
    /// calls need far less room than the largest.
    fn call(self: &Arc<Calls>, request: Request<Incoming>) -> Call {
        match self.messaging_rpc(request.uri().path()) {
            Some(Rpc::SendMessage) => self
                .often(Rpc::SendMessage, request, |messaging, headers, message| async move { wire::answer(&messaging.send(headers, message).await) }),
            Some(Rpc::AckMessage) => self
                .often(Rpc::AckMessage, request, |messaging, headers, message| async move { wire::answer(&messaging.ack(headers, message).await) }),
            Some(Rpc::ReceiveMessage) => self.often(Rpc::ReceiveMessage, request, |messaging, headers, message| async move {
                wire::respond(Answer::Deliveries(Box::new(receive_message::answer(&messaging, headers, message))))
            }),
            Some(Rpc::Telemetry) => self.made(Rpc::Telemetry, request, None),
            Some(rpc) => {
                let charge = Charge::new(self.budget.clone());
                self.made(rpc, request.map(|body| Charged::new(body, charge.clone())), Some(charge))
            }
            None => {
                let (open, mut routes) = (self.activity.enter(), self.door.routes.clone());
                Box::pin(async move {
                    let Ok(response) = routes.call(request).await;
                    Ok(response.map(|body| Guarded { body: Answer::Made(body), _open: open }))
                })
            }
        }
    }

    fn messaging_rpc(&self, path: &str) -> Option<Rpc> {
        if self.door.offers != Offers::Messaging {
            return None;
        }
        path.strip_prefix("/apache.rocketmq.v2.MessagingService/").and_then(Rpc::named)
    }

    /// One of the calls that come by the thousand.
    fn often<Q, F>(
        self: &Arc<Calls>,
        rpc: Rpc,
        request: Request<Incoming>,
        work: impl FnOnce(Arc<Messaging>, Headers, Q) -> F + Send + 'static,
    ) -> Call
    where
        Q: Message + Default,
        F: Future<Output = Response<Answer>> + Send,
    {
        let (calls, open, charge) = (self.clone(), self.activity.enter(), Charge::new(self.budget.clone()));
        let (parts, body) = request.into_parts();
        let (headers, body) = (parts.headers, Charged::new(body, charge.clone()));
        Box::pin(async move {
            let most = calls.messaging.shared.config.limits.request_bytes(rpc);
            let response = match wire::read(&headers, body, most).await {
                Ok(message) => work(calls.messaging.clone(), headers.into(), message).await,
                Err(_) if charge.was_refused() => calls.over_budget(rpc),
                Err(status) => wire::refuse(status),
            };
            Ok(response.map(|body| Guarded { body, _open: open }))
        })
    }

    /// A call as tonic reads and answers it.
    fn made<B>(self: &Arc<Calls>, rpc: Rpc, request: Request<B>, charge: Option<Arc<Charge>>) -> Call
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let (calls, open) = (self.clone(), self.activity.enter());
        let most = self.messaging.shared.config.limits.request_bytes(rpc);
        let mut server = MessagingServiceServer::from_arc(self.messaging.clone()).max_decoding_message_size(most);
        let answer = Service::call(&mut server, request);
        Box::pin(async move {
            let Ok(response) = answer.await;
            let refused = charge.is_some_and(|charge| charge.was_refused());
            let response = if refused { calls.over_budget(rpc) } else { response.map(Answer::Made) };
            Ok(response.map(|body| Guarded { body, _open: open }))
        })
    }

    fn over_budget(&self, rpc: Rpc) -> Response<Answer> {
        let refusal = Refusal::new(Code::TooManyRequests, "flow limit: too many bytes of requests are being worked on, try again after a pause");
        self.messaging.shared.metrics.answered(rpc, refusal.code, Duration::ZERO);
        wire::answer_status(refusal.into())
    }
}

/// A response body that keeps its call open until it is written or given up.
struct Guarded {
    body: Answer,
    _open: OpenCall,
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
