//! Tag expressions: exactly the matching messages, and nothing left over.

use std::time::Duration;

use crate::harness::{expect_once, numbered, send_all, text, Outcome, Run, Source};

pub async fn tag_filter(run: &Run) -> Outcome {
    let topic = run.topic().await?;
    let groups = [run.group("just-a").await?, run.group("a-or-b").await?, run.group("all").await?];
    run.step("sending 40 messages with four tags");
    let producer = run.producer().await?;
    let mut sent = Vec::new();
    for tag in ["A", "B", "C", "AB"] {
        let bodies = numbered(tag, 10);
        send_all(&producer, &topic, Some(tag), &bodies).await?;
        sent.extend(bodies);
    }
    run.step("receiving with three expressions");
    let results = tokio::join!(
        check(run, &groups[0], &topic, "A", &sent[..10]),
        check(run, &groups[1], &topic, "A || B", &sent[..20]),
        check(run, &groups[2], &topic, "*", &sent),
    );
    results.0.and(results.1).and(results.2)?;
    run.step("expecting no lag");
    for group in &groups {
        run.expect_no_lag(group, &topic).await?;
    }
    Ok(())
}

async fn check(run: &Run, group: &str, topic: &str, expression: &str, expected: &[String]) -> Outcome {
    let consumer = run.simple_consumer(group).await?;
    let source = Source::new(&consumer, topic, expression);
    let got = source.collect(expected.len(), Duration::from_secs(30)).await?;
    expect_once(got.iter().map(text).collect(), expected)?;
    source.expect_silence(4).await
}
