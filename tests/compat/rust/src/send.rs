//! Producers: what is sent arrives, once and unchanged.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rocketmq::model::message::{MessageBuilder, MessageView};

use crate::harness::{expect_once, message, numbered, require, say, text, Outcome, Run, Source, Verdict};

/// Longer than a redelivery caused by a lost answer would need to show up, short enough for a scenario.
const QUIET_S: u64 = 4;

struct Sent {
    topic: String,
    body: String,
    tag: String,
    keys: Vec<String>,
    properties: HashMap<String, String>,
}

impl Sent {
    fn new(topic: &str, index: usize) -> Self {
        let property = |key: &str, value: String| (key.to_owned(), value);
        Sent {
            topic: topic.into(),
            body: format!("body {index} – ünïcode"),
            tag: format!("tag-{}", index % 3),
            keys: vec![format!("key-{index}"), format!("order-{index}")],
            properties: HashMap::from([
                property("plain", format!("value {index}")),
                property("number", index.to_string()),
                property("non-ascii", format!("größe 测试 {index}")),
            ]),
        }
    }

    fn expect_equal(&self, got: &MessageView) -> Outcome {
        let equal = [
            ("topic", got.topic() == self.topic),
            ("body", text(got) == self.body),
            ("tag", got.tag() == Some(self.tag.as_str())),
            ("keys", got.keys() == self.keys),
            ("properties", *got.properties() == self.properties),
            ("attempt", got.delivery_attempt() == 1),
            ("born timestamp", got.born_timestamp() > 0),
            ("born host", !got.born_host().is_empty()),
        ];
        let wrong: Vec<_> = equal.iter().filter(|(_, equal)| !equal).map(|(what, _)| what).collect();
        require(wrong.is_empty(), || format!("`{}` was received with a wrong {wrong:?}: {got:?}", self.body))
    }
}

pub async fn send_sync(run: &Run) -> Outcome {
    let (topic, group) = (run.topic().await?, run.group("group").await?);
    run.step("sending 20 messages");
    let producer = run.producer().await?;
    let mut sent = HashMap::new();
    for index in 0..20 {
        let out = Sent::new(&topic, index);
        let builder = MessageBuilder::builder().set_topic(&topic).set_body(out.body.clone().into_bytes()).set_tag(&out.tag);
        let built = builder.set_keys(out.keys.clone()).set_properties(out.properties.clone()).build()?;
        let receipt = producer.send(built).await?;
        require(!receipt.message_id().is_empty(), || format!("receipt {index} has no message id"))?;
        sent.insert(receipt.message_id().to_owned(), out);
    }
    require(sent.len() == 20, || "two receipts have the same message id".into())?;

    run.step("receiving 20 messages");
    let consumer = run.simple_consumer(&group).await?;
    let source = Source::all(&consumer, &topic);
    for got in source.collect(20, Duration::from_secs(30)).await? {
        let out = sent.remove(got.message_id());
        let out = out.ok_or_else(|| Verdict::Failed(format!("`{}` is of no receipt or came before", got.message_id())))?;
        out.expect_equal(&got)?;
    }
    run.step("expecting nothing else");
    source.expect_silence(QUIET_S).await?;
    run.step("shutting down");
    consumer.shutdown().await?;
    let producer = Arc::into_inner(producer).expect("nobody else holds the producer");
    Ok(producer.shutdown().await?)
}

pub async fn send_async(run: &Run) -> Outcome {
    let (topic, group) = (run.topic().await?, run.group("group").await?);
    let producer = run.producer().await?;
    let bodies = numbered("async", 100);
    run.step("sending 100 messages at the same time");
    let mut sends = Vec::new();
    for body in &bodies {
        let (producer, out) = (producer.clone(), message(&topic, body.clone())?);
        sends.push(tokio::spawn(async move { producer.send(out).await }));
    }
    let mut ids = HashSet::new();
    for send in sends {
        let receipt = send.await.map_err(|panic| Verdict::Failed(format!("a send panicked: {panic}")))??;
        ids.insert(receipt.message_id().to_owned());
    }
    require(ids.len() == 100 && !ids.contains(""), || format!("100 sends gave {} different message ids", ids.len()))?;
    say("all sends acknowledged");
    run.step("receiving 100 messages");
    let consumer = run.simple_consumer(&group).await?;
    let source = Source::all(&consumer, &topic);
    let got = source.collect(100, Duration::from_secs(40)).await?;
    expect_once(got.iter().map(text).collect(), &bodies)?;
    source.expect_silence(QUIET_S).await
}
