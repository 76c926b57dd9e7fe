//! Positions moved by hand, dead letters and the life of a message, through the administration service.

use crate::admin::client;
use crate::rig::Rig;
use gantry_model::contract::Metadata;
use gantry_model::contract::broker::{LetterError, LetterId, LifeEvent as Event, LifeStep as Step, OffsetError, SeekTarget, Standing};
use gantry_model::message::{DeadReason, Origin};
use gantry_model::{ClientId, LeaseId, Lsn, Offset, QueueId, TopicId, TopicName};
use gantry_proto::admin::admin_client::AdminClient;
use gantry_proto::admin::dead_letter_selector::Selector;
use gantry_proto::admin::reset_group_offsets_request::Target;
use gantry_proto::admin::*;
use prost_types::Timestamp;
use std::time::{Duration, Instant};
use tonic::Code;
use tonic::transport::Channel;

fn all() -> Option<DeadLetterSelector> {
    Some(DeadLetterSelector { selector: Some(Selector::All(true)) })
}

fn meant(selector: Selector) -> Option<DeadLetterSelector> {
    Some(DeadLetterSelector { selector: Some(selector) })
}

fn at_ms(ms: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: ms / 1_000, nanos: (ms % 1_000) as i32 * 1_000_000 })
}

/// A rig whose group has so many dead letters, `id-0` and so on, stored at 2,000 ms and a millisecond after each other.
async fn with_letters(count: usize) -> (Rig, AdminClient<Channel>, TopicId) {
    let (rig, orders) = Rig::with_topic().await;
    let dead = rig.metadata.topic(&TopicName::parse("", "%DLQ%group").unwrap()).unwrap().id;
    for number in 0..count {
        let (queue, offset) = (QueueId(5), Offset(100 + number as u64));
        let origin = Origin { topic: orders.id, name: Some(orders.name.clone()), queue, offset, attempts: 16, reason: DeadReason::MaxAttempts };
        rig.broker.bury(dead, &format!("id-{number}"), origin);
    }
    let admin = client(&rig).await;
    (rig, admin, orders.id)
}

async fn redrive(admin: &mut AdminClient<Channel>, request: RedriveDeadLettersRequest) -> Result<Vec<RedriveDeadLettersResponse>, tonic::Status> {
    let request = RedriveDeadLettersRequest { group: "group".into(), ..request };
    let mut stream = admin.redrive_dead_letters(request).await?.into_inner();
    let mut told = Vec::new();
    while let Some(element) = stream.message().await? {
        told.push(element);
    }
    Ok(told)
}

#[tokio::test]
async fn a_position_is_reset_to_every_kind_of_target() {
    let (rig, _) = Rig::with_topic().await;
    let mut admin = client(&rig).await;
    let base = || ResetGroupOffsetsRequest { group: "group".into(), topic: "orders".into(), ..Default::default() };
    for (target, expected) in [
        (Target::Earliest(true), SeekTarget::Earliest),
        (Target::Latest(true), SeekTarget::Latest),
        (Target::Offset(7), SeekTarget::Offset(Offset(7))),
        (Target::Time(at_ms(5_006).unwrap()), SeekTarget::Time(5_006)),
    ] {
        let request = ResetGroupOffsetsRequest { target: Some(target), queues: vec![3], dry_run: true, ..base() };
        let queues = admin.reset_group_offsets(request).await.unwrap().into_inner().queues;
        assert_eq!(queues, [MovedOffset { queue: 3, from_offset: 1, to_offset: 2, dropped: 0 }]);
        let seek = rig.broker.with(|state| state.seeks.pop().unwrap());
        assert_eq!((seek.target, seek.queues, seek.dry_run), (expected, vec![QueueId(3)], true));
    }
    for (request, expected) in [
        (base(), Code::InvalidArgument),
        (ResetGroupOffsetsRequest { target: Some(Target::Latest(false)), ..base() }, Code::InvalidArgument),
        (ResetGroupOffsetsRequest { target: Some(Target::Offset(1)), ..base() }, Code::InvalidArgument),
        (ResetGroupOffsetsRequest { target: Some(Target::Latest(true)), topic: "none".into(), ..base() }, Code::NotFound),
        (ResetGroupOffsetsRequest { target: Some(Target::Latest(true)), group: "none".into(), ..base() }, Code::NotFound),
    ] {
        assert_eq!(admin.reset_group_offsets(request.clone()).await.unwrap_err().code(), expected, "{request:?}");
    }
    for (error, expected) in [
        (OffsetError::OutOfRange { min: Offset(0), max: Offset(1) }, Code::InvalidArgument),
        (OffsetError::NoSuchQueue, Code::InvalidArgument),
        (OffsetError::Busy, Code::Unavailable),
    ] {
        rig.broker.with(|state| state.offset_error = Some(error));
        let request = ResetGroupOffsetsRequest { target: Some(Target::Latest(true)), ..base() };
        assert_eq!(admin.reset_group_offsets(request).await.unwrap_err().code(), expected);
    }
}

#[tokio::test]
async fn positions_are_copied_and_messages_skipped() {
    let (rig, _) = Rig::with_topic().await;
    let mut admin = client(&rig).await;
    admin.create_group(CreateGroupRequest { group: Some(Group { name: "other".into(), ..Default::default() }) }).await.unwrap();
    let copy =
        |from: &str, to: &str| CopyGroupOffsetsRequest { from_group: from.into(), to_group: to.into(), topic: "orders".into(), ..Default::default() };
    assert_eq!(admin.copy_group_offsets(copy("other", "group")).await.unwrap().into_inner().queues.len(), 1);
    let seek = rig.broker.with(|state| state.seeks.pop().unwrap());
    let SeekTarget::Like(from) = &seek.target else { panic!("{:?}", seek.target) };
    assert_eq!((from.name.name.as_str(), seek.group.name.name.as_str(), seek.dry_run), ("other", "group", false));
    assert_eq!(admin.copy_group_offsets(copy("group", "group")).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(admin.copy_group_offsets(copy("nobody", "group")).await.unwrap_err().code(), Code::NotFound);

    let skip = |offsets: Vec<u64>| SkipMessagesRequest { group: "group".into(), topic: "orders".into(), queue: 3, offsets, ..Default::default() };
    assert_eq!(admin.skip_messages(skip(vec![4, 5])).await.unwrap().into_inner().skipped, 2);
    assert_eq!(admin.skip_messages(skip(Vec::new())).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(admin.skip_messages(skip(vec![1; 10_001])).await.unwrap_err().code(), Code::InvalidArgument);
    rig.broker.with(|state| state.offset_error = Some(OffsetError::GroupPulls));
    assert_eq!(admin.skip_messages(skip(vec![4])).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn dead_letters_are_listed_in_pages_with_their_origin() {
    let (_rig, mut admin, _) = with_letters(5).await;
    let mut request = ListDeadLettersRequest { group: "group".into(), page_size: 2, ..Default::default() };
    let mut letters = Vec::new();
    loop {
        let page = admin.list_dead_letters(request.clone()).await.unwrap().into_inner();
        assert!(page.letters.len() <= 2);
        letters.extend(page.letters);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let ids: Vec<&str> = letters.iter().map(|letter| letter.message.as_ref().unwrap().message_id.as_str()).collect();
    assert_eq!(ids, ["id-0", "id-1", "id-2", "id-3", "id-4"]);
    let last = &letters[4];
    assert_eq!((last.origin_topic.as_str(), last.origin_queue, last.origin_offset, last.attempts), ("orders", 5, 104, 16));
    assert_eq!(last.reason(), DeadLetterReason::MaxAttempts);
    let message = last.message.as_ref().unwrap();
    assert_eq!((message.topic.as_str(), message.queue, message.offset, &message.body[..]), ("%DLQ%group", 0, 4, &b"dead"[..]));

    let mut list = async |selector, omit_body| {
        let request = ListDeadLettersRequest { group: "group".into(), selector, omit_body, ..Default::default() };
        let letters = admin.list_dead_letters(request).await.map(|answer| answer.into_inner().letters)?;
        Ok::<Vec<StoredMessage>, tonic::Status>(letters.into_iter().map(|letter| letter.message.unwrap()).collect())
    };
    let offsets = |letters: Vec<StoredMessage>| letters.into_iter().map(|letter| letter.offset).collect::<Vec<_>>();
    let died = |from, to| meant(Selector::Died(TimeRange { from, to }));
    assert_eq!(offsets(list(died(at_ms(2_001), at_ms(2_003)), false).await.unwrap()), [1, 2]);
    assert_eq!(offsets(list(died(at_ms(2_003), None), false).await.unwrap()), [3, 4]);
    let ids = DeadLetterIds { message_ids: vec!["id-3".into(), "none".into(), "id-1".into()] };
    assert_eq!(offsets(list(meant(Selector::MessageIds(ids)), false).await.unwrap()), [1, 3]);
    let place = |offset| QueueOffset { queue: 0, offset };
    let places = DeadLetterPlaces { places: vec![place(4), place(9), place(0)] };
    let bodiless = list(meant(Selector::Places(places)), true).await.unwrap();
    assert!(bodiless.iter().all(|letter| letter.body.is_empty() && letter.body_size == 4));
    assert_eq!(offsets(bodiless), [0, 4]);
    for bad in [
        Some(DeadLetterSelector::default()),
        died(None, None),
        meant(Selector::All(false)),
        meant(Selector::Places(DeadLetterPlaces::default())),
        meant(Selector::MessageIds(DeadLetterIds::default())),
    ] {
        assert_eq!(list(bad.clone(), false).await.unwrap_err().code(), Code::InvalidArgument, "{bad:?}");
    }
}

#[tokio::test]
async fn dead_letters_are_sent_again_with_progress() {
    let (rig, mut admin, orders) = with_letters(70).await;
    let told = redrive(&mut admin, RedriveDeadLettersRequest { selector: all(), ..Default::default() }).await.unwrap();
    assert_eq!(told.iter().map(|told| told.redriven).collect::<Vec<_>>(), [32, 64, 70, 70]);
    assert_eq!(told.iter().filter(|told| told.done).count(), 1);
    let taken = rig.broker.with(|state| std::mem::take(&mut state.taken));
    assert_eq!((taken.len(), &taken[69]), (70, &("id-69".to_owned(), None)));
    let places = DeadLetterPlaces { places: vec![QueueOffset { queue: 0, offset: 3 }] };
    let told = redrive(&mut admin, RedriveDeadLettersRequest { selector: meant(Selector::Places(places)), ..Default::default() }).await.unwrap();
    assert_eq!((told[1].redriven, told[1].gone, told[1].done), (0, 1, true), "who names a letter is told that it is gone");

    let (rig, mut admin, _) = with_letters(3).await;
    let request = RedriveDeadLettersRequest { selector: all(), to_topic: "orders".into(), ..Default::default() };
    redrive(&mut admin, request).await.unwrap();
    assert!(rig.broker.with(|state| state.taken.iter().all(|(_, to)| *to == Some(orders))));
}

#[tokio::test]
async fn what_can_not_be_sent_again_is_told_and_the_rest_goes_on() {
    let (rig, mut admin, _) = with_letters(3).await;
    rig.broker.with(|state| state.letter_errors = vec![LetterError::NoWritableQueue, LetterError::Busy, LetterError::Busy]);
    let told = redrive(&mut admin, RedriveDeadLettersRequest { selector: all(), ..Default::default() }).await.unwrap();
    let end = told.last().unwrap();
    assert_eq!((end.redriven, end.failed, end.gone, end.failures.len()), (2, 1, 0, 0), "a busy broker is asked again");
    assert_eq!(told[0].failures[0].place, Some(QueueOffset { queue: 0, offset: 2 }));
    rig.broker.with(|state| state.letter_errors = vec![LetterError::DiskFull { used_percent: 97 }]);
    let refused = redrive(&mut admin, RedriveDeadLettersRequest { selector: all(), ..Default::default() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    for (request, expected) in [
        (RedriveDeadLettersRequest::default(), Code::InvalidArgument),
        (RedriveDeadLettersRequest { selector: all(), to_topic: "none".into(), ..Default::default() }, Code::NotFound),
        (RedriveDeadLettersRequest { selector: all(), to_topic: "%DLQ%group".into(), ..Default::default() }, Code::InvalidArgument),
        (RedriveDeadLettersRequest { selector: all(), per_second: -1.0, ..Default::default() }, Code::InvalidArgument),
        (RedriveDeadLettersRequest { selector: all(), per_second: f64::NAN, ..Default::default() }, Code::InvalidArgument),
    ] {
        assert_eq!(redrive(&mut admin, request.clone()).await.unwrap_err().code(), expected, "{request:?}");
    }
}

/// A real clock: this test measures what a caller sees.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test]
async fn letters_go_no_faster_than_asked_and_stop_with_their_caller() {
    let (rig, mut admin, _) = with_letters(20).await;
    let began = now();
    let request = RedriveDeadLettersRequest { selector: all(), per_second: 50.0, ..Default::default() };
    redrive(&mut admin, request).await.unwrap();
    let took = began.elapsed();
    // Steps of five: the last one is due after 300 ms, and the end after 400 ms.
    assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&took), "{took:?}");

    let (slow, mut admin, _) = with_letters(20).await;
    let request = RedriveDeadLettersRequest { group: "group".into(), selector: all(), per_second: 2.0, ..Default::default() };
    let mut stream = admin.redrive_dead_letters(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    drop((stream, admin));
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert!(slow.broker.with(|state| state.taken.len()) <= 2, "the work ends with its caller");
    drop(rig);
}

#[tokio::test]
async fn dead_letters_are_removed() {
    let (rig, mut admin, _) = with_letters(6).await;
    let mut purge = async |selector| {
        let request = PurgeDeadLettersRequest { group: "group".into(), selector, ..Default::default() };
        let mut stream = admin.purge_dead_letters(request).await?.into_inner();
        let mut last = None;
        while let Some(element) = stream.message().await? {
            last = Some(element);
        }
        Ok::<_, tonic::Status>(last.unwrap())
    };
    let ids = DeadLetterIds { message_ids: vec!["id-2".into()] };
    assert_eq!(purge(meant(Selector::MessageIds(ids))).await.unwrap(), PurgeDeadLettersResponse { purged: 1, gone: 0, done: true });
    let places = DeadLetterPlaces { places: vec![QueueOffset { queue: 0, offset: 2 }, QueueOffset { queue: 0, offset: 3 }] };
    assert_eq!(purge(meant(Selector::Places(places))).await.unwrap(), PurgeDeadLettersResponse { purged: 1, gone: 1, done: true });
    assert_eq!(purge(all()).await.unwrap().gone, 0, "a range has what it has");
    assert_eq!(purge(None).await.unwrap_err().code(), Code::InvalidArgument);
    assert!(rig.broker.with(|state| state.taken.iter().all(|(_, to)| to.is_none())));
}

#[tokio::test]
async fn the_life_of_a_message_names_groups_topics_and_places() {
    let (rig, orders) = Rig::with_topic().await;
    let mut admin = client(&rig).await;
    let group = rig.handle("orders", "group").group;
    let step = |what| Event { lsn: Lsn(64), time_ms: 5_006, what };
    let (queue, offset) = (QueueId(0), Offset(9));
    let steps = vec![
        Step::Stored,
        Step::Leased { group, client: ClientId::new("c"), lease: LeaseId(1), attempt: 2, until_ms: 7_000 },
        Step::GivenBack { group, visible_ms: 8_000, counted: true },
        Step::Dead { group, reason: DeadReason::Forwarded, attempts: 2, letter: LetterId { queue, offset } },
        Step::Redriven { topic: orders.id, queue, offset },
        Step::Reset { group, to: Offset(3) },
    ];
    let ask = || GetMessageLifeRequest { topic: "orders".into(), queue: 3, offset: 1, ..Default::default() };
    assert_eq!(admin.get_message_life(ask()).await.unwrap_err().code(), Code::NotFound);
    rig.broker.with(|state| state.life = steps.into_iter().map(step).collect());
    let life = admin.get_message_life(ask()).await.unwrap().into_inner();
    assert!(life.complete && life.events.iter().all(|event| (event.lsn, event.time) == (64, at_ms(5_006))));
    let [stored, leased, back, dead, redriven, reset] = &life.events[..] else { panic!("{life:?}") };
    assert_eq!((stored.step(), stored.group.as_str()), (LifeStep::Stored, ""));
    assert_eq!((leased.step(), leased.group.as_str(), leased.client_id.as_str(), leased.attempt), (LifeStep::Leased, "group", "c", 2));
    assert_eq!((back.step(), back.counted, &back.visible_time), (LifeStep::GivenBack, true, &at_ms(8_000)));
    assert_eq!((dead.step(), dead.to_topic.as_str(), dead.reason()), (LifeStep::Dead, "%DLQ%group", DeadLetterReason::Forwarded));
    let to = Some(QueueOffset { queue: 0, offset: 9 });
    assert_eq!((dead.to, redriven.step(), redriven.to_topic.as_str(), redriven.to), (to, LifeStep::Redriven, "orders", to));
    assert_eq!((reset.step(), reset.to.unwrap().offset), (LifeStep::Reset, 3));
}

#[tokio::test]
async fn looked_up_messages_say_where_they_stand() {
    let (rig, topic) = Rig::with_topic().await;
    (0..4).for_each(|number| rig.broker.put(&topic, &format!("id-{number}"), "x"));
    rig.broker.with(|state| {
        let client = Some(ClientId::new("holder"));
        state.standing.insert(Offset(0), Standing::Done);
        state.standing.insert(Offset(1), Standing::InFlight { client, attempt: 3, until_ms: None });
        state.standing.insert(Offset(2), Standing::Waiting { attempts: 2, visible_ms: 9_000 });
    });
    let selector = Some(lookup_messages_request::Selector::ByOffset(QueueOffset { queue: 3, offset: 0 }));
    let request = LookupMessagesRequest { topic: "orders".into(), selector, delivery_groups: vec!["group".into()], ..Default::default() };
    let messages = client(&rig).await.lookup_messages(request).await.unwrap().into_inner().messages;
    let delivery = |state: DeliveryState, attempts, client_id: &str, visible_time| Delivery {
        group: "group".into(),
        state: state as i32,
        attempts,
        client_id: client_id.into(),
        visible_time,
    };
    let expected = [
        delivery(DeliveryState::Done, 0, "", None),
        delivery(DeliveryState::InFlight, 3, "holder", None),
        delivery(DeliveryState::Waiting, 2, "", at_ms(9_000)),
        delivery(DeliveryState::Ready, 0, "", None),
    ];
    assert_eq!(messages.into_iter().map(|mut message| message.deliveries.remove(0)).collect::<Vec<_>>(), expected);
}
