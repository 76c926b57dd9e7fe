//! SIGTERM while consumers wait: every poll gets its orderly end, and the process is gone soon with exit code 0. And what a server that
//! nobody uses takes.

use crate::client::Client;
use crate::server::{Server, until};
use gantry_platform::clock::{Clock, SystemClock};
use gantry_platform::tasks;
use gantry_proto::v2::Code;
use std::time::Duration;

const CLIENTS: usize = 4;
const POLLS_EACH: usize = 10;
/// A supervisor that stops a service waits 10 s or longer before it kills.
const END: Duration = Duration::from_secs(5);
/// Of a build without optimisation.
const IDLE_BYTES: u64 = 60 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_waiting_polls_in_order_and_the_process_within_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data")).await;
    let mut polls = Vec::new();
    for _ in 0..CLIENTS {
        let client = Client::connect(server.address("messaging"), "waiting").await;
        for _ in 0..POLLS_EACH {
            let mut client = client.clone();
            polls.push(tasks::spawn("poll", async move { client.receive(Duration::from_secs(20), 1).await }));
        }
    }
    until("all polls wait", || (server.metric("gantry_shard_open_polls") == (CLIENTS * POLLS_EACH) as u64).then_some(())).await;
    let clock = SystemClock::new();
    server.signal("-TERM");
    for poll in polls {
        let (status, delivered) = poll.join().await.unwrap().expect("an orderly end, not a broken connection");
        assert_eq!((status.code(), delivered.len()), (Code::MessageNotFound, 0), "{}", status.message);
    }
    let (code, log) = server.ended().await;
    let took = clock.mono();
    assert_eq!(code, Some(0), "{log}");
    assert!(took < END, "the end took {took:?}: {log}");
    assert!(log.contains("stopped; everything is on disk"), "{log}");
}

#[tokio::test]
async fn an_idle_server_is_small() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data")).await;
    let used = server.memory("VmRSS");
    assert!(used < IDLE_BYTES, "{} KiB", used >> 10);
    server.stop().await;
}
