//! `gantry group reset`, `copy` and `skip`: positions of groups, moved by hand.

use crate::connect::{Admin, request};
use crate::failure::Failure;
use crate::global::{Global, OutputFormat};
use crate::name::{Noun, failed};
use crate::output::{self, Report, Table};
use crate::terminal::{Confirmed, Terminal};
use crate::value::{self, Moment};
use clap::Args;
use gantry_proto::admin::reset_group_offsets_request::Target;
use gantry_proto::admin::{CopyGroupOffsetsRequest, MovedOffset, ResetGroupOffsetsRequest, SkipMessagesRequest};
use serde::Serialize;

pub const RESET_EXAMPLES: &str = "\
Examples:
  gantry group reset billing orders --to earliest
  gantry group reset billing orders --to latest --yes      pass over everything that waits
  gantry group reset billing orders --to 2h --dry-run      to what was stored two hours ago
  gantry group reset billing orders --to 2026-08-01T12:00:00Z
  gantry group reset billing orders --to 4711 --queue 3";
pub const COPY_EXAMPLES: &str = "\
Examples:
  gantry group copy billing billing-test orders
  gantry group copy billing billing-test orders --dry-run -o json";
pub const SKIP_EXAMPLES: &str = "\
Examples:
  gantry group skip billing orders 3 4711
  gantry group skip billing orders 3 4711 4720-4730 --yes";

/// Where a position moves to.
#[derive(Clone, Debug, PartialEq)]
enum Where {
    Earliest,
    Latest,
    Offset(u64),
    Time(Moment),
}

/// Reads `earliest`, `latest`, an offset, a time or an age.
fn wherever(text: &str) -> Result<Where, String> {
    match text {
        "earliest" => Ok(Where::Earliest),
        "latest" => Ok(Where::Latest),
        _ => text.parse().map(Where::Offset).or_else(|_| value::moment(text).map(Where::Time)).map_err(|_| {
            format!("`{text}` is no position; write earliest, latest, an age such as 2h, a time such as 2026-08-01T12:00:00Z, or an offset")
        }),
    }
}

#[derive(Debug, Args)]
pub struct Reset {
    /// Name of the group
    group: String,
    /// Topic on which to move it
    topic: String,
    /// earliest, latest, an age (2h), a time (2026-08-01T12:00:00Z), or an offset with --queue
    #[arg(long, value_name = "WHERE", value_parser = wherever)]
    to: Where,
    #[command(flatten)]
    scope: Scope,
}

#[derive(Debug, Args)]
pub struct Copy {
    /// Group whose position is copied
    from: String,
    /// Group that is moved
    to: String,
    /// Topic on which to move it
    topic: String,
    #[command(flatten)]
    scope: Scope,
}

// (A doc comment would describe the command in its help.)
#[derive(Debug, Args)]
struct Scope {
    /// Only these queues
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    queue: Vec<u32>,
    /// Show what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
pub struct Skip {
    /// Name of the group
    group: String,
    /// Topic of the messages
    topic: String,
    /// Queue of the messages
    queue: u32,
    /// Offsets, or ranges of them such as 4720-4730
    #[arg(required = true, value_name = "OFFSET", value_parser = offsets)]
    offsets: Vec<(u64, u64)>,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

/// Reads `7` and `7-9`, both ends included.
fn offsets(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last && last - first < 10_000 => Ok((first, last)),
        _ => Err(format!("`{text}` is no offset; write 4711, or 4720-4730 for at most 10000 of them")),
    }
}

pub async fn reset(args: Reset, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    if matches!(args.to, Where::Offset(_)) && args.scope.queue.is_empty() {
        return Err(Failure::usage("an offset means something in one queue only").hint("add `--queue N`"));
    }
    let target = match &args.to {
        Where::Earliest => Target::Earliest(true),
        Where::Latest => Target::Latest(true),
        Where::Offset(offset) => Target::Offset(*offset),
        Where::Time(moment) => Target::Time(moment.on_the_wall()),
    };
    let ask = ResetGroupOffsetsRequest {
        namespace: global.namespace.clone(),
        group: args.group.clone(),
        topic: args.topic.clone(),
        queues: args.scope.queue.clone(),
        target: Some(target),
        dry_run: true,
    };
    let mut call = async |admin: &mut Admin, dry_run| {
        let ask = ResetGroupOffsetsRequest { dry_run, ..ask.clone() };
        Ok(admin.reset_group_offsets(request(ask, global)).await?.into_inner().queues)
    };
    carry_out(&args.group, &args.topic, &args.scope, &mut call, admin, global, terminal).await
}

pub async fn copy(args: Copy, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let ask = CopyGroupOffsetsRequest {
        namespace: global.namespace.clone(),
        from_group: args.from.clone(),
        to_group: args.to.clone(),
        topic: args.topic.clone(),
        queues: args.scope.queue.clone(),
        dry_run: true,
    };
    let mut call = async |admin: &mut Admin, dry_run| {
        let ask = CopyGroupOffsetsRequest { dry_run, ..ask.clone() };
        Ok(admin.copy_group_offsets(request(ask, global)).await?.into_inner().queues)
    };
    carry_out(&args.to, &args.topic, &args.scope, &mut call, admin, global, terminal).await
}

/// Shows what a move would do, asks, and does it.
async fn carry_out(
    group: &str,
    topic: &str,
    scope: &Scope,
    call: &mut impl AsyncFnMut(&mut Admin, bool) -> Result<Vec<MovedOffset>, tonic::Status>,
    admin: &mut Admin,
    global: &Global,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let planned = match call(admin, true).await {
        Ok(queues) => Moved::new(group, topic, queues, Done::No),
        Err(status) => return Err(refused("move", group, topic, &status, admin, global).await),
    };
    if scope.dry_run {
        return output::print(&planned, global.output, terminal);
    }
    if !scope.yes && global.output == OutputFormat::Table {
        terminal.note(planned.table().trim_end())?;
    }
    let plan = format!("move group `{group}` on topic `{topic}`: {} held messages are dropped, {} queues move", planned.dropped(), planned.moving());
    terminal.confirm(&plan, Confirmed::from(scope.yes)).await?;
    match call(admin, false).await {
        Ok(queues) => output::print(&Moved::new(group, topic, queues, Done::Yes), global.output, terminal),
        Err(status) => Err(refused("move", group, topic, &status, admin, global).await),
    }
}

pub async fn skip(args: Skip, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let offsets: Vec<u64> = args.offsets.iter().flat_map(|&(first, last)| first..=last).collect();
    let asked = offsets.len() as u64;
    let plan = format!("skip {} messages of queue {} of topic `{}` for group `{}`", offsets.len(), args.queue, args.topic, args.group);
    terminal.confirm(&plan, Confirmed::from(args.yes)).await?;
    let ask =
        SkipMessagesRequest { namespace: global.namespace.clone(), group: args.group.clone(), topic: args.topic.clone(), queue: args.queue, offsets };
    match admin.skip_messages(request(ask, global)).await {
        Ok(answer) => output::print(&Skipped { skipped: answer.into_inner().skipped, asked, group: args.group }, global.output, terminal),
        Err(status) => Err(refused("skip messages of", &args.group, &args.topic, &status, admin, global).await),
    }
}

/// A failed call about a group and a topic: whichever of them is missing is the one that is named.
async fn refused(tried: &str, group: &str, topic: &str, status: &tonic::Status, admin: &mut Admin, global: &Global) -> Failure {
    let about_topic = status.code() == tonic::Code::NotFound && status.message().contains("topic");
    match about_topic {
        true => failed(Noun::Topic, "look at", topic, status, admin, global).await,
        false => failed(Noun::Group, tried, group, status, admin, global).await,
    }
}

/// Whether a move was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Yes,
    No,
}

#[derive(Serialize)]
struct Moved {
    group: String,
    topic: String,
    dry_run: bool,
    queues: Vec<MovedView>,
}

#[derive(Serialize)]
struct MovedView {
    queue: u32,
    from_offset: u64,
    to_offset: u64,
    dropped: u64,
}

impl Moved {
    fn new(group: &str, topic: &str, queues: Vec<MovedOffset>, done: Done) -> Moved {
        let view =
            |moved: MovedOffset| MovedView { queue: moved.queue, from_offset: moved.from_offset, to_offset: moved.to_offset, dropped: moved.dropped };
        let queues = queues.into_iter().map(view).collect();
        Moved { group: group.to_owned(), topic: topic.to_owned(), dry_run: done == Done::No, queues }
    }

    fn dropped(&self) -> u64 {
        self.queues.iter().map(|queue| queue.dropped).sum()
    }

    fn moving(&self) -> usize {
        self.queues.iter().filter(|queue| queue.from_offset != queue.to_offset).count()
    }
}

impl Report for Moved {
    fn table(&self) -> String {
        let mut table = Table::new(&[">QUEUE", ">FROM", ">TO", ">CHANGE", ">DROPPED"]);
        for queue in &self.queues {
            let change = i128::from(queue.to_offset) - i128::from(queue.from_offset);
            let change = if change > 0 { format!("+{change}") } else { change.to_string() };
            table.row([queue.queue.to_string(), queue.from_offset.to_string(), queue.to_offset.to_string(), change, queue.dropped.to_string()]);
        }
        table.render()
    }
}

#[derive(Serialize)]
struct Skipped {
    skipped: u64,
    #[serde(skip)]
    asked: u64,
    #[serde(skip)]
    group: String,
}

impl Report for Skipped {
    fn table(&self) -> String {
        let finished = self.asked.saturating_sub(self.skipped);
        let rest = if finished > 0 { format!("; {finished} were finished before") } else { String::new() };
        format!("skipped {} messages for group `{}`{rest}\n", self.skipped, self.group)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn positions_are_words_offsets_times_or_ages() {
        assert_eq!(wherever("earliest"), Ok(Where::Earliest));
        assert_eq!(wherever("latest"), Ok(Where::Latest));
        assert_eq!(wherever("4711"), Ok(Where::Offset(4_711)));
        assert_eq!(wherever("2h"), Ok(Where::Time(value::moment("2h").unwrap())));
        for wrong in ["", "now", "-5", "yesterday", "2026-13-01T00:00:00Z"] {
            assert!(wherever(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn offsets_may_be_ranges() {
        assert_eq!(offsets("7"), Ok((7, 7)));
        assert_eq!(offsets("7-9"), Ok((7, 9)));
        for wrong in ["", "9-7", "a", "7-", "1-999999"] {
            assert!(offsets(wrong).is_err(), "{wrong}");
        }
    }
}
