//! Whatever goes over the wire comes back the same.

use super::{Refuse, handle, life, lite, lookup, message, offsets, receive, send, status};
use crate::broker as pb;
use bytes::Bytes;
use gantry_model::contract::broker::*;
use gantry_model::group::GroupSpec;
use gantry_model::handle::{RecallHandle, TransactionHandle};
use gantry_model::message::{BodyEncoding, DeadReason, Deliverable, Origin, StoredMessage};
use gantry_model::topic::TopicSpec;
use gantry_model::{
    ClientId, Filter, Group, GroupId, GroupName, LeaseId, Lsn, Message, MessageKind, Offset, QueueId, ReceiptHandle, ShardId, Topic, TopicId,
    TopicName,
};
use proptest::option;
use proptest::prelude::*;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// As the other end sees it.
fn over<M: prost::Message + Default>(wire: M) -> M {
    M::decode(Bytes::from(wire.encode_to_vec())).expect("it is what was written")
}

/// Some of the values have no equality of their own.
fn same(one: &impl Debug, other: &impl Debug) -> Result<(), TestCaseError> {
    prop_assert_eq!(format!("{one:?}"), format!("{other:?}"));
    Ok(())
}

fn topic(id: u32) -> Arc<Topic> {
    let spec = TopicSpec::on_first_use(TopicName::parse("", "t").expect("legal"));
    let (id, queues, options) = (TopicId(id), Vec::new(), spec.options);
    Arc::new(Topic { id, name: spec.name, kind: spec.kind, permission: spec.permission, queues, retention: spec.retention, options, created_ms: 0 })
}

fn group(id: u32) -> Arc<Group> {
    let spec = GroupSpec::new(GroupName::parse("", "g").expect("legal"));
    Arc::new(Group {
        id: GroupId(id),
        name: spec.name,
        order: spec.order,
        max_attempts: spec.max_attempts,
        retry: spec.retry,
        start: spec.start,
        dead_letter: TopicId(7),
        auto_renew_cap_ms: spec.auto_renew_cap_ms,
        options: spec.options,
        created_ms: 0,
    })
}

fn text() -> BoxedStrategy<String> {
    ".{0,24}".boxed()
}

fn time() -> impl Strategy<Value = Duration> {
    (0..u64::MAX / 2_000_000).prop_map(Duration::from_millis)
}

prop_compose! {
    fn a_message()(
        (id, tag, keys, group, trace_context, lite_topic, born_host) in
            (text(), option::of(text()), prop::collection::vec(text(), 0..4), option::of(text()), option::of(text()), option::of(text()), text()),
        properties in prop::collection::vec((text(), text()), 0..5), body in prop::collection::vec(any::<u8>(), 0..2_000),
        (digest, born_ms, deliver_ms, priority, recovery_ms) in any::<([u8; 20], u64, Option<u64>, Option<u8>, Option<u64>)>(),
        kind in 1u8..=6, zipped: bool,
    ) -> Message {
        Message {
            id, tag, keys, group, trace_context, lite_topic, born_host, properties, digest, born_ms, deliver_ms, priority, recovery_ms,
            body: body.into(),
            kind: MessageKind::from_number(kind).expect("all are kinds"),
            encoding: if zipped { BodyEncoding::Gzip } else { BodyEncoding::Identity },
        }
    }
}

prop_compose! {
    fn a_stored_message()(
        message in a_message(), numbers in any::<(u32, u32, u64, u64)>(), origin in any::<Option<(u32, u32, u64, u32, bool)>>(),
        name in option::of((text(), text())),
    ) -> StoredMessage {
        let (topic, queue, offset, store_ms) = numbers;
        let name = name.map(|(namespace, name)| TopicName { namespace, name });
        let origin = origin.map(|(topic, queue, offset, attempts, forwarded)| Origin {
            topic: TopicId(topic), name, queue: QueueId(queue), offset: Offset(offset), attempts,
            reason: if forwarded { DeadReason::Forwarded } else { DeadReason::MaxAttempts },
        });
        StoredMessage { message, topic: TopicId(topic), queue: QueueId(queue), offset: Offset(offset), store_ms, origin }
    }
}

prop_compose! {
    fn a_handle()((shard, topic, group, queue, offset, lease, reset, attempt) in any::<(u32, u32, u32, u32, u64, u64, u32, u32)>()) -> ReceiptHandle {
        ReceiptHandle {
            shard: ShardId(shard), topic: TopicId(topic), group: GroupId(group), queue: QueueId(queue), offset: Offset(offset),
            lease: LeaseId(lease), reset, attempt,
        }
    }
}

fn a_transaction() -> impl Strategy<Value = TransactionHandle> {
    any::<(u32, u32, u64)>().prop_map(|(shard, topic, id)| TransactionHandle { shard: ShardId(shard), topic: TopicId(topic), id })
}

fn a_recall() -> impl Strategy<Value = RecallHandle> {
    (any::<(u32, u32, u64, u64)>(), text()).prop_map(|((shard, topic, deliver_ms, id), message_id)| RecallHandle {
        shard: ShardId(shard),
        topic: TopicId(topic),
        deliver_ms,
        id,
        message_id,
    })
}

fn a_filter() -> impl Strategy<Value = Filter> {
    prop_oneof![
        Just(Filter::All),
        prop::collection::btree_set("[a-z]{1,5}", 1..4).prop_map(|tags| Filter::Tags(tags.into_iter().collect())),
        (0..100u32).prop_map(|number| Filter::sql(&format!("a  > {number} AND b = 'x'")).expect("an expression")),
    ]
}

fn a_sent() -> impl Strategy<Value = Sent> {
    let ticket = prop_oneof![
        Just(None),
        a_transaction().prop_map(|handle| Some(Ticket::Transaction(handle))),
        a_recall().prop_map(|handle| Some(Ticket::Recall(handle)))
    ];
    (any::<(u32, u64, bool)>(), ticket).prop_map(|((queue, offset, duplicate), ticket)| Sent {
        queue: QueueId(queue),
        offset: Offset(offset),
        duplicate,
        ticket,
    })
}

fn a_send_error() -> impl Strategy<Value = SendError> {
    prop_oneof![
        Just(SendError::Busy),
        any::<u8>().prop_map(|used_percent| SendError::DiskFull { used_percent }),
        Just(SendError::NoWritableQueue),
        text().prop_map(|what| SendError::QuotaExceeded { what }),
        any::<u64>().prop_map(|most| SendError::LiteTopicQuota { most }),
        Just(SendError::Draining),
        Just(SendError::NoLeader),
        any::<(u32, u32)>().prop_map(|(queue, shard)| SendError::Misplaced { queue: QueueId(queue), shard: ShardId(shard) }),
        text().prop_map(|why| SendError::Unknown { why }),
    ]
}

/// Every error of every call, with some text and numbers.
fn check_errors(why: &str, number: u64, other: u64, used_percent: u8) -> Result<(), TestCaseError> {
    fn all<E: Refuse + Debug + PartialEq>(errors: impl IntoIterator<Item = E>) -> Result<(), TestCaseError> {
        for error in errors {
            prop_assert_eq!(&E::refused(over(error.refusal())), &error);
        }
        Ok(())
    }
    let why = why.to_owned();
    let (first, second) = (Offset(number), Offset(other));
    {
        use ReceiveError::*;
        all([TooManyPolls, NoReadableQueue, GroupPulls, NoLeader, Failed { why: why.clone() }])?;
    }
    {
        use LeaseError::*;
        all([Ended, Foreign, NoLeader, Busy, Failed { why: why.clone() }])?;
    }
    {
        use EndError::*;
        let ended = [Contradicts { ended: Resolution::Commit }, Contradicts { ended: Resolution::Rollback }, GivenUp, Unknown];
        all(ended)?;
        all([NoWritableQueue, DiskFull { used_percent }, NoLeader, Busy, Failed { why: why.clone() }])?;
    }
    {
        use RecallError::*;
        all([Delivered, Unknown, NoLeader, Busy, Failed { why: why.clone() }])?;
    }
    {
        use LookupError::*;
        all([NoSuchQueue, NoLeader, Busy, Failed { why: why.clone() }])?;
    }
    {
        use PullError::*;
        all([OutOfRange { next: first }, NoSuchQueue, NoReadableQueue, TooManyPolls, NoLeader, Busy, Failed { why: why.clone() }])?;
    }
    {
        use OffsetError::*;
        let moved = [OutOfRange { min: first, max: second }, Backwards { committed: first }, GroupReceives, GroupPulls, GroupBroadcasts];
        all(moved)?;
        all([NoSuchQueue, NoLeader, Busy, Failed { why: why.clone() }])?;
    }
    {
        use LetterError::*;
        all([Gone, NoWritableQueue, Elsewhere, DiskFull { used_percent }, NoLeader, Busy, Failed { why: why.clone() }])?;
    }
    use LiteError::*;
    all([SubscriptionQuota { most: number }, TopicQuota { most: number }, NoLeader, Busy, Failed { why }])
}

fn a_standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        any::<u32>().prop_map(|attempts| Standing::Ready { attempts }),
        (option::of(text()), any::<(u32, Option<u64>)>()).prop_map(|(client, (attempt, until_ms))| Standing::InFlight {
            client: client.map(|client| ClientId::new(&client)),
            attempt,
            until_ms
        }),
        any::<(u32, u64)>().prop_map(|(attempts, visible_ms)| Standing::Waiting { attempts, visible_ms }),
        Just(Standing::Done),
    ]
}

fn a_step() -> impl Strategy<Value = LifeStep> {
    let group = any::<u32>().prop_map(GroupId);
    let numbers = any::<(u32, u32, u64, u64)>();
    (0..13u8, group, numbers, any::<bool>(), text()).prop_map(|(which, group, (small, other, large, long), yes, name)| match which {
        0 => LifeStep::Stored,
        1 => LifeStep::Released,
        2 => LifeStep::Leased { group, client: ClientId::new(&name), lease: LeaseId(large), attempt: small, until_ms: long },
        3 => LifeStep::Extended { group, until_ms: long },
        4 => LifeStep::GivenBack { group, visible_ms: long, counted: yes },
        5 => LifeStep::Lapsed { group, visible_ms: long },
        6 => LifeStep::Acked { group },
        7 => LifeStep::Filtered { group },
        8 => LifeStep::Skipped { group },
        9 => {
            let reason = if yes { DeadReason::Forwarded } else { DeadReason::MaxAttempts };
            LifeStep::Dead { group, reason, attempts: small, letter: LetterId { queue: QueueId(other), offset: Offset(large) } }
        }
        10 => LifeStep::Redriven { topic: TopicId(small), queue: QueueId(other), offset: Offset(large) },
        11 => LifeStep::Purged,
        _ => LifeStep::Reset { group, to: Offset(large) },
    })
}

proptest! {
    #[test]
    fn sends_and_what_became_of_them(
        messages in prop::collection::vec(a_message(), 0..4), client in text(), wait in time(), answers in prop::collection::vec(prop_oneof![a_sent().prop_map(Ok), a_send_error().prop_map(Err)], 0..6),
    ) {
        let request = SendRequest { topic: topic(3), messages, client: ClientId::new(&client), wait };
        let wire = over(send::send_to_wire(&request));
        prop_assert_eq!(wire.topic, 3);
        let unpacked = send::send_from_wire(wire, topic(3)).and_then(PackedSend::unpack);
        same(&unpacked.expect("all are messages"), &request)?;
        let back: Vec<Result<Sent, SendError>> = send::sent_each_from_wire(over(send::sent_each_to_wire(&answers)));
        prop_assert_eq!(back, answers);
    }

    #[test]
    fn deliveries_in_every_part(stored in a_stored_message(), handle in a_handle(), attempt: u32) {
        let delivery = Delivery { message: Box::new(stored.clone()), handle, attempt };
        let back = message::delivery_from_wire(over(message::delivery_to_wire(&delivery))).expect("it is one");
        prop_assert_eq!((back.handle, back.attempt), (handle, attempt));
        prop_assert_eq!(back.message.facts(), stored.facts());
        prop_assert_eq!(back.message.origin(), stored.origin.as_ref());
        let shown = |message: &dyn Deliverable| { let mut all = Vec::new(); message.each_property(&mut |property| all.push(format!("{property:?}"))); all.sort(); all };
        prop_assert_eq!(shown(&*back.message), shown(&stored));
        prop_assert_eq!(back.message.body(), stored.body());
        prop_assert_eq!(message::stored_from_wire(over(message::stored_to_wire(&stored))), Some(stored));
    }

    #[test]
    fn wishes_and_how_deliveries_end(
        filter in a_filter(), client in text(), max: u32, lease in option::of(time()), wait in time(), attempt_id in option::of(text()),
        ordered_batch: bool, member in text(), handle in a_handle(), suspended: bool, acked in prop::collection::vec(any::<bool>(), 0..20),
    ) {
        let filter = Arc::new(filter);
        let request = ReceiveRequest {
            group: group(5), topic: topic(3), filter: filter.clone(), client: ClientId::new(&client), max, wait, attempt_id, ordered_batch, member,
            lease: lease.map_or(LeaseTerm::WhileClientLives, LeaseTerm::For),
        };
        let mut wire = over(receive::receive_to_wire(&request));
        prop_assert_eq!((wire.group, wire.topic), (5, 3));
        let read = receive::filter_from_wire(wire.filter.take()).expect("it is one");
        same(&receive::receive_from_wire(wire, group(5), topic(3), Arc::new(read)), &request)?;
        let attempt = if suspended { AttemptCount::Suspended } else { AttemptCount::Counts };
        let change = VisibilityChange { group: group(5), handle, after: wait, failed_for_at_least: lease.unwrap_or_default(), attempt };
        same(&receive::change_from_wire(over(receive::change_to_wire(&change)), group(5)).expect("it is one"), &change)?;
        let answers: Vec<_> = acked.into_iter().map(|done| if done { Ok(()) } else { Err(LeaseError::Ended) }).collect();
        prop_assert_eq!(receive::done_each_from_wire(over(receive::done_each_to_wire(&answers)), answers.len()), Some(answers.clone()));
        prop_assert_eq!(receive::done_each_from_wire::<LeaseError>(receive::done_each_to_wire(&answers), answers.len() + 1), None);
    }

    #[test]
    fn errors_with_their_numbers(why in text(), number: u64, other: u64, used_percent: u8) {
        check_errors(&why, number, other, used_percent)?;
    }

    #[test]
    fn positions_and_pulls(
        filter in a_filter(), numbers in any::<(u32, u64, u32)>(), wait in time(), which in 0..5u8, queues in prop::collection::vec(any::<u32>(), 0..4), dry_run: bool,
        moved in prop::collection::vec(any::<(u32, u64, u64, u64)>(), 0..4),
    ) {
        let (queue, offset, max) = numbers;
        let filter = Arc::new(filter);
        let request = PullRequest { topic: topic(3), queue: QueueId(queue), offset: Offset(offset), max, filter: filter.clone(), wait };
        let wire = over(offsets::pull_to_wire(&request));
        let read = Arc::new(receive::filter_from_wire(wire.filter.clone()).expect("it is one"));
        same(&offsets::pull_from_wire(&wire, topic(3), read), &request)?;
        let target = match which {
            0 => SeekTarget::Earliest,
            1 => SeekTarget::Latest,
            2 => SeekTarget::Offset(Offset(offset)),
            3 => SeekTarget::Time(offset),
            _ => SeekTarget::Like(group(9)),
        };
        let request = SeekRequest { group: group(5), topic: topic(3), queues: queues.into_iter().map(QueueId).collect(), target, dry_run };
        same(&offsets::seek_from_wire(over(offsets::seek_to_wire(&request)), group(5), topic(3), Some(group(9))).expect("it is one"), &request)?;
        let moved: Vec<Moved> = moved.into_iter().map(|(queue, from, to, dropped)| Moved { queue: QueueId(queue), from: Offset(from), to: Offset(to), dropped }).collect();
        prop_assert_eq!(offsets::moved_from_wire(over(offsets::moved_to_wire(&moved))), moved);
    }

    #[test]
    fn what_is_looked_up(
        standings in prop::collection::vec(a_standing(), 0..5), steps in prop::collection::vec((any::<(u64, u64)>(), a_step()), 0..6), complete: bool,
        positions in prop::collection::vec(any::<(u32, u64, u64, u64, u64, u64, Option<u64>, bool)>(), 0..4), bounds in prop::collection::vec(any::<(u32, u64, u64, u64)>(), 0..4),
        name in text(), numbers in any::<(u32, u64, u64)>(),
    ) {
        prop_assert_eq!(lookup::standings_from_wire(over(lookup::standings_to_wire(&standings))), Some(standings));
        let events = steps.into_iter().map(|((lsn, time_ms), what)| LifeEvent { lsn: Lsn(lsn), time_ms, what }).collect();
        let story = Life { events, complete };
        prop_assert_eq!(life::life_from_wire(over(life::life_to_wire(&story))), Some(story));
        let position = |(queue, committed, end, ready, in_flight, waiting, oldest_ms, receives)| QueuePosition {
            queue: QueueId(queue), committed: Offset(committed), end: Offset(end), ready, in_flight, waiting, oldest_ms, receives,
        };
        let positions: Vec<QueuePosition> = positions.into_iter().map(position).collect();
        prop_assert_eq!(lookup::positions_from_wire(over(lookup::positions_to_wire(&positions))), positions);
        let queues: Vec<QueueBounds> = bounds.into_iter().map(|(queue, min, max, bytes)| QueueBounds { queue: QueueId(queue), min: Offset(min), max: Offset(max), bytes }).collect();
        prop_assert_eq!(lookup::queues_from_wire(over(lookup::queues_to_wire(&queues))), queues);
        let (queue, from_ms, to_ms) = numbers;
        let place = Query::Offset { queue: QueueId(queue), offset: Offset(from_ms) };
        for query in [Query::MessageId(name.clone()), Query::Key(name.clone()), place, Query::Stored { from_ms, to_ms }] {
            let wire = over(lookup::find_to_wire(&topic(3), &query, 17));
            prop_assert_eq!((wire.topic, wire.limit), (3, 17));
            prop_assert_eq!(lookup::query_from_wire(wire), Some(query));
        }
        let places = vec![(QueueId(queue), Offset(from_ms)), (QueueId(1), Offset(to_ms))];
        prop_assert_eq!(handle::places_from_wire(&handle::places_to_wire(&places)), places);
    }

    #[test]
    fn transactions(stored in a_stored_message(), transaction in a_transaction(), sender in text(), numbers in any::<(u32, u64, bool, u64)>()) {
        let (checks, next_check_ms, given_up, number) = numbers;
        let sender = ClientId::new(&sender);
        let open = OpenTransaction { handle: transaction, message: stored.clone(), sender: sender.clone(), checks, next_check_ms, given_up };
        prop_assert_eq!(send::open_from_wire(over(send::open_to_wire(&open))), Some(open));
        let check = Check { handle: transaction, message: stored, sender };
        let wire = over(send::check_to_wire(number, &check));
        prop_assert_eq!(wire.number, number);
        same(&send::check_from_wire(wire).expect("it is one"), &check)?;
        for resolution in [Resolution::Commit, Resolution::Rollback] {
            for by in [EndedBy::Producer, EndedBy::Operator] {
                let wire = over(send::end_to_wire(&topic(3), &transaction, resolution, by));
                prop_assert_eq!(send::end_from_wire(wire), Some((transaction, resolution, by)));
            }
        }
    }

    #[test]
    fn lite_topics(names in prop::collection::vec(text(), 0..4), elsewhere in prop::collection::vec(text(), 0..3), client in text(), change in 0..4u8, start in 0..6u8, number: u64, listed in prop::collection::vec((text(), any::<(u64, u64, u64, u64)>()), 0..4)) {
        let change = [LiteChange::Add, LiteChange::Remove, LiteChange::Replace, LiteChange::Clear][usize::from(change)];
        let starts = [LiteStart::Last, LiteStart::Min, LiteStart::Max, LiteStart::At(Offset(number)), LiteStart::Tail(number), LiteStart::Time(number)];
        let start = starts[usize::from(start)];
        let sync = LiteSync { group: group(5), topic: topic(3), client: ClientId::new(&client), names, elsewhere, change, start };
        same(&lite::sync_from_wire(over(lite::sync_to_wire(&sync)), group(5), topic(3)).expect("it is one"), &sync)?;
        let one = |(name, (min, max, active_ms, subscribers))| LiteTopic { name, min: Offset(min), max: Offset(max), active_ms, subscribers };
        let listed: Vec<LiteTopic> = listed.into_iter().map(one).collect();
        prop_assert_eq!(lite::topics_from_wire(over(lite::topics_to_wire(&listed))), listed);
    }

    #[test]
    fn statuses(n in prop::collection::vec(any::<u64>(), 24), shard: u32, epoch: u32, condition in 0..4u8) {
        let condition = [ShardCondition::Ready, ShardCondition::Full, ShardCondition::Failed, ShardCondition::Draining][usize::from(condition)];
        let transactions = TransactionCounts { open: n[19], committed: n[20], rolled_back: n[21], given_up: n[22], checks: n[23] };
        let status = ShardStatus {
            shard: ShardId(shard), epoch, start: n[0], end: n[1], durable: n[2], disk_total: n[3], disk_free: n[4], condition, open_polls: n[5],
            messages_stored: n[6], messages_delivered: n[7], messages_acked: n[8], dead_letters: n[9], filter_errors: n[10], timers_pending: n[11],
            timers_released: n[12], timers_recalled: n[13], timers_orphaned: n[14], timers_damaged: n[15], timer_lateness_ms: n[16], transactions,
        };
        prop_assert_eq!(status::statuses_from_wire(over(status::statuses_to_wire(std::slice::from_ref(&status)))), vec![status]);
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = <pb::Delivery as prost::Message>::decode(&bytes[..]) {
            let _ = message::delivery_from_wire(wire);
        }
        if let Ok(wire) = <pb::Life as prost::Message>::decode(&bytes[..]) {
            let _ = life::life_from_wire(wire);
        }
        if let Ok(wire) = <pb::DoneEach as prost::Message>::decode(&bytes[..]) {
            let _ = receive::done_each_from_wire::<LeaseError>(wire, 3);
        }
    }
}

#[test]
fn a_code_of_a_later_version_promises_the_least() {
    let later = || pb::Refusal { code: 999, why: "later".into(), ..pb::Refusal::default() };
    assert!(matches!(SendError::refused(later()), SendError::Unknown { .. }));
    assert!(matches!(LeaseError::refused(later()), LeaseError::Failed { why } if why.contains("later")));
}
