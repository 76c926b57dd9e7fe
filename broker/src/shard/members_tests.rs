//! Broadcasting groups: each member reads everything, and none takes from another.

use super::core::{Event, Given, Reply};
use super::polls::{Poll, Wanted};
use super::rig::{Rig, group};
use crate::record::Forget;
use gantry_model::contract::broker::{AttemptCount, LeaseError, LeaseTerm};
use gantry_model::group::Sharing;
use gantry_model::{ClientId, Filter, Group, GroupId, ReceiptHandle, ShardId};
use std::sync::Arc;
use std::time::Duration;

pub fn broadcasting(id: u32) -> Arc<Group> {
    let mut broadcasting = Group::clone(&group(id, 2));
    broadcasting.options.sharing = Sharing::Broadcasting;
    Arc::new(broadcasting)
}

pub fn receive(rig: &mut Rig, group: &Arc<Group>, member: &str) -> Vec<Given> {
    let token = rig.token();
    let poll = Poll {
        group: group.clone(),
        topic: rig.topic(),
        wanted: Wanted::new(Arc::new(Filter::All)),
        client: ClientId::new(member),
        max: 32,
        term: LeaseTerm::For(Duration::from_secs(10)),
        deadline: rig.now,
        attempt_id: None,
        ordered_batch: true,
        member: member.into(),
        seeks: Default::default(),
    };
    rig.step(Event::Receive { token, poll });
    rig.settle();
    rig.answer(token)
}

fn handles(given: &[Given]) -> Vec<ReceiptHandle> {
    given.iter().map(|one| super::thread::handle(ShardId(0), one)).collect()
}

pub fn ack(rig: &mut Rig, group: &Arc<Group>, given: &[Given]) -> Vec<Result<(), LeaseError>> {
    let token = rig.token();
    rig.step(Event::Ack { token, group: group.id, handles: handles(given) });
    rig.settle();
    let Some(Reply::Acked(answers)) = rig.replies.remove(&token) else { panic!("expected acknowledgements") };
    answers
}

#[test]
fn every_member_gets_every_message_and_keeps_its_place() {
    let mut rig = Rig::new();
    let group = broadcasting(1);
    rig.send(&[None; 3]);
    let first = receive(&mut rig, &group, "one");
    let second = receive(&mut rig, &group, "two");
    assert_eq!((first.len(), second.len()), (3, 3));
    assert!(ack(&mut rig, &group, &first).iter().all(Result::is_ok));
    assert_eq!(rig.positions(&group).in_flight, 3, "the slowest member counts");
    let mut rig = rig.restart();
    rig.sleep(10_000);
    assert!(receive(&mut rig, &group, "one").is_empty());
    let again = receive(&mut rig, &group, "two");
    assert_eq!(again.iter().map(|given| given.attempt).collect::<Vec<_>>(), [2; 3], "its leases lapsed");
}

#[test]
fn a_handle_of_a_member_means_nothing_to_another_group() {
    let mut rig = Rig::new();
    let (group, other) = (broadcasting(1), broadcasting(2));
    rig.send(&[None]);
    let given = receive(&mut rig, &group, "one");
    receive(&mut rig, &other, "one");
    assert_eq!(ack(&mut rig, &other, &given), [Err(LeaseError::Ended)]);
    assert_eq!(ack(&mut rig, &group, &given), [Ok(())]);
}

#[test]
fn a_member_fails_alone_and_its_dead_letters_are_the_groups() {
    let mut rig = Rig::new();
    let group = broadcasting(1);
    rig.send(&[None]);
    for _ in 0..2 {
        let given = receive(&mut rig, &group, "one");
        let token = rig.token();
        let after = super::core::After { asked_ms: 0, failed_ms: 0 };
        let handle = handles(&given)[0];
        rig.step(Event::Change { token, group: group.clone(), handle, after, attempt: AttemptCount::Counts });
        rig.settle();
    }
    assert!(receive(&mut rig, &group, "one").is_empty());
    assert_eq!(rig.core.state.head.dead_letters, 1);
    assert_eq!(receive(&mut rig, &group, "two").len(), 1);
}

#[test]
fn a_member_is_forgotten_after_a_day_of_silence_or_with_its_group() {
    let mut rig = Rig::new();
    let group = broadcasting(1);
    rig.send(&[None]);
    let given = receive(&mut rig, &group, "one");
    assert!(given[0].group.is_member());
    ack(&mut rig, &group, &given);
    assert!(rig.core.idle_members().is_empty());
    rig.sleep(24 * 3600 * 1000);
    assert_eq!(rig.core.idle_members(), [given[0].group]);
    rig.step(Event::Forget { what: Forget::Group(given[0].group) });
    assert_eq!(receive(&mut rig, &group, "one")[0].group, GroupId(given[0].group.0 + 1), "numbers are never used again");
    rig.step(Event::Forget { what: Forget::Group(group.id) });
    rig.settle();
    assert_eq!((rig.core.state.head.members.len(), rig.core.state.cursors().count()), (0, 0));
    rig.restart();
}
