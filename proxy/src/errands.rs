//! What the server asks of a client over its Telemetry stream on behalf of an operator: the stacks of its threads, and to consume a message.
//!
//! A question carries a nonce, which is drawn at random and counts only in an answer of the client that was asked. A question ends with
//! its answer, with the stream on which it was asked, or with the patience of whoever asks.

use crate::sessions::{Outgoing, Session};
use gantry_model::ClientId;
use gantry_platform::SystemChance;
use gantry_platform::chance::Chance;
use gantry_platform::clock::timeout;
use gantry_proto::v2::telemetry_command::Command;
use gantry_proto::v2::{Message, PrintThreadStackTraceCommand, Status, TelemetryCommand, VerifyMessageCommand};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// A client prints its stacks at once or not at all.
pub const STACK_PATIENCE: Duration = Duration::from_secs(10);
/// Consuming a message takes what the listener takes.
pub const VERIFY_PATIENCE: Duration = Duration::from_secs(30);
/// Questions that wait for an answer.
const PENDING_MAX: usize = 1_024;

/// One open Telemetry stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(u64);

/// What a client answered.
#[derive(Debug)]
pub struct Answer {
    pub status: Status,
    /// Empty unless stacks were asked for.
    pub stack: String,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrandError {
    /// The client has no open Telemetry stream at this proxy.
    NoStream,
    /// The stream ended before the answer came.
    StreamEnded,
    /// The client was asked and said nothing in this time.
    Silent(Duration),
    /// Too many questions wait for answers, or the client does not read its stream.
    Busy,
}

impl fmt::Display for ErrandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrandError::NoStream => f.write_str("the client has no open Telemetry stream, so it can't be asked; try again when it is connected"),
            ErrandError::StreamEnded => {
                f.write_str("the client's Telemetry stream ended before it answered; whether it did what was asked is unknown")
            }
            ErrandError::Silent(patience) => {
                write!(f, "the client did not answer within {} s; its library may not know the command", patience.as_secs_f32())
            }
            ErrandError::Busy => f.write_str("too many questions to clients wait for answers, or this client does not read its stream; try again"),
        }
    }
}

impl std::error::Error for ErrandError {}

struct Pending {
    client: ClientId,
    stream: StreamId,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Table {
    streams: u64,
    open: HashSet<StreamId>,
    pending: HashMap<String, Pending>,
}

/// The questions of this proxy that wait for answers.
#[derive(Default)]
pub struct Errands(Mutex<Table>);

impl fmt::Debug for Errands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errands {{ pending: {} }}", self.table().pending.len())
    }
}

/// Forgets a question when whoever asks goes away.
struct Asked<'a> {
    errands: &'a Errands,
    nonce: String,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.errands.table().pending.remove(&self.nonce);
    }
}

impl Errands {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A Telemetry stream begins.
    pub fn opened(&self) -> StreamId {
        let mut table = self.table();
        table.streams += 1;
        let stream = StreamId(table.streams);
        table.open.insert(stream);
        stream
    }

    /// A Telemetry stream ended: nothing asked on it will be answered.
    pub fn ended(&self, stream: StreamId) {
        let mut table = self.table();
        table.open.remove(&stream);
        table.pending.retain(|_, pending| pending.stream != stream);
    }

    /// A client sent a command that may be an answer. What nobody asked is dropped.
    pub fn answered(&self, client: &ClientId, status: Option<Status>, command: Command) {
        let (nonce, stack) = match command {
            Command::ThreadStackTrace(trace) => (trace.nonce, trace.thread_stack_trace.unwrap_or_default()),
            Command::VerifyMessageResult(result) => (result.nonce, String::new()),
            // Node.js sends the question back, with its answer as the status.
            Command::VerifyMessageCommand(question) => (question.nonce, String::new()),
            _ => return,
        };
        let mut table = self.table();
        if table.pending.get(&nonce).is_some_and(|pending| pending.client == *client)
            && let Some(pending) = table.pending.remove(&nonce)
        {
            // Whoever asked may have gone.
            let _ = pending.answer.send(Answer { status: status.unwrap_or_default(), stack });
        }
    }

    /// Asks for the stacks of a client's threads.
    pub async fn print_stack(&self, session: &Session, patience: Duration) -> Result<Answer, ErrandError> {
        let command = |nonce| Command::PrintThreadStackTraceCommand(PrintThreadStackTraceCommand { nonce });
        self.ask(session, command, patience.min(STACK_PATIENCE)).await
    }

    /// Has a client consume a message.
    pub async fn verify(&self, session: &Session, message: Message, patience: Duration) -> Result<Answer, ErrandError> {
        let command = |nonce| Command::VerifyMessageCommand(VerifyMessageCommand { nonce, message: Some(message) });
        self.ask(session, command, patience.min(VERIFY_PATIENCE)).await
    }

    async fn ask(&self, session: &Session, command: impl FnOnce(String) -> Command, patience: Duration) -> Result<Answer, ErrandError> {
        let (stream, commands) = session.newest_stream().ok_or(ErrandError::NoStream)?;
        let (asked, answer) = self.register(session, stream)?;
        let outgoing: Outgoing = Ok(TelemetryCommand { status: None, command: Some(command(asked.nonce.clone())) });
        commands.try_send(outgoing).map_err(|_| ErrandError::Busy)?;
        // Held any longer, it would keep a stream open that the client has ended.
        drop(commands);
        match timeout(patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(ErrandError::StreamEnded),
            Err(_) => Err(ErrandError::Silent(patience)),
        }
    }

    fn register(&self, session: &Session, stream: StreamId) -> Result<(Asked<'_>, oneshot::Receiver<Answer>), ErrandError> {
        let mut bits = [0; 16];
        SystemChance.fill(&mut bits);
        let nonce = format!("{:032x}", u128::from_ne_bytes(bits));
        let (answer, receiver) = oneshot::channel();
        let mut table = self.table();
        if !table.open.contains(&stream) {
            return Err(ErrandError::NoStream);
        }
        if table.pending.len() >= PENDING_MAX {
            return Err(ErrandError::Busy);
        }
        table.pending.insert(nonce.clone(), Pending { client: session.client.clone(), stream, answer });
        Ok((Asked { errands: self, nonce }, receiver))
    }
}
