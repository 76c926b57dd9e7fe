//! What the edge counts, and how it is written for Prometheus.
//!
//! Counting costs a few relaxed additions: every rpc and every code it may answer has its place in a table made at the start. Names begin
//! with `gantry_`.

use crate::quota::Throttled;
use crate::status::codes;
use gantry_model::contract::broker::{ShardCondition, ShardStatus};
use gantry_proto::v2::Code;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// The rpcs of the messaging service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpc {
    QueryRoute,
    Heartbeat,
    SendMessage,
    QueryAssignment,
    ReceiveMessage,
    AckMessage,
    ForwardMessageToDeadLetterQueue,
    PullMessage,
    UpdateOffset,
    GetOffset,
    QueryOffset,
    EndTransaction,
    Telemetry,
    NotifyClientTermination,
    ChangeInvisibleDuration,
    RecallMessage,
    SyncLiteSubscription,
}

impl Rpc {
    pub const ALL: [Rpc; 17] = [
        Rpc::QueryRoute,
        Rpc::Heartbeat,
        Rpc::SendMessage,
        Rpc::QueryAssignment,
        Rpc::ReceiveMessage,
        Rpc::AckMessage,
        Rpc::ForwardMessageToDeadLetterQueue,
        Rpc::PullMessage,
        Rpc::UpdateOffset,
        Rpc::GetOffset,
        Rpc::QueryOffset,
        Rpc::EndTransaction,
        Rpc::Telemetry,
        Rpc::NotifyClientTermination,
        Rpc::ChangeInvisibleDuration,
        Rpc::RecallMessage,
        Rpc::SyncLiteSubscription,
    ];

    /// The rpc that the last part of a request path names.
    pub fn named(name: &str) -> Option<Rpc> {
        Rpc::ALL.into_iter().find(|rpc| rpc.name() == name)
    }

    /// As in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Rpc::QueryRoute => "QueryRoute",
            Rpc::Heartbeat => "Heartbeat",
            Rpc::SendMessage => "SendMessage",
            Rpc::QueryAssignment => "QueryAssignment",
            Rpc::ReceiveMessage => "ReceiveMessage",
            Rpc::AckMessage => "AckMessage",
            Rpc::ForwardMessageToDeadLetterQueue => "ForwardMessageToDeadLetterQueue",
            Rpc::PullMessage => "PullMessage",
            Rpc::UpdateOffset => "UpdateOffset",
            Rpc::GetOffset => "GetOffset",
            Rpc::QueryOffset => "QueryOffset",
            Rpc::EndTransaction => "EndTransaction",
            Rpc::Telemetry => "Telemetry",
            Rpc::NotifyClientTermination => "NotifyClientTermination",
            Rpc::ChangeInvisibleDuration => "ChangeInvisibleDuration",
            Rpc::RecallMessage => "RecallMessage",
            Rpc::SyncLiteSubscription => "SyncLiteSubscription",
        }
    }
}

/// Upper bounds of the latency buckets, in microseconds: from a call that touches nothing to one at the end of its patience.
const BOUNDS_US: [u64; 14] = [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 3_000_000, 20_000_000];

#[derive(Debug, Default)]
struct Latency {
    buckets: [AtomicU64; BOUNDS_US.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

#[derive(Debug)]
struct Calls {
    /// In the order of `status::codes`.
    by_code: Vec<AtomicU64>,
    latency: Latency,
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more for as long as the answer lives.
    pub fn hold(&self) -> Held<'_> {
        self.add(1);
        Held(self)
    }
}

/// Counts in a gauge until it is dropped.
#[derive(Debug)]
pub struct Held<'a>(&'a Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything that this proxy counts.
#[derive(Debug)]
pub struct Metrics {
    calls: Vec<Calls>,
    pub connections: Gauge,
    pub connections_refused: Counter,
    pub tls_handshakes_failed: Counter,
    pub open_polls: Gauge,
    pub decode_bytes: Gauge,
    pub messages_sent: Counter,
    pub bytes_sent: Counter,
    pub messages_delivered: Counter,
    pub bytes_delivered: Counter,
    /// Deliveries that did not reach their client and were given back.
    pub messages_returned: Counter,
    pub invalid_handles: Counter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let calls = |rpc: &Rpc| Calls { by_code: codes(*rpc).iter().map(|_| AtomicU64::new(0)).collect(), latency: Latency::default() };
        Metrics {
            calls: Rpc::ALL.iter().map(calls).collect(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            tls_handshakes_failed: Counter::default(),
            open_polls: Gauge::default(),
            decode_bytes: Gauge::default(),
            messages_sent: Counter::default(),
            bytes_sent: Counter::default(),
            messages_delivered: Counter::default(),
            bytes_delivered: Counter::default(),
            messages_returned: Counter::default(),
            invalid_handles: Counter::default(),
        }
    }
}

impl Metrics {
    /// Counts an answer.
    pub fn answered(&self, rpc: Rpc, code: Code, took: Duration) {
        let calls = &self.calls[rpc as usize];
        let place = codes(rpc).iter().position(|known| *known == code);
        debug_assert!(place.is_some(), "`{}` answered {code:?}, which `status::codes` does not list", rpc.name());
        if let Some(place) = place {
            calls.by_code[place].fetch_add(1, Ordering::Relaxed);
        }
        let us = took.as_micros() as u64;
        if let Some(bucket) = BOUNDS_US.iter().position(|bound| us <= *bound) {
            calls.latency.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        calls.latency.count.fetch_add(1, Ordering::Relaxed);
        calls.latency.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Calls that were answered with this code.
    pub fn count(&self, rpc: Rpc, code: Code) -> u64 {
        let place = codes(rpc).iter().position(|known| *known == code);
        place.map_or(0, |place| self.calls[rpc as usize].by_code[place].load(Ordering::Relaxed))
    }

    /// The text that Prometheus reads.
    pub fn render(&self, sessions: usize, streams: usize, shards: &[ShardStatus]) -> String {
        let mut out = String::with_capacity(16 * 1024);
        self.render_calls(&mut out);
        for (name, help, value) in [
            ("gantry_connections", "Open connections of clients.", self.connections.get()),
            ("gantry_open_polls", "Receive calls that wait for messages.", self.open_polls.get()),
            ("gantry_decode_bytes", "Bytes of requests that are being read or worked on.", self.decode_bytes.get()),
            ("gantry_sessions", "Clients seen lately.", sessions as i64),
            ("gantry_telemetry_streams", "Open Telemetry streams.", streams as i64),
        ] {
            single(&mut out, name, "gauge", help, value);
        }
        for (name, help, counter) in [
            ("gantry_connections_refused_total", "Connections closed because too many were open.", &self.connections_refused),
            ("gantry_tls_handshakes_failed_total", "TLS handshakes that did not succeed in time.", &self.tls_handshakes_failed),
            ("gantry_messages_sent_total", "Messages stored for producers.", &self.messages_sent),
            ("gantry_sent_bytes_total", "Body bytes of messages stored for producers.", &self.bytes_sent),
            ("gantry_messages_delivered_total", "Messages written to consumers.", &self.messages_delivered),
            ("gantry_delivered_bytes_total", "Body bytes of messages written to consumers.", &self.bytes_delivered),
            ("gantry_messages_returned_total", "Messages given back because their consumer went away.", &self.messages_returned),
            ("gantry_invalid_handles_total", "Receipt handles that were forged, damaged or of another topic or group.", &self.invalid_handles),
        ] {
            single(&mut out, name, "counter", help, counter.get() as i64);
        }
        render_shards(&mut out, shards);
        out
    }

    fn render_calls(&self, out: &mut String) {
        head(out, "gantry_rpcs_total", "counter", "Calls answered, by rpc and code.");
        for rpc in Rpc::ALL {
            for (code, count) in codes(rpc).iter().zip(&self.calls[rpc as usize].by_code) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    line(out, format_args!("gantry_rpcs_total{{rpc=\"{}\",code=\"{}\"}} {count}", rpc.name(), *code as i32));
                }
            }
        }
        head(out, "gantry_rpc_duration_seconds", "histogram", "Time from a decoded request to its answer; for ReceiveMessage to the first message.");
        for rpc in Rpc::ALL {
            let latency = &self.calls[rpc as usize].latency;
            let count = latency.count.load(Ordering::Relaxed);
            if count == 0 {
                continue;
            }
            let mut below = 0;
            for (bound, bucket) in BOUNDS_US.iter().zip(&latency.buckets) {
                below += bucket.load(Ordering::Relaxed);
                let le = *bound as f64 / 1e6;
                line(out, format_args!("gantry_rpc_duration_seconds_bucket{{rpc=\"{}\",le=\"{le}\"}} {below}", rpc.name()));
            }
            line(out, format_args!("gantry_rpc_duration_seconds_bucket{{rpc=\"{}\",le=\"+Inf\"}} {count}", rpc.name()));
            let sum = latency.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
            line(out, format_args!("gantry_rpc_duration_seconds_sum{{rpc=\"{}\"}} {sum}", rpc.name()));
            line(out, format_args!("gantry_rpc_duration_seconds_count{{rpc=\"{}\"}} {count}", rpc.name()));
        }
    }
}

/// A number of a shard's status.
type Read = fn(&ShardStatus) -> u64;

fn render_shards(out: &mut String, shards: &[ShardStatus]) {
    let numbers: [(&str, &str, &str, Read); 11] = [
        ("gantry_shard_ready", "gauge", "1 while the shard takes sends.", |shard| u64::from(shard.condition == ShardCondition::Ready)),
        ("gantry_shard_failed", "gauge", "1 when the disk of the shard failed; the process must restart.", |shard| {
            u64::from(shard.condition == ShardCondition::Failed)
        }),
        ("gantry_shard_epoch", "gauge", "The reign of the present leader.", |shard| u64::from(shard.epoch)),
        ("gantry_shard_log_bytes", "gauge", "Bytes of the CommitLog that are kept.", |shard| shard.end.saturating_sub(shard.start)),
        ("gantry_shard_durable_lsn", "gauge", "Byte address up to which everything is on disk.", |shard| shard.durable),
        ("gantry_shard_disk_total_bytes", "gauge", "Size of the disk.", |shard| shard.disk_total),
        ("gantry_shard_disk_free_bytes", "gauge", "Bytes still free on the disk.", |shard| shard.disk_free),
        ("gantry_shard_open_polls", "gauge", "Polls that wait at the shard.", |shard| shard.open_polls),
        ("gantry_shard_messages_stored_total", "counter", "Messages stored since the start.", |shard| shard.messages_stored),
        ("gantry_shard_messages_delivered_total", "counter", "Deliveries since the start.", |shard| shard.messages_delivered),
        ("gantry_shard_messages_acked_total", "counter", "Deliveries acknowledged since the start.", |shard| shard.messages_acked),
    ];
    render_numbers(out, shards, &numbers);
    let transactions: [(&str, &str, &str, Read); 5] = [
        ("gantry_shard_transactions_open", "gauge", "Transactions that are not ended, those included that were given up.", |shard| {
            shard.transactions.open
        }),
        ("gantry_shard_transactions_committed_total", "counter", "Transactions committed.", |shard| shard.transactions.committed),
        ("gantry_shard_transactions_rolled_back_total", "counter", "Transactions rolled back.", |shard| shard.transactions.rolled_back),
        ("gantry_shard_transactions_given_up_total", "counter", "Transactions given up after too many unanswered checks.", |shard| {
            shard.transactions.given_up
        }),
        ("gantry_shard_transaction_checks_total", "counter", "Checks of transactions that reached a producer.", |shard| shard.transactions.checks),
    ];
    render_numbers(out, shards, &transactions);
    head(out, "gantry_shard_dead_letters_total", "counter", "Messages moved to a dead letter queue since the start.");
    shards.iter().for_each(|shard| line(out, format_args!("gantry_shard_dead_letters_total{{shard=\"{}\"}} {}", shard.shard, shard.dead_letters)));
}

/// Name, type, help and number, for each shard.
fn render_numbers(out: &mut String, shards: &[ShardStatus], numbers: &[(&str, &str, &str, Read)]) {
    for (name, kind, help, read) in numbers {
        head(out, name, kind, help);
        shards.iter().for_each(|shard| line(out, format_args!("{name}{{shard=\"{}\"}} {}", shard.shard, read(shard))));
    }
}

/// What quotas slowed down, by scope and name. The grammar of names has nothing that a label must escape.
pub fn render_throttled(out: &mut String, throttled: &BTreeMap<Throttled, u64>) {
    head(out, "gantry_throttled_total", "counter", "Sends refused and receives delayed because of a quota, by topic and group.");
    for ((scope, name), count) in throttled {
        line(out, format_args!("gantry_throttled_total{{scope=\"{scope}\",name=\"{name}\"}} {count}"));
    }
}

fn single(out: &mut String, name: &str, kind: &str, help: &str, value: i64) {
    head(out, name, kind, help);
    line(out, format_args!("{name} {value}"));
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    line(out, format_args!("# HELP {name} {help}"));
    line(out, format_args!("# TYPE {name} {kind}"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_shows_up_under_its_rpc_and_code() {
        let metrics = Metrics::default();
        metrics.answered(Rpc::SendMessage, Code::Ok, Duration::from_micros(70));
        metrics.answered(Rpc::SendMessage, Code::IllegalTopic, Duration::from_secs(60));
        let text = metrics.render(3, 2, &[ShardStatus::default()]);
        for expected in [
            "gantry_rpcs_total{rpc=\"SendMessage\",code=\"20000\"} 1\n",
            "gantry_rpcs_total{rpc=\"SendMessage\",code=\"40002\"} 1\n",
            "gantry_rpc_duration_seconds_bucket{rpc=\"SendMessage\",le=\"0.00005\"} 0\n",
            "gantry_rpc_duration_seconds_bucket{rpc=\"SendMessage\",le=\"0.0001\"} 1\n",
            "gantry_rpc_duration_seconds_bucket{rpc=\"SendMessage\",le=\"20\"} 1\n",
            "gantry_rpc_duration_seconds_bucket{rpc=\"SendMessage\",le=\"+Inf\"} 2\n",
            "gantry_sessions 3\n",
            "gantry_shard_ready{shard=\"0\"} 1\n",
        ] {
            assert!(text.contains(expected), "`{expected}` is missing in:\n{text}");
        }
    }

    #[test]
    fn the_table_is_in_the_order_of_the_numbers() {
        for (place, rpc) in Rpc::ALL.into_iter().enumerate() {
            assert_eq!(rpc as usize, place);
            assert_eq!(Rpc::named(rpc.name()), Some(rpc));
        }
    }
}
