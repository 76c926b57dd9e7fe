//! What the controller does, by the rules of the elector.

use crate::mutant::Mutant;
use crate::scope::Scope;
use crate::step::{Members, Step};
use crate::world::{NODES, Sealed, World, node_of};
use gantry_model::{Epoch, Lsn};
use gantry_store::replica::elector::{enough_sealed, longest};
use gantry_store::replica::leader::may_start;
use gantry_store::replica::message::{Grant, SealOk};
use gantry_store::replica::reign::{Entry, Reason, Reign};
use gantry_store::replica::{Config, Incarnation, Log, Member};
use std::sync::Arc;

/// What the controller can do, and what replicas can answer it.
pub fn possible(scope: &Scope, world: &World, out: &mut Vec<Step>) {
    if world.epoch() < scope.epochs {
        let may = |members: &Members| begun(scope, world, *members).is_some();
        out.extend([Members::Same, Members::Next].into_iter().filter(may).map(Step::BeginEpoch));
    }
    if world.reign.led_by().is_some() {
        return;
    }
    for member in world.reign.members() {
        let node = node_of(member);
        let counts = world.member(node) == member || scope.breaks(Mutant::CountReborn);
        if counts && world.replica(node).promised <= world.epoch() && world.sealed[usize::from(node)].is_none() {
            out.push(Step::Seal(node));
        }
    }
    out.extend(grantable(scope, world).into_iter().map(Step::Grant));
}

/// The replicas that may be granted the epoch, whichever of the answers have arrived.
fn grantable(scope: &Scope, world: &World) -> Vec<u8> {
    let answers: Vec<SealOk> = (0..NODES as u8).filter_map(|node| as_heard(scope, world.seal_ok(node)?)).collect();
    let sealing = sealing(scope, &world.reign);
    let mut found = Vec::new();
    for heard in 1u8..1 << answers.len() {
        let heard = || answers.iter().enumerate().filter(move |(at, _)| heard >> at & 1 == 1).map(|(_, answer)| answer);
        if enough_sealed(&sealing, heard()) {
            found.extend(longest(&sealing, heard()).iter().map(|answer| node_of(answer.member)));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// An answer as the rules are to see it.
fn as_heard(scope: &Scope, answer: SealOk) -> Option<SealOk> {
    let suspect = answer.suspect && !scope.breaks(Mutant::CountSuspects);
    let member = if scope.breaks(Mutant::CountReborn) { crate::world::member(node_of(answer.member), 0) } else { answer.member };
    Some(SealOk { suspect, member, ..answer })
}

/// The configurations that have to be sealed.
fn sealing(scope: &Scope, reign: &Arc<Reign>) -> Arc<Reign> {
    let retreats = scope.breaks(Mutant::RetreatUnsealed) && reign.retreats();
    if retreats || scope.breaks(Mutant::SealPendingOnly) { Arc::new(with_stable(reign, reign.config())) } else { reign.clone() }
}

/// The same epoch, with these members and none pending.
fn with_stable(reign: &Reign, stable: &Config) -> Reign {
    let mut changed = Reign::new(stable.clone(), Epoch(reign.epoch().0 - 1));
    if let Some(grant) = reign.led_by() {
        let grant = Grant { config: stable.clone(), ..grant.clone() };
        // A leader that is not a member of the new configuration can't be granted in it; then the epoch stays without one.
        let _ = changed.apply(&Entry::Grant(grant));
    }
    changed
}

/// The reign after its epoch ends, if it may.
fn begun(scope: &Scope, world: &World, members: Members) -> Option<Reign> {
    let config = match members {
        Members::Same => None,
        Members::Next if usize::from(world.changes) + 1 == scope.members.len() => return None,
        Members::Next => Some(scope.config(world.changes + 1)),
    };
    let mut reign = (*world.reign).clone();
    if config.is_some() && scope.breaks(Mutant::ReplacePending) {
        reign = with_stable(&reign, reign.stable());
    }
    let entry = Entry::BeginEpoch { expect: reign.epoch(), reason: Reason::LeaderLost, prefer: None, config };
    reign.apply(&entry).ok().map(|()| reign)
}

pub fn begin(scope: &Scope, world: &mut World, members: Members) {
    if let Some(reign) = begun(scope, world, members) {
        world.changes += u8::from(members == Members::Next);
        world.reign = Arc::new(reign);
        world.sealed = [None; NODES];
    }
}

pub fn grant(world: &mut World, node: u8) {
    let Some(Sealed { last_epoch, end, start, .. }) = world.sealed[usize::from(node)] else { return };
    let reign = &world.reign;
    let leader = member_of(reign, node);
    let log = gantry_store::replica::Position { epoch: Epoch(u32::from(last_epoch)), end: Lsn(u64::from(end)) };
    let grant =
        Grant { epoch: reign.epoch(), leader, incarnation: Incarnation(u64::from(start)), log, config: reign.config().clone(), unclean: false };
    let mut reign = (**reign).clone();
    if reign.apply(&Entry::Grant(grant)).is_ok() {
        world.reign = Arc::new(reign);
        world.sealed = [None; NODES];
    }
}

/// The member of the shard on this node.
fn member_of(reign: &Reign, node: u8) -> Member {
    reign.members().into_iter().find(|member| node_of(*member) == node).unwrap_or_default()
}

/// Whether this replica may begin the current epoch.
pub fn granted(scope: &Scope, world: &World, node: u8) -> bool {
    let Some(grant) = world.reign.led_by() else { return false };
    let replica = world.replica(node);
    if node_of(grant.leader) != node || world.began[usize::from(world.epoch())] == Some(node) {
        return false;
    }
    if scope.breaks(Mutant::BecomeUnchecked) {
        return replica.promise().epoch == grant.epoch;
    }
    let member = if scope.breaks(Mutant::CountReborn) { grant.leader } else { world.member(node) };
    may_start(grant, member, Incarnation(u64::from(replica.start)), &replica.promise(), replica.log.tail()).is_ok()
}

/// The reign after a leader's word that its configuration is in force.
fn stabilised(scope: &Scope, world: &World, node: u8) -> Option<Reign> {
    let epoch = world.replica(node).leading?.epoch;
    if scope.breaks(Mutant::LateStable) {
        return Some(with_stable(&world.reign, world.reign.config()));
    }
    let mut reign = (*world.reign).clone();
    reign.apply(&Entry::ConfigStable(Epoch(u32::from(epoch)))).ok().map(|()| reign)
}

pub fn would_stabilise(scope: &Scope, world: &World, node: u8) -> bool {
    stabilised(scope, world, node).is_some()
}

pub fn stabilise(scope: &Scope, world: &mut World, node: u8) {
    if let Some(reign) = stabilised(scope, world, node) {
        world.reign = Arc::new(reign);
    }
}
