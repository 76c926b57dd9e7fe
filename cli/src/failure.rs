//! How a command ends: the exit codes, and failures that say what happened, why, and what to do next.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed: something went wrong that no other code names, or a check (`bench`) did not hold |
//! | 2 | usage: the command line is wrong, or the server finds a value illegal |
//! | 3 | not found: no such topic, group or message |
//! | 4 | refused: exists already, not allowed, not in this state, or not confirmed |
//! | 5 | unreachable: nobody answers at that address, or not in time, or asks to come back later |
//! | 6 | violated: `verify` found a promise that the cluster broke |

use gantry_proto::v2::{self, Code};
use std::fmt;
use std::io;

/// Exit codes, stable for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Refused = 4,
    Unreachable = 5,
    Violated = 6,
}

/// Why a command did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    pub what: String,
    pub why: Option<String>,
    pub next: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, what: impl Into<String>) -> Failure {
        Failure { exit, what: what.into(), why: None, next: None }
    }

    pub fn usage(what: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, what)
    }

    /// Adds the reason.
    pub fn because(mut self, why: impl fmt::Display) -> Failure {
        self.why = Some(why.to_string());
        self
    }

    /// Adds what to do now.
    pub fn hint(mut self, next: impl Into<String>) -> Failure {
        self.next = Some(next.into());
        self
    }

    /// A call that broke off, or an error of the Admin API: `what` names what was tried.
    pub fn from_grpc(what: impl Into<String>, status: &tonic::Status) -> Failure {
        use tonic::Code as Grpc;
        let (exit, hint) = match status.code() {
            Grpc::InvalidArgument | Grpc::OutOfRange => (Exit::Usage, None),
            Grpc::NotFound => (Exit::NotFound, None),
            Grpc::AlreadyExists | Grpc::FailedPrecondition => (Exit::Refused, None),
            Grpc::PermissionDenied | Grpc::Unauthenticated => (Exit::Refused, None),
            Grpc::Unavailable | Grpc::DeadlineExceeded | Grpc::ResourceExhausted => (Exit::Unreachable, Some(AGAIN)),
            Grpc::Cancelled => (Exit::Unreachable, Some("the server took longer than `--timeout`; raise it or look at the server")),
            Grpc::Unimplemented => (Exit::Failed, Some("the server is older than this `gantry`, or `--endpoint` and `--admin` are mixed up")),
            _ => (Exit::Failed, None),
        };
        let why = match status.message() {
            "" => format!("the server answered {:?} without a word", status.code()),
            message => message.to_owned(),
        };
        Failure { exit, what: what.into(), why: Some(why), next: hint.map(str::to_owned) }
    }

    /// A status inside an answer of the messaging service that is not OK.
    pub fn from_code(what: impl Into<String>, status: &v2::Status) -> Failure {
        let (exit, hint) = match status.code() {
            Code::TopicNotFound => (Exit::NotFound, Some("see what exists with `gantry topic list`, or create it with `gantry topic create`")),
            Code::ConsumerGroupNotFound => {
                (Exit::NotFound, Some("see what exists with `gantry group list`, or create it with `gantry group create`"))
            }
            Code::NotFound | Code::MessageNotFound | Code::OffsetNotFound => (Exit::NotFound, None),
            Code::Unauthorized | Code::Forbidden | Code::InvalidReceiptHandle => (Exit::Refused, None),
            Code::MessagePropertyConflictWithType => (Exit::Refused, Some("see which types the topic takes with `gantry topic describe`")),
            Code::TooManyRequests | Code::ProxyTimeout | Code::HaNotAvailable | Code::RequestTimeout => (Exit::Unreachable, Some(AGAIN)),
            Code::MasterPersistenceTimeout | Code::SlavePersistenceTimeout => (Exit::Unreachable, Some(AGAIN)),
            _ if (40_000..50_000).contains(&status.code) => (Exit::Usage, None),
            _ => (Exit::Failed, None),
        };
        let why = format!("{} ({})", if status.message.is_empty() { "the server gives no reason" } else { &status.message }, status.code);
        Failure { exit, what: what.into(), why: Some(why), next: hint.map(str::to_owned) }
    }

    /// Stdout or stderr is gone; a reader that has seen enough (`| head`) is no failure.
    fn from_io(error: &io::Error) -> Failure {
        let exit = if error.kind() == io::ErrorKind::BrokenPipe { Exit::Done } else { Exit::Failed };
        Failure::new(exit, "cannot read input or write output").because(error)
    }
}

const AGAIN: &str = "this is temporary: try again; if it stays, look at the server's log";

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::from_io(&error)
    }
}

/// Checks the status that every answer of the messaging service carries.
pub fn check_status(what: &str, status: Option<&v2::Status>) -> Result<(), Failure> {
    match status {
        Some(status) if status.code == Code::Ok as i32 => Ok(()),
        Some(status) => Err(Failure::from_code(what, status)),
        None => Err(Failure::new(Exit::Failed, what).because("the answer has no status; is this a RocketMQ 5 endpoint?")),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(why) = &self.why {
            write!(f, "\n  why:  {why}")?;
        }
        if let Some(next) = &self.next {
            write!(f, "\n  next: {next}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
