//! Positions that are moved by hand: what a reset drops and keeps, what is skipped, how pulling groups and receiving groups keep apart; and
//! random histories against a plain set of finished messages.

use super::asks::{Ask, Told};
use super::core::{Event, Given, Reply};
use super::core_tests::check_snapshot;
use super::members_tests;
use super::rig::{Rig, group, handle, topic};
use gantry_model::contract::broker::{LeaseError, LeaseTerm, Moved, OffsetError, PullError, SeekRequest, SeekTarget, Standing};
use gantry_model::group::{Exhausted, GroupOptions, Order};
use gantry_model::topic::TopicType;
use gantry_model::{ClientId, Filter, Group, GroupId, Offset, QueueId, QueueKey};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const FIRST: QueueId = QueueId(0);

fn key(queue: u32) -> QueueKey {
    QueueKey::new(topic().id, QueueId(queue))
}

fn seek(rig: &mut Rig, group: &Arc<Group>, target: SeekTarget) -> Result<Vec<Moved>, OffsetError> {
    let request = SeekRequest { group: group.clone(), topic: topic(), queues: Vec::new(), target, dry_run: false };
    match rig.ask(Ask::Seek(Box::new(request))) {
        Told::Seek(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn skip(rig: &mut Rig, group: &Arc<Group>, queue: u32, offsets: &[u64]) -> Result<u64, OffsetError> {
    let offsets = offsets.iter().map(|&offset| Offset(offset)).collect();
    match rig.ask(Ask::Skip { group: group.clone(), topic: topic(), queue: QueueId(queue), offsets }) {
        Told::Skip(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn commit(rig: &mut Rig, group: &Arc<Group>, offset: u64) -> Result<(), OffsetError> {
    match rig.ask(Ask::Commit { group: group.clone(), topic: topic(), queue: FIRST, offset: Offset(offset) }) {
        Told::Commit(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn committed(rig: &mut Rig, group: &Arc<Group>) -> Option<Offset> {
    match rig.ask(Ask::Committed { group: group.clone(), topic: topic(), queue: FIRST }) {
        Told::Committed(offset) => offset,
        other => panic!("{other:?}"),
    }
}

fn standing(rig: &mut Rig, group: &Arc<Group>, offset: u64) -> Standing {
    match rig.ask(Ask::Standing { group: group.clone(), messages: vec![(key(0), offset)] }) {
        Told::Standing(mut standing) => standing.remove(0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reset_delivers_everything_again_and_voids_the_handles_from_before() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None; 6]);
    let given = rig.receive(&group, 4);
    rig.ack(&group, &given[..1]);
    let moved = seek(&mut rig, &group, SeekTarget::Earliest).unwrap();
    assert_eq!(moved.iter().map(|moved| moved.dropped).sum::<u64>(), 3);
    assert!(moved.iter().all(|moved| moved.to == Offset(0)));
    assert_eq!(rig.ack(&group, &given[1..2]), [Err(LeaseError::Ended)]);
    let mut rig = rig.restart();
    let position = rig.positions(&group);
    assert_eq!((position.ready, position.in_flight, position.waiting), (6, 0, 0));
    let again = rig.receive(&group, 32);
    assert_eq!(again.len(), 6);
    assert!(again.iter().all(|given| given.attempt == 1));
    assert_eq!(rig.ack(&group, &given[1..2]), [Err(LeaseError::Ended)], "not even now that the offset is leased again");
    assert_eq!(rig.ack(&group, &again), vec![Ok(()); 6]);
}

#[test]
fn a_reset_wakes_who_waits_and_reaches_groups_that_never_read() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None; 3]);
    seek(&mut rig, &group, SeekTarget::Latest).unwrap();
    assert_eq!(rig.positions(&group).ready, 0, "all were passed over, offline");
    let poll = rig.poll(&group, "c", 32, Filter::All, LeaseTerm::For(Duration::from_secs(10)), 20_000);
    assert!(!rig.replies.contains_key(&poll));
    seek(&mut rig, &group, SeekTarget::Earliest).unwrap();
    assert_eq!(rig.answer(poll).len(), 3);
}

#[test]
fn a_dry_run_says_what_would_happen_and_changes_nothing() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None; 3]);
    let given = rig.receive(&group, 32);
    let before = rig.core.state.clone();
    let request = SeekRequest { group: group.clone(), topic: topic(), queues: vec![FIRST], target: SeekTarget::Latest, dry_run: true };
    let Told::Seek(Ok(moved)) = rig.ask(Ask::Seek(Box::new(request))) else { panic!("moved") };
    assert_eq!(moved, [Moved { queue: FIRST, from: Offset(0), to: Offset(1), dropped: 1 }]);
    assert!(rig.core.state == before);
    assert_eq!(rig.ack(&group, &given), vec![Ok(()); 3]);
}

#[test]
fn a_time_an_offset_or_another_group_can_be_the_target() {
    let mut rig = Rig::new();
    let (one, two) = (group(1, 16), group(2, 16));
    rig.send(&[None; 3]);
    rig.sleep(1_000);
    let later = rig.now;
    rig.send(&[None; 6]);
    assert!(seek(&mut rig, &one, SeekTarget::Time(later)).unwrap().iter().all(|moved| moved.to == Offset(1)));
    assert!(seek(&mut rig, &one, SeekTarget::Time(later + 1)).unwrap().iter().all(|moved| moved.to == Offset(3)));
    assert!(seek(&mut rig, &one, SeekTarget::Offset(Offset(2))).unwrap().iter().all(|moved| moved.to == Offset(2)));
    let out = OffsetError::OutOfRange { min: Offset(0), max: Offset(3) };
    assert_eq!(seek(&mut rig, &one, SeekTarget::Offset(Offset(4))), Err(out));
    assert_eq!(rig.positions(&one).ready, 3, "a refused reset changes nothing");

    let given = rig.receive(&two, 32);
    rig.ack(&two, &given[4..7]);
    seek(&mut rig, &one, SeekTarget::Like(two.clone())).unwrap();
    assert_eq!((rig.positions(&one).ready, rig.positions(&two).in_flight), (6, 6), "what the other group holds comes to this one too");
    let mut rig = rig.restart();
    let places = |given: &[Given]| given.iter().map(|given| (given.queue, given.offset)).collect::<BTreeSet<_>>();
    let copied = rig.receive(&one, 32);
    assert_eq!(places(&copied), &places(&given) - &places(&given[4..7]));
}

#[test]
fn unknown_queues_are_refused() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None]);
    for queue in [QueueId(3), QueueId(QueueKey::MAX_QUEUE), QueueId(u32::MAX)] {
        let request = SeekRequest { group: group.clone(), topic: topic(), queues: vec![queue], target: SeekTarget::Latest, dry_run: false };
        assert_eq!(rig.ask(Ask::Seek(Box::new(request))), Told::Seek(Err(OffsetError::NoSuchQueue)), "{queue}");
        assert_eq!(rig.ask(Ask::OffsetAt { topic: topic(), queue, time_ms: 0 }), Told::OffsetAt(None));
    }
}

#[test]
fn skipped_messages_never_come_whatever_state_they_were_in() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None; 15]);
    let given = rig.receive(&group, 6);
    assert_eq!(given.iter().filter(|given| given.queue == key(0)).count(), 5);
    assert_eq!(skip(&mut rig, &group, 0, &[1, 4, 1]), Ok(2), "leased");
    assert_eq!(skip(&mut rig, &group, 2, &[0, 3]), Ok(2), "never delivered");
    assert_eq!(skip(&mut rig, &group, 2, &[3]), Ok(0), "once is enough");
    assert_eq!(skip(&mut rig, &group, 2, &[5]), Err(OffsetError::OutOfRange { min: Offset(0), max: Offset(5) }));
    let skipped = *given.iter().find(|given| (given.queue, given.offset) == (key(0), 1)).unwrap();
    assert_eq!(rig.ack(&group, &[skipped]), [Ok(())], "an acknowledgement under way is not an error");
    assert_eq!(standing(&mut rig, &group, 1), Standing::Done);
    let mut rig = rig.restart();
    rig.sleep(60_000);
    let mut all = Vec::new();
    while let more = rig.receive(&group, 32)
        && !more.is_empty()
    {
        rig.ack(&group, &more);
        all.extend(more);
    }
    let places: BTreeSet<(QueueKey, u64)> = all.iter().map(|given| (given.queue, given.offset)).collect();
    assert_eq!((places.len(), all.len()), (11, 11));
    assert!([(0, 1), (0, 4), (2, 0), (2, 3)].iter().all(|&(queue, offset)| !places.contains(&(key(queue), offset))));
    assert_eq!(rig.positions(&group).ready, 0);
}

#[test]
fn skipping_a_message_that_blocks_its_message_group_lets_the_group_go_on() {
    let mut rig = Rig::new();
    rig.kind = TopicType::Fifo;
    let options = GroupOptions { exhausted: Exhausted::Block, ..Default::default() };
    let group = Arc::new(Group { order: Order::FollowTopic, options, ..(*group(1, 1)).clone() });
    let sent = rig.send_groups(&[7; 3]);
    let first = rig.receive(&group, 1);
    rig.sleep(10_000);
    assert!(rig.receive(&group, 32).is_empty(), "its attempts are used up, and it stays");
    let poll = rig.poll(&group, "c", 32, Filter::All, LeaseTerm::For(Duration::from_secs(10)), 20_000);
    assert_eq!(skip(&mut rig, &group, sent[0].queue.0, &[first[0].offset]), Ok(1));
    assert_eq!(rig.answer(poll).iter().map(|given| given.offset).collect::<Vec<_>>(), [1, 2], "who waited is woken");
}

#[test]
fn a_position_of_a_pulling_group_goes_forward_and_survives() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None; 9]);
    assert_eq!(committed(&mut rig, &group), None);
    assert_eq!(commit(&mut rig, &group, 2), Ok(()));
    assert_eq!(commit(&mut rig, &group, 1), Err(OffsetError::Backwards { committed: Offset(2) }));
    assert_eq!(commit(&mut rig, &group, 4), Err(OffsetError::OutOfRange { min: Offset(0), max: Offset(3) }));
    let mut rig = rig.restart();
    assert_eq!(committed(&mut rig, &group), Some(Offset(2)));
    assert_eq!(rig.positions(&group).ready, 1 + 3 + 3);
    assert_eq!((standing(&mut rig, &group, 1), standing(&mut rig, &group, 2)), (Standing::Done, Standing::Ready { attempts: 0 }));
    assert_eq!(rig.ask(Ask::TopicsOf { group: group.clone() }), Told::TopicsOf(vec![topic().id]));
    check_snapshot(&rig.core.state);
}

#[test]
fn a_group_pulls_or_receives_and_a_reset_lets_it_choose_again() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    let term = LeaseTerm::For(Duration::from_secs(10));
    let waiting = rig.poll(&group, "c", 32, Filter::All, term, 20_000);
    assert_eq!(commit(&mut rig, &group, 0), Ok(()));
    assert_eq!(rig.replies.remove(&waiting), Some(Reply::GroupPulls), "it waited in vain");
    rig.send(&[None; 3]);
    let refused = rig.poll(&group, "c", 32, Filter::All, term, 0);
    assert_eq!(rig.replies.remove(&refused), Some(Reply::GroupPulls));
    assert_eq!(skip(&mut rig, &group, 0, &[0]), Err(OffsetError::GroupPulls));

    seek(&mut rig, &group, SeekTarget::Earliest).unwrap();
    let mut rig = rig.restart();
    assert_eq!(committed(&mut rig, &group), Some(Offset(0)));
    assert_eq!(commit(&mut rig, &group, 1), Ok(()), "it may go on pulling");
    seek(&mut rig, &group, SeekTarget::Earliest).unwrap();
    assert_eq!(rig.receive(&group, 1).len(), 1, "or receive");
    assert_eq!(commit(&mut rig, &group, 1), Err(OffsetError::GroupReceives));
    assert_eq!(rig.core.state.mode(group.id, key(0)), None);
}

#[test]
fn a_pull_waits_for_a_message_or_for_the_end_of_its_time() {
    let mut rig = Rig::new();
    let arrival = |offset, wait_ms| Ask::Arrival { topic: topic(), queue: FIRST, offset: Offset(offset), wait: Duration::from_millis(wait_ms) };
    assert_eq!(rig.ask(arrival(1, 0)), Told::Arrival(Err(PullError::OutOfRange { next: Offset(0) })));
    let (first, late) = (rig.token(), rig.token());
    rig.step(Event::Ask { token: first, ask: arrival(0, 5_000) });
    rig.step(Event::Ask { token: late, ask: arrival(0, 2_000) });
    assert!(rig.core.is_waiting(first) && rig.core.next_event() == Some(rig.now + 2_000));
    rig.sleep(2_000);
    assert_eq!(rig.replies.remove(&late), Some(Reply::Told(Told::Arrival(Ok(Offset(0))))));
    let token = rig.token();
    rig.step(Event::Send { token, topic: topic(), client: ClientId::new("p"), drafts: vec![super::rig::Note::plain(1, None)] });
    assert!(rig.core.is_waiting(first), "nothing is read before it is committed");
    rig.settle();
    assert_eq!(rig.replies.remove(&first), Some(Reply::Told(Told::Arrival(Ok(Offset(1))))));
    assert_eq!(rig.ask(arrival(0, 5_000)), Told::Arrival(Ok(Offset(1))));
    let gone = rig.token();
    rig.step(Event::Ask { token: gone, ask: arrival(1, 5_000) });
    rig.step(Event::Cancel { token: gone });
    assert_eq!((rig.core.open_polls(), rig.core.next_event()), (0, None));
}

#[derive(Clone, Debug)]
enum Step {
    Send,
    Receive { group: usize, max: u32 },
    Ack(usize),
    Seek { group: usize, to: u8, offset: u64 },
    Skip { group: usize, queue: u32, offset: u64 },
    Sleep(u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Send),
        4 => (0usize..2, 1u32..5).prop_map(|(group, max)| Step::Receive { group, max }),
        4 => any::<prop::sample::Index>().prop_map(|index| Step::Ack(index.index(64))),
        1 => (0usize..2, 0u8..5, 0u64..6).prop_map(|(group, to, offset)| Step::Seek { group, to, offset }),
        2 => (0usize..2, 0u32..3, 0u64..8).prop_map(|(group, queue, offset)| Step::Skip { group, queue, offset }),
        2 => (0u64..8_000).prop_map(Step::Sleep),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..80)
}

/// The messages that a group has finished, as anybody would keep them.
type Finished = BTreeSet<(QueueKey, u64)>;

/// The history as the shard has it, and beside it the finished messages of each group.
struct History {
    rig: Rig,
    groups: [Arc<Group>; 2],
    finished: [Finished; 2],
    held: Vec<(usize, Given)>,
    sent: u64,
}

impl History {
    fn new(ordered: bool) -> History {
        let mut rig = Rig::new();
        rig.kind = if ordered { TopicType::Fifo } else { TopicType::Normal };
        let member = |id| Arc::new(Group { order: Order::FollowTopic, ..(*group(id, 1_000)).clone() });
        History { rig, groups: [member(1), member(2)], finished: Default::default(), held: Vec::new(), sent: 0 }
    }

    fn stored(&self) -> Finished {
        let queues: BTreeMap<QueueKey, u64> = self.rig.core.state.queues().map(|(queue, bounds)| (queue, bounds.next)).collect();
        queues.into_iter().flat_map(|(queue, next)| (0..next).map(move |offset| (queue, offset))).collect()
    }

    fn take(mut self, step: Step) -> History {
        match step {
            Step::Send if self.rig.kind == TopicType::Fifo => {
                self.sent += 1;
                self.rig.send_groups(&[self.sent % 5]);
            }
            Step::Send => self.rig.send(&[None]),
            Step::Receive { group, max } => {
                let given = self.rig.receive(&self.groups[group], max);
                self.delivered(group, &given);
                self.held.extend(given.into_iter().map(|given| (group, given)));
            }
            Step::Ack(at) if !self.held.is_empty() => {
                let (group, given) = self.held.swap_remove(at % self.held.len());
                if self.rig.ack(&self.groups[group], &[given]) == [Ok(())] {
                    self.finished[group].insert((given.queue, given.offset));
                }
            }
            Step::Seek { group, to, offset } => self.seek(group, to, offset),
            Step::Skip { group, queue, offset } => {
                let there = self.stored().contains(&(key(queue), offset));
                let fresh = there && !self.finished[group].contains(&(key(queue), offset));
                let answer = skip(&mut self.rig, &self.groups[group], queue, &[offset]);
                assert_eq!(answer.ok(), there.then_some(u64::from(fresh)));
                self.finished[group].extend(there.then_some((key(queue), offset)));
            }
            Step::Sleep(ms) => self.rig.sleep(ms),
            Step::Restart => {
                let kind = self.rig.kind;
                self.rig = self.rig.restart();
                self.rig.kind = kind;
            }
            Step::Ack(_) => {}
        }
        self
    }

    fn delivered(&self, group: usize, given: &[Given]) {
        let again = given.iter().find(|given| self.finished[group].contains(&(given.queue, given.offset)));
        assert!(again.is_none(), "a finished message came again: {again:?}");
    }

    fn seek(&mut self, group: usize, to: u8, offset: u64) {
        let other = 1 - group;
        let target = match to {
            0 => SeekTarget::Earliest,
            1 => SeekTarget::Latest,
            2 => SeekTarget::Offset(Offset(offset)),
            _ => SeekTarget::Like(self.groups[other].clone()),
        };
        let Ok(moved) = seek(&mut self.rig, &self.groups[group], target.clone()) else { return };
        self.finished[group] = match target {
            SeekTarget::Like(_) => self.finished[other].clone(),
            _ => moved.iter().flat_map(|moved| (0..moved.to.0).map(|offset| (key(moved.queue.0), offset))).collect(),
        };
        let handles: Vec<Given> = self.held.extract_if(.., |(holder, _)| *holder == group).map(|(_, given)| given).collect();
        let answers = self.rig.ack(&self.groups[group], &handles);
        assert!(answers.iter().all(|answer| *answer == Err(LeaseError::Ended)), "handles from before a reset are void");
    }

    /// The numbers that operators see are exact at every moment.
    fn check(&mut self) {
        let stored = self.stored();
        for (group, finished) in self.groups.clone().iter().zip(self.finished.clone()) {
            let position = self.rig.positions(group);
            let unfinished = stored.difference(&finished).count() as u64;
            assert_eq!(position.ready + position.in_flight + position.waiting, unfinished, "{position:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_with_resets_and_skips_agree_with_a_set_of_finished_messages(steps in steps(), ordered: bool) {
        let mut history = History::new(ordered);
        for step in steps {
            history = history.take(step);
            history.check();
        }
        check_snapshot(&history.rig.core.state);
        history.rig.sleep(100_000);
        for number in 0..2 {
            let mut seen = Finished::new();
            while let given = history.rig.receive(&history.groups[number], 32) && !given.is_empty() {
                history.delivered(number, &given);
                seen.extend(given.iter().map(|given| (given.queue, given.offset)));
                history.rig.ack(&history.groups[number], &given);
            }
            prop_assert_eq!(&seen | &history.finished[number], history.stored(), "what is not finished is delivered");
        }
    }
}

#[test]
fn a_reset_and_a_skip_reach_every_member_of_a_broadcasting_group() {
    let mut rig = Rig::new();
    let all = members_tests::broadcasting(1);
    rig.send(&[None; 3]);
    for member in ["one", "two"] {
        let given = members_tests::receive(&mut rig, &all, member);
        members_tests::ack(&mut rig, &all, &given[..2]);
    }
    let moved = seek(&mut rig, &all, SeekTarget::Earliest).unwrap();
    assert_eq!((moved.len(), moved.iter().map(|moved| moved.dropped).sum::<u64>()), (3, 2));
    assert_eq!(skip(&mut rig, &all, 0, &[0]), Ok(2), "once for each member");
    let mut rig = rig.restart();
    let lengths = ["one", "two"].map(|member| members_tests::receive(&mut rig, &all, member).len());
    assert_eq!(lengths, [2, 2]);
    assert!(matches!(standing(&mut rig, &all, 0), Standing::Done));
    assert_eq!(rig.ask(Ask::TopicsOf { group: all.clone() }), Told::TopicsOf(vec![topic().id]));
    assert_eq!(commit(&mut rig, &all, 0), Err(OffsetError::GroupReceives));
    assert_eq!(seek(&mut rig, &group(2, 16), SeekTarget::Like(all.clone())), Err(OffsetError::GroupBroadcasts));
    let readers: Vec<GroupId> = rig.core.state.cursors().map(|(_, reader, _)| reader).collect();
    let Told::GroupsBehind(groups) = rig.ask(Ask::GroupsBehind { readers }) else { panic!("groups") };
    assert!(groups.iter().all(|group| *group == all.id));
}

#[test]
fn where_a_message_stands_is_told_in_every_state() {
    let mut rig = Rig::new();
    let group = group(1, 16);
    rig.send(&[None; 3]);
    assert_eq!(standing(&mut rig, &group, 0), Standing::Ready { attempts: 0 });
    let given = rig.receive(&group, 32).into_iter().find(|given| given.queue == key(0)).unwrap();
    let until_ms = Some(rig.now + 10_000);
    assert_eq!(standing(&mut rig, &group, 0), Standing::InFlight { client: None, attempt: 1, until_ms });
    rig.sleep(10_000);
    assert_eq!(standing(&mut rig, &group, 0), Standing::Ready { attempts: 1 });
    let poll = rig.poll(&group, "owner", 32, Filter::All, LeaseTerm::WhileClientLives, 0);
    let held = rig.answer(poll).into_iter().find(|given| given.queue == key(0)).unwrap();
    let client = Some(ClientId::new("owner"));
    assert_eq!(standing(&mut rig, &group, 0), Standing::InFlight { client, attempt: 2, until_ms: None });
    let visible_ms = rig.now + 700;
    rig.change(&group, &held, 700, gantry_model::contract::broker::AttemptCount::Counts).unwrap();
    assert_eq!(standing(&mut rig, &group, 0), Standing::Waiting { attempts: 2, visible_ms });
    assert_eq!(handle(&group, &given).lease, given.lease);
    rig.ack(&group, &[held]);
    assert_eq!(standing(&mut rig, &group, 0), Standing::Done);
}
