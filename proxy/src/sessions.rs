//! The clients this proxy has heard of lately: what they told about themselves, when they last called, and how to reach them.
//!
//! Nothing depends on a session being here: every call carries enough to be answered, and a client that is unknown is registered by whatever
//! it calls. A client is alive as long as it calls; the end of one of its streams means nothing. What is lost with this process is learnt
//! again from the next calls.
//!
//! # Life of a session
//!
//! ## unknown → known
//! By any call with a client id.
//! ## known → ended
//! By `NotifyClientTermination` (the brokers are told) or by silence (they judge that themselves, since the client may call other proxies).
//! ## ended → known
//! By the next call with the same client id, as a new session.

use crate::context::{Headers, Peer};
use gantry_model::contract::Broker;
use gantry_model::{ClientId, GroupName, TopicName};
use gantry_platform::clock::{SharedClock, timeout};
use gantry_proto::v2::{ClientType, Language, Settings, TelemetryCommand};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// A client that has not called for this long is forgotten.
const SILENCE: Duration = Duration::from_secs(120);
/// The brokers take a client for dead after 45 s, so telling them once a second is plenty.
const TELL_EVERY_MS: u64 = 1_000;
/// Sessions kept at the same time. A client beyond that is served all the same, it is only not listed.
const SESSIONS_MAX: usize = 200_000;
/// Groups and topics remembered of one client.
const NAMES_MAX: usize = 4_096;
/// Open Telemetry streams of one client; a new one beyond that replaces the oldest.
const STREAMS_MAX: usize = 16;

/// What the server sends on a Telemetry stream.
pub type Outgoing = Result<TelemetryCommand, tonic::Status>;

/// One client.
#[derive(Debug)]
pub struct Session {
    pub client: ClientId,
    /// In the clock's monotonic time.
    last_seen_ms: AtomicU64,
    told_ms: AtomicU64,
    ended: AtomicBool,
    facts: Mutex<Facts>,
}

/// What a client told about itself.
#[derive(Debug)]
pub struct Facts {
    pub client_type: ClientType,
    pub language: Language,
    pub version: String,
    pub namespace: String,
    pub address: SocketAddr,
    /// Our end of its connection, as delivered messages show it.
    pub store_host: String,
    pub groups: BTreeSet<GroupName>,
    pub topics: BTreeSet<TopicName>,
    /// The newest settings as the client sent them.
    pub settings: Option<Arc<Settings>>,
    /// The newest settings as the client got them.
    pub told: Option<Settings>,
    /// Oldest first; a stream that ended can't be upgraded any more.
    streams: Vec<mpsc::WeakSender<Outgoing>>,
}

impl Session {
    fn new(client: ClientId, headers: &Headers, peer: &Peer) -> Session {
        let facts = Facts {
            client_type: ClientType::Unspecified,
            language: headers.language(),
            version: headers.version().to_owned(),
            namespace: headers.namespace().to_owned(),
            address: peer.remote,
            store_host: peer.store_host.clone(),
            groups: BTreeSet::new(),
            topics: BTreeSet::new(),
            settings: None,
            told: None,
            streams: Vec::new(),
        };
        Session { client, last_seen_ms: AtomicU64::new(0), told_ms: AtomicU64::new(0), ended: AtomicBool::new(false), facts: Mutex::new(facts) }
    }

    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// When the client last called, in the clock's monotonic time.
    pub fn last_seen(&self) -> Duration {
        Duration::from_millis(self.last_seen_ms.load(Ordering::Relaxed))
    }

    /// Notes that the client consumes from a topic as a member of a group.
    pub fn consumes(&self, kind: ClientType, group: &GroupName, topic: Option<&TopicName>) {
        let mut facts = self.facts();
        if facts.client_type == ClientType::Unspecified {
            facts.client_type = kind;
        }
        note(&mut facts.groups, group);
        if let Some(topic) = topic {
            note(&mut facts.topics, topic);
        }
    }

    /// Notes that the client sends to a topic.
    pub fn produces(&self, topic: &TopicName) {
        let mut facts = self.facts();
        if facts.client_type == ClientType::Unspecified {
            facts.client_type = ClientType::Producer;
        }
        note(&mut facts.topics, topic);
    }

    /// Adds a stream on which the client can be reached; it is used until it ends or a newer one comes.
    pub fn attach(&self, stream: &mpsc::Sender<Outgoing>) {
        let mut facts = self.facts();
        facts.streams.retain(|stream| stream.strong_count() > 0);
        if facts.streams.len() == STREAMS_MAX {
            facts.streams.remove(0);
        }
        facts.streams.push(stream.downgrade());
    }

    /// Sends on the newest open stream. `false` if there is none, or if the client does not read it.
    pub fn push(&self, command: TelemetryCommand) -> bool {
        self.newest_stream().is_some_and(|stream| stream.try_send(Ok(command)).is_ok())
    }

    /// Like `push`, but a client that reads slowly gets this much time.
    pub async fn push_patiently(&self, command: TelemetryCommand, patience: Duration) -> bool {
        let Some(stream) = self.newest_stream() else { return false };
        matches!(timeout(patience, stream.send(Ok(command))).await, Ok(Ok(())))
    }

    fn newest_stream(&self) -> Option<mpsc::Sender<Outgoing>> {
        self.facts().streams.iter().rev().find_map(mpsc::WeakSender::upgrade)
    }

    /// How many Telemetry streams are open.
    pub fn streams(&self) -> usize {
        self.facts().streams.iter().filter(|stream| stream.strong_count() > 0).count()
    }
}

fn note<T: Ord + Clone>(names: &mut BTreeSet<T>, name: &T) {
    if names.len() < NAMES_MAX && !names.contains(name) {
        names.insert(name.clone());
    }
}

/// All sessions of this proxy.
#[derive(Debug)]
pub struct Sessions {
    clock: SharedClock,
    broker: Arc<dyn Broker>,
    table: Mutex<HashMap<ClientId, Arc<Session>>>,
}

impl Sessions {
    pub fn new(clock: SharedClock, broker: Arc<dyn Broker>) -> Sessions {
        Sessions { clock, broker, table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<ClientId, Arc<Session>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session of a client, new if it was not known.
    pub fn open(&self, id: &str, headers: &Headers, peer: &Peer) -> Arc<Session> {
        let client = ClientId::new(id);
        let session = {
            let mut table = self.table();
            match table.get(&client) {
                Some(session) => session.clone(),
                None => {
                    let session = Arc::new(Session::new(client.clone(), headers, peer));
                    if table.len() < SESSIONS_MAX {
                        table.insert(client, session.clone());
                    }
                    session
                }
            }
        };
        {
            let mut facts = session.facts();
            facts.address = peer.remote;
            if facts.store_host != peer.store_host {
                facts.store_host.clone_from(&peer.store_host);
            }
        }
        self.seen(&session);
        session
    }

    /// The session of a client, if it is known.
    pub fn get(&self, client: &ClientId) -> Option<Arc<Session>> {
        self.table().get(client).cloned()
    }

    /// Notes that a client called.
    pub fn seen(&self, session: &Session) {
        let now = self.clock.mono().as_millis() as u64;
        session.last_seen_ms.store(now, Ordering::Relaxed);
        let told = session.told_ms.load(Ordering::Relaxed);
        if told == 0 || now >= told + TELL_EVERY_MS {
            session.told_ms.store(now.max(1), Ordering::Relaxed);
            self.broker.client_alive(&session.client);
        }
    }

    /// A client left in good order.
    pub fn end(&self, session: &Session) {
        session.ended.store(true, Ordering::Relaxed);
        self.table().remove(&session.client);
        self.broker.client_gone(&session.client);
    }

    /// Forgets clients that have been silent for long.
    pub fn expire(&self) {
        let now = self.clock.mono();
        self.table().retain(|_, session| {
            let keep = session.last_seen() + SILENCE > now;
            if !keep {
                session.ended.store(true, Ordering::Relaxed);
            }
            keep
        });
    }

    /// All sessions, in any order.
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.table().values().cloned().collect()
    }
}
