//! `gantry verify` as the load, and what it says about each time that something was broken.

use crate::cluster::Cluster;
use gantry_kill::verify::{Ended, Run};
use gantry_platform::clock::{Clock, SystemClock, sleep};
use std::time::Duration;

/// Stalls of this length are noise of a busy machine.
const GAP: &str = "150ms";
/// A fault that was noted is to blame for what begins this much before it, on the clock of another process.
const BEFORE_MS: u64 = 100;
/// What begins later than this after a fault has another reason.
const AFTER_MS: u64 = 10_000;

/// A load at work.
pub struct Load {
    run: Run,
    clock: SystemClock,
    faults: Vec<(u64, String)>,
}

/// What the load saw of one fault.
#[derive(Clone, Debug)]
pub struct Seen {
    pub what: String,
    /// The longest time in which a lane had no acknowledged send, in milliseconds; 0 if none was longer than noise.
    pub gap_ms: u64,
    /// The longest time in which nobody had one.
    pub silence_ms: u64,
}

/// How a load ended.
#[derive(Debug)]
pub struct Outcome {
    pub seen: Vec<Seen>,
    pub ended: Ended,
}

impl Load {
    /// Begins; returns when messages flow.
    pub async fn start(cluster: &Cluster, options: &str) -> Load {
        Load::through(&cluster.endpoints(), cluster, options).await
    }

    /// The same for a client that knows only some proxies.
    pub async fn through(endpoints: &[String], cluster: &Cluster, options: &str) -> Load {
        let options = format!("--duration 24h --gap {GAP} {options}");
        let mut load = Load { run: Run::start(endpoints, &cluster.admin(), &options), clock: SystemClock::new(), faults: vec![] };
        sleep(Duration::from_secs(3)).await;
        assert!(load.run.goes_on(), "the load ended before anything was broken: {:?}", load.run.end().await);
        load
    }

    /// Something is broken now.
    pub fn fault(&mut self, what: impl Into<String>) {
        self.faults.push((self.clock.wall_ms(), what.into()));
    }

    /// Stops sending, waits until everything has come, and holds the run to its promises.
    pub async fn end(mut self) -> Outcome {
        assert!(self.run.goes_on(), "the load gave up: {:?}", self.run.end().await);
        self.run.interrupt().await;
        let ended = self.run.end().await;
        assert_eq!((ended.exit, ended.broken()), (Some(0), vec![]), "{ended:?}");
        let began = ended.number("/began_unix_ms");
        let incidents = ended.incidents();
        let seen = |(at, what): (u64, String)| {
            let at = at.saturating_sub(began);
            let blamed =
                || incidents.iter().filter(|incident| incident.from_ms + incident.length_ms + BEFORE_MS > at && incident.from_ms < at + AFTER_MS);
            Seen {
                what,
                gap_ms: blamed().map(|incident| incident.longest_ms).max().unwrap_or(0),
                silence_ms: blamed().map(|incident| incident.silence_ms).max().unwrap_or(0),
            }
        };
        let seen = self.faults.into_iter().map(seen).collect();
        Outcome { seen, ended }
    }
}

impl Outcome {
    /// One line about what the load did.
    pub fn summary(&self) -> String {
        let number = |path: &str| self.ended.number(path);
        format!(
            "{} sends acknowledged, {} unknown, {} refused; {} deliveries acknowledged, {} repeated; no promise broken",
            number("/sends/ok"),
            number("/sends/unknown"),
            number("/sends/refused"),
            number("/acknowledged"),
            number("/repeated")
        )
    }
}
