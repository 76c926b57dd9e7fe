//! One turn: all messages of a case are sent, then received and acknowledged, then checked.

use super::Cost;
use super::case::Case;
use crate::bench::phase::{Job, Outcome, Phase};
use crate::bench::place::{Kind, Place};
use crate::bench::report::Latency;
use crate::bench::stamp::{Confirmed, Verification};
use crate::bench::{Settings, process};
use crate::failure::{Exit, Failure};
use crate::terminal::Terminal;
use gantry_platform::{Clock, SystemClock};
use serde::Serialize;
use std::time::Duration;

/// Delayed messages are due at least this long after the first send.
const LEAD: Duration = Duration::from_secs(3);
/// And as many times as long as the plain messages took to send.
const LEAD_FACTOR: f64 = 3.0;
/// A server at rest uses less than this in one look.
const AT_REST: Duration = Duration::from_millis(10);
const LOOK: Duration = Duration::from_millis(200);
const LOOKS: u32 = 25;

/// What a turn found.
#[derive(Clone, Debug, Serialize)]
pub struct Turn {
    #[serde(skip)]
    pub case: Case,
    pub name: String,
    /// Per message sent; a transaction's commit included.
    pub send: Cost,
    /// Per message received and acknowledged.
    pub receive: Cost,
    pub messages_per_receive: f64,
    /// From the delivery time of delayed messages to their arrival.
    pub lateness: Option<Latency>,
}

/// Waits until the server has cleaned up after the turn before, but not forever.
pub async fn settle(pid: u32) {
    for _ in 0..LOOKS {
        let before = process::sample(pid).await;
        tokio::time::sleep(LOOK).await;
        let Some((before, after)) = before.zip(process::sample(pid).await) else { return };
        if after.cpu_since(&before) < AT_REST {
            return;
        }
    }
}

/// Measures a case. Delayed messages need the plain turn, which says how long sending takes.
pub async fn measure(case: Case, place: &Place, plain: Option<&Turn>, settings: &Settings, terminal: &mut Terminal) -> Result<Turn, Failure> {
    let clock = SystemClock::new();
    let sends = case.sends(settings.messages.unwrap_or_default());
    let lead = LEAD + plain.map_or(Duration::ZERO, |plain| Duration::from_secs_f64(LEAD_FACTOR * sends as f64 / plain.send.messages_per_second));
    let due = clock.wall_ms() + lead.as_millis() as u64;
    let settings = Settings { messages: Some(sends), traffic: case.traffic(due), drain: settings.drain + lead, ..settings.clone() };
    let jobs = |job: fn() -> Job| (0..settings.connections).map(|_| job()).collect();
    let sent = Phase::new("send", place, &settings, jobs(|| Job::Produce)).run(terminal).await?;
    let send = Cost::of(&case.name(), &sent, sent.tally.send.messages)?;
    let wait = Duration::from_millis(due.saturating_sub(clock.wall_ms()));
    if case == Case::Delay && wait.is_zero() {
        let why = format!("the sends took longer than the {:.0} s until the delivery time", lead.as_secs_f64());
        return Err(Failure::new(Exit::Failed, "cannot measure delayed messages").because(why).hint("try again, or with fewer `--messages`"));
    }
    let expected = match place.kind {
        Kind::Gantry => sent.tally.confirmed.count() * case.groups() as u64,
        Kind::Floor => sends,
    };
    let received = Phase::new("receive", place, &settings, jobs(|| Job::Consume)).expecting(expected).run(terminal).await?;
    let mut receive = Cost::of(&case.name(), &received, received.tally.receive.messages)?;
    if place.kind == Kind::Gantry {
        check(case, &settings, &sent.tally.confirmed, &received)?;
    }
    if case == Case::Delay {
        let busy = received.seconds - wait.as_secs_f64();
        receive.messages_per_second = receive.messages as f64 / busy.max(1e-3);
    }
    let tally = &received.tally;
    let lateness = Latency::new(&tally.end_to_end.nanos).filter(|_| case == Case::Delay);
    let messages_per_receive = receive.messages as f64 / tally.receive.nanos.len().max(1) as f64;
    Ok(Turn { case, name: case.name(), send, receive, messages_per_receive, lateness })
}

/// Every message came to every group, once, whole, in order and not before its time, and no other message came.
fn check(case: Case, settings: &Settings, confirmed: &Confirmed, received: &Outcome) -> Result<(), Failure> {
    let faults = faults(&received.ledger.compare(confirmed), received.tally.early, settings.traffic.is_ordered());
    if faults.is_empty() {
        return Ok(());
    }
    let failure = Failure::new(Exit::Failed, format!("`{}` delivered what it must not", case.name())).because(faults.join(", "));
    Err(failure.hint("keep the server's data folder and log, and report this"))
}

fn faults(check: &Verification, early: u64, ordered: bool) -> Vec<String> {
    let reordered = if ordered { check.reordered } else { 0 };
    let counts = [
        (check.lost, "lost"),
        (check.corrupt, "corrupt"),
        (check.duplicated, "delivered twice"),
        (check.unconfirmed, "not asked for"),
        (check.foreign, "of other runs"),
        (reordered, "out of order within their message group"),
        (early, "before their delivery time"),
    ];
    counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} of {} {what}", check.confirmed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_and_order_counts_only_where_it_is_promised() {
        let whole = Verification { confirmed: 10, received: 10, ..Default::default() };
        assert_eq!(faults(&whole, 0, true), Vec::<String>::new());
        let reordered = Verification { reordered: 2, ..whole.clone() };
        assert_eq!(faults(&reordered, 0, false), Vec::<String>::new());
        assert_eq!(faults(&reordered, 0, true), ["2 of 10 out of order within their message group"]);
        let bad = Verification { lost: 1, corrupt: 1, duplicated: 1, unconfirmed: 1, foreign: 1, ..whole };
        assert_eq!(faults(&bad, 3, true).len(), 6);
    }
}
