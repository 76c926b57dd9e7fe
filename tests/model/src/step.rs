//! What can happen next.

use crate::frames::Frames;
use crate::mutant::Mutant;
use crate::scope::{Scope, Sync};
use crate::world::{Replica, World};
use crate::{controller, replicas};
use gantry_store::replica::promise::Admission;

/// Whose epoch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    Same,
    /// Those that come next in the scope.
    Next,
}

/// One thing that happens, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The controller ends the epoch.
    BeginEpoch(Members),
    /// A replica promises the epoch, and says what it has.
    Seal(u8),
    /// The controller grants the epoch to one of those that answered.
    Grant(u8),
    /// The replica begins the epoch that was granted to it.
    Become(u8),
    /// A leader appends a frame.
    Send(u8),
    Sync(u8),
    /// A follower takes over a leader's log up to `end`.
    Append {
        from: u8,
        to: u8,
        end: u8,
    },
    /// A leader learns that everything up to `end` is committed, and tells its clients.
    Commit {
        leader: u8,
        end: u8,
    },
    /// A follower learns what its leader knows to be committed.
    TellCommitted {
        from: u8,
        to: u8,
    },
    /// The controller hears that a leader committed its `EpochStart`.
    ConfigStable(u8),
    /// A process ends and starts again, with the first `keep` frames of its log.
    Crash {
        node: u8,
        keep: u8,
    },
    LoseFolder(u8),
    /// A suspect says `Hello`, and is told what it needs.
    Rejoin {
        leader: u8,
        node: u8,
    },
    /// A leader forgets the frames that lead to its committed state.
    Trim(u8),
    /// A replica that lacks what the leader forgot gives up its log.
    GiveUp {
        leader: u8,
        node: u8,
    },
    /// It gets the leader's state and the frames behind it.
    Install {
        leader: u8,
        node: u8,
    },
}

/// Everything that can happen.
pub fn possible(scope: &Scope, world: &World, out: &mut Vec<Step>) {
    if world.broken.is_some() {
        return;
    }
    controller::possible(scope, world, out);
    for node in scope.nodes() {
        of_replica(scope, world, node, out);
        if world.replica(node).leading.is_some() {
            of_leader(scope, world, node, out);
        }
        scope.nodes().filter(|to| *to != node).for_each(|to| between(scope, world, node, to, out));
    }
}

fn of_replica(scope: &Scope, world: &World, node: u8, out: &mut Vec<Step>) {
    let replica = world.replica(node);
    if controller::granted(scope, world, node) {
        out.push(Step::Become(node));
    }
    if scope.sync == Sync::Later && replica.durable < replica.log.len() {
        out.push(Step::Sync(node));
    }
    if world.crashes < scope.crashes {
        out.extend((replica.durable..=replica.log.len()).map(|keep| Step::Crash { node, keep }));
    }
    if world.losses < scope.losses {
        out.push(Step::LoseFolder(node));
    }
}

fn of_leader(scope: &Scope, world: &World, node: u8, out: &mut Vec<Step>) {
    let leader = world.replica(node);
    if world.values < scope.values {
        out.push(Step::Send(node));
    }
    out.extend((leader.hw + 1..=leader.log.len()).map(|end| Step::Commit { leader: node, end }));
    let begun = leader.leading.is_some_and(|leading| leader.hw > leading.start);
    let heard = controller::would_stabilise(scope, world, node);
    if begun && world.reign.pending().is_some() && heard {
        out.push(Step::ConfigStable(node));
    }
    if world.installs < scope.installs && leader.hw.min(leader.durable) > leader.log.first() {
        out.push(Step::Trim(node));
    }
}

/// What a leader and another replica can do together.
fn between(scope: &Scope, world: &World, from: u8, to: u8, out: &mut Vec<Step>) {
    let (leader, follower) = (world.replica(from), world.replica(to));
    let Some((leading, log)) = leader.sends() else { return };
    let counted = if scope.breaks(Mutant::CountReborn) { crate::world::member(to, 0) } else { world.member(to) };
    let known = leading.config(scope).contains(counted);
    let admitted = follower.promise().admits(gantry_model::Epoch(u32::from(leading.epoch))) != Admission::Refused;
    if !known || !admitted {
        return;
    }
    if leader.leading.is_none() {
        late(&log, follower).for_each(|end| out.push(Step::Append { from, to, end }));
        return;
    }
    if replicas::must_install(&log, &follower.log) {
        let given_up = follower.log.is_empty() && (follower.suspect || scope.breaks(Mutant::InstallTrusted));
        if given_up {
            out.push(Step::Install { leader: from, node: to });
        } else if world.installs < scope.installs {
            out.push(Step::GiveUp { leader: from, node: to });
        }
        return;
    }
    appends(leader, follower, leading.epoch).for_each(|end| out.push(Step::Append { from, to, end }));
    let following = follower.following.filter(|following| following.epoch == leading.epoch);
    if follower.suspect && following.is_none_or(|following| following.target.is_none()) {
        out.push(Step::Rejoin { leader: from, node: to });
    }
    if follower.promised == leading.epoch && follower.hw < leader.hw.min(leader.log.shared(&follower.log)) {
        out.push(Step::TellCommitted { from, to });
    }
}

/// The ends of appends that are still on their way from a leader which is one no longer.
fn late(log: &Frames, follower: &Replica) -> impl Iterator<Item = u8> + use<> {
    let shared = if replicas::must_install(log, &follower.log) { log.len() } else { log.shared(&follower.log) };
    shared.max(follower.log.first()) + 1..=log.len()
}

/// The ends of appends that change something: they bring frames, or tell a suspect that it has them.
fn appends(leader: &Replica, follower: &Replica, epoch: u8) -> impl Iterator<Item = u8> + use<> {
    let shared = leader.log.shared(&follower.log);
    let agreed = follower.following.filter(|following| following.epoch == epoch).map_or(0, |following| following.agreed);
    let asks = follower.suspect && agreed < shared;
    let first = leader.log.first().max(follower.log.first());
    (first + 1..=Frames::len(&leader.log)).filter(move |end| *end > shared || (asks && *end > agreed))
}
