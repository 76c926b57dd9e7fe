//! A shard with three copies through whole brokers: what is acknowledged is on two of them and survives each of them.

#![allow(clippy::unwrap_used)]

#[path = "../positions/catalogue.rs"]
mod catalogue;
mod hosted;
mod world;

use gantry_broker::record::Record;
use gantry_model::contract::Broker;
use gantry_model::contract::broker::*;
use gantry_model::{ClientId, Epoch, Filter, GroupId, Lsn, Message, MessageKind, ReceiptHandle, TopicId};
use gantry_platform::Disk;
use gantry_platform::MemoryDisk;
use gantry_platform::clock::{Clock, SystemClock, sleep, timeout};
use gantry_store::replica::Config;
use gantry_store::replica::reign::{Entry, Rejected};
use hosted::Hosted;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use world::World;

/// A send that got no answer in this time gets none.
const ANSWER: Duration = Duration::from_secs(2);

async fn send(world: &World, node: u64, id: &str) -> Option<Sent> {
    try_send(world, node, id).await?.ok()
}

/// `None` if no answer comes.
async fn try_send(world: &World, node: u64, id: &str) -> Option<Result<Sent, SendError>> {
    let message = Message { id: id.to_owned(), kind: MessageKind::Normal, body: format!("body of {id}").into(), ..Message::default() };
    let request = SendRequest { topic: world.catalogue.the_topic(TopicId(1)), messages: vec![message], client: ClientId::new("p"), wait: ANSWER };
    timeout(ANSWER, world.broker(node).send(request)).await.ok()?.into_iter().next()
}

/// Sends to whoever leads until it is acknowledged.
async fn send_surely(world: &World, id: &str) -> Sent {
    for _ in 0..200 {
        let leader = world.leader().await;
        if let Some(sent) = send(world, leader, id).await {
            return sent;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody takes `{id}`");
}

async fn receive(world: &World, node: u64, max: u32) -> Vec<(String, ReceiptHandle, u32)> {
    let request = ReceiveRequest {
        group: world.catalogue.the_group(GroupId(1)),
        topic: world.catalogue.the_topic(TopicId(1)),
        filter: Arc::new(Filter::All),
        client: ClientId::new("c"),
        max,
        lease: LeaseTerm::For(Duration::from_secs(300)),
        wait: Duration::ZERO,
        attempt_id: None,
        ordered_batch: true,
        member: String::new(),
    };
    let deliveries = world.broker(node).receive(request).await.unwrap();
    deliveries.into_iter().map(|delivery| (delivery.message.message().id, delivery.handle, delivery.attempt)).collect()
}

/// All ids that can be received, each once.
async fn receive_all(world: &World, node: u64) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    loop {
        let got = receive(world, node, 32).await;
        if got.is_empty() {
            return all;
        }
        for (id, ..) in got {
            assert!(all.insert(id.clone()), "`{id}` came twice");
        }
    }
}

/// The bytes of the log on a disk, from the latest start to the end.
fn frames(disk: &MemoryDisk, catalogue: &Arc<catalogue::Catalogue>) -> Vec<(Lsn, bytes::Bytes)> {
    let options = world::options(Arc::new(disk.clone()), catalogue, Path::new("data/shard-0000000000"));
    let shard = gantry_broker::recover::recover(&options).unwrap();
    let reader = shard.log.reader();
    let mut at = shard.log.start();
    let mut all = Vec::new();
    while at < shard.log.end() {
        let raw = reader.raw(at, 1).unwrap();
        all.push((at, raw.bytes.clone()));
        at = Lsn(at.0 + raw.bytes.len() as u64);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_copies_are_equal_byte_by_byte() {
    let world = World::new(3).await;
    for number in 0..300 {
        send_surely(&world, &format!("m-{number}")).await;
    }
    world.until("all copies level", World::is_level).await;
    let catalogue = world.catalogue.clone();
    let logs: Vec<_> = world.stop().iter().map(|disk| frames(disk, &catalogue)).collect();
    assert!(logs[0].len() > 300);
    assert!(logs.iter().all(|log| *log == logs[0]), "the logs are equal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_leaders_die() {
    leaders_die(World::new(3).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_over_real_streams() {
    leaders_die(World::over_streams(3).await).await;
}

async fn leaders_die(mut world: World) {
    let mut sent = BTreeSet::new();
    for round in 0..4 {
        for number in 0..40 {
            let id = format!("m-{round}-{number}");
            send_surely(&world, &id).await;
            sent.insert(id);
        }
        let leader = world.leader().await;
        world.kill(leader);
        let id = format!("after-{round}");
        send_surely(&world, &id).await;
        sent.insert(id);
        world.start(leader);
    }
    let leader = world.leader().await;
    let got = receive_all(&world, leader).await;
    assert!(sent.is_subset(&got), "lost: {:?}", sent.difference(&got).collect::<Vec<_>>());
    world.until("all copies level", World::is_level).await;
    let catalogue = world.catalogue.clone();
    let logs: Vec<_> = world.stop().iter().map(|disk| frames(disk, &catalogue)).collect();
    assert!(logs.iter().all(|log| *log == logs[0]), "the logs are equal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cut_off_leader_took_is_never_acknowledged_and_goes() {
    let world = World::new(3).await;
    send_surely(&world, "first").await;
    let old = world.leader().await;
    world.isolate(old);
    // It takes this for a moment, but can't commit it.
    assert_eq!(send(&world, old, "never").await, None);
    world.until("another leader", |world| world.nodes().iter().any(|node| *node != old && world.view(*node).serves)).await;
    let new = world.nodes().into_iter().find(|node| *node != old && world.view(*node).serves).unwrap();
    assert!(send(&world, new, "second").await.is_some());
    assert_eq!(try_send(&world, old, "refused").await, Some(Err(SendError::NoLeader)), "it knows that it can't commit");
    world.heal();
    world.until("all copies level", World::is_level).await;
    let leader = world.leader().await;
    assert_eq!(receive_all(&world, leader).await, BTreeSet::from(["first".to_owned(), "second".to_owned()]));
    let catalogue = world.catalogue.clone();
    let logs: Vec<_> = world.stop().iter().map(|disk| frames(disk, &catalogue)).collect();
    assert!(logs.iter().all(|log| *log == logs[0]), "the logs are equal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_unknown_when_the_lead_is_handed_over() {
    let world = Arc::new(World::new(3).await);
    let done = Arc::new(AtomicBool::new(false));
    let senders = (0..4).map(|sender| {
        let (world, done) = (world.clone(), done.clone());
        gantry_platform::tasks::spawn("sender", async move {
            let (mut stored, mut unknown) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let leader = world.leader().await;
                match try_send(&world, leader, &format!("m-{sender}-{stored}-{unknown}")).await {
                    Some(Ok(_)) => stored += 1,
                    Some(Err(SendError::NoLeader)) => {}
                    _ => unknown += 1,
                }
            }
            (stored, unknown)
        })
    });
    let senders: Vec<_> = senders.collect();
    for _ in 0..6 {
        let to = world.leader().await % 3 + 1;
        world.transfer(to).await;
        world.until("the transfer", |world| world.view(to).serves).await;
        sleep(Duration::from_millis(50)).await;
    }
    done.store(true, Ordering::Relaxed);
    let (mut stored, mut unknown) = (0, 0);
    for sender in senders {
        let (ok, other) = sender.await.unwrap();
        (stored, unknown) = (stored + ok, unknown + other);
    }
    let leader = world.leader().await;
    let received = receive_all(&world, leader).await.len();
    // A machine that stands still for a second loses leaders that nobody asked to go.
    let planned = world.reign.lock().unwrap().epoch().0 == 7;
    assert!(!planned || (unknown == 0 && received == stored), "{stored} stored, {received} received, {unknown} unknown");
    assert!(stored > 20 && received >= stored, "{stored} stored, {received} received");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_says_that_it_does_not_lead() {
    let world = World::new(3).await;
    send_surely(&world, "first").await;
    let leader = world.leader().await;
    let follower = leader % 3 + 1;
    assert_eq!(try_send(&world, follower, "second").await, Some(Err(SendError::NoLeader)));
    let (group, topic) = (world.catalogue.the_group(GroupId(1)), world.catalogue.the_topic(TopicId(1)));
    let broker = world.broker(follower);
    assert_eq!(broker.queues(&topic).await, Err(LookupError::NoLeader));
    assert_eq!(broker.find(&topic, Query::MessageId("first".into()), 1).await.unwrap_err(), LookupError::NoLeader);
    let handle = receive(&world, leader, 1).await[0].1;
    assert_eq!(broker.ack(&group, vec![handle]).await, [Err(LeaseError::NoLeader)]);
    assert_eq!(world.broker(leader).ack(&group, vec![handle]).await, [Ok(())]);
    world.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_go_on_where_they_were_after_a_transfer_and_after_a_death() {
    let mut world = World::new(3).await;
    for number in 0..10 {
        send_surely(&world, &format!("m-{number}")).await;
    }
    let first = world.leader().await;
    let got = receive(&world, first, 6).await;
    let group = world.catalogue.the_group(GroupId(1));
    let handles = |range: std::ops::Range<usize>| got[range].iter().map(|(_, handle, _)| *handle).collect::<Vec<_>>();
    assert_eq!(world.broker(first).ack(&group, handles(0..2)).await, [Ok(()), Ok(())]);
    let second = first % 3 + 1;
    world.transfer(second).await;
    world.until("the transfer", |world| world.view(second).serves).await;
    assert_eq!(world.broker(second).ack(&group, handles(2..4)).await, [Ok(()), Ok(())], "handles hold at every leader");
    world.kill(second);
    let third = world.leader().await;
    let rest = receive_all(&world, third).await;
    assert_eq!(rest.len(), 10 - got.len(), "what is leased or acknowledged does not come again: {rest:?}");
    assert!(got.iter().all(|(id, ..)| !rest.contains(id)));
    assert_eq!(world.broker(third).ack(&group, handles(4..6)).await, [Ok(()), Ok(())]);
    world.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_may_be_away_and_catches_up() {
    let mut world = World::new(3).await;
    let leader = world.leader().await;
    let away = leader % 3 + 1;
    world.kill(away);
    for number in 0..300 {
        send_surely(&world, &format!("m-{number}")).await;
    }
    world.start(away);
    world.until("all copies level", World::is_level).await;
    // Now the one that was away has all it takes.
    let leader = world.leader().await;
    world.kill(leader);
    let next = world.leader().await;
    assert_eq!(receive_all(&world, next).await.len(), 300);
    world.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lacks_what_is_gone_takes_over_its_leaders_state() {
    let mut world = World::over_streams_keeping(3, Some(128 * 1024)).await;
    send_surely(&world, "first").await;
    let leader = world.leader().await;
    let away = leader % 3 + 1;
    world.until("all copies level", World::is_level).await;
    let lacks = world.view(away).end;
    world.kill(away);
    let mut number = 0;
    while world.view(world.leader().await).start <= lacks {
        for _ in 0..50 {
            send_surely(&world, &format!("m-{number}")).await;
            number += 1;
        }
        assert!(number < 20_000, "nothing is ever trimmed");
    }
    world.start(away);
    let (mut opened, clock) = (0, SystemClock::new());
    while !world.is_level() || world.view(away).suspect {
        assert!(clock.mono() < Duration::from_secs(30), "{opened} times opened: {:?}", world.view(away));
        opened += world.open_again();
        sleep(Duration::from_millis(5)).await;
        assert!(opened <= 2, "once with the state, and once when the log has got as far");
    }
    assert_eq!((opened, world.view(away).installs), (2, None));
    assert!(world.view(away).start > lacks);
    // From now on it is as any other: it leads when the others may not.
    send_surely(&world, "later").await;
    world.until("all copies level", World::is_level).await;
    let other = world.nodes().into_iter().find(|node| *node != away && *node != world.serving().unwrap_or(away)).unwrap();
    world.transfer(away).await;
    world.until("the transfer", |world| world.view(away).serves).await;
    world.kill(other);
    send_surely(&world, "last").await;
    let got = receive_all(&world, away).await;
    assert!(got.contains("later") && got.contains("last"), "{got:?}");
    let (catalogue, kept) = (world.catalogue.clone(), world.view(away).start);
    let nodes = world.nodes();
    let disks = world.stop();
    let logs = nodes.iter().zip(&disks).filter(|(node, _)| **node != other).map(|(_, disk)| frames(disk, &catalogue));
    let logs: Vec<Vec<_>> = logs.map(|log| log.into_iter().filter(|(lsn, _)| *lsn >= kept).collect()).collect();
    assert!(logs[0].len() > 50 && logs[0] == logs[1], "the logs are equal");
}

/// Three copies with the same messages, one of which is off; its files of the log, and the one that leads.
async fn with_one_off(keep: Option<u64>, messages: usize) -> (World, u64, Vec<PathBuf>) {
    let mut world = World::over_streams_keeping(3, keep).await;
    for number in 0..messages {
        send_surely(&world, &format!("m-{number}")).await;
    }
    world.until("all copies level", World::is_level).await;
    let off = world.leader().await % 3 + 1;
    world.kill(off);
    let files = world.disk(off).list(Path::new("data/shard-0000000000/log")).unwrap();
    let segments = files.into_iter().filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('0')).collect();
    (world, off, segments)
}

/// Turns bits over in a file.
fn spoil(disk: &MemoryDisk, path: &Path, from: u64, bytes: usize) {
    let file = disk.open(path).unwrap();
    let mut there = vec![0; bytes];
    let read = file.read_at(from, &mut there).unwrap();
    there[..read].iter_mut().for_each(|byte| *byte ^= 0x5a);
    file.write_at(from, &[std::io::IoSlice::new(&there[..read])]).unwrap();
    file.sync_data().unwrap();
}

/// After the copy is whole again, it has what the others have.
async fn is_whole(world: World, off: u64, hosted: Hosted) {
    send_surely(&world, "later").await;
    let view = hosted.level(&world).await;
    hosted.stop(&world).await;
    let (catalogue, nodes) = (world.catalogue.clone(), world.nodes());
    let other = world.leader().await;
    let disks = world.stop();
    let log = |node: u64| frames(&disks[nodes.iter().position(|other| *other == node).unwrap()], &catalogue);
    let since = |node: u64| log(node).into_iter().filter(|(lsn, _)| *lsn >= view.start).collect::<Vec<_>>();
    let (own, leaders) = (since(off), since(other));
    assert!(own.len() > 20 && own == leaders, "{} and {} batches", own.len(), leaders.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_ranges_are_repaired_before_a_copy_is_opened() {
    let (world, off, segments) = with_one_off(None, 600).await;
    // The newest checkpoint is not far from the end, and what is behind it is read.
    spoil(&world.disk(off), segments.last().unwrap(), 8192 + 300, 40);
    spoil(&world.disk(off), segments.last().unwrap(), 8192 + 1500, 400);
    let disk = world.disk(off);
    disk.remove_dir_all(Path::new("data/shard-0000000000/state")).unwrap();
    spoil(&disk, &segments[0], 8192 + 5000, 2);
    let hosted = Hosted::start(&world, off);
    hosted.level(&world).await;
    let mended = hosted.host.counts().mended.load(Ordering::Relaxed);
    assert!(mended >= 3, "{mended} ranges");
    is_whole(world, off, hosted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lacks_whole_files_is_made_anew() {
    let (world, off, segments) = with_one_off(None, 600).await;
    assert!(segments.len() > 1);
    world.disk(off).remove(segments.last().unwrap()).unwrap();
    let hosted = Hosted::start(&world, off);
    hosted.level(&world).await;
    assert_eq!(hosted.host.counts().begun_anew.load(Ordering::Relaxed), 1);
    is_whole(world, off, hosted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_without_its_state_takes_the_leaders() {
    let (world, off, _) = with_one_off(Some(64 * 1024), 2_000).await;
    world.disk(off).remove_dir_all(Path::new("data/shard-0000000000/state")).unwrap();
    let hosted = Hosted::start(&world, off);
    let view = hosted.level(&world).await;
    assert!(view.start > Lsn(0), "what is gone does not come back");
    assert_eq!(hosted.host.counts().begun_anew.load(Ordering::Relaxed), 1);
    is_whole(world, off, hosted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_thrown_away_while_nobody_else_leads() {
    let (mut world, off, segments) = with_one_off(None, 600).await;
    let others: Vec<u64> = world.nodes().into_iter().filter(|node| *node != off).collect();
    others.iter().for_each(|node| world.kill(*node));
    let gone = segments.last().unwrap();
    world.disk(off).remove(gone).unwrap();
    let hosted = Hosted::start(&world, off);
    while hosted.host.failed().is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
    let why = hosted.host.failed().into_values().next().unwrap().why;
    assert!(why.contains("nobody leads the shard"), "{why}");
    assert!(segments[..segments.len() - 1].iter().all(|path| world.disk(off).exists(path).unwrap()), "its files are as they were");
    others.iter().for_each(|node| _ = world.start(*node));
    hosted.level(&world).await;
    is_whole(world, off, hosted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scrub_finds_what_nobody_reads_and_mends_it() {
    let (world, off, segments) = with_one_off(None, 900).await;
    let hosted = Hosted::start(&world, off);
    hosted.level(&world).await;
    assert!(segments.len() > 2);
    spoil(&world.disk(off), &segments[1], 8192 + 2000, 30);
    let clock = SystemClock::new();
    while hosted.host.counts().mended.load(Ordering::Relaxed) == 0 {
        assert!(clock.mono() < Duration::from_secs(30), "{:?}", hosted.host.counts());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(hosted.host.counts().damaged.load(Ordering::Relaxed), 1);
    is_whole(world, off, hosted).await;
}

/// The epochs that begin in a log, and which of them are unclean.
fn epochs(disk: &MemoryDisk, catalogue: &Arc<catalogue::Catalogue>) -> Vec<(u32, bool)> {
    let options = world::options(Arc::new(disk.clone()), catalogue, Path::new("data/shard-0000000000"));
    let shard = gantry_broker::recover::recover(&options).unwrap();
    let reader = shard.log.reader();
    let starts = reader.frames(shard.log.start(), shard.log.end()).filter_map(|frame| {
        let (_, frame) = frame.unwrap();
        match Record::decode(frame.header.kind, &frame.payload) {
            Ok(Some(Record::EpochStart(start))) => Some((start.epoch, start.unclean)),
            _ => None,
        }
    });
    starts.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_of_three_has_goes_on_by_order_when_the_others_are_lost() {
    let mut world = World::new(3).await;
    let mut kept = BTreeSet::new();
    for number in 0..40 {
        let id = format!("m-{number}");
        send_surely(&world, &id).await;
        kept.insert(id);
    }
    world.until("all copies level", World::is_level).await;
    let leader = world.leader().await;
    let (left, old) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    world.isolate(left);
    send_surely(&world, "only in the others").await;
    // A moment before they are lost, these two had committed more than the third ever heard of.
    world.kill(leader);
    world.lose_disk(leader);
    world.kill(old);
    world.heal();
    sleep(Duration::from_millis(1_500)).await;
    assert!(!world.view(left).serves, "one of three can't know what is committed");
    order(&world, left);
    assert_eq!(world.leader().await, left);
    assert_eq!(receive_all(&world, left).await, kept);
    send_surely(&world, "after").await;
    // One that was given up comes back with what it had. It is nobody, and stays as it is.
    world.start(old);
    let before = world.view(old).end;
    send_surely(&world, "beside").await;
    sleep(Duration::from_millis(300)).await;
    let stranger = world.view(old);
    assert_eq!((stranger.end, stranger.failed, stranger.leads), (before, None, None));
    world.kill(old);
    // As new ones, both are members again.
    world.lose_disk(old);
    let joining = BTreeSet::from([world.start(leader), world.start(old)]);
    world.admit(joining).await;
    send_surely(&world, "three again").await;
    world.until("all copies level", World::is_level).await;
    assert_eq!(world.reign.lock().unwrap().stable().members().len(), 3);
    let leads = world.leader().await;
    world.kill(leads);
    let next = world.leader().await;
    assert_eq!(receive_all(&world, next).await, ["after", "beside", "three again"].map(str::to_owned).into());
    world.start(leads);
    world.until("all copies level", World::is_level).await;
    let catalogue = world.catalogue.clone();
    for disk in world.stop() {
        let unclean: Vec<(u32, bool)> = epochs(&disk, &catalogue).into_iter().filter(|(_, unclean)| *unclean).collect();
        assert_eq!(unclean.len(), 1, "the log says which epoch began unclean");
    }
}

/// Has the copy of a node go on alone; an order for another epoch is refused.
fn order(world: &World, node: u64) {
    let mut reign = world.reign.lock().unwrap();
    let survivors = Config::new(reign.config().generation() + 1, [world.member(node)]).unwrap();
    let (epoch, late) = (reign.epoch(), Epoch(reign.epoch().0 - 1));
    let refused = reign.apply(&Entry::BeginUnclean { expect: late, survivors: survivors.clone() });
    assert_eq!(refused, Err(Rejected::Epoch(epoch)));
    reign.apply(&Entry::BeginUnclean { expect: epoch, survivors }).unwrap();
}
