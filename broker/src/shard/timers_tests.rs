//! What a shard promises about delayed messages, each promise a test; and random histories with crashes that must keep all of them.

use super::core::{Event, Reply};
use super::core_tests::check_snapshot;
use super::parked;
use super::rig::{Note, QUEUES, Rig, topic};
use super::timers::NextMove;
use gantry_model::contract::broker::{RecallError, SendError, Sent, Ticket};
use gantry_model::handle::RecallHandle;
use gantry_model::{ClientId, Lsn, QueueId, QueueKey, Topic};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

fn delay_on(rig: &mut Rig, topic: Arc<Topic>, id: u128, deliver_ms: u64) -> Result<Sent, SendError> {
    let token = rig.token();
    rig.step(Event::Send { token, topic, client: ClientId::new("p"), drafts: vec![Note::delayed(id, deliver_ms)] });
    rig.settle();
    match rig.replies.remove(&token) {
        Some(Reply::Sent(mut answers)) => answers.remove(0),
        other => panic!("expected an answer to a send, got {other:?}"),
    }
}

fn delay(rig: &mut Rig, id: u128, deliver_ms: u64) -> Sent {
    delay_on(rig, topic(), id, deliver_ms).expect("there is room")
}

fn handle(sent: &Sent) -> RecallHandle {
    match &sent.ticket {
        Some(Ticket::Recall(handle)) => handle.clone(),
        other => panic!("expected a recall handle, got {other:?}"),
    }
}

fn recall(rig: &mut Rig, handle: &RecallHandle) -> Result<(), RecallError> {
    let token = rig.token();
    rig.step(Event::Recall { token, handle: handle.clone() });
    rig.settle();
    match rig.replies.remove(&token) {
        Some(Reply::Recalled(answer)) => answer,
        other => panic!("expected an answer to a recall, got {other:?}"),
    }
}

/// Ids of the messages that consumers can see, by queue and in the order of each.
fn visible(rig: &Rig) -> Vec<u128> {
    (0..QUEUES).flat_map(|queue| rig.notes.ids_of(QueueKey::new(topic().id, QueueId(queue)))).collect()
}

fn restarted(rig: Rig) -> Rig {
    let mut rig = rig.restart();
    rig.step(Event::TopicKnown { topic: topic() });
    rig
}

/// Moves up to `most` messages out of what lies before `end`; answers whether nothing is left there.
fn leave(rig: &mut Rig, end: Lsn, most: usize) -> bool {
    for _ in 0..most {
        match rig.core.next_move((rig.notes.start, end), &rig.notes) {
            NextMove::Timer(timer) => rig.step(Event::TimerMove { timer, end, readable: true }),
            NextMove::Done => return true,
            NextMove::Unreadable => panic!("these notes can be read"),
        }
    }
    false
}

fn trim(rig: &mut Rig, end: Lsn) {
    let queue = parked::timers(topic().id);
    let kept = (0..).map_while(|offset| super::core::Entries::entry(&rig.notes, queue, offset)).take_while(|entry| entry.lsn < end).count();
    rig.step(Event::Trim { start: end, queues: vec![(queue, kept as u64)] });
    rig.settle();
}

#[test]
fn messages_are_released_at_their_time_in_the_order_of_their_times() {
    let mut rig = Rig::new();
    let now = rig.now;
    for (id, after) in [(1, 500), (2, 100), (3, 300), (4, 300)] {
        assert!(!delay(&mut rig, id, now + after).duplicate);
    }
    assert_eq!(rig.core.next_event(), Some(now + 100));
    for (at, released) in [(99, 0), (100, 1), (299, 1), (300, 3), (499, 3), (500, 4)] {
        rig.now = now + at;
        rig.settle();
        assert_eq!(visible(&rig).len(), released, "{at} ms later");
    }
    let first = |queue| rig.notes.ids_of(QueueKey::new(topic().id, QueueId(queue))).first().copied();
    assert_eq!((0..QUEUES).map(first).collect::<Vec<_>>(), [Some(2), Some(3), Some(4)], "the queues take turns in the order of release");
    assert_eq!(rig.core.next_event(), None, "nothing is left to wait for");
}

#[test]
fn a_delayed_message_is_delivered_like_any_other_and_nothing_is_seen_of_it_before() {
    let mut rig = Rig::new();
    let group = super::rig::group(1, 16);
    let due = rig.now + 50;
    delay(&mut rig, 7, due);
    assert!(rig.receive(&group, 32).is_empty());
    assert_eq!(rig.positions(&group).ready, 0);
    rig.sleep(50);
    let given = rig.receive(&group, 32);
    assert_eq!(given.len(), 1);
    assert_eq!(rig.ack(&group, &given), [Ok(())]);
}

#[test]
fn a_message_whose_time_is_over_is_stored_at_once() {
    let mut rig = Rig::new();
    let now = rig.now;
    let sent = delay(&mut rig, 1, now);
    assert_eq!((visible(&rig), sent.ticket), (vec![1], None));
}

#[test]
fn a_restart_forgets_no_message_and_repeats_none() {
    let mut rig = Rig::new();
    let now = rig.now;
    for id in 0..10 {
        delay(&mut rig, id, now + 100 * id as u64 + 100);
    }
    rig.sleep(450);
    let mut rig = restarted(rig);
    rig.settle();
    assert_eq!(visible(&rig).len(), 4);
    rig.sleep(10_000);
    let mut rig = restarted(rig);
    rig.sleep(10_000);
    let mut all = visible(&rig);
    all.sort_unstable();
    assert_eq!(all, (0..10).collect::<Vec<u128>>());
    assert_eq!(rig.core.state.timers.pending(), 0);
}

#[test]
fn a_repeated_send_gets_the_answer_of_the_first() {
    let mut rig = Rig::new();
    let due = rig.now + 1_000;
    let first = delay(&mut rig, 5, due);
    let again = delay(&mut rig, 5, due);
    assert_eq!(again, Sent { duplicate: true, ..first });
    rig.sleep(1_000);
    assert_eq!(visible(&rig), [5]);
}

#[test]
fn a_recall_is_definite() {
    let mut rig = Rig::new();
    let now = rig.now;
    let (kept, gone) = (handle(&delay(&mut rig, 1, now + 100)), handle(&delay(&mut rig, 2, now + 100)));
    assert_eq!(recall(&mut rig, &gone), Ok(()));
    assert_eq!(recall(&mut rig, &gone), Ok(()), "twice is as good as once");
    rig.sleep(100);
    assert_eq!(visible(&rig), [1]);
    assert_eq!(recall(&mut rig, &kept), Err(RecallError::Delivered));
    assert_eq!(recall(&mut rig, &gone), Ok(()), "also when its time is over");
    let never = RecallHandle { id: 99, ..kept.clone() };
    assert_eq!(recall(&mut rig, &never), Err(RecallError::Unknown));
    let mut rig = restarted(rig);
    assert_eq!(recall(&mut rig, &gone), Ok(()));
    assert_eq!(recall(&mut rig, &kept), Err(RecallError::Delivered));
    rig.sleep(3_600_000);
    let due = rig.now + 1;
    delay(&mut rig, 3, due);
    rig.sleep(1);
    assert_eq!(recall(&mut rig, &gone), Err(RecallError::Delivered), "after ten minutes it is only known that its time was");
    let counts = rig.core.state.timers.counts;
    assert_eq!((counts.released, counts.recalled), (2, 1));
}

#[test]
fn a_recall_in_the_moment_of_release_wins_if_it_comes_first() {
    let mut rig = Rig::new();
    let due = rig.now + 100;
    let sent = delay(&mut rig, 1, due);
    rig.now += 500;
    rig.step(Event::Tick);
    assert_eq!(rig.core.due_timer().map(|timer| timer.due.time), Some(due), "looked up, and not released yet");
    assert_eq!(recall(&mut rig, &handle(&sent)), Ok(()));
    rig.sleep(1_000);
    assert_eq!(visible(&rig), []);
}

#[test]
fn overdue_messages_are_released_slowly_beside_those_that_fall_due() {
    let mut rig = Rig::new();
    rig.core.limits.overdue_per_s = 100;
    let now = rig.now;
    for id in 0..50 {
        delay(&mut rig, id, now + 1 + id as u64);
    }
    rig.now += 3_600_000;
    let mut rig = restarted(rig);
    rig.core.limits.overdue_per_s = 100;
    let due = rig.now + 150;
    delay(&mut rig, 1_000, due);
    assert_eq!(visible(&rig).len(), 10, "a tenth of what a second allows");
    rig.sleep(99);
    assert_eq!(visible(&rig).len(), 10);
    rig.sleep(1);
    assert_eq!(visible(&rig).len(), 20);
    rig.sleep(50);
    assert!(visible(&rig).contains(&1_000), "on time, although others are late");
    let mut rig = restarted(rig);
    rig.core.limits.overdue_per_s = 100;
    for _ in 0..10 {
        rig.sleep(100);
        check_snapshot(&rig.core.state);
    }
    let mut all = visible(&rig);
    all.sort_unstable();
    assert_eq!(all, (0..50).chain([1_000]).collect::<Vec<u128>>());
    assert_eq!(rig.core.next_event(), None, "the catch-up is over");
}

#[test]
fn pending_messages_move_out_of_a_segment_and_a_crash_half_way_neither_loses_nor_doubles_one() {
    for done in 0..=12 {
        let mut rig = Rig::new();
        let now = rig.now;
        let handles: Vec<RecallHandle> = (0..10).map(|id| handle(&delay(&mut rig, id, now + 1_000 * (id as u64 % 4 + 1)))).collect();
        assert_eq!(recall(&mut rig, &handles[1]), Ok(()));
        let end = Lsn(rig.log.len() as u64);
        rig.sleep(1_000);
        leave(&mut rig, end, done);
        let mut rig = restarted(rig);
        assert_eq!(recall(&mut rig, &handles[2]), Ok(()));
        rig.sleep(1_000);
        while !leave(&mut rig, end, 1) {}
        trim(&mut rig, end);
        check_snapshot(&rig.core.state);
        let mut rig = restarted(rig);
        assert_eq!(recall(&mut rig, &handles[3]), Ok(()), "found by its message id, since it has another number now");
        assert_eq!(recall(&mut rig, &handles[3]), Ok(()));
        assert_eq!(recall(&mut rig, &handles[4]), Err(RecallError::Delivered));
        rig.sleep(10_000);
        let mut all = visible(&rig);
        all.sort_unstable();
        assert_eq!(all, [0, 4, 5, 6, 7, 8, 9], "{done} were moved before the crash");
        assert_eq!(rig.core.state.timers.pending(), 0);
    }
}

#[test]
fn a_quota_bounds_what_waits() {
    let mut rig = Rig::new();
    let mut small = (*topic()).clone();
    small.options.quota.timers = Some(2);
    let small = Arc::new(small);
    let now = rig.now;
    for id in 0..2 {
        assert!(delay_on(&mut rig, small.clone(), id, now + 100).is_ok());
    }
    assert!(matches!(delay_on(&mut rig, small.clone(), 3, now + 100), Err(SendError::QuotaExceeded { .. })));
    rig.sleep(100);
    assert!(delay_on(&mut rig, small, 3, now + 200).is_ok(), "room again when two were released");
}

#[test]
fn messages_of_a_deleted_topic_are_counted_and_not_delivered() {
    let mut rig = Rig::new();
    let now = rig.now;
    delay(&mut rig, 1, now + 100);
    let sent = delay(&mut rig, 2, now + 200);
    rig.sleep(100);
    rig.step(Event::Forget { what: crate::record::Forget::Topic(topic().id) });
    let mut rig = rig.restart();
    rig.sleep(20_000);
    assert_eq!(visible(&rig), [1]);
    let timers = &rig.core.state.timers;
    assert_eq!((timers.pending(), timers.counts.orphaned), (0, 1));
    assert_eq!(recall(&mut rig, &handle(&sent)), Err(RecallError::Unknown));
    assert_eq!(rig.core.next_event(), None);
}

#[test]
fn a_message_whose_topic_is_not_known_yet_waits_for_the_catalogue() {
    let mut rig = Rig::new();
    let due = rig.now + 100;
    delay(&mut rig, 1, due);
    let mut rig = rig.restart();
    rig.sleep(200);
    assert_eq!(visible(&rig), []);
    rig.step(Event::TopicKnown { topic: topic() });
    rig.settle();
    assert_eq!(visible(&rig), [1]);
}

#[test]
fn a_message_that_was_accepted_is_released_even_if_its_topic_takes_no_more() {
    let mut rig = Rig::new();
    let due = rig.now + 100;
    delay(&mut rig, 1, due);
    let mut closed = (*topic()).clone();
    closed.permission = gantry_model::topic::Permission::Read;
    rig.step(Event::TopicKnown { topic: Arc::new(closed) });
    rig.sleep(100);
    assert_eq!(visible(&rig), [1]);
}

#[test]
fn a_message_that_cannot_be_read_stops_no_other() {
    let mut rig = Rig::new();
    let now = rig.now;
    delay(&mut rig, 1, now + 100);
    delay(&mut rig, 2, now + 101);
    rig.now += 200;
    rig.step(Event::Tick);
    let timer = rig.core.due_timer().expect("one is due");
    rig.step(Event::TimerDue { timer, readable: false });
    rig.settle();
    assert_eq!(visible(&rig), [2]);
    assert_eq!((rig.core.state.timers.pending(), rig.core.state.timers.counts.damaged), (0, 1));
    restarted(rig);
}

#[derive(Clone, Debug)]
enum Step {
    Delay(u64),
    Recall(usize),
    Sleep(u64),
    Restart,
    /// Begins to leave what was written so far, or goes on.
    Leave(usize),
    Trim,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1u64..5_000).prop_map(Step::Delay),
        2 => any::<prop::sample::Index>().prop_map(|index| Step::Recall(index.index(64))),
        4 => prop_oneof![1u64..300, 1u64..4_000].prop_map(Step::Sleep),
        1 => Just(Step::Restart),
        2 => (1usize..6).prop_map(Step::Leave),
        1 => Just(Step::Trim),
    ];
    prop::collection::vec(step, 1..80)
}

/// What one message's history must look like.
struct Witness {
    due: u64,
    handle: RecallHandle,
    recalled: bool,
}

struct History {
    rig: Rig,
    sent: BTreeMap<u128, Witness>,
    leaving: Option<Lsn>,
    overdue_per_s: u64,
}

impl History {
    fn play(&mut self, step: Step) {
        match step {
            Step::Delay(after) => {
                let (id, due) = (self.sent.len() as u128, self.rig.now + after);
                let sent = delay(&mut self.rig, id, due);
                self.sent.insert(id, Witness { due, handle: handle(&sent), recalled: false });
            }
            Step::Recall(at) => self.recall(at),
            Step::Sleep(ms) => self.rig.sleep(ms),
            Step::Restart => {
                let rig = std::mem::replace(&mut self.rig, Rig::new());
                self.rig = restarted(rig);
                self.rig.core.limits.overdue_per_s = self.overdue_per_s;
            }
            Step::Leave(most) => {
                let end = *self.leaving.get_or_insert(Lsn(self.rig.log.len() as u64));
                leave(&mut self.rig, end, most);
            }
            Step::Trim => {
                if let Some(end) = self.leaving.take() {
                    while !leave(&mut self.rig, end, 1) {}
                    trim(&mut self.rig, end);
                }
            }
        }
        self.check_times();
    }

    fn recall(&mut self, at: usize) {
        let count = self.sent.len().max(1);
        let shown = visible(&self.rig);
        let Some((id, witness)) = self.sent.iter_mut().nth(at % count) else { return };
        match recall(&mut self.rig, &witness.handle) {
            Ok(()) => {
                assert!(witness.recalled || !shown.contains(id), "a message that was released can't be taken back");
                witness.recalled = true;
            }
            Err(error) => {
                assert_eq!(error, RecallError::Delivered);
                assert!(shown.contains(id), "only a message that was released can't be taken back");
            }
        }
    }

    fn check_times(&self) {
        let shown = visible(&self.rig);
        assert!(shown.iter().all(|id| self.sent[id].due <= self.rig.now), "never early");
    }

    fn finish(mut self) {
        for _ in 0..100 {
            self.rig.sleep(100);
        }
        check_snapshot(&self.rig.core.state);
        let mut shown = visible(&self.rig);
        shown.sort_unstable();
        let expected: Vec<u128> = self.sent.iter().filter(|(_, witness)| !witness.recalled).map(|(id, _)| *id).collect();
        assert_eq!(shown, expected, "each message exactly once, unless it was taken back");
        assert_eq!(self.rig.core.state.timers.pending(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_released_once_and_never_early_whatever_happens(steps in steps(), overdue_per_s in prop_oneof![Just(10u64), Just(20_000)]) {
        let mut history = History { rig: Rig::new(), sent: BTreeMap::new(), leaving: None, overdue_per_s };
        for step in steps {
            history.play(step);
        }
        history.finish();
    }
}
