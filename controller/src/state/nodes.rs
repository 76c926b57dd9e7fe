//! The nodes of the cluster: who belongs to it, where it is reached, and whether anything may be put on it.
//!
//! A node is known by its number and nothing else. Numbers are counted here and never given twice, so a node that lost its disk joins as
//! another one; the lost one stays until it is removed.

use gantry_model::NodeId;
use gantry_model::contract::metadata::MetadataError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The node that founded the cluster.
pub const FOUNDER: NodeId = NodeId(1);
/// Most nodes of a cluster.
const NODES_MAX: usize = 4_096;
/// Longest address and zone, in bytes: a DNS name has 253, a port 6.
const ADDRESS_MAX: usize = 260;

/// What a node says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// `host:port`.
    pub address: String,
    /// What fails together, as the operator names it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Replicas of shards it may hold; 0 for a node that is a controller only.
    #[serde(default)]
    pub capacity: u32,
    /// Grows with every start of the process.
    #[serde(default)]
    pub incarnation: u64,
    /// The newest stored format it reads and writes.
    #[serde(default)]
    pub format: u32,
}

/// A node as everybody knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    #[serde(flatten)]
    pub spec: NodeSpec,
    pub health: Health,
    pub admission: Admission,
}

/// Whether a node was heard of lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Up,
    Down,
}

/// Whether a node takes something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    Open,
    Cordoned,
}

impl Node {
    /// Whether a replica may be put here.
    pub fn takes_replicas(&self) -> bool {
        self.health == Health::Up && self.admission == Admission::Open && self.spec.capacity > 0
    }
}

/// All nodes, and the number of the next.
#[derive(Clone, Debug)]
pub struct Nodes {
    by_id: BTreeMap<NodeId, Arc<Node>>,
    next: u64,
}

impl Default for Nodes {
    fn default() -> Nodes {
        Nodes::after(FOUNDER.0 + 1)
    }
}

impl Nodes {
    /// No nodes; the next one gets this number.
    pub fn after(next: u64) -> Nodes {
        Nodes { by_id: BTreeMap::new(), next }
    }

    pub fn get(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.by_id.get(&id)
    }

    /// In the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.by_id.values()
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The number that the next node gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The node, or the refusal that names it.
    pub fn existing(&self, id: NodeId) -> Result<&Arc<Node>, MetadataError> {
        self.get(id).ok_or_else(|| MetadataError::NotFound { what: format!("node {id}") })
    }

    /// The founder is there from the beginning; it says where it is when it starts.
    pub(super) fn found(&mut self) {
        self.put(Node { id: FOUNDER, spec: NodeSpec::default(), health: Health::Up, admission: Admission::Open });
    }

    pub(super) fn join(&mut self, spec: &NodeSpec) -> Result<Arc<Node>, MetadataError> {
        check(spec)?;
        if self.by_id.len() >= NODES_MAX {
            return invalid(format!("the cluster has {NODES_MAX} nodes, which is the most allowed; remove those that are gone"));
        }
        let id = NodeId(self.next);
        self.next += 1;
        Ok(self.put(Node { id, spec: spec.clone(), health: Health::Up, admission: Admission::Open }))
    }

    /// An older incarnation must not speak for a newer one.
    pub(super) fn start(&mut self, id: NodeId, spec: &NodeSpec) -> Result<Arc<Node>, MetadataError> {
        check(spec)?;
        let node = self.existing(id)?.clone();
        if spec.incarnation < node.spec.incarnation {
            let (old, new) = (spec.incarnation, node.spec.incarnation);
            return invalid(format!("incarnation {old} of node {id} is over, it started again as {new}"));
        }
        Ok(self.put(Node { spec: spec.clone(), health: Health::Up, ..Node::clone(&node) }))
    }

    /// Says of this incarnation how it is; what is said of an earlier one is refused.
    pub(super) fn mark(&mut self, id: NodeId, incarnation: u64, health: Health) -> Result<Arc<Node>, MetadataError> {
        let node = self.existing(id)?.clone();
        if node.spec.incarnation != incarnation {
            return invalid(format!("node {id} started again as {}, so incarnation {incarnation} is no news", node.spec.incarnation));
        }
        Ok(self.put(Node { health, ..Node::clone(&node) }))
    }

    pub(super) fn admit(&mut self, id: NodeId, admission: Admission) -> Result<Arc<Node>, MetadataError> {
        let node = self.existing(id)?.clone();
        Ok(self.put(Node { admission, ..Node::clone(&node) }))
    }

    pub(super) fn remove(&mut self, id: NodeId) -> Result<(), MetadataError> {
        self.existing(id)?;
        self.by_id.remove(&id);
        Ok(())
    }

    pub(super) fn put(&mut self, node: Node) -> Arc<Node> {
        assert!(node.id.0 < self.next, "numbers are given before they are used");
        let node = Arc::new(node);
        self.by_id.insert(node.id, node.clone());
        node
    }
}

fn check(spec: &NodeSpec) -> Result<(), MetadataError> {
    let (address, zone) = (spec.address.len(), spec.zone.len());
    if !(1..=ADDRESS_MAX).contains(&address) || !spec.address.contains(':') {
        return invalid(format!("`{}` is not an address like `host:9082`", spec.address.escape_debug()));
    }
    if zone > ADDRESS_MAX {
        return invalid(format!("a zone has at most {ADDRESS_MAX} bytes, not {zone}"));
    }
    Ok(())
}

fn invalid<T>(why: String) -> Result<T, MetadataError> {
    Err(MetadataError::Invalid { why })
}
