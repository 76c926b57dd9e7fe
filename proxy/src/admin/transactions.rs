//! Transactions that nobody ended: what they are, and how an operator ends them or has their producers asked again.

use super::lookup::{Bodies, to_wire as message_to_wire};
use super::{Page, foreign_token, lookup_error, topic};
use crate::convert::timestamp;
use crate::shared::Shared;
use gantry_model::Topic;
use gantry_model::contract::broker::{EndError, EndedBy, OpenTransaction, Resolution};
use gantry_model::handle::TransactionHandle;
use gantry_proto::admin::{
    EndTransactionRequest, EndTransactionResponse, ListTransactionsRequest, ListTransactionsResponse, ResumeTransactionRequest,
    ResumeTransactionResponse, Transaction, TransactionState,
};
use gantry_proto::v2::TransactionResolution;
use std::sync::Arc;
use tonic::Status;

pub async fn list(shared: &Shared, request: ListTransactionsRequest) -> Result<ListTransactionsResponse, Status> {
    let topic = topic(shared, &request.namespace, &request.topic)?;
    let page = Page::read(request.page_size, &request.page_token)?;
    let keys = shared.metadata.handle_keys();
    let verified = |text: &String| keys.verify_transaction(text).ok().filter(|handle| handle.topic == topic.id).ok_or_else(foreign_token);
    let after = page.after.as_ref().map(verified).transpose()?;
    let open = shared.broker.open_transactions(&topic, after, page.size + 1).await.map_err(lookup_error)?;
    let mut transactions: Vec<Transaction> = open.into_iter().map(|open| to_wire(&topic, keys.sign_transaction(&open.handle), open)).collect();
    let next_page_token = page.cut(&mut transactions, |last| last.transaction_id.clone());
    Ok(ListTransactionsResponse { transactions, next_page_token })
}

fn to_wire(topic: &Topic, transaction_id: String, open: OpenTransaction) -> Transaction {
    let mut message = message_to_wire(topic, open.message, Bodies::Omitted, Vec::new());
    // It has no place that a reader could use.
    (message.queue, message.offset) = (0, 0);
    let state = if open.given_up { TransactionState::GivenUp } else { TransactionState::Open };
    Transaction {
        transaction_id,
        message: Some(message),
        sender: open.sender.as_str().to_owned(),
        checks: open.checks,
        state: state as i32,
        next_time: Some(timestamp(open.next_check_ms)),
    }
}

pub async fn end(shared: &Shared, request: EndTransactionRequest) -> Result<EndTransactionResponse, Status> {
    let resolution = match request.resolution() {
        TransactionResolution::Commit => Resolution::Commit,
        TransactionResolution::Rollback => Resolution::Rollback,
        TransactionResolution::Unspecified => return Err(Status::invalid_argument("say how to end the transaction: COMMIT or ROLLBACK")),
    };
    let (topic, handle) = named(shared, &request.namespace, &request.topic, &request.transaction_id)?;
    shared.broker.end_transaction(&topic, handle, resolution, EndedBy::Operator).await.map_err(end_error)?;
    tracing::info!(topic = %topic.name, transaction = request.transaction_id, ?resolution, "an operator ended a transaction");
    Ok(EndTransactionResponse {})
}

pub async fn resume(shared: &Shared, request: ResumeTransactionRequest) -> Result<ResumeTransactionResponse, Status> {
    let (_, handle) = named(shared, &request.namespace, &request.topic, &request.transaction_id)?;
    match shared.broker.resume_transaction(handle).await {
        Ok(()) => Ok(ResumeTransactionResponse {}),
        Err(EndError::Contradicts { .. }) => Err(Status::failed_precondition("the transaction has ended; nobody needs to be asked about it")),
        Err(error) => Err(end_error(error)),
    }
}

/// The topic and the transaction of a request.
fn named(shared: &Shared, namespace: &str, name: &str, id: &str) -> Result<(Arc<Topic>, TransactionHandle), Status> {
    let topic = topic(shared, namespace, name)?;
    let handle = shared.metadata.handle_keys().verify_transaction(id).ok().filter(|handle| handle.topic == topic.id);
    let foreign = || Status::invalid_argument(format!("the transaction id is not one of topic `{}`; list them to see their ids", topic.name));
    let handle = handle.ok_or_else(foreign)?;
    Ok((topic, handle))
}

fn end_error(error: EndError) -> Status {
    let text = error.to_string();
    match error {
        EndError::Unknown => Status::not_found(text),
        EndError::Contradicts { .. } | EndError::GivenUp | EndError::NoWritableQueue => Status::failed_precondition(text),
        EndError::DiskFull { .. } | EndError::Busy | EndError::NoLeader | EndError::Failed { .. } => Status::unavailable(text),
    }
}
