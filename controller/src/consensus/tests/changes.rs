//! Members come and go: joining, moving, removing, a lost disk, a wrong token, another cluster, and a snapshot for who is far behind.

use super::world::{DIR, TOKEN, World, address, cluster_id, topic};
use crate::consensus::peers::Peers;
use crate::consensus::{Begin, Consensus, OpenError, Pace, ProposeError, RequestId, Settings};
use gantry_model::NodeId;
use gantry_platform::clock::sleep;
use gantry_platform::{Disk, MemoryDisk};
use gantry_proto::controller as pb;
use std::path::Path;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn one_becomes_three_becomes_five_becomes_three() {
    let mut world = World::of(1, 1).await;
    for machines in [2, 3, 4, 5] {
        world.start(machines).await.unwrap();
        world.at(1).propose(topic(&format!("at{machines}"))).await.unwrap();
        world.until("the new one votes", |world| world.voters(1).len() as u64 == machines).await;
    }
    world.until("the newest knows all", |world| world.voters(5) == [1, 2, 3, 4, 5].map(NodeId)).await;
    for gone in [5, 4] {
        let leader = world.led().await;
        world.at(leader).remove(NodeId(gone)).await.unwrap();
        world.stop(gone).await;
        world.at(1).propose(topic(&format!("without{gone}"))).await.unwrap();
    }
    world.until("three are left", |world| world.voters(1) == [1, 2, 3].map(NodeId)).await;
    world.agree().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_leaves_after_it_handed_over() {
    let mut world = World::of(2, 3).await;
    let leader = world.led().await;
    let error = world.at(leader).remove(NodeId(leader)).await.unwrap_err();
    assert!(error.to_string().contains("hand over the lead first"), "{error}");
    world.at(leader).hand_over(None).await.unwrap();
    let now = world.led().await;
    world.at(now).remove(NodeId(leader)).await.unwrap();
    world.stop(leader).await;
    world.led().await;
    world.at(now).propose(topic("a")).await.unwrap();
    assert_eq!(world.voters(now).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_removed_node_is_never_admitted_again() {
    let mut world = World::of(3, 3).await;
    let leader = world.led().await;
    let gone = if leader == 3 { 2 } else { 3 };
    world.at(leader).remove(NodeId(gone)).await.unwrap();
    world.stop(gone).await;
    world.start(gone).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert!(!world.voters(leader).contains(&NodeId(gone)));
    assert!(!world.status(leader).learners.iter().any(|peer| peer.id == NodeId(gone)));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lost_its_disk_is_another_node() {
    let mut world = World::of(4, 3).await;
    let leader = world.led().await;
    let lost = if leader == 3 { 2 } else { 3 };
    world.stop(lost).await;
    world.disks.insert(lost, MemoryDisk::new());
    world.at(leader).remove(NodeId(lost)).await.unwrap();
    world.start(lost).await.unwrap();
    world.until("it votes under a new number", |world| world.voters(leader).contains(&NodeId(4))).await;
    assert_eq!(world.status(lost).node, NodeId(4));
    world.agree().await;
}

/// Its address is still that of the old member: the leader must not take the new node for it.
#[tokio::test(start_paused = true)]
async fn an_empty_disk_behind_an_old_address_gets_nothing_of_the_old_node() {
    let mut world = World::of(5, 3).await;
    let leader = world.led().await;
    let lost = if leader == 3 { 2 } else { 3 };
    world.stop(lost).await;
    world.disks.insert(lost, MemoryDisk::new());
    world.start(lost).await.unwrap();
    world.until("it is a node of its own", |world| world.voters(leader).contains(&NodeId(4))).await;
    let request = pb::PeerRequest {
        cluster: cluster_id(),
        from: leader,
        to: lost,
        body: Some(pb::peer_request::Body::Vote(pb::Vote { ballot: Some(pb::Ballot { term: 99, node: leader, committed: false }), last: None })),
    };
    let reply = world.at(lost).answer().answer(request).await;
    let Some(pb::peer_reply::Body::Refused(refusal)) = reply.body else { panic!("it was not refused") };
    assert_eq!(refusal.code(), pb::refused::Code::OtherNode);
    assert!(refusal.why.contains(&format!("this is node 4, not node {lost}")), "{}", refusal.why);
}

#[tokio::test(start_paused = true)]
async fn another_cluster_is_refused_before_anything_is_done() {
    let world = World::of(6, 1).await;
    let stranger = world.net.start("x:1");
    let body = pb::peer_request::Body::Append(pb::Append { ballot: Some(pb::Ballot { term: 99, node: 9, committed: true }), ..Default::default() });
    let request = pb::PeerRequest { cluster: "d".repeat(32), from: 9, to: 1, body: Some(body) };
    let reply = stranger.call(&address(1), request, Duration::from_secs(1)).await.unwrap();
    let Some(pb::peer_reply::Body::Refused(refusal)) = reply.body else { panic!("it was not refused") };
    assert_eq!(refusal.code(), pb::refused::Code::OtherCluster);
    assert!(world.status(1).term < 99);
}

async fn try_join(world: &mut World, token: &str, cluster: Option<&str>) -> Result<Consensus, OpenError> {
    let settings: Settings = world.settings(9);
    Consensus::open(settings, Begin::Join { seeds: vec![address(1)], token: token.into() }, cluster).await
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_or_cluster_leaves_an_empty_folder() {
    let mut world = World::of(7, 1).await;
    let error = try_join(&mut world, "guess", None).await.unwrap_err();
    assert_eq!(error.to_string(), "this controller could not join a cluster: the join token is wrong; use that of the cluster");
    let error = try_join(&mut world, TOKEN, Some(&"d".repeat(32))).await.unwrap_err();
    assert!(matches!(error, OpenError::OtherCluster { .. }), "{error}");
    assert_eq!(world.disks[&9].list(Path::new(DIR)).unwrap(), Vec::<std::path::PathBuf>::new());
    let error = try_join(&mut world, TOKEN, None).await.map(|consensus| consensus.status().node);
    assert_eq!(error.unwrap(), NodeId(3), "number 2 was given and is never given again");
}

#[tokio::test(start_paused = true)]
async fn nobody_to_join_is_an_error_and_not_a_new_cluster() {
    let mut world = World::new(8);
    let error = try_join(&mut world, TOKEN, None).await.unwrap_err();
    assert!(matches!(&error, OpenError::NotJoined { why } if why.contains("did not answer")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn who_is_far_behind_gets_a_snapshot() {
    let mut world = World::new(9);
    world.pace = Pace { snapshot_every: 50, ..Pace::default() };
    world.start(1).await.unwrap();
    world.at(1).propose(super::world::founded()).await.unwrap();
    for machine in [2, 3] {
        world.start(machine).await.unwrap();
        world.until("it votes", |world| world.voters(1).len() as u64 == machine).await;
    }
    let leader = world.led().await;
    let behind = if leader == 3 { 2 } else { 3 };
    world.net.isolate(&address(behind));
    for number in 0..300 {
        world.at(leader).propose(topic(&format!("t{number}"))).await.unwrap();
    }
    let had = world.status(behind).snapshot;
    world.net.heal();
    world.agree().await;
    assert!(world.status(behind).snapshot > had, "{had:?}");
    // And a new node, which never saw the beginning of the log.
    world.start(4).await.unwrap();
    world.until("the new one votes", |world| world.voters(leader).len() == 4).await;
    world.agree().await;
    world.crash(behind).await;
    world.start(behind).await.unwrap();
    world.led().await;
    world.agree().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_is_done_once_wherever_it_is_repeated() {
    let mut world = World::of(10, 3).await;
    let leader = world.led().await;
    let first = world.at(1).propose_as(RequestId(5), topic("a")).await.unwrap();
    for machine in [1, 2, 3] {
        assert_eq!(world.at(machine).propose_as(RequestId(5), topic("a")).await.unwrap(), first);
    }
    world.crash(leader).await;
    let left = *world.running.keys().next().unwrap();
    assert_eq!(world.at(left).propose_as(RequestId(5), topic("a")).await.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn more_than_five_wait_as_learners() {
    let mut world = World::of(11, 5).await;
    world.start(6).await.unwrap();
    world.until("it is a learner", |world| world.status(1).learners.iter().any(|peer| peer.id == NodeId(6))).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.voters(1).len(), 5);
    world.agree().await;
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_removes() {
    let world = World::of(12, 3).await;
    let leader = world.led().await;
    let follower = if leader == 1 { 2 } else { 1 };
    let error = world.at(follower).remove(NodeId(3)).await.unwrap_err();
    assert!(matches!(&error, ProposeError::NoLeader { why } if why.contains(&format!("ask node {leader} at {}", address(leader)))), "{error}");
}
