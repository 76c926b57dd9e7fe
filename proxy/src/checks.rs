//! Commands that the brokers have for clients: what became of this transaction, and this lite topic is no longer yours.
//!
//! Any producer of the topic may know what became of a transaction; the one that sent it most likely does. So it is asked first, and the next
//! time, if the question stayed without an answer, another one. A question counts as asked once it is on its way into a stream.

use crate::convert::{self, Envelope};
use crate::sessions::Session;
use crate::shared::Shared;
use async_trait::async_trait;
use gantry_model::contract::broker::{Check, Clients};
use gantry_model::handle::TransactionHandle;
use gantry_model::{ClientId, GroupId, Topic, TopicId, TopicName};
use gantry_proto::v2::settings::PubSub;
use gantry_proto::v2::telemetry_command::Command;
use gantry_proto::v2::{ClientType, NotifyUnsubscribeLiteCommand, RecoverOrphanedTransactionCommand, Resource, TelemetryCommand};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// A producer whose stream did not take a question is not asked about that transaction for this long.
const FAILED: Duration = Duration::from_secs(30);
/// How long a question may wait for room in the stream of a slow reader.
const ROOM: Duration = Duration::from_secs(2);
/// Producers tried for one question.
const TRIES: usize = 3;
/// Transactions of which it is remembered who was asked, and for how long at least.
const ASKED_MAX: usize = 65_536;
const ASKED_FOR: Duration = Duration::from_secs(1_800);

/// The clients of this proxy, as brokers reach them.
#[derive(Debug)]
pub struct Reach {
    /// Weak, because the proxy holds the brokers and they hold this.
    shared: Weak<Shared>,
    asked: Mutex<HashMap<TransactionHandle, Vec<Try>>>,
    /// Producers that were never asked take turns.
    turn: AtomicUsize,
}

/// One producer that was asked about a transaction.
#[derive(Clone, Debug)]
struct Try {
    client: ClientId,
    at: Duration,
    reached: bool,
}

impl Reach {
    pub fn new(shared: &Arc<Shared>) -> Reach {
        Reach { shared: Arc::downgrade(shared), asked: Mutex::default(), turn: AtomicUsize::new(0) }
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<TransactionHandle, Vec<Try>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Producers of the topic that can be reached, in the order in which to ask them.
    fn candidates(&self, shared: &Shared, topic: &TopicName, check: &Check) -> Vec<Arc<Session>> {
        let tries = self.asked().get(&check.handle).cloned().unwrap_or_default();
        let now = shared.clock.mono();
        let failed = |client: &ClientId| tries.iter().any(|one| one.client == *client && !one.reached && one.at + FAILED > now);
        let mut sessions = shared.sessions.all();
        sessions.retain(|session| is_producer(session, topic) && !failed(&session.client));
        sessions.sort_unstable_by(|one, other| one.client.cmp(&other.client));
        let count = sessions.len().max(1);
        sessions.rotate_left(self.turn.fetch_add(1, Ordering::Relaxed) % count);
        let last = |client: &ClientId| tries.iter().find(|one| one.client == *client).map(|one| one.at);
        sessions.sort_by_key(|session| (last(&session.client), session.client != check.sender));
        sessions.truncate(TRIES);
        sessions
    }

    fn note(&self, handle: TransactionHandle, client: &ClientId, at: Duration, reached: bool) {
        let mut asked = self.asked();
        if asked.len() >= ASKED_MAX && !asked.contains_key(&handle) {
            asked.retain(|_, tries| tries.iter().any(|one| one.at + ASKED_FOR > at));
            if asked.len() >= ASKED_MAX {
                // Forgetting only means that the sender is asked first again.
                asked.clear();
            }
        }
        let tries = asked.entry(handle).or_default();
        tries.retain(|one| one.client != *client && one.at + ASKED_FOR > at);
        tries.push(Try { client: client.clone(), at, reached });
    }
}

#[async_trait]
impl Clients for Reach {
    async fn check(&self, check: Check) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        let Some(topic) = shared.metadata.topic_by_id(check.handle.topic) else { return false };
        let transaction_id = shared.metadata.handle_keys().sign_transaction(&check.handle);
        for session in self.candidates(&shared, &topic.name, &check) {
            let command = question(&session, &topic, &check, transaction_id.clone());
            let reached = session.push_patiently(command, ROOM).await;
            self.note(check.handle, &session.client, shared.clock.mono(), reached);
            if reached {
                tracing::debug!(client = %session.client, topic = %topic.name, message = check.message.message.id, "asked about a transaction");
                return true;
            }
        }
        false
    }

    fn lost_lite(&self, client: &ClientId, _group: GroupId, _topic: TopicId, lite: &str) {
        let Some(session) = self.shared.upgrade().and_then(|shared| shared.sessions.get(client)) else { return };
        let command = Command::NotifyUnsubscribeLiteCommand(NotifyUnsubscribeLiteCommand { lite_topic: lite.to_owned() });
        let reached = session.push(TelemetryCommand { status: None, command: Some(command) });
        tracing::debug!(%client, lite, reached, "a lite topic was taken away");
    }
}

fn is_producer(session: &Session, topic: &TopicName) -> bool {
    let facts = session.facts();
    let sends = facts.client_type == ClientType::Producer && facts.topics.contains(topic);
    drop(facts);
    sends && session.streams() > 0
}

fn question(session: &Session, topic: &Topic, check: &Check, transaction_id: String) -> TelemetryCommand {
    let envelope = Envelope { topic: named_by(session, &topic.name), store_host: session.facts().store_host.clone() };
    let mut message = convert::stored_to_wire(check.message.clone(), &envelope);
    if let Some(system) = &mut message.system_properties {
        // It has no place in a queue yet; some clients look one up.
        system.queue_id = 0;
    }
    let command = RecoverOrphanedTransactionCommand { message: Some(message), transaction_id };
    TelemetryCommand { status: None, command: Some(Command::RecoverOrphanedTransactionCommand(command)) }
}

/// The topic as the client named it, which it compares with what it gets.
fn named_by(session: &Session, topic: &TopicName) -> Resource {
    let facts = session.facts();
    let settings = facts.settings.as_ref().and_then(|settings| settings.pub_sub.as_ref());
    let named = match settings {
        Some(PubSub::Publishing(publishing)) => {
            publishing.topics.iter().find(|named| crate::validate::topic(Some(named), &facts.namespace).as_ref() == Ok(topic)).cloned()
        }
        _ => None,
    };
    named.unwrap_or_else(|| Resource { resource_namespace: topic.namespace.clone(), name: topic.name.clone() })
}
