//! The rpcs of the messaging service, one file each, named after the rpc.
//!
//! This file is what they share: it finds out who calls, bounds the time, turns a refusal into an answer and counts it. Every rpc answers
//! inside its response; a gRPC status is left to broken transports.

pub mod query_route;
pub mod query_assignment;
pub mod heartbeat;
pub mod telemetry;
pub mod send_message;
pub mod receive_message;
pub mod ack_message;
pub mod change_invisible_duration;
pub mod forward_to_dead_letter;
pub mod notify_client_termination;
pub mod end_transaction;
pub mod recall_message;
pub mod pull_message;
pub mod offsets;
pub mod sync_lite_subscription;

use crate::context::{Context, Headers, Peer};
use crate::metrics::Rpc;
use crate::sessions::Session;
use crate::shared::Shared;
use crate::status::Refusal;
use gantry_platform::clock::timeout;
use gantry_proto::v2::messaging_service_server::MessagingService;
use gantry_proto::v2::*;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::{Request, Response, Streaming};

/// The service as one connection sees it.
pub struct Messaging {
    pub shared: Arc<Shared>,
    pub peer: Arc<Peer>,
    /// The client of the latest call: nearly every connection has only one, so this saves the look-up.
    latest: Mutex<Option<Arc<Session>>>,
}

impl fmt::Debug for Messaging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Messaging {{ peer: {} }}", self.peer.remote)
    }
}

impl Messaging {
    pub fn new(shared: Arc<Shared>, peer: Arc<Peer>) -> Messaging {
        Messaging { shared, peer, latest: Mutex::default() }
    }

    /// Who calls.
    fn context(&self, headers: impl Into<Headers>) -> Result<Context, Refusal> {
        let headers = headers.into();
        let session = self.session(&headers)?;
        Ok(Context::new(headers, session))
    }

    fn session(&self, headers: &Headers) -> Result<Arc<Session>, Refusal> {
        let id = headers.client_id()?;
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = latest.as_ref().filter(|session| session.client.as_str() == id && !session.has_ended()) {
            self.shared.sessions.seen(session);
            return Ok(session.clone());
        }
        let session = self.shared.sessions.open(id, headers, &self.peer);
        *latest = Some(session.clone());
        Ok(session)
    }

    /// SendMessage, which the edge reads itself.
    pub async fn send(&self, headers: Headers, request: SendMessageRequest) -> SendMessageResponse {
        self.answer(Rpc::SendMessage, headers, request, |context, request| send_message::answer(self, context, request)).await
    }

    /// AckMessage, which the edge reads itself.
    pub async fn ack(&self, headers: Headers, request: AckMessageRequest) -> AckMessageResponse {
        self.answer(Rpc::AckMessage, headers, request, |context, request| ack_message::answer(&self.shared, context, request)).await
    }

    /// One call with one answer.
    async fn answer<Q, A, F>(&self, rpc: Rpc, headers: Headers, message: Q, work: impl FnOnce(Context, Q) -> F + Send) -> A
    where
        Q: Send,
        A: Answer,
        F: Future<Output = Result<A, Refusal>> + Send,
    {
        let started = self.shared.clock.mono();
        let answer = match self.context(headers) {
            Ok(context) => {
                let patience = context.patience();
                timeout(patience, work(context, message)).await.unwrap_or_else(|_| Err(Refusal::timed_out()))
            }
            Err(refusal) => Err(refusal),
        };
        let answer = answer.unwrap_or_else(A::refused);
        self.shared.metrics.answered(rpc, answer.code(), self.shared.clock.mono().saturating_sub(started));
        answer
    }

    /// The same for the calls that tonic reads.
    async fn unary<Q, A, F>(&self, rpc: Rpc, request: Request<Q>, work: impl FnOnce(Context, Q) -> F + Send) -> Result<Response<A>, tonic::Status>
    where
        Q: Send,
        A: Answer,
        F: Future<Output = Result<A, Refusal>> + Send,
    {
        let (metadata, _, message) = request.into_parts();
        Ok(Response::new(self.answer(rpc, metadata.into(), message, work).await))
    }
}

/// What tonic answers for the calls that the edge reads itself; it never comes to that.
fn read_by_the_edge<T>() -> Result<T, tonic::Status> {
    Err(tonic::Status::internal("the edge answers this call before tonic sees it; report this as a bug"))
}

/// A response that can say no.
pub trait Answer: Send {
    fn refused(refusal: Refusal) -> Self;
    fn code(&self) -> Code;
}

macro_rules! answers {
    ($($response:ident),+ $(,)?) => {
        // Some responses are a status and nothing else.
        $(#[allow(clippy::needless_update)]
        impl Answer for $response {
            fn refused(refusal: Refusal) -> Self {
                $response { status: Some(refusal.into()), ..Default::default() }
            }

            fn code(&self) -> Code {
                self.status.as_ref().map_or(Code::Unspecified, Status::code)
            }
        })+
    };
}

pub(crate) use answers;

answers!(
    QueryRouteResponse,
    HeartbeatResponse,
    SendMessageResponse,
    QueryAssignmentResponse,
    AckMessageResponse,
    ForwardMessageToDeadLetterQueueResponse,
    UpdateOffsetResponse,
    GetOffsetResponse,
    QueryOffsetResponse,
    EndTransactionResponse,
    NotifyClientTerminationResponse,
    ChangeInvisibleDurationResponse,
    RecallMessageResponse,
    SyncLiteSubscriptionResponse,
);

/// What several answers say together: their common code, or that they differ.
fn overall(mut entries: impl Iterator<Item = Status>) -> Status {
    let Some(first) = entries.next() else { return crate::status::ok() };
    if entries.all(|entry| entry.code == first.code) {
        return first;
    }
    Status { code: Code::MultipleResults as i32, message: "the entries differ, see each of them".to_owned() }
}

#[tonic::async_trait]
impl MessagingService for Messaging {
    type ReceiveMessageStream = tokio_stream::Empty<Result<ReceiveMessageResponse, tonic::Status>>;
    type PullMessageStream = pull_message::Answers;
    type TelemetryStream = telemetry::Answers;

    async fn query_route(&self, request: Request<QueryRouteRequest>) -> Result<Response<QueryRouteResponse>, tonic::Status> {
        self.unary(Rpc::QueryRoute, request, |context, request| query_route::answer(self, context, request)).await
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, tonic::Status> {
        self.unary(Rpc::Heartbeat, request, |context, request| heartbeat::answer(&self.shared, context, request)).await
    }

    async fn send_message(&self, _: Request<SendMessageRequest>) -> Result<Response<SendMessageResponse>, tonic::Status> {
        read_by_the_edge()
    }

    async fn query_assignment(&self, request: Request<QueryAssignmentRequest>) -> Result<Response<QueryAssignmentResponse>, tonic::Status> {
        self.unary(Rpc::QueryAssignment, request, |context, request| query_assignment::answer(self, context, request)).await
    }

    async fn receive_message(&self, _: Request<ReceiveMessageRequest>) -> Result<Response<Self::ReceiveMessageStream>, tonic::Status> {
        read_by_the_edge()
    }

    async fn ack_message(&self, _: Request<AckMessageRequest>) -> Result<Response<AckMessageResponse>, tonic::Status> {
        read_by_the_edge()
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<Response<ForwardMessageToDeadLetterQueueResponse>, tonic::Status> {
        let rpc = Rpc::ForwardMessageToDeadLetterQueue;
        self.unary(rpc, request, |context, request| forward_to_dead_letter::answer(&self.shared, context, request)).await
    }

    async fn pull_message(&self, request: Request<PullMessageRequest>) -> Result<Response<pull_message::Answers>, tonic::Status> {
        Ok(Response::new(pull_message::answer(self, request)))
    }

    async fn update_offset(&self, request: Request<UpdateOffsetRequest>) -> Result<Response<UpdateOffsetResponse>, tonic::Status> {
        self.unary(Rpc::UpdateOffset, request, |context, request| offsets::update(&self.shared, context, request)).await
    }

    async fn get_offset(&self, request: Request<GetOffsetRequest>) -> Result<Response<GetOffsetResponse>, tonic::Status> {
        self.unary(Rpc::GetOffset, request, |context, request| offsets::get(&self.shared, context, request)).await
    }

    async fn query_offset(&self, request: Request<QueryOffsetRequest>) -> Result<Response<QueryOffsetResponse>, tonic::Status> {
        self.unary(Rpc::QueryOffset, request, |context, request| offsets::query(&self.shared, context, request)).await
    }

    async fn end_transaction(&self, request: Request<EndTransactionRequest>) -> Result<Response<EndTransactionResponse>, tonic::Status> {
        self.unary(Rpc::EndTransaction, request, |context, request| end_transaction::answer(&self.shared, context, request)).await
    }

    async fn telemetry(&self, request: Request<Streaming<TelemetryCommand>>) -> Result<Response<telemetry::Answers>, tonic::Status> {
        Ok(Response::new(telemetry::answer(self, request)))
    }

    async fn notify_client_termination(
        &self,
        request: Request<NotifyClientTerminationRequest>,
    ) -> Result<Response<NotifyClientTerminationResponse>, tonic::Status> {
        let rpc = Rpc::NotifyClientTermination;
        self.unary(rpc, request, |context, _| notify_client_termination::answer(&self.shared, context)).await
    }

    async fn change_invisible_duration(
        &self,
        request: Request<ChangeInvisibleDurationRequest>,
    ) -> Result<Response<ChangeInvisibleDurationResponse>, tonic::Status> {
        let handle = request.get_ref().receipt_handle.clone();
        let rpc = Rpc::ChangeInvisibleDuration;
        let mut answer = self.unary(rpc, request, |context, request| change_invisible_duration::answer(&self.shared, context, request)).await?;
        // Clients replace the handle they hold before they look at the status; without one they could never acknowledge.
        let response: &mut ChangeInvisibleDurationResponse = answer.get_mut();
        response.receipt_handle = handle;
        Ok(answer)
    }

    async fn recall_message(&self, request: Request<RecallMessageRequest>) -> Result<Response<RecallMessageResponse>, tonic::Status> {
        self.unary(Rpc::RecallMessage, request, |context, request| recall_message::answer(&self.shared, context, request)).await
    }

    async fn sync_lite_subscription(
        &self,
        request: Request<SyncLiteSubscriptionRequest>,
    ) -> Result<Response<SyncLiteSubscriptionResponse>, tonic::Status> {
        self.unary(Rpc::SyncLiteSubscription, request, |context, request| sync_lite_subscription::answer(&self.shared, context, request)).await
    }
}
