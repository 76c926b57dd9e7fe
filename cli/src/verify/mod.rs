//! `gantry verify`: loads a cluster with every kind of message, while whoever wants breaks it, and then says which promises were broken. It
//! speaks only the public protocol, so it works against any RocketMQ 5 cluster whose topics and groups are named to it.
//!
//! Read in this order: this file (options and the course of a run), `history` (what is written down), `check` (what is a violation; a
//! pure function of a history), `gaps` (how long the cluster did not work), `report`; then how a run is made: `stage` (topics and groups),
//! `workload` (what is sent and what becomes of it), `run` and `recorder` (what everybody shares), `link` (a client and its server), `sending`
//! and `receiving`.

mod history;

mod check;
mod gaps;
mod report;

mod stage;
mod workload;

mod link;
mod recorder;
mod run;

mod receiving;
mod sending;

use crate::bench::stamp::STAMP_BYTES;
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::global::Global;
use crate::output;
use crate::produce;
use crate::terminal::Terminal;
use crate::value::{self, Rate};
use check::Broken;
use clap::{Args, Subcommand};
use gantry_model::limits::{BODY_MAX, INVISIBLE_MAX_MS, INVISIBLE_MIN_MS};
use gantry_platform::tasks::{self, Task};
use history::{Event, Header, History, Kind, Lane, Micros};
use link::Servers;
use recorder::{Counts, Recorder};
use report::Finding;
use run::{Flag, Run};
use stage::{Stage, Wish};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};
use workload::Workload;

pub const EXAMPLES: &str = "\
Examples:
  gantry verify                                                     every kind of message for 30 s
  gantry verify --server 10.0.0.1:8081 --server 10.0.0.2:8081 --duration 1h --history run.jsonl
  gantry verify --kinds fifo,transaction --rate 2k/s --messages 100k -o json
  gantry verify --topic normal=orders --topic fifo=steps --group billing --allow redelivered
  gantry verify check run.jsonl

A run makes topics and groups of its own through `--admin` and deletes them at the end, unless they broke a
promise. For a cluster without our admin service, such as Apache RocketMQ, name topics and groups that exist;
the topics should be empty, the groups new and used by nobody else.
A send, receive or acknowledgement that fails is tried again for as long as the run lasts: break what you like.
Exit code 0: every promise was kept; 6: one was broken; 5: the cluster was away at the end, so nobody knows.";
const CHECK_EXAMPLES: &str = "\
Examples:
  gantry verify check run.jsonl
  gantry verify check run.jsonl --allow redelivered -o json";

/// How often the run looks at itself and writes the history.
const TICK: Duration = Duration::from_millis(200);
/// Nothing more is expected after nothing came for this long and all is acknowledged.
const QUIET: Duration = Duration::from_secs(2);
/// Beyond it a run ends by itself, because the history is kept in memory: some 5 GiB.
const EVENTS_MAX: u64 = 40_000_000;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Verify {
    #[command(subcommand)]
    command: Option<VerifyCommand>,
    #[command(flatten)]
    load: Load,
}

#[derive(Debug, Subcommand)]
pub enum VerifyCommand {
    /// Check a history that `--history` wrote
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Check),
}

#[derive(Debug, Args)]
pub struct Check {
    /// The history
    file: PathBuf,
    /// Report violations of this kind, but don't fail for them; may be repeated
    #[arg(long, value_name = "KIND", value_enum)]
    allow: Vec<Broken>,
}

#[derive(Debug, Args)]
struct Load {
    /// A server of the cluster, written as the endpoint is; may be repeated [default: --endpoint]
    #[arg(long = "server", value_name = "ADDRESS")]
    servers: Vec<String>,
    /// Send for this long [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = value::duration, conflicts_with = "messages")]
    duration: Option<Duration>,
    /// Send this many messages
    #[arg(long, short = 'n', value_name = "N", value_parser = produce::count)]
    messages: Option<u64>,
    /// Messages a second of all lanes together
    #[arg(long, value_name = "RATE", value_parser = value::rate, default_value = "500/s")]
    rate: Rate,
    /// Kinds of messages, each on topics of its own
    #[arg(long, value_name = "KINDS", value_enum, value_delimiter = ',', default_value = "normal,fifo,delay,transaction,priority")]
    kinds: Vec<Kind>,
    /// Topics for each kind
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    topics: u16,
    /// Consumer groups; each gets every message
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
    groups: u16,
    /// Lanes for each topic: producers that wait for each answer before they send again, on a FIFO topic a message group each
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    lanes: u16,
    /// Consumers for each topic and group
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
    consumers: u16,
    /// Largest body
    #[arg(long, value_name = "SIZE", value_parser = value::size, default_value = "4KiB")]
    size: u64,
    /// How long others don't see a message that was received, 10s to 12h
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "10s")]
    invisible: Duration,
    /// Of 100 messages, how many are given back at their first delivery; on FIFO topics of 500
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=50))]
    nacks: u8,
    /// Of 100 messages, how many are forgotten at their first delivery until their lease is over; on FIFO topics of 500
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=50))]
    expiries: u8,
    /// Sends of a message under the same id, the first included, before its outcome counts as unknown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// Longest time to wait for the answer to one send or acknowledgement
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "3s")]
    send_timeout: Duration,
    /// At the end, give up when messages are missing and none comes for this long
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "60s")]
    drain: Duration,
    /// List every time in which a lane had no acknowledged send for longer than this
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "100ms")]
    gap: Duration,
    /// How far the clocks of this machine and of the servers may be apart; Apache RocketMQ needs 1s, as its timers are that coarse
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "200ms")]
    skew: Duration,
    /// Use this topic, such as fifo=orders, and make none; may be repeated
    #[arg(long = "topic", value_name = "KIND=NAME", value_parser = stage::named_topic, conflicts_with_all = ["kinds", "topics"])]
    named_topics: Vec<(Kind, String)>,
    /// Use this group and make none; may be repeated
    #[arg(long = "group", value_name = "NAME", conflicts_with = "groups")]
    named_groups: Vec<String>,
    /// Also write the history to this file, as JSON lines
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Report violations of this kind, but don't fail for them; may be repeated
    #[arg(long, value_name = "KIND", value_enum)]
    allow: Vec<Broken>,
}

pub async fn run(args: Verify, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    match args.command {
        Some(VerifyCommand::Check(check)) => check_file(check, global, terminal).await,
        None => verify(args.load, global, terminal).await,
    }
}

async fn check_file(args: Check, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let name = args.file.display();
    let text = tokio::fs::read_to_string(&args.file).await.map_err(|error| Failure::usage(format!("cannot read `{name}`")).because(error))?;
    let history = History::read(&text).map_err(|error| Failure::usage(format!("`{name}` is no history of `gantry verify`")).because(error))?;
    let finding = Finding::new(&history, &args.allow);
    output::print(&finding, global.output, terminal)?;
    finding.judgement()
}

async fn verify(load: Load, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    load.check()?;
    let run_id = clock::random_tag();
    let wish = Wish {
        run: run_id,
        kinds: &load.kinds,
        topics_of_each: load.topics,
        groups: load.groups,
        named_topics: &load.named_topics,
        named_groups: &load.named_groups,
    };
    stage::check(&wish)?;
    let stage = Stage::set(&wish, global).await?;
    let outcome = measure(&load, run_id, &stage, global, terminal).await;
    let finding = match outcome {
        Ok(history) => Finding::new(&history, &load.allow),
        Err(failure) => {
            let _ = stage.clear(global).await;
            return Err(failure);
        }
    };
    output::print(&finding, global.output, terminal)?;
    finding.judgement().map_err(|failure| if finding.is_clean() { failure } else { failure.hint(format!("look into {}", stage.names())) })?;
    // The verdict stands, whether or not the admin service is there just now.
    if let Err(failure) = stage.clear(global).await {
        terminal.note(failure.to_string())?;
    }
    Ok(())
}

impl Load {
    fn check(&self) -> Result<(), Failure> {
        let range = Duration::from_millis(INVISIBLE_MIN_MS)..=Duration::from_millis(INVISIBLE_MAX_MS);
        if !range.contains(&self.invisible) {
            return Err(
                Failure::usage(format!("`--invisible {}` is out of bounds", value::show_duration(self.invisible))).because("it must be 10s to 12h")
            );
        }
        if !(STAMP_BYTES as u64..=BODY_MAX as u64).contains(&self.size) {
            let allowed = format!("it must be {STAMP_BYTES} bytes, for the stamp that is checked, to {}", value::show_size(BODY_MAX as u64));
            return Err(Failure::usage(format!("`--size {}` is out of bounds", self.size)).because(allowed));
        }
        Ok(())
    }

    fn header(&self, run: u64, stage: &Stage) -> Header {
        let began = clock::wall();
        let began_ms = began.seconds as u64 * 1_000 + began.nanos as u64 / 1_000_000;
        let lanes = (0..stage.topics.len() as u16).flat_map(|topic| (0..self.lanes).map(move |_| Lane { topic }));
        Header {
            topics: stage.topics.clone(),
            groups: stage.groups.clone(),
            lanes: lanes.collect(),
            invisible: Micros::of(self.invisible),
            skew: Micros::of(self.skew),
            gap: Micros::of(self.gap),
            ..Header::new(run, value::show_timestamp(&began), began_ms)
        }
    }

    /// When sending ends by the clock.
    fn duration(&self) -> Option<Duration> {
        self.messages.is_none().then(|| self.duration.unwrap_or(Duration::from_secs(30)))
    }
}

/// A run from its first send to its last delivery.
async fn measure(load: &Load, run_id: u64, stage: &Stage, global: &Global, terminal: &mut Terminal) -> Result<History, Failure> {
    let addresses = if load.servers.is_empty() { std::slice::from_ref(&global.endpoint) } else { &load.servers[..] };
    let header = load.header(run_id, stage);
    let mut book = Book::open(load.history.as_ref(), &header).await?;
    let run = Arc::new(Run {
        workload: Workload { run: run_id, size: load.size as usize, nacks: load.nacks, expiries: load.expiries },
        recorder: Arc::new(Recorder::new(header.groups.len() as u16)),
        servers: Arc::new(Servers::new(addresses, global).await?),
        attempts: load.attempts,
        send_timeout: load.send_timeout,
        interval: Duration::from_secs_f64(header.lanes.len() as f64 / load.rate.per_second),
        messages: load.messages.unwrap_or(u64::MAX),
        producing: Flag::default(),
        consuming: Flag::default(),
        header,
    });
    let consumers = start_consumers(&run, load.consumers);
    let producers: Vec<Task> = (0..run.header.lanes.len() as u32).map(|lane| tasks::spawn("lane", sending::produce(run.clone(), lane))).collect();
    let outcome = tokio::select! {
        outcome = course(load, &run, producers, consumers, &mut book, terminal) => outcome,
        () = interrupted_twice(&run) => Err(Failure::new(Exit::Failed, "interrupted").because("the history is not complete, so nothing can be said")),
    };
    terminal.progress("")?;
    outcome?;
    book.write(&run.recorder).await?;
    Ok(History { header: run.header.clone(), events: run.recorder.take() })
}

fn start_consumers(run: &Arc<Run>, of_each: u16) -> Vec<Task> {
    let mut consumers = Vec::new();
    for topic in 0..run.header.topics.len() as u16 {
        for (group, _) in (0..run.header.groups.len() as u16).flat_map(|group| (0..of_each).map(move |number| (group, number))) {
            let place = receiving::Place { topic, group, number: consumers.len() };
            consumers.push(tasks::spawn("consumer", receiving::consume(run.clone(), place)));
        }
    }
    consumers
}

/// The first interrupt ends the sending, the second one the run.
async fn interrupted_twice(run: &Run) {
    for _ in 0..2 {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        run.producing.stop();
    }
}

/// Sends, drains, and waits for everybody.
async fn course(load: &Load, run: &Run, producers: Vec<Task>, consumers: Vec<Task>, book: &mut Book, terminal: &mut Terminal) -> Result<(), Failure> {
    let recorder = &run.recorder;
    while producers.iter().any(|lane| !lane.is_finished()) {
        let time_is_up = load.duration().is_some_and(|duration| recorder.now().duration() >= duration);
        if time_is_up || recorder.counts().events > EVENTS_MAX {
            run.producing.stop();
        }
        pause(run, "sending", book, terminal).await?;
    }
    join(producers).await?;
    let stopped = recorder.now();
    recorder.add(Event::Stopped { at: stopped });
    let mut drain = Drain { limit: load.drain, lease: load.invisible, changed: stopped, before: recorder.counts() };
    while !drain.is_over(recorder.counts(), recorder.now()) {
        pause(run, "draining", book, terminal).await?;
    }
    run.consuming.stop();
    join(consumers).await?;
    recorder.add(Event::Drained { at: recorder.now() });
    Ok(())
}

async fn pause(run: &Run, doing: &str, book: &mut Book, terminal: &mut Terminal) -> Result<(), Failure> {
    tokio::time::sleep(TICK).await;
    book.write(&run.recorder).await?;
    let (counts, now) = (run.recorder.counts(), run.recorder.now());
    let since = value::show_duration(Duration::from_millis(now.since(counts.latest_ack).0 / 100_000 * 100));
    terminal.progress(&format!(
        "{doing}, {}: {} sends acknowledged (the latest {since} ago), {} not; {} deliveries, {} messages missing, {} open",
        value::show_duration(Duration::from_secs(now.duration().as_secs())),
        counts.acked_sends,
        counts.failed_sends,
        counts.deliveries,
        counts.missing,
        counts.open
    ))?;
    Ok(())
}

async fn join(workers: Vec<Task>) -> Result<(), Failure> {
    for worker in workers {
        worker.join().await.map_err(|error| Failure::new(Exit::Failed, "a part of the run broke off").because(error))?;
    }
    Ok(())
}

/// When the consumers have done all they can.
struct Drain {
    limit: Duration,
    lease: Duration,
    changed: Micros,
    before: Counts,
}

impl Drain {
    fn is_over(&mut self, counts: Counts, now: Micros) -> bool {
        if (counts.missing, counts.open, counts.deliveries) != (self.before.missing, self.before.open, self.before.deliveries) {
            (self.changed, self.before) = (now, counts);
        }
        let quiet = now.since(self.changed).duration();
        match (counts.missing, counts.open) {
            (0, 0) => quiet >= QUIET,
            // Acknowledged without an answer: it comes again after its lease, or it is done.
            (0, _) => quiet >= self.lease * 2,
            (_, _) => quiet >= self.limit.max(self.lease * 2),
        }
    }
}

/// The file of the history, if one is wanted.
struct Book {
    file: Option<BufWriter<File>>,
    written: usize,
}

impl Book {
    async fn open(path: Option<&PathBuf>, header: &Header) -> Result<Book, Failure> {
        let Some(path) = path else { return Ok(Book { file: None, written: 0 }) };
        let failed = |error: std::io::Error| Failure::usage(format!("cannot write `{}`", path.display())).because(error);
        let mut file = BufWriter::new(File::create(path).await.map_err(failed)?);
        file.write_all(history::line(header).as_bytes()).await.map_err(failed)?;
        Ok(Book { file: Some(file), written: 0 })
    }

    /// Writes what is new.
    async fn write(&mut self, recorder: &Recorder) -> Result<(), Failure> {
        let Some(file) = &mut self.file else { return Ok(()) };
        for event in recorder.since(self.written) {
            file.write_all(history::line(&event).as_bytes()).await?;
            self.written += 1;
        }
        Ok(file.flush().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_waits_for_what_must_come_and_not_for_ever() {
        let (limit, lease) = (Duration::from_secs(60), Duration::from_secs(10));
        let counts = |missing, open, deliveries| Counts { missing, open, deliveries, ..Default::default() };
        let second = |second: u64| Micros(second * 1_000_000);
        let mut drain = Drain { limit, lease, changed: second(100), before: counts(5, 9, 50) };
        assert!(!drain.is_over(counts(5, 9, 50), second(159)));
        assert!(!drain.is_over(counts(5, 9, 51), second(160)), "something came");
        assert!(!drain.is_over(counts(5, 9, 51), second(219)));
        assert!(drain.is_over(counts(5, 9, 51), second(220)));
        assert!(!drain.is_over(counts(0, 2, 60), second(221)));
        assert!(!drain.is_over(counts(0, 2, 60), second(240)));
        assert!(drain.is_over(counts(0, 2, 60), second(241)));
        assert!(!drain.is_over(counts(0, 0, 61), second(242)));
        assert!(drain.is_over(counts(0, 0, 61), second(244)));
    }
}
