//! The world of the model: a few replicas, the controller, and what must never be forgotten.

use crate::frames::{Entry, FRAMES, Frames};
use crate::scope::Scope;
use gantry_model::{Epoch, Lsn};
use gantry_store::replica::message::SealOk;
use gantry_store::replica::{Config, Incarnation, Log, Member, NodeId, Promise, Reign, StoreId};
use std::sync::Arc;

/// Replicas that there can be.
pub const NODES: usize = 5;
/// Epochs that there can be.
pub const EPOCHS: usize = 6;

/// Everything that there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub reign: Arc<Reign>,
    /// Answers to the seal of the current epoch, while it has no leader.
    pub sealed: [Option<Sealed>; NODES],
    pub replicas: [Replica; NODES],
    /// What leaders told as committed, by address.
    pub answered: [Option<Entry>; FRAMES],
    /// Who began which epoch.
    pub began: [Option<u8>; EPOCHS],
    /// How often the members were changed.
    pub changes: u8,
    pub values: u8,
    pub crashes: u8,
    pub losses: u8,
    pub installs: u8,
    pub broken: Option<Broken>,
}

/// What must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    TwoLeaders,
    /// A replica was told to cut what it knows to be committed.
    CommittedCut,
    /// Two leaders told different frames at the same address.
    AnswersDiffer,
    /// The logs of a leader and a follower do not agree where their epoch tables say so.
    WrongAgreement,
}

/// One replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Replica {
    pub log: Frames,
    pub durable: u8,
    /// Known to be committed.
    pub hw: u8,
    pub promised: u8,
    pub suspect: bool,
    /// Counts the folders of this node.
    pub store: u8,
    /// Counts the starts of its process.
    pub start: u8,
    pub following: Option<Following>,
    pub leading: Option<Leading>,
    /// What it sent while it led, of which parts may still arrive.
    pub sent: Option<(Leading, Frames)>,
}

/// A leader that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Following {
    pub epoch: u8,
    /// Up to where the leader confirmed the log.
    pub agreed: u8,
    /// Where a suspect stops being one.
    pub target: Option<u8>,
}

/// An epoch that is led.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leading {
    pub epoch: u8,
    /// Where its `EpochStart` is.
    pub start: u8,
    /// How often the members had been changed when it began.
    pub change: u8,
    /// What each replica acknowledged.
    pub acked: [u8; NODES],
}

/// What a replica answered to a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sealed {
    pub last_epoch: u8,
    pub end: u8,
    pub suspect: bool,
    pub store: u8,
    pub start: u8,
}

/// The replica of a node with its nth folder.
pub fn member(node: u8, store: u8) -> Member {
    Member { node: NodeId(u64::from(node)), store: StoreId([store; 16]) }
}

/// The node of a member.
pub fn node_of(member: Member) -> u8 {
    member.node.0 as u8
}

impl World {
    pub fn new(scope: &Scope) -> World {
        World {
            reign: Arc::new(Reign::new(scope.config(0), Epoch(0))),
            sealed: [None; NODES],
            replicas: [Replica::default(); NODES],
            answered: [None; FRAMES],
            began: [None; EPOCHS],
            changes: 0,
            values: 0,
            crashes: 0,
            losses: 0,
            installs: 0,
            broken: None,
        }
    }

    pub fn epoch(&self) -> u8 {
        self.reign.epoch().0 as u8
    }

    pub fn replica(&self, node: u8) -> &Replica {
        &self.replicas[usize::from(node)]
    }

    pub fn replica_mut(&mut self, node: u8) -> &mut Replica {
        &mut self.replicas[usize::from(node)]
    }

    /// The replica as it calls itself.
    pub fn member(&self, node: u8) -> Member {
        member(node, self.replica(node).store)
    }

    /// What a node answered, as the controller sees it.
    pub fn seal_ok(&self, node: u8) -> Option<SealOk> {
        let Sealed { last_epoch, end, suspect, store, start } = self.sealed[usize::from(node)]?;
        Some(SealOk {
            member: member(node, store),
            incarnation: Incarnation(u64::from(start)),
            epoch: self.reign.epoch(),
            log: gantry_store::replica::Position { epoch: Epoch(u32::from(last_epoch)), end: Lsn(u64::from(end)) },
            hw: Lsn(0),
            durable: Lsn(u64::from(end)),
            suspect,
        })
    }

    /// The replica that began the newest epoch that has begun, if it still leads.
    pub fn newest_leader(&self) -> Option<&Replica> {
        let (epoch, node) = self.began.iter().enumerate().rev().find_map(|(epoch, node)| Some((epoch, (*node)?)))?;
        let replica = self.replica(node);
        replica.leading.is_some_and(|leading| usize::from(leading.epoch) == epoch).then_some(replica)
    }

    /// P3: all that was ever told as committed is in the log of the newest leader.
    pub fn leader_is_complete(&self) -> bool {
        let Some(leader) = self.newest_leader() else { return true };
        self.answered.iter().enumerate().all(|(at, told)| told.is_none() || *told == leader.log.get(at as u8))
    }

    /// Whether a replica that was a suspect in this run is one no longer.
    pub fn has_cleared_suspect(&self, scope: &Scope) -> bool {
        let cleared = |replica: &Replica| !replica.suspect && replica.following.is_some_and(|following| following.target.is_some());
        scope.nodes().any(|node| cleared(self.replica(node)))
    }

    pub fn breaks(&mut self, how: Broken) {
        self.broken = self.broken.or(Some(how));
    }
}

impl Replica {
    pub fn promise(&self) -> Promise {
        Promise { store: StoreId([self.store; 16]), epoch: Epoch(u32::from(self.promised)), generation: 0, suspect: self.suspect }
    }

    /// Rule 1: a later epoch is promised, and whatever was done in an older one ends.
    pub fn raise(&mut self, epoch: u8) {
        self.promised = epoch;
        self.stop();
    }

    /// It leads and follows no longer.
    pub fn stop(&mut self) {
        if let Some(leading) = self.leading.take() {
            self.sent = Some((Leading { acked: [0; NODES], ..leading }, self.log));
        }
        self.following = None;
    }

    /// The log from which this replica sends or has sent frames, and the epoch in which it does.
    pub fn sends(&self) -> Option<(Leading, Frames)> {
        self.leading.map(|leading| (leading, self.log)).or(self.sent)
    }

    pub fn sealed(&self) -> Sealed {
        let tail = self.log.tail();
        Sealed { last_epoch: tail.epoch.0 as u8, end: tail.end.0 as u8, suspect: self.suspect, store: self.store, start: self.start }
    }
}

impl Leading {
    pub fn config(&self, scope: &Scope) -> Config {
        scope.config(self.change)
    }
}
