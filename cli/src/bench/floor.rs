//! The floor: a messaging service that does nothing, with the same tonic settings as the proxy. What a call costs here it costs in any
//! server, so the distance from here is what our own work costs. Runs as a child process of the bench, from the same binary.
//!
//! Answers are made once: a send gets one OK entry per message, a receive the same batch of messages each time, an acknowledgement OK.

use super::Settings;
use super::place::Place;
use super::stamp::{STAMP_BYTES, Stamp};
use crate::connect::DECODE_LIMIT;
use crate::failure::{Exit, Failure};
use crate::global::{Global, TlsMode};
use crate::terminal::Terminal;
use bytes::Bytes;
use clap::Args;
use gantry_platform::tasks;
use gantry_proto::v2::messaging_service_server::{MessagingService, MessagingServiceServer};
use gantry_proto::v2::receive_message_response::Content;
use gantry_proto::v2::{self, Code};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child as Process, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// As the proxy sets them; `docs/design` says why.
const STREAMS: u32 = 1024;
const WINDOW: u32 = 1024 * 1024;
const LISTENING: &str = "listening on ";

/// Options of the hidden command that serves the floor.
#[derive(Debug, Args)]
pub struct BenchFloor {
    /// Bytes of a body that is received
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Messages of a batch
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Threads that serve [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
}

/// Serves until stdin ends, so that it never outlives the process that started it.
pub async fn serve(args: BenchFloor, terminal: &mut Terminal) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::Failed, "cannot serve the floor").because(error);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
    let handler = Floor::new(args.size, args.batch);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let lanes =
        (0..args.threads.unwrap_or(cores)).map(|number| start_thread(number, handler.clone())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    writeln!(terminal.out, "{LISTENING}{}", listener.local_addr().map_err(failed)?)?;
    terminal.out.flush()?;
    let deal = async {
        for lane in lanes.iter().cycle() {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            // A thread that is gone takes no more connections; the client sees that as a closed one.
            let _ = lane.send(socket.into_std()?).await;
        }
        Ok(())
    };
    tokio::select! {
        served = deal => served.map_err(failed),
        _ = async { while let Ok(Some(_)) = terminal.line().await {} } => Ok(()),
    }
}

/// One thread with its own runtime, which serves the connections that come through the channel.
fn start_thread(number: usize, handler: Floor) -> std::io::Result<mpsc::Sender<TcpStream>> {
    let (lane, connections) = mpsc::channel(64);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = async move {
        let incoming = ReceiverStream::new(connections).map(tokio::net::TcpStream::from_std);
        let service = MessagingServiceServer::new(handler).max_decoding_message_size(DECODE_LIMIT);
        let server = tonic::transport::Server::builder().max_concurrent_streams(STREAMS).initial_stream_window_size(WINDOW);
        // It ends when the lane is dropped; an error of one connection does not come up here.
        let _ = server.initial_connection_window_size(WINDOW).add_service(service).serve_with_incoming(incoming).await;
    };
    tasks::thread(format!("floor-{number}"), move || runtime.block_on(serve))?;
    Ok(lane)
}

/// The running child.
#[derive(Debug)]
pub struct Child {
    endpoint: String,
    pid: u32,
    /// Its stdin: closing it ends the child.
    _leash: ChildStdin,
    _process: Process,
}

impl Child {
    /// Starts the floor with the sizes of the run and waits until it listens.
    pub async fn start(settings: &Settings) -> Result<Child, Failure> {
        let binary = std::env::current_exe().map_err(|error| Failure::new(Exit::Failed, "cannot find this program").because(error))?;
        Child::start_binary(&binary, settings).await
    }

    /// The same from another binary, for tests: theirs is not `gantry`.
    async fn start_binary(binary: &std::path::Path, settings: &Settings) -> Result<Child, Failure> {
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, "cannot start the floor").because(error);
        let (size, batch) = (settings.size_bytes.to_string(), settings.batch.to_string());
        let mut command = Command::new(binary);
        command.args(["bench-floor", "--size", &size, "--batch", &batch]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().map_err(failed)?;
        let (Some(leash), Some(stdout), Some(pid)) = (process.stdin.take(), process.stdout.take(), process.id()) else {
            return Err(Failure::new(Exit::Failed, "the floor ended at once"));
        };
        let mut lines = BufReader::new(stdout).lines();
        let line = lines.next_line().await.map_err(failed)?.unwrap_or_default();
        let Some(address) = line.strip_prefix(LISTENING) else {
            return Err(Failure::new(Exit::Failed, "the floor does not listen").because(format!("it said `{line}`")));
        };
        Ok(Child { endpoint: format!("http://{address}"), pid, _leash: leash, _process: process })
    }

    pub fn place(&self, global: &Global) -> Place {
        let global = Global { endpoint: self.endpoint.clone(), tls: TlsMode::Off, ..global.clone() };
        Place::floor(global, self.pid)
    }
}

/// The handler, with its answers made.
#[derive(Clone, Debug)]
pub struct Floor {
    entry: v2::SendResultEntry,
    batch: Arc<Vec<v2::ReceiveMessageResponse>>,
}

/// The status of what went well.
pub fn ok() -> Option<v2::Status> {
    Some(v2::Status { code: Code::Ok as i32, message: "OK".to_owned() })
}

impl Floor {
    pub fn new(size: usize, batch: usize) -> Floor {
        let id = "0".repeat(32);
        let entry = v2::SendResultEntry { status: ok(), message_id: id.clone(), transaction_id: id, offset: 1_000_000, recall_handle: String::new() };
        let part = |content| v2::ReceiveMessageResponse { content: Some(content) };
        let status = ok().map(|status| part(Content::Status(status)));
        let messages = (0..batch as u64).map(|seq| part(Content::Message(canned(seq, size))));
        let end = part(Content::DeliveryTimestamp(crate::clock::wall()));
        Floor { entry, batch: Arc::new(status.into_iter().chain(messages).chain([end]).collect()) }
    }
}

/// A message as a server delivers it: the fields, and fields as long as, that Gantry's have.
fn canned(seq: u64, size: usize) -> v2::Message {
    let filler = vec![b'.'; size.saturating_sub(STAMP_BYTES)];
    let stamp = Stamp { run: 0, producer: 0, seq, due: 0 }.bytes(&filler);
    let system = v2::SystemProperties {
        message_id: format!("{seq:032x}"),
        body_digest: Some(v2::Digest { r#type: v2::DigestType::Md5 as i32, checksum: "0".repeat(32) }),
        body_encoding: v2::Encoding::Identity as i32,
        message_type: v2::MessageType::Normal as i32,
        born_timestamp: Some(crate::clock::wall()),
        born_host: "gantry-bench".to_owned(),
        store_timestamp: Some(crate::clock::wall()),
        store_host: "127.0.0.1:8081".to_owned(),
        receipt_handle: Some("h".repeat(96)),
        queue_id: 3,
        queue_offset: Some(1_000_000),
        delivery_attempt: Some(1),
        ..Default::default()
    };
    let topic = v2::Resource { resource_namespace: String::new(), name: "bench".to_owned() };
    let body = Bytes::from([&stamp[..], &filler].concat());
    v2::Message { topic: Some(topic), user_properties: Default::default(), system_properties: Some(system), body }
}

/// A stream of answers that are ready.
pub struct Canned {
    batch: Arc<Vec<v2::ReceiveMessageResponse>>,
    next: usize,
}

impl tokio_stream::Stream for Canned {
    type Item = Result<v2::ReceiveMessageResponse, Status>;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        let part = self.batch.get(self.next).cloned();
        self.next += 1;
        std::task::Poll::Ready(part.map(Ok))
    }
}

/// What the load never calls.
pub fn not_served<T>() -> Result<T, Status> {
    Err(Status::unimplemented("this stand-in serves SendMessage, ReceiveMessage, AckMessage and NotifyClientTermination only"))
}

/// The messaging service with the few methods that a stand-in serves; the others are refused. The tests of this crate use it, too.
macro_rules! stand_in {
    ($name:ty { $($served:tt)* }) => {
        #[tonic::async_trait]
        impl MessagingService for $name {
            $($served)*

            type PullMessageStream = tokio_stream::Empty<Result<v2::PullMessageResponse, Status>>;
            type TelemetryStream = tokio_stream::Empty<Result<v2::TelemetryCommand, Status>>;

            async fn heartbeat(&self, _: Request<v2::HeartbeatRequest>) -> Result<Response<v2::HeartbeatResponse>, Status> {
                not_served()
            }

            async fn query_assignment(&self, _: Request<v2::QueryAssignmentRequest>) -> Result<Response<v2::QueryAssignmentResponse>, Status> {
                not_served()
            }

            async fn forward_message_to_dead_letter_queue(
                &self,
                _: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
            ) -> Result<Response<v2::ForwardMessageToDeadLetterQueueResponse>, Status> {
                not_served()
            }

            async fn pull_message(&self, _: Request<v2::PullMessageRequest>) -> Result<Response<Self::PullMessageStream>, Status> {
                not_served()
            }

            async fn update_offset(&self, _: Request<v2::UpdateOffsetRequest>) -> Result<Response<v2::UpdateOffsetResponse>, Status> {
                not_served()
            }

            async fn get_offset(&self, _: Request<v2::GetOffsetRequest>) -> Result<Response<v2::GetOffsetResponse>, Status> {
                not_served()
            }

            async fn query_offset(&self, _: Request<v2::QueryOffsetRequest>) -> Result<Response<v2::QueryOffsetResponse>, Status> {
                not_served()
            }

            async fn end_transaction(&self, _: Request<v2::EndTransactionRequest>) -> Result<Response<v2::EndTransactionResponse>, Status> {
                not_served()
            }

            async fn telemetry(
                &self,
                _: Request<tonic::Streaming<v2::TelemetryCommand>>,
            ) -> Result<Response<Self::TelemetryStream>, Status> {
                not_served()
            }

            async fn change_invisible_duration(
                &self,
                _: Request<v2::ChangeInvisibleDurationRequest>,
            ) -> Result<Response<v2::ChangeInvisibleDurationResponse>, Status> {
                not_served()
            }

            async fn recall_message(&self, _: Request<v2::RecallMessageRequest>) -> Result<Response<v2::RecallMessageResponse>, Status> {
                not_served()
            }

            async fn sync_lite_subscription(
                &self,
                _: Request<v2::SyncLiteSubscriptionRequest>,
            ) -> Result<Response<v2::SyncLiteSubscriptionResponse>, Status> {
                not_served()
            }
        }
    };
}
#[cfg(test)]
pub(crate) use stand_in;

stand_in!(Floor {
    async fn query_route(&self, _: Request<v2::QueryRouteRequest>) -> Result<Response<v2::QueryRouteResponse>, Status> {
        Ok(Response::new(v2::QueryRouteResponse { status: ok(), message_queues: Vec::new() }))
    }

    async fn send_message(&self, request: Request<v2::SendMessageRequest>) -> Result<Response<v2::SendMessageResponse>, Status> {
        let entries = request.into_inner().messages.iter().map(|_| self.entry.clone()).collect();
        Ok(Response::new(v2::SendMessageResponse { status: ok(), entries }))
    }

    type ReceiveMessageStream = Canned;

    async fn receive_message(&self, _: Request<v2::ReceiveMessageRequest>) -> Result<Response<Canned>, Status> {
        Ok(Response::new(Canned { batch: self.batch.clone(), next: 0 }))
    }

    async fn ack_message(&self, request: Request<v2::AckMessageRequest>) -> Result<Response<v2::AckMessageResponse>, Status> {
        let entries = request.into_inner().entries.into_iter().map(acked).collect();
        Ok(Response::new(v2::AckMessageResponse { status: ok(), entries }))
    }

    async fn notify_client_termination(
        &self,
        _: Request<v2::NotifyClientTerminationRequest>,
    ) -> Result<Response<v2::NotifyClientTerminationResponse>, Status> {
        Ok(Response::new(v2::NotifyClientTerminationResponse { status: ok() }))
    }
});

/// The entry of an acknowledgement that did its work.
pub fn acked(entry: v2::AckMessageEntry) -> v2::AckMessageResultEntry {
    v2::AckMessageResultEntry { message_id: entry.message_id, receipt_handle: entry.receipt_handle, status: ok() }
}
