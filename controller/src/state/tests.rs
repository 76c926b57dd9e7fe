//! Tests of `apply`: one per rule, then random histories against the invariants.

#![allow(clippy::unwrap_used)]

use super::image::{Part, Rebuild};
use super::*;
use gantry_model::group::{Order, RetryPolicy};
use gantry_model::{QueueId, ShardId};
use proptest::prelude::*;
use std::collections::HashSet;

fn topic(name: &str) -> TopicName {
    TopicName::parse("", name).unwrap()
}

fn group(name: &str) -> GroupName {
    GroupName::parse("", name).unwrap()
}

fn spec(name: &str) -> TopicSpec {
    TopicSpec::on_first_use(topic(name))
}

fn created(spec: TopicSpec) -> Event {
    Event::TopicCreated { topic: spec, time_ms: 7 }
}

fn updated(name: &str, change: TopicChange) -> Event {
    Event::TopicUpdated { name: topic(name), change }
}

fn joined(name: &str) -> Event {
    Event::GroupCreated { group: GroupSpec::new(group(name)), time_ms: 7 }
}

fn cluster(shards: u32) -> State {
    let mut state = State::default();
    let event = Event::ClusterCreated { id: "c".repeat(32), name: "gantry".into(), shards, time_ms: 0 };
    assert_eq!(state.apply(&event), Effect::Done);
    state
}

fn topic_of(effect: Effect) -> Arc<Topic> {
    match effect {
        Effect::Topic(topic) => topic,
        other => panic!("not a topic: {other:?}"),
    }
}

fn group_of(effect: Effect) -> Arc<Group> {
    match effect {
        Effect::Group(group) => group,
        other => panic!("not a group: {other:?}"),
    }
}

/// The event is refused with this text, and only the version changes.
fn check_refused(state: &mut State, event: Event, text: &str) {
    let before = image(state, Version(0));
    match state.apply(&event) {
        Effect::Refused(error) => assert_eq!(error.to_string(), text),
        other => panic!("{event:?} was not refused: {other:?}"),
    }
    assert_eq!(image(state, Version(0)), before);
}

/// The state as text, with another version.
fn image(state: &State, version: Version) -> String {
    let state = State { version, ..state.clone() };
    state.parts().map(|part| serde_json::to_string(&part).unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_cluster_is_created_once_and_can_be_renamed() {
    let mut state = cluster(3);
    assert_eq!(state.cluster().unwrap().shards, 3);
    let again = Event::ClusterCreated { id: "d".repeat(32), name: "x".into(), shards: 1, time_ms: 0 };
    check_refused(&mut state, again, "the cluster exists already with another definition; use update to change it");
    assert_eq!(state.apply(&Event::ClusterRenamed { name: "prod-1".into() }), Effect::Done);
    assert_eq!((state.cluster().unwrap().id.len(), state.cluster().unwrap().name.as_str()), (32, "prod-1"));
    let text = "cluster name `a b` is not 1 to 127 letters, digits, `-`, `_` and `.`";
    check_refused(&mut state, Event::ClusterRenamed { name: "a b".into() }, text);
}

#[test]
fn nothing_can_be_made_before_the_cluster() {
    let mut state = State::default();
    check_refused(&mut state, created(spec("t")), "the cluster does not exist");
    check_refused(&mut state, joined("g"), "the cluster does not exist");
}

#[test]
fn the_newest_key_signs_and_old_ones_go_when_their_handles_have_ended() {
    let mut state = cluster(1);
    assert!(state.handle_keys().is_none());
    let day = 24 * 3600 * 1000;
    for time_ms in [0, 30 * day, 60 * day, 90 * day] {
        state.apply(&Event::HandleKeyAdded { secret: Secret([1; 32]), time_ms });
    }
    assert_eq!(state.keys.iter().map(|key| key.key.id).collect::<Vec<_>>(), [2, 3, 4], "key 1 was followed on day 30 and ends on day 75");
    assert!(format!("{:?}", state.handle_keys().unwrap()).contains("signing: 4"));
    assert_eq!(state.newest_key_ms(), Some(90 * day));
}

#[test]
fn a_topic_gets_a_number_and_its_queues_a_shard() {
    let mut state = cluster(3);
    let made = topic_of(state.apply(&created(spec("t"))));
    assert_eq!((made.id, made.queues.len(), made.created_ms), (TopicId(1), 8, 7));
    assert_eq!(made.queues().map(|(_, queue)| queue.shard.0).collect::<Vec<_>>(), [1, 2, 0, 1, 2, 0, 1, 2]);
    assert_eq!(state.topic(&topic("t")), Some(&made));
    assert_eq!(state.topic_by_id(TopicId(1)), Some(&made));
}

#[test]
fn creating_the_same_again_changes_nothing_and_another_is_refused() {
    let mut state = cluster(1);
    let made = topic_of(state.apply(&created(spec("t"))));
    let again = topic_of(state.apply(&Event::TopicCreated { topic: spec("t"), time_ms: 99 }));
    assert_eq!(made, again);
    let other = TopicSpec { queues: 9, ..spec("t") };
    check_refused(&mut state, created(other), "topic `t` exists already with another definition; use update to change it");

    let made = group_of(state.apply(&joined("g")));
    assert_eq!(group_of(state.apply(&joined("g"))), made);
    let other = GroupSpec { order: Order::Fifo, ..GroupSpec::new(group("g")) };
    let event = Event::GroupCreated { group: other, time_ms: 7 };
    check_refused(&mut state, event, "consumer group `g` exists already with another definition; use update to change it");
}

#[test]
fn nonsense_topics_are_refused_with_a_reason() {
    let mut state = cluster(1);
    let system = "`%DLQ%g` belongs to the system: a dead letter topic comes and goes with its consumer group";
    check_refused(&mut state, created(spec("%DLQ%g")), system);
    check_refused(&mut state, created(TopicSpec { queues: 0, ..spec("t") }), "a topic has 1 to 200000 queues, not 0");
    check_refused(&mut state, created(TopicSpec { queues: 200_001, ..spec("t") }), "a topic has 1 to 200000 queues, not 200001");
    let unchecked = TopicSpec { kind: TopicType::Unchecked, ..spec("t") };
    check_refused(&mut state, created(unchecked), "topic `t` can't have the type UNCHECKED, which belongs to dead letter topics");
    let nothing_kept = TopicSpec { retention: Retention { age_ms: Some(0), bytes: None }, ..spec("t") };
    let text = "a retention of 0 would delete every message at once; leave it out to use the server's default";
    check_refused(&mut state, created(nothing_kept), text);
}

#[test]
fn a_topic_changes_what_was_asked_and_nothing_else() {
    let mut state = cluster(1);
    let made = topic_of(state.apply(&created(spec("t"))));
    let retention = Retention { age_ms: Some(1000), bytes: None };
    let change = TopicChange { permission: Some(Permission::Read), retention: Some(retention), ..TopicChange::default() };
    let now = topic_of(state.apply(&updated("t", change)));
    assert_eq!(*now, Topic { permission: Permission::Read, retention, ..Topic::clone(&made) });
    let now = topic_of(state.apply(&updated("t", TopicChange { queues: Some(2), ..TopicChange::default() })));
    assert_eq!((queues::active(&now.queues), now.queues.len()), (2, 8));
    let change = TopicChange { kind: Some(TopicType::Fifo), ..TopicChange::default() };
    assert_eq!(topic_of(state.apply(&updated("t", change))).kind, TopicType::Fifo);
    assert_eq!(state.topic_by_id(made.id), state.topic(&topic("t")));
}

#[test]
fn impossible_topic_changes_are_refused_with_a_reason() {
    let mut state = cluster(1);
    state.apply(&created(spec("t")));
    state.apply(&joined("g"));
    check_refused(&mut state, updated("u", TopicChange::default()), "topic `u` does not exist");
    check_refused(&mut state, updated("t", TopicChange { queues: Some(0), ..TopicChange::default() }), "a topic has 1 to 200000 queues, not 0");
    let change = TopicChange { kind: Some(TopicType::Lite), ..TopicChange::default() };
    check_refused(&mut state, updated("t", change), "the type of topic `t` can't change from Mixed to Lite: create another topic");
    let change = TopicChange { queues: Some(9), ..TopicChange::default() };
    check_refused(&mut state, updated("%DLQ%g", change), "the type and the queues of the dead letter topic `%DLQ%g` can't be changed");
}

#[test]
fn a_group_comes_and_goes_with_its_dead_letter_topic() {
    let mut state = cluster(3);
    let made = group_of(state.apply(&joined("g")));
    let dead = state.topic_by_id(made.dead_letter).unwrap().clone();
    assert_eq!((dead.name.name.as_str(), dead.kind, dead.permission), ("%DLQ%g", TopicType::Unchecked, Permission::ReadWrite));
    assert!(dead.queues().all(|(QueueId(number), queue)| queue.shard == ShardId(number)), "queue s is on shard s");
    let system = "`%DLQ%g` belongs to the system: a dead letter topic comes and goes with its consumer group";
    check_refused(&mut state, Event::TopicDeleted { name: dead.name.clone() }, system);
    assert_eq!(state.apply(&Event::GroupDeleted { name: group("g") }), Effect::Done);
    assert_eq!((state.topic(&dead.name), state.topic_by_id(dead.id), state.group_by_id(made.id)), (None, None, None));
    check_refused(&mut state, Event::GroupDeleted { name: group("g") }, "consumer group `g` does not exist");
}

#[test]
fn a_group_changes_what_was_asked_and_nothing_else() {
    let mut state = cluster(1);
    let made = group_of(state.apply(&joined("g")));
    let change = GroupChange { max_attempts: Some(3), order: Some(Order::Fifo), ..GroupChange::default() };
    let now = group_of(state.apply(&Event::GroupUpdated { name: group("g"), change }));
    assert_eq!(*now, Group { max_attempts: 3, order: Order::Fifo, ..Group::clone(&made) });
}

#[test]
fn nonsense_groups_are_refused_with_a_reason() {
    let mut state = cluster(1);
    state.apply(&joined("g"));
    let mut check = |change: GroupChange, text: &str| check_refused(&mut state, Event::GroupUpdated { name: group("g"), change }, text);
    let retry = |policy| GroupChange { retry: Some(policy), ..GroupChange::default() };
    check(GroupChange { max_attempts: Some(0), ..GroupChange::default() }, "a consumer group delivers a message 1 to 1000 times, not 0");
    let none = RetryPolicy::Customized { delays_ms: vec![] };
    check(retry(none), "a customized retry policy has 1 to 256 delays, not 0");
    let shrinking = RetryPolicy::Exponential { initial_ms: 1, max_ms: 2, multiplier: f32::NAN };
    check(retry(shrinking), "the multiplier of a retry policy is 1 to 100, not NaN");
    let backwards = RetryPolicy::Exponential { initial_ms: 3, max_ms: 2, multiplier: 2.0 };
    check(retry(backwards), "the first delay of a retry policy, 3 ms, is longer than its longest, 2 ms");
    let text = "an auto-renewed message may be held for 10 to 43200 seconds, not 5 ms";
    check(GroupChange { auto_renew_cap_ms: Some(5), ..GroupChange::default() }, text);
}

#[test]
fn numbers_of_deleted_topics_and_groups_are_never_used_again() {
    let mut state = cluster(1);
    let first = (topic_of(state.apply(&created(spec("t")))).id, group_of(state.apply(&joined("g"))).id);
    state.apply(&Event::TopicDeleted { name: topic("t") });
    state.apply(&Event::GroupDeleted { name: group("g") });
    let mut state = rebuilt(&state);
    let second = (topic_of(state.apply(&created(spec("t")))).id, group_of(state.apply(&joined("g"))).id);
    assert_eq!((first, second), ((TopicId(1), GroupId(1)), (TopicId(3), GroupId(2))));
}

#[test]
fn lists_are_in_the_order_of_names_and_begin_after_a_name() {
    let mut state = cluster(1);
    for name in ["b", "a", "c"] {
        state.apply(&created(spec(name)));
    }
    let names = |after: Option<TopicName>| state.topics_after(after.as_ref()).map(|topic| topic.name.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(None), ["a", "b", "c"]);
    assert_eq!(names(Some(topic("a"))), ["b", "c"]);
    assert_eq!(names(Some(topic("bb"))), ["c"]);
}

#[test]
fn parts_that_are_not_whole_are_refused() {
    let mut state = cluster(1);
    state.apply(&joined("g"));
    let parts: Vec<Part> = state.parts().collect();
    let Part::Head(mut head) = parts[0].clone() else { panic!("the head comes first") };
    let text = Rebuild::new(head.clone()).unwrap().finish().unwrap_err().to_string();
    assert_eq!(
        text,
        "it has 0 topics, 0 groups, 0 nodes, 0 shards and 0 requests, its head announces 1 topics, 1 groups, 1 nodes, 0 shards and 0 requests"
    );
    head.v = 2;
    assert_eq!(Rebuild::new(head).unwrap_err().to_string(), "it has format 2, this version reads formats up to 1: use a newer gantry");
}

fn rebuilt(state: &State) -> State {
    let mut parts = state.parts().map(|part| serde_json::from_str(&serde_json::to_string(&part).unwrap()).unwrap());
    let Some(Part::Head(head)) = parts.next() else { panic!("the head comes first") };
    let mut rebuild = Rebuild::new(head).unwrap();
    parts.for_each(|part| rebuild.add(part).unwrap());
    rebuild.finish().unwrap()
}

/// Events over few names, so that they meet.
pub fn any_event() -> impl Strategy<Value = Event> {
    let name = prop::sample::select(vec!["a", "b", "c", "%DLQ%a", "%DLQ%b"]);
    (name, 0..9u8, 0..12u32, any::<u64>()).prop_map(|(name, what, count, time_ms)| match what {
        0..=2 => Event::TopicCreated { topic: TopicSpec { queues: count, ..spec(name) }, time_ms },
        3 => updated(name, TopicChange { queues: Some(count), ..TopicChange::default() }),
        4 => Event::TopicDeleted { name: topic(name) },
        5 | 6 => Event::GroupCreated { group: GroupSpec { max_attempts: count, ..GroupSpec::new(group(name)) }, time_ms },
        7 => Event::GroupUpdated { name: group(name), change: GroupChange { max_attempts: Some(count), ..GroupChange::default() } },
        _ => Event::GroupDeleted { name: group(name) },
    })
}

fn check_invariants(state: &State, topics_seen: &mut HashSet<TopicId>, groups_seen: &mut HashSet<GroupId>, before: &State) {
    assert_eq!(state.topics.len(), state.topics_by_id.len());
    assert_eq!(state.groups.len(), state.groups_by_id.len());
    for (name, topic) in &state.topics {
        assert_eq!((name, state.topic_by_id(topic.id)), (&topic.name, Some(topic)));
        assert_eq!(topic.queues[0].state, QueueState::Active);
        assert!(topic.queues.iter().all(|queue| queue.shard.0 < 3));
        assert!(before.topics_by_id.contains_key(&topic.id) || topics_seen.insert(topic.id), "topic id {} came back", topic.id);
    }
    for (name, group) in &state.groups {
        assert_eq!((name, state.group_by_id(group.id)), (&group.name, Some(group)));
        assert_eq!(state.topic_by_id(group.dead_letter).unwrap().name, TopicName::dead_letter_of(name));
        assert!(before.groups_by_id.contains_key(&group.id) || groups_seen.insert(group.id), "group id {} came back", group.id);
    }
    let dead_letters = state.topics.keys().filter(|name| name.is_system()).count();
    assert_eq!(dead_letters, state.groups.len());
}

proptest! {
    #[test]
    fn any_history_keeps_the_invariants_and_survives_a_snapshot(events in prop::collection::vec(any_event(), 0..60), cut in 0..60usize) {
        let mut state = cluster(3);
        let (mut topics, mut groups) = (HashSet::new(), HashSet::new());
        let mut restarted = None;
        for (at, event) in events.iter().enumerate() {
            if at == cut {
                restarted = Some(rebuilt(&state));
            }
            let before = state.clone();
            let effect = state.apply(event);
            if let Some(other) = &mut restarted {
                prop_assert_eq!(other.apply(event), effect);
            }
            check_invariants(&state, &mut topics, &mut groups, &before);
        }
        if let Some(other) = restarted {
            prop_assert_eq!(image(&other, other.version()), image(&state, state.version()));
        }
    }
}
