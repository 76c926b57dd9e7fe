//! Who may lead: elections that disturb nobody.
//!
//! raft itself holds no elections here. A voter that heard of no leader for a while first canvasses: it asks all voters whether they would
//! vote for it. Only if most of them would, it raises the term and asks for the votes. A node that was cut off and comes back finds
//! voters that hear a leader, gets no promises, raises no term, and deposes nobody.
//!
//! ```text
//!  leads ──────────────── waits until it does not
//!  follows, hears ─────── waits until the silence is long enough
//!  follows, silence ───── canvass ── most would ──→ term + 1, ask for votes ──→ leads, or waits and begins again
//!                            └────── too few ─────→ waits
//!  the only voter ─────── leads at once
//! ```

use super::kinds::{LogId, Membership};
use super::peers::Caller;
use super::seat::Seat;
use super::wire;
use gantry_model::NodeId;
use gantry_platform::clock::{sleep, timeout};
use gantry_platform::tasks::{self, Stop};
use gantry_proto::controller as pb;
use pb::peer_reply::Body as Reply;
use pb::peer_request::Body as Request;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How long a won election may take to show.
const SETTLE: Duration = Duration::from_millis(500);

/// Runs until it is stopped or raft ends.
pub async fn run(seat: Arc<Seat>, stop: Stop) {
    let mut patience = seat.between(seat.pace.campaign);
    while !stop.is_stopped() && seat.fatal().is_none() {
        let wait = match duty(&seat, patience) {
            Duty::Wait => None,
            Duty::Listen(time) => Some(time),
            Duty::Campaign => {
                patience = seat.between(seat.pace.campaign);
                Some(campaign(&seat).await)
            }
        };
        let mut metrics = seat.raft.metrics();
        metrics.mark_unchanged();
        tokio::select! {
            () = stop.stopped() => return,
            () = sleep_or_never(wait) => {}
            changed = metrics.changed(), if wait.is_none() => if changed.is_err() { return },
        }
    }
}

async fn sleep_or_never(wait: Option<Duration>) {
    match wait {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

/// What a node has to do about elections.
enum Duty {
    /// Nothing until something changes.
    Wait,
    /// Nothing for this long.
    Listen(Duration),
    Campaign,
}

fn duty(seat: &Seat, patience: Duration) -> Duty {
    if seat.leads() || !seat.is_voter() {
        return Duty::Wait;
    }
    let alone = seat.membership().voter_ids().count() == 1;
    match patience.saturating_sub(seat.heard.silence()) {
        left if !alone && !left.is_zero() => Duty::Listen(left),
        _ => Duty::Campaign,
    }
}

/// Canvasses, and asks for the votes if it would get them. Answers how long to wait before the next look.
async fn campaign(seat: &Seat) -> Duration {
    let membership = seat.membership().membership().clone();
    let last = seat.last_log_id().await;
    let others: Vec<_> = membership.voter_ids().filter(|id| *id != seat.id()).collect();
    let asked = others.into_iter().filter_map(|id| {
        let address = membership.get_node(&id)?.address.clone();
        Some(tasks::spawn("controller canvass", ask(seat.caller.clone(), id, address, last, seat.pace.lease)))
    });
    let mut would = BTreeSet::from([seat.id()]);
    for answer in asked.collect::<Vec<_>>() {
        would.extend(answer.await.ok().flatten());
    }
    if !is_quorum(&membership, &would) {
        tracing::debug!(node = %seat.id(), ?would, "too few controllers would vote for this one");
        return seat.between((seat.pace.lease / 4, seat.pace.lease));
    }
    elect(seat).await;
    seat.between((seat.pace.lease, seat.pace.lease * 2))
}

/// Raises the term and asks for the votes; returns when somebody leads, or nobody does for a while.
pub async fn elect(seat: &Seat) {
    tracing::info!(node = %seat.id(), "asking the controllers for their votes");
    if seat.raft.trigger().elect().await.is_err() {
        return;
    }
    let mut metrics = seat.raft.metrics();
    // Time out or raft's end: the next look tells.
    _ = timeout(SETTLE, metrics.wait_for(|metrics| metrics.current_leader.is_some())).await;
}

async fn ask(caller: Caller, id: NodeId, address: String, last: Option<LogId>, patience: Duration) -> Option<NodeId> {
    let canvass = pb::Canvass { last: last.as_ref().map(wire::log_id) };
    match caller.call(id, &address, Request::Canvass(canvass), patience).await {
        Ok(Reply::Canvassed(pb::Canvassed { would: true })) => Some(id),
        _ => None,
    }
}

/// Whether a node would vote for another whose log ends there: not while it leads or hears a leader, and not for who knows less.
pub async fn would_vote(seat: &Seat, last: Option<LogId>) -> bool {
    if seat.leads() || seat.heard.silence() < seat.pace.lease {
        return false;
    }
    last >= seat.last_log_id().await
}

/// Whether these are most of the voters, and most of each set while one takes the place of the other.
pub fn is_quorum(membership: &Membership, nodes: &BTreeSet<NodeId>) -> bool {
    let sets = membership.get_joint_config();
    !sets.is_empty() && sets.iter().all(|set| set.intersection(nodes).count() > set.len() / 2)
}
