//! What replicas do, by the rules of followers and leaders.

use crate::frames::{Entry, Frames};
use crate::mutant::Mutant;
use crate::scope::{Scope, Sync};
use crate::world::{Broken, Following, Leading, NODES, Replica, World, node_of};
use gantry_model::{Epoch, Lsn};
use gantry_store::replica::Log;
use gantry_store::replica::follower::{Acceptance, accept, has_target};
use gantry_store::replica::leader::{Durability, committed, suspect_target};
use gantry_store::replica::message::Append;
use gantry_store::replica::promise::Admission;

fn lsn(at: u8) -> Lsn {
    Lsn(u64::from(at))
}

pub fn seal(world: &mut World, node: u8) {
    let epoch = world.epoch();
    let replica = world.replica_mut(node);
    if replica.promised < epoch {
        replica.raise(epoch);
    }
    world.sealed[usize::from(node)] = Some(world.replica(node).sealed());
}

/// The granted replica appends `EpochStart`.
pub fn begin(scope: &Scope, world: &mut World, node: u8) {
    let epoch = world.epoch();
    if world.began[usize::from(epoch)].is_some_and(|other| other != node) {
        world.breaks(Broken::TwoLeaders);
    }
    world.began[usize::from(epoch)] = Some(node);
    let change = world.reign.config().generation() as u8 - 1;
    let replica = world.replica_mut(node);
    replica.following = None;
    replica.leading = Some(Leading { epoch, start: replica.log.len(), change, acked: [0; NODES] });
    replica.log.push(Entry { epoch, value: 0 });
    settle(scope, replica);
}

pub fn send(scope: &Scope, world: &mut World, node: u8) {
    world.values += 1;
    let value = world.values;
    let replica = world.replica_mut(node);
    if let Some(leading) = replica.leading {
        replica.log.push(Entry { epoch: leading.epoch, value });
        settle(scope, replica);
    }
}

fn settle(scope: &Scope, replica: &mut Replica) {
    if scope.sync == Sync::AtOnce {
        replica.durable = replica.log.len();
    }
}

pub fn sync(scope: &Scope, world: &mut World, node: u8) {
    let replica = world.replica_mut(node);
    replica.durable = replica.log.len();
    clear_suspicion(scope, replica);
    acknowledge(scope, world, node);
}

/// A follower takes over the leader's log up to `end`.
pub fn append(scope: &Scope, world: &mut World, from: u8, to: u8, end: u8) {
    let mut follower = *world.replica(to);
    let Some((leading, log)) = world.replica(from).sends() else { return };
    if let Admission::Raise = follower.promise().admits(Epoch(u32::from(leading.epoch))) {
        let kept = follower.promised;
        follower.raise(leading.epoch);
        follower.promised = if scope.breaks(Mutant::KeepPromiseOnAppend) { kept } else { leading.epoch };
    }
    let Some(sent) = sent_to(&log, &follower.log, leading.epoch, end) else { return world.breaks(Broken::WrongAgreement) };
    match accept(&follower.log, lsn(follower.hw), &sent) {
        Acceptance::Unknown => return world.breaks(Broken::WrongAgreement),
        Acceptance::Fatal(_) => return world.breaks(Broken::CommittedCut),
        Acceptance::Present => {}
        Acceptance::Write { cut, first } => {
            if let Some(tail) = cut {
                follower.log.cut(tail.end.0 as u8);
                follower.durable = follower.durable.min(tail.end.0 as u8);
            }
            let begin = sent.frames[first].lsn.0 as u8;
            (begin..end).filter_map(|at| log.get(at)).for_each(|entry| follower.log.push(entry));
            settle(scope, &mut follower);
        }
    }
    let before = follower.following.filter(|following| following.epoch == leading.epoch);
    let agreed = before.map_or(end, |following| following.agreed.max(end));
    follower.following = Some(Following { epoch: leading.epoch, agreed, target: before.and_then(|following| following.target) });
    clear_suspicion(scope, &mut follower);
    *world.replica_mut(to) = follower;
    acknowledge(scope, world, to);
}

/// The append that the leader sends after the follower told its epochs.
fn sent_to(leader: &Frames, follower: &Frames, epoch: u8, end: u8) -> Option<Append> {
    let agreed = agreed(leader, follower)?;
    let prev = leader.tail_at(agreed.min(lsn(end)))?;
    let frames = (prev.end.0 as u8..end).map(|at| leader.link(at)).collect();
    let append = Append { epoch: Epoch(u32::from(epoch)), prev, frames, hw: lsn(0), leader_time: 0 };
    append.check().is_ok().then_some(append)
}

/// Up to where the logs are the same, as the leader finds from the epochs of both.
fn agreed(leader: &Frames, follower: &Frames) -> Option<Lsn> {
    leader.epochs().agreed(leader.tail().end, &follower.epochs(), follower.tail().end)
}

/// Whether what a follower lacks is no longer in the leader's log.
pub fn must_install(leader: &Frames, follower: &Frames) -> bool {
    agreed(leader, follower).and_then(|agreed| leader.tail_at(agreed)).is_none()
}

/// 4.6: a suspect that has its leader's log up to the target is one no longer.
fn clear_suspicion(scope: &Scope, replica: &mut Replica) {
    let Some(Following { agreed, target: Some(target), .. }) = replica.following else { return };
    let target = if scope.breaks(Mutant::ClearAtOnce) { 0 } else { target };
    replica.suspect &= !has_target(lsn(target), lsn(replica.durable.min(agreed)));
}

/// Rule 3: the leader that is followed learns what counts here.
fn acknowledge(scope: &Scope, world: &mut World, node: u8) {
    let replica = *world.replica(node);
    let Some(Following { epoch, agreed, .. }) = replica.following else { return };
    let written = scope.durability == Durability::Memory || scope.breaks(Mutant::AckBeforeSync);
    let counts = if written { replica.log.len() } else { replica.durable }.min(agreed);
    for leading in world.replicas.iter_mut().filter_map(|replica| replica.leading.as_mut()).filter(|leading| leading.epoch == epoch) {
        let acked = &mut leading.acked[usize::from(node)];
        *acked = counts.max(*acked);
    }
}

/// The leader may know of acknowledgements up to `end`. Returns whether that commits exactly so much.
pub fn commit(scope: &Scope, world: &mut World, node: u8, end: u8) -> bool {
    let replica = *world.replica(node);
    let Some(leading) = replica.leading else { return false };
    let own = if scope.durability == Durability::Memory { replica.log.len() } else { replica.durable };
    let has = |member| {
        let other = node_of(member);
        let has = if other == node { own } else { leading.acked[usize::from(other)] };
        lsn(has.min(end))
    };
    let found = if scope.breaks(Mutant::CommitOldEpoch) {
        committed_of_any_epoch(scope, &leading, has)
    } else {
        committed(&leading.config(scope), lsn(leading.start), has)
    };
    if found != Some(lsn(end)) {
        return false;
    }
    for at in 0..end {
        let told = replica.log.get(at);
        let before = &mut world.answered[usize::from(at)];
        if before.is_some() && *before != told {
            world.broken = world.broken.or(Some(Broken::AnswersDiffer));
        } else {
            *before = told;
        }
    }
    world.replica_mut(node).hw = end;
    true
}

fn committed_of_any_epoch(scope: &Scope, leading: &Leading, has: impl Fn(gantry_store::replica::Member) -> Lsn) -> Option<Lsn> {
    committed(&leading.config(scope), lsn(0), has)
}

pub fn crash(scope: &Scope, world: &mut World, node: u8, keep: u8) {
    world.crashes += 1;
    let replica = world.replica_mut(node);
    replica.stop();
    replica.log.cut(keep);
    replica.durable = keep;
    replica.start += 1;
    replica.hw = replica.log.first();
    replica.suspect |= scope.durability == Durability::Memory;
    if scope.breaks(Mutant::ForgetPromise) {
        replica.promised = replica.log.last_epoch();
    }
}

pub fn lose_folder(world: &mut World, node: u8) {
    world.losses += 1;
    let replica = world.replica_mut(node);
    *replica = Replica { store: replica.store + 1, start: replica.start + 1, ..Replica::default() };
}

/// `Hello` and `Welcome`: what a suspect acknowledged before is void, and it learns how far it has to come.
pub fn rejoin(world: &mut World, leader: u8, node: u8) {
    let target = suspect_target(&world.replica(leader).log).0 as u8;
    let Some(leading) = world.replica_mut(leader).leading.as_mut() else { return };
    leading.acked[usize::from(node)] = 0;
    let epoch = leading.epoch;
    let replica = world.replica_mut(node);
    if replica.promised < epoch {
        replica.raise(epoch);
    }
    let agreed = replica.following.filter(|following| following.epoch == epoch).map_or(0, |following| following.agreed);
    replica.following = Some(Following { epoch, agreed, target: Some(target) });
}

/// A replica that lacks what the leader forgot drops its log. Before it does, it notes that its word does not count.
pub fn give_up(scope: &Scope, world: &mut World, leader: u8, node: u8) {
    world.installs += 1;
    let Some(leading) = world.replica(leader).leading else { return };
    let replica = world.replica_mut(node);
    if replica.promised < leading.epoch {
        replica.raise(leading.epoch);
    }
    replica.suspect |= !scope.breaks(Mutant::InstallTrusted);
    replica.log = Default::default();
    (replica.durable, replica.hw, replica.following) = (0, 0, None);
}

/// The state that the leader's trimmed frames led to, and the frames behind.
pub fn install(world: &mut World, leader: u8, node: u8) {
    let from = *world.replica(leader);
    let Some(leading) = from.leading else { return };
    let replica = world.replica_mut(node);
    if replica.promised < leading.epoch {
        replica.raise(leading.epoch);
    }
    replica.log = from.log;
    replica.durable = from.log.len();
    replica.hw = from.log.first();
    replica.following = None;
}
