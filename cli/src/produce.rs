//! `gantry produce`: sends one message, lines of stdin, or generated bodies, as fast as allowed and several at a time.

use crate::clock;
use crate::connect::{self, Messaging, request, resource};
use crate::failure::{Exit, Failure, check_status};
use crate::global::Global;
use crate::output::{self, Report};
use crate::terminal::Terminal;
use crate::value::{self, Rate};
use bytes::Bytes;
use clap::Args;
use gantry_model::limits::BODY_MAX;
use gantry_platform::{Clock, SystemClock};
use gantry_proto::v2::{Code, Encoding, Message, MessageType, SendMessageRequest, SendResultEntry, SystemProperties};
use serde::Serialize;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::task::JoinSet;

pub const EXAMPLES: &str = "\
Examples:
  gantry produce orders --body 'hello'
  gantry produce orders --body '{\"id\":7}' --tag created --key order-7 --property region=eu
  cat events.jsonl | gantry produce orders
  gantry produce orders --count 100k --size 1KiB --rate 5k/s --in-flight 64
  gantry produce orders --body later --delay 10m
  gantry produce payments --body first --message-group account-7";

#[derive(Debug, Args)]
pub struct Produce {
    /// Topic to send to
    topic: String,
    /// Body of the message; without it, and without --file or --size, each line of stdin is one message
    #[arg(long, short, value_name = "TEXT", conflicts_with_all = ["size", "file"])]
    body: Option<String>,
    /// Take the body from this file
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    file: Option<PathBuf>,
    /// Generate bodies of this many bytes
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    size: Option<u64>,
    /// Tag, by which consumers filter
    #[arg(long, short, value_name = "TAG")]
    tag: Option<String>,
    /// Key, by which messages are found; may be repeated
    #[arg(long = "key", short, value_name = "KEY")]
    keys: Vec<String>,
    /// Property; may be repeated
    #[arg(long = "property", short, value_name = "KEY=VALUE", value_parser = value::pair)]
    properties: Vec<(String, String)>,
    /// Messages of one message group are delivered in order
    #[arg(long, short = 'g', value_name = "NAME", conflicts_with = "delay")]
    message_group: Option<String>,
    /// Deliver this much later
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    delay: Option<Duration>,
    /// Send this many messages [default: 1 with a body, else all lines]
    #[arg(long, short = 'n', value_name = "N", value_parser = count)]
    count: Option<u64>,
    /// Send no faster than this
    #[arg(long, value_name = "RATE", value_parser = value::rate)]
    rate: Option<Rate>,
    /// Messages on their way at the same time; with more than 1 their order may change
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    in_flight: u16,
    /// Print only a summary [default when --count is more than 10]
    #[arg(long, short)]
    quiet: bool,
}

/// A count, which may be written `100k` or `2M`.
pub fn count(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a number of messages; write 500, 100k or 2M");
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).filter(|count| *count > 0).ok_or_else(wrong)
}

/// Where bodies come from.
enum Source {
    Same(Bytes),
    Lines,
}

impl Source {
    async fn next(&self, terminal: &mut Terminal) -> Result<Option<Bytes>, Failure> {
        match self {
            Source::Same(body) => Ok(Some(body.clone())),
            // An empty line is no message: the protocol has no empty bodies.
            Source::Lines => loop {
                match terminal.line().await? {
                    Some(line) if line.is_empty() => {}
                    line => return Ok(line.map(Bytes::from)),
                }
            },
        }
    }
}

pub async fn run(args: Produce, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let source = source(&args, terminal).await?;
    let limit = args.count.unwrap_or(if matches!(source, Source::Lines) { u64::MAX } else { 1 });
    let mut client = connect::messaging(global, "produce").await?;
    connect::find_topic(&mut client, &args.topic, global).await?;
    let quiet = args.quiet || args.count.is_some_and(|count| count > 10);
    let mut sender = Sender { client, args, global, terminal, quiet, flying: JoinSet::new(), sent: 0, bytes: 0, clock: SystemClock::new(), shown: 0 };
    let outcome = tokio::select! {
        outcome = sender.send_all(&source, limit) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    let settled = sender.settle(0).await;
    sender.finish(outcome.and(settled))
}

async fn source(args: &Produce, terminal: &mut Terminal) -> Result<Source, Failure> {
    let body = match (&args.body, &args.file, args.size) {
        (Some(body), _, _) => Bytes::from(body.clone()),
        (_, Some(file), _) => {
            Bytes::from(tokio::fs::read(file).await.map_err(|error| Failure::usage(format!("cannot read `{}`", file.display())).because(error))?)
        }
        (_, _, Some(size)) => {
            check_size(size)?;
            filler(size as usize)
        }
        _ => {
            if terminal.input_is_person {
                terminal.note("reading messages from the terminal, one a line; end with Ctrl-D")?;
            }
            return Ok(Source::Lines);
        }
    };
    check_size(body.len() as u64)?;
    Ok(Source::Same(body))
}

fn check_size(size: u64) -> Result<(), Failure> {
    if (1..=BODY_MAX as u64).contains(&size) {
        return Ok(());
    }
    let failure = Failure::usage(format!("cannot send a body of {}", value::show_size(size)));
    Err(failure.because(format!("a body has 1 B to {}", value::show_size(BODY_MAX as u64))))
}

/// Printable bytes that compress badly enough to be honest about sizes.
fn filler(size: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        letters[(state >> 58) as usize]
    };
    (0..size).map(|_| letter()).collect()
}

/// A producer at work.
struct Sender<'a> {
    client: Messaging,
    args: Produce,
    global: &'a Global,
    terminal: &'a mut Terminal,
    quiet: bool,
    flying: JoinSet<Result<(SendResultEntry, u64), Failure>>,
    sent: u64,
    bytes: u64,
    /// Its monotonic time begins with the first message.
    clock: SystemClock,
    shown: u64,
}

impl Sender<'_> {
    async fn send_all(&mut self, source: &Source, limit: u64) -> Result<(), Failure> {
        let tag = clock::random_tag();
        self.clock = SystemClock::new();
        for number in 0..limit {
            self.keep_rate(number).await;
            let Some(body) = source.next(self.terminal).await? else { break };
            self.settle(usize::from(self.args.in_flight) - 1).await?;
            let size = body.len() as u64;
            let (message, global, mut client) = (self.message(body, tag, number), self.global.clone(), self.client.clone());
            self.flying.spawn(async move { Ok((send(&mut client, message, &global).await?, size)) });
        }
        Ok(())
    }

    /// Waits until message `number` is due by the rate.
    async fn keep_rate(&self, number: u64) {
        let Some(rate) = self.args.rate else { return };
        let due = Duration::from_secs_f64(number as f64 / rate.per_second);
        tokio::time::sleep(due.saturating_sub(self.clock.mono())).await;
    }

    fn message(&self, body: Bytes, tag: u64, number: u64) -> Message {
        let args = &self.args;
        let born = clock::wall();
        let kind = match (&args.message_group, args.delay) {
            (Some(_), _) => MessageType::Fifo,
            (_, Some(_)) => MessageType::Delay,
            _ => MessageType::Normal,
        };
        let system = SystemProperties {
            tag: args.tag.clone(),
            keys: args.keys.clone(),
            message_id: format!("{tag:016X}{number:016X}"),
            body_encoding: Encoding::Identity as i32,
            message_type: kind as i32,
            born_timestamp: Some(born),
            born_host: "gantry-cli".to_owned(),
            delivery_timestamp: args.delay.map(|delay| clock::later(born, delay)),
            message_group: args.message_group.clone(),
            ..Default::default()
        };
        let properties: HashMap<String, String> = args.properties.iter().cloned().collect();
        Message { topic: Some(resource(self.global, &args.topic)), user_properties: properties, system_properties: Some(system), body }
    }

    /// Waits until no more than `allowed` messages are on their way.
    async fn settle(&mut self, allowed: usize) -> Result<(), Failure> {
        while self.flying.len() > allowed {
            let Some(joined) = self.flying.join_next().await else { return Ok(()) };
            let (entry, size) = joined.map_err(|error| Failure::new(Exit::Failed, "a send broke off").because(error))??;
            self.sent += 1;
            self.bytes += size;
            if !self.quiet {
                let receipt = Receipt {
                    message_id: entry.message_id,
                    topic: self.args.topic.clone(),
                    offset: entry.offset,
                    recall_handle: entry.recall_handle,
                };
                output::print_one(&receipt, self.global.output, self.terminal)?;
            }
            let second = (self.clock.mono()).as_secs();
            if self.quiet && second > self.shown {
                self.shown = second;
                self.terminal.progress(&format!("{} messages sent, {} a second", self.sent, self.sent / second))?;
            }
        }
        Ok(())
    }

    fn finish(self, outcome: Result<(), Failure>) -> Result<(), Failure> {
        let seconds = (self.clock.mono()).as_secs_f64();
        if self.shown > 0 {
            self.terminal.progress("")?;
        }
        let summary =
            Summary { topic: self.args.topic, messages: self.sent, bytes: self.bytes, seconds, messages_per_second: self.sent as f64 / seconds };
        if self.quiet && (outcome.is_ok() || self.sent > 0) {
            output::print(&summary, self.global.output, self.terminal)?;
        }
        outcome.map_err(|failure| match self.sent {
            0 => failure,
            sent => Failure { what: format!("{} after {}", failure.what, messages(sent)), ..failure },
        })
    }
}

/// Waits between sends that the server is too busy for: 50 ms, 100 ms … 1.6 s, about 3 s in all.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(1_600);

async fn send(client: &mut Messaging, message: Message, global: &Global) -> Result<SendResultEntry, Failure> {
    let what = format!("cannot send to topic `{}`", message.topic.as_ref().map_or("", |topic| &topic.name));
    let ask = SendMessageRequest { messages: vec![message] };
    let mut pause = FIRST_PAUSE;
    let answer = loop {
        let answer = client.send_message(request(ask.clone(), global)).await.map_err(|status| Failure::from_grpc(&what, &status))?.into_inner();
        // Told to come back later, and nothing is stored: do so, as RocketMQ's clients do.
        let throttled = answer.status.as_ref().is_some_and(|status| status.code == Code::TooManyRequests as i32);
        if !throttled || pause > LAST_PAUSE {
            break answer;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    };
    // The entry is about the message; the status above it says the same unless there is no entry.
    let entry = answer.entries.into_iter().next();
    check_status(&what, entry.as_ref().and_then(|entry| entry.status.as_ref()).or(answer.status.as_ref()))?;
    entry.ok_or_else(|| Failure::new(Exit::Failed, what).because("the answer is OK but has no entry for the message"))
}

/// A message is stored.
#[derive(Serialize)]
struct Receipt {
    message_id: String,
    topic: String,
    offset: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    recall_handle: String,
}

impl Report for Receipt {
    fn table(&self) -> String {
        format!("{}  offset {}\n", self.message_id, self.offset)
    }
}

#[derive(Serialize)]
struct Summary {
    topic: String,
    messages: u64,
    bytes: u64,
    seconds: f64,
    messages_per_second: f64,
}

fn messages(count: u64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

impl Report for Summary {
    fn table(&self) -> String {
        let size = value::show_size(self.bytes);
        let took = value::show_duration(Duration::from_millis((self.seconds * 1e3) as u64));
        format!("sent {} ({size}) to `{}` in {took}, {:.0} a second\n", messages(self.messages), self.topic, self.messages_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_may_be_large() {
        assert_eq!((count("7"), count("100k"), count("2M")), (Ok(7), Ok(100_000), Ok(2_000_000)));
        assert!(count("0").is_err() && count("k").is_err() && count("1.5").is_err() && count("99999999999999999999").is_err());
    }
}
