//! What a run found, as a table and as JSON of a stable form (`schema_version` grows when a field changes its meaning).

use super::phase::{Outcome, Timings};
use super::place::{Kind, Place};
use super::process::Sample;
use super::stamp::Verification;
use super::{Scenario, Settings};
use crate::failure::{Exit, Failure};
use crate::output::{Report, Table};
use crate::value;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// The result of a run.
#[derive(Debug, Serialize)]
pub struct RunReport {
    schema_version: u32,
    gantry_version: &'static str,
    scenario: Scenario,
    /// `gantry`, or `floor` for the empty handler.
    target: &'static str,
    endpoint: String,
    settings: Settings,
    /// From the end of the warm-up to the last answer.
    seconds: f64,
    /// The whole run with connecting, warm-up and loading.
    total_seconds: f64,
    produce: Option<Calls>,
    /// How much later than due open-loop sends began.
    start_delay: Option<Latency>,
    receive: Option<Calls>,
    ack: Option<Calls>,
    /// From the time a send was due to the arrival of the message.
    end_to_end: Option<Latency>,
    empty_polls: u64,
    errors: u64,
    first_error: Option<String>,
    server: Option<ProcessUse>,
    client: Option<ProcessUse>,
    verification: Option<Verification>,
}

/// Calls of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Calls {
    pub messages: u64,
    pub calls: u64,
    pub seconds: f64,
    pub messages_per_second: f64,
    pub mebibytes_per_second: f64,
    pub latency: Latency,
}

impl Calls {
    /// None when there was no such call.
    pub fn new(timings: &Timings, since: u64, size: u64) -> Option<Calls> {
        if timings.messages == 0 {
            return None;
        }
        let seconds = timings.last.saturating_sub(since).max(1) as f64 / 1e9;
        let messages_per_second = timings.messages as f64 / seconds;
        let mebibytes_per_second = messages_per_second * size as f64 / f64::from(1 << 20);
        let latency = Latency::new(&timings.nanos)?;
        Some(Calls { messages: timings.messages, calls: timings.nanos.len(), seconds, messages_per_second, mebibytes_per_second, latency })
    }
}

/// How long something took, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

impl Latency {
    /// None when nothing was recorded.
    pub fn new(nanos: &Histogram<u64>) -> Option<Latency> {
        let at = |quantile: f64| nanos.value_at_quantile(quantile) as f64 / 1e3;
        let mean_us = nanos.mean() / 1e3;
        let max_us = nanos.max() as f64 / 1e3;
        (!nanos.is_empty()).then(|| Latency { mean_us, p50_us: at(0.5), p90_us: at(0.9), p99_us: at(0.99), p999_us: at(0.999), max_us })
    }

    fn cells(&self) -> [String; 5] {
        [self.p50_us, self.p90_us, self.p99_us, self.p999_us, self.max_us].map(show_us)
    }
}

/// Three digits or so: `87 µs`, `1.25 ms`, `2.01 s`.
pub fn show_us(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e4 => format!("{:.2} ms", us / 1e3),
        us if us < 1e6 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// What a process used between two looks.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessUse {
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    cpu_seconds: f64,
    cpu_percent: f64,
    /// Absent when there were no messages.
    cpu_us_per_message: Option<f64>,
    cpu_seconds_per_million_messages: Option<f64>,
    /// Before the connections of the measured phase were made.
    rss_bytes_unconnected: Option<u64>,
    rss_bytes_before: u64,
    rss_bytes_after: u64,
    rss_bytes_most: u64,
}

impl ProcessUse {
    fn new(pid: Option<u32>, before: Sample, after: Sample, most: u64, seconds: f64, messages: u64) -> ProcessUse {
        let cpu = after.cpu_since(&before).as_secs_f64();
        let per_message = (messages > 0).then(|| cpu * 1e6 / messages as f64);
        ProcessUse {
            pid,
            cpu_seconds: cpu,
            cpu_percent: cpu / seconds.max(1e-9) * 100.0,
            cpu_us_per_message: per_message,
            // Microseconds a message and seconds a million messages are the same number.
            cpu_seconds_per_million_messages: per_message,
            rss_bytes_unconnected: None,
            rss_bytes_before: before.rss_bytes,
            rss_bytes_after: after.rss_bytes,
            rss_bytes_most: most,
        }
    }

    fn words(&self) -> String {
        let size = value::show_size;
        let each = self.cpu_us_per_message.map(|us| format!("{us:.2} µs a message ({us:.2} s a million), ")).unwrap_or_default();
        let unconnected = self.rss_bytes_unconnected.map(|bytes| format!("{} unconnected, ", size(bytes))).unwrap_or_default();
        let memory =
            format!("memory {unconnected}{} to {}, at most {}", size(self.rss_bytes_before), size(self.rss_bytes_after), size(self.rss_bytes_most));
        format!("{each}{:.2} s CPU ({:.0} %), {memory}", self.cpu_seconds, self.cpu_percent)
    }
}

impl RunReport {
    pub fn new(
        scenario: Scenario,
        place: &Place,
        settings: &Settings,
        outcome: &Outcome,
        verification: Option<Verification>,
        total: Duration,
    ) -> RunReport {
        let tally = &outcome.tally;
        let calls = |timings: &Timings| Calls::new(timings, outcome.since, settings.size_bytes);
        let messages = tally.send.messages.max(tally.receive.messages);
        let server = outcome.server.map(|(before, after, most)| ProcessUse {
            rss_bytes_unconnected: outcome.unconnected,
            ..ProcessUse::new(place.pid, before, after, most, outcome.seconds, messages)
        });
        let own = outcome
            .client
            .map(|(before, after)| ProcessUse::new(None, before, after, after.rss_bytes.max(before.rss_bytes), outcome.seconds, messages));
        RunReport {
            schema_version: 1,
            gantry_version: env!("CARGO_PKG_VERSION"),
            scenario,
            target: if place.kind == Kind::Floor { "floor" } else { "gantry" },
            endpoint: place.global.endpoint.clone(),
            settings: settings.clone(),
            seconds: outcome.seconds,
            total_seconds: total.as_secs_f64(),
            produce: calls(&tally.send),
            start_delay: Latency::new(&tally.late.nanos),
            receive: calls(&tally.receive),
            ack: calls(&tally.ack),
            end_to_end: Latency::new(&tally.end_to_end.nanos).filter(|_| scenario == Scenario::EndToEnd),
            empty_polls: tally.empty_polls,
            errors: outcome.errors,
            first_error: outcome.first_error.clone(),
            server,
            client: own,
            verification,
        }
    }

    /// Fails when messages were lost or damaged, came out of order though they must not, or calls failed.
    pub fn verdict(&self) -> Result<(), Failure> {
        if let Some(check) = &self.verification {
            if check.lost > 0 || check.corrupt > 0 {
                let what = format!("{} of {} confirmed messages were lost, {} corrupt", check.lost, check.confirmed, check.corrupt);
                return Err(Failure::new(Exit::Failed, what).hint("keep the server's data folder and log, and report this with the JSON of `--save`"));
            }
            if self.settings.fifo && check.reordered > 0 {
                return Err(Failure::new(Exit::Failed, format!("{} messages came out of order within their message group", check.reordered)));
            }
        }
        if self.errors > 0 {
            let failure = Failure::new(Exit::Failed, format!("{} calls failed", self.errors));
            return Err(failure.because(self.first_error.as_deref().unwrap_or("nobody noted why")));
        }
        Ok(())
    }

    fn setting(&self) -> String {
        let settings = &self.settings;
        if self.scenario == Scenario::Idle {
            return format!("{} connections, {} polls on each, {}", settings.connections, settings.polls, self.endpoint);
        }
        let loop_kind = match settings.rate_per_second {
            Some(rate) => format!("open loop at {}/s", value::trim(rate)),
            None => format!("{} in flight", settings.in_flight),
        };
        let order = if settings.fifo { ", FIFO" } else { "" };
        format!("{} connections, {loop_kind}, {} bodies{order}, {}", settings.connections, value::show_size(settings.size_bytes), self.endpoint)
    }
}

impl Report for RunReport {
    fn table(&self) -> String {
        let mut text = format!("{}: {}\n\n", self.target, self.setting());
        let mut table = Table::new(&["", ">MESSAGES", ">PER SECOND", ">MiB/s", ">p50", ">p90", ">p99", ">p99.9", ">MAX"]);
        for (name, calls) in [("send", &self.produce), ("receive", &self.receive), ("ack", &self.ack)] {
            if let Some(calls) = calls {
                let numbers = [calls.messages.to_string(), format!("{:.0}", calls.messages_per_second), format!("{:.1}", calls.mebibytes_per_second)];
                table.row([name.to_owned()].into_iter().chain(numbers).chain(calls.latency.cells()));
            }
        }
        for (name, latency) in [("end to end", &self.end_to_end), ("start delay", &self.start_delay)] {
            if let Some(latency) = latency {
                table.row([name.to_owned(), String::new(), String::new(), String::new()].into_iter().chain(latency.cells()));
            }
        }
        if self.scenario != Scenario::Idle {
            text.push_str(&format!("{}\n", table.render()));
        }
        let mut pairs = vec![("measured", format!("{:.2} s", self.seconds))];
        pairs.push((
            "server",
            self.server.as_ref().map_or_else(|| "not on this machine, or not named by `--server-pid`".to_owned(), ProcessUse::words),
        ));
        pairs.extend(self.client.as_ref().map(|client| ("generator", client.words())));
        pairs.extend((self.empty_polls > 0).then(|| ("empty polls", self.empty_polls.to_string())));
        pairs.extend(self.verification.as_ref().map(|check| ("check", check_words(check))));
        let error = self.first_error.as_deref().unwrap_or("none");
        pairs.extend((self.errors > 0).then(|| ("errors", format!("{}, the first: {error}", self.errors))));
        format!("{text}{}", Table::of_pairs(pairs).render())
    }
}

fn check_words(check: &Verification) -> String {
    let Verification { confirmed, received, lost, unconfirmed, duplicated, reordered, corrupt, foreign } = check;
    let main = format!("{confirmed} confirmed, {received} received, {lost} lost, {duplicated} duplicated, {reordered} reordered, {corrupt} corrupt");
    let rare = [(unconfirmed, "not confirmed"), (foreign, "of other runs")];
    rare.iter().filter(|(count, _)| **count > 0).fold(main, |text, (count, name)| format!("{text}, {count} {name}"))
}
