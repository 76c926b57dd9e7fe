//! A disk without room: sends are refused with the reason, consumers go on, nothing that was acknowledged is lost, and room heals it.
//!
//! The disk is a small tmpfs in a mount namespace of this test's own, which takes it away however the test ends. So the test starts itself
//! again inside such a namespace. It needs root or unprivileged user namespaces, and says so where it has neither.

use crate::client::Client;
use crate::server::{LIMIT, Server, until};
use gantry_platform::RealDisk;
use gantry_platform::clock::{Clock, SystemClock, sleep, timeout};
use gantry_platform::disk::Disk;
use gantry_proto::v2::{Code, Status};
use std::collections::BTreeSet;
use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Names the folder to mount the disk on, inside the namespace.
const INSIDE: &str = "GANTRY_TEST_DISK";
/// Room for the first segment (16 MiB), two spares (32 MiB each) and some ballast.
const DISK_MIB: usize = 160;
static BODY: [u8; 512 * 1024] = [7; 512 * 1024];

/// Runs a test of this file with a small disk of its own.
fn with_small_disk<F: Future<Output = ()>>(name: &str, test: impl FnOnce(PathBuf) -> F) {
    if let Some(disk) = std::env::var_os(INSIDE).map(PathBuf::from) {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "gantry-test"]).arg(&disk).status().unwrap();
        assert!(mounted.success(), "this test mounts a tmpfs: run it as root or allow unprivileged user namespaces");
        return tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test(disk));
    }
    let possible = |flags: &[&str]| Command::new("unshare").args(flags).arg("true").output().is_ok_and(|output| output.status.success());
    let ways: [&[&str]; 2] = [&["--mount"], &["--map-root-user", "--mount"]];
    let flags = ways.into_iter().find(|flags| possible(flags));
    let flags = flags.expect("this test needs `unshare --mount` for a small disk: run it as root or allow unprivileged user namespaces");
    let folder = tempfile::tempdir().unwrap();
    let mut again = Command::new("unshare");
    again.args(flags).arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]).env(INSIDE, folder.path());
    let output = again.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Takes all the room that is left.
fn fill(ballast: &Path) {
    let file = RealDisk::new("/").create(ballast).unwrap();
    let mut at = 0;
    for step in [1 << 20, 4096] {
        let bytes = vec![1; step];
        let full = loop {
            match file.write_at(at, &[IoSlice::new(&bytes)]) {
                Ok(()) => at += step as u64,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }
}

/// A producer that keeps book of what was acknowledged.
struct Producer {
    client: Client,
    sent: BTreeSet<String>,
    next: usize,
}

impl Producer {
    async fn send(&mut self) -> Status {
        let id = format!("full-{:06}", self.next);
        self.next += 1;
        let status = timeout(LIMIT, self.client.send(&id, &BODY)).await.unwrap();
        if status.code() == Code::Ok {
            self.sent.insert(id);
        }
        status
    }

    /// Sends until the disk is found to be full, which it looks at each second.
    async fn send_until_refused(&mut self) {
        let clock = SystemClock::new();
        loop {
            assert!(clock.mono() < LIMIT, "sends go on with {} messages on a disk of {DISK_MIB} MiB", self.sent.len());
            let status = self.send().await;
            if status.code() != Code::Ok {
                check_full(status.code(), &status.message);
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends until the room that was made is noticed.
    async fn send_until_taken(&mut self) {
        let clock = SystemClock::new();
        while self.send().await.code() != Code::Ok {
            assert!(clock.mono() < LIMIT, "sends are still refused");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn check_full(code: Code, message: &str) {
    assert_eq!(code, Code::TooManyRequests, "{message}");
    assert!(message.contains("the disk is ") && message.contains("% full, nothing was stored; free space"), "{message}");
}

/// Takes `count` of what was sent and not taken yet.
async fn take(client: &mut Client, sent: &BTreeSet<String>, taken: &mut BTreeSet<String>, count: usize) {
    for id in timeout(LIMIT, client.take(count)).await.unwrap() {
        assert!(sent.contains(&id), "{id} was refused and delivered");
        assert!(taken.insert(id.clone()), "{id} was acknowledged and came again");
    }
}

#[test]
fn a_full_disk_refuses_sends_serves_consumers_and_heals() {
    with_small_disk("full_disk::a_full_disk_refuses_sends_serves_consumers_and_heals", |disk| async move {
        let (data, ballast) = (disk.join("data"), disk.join("ballast"));
        let mut server = Server::start(&data).await;
        let mut producer = Producer { client: Client::connect(server.address("messaging"), "full").await, sent: BTreeSet::new(), next: 0 };
        let mut taken = BTreeSet::new();
        for _ in 0..10 {
            assert_eq!(producer.send().await.code(), Code::Ok);
        }
        take(&mut producer.client, &producer.sent, &mut taken, 4).await;
        fill(&ballast);
        producer.send_until_refused().await;
        until("the log says that the disk is full", || server.log().contains("the disk is nearly full").then_some(())).await;
        let refused = server.try_command(&["produce", "full", "--body", "x"], "");
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(5) && said.contains("the disk is "), "{said}");
        take(&mut producer.client, &producer.sent, &mut taken, 3).await;
        assert!(server.lives(), "{}", server.log());
        // Neither a crash nor a restart needs room.
        server.signal("-KILL");
        server.ended().await;
        server = Server::start(&data).await;
        producer.client = Client::connect(server.address("messaging"), "full").await;
        take(&mut producer.client, &producer.sent, &mut taken, 2).await;
        producer.send_until_refused().await;
        RealDisk::new("/").remove(&ballast).unwrap();
        producer.send_until_taken().await;
        until("the log says that there is room", || server.log().contains("the disk has room again").then_some(())).await;
        let left = producer.sent.len() - taken.len();
        take(&mut producer.client, &producer.sent, &mut taken, left).await;
        assert_eq!(taken, producer.sent);
        server.stop().await;
    });
}

#[test]
fn a_log_that_fills_the_disk_can_be_consumed_to_its_end() {
    with_small_disk("full_disk::a_log_that_fills_the_disk_can_be_consumed_to_its_end", |disk| async move {
        let data = disk.join("data");
        let mut server = Server::start(&data).await;
        let mut producer = Producer { client: Client::connect(server.address("messaging"), "full").await, sent: BTreeSet::new(), next: 0 };
        let mut taken = BTreeSet::new();
        producer.send_until_refused().await;
        let half = producer.sent.len() / 2;
        take(&mut producer.client, &producer.sent, &mut taken, half).await;
        assert!(server.lives(), "{}", server.log());
        server.stop().await;
        server = Server::start(&data).await;
        producer.client = Client::connect(server.address("messaging"), "full").await;
        let left = producer.sent.len() - taken.len();
        take(&mut producer.client, &producer.sent, &mut taken, left).await;
        assert_eq!(taken, producer.sent);
        server.stop().await;
    });
}
