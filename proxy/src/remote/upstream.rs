//! The connection to one broker process: made, read, and made again when it broke.

use super::Hint;
use super::brokers::Here;
use super::line::{Line, Lines};
use gantry_model::contract::broker::Clients;
use gantry_model::{ClientId, GroupId, NodeId, ShardId, TopicId};
use gantry_platform::chance::{Chance, SeededChance};
use gantry_platform::clock::{interval, sleep, timeout};
use gantry_platform::tasks::{self, Task};
use gantry_proto::broker::command::Body;
use gantry_proto::broker::shards_client::ShardsClient;
use gantry_proto::broker::{Arrival, Command, Greeting, LostLite, Question, Reached, ToBroker, ToProxy, request};
use gantry_proto::shards::MESSAGE_MAX;
use gantry_proto::shards::send::check_from_wire;
use hyper_util::rt::TokioIo;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tonic::transport::{Endpoint, Uri};
use tonic::{Status, Streaming};

/// How long it may take to connect and be let in.
const CONNECT: Duration = Duration::from_secs(1);
/// A broker of which nothing is heard for this long, and then this long after a ping, is gone.
const KEEPALIVE: Duration = Duration::from_secs(2);
const PONG: Duration = Duration::from_secs(4);
/// The first pause before a connection is tried again, and the longest: each is twice the one before, less up to half of it by chance.
const PAUSE: Duration = Duration::from_millis(40);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A stream that lived this long was a good one.
const GOOD: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_secs(1);
/// Bytes that may be on their way to this process on the stream, and on its connection.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Longest HTTP/2 frame: with the usual 16 KiB a batch would be cut into many.
const FRAME_MAX: u32 = 256 * 1024;
/// Questions of one broker that are put to producers at the same time.
const QUESTIONS: usize = 256;

/// The way to one broker process.
pub struct Upstream {
    pub(super) line: Arc<Line>,
    node: NodeId,
    here: Arc<Here>,
    reach: Arc<Reach>,
    life: Task,
}

/// Who can reach clients, once somebody can.
#[derive(Debug, Default)]
struct Reach(Mutex<Option<Arc<dyn Clients>>>);

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream {{ node: {}, {:?} }}", self.node, self.line)
    }
}

impl Upstream {
    /// The connection to `node`, which is kept up until this is dropped.
    pub fn new(node: NodeId, address: &str, here: Arc<Here>, seed: u64) -> Arc<Upstream> {
        let line = Arc::new(Line::new(here.clock.clone()));
        let reach = Arc::new(Reach::default());
        let connection = Connection {
            node,
            address: address.to_owned(),
            here: here.clone(),
            line: line.clone(),
            reach: reach.clone(),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
        };
        let life = tasks::spawn("a broker's stream", connection.live(SeededChance::new(seed)));
        Arc::new(Upstream { line, node, here, reach, life })
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Who answers the broker's questions from now on.
    pub fn attach(&self, clients: Arc<dyn Clients>) {
        *self.reach.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(clients);
    }

    /// Tells whoever keeps the routes what a broker said. One that does not keep up misses some; they come again.
    pub(super) fn hint(&self, hint: Hint) {
        let _ = self.here.hints.try_send(hint);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.life.abort();
        self.line.close();
    }
}

impl Reach {
    fn get(&self) -> Option<Arc<dyn Clients>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What keeps a connection up.
struct Connection {
    node: NodeId,
    address: String,
    here: Arc<Here>,
    line: Arc<Line>,
    reach: Arc<Reach>,
    questions: Arc<Semaphore>,
}

impl Connection {
    async fn live(self, mut chance: SeededChance) {
        let mut pause = PAUSE;
        let mut told = false;
        while !self.line.is_closed() {
            self.line.connecting();
            let why = match timeout(CONNECT, self.open()).await {
                Ok(Ok(said)) => {
                    self.line.opened();
                    told = false;
                    tracing::info!(node = %self.node, address = self.address, "connected to a broker");
                    let began = self.here.clock.mono();
                    let why = self.read(said).await;
                    if self.here.clock.mono() >= began + GOOD {
                        pause = PAUSE;
                    }
                    why
                }
                Ok(Err(status)) => status.message().to_owned(),
                Err(_) => format!("no answer within {CONNECT:?}"),
            };
            self.line.broke(&why);
            let most = pause.as_micros() as u64;
            let now = Duration::from_micros(most - chance.below(most / 2 + 1));
            // A broker that is down for long is told of once.
            match std::mem::replace(&mut told, true) {
                false => tracing::warn!(node = %self.node, address = self.address, why, "no connection to a broker; it is tried again and again"),
                true => tracing::debug!(node = %self.node, address = self.address, why, again_in = ?now, "no connection to a broker yet"),
            }
            sleep(now).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Connects, and waits to be let in.
    async fn open(&self) -> Result<Streaming<ToProxy>, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let endpoint = endpoint
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(PONG)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_MAX);
        let (net, target) = (self.here.net.clone(), self.address.clone());
        let connect = tower::service_fn(move |_: Uri| {
            let (net, target) = (net.clone(), target.clone());
            async move { net.connect(&target).await.map(TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector(connect).await.map_err(|error| Status::unavailable(cause(&error)))?;
        let mut client = ShardsClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        let (stream, heard) = self.line.greeting();
        let greeting = Greeting { cluster: self.here.metadata.cluster().id.clone(), from: self.here.node.0, to: self.node.0 };
        let arrival = Arrival { greeting: Some(greeting), run: self.here.run, heard };
        let first = ToBroker { arrival: Some(arrival), ..ToBroker::default() };
        Ok(client.attach(Lines::new(self.line.clone(), stream, self.here.metadata.clone(), first)).await?.into_inner())
    }

    /// Reads until the stream ends; answers why it did.
    async fn read(&self, mut said: Streaming<ToProxy>) -> String {
        let mut ticks = interval(TICK);
        loop {
            tokio::select! {
                message = said.message() => match message {
                    Ok(Some(mut message)) => {
                        self.line.take_in(&mut message);
                        message.commands.into_iter().for_each(|command| self.obey(command));
                    }
                    Ok(None) => return "the broker ended the stream".into(),
                    Err(status) => return format!("the stream broke: {}", status.message()),
                },
                _ = ticks.tick() => self.line.tick(),
            }
        }
    }

    fn obey(&self, command: Command) {
        match command.body {
            Some(Body::Question(question)) => self.put(question),
            Some(Body::LostLite(LostLite { client, group, topic, lite })) => {
                if let Some(clients) = self.reach.get() {
                    clients.lost_lite(&ClientId::new(&client), GroupId(group), TopicId(topic), &lite);
                }
            }
            None => tracing::debug!("a broker of a later version said something unknown"),
        }
    }

    /// Puts a question to a producer, and says what became of it.
    fn put(&self, question: Question) {
        let (number, stream, line) = (question.number, self.line.stream(), self.line.clone());
        let answer = move |written| {
            line.note_on(stream, ShardId(0), request::Body::Reached(Reached { question: number, written }));
        };
        let (Ok(place), Some(clients), Some(check)) = (self.questions.clone().try_acquire_owned(), self.reach.get(), check_from_wire(question))
        else {
            return answer(false);
        };
        // Bounded by the time that the broker gives it.
        tasks::spawn("a broker's question", async move {
            answer(clients.check(check).await);
            drop(place);
        });
    }
}

/// The innermost reason, which names the address or the system's error.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
