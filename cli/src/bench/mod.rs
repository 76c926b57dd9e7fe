//! `gantry bench`: loads a server and tells what it cost. Read in this order: this file (options and scenarios), `phase` (one measured
//! stretch of work), `load` (what a connection does), `traffic` (what its messages are like), `wire` (its calls, lean enough not to be
//! what is measured), `schedule` (open-loop sending without coordinated omission), `stamp` (is every message there, once, whole?),
//! `process` (CPU time and memory of the server), `report`, and at last `cost` with the two comparisons: `floor` and `compare` (the same
//! load on an empty handler: what any gRPC server would cost) and `kinds` (what each kind of message costs beside the plain one).

mod phase;

mod load;
mod schedule;
pub(crate) mod stamp;
mod traffic;
mod wire;

mod process;
mod report;

mod compare;
mod cost;
pub(crate) mod floor;
mod kinds;
mod place;

#[cfg(test)]
mod tests;

pub use floor::{BenchFloor, serve as serve_floor};

use crate::connect::Address;
use crate::failure::{Exit, Failure};
use crate::global::Global;
use crate::output;
use crate::produce;
use crate::terminal::Terminal;
use crate::value::{self, Rate};
use clap::{Args, ValueEnum};
use gantry_model::limits::{BODY_MAX, RECEIVE_BATCH_MAX};
use gantry_platform::{Clock, SystemClock};
use phase::{Job, Outcome, Phase};
use place::Place;
use report::RunReport;
use serde::Serialize;
use stamp::{Confirmed, STAMP_BYTES, Verification};
use std::path::PathBuf;
use std::time::Duration;
use traffic::Traffic;

pub const EXAMPLES: &str = "\
Examples:
  gantry bench                                            end to end for 10 s, on a topic of its own
  gantry bench --scenario produce --messages 1M --connections 8
  gantry bench --scenario produce --rate 20k/s --duration 60s --save produce.json
  gantry bench --scenario consume --messages 200k
  gantry bench --scenario idle --connections 1000 --duration 30s
  gantry bench --compare-floor --messages 50k --rounds 5
  gantry bench --compare-kinds --messages 100k --save kinds.json

Latency of --rate is measured from the time a send was due, not from the time it began, so a
server that stalls cannot hide the sends that waited for it.";

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// Send
    Produce,
    /// Send first, unmeasured; then receive and acknowledge
    Consume,
    /// Send, receive and acknowledge at the same time
    EndToEnd,
    /// Only wait for messages that never come
    Idle,
}

/// How messages are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AckStyle {
    /// One call per message, as RocketMQ's clients do
    Each,
    /// One call per batch received
    Batch,
}

#[derive(Debug, Args)]
pub struct Bench {
    /// What to do
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Scenario::EndToEnd)]
    scenario: Scenario,
    /// Connections that send, and as many that receive
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// Sends, or acknowledgements, on their way at the same time on each connection
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    in_flight: u32,
    /// Receive calls waiting at the same time on each connection
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    polls: u32,
    /// Bytes of a body
    #[arg(long, value_name = "SIZE", value_parser = value::size, default_value = "1KiB")]
    size: u64,
    /// Messages of one receive call
    #[arg(long, value_name = "N", default_value_t = RECEIVE_BATCH_MAX, value_parser = clap::value_parser!(u32).range(1..=32))]
    batch: u32,
    /// End after this many messages [default for consume: 100k, --compare-floor: 50k, --compare-kinds: 20k of each]
    #[arg(long, short = 'n', value_name = "N", value_parser = produce::count, conflicts_with = "duration")]
    messages: Option<u64>,
    /// End after this time [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    duration: Option<Duration>,
    /// Don't measure before this time [default: 1s with --duration, else 0s]
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    warmup: Option<Duration>,
    /// Open loop: begin sends at this rate, whether or not earlier ones are answered
    #[arg(long, value_name = "RATE", value_parser = value::rate)]
    rate: Option<Rate>,
    /// How to acknowledge
    #[arg(long, value_name = "STYLE", value_enum, default_value_t = AckStyle::Each)]
    ack: AckStyle,
    /// Give each producer a message group and check the order
    #[arg(long, conflicts_with = "rate")]
    fifo: bool,
    /// Threads of the load generator
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Use this topic, and keep it [default: one of its own, deleted at the end]
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// Use this group, and keep it [default: one of its own, deleted at the end]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// End when messages are missing and none comes for this long
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "30s")]
    drain: Duration,
    /// Process to watch [default: the one that listens at --endpoint, if it is on this machine]
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Also write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Load an empty handler instead of the server
    #[arg(long, conflicts_with_all = ["topic", "group", "server_pid", "comparison"])]
    floor: bool,
    /// Load the server and an empty handler by turns, and compare their CPU time
    #[arg(long, group = "comparison", conflicts_with_all = ["scenario", "duration", "rate", "warmup", "fifo", "topic", "group"])]
    compare_floor: bool,
    /// Load the server with every kind of message by turns, and compare its CPU time with that of plain messages
    #[arg(long, group = "comparison", conflicts_with_all = ["scenario", "duration", "rate", "warmup", "fifo", "topic", "group"])]
    compare_kinds: bool,
    /// Turns of a comparison
    #[arg(long, value_name = "N", default_value_t = 3, requires = "comparison", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// What a run does, with all defaults filled in; part of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    connections: u32,
    in_flight: u32,
    polls: u32,
    size_bytes: u64,
    batch: u32,
    messages: Option<u64>,
    duration_seconds: Option<f64>,
    warmup_seconds: f64,
    rate_per_second: Option<f64>,
    ack: AckStyle,
    fifo: bool,
    threads: u32,
    #[serde(skip)]
    drain: Duration,
    #[serde(skip)]
    traffic: Traffic,
}

impl Settings {
    fn new(args: &Bench) -> Result<Settings, Failure> {
        if !(STAMP_BYTES as u64..=BODY_MAX as u64).contains(&args.size) {
            let allowed = format!("it must be {STAMP_BYTES} bytes, for the stamp that is checked, to {}", value::show_size(BODY_MAX as u64));
            return Err(Failure::usage(format!("`--size {}` is out of bounds", args.size)).because(allowed));
        }
        let compares = args.compare_floor || args.compare_kinds;
        let counted = compares || args.scenario == Scenario::Consume;
        if counted && args.duration.is_some() {
            return Err(Failure::usage("`--duration` does not go with `--scenario consume`")
                .because("what is sent first must be counted")
                .hint("use `--messages N`"));
        }
        if args.scenario == Scenario::Idle && (args.messages.is_some() || args.floor) {
            return Err(Failure::usage("`--scenario idle` goes with `--duration` only").because("nothing is sent, and the empty handler never waits"));
        }
        let usual = match (args.compare_floor, args.compare_kinds) {
            (true, _) => 50_000,
            (_, true) => 20_000,
            _ => 100_000,
        };
        let messages = args.messages.or(counted.then_some(usual));
        let duration = if messages.is_some() { None } else { Some(args.duration.unwrap_or(Duration::from_secs(10))) };
        let warmup = args.warmup.unwrap_or(if duration.is_some() { Duration::from_secs(1) } else { Duration::ZERO });
        Ok(Settings {
            connections: args.connections,
            in_flight: args.in_flight,
            polls: args.polls,
            size_bytes: args.size,
            batch: args.batch,
            messages,
            duration_seconds: duration.map(|time| time.as_secs_f64()),
            warmup_seconds: warmup.as_secs_f64(),
            rate_per_second: args.rate.map(|rate| rate.per_second),
            ack: args.ack,
            fifo: args.fifo,
            threads: args.threads,
            drain: args.drain,
            traffic: if args.fifo { Traffic::Fifo { message_groups: args.connections * args.in_flight } } else { Traffic::Normal },
        })
    }

    /// Sends that are on their way at the same time; each comes from a producer of its own.
    fn producers(&self) -> u32 {
        self.connections * self.in_flight
    }

    fn duration(&self) -> Option<Duration> {
        self.duration_seconds.map(Duration::from_secs_f64)
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup_seconds)
    }
}

pub async fn run(args: Bench, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let settings = Settings::new(&args)?;
    if args.compare_floor {
        return compare::run(&args, &settings, global, terminal).await;
    }
    if args.compare_kinds {
        return kinds::run(&args, &settings, global, terminal).await;
    }
    let child = if args.floor { Some(floor::Child::start(&settings).await?) } else { None };
    let place = match &child {
        Some(child) => child.place(global),
        None => Place::prepare(args.topic.as_deref(), args.group.as_deref(), server_pid(&args, global).await?, global).await?,
    };
    // The topic and the group that were made for this run are deleted however it ends.
    let outcome = tokio::select! {
        outcome = measure(args.scenario, &place, &settings, terminal) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Failed, "interrupted")),
    };
    let cleaned = place.clean_up().await;
    let report = outcome?;
    if let Some(file) = &args.save {
        save(&report, file).await?;
    }
    output::print(&report, global.output, terminal)?;
    cleaned?;
    report.verdict()
}

/// Writes a report beside what is printed.
async fn save(report: &impl Serialize, file: &PathBuf) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(report).map_err(std::io::Error::from)?;
    text.push(b'\n');
    tokio::fs::write(file, text).await.map_err(|error| Failure::new(Exit::Failed, format!("cannot write `{}`", file.display())).because(error))
}

/// The process to watch: the one named, or the one that listens at the endpoint on this machine.
async fn server_pid(args: &Bench, global: &Global) -> Result<Option<u32>, Failure> {
    if let Some(pid) = args.server_pid {
        let known = process::sample(pid).await;
        return known.map(|_| Some(pid)).ok_or_else(|| Failure::usage(format!("there is no process {pid}")));
    }
    let address = Address::parse(&global.endpoint, global.tls)?;
    let local = address.host == "localhost" || address.host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    Ok(if local { process::listener(address.port).await } else { None })
}

/// The process to measure, for what cannot do without.
async fn needed_pid(args: &Bench, global: &Global) -> Result<u32, Failure> {
    let failure = || Failure::usage("there is no server process to measure").because("its CPU time is read on this machine");
    let pid = server_pid(args, global).await?;
    pid.ok_or_else(|| failure().hint("start `gantry server` here, or name it by `--server-pid`"))
}

/// Runs one scenario.
async fn measure(scenario: Scenario, place: &Place, settings: &Settings, terminal: &mut Terminal) -> Result<RunReport, Failure> {
    let clock = SystemClock::new();
    let producers = || (0..settings.connections).map(|_| Job::Produce);
    let consumers = || (0..settings.connections).map(|_| Job::Consume);
    let (outcome, confirmed) = match scenario {
        Scenario::Produce => {
            let outcome = Phase::new("produce", place, settings, producers().collect()).run(terminal).await?;
            (outcome, None)
        }
        Scenario::Consume => {
            let loading = Settings { warmup_seconds: 0.0, rate_per_second: None, ..settings.clone() };
            let loaded = Phase::new("load", place, &loading, producers().collect()).run(terminal).await?;
            let confirmed = loaded.tally.confirmed;
            // An empty handler gives any number of messages.
            let expected = if place.is_floor() { settings.messages.unwrap_or_default() } else { confirmed.count() };
            let outcome = Phase::new("consume", place, settings, consumers().collect()).expecting(expected).run(terminal).await?;
            (outcome, Some(confirmed))
        }
        Scenario::EndToEnd => {
            let outcome = Phase::new("end to end", place, settings, producers().chain(consumers()).collect()).run(terminal).await?;
            let confirmed = outcome.tally.confirmed.clone();
            (outcome, Some(confirmed))
        }
        Scenario::Idle => {
            let jobs = (0..settings.connections).map(|_| Job::Wait).collect();
            (Phase::new("idle", place, settings, jobs).run(terminal).await?, None)
        }
    };
    let verification = confirmed.filter(|_| !place.is_floor()).map(|confirmed| verify(&confirmed, &outcome));
    Ok(RunReport::new(scenario, place, settings, &outcome, verification, clock.mono()))
}

fn verify(confirmed: &Confirmed, outcome: &Outcome) -> Verification {
    outcome.ledger.compare(confirmed)
}
