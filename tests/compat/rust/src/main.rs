//! Plays one scenario with the unmodified Rust client: parse the arguments, prepare the process, play, give the verdict.
//!
//! Read `harness.rs` next (how scenarios talk to the runner), then one file per family of scenarios.

mod client_log;
mod delay;
mod faults;
mod fifo;
mod filter;
mod harness;
mod identity;
mod ledger;
mod letters;
mod limits;
mod push;
mod send;
mod simple;
mod sql;
mod surely;
mod task;
mod transactions;
mod trust;

use std::process::ExitCode;
use std::sync::Arc;

use harness::{Outcome, Run, Verdict};

async fn scenario(run: Arc<Run>) -> Outcome {
    match run.scenario.clone().as_str() {
        "send_sync" => send::send_sync(&run).await,
        "send_async" => send::send_async(&run).await,
        "push_success" | "push_retry_dlq" | "push_retry_then_ok" => push::unsupported(),
        "simple_receive_ack" => simple::simple_receive_ack(&run).await,
        "simple_expire_redeliver" => simple::simple_expire_redeliver(&run).await,
        "simple_change_invisible" => simple::simple_change_invisible(),
        "simple_late_ack" => simple::simple_late_ack(&run).await,
        "tag_filter" => filter::tag_filter(&run).await,
        "group_shares" => push::group_shares(&run).await,
        "groups_each" => push::groups_each(&run).await,
        "body_4m" => limits::body_4m(&run).await,
        "body_too_big" => limits::body_too_big(&run).await,
        "body_empty" => limits::body_empty(&run).await,
        "illegal_names" => limits::illegal_names(&run).await,
        "unknown_topic" => limits::unknown_topic(&run).await,
        "server_killed" => faults::server_killed(&run).await,
        "consumer_killed" => faults::consumer_killed(&run).await,
        "consumer_killed_heir" => faults::consumer_killed_heir(&run).await,
        "producer_restart_handle" => faults::producer_restart_handle(&run).await,
        other => message_kind(&run, other).await,
    }
}

async fn message_kind(run: &Run, scenario: &str) -> Outcome {
    match scenario {
        "fifo-order" => fifo::order(run).await,
        "fifo-order-heir" => fifo::order_heir(run).await,
        "fifo-retry" => fifo::retry(run).await,
        "fifo-dead" => fifo::dead(run).await,
        "delay" => delay::delay(run).await,
        "delay-heir" => delay::delay_heir(run).await,
        "delay-recall" => delay::recall(),
        "txn-commit" => transactions::commit(run).await,
        "txn-rollback" => transactions::rollback(run).await,
        "txn-check" => transactions::check(run).await,
        "txn-check-heir" => transactions::check_heir(run).await,
        "txn-check-other" => transactions::check_other(run).await,
        "txn-check-other-heir" => transactions::check_other_heir(run).await,
        "sql-filter" => sql::filter(run).await,
        "sql-filter-heir" => sql::filter_heir(run).await,
        "priority" => Err(Verdict::Unsupported("release 5.0.0 of the crate cannot send a priority".into())),
        "lite" => Err(Verdict::Unsupported("release 5.0.0 of the crate knows no lite topics".into())),
        "dedup" => identity::dedup(run).await,
        "trace-context" => identity::trace_context(),
        "namespace" => identity::namespace(),
        "nack-dlq-redrive" => letters::nack_dlq_redrive(run).await,
        unknown => Err(Verdict::Failed(format!("this program has no scenario `{unknown}`"))),
    }
}

fn arguments() -> Option<Run> {
    let (mut name, mut endpoint, mut tls, mut id) = (None, None, None, None);
    let mut words = std::env::args().skip(1);
    while let Some(option) = words.next() {
        let slot = match option.as_str() {
            "--scenario" => &mut name,
            "--endpoint" => &mut endpoint,
            "--tls" => &mut tls,
            "--run" => &mut id,
            _ => return None,
        };
        *slot = Some(words.next()?);
    }
    let tls = match tls?.as_str() {
        "on" => true,
        "off" => false,
        _ => return None,
    };
    Some(Run::new(name?, endpoint?, tls, id?))
}

fn main() -> ExitCode {
    let Some(run) = arguments() else {
        eprintln!("usage: run --scenario NAME --endpoint HOST:PORT --tls on|off --run ID");
        return ExitCode::from(2);
    };
    let run = Arc::new(run);
    harness::watch(run.clone());
    client_log::slow_down();
    // Before the runtime: the environment may change only while this process has one thread that reads it.
    let trusted = if run.tls { trust::trust_server(&run) } else { Ok(()) };
    harness::leave(&run, trusted.and_then(|()| harness::play(run.clone(), scenario)))
}
