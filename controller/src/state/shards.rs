//! The shards: who holds copies, in which epoch, and who leads. Facts only; who is sealed and who is best is decided elsewhere.
//!
//! ```text
//!   electing e ── LeaderGranted(e) ──▶ led e ── ConfigSettled(e) ──▶ led e
//!       │                               │       (pending becomes stable)
//!       ├──── EpochBegun(expect e) ─────┼──▶ electing e + 1
//!       └── UncleanEpochBegun(expect e) ┴──▶ electing e + 1, unclean until ConfigSettled
//!
//!   no move ── MovePlanned ──▶ a learner catches up ── EpochBegun(new config) … ConfigSettled ──▶ no move
//!                                      └───────────── MoveDropped ───────────────────────────────┘
//! ```
//! Each event names the epoch or the revision that it was made for and is refused in any other, so who acts on what is no longer true does
//! no harm. An epoch is granted once.

use super::nodes::Nodes;
use gantry_model::contract::metadata::MetadataError;
use gantry_model::{Epoch, Lsn, NodeId, ShardId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// How many copies a shard may have: a fourth costs as much as a fifth and lets no more of them fail than three do.
pub const COPIES: [usize; 4] = [1, 2, 3, 5];

/// A copy of a shard. A broker that lost the shard's folder has forgotten its promises, so it is another replica, although the node is the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Replica {
    pub node: NodeId,
    /// The name of the shard's folder, drawn by who placed the replica: 32 hexadecimal digits.
    pub store: String,
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.store)
    }
}

/// The members of a shard, and on how many of them a frame is durable when it is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardConfig {
    /// Grows with each change of the members.
    pub generation: u64,
    pub members: Vec<Replica>,
    pub w: usize,
}

/// Who leads an epoch, and the end of the log that it must still have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub epoch: Epoch,
    pub leader: Replica,
    /// The process that answered the seal; another one may have lost something since.
    pub incarnation: u64,
    pub last_epoch: Epoch,
    pub end: Lsn,
    /// The generation of the members it leads.
    pub generation: u64,
    /// An operator gave up what the log lacks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unclean: bool,
}

/// Whether a shard is led.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Electing { prefer: Option<Replica> },
    Led(Grant),
}

/// Why an epoch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    Created,
    LeaderLost,
    NotStarted,
    Transfer,
    Reconfigure,
    /// An operator gave up what the members lack.
    Unclean,
}

/// What an operator wants of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How many copies there should be.
    pub copies: usize,
    /// How few there may be while no node is free to hold another.
    pub min_copies: usize,
}

/// A change of members on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Who takes part from then on; a learner until then.
    pub joining: Option<Replica>,
    pub leaving: Option<Replica>,
}

/// A shard as everybody knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub id: ShardId,
    pub epoch: Epoch,
    pub reason: Reason,
    pub phase: Phase,
    pub stable: ShardConfig,
    pub pending: Option<ShardConfig>,
    pub policy: Policy,
    pub moving: Option<Move>,
    /// Grows with each change of policy or move.
    pub revision: u64,
    /// An operator gave up what the members lack, and no leader has begun since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unclean: bool,
    /// How often that was.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unclean_recoveries: u32,
    /// The newest of them, the last one last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recoveries: Vec<Recovery>,
}

/// So many recoveries of a shard are remembered.
const RECOVERIES: usize = 32;

/// When an operator had a shard go on with one copy, although acknowledged messages may have been in others only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The epoch that began with it.
    pub epoch: Epoch,
    pub kept: Replica,
    /// Members until then.
    pub given_up: Vec<Replica>,
    pub by: String,
    pub time_ms: u64,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Shard {
    /// The members that the next epoch has.
    pub fn config(&self) -> &ShardConfig {
        self.pending.as_ref().unwrap_or(&self.stable)
    }

    /// Everybody who must be sealed.
    pub fn members(&self) -> BTreeSet<&Replica> {
        self.stable.members.iter().chain(self.pending.iter().flat_map(|config| &config.members)).collect()
    }

    pub fn leader(&self) -> Option<&Replica> {
        match &self.phase {
            Phase::Led(grant) => Some(&grant.leader),
            Phase::Electing { .. } => None,
        }
    }

    /// Whether the node holds a copy, is about to, or still leads though it left.
    pub fn is_on(&self, node: NodeId) -> bool {
        let joining = self.moving.iter().filter_map(|moving| moving.joining.as_ref());
        self.members().into_iter().chain(joining).chain(self.leader()).any(|replica| replica.node == node)
    }

    fn in_epoch(&self, epoch: Epoch) -> Result<(), MetadataError> {
        if epoch != self.epoch {
            return invalid(format!("shard {} is in epoch {} now, not in {epoch}", self.id, self.epoch));
        }
        Ok(())
    }

    fn at_revision(&self, expect: u64) -> Result<(), MetadataError> {
        if expect != self.revision {
            return invalid(format!("shard {} has revision {} now, not {expect}; look again", self.id, self.revision));
        }
        Ok(())
    }
}

/// All shards that were placed.
#[derive(Clone, Debug, Default)]
pub struct Shards {
    by_id: BTreeMap<ShardId, Arc<Shard>>,
}

type Changed = Result<Arc<Shard>, MetadataError>;

/// Questions.
impl Shards {
    pub fn get(&self, id: ShardId) -> Option<&Arc<Shard>> {
        self.by_id.get(&id)
    }

    /// In the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Shard>> {
        self.by_id.values()
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    fn existing(&self, id: ShardId) -> Result<&Arc<Shard>, MetadataError> {
        self.get(id).ok_or_else(|| MetadataError::NotFound { what: format!("shard {id}") })
    }
}

/// Changes.
impl Shards {
    pub(super) fn put(&mut self, shard: Shard) -> Arc<Shard> {
        let shard = Arc::new(shard);
        self.by_id.insert(shard.id, shard.clone());
        shard
    }

    pub(super) fn create(&mut self, nodes: &Nodes, id: ShardId, config: &ShardConfig, policy: Policy) -> Changed {
        if self.get(id).is_some() {
            return Err(MetadataError::Exists { what: format!("shard {id}") });
        }
        check_config(nodes, config)?;
        check_policy(policy)?;
        let phase = Phase::Electing { prefer: None };
        let (epoch, reason) = (Epoch(1), Reason::Created);
        Ok(self.put(Shard {
            id,
            epoch,
            reason,
            phase,
            stable: config.clone(),
            pending: None,
            policy,
            moving: None,
            revision: 0,
            unclean: false,
            unclean_recoveries: 0,
            recoveries: Vec::new(),
        }))
    }

    /// Ends the epoch, with new members if there are any. A change of members must have ended before the next begins.
    pub(super) fn begin(&mut self, nodes: &Nodes, id: ShardId, begin: &EpochBegun) -> Changed {
        let shard = self.existing(id)?.clone();
        shard.in_epoch(begin.expect)?;
        let mut next = Shard::clone(&shard);
        if let Some(config) = &begin.config {
            if shard.unclean {
                return being_recovered(id);
            }
            if let Some(pending) = &shard.pending {
                return invalid(format!("shard {id} is still changing its members to generation {}; wait for it", pending.generation));
            }
            if config.generation <= shard.stable.generation {
                return invalid(format!("new members of shard {id} need a generation above {}", shard.stable.generation));
            }
            check_config(nodes, config)?;
            next.pending = Some(config.clone());
        }
        if let Some(prefer) = &begin.prefer
            && !next.members().contains(prefer)
        {
            return invalid(format!("replica {prefer} is no member of shard {id} and can't lead it"));
        }
        next.epoch = Epoch(shard.epoch.0.checked_add(1).ok_or_else(|| no_epoch(id))?);
        next.reason = begin.reason;
        next.phase = Phase::Electing { prefer: begin.prefer.clone() };
        Ok(self.put(next))
    }

    /// Ends the epoch and has one member go on alone, as an operator ordered. Everybody else is no member any more, and any change on its way ends.
    pub(super) fn begin_unclean(&mut self, id: ShardId, begin: &UncleanEpochBegun) -> Changed {
        let shard = self.existing(id)?.clone();
        shard.in_epoch(begin.expect)?;
        let UncleanEpochBegun { kept, by, time_ms, .. } = begin.clone();
        if !shard.members().contains(&kept) {
            return invalid(format!("replica {kept} is no member of shard {id}, so nothing can be recovered from it"));
        }
        let mut next = Shard::clone(&shard);
        next.epoch = Epoch(shard.epoch.0.checked_add(1).ok_or_else(|| no_epoch(id))?);
        next.reason = Reason::Unclean;
        next.phase = Phase::Electing { prefer: None };
        next.stable = ShardConfig { generation: shard.config().generation + 1, members: vec![kept.clone()], w: 1 };
        (next.pending, next.moving) = (None, None);
        next.revision += 1;
        next.unclean = true;
        next.unclean_recoveries += 1;
        let given_up = shard.members().into_iter().filter(|member| **member != kept).cloned().collect();
        next.recoveries.push(Recovery { epoch: next.epoch, kept, given_up, by, time_ms });
        let forgotten = next.recoveries.len().saturating_sub(RECOVERIES);
        next.recoveries.drain(..forgotten);
        Ok(self.put(next))
    }

    /// Gives the epoch to a leader, once. It may be one that is leaving: nobody else may have the whole log. Then another epoch follows when
    /// the new members count.
    pub(super) fn grant(&mut self, id: ShardId, grant: &Grant) -> Changed {
        let shard = self.existing(id)?.clone();
        shard.in_epoch(grant.epoch)?;
        if let Phase::Led(granted) = &shard.phase {
            return match granted == grant {
                true => Ok(shard),
                false => invalid(format!("epoch {} of shard {id} was granted to {}", grant.epoch, granted.leader)),
            };
        }
        let fits = grant.generation == shard.config().generation && grant.unclean == shard.unclean;
        if !shard.members().contains(&grant.leader) || !fits {
            return invalid(format!("the grant does not fit the members of shard {id}, generation {}", shard.config().generation));
        }
        if grant.last_epoch >= grant.epoch {
            return invalid(format!("the log of shard {id} can't hold epoch {} before that was granted", grant.last_epoch));
        }
        Ok(self.put(Shard { phase: Phase::Led(grant.clone()), ..Shard::clone(&shard) }))
    }

    /// The leader of this epoch has committed its beginning under the new members, so the old ones are needed no more.
    pub(super) fn settle(&mut self, id: ShardId, epoch: Epoch) -> Changed {
        let shard = self.existing(id)?.clone();
        shard.in_epoch(epoch)?;
        if shard.leader().is_none() {
            return invalid(format!("no leader was chosen in epoch {epoch} of shard {id} yet"));
        }
        let mut next = Shard::clone(&shard);
        next.unclean = false;
        if let Some(config) = next.pending.take() {
            next.stable = config;
            next.moving = None;
            next.revision += 1;
        }
        Ok(self.put(next))
    }

    pub(super) fn set_policy(&mut self, id: ShardId, expect: u64, policy: Policy) -> Changed {
        check_policy(policy)?;
        let shard = self.existing(id)?.clone();
        shard.at_revision(expect)?;
        Ok(self.put(Shard { policy, revision: expect + 1, ..Shard::clone(&shard) }))
    }

    pub(super) fn plan_move(&mut self, nodes: &Nodes, id: ShardId, expect: u64, moving: &Move) -> Changed {
        let shard = self.existing(id)?.clone();
        shard.at_revision(expect)?;
        if shard.unclean {
            return being_recovered(id);
        }
        if shard.moving.is_some() || shard.pending.is_some() {
            return invalid(format!("shard {id} is on the move already; wait for it or drop that move"));
        }
        if let Some(leaving) = &moving.leaving
            && !shard.stable.members.contains(leaving)
        {
            return invalid(format!("replica {leaving} is no member of shard {id}"));
        }
        match &moving.joining {
            None if moving.leaving.is_none() => return invalid(format!("a move of shard {id} names who joins or who leaves")),
            None if shard.stable.members.len() == 1 => return invalid(format!("the last replica of shard {id} can't leave")),
            None => {}
            Some(joining) => check_joining(nodes, &shard, joining)?,
        }
        Ok(self.put(Shard { moving: Some(moving.clone()), revision: expect + 1, ..Shard::clone(&shard) }))
    }

    pub(super) fn drop_move(&mut self, id: ShardId, expect: u64) -> Changed {
        let shard = self.existing(id)?.clone();
        shard.at_revision(expect)?;
        if shard.pending.is_some() {
            return invalid(format!("the new members of shard {id} take part already; move it back when that has ended"));
        }
        Ok(self.put(Shard { moving: None, revision: expect + 1, ..Shard::clone(&shard) }))
    }
}

/// What an epoch begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochBegun {
    /// The epoch that ends.
    pub expect: Epoch,
    pub reason: Reason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<Replica>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ShardConfig>,
}

/// An operator's order, with all that is remembered of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncleanEpochBegun {
    /// The epoch that ends.
    pub expect: Epoch,
    /// The copy that goes on alone.
    pub kept: Replica,
    /// Who ordered it, as they call themselves.
    pub by: String,
    pub time_ms: u64,
}

fn being_recovered<T>(id: ShardId) -> Result<T, MetadataError> {
    invalid(format!("shard {id} is being recovered; its members change when a leader has begun"))
}

fn check_joining(nodes: &Nodes, shard: &Shard, joining: &Replica) -> Result<(), MetadataError> {
    check_replica(nodes, joining)?;
    if shard.is_on(joining.node) {
        return invalid(format!("node {} holds shard {} already", joining.node, shard.id));
    }
    match nodes.existing(joining.node)?.takes_replicas() {
        true => Ok(()),
        false => invalid(format!("node {} takes no replicas now: it is down, cordoned or not a broker", joining.node)),
    }
}

fn check_replica(nodes: &Nodes, replica: &Replica) -> Result<(), MetadataError> {
    nodes.existing(replica.node)?;
    if replica.store.len() != 32 || !replica.store.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return invalid(format!("the store of replica {} is not 32 hexadecimal digits", replica.to_string().escape_debug()));
    }
    Ok(())
}

fn check_config(nodes: &Nodes, config: &ShardConfig) -> Result<(), MetadataError> {
    let (n, w) = (config.members.len(), config.w);
    if !COPIES.contains(&n) {
        return invalid(format!("a shard has 1, 2, 3 or 5 copies, not {n}"));
    }
    if !(1..=n).contains(&w) {
        return invalid(format!("{w} of {n} copies can't be waited for"));
    }
    let mut seen = BTreeSet::new();
    for replica in &config.members {
        check_replica(nodes, replica)?;
        if !seen.insert(replica.node) {
            return invalid(format!("two copies on node {} would be lost together", replica.node));
        }
    }
    Ok(())
}

fn check_policy(policy: Policy) -> Result<(), MetadataError> {
    if !COPIES.contains(&policy.copies) || !(1..=policy.copies).contains(&policy.min_copies) {
        let Policy { copies, min_copies } = policy;
        return invalid(format!("a shard has 1, 2, 3 or 5 copies and at least 1, not {copies} and at least {min_copies}"));
    }
    Ok(())
}

fn no_epoch(id: ShardId) -> MetadataError {
    MetadataError::Invalid { why: format!("all epochs of shard {id} were used") }
}

fn invalid<T>(why: String) -> Result<T, MetadataError> {
    Err(MetadataError::Invalid { why })
}
