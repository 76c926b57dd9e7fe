//! Where replicas and leaders should be: spread over zones and nodes first, even loads second. Pure: the same picture gives the same plan.
//!
//! A plan is a list of small steps, each of which makes things better, so it may be stopped after any of them. What is proposed to the
//! state is checked there again.

use crate::state::State;
use gantry_model::{NodeId, ShardId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A node as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub node: NodeId,
    pub zone: String,
    /// Replicas it may hold.
    pub capacity: u32,
    /// Whether something new may be put on it.
    pub open: bool,
}

/// A shard as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub shard: ShardId,
    pub nodes: BTreeSet<NodeId>,
    pub leader: Option<NodeId>,
}

/// All that is to be placed, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    pub places: BTreeMap<NodeId, Place>,
    pub shards: BTreeMap<ShardId, Held>,
}

/// One step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A copy goes from one node to another.
    Move { shard: ShardId, from: NodeId, to: NodeId },
    /// Another of its nodes should lead the shard.
    Lead { shard: ShardId, from: NodeId, to: NodeId },
}

/// Why there is no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPlace {
    pub wanted: usize,
    pub open: usize,
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoPlace { wanted, open } = self;
        write!(
            f,
            "{wanted} copies need {wanted} nodes that are up, not cordoned and have room; there are {open}. Add brokers or ask for fewer copies"
        )
    }
}

impl std::error::Error for NoPlace {}

impl Picture {
    /// What the state knows.
    pub fn of(state: &State) -> Picture {
        let places = state.nodes().iter().map(|node| {
            let place = Place { node: node.id, zone: node.spec.zone.clone(), capacity: node.spec.capacity, open: node.takes_replicas() };
            (node.id, place)
        });
        let shards = state.shards_placed().iter().map(|shard| {
            let joining = shard.moving.iter().filter_map(|moving| moving.joining.as_ref());
            let nodes = shard.members().into_iter().chain(joining).map(|replica| replica.node).collect();
            (shard.id, Held { shard: shard.id, nodes, leader: shard.leader().map(|replica| replica.node) })
        });
        Picture { places: places.collect(), shards: shards.collect() }
    }

    /// How many replicas each node holds.
    pub fn loads(&self) -> BTreeMap<NodeId, u32> {
        count(&self.places, self.shards.values().flat_map(|held| held.nodes.iter().copied()))
    }

    /// How many shards each node leads.
    pub fn leads(&self) -> BTreeMap<NodeId, u32> {
        count(&self.places, self.shards.values().filter_map(|held| held.leader))
    }

    /// Nodes for the copies of a new shard, the one that should lead first.
    pub fn place(&self, copies: usize) -> Result<Vec<NodeId>, NoPlace> {
        let (loads, leads) = (self.loads(), self.leads());
        let mut chosen = BTreeSet::new();
        for _ in 0..copies {
            let node = self.best(&chosen, &loads).ok_or_else(|| NoPlace { wanted: copies, open: self.open(&loads) })?;
            chosen.insert(node);
        }
        let mut chosen: Vec<NodeId> = chosen.into_iter().collect();
        chosen.sort_by_key(|node| (leads.get(node).copied().unwrap_or(0), loads.get(node).copied().unwrap_or(0), *node));
        Ok(chosen)
    }

    /// A node that may take the copy of a shard from another one that died or is cordoned.
    pub fn substitute(&self, shard: ShardId, leaving: NodeId) -> Option<NodeId> {
        let held = self.shards.get(&shard)?;
        let staying: BTreeSet<NodeId> = held.nodes.iter().copied().filter(|node| *node != leaving).collect();
        let loads = self.loads();
        // It may not come back to where it leaves.
        let mut without = self.clone();
        without.places.remove(&leaving);
        without.best(&staying, &loads)
    }

    /// A node for one more copy of a shard.
    pub fn another(&self, shard: ShardId) -> Option<NodeId> {
        self.best(&self.shards.get(&shard)?.nodes, &self.loads())
    }

    /// The open node that spreads these copies best, then the emptiest.
    fn best(&self, chosen: &BTreeSet<NodeId>, loads: &BTreeMap<NodeId, u32>) -> Option<NodeId> {
        let zones = self.zones(chosen);
        let free = self.places.values().filter(|place| !chosen.contains(&place.node) && has_room(place, loads));
        free.min_by_key(|place| {
            let in_zone = zones.get(place.zone.as_str()).copied().unwrap_or(0);
            (in_zone, fullness(place, loads), Reverse(place.capacity), place.node)
        })
        .map(|place| place.node)
    }

    /// How many of these nodes are in each zone.
    fn zones(&self, nodes: &BTreeSet<NodeId>) -> BTreeMap<&str, usize> {
        let mut zones = BTreeMap::new();
        for place in nodes.iter().filter_map(|node| self.places.get(node)) {
            *zones.entry(place.zone.as_str()).or_default() += 1;
        }
        zones
    }

    fn open(&self, loads: &BTreeMap<NodeId, u32>) -> usize {
        self.places.values().filter(|place| has_room(place, loads)).count()
    }

    /// Steps that empty nodes which take nothing new, as far as there is room elsewhere. Leads leave first: that is quick.
    pub fn drain(&self, node: NodeId, limit: usize) -> Vec<Step> {
        let mut picture = self.clone();
        let mut steps = Vec::new();
        let on: Vec<ShardId> = self.shards.values().filter(|held| held.nodes.contains(&node)).map(|held| held.shard).collect();
        for shard in &on {
            steps.extend(picture.lead_elsewhere(*shard, node));
        }
        for shard in &on {
            if let Some(to) = picture.substitute(*shard, node) {
                steps.push(picture.take(Step::Move { shard: *shard, from: node, to }));
            }
        }
        steps.truncate(limit);
        steps
    }

    /// Hands the lead of a shard from this node to the member that leads least.
    fn lead_elsewhere(&mut self, shard: ShardId, from: NodeId) -> Option<Step> {
        let held = self.shards.get(&shard)?;
        if held.leader != Some(from) {
            return None;
        }
        let leads = self.leads();
        let to = held.nodes.iter().filter(|node| **node != from && self.places.get(node).is_some_and(|place| place.open));
        let to = *to.min_by_key(|node| (leads.get(node).copied().unwrap_or(0), **node))?;
        Some(self.take(Step::Lead { shard, from, to }))
    }

    /// Steps after which the nodes lead about as many shards each: no step would make the busiest and the idlest of a shard's members
    /// more equal.
    pub fn balance_leads(&self, limit: usize) -> Vec<Step> {
        let mut picture = self.clone();
        std::iter::from_fn(|| picture.better_lead()).take(limit).collect()
    }

    fn better_lead(&mut self) -> Option<Step> {
        let leads = self.leads();
        let of = |node: NodeId| leads.get(&node).copied().unwrap_or(0);
        let steps = self.shards.values().filter_map(|held| {
            let from = held.leader?;
            let open = held.nodes.iter().copied().filter(|node| *node != from && self.places.get(node).is_some_and(|place| place.open));
            let to = open.min_by_key(|node| (of(*node), *node))?;
            (of(from) > of(to) + 1).then(|| (of(from) - of(to), Reverse(held.shard), Step::Lead { shard: held.shard, from, to }))
        });
        let (_, _, step) = steps.max_by_key(|(gain, shard, _)| (*gain, *shard))?;
        Some(self.take(step))
    }

    /// Steps after which no move would make the loads more even without putting copies nearer to each other.
    pub fn balance_copies(&self, limit: usize) -> Vec<Step> {
        let mut picture = self.clone();
        std::iter::from_fn(|| picture.better_copy()).take(limit).collect()
    }

    fn better_copy(&mut self) -> Option<Step> {
        let loads = self.loads();
        let of = |node: NodeId| loads.get(&node).copied().unwrap_or(0);
        let mut targets: Vec<&Place> = self.places.values().filter(|place| has_room(place, &loads)).collect();
        targets.sort_by_key(|place| (of(place.node), place.node));
        let mut sources: Vec<NodeId> = self.places.keys().copied().collect();
        sources.sort_by_key(|node| (Reverse(of(*node)), *node));
        for from in sources {
            for to in targets.iter().map(|place| place.node).filter(|to| of(from) > of(*to) + 1) {
                let moves = self.shards.values().find(|held| self.may_move(held, from, to));
                if let Some(shard) = moves.map(|held| held.shard) {
                    return Some(self.take(Step::Move { shard, from, to }));
                }
            }
        }
        None
    }

    /// Whether the copies of a shard are as far apart after the move as before. A leader stays where it is while it leads.
    fn may_move(&self, held: &Held, from: NodeId, to: NodeId) -> bool {
        if !held.nodes.contains(&from) || held.nodes.contains(&to) || held.leader == Some(from) {
            return false;
        }
        let after: BTreeSet<NodeId> = held.nodes.iter().copied().filter(|node| *node != from).chain([to]).collect();
        self.crowding(&after) <= self.crowding(&held.nodes)
    }

    /// How many copies share a zone with the most others.
    pub fn crowding(&self, nodes: &BTreeSet<NodeId>) -> usize {
        self.zones(nodes).into_values().max().unwrap_or(0)
    }

    /// The picture after a step.
    pub fn take(&mut self, step: Step) -> Step {
        match step {
            Step::Move { shard, from, to } => {
                let held = self.shards.get_mut(&shard).expect("steps are about shards of the picture");
                held.nodes.remove(&from);
                held.nodes.insert(to);
                held.leader = held.leader.filter(|leader| *leader != from);
            }
            Step::Lead { shard, to, .. } => self.shards.get_mut(&shard).expect("steps are about shards of the picture").leader = Some(to),
        }
        step
    }
}

fn count(places: &BTreeMap<NodeId, Place>, nodes: impl Iterator<Item = NodeId>) -> BTreeMap<NodeId, u32> {
    let mut counts: BTreeMap<NodeId, u32> = places.keys().map(|node| (*node, 0)).collect();
    nodes.for_each(|node| *counts.entry(node).or_default() += 1);
    counts
}

fn has_room(place: &Place, loads: &BTreeMap<NodeId, u32>) -> bool {
    place.open && loads.get(&place.node).copied().unwrap_or(0) < place.capacity
}

/// The share of its capacity that a node holds, in parts of a million.
fn fullness(place: &Place, loads: &BTreeMap<NodeId, u32>) -> u64 {
    u64::from(loads.get(&place.node).copied().unwrap_or(0)) * 1_000_000 / u64::from(place.capacity.max(1))
}

#[cfg(test)]
mod tests;
