//! Who holds copies of a shard, and how many of them it takes.

use gantry_model::NodeId;
use std::fmt;

/// A name that a shard's folder drew when it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub [u8; 16]);

/// A replica. A broker that lost the shard's folder has forgotten its promise, so it is another member, although the node is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    pub node: NodeId,
    pub store: StoreId,
}

/// One run of a broker's process; grows with each start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// One stream of a broker's process to a leader. What was said on an older one, or by an older process, may be about a log that was lost since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    pub incarnation: Incarnation,
    /// Counts the `Hello`s of the process.
    pub greeting: u64,
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.store)
    }
}

/// The members of a shard, and W: on how many of them a frame is durable when it is committed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Config {
    generation: u64,
    /// In ascending order.
    members: Vec<Member>,
    w: usize,
}

/// Why members are not a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Copies are made on 1, 2, 3 or 5 nodes: a fourth costs as much as a fifth and lets no more of them fail than three do.
    Size(usize),
    /// Two copies on one node are lost together.
    Twice(NodeId),
    /// W is between 1 and the number of members.
    Copies { w: usize, n: usize },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Size(n) => write!(f, "a shard has 1, 2, 3 or 5 members, not `{n}`"),
            ConfigError::Twice(node) => write!(f, "node `{node}` is named twice"),
            ConfigError::Copies { w, n } => write!(f, "`{w}` copies can't be required of `{n}` members"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Members with the usual W: 1 of 1, 2 of 2, 2 of 3, 3 of 5.
    pub fn new(generation: u64, members: impl IntoIterator<Item = Member>) -> Result<Config, ConfigError> {
        let members: Vec<Member> = members.into_iter().collect();
        let w = members.len() / 2 + 1;
        Config::with_copies(generation, members, w)
    }

    /// Members with another W, for instance 3 of 3.
    pub fn with_copies(generation: u64, members: impl IntoIterator<Item = Member>, w: usize) -> Result<Config, ConfigError> {
        let mut members: Vec<Member> = members.into_iter().collect();
        members.sort_unstable();
        let n = members.len();
        if let Some(twice) = members.windows(2).find(|pair| pair[0].node == pair[1].node) {
            return Err(ConfigError::Twice(twice[0].node));
        }
        if ![1, 2, 3, 5].contains(&n) {
            return Err(ConfigError::Size(n));
        }
        if w == 0 || w > n {
            return Err(ConfigError::Copies { w, n });
        }
        Ok(Config { generation, members, w })
    }

    /// Grows with each change of the members.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn contains(&self, member: Member) -> bool {
        self.members.binary_search(&member).is_ok()
    }

    /// Whether both mean the same quorums.
    pub fn same_members(&self, other: &Config) -> bool {
        (&self.members, self.w) == (&other.members, other.w)
    }

    /// Members that must have a frame durably before it is committed.
    pub fn w(&self) -> usize {
        self.w
    }

    /// Members that must be sealed before another leader may begin. Any R of them and any W of them have one in common.
    pub fn r(&self) -> usize {
        self.members.len() - self.w + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(nodes: &[u64]) -> Vec<Member> {
        nodes.iter().map(|node| Member { node: NodeId(*node), store: StoreId([*node as u8; 16]) }).collect()
    }

    #[test]
    fn quorums_by_size() {
        let check = |n: u64, expected: Option<(usize, usize)>| {
            let nodes: Vec<u64> = (1..=n).collect();
            let config = Config::new(1, members(&nodes)).ok();
            assert_eq!(config.map(|config| (config.w(), config.r())), expected, "{n} members");
        };
        check(0, None);
        check(1, Some((1, 1)));
        check(2, Some((2, 1)));
        check(3, Some((2, 2)));
        check(4, None);
        check(5, Some((3, 3)));
        check(6, None);
    }

    #[test]
    fn any_w_and_any_r_members_have_one_in_common() {
        for (n, w) in [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (5, 2), (5, 3), (5, 5)] {
            let config = Config::with_copies(1, members(&(0..n).collect::<Vec<u64>>()), w).expect("a legal size");
            for (a, b) in (0u32..1 << n).flat_map(|a| (0u32..1 << n).map(move |b| (a, b))) {
                let meets = a.count_ones() as usize >= config.w() && b.count_ones() as usize >= config.r();
                assert!(!meets || a & b != 0, "{a:b} and {b:b} of {n}, W {w}");
            }
        }
    }

    #[test]
    fn impossible_configurations_are_refused() {
        assert_eq!(Config::new(1, members(&[1, 2, 1])), Err(ConfigError::Twice(NodeId(1))));
        let mut reborn = members(&[1, 2, 3]);
        reborn.push(Member { node: NodeId(3), store: StoreId([9; 16]) });
        assert_eq!(Config::new(1, reborn), Err(ConfigError::Twice(NodeId(3))), "the same node with another store");
        assert_eq!(Config::with_copies(1, members(&[1, 2, 3]), 4), Err(ConfigError::Copies { w: 4, n: 3 }));
        assert_eq!(Config::with_copies(1, members(&[1]), 0), Err(ConfigError::Copies { w: 0, n: 1 }));
    }

    #[test]
    fn a_lost_folder_makes_another_member() {
        let config = Config::new(1, members(&[1, 2, 3])).expect("three members");
        assert!(config.contains(members(&[2])[0]));
        assert!(!config.contains(Member { node: NodeId(2), store: StoreId([7; 16]) }));
    }
}
