//! What an operator asks of a client through the server: its stacks, and to consume a message.

use crate::rig::{Rig, channel};
use crate::telemetry::{Session, consumer};
use gantry_platform::clock::{sleep, timeout};
use gantry_platform::tasks;
use gantry_proto::admin::admin_client::AdminClient;
use gantry_proto::admin::verify_message_request::Message as Wanted;
use gantry_proto::admin::{PrintThreadStackRequest, QueueOffset, VerifyMessageRequest, VerifyMessageResponse, VerifyOutcome};
use gantry_proto::v2::telemetry_command::Command;
use gantry_proto::v2::{Code, Status, TelemetryCommand, ThreadStackTrace, VerifyMessageCommand, VerifyMessageResult};
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::transport::Channel;

async fn admin(rig: &Rig) -> AdminClient<Channel> {
    AdminClient::new(channel(rig.admin).await)
}

/// A push consumer with an open stream.
async fn connected(rig: &Rig, client: &str) -> Session {
    let mut session = Session::open(rig, client, "JAVA").await;
    session.send(consumer("group", &[("orders", "*")])).await;
    session.settings().await;
    session
}

/// Asks for the stacks of a client while the test goes on.
async fn ask_stack(rig: &Rig, client: &str) -> oneshot::Receiver<Result<String, tonic::Status>> {
    let (mut admin, (answer, receiver)) = (admin(rig).await, oneshot::channel());
    let request = PrintThreadStackRequest { client_id: client.into() };
    tasks::spawn("asking", async move {
        let answered = admin.print_thread_stack(request).await.map(|answer| answer.into_inner().stack);
        // The test may have ended.
        let _ = answer.send(answered);
    });
    receiver
}

/// Asks a client to consume a message while the test goes on.
async fn ask_verify(rig: &Rig, message: Wanted) -> oneshot::Receiver<Result<VerifyMessageResponse, tonic::Status>> {
    let (mut admin, (answer, receiver)) = (admin(rig).await, oneshot::channel());
    let request = VerifyMessageRequest { client_id: "c".into(), namespace: String::new(), topic: "orders".into(), message: Some(message) };
    tasks::spawn("asking", async move {
        // The test may have ended.
        let _ = answer.send(admin.verify_message(request).await.map(tonic::Response::into_inner));
    });
    receiver
}

async fn stack_nonce(session: &mut Session) -> String {
    match session.next().await.unwrap().unwrap().command {
        Some(Command::PrintThreadStackTraceCommand(command)) => command.nonce,
        other => panic!("a question for stacks, not {other:?}"),
    }
}

async fn verify_command(session: &mut Session) -> VerifyMessageCommand {
    match session.next().await.unwrap().unwrap().command {
        Some(Command::VerifyMessageCommand(command)) => command,
        other => panic!("a message to consume, not {other:?}"),
    }
}

fn stack(nonce: &str, text: &str) -> TelemetryCommand {
    let trace = ThreadStackTrace { nonce: nonce.into(), thread_stack_trace: Some(text.into()) };
    TelemetryCommand { status: Some(Status { code: Code::Ok as i32, message: String::new() }), command: Some(Command::ThreadStackTrace(trace)) }
}

fn verdict(nonce: &str, code: i32) -> TelemetryCommand {
    let result = VerifyMessageResult { nonce: nonce.into() };
    TelemetryCommand { status: Some(Status { code, message: "so it is".into() }), command: Some(Command::VerifyMessageResult(result)) }
}

#[tokio::test]
async fn the_stacks_of_a_client_come_back_to_who_asked() {
    let (rig, _) = Rig::with_topic().await;
    let mut session = connected(&rig, "c").await;
    let (first, second) = (ask_stack(&rig, "c").await, ask_stack(&rig, "c").await);
    let (one, other) = (stack_nonce(&mut session).await, stack_nonce(&mut session).await);
    assert!(one != other && one.len() == 32, "{one} {other}");
    session.say(stack(&other, "second")).await;
    session.say(stack(&one, "first")).await;
    let mut answers = [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()];
    answers.sort();
    assert_eq!(answers, ["first", "second"]);
}

#[tokio::test]
async fn an_answer_counts_only_from_the_client_that_was_asked() {
    let (rig, _) = Rig::with_topic().await;
    let (mut session, thief) = (connected(&rig, "c").await, connected(&rig, "thief").await);
    let mut answer = ask_stack(&rig, "c").await;
    let nonce = stack_nonce(&mut session).await;
    thief.say(stack(&nonce, "forged")).await;
    session.say(stack("guessed", "nobody asked")).await;
    assert!(timeout(Duration::from_millis(100), &mut answer).await.is_err(), "neither is an answer");
    session.say(stack(&nonce, "true")).await;
    assert_eq!(answer.await.unwrap().unwrap(), "true");
    session.say(stack(&nonce, "again")).await;
    let next = ask_stack(&rig, "c").await;
    let nonce = stack_nonce(&mut session).await;
    session.say(stack(&nonce, "next")).await;
    assert_eq!(next.await.unwrap().unwrap(), "next", "an answer that comes twice changes nothing");
}

#[tokio::test]
async fn a_question_ends_at_once_when_its_stream_does() {
    let (rig, _) = Rig::with_topic().await;
    let mut session = connected(&rig, "c").await;
    let answer = ask_stack(&rig, "c").await;
    stack_nonce(&mut session).await;
    session.half_close();
    let ended = timeout(Duration::from_secs(2), answer).await.expect("at once").unwrap().unwrap_err();
    assert_eq!(ended.code(), tonic::Code::Unavailable, "{ended}");

    let mut session = connected(&rig, "d").await;
    let answer = ask_stack(&rig, "d").await;
    stack_nonce(&mut session).await;
    drop(session);
    let ended = timeout(Duration::from_secs(2), answer).await.expect("at once").unwrap().unwrap_err();
    assert_eq!(ended.code(), tonic::Code::Unavailable, "{ended}");
}

#[tokio::test]
async fn who_cannot_be_asked_is_told_apart() {
    let (rig, _) = Rig::with_topic().await;
    let unknown = ask_stack(&rig, "nobody").await.await.unwrap().unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    crate::rig::receive(&mut rig.client.clone(), crate::rig::call_from("calls-only", crate::rig::simple_poll("orders", "group", 0))).await;
    let no_stream = ask_stack(&rig, "calls-only").await.await.unwrap().unwrap_err();
    assert_eq!(no_stream.code(), tonic::Code::FailedPrecondition);
}

#[tokio::test]
async fn a_question_is_forgotten_when_nobody_waits_for_it() {
    let (rig, _) = Rig::with_topic().await;
    let mut session = connected(&rig, "c").await;
    let mut request = tonic::Request::new(PrintThreadStackRequest { client_id: "c".into() });
    request.set_timeout(Duration::from_millis(100));
    let gone = admin(&rig).await.print_thread_stack(request).await.unwrap_err();
    assert!(matches!(gone.code(), tonic::Code::Cancelled | tonic::Code::DeadlineExceeded), "{gone}");
    let nonce = stack_nonce(&mut session).await;
    // The late answer meets nobody, and the next question works.
    sleep(Duration::from_millis(50)).await;
    session.say(stack(&nonce, "late")).await;
    let answer = ask_stack(&rig, "c").await;
    let nonce = stack_nonce(&mut session).await;
    session.say(stack(&nonce, "in time")).await;
    assert_eq!(answer.await.unwrap().unwrap(), "in time");
}

#[tokio::test]
async fn a_client_consumes_one_message_on_demand() {
    let (rig, topic) = Rig::with_topic().await;
    rig.broker.put(&topic, "one", "body");
    rig.broker.put(&topic, "two", "other");
    let mut session = connected(&rig, "c").await;
    for (code, expected) in [
        (Code::Ok as i32, VerifyOutcome::Consumed),
        (Code::FailedToConsumeMessage as i32, VerifyOutcome::Failed),
        (Code::MessageCorrupted as i32, VerifyOutcome::Corrupted),
        (Code::VerifyFifoMessageUnsupported as i32, VerifyOutcome::FifoUnsupported),
        (Code::NotImplemented as i32, VerifyOutcome::Unsupported),
        (Code::Unsupported as i32, VerifyOutcome::Unsupported),
        (77, VerifyOutcome::Unspecified),
    ] {
        let answer = ask_verify(&rig, Wanted::ById("one".into())).await;
        let command = verify_command(&mut session).await;
        let message = command.message.unwrap();
        let system = message.system_properties.unwrap();
        assert_eq!((system.message_id.as_str(), &message.body[..], system.receipt_handle), ("one", &b"body"[..], None));
        assert!(system.body_digest.is_some() && system.born_timestamp.is_some(), "what clients need to decode it");
        session.say(verdict(&command.nonce, code)).await;
        let answer = answer.await.unwrap().unwrap();
        assert_eq!((answer.outcome(), answer.text.as_str()), (expected, "so it is"), "{code}");
    }
    let answer = ask_verify(&rig, Wanted::ByOffset(QueueOffset { queue: 3, offset: 1 })).await;
    let command = verify_command(&mut session).await;
    assert_eq!(command.message.clone().unwrap().system_properties.unwrap().message_id, "two");
    // As Node.js answers: with the question.
    let status = Some(Status { code: Code::NotImplemented as i32, message: String::new() });
    session.say(TelemetryCommand { status, command: Some(Command::VerifyMessageCommand(command)) }).await;
    assert_eq!(answer.await.unwrap().unwrap().outcome(), VerifyOutcome::Unsupported);
    assert!(rig.broker.with(|state| state.acked.is_empty() && state.given == 0), "nothing was leased");
}

#[tokio::test]
async fn a_message_that_is_not_there_is_not_shown_to_anybody() {
    let (rig, topic) = Rig::with_topic().await;
    rig.broker.put(&topic, "one", "body");
    let _session = connected(&rig, "c").await;
    for missing in [Wanted::ById("two".into()), Wanted::ByOffset(QueueOffset { queue: 3, offset: 1 })] {
        assert_eq!(ask_verify(&rig, missing).await.await.unwrap().unwrap_err().code(), tonic::Code::NotFound);
    }
    assert_eq!(ask_verify(&rig, Wanted::ById(String::new())).await.await.unwrap().unwrap_err().code(), tonic::Code::InvalidArgument);
}
