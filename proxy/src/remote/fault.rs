//! Why a call got no answer, and what the contract says to that.

use gantry_model::contract::broker::{
    EndError, LeaseError, LetterError, LiteError, LookupError, OffsetError, PullError, RecallError, ReceiveError, SendError,
};
use std::sync::Arc;

/// Why a call got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It was never written: nothing was done.
    Unsent,
    /// Too much is under way; nothing was done.
    Full,
    /// It was written, and may have been done.
    Lost(Arc<str>),
    /// It was a poll, and this process stops.
    Drained,
}

/// What an operation says of a fault.
pub trait Faulty {
    fn of(fault: Fault) -> Self;
}

macro_rules! faulty {
    ($($error:ident: $full:expr, $lost:ident);+ $(;)?) => {
        $(impl Faulty for $error {
            fn of(fault: Fault) -> $error {
                match fault {
                    Fault::Unsent | Fault::Drained => $error::NoLeader,
                    Fault::Full => $full,
                    Fault::Lost(why) => $error::$lost { why: why.as_ref().to_owned() },
                }
            }
        })+
    };
}

faulty! {
    SendError: SendError::Busy, Unknown;
    ReceiveError: ReceiveError::TooManyPolls, Failed;
    LeaseError: LeaseError::Busy, Failed;
    EndError: EndError::Busy, Failed;
    RecallError: RecallError::Busy, Failed;
    LookupError: LookupError::Busy, Failed;
    OffsetError: OffsetError::Busy, Failed;
    PullError: PullError::Busy, Failed;
    LetterError: LetterError::Busy, Failed;
    LiteError: LiteError::Busy, Failed;
}
