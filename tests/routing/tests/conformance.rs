//! What every broker must do, whether it is one shard or many behind one contract.

#![allow(clippy::unwrap_used)]

use gantry_model::contract::broker::*;
use gantry_model::handle::TransactionHandle;
use gantry_model::message::{DeadReason, Property};
use gantry_model::placement::{group_hash, queue_of_group, shards_of};
use gantry_model::{ClientId, Filter, GroupId, LeaseId, Message, MessageKind, Offset, QueueId, ReceiptHandle, ShardId, Topic, TopicId};
use gantry_platform::clock::{sleep, timeout};
use gantry_routing::catalogue::{CHATS, ELSEWHERE, HOSTS, LATECOMERS, ONE, ORDERS, READERS, SHRUNK, TWO, URGENT};
use gantry_routing::whole::{Kind, Whole};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// A delivery whose message was looked into.
#[derive(Clone, Debug, PartialEq)]
struct Got {
    id: String,
    handle: ReceiptHandle,
    attempt: u32,
}

impl Got {
    fn of(delivery: Delivery) -> Got {
        let mut id = String::new();
        delivery.message.each_property(&mut |property| {
            if let Property::Id(of) = property {
                id = of.to_owned();
            }
        });
        Got { id, handle: delivery.handle, attempt: delivery.attempt }
    }
}

fn normal(id: impl ToString) -> Message {
    Message { id: id.to_string(), body: "body".into(), keys: vec!["key".into()], ..Message::default() }
}

fn grouped(id: impl ToString, group: &str) -> Message {
    Message { kind: MessageKind::Fifo, group: Some(group.to_owned()), ..normal(id) }
}

fn ids(got: &[Got]) -> BTreeSet<String> {
    got.iter().map(|got| got.id.clone()).collect()
}

fn numbered(prefix: &str, count: usize) -> BTreeSet<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

trait Tested {
    fn topic(&self, id: TopicId) -> Arc<Topic>;
    fn wish(&self, group: GroupId, topic: TopicId) -> ReceiveRequest;
    async fn send(&self, topic: TopicId, messages: Vec<Message>) -> Vec<Result<Sent, SendError>>;
    async fn receive(&self, wish: ReceiveRequest) -> Vec<Got>;
    /// Receives until so many came.
    async fn collect(&self, group: GroupId, topic: TopicId, count: usize) -> Vec<Got>;
    async fn ack(&self, group: GroupId, got: &[Got]);
    async fn open(&self, group: GroupId, topic: TopicId) -> (u64, u64, u64);
}

impl Tested for Whole {
    fn topic(&self, id: TopicId) -> Arc<Topic> {
        self.catalogue.the_topic(id)
    }

    fn wish(&self, group: GroupId, topic: TopicId) -> ReceiveRequest {
        ReceiveRequest {
            group: self.catalogue.the_group(group),
            topic: self.topic(topic),
            filter: Arc::new(Filter::All),
            client: ClientId::new("host@1"),
            max: 32,
            lease: LeaseTerm::For(Duration::from_secs(60)),
            wait: Duration::ZERO,
            attempt_id: None,
            ordered_batch: true,
            member: "host".into(),
        }
    }

    async fn send(&self, topic: TopicId, messages: Vec<Message>) -> Vec<Result<Sent, SendError>> {
        let request = SendRequest { topic: self.topic(topic), messages, client: ClientId::new("producer"), wait: SOON };
        self.broker.send(request).await
    }

    async fn receive(&self, wish: ReceiveRequest) -> Vec<Got> {
        self.broker.receive(wish).await.unwrap().into_iter().map(Got::of).collect()
    }

    async fn collect(&self, group: GroupId, topic: TopicId, count: usize) -> Vec<Got> {
        let mut all = Vec::new();
        while all.len() < count {
            let got = self.receive(ReceiveRequest { wait: SOON, ..self.wish(group, topic) }).await;
            assert!(!got.is_empty(), "{} of {count} came", all.len());
            all.extend(got);
        }
        all
    }

    async fn ack(&self, group: GroupId, got: &[Got]) {
        let handles = got.iter().map(|got| got.handle).collect();
        let answers = self.broker.ack(&self.catalogue.the_group(group), handles).await;
        assert_eq!(answers, vec![Ok(()); got.len()]);
    }

    /// Ready, in flight and waiting messages of a group.
    async fn open(&self, group: GroupId, topic: TopicId) -> (u64, u64, u64) {
        let positions = self.broker.positions(&self.catalogue.the_group(group), &self.topic(topic)).await.unwrap();
        let queues: Vec<u32> = positions.iter().map(|position| position.queue.0).collect();
        assert_eq!(queues, (0..self.topic(topic).queues.len() as u32).collect::<Vec<_>>(), "each queue once, in order");
        let sum = |of: fn(&QueuePosition) -> u64| positions.iter().map(of).sum();
        (sum(|at| at.ready), sum(|at| at.in_flight), sum(|at| at.waiting))
    }
}

async fn a_batch_is_answered_in_order_and_each_group_has_its_queue(whole: &Whole) {
    let groups = ["a", "b", "c", "d", "e", "f"];
    let messages = (0..30).map(|number| grouped(number, groups[number % 6])).collect();
    let sent = whole.send(ORDERS, messages).await;
    let topic = whole.topic(ORDERS);
    let mut next: BTreeMap<QueueId, Vec<u64>> = BTreeMap::new();
    for (number, sent) in sent.into_iter().enumerate() {
        let sent = sent.unwrap();
        let queue = queue_of_group(&topic, group_hash(groups[number % 6])).unwrap().0;
        assert_eq!(sent.queue, queue, "message {number}");
        next.entry(queue).or_default().push(sent.offset.0);
    }
    for (queue, offsets) in next {
        assert_eq!(offsets, (0..offsets.len() as u64).collect::<Vec<_>>(), "queue {queue} has them in the order of the batch");
    }
}

async fn the_same_id_is_stored_once(whole: &Whole) {
    let mut batch: Vec<Message> = (0..20).map(normal).collect();
    batch.extend((0..20).map(normal));
    let sent = whole.send(ORDERS, batch).await;
    for number in 0..20 {
        let (first, again) = (sent[number].clone().unwrap(), sent[number + 20].clone().unwrap());
        assert_eq!((first.queue, first.offset, false, true), (again.queue, again.offset, first.duplicate, again.duplicate));
        let later = whole.send(ORDERS, vec![normal(number)]).await.remove(0).unwrap();
        assert_eq!((later.queue, later.offset, later.duplicate), (first.queue, first.offset, true));
    }
    assert_eq!(whole.open(ONE, ORDERS).await.0, 20);
}

async fn everything_sent_is_received_once_and_acknowledged_at_once(whole: &Whole) {
    let sent = whole.send(ORDERS, (0..60).map(|number| normal(format!("m{number}"))).collect()).await;
    assert!(sent.iter().all(Result::is_ok));
    let got = whole.collect(ONE, ORDERS, 60).await;
    assert_eq!((got.len(), ids(&got)), (60, numbered("m", 60)));
    assert!(got.iter().all(|got| got.attempt == 1));
    assert_eq!(whole.open(ONE, ORDERS).await, (0, 60, 0));
    whole.ack(ONE, &got).await;
    whole.ack(ONE, &got).await;
    assert_eq!(whole.open(ONE, ORDERS).await, (0, 0, 0));
    assert_eq!(whole.open(TWO, ORDERS).await, (60, 0, 0));
    assert_eq!(whole.broker.topics_of(&whole.catalogue.the_group(ONE)).await.unwrap(), [ORDERS]);
}

async fn handles_of_others_are_refused(whole: &Whole) {
    whole.send(ORDERS, vec![normal("m")]).await;
    let handle = whole.collect(ONE, ORDERS, 1).await[0].handle;
    let nowhere = ReceiptHandle { shard: ShardId(999), ..handle };
    let old = ReceiptHandle { lease: LeaseId(handle.lease.0 + 7), ..handle };
    let one = whole.catalogue.the_group(ONE);
    let refused = whole.broker.ack(&whole.catalogue.the_group(TWO), vec![handle]).await;
    assert_eq!(refused, [Err(LeaseError::Foreign)]);
    let answers = whole.broker.ack(&one, vec![old, handle]).await;
    assert!(answers[0].is_err() && answers[1].is_ok(), "{answers:?}");
    assert!(whole.broker.dead_letter(&one, ReceiptHandle { group: TWO, ..handle }).await.is_err());
    if whole.locals.len() > 1 {
        assert_eq!(whole.broker.ack(&one, vec![nowhere]).await, [Err(LeaseError::Ended)]);
        let unknown = TransactionHandle { shard: ShardId(999), topic: ORDERS, id: 0 };
        assert_eq!(whole.broker.resume_transaction(unknown).await, Err(EndError::Unknown));
    }
    whole.broker.release(vec![nowhere, handle]);
}

async fn deliveries_can_be_kept_given_back_and_suspended(whole: &Whole) {
    whole.send(ORDERS, vec![normal("m")]).await;
    let group = whole.catalogue.the_group(ONE);
    let change = |handle, after_ms, attempt| VisibilityChange {
        group: group.clone(),
        handle,
        after: Duration::from_millis(after_ms),
        failed_for_at_least: Duration::ZERO,
        attempt,
    };
    let first = whole.collect(ONE, ORDERS, 1).await.remove(0);
    whole.broker.change_visibility(change(first.handle, 60_000, AttemptCount::Counts)).await.unwrap();
    whole.broker.change_visibility(change(first.handle, 0, AttemptCount::Suspended)).await.unwrap();
    let second = whole.collect(ONE, ORDERS, 1).await.remove(0);
    whole.broker.change_visibility(change(second.handle, 0, AttemptCount::Counts)).await.unwrap();
    let third = whole.collect(ONE, ORDERS, 1).await.remove(0);
    assert_eq!([first.attempt, second.attempt, third.attempt], [1, 1, 2]);
    whole.broker.release(vec![third.handle]);
    assert_eq!(whole.collect(ONE, ORDERS, 1).await[0].attempt, 2);
}

async fn a_receive_that_is_dropped_takes_nothing_along(whole: &Whole) {
    for patience in [0, 1, 5, 30] {
        let wish = ReceiveRequest { wait: SOON, ..whole.wish(ONE, ORDERS) };
        assert!(timeout(Duration::from_millis(patience), whole.broker.receive(wish)).await.is_err());
    }
    // One whose answer came and was not looked at.
    let wish = ReceiveRequest { wait: SOON, ..whole.wish(ONE, ORDERS) };
    let mut unwatched = Box::pin(whole.broker.receive(wish));
    assert!(timeout(Duration::from_millis(30), &mut unwatched).await.is_err());
    whole.send(ORDERS, vec![normal("m")]).await;
    sleep(Duration::from_millis(30)).await;
    drop(unwatched);
    let got = whole.collect(ONE, ORDERS, 1).await;
    assert_eq!((got[0].attempt, whole.open(ONE, ORDERS).await), (1, (0, 1, 0)));
}

async fn a_poll_ends_empty_at_its_time(whole: &Whole) {
    let began = whole.clock.mono();
    assert!(whole.receive(ReceiveRequest { wait: Duration::from_millis(120), ..whole.wish(ONE, ORDERS) }).await.is_empty());
    assert!(whole.clock.mono() - began >= Duration::from_millis(120));
}

async fn a_poll_that_waits_gets_what_comes_to_any_shard(whole: &Whole) {
    let name = |number: usize| format!("chat-{number}");
    let sync = LiteSync {
        group: whole.catalogue.the_group(READERS),
        topic: whole.topic(CHATS),
        client: ClientId::new("host@1"),
        names: (0..16).map(name).collect(),
        elsewhere: Vec::new(),
        change: LiteChange::Add,
        start: LiteStart::Last,
    };
    whole.broker.sync_lite(sync).await.unwrap();
    for number in 0..16 {
        let lite = Message { kind: MessageKind::Lite, lite_topic: Some(name(number)), ..normal(format!("lite{number}")) };
        let kinds = [(ORDERS, ONE, normal(number)), (ORDERS, TWO, grouped(format!("in{number}"), &number.to_string())), (CHATS, READERS, lite)];
        for (topic, group, message) in kinds {
            let id = message.id.clone();
            let wish = ReceiveRequest { wait: SOON, ..whole.wish(group, topic) };
            let mut poll = Box::pin(whole.broker.receive(wish));
            let early = timeout(Duration::from_millis(3), &mut poll).await;
            whole.send(topic, vec![message]).await.remove(0).unwrap();
            let deliveries = if let Ok(early) = early { early } else { poll.await };
            let got: Vec<Got> = deliveries.unwrap().into_iter().map(Got::of).collect();
            whole.ack(group, &got).await;
            assert!(!got.is_empty(), "nothing came of {id}");
        }
    }
}

async fn an_attempt_that_is_repeated_gets_the_same_batch(whole: &Whole) {
    whole.send(ORDERS, (0..40).map(normal).collect()).await;
    let attempt = |id: &str| ReceiveRequest { attempt_id: Some(id.into()), max: 4, wait: SOON, ..whole.wish(ONE, ORDERS) };
    let first = whole.receive(attempt("x")).await;
    let other = whole.receive(attempt("y")).await;
    for _ in 0..10 {
        assert_eq!((whole.receive(attempt("x")).await, whole.receive(attempt("y")).await), (first.clone(), other.clone()));
    }
    assert!(ids(&first).is_disjoint(&ids(&other)));
    assert_eq!(whole.open(ONE, ORDERS).await.1 as usize, first.len() + other.len());
    whole.ack(ONE, &first).await;
    let next = whole.receive(attempt("x")).await;
    assert!(!next.is_empty() && ids(&next).is_disjoint(&ids(&first)));
}

async fn offers_are_made_in_turn_and_lease_nothing(whole: &Whole) {
    let wish = |wait_ms| ReceiveRequest { wait: Duration::from_millis(wait_ms), ..whole.wish(ONE, ORDERS) };
    assert!(whole.broker.join(&wish(0)).await.unwrap().is_empty());
    assert!(whole.broker.offered(&wish(50)).await.unwrap().is_none(), "there is nothing to offer");
    whole.send(ORDERS, vec![normal("m")]).await;
    let (ask, ask_too) = (wish(10_000), wish(10_000));
    let first = whole.broker.offered(&ask).await.unwrap().unwrap();
    assert_eq!(whole.open(ONE, ORDERS).await, (1, 0, 0), "an offer leases nothing");
    let mut second = Box::pin(whole.broker.offered(&ask_too));
    assert!(timeout(Duration::from_millis(10), &mut second).await.is_err(), "there is one offer for one message");
    drop(first);
    let second = second.await.unwrap().unwrap();
    let got: Vec<Got> = whole.broker.take(&ask_too, second).await.unwrap().into_iter().map(Got::of).collect();
    assert_eq!(got.len(), 1);
    assert!(whole.broker.offered(&wish(20)).await.unwrap().is_none());
    assert_eq!(whole.broker.join(&wish(0)).await.unwrap().len(), 0);
}

async fn members_of_a_broadcasting_group_get_everything(whole: &Whole) {
    let member = |name: &str| ReceiveRequest { member: name.into(), wait: SOON, ..whole.wish(HOSTS, ORDERS) };
    whole.send(ORDERS, (0..20).map(|number| normal(format!("m{number}"))).collect()).await;
    let mut handles = Vec::new();
    for name in ["a", "b"] {
        let mut all = Vec::new();
        while all.len() < 20 {
            all.extend(whole.receive(member(name)).await);
        }
        assert_eq!(ids(&all), numbered("m", 20), "member {name}");
        handles.extend(all);
    }
    whole.ack(HOSTS, &handles).await;
    assert_eq!(whole.open(HOSTS, ORDERS).await, (0, 0, 0));
}

async fn a_group_that_begins_late_misses_nothing_behind_its_first_receive(whole: &Whole) {
    whole.send(ORDERS, (0..20).map(|number| normal(format!("old{number}"))).collect()).await;
    assert!(whole.receive(whole.wish(LATECOMERS, ORDERS)).await.is_empty());
    whole.send(ORDERS, (0..30).map(|number| normal(format!("new{number}"))).collect()).await;
    let got = whole.collect(LATECOMERS, ORDERS, 30).await;
    assert_eq!(ids(&got), numbered("new", 30));
}

async fn members_with_different_filters_each_get_theirs(whole: &Whole) {
    let member = |tag: &str| {
        let filter = Arc::new(Filter::Tags(vec![tag.into()]));
        ReceiveRequest { filter, client: ClientId::new(tag), wait: Duration::from_millis(100), ..whole.wish(ONE, ORDERS) }
    };
    for tag in ["red", "blue"] {
        assert!(whole.receive(member(tag)).await.is_empty());
    }
    let tagged = |number: usize| Message { tag: Some(if number.is_multiple_of(2) { "red" } else { "blue" }.into()), ..normal(number) };
    whole.send(ORDERS, (0..40).map(tagged).collect()).await;
    for (tag, rest) in [("red", 0), ("blue", 1)] {
        let mut got = Vec::new();
        while got.len() < 20 {
            let more = whole.receive(member(tag)).await;
            assert!(!more.is_empty(), "{} came to {tag}", got.len());
            got.extend(more);
        }
        assert!(got.iter().all(|got| got.id.parse::<usize>().unwrap() % 2 == rest), "{tag}");
        whole.ack(ONE, &got).await;
    }
    assert!(whole.receive(member("red")).await.is_empty());
}

async fn message_groups_keep_their_order_over_the_whole_topic(whole: &Whole) {
    let groups = ["a", "b", "c", "d", "e"];
    for number in 0..50 {
        whole.send(ORDERS, vec![grouped(number, groups[number % 5])]).await.remove(0).unwrap();
    }
    let mut seen: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut held: Vec<Got> = Vec::new();
    while seen.values().map(Vec::len).sum::<usize>() < 50 {
        let got = whole.receive(ReceiveRequest { max: 3, wait: Duration::from_millis(50), ..whole.wish(ONE, ORDERS) }).await;
        if got.is_empty() {
            // All groups wait for what is held.
            assert!(!held.is_empty());
            whole.ack(ONE, &held).await;
            held.clear();
        }
        for got in got {
            let number: usize = got.id.parse().unwrap();
            seen.entry(number % 5).or_default().push(number);
            held.push(got);
        }
    }
    assert!(seen.values().all(|numbers| numbers.is_sorted()), "{seen:?}");
}

async fn the_highest_priority_comes_first(whole: &Whole) {
    let urgent = |number: usize| Message { kind: MessageKind::Priority, priority: Some((number * 7 % 10) as u8), ..normal(number) };
    assert!(whole.send(URGENT, (0..20).map(urgent).collect()).await.iter().all(Result::is_ok));
    let mut priorities = Vec::new();
    for _ in 0..20 {
        let got = whole.receive(ReceiveRequest { max: 1, wait: SOON, ..whole.wish(ONE, URGENT) }).await;
        priorities.push(got[0].id.parse::<usize>().unwrap() * 7 % 10);
    }
    let sorted: Vec<usize> = (0..10).rev().flat_map(|priority| [priority; 2]).collect();
    assert_eq!(priorities, sorted);
}

async fn dead_letters_go_again_wherever_they_belong(whole: &Whole) {
    whole.send(ORDERS, (0..12).map(|number| grouped(format!("m{number}"), &format!("g{number}"))).collect()).await;
    let group = whole.catalogue.the_group(ONE);
    for got in whole.collect(ONE, ORDERS, 12).await {
        whole.broker.dead_letter(&group, got.handle).await.unwrap();
        whole.broker.dead_letter(&group, got.handle).await.unwrap();
    }
    let dead = whole.topic(group.dead_letter);
    let all = Query::Stored { from_ms: 0, to_ms: u64::MAX };
    let letters = whole.broker.find(&dead, all.clone(), 100).await.unwrap();
    assert_eq!(letters.len(), 12);
    assert!(letters.iter().all(|letter| letter.origin.as_ref().unwrap().reason == DeadReason::Forwarded));
    let named: Vec<LetterId> = letters.iter().map(|letter| LetterId { queue: letter.queue, offset: letter.offset }).collect();
    // Four go back, four go to a topic on one shard, four are removed.
    let back = whole.broker.redrive(&group, named[..4].to_vec(), None).await;
    assert!(back.iter().all(Result::is_ok), "{back:?}");
    let elsewhere = whole.broker.redrive(&group, named[4..8].to_vec(), Some(whole.topic(ELSEWHERE))).await;
    assert!(elsewhere.iter().all(Result::is_ok), "{elsewhere:?}");
    assert_eq!(whole.broker.purge(&group, named[8..].to_vec()).await, vec![Ok(()); 4]);
    assert_eq!(whole.broker.purge(&group, named.clone()).await, vec![Err(LetterError::Gone); 12]);
    assert_eq!(whole.broker.redrive(&group, vec![named[0]], None).await, [Err(LetterError::Gone)]);
    assert!(whole.broker.find(&dead, all, 100).await.unwrap().is_empty());
    let texts = |letters: &[gantry_model::message::StoredMessage]| letters.iter().map(|letter| letter.message.id.clone()).collect::<BTreeSet<_>>();
    assert_eq!(ids(&whole.collect(ONE, ORDERS, 4).await), texts(&letters[..4]));
    assert_eq!(ids(&whole.collect(ONE, ELSEWHERE, 4).await), texts(&letters[4..8]));
}

async fn transactions_end_where_they_began(whole: &Whole) {
    let half = |number: usize| Message { kind: MessageKind::Transaction, ..normal(format!("m{number}")) };
    let mut handles = Vec::new();
    for number in 0..12 {
        let sent = whole.send(ORDERS, vec![half(number)]).await.remove(0).unwrap();
        let Some(Ticket::Transaction(handle)) = sent.ticket else { panic!("a transaction has a handle") };
        handles.push(handle);
    }
    assert!(whole.receive(whole.wish(ONE, ORDERS)).await.is_empty());
    let topic = whole.topic(ORDERS);
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = whole.broker.open_transactions(&topic, after, 5).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 5);
        after = Some(last.handle);
        listed.extend(page.into_iter().map(|open| open.handle));
    }
    assert!(listed.is_sorted());
    assert_eq!(listed.iter().collect::<BTreeSet<_>>(), handles.iter().collect::<BTreeSet<_>>());
    for (number, handle) in handles.iter().enumerate() {
        let resolution = if number % 2 == 0 { Resolution::Commit } else { Resolution::Rollback };
        for _ in 0..2 {
            whole.broker.end_transaction(&topic, *handle, resolution, EndedBy::Producer).await.unwrap();
        }
    }
    let contradiction = whole.broker.end_transaction(&topic, handles[0], Resolution::Rollback, EndedBy::Producer).await;
    assert_eq!(contradiction, Err(EndError::Contradicts { ended: Resolution::Commit }));
    let unknown = TransactionHandle { id: 1_000, ..handles[0] };
    assert_eq!(whole.broker.end_transaction(&topic, unknown, Resolution::Commit, EndedBy::Producer).await, Err(EndError::Unknown));
    let got = whole.collect(ONE, ORDERS, 6).await;
    assert_eq!(ids(&got), (0..12).step_by(2).map(|number| format!("m{number}")).collect());
    assert!(whole.broker.open_transactions(&topic, None, 10).await.unwrap().is_empty());
}

async fn delayed_messages_come_later_or_are_taken_back(whole: &Whole) {
    let now = whole.clock.wall_ms();
    let delayed = |number: usize, ms| Message { kind: MessageKind::Delay, deliver_ms: Some(now + ms), ..normal(format!("m{number}")) };
    let mut messages: Vec<Message> = (0..8).map(|number| delayed(number, 300)).collect();
    messages.extend((8..12).map(|number| delayed(number, 60_000)));
    let sent = whole.send(ORDERS, messages).await;
    for sent in &sent[8..] {
        let Some(Ticket::Recall(handle)) = sent.clone().unwrap().ticket else { panic!("a delayed message has a handle") };
        whole.broker.recall(&whole.topic(ORDERS), handle.clone()).await.unwrap();
        whole.broker.recall(&whole.topic(ORDERS), handle).await.unwrap();
    }
    assert_eq!(ids(&whole.collect(ONE, ORDERS, 8).await), numbered("m", 8));
    let pending: u64 = whole.broker.shards().await.iter().map(|shard| shard.timers_pending).sum();
    assert_eq!(pending, 0);
}

async fn queues_are_read_by_offset_and_positions_committed(whole: &Whole) {
    whole.send(ORDERS, (0..40).map(normal).collect()).await;
    let (topic, group) = (whole.topic(ORDERS), whole.catalogue.the_group(TWO));
    let bounds = whole.broker.queues(&topic).await.unwrap();
    assert_eq!(bounds.iter().map(|bounds| bounds.queue.0).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    assert_eq!(bounds.iter().map(|bounds| bounds.max.0).sum::<u64>(), 40);
    let pull =
        |queue, offset| PullRequest { topic: topic.clone(), queue, offset, max: 32, filter: Arc::new(Filter::All), wait: Duration::from_millis(20) };
    let mut seen = BTreeSet::new();
    for QueueBounds { queue, max, .. } in bounds {
        let pulled = whole.broker.pull(pull(queue, Offset(0))).await.unwrap();
        assert_eq!(pulled.next, max);
        seen.extend(pulled.messages.iter().map(|message| message.message.id.clone()));
        assert_eq!(whole.broker.committed(&group, &topic, queue).await, Ok(None));
        whole.broker.commit_offset(&group, &topic, queue, max).await.unwrap();
        assert_eq!(whole.broker.committed(&group, &topic, queue).await, Ok(Some(max)));
        assert_eq!(whole.broker.offset_at(&topic, queue, 0).await, Ok(Offset(0)));
    }
    assert_eq!(seen.len(), 40);
    let nowhere = QueueId(77);
    assert_eq!(whole.broker.pull(pull(nowhere, Offset(0))).await, Err(PullError::NoSuchQueue));
    assert_eq!(whole.broker.offset_at(&topic, nowhere, 0).await, Err(LookupError::NoSuchQueue));
    assert_eq!(whole.broker.commit_offset(&group, &topic, nowhere, Offset(0)).await, Err(OffsetError::NoSuchQueue));
    assert_eq!(whole.broker.committed(&group, &topic, nowhere).await, Ok(None));
    assert_eq!(whole.broker.receive(whole.wish(TWO, ORDERS)).await.unwrap_err(), ReceiveError::GroupPulls);
}

async fn a_group_that_received_anywhere_does_not_commit_anywhere(whole: &Whole) {
    whole.send(ORDERS, vec![normal("only one")]).await;
    assert_eq!(whole.collect(ONE, ORDERS, 1).await.len(), 1);
    for queue in (0..8).map(QueueId) {
        let (group, topic) = (whole.catalogue.the_group(ONE), whole.topic(ORDERS));
        assert_eq!(whole.broker.commit_offset(&group, &topic, queue, Offset(0)).await, Err(OffsetError::GroupReceives));
    }
}

async fn positions_move_on_all_queues_or_on_none(whole: &Whole) {
    // One queue has more than the others.
    whole.send(ORDERS, (0..40).map(normal).collect()).await;
    whole.send(ORDERS, (100..130).map(|number| grouped(number, "a")).collect()).await;
    let mut got = Vec::new();
    while got.len() < 70 {
        let more = whole.collect(ONE, ORDERS, 1).await;
        whole.ack(ONE, &more).await;
        got.extend(more);
    }
    let seek = |queues: &[u32], target, dry_run| SeekRequest {
        group: whole.catalogue.the_group(ONE),
        topic: whole.topic(ORDERS),
        queues: queues.iter().map(|&queue| QueueId(queue)).collect(),
        target,
        dry_run,
    };
    let far = whole.broker.seek(seek(&[], SeekTarget::Offset(Offset(30)), false)).await;
    assert!(matches!(far, Err(OffsetError::OutOfRange { .. })), "{far:?}");
    assert_eq!(whole.open(ONE, ORDERS).await, (0, 0, 0), "nothing was moved anywhere");
    let tried = whole.broker.seek(seek(&[], SeekTarget::Earliest, true)).await.unwrap();
    assert_eq!((tried.len(), whole.open(ONE, ORDERS).await), (8, (0, 0, 0)));
    assert_eq!(whole.broker.seek(seek(&[0, 77], SeekTarget::Earliest, false)).await, Err(OffsetError::NoSuchQueue));
    let some = whole.broker.seek(seek(&[6, 1], SeekTarget::Earliest, false)).await.unwrap();
    assert_eq!(some.iter().map(|moved| moved.queue.0).collect::<Vec<_>>(), [1, 6]);
    let all = whole.broker.seek(seek(&[], SeekTarget::Earliest, false)).await.unwrap();
    assert_eq!(all.iter().map(|moved| moved.queue.0).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    assert_eq!(whole.open(ONE, ORDERS).await, (70, 0, 0));
    let stale = whole.broker.ack(&whole.catalogue.the_group(ONE), vec![got[0].handle]).await;
    assert_eq!(stale, [Err(LeaseError::Ended)]);
}

async fn messages_are_found_and_their_stories_told(whole: &Whole) {
    let sent: Vec<Sent> = whole.send(ORDERS, (0..30).map(normal).collect()).await.into_iter().map(Result::unwrap).collect();
    let (topic, group) = (whole.topic(ORDERS), whole.catalogue.the_group(ONE));
    let found = whole.broker.find(&topic, Query::MessageId("7".into()), 10).await.unwrap();
    assert_eq!((found.len(), found[0].queue, found[0].offset), (1, sent[7].queue, sent[7].offset));
    let sorted = |found: &[gantry_model::message::StoredMessage]| found.is_sorted_by_key(|message| (message.store_ms, message.queue, message.offset));
    for query in [Query::Key("key".into()), Query::Stored { from_ms: 0, to_ms: u64::MAX }] {
        let all = whole.broker.find(&topic, query.clone(), 100).await.unwrap();
        assert!(all.len() == 30 && sorted(&all));
        let some = whole.broker.find(&topic, query, 12).await.unwrap();
        assert!(some.len() == 12 && sorted(&some));
    }
    let one = whole.broker.find(&topic, Query::Offset { queue: sent[7].queue, offset: sent[7].offset }, 1).await.unwrap();
    assert_eq!(one[0].message.id, "7");
    let places: Vec<(QueueId, Offset)> = sent.iter().map(|sent| (sent.queue, sent.offset)).collect();
    assert_eq!(whole.broker.skip(&group, &topic, sent[3].queue, vec![sent[3].offset]).await, Ok(1));
    let standings = whole.broker.standing(&group, &topic, places).await.unwrap();
    let done: Vec<usize> = standings.iter().enumerate().filter(|(_, standing)| **standing == Standing::Done).map(|(number, _)| number).collect();
    assert_eq!((standings.len(), done), (30, vec![3]));
    let life = whole.broker.life(&topic, sent[3].queue, sent[3].offset).await.unwrap();
    let steps: Vec<LifeStep> = life.events.into_iter().map(|event| event.what).collect();
    assert_eq!(steps, [LifeStep::Stored, LifeStep::Skipped { group: ONE }]);
    assert!(whole.broker.life(&topic, QueueId(77), Offset(0)).await.unwrap().events.is_empty());
}

async fn lite_topics_live_on_one_shard_each(whole: &Whole) {
    let lite = |number: usize, name: &str| Message { kind: MessageKind::Lite, lite_topic: Some(name.into()), ..normal(format!("m{number}")) };
    let names: Vec<String> = (0..24).map(|number| format!("chat-{number:02}")).collect();
    let client = ClientId::new("host@1");
    let sync = |names: Vec<String>, change| LiteSync {
        group: whole.catalogue.the_group(READERS),
        topic: whole.topic(CHATS),
        client: client.clone(),
        names,
        elsewhere: Vec::new(),
        change,
        start: LiteStart::Last,
    };
    whole.broker.sync_lite(sync(names[..20].to_vec(), LiteChange::Replace)).await.unwrap();
    let messages: Vec<Message> = (0..48).map(|number| lite(number, &names[number % 24])).collect();
    assert!(whole.send(CHATS, messages).await.iter().all(Result::is_ok));
    let mut got = Vec::new();
    while got.len() < 40 {
        let more = whole.receive(ReceiveRequest { wait: SOON, ..whole.wish(READERS, CHATS) }).await;
        assert!(!more.is_empty(), "{} came", got.len());
        whole.ack(READERS, &more).await;
        got.extend(more);
    }
    assert!(got.iter().all(|got| got.id[1..].parse::<usize>().unwrap() % 24 < 20));
    let (mut listed, mut after) = (Vec::new(), String::new());
    loop {
        let page = whole.broker.lite_topics(&whole.topic(CHATS), &after, 7).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.name.clone();
        listed.extend(page);
    }
    assert_eq!(listed.iter().map(|lite| lite.name.clone()).collect::<Vec<_>>(), names);
    assert!(listed.iter().all(|lite| lite.max == Offset(2) && lite.subscribers == u64::from(lite.name < names[20])), "{listed:?}");
    let mut numbers = BTreeSet::new();
    for number in [0, 1, 2, 3, 4, 5, 6, 7, 23] {
        let topic = whole.topic(CHATS);
        let found = whole.broker.find(&topic, Query::MessageId(format!("m{number}")), 10).await.unwrap().remove(0);
        assert!(numbers.insert(found.queue), "each lite topic has a number of its own");
        let query = Query::Offset { queue: found.queue, offset: found.offset };
        assert_eq!(whole.broker.find(&topic, query, 1).await.unwrap()[0].message.id, format!("m{number}"));
        assert_eq!(whole.broker.life(&topic, found.queue, found.offset).await.unwrap().events[0].what, LifeStep::Stored);
        let standing = whole.broker.standing(&whole.catalogue.the_group(READERS), &topic, vec![(found.queue, found.offset)]).await.unwrap();
        assert_eq!(standing[0] == Standing::Done, number < 20);
    }
    // A topic that takes no messages any more keeps its subscribers.
    let closed = Topic { permission: gantry_model::topic::Permission::Read, ..(*whole.topic(CHATS)).clone() };
    let again = LiteSync { topic: Arc::new(closed), ..sync(names[..20].to_vec(), LiteChange::Replace) };
    whole.broker.sync_lite(again).await.unwrap();
    let kept = whole.broker.lite_topics(&whole.topic(CHATS), "", 100).await.unwrap();
    assert_eq!(kept.iter().map(|lite| lite.subscribers).sum::<u64>(), 20);
    whole.broker.sync_lite(sync(Vec::new(), LiteChange::Clear)).await.unwrap();
    let left = whole.broker.lite_topics(&whole.topic(CHATS), "", 100).await.unwrap();
    assert!(left.iter().all(|lite| lite.subscribers == 0));
}

async fn lite_topics_from_before_a_topic_grew_are_still_read(whole: &Whole) {
    let names: Vec<String> = (0..24).map(|number| format!("chat-{number:02}")).collect();
    let topic = whole.topic(CHATS);
    let small = Arc::new(Topic { queues: topic.queues[..1].to_vec(), ..(*topic).clone() });
    let lite = |number: usize| Message { kind: MessageKind::Lite, lite_topic: Some(names[number % 24].clone()), ..normal(format!("m{number}")) };
    let send = async |topic: &Arc<Topic>, numbers: std::ops::Range<usize>| {
        let (topic, messages) = (topic.clone(), numbers.map(lite).collect());
        let sent = whole.broker.send(SendRequest { topic, messages, client: ClientId::new("p"), wait: SOON }).await;
        assert!(sent.iter().all(Result::is_ok));
    };
    send(&small, 0..24).await;
    let sync = LiteSync {
        group: whole.catalogue.the_group(READERS),
        topic: topic.clone(),
        client: ClientId::new("host@1"),
        names: names.clone(),
        elsewhere: Vec::new(),
        change: LiteChange::Replace,
        start: LiteStart::Min,
    };
    whole.broker.sync_lite(sync).await.unwrap();
    send(&topic, 24..48).await;
    let mut got = Vec::new();
    while got.len() < 48 {
        let more = whole.receive(ReceiveRequest { wait: SOON, ..whole.wish(READERS, CHATS) }).await;
        assert!(!more.is_empty(), "{} came", got.len());
        whole.ack(READERS, &more).await;
        got.extend(more);
    }
    assert_eq!(ids(&got), numbered("m", 48));
    let listed = whole.broker.lite_topics(&topic, "", 100).await.unwrap();
    assert_eq!(listed.iter().map(|lite| lite.name.clone()).collect::<Vec<_>>(), names, "each name once");
}

async fn queues_that_take_nothing_still_give(whole: &Whole) {
    let (topic, shards) = (whole.topic(SHRUNK), whole.locals.len());
    // As it was before it shrank.
    let wide = Arc::new(Topic {
        queues: topic.queues.iter().map(|queue| gantry_model::topic::Queue { state: Default::default(), ..*queue }).collect(),
        ..(*topic).clone()
    });
    let messages = (0..60).map(|number| normal(format!("m{number}"))).collect();
    let request = SendRequest { topic: wide, messages, client: ClientId::new("p"), wait: SOON };
    assert!(whole.broker.send(request).await.iter().all(Result::is_ok));
    let later = whole.send(SHRUNK, (60..80).map(|number| normal(format!("m{number}"))).collect()).await;
    assert!(later.iter().all(|sent| (sent.clone().unwrap().queue.0 as usize) < shards), "only the first half takes messages");
    assert_eq!(ids(&whole.collect(ONE, SHRUNK, 80).await), numbered("m", 80));
}

async fn a_broker_that_drains_ends_its_polls(whole: &Whole) {
    let wish = ReceiveRequest { wait: SOON, ..whole.wish(ONE, ORDERS) };
    let mut poll = Box::pin(whole.broker.receive(wish));
    assert!(timeout(Duration::from_millis(30), &mut poll).await.is_err());
    whole.broker.drain().await;
    assert!(poll.await.unwrap().is_empty());
    assert_eq!(whole.send(ORDERS, vec![normal("late"), grouped("late-too", "a")]).await, vec![Err(SendError::Draining); 2]);
}

async fn every_shard_tells_how_it_is(whole: &Whole) {
    whole.send(ORDERS, (0..40).map(normal).collect()).await;
    let told = async {
        loop {
            let shards = whole.broker.shards().await;
            assert_eq!(shards.iter().map(|status| status.shard).collect::<Vec<_>>(), shards_of(&whole.topic(ORDERS)));
            if shards.iter().map(|status| status.messages_stored).sum::<u64>() == 40 {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, told).await.unwrap();
}

macro_rules! every_broker {
    ($($case:ident),+ $(,)?) => {
        every_broker!(one_shard, Kind::Local, $($case),+);
        every_broker!(routed_over_one, Kind::Routed(1), $($case),+);
        every_broker!(routed_over_eight, Kind::Routed(8), $($case),+);
        every_broker!(behind_a_stream, Kind::Remote, $($case),+);
        every_broker!(routed_over_eight_behind_streams, Kind::RoutedRemotes(8), $($case),+);
    };
    ($name:ident, $kind:expr, $($case:ident),+) => {
        mod $name {
            use super::*;

            $(#[tokio::test]
            async fn $case() {
                super::$case(&Whole::new($kind)).await;
            })+
        }
    };
}

every_broker!(
    a_batch_is_answered_in_order_and_each_group_has_its_queue,
    the_same_id_is_stored_once,
    everything_sent_is_received_once_and_acknowledged_at_once,
    handles_of_others_are_refused,
    deliveries_can_be_kept_given_back_and_suspended,
    a_receive_that_is_dropped_takes_nothing_along,
    a_poll_ends_empty_at_its_time,
    a_poll_that_waits_gets_what_comes_to_any_shard,
    an_attempt_that_is_repeated_gets_the_same_batch,
    offers_are_made_in_turn_and_lease_nothing,
    members_of_a_broadcasting_group_get_everything,
    a_group_that_begins_late_misses_nothing_behind_its_first_receive,
    members_with_different_filters_each_get_theirs,
    message_groups_keep_their_order_over_the_whole_topic,
    the_highest_priority_comes_first,
    dead_letters_go_again_wherever_they_belong,
    transactions_end_where_they_began,
    delayed_messages_come_later_or_are_taken_back,
    queues_are_read_by_offset_and_positions_committed,
    a_group_that_received_anywhere_does_not_commit_anywhere,
    positions_move_on_all_queues_or_on_none,
    messages_are_found_and_their_stories_told,
    lite_topics_live_on_one_shard_each,
    a_broker_that_drains_ends_its_polls,
    every_shard_tells_how_it_is,
);

/// These hand the broker a topic that its metadata never had; behind a stream topics go by number.
mod topics_that_changed {
    use super::*;

    #[tokio::test]
    async fn one_shard() {
        lite_topics_from_before_a_topic_grew_are_still_read(&Whole::new(Kind::Local)).await;
        queues_that_take_nothing_still_give(&Whole::new(Kind::Local)).await;
    }

    #[tokio::test]
    async fn routed() {
        for shards in [1, 8] {
            lite_topics_from_before_a_topic_grew_are_still_read(&Whole::new(Kind::Routed(shards))).await;
            queues_that_take_nothing_still_give(&Whole::new(Kind::Routed(shards))).await;
        }
    }
}
