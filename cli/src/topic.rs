//! `gantry topic …`: create, list, describe, update and delete topics through the Admin API.

use crate::connect::{self, Admin, request};
use crate::failure::Failure;
use crate::global::{Global, OutputFormat};
use crate::name::{Noun, failed};
use crate::output::{self, Report, Table, or_dash};
use crate::setting;
use crate::terminal::{Confirmed, Terminal};
use crate::value;
use clap::{Args, Subcommand, ValueEnum};
use gantry_model::topic::TopicOptions;
use gantry_proto::admin::{
    CreateTopicRequest, DeleteTopicRequest, GetTopicRequest, GetTopicStatsRequest, ListTopicsRequest, QueueStats, Topic, TopicState,
    UpdateTopicRequest,
};
use gantry_proto::v2::{MessageType, Permission};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic
    #[command(after_help = setting::help::<TopicOptions>(CREATE_EXAMPLES))]
    Create(Create),
    /// List topics
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(List),
    /// Show a topic and what its queues hold
    #[command(after_help = DESCRIBE_EXAMPLES)]
    Describe(Describe),
    /// Change a topic; what is not named stays as it is
    #[command(after_help = setting::help::<TopicOptions>(UPDATE_EXAMPLES))]
    Update(Update),
    /// Delete topics with all their messages
    #[command(after_help = DELETE_EXAMPLES)]
    Delete(Delete),
}

const CREATE_EXAMPLES: &str = "\
Examples:
  gantry topic create orders
  gantry topic create payments --type fifo --queues 16 --retention 7d
  gantry topic create clicks --dedup off --set quota.send.messages=5000 --set quota.send.bytes=64MiB";
const LIST_EXAMPLES: &str = "\
Examples:
  gantry topic list
  gantry topic list --prefix order -o json";
const DESCRIBE_EXAMPLES: &str = "\
Examples:
  gantry topic describe orders
  gantry topic describe orders -o json | jq '[.queues[].max_offset] | add'";
const UPDATE_EXAMPLES: &str = "\
Examples:
  gantry topic update orders --queues 32
  gantry topic update orders --permission read
  gantry topic update orders --retention 3d --retention-size 100GiB
  gantry topic update orders --dedup off --set delay.max=7d --reset quota.send.bytes";
const DELETE_EXAMPLES: &str = "\
Examples:
  gantry topic delete orders
  gantry topic delete test-1 test-2 --yes";

/// What a topic accepts.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Normal, FIFO, delayed and transactional messages together
    Mixed,
    Normal,
    Fifo,
    Delay,
    Transaction,
    Priority,
    Lite,
}

impl Kind {
    /// The list that the wire uses.
    fn message_types(self) -> Vec<i32> {
        let types: &[MessageType] = match self {
            Kind::Mixed => &[MessageType::Normal, MessageType::Fifo, MessageType::Delay, MessageType::Transaction],
            Kind::Normal => &[MessageType::Normal],
            Kind::Fifo => &[MessageType::Fifo],
            Kind::Delay => &[MessageType::Delay],
            Kind::Transaction => &[MessageType::Transaction],
            Kind::Priority => &[MessageType::Priority],
            Kind::Lite => &[MessageType::Lite],
        };
        types.iter().map(|kind| *kind as i32).collect()
    }
}

/// What clients may do.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Access {
    ReadWrite,
    Read,
    Write,
    None,
}

impl From<Access> for Permission {
    fn from(access: Access) -> Permission {
        match access {
            Access::ReadWrite => Permission::ReadWrite,
            Access::Read => Permission::Read,
            Access::Write => Permission::Write,
            Access::None => Permission::None,
        }
    }
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub struct Create {
    /// Name: 1 to 127 letters, digits, %, _, - or |
    name: String,
    /// Messages that the topic accepts
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value_t = Kind::Mixed)]
    kind: Kind,
    /// Number of queues [default: 8; 10 for priority topics]
    #[arg(long, value_name = "N")]
    queues: Option<u32>,
    /// What clients may do
    #[arg(long, value_name = "ACCESS", value_enum, default_value_t = Access::ReadWrite)]
    permission: Access,
    /// Remove messages older than this [default: the server's]
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    retention: Option<Duration>,
    /// Remove the oldest messages beyond this size [default: the server's]
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    retention_size: Option<u64>,
    /// Whether a repeated message id is answered, not stored a second time
    #[arg(long, value_name = "SWITCH", value_enum, default_value_t = Switch::On)]
    dedup: Switch,
    /// Further settings, see below
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = value::pair)]
    settings: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only names that begin so
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
    /// Topics of all namespaces
    #[arg(long)]
    all_namespaces: bool,
    /// Also the dead letter topics %DLQ%…
    #[arg(long)]
    dead_letter: bool,
}

#[derive(Debug, Args)]
pub struct Describe {
    /// Name of the topic
    name: String,
}

#[derive(Debug, Args)]
pub struct Update {
    /// Name of the topic
    name: String,
    /// Messages that the topic accepts
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    kind: Option<Kind>,
    /// Number of queues; fewer make the highest ones read-only until they are empty
    #[arg(long, value_name = "N")]
    queues: Option<u32>,
    /// What clients may do
    #[arg(long, value_name = "ACCESS", value_enum)]
    permission: Option<Access>,
    /// Remove messages older than this; 0s goes back to the server's default
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    retention: Option<Duration>,
    /// Remove the oldest messages beyond this size; 0 goes back to the server's default
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    retention_size: Option<u64>,
    /// Whether a repeated message id is answered, not stored a second time
    #[arg(long, value_name = "SWITCH", value_enum)]
    dedup: Option<Switch>,
    /// Settings to set, see below
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = value::pair)]
    settings: Vec<(String, String)>,
    /// Settings to take back to their default
    #[arg(long = "reset", value_name = "KEY")]
    resets: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Names of the topics
    #[arg(required = true)]
    names: Vec<String>,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(command: TopicCommand, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut admin = connect::admin(global).await?;
    match command {
        TopicCommand::Create(args) => create(args, &mut admin, global, terminal).await,
        TopicCommand::List(args) => list(args, &mut admin, global, terminal).await,
        TopicCommand::Describe(args) => describe(args, &mut admin, global, terminal).await,
        TopicCommand::Update(args) => update(args, &mut admin, global, terminal).await,
        TopicCommand::Delete(args) => delete(args, &mut admin, global, terminal).await,
    }
}

async fn create(args: Create, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let topic = Topic {
        name: args.name.clone(),
        namespace: global.namespace.clone(),
        message_types: args.kind.message_types(),
        // The server knows how many a type has by default.
        queue_count: args.queues.unwrap_or(0),
        permission: Permission::from(args.permission) as i32,
        retention_ms: args.retention.map_or(0, |time| time.as_millis() as u64),
        retention_bytes: args.retention_size.unwrap_or(0),
        settings: args.settings.into_iter().collect(),
        ..Default::default()
    };
    let ask = CreateTopicRequest { topic: Some(topic), dedup: Some(args.dedup == Switch::On) };
    match admin.create_topic(request(ask, global)).await {
        Ok(answer) => {
            let note = format!("next: gantry produce {0} --body hello, then gantry tail {0} --last 1", args.name);
            changed("created", answer.into_inner().topic, global, terminal)?;
            if terminal.err_is_person { Ok(terminal.note(note)?) } else { Ok(()) }
        }
        Err(status) => Err(failed(Noun::Topic, "create", &args.name, &status, admin, global).await),
    }
}

async fn list(args: List, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut ask = ListTopicsRequest {
        namespace: (!args.all_namespaces).then(|| global.namespace.clone()),
        name_prefix: args.prefix,
        include_dead_letter: args.dead_letter,
        ..Default::default()
    };
    let mut topics = Vec::new();
    loop {
        let answer = admin.list_topics(request(ask.clone(), global)).await.map_err(|status| Failure::from_grpc("cannot list topics", &status))?;
        let page = answer.into_inner();
        topics.extend(page.topics.into_iter().map(View::from));
        if page.next_page_token.is_empty() {
            break;
        }
        ask.page_token = page.next_page_token;
    }
    if topics.is_empty() && global.output == OutputFormat::Table {
        terminal.note("no topics; create one with `gantry topic create NAME`")?;
    }
    output::print(&Listing { topics }, global.output, terminal)
}

async fn describe(args: Describe, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let ask = GetTopicRequest { namespace: global.namespace.clone(), name: args.name.clone() };
    let topic = match admin.get_topic(request(ask, global)).await {
        Ok(answer) => View::from(answer.into_inner().topic.unwrap_or_default()),
        Err(status) => return Err(failed(Noun::Topic, "describe", &args.name, &status, admin, global).await),
    };
    let queues = match stats(&args.name, admin, global).await {
        Ok(queues) => queues.iter().map(QueueView::from).collect(),
        Err(status) => return Err(failed(Noun::Topic, "read the queues of", &args.name, &status, admin, global).await),
    };
    output::print(&Description { topic, queues }, global.output, terminal)
}

/// All pages of what the queues of a topic hold.
pub async fn stats(topic: &str, admin: &mut Admin, global: &Global) -> Result<Vec<QueueStats>, tonic::Status> {
    let mut ask = GetTopicStatsRequest { namespace: global.namespace.clone(), topic: topic.to_owned(), page_size: 1000, ..Default::default() };
    let mut queues = Vec::new();
    loop {
        let page = admin.get_topic_stats(request(ask.clone(), global)).await?.into_inner();
        queues.extend(page.queues);
        if page.next_page_token.is_empty() {
            return Ok(queues);
        }
        ask.page_token = page.next_page_token;
    }
}

async fn update(args: Update, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let ask = UpdateTopicRequest {
        namespace: global.namespace.clone(),
        name: args.name.clone(),
        message_types: args.kind.map(Kind::message_types).unwrap_or_default(),
        queue_count: args.queues,
        permission: args.permission.map(|access| Permission::from(access) as i32),
        retention_ms: args.retention.map(|time| time.as_millis() as u64),
        retention_bytes: args.retention_size,
        dedup: args.dedup.map(|dedup| dedup == Switch::On),
        settings: args.settings.into_iter().collect(),
        settings_to_reset: args.resets,
    };
    let empty = UpdateTopicRequest { namespace: ask.namespace.clone(), name: ask.name.clone(), ..Default::default() };
    if ask == empty {
        return Err(
            Failure::usage(format!("nothing to change on topic `{}`", args.name)).hint("name a change, such as `--queues 16`; `--help` lists them")
        );
    }
    match admin.update_topic(request(ask, global)).await {
        Ok(answer) => changed("updated", answer.into_inner().topic, global, terminal),
        Err(status) => Err(failed(Noun::Topic, "update", &args.name, &status, admin, global).await),
    }
}

async fn delete(args: Delete, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let plan = format!("delete {} with all messages and the progress of all groups", quoted(&args.names));
    terminal.confirm(&plan, Confirmed::from(args.yes)).await?;
    for name in &args.names {
        let ask = DeleteTopicRequest { namespace: global.namespace.clone(), name: name.clone() };
        if let Err(status) = admin.delete_topic(request(ask, global)).await {
            return Err(failed(Noun::Topic, "delete", name, &status, admin, global).await);
        }
        output::print_one(&Deleted { deleted: name.clone(), noun: "topic" }, global.output, terminal)?;
    }
    Ok(())
}

/// Names for a sentence: "`a`, `b`".
pub fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn changed(how: &'static str, topic: Option<Topic>, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    output::print(&Changed { how, topic: View::from(topic.unwrap_or_default()) }, global.output, terminal)
}

/// A topic as we show it.
#[derive(Debug, Serialize)]
struct View {
    namespace: String,
    name: String,
    id: u64,
    message_types: Vec<&'static str>,
    queue_count: u32,
    permission: &'static str,
    retention_ms: u64,
    retention_bytes: u64,
    dedup: bool,
    created_time: Option<String>,
    state: &'static str,
    settings: BTreeMap<String, String>,
}

impl From<Topic> for View {
    fn from(topic: Topic) -> View {
        View {
            message_types: topic.message_types().map(message_type).collect(),
            permission: match topic.permission() {
                Permission::ReadWrite => "read-write",
                Permission::Read => "read",
                Permission::Write => "write",
                Permission::None => "none",
                Permission::Unspecified => "unknown",
            },
            state: match topic.state() {
                TopicState::Deleting => "deleting",
                TopicState::Active | TopicState::Unspecified => "active",
            },
            created_time: topic.created_time.as_ref().map(value::show_timestamp),
            namespace: topic.namespace,
            name: topic.name,
            id: topic.id,
            queue_count: topic.queue_count,
            retention_ms: topic.retention_ms,
            retention_bytes: topic.retention_bytes,
            dedup: topic.dedup,
            settings: topic.settings.into_iter().collect(),
        }
    }
}

/// A message type as users write it.
pub fn message_type(kind: MessageType) -> &'static str {
    match kind {
        MessageType::Normal => "normal",
        MessageType::Fifo => "fifo",
        MessageType::Delay => "delay",
        MessageType::Transaction => "transaction",
        MessageType::Lite => "lite",
        MessageType::Priority => "priority",
        MessageType::Unspecified => "unknown",
    }
}

impl View {
    /// `mixed` rather than the four types it stands for.
    fn kind(&self) -> String {
        if self.message_types.len() == 4 { "mixed".to_owned() } else { self.message_types.join(",") }
    }

    fn retention(&self) -> String {
        let time = (self.retention_ms > 0).then(|| value::show_duration(Duration::from_millis(self.retention_ms)));
        let size = (self.retention_bytes > 0).then(|| value::show_size(self.retention_bytes));
        let limits: Vec<String> = time.into_iter().chain(size).collect();
        if limits.is_empty() { "default".to_owned() } else { limits.join(", ") }
    }

    fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs = vec![
            ("name".to_owned(), self.name.clone()),
            ("namespace".to_owned(), or_dash(&self.namespace)),
            ("id".to_owned(), self.id.to_string()),
            ("type".to_owned(), self.kind()),
            ("queues".to_owned(), self.queue_count.to_string()),
            ("permission".to_owned(), self.permission.to_owned()),
            ("retention".to_owned(), self.retention()),
            ("dedup".to_owned(), if self.dedup { "on" } else { "off" }.to_owned()),
            ("created".to_owned(), or_dash(self.created_time.as_deref().unwrap_or_default())),
            ("state".to_owned(), self.state.to_owned()),
        ];
        pairs.extend(self.settings.iter().map(|(key, value)| (format!("setting {key}"), value.clone())));
        pairs
    }
}

#[derive(Serialize)]
struct Changed {
    #[serde(skip)]
    how: &'static str,
    topic: View,
}

impl Report for Changed {
    fn table(&self) -> String {
        let topic = &self.topic;
        format!("{} topic `{}`: {}, {} queues, {}\n", self.how, topic.name, topic.kind(), topic.queue_count, topic.permission)
    }
}

#[derive(Serialize)]
struct Listing {
    topics: Vec<View>,
}

impl Report for Listing {
    fn table(&self) -> String {
        if self.topics.is_empty() {
            return String::new();
        }
        let foreign = self.topics.iter().any(|topic| topic.namespace != self.topics[0].namespace);
        let heading = ["NAME", "TYPE", ">QUEUES", "PERMISSION", "RETENTION", "STATE"];
        let mut table = Table::new(&if foreign { [&["NAMESPACE"], &heading[..]].concat() } else { heading.to_vec() });
        for topic in &self.topics {
            let namespace = foreign.then(|| or_dash(&topic.namespace));
            let cells = [
                topic.name.clone(),
                topic.kind(),
                topic.queue_count.to_string(),
                topic.permission.to_owned(),
                topic.retention(),
                topic.state.to_owned(),
            ];
            table.row(namespace.into_iter().chain(cells));
        }
        table.render()
    }
}

#[derive(Serialize)]
struct Description {
    topic: View,
    queues: Vec<QueueView>,
}

#[derive(Serialize)]
struct QueueView {
    queue: u32,
    shard: u32,
    min_offset: u64,
    max_offset: u64,
    messages: u64,
    stored_bytes: u64,
    writable: bool,
}

impl From<&QueueStats> for QueueView {
    fn from(queue: &QueueStats) -> QueueView {
        QueueView {
            queue: queue.queue,
            shard: queue.shard,
            min_offset: queue.min_offset,
            max_offset: queue.max_offset,
            messages: queue.max_offset.saturating_sub(queue.min_offset),
            stored_bytes: queue.stored_bytes,
            writable: queue.writable,
        }
    }
}

impl Report for Description {
    fn table(&self) -> String {
        let mut table = Table::new(&[">QUEUE", ">SHARD", ">MIN OFFSET", ">MAX OFFSET", ">MESSAGES", ">STORED", "WRITABLE"]);
        for queue in &self.queues {
            let stored = if queue.stored_bytes == 0 { "-".to_owned() } else { value::show_size(queue.stored_bytes) };
            let numbers = [u64::from(queue.queue), u64::from(queue.shard), queue.min_offset, queue.max_offset, queue.messages];
            let writable = if queue.writable { "yes" } else { "no" };
            table.row(numbers.iter().map(u64::to_string).chain([stored, writable.to_owned()]));
        }
        format!("{}\n{}", Table::of_pairs(self.topic.pairs()).render(), table.render())
    }
}

/// One thing that is gone.
#[derive(Serialize)]
pub struct Deleted {
    pub deleted: String,
    #[serde(skip)]
    pub noun: &'static str,
}

impl Report for Deleted {
    fn table(&self) -> String {
        format!("deleted {} `{}`\n", self.noun, self.deleted)
    }
}
