//! Calls for scenarios in which the server is away for a moment: they go on until there is an answer.

use std::time::Duration;

use rocketmq::error::{ClientError, ErrorKind};
use rocketmq::model::message::{Message, MessageView};
use rocketmq::{Producer, SimpleConsumer};
use tokio::time::{sleep, Instant};

use crate::harness::{require, say, Outcome, Source};

const PAUSE: Duration = Duration::from_millis(200);

/// Parts of the names of codes that may be different the next time.
const PASSING: [&str; 4] = ["TOO_MANY_REQUESTS", "INTERNAL", "TIMEOUT", "NOT_AVAILABLE"];

/// Sends what `build` makes until it is acknowledged.
pub async fn send<M: Message>(producer: &Producer, build: impl Fn() -> Outcome<M>) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let Err(error) = producer.send(build()?).await else { return Ok(()) };
        require(!is_final(&error), || format!("a send was refused: {error}"))?;
        require(Instant::now() < deadline, || format!("no send was acknowledged within 30 s: {error}"))?;
        say(format!("a send failed and is repeated: {error:.160}"));
        sleep(PAUSE).await;
    }
}

/// Tells whether the acknowledgement was accepted; after a restart a handle may have ended.
pub async fn ack(consumer: &SimpleConsumer, message: &MessageView) -> Outcome<bool> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let Err(error) = consumer.ack(message).await else { return Ok(true) };
        if is_final(&error) {
            say(format!("an acknowledgement was refused: {error}"));
            return Ok(false);
        }
        require(Instant::now() < deadline, || format!("no acknowledgement got through within 20 s: {error}"))?;
        sleep(PAUSE).await;
    }
}

/// Takes a call that breaks for one that brought nothing.
pub async fn receive(source: &Source<'_>, batch: usize, invisible: Duration) -> Outcome<Vec<MessageView>> {
    match source.try_receive(batch, invisible).await {
        Ok(got) => Ok(got),
        Err(error) => {
            require(!is_final(&error), || format!("a receive was refused: {error}"))?;
            say(format!("a receive broke: {error:.160}"));
            sleep(PAUSE).await;
            Ok(Vec::new())
        }
    }
}

/// Whether the server answered and said something that will not change by itself.
fn is_final(error: &ClientError) -> bool {
    let code = error.context().iter().find(|(key, _)| *key == "code").map(|(_, code)| code.as_str());
    *error.kind() == ErrorKind::Server && code.is_some_and(|code| !PASSING.iter().any(|passing| code.contains(passing)))
}
