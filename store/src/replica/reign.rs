//! What the controller knows of a shard for ever: its epoch, who leads or that somebody is to be chosen, and who is a member (rules 10, 13 and 14).
//!
//! It is a part of the controller's replicated state and changes by raft entries only. Each entry names the epoch that it was made for and is refused in
//! any other, so an elector that acts on what is no longer true, or two of them, do no harm.
//!
//! ```text
//!   electing e ── Grant(e) ──▶ led e ── ConfigStable(e) ──▶ led e
//!       │                        │      (pending becomes stable)
//!       ├──── BeginEpoch ────────┼──▶ electing e + 1
//!       └──── BeginUnclean ──────┴──▶ electing e + 1, unclean until ConfigStable
//! ```
//! `BeginUnclean` is an operator's order and nothing that an elector ever proposes: see `docs/design/018-unclean-recovery.md`.

use super::config::{Config, Member};
use super::message::Grant;
use gantry_model::Epoch;
use std::fmt;

/// Why an epoch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Created,
    /// The leader's session ended, or its process was started anew.
    LeaderLost,
    /// It did not begin in time.
    NotStarted,
    Transfer,
    Reconfigure,
}

/// A step of the controller, to be replicated before it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Ends epoch `expect`.
    BeginEpoch {
        expect: Epoch,
        reason: Reason,
        prefer: Option<Member>,
        /// Other members from now on.
        config: Option<Config>,
    },
    /// Ends epoch `expect`, and makes these the only members: what they lack is lost. They are members already; any change on its way ends.
    BeginUnclean {
        expect: Epoch,
        survivors: Config,
    },
    Grant(Grant),
    /// The leader of this epoch committed its `EpochStart`.
    ConfigStable(Epoch),
}

/// Why an entry has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// It is about another epoch than the current one.
    Epoch(Epoch),
    /// The epoch was granted, and is granted once.
    Granted(Member),
    /// Nobody leads this epoch yet.
    Electing,
    /// Members are being changed already, to this generation.
    Changing(u64),
    /// A change needs a greater generation than this.
    Generation(u64),
    /// The grant names another configuration, or a leader that belongs to none.
    Config,
    /// Nobody has begun to lead the survivors of an unclean recovery yet.
    Recovering,
    /// This replica is to survive, and is no member.
    Stranger(Member),
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejected::Epoch(current) => write!(f, "the shard is in epoch `{current}` now"),
            Rejected::Granted(leader) => write!(f, "the epoch was granted to `{leader}`"),
            Rejected::Electing => f.write_str("no leader was chosen in this epoch yet"),
            Rejected::Changing(generation) => write!(f, "the change of members to generation `{generation}` is not finished; wait for it"),
            Rejected::Generation(current) => write!(f, "a change of members needs a generation above `{current}`"),
            Rejected::Config => f.write_str("the grant does not fit the shard's members"),
            Rejected::Recovering => f.write_str("the shard is being recovered; its members change when a leader has begun"),
            Rejected::Stranger(replica) => write!(f, "`{replica}` is no member, so nothing can be recovered from it"),
        }
    }
}

impl std::error::Error for Rejected {}

/// Whether an epoch has its leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Electing { prefer: Option<Member> },
    Led(Grant),
}

/// A shard as the controller's state has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reign {
    epoch: Epoch,
    phase: Phase,
    stable: Config,
    pending: Option<Config>,
    /// The stable members again, because the pending ones turned out not to do.
    retreat: Option<Config>,
    /// An operator gave up what the members lack, and no leader has begun since.
    unclean: bool,
}

impl Reign {
    /// A shard that is new to the controller. Its first epoch is the one after `last`: 0 for a new log, else the last in the log that is taken over.
    pub fn new(config: Config, last: Epoch) -> Reign {
        Reign { epoch: Epoch(last.0 + 1), phase: Phase::Electing { prefer: None }, stable: config, pending: None, retreat: None, unclean: false }
    }

    /// A reign as it was stored: `pending` are the members that a change leads to, if there is one.
    pub fn stored(epoch: Epoch, phase: Phase, stable: Config, pending: Option<Config>) -> Reign {
        Reign { epoch, phase, stable, pending, retreat: None, unclean: false }
    }

    /// The same in the middle of an unclean recovery.
    pub fn stored_unclean(epoch: Epoch, phase: Phase, survivors: Config) -> Reign {
        Reign { unclean: true, ..Reign::stored(epoch, phase, survivors, None) }
    }

    /// The only thing that changes a reign.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Rejected> {
        match entry {
            Entry::BeginEpoch { expect, prefer, config, .. } => self.begin(*expect, *prefer, config.as_ref()),
            Entry::BeginUnclean { expect, survivors } => self.begin_unclean(*expect, survivors),
            Entry::Grant(grant) => self.grant(grant),
            Entry::ConfigStable(epoch) => self.stabilise(*epoch),
        }
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// What leads the current epoch.
    pub fn led_by(&self) -> Option<&Grant> {
        match &self.phase {
            Phase::Led(grant) => Some(grant),
            Phase::Electing { .. } => None,
        }
    }

    pub fn stable(&self) -> &Config {
        &self.stable
    }

    /// The members that a change leads to, until a leader has committed in it. Of a change that is taken back, the members that it would have led to.
    pub fn pending(&self) -> Option<&Config> {
        self.pending.as_ref()
    }

    /// Whether a change is being taken back.
    pub fn retreats(&self) -> bool {
        self.retreat.is_some()
    }

    /// Whether an operator gave up what the members lack, and no leader has begun since. Then all of them are sealed, suspects too, and the best leads.
    pub fn is_unclean(&self) -> bool {
        self.unclean
    }

    /// The configuration of the current epoch.
    pub fn config(&self) -> &Config {
        self.retreat.as_ref().or(self.pending.as_ref()).unwrap_or(&self.stable)
    }

    /// All configurations in which something may have been committed. While a change is taken back these are the same two.
    pub fn configs(&self) -> impl Iterator<Item = &Config> {
        std::iter::once(&self.stable).chain(&self.pending)
    }

    /// The members of all of them, each once.
    pub fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self.configs().flat_map(Config::members).copied().collect();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// Rule 10: an epoch ends by the next one, and only the current one can end. One change of members at a time: while one is pending, both
    /// configurations may have committed something and both must be sealed; with a third there would be no end to it. A change may be taken back, once: that
    /// leads to the stable members, which are sealed anyway.
    fn begin(&mut self, expect: Epoch, prefer: Option<Member>, config: Option<&Config>) -> Result<(), Rejected> {
        if expect != self.epoch {
            return Err(Rejected::Epoch(self.epoch));
        }
        match (config, &self.pending) {
            (None, _) => {}
            (Some(_), _) if self.unclean => return Err(Rejected::Recovering),
            (Some(new), Some(pending)) if self.retreat.is_none() && new.same_members(&self.stable) && new.generation() > pending.generation() => {
                self.retreat = Some(new.clone());
            }
            (Some(_), Some(_)) => return Err(Rejected::Changing(self.config().generation())),
            (Some(new), None) if new.generation() <= self.stable.generation() => return Err(Rejected::Generation(self.stable.generation())),
            (Some(new), None) => self.pending = Some(new.clone()),
        }
        self.epoch = Epoch(self.epoch.0 + 1);
        self.phase = Phase::Electing { prefer };
        Ok(())
    }

    /// The order of an operator. The members before are not asked: they are gone for ever, or what they have is given up.
    fn begin_unclean(&mut self, expect: Epoch, survivors: &Config) -> Result<(), Rejected> {
        if expect != self.epoch {
            return Err(Rejected::Epoch(self.epoch));
        }
        if let Some(stranger) = survivors.members().iter().find(|member| !self.configs().any(|config| config.contains(**member))) {
            return Err(Rejected::Stranger(*stranger));
        }
        let newest = self.config().generation();
        if survivors.generation() <= newest {
            return Err(Rejected::Generation(newest));
        }
        let next = Epoch(self.epoch.0 + 1);
        *self = Reign::stored_unclean(next, Phase::Electing { prefer: None }, survivors.clone());
        Ok(())
    }

    /// Rule 13: one grant in an epoch.
    fn grant(&mut self, grant: &Grant) -> Result<(), Rejected> {
        if grant.epoch != self.epoch {
            return Err(Rejected::Epoch(self.epoch));
        }
        if let Phase::Led(granted) = &self.phase {
            return Err(Rejected::Granted(granted.leader));
        }
        if grant.unclean != self.unclean || grant.config != *self.config() || !self.configs().any(|config| config.contains(grant.leader)) {
            return Err(Rejected::Config);
        }
        self.phase = Phase::Led(grant.clone());
        Ok(())
    }

    /// Rule 14: the pending members are the only ones once a leader has committed in their configuration, and only while it is the current leader: when a
    /// later epoch has begun, what an older leader committed may be known to the old members only.
    fn stabilise(&mut self, epoch: Epoch) -> Result<(), Rejected> {
        if epoch != self.epoch {
            return Err(Rejected::Epoch(self.epoch));
        }
        if self.led_by().is_none() {
            return Err(Rejected::Electing);
        }
        self.stable = self.config().clone();
        (self.pending, self.retreat, self.unclean) = (None, None, false);
        Ok(())
    }
}
