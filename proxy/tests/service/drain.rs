//! Stopping: clients are told to go, polls end, what runs is finished, streams end last.

use crate::rig::{Rig, call, call_from, message, push_poll, receive, until};
use gantry_platform::clock::timeout;
use gantry_proto::v2::settings::PubSub;
use gantry_proto::v2::telemetry_command::Command;
use gantry_proto::v2::*;
use std::time::Duration;

#[tokio::test]
async fn a_drain_ends_everything_in_order() {
    let (rig, _) = Rig::with_topic().await;
    let publishing = Settings { pub_sub: Some(PubSub::Publishing(Publishing::default())), ..Default::default() };
    let settings = TelemetryCommand { status: None, command: Some(Command::Settings(publishing)) };
    let (keep, outgoing) = tokio::sync::mpsc::channel(1);
    keep.send(settings).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut telemetry = rig.client.clone().telemetry(call_from("t", stream)).await.unwrap().into_inner();
    assert!(matches!(telemetry.message().await.unwrap().unwrap().command, Some(Command::Settings(_))));

    rig.broker.with(|state| state.send_takes = Duration::from_millis(700));
    let mut clients = (rig.client.clone(), rig.client.clone());
    let poll = receive(&mut clients.0, call(push_poll("orders", "group")));
    let send = clients.1.send_message(call(SendMessageRequest { messages: vec![message("orders")] }));
    let drain = async {
        until("the poll waits", || rig.broker.with(|state| state.waiting) == 1).await;
        rig.proxy.drain().await;
    };
    let ((status, messages, _), sent, ()) = tokio::join!(poll, send, drain);
    assert_eq!((status.code(), messages.len()), (Code::MessageNotFound, 0));
    assert_eq!(sent.unwrap().into_inner().status.unwrap().code(), Code::Ok, "what was under way is finished");
    assert!(rig.broker.with(|state| state.drained));

    assert!(matches!(telemetry.message().await.unwrap().unwrap().command, Some(Command::ReconnectEndpointsCommand(_))));
    assert_eq!(telemetry.message().await.unwrap(), None, "a clean end");
    timeout(Duration::from_secs(3), rig.tasks.shutdown(Duration::from_secs(2))).await.unwrap().unwrap();
}

#[tokio::test]
async fn stopping_waits_for_calls_and_closes_idle_connections() {
    let (rig, _) = Rig::with_topic().await;
    rig.broker.with(|state| state.send_takes = Duration::from_millis(300));
    let mut client = rig.client.clone();
    let stop = async {
        gantry_platform::clock::sleep(Duration::from_millis(100)).await;
        rig.tasks.shutdown(Duration::from_secs(4)).await
    };
    let (sent, stopped) = tokio::join!(client.send_message(call(SendMessageRequest { messages: vec![message("orders")] })), stop);
    assert_eq!(sent.unwrap().into_inner().status.unwrap().code(), Code::Ok);
    stopped.unwrap();
}
