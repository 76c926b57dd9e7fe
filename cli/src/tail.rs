//! `gantry tail`: shows a topic's messages by looking them up through the Admin API. Looking takes no lease and moves no position, so
//! there is no group to make and none to clean up, however the command ends.

use crate::clock;
use crate::connect::{self, Admin, request};
use crate::failure::Failure;
use crate::global::Global;
use crate::name::{Noun, failed};
use crate::output;
use crate::record::{BodyForm, Record, check_filter};
use crate::terminal::Terminal;
use crate::{produce, topic, value};
use clap::Args;
use gantry_model::filter::Filter;
use gantry_proto::admin::lookup_messages_request::Selector;
use gantry_proto::admin::{LookupMessagesRequest, LookupMessagesResponse, QueueOffset, QueueStats, StoredMessage, TimeRange};
use prost_types::Timestamp;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

pub const EXAMPLES: &str = "\
Examples:
  gantry tail orders
  gantry tail orders --last 20 --no-follow
  gantry tail orders --since 10m --filter 'created || paid' --body json
  gantry tail orders -o json | jq -r .body";

/// Most messages of one look-up.
const PAGE: u32 = 500;

#[derive(Debug, Args)]
pub struct Tail {
    /// Topic to watch
    topic: String,
    /// Begin with the last N messages, at most 1000
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1000))]
    last: u64,
    /// Begin with the messages stored in this time before now
    #[arg(long, value_name = "TIME", value_parser = value::duration, conflicts_with = "last")]
    since: Option<Duration>,
    /// Only messages with one of these tags, such as 'A || B'
    #[arg(long, value_name = "TAGS", default_value = "*")]
    filter: String,
    /// End after this many messages
    #[arg(long, short = 'n', value_name = "N", value_parser = produce::count)]
    count: Option<u64>,
    /// End when everything stored so far was shown
    #[arg(long)]
    no_follow: bool,
    /// How to show bodies
    #[arg(long, value_name = "FORM", value_enum, default_value_t = BodyForm::Auto)]
    body: BodyForm,
    /// Time between two looks
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "500ms")]
    interval: Duration,
}

pub async fn run(args: Tail, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let filter = check_filter(&args.filter)?;
    let mut admin = connect::admin(global).await?;
    let left = args.count.unwrap_or(u64::MAX);
    let mut watch = Watch { args: &args, global, terminal, filter, next: BTreeMap::new(), left };
    let outcome = tokio::select! {
        outcome = watch.follow(&mut admin) => outcome,
        _ = tokio::signal::ctrl_c() => return Ok(()),
    };
    match outcome {
        Err(Stop::Failed(failure)) => Err(failure),
        Err(Stop::Refused(status)) => Err(failed(Noun::Topic, "look at", &args.topic, &status, &mut admin, global).await),
        Err(Stop::Enough) | Ok(()) => Ok(()),
    }
}

/// Why watching ended.
enum Stop {
    /// `--count` is reached.
    Enough,
    /// The server said no.
    Refused(tonic::Status),
    /// Output failed.
    Failed(Failure),
}

impl From<tonic::Status> for Stop {
    fn from(status: tonic::Status) -> Stop {
        Stop::Refused(status)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Stop {
        Stop::Failed(Failure::from(error))
    }
}

/// A topic being watched.
struct Watch<'a> {
    args: &'a Tail,
    global: &'a Global,
    terminal: &'a mut Terminal,
    filter: Filter,
    /// The offset to look at next, by queue.
    next: BTreeMap<u32, u64>,
    left: u64,
}

impl Watch<'_> {
    async fn follow(&mut self, admin: &mut Admin) -> Result<(), Stop> {
        let queues = topic::stats(&self.args.topic, admin, self.global).await?;
        self.next = queues.iter().map(|queue| (queue.queue, queue.max_offset)).collect();
        if self.args.last > 0 {
            self.show_last(&queues, admin).await?;
        } else if let Some(since) = self.args.since {
            self.show_since(since, admin).await?;
        }
        while !self.args.no_follow {
            tokio::time::sleep(self.args.interval).await;
            // One call tells which queues have grown, so a quiet topic of many queues costs as little as one of one.
            for queue in topic::stats(&self.args.topic, admin, self.global).await? {
                self.show_new(&queue, admin).await?;
            }
        }
        Ok(())
    }

    /// The last messages of each queue, and of these the last over all.
    async fn show_last(&mut self, queues: &[QueueStats], admin: &mut Admin) -> Result<(), Stop> {
        let mut found = Vec::new();
        for queue in queues {
            let from = queue.max_offset.saturating_sub(self.args.last).max(queue.min_offset);
            if from < queue.max_offset {
                found.extend(self.read(queue.queue, from, queue.max_offset, admin).await?);
            }
        }
        found.sort_by_key(|message| (stored_at(message), message.queue, message.offset));
        let skip = found.len().saturating_sub(self.args.last as usize);
        self.show(found.into_iter().skip(skip))
    }

    /// Messages in store order up to the ends that were seen first; what comes later is found by offset.
    async fn show_since(&mut self, since: Duration, admin: &mut Admin) -> Result<(), Stop> {
        let now = clock::wall();
        let from = Timestamp { seconds: now.seconds.saturating_sub_unsigned(since.as_secs()), nanos: now.nanos };
        let mut ask = self.ask(Selector::ByTime(TimeRange { from: Some(from), to: None }), PAGE);
        loop {
            let page = self.look(&ask, admin).await?;
            let ends = self.next.clone();
            let before = |message: &StoredMessage| ends.get(&message.queue).is_some_and(|end| message.offset < *end);
            self.show(page.messages.into_iter().filter(before))?;
            if page.next_page_token.is_empty() {
                return Ok(());
            }
            ask.page_token = page.next_page_token;
        }
    }

    async fn show_new(&mut self, queue: &QueueStats, admin: &mut Admin) -> Result<(), Stop> {
        // A queue that was not there at the start is new, so all of it is.
        let from = (*self.next.entry(queue.queue).or_insert(0)).max(queue.min_offset);
        if from >= queue.max_offset {
            return Ok(());
        }
        let messages = self.read(queue.queue, from, queue.max_offset, admin).await?;
        self.next.insert(queue.queue, queue.max_offset);
        self.show(messages)
    }

    /// Messages `from .. to` of one queue. Offsets may be missing where a record holds no message.
    async fn read(&self, queue: u32, from: u64, to: u64, admin: &mut Admin) -> Result<Vec<StoredMessage>, tonic::Status> {
        let limit = (to - from).min(u64::from(PAGE)) as u32;
        let mut ask = self.ask(Selector::ByOffset(QueueOffset { queue, offset: from }), limit);
        let mut messages = Vec::new();
        loop {
            let page = self.look(&ask, admin).await?;
            let reached = page.messages.last().is_none_or(|message| message.offset + 1 >= to);
            messages.extend(page.messages.into_iter().filter(|message| message.queue == queue && message.offset < to));
            if reached || page.next_page_token.is_empty() {
                return Ok(messages);
            }
            ask.page_token = page.next_page_token;
        }
    }

    fn ask(&self, selector: Selector, limit: u32) -> LookupMessagesRequest {
        let (namespace, topic) = (self.global.namespace.clone(), self.args.topic.clone());
        LookupMessagesRequest { namespace, topic, selector: Some(selector), limit, ..Default::default() }
    }

    async fn look(&self, ask: &LookupMessagesRequest, admin: &mut Admin) -> Result<LookupMessagesResponse, tonic::Status> {
        Ok(admin.lookup_messages(request(ask.clone(), self.global)).await?.into_inner())
    }

    fn show(&mut self, messages: impl IntoIterator<Item = StoredMessage>) -> Result<(), Stop> {
        for message in messages {
            if !self.filter.wants(message.tag.as_deref()) {
                continue;
            }
            output::print_one(&Record::stored(message, self.args.body), self.global.output, self.terminal)?;
            self.left -= 1;
            if self.left == 0 {
                return Err(Stop::Enough);
            }
        }
        Ok(self.terminal.out.flush()?)
    }
}

fn stored_at(message: &StoredMessage) -> (i64, i32) {
    message.store_time.as_ref().map_or((0, 0), |time| (time.seconds, time.nanos))
}
