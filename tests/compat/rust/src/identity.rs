//! What makes a message the same one: its message id. What else the other clients play here is not possible with this release.

use std::collections::HashMap;
use std::time::Duration;

use rocketmq::model::message::Message;

use crate::fifo::RETRY_QUICKLY;
use crate::harness::{expect_once, message, require, text, Outcome, Run, Source, Verdict};

/// A message that is sent again as what it is: this client never sends one again by itself, and takes every message apart when it sends it.
#[derive(Clone)]
struct Same {
    id: String,
    topic: String,
    body: String,
    message_group: Option<String>,
}

impl Message for Same {
    fn take_message_id(&mut self) -> String {
        self.id.clone()
    }

    fn take_topic(&mut self) -> String {
        self.topic.clone()
    }

    fn take_body(&mut self) -> Vec<u8> {
        self.body.clone().into_bytes()
    }

    fn take_tag(&mut self) -> Option<String> {
        None
    }

    fn take_keys(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn take_properties(&mut self) -> HashMap<String, String> {
        HashMap::new()
    }

    fn take_message_group(&mut self) -> Option<String> {
        self.message_group.clone()
    }

    fn take_delivery_timestamp(&mut self) -> Option<i64> {
        None
    }

    fn transaction_enabled(&mut self) -> bool {
        false
    }
}

pub async fn dedup(run: &Run) -> Outcome {
    for (kind, message_group) in [("NORMAL", None), ("FIFO", Some("lane".to_owned()))] {
        let topic = run.topic_with(&format!("topic-{kind}"), &format!("type={kind}")).await?;
        let group = run.group_with(&format!("group-{kind}"), RETRY_QUICKLY).await?;
        let producer = run.producer().await?;
        run.step(&format!("sending one message twice to a topic of type {kind}"));
        let id = message(&topic, "for its id")?.take_message_id();
        let out = Same { id: id.clone(), topic: topic.clone(), body: "once".into(), message_group };
        for receipt in [producer.send(out.clone()).await?, producer.send(out).await?] {
            require(receipt.message_id() == id, || format!("the receipt has message id `{}` instead of `{id}`", receipt.message_id()))?;
        }
        let consumer = run.simple_consumer(&group).await?;
        let source = Source::all(&consumer, &topic);
        let got = source.collect(1, Duration::from_secs(15)).await?;
        expect_once(got.iter().map(text).collect(), &["once".to_owned()])?;
        require(got[0].message_id() == id, || format!("it was sent as `{id}` and came as `{}`", got[0].message_id()))?;
        source.expect_silence(4).await?;
        run.expect_no_lag(&group, &topic).await?;
    }
    Ok(())
}

pub fn trace_context() -> Outcome {
    Err(Verdict::Unsupported("the client neither sets a message's trace context nor shows it".into()))
}

pub fn namespace() -> Outcome {
    Err(Verdict::Unsupported("release 5.0.0 of the crate keeps the setter of the namespace to itself".into()))
}
