//! Health and metrics over plain HTTP.

use crate::rig::{Rig, call, message};
use gantry_model::contract::broker::ShardCondition;
use gantry_proto::v2::SendMessageRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn get(rig: &Rig, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(rig.http).await.unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn alive_and_ready() {
    let rig = Rig::start().await;
    assert_eq!(get(&rig, "GET /livez").await, (200, "alive\n".into()));
    assert_eq!(get(&rig, "GET /readyz").await, (200, "ready\n".into()));
    assert_eq!(get(&rig, "GET /nothing").await.0, 404);
    assert_eq!(get(&rig, "POST /livez").await.0, 405);
    assert_eq!(get(&rig, "HEAD /livez").await, (200, String::new()));
    rig.broker.with(|state| state.condition = ShardCondition::Full);
    assert_eq!(get(&rig, "GET /readyz").await.0, 200, "a full disk still serves consumers");
    rig.broker.with(|state| state.condition = ShardCondition::Failed);
    let (status, text) = get(&rig, "GET /readyz").await;
    assert_eq!((status, text.contains("the disk of shard 0 failed")), (503, true), "{text}");
    assert_eq!(get(&rig, "GET /livez").await.0, 200);
    rig.broker.with(|state| state.condition = ShardCondition::Ready);
    rig.proxy.drain().await;
    assert_eq!(get(&rig, "GET /readyz").await.0, 503);
}

#[tokio::test]
async fn metrics_count_calls() {
    let (rig, _) = Rig::with_topic().await;
    rig.client.clone().send_message(call(SendMessageRequest { messages: vec![message("orders")] })).await.unwrap();
    let (status, text) = get(&rig, "GET /metrics").await;
    assert_eq!(status, 200);
    for line in [
        "gantry_rpcs_total{rpc=\"SendMessage\",code=\"20000\"} 1",
        "gantry_messages_sent_total 1",
        "gantry_sent_bytes_total 5",
        "gantry_connections 1",
        "gantry_sessions 1",
    ] {
        assert!(text.lines().any(|found| found == line), "`{line}` is missing in:\n{text}");
    }
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("gantry_") && value.parse::<f64>().is_ok(), "line {number}: {line}");
    }
}
