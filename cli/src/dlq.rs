//! `gantry dlq …`: the dead letters of a group, listed, looked into, sent again and removed.

use crate::connect::{self, Admin, request};
use crate::failure::{Exit, Failure};
use crate::global::{Global, OutputFormat};
use crate::name::{Noun, failed};
use crate::output::{self, Report, Table, or_dash};
use crate::record::{BodyForm, Record};
use crate::terminal::{Confirmed, Terminal};
use crate::value::{self, Moment, Place, Rate};
use clap::{Args, Subcommand};
use gantry_proto::admin::dead_letter_selector::Selector;
use gantry_proto::admin::{
    DeadLetter, DeadLetterIds, DeadLetterPlaces, DeadLetterReason, DeadLetterSelector, ListDeadLettersRequest, PurgeDeadLettersRequest, QueueOffset,
    RedriveDeadLettersRequest, RedriveDeadLettersResponse, TimeRange,
};
use serde::Serialize;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// List the dead letters of a group
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(List),
    /// Show dead letters with their bodies
    #[command(after_help = PEEK_EXAMPLES)]
    Peek(Peek),
    /// Send dead letters again, to where they came from or to another topic
    #[command(after_help = REDRIVE_EXAMPLES)]
    Redrive(Redrive),
    /// Remove dead letters for good
    #[command(after_help = PURGE_EXAMPLES)]
    Purge(Purge),
}

const LIST_EXAMPLES: &str = "\
Examples:
  gantry dlq list billing
  gantry dlq list billing --since 1h --limit 20
  gantry dlq list billing -o json | jq -r .letters[].place";
const PEEK_EXAMPLES: &str = "\
Examples:
  gantry dlq peek billing
  gantry dlq peek billing --place 0:17 --body json
  gantry dlq peek billing --id 01F8A2C4 -o json | jq -r .body";
const REDRIVE_EXAMPLES: &str = "\
Examples:
  gantry dlq redrive billing --all --rate 100/s
  gantry dlq redrive billing --id 01F8A2C4 --id 01F8A2C5
  gantry dlq redrive billing --place 0:17 --to orders-repair
  gantry dlq redrive billing --since 2h --until 1h";
const PURGE_EXAMPLES: &str = "\
Examples:
  gantry dlq purge billing --place 0:17
  gantry dlq purge billing --until 7d --yes
  gantry dlq purge billing --all";

// (A doc comment would describe the command in its help.)
#[derive(Debug, Args)]
struct Which {
    /// All that there are now
    #[arg(long, conflicts_with_all = ["id", "place", "since", "until"])]
    all: bool,
    /// Letters with this message id
    #[arg(long, value_name = "ID", conflicts_with_all = ["place", "since", "until"])]
    id: Vec<String>,
    /// The letter at this place in the dead letter queue
    #[arg(long, value_name = "QUEUE:OFFSET", value_parser = value::place, conflicts_with_all = ["since", "until"])]
    place: Vec<Place>,
    /// Those that died since this time, or this long ago
    #[arg(long, value_name = "TIME", value_parser = value::moment)]
    since: Option<Moment>,
    /// Those that died before this time, or longer ago than this
    #[arg(long, value_name = "TIME", value_parser = value::moment)]
    until: Option<Moment>,
}

impl Which {
    /// `None` if nothing was said.
    fn selector(&self) -> Option<DeadLetterSelector> {
        let selector = match self {
            Which { all: true, .. } => Selector::All(true),
            Which { id, .. } if !id.is_empty() => Selector::MessageIds(DeadLetterIds { message_ids: id.clone() }),
            Which { place, .. } if !place.is_empty() => {
                let places = place.iter().map(|place| QueueOffset { queue: place.queue, offset: place.offset }).collect();
                Selector::Places(DeadLetterPlaces { places })
            }
            Which { since: None, until: None, .. } => return None,
            Which { since, until, .. } => {
                let on_the_wall = |moment: &Option<Moment>| moment.as_ref().map(Moment::on_the_wall);
                Selector::Died(TimeRange { from: on_the_wall(since), to: on_the_wall(until) })
            }
        };
        Some(DeadLetterSelector { selector: Some(selector) })
    }

    /// For what changes something: all are meant only if that was said.
    fn required(&self) -> Result<DeadLetterSelector, Failure> {
        let missing = || Failure::usage("which dead letters?").hint("add --all, --id, --place, --since or --until");
        self.selector().ok_or_else(missing)
    }

    fn words(&self) -> String {
        match self {
            Which { all: true, .. } => "all dead letters".to_owned(),
            Which { id, .. } if !id.is_empty() => format!("the dead letters with {} message ids", id.len()),
            Which { place, .. } if !place.is_empty() => format!("{} dead letters", place.len()),
            _ => "the dead letters of that time".to_owned(),
        }
    }
}

#[derive(Debug, Args)]
pub struct List {
    /// Name of the group
    group: String,
    #[command(flatten)]
    which: Which,
    /// Most letters to show
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

#[derive(Debug, Args)]
pub struct Peek {
    /// Name of the group
    group: String,
    #[command(flatten)]
    which: Which,
    /// Most letters to show
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1)]
    count: usize,
    /// How to show bodies
    #[arg(long, value_name = "FORM", value_enum, default_value_t = BodyForm::Auto)]
    body: BodyForm,
}

#[derive(Debug, Args)]
pub struct Redrive {
    /// Name of the group
    group: String,
    #[command(flatten)]
    which: Which,
    /// Send to this topic instead of where each letter came from
    #[arg(long, value_name = "TOPIC", default_value = "")]
    to: String,
    /// Most letters in a time [default: as fast as it goes]
    #[arg(long, value_name = "RATE", value_parser = value::rate)]
    rate: Option<Rate>,
}

#[derive(Debug, Args)]
pub struct Purge {
    /// Name of the group
    group: String,
    #[command(flatten)]
    which: Which,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(command: DlqCommand, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut admin = connect::admin(global).await?;
    match command {
        DlqCommand::List(args) => list(args, &mut admin, global, terminal).await,
        DlqCommand::Peek(args) => peek(args, &mut admin, global, terminal).await,
        DlqCommand::Redrive(args) => redrive(args, &mut admin, global, terminal).await,
        DlqCommand::Purge(args) => purge(args, &mut admin, global, terminal).await,
    }
}

/// Reads pages until there are enough letters or no more.
async fn read(mut ask: ListDeadLettersRequest, most: usize, admin: &mut Admin, global: &Global) -> Result<Vec<DeadLetter>, Failure> {
    let mut letters = Vec::new();
    loop {
        ask.page_size = (most - letters.len()).min(1_000) as u32;
        let page = match admin.list_dead_letters(request(ask.clone(), global)).await {
            Ok(page) => page.into_inner(),
            Err(status) => return Err(failed(Noun::Group, "list the dead letters of", &ask.group, &status, admin, global).await),
        };
        letters.extend(page.letters);
        if page.next_page_token.is_empty() || letters.len() >= most {
            letters.truncate(most);
            return Ok(letters);
        }
        ask.page_token = page.next_page_token;
    }
}

fn asking(group: &str, which: &Which, global: &Global) -> ListDeadLettersRequest {
    ListDeadLettersRequest { namespace: global.namespace.clone(), group: group.to_owned(), selector: which.selector(), ..Default::default() }
}

async fn list(args: List, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let ask = ListDeadLettersRequest { omit_body: true, ..asking(&args.group, &args.which, global) };
    let letters: Vec<View> = read(ask, args.limit.max(1), admin, global).await?.into_iter().map(View::from).collect();
    if letters.is_empty() && global.output == OutputFormat::Table {
        terminal.note(format!("no dead letters of group `{}`", args.group))?;
    }
    output::print(&Listing { letters }, global.output, terminal)
}

async fn peek(args: Peek, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let ask = asking(&args.group, &args.which, global);
    let letters = read(ask, args.count.max(1), admin, global).await?;
    if letters.is_empty() {
        return Err(Failure::new(Exit::NotFound, format!("no such dead letter of group `{}`", args.group)).hint("see them with `gantry dlq list`"));
    }
    for letter in letters {
        output::print_one(&Record::stored(letter.message.unwrap_or_default(), args.body), global.output, terminal)?;
    }
    Ok(())
}

async fn redrive(args: Redrive, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let ask = RedriveDeadLettersRequest {
        namespace: global.namespace.clone(),
        group: args.group.clone(),
        selector: Some(args.which.required()?),
        to_topic: args.to.clone(),
        per_second: args.rate.map_or(0.0, |rate| rate.per_second),
    };
    // Without a deadline: at a low rate this takes as long as it takes.
    let answer = admin.redrive_dead_letters(tonic::Request::new(ask)).await;
    let mut progress = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) if !args.to.is_empty() && status.message().contains("topic") => {
            return Err(failed(Noun::Topic, "send dead letters to", &args.to, &status, admin, global).await);
        }
        Err(status) => return Err(failed(Noun::Group, "send again the dead letters of", &args.group, &status, admin, global).await),
    };
    let mut last = RedriveDeadLettersResponse::default();
    let mut first_failure = None;
    loop {
        match progress.message().await {
            Ok(Some(told)) => last = told,
            Ok(None) => break,
            Err(status) => return Err(Failure::from_grpc(format!("stopped after {} dead letters", last.redriven), &status)),
        }
        if let Some(failure) = last.failures.first().filter(|_| first_failure.is_none()) {
            first_failure = Some(failure.why.clone());
        }
        terminal.progress(&format!("{} sent again", last.redriven))?;
    }
    terminal.progress("")?;
    let RedriveDeadLettersResponse { redriven, gone, failed, .. } = last;
    output::print(&Redriven { redriven, gone, failed }, global.output, terminal)?;
    match first_failure {
        Some(why) => Err(Failure::new(Exit::Failed, format!("{failed} dead letters could not be sent again")).because(why)),
        None => Ok(()),
    }
}

async fn purge(args: Purge, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let selector = Some(args.which.required()?);
    let plan = format!("remove {} of group `{}`", args.which.words(), args.group);
    terminal.confirm(&plan, Confirmed::from(args.yes)).await?;
    let ask = PurgeDeadLettersRequest { namespace: global.namespace.clone(), group: args.group.clone(), selector };
    let mut progress = match admin.purge_dead_letters(tonic::Request::new(ask)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(failed(Noun::Group, "remove the dead letters of", &args.group, &status, admin, global).await),
    };
    let mut purged = Purged { purged: 0, gone: 0 };
    loop {
        match progress.message().await {
            Ok(Some(told)) => purged = Purged { purged: told.purged, gone: told.gone },
            Ok(None) => break,
            Err(status) => return Err(Failure::from_grpc(format!("stopped after {} dead letters", purged.purged), &status)),
        }
        terminal.progress(&format!("{} removed", purged.purged))?;
    }
    terminal.progress("")?;
    output::print(&purged, global.output, terminal)
}

/// A dead letter as we show it.
#[derive(Serialize)]
struct View {
    place: String,
    died: Option<String>,
    message_id: String,
    origin: String,
    attempts: u32,
    reason: &'static str,
    tag: Option<String>,
    keys: Vec<String>,
    message_group: Option<String>,
    body_size: u64,
}

impl From<DeadLetter> for View {
    fn from(letter: DeadLetter) -> View {
        let reason = match letter.reason() {
            DeadLetterReason::MaxAttempts => "attempts used up",
            DeadLetterReason::Forwarded => "forwarded",
            DeadLetterReason::Unspecified => "unknown",
        };
        let origin = format!("{}/{}/{}", or_dash(&letter.origin_topic), letter.origin_queue, letter.origin_offset);
        let message = letter.message.unwrap_or_default();
        View {
            place: format!("{}:{}", message.queue, message.offset),
            died: message.store_time.as_ref().map(value::show_timestamp),
            message_id: message.message_id,
            origin,
            attempts: letter.attempts,
            reason,
            tag: message.tag,
            keys: message.keys,
            message_group: message.message_group,
            body_size: message.body_size,
        }
    }
}

#[derive(Serialize)]
struct Listing {
    letters: Vec<View>,
}

impl Report for Listing {
    fn table(&self) -> String {
        if self.letters.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&["PLACE", "DIED", "MESSAGE ID", "ORIGIN", ">ATTEMPTS", "REASON", ">SIZE"]);
        for letter in &self.letters {
            table.row([
                letter.place.clone(),
                or_dash(letter.died.as_deref().unwrap_or_default()),
                letter.message_id.clone(),
                letter.origin.clone(),
                letter.attempts.to_string(),
                letter.reason.to_owned(),
                value::show_size(letter.body_size),
            ]);
        }
        table.render()
    }
}

#[derive(Serialize)]
struct Redriven {
    redriven: u64,
    gone: u64,
    failed: u64,
}

impl Report for Redriven {
    fn table(&self) -> String {
        let gone = if self.gone > 0 { format!(", {} were not there any more", self.gone) } else { String::new() };
        let failed = if self.failed > 0 { format!(", {} failed and stay", self.failed) } else { String::new() };
        format!("sent {} dead letters again{gone}{failed}\n", self.redriven)
    }
}

#[derive(Serialize)]
struct Purged {
    purged: u64,
    gone: u64,
}

impl Report for Purged {
    fn table(&self) -> String {
        let gone = if self.gone > 0 { format!(", {} were not there any more", self.gone) } else { String::new() };
        format!("removed {} dead letters{gone}\n", self.purged)
    }
}
