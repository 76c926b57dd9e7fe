//! What other clients play with push consumers. This release has none, so sharing is played with simple consumers and the rest is not
//! possible.

use std::time::Duration;

use rocketmq::SimpleConsumer;
use tokio::time::Instant;

use crate::harness::{expect_once, numbered, require, say, send_all, text, Outcome, Run, Source, Verdict};

pub fn unsupported() -> Outcome {
    Err(Verdict::Unsupported("release 5.0.0 of the crate has no push consumer, only a producer and a simple consumer".into()))
}

/// Receives and acknowledges until `quiet` has passed without a message.
async fn drain(consumer: &SimpleConsumer, topic: &str, quiet: Duration) -> Outcome<Vec<String>> {
    let source = Source::all(consumer, topic);
    let mut bodies = Vec::new();
    let mut last = Instant::now();
    while last.elapsed() < quiet {
        // Small batches, so that one consumer does not take everything at once.
        for delivered in source.receive(4, Duration::from_secs(20)).await? {
            consumer.ack(&delivered).await?;
            bodies.push(text(&delivered));
            last = Instant::now();
        }
    }
    Ok(bodies)
}

/// Both consumers receive while the messages are sent.
async fn drain_both(run: &Run, groups: [&str; 2], topic: &str, bodies: &[String]) -> Outcome<[Vec<String>; 2]> {
    let (one, two) = (run.simple_consumer(groups[0]).await?, run.simple_consumer(groups[1]).await?);
    let producer = run.producer().await?;
    let quiet = Duration::from_secs(6);
    let sending = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        send_all(&producer, topic, None, bodies).await
    };
    run.step("sending while two consumers receive");
    let (sent, first, second) = tokio::join!(sending, drain(&one, topic, quiet), drain(&two, topic, quiet));
    sent?;
    Ok([first?, second?])
}

pub async fn group_shares(run: &Run) -> Outcome {
    let (topic, group) = (run.topic().await?, run.group("group").await?);
    let bodies = numbered("shared", 100);
    let [first, second] = drain_both(run, [&group, &group], &topic, &bodies).await?;
    say(format!("the consumers got {} and {} messages", first.len(), second.len()));
    let shared = !first.is_empty() && !second.is_empty();
    expect_once([first, second].concat(), &bodies)?;
    require(shared, || "one of the consumers got nothing".into())?;
    run.expect_no_lag(&group, &topic).await
}

pub async fn groups_each(run: &Run) -> Outcome {
    let topic = run.topic().await?;
    let groups = [run.group("one").await?, run.group("two").await?];
    let bodies = numbered("for each", 20);
    let got = drain_both(run, [&groups[0], &groups[1]], &topic, &bodies).await?;
    for (group, got) in groups.iter().zip(got) {
        expect_once(got, &bodies)?;
        run.expect_no_lag(group, &topic).await?;
    }
    Ok(())
}
