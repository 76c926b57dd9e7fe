//! What this cluster is and how its shards are.

use crate::shared::Shared;
use gantry_model::contract::broker::{ShardCondition, ShardStatus};
use gantry_proto::admin::{Endpoint, GetClusterInfoResponse, Shard, ShardState};
use tonic::Status;

pub async fn info(shared: &Shared) -> Result<GetClusterInfoResponse, Status> {
    let cluster = shared.metadata.cluster();
    let uptime = shared.clock.mono().saturating_sub(shared.started);
    let endpoint = |(purpose, address): &(String, String)| Endpoint { purpose: purpose.clone(), address: address.clone() };
    Ok(GetClusterInfoResponse {
        cluster_id: cluster.id.clone(),
        cluster_name: cluster.name.clone(),
        version: shared.config.version.to_owned(),
        uptime: Some(prost_types::Duration { seconds: uptime.as_secs() as i64, nanos: uptime.subsec_nanos() as i32 }),
        endpoints: shared.config.endpoints.iter().map(endpoint).collect(),
        data_dir: shared.config.data_dir.clone(),
        shards: shards(shared).await,
    })
}

pub async fn shards(shared: &Shared) -> Vec<Shard> {
    let leader = shared.metadata.cluster().name.clone();
    let mut shards: Vec<Shard> = shared.broker.shards().await.iter().map(|shard| to_wire(shard, &leader)).collect();
    shards.sort_by_key(|shard| shard.id);
    shards
}

fn to_wire(shard: &ShardStatus, leader: &str) -> Shard {
    let state = match shard.condition {
        ShardCondition::Ready | ShardCondition::Draining => ShardState::Active,
        ShardCondition::Full => ShardState::ReadOnly,
        ShardCondition::Failed => ShardState::Failed,
    };
    Shard {
        id: shard.shard.0,
        epoch: shard.epoch,
        leader: leader.to_owned(),
        end_lsn: shard.end,
        durable_lsn: shard.durable,
        disk_used_bytes: shard.end.saturating_sub(shard.start),
        disk_free_bytes: shard.disk_free,
        state: state as i32,
    }
}
