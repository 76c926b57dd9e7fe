//! The outbox alone: what is written in which order, and that every delivery is accounted for.

use super::*;
use gantry_model::{GroupId, LeaseId, Offset, QueueId, ShardId, TopicId};
use gantry_proto::broker::{Deliveries, Delivery, Empty};
use proptest::prelude::*;

const KIB: usize = 1024;

fn small(call: u64) -> Ready {
    Ready::Small(Answer { call, more: false, body: Some(Body::Done(Empty {})) })
}

fn delivery(lease: u64, bytes: usize) -> (Delivery, usize) {
    let handle = ReceiptHandle {
        shard: ShardId(1),
        topic: TopicId(2),
        group: GroupId(3),
        queue: QueueId(4),
        offset: Offset(5),
        lease: LeaseId(lease),
        reset: 0,
        attempt: 1,
    };
    (Delivery { handle: Some((&handle).into()), ..Delivery::default() }, bytes)
}

/// An answer with deliveries of so many bytes each.
fn long(call: u64, leases: impl IntoIterator<Item = u64>, bytes: usize) -> Ready {
    let deliveries = leases.into_iter().map(|lease| delivery(lease, bytes)).collect();
    let body = |deliveries: Vec<(Delivery, usize)>| {
        Body::Deliveries(Deliveries { deliveries: deliveries.into_iter().map(|(delivery, _)| delivery).collect() })
    };
    cut(call, deliveries, |(_, bytes)| *bytes, body)
}

fn batch(outbox: &Outbox) -> Option<ToProxy> {
    match outbox.poll_batch(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(batch) => batch,
        Poll::Pending => None,
    }
}

/// Calls of a batch, and whether more of their answers follows.
fn calls(batch: Option<ToProxy>) -> Vec<(u64, bool)> {
    batch.map_or(Vec::new(), |batch| batch.answers.iter().map(|answer| (answer.call, answer.more)).collect())
}

fn leases(handles: &[ReceiptHandle]) -> Vec<u64> {
    handles.iter().map(|handle| handle.lease.0).collect()
}

#[test]
fn long_answers_go_in_parts_by_turns_and_small_ones_before_them() {
    let outbox = Outbox::default();
    outbox.put(&mut vec![long(1, 0..3, 50 * KIB), long(2, 3..5, 50 * KIB), small(3)]);
    assert_eq!(calls(batch(&outbox)), [(3, false), (1, true)]);
    outbox.put(&mut vec![small(4)]);
    assert_eq!(calls(batch(&outbox)), [(4, false), (2, true)]);
    assert_eq!(calls(batch(&outbox)), [(1, true)]);
    assert_eq!(calls(batch(&outbox)), [(2, false)]);
    assert_eq!(calls(batch(&outbox)), [(1, false)]);
    assert_eq!(calls(batch(&outbox)), []);
}

#[test]
fn a_message_that_is_larger_than_a_batch_goes_alone() {
    let outbox = Outbox::default();
    outbox.put(&mut vec![long(1, 0..2, 4 * KIB * KIB), long(2, 2..3, KIB)]);
    assert_eq!(calls(batch(&outbox)), [(1, true)]);
    assert_eq!(calls(batch(&outbox)), [(2, false)]);
    assert_eq!(calls(batch(&outbox)), [(1, false)]);
}

#[test]
fn there_is_no_room_beyond_the_bound_until_something_is_written() {
    let outbox = Outbox::default();
    let room = || outbox.poll_room(&mut Context::from_waker(Waker::noop())).is_ready();
    assert!(room());
    outbox.put(&mut vec![long(1, 0..(WAITING_MAX / BATCH_BYTES) as u64, BATCH_BYTES)]);
    assert!(!room());
    assert!(batch(&outbox).is_some());
    assert!(room());
    outbox.put(&mut vec![long(2, 0..2, BATCH_BYTES)]);
    assert!(!room());
    outbox.close();
    assert!(room(), "whoever waits learns of the end");
}

#[test]
fn commands_after_the_end_are_refused() {
    let outbox = Outbox::default();
    assert!(outbox.command(Command::default()));
    assert_eq!(batch(&outbox).map(|batch| (batch.number, batch.commands.len())), Some((1, 1)));
    drop(Lines::new(Arc::new(Outbox::default())));
    outbox.close();
    assert!(!outbox.command(Command::default()));
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, usize),
    Write,
    /// The proxy says that it has the first so many messages of those it was sent.
    Heard(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6u8, prop_oneof![Just(KIB), Just(25 * KIB), Just(75 * KIB)]).prop_map(|(count, bytes)| Step::Put(count, bytes)),
        Just(Step::Write),
        any::<u8>().prop_map(Step::Heard),
    ]
}

proptest! {
    #[test]
    fn at_the_end_each_delivery_has_arrived_or_is_left(steps in prop::collection::vec(step(), 1..60)) {
        let outbox = Outbox::default();
        let (mut next, mut written, mut heard) = (0, Vec::new(), 0);
        for step in steps {
            match step {
                Step::Put(count, bytes) => {
                    let lost = outbox.put(&mut vec![long(next + 1, next..next + u64::from(count), bytes)]);
                    prop_assert!(lost.is_empty());
                    next += u64::from(count);
                }
                Step::Write => if let Some(batch) = batch(&outbox) {
                    prop_assert_eq!(batch.number, written.len() as u64 + 1);
                    written.push(batch.answers.iter().flat_map(|answer| leases(&handles_of(answer))).collect::<Vec<u64>>());
                }
                Step::Heard(number) => {
                    heard = heard.max(u64::from(number).min(written.len() as u64));
                    outbox.arrived(heard);
                }
            }
        }
        let left = outbox.close();
        prop_assert_eq!(left.number, written.len() as u64);
        prop_assert!(left.written.iter().all(|(number, _)| *number > heard));
        let arrived = written[..heard as usize].iter().flatten().copied();
        let perhaps = left.written.iter().flat_map(|(_, handles)| leases(handles));
        let mut all: Vec<u64> = arrived.chain(perhaps).chain(leases(&left.unwritten)).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..next).collect::<Vec<_>>());
        let lost = outbox.put(&mut vec![long(1, 7..9, KIB)]);
        prop_assert_eq!(leases(&lost), [7, 8]);
    }
}
