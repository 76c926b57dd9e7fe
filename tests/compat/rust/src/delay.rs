//! Delayed messages: never early, and soon when due. Times are seconds since 1970, because this client sends whole seconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rocketmq::model::message::MessageBuilder;
use rocketmq::SimpleConsumer;
use tokio::time::Instant;

use crate::harness::{note, require, say, text, Outcome, Run, Source, Verdict};
use crate::ledger::Ledger;
use crate::surely;

const EARLY_S: f64 = 0.05;
const LATE_S: f64 = 10.0;
/// After a kill the client needs a moment to connect again before it can be on time.
const RECOVERY_S: f64 = 6.0;
const EACH: i64 = 5;
const LANES: [&str; 3] = ["past", "soon", "later"];

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs_f64()
}

/// The first whole second that is at least so far away.
fn due_in(seconds: f64) -> i64 {
    (now() + seconds).ceil() as i64
}

pub async fn delay(run: &Run) -> Outcome {
    let topic = run.topic_with("topic", "type=DELAY").await?;
    let group = run.group("group").await?;
    let (consumer, producer) = (run.simple_consumer(&group).await?, run.producer().await?);
    let ledger = Ledger::of(run).await?;
    run.step("sending");
    let dues = [due_in(-60.0), due_in(2.0), due_in(5.0)];
    for (lane, due) in LANES.iter().zip(dues) {
        for number in 0..EACH {
            let body = format!("{lane} {number}").into_bytes();
            producer.send(MessageBuilder::delay_message_builder(&topic, body, due).build()?).await?;
        }
        // So that an heir knows as well.
        note(&format!("due {lane} {due}"));
    }
    let sent = now();
    let restarted = run.middle("delay-heir").await?;
    let ready = if restarted { now() + RECOVERY_S } else { sent };
    receive_on_time(&consumer, &topic, &ledger, dues, ready).await?;
    expect_rest(run, &consumer, &topic, &group, &ledger, !restarted).await
}

pub async fn delay_heir(run: &Run) -> Outcome {
    let (topic, group) = (run.name_of("delay", "topic"), run.name_of("delay", "group"));
    let ledger = Ledger::of(run).await?;
    let dues = LANES.map(|lane| ledger.numbers("due", lane).first().copied().unwrap_or(i64::MAX));
    let consumer = run.simple_consumer(&group).await?;
    receive_on_time(&consumer, &topic, &ledger, dues, now() + RECOVERY_S).await?;
    expect_rest(run, &consumer, &topic, &group, &ledger, false).await
}

/// Nothing counts as late before `ready`.
async fn receive_on_time(consumer: &SimpleConsumer, topic: &str, ledger: &Ledger, dues: [i64; 3], ready: f64) -> Outcome {
    let source = Source::all(consumer, topic);
    let deadline = Instant::now() + Duration::from_secs(40);
    let mut worst = f64::MIN;
    while ledger.firsts("got").len() < 15 {
        require(Instant::now() < deadline, || format!("within 40 s came only {:?}", ledger.firsts("got")))?;
        for delivered in surely::receive(&source, 16, Duration::from_secs(10)).await? {
            let (body, at) = (text(&delivered), now());
            let lane = LANES.iter().position(|lane| body.starts_with(lane));
            let due = lane.map(|lane| dues[lane]).ok_or_else(|| Verdict::Failed(format!("`{body}` came")))?;
            let carried = delivered.delivery_timestamp();
            require(carried == Some(due), || format!("`{body}` carries the delivery timestamp {carried:?} instead of {due}"))?;
            let due = due as f64;
            require(at >= due - EARLY_S, || format!("`{body}` came {:.3} s early", due - at))?;
            let late = at - due.max(ready);
            worst = worst.max(late);
            require(late <= LATE_S, || format!("`{body}` came {late:.3} s late"))?;
            ledger.add("got", &body)?;
            consumer.ack(&delivered).await?;
        }
    }
    say(format!("the latest came {worst:.3} s after it was due"));
    Ok(())
}

async fn expect_rest(run: &Run, consumer: &SimpleConsumer, topic: &str, group: &str, ledger: &Ledger, once: bool) -> Outcome {
    run.step("expecting nothing else");
    Source::all(consumer, topic).expect_silence(if once { 3 } else { 12 }).await?;
    for lane in LANES {
        ledger.expect_all("got", lane, EACH, once)?;
    }
    run.expect_no_lag(group, topic).await
}

pub fn recall() -> Outcome {
    Err(Verdict::Unsupported("release 5.0.0 of the crate has no recall".into()))
}
