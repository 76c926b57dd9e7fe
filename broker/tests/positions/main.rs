//! Pulling, positions, dead letters and the life of a message through the whole broker, on a disk in memory and over restarts.

#![allow(clippy::unwrap_used)]

mod catalogue;

use bytes::Bytes;
use catalogue::Catalogue;
use gantry_broker::recover::Sizes;
use gantry_broker::{LocalBroker, Options, Retention};
use gantry_model::contract::Broker;
use gantry_model::contract::broker::*;
use gantry_model::message::{DeadReason, Property};
use gantry_model::{ClientId, Filter, GroupId, Message, Offset, QueueId, ReceiptHandle, ShardId, Topic, TopicId};
use gantry_platform::clock::{SystemClock, sleep, timeout};
use gantry_platform::disk::SharedDisk;
use gantry_platform::disk::memory::MemoryDisk;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A broker, and what it needs to be started again.
struct Rig {
    broker: Arc<LocalBroker>,
    disk: SharedDisk,
    catalogue: Arc<Catalogue>,
}

fn open(disk: &SharedDisk, catalogue: &Arc<Catalogue>, kept_bytes: Option<u64>) -> Arc<LocalBroker> {
    LocalBroker::open(Options {
        disk: disk.clone(),
        dir: PathBuf::from("/data/shard-0"),
        clock: Arc::new(SystemClock::new()),
        metadata: catalogue.clone(),
        shard: ShardId(0),
        cluster: [7; 16],
        retention: Retention { age_ms: 3_600_000, bytes: kept_bytes },
        skip_damaged: false,
        sizes: Sizes { first_segment: 32 * 1024, max_segment: 64 * 1024, checkpoint: 16 * 1024 },
    })
    .unwrap()
}

impl Rig {
    fn new() -> Rig {
        let disk: SharedDisk = Arc::new(MemoryDisk::new());
        disk.create_dir_all(&PathBuf::from("/data")).unwrap();
        let catalogue = catalogue::new();
        Rig { broker: open(&disk, &catalogue, None), disk, catalogue }
    }

    fn restart(self) -> Rig {
        self.restart_keeping(None)
    }

    fn restart_keeping(self, bytes: Option<u64>) -> Rig {
        assert!(self.broker.close());
        Rig { broker: open(&self.disk, &self.catalogue, bytes), ..self }
    }

    fn orders(&self) -> Arc<Topic> {
        self.catalogue.the_topic(TopicId(1))
    }

    /// Sends messages of one message group, so that all lie in one queue; answers the queue.
    async fn send(&self, numbers: std::ops::Range<u32>) -> QueueId {
        let mut queue = None;
        for number in numbers {
            let tag = if number % 10 == 3 { "three" } else { "other" };
            let message = Message {
                id: format!("id-{number}"),
                kind: gantry_model::MessageKind::Fifo,
                group: Some("g".into()),
                tag: Some(tag.into()),
                keys: vec![format!("key-{number}")],
                properties: vec![("n".into(), number.to_string())],
                body: format!("body {number}").into(),
                ..Message::default()
            };
            let request = SendRequest { topic: self.orders(), messages: vec![message], client: ClientId::new("p"), wait: Duration::ZERO };
            let sent = self.broker.send(request).await.remove(0).unwrap();
            assert_eq!(*queue.get_or_insert(sent.queue), sent.queue);
        }
        queue.unwrap()
    }

    fn pull(&self, queue: QueueId, offset: u64, wait_ms: u64, filter: Filter) -> PullRequest {
        PullRequest { topic: self.orders(), queue, offset: Offset(offset), max: 32, filter: Arc::new(filter), wait: Duration::from_millis(wait_ms) }
    }

    async fn receive(&self, group: u32, topic: TopicId, max: u32) -> Result<Vec<Got>, ReceiveError> {
        let request = ReceiveRequest {
            group: self.catalogue.the_group(GroupId(group)),
            topic: self.catalogue.the_topic(topic),
            filter: Arc::new(Filter::All),
            client: ClientId::new("c"),
            max,
            lease: LeaseTerm::For(Duration::from_secs(60)),
            wait: Duration::ZERO,
            attempt_id: None,
            ordered_batch: true,
            member: String::new(),
        };
        let deliveries = self.broker.receive(request).await?;
        Ok(deliveries.into_iter().map(Got::of).collect())
    }

    async fn seek(&self, group: u32, target: SeekTarget) -> Vec<Moved> {
        let group = self.catalogue.the_group(GroupId(group));
        let request = SeekRequest { group, topic: self.orders(), queues: Vec::new(), target, dry_run: false };
        self.broker.seek(request).await.unwrap()
    }

    /// Receives so many messages and gives them up; answers their dead letters.
    async fn bury(&self, count: u32) -> Vec<LetterId> {
        let before = self.letters().await.len();
        let deliveries = self.receive(1, TopicId(1), count).await.unwrap();
        assert_eq!(deliveries.len(), count as usize);
        for delivery in deliveries {
            self.broker.dead_letter(&self.catalogue.the_group(GroupId(1)), delivery.handle).await.unwrap();
        }
        self.letters().await.split_off(before)
    }

    async fn letters(&self) -> Vec<LetterId> {
        let query = Query::Offset { queue: QueueId(0), offset: Offset(0) };
        let letters = self.broker.find(&self.catalogue.the_topic(TopicId(101)), query, 1_000).await.unwrap();
        letters.into_iter().map(|letter| LetterId { queue: letter.queue, offset: letter.offset }).collect()
    }

    async fn life(&self, topic: u32, queue: QueueId, offset: u64) -> Vec<LifeStep> {
        let life = self.broker.life(&self.catalogue.the_topic(TopicId(topic)), queue, Offset(offset)).await.unwrap();
        assert!(life.complete);
        assert!(life.events.windows(2).all(|pair| pair[0].lsn < pair[1].lsn && pair[0].time_ms <= pair[1].time_ms));
        life.events.into_iter().map(|event| event.what).collect()
    }
}

/// A delivery whose message was looked into.
#[derive(Debug, PartialEq)]
struct Got {
    id: String,
    body: Bytes,
    offset: u64,
    store_ms: u64,
    handle: ReceiptHandle,
    attempt: u32,
}

impl Got {
    fn of(delivery: Delivery) -> Got {
        let Delivery { message, handle, attempt } = delivery;
        let mut id = String::new();
        message.each_property(&mut |property| {
            if let Property::Id(text) = property {
                id = text.to_owned();
            }
        });
        let facts = message.facts();
        Got { id, body: message.body().clone(), offset: facts.offset.0, store_ms: facts.store_ms, handle, attempt }
    }
}

fn ids(pulled: &Pulled) -> Vec<&str> {
    pulled.messages.iter().map(|message| message.message.id.as_str()).collect()
}

#[tokio::test]
async fn a_pull_reads_in_order_and_says_where_to_go_on() {
    let rig = Rig::new();
    let queue = rig.send(0..50).await;
    let first = rig.broker.pull(rig.pull(queue, 0, 0, Filter::All)).await.unwrap();
    assert_eq!((first.messages.len(), first.next, first.messages[31].message.body.as_ref()), (32, Offset(32), &b"body 31"[..]));
    let rest = rig.broker.pull(rig.pull(queue, 32, 0, Filter::All)).await.unwrap();
    assert_eq!((rest.messages.len(), rest.next), (18, Offset(50)));
    let tagged = rig.broker.pull(rig.pull(queue, 5, 0, Filter::tags("three").unwrap())).await.unwrap();
    assert_eq!((ids(&tagged), tagged.next), (vec!["id-13", "id-23", "id-33", "id-43"], Offset(50)));
    let sql = rig.broker.pull(rig.pull(queue, 0, 0, Filter::sql("n BETWEEN 7 AND 9 AND TAGS = 'other'").unwrap())).await.unwrap();
    assert_eq!((ids(&sql), sql.next), (vec!["id-7", "id-8", "id-9"], Offset(50)));
    let few = rig.broker.pull(PullRequest { max: 2, ..rig.pull(queue, 0, 0, Filter::tags("three").unwrap()) }).await.unwrap();
    assert_eq!((ids(&few), few.next), (vec!["id-3", "id-13"], Offset(14)));
}

#[tokio::test]
async fn a_pull_outside_of_the_queue_is_told_where_to_go() {
    let rig = Rig::new();
    let queue = rig.send(0..3).await;
    let pull = async |queue, offset| rig.broker.pull(rig.pull(queue, offset, 5_000, Filter::All)).await;
    assert_eq!(pull(queue, 4).await, Err(PullError::OutOfRange { next: Offset(3) }));
    assert_eq!(pull(QueueId(2), 0).await, Err(PullError::NoSuchQueue));
    assert_eq!(pull(QueueId(u32::MAX), 0).await, Err(PullError::NoSuchQueue));
}

#[tokio::test]
async fn a_pull_waits_and_ends_with_the_first_message_or_with_its_time() {
    let rig = Rig::new();
    let queue = rig.send(0..3).await;
    let empty = rig.broker.pull(rig.pull(queue, 3, 50, Filter::All)).await.unwrap();
    assert_eq!((empty.messages.len(), empty.next), (0, Offset(3)));
    let (pulled, _) = tokio::join!(rig.broker.pull(rig.pull(queue, 3, 20_000, Filter::tags("three").unwrap())), async {
        sleep(Duration::from_millis(50)).await;
        rig.send(4..8).await;
        rig.send(13..14).await;
    });
    assert_eq!(ids(&pulled.unwrap()), ["id-13"], "messages that it doesn't want don't end it");
    let dropped = timeout(Duration::from_millis(50), rig.broker.pull(rig.pull(queue, 8, 20_000, Filter::All))).await;
    assert!(dropped.is_err());
    let left = async || rig.broker.shards().await[0].open_polls;
    for _ in 0..300 {
        if left().await == 0 {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("a pull whose caller left still waits: {}", left().await);
}

#[tokio::test]
async fn positions_survive_a_restart_with_checkpoints() {
    let rig = Rig::new();
    let queue = rig.send(0..200).await;
    let (one, two) = (rig.catalogue.the_group(GroupId(1)), rig.catalogue.the_group(GroupId(2)));
    rig.broker.commit_offset(&one, &rig.orders(), queue, Offset(120)).await.unwrap();
    assert_eq!(rig.broker.skip(&two, &rig.orders(), queue, vec![Offset(1), Offset(3)]).await, Ok(2));
    let rig = rig.restart();
    assert_eq!(rig.broker.committed(&one, &rig.orders(), queue).await, Ok(Some(Offset(120))));
    assert_eq!(rig.receive(1, TopicId(1), 1).await, Err(ReceiveError::GroupPulls));
    assert_eq!(rig.broker.topics_of(&one).await, Ok(vec![TopicId(1)]));
    let deliveries = rig.receive(2, TopicId(1), 3).await.unwrap();
    assert_eq!(deliveries.iter().map(|delivery| delivery.offset).collect::<Vec<_>>(), [0, 2, 4]);
    assert_eq!(rig.broker.commit_offset(&two, &rig.orders(), queue, Offset(1)).await, Err(OffsetError::GroupReceives));

    let moved = rig.seek(1, SeekTarget::Like(two.clone())).await;
    assert!(moved.contains(&Moved { queue, from: Offset(120), to: Offset(0), dropped: 0 }));
    let rig = rig.restart();
    let deliveries = rig.receive(1, TopicId(1), 3).await.unwrap();
    assert_eq!(deliveries.iter().map(|delivery| delivery.offset).collect::<Vec<_>>(), [0, 2, 4]);
    let third = rig.broker.pull(rig.pull(queue, 150, 0, Filter::All)).await.unwrap().messages[0].store_ms;
    let at = rig.broker.offset_at(&rig.orders(), queue, third).await.unwrap();
    assert!(at <= Offset(150) && at > Offset(0), "{at}");
    assert_eq!(rig.broker.offset_at(&rig.orders(), queue, u64::MAX).await, Ok(Offset(200)));
    assert_eq!(rig.broker.offset_at(&rig.orders(), QueueId(9), 0).await, Err(LookupError::NoSuchQueue));
}

/// Sends messages of one KiB to a topic that may hold so many bytes, until one is refused; answers how many were stored.
async fn fill(rig: &Rig, most: u64, from: u32) -> u32 {
    let mut topic = (*rig.orders()).clone();
    topic.options.quota.stored_bytes = Some(most);
    let topic = Arc::new(topic);
    for number in from..from + 1_000 {
        let message = Message { id: format!("big-{number}"), body: vec![0; 1_024].into(), ..Message::default() };
        let request = SendRequest { topic: topic.clone(), messages: vec![message], client: ClientId::new("p"), wait: Duration::ZERO };
        match rig.broker.send(request).await.remove(0) {
            Ok(sent) => assert!(!sent.duplicate),
            Err(SendError::QuotaExceeded { what }) => {
                assert!(what.contains("`orders` holds") && what.contains(&format!("may hold {most}")), "{what}");
                return number - from;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("a thousand messages fit into {most} bytes")
}

#[tokio::test]
async fn a_topic_holds_no_more_bytes_than_its_quota_and_takes_messages_when_the_oldest_are_gone() {
    let rig = Rig::new();
    let held = async |rig: &Rig| rig.broker.queues(&rig.orders()).await.unwrap().iter().map(|queue| queue.bytes).sum::<u64>();
    let stored = fill(&rig, 200_000, 0).await;
    let full = held(&rig).await;
    assert!((170..=190).contains(&stored) && (198_000..=200_000).contains(&full), "{stored} messages of a KiB in {full} bytes");

    let rig = rig.restart();
    assert_eq!(held(&rig).await, full, "counted the same from a checkpoint and the log behind it");
    assert_eq!(fill(&rig, 200_000, 1_000).await, 0);

    let rig = rig.restart_keeping(Some(70_000));
    let mut freed = 0;
    for number in 0..500 {
        freed = full - held(&rig).await;
        if freed > 50_000 {
            break;
        }
        // What others send pushes the oldest out of the log.
        let message = Message { id: format!("other-{number}"), body: vec![0; 16 * 1_024].into(), ..Message::default() };
        let request =
            SendRequest { topic: rig.catalogue.the_topic(TopicId(2)), messages: vec![message], client: ClientId::new("p"), wait: Duration::ZERO };
        rig.broker.send(request).await.remove(0).unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    assert!(freed > 50_000, "retention freed {freed} of {full} bytes");
    let fits = u64::from(fill(&rig, 200_000, 2_000).await);
    assert!(fits >= 40, "{fits} messages fit into {freed} bytes that were freed");
}

#[tokio::test]
async fn a_dead_letter_that_is_sent_again_is_the_message_that_died() {
    let rig = Rig::new();
    let queue = rig.send(0..6).await;
    let letters = rig.bury(4).await;
    let group = rig.catalogue.the_group(GroupId(1));
    let original = rig.broker.find(&rig.orders(), Query::MessageId("id-2".into()), 10).await.unwrap().remove(0);
    let sent = rig.broker.redrive(&group, vec![letters[2]], None).await.remove(0).unwrap();
    assert_eq!((sent.queue, sent.offset), (queue, Offset(6)), "behind its message group");
    let rig = rig.restart();
    let again = rig.broker.find(&rig.orders(), Query::Key("key-2".into()), 10).await.unwrap();
    assert_eq!(again.len(), 2);
    assert_eq!((&again[1].message, again[1].offset, &again[1].origin), (&original.message, Offset(6), &None));
    assert_eq!(rig.letters().await, [letters[0], letters[1], letters[3]]);
    let hidden = rig.broker.find(&rig.catalogue.the_topic(TopicId(101)), Query::MessageId("id-2".into()), 10).await.unwrap();
    assert_eq!(hidden, [], "the key index still knows it");

    let answers = rig.broker.redrive(&group, vec![letters[2], letters[0]], Some(rig.catalogue.the_topic(TopicId(2)))).await;
    assert_eq!(answers[0], Err(LetterError::Gone));
    let elsewhere = rig.receive(1, TopicId(2), 32).await.unwrap();
    assert_eq!(elsewhere.iter().map(|delivery| delivery.id.as_str()).collect::<Vec<_>>(), ["id-0"]);
    let never = LetterId { queue: QueueId(7), offset: Offset(0) };
    assert_eq!(rig.broker.purge(&group, vec![letters[1], letters[1], never]).await, [Ok(()), Err(LetterError::Gone), Err(LetterError::Gone)]);
    assert_eq!(rig.restart().letters().await, [letters[3]]);
}

#[tokio::test]
async fn a_letter_that_dies_again_can_be_sent_again() {
    let rig = Rig::new();
    rig.send(0..1).await;
    let group = rig.catalogue.the_group(GroupId(1));
    for round in 0..3 {
        let letters = rig.bury(1).await;
        let rig_letters = rig.letters().await;
        assert_eq!((letters.len(), rig_letters.len()), (1, 1), "round {round}");
        rig.broker.redrive(&group, letters, None).await.remove(0).unwrap();
        assert_eq!(rig.letters().await, []);
    }
    let deliveries = rig.receive(1, TopicId(1), 32).await.unwrap();
    assert_eq!((deliveries.len(), deliveries[0].attempt, deliveries[0].body.as_ref()), (1, 1, &b"body 0"[..]));
}

#[tokio::test]
async fn the_life_of_a_message_is_read_from_the_log() {
    let rig = Rig::new();
    let queue = rig.send(0..4).await;
    let (group, other) = (rig.catalogue.the_group(GroupId(1)), rig.catalogue.the_group(GroupId(2)));
    let first = rig.receive(1, TopicId(1), 1).await.unwrap().remove(0);
    let change = |after_ms, attempt| VisibilityChange {
        group: group.clone(),
        handle: first.handle,
        after: Duration::from_millis(after_ms),
        failed_for_at_least: Duration::ZERO,
        attempt,
    };
    rig.broker.change_visibility(change(40_000, AttemptCount::Counts)).await.unwrap();
    rig.broker.change_visibility(change(0, AttemptCount::Suspended)).await.unwrap();
    let rig = rig.restart();
    let again = rig.receive(1, TopicId(1), 1).await.unwrap().remove(0);
    assert_eq!(again.attempt, 1);
    rig.broker.dead_letter(&group, again.handle).await.unwrap();
    rig.broker.skip(&other, &rig.orders(), queue, vec![Offset(0)]).await.unwrap();
    rig.seek(2, SeekTarget::Earliest).await;
    let last = rig.receive(2, TopicId(1), 1).await.unwrap().remove(0);
    rig.broker.ack(&other, vec![last.handle]).await.remove(0).unwrap();

    let letter = LetterId { queue: QueueId(0), offset: Offset(0) };
    let (one, two) = (group.id, other.id);
    let steps = rig.life(1, queue, 0).await;
    let [LifeStep::Stored, LifeStep::Leased { group, client, lease, attempt: 1, until_ms }, LifeStep::Extended { until_ms: until, .. }, rest @ ..] =
        &steps[..]
    else {
        panic!("{steps:?}")
    };
    assert_eq!((*group, client.as_str(), *lease), (one, "c", first.handle.lease));
    assert!(*until_ms > first.store_ms && *until > first.store_ms);
    let [LifeStep::GivenBack { counted: false, .. }, LifeStep::Leased { lease, .. }, rest @ ..] = rest else { panic!("{steps:?}") };
    assert_eq!(*lease, again.handle.lease);
    let [dead, skipped, reset, LifeStep::Leased { group, .. }, acked] = rest else { panic!("{steps:?}") };
    assert_eq!(*dead, LifeStep::Dead { group: one, reason: DeadReason::Forwarded, attempts: 1, letter });
    assert_eq!((skipped, reset), (&LifeStep::Skipped { group: two }, &LifeStep::Reset { group: two, to: Offset(0) }));
    assert_eq!((*group, acked), (two, &LifeStep::Acked { group: two }));

    let sent = rig.broker.redrive(&rig.catalogue.the_group(GroupId(1)), vec![letter], None).await.remove(0).unwrap();
    let redriven = LifeStep::Redriven { topic: TopicId(1), queue: sent.queue, offset: sent.offset };
    assert_eq!(rig.life(1, sent.queue, sent.offset.0).await, [LifeStep::Stored]);
    assert_eq!(rig.life(101, QueueId(0), 0).await, [LifeStep::Stored, redriven]);
    assert_eq!(rig.life(1, queue, 99).await, []);
    let letters = rig.bury(1).await;
    rig.broker.purge(&rig.catalogue.the_group(GroupId(1)), letters.clone()).await.remove(0).unwrap();
    assert_eq!(rig.life(101, QueueId(0), letters[0].offset.0).await, [LifeStep::Stored, LifeStep::Purged]);
}

#[tokio::test]
async fn a_message_that_a_filter_refused_tells_so() {
    let rig = Rig::new();
    let queue = rig.send(0..4).await;
    let mut request = ReceiveRequest {
        group: rig.catalogue.the_group(GroupId(1)),
        topic: rig.orders(),
        filter: Arc::new(Filter::tags("three").unwrap()),
        client: ClientId::new("c"),
        max: 32,
        lease: LeaseTerm::For(Duration::from_secs(60)),
        wait: Duration::ZERO,
        attempt_id: None,
        ordered_batch: true,
        member: String::new(),
    };
    assert_eq!(rig.broker.receive(request.clone()).await.unwrap().len(), 1);
    request.filter = Arc::new(Filter::All);
    assert_eq!(rig.broker.receive(request).await.unwrap().len(), 0);
    assert_eq!(rig.life(1, queue, 0).await, [LifeStep::Stored, LifeStep::Filtered { group: rig.catalogue.the_group(GroupId(1)).id }]);
    assert_eq!(rig.life(1, queue, 3).await.len(), 2);
}

#[tokio::test]
async fn where_messages_stand_is_told_in_their_order() {
    let rig = Rig::new();
    let queue = rig.send(0..3).await;
    let first = rig.receive(1, TopicId(1), 1).await.unwrap().remove(0);
    let group = rig.catalogue.the_group(GroupId(1));
    let asked = vec![(queue, Offset(1)), (queue, Offset(0))];
    let standing = rig.broker.standing(&group, &rig.orders(), asked.clone()).await.unwrap();
    assert!(
        matches!(&standing[..], [Standing::Ready { attempts: 0 }, Standing::InFlight { attempt: 1, client: None, until_ms: Some(_) }]),
        "{standing:?}"
    );
    rig.broker.ack(&group, vec![first.handle]).await.remove(0).unwrap();
    let standing = rig.broker.standing(&group, &rig.orders(), asked).await.unwrap();
    assert_eq!(standing[1], Standing::Done);
}
