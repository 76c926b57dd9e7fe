//! Faults: the server or the consumer is killed, and nothing acknowledged is lost or repeated.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rocketmq::error::ErrorKind;
use rocketmq::model::message::MessageView;
use rocketmq::{Producer, SimpleConsumer};
use tokio::time::{sleep, Instant};

use crate::harness::{message, numbered, require, say, send_all, text, Outcome, Run, Source, Verdict};

/// What the producer and the consumer of `server_killed` know; both run as tasks until `stopped`.
#[derive(Default)]
struct Journal {
    stopped: AtomicBool,
    sent: Mutex<HashMap<String, Instant>>,
    received: Mutex<HashMap<String, Instant>>,
    acknowledged: Mutex<HashMap<String, Instant>>,
    again: Mutex<Vec<String>>,
}

fn note(book: &Mutex<HashMap<String, Instant>>, body: &str) {
    book.lock().expect("nobody panics while holding this lock").insert(body.into(), Instant::now());
}

fn read<T: Clone>(book: &Mutex<T>) -> T {
    book.lock().expect("nobody panics while holding this lock").clone()
}

/// Sends numbered messages until it is stopped and remembers which were acknowledged.
async fn keep_sending(producer: Arc<Producer>, topic: String, journal: Arc<Journal>) {
    for index in 0.. {
        if journal.stopped.load(Ordering::Relaxed) {
            return;
        }
        let body = format!("stream {index}");
        let Ok(out) = message(&topic, body.clone()) else { return };
        match producer.send(out).await {
            Ok(_) => {
                note(&journal.sent, &body);
                sleep(Duration::from_millis(20)).await;
            }
            Err(error) => {
                say(format!("send of `{body}` failed, which is allowed while the server is away: {error:.160}"));
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Receives and acknowledges for ever. What was acknowledged must not come again; a message whose ack failed may.
async fn keep_receiving(consumer: SimpleConsumer, topic: String, journal: Arc<Journal>) {
    let source = Source::all(&consumer, &topic);
    loop {
        let batch = match source.receive(16, Duration::from_secs(10)).await {
            Ok(batch) => batch,
            Err(error) => {
                say(format!("a receive failed, which is allowed while the server is away: {:.160}", format!("{error:?}")));
                sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        for delivered in batch {
            let body = text(&delivered);
            if read(&journal.acknowledged).contains_key(&body) {
                journal.again.lock().expect("nobody panics while holding this lock").push(body.clone());
            }
            note(&journal.received, &body);
            match consumer.ack(&delivered).await {
                Ok(()) => note(&journal.acknowledged, &body),
                Err(error) => say(format!("ack of `{body}` failed, which is allowed while the server is away: {error:.160}")),
            }
        }
    }
}

pub async fn server_killed(run: &Run) -> Outcome {
    let (topic, group) = (run.topic().await?, run.group("group").await?);
    let journal = Arc::new(Journal::default());
    let (producer, consumer) = (run.producer().await?, run.simple_consumer(&group).await?);
    run.step("sending and receiving before the kill");
    let receiving = tokio::spawn(keep_receiving(consumer, topic.clone(), journal.clone()));
    let sending = tokio::spawn(keep_sending(producer, topic.clone(), journal.clone()));
    sleep(Duration::from_secs(5)).await;
    let before = read(&journal.acknowledged).len();
    require(before >= 20, || format!("only {before} messages were consumed in the 5 s before the kill"))?;
    run.step("asking for a restart");
    run.ask("restart").await?;
    let restarted = Instant::now();
    run.step("sending and receiving after the restart");
    sleep(Duration::from_secs(6)).await;
    journal.stopped.store(true, Ordering::Relaxed);
    let stopped = tokio::time::timeout(Duration::from_secs(20), sending).await;
    stopped.map_err(|_| Verdict::Failed("a send did not return within 20 s".into()))?.map_err(panicked)?;
    let sent = read(&journal.sent);
    say(format!("{} sends acknowledged, {before} messages consumed before the kill", sent.len()));
    require(sent.values().any(|at| *at > restarted), || "no send was acknowledged after the restart".into())?;
    wait_for_all(&journal, &sent).await?;
    // Longer than the invisible duration, so that what was left leased shows itself.
    sleep(Duration::from_secs(12)).await;
    require(!receiving.is_finished(), || "the consumer panicked".into())?;
    let first = read(&journal.received).into_values().filter(|at| *at > restarted).min();
    let first = first.ok_or_else(|| Verdict::Failed("the consumer received nothing after the restart".into()))?;
    say(format!("first delivery {:.1?} after the restart", first - restarted));
    let again = read(&journal.again);
    require(again.is_empty(), || format!("{} acknowledged messages came again: {:?}", again.len(), again.first()))
}

fn panicked(panic: tokio::task::JoinError) -> Verdict {
    Verdict::Failed(format!("the client panicked: {panic}"))
}

async fn wait_for_all(journal: &Journal, sent: &HashMap<String, Instant>) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(35);
    loop {
        let received = read(&journal.received);
        let missing: Vec<_> = sent.keys().filter(|body| !received.contains_key(*body)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        require(Instant::now() < deadline, || {
            format!("{} acknowledged sends were not received within 35 s: {:?}", missing.len(), &missing[..missing.len().min(5)])
        })?;
        sleep(Duration::from_millis(200)).await;
    }
}

pub async fn consumer_killed(run: &Run) -> Outcome {
    let (topic, group) = (run.topic().await?, run.group("group").await?);
    send_all(&*run.producer().await?, &topic, None, &numbered("inherited", 10)).await?;
    let consumer = run.simple_consumer(&group).await?;
    run.step("receiving ten and acknowledging five");
    let got = Source::all(&consumer, &topic).hold(10, Duration::from_secs(8), Duration::from_secs(10)).await?;
    for one in got.iter().filter(|one| was_acknowledged(one)) {
        consumer.ack(one).await?;
    }
    run.step("asking to be killed");
    run.ask("kill-me consumer_killed_heir").await?;
    Err(Verdict::Failed("the runner answered `kill-me` instead of killing this program".into()))
}

/// Both lives of the consumer must agree on the five; the body tells.
fn was_acknowledged(got: &MessageView) -> bool {
    ["0", "1", "2", "3", "4"].iter().any(|index| text(got) == format!("inherited {index}"))
}

pub async fn consumer_killed_heir(run: &Run) -> Outcome {
    let topic = run.name_of("consumer_killed", "topic");
    let group = run.name_of("consumer_killed", "group");
    let consumer = run.simple_consumer(&group).await?;
    let source = Source::all(&consumer, &topic);
    run.step("waiting for the five that were not acknowledged");
    let got = source.collect(5, Duration::from_secs(30)).await?;
    let mut bodies: Vec<_> = got.iter().map(text).collect();
    bodies.sort();
    require(!got.iter().any(was_acknowledged), || format!("acknowledged ones came again: {bodies:?}"))?;
    bodies.dedup();
    require(bodies.len() == 5, || format!("expected five different messages: {bodies:?}"))?;
    let attempts: Vec<_> = got.iter().map(MessageView::delivery_attempt).collect();
    require(attempts == [2; 5], || format!("the redeliveries have attempts {attempts:?} instead of 2"))?;
    run.step("expecting nothing else");
    source.expect_silence(12).await?;
    run.expect_no_lag(&group, &topic).await
}

pub async fn producer_restart_handle(run: &Run) -> Outcome {
    let (topic, group) = (run.topic().await?, run.group("group").await?);
    send_all(&*run.producer().await?, &topic, None, &["held across the restart".into()]).await?;
    let consumer = run.simple_consumer(&group).await?;
    let source = Source::all(&consumer, &topic);
    run.step("receiving before the restart");
    let held = source.hold(1, Duration::from_secs(15), Duration::from_secs(30)).await?;
    let received = Instant::now();
    run.step("asking for a restart");
    run.ask("restart").await?;
    run.step("acknowledging with the handle from before the restart");
    acknowledge(&consumer, &held[0], received + Duration::from_secs(25)).await?;
    run.step("expecting no redelivery after the invisible duration");
    while received.elapsed() < Duration::from_secs(35) {
        match source.receive(16, Duration::from_secs(30)).await {
            Ok(got) => require(got.is_empty(), || "the acknowledged message came again".into())?,
            Err(error) => {
                say(format!("a receive failed, which is allowed right after the restart: {error:?}"));
                sleep(Duration::from_millis(500)).await;
            }
        }
    }
    run.expect_no_lag(&group, &topic).await
}

/// The connection may need a moment to come back; only an answer of the server is final.
async fn acknowledge(consumer: &SimpleConsumer, held: &MessageView, deadline: Instant) -> Outcome {
    loop {
        let Err(error) = consumer.ack(held).await else { return Ok(()) };
        require(*error.kind() != ErrorKind::Server, || format!("the acknowledgement was refused: {error}"))?;
        require(Instant::now() < deadline, || format!("the acknowledgement did not get through: {error}"))?;
        say(format!("the acknowledgement did not get through yet: {error:.160}"));
        sleep(Duration::from_millis(500)).await;
    }
}
