//! What a shard promises to those who send in transactions, each promise a test; and random histories that must keep all of them.

use super::core::{Event, Reply};
use super::core_tests::check_snapshot;
use super::parked::halves;
use super::rig::{Logged, Note, Rig, group, topic};
use super::state::transactions::Open;
use super::transactions::Asked;
use crate::record::{Forget, Record};
use gantry_model::contract::broker::{EndError, EndedBy, Resolution, SendError, Sent, Ticket};
use gantry_model::topic::Permission;
use gantry_model::{ClientId, Topic, TopicId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use EndedBy::{Operator, Producer};
use Resolution::{Commit, Rollback};

const TOPIC: TopicId = TopicId(1);
const DAY: u64 = 24 * 3600 * 1000;

impl Rig {
    fn send_half(&mut self, note: Note, to: &Arc<Topic>) -> Result<Sent, SendError> {
        let token = self.token();
        self.step(Event::Send { token, topic: to.clone(), client: ClientId::new("p"), drafts: vec![note] });
        self.settle();
        match self.replies.remove(&token) {
            Some(Reply::Sent(mut answers)) => answers.remove(0),
            other => panic!("expected the answer of a send, got {other:?}"),
        }
    }

    /// Begins a transaction, and answers its number.
    fn begin(&mut self) -> u64 {
        let note = Note::half(u128::from(self.token().0) << 64);
        let sent = self.send_half(note, &topic()).expect("there is room");
        let Some(Ticket::Transaction(handle)) = sent.ticket else { panic!("a transaction gets a handle") };
        assert_eq!(sent.offset.0, handle.id);
        handle.id
    }

    fn end(&mut self, id: u64, resolution: Resolution, by: EndedBy) -> Result<(), EndError> {
        self.end_on(topic(), id, resolution, by)
    }

    fn end_on(&mut self, topic: Arc<Topic>, id: u64, resolution: Resolution, by: EndedBy) -> Result<(), EndError> {
        let token = self.token();
        self.step(Event::EndTransaction { token, topic, id, resolution, by });
        self.settle();
        self.ended(token)
    }

    fn resume(&mut self, id: u64) -> Result<(), EndError> {
        let token = self.token();
        self.step(Event::ResumeTransaction { token, key: (TOPIC, id) });
        self.settle();
        self.ended(token)
    }

    fn ended(&mut self, token: super::core::Token) -> Result<(), EndError> {
        match self.replies.remove(&token) {
            Some(Reply::Ended(answer)) => answer,
            other => panic!("expected the end of a transaction, got {other:?}"),
        }
    }

    /// Reports on every question asked by now, and answers whose they were.
    fn report(&mut self, asked: Asked) -> Vec<u64> {
        let ids: Vec<u64> = std::mem::take(&mut self.checks).into_iter().map(|(handle, _)| handle.id).collect();
        for &id in &ids {
            self.step(Event::Asked { key: (TOPIC, id), asked });
        }
        self.settle();
        ids
    }

    fn open(&self, id: u64) -> Option<&Open> {
        self.core.state.transactions.get((TOPIC, id))
    }

    fn repark(&mut self, ids: &[u64]) {
        self.step(Event::Repark { topic: TOPIC, ids: ids.to_vec() });
        self.settle();
    }

    /// The transactions whose messages a new group gets, one entry for each message.
    fn visible(&mut self, reader: u32) -> Vec<u64> {
        let group = group(reader, 16);
        let mut ids = Vec::new();
        loop {
            let given = self.receive(&group, 32);
            if given.is_empty() {
                ids.sort_unstable();
                return ids;
            }
            ids.extend(given.iter().filter_map(|given| {
                let entry = super::core::Entries::entry(&self.notes, given.queue, given.offset).expect("what is delivered is stored");
                match &self.log[entry.lsn.0 as usize] {
                    Logged::Record(Record::TxnEnd(end)) => Some(end.id),
                    Logged::Message(_) => None,
                    other => panic!("neither a commit nor a message: {other:?}"),
                }
            }));
        }
    }
}

#[test]
fn a_message_is_visible_once_after_its_commit_and_never_before_or_after_a_rollback() {
    let mut rig = Rig::new();
    let ids = [rig.begin(), rig.begin(), rig.begin()];
    assert_eq!(ids, [0, 1, 2]);
    assert!(rig.visible(1).is_empty());
    assert_eq!(rig.end(ids[1], Commit, Producer), Ok(()));
    assert_eq!(rig.end(ids[2], Rollback, Producer), Ok(()));
    assert_eq!(rig.visible(2), [1]);
    assert_eq!(rig.core.state.head.messages, 1, "an open transaction is no message yet");
    let mut rig = rig.restart();
    assert_eq!(rig.visible(3), [1]);
    assert_eq!(rig.end(ids[0], Commit, Producer), Ok(()), "the leader before took it");
    assert_eq!(rig.visible(4), [0, 1]);
}

#[test]
fn a_waiting_receive_gets_a_committed_message_only_when_the_commit_is_durable() {
    let mut rig = Rig::new();
    let id = rig.begin();
    let group = group(1, 16);
    let term = gantry_model::contract::broker::LeaseTerm::WhileClientLives;
    let poll = rig.poll(&group, "c", 1, gantry_model::Filter::All, term, 20_000);
    let token = rig.token();
    rig.step(Event::EndTransaction { token, topic: topic(), id, resolution: Commit, by: Producer });
    assert!(!rig.replies.contains_key(&poll), "the commit is not durable yet");
    rig.settle();
    assert_eq!(rig.answer(poll).len(), 1);
}

#[test]
fn the_first_end_is_the_last_and_repeating_it_is_fine() {
    let mut rig = Rig::new();
    let (one, other) = (rig.begin(), rig.begin());
    assert_eq!(rig.end(one, Commit, Producer), Ok(()));
    assert_eq!(rig.end(other, Rollback, Producer), Ok(()));
    for by in [Producer, Operator] {
        assert_eq!(rig.end(one, Commit, by), Ok(()));
        assert_eq!(rig.end(one, Rollback, by), Err(EndError::Contradicts { ended: Commit }));
        assert_eq!(rig.end(other, Commit, by), Err(EndError::Contradicts { ended: Rollback }));
    }
    let mut rig = rig.restart();
    assert_eq!(rig.end(other, Rollback, Producer), Ok(()));
    assert_eq!(rig.end(other, Commit, Producer), Err(EndError::Contradicts { ended: Rollback }));
    assert_eq!(rig.resume(other), Err(EndError::Contradicts { ended: Rollback }));
    assert_eq!(rig.end(77, Commit, Producer), Err(EndError::Unknown));
    rig.now += DAY;
    assert_eq!(rig.end(one, Commit, Producer), Err(EndError::Unknown), "it ended too long ago");
    assert_eq!(rig.visible(1), [one], "and stays committed");
}

#[test]
fn questions_come_at_growing_intervals_and_the_fifteenth_is_the_last() {
    let mut rig = Rig::new();
    let id = rig.begin();
    let begun = rig.now;
    let mut times = Vec::new();
    while !rig.open(id).expect("nobody ends it").given_up {
        let next = rig.core.next_event().expect("there is a next look");
        rig.now = next;
        rig.settle();
        if !rig.report(Asked::Written).is_empty() {
            times.push((rig.now - begun) / 1_000);
        }
    }
    assert_eq!(times[..7], [6, 36, 66, 126, 246, 546, 1_146]);
    assert_eq!((times.len(), times[14] - times[13]), (15, 600));
    assert_eq!(rig.now - begun, (times[14] + 600) * 1_000, "the last question has time for an answer");
    assert_eq!(rig.core.state.transactions.totals.given_up, 1);
}

#[test]
fn a_producer_may_ask_for_a_later_first_question_but_not_for_an_earlier_one() {
    let mut rig = Rig::new();
    for (recovery, expected) in [(None, 6_000), (Some(500), 6_000), (Some(61_000), 61_000)] {
        let mut note = Note::half(expected.into());
        note.class.recovery_ms = recovery;
        let sent = rig.send_half(Note { ..note }, &Arc::new(undeduplicated())).expect("there is room");
        assert_eq!(rig.open(sent.offset.0).map(|open| open.next), Some(rig.now + expected));
    }
}

fn undeduplicated() -> Topic {
    let mut topic = (*topic()).clone();
    topic.options.dedup = false;
    topic
}

#[test]
fn a_question_that_nobody_got_does_not_count_and_is_asked_again_when_a_producer_shows_up() {
    let mut rig = Rig::new();
    let (one, other) = (rig.begin(), rig.begin());
    rig.sleep(6_000);
    assert_eq!(rig.report(Asked::NobodyThere), [one, other]);
    rig.sleep(29_999);
    assert!(rig.checks.is_empty(), "nobody is there, as far as is known");
    rig.sleep(1);
    assert_eq!(rig.report(Asked::NobodyThere), [one, other]);
    rig.step(Event::ProducerReady { topics: vec![TopicId(9)] });
    rig.settle();
    assert!(rig.checks.is_empty());
    rig.step(Event::ProducerReady { topics: vec![TOPIC] });
    rig.settle();
    assert_eq!(rig.report(Asked::Written), [one, other]);
    assert_eq!(rig.open(one).map(|open| (open.checks, open.next)), Some((1, rig.now + 30_000)));
}

#[test]
fn a_question_whose_report_was_lost_is_asked_again() {
    let mut rig = Rig::new();
    let id = rig.begin();
    rig.sleep(6_000);
    assert_eq!(rig.checks.len(), 1);
    rig.sleep(29_999);
    assert_eq!(rig.checks.len(), 1, "one question at a time");
    rig.sleep(1);
    assert_eq!(rig.checks.len(), 2);
    assert_eq!(rig.report(Asked::Written), [id, id]);
}

#[test]
fn only_so_many_questions_are_under_way_and_the_others_follow() {
    let mut rig = Rig::new();
    let ids: Vec<u64> = (0..600).map(|_| rig.begin()).collect();
    rig.sleep(6_000);
    assert_eq!(rig.checks.len(), 256);
    assert!(rig.core.next_event() > Some(rig.now), "the shard does not spin while it waits for reports");
    let mut asked = Vec::new();
    while !rig.checks.is_empty() {
        asked.extend(rig.report(Asked::Written));
    }
    asked.sort_unstable();
    assert_eq!(asked, ids);
}

#[test]
fn what_nobody_could_be_asked_about_is_given_up_after_a_day() {
    let mut rig = Rig::new();
    let id = rig.begin();
    rig.sleep(6_000);
    while rig.open(id).is_some_and(|open| !open.given_up) {
        rig.report(Asked::NobodyThere);
        rig.sleep(600_000);
    }
    let open = rig.open(id).expect("it waits for an operator");
    assert_eq!((open.checks, open.since), (0, 1_000));
    assert!((DAY..DAY + 1_000_000).contains(&rig.now), "given up at {}", rig.now);
}

/// A transaction that was given up.
fn given_up() -> (Rig, u64) {
    let mut rig = Rig::new();
    let id = rig.begin();
    rig.sleep(DAY);
    assert!(rig.open(id).is_some_and(|open| open.given_up));
    (rig.restart(), id)
}

#[test]
fn only_an_operator_ends_what_was_given_up() {
    for resolution in [Commit, Rollback] {
        let (mut rig, id) = given_up();
        assert_eq!(rig.end(id, resolution, Producer), Err(EndError::GivenUp));
        assert!(rig.visible(1).is_empty());
        assert_eq!(rig.end(id, resolution, Operator), Ok(()));
        assert_eq!(rig.end(id, resolution, Producer), Ok(()), "now it is ended the way that the producer wanted");
        assert_eq!(rig.visible(2).len(), usize::from(resolution == Commit));
    }
}

#[test]
fn a_resumed_transaction_counts_as_new() {
    let (mut rig, id) = given_up();
    assert!(rig.checks.is_empty());
    assert_eq!(rig.resume(id), Ok(()));
    assert_eq!(rig.report(Asked::Written), [id], "asked at once");
    assert_eq!(rig.open(id).map(|open| (open.checks, open.given_up, open.since)), Some((1, false, rig.now)));
    assert_eq!(rig.resume(id), Ok(()), "it is being asked about anyway");
    assert_eq!(rig.end(id, Commit, Producer), Ok(()));
    assert_eq!(rig.visible(1), [id]);
}

#[test]
fn what_no_operator_ends_is_rolled_back_after_thirty_days() {
    let (mut rig, id) = given_up();
    rig.sleep(30 * DAY - 1);
    assert!(rig.open(id).is_some());
    rig.sleep(1);
    assert!(rig.open(id).is_none());
    assert_eq!(rig.end(id, Commit, Operator), Err(EndError::Contradicts { ended: Rollback }));
}

#[test]
fn quotas_bound_open_transactions_and_ended_ones_make_room() {
    let mut rig = Rig::new();
    let mut few = undeduplicated();
    few.options.quota.transactions = Some(2);
    let few = Arc::new(few);
    let refused = |answer| matches!(answer, Err(SendError::QuotaExceeded { .. }));
    for id in 0..2 {
        assert!(rig.send_half(Note::half(id), &few).is_ok());
    }
    assert!(refused(rig.send_half(Note::half(9), &few)));
    assert_eq!(rig.end(0, Rollback, Producer), Ok(()));
    assert!(rig.send_half(Note::half(9), &few).is_ok());
    let mut rig = rig.restart();
    assert!(refused(rig.send_half(Note::half(10), &few)));
    rig.core.limits.transactions = 2;
    assert!(refused(rig.send_half(Note::half(11), &topic())), "the shard's own bound holds for every topic");
}

#[test]
fn a_repeated_send_gets_the_same_transaction() {
    let mut rig = Rig::new();
    let first = rig.send_half(Note::half(5), &topic()).expect("there is room");
    assert_eq!(rig.end(first.offset.0, Commit, Producer), Ok(()));
    let mut rig = rig.restart();
    let again = rig.send_half(Note::half(5), &topic()).expect("it is there");
    assert_eq!(again, Sent { duplicate: true, ..first });
    assert_eq!(rig.core.state.transactions.count(), 0);
}

#[test]
fn a_topic_that_takes_no_messages_leaves_its_transactions_open() {
    let mut rig = Rig::new();
    let id = rig.begin();
    let mut closed = (*topic()).clone();
    closed.permission = Permission::Read;
    let closed = Arc::new(closed);
    assert_eq!(rig.send_half(Note::half(9), &closed), Err(SendError::NoWritableQueue));
    assert_eq!(rig.end_on(closed, id, Commit, Producer), Err(EndError::NoWritableQueue));
    assert_eq!(rig.end(id, Commit, Producer), Ok(()));
    assert_eq!(rig.visible(1), [id]);
}

#[test]
fn a_deleted_topic_takes_its_transactions_along() {
    let mut rig = Rig::new();
    let id = rig.begin();
    rig.step(Event::Forget { what: Forget::Topic(TOPIC) });
    rig.settle();
    assert_eq!(rig.core.state.transactions.count(), 0);
    assert_eq!(rig.core.next_event(), None, "nobody is asked any more");
    assert_eq!(rig.core.state.bounds(halves(TOPIC)).next, 0);
    let mut rig = rig.restart();
    assert_eq!(rig.end(id, Commit, Producer), Err(EndError::Unknown));
}

#[test]
fn a_message_that_moved_keeps_its_transaction() {
    let mut rig = Rig::new();
    let ids = [rig.begin(), rig.begin()];
    rig.repark(&[ids[0], 77]);
    assert_eq!(rig.open(ids[0]).map(|open| open.at.0), Some(2));
    assert_eq!(rig.core.state.transactions.oldest_parked(TOPIC).map(|at| at.0), Some(1));
    let third = rig.begin();
    assert_eq!(third, 3, "numbers are never used twice");
    let mut rig = rig.restart();
    rig.repark(&[ids[0]]);
    assert!(rig.visible(1).is_empty(), "moving shows nothing");
    assert_eq!(rig.end(ids[0], Commit, Producer), Ok(()));
    assert_eq!(rig.visible(2), [ids[0]]);
}

#[test]
fn operators_see_open_transactions_oldest_first() {
    let mut rig = Rig::new();
    let ids = [rig.begin(), rig.begin(), rig.begin()];
    rig.repark(&[ids[0]]);
    rig.end(ids[1], Commit, Producer).expect("it is open");
    for (from, limit, expected) in [(0, 5, &[ids[0], ids[2]][..]), (0, 1, &[ids[0]]), (1, 5, &[ids[2]]), (3, 5, &[])] {
        let token = rig.token();
        rig.step(Event::OpenTransactions { token, topic: TOPIC, from, limit });
        let Some(Reply::OpenTransactions(open)) = rig.replies.remove(&token) else { panic!("expected a list") };
        assert_eq!(open.iter().map(|(id, _)| *id).collect::<Vec<_>>(), expected);
        assert!(open.iter().all(|(_, open)| open.sender == ClientId::new("p")));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Begin,
    Plain,
    End(usize, Resolution, EndedBy),
    Report(Asked),
    Ready,
    Resume(usize),
    Repark(usize),
    Sleep(u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = || any::<prop::sample::Index>().prop_map(|index| index.index(16));
    let resolution = prop_oneof![Just(Commit), Just(Rollback)];
    let by = prop_oneof![3 => Just(Producer), 1 => Just(Operator)];
    let step = prop_oneof![
        3 => Just(Step::Begin),
        1 => Just(Step::Plain),
        4 => (which(), resolution, by).prop_map(|(which, resolution, by)| Step::End(which, resolution, by)),
        2 => Just(Step::Report(Asked::Written)),
        1 => Just(Step::Report(Asked::NobodyThere)),
        1 => Just(Step::Ready),
        1 => which().prop_map(Step::Resume),
        1 => which().prop_map(Step::Repark),
        2 => (0u64..40_000).prop_map(Step::Sleep),
        // Long enough to be given up, and to be forgotten.
        1 => (DAY / 4..2 * DAY).prop_map(Step::Sleep),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

/// What producers know of their transactions.
#[derive(Default)]
struct Reference {
    ended: BTreeMap<u64, (Resolution, u64)>,
}

impl Reference {
    /// The one answer that is right, for a transaction that is open or was.
    fn expected(&self, open: Option<&Open>, id: u64, resolution: Resolution, by: EndedBy, now: u64) -> Result<(), EndError> {
        match (self.ended.get(&id), open) {
            (None, Some(open)) if open.given_up && by == Producer => Err(EndError::GivenUp),
            (None, Some(_)) => Ok(()),
            (Some((_, time)), None) if time + DAY <= now => Err(EndError::Unknown),
            (Some((ended, _)), None) if *ended == resolution => Ok(()),
            (Some((ended, _)), None) => Err(EndError::Contradicts { ended: *ended }),
            (known, open) => panic!("transaction {id} is {open:?} and was ended {known:?}"),
        }
    }
}

/// Plays a history; every answer must be the one that the reference expects.
fn play(rig: &mut Rig, reference: &mut Reference, ids: &mut Vec<u64>, step: &Step) {
    let pick = |ids: &Vec<u64>, which: usize| if ids.is_empty() { None } else { Some(ids[which % ids.len()]) };
    match step {
        Step::Begin => ids.push(rig.begin()),
        Step::Plain => rig.send(&[None]),
        Step::End(which, resolution, by) => {
            let Some(id) = pick(ids, *which) else { return };
            let expected = reference.expected(rig.open(id), id, *resolution, *by, rig.now);
            assert_eq!(rig.end(id, *resolution, *by), expected);
            if expected == Ok(()) {
                let now = rig.now;
                reference.ended.entry(id).or_insert((*resolution, now));
            }
        }
        Step::Report(asked) => drop(rig.report(*asked)),
        Step::Ready => {
            rig.step(Event::ProducerReady { topics: vec![TOPIC] });
            rig.settle();
        }
        Step::Resume(which) => {
            let Some(id) = pick(ids, *which) else { return };
            assert_eq!(rig.resume(id).is_ok(), !reference.ended.contains_key(&id));
        }
        Step::Repark(which) => pick(ids, *which).into_iter().for_each(|id| rig.repark(&[id])),
        Step::Sleep(ms) => rig.sleep(*ms),
        Step::Restart => {}
    }
}

/// What must hold when a history is over: exactly the committed messages are visible, once each, and what nobody answers is given
/// up, and dropped in the end.
fn check_end(mut rig: Rig, reference: &Reference, ids: &[u64]) {
    check_snapshot(&rig.core.state);
    let committed: Vec<u64> = reference.ended.iter().filter(|(_, (resolution, _))| *resolution == Commit).map(|(&id, _)| id).collect();
    assert_eq!(rig.visible(9), committed);
    let open: BTreeSet<u64> = rig.core.state.transactions.all().map(|((_, id), _)| id).collect();
    let expected: BTreeSet<u64> = ids.iter().copied().filter(|id| !reference.ended.contains_key(id)).collect();
    assert_eq!(open, expected, "a transaction is open until it is ended");
    while rig.core.state.transactions.count() > 0 {
        rig.report(Asked::Written);
        let next = rig.core.next_event().expect("an open transaction is looked at some time");
        rig.now = rig.now.max(next);
        rig.settle();
    }
    assert_eq!(rig.visible(10), committed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_end_each_transaction_exactly_once(steps in steps()) {
        let mut rig = Rig::new();
        let (mut reference, mut ids) = (Reference::default(), Vec::new());
        for step in &steps {
            play(&mut rig, &mut reference, &mut ids, step);
            if matches!(step, Step::Restart) {
                rig = rig.restart();
            }
        }
        check_end(rig, &reference, &ids);
    }
}
