//! FIFO: each message group in order, whatever fails. This release has no push consumer, and no call that changes the invisible duration: a
//! message that fails waits until its invisible duration ends.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use rocketmq::model::message::MessageBuilder;
use rocketmq::{Producer, SimpleConsumer};
use tokio::time::{sleep, Instant};

use crate::harness::{expect_once, require, say, text, Outcome, Run, Source};
use crate::ledger::Ledger;
use crate::surely;
use crate::task::{wait_until, Stopping, Task};

const LANES: [&str; 5] = ["lane-0", "lane-1", "lane-2", "lane-3", "lane-4"];
const LENGTH: i64 = 40;
const SHORT: Duration = Duration::from_secs(10);
/// Keeps the waits of the scenarios short.
pub const RETRY_QUICKLY: &str = "retry=1s,1s";

fn lane_of(body: &str) -> &str {
    body.split_once(' ').map_or(body, |(lane, _)| lane)
}

/// The lane is the message group.
async fn send_in_order(producer: &Producer, topic: &str, bodies: &[String]) -> Outcome {
    for body in bodies {
        surely::send(producer, || Ok(MessageBuilder::fifo_message_builder(topic, body.clone().into_bytes(), lane_of(body)).build()?)).await?;
    }
    Ok(())
}

// ---- fifo-order

pub async fn order(run: &Run) -> Outcome {
    let topic = run.topic_with("topic", "type=FIFO").await?;
    let group = run.group_with("simple", RETRY_QUICKLY).await?;
    play_order(run, &topic, &group, false).await
}

pub async fn order_heir(run: &Run) -> Outcome {
    play_order(run, &run.name_of("fifo-order", "topic"), &run.name_of("fifo-order", "simple"), true).await
}

async fn play_order(run: &Run, topic: &str, group: &str, inherited: bool) -> Outcome {
    let ledger = Ledger::of(run).await?;
    let (consumer, producer) = (run.simple_consumer(group).await?, run.producer().await?);
    let mut receiving = Task::new(|stopping| receive_all(consumer, topic.to_owned(), ledger.clone(), stopping));
    let mut sending = Task::new(|_| send_rest(producer, topic.to_owned(), ledger.clone()));
    let total = LANES.len() * usize::try_from(LENGTH).expect("a small number");
    let done = || ledger.firsts("simple").len();
    let progress = || format!("{} of {total} were finished", done());
    run.step("sending and receiving until the middle");
    wait_until(|| done() > total / 4, progress, Duration::from_secs(40), &mut [&mut receiving, &mut sending]).await?;
    let harsh = run.middle("fifo-order-heir").await? || inherited;
    run.step("sending and receiving the rest");
    wait_until(|| done() >= total, progress, Duration::from_secs(90), &mut [&mut receiving, &mut sending]).await?;
    sending.end().await?;
    sleep(Duration::from_secs(2)).await;
    receiving.stop().await?;
    for lane in LANES {
        ledger.expect_in_order("simple", lane, LENGTH, !harsh)?;
    }
    run.expect_no_lag(group, topic).await
}

/// Goes on after what is noted as sent. A send that was acknowledged but not noted is repeated.
async fn send_rest(producer: Arc<Producer>, topic: String, ledger: Ledger) -> Outcome {
    for number in 0..LENGTH {
        for lane in LANES {
            if !ledger.numbers("sent", lane).contains(&number) {
                let body = format!("{lane} {number}");
                send_in_order(&producer, &topic, std::slice::from_ref(&body)).await?;
                ledger.add("sent", &body)?;
            }
        }
    }
    Ok(())
}

async fn receive_all(consumer: SimpleConsumer, topic: String, ledger: Ledger, stopping: Stopping) -> Outcome {
    let source = Source::all(&consumer, &topic);
    while !stopping.load(Ordering::Relaxed) {
        for delivered in surely::receive(&source, 16, SHORT).await? {
            ledger.add("simple", &text(&delivered))?;
            // If it is refused, the rest of the batch may have been given to others; in order it comes again.
            if !surely::ack(&consumer, &delivered).await? {
                break;
            }
        }
    }
    Ok(())
}

// ---- fifo-retry and fifo-dead

fn numbered_from_one(name: &str, count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("{name} {number}")).collect()
}

/// Every delivery in order, and those that succeeded.
#[derive(Default)]
struct Trials {
    came: Vec<String>,
    done: Vec<String>,
}

impl Trials {
    /// Receives until so many succeeded. `fails` is asked with a body and how often it came before. One at a time: within a batch the order
    /// would be the application's own affair.
    async fn consume(run: &Run, group: &str, topic: &str, wanted: usize, fails: impl Fn(&str, usize) -> bool) -> Outcome<Self> {
        let consumer = run.simple_consumer(group).await?;
        let source = Source::all(&consumer, topic);
        let mut trials = Trials::default();
        let deadline = Instant::now() + Duration::from_secs(50);
        while trials.done.len() < wanted {
            require(Instant::now() < deadline, || format!("of {wanted} succeeded {:?} within 50 s", trials.done))?;
            for delivered in source.receive(1, SHORT).await? {
                let body = text(&delivered);
                let earlier = trials.came.iter().filter(|came| **came == body).count();
                trials.came.push(body.clone());
                if !fails(&body, earlier) {
                    consumer.ack(&delivered).await?;
                    trials.done.push(body);
                }
            }
        }
        Ok(trials)
    }

    fn expect_came(&self, lane: &str, expected: &[String]) -> Outcome {
        let came: Vec<_> = self.came.iter().filter(|body| lane_of(body) == lane).cloned().collect();
        require(came == expected, || format!("{came:?} came instead of {expected:?}"))
    }
}

pub async fn retry(run: &Run) -> Outcome {
    let topic = run.topic_with("topic", "type=FIFO").await?;
    let group = run.group_with("simple", &format!("{RETRY_QUICKLY} max_attempts=5")).await?;
    let (sick, well) = (numbered_from_one("sick", 6), numbered_from_one("well", 6));
    run.step("sending two message groups");
    let both: Vec<_> = sick.iter().zip(&well).flat_map(|(sick, well)| [sick.clone(), well.clone()]).collect();
    send_in_order(&*run.producer().await?, &topic, &both).await?;
    run.step("consuming, with one message that comes again twice");
    let trials = Trials::consume(run, &group, &topic, 12, |body, earlier| body == sick[2] && earlier < 2).await?;
    let expected = [&sick[..3], &[sick[2].clone(), sick[2].clone()], &sick[3..]].concat();
    trials.expect_came("sick", &expected)?;
    trials.expect_came("well", &well)?;
    say(format!("finished in the order {:?}", trials.done));
    let place = |body: &String| trials.done.iter().position(|done| done == body);
    require(place(&well[5]) < place(&sick[2]), || format!("the other message group was held up: {:?}", trials.done))?;
    run.expect_no_lag(&group, &topic).await
}

pub async fn dead(run: &Run) -> Outcome {
    let topic = run.topic_with("topic", "type=FIFO").await?;
    let group = run.group_with("simple", &format!("{RETRY_QUICKLY} max_attempts=2")).await?;
    let lane = numbered_from_one("lane", 4);
    run.step("sending a message group");
    send_in_order(&*run.producer().await?, &topic, &lane).await?;
    run.step("consuming, with a second message that always fails");
    let trials = Trials::consume(run, &group, &topic, 3, |body, _| body == lane[1]).await?;
    trials.expect_came("lane", &[&lane[..2], &lane[1..]].concat())?;
    run.step("reading the dead letter queue");
    let (reader, letters) = (run.simple_consumer(&run.group("reader").await?).await?, format!("%DLQ%{group}"));
    let source = Source::all(&reader, &letters);
    let dead = source.collect(1, Duration::from_secs(15)).await?;
    expect_once(dead.iter().map(text).collect(), &lane[1..2])?;
    source.expect_silence(3).await?;
    run.expect_no_lag(&group, &topic).await
}
