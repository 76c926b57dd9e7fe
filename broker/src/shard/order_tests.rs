//! Where messages go, and in which order those of one message group come.

use super::core::{Event, Given};
use super::rig::{Note, Rig, group, handle};
use gantry_model::contract::broker::{AttemptCount, LeaseTerm};
use gantry_model::group::{Exhausted, Order};
use gantry_model::topic::TopicType;
use gantry_model::{Filter, Group, MessageKind};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

fn ordered(max_attempts: u32) -> Arc<Group> {
    Arc::new(Group { order: Order::FollowTopic, ..(*group(1, max_attempts)).clone() })
}

fn fifo() -> Rig {
    let mut rig = Rig::new();
    rig.kind = TopicType::Fifo;
    rig
}

fn offsets(given: &[Given]) -> Vec<u64> {
    given.iter().map(|given| given.offset).collect()
}

#[test]
fn messages_of_a_group_share_a_queue_and_come_in_order() {
    let mut rig = fifo();
    let sent = rig.send_groups(&[5; 40]);
    assert!(sent.iter().all(|one| one.queue == sent[0].queue));
    let group = ordered(16);
    let first = rig.receive(&group, 32);
    assert_eq!(offsets(&first), (0..32).collect::<Vec<_>>());
    assert!(rig.receive(&group, 32).is_empty(), "the message group is locked");
    rig.ack(&group, &first[1..]);
    assert!(rig.receive(&group, 32).is_empty(), "its first message is not finished");
    rig.ack(&group, &first[..1]);
    assert_eq!(offsets(&rig.receive(&group, 32)), (32..40).collect::<Vec<_>>());
}

#[test]
fn what_waits_in_one_message_group_goes_to_one_receive_however_many_wait() {
    let mut rig = fifo();
    rig.send_groups(&[5; 100]);
    let group = ordered(16);
    let first = rig.receive(&group, 32);
    let term = LeaseTerm::For(Duration::from_secs(10));
    let waiting: Vec<_> = (0..4).map(|_| rig.poll(&group, "c", 20, Filter::All, term, 60_000)).collect();
    rig.ack(&group, &first);
    assert_eq!(offsets(&rig.answer(waiting[0])), (32..52).collect::<Vec<_>>(), "as many as it asked for, and no more");
    assert!(waiting[1..].iter().all(|token| !rig.replies.contains_key(token)), "the message group is locked for the others");
}

#[test]
fn a_busy_group_does_not_hold_up_the_others_of_its_queue() {
    let mut rig = fifo();
    // With many groups, some share a queue with group 1.
    let groups: Vec<u64> = (0..60).map(|n| if n % 2 == 0 { 1 } else { 100 + n }).collect();
    let sent = rig.send_groups(&groups);
    let group = ordered(16);
    let mut seen: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    loop {
        let given = rig.receive(&group, 4);
        if given.is_empty() {
            break;
        }
        for one in &given {
            let number = sent.iter().position(|sent| sent.queue == one.queue.queue() && sent.offset.0 == one.offset).expect("it was sent");
            seen.insert((one.queue.queue().0, one.offset), groups[number]);
        }
        rig = rig.restart();
    }
    let of_first = seen.values().filter(|group| **group == 1).count();
    assert_eq!(seen.len() - of_first, 30, "every other group gave its message");
    assert!(of_first <= 4, "group 1 gave one batch, and then waits for its acknowledgement: {of_first}");
}

#[test]
fn a_failed_message_comes_again_before_those_behind_it() {
    let mut rig = fifo();
    rig.send_groups(&[5; 4]);
    let group = ordered(16);
    let first = rig.receive(&group, 3);
    rig.ack(&group, &first[..1]);
    rig.change(&group, &first[1], 5_000, AttemptCount::Counts).expect("it is held");
    rig.change(&group, &first[1], 0, AttemptCount::Counts).expect("it is held");
    let again = rig.receive(&group, 32);
    assert_eq!((offsets(&again), again[0].attempt), (vec![1], 2), "alone, so that its neighbours keep their attempts");
    assert!(rig.receive(&group, 32).is_empty());
    assert_eq!(rig.ack(&group, &first[2..]), [Ok(())], "the holder of the next one may still finish it");
    let mut rig = rig.restart();
    rig.ack(&group, &again);
    assert_eq!(offsets(&rig.receive(&group, 32)), [3]);
}

#[test]
fn a_message_that_was_taken_back_from_behind_a_failed_one_keeps_its_attempts() {
    let mut rig = fifo();
    rig.send_groups(&[5; 2]);
    let group = ordered(2);
    for _ in 0..2 {
        let given = rig.receive(&group, 2);
        assert_eq!(given[0].offset, 0);
        rig.change(&group, &given[0], 0, AttemptCount::Counts).expect("it is held");
    }
    let next = rig.receive(&group, 2);
    assert_eq!((offsets(&next), next[0].attempt), (vec![1], 1), "the first one is dead, the second never failed");
    assert_eq!(rig.core.state.head.dead_letters, 1);
}

#[test]
fn a_group_that_blocks_stops_where_a_message_used_up_its_attempts() {
    let mut rig = fifo();
    rig.send_groups(&[5; 2]);
    let mut strict = Group::clone(&ordered(1));
    strict.options.exhausted = Exhausted::Block;
    let strict = Arc::new(strict);
    let given = rig.receive(&strict, 1);
    rig.change(&strict, &given[0], 0, AttemptCount::Counts).expect("it is held");
    rig.sleep(60_000);
    assert!(rig.receive(&strict, 32).is_empty());
    assert_eq!(rig.core.state.head.dead_letters, 0);
    let patient = Arc::new(Group { max_attempts: 2, ..Group::clone(&strict) });
    assert_eq!(offsets(&rig.receive(&patient, 32)), [0], "one attempt more sets it going again");
}

#[test]
fn a_waiting_receive_gets_the_next_message_when_the_lock_ends() {
    let mut rig = fifo();
    rig.send_groups(&[5; 3]);
    let group = ordered(16);
    let first = rig.receive(&group, 1);
    let waiting = rig.poll(&group, "other", 1, gantry_model::Filter::All, TERM, 60_000);
    assert!(!rig.replies.contains_key(&waiting));
    rig.ack(&group, &first);
    assert_eq!(offsets(&rig.answer(waiting)), [1]);
    let waiting = rig.poll(&group, "other", 1, gantry_model::Filter::All, TERM, 60_000);
    rig.sleep(10_000);
    assert_eq!(offsets(&rig.answer(waiting)), [1], "the lease lapsed");
}

const TERM: gantry_model::contract::broker::LeaseTerm = gantry_model::contract::broker::LeaseTerm::For(std::time::Duration::from_secs(10));

#[test]
fn a_message_group_goes_on_when_its_first_message_was_forwarded_to_the_dead_letters() {
    let mut rig = fifo();
    rig.send_groups(&[5; 3]);
    let group = ordered(16);
    for dead in 0..2 {
        let first = rig.receive(&group, 1);
        assert_eq!(offsets(&first), [dead]);
        let waiting = rig.poll(&group, "other", 1, gantry_model::Filter::All, TERM, 60_000);
        assert!(!rig.replies.contains_key(&waiting), "the message group is locked");
        let token = rig.token();
        rig.step(Event::Dead { token, group: group.clone(), handle: handle(&group, &first[0]) });
        rig.settle();
        let next = rig.answer(waiting);
        assert_eq!(offsets(&next), [dead + 1]);
        rig.change(&group, &next[0], 0, AttemptCount::Suspended).expect("it is held");
    }
    assert_eq!(rig.core.state.head.dead_letters, 2);
}

#[test]
fn without_order_a_group_takes_everything_at_once() {
    let mut rig = fifo();
    rig.send_groups(&[5; 6]);
    let free = group(1, 16);
    assert_eq!(rig.receive(&free, 2).len() + rig.receive(&free, 4).len(), 6);
}

#[test]
fn a_priority_is_a_queue_and_the_highest_comes_first() {
    let mut rig = Rig::new();
    rig.kind = TopicType::Priority;
    let notes = [0, 2, 1, 9, 0].into_iter().enumerate().map(|(number, priority)| {
        let mut note = Note::plain(number as u128, None);
        (note.class.kind, note.class.priority) = (MessageKind::Priority, Some(priority));
        note
    });
    let sent = rig.send_notes(notes.collect());
    assert_eq!(sent.iter().map(|sent| sent.queue.0).collect::<Vec<_>>(), [0, 2, 1, 2, 0]);
    let group = ordered(16);
    let order: Vec<u32> = (0..5).flat_map(|_| rig.receive(&group, 1)).map(|given| given.queue.queue().0).collect();
    assert_eq!(order, [2, 2, 1, 0, 0]);
}

#[test]
fn the_lowest_priority_is_never_starved() {
    let mut rig = Rig::new();
    rig.kind = TopicType::Priority;
    let notes = (0..400u128).map(|number| {
        let mut note = Note::plain(number, None);
        (note.class.kind, note.class.priority) = (MessageKind::Priority, Some(if number < 10 { 0 } else { 2 }));
        note
    });
    rig.send_notes(notes.collect());
    let group = ordered(16);
    let low = (0..300).flat_map(|_| rig.receive(&group, 1)).filter(|given| given.queue.queue().0 == 0).count();
    assert!((2..=4).contains(&low), "{low} of 300 deliveries began at the lowest priority, one in a hundred was promised");
}

#[test]
fn a_repeated_message_id_is_answered_and_not_stored() {
    let mut rig = Rig::new();
    let first = rig.send_notes(vec![Note::plain(7, None)]);
    let mut rig = rig.restart();
    let again = rig.send_notes(vec![Note::plain(7, None)]);
    assert_eq!((again[0].queue, again[0].offset, again[0].duplicate), (first[0].queue, first[0].offset, true));
    assert_eq!(rig.core.state.head.messages, 1);
    rig.sleep(super::state::seen::WINDOW_MS);
    assert!(!rig.send_notes(vec![Note::plain(7, None)])[0].duplicate, "after ten minutes it is a new message");
}

#[test]
fn one_request_may_hold_several_groups_and_the_same_id_twice() {
    let mut rig = fifo();
    let note = |id: u128, group: u64| {
        let mut note = Note::plain(id, None);
        (note.class.kind, note.class.group) = (MessageKind::Fifo, Some(group));
        note
    };
    let token = rig.token();
    let drafts = vec![note(1, 5), note(2, 6), note(3, 5), note(1, 5), note(4, 6)];
    rig.step(Event::Send { token, topic: rig.topic(), client: gantry_model::ClientId::new("p"), drafts });
    rig.settle();
    let Some(super::core::Reply::Sent(sent)) = rig.replies.remove(&token) else { panic!("expected an answer") };
    let sent: Vec<_> = sent.into_iter().map(|one| one.expect("stored")).collect();
    assert_eq!((sent[0].queue, sent[0].offset, true), (sent[3].queue, sent[3].offset, sent[3].duplicate));
    assert_eq!(sent[0].queue, sent[2].queue);
    assert!(sent[0].offset < sent[2].offset && sent[1].offset < sent[4].offset);
    assert_eq!(rig.core.state.head.messages, 4);
}
