//! Telemetry: settings in both directions, and commands from the server.
//!
//! The response opens at once; every `settings` command gets a reply. The end of a stream is only that: what the client told stays known,
//! and nothing else depends on the stream. A client may have several; the newest is used to reach it.

use crate::context::{Context, Headers, Peer};
use crate::metrics::Rpc;
use crate::rpc::Messaging;
use crate::sessions::{Outgoing, Session};
use crate::settings::{self, Surroundings};
use crate::shared::Shared;
use crate::status::{self, Refusal};
use crate::validate;
use gantry_model::{GroupName, MessageKind, Topic, TopicId, TopicName};
use gantry_platform::clock::{sleep, timeout};
use gantry_platform::tasks;
use gantry_proto::v2::settings::PubSub;
use gantry_proto::v2::telemetry_command::Command;
use gantry_proto::v2::{ClientType, Code, Language, Settings, Status, Subscription, TelemetryCommand};
use prost::Message;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

/// Commands that wait for a slow reader.
const QUEUE: usize = 16;
/// Largest settings that are kept for a client; 500 subscriptions have about 50 KiB.
const SETTINGS_BYTES_MAX: usize = 256 * 1024;
/// How long the reply may wait for a group that comes into being; clients give up after 3 s.
const GROUP_PATIENCE: Duration = Duration::from_millis(1_500);
/// How long the stream of a producer that has said all stays open for questions about its transactions; it may be a short one on purpose.
const LINGER: Duration = Duration::from_secs(1);

/// The commands to one client.
pub type Answers = ReceiverStream<Outgoing>;

pub fn answer(edge: &Messaging, request: Request<Streaming<TelemetryCommand>>) -> Answers {
    let (metadata, _, incoming) = request.into_parts();
    let (commands, answers) = mpsc::channel(QUEUE);
    match edge.context(metadata) {
        Ok(context) => {
            context.session.attach(&commands);
            let stream = Stream { shared: edge.shared.clone(), peer: edge.peer.clone(), context, commands, transactional: false };
            // It ends with the stream; if it fails, the stream ends.
            tasks::spawn("telemetry", stream.serve(incoming));
        }
        Err(refusal) => {
            edge.shared.metrics.answered(Rpc::Telemetry, refusal.code, Duration::ZERO);
            // The queue is empty, and a stream without a reader needs no answer.
            let _ = commands.try_send(Ok(status_only(refusal)));
        }
    }
    ReceiverStream::new(answers)
}

/// One open stream.
struct Stream {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    context: Context,
    commands: mpsc::Sender<Outgoing>,
    /// Whether its client was announced as a producer of transactions.
    transactional: bool,
}

impl Stream {
    async fn serve(mut self, mut incoming: Streaming<TelemetryCommand>) {
        loop {
            let command = tokio::select! {
                command = incoming.message() => command,
                () = self.commands.closed() => return,
                () = self.shared.drained() => return,
            };
            match command {
                Ok(Some(command)) => {
                    self.seen();
                    if let Some(Command::Settings(sent)) = command.command
                        && !self.settle(sent).await
                    {
                        return;
                    }
                }
                Ok(None) => return self.linger().await,
                Err(error) => {
                    // The reader may be gone already.
                    let _ = self.commands.try_send(Err(error));
                    return;
                }
            }
        }
    }

    /// The stream of a session that was forgotten belongs to the new one.
    fn seen(&mut self) {
        if self.context.session.has_ended() {
            let id = self.context.session.client.clone();
            let session = self.shared.sessions.open(id.as_str(), &self.context, &self.peer);
            session.attach(&self.commands);
            self.context.session = session;
        }
        self.shared.sessions.seen(&self.context.session);
    }

    /// The client has nothing more to say, but may still be asked.
    async fn linger(&self) {
        if !self.transactional {
            return;
        }
        tokio::select! {
            () = sleep(LINGER) => {}
            () = self.commands.closed() => {}
            () = self.shared.drained() => {}
        }
    }

    /// Tells the brokers that a producer of transactions can be reached.
    fn announce(&mut self) {
        let facts = self.context.session.facts();
        if facts.client_type != ClientType::Producer {
            return;
        }
        let topics = facts.topics.iter().filter_map(|topic| self.shared.metadata.topic(topic));
        let takes_transactions = |topic: &Arc<Topic>| topic.kind.accepts().contains(&MessageKind::Transaction);
        let topics: Vec<TopicId> = topics.filter(takes_transactions).map(|topic| topic.id).collect();
        drop(facts);
        if !topics.is_empty() {
            self.transactional = true;
            self.shared.broker.producer_ready(&topics);
        }
    }

    /// Answers one `settings` command; `false` ends the stream.
    async fn settle(&mut self, sent: Settings) -> bool {
        let started = self.shared.clock.mono();
        let reply = accept(&self.shared, &self.context, sent).await;
        let code = reply.as_ref().map_or_else(|refusal| refusal.code, |_| Code::Ok);
        self.shared.metrics.answered(Rpc::Telemetry, code, self.shared.clock.mono().saturating_sub(started));
        match reply {
            Ok(settings) => {
                let open = self.commands.send(Ok(settings_command(settings))).await.is_ok();
                self.announce();
                open
            }
            // Properties are for the operator only; the client works without them.
            Err(refusal) if refusal.code == Code::InvalidClientProperties => self.commands.send(Ok(status_only(refusal))).await.is_ok(),
            Err(refusal) => {
                let end = tonic::Status::invalid_argument(refusal.message.clone());
                // Clients that read the status fail their start with the reason, the others by the error that ends the stream.
                let _ = self.commands.send(Ok(status_only(refusal))).await;
                let _ = self.commands.send(Err(end)).await;
                false
            }
        }
    }
}

fn status_only(refusal: Refusal) -> TelemetryCommand {
    TelemetryCommand { status: Some(Status::from(refusal)), command: None }
}

fn settings_command(settings: Settings) -> TelemetryCommand {
    TelemetryCommand { status: Some(status::ok()), command: Some(Command::Settings(settings)) }
}

/// Takes note of what a client says about itself, and answers its settings.
async fn accept(shared: &Shared, context: &Context, sent: Settings) -> Result<Settings, Refusal> {
    if sent.encoded_len() > SETTINGS_BYTES_MAX {
        return Err(Refusal::new(Code::BadRequest, format!("settings have {} bytes, the most allowed is {SETTINGS_BYTES_MAX}", sent.encoded_len())));
    }
    validate::client_properties(&sent.client_properties)?;
    let names = Named::read(&sent, context)?;
    if let Some(group) = &names.group {
        // A group that can't be made in time is made by the next call; until then the defaults are the truth.
        let made = timeout(GROUP_PATIENCE, shared.first_use().group(&*shared.metadata, group)).await;
        if !matches!(made, Ok(Ok(_))) {
            tracing::debug!(group = %group, client = %context.session.client, "settings of a group that does not exist");
        }
    }
    let language = match context.language() {
        Language::Unspecified => sent.user_agent.as_ref().map_or(Language::Unspecified, |agent| agent.language()),
        language => language,
    };
    let settings = settings::merged(&sent, &surroundings(shared, language, &names));
    let mut facts = context.session.facts();
    facts.client_type = names.client_type;
    facts.language = language;
    facts.topics = names.topics;
    facts.groups = names.group.into_iter().collect();
    facts.settings = Some(Arc::new(sent));
    facts.told = Some(settings.clone());
    Ok(settings)
}

/// The names in settings, checked.
struct Named {
    client_type: ClientType,
    group: Option<GroupName>,
    topics: BTreeSet<TopicName>,
}

impl Named {
    fn read(sent: &Settings, context: &Headers) -> Result<Named, Refusal> {
        let namespace = context.namespace();
        let client_type = sent.client_type();
        match &sent.pub_sub {
            Some(PubSub::Publishing(publishing)) => {
                if !matches!(client_type, ClientType::Producer | ClientType::Unspecified) {
                    return Err(Refusal::new(Code::BadRequest, format!("settings of a {client_type:?} contain publishing data")));
                }
                let topics = publishing.topics.iter().map(|topic| validate::topic(Some(topic), namespace)).collect::<Result<_, _>>()?;
                Ok(Named { client_type: ClientType::Producer, group: None, topics })
            }
            Some(PubSub::Subscription(_)) if client_type == ClientType::Producer => {
                Err(Refusal::new(Code::BadRequest, "settings of a producer contain subscription data"))
            }
            Some(PubSub::Subscription(subscription)) => Named::subscribed(subscription, client_type, namespace),
            None => Err(Refusal::new(Code::BadRequest, "there is no publishing or subscription data in settings")),
        }
    }

    fn subscribed(subscription: &Subscription, client_type: ClientType, namespace: &str) -> Result<Named, Refusal> {
        let group = validate::group(subscription.group.as_ref(), namespace)?;
        let mut topics = BTreeSet::new();
        for entry in &subscription.subscriptions {
            topics.insert(validate::topic(entry.topic.as_ref(), namespace)?);
            validate::filter(entry.expression.as_ref())?;
        }
        Ok(Named { client_type, group: Some(group), topics })
    }
}

fn surroundings(shared: &Shared, language: Language, names: &Named) -> Surroundings {
    let metadata = &shared.metadata;
    Surroundings {
        language,
        group: names.group.as_ref().and_then(|group| metadata.group(group)),
        subscribed: names.topics.iter().filter_map(|topic| metadata.topic(topic)).map(|topic| topic.kind).collect(),
    }
}

/// Tells a client its settings again if a change of its group or topics made them different.
pub fn push_if_changed(shared: &Shared, session: &Session) {
    let mut facts = session.facts();
    let (Some(sent), Some(told)) = (facts.settings.clone(), facts.told.as_ref()) else { return };
    let names = Named { client_type: facts.client_type, group: facts.groups.first().cloned(), topics: facts.topics.clone() };
    let settings = settings::merged(&sent, &surroundings(shared, facts.language, &names));
    if settings == *told {
        return;
    }
    facts.told = Some(settings.clone());
    drop(facts);
    let reached = session.push(settings_command(settings));
    tracing::debug!(client = %session.client, reached, "settings changed");
}
