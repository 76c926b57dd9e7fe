//! The one file that turns what went wrong into a code of the protocol, and that lists the codes each rpc may answer.
//!
//! Clients decide by code whether to repeat, back off or give up; people read the message. So a code is chosen for what the client does
//! with it, and a message says what is wrong and what to do. Failures are answered inside the response, never as a gRPC status: a gRPC
//! status makes some clients drop a connection on which everything else works.

use crate::metrics::Rpc;
use gantry_model::contract::broker::{EndError, LeaseError, LiteError, LookupError, OffsetError, PullError, RecallError, ReceiveError, SendError};
use gantry_model::contract::metadata::MetadataError;
use gantry_model::filter::FilterError;
use gantry_model::handle::InvalidHandle;
use gantry_model::name::NameError;
use gantry_proto::v2::{Code, Status};
use std::borrow::Cow;

/// A call that is answered with something other than OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    pub message: Cow<'static, str>,
}

impl Refusal {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { code, message: message.into() }
    }

    /// What a later version answers.
    pub fn not_implemented(what: &str) -> Refusal {
        Refusal::new(Code::NotImplemented, format!("{what} is not implemented by this version of the server"))
    }

    /// The work took longer than the client waits.
    pub fn timed_out() -> Refusal {
        Refusal::new(Code::ProxyTimeout, "the call did not end before its deadline; what it asked for may or may not have been done")
    }

    pub fn polling_full() -> Refusal {
        Refusal::new(Code::TooManyRequests, "polling full: too many receive calls are waiting, try again after a pause")
    }
}

/// The status of success.
pub fn ok() -> Status {
    Status { code: Code::Ok as i32, message: "OK".to_owned() }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        Status { code: refusal.code as i32, message: refusal.message.into_owned() }
    }
}

pub fn topic_name(error: NameError) -> Refusal {
    Refusal::new(Code::IllegalTopic, error.0)
}

pub fn group_name(error: NameError) -> Refusal {
    Refusal::new(Code::IllegalConsumerGroup, error.0)
}

impl From<FilterError> for Refusal {
    fn from(error: FilterError) -> Refusal {
        Refusal::new(Code::IllegalFilterExpression, error.0)
    }
}

impl From<InvalidHandle> for Refusal {
    fn from(error: InvalidHandle) -> Refusal {
        Refusal::new(Code::InvalidReceiptHandle, error.to_string())
    }
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Refusal {
        let code = match &error {
            // Nothing was stored, and a pause helps: the one code on which clients back off before they repeat.
            SendError::Busy | SendError::DiskFull { .. } | SendError::Draining | SendError::NoLeader | SendError::Misplaced { .. } => {
                Code::TooManyRequests
            }
            SendError::NoWritableQueue => Code::Forbidden,
            SendError::QuotaExceeded { .. } => Code::TooManyRequests,
            SendError::LiteTopicQuota { .. } => Code::LiteTopicQuotaExceeded,
            SendError::Unknown { .. } => Code::InternalServerError,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<ReceiveError> for Refusal {
    fn from(error: ReceiveError) -> Refusal {
        match error {
            ReceiveError::TooManyPolls => Refusal::polling_full(),
            ReceiveError::NoReadableQueue => Refusal::new(Code::Forbidden, error.to_string()),
            ReceiveError::GroupPulls => Refusal::new(Code::PreconditionFailed, error.to_string()),
            ReceiveError::NoLeader => Refusal::new(Code::TooManyRequests, error.to_string()),
            ReceiveError::Failed { why } => Refusal::new(Code::InternalServerError, why),
        }
    }
}

impl From<PullError> for Refusal {
    fn from(error: PullError) -> Refusal {
        let code = match &error {
            PullError::OutOfRange { .. } => Code::IllegalOffset,
            PullError::NoSuchQueue => Code::BadRequest,
            PullError::NoReadableQueue => Code::Forbidden,
            PullError::TooManyPolls | PullError::Busy | PullError::NoLeader => Code::TooManyRequests,
            PullError::Failed { .. } => Code::InternalServerError,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<OffsetError> for Refusal {
    fn from(error: OffsetError) -> Refusal {
        let code = match &error {
            OffsetError::OutOfRange { .. } | OffsetError::Backwards { .. } => Code::IllegalOffset,
            OffsetError::GroupReceives | OffsetError::GroupPulls | OffsetError::GroupBroadcasts => Code::PreconditionFailed,
            OffsetError::NoSuchQueue => Code::BadRequest,
            OffsetError::Busy | OffsetError::NoLeader => Code::TooManyRequests,
            OffsetError::Failed { .. } => Code::InternalServerError,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<LookupError> for Refusal {
    fn from(error: LookupError) -> Refusal {
        let code = match &error {
            LookupError::NoSuchQueue => Code::BadRequest,
            LookupError::Busy | LookupError::NoLeader => Code::TooManyRequests,
            LookupError::Failed { .. } => Code::InternalServerError,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<LeaseError> for Refusal {
    fn from(error: LeaseError) -> Refusal {
        let code = match &error {
            // Push consumers repeat an acknowledgement for ever, except on this code.
            LeaseError::Ended | LeaseError::Foreign => Code::InvalidReceiptHandle,
            LeaseError::Busy | LeaseError::NoLeader => Code::TooManyRequests,
            LeaseError::Failed { .. } => Code::InternalServerError,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<RecallError> for Refusal {
    fn from(error: RecallError) -> Refusal {
        let code = match &error {
            RecallError::Delivered | RecallError::Unknown => Code::MessageNotFound,
            RecallError::Busy | RecallError::NoLeader => Code::TooManyRequests,
            RecallError::Failed { .. } => Code::InternalServerError,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<EndError> for Refusal {
    fn from(error: EndError) -> Refusal {
        let code = match &error {
            // Whatever the client does, this transaction will not end so.
            EndError::Contradicts { .. } | EndError::GivenUp | EndError::Unknown => Code::InvalidTransactionId,
            EndError::Busy | EndError::NoLeader | EndError::DiskFull { .. } => Code::TooManyRequests,
            EndError::NoWritableQueue => Code::Forbidden,
            EndError::Failed { .. } => Code::InternalServerError,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<LiteError> for Refusal {
    fn from(error: LiteError) -> Refusal {
        let code = match &error {
            LiteError::SubscriptionQuota { .. } => Code::LiteSubscriptionQuotaExceeded,
            LiteError::TopicQuota { .. } => Code::LiteTopicQuotaExceeded,
            LiteError::Busy | LiteError::NoLeader => Code::TooManyRequests,
            LiteError::Failed { .. } => Code::InternalServerError,
        };
        Refusal::new(code, error.to_string())
    }
}

/// A topic could not be made on first use.
pub fn topic_creation(error: MetadataError) -> Refusal {
    creation(error, Code::IllegalTopic)
}

/// A group could not be made on first use.
pub fn group_creation(error: MetadataError) -> Refusal {
    creation(error, Code::IllegalConsumerGroup)
}

fn creation(error: MetadataError, illegal: Code) -> Refusal {
    let code = match &error {
        MetadataError::Invalid { .. } => illegal,
        MetadataError::Exists { .. } | MetadataError::NotFound { .. } | MetadataError::Unavailable { .. } => Code::InternalServerError,
    };
    Refusal::new(code, error.to_string())
}

/// Every code that an rpc may answer: those of the protocol's documentation and those that our own answers add.
pub fn codes(rpc: Rpc) -> &'static [Code] {
    use Code::*;
    match rpc {
        Rpc::QueryRoute => {
            &[Ok, IllegalAccessPoint, IllegalTopic, ClientIdRequired, TopicNotFound, TooManyRequests, InternalServerError, ProxyTimeout]
        }
        Rpc::Heartbeat => &[Ok, IllegalConsumerGroup, ClientIdRequired, TooManyRequests, ProxyTimeout],
        Rpc::SendMessage => SEND,
        Rpc::QueryAssignment => QUERY_ASSIGNMENT,
        Rpc::ReceiveMessage => RECEIVE,
        Rpc::AckMessage => ACK,
        Rpc::ForwardMessageToDeadLetterQueue => DEAD_LETTER,
        Rpc::ChangeInvisibleDuration => CHANGE,
        Rpc::Telemetry => {
            &[Ok, BadRequest, IllegalTopic, IllegalConsumerGroup, IllegalFilterExpression, ClientIdRequired, InvalidClientProperties, TooManyRequests]
        }
        Rpc::NotifyClientTermination => &[Ok, ClientIdRequired, TooManyRequests, ProxyTimeout],
        Rpc::PullMessage => PULL,
        Rpc::UpdateOffset => UPDATE_OFFSET,
        Rpc::GetOffset => GET_OFFSET,
        Rpc::QueryOffset => &[Ok, BadRequest, IllegalTopic, ClientIdRequired, TopicNotFound, TooManyRequests, InternalServerError, ProxyTimeout],
        Rpc::EndTransaction => {
            &[Ok, IllegalTopic, InvalidTransactionId, ClientIdRequired, Forbidden, TooManyRequests, InternalServerError, ProxyTimeout]
        }
        Rpc::RecallMessage => RECALL,
        Rpc::SyncLiteSubscription => SYNC_LITE,
    }
}

const SEND: &[Code] = &[
    Code::Ok,
    Code::MultipleResults,
    Code::BadRequest,
    Code::IllegalTopic,
    Code::IllegalMessageTag,
    Code::IllegalMessageKey,
    Code::IllegalMessageGroup,
    Code::IllegalMessagePropertyKey,
    Code::IllegalMessageId,
    Code::IllegalDeliveryTime,
    Code::MessagePropertyConflictWithType,
    Code::MessageCorrupted,
    Code::ClientIdRequired,
    Code::IllegalLiteTopic,
    Code::Forbidden,
    Code::TopicNotFound,
    Code::MessageBodyTooLarge,
    Code::MessageBodyEmpty,
    Code::TooManyRequests,
    Code::LiteTopicQuotaExceeded,
    Code::MessagePropertiesTooLarge,
    Code::InternalServerError,
    Code::ProxyTimeout,
];

const SYNC_LITE: &[Code] = &[
    Code::Ok,
    Code::BadRequest,
    Code::IllegalTopic,
    Code::IllegalConsumerGroup,
    Code::ClientIdRequired,
    Code::IllegalLiteTopic,
    Code::TopicNotFound,
    Code::ConsumerGroupNotFound,
    Code::TooManyRequests,
    Code::LiteTopicQuotaExceeded,
    Code::LiteSubscriptionQuotaExceeded,
    Code::InternalServerError,
    Code::ProxyTimeout,
];

const QUERY_ASSIGNMENT: &[Code] = &[
    Code::Ok,
    Code::IllegalAccessPoint,
    Code::IllegalTopic,
    Code::IllegalConsumerGroup,
    Code::ClientIdRequired,
    Code::Forbidden,
    Code::TopicNotFound,
    Code::ConsumerGroupNotFound,
    Code::TooManyRequests,
    Code::InternalServerError,
    Code::ProxyTimeout,
];

const RECEIVE: &[Code] = &[
    Code::Ok,
    Code::BadRequest,
    Code::IllegalTopic,
    Code::IllegalConsumerGroup,
    Code::IllegalFilterExpression,
    Code::IllegalInvisibleTime,
    Code::ClientIdRequired,
    Code::IllegalPollingTime,
    Code::Forbidden,
    Code::MessageNotFound,
    Code::TopicNotFound,
    Code::ConsumerGroupNotFound,
    Code::PreconditionFailed,
    Code::TooManyRequests,
    Code::InternalServerError,
];

const ACK: &[Code] = &[
    Code::Ok,
    Code::MultipleResults,
    Code::BadRequest,
    Code::IllegalTopic,
    Code::IllegalConsumerGroup,
    Code::InvalidReceiptHandle,
    Code::ClientIdRequired,
    Code::TooManyRequests,
    Code::InternalServerError,
    Code::ProxyTimeout,
];

const DEAD_LETTER: &[Code] = &[
    Code::Ok,
    Code::IllegalTopic,
    Code::IllegalConsumerGroup,
    Code::InvalidReceiptHandle,
    Code::ClientIdRequired,
    Code::TooManyRequests,
    Code::InternalServerError,
    Code::ProxyTimeout,
];

const RECALL: &[Code] = &[
    Code::Ok,
    Code::BadRequest,
    Code::IllegalTopic,
    Code::MessagePropertyConflictWithType,
    Code::ClientIdRequired,
    Code::MessageNotFound,
    Code::TopicNotFound,
    Code::TooManyRequests,
    Code::InternalServerError,
    Code::ProxyTimeout,
];

const CHANGE: &[Code] = &[
    Code::Ok,
    Code::IllegalTopic,
    Code::IllegalConsumerGroup,
    Code::IllegalInvisibleTime,
    Code::InvalidReceiptHandle,
    Code::ClientIdRequired,
    Code::TooManyRequests,
    Code::InternalServerError,
    Code::ProxyTimeout,
];

const PULL: &[Code] = &[
    Code::Ok,
    Code::BadRequest,
    Code::IllegalTopic,
    Code::IllegalConsumerGroup,
    Code::IllegalFilterExpression,
    Code::ClientIdRequired,
    Code::IllegalPollingTime,
    Code::IllegalOffset,
    Code::Forbidden,
    Code::MessageNotFound,
    Code::TopicNotFound,
    Code::ConsumerGroupNotFound,
    Code::TooManyRequests,
    Code::InternalServerError,
];

const UPDATE_OFFSET: &[Code] = &[
    Code::Ok,
    Code::BadRequest,
    Code::IllegalTopic,
    Code::IllegalConsumerGroup,
    Code::ClientIdRequired,
    Code::IllegalOffset,
    Code::TopicNotFound,
    Code::ConsumerGroupNotFound,
    Code::PreconditionFailed,
    Code::TooManyRequests,
    Code::InternalServerError,
    Code::ProxyTimeout,
];

const GET_OFFSET: &[Code] = &[
    Code::Ok,
    Code::BadRequest,
    Code::IllegalTopic,
    Code::IllegalConsumerGroup,
    Code::ClientIdRequired,
    Code::TopicNotFound,
    Code::ConsumerGroupNotFound,
    Code::OffsetNotFound,
    Code::TooManyRequests,
    Code::InternalServerError,
    Code::ProxyTimeout,
];
