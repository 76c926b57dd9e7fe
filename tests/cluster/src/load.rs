//! `gantry verify` as the load, and what it says about each time that something was broken.

use crate::cluster::Cluster;
use gantry_kill::verify::{Ended, Run};
use gantry_platform::clock::{Clock, SystemClock, sleep};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tempfile::TempPath;

/// What began later than this after a fault has another reason.
const AFTER_MS: u64 = 10_000;

/// A load at work.
pub struct Load {
    run: Run,
    clock: SystemClock,
    /// When each fault was, on the wall.
    faults: Vec<(u64, String)>,
    history: TempPath,
}

/// What the load saw of one fault.
#[derive(Clone, Debug)]
pub struct Seen {
    pub what: String,
    /// The longest time that a lane waited for an acknowledged send, in milliseconds.
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
        let history = tempfile::NamedTempFile::new().expect("a temporary file").into_temp_path();
        let options = format!("--duration 24h --history {} {options}", history.display());
        let run = Run::start(endpoints, &cluster.admin(), &options);
        let mut load = Load { run, clock: SystemClock::new(), faults: vec![], history };
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
        let sends = Sends::read(&self.history);
        let mut seen = Vec::new();
        for (number, (at, what)) in self.faults.iter().enumerate() {
            let next = self.faults.get(number + 1).map_or(u64::MAX, |(next, _)| *next);
            let times = (*at, next.min(at + AFTER_MS));
            seen.push(Seen { what: what.clone(), gap_ms: sends.longest_stall(times), silence_ms: sends.longest_silence(times) });
        }
        Outcome { seen, ended }
    }

    /// What the run has written so far.
    pub fn history(&self) -> &Path {
        &self.history
    }
}

/// Sends of a history, on the wall clock in milliseconds.
struct Sends {
    /// From the begin of a send to the next acknowledged one of its lane.
    stalls: Vec<(u64, u64)>,
    acked: Vec<u64>,
}

impl Sends {
    fn read(history: &Path) -> Sends {
        let text = std::fs::read_to_string(history).expect("the run wrote its history");
        let mut lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
        let began = lines.next().and_then(|header| header["began_unix_ms"].as_u64()).expect("a header");
        let mut waiting: BTreeMap<u64, u64> = BTreeMap::new();
        let mut sends = Sends { stalls: vec![], acked: vec![] };
        // A lane sends one after the other, and so its lines are in order.
        for send in lines.filter(|line| line["event"] == "send") {
            let at = |field: &str| began + send[field].as_u64().unwrap_or(0) / 1_000;
            let lane = send["lane"].as_u64().unwrap_or(0);
            let from = *waiting.entry(lane).or_insert(at("from"));
            if send["outcome"] == "ok" {
                waiting.remove(&lane);
                sends.stalls.push((from, at("to")));
                sends.acked.push(at("to"));
            }
        }
        sends.acked.sort_unstable();
        sends
    }

    fn longest_stall(&self, times: (u64, u64)) -> u64 {
        longest(self.stalls.iter().copied(), times)
    }

    /// The longest time without any acknowledged send.
    fn longest_silence(&self, times: (u64, u64)) -> u64 {
        longest(self.acked.windows(2).map(|pair| (pair[0], pair[1])), times)
    }
}

/// The longest of those that lie within two times for the most part: what went on when the next thing was broken is blamed on that.
fn longest(spans: impl Iterator<Item = (u64, u64)>, (from, to): (u64, u64)) -> u64 {
    let within = |&(begin, end): &(u64, u64)| end.min(to).saturating_sub(begin.max(from)) * 2 > end - begin;
    spans.filter(within).map(|(begin, end)| end - begin).max().unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_blamed_for_what_happens_in_its_time() {
        let sends = Sends { stalls: vec![(0, 5), (90, 130), (110, 400), (480, 800)], acked: vec![5, 130, 400, 800] };
        assert_eq!((sends.longest_stall((120, 500)), sends.longest_silence((120, 500))), (290, 270));
        assert_eq!((sends.longest_stall((6, 120)), sends.longest_silence((6, 120))), (40, 125));
        assert_eq!((sends.longest_stall((500, 600)), sends.longest_stall((500, 900))), (0, 320));
    }
}
