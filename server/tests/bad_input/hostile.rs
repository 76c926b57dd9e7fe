//! Hostile clients: noise on every port, lengths that are claimed and never come, headers without end, senseless requests to every rpc.
//! All the while a normal client works, and afterwards the server is as well and as small as before.

use crate::client::Client;
use crate::server::{LIMIT, Server};
use crate::wild::{Protocol, Rpc, Wild};
use bytes::Bytes;
use gantry_platform::clock::{sleep, timeout};
use gantry_platform::tasks::{self, Task};
use gantry_platform::{Chance, SeededChance};
use gantry_proto::v2::Code;
use h2::client::SendRequest;
use http::Request;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SEED: u64 = 0x6761_6e74_7279;
/// Attackers at the same time, and the calls of each.
const ATTACKERS: usize = 8;
const CALLS: usize = 1_000;
/// A peer that says nothing within this time has not closed the connection; that is allowed.
const SILENCE: Duration = Duration::from_millis(200);
/// What the server may take afterwards, in a build without optimisation.
const RSS: u64 = 150 << 20;
/// What is claimed at once; the last one is within the limit of SendMessage, which sets so much aside for it and no more.
const CLAIMS: [u32; 4] = [0x7fff_ffff, 0x8000_0000, 0xffff_ffff, (16 << 20) - 16];
/// Of address space, which an allocation takes before it is touched. Three flags with each claim are more than 20 GiB.
const CLAIMED: u64 = 4 << 30;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A client that sends one message after the other and trusts each answer.
struct Worker {
    stop: Arc<AtomicBool>,
    task: Task<(Client, usize)>,
}

impl Worker {
    async fn start(server: &Server) -> Worker {
        let stop = Arc::new(AtomicBool::new(false));
        let mut client = Client::connect(server.address("messaging"), "steady").await;
        let stopped = stop.clone();
        let task = tasks::spawn("worker", async move {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                let status = timeout(LIMIT, client.send(&format!("steady-{sent:06}"), b"work")).await.unwrap();
                assert_eq!(status.code(), Code::Ok, "{}", status.message);
                sent += 1;
                sleep(Duration::from_millis(10)).await;
            }
            (client, sent)
        });
        Worker { stop, task }
    }

    /// Every message that it sent arrives, once.
    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut client, sent) = self.task.join().await.unwrap();
        let mut taken = timeout(LIMIT, client.take(sent)).await.unwrap();
        taken.sort();
        let expected: Vec<String> = (0..sent).map(|number| format!("steady-{number:06}")).collect();
        assert_eq!(taken, expected);
    }
}

/// Afterwards it lives, answers on all ports, never panicked, and is small.
async fn check_well(server: &mut Server) {
    let log = server.log();
    assert!(server.lives() && !log.contains("panicked"), "{log}");
    for service in ["messaging", "admin", "http", "metrics"] {
        TcpStream::connect(server.address(service)).await.unwrap();
    }
    let (now, most) = (server.memory("VmRSS"), server.memory("VmHWM"));
    assert!(now < RSS && most < RSS, "{} MiB, {} MiB at most", now >> 20, most >> 20);
    assert!(server.metric("gantry_shard_open_polls") < 1_000);
}

/// Writes bytes and reads what comes until the peer closes or falls silent.
async fn throw(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A peer that closes in the middle does well.
    if timeout(LIMIT, stream.write_all(bytes)).await.unwrap().is_err() {
        return;
    }
    let mut answer = [0; 4096];
    while let Ok(Ok(1..)) = timeout(SILENCE, stream.read(&mut answer)).await {}
}

/// A frame of HTTP/2.
fn frame(claimed: u32, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = claimed.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Noise of every depth: no protocol, a broken handshake, broken frames, sound frames with noise in them.
fn noise(chance: &mut SeededChance) -> Vec<u8> {
    let mut junk = vec![0; 1 + chance.below(2_000) as usize];
    chance.fill(&mut junk);
    let start: Vec<u8> = match chance.below(7) {
        0 => Vec::new(),
        // The header of a TLS record that claims 64 KiB.
        1 => vec![0x16, 3, 1, 0xff, 0xff],
        2 => PREFACE[..chance.below(PREFACE.len() as u64) as usize].to_vec(),
        3 => PREFACE.to_vec(),
        4 => [PREFACE.to_vec(), frame(0xff_ffff, chance.below(12) as u8, 0xff, chance.next_u64() as u32, &[])].concat(),
        5 => [PREFACE.to_vec(), frame(junk.len() as u32, chance.below(12) as u8, chance.next_u64() as u8, 1, &[])].concat(),
        _ => b"GET /metrics HTTP/1.1\r\nhost: ".to_vec(),
    };
    [start, junk].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_on_every_port_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("data")).await;
    let worker = Worker::start(&server).await;
    let mut chance = SeededChance::new(SEED);
    let mut throws = Vec::new();
    for service in ["messaging", "admin", "http", "metrics"] {
        let (address, mut chance) = (server.address(service), chance.fork());
        throws.push(tasks::spawn("noise", async move {
            for _ in 0..60 {
                throw(address, &noise(&mut chance)).await;
            }
            // Headers without an end: one line of 4 MiB, and 64 Ki continuations.
            throw(address, &[b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'a'; 4 << 20]].concat()).await;
            let continuation = frame(64, 9, 0, 1, &[0x40; 64]);
            throw(address, &[PREFACE.to_vec(), frame(1, 1, 0, 1, &[0x82]), continuation.repeat(1 << 16)].concat()).await;
        }));
    }
    for throw in throws {
        throw.join().await.unwrap();
    }
    worker.finish().await;
    check_well(&mut server).await;
    server.stop().await;
}

/// An HTTP/2 connection that is made anew when the server has had enough of it.
struct Attacker {
    address: SocketAddr,
    connection: Option<SendRequest<Bytes>>,
}

impl Attacker {
    async fn ready(&mut self) -> SendRequest<Bytes> {
        loop {
            if let Some(connection) = self.connection.take()
                && let Ok(Ok(ready)) = timeout(LIMIT, connection.ready()).await
            {
                self.connection = Some(ready.clone());
                return ready;
            }
            let stream = TcpStream::connect(self.address).await.unwrap();
            let (connection, driver) = h2::client::handshake(stream).await.unwrap();
            // How it ends doesn't matter: the next call makes another one.
            tasks::spawn("attack", async move { drop(driver.await) });
            self.connection = Some(connection);
        }
    }

    fn request(&self, path: &str) -> http::request::Builder {
        let request = Request::post(format!("http://{}{path}", self.address)).header("content-type", "application/grpc").header("te", "trailers");
        request.header("grpc-timeout", "550m").header("x-mq-client-id", "wild-client").header("x-mq-language", "WILD")
    }

    /// Makes a call with this body and reads the answer to its end. Whether there was one.
    async fn call(&mut self, request: http::request::Builder, body: Vec<u8>, patience: Duration) -> bool {
        let Ok((answer, mut stream)) = self.ready().await.send_request(request.body(()).unwrap(), false) else {
            self.connection = None;
            return false;
        };
        _ = stream.send_data(body.into(), true);
        let read = async {
            let Ok(answer) = answer.await else { return false };
            let mut body = answer.into_body();
            while let Some(Ok(data)) = body.data().await {
                _ = body.flow_control().release_capacity(data.len());
            }
            true
        };
        timeout(patience, read).await.unwrap_or(false)
    }
}

/// A gRPC message that claims a length of its own.
fn grpc(flag: u8, claimed: u32, bytes: &[u8]) -> Vec<u8> {
    [&[flag], &claimed.to_be_bytes()[..], bytes].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claimed_lengths_take_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("data")).await;
    let worker = Worker::start(&server).await;
    let before = server.memory("VmPeak");
    let protocol = Protocol::new();
    for Rpc { path, port, .. } in &protocol.rpcs {
        let mut attacker = Attacker { address: server.address(port), connection: None };
        let mut open = Vec::new();
        for claimed in CLAIMS {
            for flag in [0, 1, 0xff] {
                let request = attacker.request(path).body(()).unwrap();
                let Ok((answer, mut stream)) = attacker.ready().await.send_request(request, false) else { continue };
                // Some of it comes, and the stream stays open for the rest.
                _ = stream.send_data(grpc(flag, claimed, &[10; 100]).into(), false);
                open.push((answer, stream));
            }
        }
        // A call behind them on the same connection is answered when the server has seen them all. A frame that ends early is refused.
        let request = attacker.request(path);
        assert!(attacker.call(request, grpc(0, 0x7fff_ffff, &[10; 100]), LIMIT).await, "{path}");
    }
    let grown = server.memory("VmPeak").saturating_sub(before);
    assert!(grown < CLAIMED, "{} MiB of address space for what was only claimed", grown >> 20);
    worker.finish().await;
    check_well(&mut server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_over_the_limit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("data")).await;
    let worker = Worker::start(&server).await;
    for service in ["messaging", "admin"] {
        let mut attacker = Attacker { address: server.address(service), connection: None };
        let mut refused = 0;
        for _ in 0..50 {
            let request = attacker.request("/apache.rocketmq.v2.MessagingService/QueryRoute").header("x-large", "a".repeat(20 * 1024));
            // The connection may be closed for the one before.
            let Ok((answer, _)) = attacker.ready().await.send_request(request.body(()).unwrap(), true) else { continue };
            let answer = timeout(LIMIT, answer).await.unwrap();
            assert!(answer.as_ref().map_or(true, |answer| answer.status() == 431), "{answer:?}");
            refused += 1;
        }
        assert!(refused > 10, "{refused}");
    }
    worker.finish().await;
    check_well(&mut server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senseless_requests_to_every_rpc_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("data")).await;
    let worker = Worker::start(&server).await;
    let (protocol, mut chance) = (Arc::new(Protocol::new()), SeededChance::new(SEED));
    let mut attacks = Vec::new();
    for number in 0..ATTACKERS {
        let port = if number % 2 == 0 { "messaging" } else { "admin" };
        let rpcs = protocol.rpcs.iter().filter(|rpc| rpc.port == port).cloned().collect();
        let attacker = Attacker { address: server.address(port), connection: None };
        attacks.push(tasks::spawn("attacker", attack(attacker, rpcs, Wild { protocol: protocol.clone(), chance: chance.fork() })));
    }
    let mut answered = 0;
    for attack in attacks {
        answered += attack.join().await.unwrap();
    }
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
    let calls = ATTACKERS * CALLS;
    assert!(answered >= calls * 9 / 10, "only {answered} of {calls} were answered: {log}");
    // Each pair of an rpc and a code that it answered has a line: the requests got beyond the first check.
    let kinds = server.metrics().lines().filter(|line| line.starts_with("gantry_rpcs_total{")).count();
    assert!(kinds > 40, "only {kinds} kinds of answers");
    worker.finish().await;
    check_well(&mut server).await;
    server.stop().await;
}

/// Calls the rpcs again and again, each time with something else. How many of the calls were answered.
async fn attack(mut attacker: Attacker, rpcs: Vec<Rpc>, mut wild: Wild) -> usize {
    let mut answered = 0;
    for rpc in rpcs.iter().cycle().take(CALLS) {
        let bytes = wild.request(rpc);
        let truncated = wild.chance.ratio(1, 20);
        let claimed = bytes.len() as u32 + if truncated { wild.chance.below(1 << 31) as u32 } else { 0 };
        let flag = if wild.chance.ratio(1, 20) { wild.chance.next_u64() as u8 } else { 0 };
        // A Telemetry stream stays open until somebody goes.
        let patience = if rpc.path.ends_with("Telemetry") { SILENCE } else { LIMIT };
        let request = attacker.request(&rpc.path);
        answered += usize::from(attacker.call(request, grpc(flag, claimed, &bytes), patience).await);
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_that_never_come_starve_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data")).await;
    let worker = Worker::start(&server).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut attacker = Attacker { address: server.address("messaging"), connection: None };
        for _ in 0..4 {
            let request = attacker.request("/apache.rocketmq.v2.MessagingService/SendMessage").body(()).unwrap();
            let (answer, mut stream) = attacker.ready().await.send_request(request, false).unwrap();
            _ = stream.send_data(grpc(0, 16 << 20, &[10; 100]).into(), false);
            open.push((answer, stream));
        }
    }
    sleep(Duration::from_secs(2)).await;
    worker.finish().await;
    server.stop().await;
}
