//! ReceiveMessage: delivers messages under a lease.
//!
//! The response opens at once and stays open while the poll waits. It carries one status, the messages, and the time, in this order. An
//! empty answer comes at the end of the polling time, never sooner, because clients ask again at once; an error to a push consumer is held
//! back for the same reason. A client that goes away before it has the whole answer takes nothing with it: clients throw partial answers
//! away, so all of its messages are given back.

use crate::context::{Context, Headers};
use crate::convert;
use crate::delivery_codec::Writer;
use crate::first_use::existing_topic;
use crate::metrics::Rpc;
use crate::rpc::Messaging;
use crate::rpc::sync_lite_subscription::check_bound;
use crate::shared::Shared;
use crate::status::{self, Refusal};
use crate::validate;
use crate::wire;
use bytes::{Bytes, BytesMut};
use gantry_model::contract::broker::{Delivery, LeaseTerm, ReceiveRequest};
use gantry_model::handle::HandleKeys;
use gantry_model::limits::{POLL_MAX_MS, RECEIVE_BATCH_MAX};
use gantry_model::topic::TopicType;
use gantry_model::{Filter, ReceiptHandle};
use gantry_platform::clock::sleep;
use gantry_proto::v2::receive_message_response::Content;
use gantry_proto::v2::settings::PubSub;
use gantry_proto::v2::{ClientType, Code, Language, ReceiveMessageRequest, ReceiveMessageResponse, Status};
use http_body::{Body, Frame};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

/// What is kept back of the client's deadline, so that the answer arrives before it.
const ANSWER_RESERVE: Duration = Duration::from_millis(500);
/// How long an error to a push consumer is held: some of them ask again within milliseconds.
const ERROR_HOLD: Duration = Duration::from_secs(1);
/// A push consumer's poll takes at least this long, whatever it asks for.
const RENEWED_POLL_MIN: Duration = Duration::from_secs(1);
/// The request timeout of a client that did not tell its own; the default of every official client.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// The first client version that knows the code for a bad polling time.
const KNOWS_POLLING_TIME: &str = "5.0.3";
/// Bytes that are handed to HTTP/2 together.
const PART: usize = 64 * 1024;
/// A body from this size on is handed over from where it is; below, copying it costs less than a part of its own.
const LARGE_BODY: usize = 16 * 1024;
/// What a message takes besides its body, in most cases.
const MESSAGE_ROOM: usize = 512;

pub fn answer(edge: &Messaging, headers: Headers, mut request: ReceiveMessageRequest) -> Answers {
    let shared = edge.shared.clone();
    let topic = request.message_queue.as_mut().and_then(|queue| queue.topic.clone()).unwrap_or_default();
    let writer = Writer::new(&topic, &edge.peer.store_host);
    let context = edge.context(headers);
    let keys = shared.metadata.handle_keys();
    let step = Step::Waiting(Box::pin(batch(shared.clone(), context, request)));
    Answers { shared, writer, keys, step, given: Vec::new() }
}

/// What a poll came to.
struct Batch {
    status: Status,
    deliveries: Vec<Delivery>,
}

impl From<Refusal> for Batch {
    fn from(refusal: Refusal) -> Batch {
        Batch { status: refusal.into(), deliveries: Vec::new() }
    }
}

async fn batch(shared: Arc<Shared>, context: Result<Context, Refusal>, request: ReceiveMessageRequest) -> Batch {
    let started = shared.clock.mono();
    let result = match context {
        Ok(context) => {
            let renews = request.auto_renew;
            let hold = context.deadline().map_or(ERROR_HOLD, |deadline| ERROR_HOLD.min(deadline.saturating_sub(ANSWER_RESERVE)));
            let result = poll(&shared, context, request).await;
            if result.is_err() && renews {
                let spent = shared.clock.mono().saturating_sub(started);
                sleep(hold.saturating_sub(spent)).await;
            }
            result
        }
        Err(refusal) => Err(refusal),
    };
    let batch = match result {
        Ok(deliveries) if deliveries.is_empty() => Refusal::new(Code::MessageNotFound, "no new message").into(),
        Ok(deliveries) => Batch { status: status::ok(), deliveries },
        Err(refusal) => refusal.into(),
    };
    let took = shared.clock.mono().saturating_sub(started);
    shared.metrics.answered(Rpc::ReceiveMessage, batch.status.code(), took);
    batch
}

async fn poll(shared: &Shared, context: Context, request: ReceiveMessageRequest) -> Result<Vec<Delivery>, Refusal> {
    let namespace = context.namespace();
    let least = if request.auto_renew { RENEWED_POLL_MIN } else { Duration::ZERO };
    let wait = wait(&context, request.long_polling_timeout.as_ref(), least)?;
    let topic_name = validate::topic(request.message_queue.as_ref().and_then(|queue| queue.topic.as_ref()), namespace)?;
    let group_name = validate::group(request.group.as_ref(), namespace)?;
    let lease = match request.auto_renew {
        true => LeaseTerm::WhileClientLives,
        false => LeaseTerm::For(validate::invisible_on_receive(request.invisible_duration.as_ref())?),
    };
    let filter = match validate::filter(request.filter_expression.as_ref())? {
        Filter::All => shared.filter_all.clone(),
        filter => Arc::new(filter),
    };
    let max = validate::batch_size(request.batch_size)?.clamp(1, RECEIVE_BATCH_MAX);
    let topic = existing_topic(&*shared.metadata, &topic_name)?;
    let group = shared.first_use().group(&*shared.metadata, &group_name).await?;
    if !topic.permission.can_read() {
        return Err(Refusal::new(Code::Forbidden, format!("no readable queue: topic `{topic_name}` cannot be read")));
    }
    if topic.kind == TopicType::Lite {
        check_bound(&topic, &group)?;
        check_no_filter(&filter)?;
    }
    let kind = client_type(request.auto_renew, topic.kind);
    context.session.consumes(kind, &group_name, Some(&topic_name));
    if shared.metrics.open_polls.get() >= shared.config.limits.open_polls as i64 {
        return Err(Refusal::polling_full());
    }
    let _open = shared.metrics.open_polls.hold();
    let client = context.session.client.clone();
    let attempt_id = request.attempt_id.filter(|id| !id.is_empty());
    let ordered_batch = keeps_order(&context, request.auto_renew);
    let member = member_name(&context);
    let wish = ReceiveRequest { group, topic, filter, client, max, lease, wait, attempt_id, ordered_batch, member };
    tokio::select! {
        // What is already leased is delivered, even if the server begins to stop at this very moment.
        biased;
        received = shared.quotas.receive(&*shared.broker, wish) => Ok(received?),
        // Dropping the other branch withdraws the poll.
        () = shared.drain_turn(&context.session.client) => Ok(Vec::new()),
    }
}

/// What a client is that has not told it.
fn client_type(renews: bool, topic: TopicType) -> ClientType {
    match (topic, renews) {
        (TopicType::Lite, true) => ClientType::LitePushConsumer,
        (TopicType::Lite, false) => ClientType::LiteSimpleConsumer,
        (_, true) => ClientType::PushConsumer,
        (_, false) => ClientType::SimpleConsumer,
    }
}

/// A filter would let messages of a lite topic pass others of it.
fn check_no_filter(filter: &Filter) -> Result<(), Refusal> {
    match filter {
        Filter::All => Ok(()),
        _ => Err(Refusal::new(Code::IllegalFilterExpression, "lite topics are received whole: leave the filter expression out, or ask for `*`")),
    }
}

/// Whether a client works on messages of one message group or lite topic in their order. Push consumers for lite topics may renew by themselves.
fn keeps_order(context: &Context, renews: bool) -> bool {
    let pushes = renews || context.session.facts().client_type == ClientType::LitePushConsumer;
    !pushes || obeys_order(context)
}

/// Whether a push consumer was told that its group is ordered, and works on messages of one group in their order. Rust's does not.
fn obeys_order(context: &Context) -> bool {
    let facts = context.session.facts();
    let told = facts.told.as_ref().and_then(|settings| settings.pub_sub.as_ref());
    facts.language != Language::Rust && matches!(told, Some(PubSub::Subscription(subscription)) if subscription.fifo == Some(true))
}

/// What a client is called among the members of a broadcasting group: what it says itself, else its host, which is the first part of its id.
fn member_name(context: &Context) -> String {
    let told = context.session.facts().settings.as_ref().and_then(|settings| settings.client_properties.get("instance").cloned());
    told.unwrap_or_else(|| context.session.client.as_str().split('@').next().unwrap_or_default().to_owned())
}

/// How long to wait for the first message.
pub fn wait(context: &Context, asked: Option<&prost_types::Duration>, least: Duration) -> Result<Duration, Refusal> {
    let deadline = context.deadline();
    let most = Duration::from_millis(POLL_MAX_MS);
    let asked = match (asked, deadline) {
        (Some(asked), _) => validate::duration_ms(asked).map(Duration::from_millis).ok_or_else(|| polling_time(context.version()))?,
        (None, Some(deadline)) => deadline.saturating_sub(request_timeout(context)),
        (None, None) => most,
    };
    let latest = deadline.map_or(most, |deadline| deadline.saturating_sub(ANSWER_RESERVE));
    Ok(asked.clamp(least, most).min(latest))
}

fn polling_time(version: &str) -> Refusal {
    let code = if version < KNOWS_POLLING_TIME { Code::BadRequest } else { Code::IllegalPollingTime };
    Refusal::new(code, "long polling timeout is negative or out of range")
}

fn request_timeout(context: &Context) -> Duration {
    let facts = context.session.facts();
    let told = facts.settings.as_ref().and_then(|settings| settings.request_timeout.as_ref()).and_then(validate::duration_ms);
    told.map_or(REQUEST_TIMEOUT, Duration::from_millis)
}

/// The body of one answer.
pub struct Answers {
    shared: Arc<Shared>,
    writer: Writer,
    keys: Arc<HandleKeys>,
    step: Step,
    /// All deliveries of this answer, until the client has it whole.
    given: Vec<ReceiptHandle>,
}

enum Step {
    /// For messages, or for the end of the poll.
    Waiting(Pin<Box<dyn Future<Output = Batch> + Send>>),
    /// What was begun is finished with this body, then the others follow.
    Messages(Option<Bytes>, std::vec::IntoIter<Delivery>),
    Trailers,
    Done,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answers {{ given: {} }}", self.given.len())
    }
}

impl Answers {
    fn delivered(&mut self) {
        self.shared.metrics.messages_delivered.add(self.given.len() as u64);
        self.given.clear();
        self.step = Step::Done;
    }

    /// The next bytes: as many messages as fit into one part, and the time behind the last one.
    fn part(&mut self, mut out: BytesMut) -> Bytes {
        let Step::Messages(large, deliveries) = &mut self.step else { return out.freeze() };
        let room = |delivery: &Delivery| MESSAGE_ROOM + delivery.message.body().len().min(LARGE_BODY);
        out.reserve(deliveries.as_slice().iter().map(room).sum::<usize>().min(PART + LARGE_BODY) + MESSAGE_ROOM);
        let mut bytes = 0;
        while out.len() < PART && large.is_none() {
            let Some(delivery) = deliveries.next() else {
                let now = convert::timestamp(self.shared.clock.wall_ms());
                wire::put(&mut out, &ReceiveMessageResponse { content: Some(Content::DeliveryTimestamp(now)) });
                self.step = Step::Trailers;
                break;
            };
            let body = delivery.message.body();
            bytes += body.len();
            self.writer.put_head(&mut out, &delivery, &self.keys);
            if body.len() < LARGE_BODY { out.extend_from_slice(body) } else { *large = Some(body.clone()) }
        }
        self.shared.metrics.bytes_delivered.add(bytes as u64);
        out.freeze()
    }
}

impl Body for Answers {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = &mut *self;
        let frame = match &mut this.step {
            Step::Waiting(waiting) => {
                let batch = ready!(waiting.as_mut().poll(cx));
                this.given = batch.deliveries.iter().map(|delivery| delivery.handle).collect();
                this.step = Step::Messages(None, batch.deliveries.into_iter());
                let mut out = BytesMut::new();
                wire::put(&mut out, &ReceiveMessageResponse { content: Some(Content::Status(batch.status)) });
                Frame::data(this.part(out))
            }
            Step::Messages(large, _) => match large.take() {
                Some(body) => Frame::data(body),
                None => Frame::data(this.part(BytesMut::new())),
            },
            Step::Trailers => {
                this.delivered();
                Frame::trailers(wire::trailers())
            }
            Step::Done => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.step, Step::Done)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if self.given.is_empty() {
            return;
        }
        let given = std::mem::take(&mut self.given);
        tracing::debug!(messages = given.len(), "a consumer went away before it had its messages; they are given back");
        self.shared.metrics.messages_returned.add(given.len() as u64);
        self.shared.broker.release(given);
    }
}
