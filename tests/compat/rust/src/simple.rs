//! Simple consumers: batches, invisible durations, receipt handles.

use std::time::Duration;

use rocketmq::error::{ClientError, ErrorKind};
use rocketmq::model::message::MessageView;
use tokio::time::Instant;

use crate::harness::{expect_once, numbered, require, say, send_all, text, Outcome, Run, Source, Verdict, LONG};

/// The shortest invisible duration the protocol allows for a receive.
const SHORT: Duration = Duration::from_secs(10);
/// A redelivery later than this after the end of the invisible duration is too late.
const SLACK: Duration = Duration::from_secs(5);

pub async fn simple_receive_ack(run: &Run) -> Outcome {
    let (topic, group) = (run.topic().await?, run.group("group").await?);
    let bodies = numbered("batch", 20);
    send_all(&*run.producer().await?, &topic, None, &bodies).await?;
    run.step("receiving in batches of 8 and acknowledging");
    let consumer = run.simple_consumer(&group).await?;
    let source = Source::all(&consumer, &topic);
    let got = source.collect(20, Duration::from_secs(20)).await?;
    expect_once(got.iter().map(text).collect(), &bodies)?;
    run.step("expecting nothing after the invisible duration");
    source.expect_silence(SHORT.as_secs() + 3).await?;
    run.expect_no_lag(&group, &topic).await
}

/// One message and the times before and after the call that brought it: the lease began between the two.
struct Received {
    message: MessageView,
    before: Instant,
    after: Instant,
}

async fn receive_one(source: &Source<'_>, invisible: Duration, within: Duration) -> Outcome<Received> {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        let before = Instant::now();
        let mut got = source.receive(1, invisible).await?;
        require(got.len() <= 1, || format!("asked for one message and got {}", got.len()))?;
        if let Some(message) = got.pop() {
            return Ok(Received { message, before, after: Instant::now() });
        }
    }
    Err(Verdict::Failed(format!("nothing came within {within:?}")))
}

fn expect_attempt(received: &Received, attempt: i32) -> Outcome {
    let found = received.message.delivery_attempt();
    require(found == attempt, || format!("this delivery has attempt {found} instead of {attempt}"))
}

pub async fn simple_expire_redeliver(run: &Run) -> Outcome {
    let (topic, group) = (run.topic().await?, run.group("group").await?);
    send_all(&*run.producer().await?, &topic, None, &["expires".into()]).await?;
    let consumer = run.simple_consumer(&group).await?;
    let source = Source::all(&consumer, &topic);
    run.step("receiving without an acknowledgement");
    let first = receive_one(&source, SHORT, Duration::from_secs(20)).await?;
    expect_attempt(&first, 1)?;
    run.step("waiting for the redelivery");
    let again = receive_one(&source, LONG, SHORT + SLACK + Duration::from_secs(2)).await?;
    let (longest, shortest) = (again.after - first.before, again.after - first.after);
    say(format!("came again {longest:.2?} after the lease began"));
    require(longest >= SHORT, || format!("came again after {longest:.2?}, before its {SHORT:?} were over"))?;
    require(shortest <= SHORT + SLACK, || format!("came again only after {shortest:.2?} instead of {SHORT:?}"))?;
    expect_attempt(&again, 2)?;
    consumer.ack(&again.message).await?;
    run.expect_no_lag(&group, &topic).await
}

pub fn simple_change_invisible() -> Outcome {
    Err(Verdict::Unsupported("release 5.0.0 of the crate has no call that changes the invisible duration".into()))
}

pub async fn simple_late_ack(run: &Run) -> Outcome {
    let (topic, group) = (run.topic().await?, run.group("group").await?);
    send_all(&*run.producer().await?, &topic, None, &["late".into()]).await?;
    let consumer = run.simple_consumer(&group).await?;
    let source = Source::all(&consumer, &topic);
    run.step("letting the invisible duration end");
    let patience = SHORT + SLACK + Duration::from_secs(2);
    let first = receive_one(&source, SHORT, Duration::from_secs(20)).await?;
    let mut newer = receive_one(&source, SHORT, patience).await?;
    expect_attempt(&newer, 2)?;
    run.step("acknowledging with the old handle");
    if !refused(consumer.ack(&first.message).await)? {
        // Success is allowed when it changed nothing: then the message comes a third time.
        newer = receive_one(&source, LONG, patience).await?;
        expect_attempt(&newer, 3)?;
    }
    run.step("acknowledging the new delivery");
    consumer.ack(&newer.message).await?;
    source.expect_silence(SHORT.as_secs() + 3).await?;
    run.expect_no_lag(&group, &topic).await
}

fn refused(answer: Result<(), ClientError>) -> Outcome<bool> {
    let Err(refusal) = answer else {
        say("the late acknowledgement was answered with success");
        return Ok(false);
    };
    require(*refusal.kind() == ErrorKind::Server, || format!("the late acknowledgement was not answered: {refusal}"))?;
    say(format!("the late acknowledgement was refused: {refusal}"));
    Ok(true)
}
