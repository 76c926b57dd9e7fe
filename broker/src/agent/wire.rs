//! What brokers and the controllers' leader say to each other, as the rules of replication want it: `cluster.proto`.

use crate::agent::host::{Failed, Opened};
use crate::replica::View;
use gantry_model::{Epoch, Lsn, NodeId, ShardId};
use gantry_proto::controller as pb;
use gantry_store::replica::log::Position;
use gantry_store::replica::message::{Grant, Refused, Seal, SealOk};
use gantry_store::replica::{Config, Incarnation, Member, StoreId};

fn replica(member: Member) -> pb::Replica {
    pb::Replica { node: member.node.0, store: member.store.0.to_vec().into() }
}

pub fn read_replica(replica: &pb::Replica) -> Option<Member> {
    Some(Member { node: NodeId(replica.node), store: StoreId(replica.store.as_ref().try_into().ok()?) })
}

/// How a copy that runs is doing.
pub fn standing(shard: ShardId, copy: &Opened) -> pb::Standing {
    let view = copy.handle.view();
    // A log that somebody leads grows all the time: to tell its end would be a report each time.
    let grows = view.serves || view.follows.is_some();
    let still = if grows { View::default() } else { view.clone() };
    pb::Standing {
        shard: shard.0,
        store: copy.store.to_vec().into(),
        leads: view.leads.map_or(0, |epoch| epoch.0),
        started: view.started,
        serves: view.serves,
        hears: view.follows.map_or(0, |epoch| epoch.0),
        failed: view.failed.unwrap_or_default(),
        suspect: view.suspect,
        learnt: view.learnt.into_iter().map(replica).collect(),
        last_epoch: still.last_epoch.0,
        end: still.end.0,
        high_watermark: still.hw.0,
        last_time_ms: still.last_time_ms,
    }
}

/// A copy that should be here and isn't.
pub fn failed(shard: ShardId, copy: &Failed) -> pb::Standing {
    pb::Standing { shard: shard.0, store: copy.store.to_vec().into(), failed: copy.why.clone(), ..pb::Standing::default() }
}

pub fn read_seal(seal: &pb::Seal) -> Seal {
    Seal { epoch: Epoch(seal.epoch), generation: seal.generation }
}

pub fn read_grant(become_leader: &pb::Become) -> Option<Grant> {
    let members: Option<Vec<Member>> = become_leader.members.iter().map(read_replica).collect();
    Some(Grant {
        epoch: Epoch(become_leader.epoch),
        leader: read_replica(become_leader.leader.as_ref()?)?,
        incarnation: Incarnation(become_leader.incarnation),
        log: Position { epoch: Epoch(become_leader.last_epoch), end: Lsn(become_leader.end) },
        config: Config::with_copies(become_leader.generation, members?, become_leader.copies as usize).ok()?,
        unclean: become_leader.unclean,
    })
}

pub fn sealed(shard: ShardId, answer: Result<SealOk, Refused>) -> pb::from_broker::Body {
    use pb::from_broker::Body;
    match answer {
        Ok(ok) => Body::Sealed(pb::Sealed {
            shard: shard.0,
            replica: Some(replica(ok.member)),
            incarnation: ok.incarnation.0,
            epoch: ok.epoch.0,
            last_epoch: ok.log.epoch.0,
            end: ok.log.end.0,
            high_watermark: ok.hw.0,
            durable: ok.durable.0,
            suspect: ok.suspect,
        }),
        Err(refused) => Body::Promised(pb::Promised { shard: shard.0, replica: Some(replica(refused.member)), epoch: refused.promised.0 }),
    }
}

pub fn handed_over(shard: ShardId, epoch: u32, answer: Result<Member, String>) -> pb::from_broker::Body {
    let (to, why) = match answer {
        Ok(to) => (Some(replica(to)), String::new()),
        Err(why) => (None, why),
    };
    pb::from_broker::Body::HandedOver(pb::HandedOver { shard: shard.0, epoch, to, why })
}
