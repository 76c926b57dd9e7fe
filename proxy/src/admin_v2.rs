//! `apache.rocketmq.v2.Admin`, the administration service of RocketMQ 5, on port 8083 beside our own.
//!
//! Its answers say inside themselves how it went, by the rules of the messaging service. It is a second view of what `admin` shows and
//! does; what only our own service can do is not here. One file per noun; this one finds out who calls, bounds the time, and turns a
//! refusal into an answer.

mod topics;
mod groups;
mod subscriptions;
mod messages;
mod clients;
mod server;

pub use server::LogControl;

use crate::context::{Headers, Peer};
use crate::first_use::{existing_group, existing_topic};
use crate::metrics::Rpc;
use crate::rpc::{Answer, answers};
use crate::shared::Shared;
use crate::status::Refusal;
use gantry_model::contract::broker::{LookupError, OffsetError};
use gantry_model::{Group, GroupName, Topic, TopicName};
use gantry_platform::clock::timeout;
use gantry_proto::v2::admin_server::Admin;
use gantry_proto::v2::*;
use std::future::Future;
use std::sync::Arc;
use tonic::{Request, Response};

/// The service.
#[derive(Debug)]
pub struct Administration {
    shared: Arc<Shared>,
}

/// One call: who calls, and what it can use.
struct Call {
    shared: Arc<Shared>,
    headers: Headers,
    /// Absent when the service is called without a connection.
    peer: Option<Arc<Peer>>,
}

impl Call {
    /// There is one deployment: the cluster, which needs no name.
    fn deployment(&self, name: Option<&str>) -> Result<(), Refusal> {
        let own = &self.shared.metadata.cluster().name;
        match name {
            None | Some("") => Ok(()),
            Some(name) if name == own => Ok(()),
            Some(name) => {
                let text = format!("there is no deployment `{}` here; leave it empty, or write `{own}`", name.escape_debug());
                Err(Refusal::new(Code::NotFound, text))
            }
        }
    }

    fn topic_name(&self, resource: Option<&Resource>) -> Result<TopicName, Refusal> {
        crate::validate::topic(resource, self.headers.namespace())
    }

    fn group_name(&self, resource: Option<&Resource>) -> Result<GroupName, Refusal> {
        crate::validate::group(resource, self.headers.namespace())
    }

    /// A topic that is there.
    fn topic(&self, resource: Option<&Resource>) -> Result<Arc<Topic>, Refusal> {
        existing_topic(&*self.shared.metadata, &self.topic_name(resource)?)
    }

    /// A group that is there. Administration never makes one by naming it.
    fn group(&self, resource: Option<&Resource>) -> Result<Arc<Group>, Refusal> {
        existing_group(&*self.shared.metadata, &self.group_name(resource)?)
    }
}

fn resource(namespace: &str, name: &str) -> Option<Resource> {
    Some(Resource { resource_namespace: namespace.to_owned(), name: name.to_owned() })
}

fn looked_up(error: LookupError) -> Refusal {
    let code = if matches!(error, LookupError::Busy | LookupError::NoLeader) { Code::TooManyRequests } else { Code::InternalServerError };
    Refusal::new(code, error.to_string())
}

fn not_moved(error: OffsetError) -> Refusal {
    let code = match &error {
        OffsetError::OutOfRange { .. } | OffsetError::NoSuchQueue => Code::IllegalOffset,
        OffsetError::Backwards { .. } | OffsetError::GroupReceives | OffsetError::GroupPulls | OffsetError::GroupBroadcasts => {
            Code::PreconditionFailed
        }
        OffsetError::Busy | OffsetError::NoLeader => Code::TooManyRequests,
        OffsetError::Failed { .. } => Code::InternalServerError,
    };
    Refusal::new(code, error.to_string())
}

/// What our own service refuses in the words of this one.
fn refused(status: tonic::Status) -> Refusal {
    let code = match status.code() {
        tonic::Code::InvalidArgument => Code::BadRequest,
        tonic::Code::NotFound => Code::NotFound,
        _ => Code::InternalServerError,
    };
    Refusal::new(code, status.message().to_owned())
}

/// Every code that an rpc may answer inside its response; the one whose response has no status has none.
pub fn codes(rpc: &str) -> Vec<Code> {
    use Code::*;
    match rpc {
        "DescribeTopicStatus" | "GetTopicRoute" => vec![Ok, IllegalTopic, NotFound, TopicNotFound, ProxyTimeout],
        "ListSubscription" | "DescribeSubscription" => [&[Ok, BadRequest], NAMES, &[TooManyRequests, InternalServerError]].concat(),
        "DeleteSubscription" => [&[Ok, IllegalFilterExpression, PreconditionFailed], NAMES].concat(),
        "DescribeGroupAccumulation" | "ListConsumerConnection" => [&[Ok], NAMES, &[TooManyRequests, InternalServerError, NotImplemented]].concat(),
        "QueryTimeSpan" => [&[Ok], NAMES, &[TooManyRequests, InternalServerError]].concat(),
        "ResetGroupOffset" => [&[Ok, BadRequest, IllegalOffset, PreconditionFailed], NAMES, &[TooManyRequests, InternalServerError]].concat(),
        "QueryMessage" => {
            vec![Ok, BadRequest, IllegalTopic, NotFound, TopicNotFound, InternalServerError, NotImplemented, ProxyTimeout]
        }
        "PrintThreadStackTrace" => [&[Ok, IllegalConsumerGroup], ASKED].concat(),
        "VerifyMessage" => {
            let verdicts = [Ok, MessageCorrupted, VerifyFifoMessageUnsupported, FailedToConsumeMessage];
            [&verdicts, ASKED, &[IllegalTopic, IllegalConsumerGroup, MessageNotFound, TopicNotFound]].concat()
        }
        "GetConsumerRunningInfo" => [&[Ok, BadRequest], NAMES, &[TooManyRequests, InternalServerError]].concat(),
        "AdminSendMessage" => {
            // One message from somebody who needs no client id.
            let impossible = |code: &Code| matches!(code, MultipleResults | ClientIdRequired);
            crate::status::codes(Rpc::SendMessage).iter().copied().filter(|code| !impossible(code)).chain([NotFound]).collect()
        }
        "GetProxyRuntimeStats" => vec![Ok, ProxyTimeout],
        _ => Vec::new(),
    }
}

/// What naming topics and groups may lead to.
const NAMES: &[Code] =
    &[Code::IllegalTopic, Code::IllegalConsumerGroup, Code::NotFound, Code::TopicNotFound, Code::ConsumerGroupNotFound, Code::ProxyTimeout];
/// What asking a client may lead to.
const ASKED: &[Code] = &[
    Code::BadRequest,
    Code::NotFound,
    Code::PreconditionFailed,
    Code::TooManyRequests,
    Code::InternalServerError,
    Code::NotImplemented,
    Code::ProxyTimeout,
    Code::Unsupported,
];

answers!(
    DescribeTopicStatusResponse,
    ListSubscriptionResponse,
    DescribeSubscriptionResponse,
    DeleteSubscriptionResponse,
    DescribeGroupAccumulationResponse,
    ListConsumerConnectionResponse,
    ResetGroupOffsetResponse,
    ListMessageResponse,
    PrintThreadStackTraceResponse,
    VerifyMessageResponse,
    AdminSendMessageResponse,
    GetConsumerRunningInfoResponse,
    GetTopicRouteResponse,
    QueryTimeSpanResponse,
    GetProxyRuntimeStatsResponse,
);

type Answered<A> = Result<Response<A>, tonic::Status>;

impl Administration {
    pub fn new(shared: Arc<Shared>) -> Administration {
        Administration { shared }
    }

    /// One call with one answer.
    async fn answer<Q, A, F>(&self, rpc: &'static str, request: Request<Q>, work: impl FnOnce(Call, Q) -> F + Send) -> Answered<A>
    where
        Q: Send,
        A: Answer,
        F: Future<Output = Result<A, Refusal>> + Send,
    {
        let (metadata, extensions, message) = request.into_parts();
        let call = Call { shared: self.shared.clone(), headers: Headers::from(metadata), peer: extensions.get::<Arc<Peer>>().cloned() };
        let patience = call.headers.patience();
        let answer = timeout(patience, work(call, message)).await.unwrap_or_else(|_| Err(Refusal::timed_out()));
        let answer = answer.unwrap_or_else(A::refused);
        debug_assert!(codes(rpc).contains(&answer.code()), "`{rpc}` answered {:?}, which `codes` does not list", answer.code());
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl Admin for Administration {
    async fn change_log_level(&self, request: Request<ChangeLogLevelRequest>) -> Answered<ChangeLogLevelResponse> {
        server::change_log_level(&self.shared, request.into_inner()).map(Response::new)
    }

    async fn describe_topic_status(&self, request: Request<DescribeTopicStatusRequest>) -> Answered<DescribeTopicStatusResponse> {
        self.answer("DescribeTopicStatus", request, topics::describe).await
    }

    async fn list_subscription(&self, request: Request<ListSubscriptionRequest>) -> Answered<ListSubscriptionResponse> {
        self.answer("ListSubscription", request, subscriptions::list).await
    }

    async fn describe_subscription(&self, request: Request<DescribeSubscriptionRequest>) -> Answered<DescribeSubscriptionResponse> {
        self.answer("DescribeSubscription", request, subscriptions::describe).await
    }

    async fn delete_subscription(&self, request: Request<DeleteSubscriptionRequest>) -> Answered<DeleteSubscriptionResponse> {
        self.answer("DeleteSubscription", request, subscriptions::delete).await
    }

    async fn describe_group_accumulation(&self, request: Request<DescribeGroupAccumulationRequest>) -> Answered<DescribeGroupAccumulationResponse> {
        self.answer("DescribeGroupAccumulation", request, groups::accumulation).await
    }

    async fn list_consumer_connection(&self, request: Request<ListConsumerConnectionRequest>) -> Answered<ListConsumerConnectionResponse> {
        self.answer("ListConsumerConnection", request, clients::list).await
    }

    async fn reset_group_offset(&self, request: Request<ResetGroupOffsetRequest>) -> Answered<ResetGroupOffsetResponse> {
        self.answer("ResetGroupOffset", request, groups::reset).await
    }

    async fn query_message(&self, request: Request<ListMessageRequest>) -> Answered<ListMessageResponse> {
        self.answer("QueryMessage", request, messages::query).await
    }

    async fn print_thread_stack_trace(&self, request: Request<PrintThreadStackTraceRequest>) -> Answered<PrintThreadStackTraceResponse> {
        self.answer("PrintThreadStackTrace", request, clients::print_stack).await
    }

    async fn verify_message(&self, request: Request<VerifyMessageRequest>) -> Answered<VerifyMessageResponse> {
        self.answer("VerifyMessage", request, clients::verify).await
    }

    async fn admin_send_message(&self, request: Request<AdminSendMessageRequest>) -> Answered<AdminSendMessageResponse> {
        self.answer("AdminSendMessage", request, messages::send).await
    }

    async fn get_consumer_running_info(&self, request: Request<GetConsumerRunningInfoRequest>) -> Answered<GetConsumerRunningInfoResponse> {
        self.answer("GetConsumerRunningInfo", request, clients::running_info).await
    }

    async fn get_topic_route(&self, request: Request<GetTopicRouteRequest>) -> Answered<GetTopicRouteResponse> {
        self.answer("GetTopicRoute", request, topics::route).await
    }

    async fn query_time_span(&self, request: Request<QueryTimeSpanRequest>) -> Answered<QueryTimeSpanResponse> {
        self.answer("QueryTimeSpan", request, groups::time_span).await
    }

    async fn get_proxy_runtime_stats(&self, request: Request<GetProxyRuntimeStatsRequest>) -> Answered<GetProxyRuntimeStatsResponse> {
        self.answer("GetProxyRuntimeStats", request, server::runtime_stats).await
    }
}
