//! `gantry lite …`: the lite topics below a topic of type LITE.

use crate::connect::{self, Admin, request};
use crate::failure::Failure;
use crate::global::{Global, OutputFormat};
use crate::name::{Noun, failed};
use crate::output::{self, Report, Table, or_dash};
use crate::terminal::Terminal;
use crate::value;
use clap::{Args, Subcommand};
use gantry_proto::admin::{ListLiteTopicsRequest, LiteTopic};
use serde::Serialize;

/// Most entries that the server gives at a time.
const PAGE: usize = 1_000;

/// What to do with lite topics.
#[derive(Debug, Subcommand)]
pub enum LiteCommand {
    /// List the lite topics below a topic
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(List),
}

const LIST_EXAMPLES: &str = "\
Examples:
  gantry lite list sessions
  gantry lite list sessions --after session-0999 --limit 50
  gantry lite list sessions --limit 0 -o json | jq '.lite_topics | length'";

#[derive(Debug, Args)]
pub struct List {
    /// Name of the parent, a topic of type lite
    topic: String,
    /// Only names behind this one
    #[arg(long, value_name = "NAME", default_value = "")]
    after: String,
    /// Most lite topics to show; 0 shows all of them
    #[arg(long, value_name = "N", default_value_t = PAGE)]
    limit: usize,
}

pub async fn run(command: LiteCommand, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut admin = connect::admin(global).await?;
    match command {
        LiteCommand::List(args) => list(args, &mut admin, global, terminal).await,
    }
}

async fn list(args: List, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let (lite_topics, more) = match read(&args, admin, global).await {
        Ok(read) => read,
        Err(status) => return Err(failed(Noun::Topic, "list the lite topics of", &args.topic, &status, admin, global).await),
    };
    if lite_topics.is_empty() && global.output == OutputFormat::Table {
        terminal.note(format!("no lite topics; one begins with its first message for `{}` or its first subscriber", args.topic))?;
    }
    if let (true, Some(last)) = (more, lite_topics.last()) {
        terminal.note(format!("there are more: gantry lite list {} --after {}", args.topic, last.name))?;
    }
    output::print(&Listing { topic: args.topic, lite_topics }, global.output, terminal)
}

/// Reads pages up to the limit; answers also whether there are more.
async fn read(args: &List, admin: &mut Admin, global: &Global) -> Result<(Vec<View>, bool), tonic::Status> {
    let most = if args.limit == 0 { usize::MAX } else { args.limit };
    let mut ask = ListLiteTopicsRequest {
        namespace: global.namespace.clone(),
        topic: args.topic.clone(),
        after: args.after.clone(),
        page_size: most.min(PAGE) as u32,
        ..Default::default()
    };
    let mut found = Vec::new();
    loop {
        let page = admin.list_lite_topics(request(ask.clone(), global)).await?.into_inner();
        found.extend(page.lite_topics.into_iter().map(View::from));
        let more = !page.next_page_token.is_empty() || found.len() > most;
        if !more || found.len() >= most {
            found.truncate(most);
            return Ok((found, more));
        }
        ask.page_token = page.next_page_token;
    }
}

#[derive(Debug, Serialize)]
struct View {
    name: String,
    min_offset: u64,
    max_offset: u64,
    messages: u64,
    subscribers: u64,
    active_time: Option<String>,
}

impl From<LiteTopic> for View {
    fn from(lite: LiteTopic) -> View {
        View {
            name: lite.name,
            min_offset: lite.min_offset,
            max_offset: lite.max_offset,
            messages: lite.max_offset.saturating_sub(lite.min_offset),
            subscribers: lite.subscribers,
            active_time: lite.active_time.as_ref().map(value::show_timestamp),
        }
    }
}

#[derive(Debug, Serialize)]
struct Listing {
    topic: String,
    lite_topics: Vec<View>,
}

impl Report for Listing {
    fn table(&self) -> String {
        if self.lite_topics.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&["LITE TOPIC", ">MIN OFFSET", ">MAX OFFSET", ">MESSAGES", ">SUBSCRIBERS", "ACTIVE"]);
        for lite in &self.lite_topics {
            let numbers = [lite.min_offset, lite.max_offset, lite.messages, lite.subscribers].map(|number| number.to_string());
            let active = or_dash(lite.active_time.as_deref().unwrap_or_default());
            table.row([lite.name.clone()].into_iter().chain(numbers).chain([active]));
        }
        table.render()
    }
}
