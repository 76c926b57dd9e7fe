//! `gantry client …`: who is connected, what a client's threads do, and whether it can consume a message.

use crate::connect::{self, Admin, request};
use crate::failure::{Exit, Failure};
use crate::global::{Global, OutputFormat};
use crate::output::{self, Report, Table, or_dash};
use crate::terminal::Terminal;
use crate::value;
use clap::{Args, Subcommand, ValueEnum};
use gantry_proto::admin::verify_message_request::Message;
use gantry_proto::admin::{Client, ListClientsRequest, PrintThreadStackRequest, QueueOffset, VerifyMessageRequest, VerifyOutcome};
use gantry_proto::v2::ClientType;
use serde::Serialize;
use std::time::Duration;

/// Longer than a client may take, so that the server says what happened.
const STACK_TIMEOUT: Duration = Duration::from_secs(12);
const VERIFY_TIMEOUT: Duration = Duration::from_secs(32);

/// What to do with clients.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// List clients that called lately
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(List),
    /// Show what the threads of a client do; Java and Go tell it
    #[command(after_help = STACK_EXAMPLES)]
    Stack(Stack),
    /// Have a push consumer run its listener on a stored message; nothing is leased or acknowledged
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(Verify),
}

const LIST_EXAMPLES: &str = "\
Examples:
  gantry client list
  gantry client list --type producer --topic orders
  gantry client list --group billing -o json | jq -r .clients[].client_id";
const STACK_EXAMPLES: &str = "\
Examples:
  gantry client stack host@4711@0@1f3c
  gantry client stack host@4711@0@1f3c > stack.txt";
const VERIFY_EXAMPLES: &str = "\
Examples:
  gantry client verify host@4711@0@1f3c --topic orders --id 01F2C4A8E0
  gantry client verify host@4711@0@1f3c --topic orders --queue 3 --offset 128";

/// What clients are.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Producer,
    PushConsumer,
    SimpleConsumer,
    PullConsumer,
    LitePushConsumer,
    LiteSimpleConsumer,
}

impl From<Kind> for ClientType {
    fn from(kind: Kind) -> ClientType {
        match kind {
            Kind::Producer => ClientType::Producer,
            Kind::PushConsumer => ClientType::PushConsumer,
            Kind::SimpleConsumer => ClientType::SimpleConsumer,
            Kind::PullConsumer => ClientType::PullConsumer,
            Kind::LitePushConsumer => ClientType::LitePushConsumer,
            Kind::LiteSimpleConsumer => ClientType::LiteSimpleConsumer,
        }
    }
}

#[derive(Debug, Args)]
pub struct List {
    /// Only clients of this kind
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    kind: Option<Kind>,
    /// Only members of this group
    #[arg(long, value_name = "NAME", default_value = "")]
    group: String,
    /// Only clients that send to or receive from this topic
    #[arg(long, value_name = "NAME", default_value = "")]
    topic: String,
    /// Clients of all namespaces
    #[arg(long)]
    all_namespaces: bool,
}

#[derive(Debug, Args)]
pub struct Stack {
    /// The client, as `gantry client list` shows it
    client_id: String,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// The client, as `gantry client list` shows it
    client_id: String,
    /// Topic of the message
    #[arg(long, value_name = "NAME")]
    topic: String,
    /// The message by its id
    #[arg(long, value_name = "ID", conflicts_with = "offset", required_unless_present = "offset")]
    id: Option<String>,
    /// The message by its place: the queue
    #[arg(long, value_name = "N", requires = "offset")]
    queue: Option<u32>,
    /// The message by its place: the offset
    #[arg(long, value_name = "N", requires = "queue")]
    offset: Option<u64>,
}

pub async fn run(command: ClientCommand, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut admin = connect::admin(global).await?;
    match command {
        ClientCommand::List(args) => list(args, &mut admin, global, terminal).await,
        ClientCommand::Stack(args) => stack(args, &mut admin, global, terminal).await,
        ClientCommand::Verify(args) => verify(args, &mut admin, global, terminal).await,
    }
}

async fn list(args: List, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut ask = ListClientsRequest {
        client_type: args.kind.map_or(0, |kind| ClientType::from(kind) as i32),
        namespace: (!args.all_namespaces).then(|| global.namespace.clone()),
        group: args.group,
        topic: args.topic,
        ..Default::default()
    };
    let mut clients = Vec::new();
    loop {
        let answer = admin.list_clients(request(ask.clone(), global)).await.map_err(|status| Failure::from_grpc("cannot list clients", &status))?;
        let page = answer.into_inner();
        clients.extend(page.clients.into_iter().map(View::from));
        if page.next_page_token.is_empty() {
            break;
        }
        ask.page_token = page.next_page_token;
    }
    if clients.is_empty() && global.output == OutputFormat::Table {
        terminal.note("no clients called within the last two minutes")?;
    }
    output::print(&Listing { clients }, global.output, terminal)
}

async fn stack(args: Stack, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let global = Global { timeout: global.timeout.max(STACK_TIMEOUT), ..global.clone() };
    let ask = PrintThreadStackRequest { client_id: args.client_id.clone() };
    match admin.print_thread_stack(request(ask, &global)).await {
        Ok(answer) => output::print(&StackReport { client_id: args.client_id, stack: answer.into_inner().stack }, global.output, terminal),
        Err(status) => Err(failed("read the stacks of", &args.client_id, &status)),
    }
}

async fn verify(args: Verify, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let global = Global { timeout: global.timeout.max(VERIFY_TIMEOUT), ..global.clone() };
    let place = args.queue.zip(args.offset).map(|(queue, offset)| Message::ByOffset(QueueOffset { queue, offset }));
    let ask = VerifyMessageRequest {
        client_id: args.client_id.clone(),
        namespace: global.namespace.clone(),
        topic: args.topic,
        message: args.id.map(Message::ById).or(place),
    };
    let answer = match admin.verify_message(request(ask, &global)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(failed("verify a message with", &args.client_id, &status)),
    };
    let took_ms = answer.took.and_then(|took| Duration::try_from(took).ok()).map_or(0, |took| took.as_millis() as u64);
    let outcome = outcome(answer.outcome());
    let report = Verdict { client_id: args.client_id, outcome, text: answer.text.clone(), took_ms };
    output::print(&report, global.output, terminal)?;
    match answer.outcome() {
        VerifyOutcome::Consumed => Ok(()),
        _ => Err(Failure::new(Exit::Refused, format!("client `{}` did not consume the message: {outcome}", report.client_id))),
    }
}

fn failed(tried: &str, client: &str, status: &tonic::Status) -> Failure {
    let failure = Failure::from_grpc(format!("cannot {tried} client `{client}`"), status);
    if failure.exit == Exit::NotFound { failure.hint("see who is connected with `gantry client list --all-namespaces`") } else { failure }
}

fn outcome(outcome: VerifyOutcome) -> &'static str {
    match outcome {
        VerifyOutcome::Consumed => "consumed",
        VerifyOutcome::Failed => "failed",
        VerifyOutcome::Corrupted => "corrupted",
        VerifyOutcome::FifoUnsupported => "fifo-unsupported",
        VerifyOutcome::Unsupported => "unsupported",
        VerifyOutcome::Unspecified => "unknown",
    }
}

fn kind(kind: ClientType) -> &'static str {
    match kind {
        ClientType::Producer => "producer",
        ClientType::PushConsumer => "push-consumer",
        ClientType::SimpleConsumer => "simple-consumer",
        ClientType::PullConsumer => "pull-consumer",
        ClientType::LitePushConsumer => "lite-push-consumer",
        ClientType::LiteSimpleConsumer => "lite-simple-consumer",
        ClientType::Unspecified => "unknown",
    }
}

/// A client as we show it.
#[derive(Debug, Serialize)]
struct View {
    client_id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    namespace: String,
    groups: Vec<String>,
    topics: Vec<String>,
    remote_address: String,
    last_seen: Option<String>,
    language: String,
    version: String,
}

impl From<Client> for View {
    fn from(client: Client) -> View {
        View {
            kind: kind(client.client_type()),
            language: client.language().as_str_name().to_lowercase(),
            last_seen: client.last_seen.as_ref().map(value::show_timestamp),
            client_id: client.client_id,
            namespace: client.namespace,
            groups: client.groups,
            topics: client.topics,
            remote_address: client.remote_address,
            version: client.version,
        }
    }
}

#[derive(Serialize)]
struct Listing {
    clients: Vec<View>,
}

impl Report for Listing {
    fn table(&self) -> String {
        if self.clients.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&["CLIENT", "TYPE", "GROUPS", "TOPICS", "ADDRESS", "LANGUAGE", "LAST SEEN"]);
        for client in &self.clients {
            table.row([
                client.client_id.clone(),
                client.kind.to_owned(),
                or_dash(&client.groups.join(",")),
                or_dash(&client.topics.join(",")),
                client.remote_address.clone(),
                format!("{} {}", client.language, client.version),
                or_dash(client.last_seen.as_deref().unwrap_or_default()),
            ]);
        }
        table.render()
    }
}

#[derive(Serialize)]
struct StackReport {
    client_id: String,
    stack: String,
}

impl Report for StackReport {
    fn table(&self) -> String {
        format!("{}\n", self.stack.trim_end())
    }
}

#[derive(Serialize)]
struct Verdict {
    client_id: String,
    outcome: &'static str,
    text: String,
    took_ms: u64,
}

impl Report for Verdict {
    fn table(&self) -> String {
        let took = value::show_duration(Duration::from_millis(self.took_ms));
        let said = if self.text.is_empty() { String::new() } else { format!(" ({})", self.text) };
        format!("client `{}`: {} after {took}{said}\n", self.client_id, self.outcome)
    }
}
