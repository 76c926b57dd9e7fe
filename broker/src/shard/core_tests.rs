//! What a shard promises to consumers, each promise a test; and random histories that must keep all of them.

use super::core::{Event, Given};
use super::rig::{Rig, group, handle, replay, replay_over, topic};
use super::state::{State, snapshot};
use gantry_model::contract::broker::{AttemptCount, LeaseError, LeaseTerm};
use gantry_model::{ClientId, Filter, QueueKey};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

fn places(given: &[Given]) -> BTreeSet<(QueueKey, u64)> {
    given.iter().map(|given| (given.queue, given.offset)).collect()
}

#[test]
fn what_is_leased_is_invisible_until_its_time_and_then_comes_again() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None; 5]);
    let first = rig.receive(&group, 32);
    assert_eq!(first.len(), 5);
    assert!(rig.receive(&group, 32).is_empty());
    rig.sleep(9_999);
    assert!(rig.receive(&group, 32).is_empty());
    rig.sleep(1);
    let second = rig.receive(&group, 32);
    assert_eq!(places(&second), places(&first));
    assert!(second.iter().all(|given| given.attempt == 2));
}

#[test]
fn an_acknowledged_message_never_comes_again_even_after_a_restart() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None; 4]);
    let given = rig.receive(&group, 32);
    assert_eq!(rig.ack(&group, &given), vec![Ok(()); 4]);
    assert_eq!(rig.ack(&group, &given[..1]), [Ok(())], "twice is as good as once");
    let mut rig = rig.restart();
    rig.sleep(60_000);
    assert!(rig.receive(&group, 32).is_empty());
    assert_eq!(rig.positions(&group).ready, 0);
}

#[test]
fn a_late_acknowledgement_counts_until_somebody_else_has_the_message() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None; 2]);
    let given = rig.receive(&group, 1);
    rig.sleep(10_000);
    assert_eq!(rig.ack(&group, &given), [Ok(())]);
    let late = rig.receive(&group, 1);
    rig.sleep(10_000);
    let newer = rig.receive(&group, 1);
    assert_eq!(places(&late), places(&newer));
    assert_eq!(rig.ack(&group, &late), [Err(LeaseError::Ended)]);
    assert_eq!(rig.ack(&group, &newer), [Ok(())]);
}

#[test]
fn waiting_receives_are_woken_and_share_what_arrives() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    let term = LeaseTerm::For(Duration::from_secs(10));
    let polls: Vec<_> = (0..4).map(|_| rig.poll(&group, "c", 32, Filter::All, term, 20_000)).collect();
    for _ in 0..2 {
        let token = rig.token();
        rig.step(Event::Send { token, topic: topic(), client: ClientId::new("p"), drafts: vec![super::rig::Note::plain(u128::from(token.0), None)] });
    }
    assert!(polls.iter().all(|poll| !rig.replies.contains_key(poll)), "nothing is delivered before it is committed");
    rig.settle();
    let woken = polls.iter().filter(|poll| rig.replies.contains_key(poll)).count();
    assert_eq!(woken, 2, "as many receives as messages");
    rig.sleep(20_000);
    assert!(polls.iter().all(|poll| rig.replies.contains_key(poll)), "the others end empty");
}

#[test]
fn after_the_last_attempt_a_message_is_dead_and_its_group_goes_on() {
    let mut rig = Rig::new();
    let group = group(1, 3);
    rig.send(&[None]);
    for attempt in 1..=3 {
        let given = rig.receive(&group, 1);
        assert_eq!(given.iter().map(|given| given.attempt).collect::<Vec<_>>(), [attempt]);
        rig.sleep(10_000);
    }
    assert!(rig.receive(&group, 1).is_empty());
    assert_eq!(rig.core.state.head.dead_letters, 1);
    assert_eq!(rig.core.state.bounds(QueueKey::new(group.dead_letter, gantry_model::QueueId(0))).next, 1);
    let position = rig.positions(&group);
    assert_eq!((position.ready, position.in_flight, position.waiting), (0, 0, 0));
}

#[test]
fn a_client_that_died_gives_back_what_it_held_as_long_as_it_lived() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None; 3]);
    let token = rig.poll(&group, "alive", 2, Filter::All, LeaseTerm::WhileClientLives, 0);
    assert_eq!(rig.answer(token).len(), 2);
    rig.sleep(3_000_000);
    assert_eq!(rig.receive(&group, 32).len(), 1, "the rest only: a live client keeps its messages");
    rig.step(Event::ClientGone { client: ClientId::new("alive") });
    rig.settle();
    let again = rig.receive(&group, 32);
    assert_eq!(again.iter().map(|given| given.attempt).collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn a_failed_message_waits_and_a_suspended_one_does_not_count() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None]);
    let token = rig.poll(&group, "c", 1, Filter::All, LeaseTerm::WhileClientLives, 0);
    let given = rig.answer(token)[0];
    assert_eq!(rig.change(&group, &given, 5_000, AttemptCount::Counts), Ok(()));
    assert_eq!(rig.positions(&group).waiting, 1);
    rig.sleep(4_999);
    assert!(rig.receive(&group, 1).is_empty());
    rig.sleep(1);
    let given = rig.receive(&group, 1)[0];
    assert_eq!(given.attempt, 2);
    assert_eq!(rig.change(&group, &given, 0, AttemptCount::Suspended), Ok(()));
    assert_eq!(rig.receive(&group, 1)[0].attempt, 2);
}

#[test]
fn an_extended_delivery_stays_with_its_consumer() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None]);
    let given = rig.receive(&group, 1)[0];
    assert_eq!(rig.change(&group, &given, 30_000, AttemptCount::Counts), Ok(()));
    rig.sleep(29_999);
    assert!(rig.receive(&group, 1).is_empty());
    assert_eq!(rig.ack(&group, &[given]), [Ok(())], "the handle is the same");
}

#[test]
fn what_never_reached_the_client_comes_at_once_with_the_same_attempt() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None; 2]);
    let given = rig.receive(&group, 2);
    let handles = given.iter().map(|given| handle(&group, given)).collect();
    rig.step(Event::Release { handles });
    rig.settle();
    let again = rig.receive(&group, 2);
    assert_eq!((places(&again), again[0].attempt), (places(&given), 1));
}

#[test]
fn members_with_different_filters_lose_nothing() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    let tags = |tag: &str| Filter::Tags(vec![tag.to_owned()]);
    let term = LeaseTerm::For(Duration::from_secs(10));
    let b = rig.poll(&group, "b", 32, tags("B"), term, 10);
    rig.sleep(10);
    assert!(rig.answer(b).is_empty());
    rig.send(&[Some("A"), Some("B"), Some("C"), Some("A"), Some("B")]);
    let a = rig.poll(&group, "a", 32, tags("A"), term, 0);
    assert_eq!(rig.answer(a).len(), 2);
    let b = rig.poll(&group, "b", 32, tags("B"), term, 0);
    assert_eq!(rig.answer(b).len(), 2, "kept while another member's poll refused them");
    let position = rig.positions(&group);
    assert_eq!((position.ready, position.in_flight), (0, 4), "nobody wants C: it is finished");
}

#[test]
fn a_repeated_receive_gets_the_same_batch() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None; 3]);
    let receive = |rig: &mut Rig| {
        let token = rig.token();
        let poll = super::polls::Poll {
            group: group.clone(),
            topic: topic(),
            wanted: super::polls::Wanted::new(Arc::new(Filter::All)),
            client: ClientId::new("c"),
            max: 2,
            term: LeaseTerm::WhileClientLives,
            deadline: rig.now,
            ordered_batch: true,
            member: "host".into(),
            seeks: Default::default(),
            attempt_id: Some("once".into()),
        };
        rig.step(Event::Receive { token, poll });
        rig.settle();
        rig.answer(token)
    };
    let first = receive(&mut rig);
    let mut rig = rig.restart();
    let second = receive(&mut rig);
    assert_eq!(first, second);
    rig.ack(&group, &first);
    assert_eq!(receive(&mut rig).len(), 1, "what was finished is not repeated");
}

#[test]
fn a_group_that_was_created_later_starts_behind_its_creation() {
    let mut rig = Rig::new();
    rig.send(&[None; 3]);
    rig.sleep(1_000);
    let mut late = (*group(2, 16)).clone();
    late.start = gantry_model::group::StartPosition::Created;
    late.created_ms = rig.now;
    let late = Arc::new(late);
    assert_eq!(rig.positions(&late).ready, 0);
    rig.send(&[None; 2]);
    assert_eq!(rig.positions(&late).ready, 2);
    assert_eq!(rig.receive(&late, 32).len(), 2);
}

#[test]
fn a_group_that_wants_the_newest_begins_with_its_first_receive() {
    let mut rig = Rig::new();
    rig.send(&[None; 30]);
    let mut newest = (*group(2, 16)).clone();
    newest.start = gantry_model::group::StartPosition::Latest;
    let newest = Arc::new(newest);
    assert_eq!(rig.positions(&newest).ready, 0);
    rig.send(&[None; 2]);
    assert_eq!(rig.receive(&newest, 32), [], "what was stored before it ever asked is not for it");
    let mut rig = rig.restart();
    rig.send(&[None; 3]);
    assert_eq!(rig.positions(&newest).ready, 3, "nothing that came after is missed while nobody asks");
    assert_eq!(rig.receive(&newest, 32).len(), 3);
}

#[test]
fn what_was_given_just_before_a_crash_comes_again_if_its_client_never_heard_of_it() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    let receive = |rig: &mut Rig| {
        let token = rig.poll(&group, "push", 1, Filter::All, LeaseTerm::WhileClientLives, 0);
        rig.answer(token)
    };
    rig.send(&[None; 3]);
    let early = receive(&mut rig);
    rig.sleep(10_000);
    let late = receive(&mut rig);
    // The answer to the last one is lost with the leader.
    let mut rig = rig.restart();
    let third = receive(&mut rig);
    rig.sleep(29_999);
    assert!(receive(&mut rig).is_empty(), "a client that has it may work on it");
    rig.sleep(1);
    let again = receive(&mut rig);
    assert_eq!((places(&again), again[0].attempt), (places(&late), 2));
    rig.sleep(600_000);
    assert!(receive(&mut rig).is_empty(), "the others are held as long as their client lives");
    assert_eq!(rig.ack(&group, &early), [Ok(())]);
    assert_eq!(rig.ack(&group, &third), [Ok(())]);
}

pub(super) fn check_snapshot(state: &State) {
    let mut copy = state.clone();
    copy.touch_all();
    let parts = copy.freeze().into_iter().map(|(number, part)| (number, part.expect("everything counts as changed").encode()));
    let restored = snapshot::restore(parts).expect("every part comes back");
    assert!(restored == *state, "a checkpoint keeps everything");
}

#[derive(Clone, Debug)]
enum Step {
    Send(u8),
    Receive { group: u8, max: u32, owned: bool, filter: u8 },
    Ack(usize),
    Nack(usize, u64),
    Suspend(usize),
    Release(usize),
    Gone,
    Sleep(u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..3).prop_map(Step::Send),
        4 => (0u8..2, 1u32..6, any::<bool>(), 0u8..3).prop_map(|(group, max, owned, filter)| Step::Receive { group, max, owned, filter }),
        4 => any::<prop::sample::Index>().prop_map(|index| Step::Ack(index.index(64))),
        1 => (any::<prop::sample::Index>(), 0u64..20_000).prop_map(|(index, after)| Step::Nack(index.index(64), after)),
        1 => any::<prop::sample::Index>().prop_map(|index| Step::Suspend(index.index(64))),
        1 => any::<prop::sample::Index>().prop_map(|index| Step::Release(index.index(64))),
        1 => Just(Step::Gone),
        2 => (0u64..15_000).prop_map(Step::Sleep),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..80)
}

/// What a consumer's history must look like, whatever the broker does inside.
#[derive(Default)]
struct Witness {
    acked: BTreeSet<(u32, QueueKey, u64)>,
    attempts: BTreeMap<(u32, QueueKey, u64), u32>,
}

impl Witness {
    fn delivered(&mut self, group: u32, given: &[Given]) {
        for one in given {
            let key = (group, one.queue, one.offset);
            assert!(!self.acked.contains(&key), "an acknowledged message came again: {one:?}");
            let before = self.attempts.insert(key, one.attempt).unwrap_or(0);
            assert!(one.attempt == before + 1 || one.attempt == before, "attempts grow by one, or repeat after a suspension: {before} then {one:?}");
        }
    }
}

/// What must hold when a history is over, whatever it was.
fn check_end(mut rig: Rig, groups: &[Arc<gantry_model::Group>; 2], mut witness: Witness) {
    check_snapshot(&rig.core.state);
    // A log that lost a range still amounts to a sound state.
    let (from, to) = (rig.log.len() / 3, rig.log.len() / 2);
    let mut holed = replay(&rig.log[..from]);
    holed.expect_holes();
    let holed = replay_over(holed, &rig.log[to..]);
    holed.cursors().for_each(|(_, _, cursor)| cursor.check());
    // Liveness: once all leases have ended, everything that was not acknowledged is delivered.
    for client in ["c", "all"] {
        rig.step(Event::ClientGone { client: ClientId::new(client) });
    }
    rig.sleep(100_000);
    for (number, group) in groups.iter().enumerate() {
        let mut seen = BTreeSet::new();
        loop {
            let given = rig.receive(group, 32);
            witness.delivered(number as u32, &given);
            seen.extend(places(&given));
            if given.is_empty() {
                break;
            }
        }
        let stored: BTreeSet<(QueueKey, u64)> =
            rig.core.state.queues().flat_map(|(queue, bounds)| (0..bounds.next).map(move |offset| (queue, offset))).collect();
        let acked: BTreeSet<(QueueKey, u64)> = witness.acked.iter().filter(|key| key.0 == number as u32).map(|key| (key.1, key.2)).collect();
        assert_eq!(&seen | &acked, stored, "every stored message was acknowledged or is delivered");
        assert!(seen.is_disjoint(&acked));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_lose_nothing_and_repeat_nothing_acknowledged(steps in steps()) {
        let mut rig = Rig::new();
        let groups = [group(1, 1_000), group(2, 1_000)];
        let tags = [None, Some("A"), Some("B")];
        let mut held: Vec<(usize, Given)> = Vec::new();
        let mut witness = Witness::default();
        for step in steps {
            match step {
                Step::Send(tag) => rig.send(&[tags[tag as usize]]),
                Step::Receive { group, max, owned, filter } => {
                    let term = if owned { LeaseTerm::WhileClientLives } else { LeaseTerm::For(Duration::from_secs(10)) };
                    // A filter that nobody else shares would finish messages; here every other member wants everything.
                    let filter = if filter == 0 { Filter::Tags(vec!["A".into()]) } else { Filter::All };
                    let everything = rig.poll(&groups[group as usize], "all", 1, Filter::All, term, 0);
                    let token = rig.poll(&groups[group as usize], "c", max, filter, term, 0);
                    for token in [everything, token] {
                        let given = rig.answer(token);
                        witness.delivered(u32::from(group), &given);
                        held.extend(given.into_iter().map(|given| (group as usize, given)));
                    }
                }
                Step::Ack(at) if !held.is_empty() => {
                    let (group, given) = held.swap_remove(at % held.len());
                    if rig.ack(&groups[group], &[given]) == [Ok(())] {
                        witness.acked.insert((group as u32, given.queue, given.offset));
                    }
                }
                Step::Nack(at, after) if !held.is_empty() => {
                    let (group, given) = held[at % held.len()];
                    let _ = rig.change(&groups[group], &given, after, AttemptCount::Counts);
                }
                Step::Suspend(at) if !held.is_empty() => {
                    let (group, given) = held[at % held.len()];
                    let _ = rig.change(&groups[group], &given, 0, AttemptCount::Suspended);
                }
                Step::Release(at) if !held.is_empty() => {
                    let (group, given) = held.swap_remove(at % held.len());
                    rig.step(Event::Release { handles: vec![handle(&groups[group], &given)] });
                    rig.settle();
                }
                Step::Gone => {
                    rig.step(Event::ClientGone { client: ClientId::new("c") });
                    rig.settle();
                }
                Step::Sleep(ms) => rig.sleep(ms),
                Step::Restart => rig = rig.restart(),
                _ => {}
            }
        }
        check_end(rig, &groups, witness);
    }
}
