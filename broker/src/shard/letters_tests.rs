//! Dead letters sent again and removed: each once, in its order, and for every reader of the dead letter queue.

use super::asks::{Ask, Told};
use super::core::{Event, Given};
use super::core_tests::check_snapshot;
use super::letters::Letter;
use super::rig::{Note, Rig, group, topic};
use super::send::Class;
use gantry_model::contract::broker::{LeaseTerm, LetterError, LetterId, Sent};
use gantry_model::topic::{Permission, QueueState, TopicType};
use gantry_model::{ClientId, Filter, Group, MessageKind, Offset, QueueId, QueueKey, Topic};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

fn id(offset: u64) -> LetterId {
    LetterId { queue: QueueId(0), offset: Offset(offset) }
}

fn class(kind: MessageKind, group: Option<u64>) -> Class {
    Class { kind, group, ..Note::plain(1, None).class }
}

fn letter(offset: u64, class: Class, topic: Arc<Topic>) -> Letter {
    Letter { id: id(offset), class, topic }
}

fn redrive(rig: &mut Rig, group: &Arc<Group>, letters: Vec<Letter>) -> Vec<Result<Sent, LetterError>> {
    match rig.ask(Ask::Redrive { group: group.clone(), letters, bytes: 0 }) {
        Told::Redrive(answers) => answers,
        other => panic!("{other:?}"),
    }
}

fn purge(rig: &mut Rig, group: &Arc<Group>, offsets: &[u64]) -> Vec<Result<(), LetterError>> {
    match rig.ask(Ask::Purge { group: group.clone(), letters: offsets.iter().map(|&offset| id(offset)).collect() }) {
        Told::Purge(answers) => answers,
        other => panic!("{other:?}"),
    }
}

fn dead_topic(group: &Group) -> Arc<Topic> {
    let topic = topic();
    Arc::new(Topic { id: group.dead_letter, queues: topic.queues[..1].to_vec(), ..(*topic).clone() })
}

/// A group with so many dead letters.
fn with_letters(count: usize) -> (Rig, Arc<Group>) {
    let mut rig = Rig::new();
    let group = group(1, 1);
    rig.send(&vec![None; count]);
    while !rig.receive(&group, 32).is_empty() {
        rig.sleep(10_000);
    }
    assert_eq!(rig.core.state.head.dead_letters, count as u64);
    (rig, group)
}

/// Receives dead letters as any consumer would.
fn read_letters(rig: &mut Rig, group: &Group, reader: &Arc<Group>) -> Vec<Given> {
    let token = rig.token();
    let poll = super::polls::Poll {
        group: reader.clone(),
        topic: dead_topic(group),
        wanted: super::polls::Wanted::new(Arc::new(Filter::All)),
        client: ClientId::new("reader"),
        max: 32,
        term: LeaseTerm::For(Duration::from_secs(10)),
        deadline: rig.now,
        attempt_id: None,
        ordered_batch: true,
        member: String::new(),
        seeks: Default::default(),
    };
    rig.step(Event::Receive { token, poll });
    rig.settle();
    rig.answer(token)
}

#[test]
fn a_letter_is_sent_again_once_and_delivered_like_new() {
    let (mut rig, group) = with_letters(3);
    let normal = || class(MessageKind::Normal, None);
    let answers = redrive(&mut rig, &group, vec![letter(1, normal(), topic()), letter(1, normal(), topic()), letter(9, normal(), topic())]);
    let sent = answers[0].clone().unwrap();
    assert_eq!(answers[1..], [Err(LetterError::Gone), Err(LetterError::Gone)]);
    let mut rig = rig.restart();
    assert_eq!(redrive(&mut rig, &group, vec![letter(1, normal(), topic())]), [Err(LetterError::Gone)]);
    let given = rig.receive(&group, 32);
    assert_eq!(given.iter().map(|given| (given.queue.queue(), given.offset, given.attempt)).collect::<Vec<_>>(), [(sent.queue, sent.offset.0, 1)]);
    check_snapshot(&rig.core.state);
}

#[test]
fn a_letter_that_is_gone_is_gone_for_every_reader() {
    let (mut rig, dead) = with_letters(5);
    let (early, late) = (group(7, 16), group(8, 16));
    let given = read_letters(&mut rig, &dead, &early);
    assert_eq!(given.len(), 5);
    assert_eq!(purge(&mut rig, &dead, &[0, 3, 3, 5]), [Ok(()), Ok(()), Err(LetterError::Gone), Err(LetterError::Gone)]);
    let mut rig = rig.restart();
    assert_eq!(rig.ack(&early, &given[..1]), [Ok(())], "whoever held it has nothing left to do");
    rig.sleep(10_000);
    let offsets = |given: Vec<Given>| given.into_iter().map(|given| given.offset).collect::<Vec<_>>();
    let again = read_letters(&mut rig, &dead, &early);
    assert_eq!(offsets(again), [1, 2, 4]);
    let fresh = read_letters(&mut rig, &dead, &late);
    assert_eq!(offsets(fresh), [1, 2, 4]);
    check_snapshot(&rig.core.state);
}

#[test]
fn a_letter_stays_with_its_message_group() {
    let (mut rig, group) = with_letters(8);
    let fifo = |offset, key| letter(offset, class(MessageKind::Fifo, Some(key)), topic());
    let answers = redrive(&mut rig, &group, (0..8).map(|offset| fifo(offset, 42 + offset % 2)).collect());
    let queues: Vec<QueueId> = answers.into_iter().map(|sent| sent.unwrap().queue).collect();
    let token = rig.token();
    let note = |key, number| Note { tag: None, class: Class { id: number, ..class(MessageKind::Fifo, Some(key)) } };
    rig.step(Event::Send { token, topic: topic(), client: ClientId::new("p"), drafts: vec![note(42, 901), note(43, 902)] });
    rig.settle();
    let Some(super::core::Reply::Sent(sent)) = rig.replies.remove(&token) else { panic!("sent") };
    let places: Vec<QueueId> = sent.into_iter().map(|sent| sent.unwrap().queue).collect();
    assert_eq!(queues, [places.clone(), places.clone(), places.clone(), places].concat());
}

#[test]
fn a_topic_that_takes_nothing_leaves_the_letter_where_it_is() {
    let (mut rig, group) = with_letters(1);
    let mut closed = (*topic()).clone();
    closed.permission = Permission::Read;
    let mut retired = (*topic()).clone();
    retired.queues.iter_mut().for_each(|queue| queue.state = QueueState::ReadOnly);
    for topic in [closed, retired] {
        let answers = redrive(&mut rig, &group, vec![letter(0, class(MessageKind::Normal, None), Arc::new(topic))]);
        assert_eq!(answers, [Err(LetterError::NoWritableQueue)]);
    }
    assert!(redrive(&mut rig, &group, vec![letter(0, class(MessageKind::Normal, None), topic())])[0].is_ok());
}

#[test]
fn a_lite_message_goes_back_to_its_lite_topic_even_if_that_ended() {
    let (mut rig, group) = with_letters(3);
    let parent = Arc::new(Topic { id: gantry_model::TopicId(50), kind: TopicType::Lite, ..(*topic()).clone() });
    let lite = |name: &str| Class { lite: Some(name.into()), ..class(MessageKind::Lite, None) };
    let first = redrive(&mut rig, &group, vec![letter(0, lite("a"), parent.clone())]).remove(0).unwrap();
    let again = redrive(&mut rig, &group, vec![letter(1, lite("a"), parent.clone())]).remove(0).unwrap();
    assert_eq!((first.queue, again.queue, again.offset), (first.queue, first.queue, Offset(1)));
    let begun = rig.core.state.cursor(group.id, QueueKey::new(parent.id, first.queue)).map(|cursor| cursor.base);
    assert_eq!(begun, Some(0), "the group that gets it back begins with it");
    assert_eq!(redrive(&mut rig, &group, vec![letter(2, lite("a"), topic())]), [Err(LetterError::NoWritableQueue)]);
    rig.restart();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_letter_is_sent_again_or_removed_at_most_once(steps in prop::collection::vec((0u8..3, 0u64..12), 1..40)) {
        let (mut rig, dead) = with_letters(12);
        let before: u64 = rig.core.state.head.messages;
        let (mut gone, mut again) = (BTreeSet::new(), 0);
        for (step, offset) in steps {
            match step {
                0 => {
                    let answer = redrive(&mut rig, &dead, vec![letter(offset, class(MessageKind::Normal, None), topic())]).remove(0);
                    let first = gone.insert(offset);
                    prop_assert_eq!(answer.is_ok(), first);
                    again += u64::from(first);
                }
                1 => prop_assert_eq!(purge(&mut rig, &dead, &[offset]), [if gone.insert(offset) { Ok(()) } else { Err(LetterError::Gone) }]),
                _ => rig = rig.restart(),
            }
        }
        prop_assert_eq!(rig.core.state.head.messages, before + again);
        let left: BTreeSet<u64> = read_letters(&mut rig, &dead, &group(9, 16)).into_iter().map(|given| given.offset).collect();
        prop_assert_eq!(&left | &gone, (0..12).collect::<BTreeSet<u64>>());
        prop_assert!(left.is_disjoint(&gone));
        let mut delivered = 0;
        while let given = rig.receive(&dead, 32) && !given.is_empty() {
            rig.ack(&dead, &given);
            delivered += given.len() as u64;
        }
        prop_assert_eq!(delivered, again);
        check_snapshot(&rig.core.state);
    }
}
