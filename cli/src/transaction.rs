//! `gantry transaction …`: transactions that nobody ended, through the Admin API: list them, commit them, roll them back, resume their checks.

use crate::connect::{self, Admin, request};
use crate::failure::{Exit, Failure};
use crate::global::{Global, OutputFormat};
use crate::name::{Noun, failed};
use crate::output::{self, Report, Table, or_dash};
use crate::terminal::{Confirmed, Terminal};
use crate::value;
use clap::{Args, Subcommand};
use gantry_proto::admin::{EndTransactionRequest, ListTransactionsRequest, ResumeTransactionRequest, Transaction, TransactionState};
use gantry_proto::v2::TransactionResolution;
use serde::Serialize;

/// What to do with open transactions.
#[derive(Debug, Subcommand)]
pub enum TransactionCommand {
    /// List the transactions of a topic that are not ended, oldest first
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(List),
    /// Make the messages of transactions visible, in place of their producers; there is no way back
    #[command(after_help = COMMIT_EXAMPLES)]
    Commit(End),
    /// Drop the messages of transactions, in place of their producers; there is no way back
    #[command(after_help = ROLLBACK_EXAMPLES)]
    Rollback(End),
    /// Have the producers asked again about transactions that were given up
    #[command(after_help = RESUME_EXAMPLES)]
    Resume(Resume),
}

const LIST_EXAMPLES: &str = "\
Examples:
  gantry transaction list orders
  gantry transaction list orders --given-up -o json | jq -r '.transactions[].transaction_id'";
const COMMIT_EXAMPLES: &str = "\
Examples:
  gantry transaction commit orders v1.1.dAAAAAAB… --yes";
const ROLLBACK_EXAMPLES: &str = "\
Examples:
  gantry transaction rollback orders v1.1.dAAAAAAB… v1.1.dAAAAAAC…";
const RESUME_EXAMPLES: &str = "\
Examples:
  gantry transaction resume orders v1.1.dAAAAAAB…";

#[derive(Debug, Args)]
pub struct List {
    /// Name of the topic
    topic: String,
    /// Only those that were given up after too many unanswered questions
    #[arg(long)]
    given_up: bool,
}

#[derive(Debug, Args)]
pub struct End {
    /// Name of the topic
    topic: String,
    /// Ids as `list` shows them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
pub struct Resume {
    /// Name of the topic
    topic: String,
    /// Ids as `list` shows them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub async fn run(command: TransactionCommand, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut admin = connect::admin(global).await?;
    match command {
        TransactionCommand::List(args) => list(args, &mut admin, global, terminal).await,
        TransactionCommand::Commit(args) => end(args, TransactionResolution::Commit, &mut admin, global, terminal).await,
        TransactionCommand::Rollback(args) => end(args, TransactionResolution::Rollback, &mut admin, global, terminal).await,
        TransactionCommand::Resume(args) => resume(args, &mut admin, global, terminal).await,
    }
}

async fn list(args: List, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut ask = ListTransactionsRequest { namespace: global.namespace.clone(), topic: args.topic.clone(), ..Default::default() };
    let mut transactions = Vec::new();
    loop {
        let page = match admin.list_transactions(request(ask.clone(), global)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Err(failed(Noun::Topic, "list the transactions of", &args.topic, &status, admin, global).await),
        };
        let wanted = page.transactions.into_iter().filter(|one| !args.given_up || one.state() == TransactionState::GivenUp);
        transactions.extend(wanted.map(View::from));
        if page.next_page_token.is_empty() {
            break;
        }
        ask.page_token = page.next_page_token;
    }
    if transactions.is_empty() && global.output == OutputFormat::Table {
        terminal.note("no such transactions: all are ended")?;
    }
    output::print(&Listing { transactions }, global.output, terminal)
}

async fn end(args: End, how: TransactionResolution, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let (verb, done) = if how == TransactionResolution::Commit { ("commit", "committed") } else { ("roll back", "rolled back") };
    let plan = format!("{verb} {} of topic `{}`, for good", counted(args.ids.len()), args.topic);
    terminal.confirm(&plan, Confirmed::from(args.yes)).await?;
    for id in args.ids {
        let ask = EndTransactionRequest {
            namespace: global.namespace.clone(),
            topic: args.topic.clone(),
            transaction_id: id.clone(),
            resolution: how as i32,
        };
        match admin.end_transaction(request(ask, global)).await {
            Ok(_) => output::print_one(&Changed { transaction_id: id, done }, global.output, terminal)?,
            Err(status) => return Err(refused(verb, &args.topic, &id, &status)),
        }
    }
    Ok(())
}

async fn resume(args: Resume, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    for id in args.ids {
        let ask = ResumeTransactionRequest { namespace: global.namespace.clone(), topic: args.topic.clone(), transaction_id: id.clone() };
        match admin.resume_transaction(request(ask, global)).await {
            Ok(_) => output::print_one(&Changed { transaction_id: id, done: "resumed" }, global.output, terminal)?,
            Err(status) => return Err(refused("resume", &args.topic, &id, &status)),
        }
    }
    Ok(())
}

fn counted(count: usize) -> String {
    if count == 1 { "1 transaction".to_owned() } else { format!("{count} transactions") }
}

/// A failed call about one transaction. Those named before it are done.
fn refused(verb: &str, topic: &str, id: &str, status: &tonic::Status) -> Failure {
    let mut failure = Failure::from_grpc(format!("cannot {verb} transaction `{id}`"), status);
    if matches!(failure.exit, Exit::NotFound | Exit::Usage) {
        failure.next = Some(format!("see what is open with `gantry transaction list {topic}`"));
    }
    failure
}

/// A transaction as we show it.
#[derive(Debug, Serialize)]
struct View {
    transaction_id: String,
    message_id: String,
    state: &'static str,
    sender: String,
    checks: u32,
    next_time: Option<String>,
    store_time: Option<String>,
    tag: Option<String>,
    keys: Vec<String>,
    body_size: u64,
}

impl From<Transaction> for View {
    fn from(transaction: Transaction) -> View {
        let state = match transaction.state() {
            TransactionState::GivenUp => "given-up",
            TransactionState::Open | TransactionState::Unspecified => "open",
        };
        let message = transaction.message.unwrap_or_default();
        View {
            transaction_id: transaction.transaction_id,
            message_id: message.message_id,
            state,
            sender: transaction.sender,
            checks: transaction.checks,
            next_time: transaction.next_time.as_ref().map(value::show_timestamp),
            store_time: message.store_time.as_ref().map(value::show_timestamp),
            tag: message.tag,
            keys: message.keys,
            body_size: message.body_size,
        }
    }
}

#[derive(Serialize)]
struct Listing {
    transactions: Vec<View>,
}

impl Report for Listing {
    fn table(&self) -> String {
        if self.transactions.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&["TRANSACTION", "MESSAGE", "STATE", ">CHECKS", "NEXT", "SENDER"]);
        for View { transaction_id, message_id, state, sender, checks, next_time, .. } in &self.transactions {
            let next = or_dash(next_time.as_deref().unwrap_or_default());
            table.row([transaction_id.clone(), message_id.clone(), (*state).to_owned(), checks.to_string(), next, or_dash(sender)]);
        }
        table.render()
    }
}

#[derive(Serialize)]
struct Changed {
    transaction_id: String,
    #[serde(rename = "result")]
    done: &'static str,
}

impl Report for Changed {
    fn table(&self) -> String {
        format!("{} transaction `{}`\n", self.done, self.transaction_id)
    }
}
