//! Tests of nodes and shards: one per rule, then random histories against what must always hold.

#![allow(clippy::unwrap_used)]

use super::image::{Part, Rebuild};
use super::nodes::NodeSpec;
use super::shards::{EpochBegun, Grant, Move, Phase, Reason, Recovery, Replica, UncleanEpochBegun};
use super::*;
use gantry_model::{Epoch, Lsn};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SHARD: ShardId = ShardId(0);

fn spec(node: u64, incarnation: u64) -> NodeSpec {
    NodeSpec { address: format!("b{node}:9081"), zone: String::new(), capacity: 10, incarnation, format: 1 }
}

/// A cluster of three shards with nodes 2 to 6.
fn cluster() -> State {
    let mut state = State::default();
    state.apply(&Event::ClusterCreated { id: "c".repeat(32), name: "gantry".into(), shards: 3, time_ms: 0 });
    for node in 2..=6 {
        let Effect::Node(made) = state.apply(&Event::NodeJoined { node: spec(node, 1) }) else { panic!("node {node} did not join") };
        assert_eq!(made.id, NodeId(node));
    }
    state
}

fn replica(node: u64) -> Replica {
    Replica { node: NodeId(node), store: format!("{node:032x}") }
}

fn config(generation: u64, nodes: &[u64]) -> ShardConfig {
    ShardConfig { generation, members: nodes.iter().map(|node| replica(*node)).collect(), w: nodes.len() / 2 + 1 }
}

fn created(shard: u32, nodes: &[u64]) -> Event {
    Event::ShardCreated { shard: ShardId(shard), config: config(1, nodes), policy: Policy { copies: 3, min_copies: 2 } }
}

fn begin(expect: u32, new: Option<ShardConfig>) -> Event {
    Event::EpochBegun { shard: SHARD, begin: EpochBegun { expect: Epoch(expect), reason: Reason::Transfer, prefer: None, config: new } }
}

fn grant(epoch: u32, node: u64, generation: u64) -> Event {
    let grant =
        Grant { epoch: Epoch(epoch), leader: replica(node), incarnation: 1, last_epoch: Epoch(epoch - 1), end: Lsn(0), generation, unclean: false };
    Event::LeaderGranted { shard: SHARD, grant }
}

fn settle(epoch: u32) -> Event {
    Event::ConfigSettled { shard: SHARD, epoch: Epoch(epoch) }
}

fn planned(expect: u64, joining: Option<u64>, leaving: Option<u64>) -> Event {
    Event::MovePlanned { shard: SHARD, expect, moving: Move { joining: joining.map(replica), leaving: leaving.map(replica) } }
}

fn shard(state: &State) -> Arc<Shard> {
    state.shards_placed().get(SHARD).unwrap().clone()
}

#[track_caller]
fn obeyed(state: &mut State, event: Event) {
    let effect = state.apply(&event);
    assert!(!matches!(effect, Effect::Refused(_)), "{event:?}: {effect:?}");
}

#[track_caller]
fn check_refused(state: &mut State, event: Event, text: &str) {
    let before = image(state);
    match state.apply(&event) {
        Effect::Refused(error) => assert_eq!(error.to_string(), text),
        other => panic!("{event:?} was not refused: {other:?}"),
    }
    assert_eq!(image(state)[1..], before[1..], "only the head, with the version, changes");
}

fn image(state: &State) -> Vec<String> {
    state.parts().map(|part| serde_json::to_string(&part).unwrap()).collect()
}

fn rebuilt(state: &State) -> State {
    let mut parts = state.parts().map(|part| serde_json::from_str(&serde_json::to_string(&part).unwrap()).unwrap());
    let Some(Part::Head(head)) = parts.next() else { panic!("the head comes first") };
    let mut rebuild = Rebuild::new(head).unwrap();
    parts.for_each(|part| rebuild.add(part).unwrap());
    rebuild.finish().unwrap()
}

#[test]
fn the_number_of_a_removed_node_is_given_to_nobody() {
    let mut state = cluster();
    obeyed(&mut state, Event::NodeRemoved { id: NodeId(6) });
    let mut state = rebuilt(&state);
    let Effect::Node(node) = state.apply(&Event::NodeJoined { node: spec(6, 1) }) else { panic!("it did not join") };
    assert_eq!(node.id, NodeId(7));
    check_refused(&mut state, Event::NodeStarted { id: NodeId(6), node: spec(6, 2) }, "node 6 does not exist");
}

#[test]
fn only_the_newest_start_of_a_node_counts() {
    let mut state = cluster();
    let id = NodeId(2);
    obeyed(&mut state, Event::NodeStarted { id, node: spec(2, 5) });
    check_refused(&mut state, Event::NodeStarted { id, node: spec(2, 4) }, "incarnation 4 of node 2 is over, it started again as 5");
    check_refused(&mut state, Event::NodeDown { id, incarnation: 4 }, "node 2 started again as 5, so incarnation 4 is no news");
    obeyed(&mut state, Event::NodeDown { id, incarnation: 5 });
    assert!(!state.nodes().get(id).unwrap().takes_replicas());
    obeyed(&mut state, Event::NodeUp { id, incarnation: 5 });
    assert!(state.nodes().get(id).unwrap().takes_replicas());
    obeyed(&mut state, Event::NodeCordoned { id });
    obeyed(&mut state, Event::NodeStarted { id, node: spec(2, 6) });
    assert!(!state.nodes().get(id).unwrap().takes_replicas(), "a restart is no reason to put something there");
    obeyed(&mut state, Event::NodeUncordoned { id });
    assert!(state.nodes().get(id).unwrap().takes_replicas());
    let odd = NodeSpec { address: "nowhere".into(), ..spec(2, 7) };
    check_refused(&mut state, Event::NodeStarted { id, node: odd }, "`nowhere` is not an address like `host:9082`");
}

#[test]
fn an_impossible_shard_is_refused_with_a_reason() {
    let mut state = cluster();
    check_refused(&mut state, created(0, &[2, 2, 3]), "two copies on node 2 would be lost together");
    check_refused(&mut state, created(0, &[2, 3, 4, 5]), "a shard has 1, 2, 3 or 5 copies, not 4");
    check_refused(&mut state, created(0, &[2, 3, 9]), "node 9 does not exist");
    check_refused(&mut state, created(4, &[2, 3, 4]), "the next shard of this cluster is 3, not 4");
    let none = Event::ShardCreated { shard: SHARD, config: ShardConfig { w: 0, ..config(1, &[2]) }, policy: Policy { copies: 1, min_copies: 1 } };
    check_refused(&mut state, none, "0 of 1 copies can't be waited for");
    obeyed(&mut state, created(0, &[2, 3, 4]));
    check_refused(&mut state, created(0, &[2, 3, 4]), "shard 0 exists already with another definition; use update to change it");
    check_refused(&mut state, Event::NodeRemoved { id: NodeId(2) }, "node 2 holds a copy of shard 0; move its shards elsewhere first");
}

#[test]
fn the_shard_after_the_last_makes_the_cluster_larger() {
    let mut state = cluster();
    state.apply(&Event::GroupCreated { group: GroupSpec::new(GroupName::parse("", "g").unwrap()), time_ms: 0 });
    obeyed(&mut state, created(3, &[2, 3, 4]));
    assert_eq!(state.cluster().unwrap().shards, 4);
    let dead = state.topic(&TopicName::parse("", "%DLQ%g").unwrap()).unwrap();
    assert_eq!(dead.queues.iter().map(|queue| queue.shard.0).collect::<Vec<_>>(), [0, 1, 2, 3], "queue s is on shard s");
}

#[test]
fn an_epoch_is_granted_once_and_only_a_member_leads_it() {
    let mut state = cluster();
    obeyed(&mut state, created(0, &[2, 3, 4]));
    check_refused(&mut state, grant(2, 2, 1), "shard 0 is in epoch 1 now, not in 2");
    check_refused(&mut state, grant(1, 5, 1), "the grant does not fit the members of shard 0, generation 1");
    check_refused(&mut state, grant(1, 2, 2), "the grant does not fit the members of shard 0, generation 1");
    check_refused(&mut state, settle(1), "no leader was chosen in epoch 1 of shard 0 yet");
    obeyed(&mut state, grant(1, 2, 1));
    obeyed(&mut state, grant(1, 2, 1));
    check_refused(&mut state, grant(1, 3, 1), &format!("epoch 1 of shard 0 was granted to {}", replica(2)));
    check_refused(&mut state, begin(0, None), "shard 0 is in epoch 1 now, not in 0");
    obeyed(&mut state, begin(1, None));
    assert_eq!((shard(&state).epoch, shard(&state).leader()), (Epoch(2), None));
    let future = Grant { epoch: Epoch(2), leader: replica(3), incarnation: 1, last_epoch: Epoch(2), end: Lsn(0), generation: 1, unclean: false };
    check_refused(&mut state, Event::LeaderGranted { shard: SHARD, grant: future }, "the log of shard 0 can't hold epoch 2 before that was granted");
    obeyed(&mut state, grant(2, 3, 1));
    assert_eq!(shard(&state).leader(), Some(&replica(3)));
}

#[test]
fn new_members_count_when_the_current_leader_has_begun_with_them() {
    let mut state = cluster();
    obeyed(&mut state, created(0, &[2, 3, 4]));
    obeyed(&mut state, grant(1, 2, 1));
    obeyed(&mut state, planned(0, Some(5), Some(4)));
    check_refused(&mut state, planned(1, Some(6), None), "shard 0 is on the move already; wait for it or drop that move");
    check_refused(&mut state, begin(1, Some(config(1, &[2, 3, 5]))), "new members of shard 0 need a generation above 1");
    obeyed(&mut state, begin(1, Some(config(2, &[2, 3, 5]))));
    let changing = "shard 0 is still changing its members to generation 2; wait for it";
    check_refused(&mut state, begin(2, Some(config(3, &[2, 3, 6]))), changing);
    assert_eq!(shard(&state).members().into_iter().map(|replica| replica.node.0).collect::<Vec<_>>(), [2, 3, 4, 5], "all of them are sealed");
    obeyed(&mut state, grant(2, 2, 2));
    obeyed(&mut state, begin(2, None));
    check_refused(&mut state, settle(2), "shard 0 is in epoch 3 now, not in 2");
    obeyed(&mut state, grant(3, 3, 2));
    obeyed(&mut state, settle(3));
    let now = shard(&state);
    assert_eq!((now.stable.clone(), now.pending.clone(), now.moving.clone()), (config(2, &[2, 3, 5]), None, None));
    obeyed(&mut state, Event::NodeRemoved { id: NodeId(4) });
    obeyed(&mut state, settle(3));
    assert_eq!(shard(&state).revision, now.revision, "saying it again changes nothing");
}

#[test]
fn a_leaving_member_may_lead_the_change_and_then_leaves() {
    let mut state = cluster();
    obeyed(&mut state, created(0, &[2]));
    obeyed(&mut state, begin(1, Some(config(2, &[6]))));
    obeyed(&mut state, grant(2, 2, 2));
    obeyed(&mut state, settle(2));
    check_refused(&mut state, Event::NodeRemoved { id: NodeId(2) }, "node 2 holds a copy of shard 0; move its shards elsewhere first");
    obeyed(&mut state, begin(2, None));
    obeyed(&mut state, Event::NodeRemoved { id: NodeId(2) });
    obeyed(&mut state, grant(3, 6, 2));
}

fn recovered(expect: u32, node: u64) -> Event {
    let begin = UncleanEpochBegun { expect: Epoch(expect), kept: replica(node), by: "eve".into(), time_ms: 5 };
    Event::UncleanEpochBegun { shard: SHARD, begin }
}

fn unclean(event: Event) -> Event {
    let Event::LeaderGranted { shard, grant } = event else { panic!("{event:?} grants nothing") };
    Event::LeaderGranted { shard, grant: Grant { unclean: true, ..grant } }
}

#[test]
fn a_copy_goes_on_alone_by_order_until_a_leader_has_begun() {
    let mut state = cluster();
    obeyed(&mut state, created(0, &[2, 3, 4]));
    obeyed(&mut state, grant(1, 2, 1));
    obeyed(&mut state, planned(0, Some(5), Some(4)));
    obeyed(&mut state, begin(1, Some(config(2, &[2, 3, 5]))));
    check_refused(&mut state, recovered(1, 3), "shard 0 is in epoch 2 now, not in 1");
    check_refused(&mut state, recovered(2, 6), &format!("replica {} is no member of shard 0, so nothing can be recovered from it", replica(6)));
    obeyed(&mut state, recovered(2, 3));
    let now = shard(&state);
    assert_eq!((now.stable.clone(), now.pending.clone(), now.moving.clone()), (config(3, &[3]), None, None));
    assert_eq!((now.epoch, now.reason, now.unclean, now.leader()), (Epoch(3), Reason::Unclean, true, None));
    let given_up = [2, 4, 5].map(replica).to_vec();
    assert_eq!(now.recoveries, [Recovery { epoch: Epoch(3), kept: replica(3), given_up, by: "eve".into(), time_ms: 5 }]);
    let recovering = "shard 0 is being recovered; its members change when a leader has begun";
    check_refused(&mut state, begin(3, Some(config(4, &[3, 2]))), recovering);
    check_refused(&mut state, planned(now.revision, Some(2), None), recovering);
    check_refused(&mut state, grant(3, 3, 3), "the grant does not fit the members of shard 0, generation 3");
    check_refused(&mut state, unclean(grant(3, 2, 3)), "the grant does not fit the members of shard 0, generation 3");
    obeyed(&mut state, unclean(grant(3, 3, 3)));
    obeyed(&mut state, begin(3, None));
    assert!(shard(&state).unclean, "it did not begin");
    obeyed(&mut state, unclean(grant(4, 3, 3)));
    obeyed(&mut state, settle(4));
    let mut state = rebuilt(&state);
    assert_eq!((shard(&state).unclean, shard(&state).unclean_recoveries), (false, 1));
    check_refused(&mut state, begin(4, Some(config(3, &[3, 2]))), "new members of shard 0 need a generation above 3");
    let revision = shard(&state).revision;
    obeyed(&mut state, planned(revision, Some(2), None));
    obeyed(&mut state, Event::NodeRemoved { id: NodeId(4) });
}

#[test]
fn only_the_newest_recoveries_are_remembered_and_all_are_counted() {
    let mut state = cluster();
    obeyed(&mut state, created(0, &[2, 3, 4]));
    (1..=40).for_each(|epoch| obeyed(&mut state, recovered(epoch, 3)));
    let now = shard(&state);
    assert_eq!((now.unclean_recoveries, now.recoveries.len()), (40, 32));
    assert_eq!(now.recoveries.last().map(|recovery| recovery.epoch), Some(now.epoch));
}

#[test]
fn moves_and_policies_are_compared_and_set() {
    let mut state = cluster();
    obeyed(&mut state, created(0, &[2, 3, 4]));
    check_refused(&mut state, planned(1, Some(5), None), "shard 0 has revision 0 now, not 1; look again");
    check_refused(&mut state, planned(0, Some(4), None), "node 4 holds shard 0 already");
    check_refused(&mut state, planned(0, None, None), "a move of shard 0 names who joins or who leaves");
    check_refused(&mut state, planned(0, None, Some(5)), &format!("replica {} is no member of shard 0", replica(5)));
    state.apply(&Event::NodeCordoned { id: NodeId(5) });
    check_refused(&mut state, planned(0, Some(5), None), "node 5 takes no replicas now: it is down, cordoned or not a broker");
    obeyed(&mut state, planned(0, Some(6), Some(2)));
    check_refused(&mut state, Event::NodeRemoved { id: NodeId(6) }, "node 6 holds a copy of shard 0; move its shards elsewhere first");
    obeyed(&mut state, Event::MoveDropped { shard: SHARD, expect: 1 });
    obeyed(&mut state, Event::NodeRemoved { id: NodeId(6) });
    let policy = Policy { copies: 5, min_copies: 3 };
    check_refused(&mut state, Event::ShardPolicySet { shard: SHARD, expect: 1, policy }, "shard 0 has revision 2 now, not 1; look again");
    obeyed(&mut state, Event::ShardPolicySet { shard: SHARD, expect: 2, policy });
    let wrong = Policy { copies: 3, min_copies: 4 };
    let text = "a shard has 1, 2, 3 or 5 copies and at least 1, not 3 and at least 4";
    check_refused(&mut state, Event::ShardPolicySet { shard: SHARD, expect: 3, policy: wrong }, text);
    assert_eq!((shard(&state).policy, shard(&state).revision), (policy, 3));
}

#[test]
fn each_event_of_a_batch_is_obeyed_or_refused_by_itself() {
    let mut state = cluster();
    let events = vec![created(0, &[2, 3, 4]), created(0, &[2, 3, 4]), created(1, &[3, 4, 5])];
    let version = state.version();
    let Applied { effect: Effect::Batch(effects), .. } = state.take(RequestId(1), 5, &Event::Batch { events }) else { panic!("no batch") };
    assert!(matches!(effects[..], [Effect::Shard(_), Effect::Refused(MetadataError::Exists { .. }), Effect::Shard(_)]), "{effects:?}");
    assert_eq!((state.shards_placed().len(), state.version()), (2, Version(version.0 + 1)));
    let nested = Event::Batch { events: vec![Event::Batch { events: vec![] }] };
    check_refused(&mut state, nested, "a batch has at most 10000 events and no batches");
}

#[test]
fn a_request_is_forgotten_after_ten_minutes_of_the_log_and_not_before() {
    let mut state = cluster();
    let event = created(0, &[2, 3, 4]);
    let first = state.take(RequestId(1), 1_000, &event);
    state.take(RequestId(2), 600_999, &begin(1, None));
    let mut state = rebuilt(&state);
    assert_eq!(state.take(RequestId(1), 601_000, &event).version, first.version);
    state.take(RequestId(3), 601_001, &begin(2, None));
    let Applied { effect, .. } = state.take(RequestId(1), 601_002, &event);
    assert!(matches!(effect, Effect::Refused(MetadataError::Exists { .. })), "{effect:?}");
}

/// Events over few nodes and one shard, so that they meet.
fn any_event() -> impl Strategy<Value = Event> {
    let nodes = prop::sample::subsequence(vec![2_u64, 3, 4, 5, 6], 1..=5);
    (0..13u8, nodes, 0..12u32, 0..4u64, 1..4u64).prop_map(|(what, nodes, epoch, number, incarnation)| {
        let (id, policy) = (NodeId(nodes[0]), Policy { copies: 3, min_copies: 1 });
        match what {
            0 => Event::ShardCreated { shard: SHARD, config: config(1, &nodes), policy },
            1 | 2 => begin(epoch, None),
            3 => begin(epoch, Some(config(number + 1, &nodes))),
            4..=6 => grant(epoch.max(1), nodes[0], number),
            7 => settle(epoch),
            8 => planned(number, Some(nodes[0]), nodes.get(1).copied()),
            9 => Event::NodeDown { id, incarnation },
            10 => recovered(epoch, nodes[0]),
            11 => unclean(grant(epoch.max(1), nodes[0], number)),
            _ => Event::NodeRemoved { id },
        }
    })
}

/// What a shard must be like after any event, seen from before it.
fn check_shard(before: Option<&Arc<Shard>>, after: &Shard, leaders: &mut BTreeMap<Epoch, Replica>, state: &State) {
    if let Some(before) = before {
        assert!(after.epoch >= before.epoch && after.epoch.0 <= before.epoch.0 + 1, "epochs follow one another");
        assert!(after.revision >= before.revision);
        assert!(after.stable.generation >= before.stable.generation);
        if after.stable != before.stable {
            if after.unclean_recoveries > before.unclean_recoveries {
                assert!(after.unclean && after.leader().is_none() && after.epoch > before.epoch);
                assert!(after.stable.members.iter().all(|member| before.members().contains(member)), "who is left was there before");
            } else {
                assert_eq!(Some(&after.stable), before.pending.as_ref(), "members count only after they were sealed");
                assert_eq!(after.epoch, before.epoch);
            }
        }
    }
    if let Phase::Led(grant) = &after.phase {
        assert_eq!(grant.epoch, after.epoch);
        assert!(!grant.unclean || after.recoveries.iter().any(|recovery| recovery.epoch <= grant.epoch), "unclean by an operator's order only");
        if before.is_some_and(|before| before.leader().is_none()) {
            assert!(after.members().contains(&grant.leader));
        }
        assert!(state.nodes().get(grant.leader.node).is_some(), "who leads is a node");
        assert_eq!(leaders.entry(grant.epoch).or_insert_with(|| grant.leader.clone()), &grant.leader, "an epoch has one leader");
    }
    assert!(after.members().iter().all(|replica| state.nodes().get(replica.node).is_some()), "who holds a copy is a node");
}

proptest! {
    #[test]
    fn any_history_of_a_shard_keeps_the_invariants(events in prop::collection::vec(any_event(), 0..120), cut in 0..120usize) {
        let mut state = cluster();
        let (mut leaders, mut restarted) = (BTreeMap::new(), None);
        for (at, event) in events.iter().enumerate() {
            if at == cut {
                restarted = Some(rebuilt(&state));
            }
            let before = state.shards_placed().get(SHARD).cloned();
            let effect = state.apply(event);
            if let Some(other) = &mut restarted {
                prop_assert_eq!(other.apply(event), effect);
            }
            if let Some(after) = state.shards_placed().get(SHARD) {
                check_shard(before.as_ref(), after, &mut leaders, &state);
            }
        }
        if let Some(other) = restarted {
            prop_assert_eq!(image(&other), image(&state));
        }
    }
}
