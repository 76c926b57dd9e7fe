//! Dead letters: they wait, and come again when an operator redrives them. Without a push consumer a message fails when its invisible
//! duration ends.

use std::time::Duration;

use crate::fifo::RETRY_QUICKLY;
use crate::harness::{expect_once, require, say, send_all, text, Outcome, Run, Source};

const SHORT: Duration = Duration::from_secs(10);

pub async fn nack_dlq_redrive(run: &Run) -> Outcome {
    let topic = run.topic().await?;
    let group = run.group_with("group", &format!("{RETRY_QUICKLY} max_attempts=2")).await?;
    let reader = run.simple_consumer(&run.group("reader").await?).await?;
    let consumer = run.simple_consumer(&group).await?;
    let (source, body) = (Source::all(&consumer, &topic), ["sick".to_owned()]);
    send_all(&*run.producer().await?, &topic, None, &body).await?;
    run.step("receiving twice without an acknowledgement");
    for attempt in 1..=2 {
        let got = source.hold(1, Duration::from_secs(20), SHORT).await?;
        let found = got[0].delivery_attempt();
        require(found == attempt, || format!("this delivery has attempt {found} instead of {attempt}"))?;
    }
    run.step("reading the dead letter queue");
    let dlq = format!("%DLQ%{group}");
    let letters = Source::all(&reader, &dlq);
    let dead = letters.collect(1, Duration::from_secs(25)).await?;
    expect_once(dead.iter().map(text).collect(), &body)?;
    run.step("redriving");
    run.ask(&format!("redrive {group}")).await?;
    let again = source.collect(1, Duration::from_secs(15)).await?;
    expect_once(again.iter().map(text).collect(), &body)?;
    say(format!("after the redrive it came with attempt {}", again[0].delivery_attempt()));
    source.expect_silence(4).await?;
    letters.expect_silence(3).await?;
    run.expect_no_lag(&group, &topic).await
}
