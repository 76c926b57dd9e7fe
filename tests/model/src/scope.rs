//! How much may happen in a run.

use crate::mutant::Mutant;
use crate::step::Step;
use crate::world::{World, member};
use gantry_store::replica::Config;
use gantry_store::replica::leader::Durability;

/// When what was written becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// In the same step.
    AtOnce,
    /// In a step of its own, so that a crash may come between.
    Later,
}

/// The bounds of a run, and the rule that is broken in it, if any.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The members at the beginning, then after each change.
    pub members: Vec<Vec<u8>>,
    /// So many epochs begin at most.
    pub epochs: u8,
    /// So many frames are appended besides `EpochStart`.
    pub values: u8,
    pub crashes: u8,
    /// So many folders are lost.
    pub losses: u8,
    /// So many replicas are given the leader's state instead of frames.
    pub installs: u8,
    pub durability: Durability,
    pub sync: Sync,
    /// Appends of a leader may arrive after it has stopped.
    pub late: bool,
    pub mutant: Option<Mutant>,
    /// What has happened when the run begins.
    pub before: Vec<Step>,
}

impl Scope {
    /// Three members that never change, synced before they acknowledge; nothing crashes.
    pub fn quiet(epochs: u8, values: u8) -> Scope {
        let members = vec![vec![0, 1, 2]];
        Scope {
            members,
            epochs,
            values,
            crashes: 0,
            losses: 0,
            installs: 0,
            durability: Durability::Disk,
            sync: Sync::AtOnce,
            late: false,
            mutant: None,
            before: Vec::new(),
        }
    }

    pub fn with_crashes(self, crashes: u8) -> Scope {
        Scope { crashes, ..self }
    }

    /// Acknowledged when written, and what is not synced is lost by a crash.
    pub fn in_memory(self) -> Scope {
        Scope { durability: Durability::Memory, sync: Sync::Later, ..self }
    }

    /// A sync takes a step of its own.
    pub fn syncing_later(self) -> Scope {
        Scope { sync: Sync::Later, ..self }
    }

    /// Appends of a leader may arrive after it has stopped.
    pub fn with_late_appends(self) -> Scope {
        Scope { late: true, ..self }
    }

    /// Other members, and others again.
    pub fn with_members(self, members: &[&[u8]]) -> Scope {
        Scope { members: members.iter().map(|nodes| nodes.to_vec()).collect(), ..self }
    }

    pub fn with_losses(self, losses: u8) -> Scope {
        Scope { losses, ..self }
    }

    pub fn with_installs(self, installs: u8) -> Scope {
        Scope { installs, ..self }
    }

    /// Begins when this has happened.
    pub fn after(self, before: &[Step]) -> Scope {
        Scope { before: before.to_vec(), ..self }
    }

    /// Begins when replica 0 leads the first epoch and the others know nothing of it, but that R of them promised it.
    pub fn led(self) -> Scope {
        let r = self.config(0).r() as u8;
        let seals: Vec<Step> = (0..r).map(Step::Seal).chain([Step::Grant(0), Step::Become(0)]).collect();
        self.after(&seals)
    }

    pub fn breaking(self, mutant: Mutant) -> Scope {
        Scope { mutant: Some(mutant), ..self }
    }

    /// The configuration after so many changes.
    pub fn config(&self, change: u8) -> Config {
        let nodes = &self.members[usize::from(change)];
        Config::new(u64::from(change) + 1, nodes.iter().map(|node| member(*node, 0))).expect("a run's members are a configuration")
    }

    pub fn breaks(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Nodes that matter in this run.
    pub fn nodes(&self) -> impl Iterator<Item = u8> + use<> {
        let nodes = self.members.iter().flatten().max().map_or(0, |last| last + 1);
        0..nodes
    }

    /// Whether no replica can become a suspect in this run.
    pub fn suspects_nobody(&self) -> bool {
        self.installs == 0 && (self.durability == Durability::Disk || self.crashes == 0)
    }

    /// Whether all changes of members were made.
    pub fn all_changed(&self, world: &World) -> bool {
        world.reign.pending().is_none() && usize::from(world.changes) + 1 == self.members.len()
    }
}
