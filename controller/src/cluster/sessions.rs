//! What brokers say of themselves, as long as they say it.
//!
//! A session ends when its broker was silent for too long, or when its stream broke and no other was opened soon: a broker that dies is
//! missed after one second, one that hangs or is cut off after three.

use crate::state::State;
use crate::state::nodes::{Admission, NodeSpec};
use gantry_model::{Epoch, NodeId, ShardId};
use gantry_proto::controller as pb;
use gantry_store::replica::elector::{self, Standing};
use gantry_store::replica::{Incarnation, Member, Reign, StoreId};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// A broker that said nothing for so long has no session.
pub const SILENCE: Duration = Duration::from_secs(3);
/// A broker whose stream broke has so much time to open another.
pub const REOPEN: Duration = Duration::from_secs(1);

/// The way to a broker.
pub type Outlet = UnboundedSender<pb::to_broker::Body>;

/// The sessions of the brokers.
#[derive(Debug, Default)]
pub struct Sessions {
    by_node: BTreeMap<NodeId, Session>,
    /// Grows with everything that `of` may answer otherwise from then on.
    changes: u64,
}

#[derive(Debug)]
struct Session {
    /// Tells this stream from the one before.
    stream: u64,
    spec: NodeSpec,
    out: Outlet,
    copies: BTreeMap<(ShardId, StoreId), pb::Standing>,
    heard: Duration,
    /// Since when there is no stream.
    broken: Option<Duration>,
    /// It is about to end.
    drains: bool,
}

impl Sessions {
    /// A broker opened a stream. One of an older run of it does not replace that of a newer.
    pub fn open(&mut self, now: Duration, node: NodeId, stream: u64, spec: NodeSpec, out: Outlet) -> bool {
        let newer = self.by_node.get(&node).is_some_and(|session| session.spec.incarnation > spec.incarnation);
        if newer {
            return false;
        }
        // What the same run said on its last stream holds until it says something else.
        let before = self.by_node.remove(&node).filter(|session| session.spec.incarnation == spec.incarnation);
        let copies = before.map(|session| session.copies).unwrap_or_default();
        self.changes += 1;
        self.by_node.insert(node, Session { stream, spec, out, copies, heard: now, broken: None, drains: false });
        true
    }

    pub fn report(&mut self, now: Duration, node: NodeId, stream: u64, report: pb::Report) {
        let changes = u64::from(!report.copies.is_empty());
        let Some(session) = self.current(node, stream) else { return };
        session.heard = now;
        for standing in report.copies {
            if let Ok(store) = standing.store.as_ref().try_into() {
                session.copies.insert((ShardId(standing.shard), StoreId(store)), standing);
            }
        }
        self.changes += changes;
    }

    /// The stream broke.
    pub fn broke(&mut self, now: Duration, node: NodeId, stream: u64) {
        if let Some(session) = self.current(node, stream) {
            session.broken = Some(now);
        }
    }

    /// The broker ended in order.
    pub fn left(&mut self, node: NodeId, stream: u64) {
        if self.current(node, stream).is_some() {
            self.by_node.remove(&node);
            self.changes += 1;
        }
    }

    /// The broker is about to end.
    pub fn drains(&mut self, node: NodeId, stream: u64) {
        if let Some(session) = self.current(node, stream) {
            session.drains = true;
            self.changes += 1;
        }
    }

    /// Brokers that are about to end.
    pub fn draining(&self) -> impl Iterator<Item = NodeId> {
        self.by_node.iter().filter(|(_, session)| session.drains).map(|(node, _)| *node)
    }

    /// Whether something said on this stream still counts.
    pub fn is_current(&mut self, node: NodeId, stream: u64) -> bool {
        self.current(node, stream).is_some()
    }

    fn current(&mut self, node: NodeId, stream: u64) -> Option<&mut Session> {
        self.by_node.get_mut(&node).filter(|session| session.stream == stream)
    }

    /// Ends the sessions whose time is over.
    pub fn expire(&mut self, now: Duration) {
        let before = self.by_node.len();
        self.by_node.retain(|node, session| {
            let silent = now >= session.heard + SILENCE;
            let broken = session.broken.is_some_and(|since| now >= since + REOPEN);
            if silent || broken {
                let why = if broken { "its stream broke" } else { "it is silent" };
                tracing::warn!(%node, why, "the session of a broker ended");
            }
            !(silent || broken)
        });
        self.changes += u64::from(self.by_node.len() != before);
    }

    /// What was answered to [`Sessions::of`] holds as long as this stays the same.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Says something to a broker, if there is a way to it.
    pub fn tell(&self, node: NodeId, body: pb::to_broker::Body) {
        if let Some(session) = self.by_node.get(&node) {
            // A stream that broke takes nothing; what matters is said again.
            _ = session.out.send(body);
        }
    }

    /// What the broker with a session said about itself.
    pub fn spec(&self, node: NodeId) -> Option<&NodeSpec> {
        self.by_node.get(&node).map(|session| &session.spec)
    }

    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.by_node.keys().copied()
    }

    pub fn copy(&self, shard: ShardId, member: Member) -> Option<&pb::Standing> {
        self.by_node.get(&member.node)?.copies.get(&(shard, member.store))
    }

    /// What the rules want to know of the members of a shard. A copy that is not there, or that failed, has no session.
    pub fn of(&self, shard: ShardId, reign: &Reign, state: &State, leads: &BTreeMap<NodeId, u32>) -> elector::Sessions {
        let standing = |member: Member| {
            let session = self.by_node.get(&member.node)?;
            let copy = session.copies.get(&(shard, member.store)).filter(|copy| copy.failed.is_empty())?;
            let epoch = |number: u32| (number > 0).then_some(Epoch(number));
            Some(Standing {
                incarnation: Incarnation(session.spec.incarnation),
                serves: epoch(copy.leads).filter(|_| copy.serves),
                hears: epoch(copy.hears),
                cordoned: session.drains || state.nodes().get(member.node).is_none_or(|node| node.admission == Admission::Cordoned),
                load: leads.get(&member.node).copied().unwrap_or(0).into(),
                zone: session.spec.zone.clone(),
            })
        };
        reign.members().into_iter().filter_map(|member| Some((member, standing(member)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;

    const NODE: NodeId = NodeId(4);

    fn spec(incarnation: u64) -> NodeSpec {
        NodeSpec { address: "b:9081".into(), incarnation, ..NodeSpec::default() }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn opened(incarnation: u64) -> Sessions {
        let mut sessions = Sessions::default();
        assert!(sessions.open(at(0), NODE, 1, spec(incarnation), unbounded_channel().0));
        sessions
    }

    fn is_there(sessions: &mut Sessions, now: u64) -> bool {
        sessions.expire(at(now));
        sessions.spec(NODE).is_some()
    }

    #[test]
    fn silence_ends_a_session_and_a_report_keeps_it() {
        let mut sessions = opened(1);
        assert!(is_there(&mut sessions, 2_999));
        sessions.report(at(2_999), NODE, 1, pb::Report::default());
        assert!(is_there(&mut sessions, 5_998));
        assert!(!is_there(&mut sessions, 5_999));
    }

    #[test]
    fn a_broken_stream_is_missed_sooner_unless_another_is_opened() {
        let mut sessions = opened(1);
        sessions.broke(at(100), NODE, 1);
        assert!(is_there(&mut sessions, 1_099));
        assert!(sessions.open(at(1_099), NODE, 2, spec(1), unbounded_channel().0));
        sessions.broke(at(1_100), NODE, 1);
        assert!(is_there(&mut sessions, 3_000), "the end of the old stream is no news");
        sessions.broke(at(3_000), NODE, 2);
        assert!(!is_there(&mut sessions, 4_000));
    }

    #[test]
    fn an_older_run_does_not_speak_for_a_newer_one() {
        let mut sessions = opened(2);
        assert!(!sessions.open(at(1), NODE, 2, spec(1), unbounded_channel().0));
        sessions.left(NODE, 2);
        assert!(is_there(&mut sessions, 1));
        sessions.left(NODE, 1);
        assert!(!is_there(&mut sessions, 1));
    }

    #[test]
    fn a_new_run_begins_without_what_the_old_one_said() {
        let member = Member { node: NODE, store: StoreId([7; 16]) };
        let copy = pb::Standing { shard: 3, store: vec![7; 16].into(), leads: 9, ..Default::default() };
        let mut sessions = opened(1);
        sessions.report(at(0), NODE, 1, pb::Report { copies: vec![copy] });
        assert!(sessions.open(at(1), NODE, 2, spec(1), unbounded_channel().0));
        assert_eq!(sessions.copy(ShardId(3), member).map(|copy| copy.leads), Some(9));
        assert!(sessions.open(at(2), NODE, 3, spec(2), unbounded_channel().0));
        assert_eq!(sessions.copy(ShardId(3), member), None);
    }
}
