//! Errors of the contract. One message for all of them, so that a code has one number whoever says it.

use crate::broker::Refusal;
use crate::broker::refusal::Code;
use gantry_model::contract::broker::{
    EndError, LeaseError, LetterError, LiteError, LookupError, OffsetError, PullError, RecallError, ReceiveError, Resolution, SendError,
};
use gantry_model::{Offset, QueueId, ShardId};

/// An error of one of the contract's calls.
pub trait Refuse: Sized {
    fn refusal(&self) -> Refusal;

    /// What a refusal says. A code that this call can't have, most likely of a later version, is read as the error that promises least.
    fn refused(refusal: Refusal) -> Self;
}

fn plain(code: Code) -> Refusal {
    Refusal { code: code as i32, ..Refusal::default() }
}

fn because(code: Code, why: &str) -> Refusal {
    Refusal { why: why.to_owned(), ..plain(code) }
}

fn numbered(code: Code, number: u64) -> Refusal {
    Refusal { number, ..plain(code) }
}

fn pair(code: Code, number: u64, other: u64) -> Refusal {
    Refusal { other, ..numbered(code, number) }
}

/// The text of a refusal, which is never empty.
fn said(refusal: Refusal) -> String {
    match refusal.code() {
        Code::Failed | Code::Unknown => refusal.why,
        code => format!("the broker refused with `{}`, which this version doesn't expect here {}", code.as_str_name(), refusal.why),
    }
}

fn percent(refusal: &Refusal) -> u8 {
    u8::try_from(refusal.number).unwrap_or(u8::MAX)
}

impl Refuse for SendError {
    fn refusal(&self) -> Refusal {
        match self {
            SendError::Busy => plain(Code::Busy),
            SendError::DiskFull { used_percent } => numbered(Code::DiskFull, u64::from(*used_percent)),
            SendError::NoWritableQueue => plain(Code::NoWritableQueue),
            SendError::QuotaExceeded { what } => because(Code::QuotaExceeded, what),
            SendError::LiteTopicQuota { most } => numbered(Code::LiteTopicQuota, *most),
            SendError::Draining => plain(Code::Draining),
            SendError::NoLeader => plain(Code::NoLeader),
            SendError::Misplaced { queue, shard } => pair(Code::Misplaced, u64::from(queue.0), u64::from(shard.0)),
            SendError::Unknown { why } => because(Code::Unknown, why),
        }
    }

    fn refused(refusal: Refusal) -> SendError {
        match refusal.code() {
            Code::Busy => SendError::Busy,
            Code::DiskFull => SendError::DiskFull { used_percent: percent(&refusal) },
            Code::NoWritableQueue => SendError::NoWritableQueue,
            Code::QuotaExceeded => SendError::QuotaExceeded { what: refusal.why },
            Code::LiteTopicQuota => SendError::LiteTopicQuota { most: refusal.number },
            Code::Draining => SendError::Draining,
            Code::NoLeader => SendError::NoLeader,
            Code::Misplaced => SendError::Misplaced { queue: QueueId(refusal.number as u32), shard: ShardId(refusal.other as u32) },
            _ => SendError::Unknown { why: said(refusal) },
        }
    }
}

impl Refuse for ReceiveError {
    fn refusal(&self) -> Refusal {
        match self {
            ReceiveError::TooManyPolls => plain(Code::TooManyPolls),
            ReceiveError::NoReadableQueue => plain(Code::NoReadableQueue),
            ReceiveError::GroupPulls => plain(Code::GroupPulls),
            ReceiveError::NoLeader => plain(Code::NoLeader),
            ReceiveError::Failed { why } => because(Code::Failed, why),
        }
    }

    fn refused(refusal: Refusal) -> ReceiveError {
        match refusal.code() {
            Code::TooManyPolls => ReceiveError::TooManyPolls,
            Code::NoReadableQueue => ReceiveError::NoReadableQueue,
            Code::GroupPulls => ReceiveError::GroupPulls,
            Code::NoLeader => ReceiveError::NoLeader,
            _ => ReceiveError::Failed { why: said(refusal) },
        }
    }
}

impl Refuse for LeaseError {
    fn refusal(&self) -> Refusal {
        match self {
            LeaseError::Ended => plain(Code::Ended),
            LeaseError::Foreign => plain(Code::Foreign),
            LeaseError::NoLeader => plain(Code::NoLeader),
            LeaseError::Busy => plain(Code::Busy),
            LeaseError::Failed { why } => because(Code::Failed, why),
        }
    }

    fn refused(refusal: Refusal) -> LeaseError {
        match refusal.code() {
            Code::Ended => LeaseError::Ended,
            Code::Foreign => LeaseError::Foreign,
            Code::NoLeader => LeaseError::NoLeader,
            Code::Busy => LeaseError::Busy,
            _ => LeaseError::Failed { why: said(refusal) },
        }
    }
}

impl Refuse for EndError {
    fn refusal(&self) -> Refusal {
        match self {
            EndError::Contradicts { ended } => numbered(Code::Contradicts, *ended as u64),
            EndError::GivenUp => plain(Code::GivenUp),
            EndError::Unknown => plain(Code::Unknown),
            EndError::NoWritableQueue => plain(Code::NoWritableQueue),
            EndError::DiskFull { used_percent } => numbered(Code::DiskFull, u64::from(*used_percent)),
            EndError::NoLeader => plain(Code::NoLeader),
            EndError::Busy => plain(Code::Busy),
            EndError::Failed { why } => because(Code::Failed, why),
        }
    }

    fn refused(refusal: Refusal) -> EndError {
        let commit = refusal.number == Resolution::Commit as u64;
        match refusal.code() {
            Code::Contradicts => EndError::Contradicts { ended: if commit { Resolution::Commit } else { Resolution::Rollback } },
            Code::GivenUp => EndError::GivenUp,
            Code::Unknown => EndError::Unknown,
            Code::NoWritableQueue => EndError::NoWritableQueue,
            Code::DiskFull => EndError::DiskFull { used_percent: percent(&refusal) },
            Code::NoLeader => EndError::NoLeader,
            Code::Busy => EndError::Busy,
            _ => EndError::Failed { why: said(refusal) },
        }
    }
}

impl Refuse for RecallError {
    fn refusal(&self) -> Refusal {
        match self {
            RecallError::Delivered => plain(Code::Delivered),
            RecallError::Unknown => plain(Code::Unknown),
            RecallError::NoLeader => plain(Code::NoLeader),
            RecallError::Busy => plain(Code::Busy),
            RecallError::Failed { why } => because(Code::Failed, why),
        }
    }

    fn refused(refusal: Refusal) -> RecallError {
        match refusal.code() {
            Code::Delivered => RecallError::Delivered,
            Code::Unknown => RecallError::Unknown,
            Code::NoLeader => RecallError::NoLeader,
            Code::Busy => RecallError::Busy,
            _ => RecallError::Failed { why: said(refusal) },
        }
    }
}

impl Refuse for LookupError {
    fn refusal(&self) -> Refusal {
        match self {
            LookupError::NoSuchQueue => plain(Code::NoSuchQueue),
            LookupError::NoLeader => plain(Code::NoLeader),
            LookupError::Busy => plain(Code::Busy),
            LookupError::Failed { why } => because(Code::Failed, why),
        }
    }

    fn refused(refusal: Refusal) -> LookupError {
        match refusal.code() {
            Code::NoSuchQueue => LookupError::NoSuchQueue,
            Code::NoLeader => LookupError::NoLeader,
            Code::Busy => LookupError::Busy,
            _ => LookupError::Failed { why: said(refusal) },
        }
    }
}

impl Refuse for PullError {
    fn refusal(&self) -> Refusal {
        match self {
            PullError::OutOfRange { next } => numbered(Code::OutOfRange, next.0),
            PullError::NoSuchQueue => plain(Code::NoSuchQueue),
            PullError::NoReadableQueue => plain(Code::NoReadableQueue),
            PullError::TooManyPolls => plain(Code::TooManyPolls),
            PullError::NoLeader => plain(Code::NoLeader),
            PullError::Busy => plain(Code::Busy),
            PullError::Failed { why } => because(Code::Failed, why),
        }
    }

    fn refused(refusal: Refusal) -> PullError {
        match refusal.code() {
            Code::OutOfRange => PullError::OutOfRange { next: Offset(refusal.number) },
            Code::NoSuchQueue => PullError::NoSuchQueue,
            Code::NoReadableQueue => PullError::NoReadableQueue,
            Code::TooManyPolls => PullError::TooManyPolls,
            Code::NoLeader => PullError::NoLeader,
            Code::Busy => PullError::Busy,
            _ => PullError::Failed { why: said(refusal) },
        }
    }
}

impl Refuse for OffsetError {
    fn refusal(&self) -> Refusal {
        match self {
            OffsetError::OutOfRange { min, max } => pair(Code::OutOfRange, min.0, max.0),
            OffsetError::Backwards { committed } => numbered(Code::Backwards, committed.0),
            OffsetError::GroupReceives => plain(Code::GroupReceives),
            OffsetError::GroupPulls => plain(Code::GroupPulls),
            OffsetError::GroupBroadcasts => plain(Code::GroupBroadcasts),
            OffsetError::NoSuchQueue => plain(Code::NoSuchQueue),
            OffsetError::NoLeader => plain(Code::NoLeader),
            OffsetError::Busy => plain(Code::Busy),
            OffsetError::Failed { why } => because(Code::Failed, why),
        }
    }

    fn refused(refusal: Refusal) -> OffsetError {
        match refusal.code() {
            Code::OutOfRange => OffsetError::OutOfRange { min: Offset(refusal.number), max: Offset(refusal.other) },
            Code::Backwards => OffsetError::Backwards { committed: Offset(refusal.number) },
            Code::GroupReceives => OffsetError::GroupReceives,
            Code::GroupPulls => OffsetError::GroupPulls,
            Code::GroupBroadcasts => OffsetError::GroupBroadcasts,
            Code::NoSuchQueue => OffsetError::NoSuchQueue,
            Code::NoLeader => OffsetError::NoLeader,
            Code::Busy => OffsetError::Busy,
            _ => OffsetError::Failed { why: said(refusal) },
        }
    }
}

impl Refuse for LetterError {
    fn refusal(&self) -> Refusal {
        match self {
            LetterError::Gone => plain(Code::Gone),
            LetterError::NoWritableQueue => plain(Code::NoWritableQueue),
            LetterError::Elsewhere => plain(Code::Elsewhere),
            LetterError::DiskFull { used_percent } => numbered(Code::DiskFull, u64::from(*used_percent)),
            LetterError::NoLeader => plain(Code::NoLeader),
            LetterError::Busy => plain(Code::Busy),
            LetterError::Failed { why } => because(Code::Failed, why),
        }
    }

    fn refused(refusal: Refusal) -> LetterError {
        match refusal.code() {
            Code::Gone => LetterError::Gone,
            Code::NoWritableQueue => LetterError::NoWritableQueue,
            Code::Elsewhere => LetterError::Elsewhere,
            Code::DiskFull => LetterError::DiskFull { used_percent: percent(&refusal) },
            Code::NoLeader => LetterError::NoLeader,
            Code::Busy => LetterError::Busy,
            _ => LetterError::Failed { why: said(refusal) },
        }
    }
}

impl Refuse for LiteError {
    fn refusal(&self) -> Refusal {
        match self {
            LiteError::SubscriptionQuota { most } => numbered(Code::SubscriptionQuota, *most),
            LiteError::TopicQuota { most } => numbered(Code::LiteTopicQuota, *most),
            LiteError::NoLeader => plain(Code::NoLeader),
            LiteError::Busy => plain(Code::Busy),
            LiteError::Failed { why } => because(Code::Failed, why),
        }
    }

    fn refused(refusal: Refusal) -> LiteError {
        match refusal.code() {
            Code::SubscriptionQuota => LiteError::SubscriptionQuota { most: refusal.number },
            Code::LiteTopicQuota => LiteError::TopicQuota { most: refusal.number },
            Code::NoLeader => LiteError::NoLeader,
            Code::Busy => LiteError::Busy,
            _ => LiteError::Failed { why: said(refusal) },
        }
    }
}
