//! A real `gantry server` is killed with SIGKILL again and again while producers and consumers work, and must keep every promise it made:
//! no acknowledged send is lost, no acknowledged message comes again, every queue is dense and holds each message once.
//! `gantry verify` must find nothing in such a time, and must find each lie of a server that lies (`liar`).

pub mod client;
pub mod ledger;
pub mod liar;
pub mod server;
pub mod verify;

use client::Client;
use gantry_platform::chance::{Chance, SeededChance};
use gantry_platform::tasks;
use ledger::Ledger;
use server::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PRODUCERS: usize = 6;
const CONSUMERS: usize = 3;
/// Producers wait for the consumers when this much is not acknowledged.
const BACKLOG: usize = 2_000;

/// What a run did.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub kills: u32,
    pub sent: usize,
    pub acked: usize,
    pub delivered: usize,
    /// Deliveries of messages that had been delivered before and were not acknowledged.
    pub repeated: usize,
    pub slowest_restart: Duration,
}

/// Kills the server `rounds` times. Panics with the broken promise.
pub async fn run(rounds: u32, seed: u64) -> Report {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::new(folder.path());
    let mut chance = SeededChance::new(seed);
    let ledger = Arc::new(Ledger::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut slowest_restart = server.start().await;
    let client = || Client::new(server.endpoint());
    let mut work = Vec::new();
    for number in 0..PRODUCERS {
        work.push(tasks::spawn("producer", produce(client(), ledger.clone(), stop.clone(), number)));
    }
    for number in 0..CONSUMERS {
        work.push(tasks::spawn("consumer", consume(client(), ledger.clone(), stop.clone(), number)));
    }
    for round in 1..=rounds {
        gantry_platform::clock::sleep(Duration::from_millis(30 + chance.next_u64() % 400)).await;
        server.kill().await;
        slowest_restart = slowest_restart.max(server.start().await);
        if round % 50 == 0 {
            println!("{round} of {rounds} kills: {}", ledger.summary());
        }
    }
    ledger.drain();
    // What was leased and never acknowledged comes again after 10 s; then nothing may be left.
    gantry_platform::clock::sleep(Duration::from_secs(12)).await;
    let drained = ledger.wait_until_quiet().await;
    stop.store(true, Ordering::Relaxed);
    for task in work {
        task.join().await.unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(drained, "the backlog does not drain: {}", ledger.summary());
    server.stop().await;
    ledger.verify();
    ledger.report(rounds, slowest_restart)
}

async fn produce(mut client: Client, ledger: Arc<Ledger>, stop: Arc<AtomicBool>, number: usize) {
    let mut sequence = 0u64;
    while !stop.load(Ordering::Relaxed) && !ledger.is_draining() {
        if ledger.backlog() > BACKLOG {
            gantry_platform::clock::sleep(Duration::from_millis(2)).await;
            continue;
        }
        sequence += 1;
        let id = format!("P{number}-{sequence}");
        ledger.sending(&id);
        if let Some(offset) = client.send(&id).await {
            ledger.sent(&id, offset);
        } else {
            gantry_platform::clock::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn consume(mut client: Client, ledger: Arc<Ledger>, stop: Arc<AtomicBool>, number: usize) {
    while !stop.load(Ordering::Relaxed) {
        let Some(deliveries) = client.receive(number).await else {
            gantry_platform::clock::sleep(Duration::from_millis(10)).await;
            continue;
        };
        for delivery in deliveries {
            ledger.delivered(&delivery);
            // Every seventh message is forgotten once, so that redelivery is at work as well.
            if delivery.attempt == 1 && delivery.offset % 7 == 0 {
                continue;
            }
            // The answer may be lost with the server; the same handle is good after the restart.
            for _ in 0..100 {
                match client.ack(&delivery).await {
                    Some(true) => {
                        ledger.acked(&delivery.id);
                        break;
                    }
                    Some(false) => break,
                    None => gantry_platform::clock::sleep(Duration::from_millis(20)).await,
                }
            }
        }
    }
}
