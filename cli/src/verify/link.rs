//! A client of one of several servers: it registers as the protocol wants it, answers transaction checks, and goes to the next server when one
//! does not answer.

use super::history::{End, Event, Id, Outcome, Resolution};
use super::recorder::Recorder;
use super::workload::{Ending, Workload};
use crate::connect::{self, DECODE_LIMIT, Headers, Messaging, within};
use crate::failure::Failure;
use crate::global::Global;
use gantry_platform::tasks::{self, Task};
use gantry_proto::v2::messaging_service_client::MessagingServiceClient;
use gantry_proto::v2::settings::PubSub;
use gantry_proto::v2::telemetry_command::Command;
use gantry_proto::v2::{
    ClientType, Code, EndTransactionRequest, FilterExpression, FilterType, HeartbeatRequest, Publishing, RecoverOrphanedTransactionCommand, Resource,
    Settings, Status, Subscription, SubscriptionEntry, TelemetryCommand, TransactionResolution, TransactionSource, Ua,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// A server on this continent; one that is down must not cost more than a moment.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A server that stopped without a word is noticed after these two.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// As RocketMQ's clients do.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long a consumer waits to be known before it asks for messages.
const REGISTERED_WITHIN: Duration = Duration::from_secs(1);
const END_TIMEOUT: Duration = Duration::from_secs(3);
const SESSION_PAUSE: Duration = Duration::from_millis(500);
/// Pauses between tries: short at first, so that a gap is measured and not made longer.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// The addresses of a cluster.
#[derive(Debug)]
pub struct Servers {
    endpoints: Vec<Endpoint>,
    pub global: Global,
}

impl Servers {
    pub async fn new(addresses: &[String], global: &Global) -> Result<Servers, Failure> {
        let mut endpoints = Vec::new();
        for address in addresses {
            let endpoint = connect::endpoint(address, global).await?.connect_timeout(CONNECT_TIMEOUT);
            let endpoint = endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE_TIMEOUT).keep_alive_while_idle(true);
            endpoints.push(endpoint);
        }
        Ok(Servers { endpoints, global: global.clone() })
    }
}

/// What a client is.
#[derive(Clone, Debug)]
pub enum Role {
    Producer { topic: Resource },
    Consumer { topic: Resource, group: Resource },
}

/// What transaction checks are answered from.
#[derive(Clone, Debug)]
pub struct Answers {
    pub workload: Workload,
    pub recorder: Arc<Recorder>,
}

/// One client and its present connection.
#[derive(Debug)]
pub struct Link {
    servers: Arc<Servers>,
    role: Role,
    answers: Answers,
    headers: Headers,
    current: usize,
    open: Option<Open>,
    pause: Duration,
}

#[derive(Debug)]
struct Open {
    client: Messaging,
    session: Task,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.session.abort();
    }
}

impl Link {
    /// `number` decides which server comes first, so that clients spread over them.
    pub fn new(servers: Arc<Servers>, role: Role, answers: Answers, number: usize) -> Link {
        let headers = Headers::new("verify", &servers.global.namespace);
        Link { current: number % servers.endpoints.len(), servers, role, answers, headers, open: None, pause: FIRST_PAUSE }
    }

    pub fn global(&self) -> &Global {
        &self.servers.global
    }

    /// The client, after the server was told who it is. Whether the server is there shows with the first call.
    pub async fn client(&mut self) -> Messaging {
        if let Some(open) = &self.open {
            return open.client.clone();
        }
        let channel = self.servers.endpoints[self.current].connect_lazy();
        let client = MessagingServiceClient::with_interceptor(channel, self.headers.clone()).max_decoding_message_size(DECODE_LIMIT);
        let (told, known) = oneshot::channel();
        let session = Session { client: client.clone(), role: self.role.clone(), answers: self.answers.clone() };
        let session = tasks::spawn("session", session.run(told));
        self.open = Some(Open { client: client.clone(), session });
        if matches!(self.role, Role::Consumer { .. }) {
            // A server that knows no sessions serves all the same.
            let _ = tokio::time::timeout(REGISTERED_WITHIN, known).await;
        }
        client
    }

    /// A call was answered.
    pub fn worked(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    /// A call broke off: the next one goes to the next server, on a new connection, after a pause that grows.
    pub async fn broke(&mut self) {
        self.current = (self.current + 1) % self.servers.endpoints.len();
        self.open = None;
        self.wait().await;
    }

    /// The server answered that it cannot, now: the connection is good, another server may be better.
    pub async fn put_off(&mut self) {
        if self.servers.endpoints.len() > 1 {
            self.current = (self.current + 1) % self.servers.endpoints.len();
            self.open = None;
        }
        self.wait().await;
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }
}

/// The outcome that a status tells. Codes of the caller's side mean that nothing was done; those of the server's side mean nothing certain.
pub fn outcome(status: Option<&Status>) -> Outcome {
    match status.map(|status| status.code) {
        Some(code) if code == Code::Ok as i32 => Outcome::Ok,
        Some(code) if (40_000..50_000).contains(&code) && code != Code::RequestTimeout as i32 => Outcome::Refused,
        _ => Outcome::Unknown,
    }
}

/// The telemetry stream and the heartbeats of one connection.
struct Session {
    client: Messaging,
    role: Role,
    answers: Answers,
}

impl Session {
    async fn run(mut self, told: oneshot::Sender<()>) {
        let mut told = Some(told);
        loop {
            self.stream(&mut told).await;
            tokio::time::sleep(SESSION_PAUSE).await;
        }
    }

    /// One stream from begin to end.
    async fn stream(&mut self, told: &mut Option<oneshot::Sender<()>>) {
        let (commands, to_server) = mpsc::channel(1);
        let settings = TelemetryCommand { status: None, command: Some(Command::Settings(self.settings())) };
        if commands.send(settings).await.is_err() {
            return;
        }
        let Ok(answer) = self.client.telemetry(ReceiverStream::new(to_server)).await else { return };
        let mut stream = answer.into_inner();
        loop {
            let command = tokio::select! {
                command = stream.message() => command,
                () = tokio::time::sleep(HEARTBEAT) => {
                    self.heartbeat().await;
                    continue;
                }
            };
            match command.map(|command| command.and_then(|command| command.command)) {
                Ok(Some(Command::Settings(_))) => drop(told.take().map(|told| told.send(()))),
                Ok(Some(Command::RecoverOrphanedTransactionCommand(command))) => self.end_transaction(command).await,
                // Nothing that this client can do anything about.
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn settings(&self) -> Settings {
        let everything = FilterExpression { r#type: FilterType::Tag as i32, expression: "*".to_owned() };
        let (client_type, pub_sub) = match &self.role {
            Role::Producer { topic } => {
                (ClientType::Producer, PubSub::Publishing(Publishing { topics: vec![topic.clone()], max_body_size: 4 << 20, ..Default::default() }))
            }
            Role::Consumer { topic, group } => {
                let subscriptions = vec![SubscriptionEntry { topic: Some(topic.clone()), expression: Some(everything) }];
                (ClientType::SimpleConsumer, PubSub::Subscription(Subscription { group: Some(group.clone()), subscriptions, ..Default::default() }))
            }
        };
        let user_agent = Ua { version: env!("CARGO_PKG_VERSION").to_owned(), hostname: "gantry-verify".to_owned(), ..Default::default() };
        Settings {
            client_type: Some(client_type as i32),
            request_timeout: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
            pub_sub: Some(pub_sub),
            user_agent: Some(user_agent),
            ..Default::default()
        }
    }

    async fn heartbeat(&mut self) {
        let (client_type, group) = match &self.role {
            Role::Producer { .. } => (ClientType::Producer, None),
            Role::Consumer { group, .. } => (ClientType::SimpleConsumer, Some(group.clone())),
        };
        // If it does not arrive, neither does anything else, and the calls notice.
        let _ = self.client.heartbeat(within(HeartbeatRequest { group, client_type: client_type as i32 }, REGISTERED_WITHIN)).await;
    }

    /// Says how a transaction ends that the server asks about.
    async fn end_transaction(&mut self, command: RecoverOrphanedTransactionCommand) {
        let Answers { workload, recorder } = &self.answers;
        let message = command.message.unwrap_or_default();
        let message_id = message.system_properties.unwrap_or_default().message_id;
        let Some(id) = Id::read(&message_id, workload.run) else { return };
        let resolution = match workload.ending(id) {
            Ending::End(resolution) => resolution,
            Ending::WhenAsked => Resolution::Commit,
        };
        let ask = EndTransactionRequest {
            topic: message.topic,
            message_id,
            transaction_id: command.transaction_id,
            resolution: wire(resolution) as i32,
            source: TransactionSource::SourceServerCheck as i32,
            ..Default::default()
        };
        // This task may be stopped at any time, so what it tried is written down before.
        let from = recorder.now();
        let end = End { id, from, to: from, resolution, outcome: Outcome::Unknown };
        recorder.add(Event::End(end.clone()));
        let Ok(answer) = self.client.end_transaction(within(ask, END_TIMEOUT)).await else { return };
        if outcome(answer.into_inner().status.as_ref()) == Outcome::Ok {
            recorder.add(Event::End(End { to: recorder.now(), outcome: Outcome::Ok, ..end }));
            if resolution == Resolution::Commit {
                recorder.expect(id);
            }
        }
    }
}

/// A resolution on the wire.
pub fn wire(resolution: Resolution) -> TransactionResolution {
    match resolution {
        Resolution::Commit => TransactionResolution::Commit,
        Resolution::Rollback => TransactionResolution::Rollback,
    }
}
