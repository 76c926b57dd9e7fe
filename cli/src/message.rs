//! `gantry message …`: stored messages by id, key, place or time, and what happened to one.

use crate::connect::{self, Admin, request};
use crate::failure::{Exit, Failure};
use crate::global::Global;
use crate::name::{Noun, failed};
use crate::output::{self, Report, Table, or_dash};
use crate::record::{BodyForm, Record};
use crate::terminal::Terminal;
use crate::value::{self, Moment, Place};
use clap::{Args, Subcommand};
use gantry_proto::admin::lookup_messages_request::Selector;
use gantry_proto::admin::{
    Delivery, DeliveryState, GetMessageLifeRequest, LifeEvent, LifeStep, LookupMessagesRequest, QueueOffset, StoredMessage, TimeRange,
};
use serde::Serialize;

/// What to do with stored messages.
#[derive(Debug, Subcommand)]
pub enum MessageCommand {
    /// Find messages by id, key, place or time; looking changes nothing
    #[command(after_help = FIND_EXAMPLES)]
    Find(Find),
    /// Show what happened to a message: stored, delivered to whom, acknowledged or dead
    #[command(after_help = LIFE_EXAMPLES)]
    Life(Life),
}

const FIND_EXAMPLES: &str = "\
Examples:
  gantry message find orders --id 01F8A2C4
  gantry message find orders --key order-4711 --group billing
  gantry message find orders --place 3:17 --limit 5
  gantry message find orders --since 10m --until 5m -o json | jq -r .message_id";
const LIFE_EXAMPLES: &str = "\
Examples:
  gantry message life orders 3:17
  gantry message life orders 01F8A2C4
  gantry message life orders 3:17 -o json | jq .events[].step";

/// Copies of a message with one id whose lives are shown.
const COPIES_MAX: u32 = 10;

#[derive(Debug, Args)]
pub struct Find {
    /// Topic to look in
    topic: String,
    #[command(flatten)]
    what: What,
    /// Most messages to show
    #[arg(long, value_name = "N", default_value_t = 32)]
    limit: usize,
    /// Also say where the messages stand for this group
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// How to show bodies
    #[arg(long, value_name = "FORM", value_enum, default_value_t = BodyForm::Auto)]
    body: BodyForm,
}

// (A doc comment would describe the command in its help.)
#[derive(Debug, Args)]
struct What {
    /// The id that the producer got
    #[arg(long, value_name = "ID", conflicts_with_all = ["key", "place", "since", "until"])]
    id: Option<String>,
    /// One of the keys of the message
    #[arg(long, value_name = "KEY", conflicts_with_all = ["place", "since", "until"])]
    key: Option<String>,
    /// From this place on
    #[arg(long, value_name = "QUEUE:OFFSET", value_parser = value::place, conflicts_with_all = ["since", "until"])]
    place: Option<Place>,
    /// Stored since this time, or this long ago
    #[arg(long, value_name = "TIME", value_parser = value::moment)]
    since: Option<Moment>,
    /// Stored before this time, or longer ago than this
    #[arg(long, value_name = "TIME", value_parser = value::moment)]
    until: Option<Moment>,
}

impl What {
    fn selector(&self) -> Result<Selector, Failure> {
        match self {
            What { id: Some(id), .. } => Ok(Selector::ById(id.clone())),
            What { key: Some(key), .. } => Ok(Selector::ByKey(key.clone())),
            What { place: Some(place), .. } => Ok(Selector::ByOffset(QueueOffset { queue: place.queue, offset: place.offset })),
            What { since: None, until: None, .. } => Err(Failure::usage("find what?").hint("add --id, --key, --place, --since or --until")),
            What { since, until, .. } => {
                let on_the_wall = |moment: &Option<Moment>| moment.as_ref().map(Moment::on_the_wall);
                Ok(Selector::ByTime(TimeRange { from: on_the_wall(since), to: on_the_wall(until) }))
            }
        }
    }
}

#[derive(Debug, Args)]
pub struct Life {
    /// Topic of the message
    topic: String,
    /// Its place, such as 3:17, or its message id
    #[arg(value_name = "QUEUE:OFFSET|ID")]
    message: String,
}

pub async fn run(command: MessageCommand, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut admin = connect::admin(global).await?;
    match command {
        MessageCommand::Find(args) => find(args, &mut admin, global, terminal).await,
        MessageCommand::Life(args) => life(args, &mut admin, global, terminal).await,
    }
}

async fn find(args: Find, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut ask = LookupMessagesRequest {
        namespace: global.namespace.clone(),
        topic: args.topic.clone(),
        selector: Some(args.what.selector()?),
        delivery_groups: args.group.clone(),
        ..Default::default()
    };
    let mut left = args.limit.max(1);
    loop {
        ask.limit = left.min(1_000) as u32;
        let page = match admin.lookup_messages(request(ask.clone(), global)).await {
            Ok(page) => page.into_inner(),
            Err(status) => return Err(refused(&args.topic, &status, admin, global).await),
        };
        if page.messages.is_empty() && left == args.limit.max(1) {
            return Err(Failure::new(Exit::NotFound, format!("no such message in topic `{}`", args.topic)));
        }
        for message in page.messages.into_iter().take(left) {
            left -= 1;
            print_found(message, args.body, global, terminal)?;
        }
        if page.next_page_token.is_empty() || left == 0 {
            return Ok(());
        }
        ask.page_token = page.next_page_token;
    }
}

fn print_found(mut message: StoredMessage, body: BodyForm, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let deliveries = std::mem::take(&mut message.deliveries).into_iter().map(DeliveryView::from).collect();
    output::print_one(&Found { record: Record::stored(message, body), deliveries }, global.output, terminal)
}

/// A failed look-up: a group that is missing is named by the server.
async fn refused(topic: &str, status: &tonic::Status, admin: &mut Admin, global: &Global) -> Failure {
    match status.message().contains("group") {
        true => Failure::from_grpc(format!("cannot look into topic `{topic}`"), status),
        false => failed(Noun::Topic, "look into", topic, status, admin, global).await,
    }
}

async fn life(args: Life, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    for place in places(&args, admin, global).await? {
        let ask = GetMessageLifeRequest { namespace: global.namespace.clone(), topic: args.topic.clone(), queue: place.queue, offset: place.offset };
        let life = match admin.get_message_life(request(ask, global)).await {
            Ok(life) => life.into_inner(),
            Err(status) if status.message().contains("no message") => {
                return Err(Failure::from_grpc(format!("cannot tell the life of `{}`", args.message), &status));
            }
            Err(status) => return Err(refused(&args.topic, &status, admin, global).await),
        };
        let place = format!("{}/{}/{}", args.topic, place.queue, place.offset);
        let story = Story { place, complete: life.complete, events: life.events.into_iter().map(EventView::from).collect() };
        output::print_one(&story, global.output, terminal)?;
        if !story.complete {
            terminal.note("the log is too long to be read to its end; later events may be missing")?;
        }
    }
    Ok(())
}

/// The places that a user means: one, or those of all messages with an id.
async fn places(args: &Life, admin: &mut Admin, global: &Global) -> Result<Vec<Place>, Failure> {
    if let Ok(place) = value::place(&args.message) {
        return Ok(vec![place]);
    }
    let ask = LookupMessagesRequest {
        namespace: global.namespace.clone(),
        topic: args.topic.clone(),
        selector: Some(Selector::ById(args.message.clone())),
        limit: COPIES_MAX,
        omit_body: true,
        ..Default::default()
    };
    let found = match admin.lookup_messages(request(ask, global)).await {
        Ok(found) => found.into_inner().messages,
        Err(status) => return Err(refused(&args.topic, &status, admin, global).await),
    };
    if found.is_empty() {
        let missing = Failure::new(Exit::NotFound, format!("no message `{}` in topic `{}`", args.message, args.topic));
        return Err(missing.hint("find it by key or time with `gantry message find`"));
    }
    Ok(found.iter().map(|message| Place { queue: message.queue, offset: message.offset }).collect())
}

#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    record: Record,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deliveries: Vec<DeliveryView>,
}

impl Report for Found {
    fn table(&self) -> String {
        let mut text = self.record.table();
        for delivery in &self.deliveries {
            text.push_str(&delivery.line());
        }
        text
    }
}

#[derive(Serialize)]
struct DeliveryView {
    group: String,
    state: &'static str,
    attempts: u32,
    client_id: Option<String>,
    visible_time: Option<String>,
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> DeliveryView {
        let state = match delivery.state() {
            DeliveryState::Ready => "ready",
            DeliveryState::InFlight => "in flight",
            DeliveryState::Waiting => "waiting",
            DeliveryState::Done => "done",
            DeliveryState::Unspecified => "unknown",
        };
        DeliveryView {
            state,
            attempts: delivery.attempts,
            client_id: Some(delivery.client_id).filter(|id| !id.is_empty()),
            visible_time: delivery.visible_time.as_ref().map(value::show_timestamp),
            group: delivery.group,
        }
    }
}

impl DeliveryView {
    fn line(&self) -> String {
        let mut line = format!("  group {}: {}", self.group, self.state);
        if self.attempts > 0 {
            line.push_str(&format!(", {} deliveries", self.attempts));
        }
        line.extend(self.client_id.iter().map(|client| format!(", held by {client}")));
        line.extend(self.visible_time.iter().map(|time| format!(", until {time}")));
        line.push('\n');
        line
    }
}

#[derive(Serialize)]
struct Story {
    place: String,
    complete: bool,
    events: Vec<EventView>,
}

impl Report for Story {
    fn table(&self) -> String {
        let mut table = Table::new(&["TIME", "WHAT", "GROUP", "DETAILS"]);
        for event in &self.events {
            let time = or_dash(event.time.as_deref().unwrap_or_default());
            table.row([time, event.step.to_owned(), or_dash(&event.group), event.details()]);
        }
        format!("{}\n{}", self.place, table.render())
    }
}

#[derive(Serialize)]
struct EventView {
    time: Option<String>,
    lsn: u64,
    step: &'static str,
    group: String,
    client_id: Option<String>,
    attempt: Option<u32>,
    visible_time: Option<String>,
    counted: Option<bool>,
    to_topic: Option<String>,
    to_queue: Option<u32>,
    to_offset: Option<u64>,
}

impl From<LifeEvent> for EventView {
    fn from(event: LifeEvent) -> EventView {
        let step = event.step();
        let place = event.to.filter(|_| step != LifeStep::Reset);
        EventView {
            time: event.time.as_ref().map(value::show_timestamp),
            lsn: event.lsn,
            step: word(step),
            group: event.group,
            client_id: Some(event.client_id).filter(|id| !id.is_empty()),
            attempt: Some(event.attempt).filter(|attempt| *attempt > 0),
            visible_time: event.visible_time.as_ref().map(value::show_timestamp),
            counted: (step == LifeStep::GivenBack).then_some(event.counted),
            to_topic: Some(event.to_topic).filter(|topic| !topic.is_empty()),
            to_queue: place.map(|place| place.queue),
            to_offset: event.to.map(|place| place.offset),
        }
    }
}

fn word(step: LifeStep) -> &'static str {
    match step {
        LifeStep::Stored => "stored",
        LifeStep::Released => "released",
        LifeStep::Leased => "leased",
        LifeStep::Extended => "extended",
        LifeStep::GivenBack => "given back",
        LifeStep::Lapsed => "lapsed",
        LifeStep::Acked => "acked",
        LifeStep::Filtered => "filtered",
        LifeStep::Skipped => "skipped",
        LifeStep::Dead => "dead",
        LifeStep::Redriven => "redriven",
        LifeStep::Purged => "purged",
        LifeStep::Reset => "reset",
        LifeStep::Unspecified => "unknown",
    }
}

impl EventView {
    fn details(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.client_id.iter().map(|client| format!("to {client}")));
        parts.extend(self.attempt.map(|attempt| format!("attempt {attempt}")));
        let until = if matches!(self.step, "given back" | "lapsed") { "visible from" } else { "until" };
        parts.extend(self.visible_time.iter().map(|time| format!("{until} {time}")));
        parts.extend(self.counted.filter(|counted| !counted).map(|_| "not counted".to_owned()));
        match (&self.to_topic, self.to_queue, self.to_offset) {
            (topic, Some(queue), Some(offset)) => parts.push(format!("to {}/{queue}/{offset}", topic.as_deref().unwrap_or("-"))),
            (_, None, Some(offset)) => parts.push(format!("to offset {offset}")),
            _ => {}
        }
        or_dash(&parts.join(", "))
    }
}
