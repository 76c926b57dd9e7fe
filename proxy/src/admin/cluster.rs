//! What this cluster is and how its shards are.

use crate::shared::Shared;
use gantry_model::contract::Directory;
use gantry_model::contract::broker::{ShardCondition, ShardStatus};
use gantry_model::contract::directory::{Copy, LogEnd, NodeView, Order, Recover, ShardRoute, Survey, Surveyed, loss_phrase};
use gantry_model::contract::metadata::MetadataError;
use gantry_model::{Epoch, NodeId, ShardId};
use gantry_proto::admin as wire;
use gantry_proto::admin::{
    Endpoint, GetClusterInfoResponse, ListNodesResponse, Node, Shard, ShardCopy, ShardState, SteerClusterRequest, SteerClusterResponse, SteerRecover,
    SurveyShardResponse, SurveyedCopy,
};
use std::sync::Arc;
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
    if let Some(directory) = &shared.config.directory {
        directory.shards().iter().for_each(|route| place(route, &mut shards));
    }
    shards.sort_by_key(|shard| shard.id);
    shards
}

/// Says where a shard is. One that nobody leads is known from here only.
fn place(route: &ShardRoute, shards: &mut Vec<Shard>) {
    let at = shards.iter().position(|shard| shard.id == route.shard.0).unwrap_or_else(|| {
        shards.push(Shard { id: route.shard.0, state: ShardState::Electing as i32, ..Shard::default() });
        shards.len() - 1
    });
    let shard = &mut shards[at];
    shard.epoch = route.epoch.0;
    shard.leader = route.leader.map(|leader| format!("node {}", leader.node)).unwrap_or_default();
    let copy = |copy: &Copy| ShardCopy { node: copy.node.0, leads: route.leader == Some(*copy), learns: route.learners.contains(copy) };
    shard.copies = route.copies.iter().map(copy).collect();
    shard.unclean_recoveries = route.unclean.recoveries;
    shard.recovering = route.unclean.recovering;
}

pub fn nodes(shared: &Shared) -> ListNodesResponse {
    let Some(directory) = &shared.config.directory else { return ListNodesResponse::default() };
    let shards = directory.shards();
    let node = |view: NodeView| {
        let holds = |route: &&ShardRoute| route.copies.iter().any(|copy| copy.node == view.node);
        let leads = |route: &&ShardRoute| route.leader.is_some_and(|leader| leader.node == view.node);
        Node {
            id: view.node.0,
            copies: shards.iter().filter(holds).count() as u32,
            leads: shards.iter().filter(leads).count() as u32,
            address: view.address,
            zone: view.zone,
            capacity: view.capacity,
            up: view.up,
            cordoned: view.cordoned,
        }
    };
    ListNodesResponse { nodes: directory.nodes().into_iter().map(node).collect() }
}

pub async fn steer(shared: &Shared, request: SteerClusterRequest) -> Result<SteerClusterResponse, Status> {
    use gantry_proto::admin::steer_cluster_request::Order as Wire;
    let mut refuse: fn(MetadataError) -> Status = super::metadata_error;
    let order = match request.order.ok_or_else(|| Status::invalid_argument("the order is empty"))? {
        Wire::Transfer(transfer) => Order::Transfer { shard: ShardId(transfer.shard), to: (transfer.node != 0).then_some(NodeId(transfer.node)) },
        Wire::Move(wanted) => Order::Move { shard: ShardId(wanted.shard), from: NodeId(wanted.from), to: NodeId(wanted.to) },
        Wire::Cordon(node) => Order::Cordon(NodeId(node)),
        Wire::Uncordon(node) => Order::Uncordon(NodeId(node)),
        Wire::Drain(node) => Order::Drain(NodeId(node)),
        Wire::Remove(node) => Order::Remove(NodeId(node)),
        Wire::Recover(SteerRecover { shard, epoch, node, phrase, by }) => {
            // What is asked for is legal, and the shard is not in a state for it.
            refuse = |error| match error {
                MetadataError::Invalid { why } => Status::failed_precondition(why),
                other => super::metadata_error(other),
            };
            Order::Recover(Recover { shard: ShardId(shard), epoch: Epoch(epoch), node: NodeId(node), phrase, by })
        }
    };
    directory_of(shared)?.order(order).await.map(|done| SteerClusterResponse { done }).map_err(refuse)
}

/// What would be lost if a shard went on with one copy.
pub async fn survey(shared: &Shared, shard: ShardId) -> Result<SurveyShardResponse, Status> {
    let Survey { shard, epoch, copies, best } = directory_of(shared)?.survey(shard).await.map_err(super::metadata_error)?;
    let copy = |surveyed: Surveyed| {
        let (log, away) = match surveyed.log {
            Ok(end) => (Some(log_end(end)), String::new()),
            Err(why) => (None, why),
        };
        SurveyedCopy { node: surveyed.copy.node.0, away, suspect: surveyed.suspect, log }
    };
    let (best, refusal) = best.map_or_else(|why| (0, why), |node| (node.0, String::new()));
    let copies = copies.into_iter().map(copy).collect();
    Ok(SurveyShardResponse { shard: shard.0, epoch: epoch.0, copies, best, refusal, phrase: loss_phrase(shard) })
}

fn log_end(LogEnd { last_epoch, end, hw, last_time_ms }: LogEnd) -> wire::LogEnd {
    let last_time = (last_time_ms > 0).then(|| crate::convert::timestamp(last_time_ms));
    wire::LogEnd { last_epoch: last_epoch.0, end: end.0, high_watermark: hw.0, last_time }
}

fn directory_of(shared: &Shared) -> Result<&Arc<dyn Directory>, Status> {
    let alone = || Status::failed_precondition("this server is all of its cluster: there is nowhere else to put anything");
    shared.config.directory.as_ref().ok_or_else(alone)
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
        copies: Vec::new(),
        unclean_recoveries: 0,
        recovering: false,
    }
}
