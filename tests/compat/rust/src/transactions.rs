//! Transactional messages: seen when committed, once; never when rolled back; and the producer is asked when it forgot.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rocketmq::model::message::{Message, MessageBuilder, MessageView};
use rocketmq::model::transaction::{Transaction, TransactionChecker, TransactionResolution};
use rocketmq::{Producer, SimpleConsumer};
use tokio::time::Instant;

use crate::harness::{expect_once, require, say, text, Outcome, Run, Source, Verdict, LONG};
use crate::surely;
use crate::task::wait_until;

/// The server first asks 6 s after the send.
const ASKED: Duration = Duration::from_secs(12);
const BODIES: [&str; 3] = ["open 0", "open 1", "open 2"];

fn half(topic: &str, body: &str) -> Outcome<impl Message> {
    let builder = MessageBuilder::transaction_message_builder(topic, body.as_bytes().to_vec()).set_tag("half");
    let builder = builder.set_keys(vec![format!("key of {body}")]);
    Ok(builder.set_properties(HashMap::from([("what", "a half message")])).build()?)
}

fn expect_as_sent(got: &MessageView, topic: &str) -> Outcome {
    let body = text(got);
    require(got.topic() == topic, || format!("the topic was `{topic}` and came as `{}`", got.topic()))?;
    require(got.tag() == Some("half"), || format!("the tag came as {:?}", got.tag()))?;
    require(got.keys() == [format!("key of {body}")], || format!("the keys of `{body}` came as {:?}", got.keys()))?;
    let properties = HashMap::from([("what".to_owned(), "a half message".to_owned())]);
    require(*got.properties() == properties, || format!("the properties came as {:?}", got.properties()))
}

/// Remembers what it was asked.
#[derive(Clone, Default)]
struct Checker(Arc<Mutex<Vec<MessageView>>>);

impl Checker {
    fn committing(&self) -> Box<TransactionChecker> {
        let asked = self.0.clone();
        Box::new(move |_, message| {
            say(format!("the checker is asked about `{}`", text(&message)));
            asked.lock().expect("nobody panics while holding this lock").push(message);
            TransactionResolution::COMMIT
        })
    }

    fn asked_about(&self) -> Vec<String> {
        self.0.lock().expect("nobody panics while holding this lock").iter().map(text).collect()
    }

    fn expect_as_sent(&self, topic: &str) -> Outcome {
        self.0.lock().expect("nobody panics while holding this lock").iter().try_for_each(|one| expect_as_sent(one, topic))
    }
}

async fn send_half(producer: &Producer, topic: &str, body: &str) -> Outcome<impl Transaction> {
    let transaction = producer.send_transaction_message(half(topic, body)?).await?;
    require(!transaction.transaction_id().is_empty(), || format!("the receipt of `{body}` has no transaction id"))?;
    Ok(transaction)
}

pub async fn commit(run: &Run) -> Outcome {
    let topic = run.topic_with("topic", "type=TRANSACTION").await?;
    let group = run.group("group").await?;
    let consumer = run.simple_consumer(&group).await?;
    let source = Source::all(&consumer, &topic);
    // If the checker is asked before the commit, it must not be what commits.
    let producer = run.transaction_producer(&topic, Box::new(|_, _| TransactionResolution::UNKNOWN)).await?;
    let transaction = send_half(&producer, &topic, "committed").await?;
    let id = transaction.message_id().to_owned();
    run.step("expecting nothing before the commit");
    source.expect_silence(2).await?;
    run.step("committing");
    transaction.commit().await?;
    let got = source.collect(1, Duration::from_secs(10)).await?;
    require(text(&got[0]) == "committed", || format!("`{}` came", text(&got[0])))?;
    expect_as_sent(&got[0], &topic)?;
    require(got[0].message_id() == id, || format!("it was sent as `{id}` and came as `{}`", got[0].message_id()))?;
    run.step("expecting nothing else, also when a check would be due");
    source.expect_silence(9).await?;
    run.expect_no_lag(&group, &topic).await
}

pub async fn rollback(run: &Run) -> Outcome {
    let topic = run.topic_with("topic", "type=TRANSACTION").await?;
    let group = run.group("group").await?;
    let consumer = run.simple_consumer(&group).await?;
    let checker = Checker::default();
    let producer = run.transaction_producer(&topic, checker.committing()).await?;
    let transaction = send_half(&producer, &topic, "rolled back").await?;
    run.step("rolling back");
    transaction.rollback().await?;
    run.step("expecting nothing, also when a check would be due");
    Source::all(&consumer, &topic).expect_silence(12).await?;
    require(checker.asked_about().is_empty(), || "the checker was asked about a transaction that was rolled back".into())?;
    run.expect_no_lag(&group, &topic).await
}

// ---- forgotten transactions

pub async fn check(run: &Run) -> Outcome {
    let topic = run.topic_with("topic", "type=TRANSACTION").await?;
    let group = run.group("group").await?;
    let checker = Checker::default();
    let producer = run.transaction_producer(&topic, checker.committing()).await?;
    let consumer = run.simple_consumer(&group).await?;
    for body in BODIES {
        send_half(&producer, &topic, body).await?;
    }
    let restarted = run.middle("txn-check-heir").await?;
    if !restarted {
        return expect_asked(run, &checker, &consumer, &group, &topic).await;
    }
    // This client never opens its Telemetry stream again.
    run.step("starting a second producer after the restart");
    let _second = run.transaction_producer(&topic, checker.committing()).await?;
    expect_asked(run, &checker, &consumer, &group, &topic).await
}

pub async fn check_heir(run: &Run) -> Outcome {
    inherit(run, "txn-check").await
}

pub async fn check_other(run: &Run) -> Outcome {
    let topic = run.topic_with("topic", "type=TRANSACTION").await?;
    run.group("group").await?;
    let producer = run.transaction_producer(&topic, Box::new(|_, _| TransactionResolution::UNKNOWN)).await?;
    for body in BODIES {
        send_half(&producer, &topic, body).await?;
    }
    run.step("asking to be killed");
    run.ask("kill-me txn-check-other-heir").await?;
    Err(Verdict::Failed("the runner answered `kill-me` instead of killing this program".into()))
}

pub async fn check_other_heir(run: &Run) -> Outcome {
    inherit(run, "txn-check-other").await
}

/// The sender is gone. Its topic has another producer, which is asked.
async fn inherit(run: &Run, scenario: &str) -> Outcome {
    let (topic, group) = (run.name_of(scenario, "topic"), run.name_of(scenario, "group"));
    let checker = Checker::default();
    let _other = run.transaction_producer(&topic, checker.committing()).await?;
    let consumer = run.simple_consumer(&group).await?;
    expect_asked(run, &checker, &consumer, &group, &topic).await
}

async fn expect_asked(run: &Run, checker: &Checker, consumer: &SimpleConsumer, group: &str, topic: &str) -> Outcome {
    run.step("waiting for the checker to be asked");
    let began = Instant::now();
    let about = || checker.asked_about();
    let all = || BODIES.iter().all(|body| about().iter().any(|asked| asked == body));
    wait_until(all, || format!("asked about {:?}", about()), ASKED, &mut []).await?;
    say(format!("asked after {:.1?}", began.elapsed()));
    checker.expect_as_sent(topic)?;
    run.step("receiving what the checker committed");
    let source = Source::all(consumer, topic);
    let mut got = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(15);
    while got.len() < BODIES.len() {
        require(Instant::now() < deadline, || format!("within 15 s came only {got:?}"))?;
        for delivered in surely::receive(&source, 16, LONG).await? {
            expect_as_sent(&delivered, topic)?;
            surely::ack(consumer, &delivered).await?;
            got.push(text(&delivered));
        }
    }
    expect_once(got, &BODIES.map(str::to_owned))?;
    source.expect_silence(4).await?;
    run.expect_no_lag(group, topic).await
}
