//! A messaging service that passes every call on to a real server and breaks one promise now and then, as told: what must `gantry verify` find?

use gantry_platform::tasks::{self, Task};
use gantry_proto::v2::messaging_service_client::MessagingServiceClient;
use gantry_proto::v2::messaging_service_server::{MessagingService, MessagingServiceServer};
use gantry_proto::v2::receive_message_response::Content;
use gantry_proto::v2::{self, Code, TransactionResolution};
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// One message of so many is lied about.
const EVERY: u64 = 20;

/// The promise that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// None: every call is passed on as it is.
    Nothing,
    /// A send is answered with OK and goes nowhere.
    Lose,
    /// A message that was acknowledged comes again.
    Repeat,
    /// The second group sees a message at another place.
    Move,
    /// A message that somebody holds is given to others as well.
    Share,
    /// Messages of an answer come in the opposite order.
    Turn,
    /// A delayed message is not delayed.
    Hurry,
    /// A rollback is made a commit.
    Commit,
    /// A byte of a body is changed.
    Tear,
}

/// A running liar.
pub struct Liar {
    pub endpoint: String,
    task: Task,
}

impl Liar {
    /// Listens on a free port, in front of the server at `endpoint`.
    pub async fn start(endpoint: &str, lie: Lie) -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = format!("http://{}", listener.local_addr().expect("bound"));
        let channel = Endpoint::try_from(endpoint.to_owned()).expect("a legal address").connect_lazy();
        let truth = MessagingServiceClient::new(channel).max_decoding_message_size(16 << 20);
        let service = MessagingServiceServer::new(Service { truth, lie, book: Arc::default() }).max_decoding_message_size(16 << 20);
        let serve = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        let task = tasks::spawn("liar", async move { serve.await.expect("the liar serves") });
        Liar { endpoint: own, task }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Service {
    truth: MessagingServiceClient<Channel>,
    lie: Lie,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    count: u64,
    /// Deliveries by handle, to repeat them after their acknowledgement.
    delivered: HashMap<String, (String, v2::Message)>,
    /// Group and message.
    repeats: VecDeque<(String, v2::Message)>,
}

type Answer<T> = Result<Response<T>, Status>;
type Stream_<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time for this lie.
    fn lies(&self, lie: Lie) -> bool {
        if self.lie != lie {
            return false;
        }
        let mut book = self.book();
        book.count += 1;
        book.count.is_multiple_of(EVERY)
    }

    /// Changes what a receive brought.
    async fn bend(&self, group: &v2::Resource, messages: &mut Vec<v2::Message>) {
        if self.lie == Lie::Turn {
            messages.reverse();
        }
        let shared: Vec<v2::Message> = messages.iter().filter(|_| self.lies(Lie::Share)).cloned().collect();
        for message in shared {
            self.give_back(group, &message).await;
        }
        for message in messages.iter_mut() {
            let system = message.system_properties.get_or_insert_default();
            if self.lie == Lie::Move && group.name.ends_with("-1") {
                system.queue_offset = system.queue_offset.map(|offset| offset + 1_000_000);
            }
            if self.lie == Lie::Repeat {
                let handle = system.receipt_handle.clone().unwrap_or_default();
                self.book().delivered.insert(handle, (group.name.clone(), message.clone()));
            } else if self.lies(Lie::Tear) {
                let mut body = message.body.to_vec();
                body[20] ^= 1;
                message.body = body.into();
            }
        }
        self.repeat(group, messages);
    }

    /// Adds what was acknowledged before.
    fn repeat(&self, group: &v2::Resource, messages: &mut Vec<v2::Message>) {
        let mut book = self.book();
        if let Some(place) = book.repeats.iter().position(|(name, _)| *name == group.name)
            && let Some((_, mut message)) = book.repeats.remove(place)
        {
            let system = message.system_properties.get_or_insert_default();
            system.delivery_attempt = system.delivery_attempt.map(|attempt| attempt + 1);
            messages.push(message);
        }
    }

    async fn give_back(&self, group: &v2::Resource, message: &v2::Message) {
        let system = message.system_properties.clone().unwrap_or_default();
        let ask = v2::ChangeInvisibleDurationRequest {
            group: Some(group.clone()),
            topic: message.topic.clone(),
            receipt_handle: system.receipt_handle.unwrap_or_default(),
            invisible_duration: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
            message_id: system.message_id,
            ..Default::default()
        };
        let mut request = Request::new(ask);
        request.metadata_mut().insert("x-mq-client-id", tonic::metadata::MetadataValue::from_static("liar"));
        let answer = self.truth.clone().change_invisible_duration(request).await;
        answer.expect("a handle can be given back");
    }
}

/// The service: calls of its own, and those that are passed on as they are.
macro_rules! service {
    ({ $($own:tt)* } $($call:ident: $ask:ident -> $answer:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl MessagingService for Service {
            $($own)*
            $(async fn $call(&self, request: Request<v2::$ask>) -> Answer<v2::$answer> {
                self.truth.clone().$call(request).await
            })*
        }
    };
}

service! {
    {
        type ReceiveMessageStream = Stream_<v2::ReceiveMessageResponse>;
        type PullMessageStream = Stream_<v2::PullMessageResponse>;
        type TelemetryStream = Stream_<v2::TelemetryCommand>;

        async fn send_message(&self, mut request: Request<v2::SendMessageRequest>) -> Answer<v2::SendMessageResponse> {
            if self.lies(Lie::Lose) {
                let status = Some(v2::Status { code: Code::Ok as i32, message: "OK".to_owned() });
                let entry = v2::SendResultEntry { status: status.clone(), ..Default::default() };
                return Ok(Response::new(v2::SendMessageResponse { status, entries: vec![entry] }));
            }
            if self.lies(Lie::Hurry) {
                for message in &mut request.get_mut().messages {
                    let system = message.system_properties.get_or_insert_default();
                    system.delivery_timestamp = system.born_timestamp;
                }
            }
            self.truth.clone().send_message(request).await
        }

        async fn receive_message(&self, request: Request<v2::ReceiveMessageRequest>) -> Answer<Self::ReceiveMessageStream> {
            let group = request.get_ref().group.clone().unwrap_or_default();
            let mut answer = self.truth.clone().receive_message(request).await?.into_inner();
            let (mut messages, mut status) = (Vec::new(), None);
            while let Some(part) = answer.message().await? {
                match part.content {
                    Some(Content::Message(message)) => messages.push(message),
                    Some(Content::Status(part)) => status = Some(part),
                    Some(Content::DeliveryTimestamp(_)) | None => {}
                }
            }
            self.bend(&group, &mut messages).await;
            if !messages.is_empty() {
                status = Some(v2::Status { code: Code::Ok as i32, message: "OK".to_owned() });
            }
            let contents = status.map(Content::Status).into_iter().chain(messages.into_iter().map(Content::Message));
            let parts: Vec<_> = contents.map(|content| Ok(v2::ReceiveMessageResponse { content: Some(content) })).collect();
            Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
        }

        async fn ack_message(&self, request: Request<v2::AckMessageRequest>) -> Answer<v2::AckMessageResponse> {
            let entries = request.get_ref().entries.clone();
            let answer = self.truth.clone().ack_message(request).await?;
            for entry in entries.iter().filter(|_| self.lies(Lie::Repeat)) {
                let mut book = self.book();
                if let Some(delivered) = book.delivered.remove(&entry.receipt_handle) {
                    book.repeats.push_back(delivered);
                }
            }
            Ok(answer)
        }

        async fn end_transaction(&self, mut request: Request<v2::EndTransactionRequest>) -> Answer<v2::EndTransactionResponse> {
            if self.lie == Lie::Commit {
                request.get_mut().resolution = TransactionResolution::Commit as i32;
            }
            self.truth.clone().end_transaction(request).await
        }

        async fn telemetry(&self, request: Request<Streaming<v2::TelemetryCommand>>) -> Answer<Self::TelemetryStream> {
            let metadata = request.metadata().clone();
            let mut passed = Request::new(request.into_inner().map_while(Result::ok));
            *passed.metadata_mut() = metadata;
            let answer = self.truth.clone().telemetry(passed).await?;
            Ok(Response::new(Box::pin(answer.into_inner())))
        }

        async fn pull_message(&self, request: Request<v2::PullMessageRequest>) -> Answer<Self::PullMessageStream> {
            let answer = self.truth.clone().pull_message(request).await?;
            Ok(Response::new(Box::pin(answer.into_inner())))
        }
    }
    query_route: QueryRouteRequest -> QueryRouteResponse,
    heartbeat: HeartbeatRequest -> HeartbeatResponse,
    query_assignment: QueryAssignmentRequest -> QueryAssignmentResponse,
    forward_message_to_dead_letter_queue: ForwardMessageToDeadLetterQueueRequest -> ForwardMessageToDeadLetterQueueResponse,
    update_offset: UpdateOffsetRequest -> UpdateOffsetResponse,
    get_offset: GetOffsetRequest -> GetOffsetResponse,
    query_offset: QueryOffsetRequest -> QueryOffsetResponse,
    notify_client_termination: NotifyClientTerminationRequest -> NotifyClientTerminationResponse,
    change_invisible_duration: ChangeInvisibleDurationRequest -> ChangeInvisibleDurationResponse,
    recall_message: RecallMessageRequest -> RecallMessageResponse,
    sync_lite_subscription: SyncLiteSubscriptionRequest -> SyncLiteSubscriptionResponse,
}
