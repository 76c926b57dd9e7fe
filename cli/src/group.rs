//! `gantry group …`: create, list, describe, update and delete consumer groups through the Admin API; `lag` and the moving of
//! positions are in their own files.

use crate::connect::{self, Admin, request};
use crate::failure::Failure;
use crate::global::{Global, OutputFormat};
use crate::name::{Noun, failed};
use crate::output::{self, Report, Table, or_dash};
use crate::terminal::{Confirmed, Terminal};
use crate::topic::{Deleted, quoted};
use crate::value;
use crate::{lag, position};
use clap::{Args, Subcommand, ValueEnum};
use gantry_proto::admin::retry_policy::Policy;
use gantry_proto::admin::{
    CreateGroupRequest, DeleteGroupRequest, GetGroupRequest, Group, ListGroupsRequest, Order, RetryPolicy, StartPosition, UpdateGroupRequest,
};
use gantry_proto::v2::{CustomizedBackoff, ExponentialBackoff};
use serde::Serialize;
use std::time::Duration;

/// What to do with consumer groups.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Create a consumer group
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Create),
    /// List consumer groups
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(List),
    /// Show a consumer group
    #[command(after_help = DESCRIBE_EXAMPLES)]
    Describe(Describe),
    /// Change a consumer group; what is not named stays as it is
    #[command(after_help = UPDATE_EXAMPLES)]
    Update(Update),
    /// Delete consumer groups with their progress and their dead letters
    #[command(after_help = DELETE_EXAMPLES)]
    Delete(Delete),
    /// Show how far a group is behind
    #[command(after_help = lag::EXAMPLES)]
    Lag(lag::Lag),
    /// Move the position of a group on a topic: again from a point, or past what waits
    #[command(after_help = position::RESET_EXAMPLES)]
    Reset(position::Reset),
    /// Give a group the position of another one
    #[command(after_help = position::COPY_EXAMPLES)]
    Copy(position::Copy),
    /// Finish single messages for a group without delivering them
    #[command(after_help = position::SKIP_EXAMPLES)]
    Skip(position::Skip),
}

const CREATE_EXAMPLES: &str = "\
Examples:
  gantry group create billing
  gantry group create billing --start earliest --max-attempts 5 --retry-delays 1s,10s,1m,10m
  gantry group create billing --order fifo --retry-initial 1s --retry-max 5m --retry-multiplier 2";
const LIST_EXAMPLES: &str = "\
Examples:
  gantry group list
  gantry group list --prefix bill -o json";
const DESCRIBE_EXAMPLES: &str = "\
Examples:
  gantry group describe billing
  gantry group describe billing -o json | jq .group.max_attempts";
const UPDATE_EXAMPLES: &str = "\
Examples:
  gantry group update billing --max-attempts 3
  gantry group update billing --retry-initial 5s --retry-max 10m --retry-multiplier 3";
const DELETE_EXAMPLES: &str = "\
Examples:
  gantry group delete billing
  gantry group delete test-1 test-2 --yes";

/// Whether messages of one message group wait for each other.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ordering {
    /// On FIFO and mixed topics
    FollowTopic,
    /// On every topic
    Fifo,
    /// Never
    None,
}

impl From<Ordering> for Order {
    fn from(ordering: Ordering) -> Order {
        match ordering {
            Ordering::FollowTopic => Order::FollowTopic,
            Ordering::Fifo => Order::Fifo,
            Ordering::None => Order::None,
        }
    }
}

/// Where a group begins on a queue that it has never read.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Start {
    /// At the first message stored after the group was created
    FirstAfterCreation,
    /// At the oldest message that is kept
    Earliest,
    /// At the first message stored after the group first asked
    Latest,
}

impl From<Start> for StartPosition {
    fn from(start: Start) -> StartPosition {
        match start {
            Start::FirstAfterCreation => StartPosition::FirstAfterCreation,
            Start::Earliest => StartPosition::Earliest,
            Start::Latest => StartPosition::Latest,
        }
    }
}

// How long to wait after a failed delivery: growing delays, or a list of them. (A doc comment would describe the command in its help.)
#[derive(Debug, Args)]
struct Retry {
    /// First delay of growing ones
    #[arg(long, value_name = "TIME", value_parser = value::duration, requires = "retry_max", conflicts_with = "retry_delays")]
    retry_initial: Option<Duration>,
    /// Longest delay of growing ones
    #[arg(long, value_name = "TIME", value_parser = value::duration, requires = "retry_initial")]
    retry_max: Option<Duration>,
    /// Factor from one delay to the next
    #[arg(long, value_name = "FACTOR", default_value_t = 2.0, requires = "retry_initial")]
    retry_multiplier: f32,
    /// Delays one by one; the last one repeats
    #[arg(long, value_name = "TIME,…", value_parser = value::duration, value_delimiter = ',')]
    retry_delays: Vec<Duration>,
}

impl Retry {
    fn policy(&self) -> Option<RetryPolicy> {
        let policy = match (self.retry_initial, self.retry_max) {
            (Some(initial), Some(max)) => {
                Policy::Exponential(ExponentialBackoff { initial: wire(initial), max: wire(max), multiplier: self.retry_multiplier })
            }
            _ if self.retry_delays.is_empty() => return None,
            _ => Policy::Customized(CustomizedBackoff { next: self.retry_delays.iter().filter_map(|delay| wire(*delay)).collect() }),
        };
        Some(RetryPolicy { policy: Some(policy) })
    }
}

/// A time as the wire has it. More than a wire duration holds (10 000 years) becomes absent, which the server takes as its default.
pub fn wire(time: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(time).ok()
}

#[derive(Debug, Args)]
pub struct Create {
    /// Name: 1 to 120 letters, digits, %, _, - or |
    name: String,
    /// When messages of one message group wait for each other
    #[arg(long, value_name = "ORDER", value_enum, default_value_t = Ordering::FollowTopic)]
    order: Ordering,
    /// Deliveries before a message goes to the dead letter queue, the first one included
    #[arg(long, value_name = "N", default_value_t = gantry_model::limits::MAX_ATTEMPTS)]
    max_attempts: u32,
    /// Where to begin on a queue that the group has never read
    #[arg(long, value_name = "POSITION", value_enum, default_value_t = Start::FirstAfterCreation)]
    start: Start,
    #[command(flatten)]
    retry: Retry,
    /// Longest time that a push consumer may hold a message, at most 12h [default: 3h]
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    auto_renew_cap: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only names that begin so
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
    /// Groups of all namespaces
    #[arg(long)]
    all_namespaces: bool,
}

#[derive(Debug, Args)]
pub struct Describe {
    /// Name of the group
    name: String,
}

#[derive(Debug, Args)]
pub struct Update {
    /// Name of the group
    name: String,
    /// When messages of one message group wait for each other
    #[arg(long, value_name = "ORDER", value_enum)]
    order: Option<Ordering>,
    /// Deliveries before a message goes to the dead letter queue, the first one included
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    #[command(flatten)]
    retry: Retry,
    /// Longest time that a push consumer may hold a message, at most 12h
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    auto_renew_cap: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Names of the groups
    #[arg(required = true)]
    names: Vec<String>,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(command: GroupCommand, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut admin = connect::admin(global).await?;
    match command {
        GroupCommand::Create(args) => create(args, &mut admin, global, terminal).await,
        GroupCommand::List(args) => list(args, &mut admin, global, terminal).await,
        GroupCommand::Describe(args) => describe(args, &mut admin, global, terminal).await,
        GroupCommand::Update(args) => update(args, &mut admin, global, terminal).await,
        GroupCommand::Delete(args) => delete(args, &mut admin, global, terminal).await,
        GroupCommand::Lag(args) => lag::run(args, &mut admin, global, terminal).await,
        GroupCommand::Reset(args) => position::reset(args, &mut admin, global, terminal).await,
        GroupCommand::Copy(args) => position::copy(args, &mut admin, global, terminal).await,
        GroupCommand::Skip(args) => position::skip(args, &mut admin, global, terminal).await,
    }
}

async fn create(args: Create, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let group = Group {
        name: args.name.clone(),
        namespace: global.namespace.clone(),
        order: Order::from(args.order) as i32,
        max_attempts: args.max_attempts,
        retry_policy: args.retry.policy(),
        start_position: StartPosition::from(args.start) as i32,
        auto_renew_cap: args.auto_renew_cap.and_then(wire),
        ..Default::default()
    };
    match admin.create_group(request(CreateGroupRequest { group: Some(group) }, global)).await {
        Ok(answer) => changed("created", answer.into_inner().group, global, terminal),
        Err(status) => Err(failed(Noun::Group, "create", &args.name, &status, admin, global).await),
    }
}

async fn list(args: List, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let namespace = (!args.all_namespaces).then(|| global.namespace.clone());
    let mut ask = ListGroupsRequest { namespace, name_prefix: args.prefix, ..Default::default() };
    let mut groups = Vec::new();
    loop {
        let answer = admin.list_groups(request(ask.clone(), global)).await.map_err(|status| Failure::from_grpc("cannot list groups", &status))?;
        let page = answer.into_inner();
        groups.extend(page.groups.into_iter().map(View::from));
        if page.next_page_token.is_empty() {
            break;
        }
        ask.page_token = page.next_page_token;
    }
    if groups.is_empty() && global.output == OutputFormat::Table {
        terminal.note("no groups; create one with `gantry group create NAME`")?;
    }
    output::print(&Listing { groups }, global.output, terminal)
}

async fn describe(args: Describe, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let ask = GetGroupRequest { namespace: global.namespace.clone(), name: args.name.clone() };
    match admin.get_group(request(ask, global)).await {
        Ok(answer) => {
            let group = View::from(answer.into_inner().group.unwrap_or_default());
            output::print(&Description { group }, global.output, terminal)
        }
        Err(status) => Err(failed(Noun::Group, "describe", &args.name, &status, admin, global).await),
    }
}

async fn update(args: Update, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let ask = UpdateGroupRequest {
        namespace: global.namespace.clone(),
        name: args.name.clone(),
        order: args.order.map(|order| Order::from(order) as i32),
        max_attempts: args.max_attempts,
        retry_policy: args.retry.policy(),
        auto_renew_cap: args.auto_renew_cap.and_then(wire),
    };
    let empty = UpdateGroupRequest { namespace: ask.namespace.clone(), name: ask.name.clone(), ..Default::default() };
    if ask == empty {
        let failure = Failure::usage(format!("nothing to change on group `{}`", args.name));
        return Err(failure.hint("name a change, such as `--max-attempts 5`; `--help` lists them"));
    }
    match admin.update_group(request(ask, global)).await {
        Ok(answer) => changed("updated", answer.into_inner().group, global, terminal),
        Err(status) => Err(failed(Noun::Group, "update", &args.name, &status, admin, global).await),
    }
}

async fn delete(args: Delete, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let plan = format!("delete {} with the progress on all topics and the dead letters", quoted(&args.names));
    terminal.confirm(&plan, Confirmed::from(args.yes)).await?;
    for name in &args.names {
        let ask = DeleteGroupRequest { namespace: global.namespace.clone(), name: name.clone() };
        if let Err(status) = admin.delete_group(request(ask, global)).await {
            return Err(failed(Noun::Group, "delete", name, &status, admin, global).await);
        }
        output::print_one(&Deleted { deleted: name.clone(), noun: "group" }, global.output, terminal)?;
    }
    Ok(())
}

fn changed(how: &'static str, group: Option<Group>, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    output::print(&Changed { how, group: View::from(group.unwrap_or_default()) }, global.output, terminal)
}

/// A group as we show it.
#[derive(Debug, Serialize)]
struct View {
    namespace: String,
    name: String,
    id: u64,
    order: &'static str,
    max_attempts: u32,
    retry_policy: Option<RetryView>,
    start_position: &'static str,
    auto_renew_cap_ms: Option<u64>,
    created_time: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum RetryView {
    Exponential { initial_ms: u64, max_ms: u64, multiplier: f32 },
    Customized { delays_ms: Vec<u64> },
}

fn millis(time: &prost_types::Duration) -> u64 {
    Duration::try_from(*time).map_or(0, |time| time.as_millis() as u64)
}

impl From<Policy> for RetryView {
    fn from(policy: Policy) -> RetryView {
        match policy {
            Policy::Exponential(growing) => RetryView::Exponential {
                initial_ms: growing.initial.as_ref().map_or(0, millis),
                max_ms: growing.max.as_ref().map_or(0, millis),
                multiplier: growing.multiplier,
            },
            Policy::Customized(list) => RetryView::Customized { delays_ms: list.next.iter().map(millis).collect() },
        }
    }
}

impl RetryView {
    fn words(&self) -> String {
        let time = |ms: &u64| value::show_duration(Duration::from_millis(*ms));
        match self {
            RetryView::Exponential { initial_ms, max_ms, multiplier } => format!("{} to {}, times {multiplier}", time(initial_ms), time(max_ms)),
            RetryView::Customized { delays_ms } => delays_ms.iter().map(time).collect::<Vec<_>>().join(", "),
        }
    }
}

impl From<Group> for View {
    fn from(group: Group) -> View {
        View {
            order: match group.order() {
                Order::Fifo => "fifo",
                Order::None => "none",
                Order::FollowTopic | Order::Unspecified => "follow-topic",
            },
            start_position: match group.start_position() {
                StartPosition::Earliest => "earliest",
                StartPosition::Latest => "latest",
                StartPosition::FirstAfterCreation | StartPosition::Unspecified => "first-after-creation",
            },
            retry_policy: group.retry_policy.and_then(|policy| policy.policy).map(RetryView::from),
            auto_renew_cap_ms: group.auto_renew_cap.as_ref().map(millis),
            created_time: group.created_time.as_ref().map(value::show_timestamp),
            namespace: group.namespace,
            name: group.name,
            id: group.id,
            max_attempts: group.max_attempts,
        }
    }
}

impl View {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let cap = self.auto_renew_cap_ms.map(|ms| value::show_duration(Duration::from_millis(ms)));
        vec![
            ("name", self.name.clone()),
            ("namespace", or_dash(&self.namespace)),
            ("id", self.id.to_string()),
            ("order", self.order.to_owned()),
            ("max attempts", self.max_attempts.to_string()),
            ("retry", or_dash(&self.retry_policy.as_ref().map(RetryView::words).unwrap_or_default())),
            ("start", self.start_position.to_owned()),
            ("auto-renew cap", or_dash(&cap.unwrap_or_default())),
            ("dead letters", format!("%DLQ%{}", self.name)),
            ("created", or_dash(self.created_time.as_deref().unwrap_or_default())),
        ]
    }
}

#[derive(Serialize)]
struct Changed {
    #[serde(skip)]
    how: &'static str,
    group: View,
}

impl Report for Changed {
    fn table(&self) -> String {
        let group = &self.group;
        format!("{} group `{}`: order {}, {} attempts, start {}\n", self.how, group.name, group.order, group.max_attempts, group.start_position)
    }
}

#[derive(Serialize)]
struct Listing {
    groups: Vec<View>,
}

impl Report for Listing {
    fn table(&self) -> String {
        if self.groups.is_empty() {
            return String::new();
        }
        let foreign = self.groups.iter().any(|group| group.namespace != self.groups[0].namespace);
        let heading = ["NAME", "ORDER", ">MAX ATTEMPTS", "START", "CREATED"];
        let mut table = Table::new(&if foreign { [&["NAMESPACE"], &heading[..]].concat() } else { heading.to_vec() });
        for group in &self.groups {
            let namespace = foreign.then(|| or_dash(&group.namespace));
            let created = or_dash(group.created_time.as_deref().unwrap_or_default());
            let cells = [group.name.clone(), group.order.to_owned(), group.max_attempts.to_string(), group.start_position.to_owned(), created];
            table.row(namespace.into_iter().chain(cells));
        }
        table.render()
    }
}

#[derive(Serialize)]
struct Description {
    group: View,
}

impl Report for Description {
    fn table(&self) -> String {
        Table::of_pairs(self.group.pairs()).render()
    }
}
