//! PullMessage: reads a queue from an offset, and changes nothing.
//!
//! The response opens at once and stays open while the pull waits. It carries one status, the messages, which have no receipt handle, and
//! last the offset at which to go on. That offset is in every answer, so that a consumer never has to make one up.

use crate::context::Context;
use crate::convert::{self, Envelope};
use crate::first_use::existing_topic;
use crate::metrics::Rpc;
use crate::rpc::{Messaging, receive_message};
use crate::shared::Shared;
use crate::status::{self, Refusal};
use crate::validate;
use gantry_model::contract::broker::{PullError, PullRequest, Pulled};
use gantry_model::limits::RECEIVE_BATCH_MAX;
use gantry_model::message::StoredMessage;
use gantry_model::{Filter, Offset};
use gantry_proto::v2::pull_message_response::Content;
use gantry_proto::v2::{ClientType, Code, PullMessageRequest, PullMessageResponse, Status};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;
use tonic::Request;

pub fn answer(edge: &Messaging, request: Request<PullMessageRequest>) -> Answers {
    let shared = edge.shared.clone();
    let (metadata, _, request) = request.into_parts();
    let topic = request.message_queue.as_ref().and_then(|queue| queue.topic.clone()).unwrap_or_default();
    let envelope = Envelope { topic, store_host: edge.peer.store_host.clone() };
    let context = edge.context(metadata);
    Answers { envelope, step: Step::Waiting(Box::pin(outcome(shared, context, request))) }
}

/// What a pull came to.
struct Outcome {
    status: Status,
    messages: Vec<StoredMessage>,
    next: i64,
}

async fn outcome(shared: Arc<Shared>, context: Result<Context, Refusal>, request: PullMessageRequest) -> Outcome {
    let started = shared.clock.mono();
    let asked = request.offset;
    let result = match context {
        Ok(context) => pull(&shared, context, request).await,
        Err(refusal) => Err(refusal.into()),
    };
    let (status, messages, next) = match result {
        Ok(Pulled { messages, next }) if messages.is_empty() => {
            (Refusal::new(Code::MessageNotFound, "no new message").into(), Vec::new(), next.0 as i64)
        }
        Ok(Pulled { messages, next }) => (status::ok(), messages, next.0 as i64),
        Err(Refused { refusal, next }) => (refusal.into(), Vec::new(), next.map_or(asked, |next| next.0 as i64)),
    };
    shared.metrics.answered(Rpc::PullMessage, status.code(), shared.clock.mono().saturating_sub(started));
    Outcome { status, messages, next }
}

/// A pull that is refused, and where the consumer should go on if that is not where it was.
struct Refused {
    refusal: Refusal,
    next: Option<Offset>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused { refusal, next: None }
    }
}

impl From<PullError> for Refused {
    fn from(error: PullError) -> Refused {
        let next = match error {
            PullError::OutOfRange { next } => Some(next),
            _ => None,
        };
        Refused { refusal: error.into(), next }
    }
}

async fn pull(shared: &Shared, context: Context, request: PullMessageRequest) -> Result<Pulled, Refused> {
    let namespace = context.namespace();
    let wait = receive_message::wait(&context, request.long_polling_timeout.as_ref(), Duration::ZERO)?;
    let message_queue = request.message_queue.as_ref();
    let topic_name = validate::topic(message_queue.and_then(|queue| queue.topic.as_ref()), namespace)?;
    let group_name = validate::group(request.group.as_ref(), namespace)?;
    let queue = validate::queue(message_queue)?;
    let filter = match validate::filter(request.filter_expression.as_ref())? {
        Filter::All => shared.filter_all.clone(),
        filter => Arc::new(filter),
    };
    let max = validate::batch_size(request.batch_size)?.clamp(1, RECEIVE_BATCH_MAX);
    let offset = u64::try_from(request.offset);
    let offset = offset.map_err(|_| Refusal::new(Code::BadRequest, format!("offset {} is negative", request.offset)))?;
    let topic = existing_topic(&*shared.metadata, &topic_name)?;
    shared.first_use().group(&*shared.metadata, &group_name).await?;
    context.session.consumes(ClientType::PullConsumer, &group_name, Some(&topic_name));
    if shared.metrics.open_polls.get() >= shared.config.limits.open_polls as i64 {
        return Err(Refusal::polling_full().into());
    }
    let _open = shared.metrics.open_polls.hold();
    let offset = Offset(offset);
    tokio::select! {
        biased;
        pulled = shared.broker.pull(PullRequest { topic, queue, offset, max, filter, wait }) => Ok(pulled?),
        // Dropping the other branch withdraws the pull.
        () = shared.drain_turn(&context.session.client) => Ok(Pulled { messages: Vec::new(), next: offset }),
    }
}

/// The elements of one answer.
pub struct Answers {
    envelope: Envelope,
    step: Step,
}

enum Step {
    /// For messages, or for the end of the pull.
    Waiting(Pin<Box<dyn Future<Output = Outcome> + Send>>),
    Messages(std::vec::IntoIter<StoredMessage>, i64),
    Done,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answers")
    }
}

impl tokio_stream::Stream for Answers {
    type Item = Result<PullMessageResponse, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let content = match &mut this.step {
            Step::Waiting(waiting) => {
                let Outcome { status, messages, next } = ready!(waiting.as_mut().poll(cx));
                this.step = Step::Messages(messages.into_iter(), next);
                Content::Status(status)
            }
            Step::Messages(messages, next) => match messages.next() {
                Some(message) => Content::Message(convert::stored_to_wire(message, &this.envelope)),
                None => {
                    let next = *next;
                    this.step = Step::Done;
                    Content::NextOffset(next)
                }
            },
            Step::Done => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(PullMessageResponse { content: Some(content) })))
    }
}
