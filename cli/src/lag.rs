//! `gantry group lag`: how many messages a group has not finished, by topic or by queue, once or again and again.

use crate::connect::{Admin, request};
use crate::failure::Failure;
use crate::global::{Global, OutputFormat};
use crate::name::{Noun, failed};
use crate::output::{self, Report, Table, or_dash};
use crate::terminal::Terminal;
use crate::value;
use clap::Args;
use gantry_platform::{Clock, SystemClock};
use gantry_proto::admin::{Backlog, GetGroupLagRequest, QueueLag};
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

pub const EXAMPLES: &str = "\
Examples:
  gantry group lag billing
  gantry group lag billing --topic orders --queues
  gantry group lag billing --watch --interval 1s
  gantry group lag billing -o json | jq .total.lag";

#[derive(Debug, Args)]
pub struct Lag {
    /// Name of the group
    group: String,
    /// Only this topic
    #[arg(long, value_name = "TOPIC", default_value = "")]
    topic: String,
    /// One row per queue instead of one per topic
    #[arg(long)]
    queues: bool,
    /// Show it again and again until interrupted
    #[arg(long, short)]
    watch: bool,
    /// Time between two looks
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "2s", requires = "watch")]
    interval: Duration,
}

pub async fn run(args: Lag, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    if !args.watch {
        let report = look(&args, admin, global).await?;
        return output::print(&report, global.output, terminal);
    }
    tokio::select! {
        outcome = watch(&args, admin, global, terminal) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn watch(args: &Lag, admin: &mut Admin, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let clock = SystemClock::new();
    let mut before: Option<(u64, Duration)> = None;
    loop {
        let mut report = look(args, admin, global).await?;
        let now = clock.mono();
        report.change_per_second = before.map(|(lag, then)| (report.total.lag as f64 - lag as f64) / (now - then).as_secs_f64());
        before = Some((report.total.lag, now));
        if global.output == OutputFormat::Table {
            // Clear the screen, then draw: no flicker, since both go out in one write.
            terminal.out.write_all(b"\x1b[2J\x1b[H")?;
        }
        output::print_one(&report, global.output, terminal)?;
        terminal.out.flush()?;
        tokio::time::sleep(args.interval).await;
    }
}

/// One look; a failure names the group that was meant.
async fn look(args: &Lag, admin: &mut Admin, global: &Global) -> Result<LagReport, Failure> {
    match read(args, admin, global).await {
        Ok(report) => Ok(report),
        Err(status) => Err(failed(Noun::Group, "read the lag of", &args.group, &status, admin, global).await),
    }
}

/// Reads all pages.
async fn read(args: &Lag, admin: &mut Admin, global: &Global) -> Result<LagReport, tonic::Status> {
    let mut ask = GetGroupLagRequest {
        namespace: global.namespace.clone(),
        group: args.group.clone(),
        topic: args.topic.clone(),
        page_size: 1000,
        ..Default::default()
    };
    let (mut total, mut queues) = (Counts::default(), Vec::new());
    loop {
        let page = admin.get_group_lag(request(ask.clone(), global)).await?.into_inner();
        total = page.total.map(Counts::from).unwrap_or(total);
        queues.extend(page.queues.into_iter().map(QueueView::from));
        if page.next_page_token.is_empty() {
            break;
        }
        ask.page_token = page.next_page_token;
    }
    Ok(LagReport { group: args.group.clone(), total, topics: by_topic(&queues), queues, change_per_second: None, by_queue: args.queues })
}

/// Sums of queues that follow each other with the same topic.
fn by_topic(queues: &[QueueView]) -> Vec<TopicView> {
    let mut topics: Vec<TopicView> = Vec::new();
    for queue in queues {
        match topics.last_mut().filter(|topic| topic.topic == queue.topic) {
            Some(topic) => topic.backlog.add(&queue.backlog),
            None => topics.push(TopicView { topic: queue.topic.clone(), backlog: queue.backlog.clone() }),
        }
    }
    topics
}

/// Messages that are not finished.
#[derive(Clone, Debug, Default, Serialize)]
struct Counts {
    ready: u64,
    in_flight: u64,
    waiting: u64,
    lag: u64,
    oldest_unacked_time: Option<String>,
}

impl From<Backlog> for Counts {
    fn from(backlog: Backlog) -> Counts {
        Counts {
            ready: backlog.ready,
            in_flight: backlog.in_flight,
            waiting: backlog.waiting,
            lag: backlog.lag,
            oldest_unacked_time: backlog.oldest_unacked_time.as_ref().map(value::show_timestamp),
        }
    }
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.ready += other.ready;
        self.in_flight += other.in_flight;
        self.waiting += other.waiting;
        self.lag += other.lag;
        // Text of one form in UTC sorts as the times do.
        self.oldest_unacked_time = match (self.oldest_unacked_time.take(), other.oldest_unacked_time.clone()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn cells(&self) -> [String; 5] {
        let oldest = or_dash(self.oldest_unacked_time.as_deref().unwrap_or_default());
        [self.lag.to_string(), self.ready.to_string(), self.in_flight.to_string(), self.waiting.to_string(), oldest]
    }
}

#[derive(Debug, Serialize)]
struct QueueView {
    topic: String,
    queue: u32,
    #[serde(flatten)]
    backlog: Counts,
    committed_offset: u64,
    end_offset: u64,
}

impl From<QueueLag> for QueueView {
    fn from(queue: QueueLag) -> QueueView {
        QueueView {
            topic: queue.topic,
            queue: queue.queue,
            backlog: queue.backlog.map(Counts::from).unwrap_or_default(),
            committed_offset: queue.committed_offset,
            end_offset: queue.end_offset,
        }
    }
}

#[derive(Debug, Serialize)]
struct TopicView {
    topic: String,
    #[serde(flatten)]
    backlog: Counts,
}

#[derive(Debug, Serialize)]
struct LagReport {
    group: String,
    total: Counts,
    /// Growth of the total since the last look of `--watch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    change_per_second: Option<f64>,
    topics: Vec<TopicView>,
    queues: Vec<QueueView>,
    #[serde(skip)]
    by_queue: bool,
}

impl Report for LagReport {
    fn table(&self) -> String {
        let change = self.change_per_second.map(|change| format!(" ({change:+.0}/s)")).unwrap_or_default();
        let summary = format!("group `{}` is {} messages behind{change}\n", self.group, self.total.lag);
        if self.queues.is_empty() {
            return summary;
        }
        let counts = [">LAG", ">READY", ">IN FLIGHT", ">WAITING", "OLDEST"];
        let table = if self.by_queue {
            let mut table = Table::new(&[&["TOPIC", ">QUEUE", ">COMMITTED", ">END"], &counts[..]].concat());
            for queue in &self.queues {
                let place = [queue.topic.clone(), queue.queue.to_string(), queue.committed_offset.to_string(), queue.end_offset.to_string()];
                table.row(place.into_iter().chain(queue.backlog.cells()));
            }
            table
        } else {
            let mut table = Table::new(&[&["TOPIC"], &counts[..]].concat());
            for topic in &self.topics {
                table.row([topic.topic.clone()].into_iter().chain(topic.backlog.cells()));
            }
            table
        };
        format!("{summary}{}", table.render())
    }
}
