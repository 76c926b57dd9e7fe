//! Limits and refusals: sizes, empty bodies, illegal names. Afterwards the server still serves.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rocketmq::error::{ClientError, ErrorKind};
use rocketmq::model::message::{Message, MessageBuilder};
use rocketmq::Producer;

use crate::harness::{expect_once, message, require, say, send_all, text, Outcome, Run, Source, Verdict};

const LARGEST_BODY: usize = 4 * 1024 * 1024;

/// How a call was refused.
enum Refusal {
    /// By the client, before anything was sent.
    Local(String),
    /// By the server; the text names the code.
    Server(String),
    /// The client panicked over the answer. It does so for codes that are younger than itself.
    Panic(String),
}

/// Runs the call as a task of its own, because this client panics where others return an error.
async fn refusal<T: Send + 'static>(what: &str, call: impl Future<Output = Result<T, ClientError>> + Send + 'static) -> Outcome<Refusal> {
    let answer = tokio::time::timeout(Duration::from_secs(10), tokio::spawn(call)).await;
    let answer = answer.map_err(|_| Verdict::Failed(format!("{what}: no answer within 10 s")))?;
    match answer {
        Err(panic) => Ok(Refusal::Panic(panic.to_string())),
        Ok(Ok(_)) => Err(Verdict::Failed(format!("{what}: accepted"))),
        Ok(Err(error)) if *error.kind() == ErrorKind::Server => Ok(Refusal::Server(error.to_string())),
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::InvalidMessage | ErrorKind::Config) => Ok(Refusal::Local(error.to_string())),
        Ok(Err(error)) => Err(Verdict::Failed(format!("{what}: broken instead of refused: {error}"))),
    }
}

/// Refused by the client itself, or by the server with one of the codes.
pub async fn expect_refused<T: Send + 'static>(
    what: &str,
    codes: &[&str],
    call: impl Future<Output = Result<T, ClientError>> + Send + 'static,
) -> Outcome {
    match refusal(what, call).await? {
        Refusal::Local(said) => say(format!("{what}: refused by the client itself: {said}")),
        Refusal::Server(said) => {
            let right = codes.iter().any(|code| said.contains(&format!("code: {code},")));
            require(right, || format!("{what}: refused, but not with one of {codes:?}: {said}"))?;
            say(format!("{what}: refused by the server: {said}"));
        }
        Refusal::Panic(said) => return Err(Verdict::Failed(format!("{what}: the client panicked: {said}"))),
    }
    Ok(())
}

async fn send(producer: Arc<Producer>, out: impl Message) -> Result<(), ClientError> {
    producer.send(out).await.map(drop)
}

/// The server still takes and delivers a message.
async fn expect_well(run: &Run, producer: &Producer, topic: &str, group: &str) -> Outcome {
    run.step("checking that the server is well");
    let body = ["still well".to_owned()];
    send_all(producer, topic, None, &body).await?;
    let consumer = run.simple_consumer(group).await?;
    let source = Source::all(&consumer, topic);
    let got = source.collect(1, Duration::from_secs(15)).await?;
    expect_once(got.iter().map(text).collect(), &body)?;
    source.expect_silence(3).await
}

/// A body that differs everywhere, so that a lost or swapped piece shows.
fn pattern(size: usize) -> Vec<u8> {
    (0u32..).flat_map(u32::to_be_bytes).take(size).collect()
}

pub async fn body_4m(run: &Run) -> Outcome {
    let (topic, group) = (run.topic().await?, run.group("group").await?);
    let producer = run.producer().await?;
    let body = pattern(LARGEST_BODY);
    run.step("sending 4 MiB");
    let receipt = producer.send(message(&topic, body.clone())?).await?;
    require(!receipt.message_id().is_empty(), || "the receipt has no message id".into())?;
    run.step("receiving 4 MiB");
    let consumer = run.simple_consumer(&group).await?;
    let got = match Source::all(&consumer, &topic).collect(1, Duration::from_secs(15)).await {
        Err(Verdict::Failed(said)) if said.contains("message length too large") => {
            let reason = "the send was accepted; the client cannot receive it: tonic 0.9 takes at most 4 MiB a gRPC message";
            say(said);
            return Err(Verdict::Unsupported(reason.into()));
        }
        got => got?,
    };
    require(got[0].body() == body, || format!("sent {} bytes and received {} different ones", body.len(), got[0].body().len()))
}

pub async fn body_too_big(run: &Run) -> Outcome {
    let (topic, group) = (run.topic().await?, run.group("group").await?);
    let producer = run.producer().await?;
    run.step("sending 4 MiB + 1 byte");
    let out = message(&topic, pattern(LARGEST_BODY + 1))?;
    expect_refused("body of 4 MiB + 1", &["MESSAGE_BODY_TOO_LARGE"], send(producer.clone(), out)).await?;
    expect_well(run, &producer, &topic, &group).await
}

pub async fn body_empty(run: &Run) -> Outcome {
    let (topic, group) = (run.topic().await?, run.group("group").await?);
    let producer = run.producer().await?;
    run.step("sending an empty body");
    let out = message(&topic, Vec::new())?;
    match refusal("empty body", send(producer.clone(), out)).await? {
        // The code MESSAGE_BODY_EMPTY is younger than this release, which unwraps its lookup of the code.
        Refusal::Panic(said) => say(format!("refused by the server with a code that makes this client panic: {said}")),
        Refusal::Local(said) | Refusal::Server(said) => say(format!("refused: {said}")),
    }
    expect_well(run, &producer, &topic, &group).await
}

pub async fn illegal_names(run: &Run) -> Outcome {
    let (topic, group) = (run.topic().await?, run.group("group").await?);
    let producer = run.producer().await?;
    let to = |name: &str| MessageBuilder::builder().set_topic(name).set_body(b"never stored".to_vec());
    let property = |key: &str| to(&topic).set_properties(HashMap::from([(key, "x")]));
    let cases = [
        ("topic with a space", "ILLEGAL_TOPIC", to("bad topic")),
        ("topic of 128 characters", "ILLEGAL_TOPIC", to(&"t".repeat(128))),
        ("system topic", "ILLEGAL_TOPIC", to("TBW102")),
        ("tag with a bar", "ILLEGAL_MESSAGE_TAG", to(&topic).set_tag("a|b")),
        ("blank tag", "ILLEGAL_MESSAGE_TAG", to(&topic).set_tag("  ")),
        ("blank key", "ILLEGAL_MESSAGE_KEY", to(&topic).set_keys(vec!["  "])),
        ("reserved property", "ILLEGAL_MESSAGE_PROPERTY_KEY", property("TAGS")),
        ("property key with a control character", "ILLEGAL_MESSAGE_PROPERTY_KEY", property("a\u{1}b")),
    ];
    run.step("sending with illegal names");
    for (what, code, builder) in cases {
        expect_refused(what, &[code], send(producer.clone(), builder.build()?)).await?;
    }
    run.step("receiving with illegal groups");
    for (what, bad) in [("group with a space", "bad group".to_owned()), ("group of 121 characters", "g".repeat(121))] {
        expect_group_refused(run, what, &topic, &bad).await?;
    }
    expect_well(run, &producer, &topic, &group).await
}

/// The start of a consumer announces its group too, so the refusal may come there or with the first receive.
async fn expect_group_refused(run: &Run, what: &str, topic: &str, group: &str) -> Outcome {
    let consumer = match run.simple_consumer(group).await {
        Ok(consumer) => consumer,
        Err(refused) => {
            say(format!("{what}: refused at the start: {refused:?}"));
            return Ok(());
        }
    };
    let topic = topic.to_owned();
    let receive = async move {
        let expression = rocketmq::model::common::FilterExpression::new(rocketmq::model::common::FilterType::Tag, "*");
        consumer.receive_with(&topic, &expression, 1, Duration::from_secs(10)).await
    };
    expect_refused(what, &["ILLEGAL_CONSUMER_GROUP"], receive).await
}

pub async fn unknown_topic(run: &Run) -> Outcome {
    let (topic, group) = (run.name("fresh"), run.name("group"));
    let producer = run.producer().await?;
    let body = ["first use".to_owned()];
    run.step("sending to a topic nobody created");
    send_all(&producer, &topic, None, &body).await?;
    run.step("receiving with a group nobody created");
    let consumer = run.simple_consumer(&group).await?;
    let source = Source::all(&consumer, &topic);
    let got = source.collect(1, Duration::from_secs(20)).await?;
    expect_once(got.iter().map(text).collect(), &body)?;
    run.step("sending to a topic that must not be created");
    // Not found, illegal or forbidden: the name is well formed, but only the server makes such topics.
    let codes = ["TOPIC_NOT_FOUND", "ILLEGAL_TOPIC", "FORBIDDEN"];
    expect_refused("topic `%illegal%`", &codes, send(producer, message("%illegal%", "x")?)).await?;
    source.expect_silence(3).await
}
