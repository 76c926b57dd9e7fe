//! Who belongs to the controllers: joining, becoming a voter, leaving, and handing over the lead.
//!
//! ```text
//!  empty disk ── Join(token) ──→ number of its own ── Admit ──→ learner ── caught up, Admit again ──→ voter
//!  voter ── remove ──→ not a member; its number is void, and Admit is refused for good
//! ```
//! A node asks to be admitted at every start until it votes under its present address, so a crash in the middle needs nobody's help.

use super::kinds::Member;
use super::peers::{CallError, Peers};
use super::propose::propose_here;
use super::seat::{Peer, Seat, as_refusal, refused};
use super::{OpenError, ProposeError};
use crate::state::Effect;
use crate::state::event::Event;
use crate::state::nodes::NodeSpec;
use gantry_model::NodeId;
use gantry_platform::clock::{sleep, timeout};
use gantry_platform::tasks::Stop;
use gantry_proto::controller as pb;
use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, RaftError};
use pb::peer_reply::Body as Reply;
use pb::peer_request::Body as Request;
use pb::refused::Code;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// Most voters: with five, two may fail at once; more make every change slower and nothing safer.
pub const VOTERS_MAX: usize = 5;
/// How many entries a learner may be behind when it becomes a voter.
const CAUGHT_UP: u64 = 100;
/// The time between two tries to join or to be admitted.
const RETRY: Duration = Duration::from_millis(200);
/// How long an answer to whether anybody is there may take.
const KNOCK: Duration = Duration::from_secs(1);
/// How long one try may take.
const TRY: Duration = Duration::from_secs(5);

/// What a node with an empty disk becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub cluster: String,
    pub node: NodeId,
}

/// Asks one address after the other, and whom they name, until a leader takes the node in.
pub async fn join(peers: &dyn Peers, seeds: &[String], token: &str, address: &str, patience: Duration) -> Result<Joined, OpenError> {
    let mut last = "no address was given".to_owned();
    let tries = async {
        loop {
            for seed in seeds {
                match join_at(peers, seed, token, address).await {
                    Ok(joined) => return Ok(joined),
                    Err(refusal) if matches!(refusal.code(), Code::BadToken | Code::OtherCluster | Code::Invalid) => {
                        return Err(OpenError::NotJoined { why: refusal.why });
                    }
                    Err(refusal) => last = format!("{seed}: {}", refusal.why),
                }
            }
            sleep(RETRY).await;
        }
    };
    timeout(patience, tries).await.unwrap_or_else(|_| Err(OpenError::NotJoined { why: last.clone() }))
}

/// Whether any of these addresses is answered by a controller that belongs to a cluster. One that is only starting does not answer yet.
pub async fn is_anybody_there(peers: &dyn Peers, seeds: &[String]) -> bool {
    for seed in seeds {
        // An empty token lets nobody in, and the refusal shows that somebody is there.
        let knock = pb::Join { token: String::new(), address: String::new() };
        let request = pb::PeerRequest { cluster: String::new(), from: 0, to: 0, body: Some(Request::Join(knock)) };
        if peers.call(seed, request, KNOCK).await.is_ok() {
            return true;
        }
    }
    false
}

async fn join_at(peers: &dyn Peers, seed: &str, token: &str, address: &str) -> Result<Joined, pb::Refused> {
    let mut at = pb::Member { node: 0, address: seed.to_owned() };
    // The first answer may name the leader; its answer is the last.
    for _ in 0..2 {
        let join = pb::Join { token: token.to_owned(), address: address.to_owned() };
        let request = pb::PeerRequest { cluster: String::new(), from: 0, to: at.node, body: Some(Request::Join(join)) };
        let reply = peers.call(&at.address, request, TRY).await.map_err(|error| as_refusal(CallError::Unreachable(error)))?;
        match reply.body {
            Some(Reply::Joined(joined)) => return Ok(Joined { cluster: joined.cluster, node: NodeId(joined.node) }),
            Some(Reply::Refused(pb::Refused { leader: Some(leader), .. })) => at = leader,
            Some(Reply::Refused(refusal)) => return Err(refusal),
            _ => return Err(refused(Code::Unavailable, "the answer makes no sense")),
        }
    }
    Err(refused(Code::Unavailable, "the leader changes"))
}

impl Seat {
    /// Why a token is refused, if it is.
    fn distrusts(&self, token: &str) -> Option<pb::Refused> {
        let Some(own) = &self.token else {
            return Some(refused(Code::BadToken, "this cluster has no join token, so nobody can join; set one on its controllers"));
        };
        let right = bool::from(own.as_bytes().ct_eq(token.as_bytes()));
        (!right).then(|| refused(Code::BadToken, "the join token is wrong; use that of the cluster"))
    }

    /// Why a broker or a proxy is refused, if it is. One that has just come may not know the cluster.
    pub fn refuses(&self, caller: Option<&pb::Caller>) -> Option<pb::Refused> {
        let Some(pb::Caller { cluster, token }) = caller else { return Some(refused(Code::Invalid, "the caller says nothing about itself")) };
        let own = &self.identity.cluster;
        if !cluster.is_empty() && cluster != own {
            let why = format!("this is cluster `{own}`, not `{}`; check the address, and that no volume was mixed up", cluster.escape_debug());
            return Some(refused(Code::OtherCluster, why));
        }
        self.distrusts(token)
    }
}

/// Gives a number to who knows the token.
pub async fn answer_join(seat: &Seat, join: &pb::Join) -> Result<pb::Joined, pb::Refused> {
    if let Some(refusal) = seat.distrusts(&join.token) {
        return Err(refusal);
    }
    let spec = NodeSpec { address: join.address.clone(), ..NodeSpec::default() };
    let event = Arc::new(Event::NodeJoined { node: spec });
    match propose_here(seat, seat.request_id(), event, seat.pace.patience).await?.effect {
        Effect::Node(node) => Ok(pb::Joined { cluster: seat.identity.cluster.clone(), node: node.id.0 }),
        Effect::Refused(why) => Err(refused(Code::Invalid, why.to_string())),
        effect => unreachable!("a node that joins is answered a node, not {effect:?}"),
    }
}

/// Brings a node one step nearer to being a voter; `Ok` when it is one, or a learner where there are voters enough.
pub async fn answer_admit(seat: &Seat, node: NodeId, address: &str) -> Result<(), pb::Refused> {
    if !seat.leads() {
        return Err(seat.not_leader());
    }
    if seat.shared.read(|state| state.nodes().get(node).is_none()) {
        return Err(refused(Code::Invalid, format!("node {node} was removed from the cluster; clear its data folder and let it join as a new node")));
    }
    let membership = seat.membership();
    let membership = membership.membership();
    let member = Member { address: address.to_owned() };
    match membership.get_node(&node) {
        None => change(seat, ChangeMembers::AddNodes(BTreeMap::from([(node, member)])), true).await?,
        Some(known) if known.address != address => change(seat, ChangeMembers::SetNodes(BTreeMap::from([(node, member)])), true).await?,
        Some(_) => {}
    }
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    if voters.contains(&node) || voters.len() >= VOTERS_MAX {
        return Ok(());
    }
    if !caught_up(seat, node) {
        return Err(refused(Code::Unavailable, "the node does not have the whole log yet"));
    }
    change(seat, ChangeMembers::AddVoterIds(BTreeSet::from([node])), true).await?;
    if (voters.len() + 1).is_multiple_of(2) {
        tracing::warn!(voters = voters.len() + 1, "an even number of controllers survives no more failures than one fewer; 1, 3 or 5 are right");
    }
    Ok(())
}

/// Whether a learner has nearly all.
fn caught_up(seat: &Seat, node: NodeId) -> bool {
    let metrics = seat.raft.metrics();
    let metrics = metrics.borrow();
    let matched = metrics.replication.as_ref().and_then(|replication| replication.get(&node).copied().flatten());
    matched.is_some_and(|id| id.index + CAUGHT_UP >= metrics.last_log_index.unwrap_or(0))
}

/// One change of members at a time. `retain` keeps a voter that is removed as a learner.
async fn change(seat: &Seat, changes: ChangeMembers<NodeId, Member>, retain: bool) -> Result<(), pb::Refused> {
    match timeout(seat.pace.patience, seat.raft.change_membership(changes, retain)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(seat.not_leader()),
        Ok(Err(error)) => Err(refused(Code::Unavailable, error.to_string())),
        Err(_) => Err(refused(Code::Unknown, "too few controllers answered; the change of members may still happen")),
    }
}

/// Asks the leader for admission until this node is what it can be.
pub async fn be_admitted(seat: Arc<Seat>, stop: Stop) {
    while !stop.is_stopped() && seat.fatal().is_none() && !is_settled(&seat) {
        match admit_once(&seat).await {
            Ok(()) => return,
            Err(refusal) if refusal.code() == Code::Invalid => {
                tracing::error!(node = %seat.id(), why = refusal.why, "this controller is not admitted to its cluster");
                return;
            }
            Err(refusal) => tracing::debug!(node = %seat.id(), why = refusal.why, "not admitted yet"),
        }
        tokio::select! {
            () = stop.stopped() => return,
            () = sleep(RETRY) => {}
        }
    }
}

fn is_settled(seat: &Seat) -> bool {
    let membership = seat.membership();
    seat.is_voter() && membership.membership().get_node(&seat.id()).is_some_and(|member| member.address == seat.address)
}

async fn admit_once(seat: &Seat) -> Result<(), pb::Refused> {
    let admit = pb::Admit { address: seat.address.clone() };
    if seat.leads() {
        return answer_admit(seat, seat.id(), &seat.address).await;
    }
    let mut last = seat.not_leader();
    for peer in everybody(seat) {
        match seat.caller.call(peer.id, &peer.address, Request::Admit(admit.clone()), TRY).await {
            Ok(_) => return Ok(()),
            Err(CallError::Refused(pb::Refused { leader: Some(leader), .. })) => {
                let asked = seat.caller.call(NodeId(leader.node), &leader.address, Request::Admit(admit.clone()), TRY).await;
                return asked.map(|_| ()).map_err(as_refusal);
            }
            Err(error) => last = as_refusal(error),
        }
    }
    Err(last)
}

/// The leader if it is known, the members, and the addresses that the node was started with.
fn everybody(seat: &Seat) -> Vec<Peer> {
    let membership = seat.membership();
    let members = membership.nodes().map(|(id, member)| Peer { id: *id, address: member.address.clone() });
    let seeds = seat.seeds.iter().map(|address| Peer { id: NodeId(0), address: address.clone() });
    seat.leader().into_iter().chain(members).chain(seeds).filter(|peer| peer.id != seat.id() && peer.address != seat.address).collect()
}

/// Takes a node out for good: its number is void from then on.
pub async fn remove(seat: &Seat, node: NodeId) -> Result<(), ProposeError> {
    let failed = |refusal: pb::Refused| match refusal.code() {
        Code::NotLeader | Code::Unavailable => ProposeError::NoLeader { why: refusal.why },
        _ => ProposeError::Unknown { why: refusal.why },
    };
    let voters: BTreeSet<NodeId> = seat.membership().voter_ids().collect();
    if voters == BTreeSet::from([node]) {
        return Err(ProposeError::Failed { why: format!("node {node} is the only controller; let another join first") });
    }
    if node == seat.id() && seat.leads() {
        return Err(ProposeError::Failed { why: format!("node {node} leads the controllers; hand over the lead first") });
    }
    let event = Arc::new(Event::NodeRemoved { id: node });
    match propose_here(seat, seat.request_id(), event, seat.pace.patience).await.map_err(failed)?.effect {
        Effect::Refused(gantry_model::contract::metadata::MetadataError::NotFound { .. }) if seat.shared.member(node).is_some() => {}
        Effect::Refused(why) => return Err(ProposeError::Failed { why: why.to_string() }),
        _ => {}
    }
    let nodes = BTreeSet::from([node]);
    if voters.contains(&node) {
        return change(seat, ChangeMembers::RemoveVoters(nodes), false).await.map_err(failed);
    }
    if seat.shared.member(node).is_some() {
        return change(seat, ChangeMembers::RemoveNodes(nodes), false).await.map_err(failed);
    }
    Ok(())
}

/// Hands the lead to another voter: nothing is proposed any more, the other gets the rest of the log, the voters' leases end, and then
/// the other asks for the votes. Answers who leads now.
pub async fn hand_over(seat: &Seat, to: Option<NodeId>) -> Result<Peer, ProposeError> {
    let none = |why: &str| ProposeError::NoLeader { why: why.to_owned() };
    if !seat.leads() {
        return Err(ProposeError::NoLeader { why: seat.not_leader().why });
    }
    if seat.leaving.send_replace(true) {
        return Err(none("the lead is being handed over already"));
    }
    let _leaving = Leaving(seat);
    hand_over_quietly(seat, to).await.ok_or_else(|| none("no other voter could take the lead; this one goes on"))
}

/// While it lives this leader is on its way out. It goes on when the other leads, when none could, and when whoever asked for it went away.
struct Leaving<'a>(&'a Seat);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.raft.runtime_config().heartbeat(true);
        self.0.leaving.send_replace(false);
    }
}

async fn hand_over_quietly(seat: &Seat, to: Option<NodeId>) -> Option<Peer> {
    let heir = timeout(seat.pace.patience, heir(seat, to)).await.ok()??;
    seat.raft.runtime_config().heartbeat(false);
    sleep(seat.pace.lease + seat.pace.heartbeat / 2).await;
    for _ in 0..3 {
        let lead = seat.caller.call(heir.id, &heir.address, Request::Lead(pb::Lead {}), seat.pace.lease);
        if let Err(error) = lead.await {
            tracing::debug!(%error, to = %heir.id, "the lead was not taken at once");
        }
        let mut metrics = seat.raft.metrics();
        let led = metrics.wait_for(|metrics| metrics.current_leader == Some(heir.id));
        if timeout(seat.pace.lease, led).await.is_ok() {
            return Some(heir);
        }
    }
    None
}

/// The voter with the most of the log, once it has all of it.
async fn heir(seat: &Seat, to: Option<NodeId>) -> Option<Peer> {
    let membership = seat.membership();
    let voters: BTreeSet<NodeId> = membership.voter_ids().filter(|id| *id != seat.id() && to.is_none_or(|to| to == *id)).collect();
    let mut metrics = seat.raft.metrics();
    let mut whole = None;
    let all = |metrics: &openraft::RaftMetrics<NodeId, Member>| {
        let matched = metrics.replication.iter().flatten().filter(|(id, _)| voters.contains(id));
        whole = matched.filter(|(_, at)| at.map(|at| at.index) >= metrics.last_log_index).map(|(id, _)| *id).next();
        whole.is_some() || voters.is_empty() || metrics.current_leader != Some(metrics.id)
    };
    metrics.wait_for(all).await.ok()?;
    let id = whole?;
    membership.membership().get_node(&id).map(|member| Peer { id, address: member.address.clone() })
}

/// How a node is and whom it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub node: NodeId,
    pub cluster: String,
    pub leader: Option<Peer>,
    pub term: u64,
    pub voters: Vec<Peer>,
    pub learners: Vec<Peer>,
    /// The last entry in the log, and the last one applied.
    pub last: Option<u64>,
    pub applied: Option<u64>,
    pub snapshot: Option<u64>,
    /// On the leader: how long ago most voters answered.
    pub quorum_age: Option<Duration>,
    pub disk_full: bool,
    /// Why this node takes no part any more.
    pub failed: Option<String>,
}

pub fn status(seat: &Seat) -> Status {
    let metrics = seat.raft.metrics();
    let metrics = metrics.borrow();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    let peers = membership.nodes().map(|(id, member)| Peer { id: *id, address: member.address.clone() });
    let (voters, learners) = peers.partition(|peer| voters.contains(&peer.id));
    let leader = metrics.current_leader.and_then(|id| Some(Peer { id, address: membership.get_node(&id)?.address.clone() }));
    Status {
        node: seat.id(),
        cluster: seat.identity.cluster.clone(),
        leader,
        term: metrics.current_term,
        voters,
        learners,
        last: metrics.last_log_index,
        applied: metrics.last_applied.map(|id| id.index),
        snapshot: metrics.snapshot.map(|id| id.index),
        quorum_age: metrics.millis_since_quorum_ack.map(Duration::from_millis),
        disk_full: *seat.full.borrow(),
        failed: metrics.running_state.as_ref().err().map(|fatal| fatal.to_string()),
    }
}
