//! The load generator against the fake cluster, which can lose and double messages, and against a floor in this process.

#![allow(clippy::unwrap_used)]

use super::floor::Floor;
use super::phase::{Job, Outcome, Phase, Tally};
use super::place::Place;
use super::process::Sample;
use super::report::RunReport;
use super::stamp::{Ledger, Verification};
use super::traffic::Traffic;
use super::{AckStyle, Scenario, Settings};
use crate::Exit;
use crate::output::Report;
use crate::tests::fake::Fault;
use crate::tests::{Fake, global, run};
use gantry_proto::v2::messaging_service_server::MessagingServiceServer;
use serde_json::Value;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;

/// The load generator has threads of its own, so the server must not share ours.
async fn bench(fake: &Fake, options: &str) -> (Value, Exit) {
    let ran = run(fake, &format!("bench {options} -o json --server-pid {}", std::process::id())).await;
    (serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}")), ran.exit())
}

fn count(report: &Value, part: &str, field: &str) -> u64 {
    report[part][field].as_u64().unwrap_or_else(|| panic!("{part}.{field} in {report:#}"))
}

#[tokio::test]
async fn end_to_end_every_message_comes_once() {
    let fake = Fake::start().await;
    let (report, exit) = bench(&fake, "--messages 2000 --connections 2 --in-flight 8").await;
    assert_eq!(exit, Exit::Done, "{report:#}");
    for (part, field) in
        [("produce", "messages"), ("receive", "messages"), ("ack", "messages"), ("verification", "confirmed"), ("verification", "received")]
    {
        assert_eq!(count(&report, part, field), 2000, "{part}.{field}");
    }
    for field in ["lost", "duplicated", "corrupt", "foreign", "unconfirmed"] {
        assert_eq!(count(&report, "verification", field), 0, "{field}");
    }
    assert!(report["end_to_end"]["p50_us"].as_f64().unwrap() > 0.0);
    assert!(report["server"]["cpu_us_per_message"].as_f64().unwrap() > 0.0);
    // Topic and group of the run are gone.
    assert!(fake.state().topics.is_empty() && fake.state().groups.is_empty());
    assert_eq!(fake.state().acked.len(), 2000);
}

#[tokio::test]
async fn lost_messages_are_found_and_fail_the_run() {
    let fake = Fake::start().await;
    fake.state().fault = Fault::Lose;
    let (report, exit) = bench(&fake, "--scenario consume --messages 500 --connections 1 --drain 300ms").await;
    assert_eq!((count(&report, "verification", "lost"), exit), (5, Exit::Failed));
}

#[tokio::test]
async fn doubled_messages_are_counted_and_allowed() {
    let fake = Fake::start().await;
    fake.state().fault = Fault::Double;
    let (report, exit) = bench(&fake, "--scenario consume --messages 500 --connections 1 --ack batch").await;
    let verification = (count(&report, "verification", "received"), count(&report, "verification", "duplicated"));
    assert_eq!((verification, exit), ((500, 5), Exit::Done));
    assert!(count(&report, "ack", "calls") < 100);
}

#[tokio::test]
async fn fifo_producers_have_their_own_message_groups() {
    let fake = Fake::start().await;
    let (report, exit) = bench(&fake, "--messages 300 --connections 1 --in-flight 4 --polls 1 --fifo").await;
    assert_eq!((count(&report, "verification", "reordered"), exit), (0, Exit::Done));
    let groups: std::collections::BTreeSet<_> =
        fake.state().messages.iter().filter_map(|message| message.system_properties.as_ref()?.message_group.clone()).collect();
    assert_eq!(groups.len(), 4);
}

#[tokio::test]
async fn an_open_loop_keeps_its_rate() {
    let fake = Fake::start().await;
    let (report, exit) = bench(&fake, "--scenario produce --rate 1k/s --duration 500ms --warmup 100ms --connections 2").await;
    assert_eq!(exit, Exit::Done, "{report:#}");
    let messages = count(&report, "produce", "messages");
    // However late the sends began: those that were due in the half second count, and no others.
    assert!((499..=501).contains(&messages), "{messages} in half a second at 1000/s");
    assert!(report["start_delay"]["p50_us"].as_f64().unwrap() > 0.0);
    assert!(report["verification"].is_null());
}

#[tokio::test]
async fn idle_polls_end_with_the_time() {
    let fake = Fake::start().await;
    let (report, exit) = bench(&fake, "--scenario idle --connections 20 --duration 300ms --warmup 0s").await;
    assert_eq!(exit, Exit::Done, "{report:#}");
    assert!(report["produce"].is_null() && report["receive"].is_null());
    assert_eq!(fake.state().receives.len(), 40);
}

#[tokio::test]
async fn failed_calls_fail_the_run_and_say_why() {
    let fake = Fake::start().await;
    let (report, exit) = bench(&fake, "--scenario produce --messages 20 --connections 1 --topic nowhere --group none").await;
    assert_eq!((report["errors"].as_u64(), exit), (Some(20), Exit::Failed));
    assert!(report["first_error"].as_str().unwrap().contains("40402"), "{report:#}");
}

#[tokio::test]
async fn options_that_do_not_go_together_are_refused() {
    let fake = Fake::start().await;
    for options in [
        "--size 16",
        "--size 5MiB",
        "--scenario consume --duration 1s",
        "--scenario idle --messages 5",
        "--rate 5/s --fifo",
        "--compare-floor --floor",
        "--compare-kinds --compare-floor",
        "--compare-kinds --fifo",
        "--compare-kinds --duration 5s",
        "--rounds 2",
    ] {
        assert_eq!(run(&fake, &format!("bench {options}")).await.exit(), Exit::Usage, "{options}");
    }
}

/// A small load without warm-up.
pub fn settings(messages: u64) -> Settings {
    Settings {
        connections: 2,
        in_flight: 8,
        polls: 2,
        size_bytes: 100,
        batch: 32,
        messages: Some(messages),
        duration_seconds: None,
        warmup_seconds: 0.0,
        rate_per_second: None,
        ack: AckStyle::Each,
        fifo: false,
        threads: 1,
        drain: Duration::from_secs(2),
        traffic: Traffic::Normal,
    }
}

#[tokio::test]
async fn the_floor_answers_all_three_phases_of_a_comparison() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    let service = MessagingServiceServer::new(Floor::new(100, 32));
    tasks.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    let place = Place::floor(global(&endpoint, "unused"), std::process::id());
    let settings = settings(1000);
    let ran = run_phases(&place, &settings).await;
    assert_eq!(ran, (1000, true, true));
}

/// Messages sent, whether enough were received, and whether all of these were acknowledged.
async fn run_phases(place: &Place, settings: &Settings) -> (u64, bool, bool) {
    let mut terminal = crate::Terminal {
        out: Box::new(std::io::sink()),
        err: Box::new(std::io::sink()),
        input: Box::new(tokio::io::empty()),
        input_is_person: false,
        err_is_person: false,
    };
    let sent = Phase::new("send", place, settings, vec![Job::Produce, Job::Produce]).run(&mut terminal).await.unwrap();
    let received = Phase::new("receive", place, settings, vec![Job::Receive, Job::Receive]).expecting(1000).run(&mut terminal).await.unwrap();
    let (kept, came) = (received.tally.kept, received.tally.receive.messages);
    let handles = kept.len() as u64;
    let acked = Phase::new("ack", place, settings, vec![Job::Ack(kept)]).run(&mut terminal).await.unwrap();
    assert_eq!((sent.errors, received.errors, acked.errors), (0, 0, 0));
    (sent.tally.send.messages, came >= 1000 && handles == came, acked.tally.ack.messages == handles)
}

/// A result with one value of each kind, in both forms.
#[test]
fn a_result_is_a_table_for_people_and_json_for_programs() {
    let place = Place::floor(global("http://127.0.0.1:8081", "unused"), 4711);
    let mut tally = Tally::new();
    for (number, timings) in [&mut tally.send, &mut tally.receive, &mut tally.ack, &mut tally.end_to_end].into_iter().enumerate() {
        for latency in 1..=1000 {
            timings.record(2_000_000_000 - latency * 1_000 * (number as u64 + 1), 2_000_000_000, 1);
        }
    }
    let look = |ms, mib: u64| Sample::new(Duration::from_millis(ms), mib << 20);
    let outcome = Outcome {
        tally,
        ledger: Ledger::new(1, 1),
        errors: 0,
        first_error: None,
        since: 1_000_000_000,
        seconds: 1.0,
        server: Some((look(100, 30), look(115, 40), 45 << 20)),
        client: Some((look(0, 10), look(7, 10))),
        unconnected: Some(29 << 20),
    };
    let verification = Verification { confirmed: 1000, received: 1000, reordered: 7, ..Default::default() };
    let report = RunReport::new(Scenario::EndToEnd, &place, &settings(1000), &outcome, Some(verification), Duration::from_millis(1_500));
    assert_eq!(report.verdict(), Ok(()));
    insta::assert_snapshot!("bench_table", report.table());
    insta::assert_snapshot!("bench_json", serde_json::to_string_pretty(&report).unwrap().replace(env!("CARGO_PKG_VERSION"), "<version>"));
}
