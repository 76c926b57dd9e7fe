//! What every scenario uses: the line protocol to the runner, the verdicts, and clients with short waits. A scenario is an async function
//! of a [`Run`]; `Ok` means it held. Lines that start with `@gantry ` are for the runner; everything else a scenario prints is its log.
//! The client's own log goes to standard error.

use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rocketmq::conf::{ClientOption, ProducerOption, SimpleConsumerOption};
use rocketmq::error::ClientError;
use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::{Message, MessageBuilder, MessageView};
use rocketmq::model::transaction::TransactionChecker;
use rocketmq::{Producer, SimpleConsumer};
use tokio::time::Instant;

/// The runner gives a scenario 150 s; ending a little earlier lets the program say where it got stuck.
const PATIENCE: Duration = Duration::from_secs(140);
/// How long one long poll waits when nothing is there. Short, so that loops can look at the clock. This client uses it as the deadline of the
/// call as well, so the server answers a little before.
const AWAIT: Duration = Duration::from_secs(5);
/// The invisible duration of receives whose lease plays no role.
pub const LONG: Duration = Duration::from_secs(30);

/// After a Telemetry stream broke, each client keeps one thread of the runtime for itself for ever (see `client_log.rs`); enough must be left.
const WORKERS: usize = 8;

/// Why a scenario did not pass.
#[derive(Debug)]
pub enum Verdict {
    /// The scenario did not hold.
    Failed(String),
    /// This client cannot play the scenario.
    Unsupported(String),
}

pub type Outcome<T = ()> = Result<T, Verdict>;

impl From<ClientError> for Verdict {
    fn from(error: ClientError) -> Self {
        Verdict::Failed(format!("ClientError: {error}"))
    }
}

/// A line of the program's own log.
pub fn say(text: impl AsRef<str>) {
    println!("{}", text.as_ref().replace('\n', " "));
}

/// The runner keeps the text for the heirs of this program.
pub fn note(text: &str) {
    say(format!("@gantry note {text}"));
}

pub fn require(condition: bool, reason: impl FnOnce() -> String) -> Outcome {
    if condition {
        return Ok(());
    }
    Err(Verdict::Failed(reason()))
}

/// One play of one scenario: its names, its runner and its clients.
pub struct Run {
    pub scenario: String,
    pub endpoint: String,
    pub tls: bool,
    pub id: String,
    doing: Mutex<String>,
}

impl Run {
    pub fn new(scenario: String, endpoint: String, tls: bool, id: String) -> Self {
        Run { scenario, endpoint, tls, id, doing: Mutex::new("starting".into()) }
    }

    /// Names what happens now, for the log and for the verdict if it never ends.
    pub fn step(&self, text: &str) {
        *self.doing.lock().expect("nobody panics while holding this lock") = text.into();
        say(format!("step: {text}"));
    }

    fn doing(&self) -> String {
        self.doing.lock().expect("nobody panics while holding this lock").clone()
    }

    /// Asks the runner and returns the rest of its `done` line as words.
    pub async fn ask(&self, text: &str) -> Outcome<Vec<String>> {
        say(format!("@gantry ask {text}"));
        let answer = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map(|_| line)
        });
        let answer = answer.await.expect("reading a line does not panic").unwrap_or_default();
        let failed = || Verdict::Failed(format!("`ask {text}` was answered `{}`", answer.trim()));
        let mut words = answer.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("done") => Ok(words.collect()),
            _ => Err(failed()),
        }
    }

    pub fn name(&self, suffix: &str) -> String {
        self.name_of(&self.scenario, suffix)
    }

    pub fn name_of(&self, scenario: &str, suffix: &str) -> String {
        format!("{scenario}-{}-{suffix}", self.id)
    }

    pub async fn topic(&self) -> Outcome<String> {
        self.topic_with("topic", "").await
    }

    pub async fn topic_with(&self, suffix: &str, options: &str) -> Outcome<String> {
        let name = self.name(suffix);
        self.ask(&format!("topic {name} {options}")).await?;
        Ok(name)
    }

    pub async fn group(&self, suffix: &str) -> Outcome<String> {
        self.group_with(suffix, "").await
    }

    pub async fn group_with(&self, suffix: &str, options: &str) -> Outcome<String> {
        let name = self.name(suffix);
        self.ask(&format!("group {name} {options} start=earliest")).await?;
        Ok(name)
    }

    /// What this program and its predecessors noted.
    pub async fn notes(&self) -> Outcome<Vec<String>> {
        let notes = self.ask("notes").await?.join(" ");
        Ok(notes.split(';').filter(|note| !note.is_empty()).map(str::to_owned).collect())
    }

    /// The middle of the scenario: the runner may kill the server or this program. Tells whether the server was restarted.
    pub async fn middle(&self, heir: &str) -> Outcome<bool> {
        self.step("the middle");
        let answer = self.ask(&format!("middle {heir}")).await?;
        require(answer == ["calm"] || answer == ["restarted"], || format!("`ask middle` was answered {answer:?}"))?;
        Ok(answer == ["restarted"])
    }

    /// Acks travel apart from the deliveries a scenario sees, so the lag may take a moment to reach zero.
    pub async fn expect_no_lag(&self, group: &str, topic: &str) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let lag = self.ask(&format!("lag {group} {topic}")).await?;
            if lag == ["0", "0", "0"] {
                return Ok(());
            }
            require(Instant::now() < deadline, || {
                format!("lag of group `{group}` (ready, in flight, waiting) is {} instead of 0 0 0", lag.join(" "))
            })?;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn client_option(&self) -> ClientOption {
        let mut option = ClientOption::default();
        option.set_access_url(self.endpoint.clone());
        option.set_enable_tls(self.tls);
        option.set_long_polling_timeout(AWAIT);
        option
    }

    /// A producer that the server may ask about transactions of the topic.
    pub async fn transaction_producer(&self, topic: &str, checker: Box<TransactionChecker>) -> Outcome<Producer> {
        let mut option = ProducerOption::default();
        option.set_topics(vec![topic]);
        let mut producer = Producer::new_transaction_producer(option, self.client_option(), checker)?;
        producer.start().await?;
        Ok(producer)
    }

    pub async fn producer(&self) -> Outcome<Arc<Producer>> {
        let mut producer = Producer::new(ProducerOption::default(), self.client_option())?;
        producer.start().await?;
        Ok(Arc::new(producer))
    }

    pub async fn simple_consumer(&self, group: &str) -> Outcome<SimpleConsumer> {
        let mut option = SimpleConsumerOption::default();
        option.set_consumer_group(group);
        let mut consumer = SimpleConsumer::new(option, self.client_option())?;
        consumer.start().await?;
        Ok(consumer)
    }
}

pub fn message(topic: &str, body: impl Into<Vec<u8>>) -> Outcome<impl Message> {
    Ok(MessageBuilder::builder().set_topic(topic).set_body(body.into()).build()?)
}

pub fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{name} {index}")).collect()
}

/// Sends one by one; each receipt must have a message id.
pub async fn send_all(producer: &Producer, topic: &str, tag: Option<&str>, bodies: &[String]) -> Outcome {
    for body in bodies {
        let mut builder = MessageBuilder::builder().set_topic(topic).set_body(body.clone().into_bytes());
        if let Some(tag) = tag {
            builder = builder.set_tag(tag);
        }
        let receipt = producer.send(builder.build()?).await?;
        require(!receipt.message_id().is_empty(), || format!("the receipt of `{body}` has no message id"))?;
    }
    Ok(())
}

pub fn text(delivered: &MessageView) -> String {
    String::from_utf8_lossy(delivered.body()).into_owned()
}

/// A consumer's way to one topic: this client names topic and expression with each receive.
pub struct Source<'a> {
    pub consumer: &'a SimpleConsumer,
    pub topic: &'a str,
    pub expression: FilterExpression,
}

impl<'a> Source<'a> {
    pub fn new(consumer: &'a SimpleConsumer, topic: &'a str, expression: &str) -> Self {
        Source { consumer, topic, expression: FilterExpression::new(FilterType::Tag, expression) }
    }

    pub fn all(consumer: &'a SimpleConsumer, topic: &'a str) -> Self {
        Self::new(consumer, topic, "*")
    }

    pub fn sql(consumer: &'a SimpleConsumer, topic: &'a str, expression: &str) -> Self {
        Source { consumer, topic, expression: FilterExpression::new(FilterType::Sql, expression) }
    }

    pub async fn receive(&self, batch: usize, invisible: Duration) -> Outcome<Vec<MessageView>> {
        Ok(self.try_receive(batch, invisible).await?)
    }

    pub async fn try_receive(&self, batch: usize, invisible: Duration) -> Result<Vec<MessageView>, ClientError> {
        let batch = i32::try_from(batch).expect("batches are small");
        self.consumer.receive_with(self.topic, &self.expression, batch, invisible).await
    }

    /// Receives until `wanted` messages have come, without acknowledging; fails when the time is over.
    pub async fn hold(&self, wanted: usize, within: Duration, invisible: Duration) -> Outcome<Vec<MessageView>> {
        let mut got = Vec::new();
        let deadline = Instant::now() + within;
        while got.len() < wanted {
            require(Instant::now() < deadline, || format!("received {} of {wanted} messages within {within:?}", got.len()))?;
            got.extend(self.receive((wanted - got.len()).min(16), invisible).await?);
        }
        Ok(got)
    }

    /// Receives and acknowledges until `wanted` messages have come; fails when the time is over.
    pub async fn collect(&self, wanted: usize, within: Duration) -> Outcome<Vec<MessageView>> {
        let mut got = Vec::new();
        let deadline = Instant::now() + within;
        while got.len() < wanted {
            require(Instant::now() < deadline, || format!("received {} of {wanted} messages within {within:?}", got.len()))?;
            for delivered in self.receive((wanted - got.len()).min(8), Duration::from_secs(10)).await? {
                self.consumer.ack(&delivered).await?;
                got.push(delivered);
            }
        }
        Ok(got)
    }

    /// Receives for so long; any delivery is a failure.
    pub async fn expect_silence(&self, seconds: u64) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < deadline {
            if let Some(delivered) = self.receive(16, LONG).await?.first() {
                let attempt = delivered.delivery_attempt();
                return Err(Verdict::Failed(format!("`{:.60}` came with attempt {attempt}, and nothing should have come", text(delivered))));
            }
        }
        Ok(())
    }
}

/// Exactly the expected bodies, each once.
pub fn expect_once(mut bodies: Vec<String>, expected: &[String]) -> Outcome {
    bodies.sort();
    let twice: Vec<_> = bodies.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
    require(twice.is_empty(), || format!("delivered more than once: {twice:?}"))?;
    let missing: Vec<_> = expected.iter().filter(|body| bodies.binary_search(body).is_err()).collect();
    require(missing.is_empty(), || format!("{} of {} not delivered: {missing:?}", missing.len(), expected.len()))?;
    let foreign: Vec<_> = bodies.iter().filter(|body| !expected.contains(body)).collect();
    require(foreign.is_empty(), || format!("delivered but not expected: {foreign:?}"))
}

/// Gives up on the scenario before the runner does.
pub fn watch(run: Arc<Run>) {
    std::thread::spawn(move || {
        std::thread::sleep(PATIENCE);
        let reason = format!("no end after {} s", PATIENCE.as_secs());
        let code = leave(&run, Err(Verdict::Failed(reason)));
        std::process::exit(if code == ExitCode::SUCCESS { 0 } else { 1 });
    });
}

/// Plays on a runtime of its own; a panic of the client, which has many `unwrap`s, becomes a verdict.
pub fn play<F: Future<Output = Outcome> + Send + 'static>(run: Arc<Run>, scenario: fn(Arc<Run>) -> F) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.map_err(|error| Verdict::Failed(format!("cannot start a runtime: {error}")))?;
    let outcome = runtime.block_on(async { tokio::spawn(scenario(run)).await });
    // Tasks of the client and a pending read of standard input must not keep the process.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|panic| Err(Verdict::Failed(format!("the program panicked: {panic}"))))
}

/// Prints the verdict; what this returns is the exit code of the process.
pub fn leave(run: &Run, outcome: Outcome) -> ExitCode {
    let (line, code) = match outcome {
        Ok(()) => ("pass".to_owned(), ExitCode::SUCCESS),
        Err(Verdict::Unsupported(reason)) => (format!("unsupported {reason}"), ExitCode::SUCCESS),
        Err(Verdict::Failed(reason)) => (format!("fail {reason} (while: {})", run.doing()), ExitCode::FAILURE),
    };
    say(format!("@gantry {line}"));
    // A closed pipe leaves nobody to tell.
    let _ = std::io::stdout().flush();
    code
}
