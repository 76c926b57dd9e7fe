//! The same facts in three forms: as the controllers keep them (`state::shards`), as the rules of replication want them
//! (`gantry_store::replica`), and as brokers hear them (`cluster.proto`).

use crate::state::event::Event;
use crate::state::shards::{self, Shard, ShardConfig};
use gantry_model::contract::directory::Copy;
use gantry_model::{Epoch, Lsn, NodeId, ShardId};
use gantry_proto::controller as pb;
use gantry_store::replica::log::Position;
use gantry_store::replica::message::{Grant, Refused, Seal, SealOk};
use gantry_store::replica::reign::{Entry, Phase, Reason, Reign};
use gantry_store::replica::{Config, Incarnation, Member, StoreId};

/// The store of a replica that the state holds; it was checked when it was placed.
fn store(replica: &shards::Replica) -> Option<[u8; 16]> {
    let mut store = [0; 16];
    hex::decode_to_slice(&replica.store, &mut store).ok()?;
    Some(store)
}

pub fn member(replica: &shards::Replica) -> Option<Member> {
    Some(Member { node: replica.node, store: StoreId(store(replica)?) })
}

pub fn copy(replica: &shards::Replica) -> Option<Copy> {
    Some(Copy { node: replica.node, store: store(replica)? })
}

pub fn replica(member: Member) -> shards::Replica {
    shards::Replica { node: member.node, store: member.store.to_string() }
}

fn config(config: &ShardConfig) -> Option<Config> {
    let members: Option<Vec<Member>> = config.members.iter().map(member).collect();
    Config::with_copies(config.generation, members?, config.w).ok()
}

pub fn shard_config(config: &Config) -> ShardConfig {
    ShardConfig { generation: config.generation(), members: config.members().iter().copied().map(replica).collect(), w: config.w() }
}

/// What the rules want to know of a shard. `None` for one that can't be: the state lets none such in.
pub fn reign(shard: &Shard) -> Option<Reign> {
    let stable = config(&shard.stable)?;
    let pending = match &shard.pending {
        Some(pending) => Some(config(pending)?),
        None => None,
    };
    if shard.unclean && pending.is_some() {
        return None;
    }
    let phase = match &shard.phase {
        shards::Phase::Electing { prefer } => Phase::Electing { prefer: prefer.as_ref().and_then(member) },
        shards::Phase::Led(grant) => {
            let log = Position { epoch: grant.last_epoch, end: grant.end };
            let (leader, incarnation) = (member(&grant.leader)?, Incarnation(grant.incarnation));
            let config = [Some(&stable), pending.as_ref()].into_iter().flatten().find(|config| config.generation() == grant.generation)?;
            Phase::Led(Grant { epoch: grant.epoch, leader, incarnation, log, config: config.clone(), unclean: grant.unclean })
        }
    };
    Some(match shard.unclean {
        true => Reign::stored_unclean(shard.epoch, phase, stable),
        false => Reign::stored(shard.epoch, phase, stable, pending),
    })
}

/// What the rules want to happen, as an event of the state.
pub fn event(shard: ShardId, entry: &Entry) -> Event {
    match entry {
        Entry::BeginEpoch { expect, reason, prefer, config } => {
            let reason = match reason {
                Reason::Created => shards::Reason::Created,
                Reason::LeaderLost => shards::Reason::LeaderLost,
                Reason::NotStarted => shards::Reason::NotStarted,
                Reason::Transfer => shards::Reason::Transfer,
                Reason::Reconfigure => shards::Reason::Reconfigure,
            };
            let config = config.as_ref().map(shard_config);
            Event::EpochBegun { shard, begin: shards::EpochBegun { expect: *expect, reason, prefer: prefer.map(replica), config } }
        }
        Entry::BeginUnclean { .. } => unreachable!("an operator orders that, and no elector"),
        Entry::Grant(grant) => {
            let Grant { epoch, leader, incarnation, log, config, unclean } = grant;
            let (leader, incarnation, generation) = (replica(*leader), incarnation.0, config.generation());
            let grant = shards::Grant { epoch: *epoch, leader, incarnation, last_epoch: log.epoch, end: log.end, generation, unclean: *unclean };
            Event::LeaderGranted { shard, grant }
        }
        Entry::ConfigStable(epoch) => Event::ConfigSettled { shard, epoch: *epoch },
    }
}

pub fn read_replica(replica: Option<&pb::Replica>) -> Option<Member> {
    let replica = replica?;
    Some(Member { node: NodeId(replica.node), store: StoreId(replica.store.as_ref().try_into().ok()?) })
}

fn tell_replica(member: Member) -> pb::Replica {
    pb::Replica { node: member.node.0, store: member.store.0.to_vec().into() }
}

pub fn tell_seal(shard: ShardId, member: Member, seal: &Seal) -> pb::to_broker::Body {
    let store = member.store.0.to_vec().into();
    pb::to_broker::Body::Seal(pb::Seal { shard: shard.0, store, epoch: seal.epoch.0, generation: seal.generation })
}

pub fn tell_grant(shard: ShardId, grant: &Grant) -> pb::to_broker::Body {
    pb::to_broker::Body::Become(pb::Become {
        shard: shard.0,
        leader: Some(tell_replica(grant.leader)),
        epoch: grant.epoch.0,
        incarnation: grant.incarnation.0,
        last_epoch: grant.log.epoch.0,
        end: grant.log.end.0,
        generation: grant.config.generation(),
        members: grant.config.members().iter().copied().map(tell_replica).collect(),
        copies: grant.config.w() as u32,
        unclean: grant.unclean,
    })
}

pub fn tell_hand_over(shard: ShardId, epoch: Epoch, to: Option<Member>) -> pb::to_broker::Body {
    pb::to_broker::Body::HandOver(pb::HandOver { shard: shard.0, epoch: epoch.0, to: to.map(tell_replica) })
}

pub fn read_sealed(sealed: &pb::Sealed) -> Option<SealOk> {
    Some(SealOk {
        member: read_replica(sealed.replica.as_ref())?,
        incarnation: Incarnation(sealed.incarnation),
        epoch: Epoch(sealed.epoch),
        log: Position { epoch: Epoch(sealed.last_epoch), end: Lsn(sealed.end) },
        hw: Lsn(sealed.high_watermark),
        durable: Lsn(sealed.durable),
        suspect: sealed.suspect,
    })
}

pub fn read_promised(promised: &pb::Promised) -> Option<Refused> {
    Some(Refused { member: read_replica(promised.replica.as_ref())?, promised: Epoch(promised.epoch) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::shards::Policy;

    fn member(node: u64) -> Member {
        Member { node: NodeId(node), store: StoreId([node as u8; 16]) }
    }

    fn shard() -> Shard {
        let stable = shard_config(&Config::new(1, [member(1), member(2), member(3)]).unwrap());
        let (policy, phase) = (Policy { copies: 3, min_copies: 2 }, shards::Phase::Electing { prefer: Some(replica(member(2))) });
        let (id, epoch, reason) = (ShardId(4), Epoch(7), shards::Reason::Created);
        let (unclean, unclean_recoveries, recoveries) = Default::default();
        Shard { id, epoch, reason, phase, stable, pending: None, policy, moving: None, revision: 0, unclean, unclean_recoveries, recoveries }
    }

    /// A shard as the state has it after an event of the rules.
    fn led(mut shard: Shard, event: Event) -> Shard {
        let Event::LeaderGranted { grant, .. } = event else { panic!("{event:?} grants nothing") };
        shard.phase = shards::Phase::Led(grant);
        shard
    }

    #[test]
    fn a_reign_survives_being_stored() {
        let shard = shard();
        let electing = reign(&shard).unwrap();
        assert_eq!((electing.epoch(), electing.members()), (Epoch(7), vec![member(1), member(2), member(3)]));
        assert_eq!(electing.phase(), &Phase::Electing { prefer: Some(member(2)) });
        let log = Position { epoch: Epoch(6), end: Lsn(99) };
        let grant = Grant { epoch: Epoch(7), leader: member(3), incarnation: Incarnation(5), log, config: electing.config().clone(), unclean: false };
        let mut expected = electing;
        expected.apply(&Entry::Grant(grant.clone())).unwrap();
        assert_eq!(reign(&led(shard, event(ShardId(4), &Entry::Grant(grant)))).unwrap(), expected);
    }

    #[test]
    fn a_recovery_survives_being_stored() {
        let mut shard = shard();
        (shard.unclean, shard.phase) = (true, shards::Phase::Electing { prefer: None });
        let mut expected = reign(&shard).unwrap();
        assert!(expected.is_unclean());
        let log = Position { epoch: Epoch(6), end: Lsn(99) };
        let grant = Grant { epoch: Epoch(7), leader: member(3), incarnation: Incarnation(5), log, config: expected.config().clone(), unclean: true };
        expected.apply(&Entry::Grant(grant.clone())).unwrap();
        assert_eq!(reign(&led(shard, event(ShardId(4), &Entry::Grant(grant)))).unwrap(), expected);
    }

    #[test]
    fn a_grant_under_pending_members_names_them() {
        let mut shard = shard();
        let new = Config::new(2, [member(1), member(2), member(4)]).unwrap();
        shard.pending = Some(shard_config(&new));
        let log = Position { epoch: Epoch(6), end: Lsn(99) };
        let grant = Grant { epoch: Epoch(7), leader: member(4), incarnation: Incarnation(5), log, config: new, unclean: false };
        let led = reign(&led(shard, event(ShardId(4), &Entry::Grant(grant.clone())))).unwrap();
        assert_eq!(led.led_by(), Some(&grant));
    }
}
