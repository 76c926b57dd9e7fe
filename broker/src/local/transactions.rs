//! Transactions of this broker's shard: ended and listed by callers, and asked about through whoever can reach producers.

use super::{CONTROL_BYTES, LocalBroker};
use crate::admission::Lane;
use crate::read::Messages;
use crate::shard::halves::{Listed, Question};
use crate::shard::inbox::{Inbox, Request, Status};
use crate::shard::transactions::Asked;
use gantry_model::contract::broker::{Check, Clients, EndError, EndedBy, LookupError, OpenTransaction, Resolution, TransactionCounts};
use gantry_model::handle::TransactionHandle;
use gantry_model::{Topic, TopicId};
use gantry_platform::clock::timeout;
use gantry_platform::tasks;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// How long one question may take until it is written to a stream.
const ASK: Duration = Duration::from_secs(10);

/// Who can reach clients, once somebody can.
#[derive(Clone, Debug, Default)]
pub struct Reach(Arc<Mutex<Option<Arc<dyn Clients>>>>);

impl Reach {
    pub fn set(&self, clients: Arc<dyn Clients>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(clients);
    }

    pub fn get(&self) -> Option<Arc<dyn Clients>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Puts the shard's questions to producers and reports what became of each. Ends with the shard.
pub(crate) async fn ask_producers(mut questions: UnboundedReceiver<Question>, messages: Messages, reach: Reach, inbox: Inbox) {
    while let Some(question) = questions.recv().await {
        let (messages, clients, inbox) = (messages.clone(), reach.get(), inbox.clone());
        // The shard bounds how many run at once, and takes one that never reports for lost.
        tasks::spawn("transaction check", async move {
            let key = (question.handle.topic, question.handle.id);
            let asked = timeout(ASK, ask(question, &messages, clients)).await.unwrap_or(Asked::NobodyThere);
            inbox.put(Request::Asked { key, asked });
        });
    }
}

async fn ask(question: Question, messages: &Messages, clients: Option<Arc<dyn Clients>>) -> Asked {
    let Question { handle, sender, found } = question;
    let Some(clients) = clients else { return Asked::NobodyThere };
    let message = match messages.read_hidden(found).await {
        Ok(Some(message)) => message,
        // It was ended or moved a moment ago; the next question finds it if it is still open.
        Ok(None) => return Asked::NobodyThere,
        Err(error) => {
            tracing::error!(%error, topic = handle.topic.0, transaction = handle.id, "the message of a transaction can't be read; nobody is asked");
            return Asked::NobodyThere;
        }
    };
    if clients.check(Check { handle, message, sender }).await { Asked::Written } else { Asked::NobodyThere }
}

impl LocalBroker {
    pub(super) async fn end(&self, topic: &Topic, handle: TransactionHandle, resolution: Resolution, by: EndedBy) -> Result<(), EndError> {
        if handle.shard != self.shard || handle.topic != topic.id {
            return Err(EndError::Unknown);
        }
        let _permit = self.admission.enter(Lane::Control, CONTROL_BYTES).ok_or(EndError::Busy)?;
        let topic = Arc::new(topic.clone());
        self.ask(|reply| Request::EndTransaction { topic, id: handle.id, resolution, by, reply }).await.unwrap_or_else(|| Err(stopped()))
    }

    pub(super) async fn resume(&self, handle: TransactionHandle) -> Result<(), EndError> {
        if handle.shard != self.shard {
            return Err(EndError::Unknown);
        }
        let _permit = self.admission.enter(Lane::Control, CONTROL_BYTES).ok_or(EndError::Busy)?;
        self.ask(|reply| Request::ResumeTransaction { key: (handle.topic, handle.id), reply }).await.unwrap_or_else(|| Err(stopped()))
    }

    pub(super) async fn list_transactions(
        &self,
        topic: TopicId,
        after: Option<TransactionHandle>,
        limit: usize,
    ) -> Result<Vec<OpenTransaction>, LookupError> {
        let from = after.map_or(0, |after| after.id.saturating_add(1));
        let listed = self.ask(|reply| Request::OpenTransactions { topic, from, limit, reply }).await.ok_or_else(|| self.unread())?;
        let mut open = Vec::with_capacity(listed.len());
        for Listed { id, open: known, found } in listed {
            let message = match self.messages.read_hidden(found).await {
                Ok(Some(message)) => message,
                Ok(None) => continue,
                Err(LookupError::Busy) => return Err(LookupError::Busy),
                Err(error) => {
                    tracing::error!(%error, topic = topic.0, transaction = id, "the message of a transaction can't be read; it is not listed");
                    continue;
                }
            };
            let handle = TransactionHandle { shard: self.shard, topic, id };
            let (sender, checks, next_check_ms, given_up) = (known.sender, known.checks, known.next, known.given_up);
            open.push(OpenTransaction { handle, message, sender, checks, next_check_ms, given_up });
        }
        Ok(open)
    }
}

/// What a shard's status says of its transactions.
pub(super) fn counts(status: &Status) -> TransactionCounts {
    let numbers = &status.transactions;
    let [open, committed, rolled_back, given_up, checks] =
        [&numbers.open, &numbers.committed, &numbers.rolled_back, &numbers.given_up, &numbers.checks].map(|number| number.load(Ordering::Relaxed));
    TransactionCounts { open, committed, rolled_back, given_up, checks }
}

fn stopped() -> EndError {
    EndError::Failed { why: "the shard stopped before the end of the transaction was stored; try again".into() }
}
