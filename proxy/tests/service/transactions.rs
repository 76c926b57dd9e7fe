//! Transactions at the edge: sent as halves, ended from anywhere, asked about on Telemetry streams, seen by operators.

use crate::rig::{Rig, call, call_from, changed, channel, resource, until};
use gantry_model::contract::broker::{Check, EndError, EndedBy, OpenTransaction, Resolution};
use gantry_model::contract::{Metadata, broker};
use gantry_model::handle::TransactionHandle;
use gantry_model::message::StoredMessage;
use gantry_model::topic::TopicType;
use gantry_model::{ClientId, GroupId, MessageKind, Offset, QueueId, ShardId, Topic, TopicId};
use gantry_platform::clock::{Clock, SystemClock, timeout};
use gantry_proto::admin;
use gantry_proto::admin::admin_client::AdminClient;
use gantry_proto::v2::settings::PubSub;
use gantry_proto::v2::telemetry_command::Command;
use gantry_proto::v2::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

fn half(topic: &str) -> Message {
    changed(topic, |_, system| system.message_type = MessageType::Transaction as i32)
}

async fn send(rig: &Rig, messages: Vec<Message>) -> SendMessageResponse {
    rig.client.clone().send_message(call(SendMessageRequest { messages })).await.unwrap().into_inner()
}

async fn end(rig: &Rig, topic: &str, id: &str, resolution: TransactionResolution) -> Code {
    let request = EndTransactionRequest {
        topic: resource(topic),
        message_id: "01020304".into(),
        transaction_id: id.into(),
        resolution: resolution as i32,
        ..Default::default()
    };
    rig.client.clone().end_transaction(call(request)).await.unwrap().into_inner().status.unwrap().code()
}

fn handle(topic: &Topic, id: u64) -> TransactionHandle {
    TransactionHandle { shard: ShardId(0), topic: topic.id, id }
}

fn sign(rig: &Rig, handle: &TransactionHandle) -> String {
    rig.metadata.handle_keys().sign_transaction(handle)
}

#[tokio::test]
async fn a_half_is_answered_with_the_id_that_ends_it() {
    let (rig, topic) = Rig::with_topic().await;
    let answer = send(&rig, vec![half("orders")]).await;
    assert_eq!(answer.status.unwrap().code(), Code::Ok);
    let entry = &answer.entries[0];
    assert_eq!(entry.message_id, "01020304");
    let expected = rig.metadata.handle_keys().verify_transaction(&entry.transaction_id).unwrap();
    assert_eq!(expected, handle(&topic, entry.offset as u64));
    assert_eq!(rig.broker.with(|state| state.stored[0].message.kind), MessageKind::Transaction);
    assert_eq!(end(&rig, "orders", &entry.transaction_id, TransactionResolution::Commit).await, Code::Ok);
    assert_eq!(rig.broker.with(|state| state.ended.clone()), [(expected, Resolution::Commit, EndedBy::Producer)]);
    let plain = send(&rig, vec![crate::rig::message("orders")]).await;
    assert_eq!(plain.entries[0].transaction_id, "", "only transactions have one");
}

#[tokio::test]
async fn a_transaction_is_one_message_alone() {
    let (rig, _) = Rig::with_topic().await;
    for batch in [vec![half("orders"), half("orders")], vec![crate::rig::message("orders"), half("orders")]] {
        assert_eq!(send(&rig, batch).await.status.unwrap().code(), Code::BadRequest);
    }
    let grouped = changed("orders", |_, system| {
        system.message_type = MessageType::Transaction as i32;
        system.message_group = Some("g".into());
    });
    assert_eq!(send(&rig, vec![grouped]).await.status.unwrap().code(), Code::MessagePropertyConflictWithType);
    rig.metadata.add_topic("plain", TopicType::Normal);
    assert_eq!(send(&rig, vec![half("plain")]).await.status.unwrap().code(), Code::MessagePropertyConflictWithType);
    assert!(rig.broker.with(|state| state.stored.is_empty()));
}

#[tokio::test]
async fn an_end_without_a_resolution_changes_nothing() {
    let (rig, topic) = Rig::with_topic().await;
    let id = sign(&rig, &handle(&topic, 5));
    assert_eq!(end(&rig, "orders", &id, TransactionResolution::Unspecified).await, Code::Ok);
    assert!(rig.broker.with(|state| state.ended.is_empty()));
}

#[tokio::test]
async fn an_id_that_is_not_of_this_topic_ends_nothing() {
    let (rig, topic) = Rig::with_topic().await;
    let other = rig.metadata.add_topic("other", TopicType::Transaction);
    let id = sign(&rig, &handle(&topic, 5));
    let mut forged = id.clone();
    forged.pop();
    let receipt = rig.sign(&rig.handle("orders", "group"));
    let commit = TransactionResolution::Commit;
    for (topic, id, expected) in [
        ("orders", " ", Code::InvalidTransactionId),
        ("orders", "01020304", Code::InvalidTransactionId),
        ("orders", &forged, Code::InvalidTransactionId),
        ("orders", &receipt, Code::InvalidTransactionId),
        ("orders", &sign(&rig, &handle(&other, 5)), Code::InvalidTransactionId),
        ("missing", &id, Code::InvalidTransactionId),
        ("a.b", &id, Code::IllegalTopic),
    ] {
        assert_eq!(end(&rig, topic, id, commit).await, expected, "`{id}` on `{topic}`");
    }
    assert!(rig.broker.with(|state| state.ended.is_empty()));
    assert_eq!(end(&rig, "orders", &id, commit).await, Code::Ok);
}

#[tokio::test]
async fn what_the_broker_refuses_has_its_code() {
    let (rig, topic) = Rig::with_topic().await;
    let id = sign(&rig, &handle(&topic, 5));
    for (error, expected) in [
        (EndError::Contradicts { ended: Resolution::Commit }, Code::InvalidTransactionId),
        (EndError::GivenUp, Code::InvalidTransactionId),
        (EndError::Unknown, Code::InvalidTransactionId),
        (EndError::Busy, Code::TooManyRequests),
        (EndError::DiskFull { used_percent: 96 }, Code::TooManyRequests),
        (EndError::NoWritableQueue, Code::Forbidden),
        (EndError::Failed { why: "stopped".into() }, Code::InternalServerError),
    ] {
        rig.broker.with(|state| state.end_error = Some(error.clone()));
        assert_eq!(end(&rig, "orders", &id, TransactionResolution::Rollback).await, expected, "{error:?}");
    }
}

/// A producer with an open stream.
struct Producer {
    commands: Option<mpsc::Sender<TelemetryCommand>>,
    answers: Streaming<TelemetryCommand>,
}

impl Producer {
    async fn open(rig: &Rig, client: &str, topics: &[&str]) -> Producer {
        let (commands, outgoing) = mpsc::channel(8);
        let answers = rig.client.clone().telemetry(call_from(client, ReceiverStream::new(outgoing))).await.unwrap().into_inner();
        let publishing = Publishing { topics: topics.iter().map(|topic| resource(topic).unwrap()).collect(), ..Default::default() };
        let settings =
            Settings { client_type: Some(ClientType::Producer as i32), pub_sub: Some(PubSub::Publishing(publishing)), ..Default::default() };
        commands.send(TelemetryCommand { status: None, command: Some(Command::Settings(settings)) }).await.unwrap();
        let mut producer = Producer { commands: Some(commands), answers };
        assert!(matches!(producer.next().await.unwrap().command, Some(Command::Settings(_))), "settings come first");
        producer
    }

    async fn next(&mut self) -> Option<TelemetryCommand> {
        timeout(Duration::from_secs(3), self.answers.message()).await.expect("a command or the end").unwrap()
    }

    async fn question(&mut self) -> RecoverOrphanedTransactionCommand {
        match self.next().await.unwrap().command {
            Some(Command::RecoverOrphanedTransactionCommand(question)) => question,
            other => panic!("expected a question, got {other:?}"),
        }
    }
}

fn check(topic: &Topic, id: u64, sender: &str) -> Check {
    let message = gantry_model::Message {
        id: format!("m-{id}"),
        kind: MessageKind::Transaction,
        body: "half".into(),
        born_ms: 5_000,
        keys: vec!["k".into()],
        ..Default::default()
    };
    let message = StoredMessage { message, topic: topic.id, queue: QueueId(0xFF_FFFF), offset: Offset(id), store_ms: 6_000, origin: None };
    Check { handle: handle(topic, id), message, sender: ClientId::new(sender) }
}

fn clients(rig: &Rig) -> Arc<dyn broker::Clients> {
    rig.broker.with(|state| state.clients.clone()).expect("the proxy says how to reach clients")
}

#[tokio::test]
async fn the_sender_is_asked_first_and_then_others_in_turn() {
    let (rig, topic) = Rig::with_topic().await;
    let mut sender = Producer::open(&rig, "sender", &["orders"]).await;
    let mut other = Producer::open(&rig, "other", &["orders", "elsewhere"]).await;
    let _stranger = Producer::open(&rig, "stranger", &["elsewhere"]).await;
    let clients = clients(&rig);
    assert!(clients.check(check(&topic, 7, "sender")).await);
    let question = sender.question().await;
    assert_eq!(question.transaction_id, sign(&rig, &handle(&topic, 7)));
    let message = question.message.unwrap();
    assert_eq!((message.topic, &message.body[..]), (resource("orders"), &b"half"[..]));
    let system = message.system_properties.unwrap();
    assert_eq!((system.message_id.as_str(), system.message_type(), system.keys.len()), ("m-7", MessageType::Transaction, 1));
    assert_eq!((system.receipt_handle, system.queue_id, system.body_encoding), (None, 0, Encoding::Identity as i32));
    assert!(system.body_digest.is_some() && system.born_timestamp.is_some() && !system.store_host.is_empty());
    for _ in 0..2 {
        assert!(clients.check(check(&topic, 7, "sender")).await);
        other.question().await;
        assert!(clients.check(check(&topic, 7, "sender")).await);
        sender.question().await;
    }
    assert!(clients.check(check(&topic, 8, "gone")).await, "anybody with the topic will do");
}

#[tokio::test]
async fn without_a_producer_of_the_topic_nobody_is_asked() {
    let (rig, topic) = Rig::with_topic().await;
    let clients = clients(&rig);
    assert!(!clients.check(check(&topic, 7, "sender")).await);
    let consumer = call_from("consumer", HeartbeatRequest { group: resource("group"), client_type: ClientType::PushConsumer as i32 });
    rig.client.clone().heartbeat(consumer).await.unwrap();
    // It sends, but has no stream.
    send(&rig, vec![half("orders")]).await;
    let _elsewhere = Producer::open(&rig, "elsewhere", &["elsewhere"]).await;
    assert!(!clients.check(check(&topic, 7, "client-1")).await);
    let gone = Producer::open(&rig, "sender", &["orders"]).await;
    drop(gone);
    rig.until_at_most("gantry_telemetry_streams", 1).await;
    assert!(!clients.check(check(&topic, 7, "sender")).await);
    assert!(!clients.check(check(&Topic { id: TopicId(99), ..(*topic).clone() }, 7, "sender")).await, "the topic is gone");
}

#[tokio::test]
async fn a_producer_that_does_not_read_is_passed_over() {
    let (rig, topic) = Rig::with_topic().await;
    let _deaf = Producer::open(&rig, "deaf", &["orders"]).await;
    let clients = clients(&rig);
    let mut large = check(&topic, 1, "deaf");
    large.message.message.body = vec![b'x'; 1 << 20].into();
    let mut written = 0;
    while clients.check(large.clone()).await {
        written += 1;
        assert!(written < 200, "a stream that nobody reads is full some time");
    }
    let mut other = Producer::open(&rig, "other", &["orders"]).await;
    let clock = SystemClock::new();
    let started = clock.mono();
    assert!(clients.check(large).await);
    assert!(clock.mono() - started < Duration::from_secs(1), "the one that failed a moment ago is not tried again");
    other.question().await;
}

#[tokio::test]
async fn the_broker_learns_of_producers_of_transactions() {
    let (rig, topic) = Rig::with_topic().await;
    let transactional = rig.metadata.add_topic("transactional", TopicType::Transaction);
    rig.metadata.add_topic("plain", TopicType::Normal);
    let _producer = Producer::open(&rig, "p", &["orders", "transactional", "plain", "missing"]).await;
    until("the broker knows", || rig.broker.with(|state| state.ready_producers.len() == 2)).await;
    assert_eq!(rig.broker.with(|state| state.ready_producers.clone()), [topic.id, transactional.id]);
    let _plain = Producer::open(&rig, "q", &["plain"]).await;
    assert_eq!(rig.broker.with(|state| state.ready_producers.len()), 2);
}

#[tokio::test]
async fn a_producer_with_short_streams_is_asked_before_its_stream_ends() {
    let (rig, topic) = Rig::with_topic().await;
    let mut producer = Producer::open(&rig, "rust", &["orders"]).await;
    producer.commands = None;
    until("the broker knows", || rig.broker.with(|state| !state.ready_producers.is_empty())).await;
    assert!(clients(&rig).check(check(&topic, 7, "rust")).await);
    producer.question().await;
    assert!(producer.next().await.is_none(), "the stream ends soon after");
}

#[tokio::test]
async fn a_client_is_told_that_it_lost_a_lite_topic() {
    let (rig, topic) = Rig::with_topic().await;
    let mut client = Producer::open(&rig, "c", &[]).await;
    clients(&rig).lost_lite(&ClientId::new("c"), GroupId(1), topic.id, "chat-1");
    clients(&rig).lost_lite(&ClientId::new("unknown"), GroupId(1), topic.id, "chat-1");
    let expected = Command::NotifyUnsubscribeLiteCommand(NotifyUnsubscribeLiteCommand { lite_topic: "chat-1".into() });
    assert_eq!(client.next().await.unwrap().command, Some(expected));
}

#[tokio::test]
async fn operators_list_transactions_page_by_page() {
    let (rig, topic) = Rig::with_topic().await;
    let open = |id: u64| {
        let Check { handle, message, sender } = check(&topic, id, "sender");
        OpenTransaction { handle, message, sender, checks: id as u32, next_check_ms: 9_000, given_up: id == 2 }
    };
    rig.broker.with(|state| state.transactions = (1..4).map(open).collect());
    let mut admin = AdminClient::new(channel(rig.admin).await);
    let mut request = admin::ListTransactionsRequest { topic: "orders".into(), page_size: 2, ..Default::default() };
    let first = admin.list_transactions(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.transactions.len(), 2);
    let second = &first.transactions[1];
    assert_eq!((second.sender.as_str(), second.checks, second.state()), ("sender", 2, admin::TransactionState::GivenUp));
    assert_eq!((second.transaction_id.clone(), second.next_time.unwrap().seconds), (sign(&rig, &handle(&topic, 2)), 9));
    let message = second.message.as_ref().unwrap();
    assert_eq!((message.message_id.as_str(), message.body_size, message.body.len(), message.queue, message.offset), ("m-2", 4, 0, 0, 0));
    request.page_token = first.next_page_token;
    let last = admin.list_transactions(request.clone()).await.unwrap().into_inner();
    assert_eq!((last.transactions.len(), last.next_page_token.as_str()), (1, ""));
    request.page_token = "x".into();
    assert_eq!(admin.list_transactions(request).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let missing = admin::ListTransactionsRequest { topic: "missing".into(), ..Default::default() };
    assert_eq!(admin.list_transactions(missing).await.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn operators_end_and_resume_transactions() {
    let (rig, topic) = Rig::with_topic().await;
    let mut admin = AdminClient::new(channel(rig.admin).await);
    let id = sign(&rig, &handle(&topic, 5));
    let end = |id: &str, resolution: TransactionResolution| admin::EndTransactionRequest {
        topic: "orders".into(),
        transaction_id: id.into(),
        resolution: resolution as i32,
        ..Default::default()
    };
    let resume = |id: &str| admin::ResumeTransactionRequest { topic: "orders".into(), transaction_id: id.into(), ..Default::default() };
    admin.end_transaction(end(&id, TransactionResolution::Rollback)).await.unwrap();
    assert_eq!(rig.broker.with(|state| state.ended.clone()), [(handle(&topic, 5), Resolution::Rollback, EndedBy::Operator)]);
    admin.resume_transaction(resume(&id)).await.unwrap();
    for wrong in [end(&id, TransactionResolution::Unspecified), end("x", TransactionResolution::Commit)] {
        assert_eq!(admin.end_transaction(wrong).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    }
    assert_eq!(admin.resume_transaction(resume("x")).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    for (error, expected) in [
        (EndError::Unknown, tonic::Code::NotFound),
        (EndError::Contradicts { ended: Resolution::Commit }, tonic::Code::FailedPrecondition),
        (EndError::NoWritableQueue, tonic::Code::FailedPrecondition),
        (EndError::Busy, tonic::Code::Unavailable),
    ] {
        rig.broker.with(|state| state.end_error = Some(error.clone()));
        assert_eq!(admin.end_transaction(end(&id, TransactionResolution::Commit)).await.unwrap_err().code(), expected, "{error:?}");
        assert_eq!(admin.resume_transaction(resume(&id)).await.unwrap_err().code(), expected, "{error:?}");
    }
}
