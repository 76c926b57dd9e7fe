//! What a run came to, as a table and as JSON of a stable form (`schema_version` grows when a field changes its meaning).

use super::check::{self, Broken, Verdict};
use super::gaps::{Gap, Latency, Pace};
use super::history::{Event, History, Micros};
use crate::failure::{Exit, Failure};
use crate::output::{Report, Table};
use crate::value;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Lines of a kind that a person gets to see; programs get all.
const LINES: usize = 20;

/// The result of a run or of a check.
#[derive(Debug, Serialize)]
pub struct Finding {
    schema_version: u32,
    gantry_version: &'static str,
    run: String,
    began: String,
    began_unix_ms: u64,
    /// The part in which was sent.
    seconds: f64,
    /// What consumers took after it.
    drain_seconds: f64,
    topics: BTreeMap<String, &'static str>,
    groups: Vec<String>,
    /// Nothing that was not allowed was found.
    clean: bool,
    allowed: Vec<Broken>,
    #[serde(flatten)]
    verdict: Verdict,
    #[serde(flatten)]
    pace: Pace,
}

impl Finding {
    pub fn new(history: &History, allowed: &[Broken]) -> Finding {
        let verdict = check::check(history);
        let at = |wanted: fn(&Event) -> Option<Micros>| history.events.iter().find_map(wanted);
        let stopped = at(|event| if let Event::Stopped { at } = event { Some(*at) } else { None }).unwrap_or_default();
        let drained = at(|event| if let Event::Drained { at } = event { Some(*at) } else { None }).unwrap_or(stopped);
        Finding {
            schema_version: 1,
            gantry_version: env!("CARGO_PKG_VERSION"),
            run: history.header.run.clone(),
            began: history.header.began.clone(),
            began_unix_ms: history.header.began_unix_ms,
            seconds: stopped.seconds(),
            drain_seconds: drained.since(stopped).seconds(),
            topics: history.header.topics.iter().map(|topic| (topic.name.clone(), topic.kind.name())).collect(),
            groups: history.header.groups.clone(),
            clean: verdict.violations.keys().all(|broken| allowed.contains(broken)),
            allowed: allowed.to_vec(),
            verdict,
            pace: Pace::of(history),
        }
    }

    pub fn is_clean(&self) -> bool {
        self.clean
    }

    /// The failure with which the command ends.
    pub fn judgement(&self) -> Result<(), Failure> {
        if !self.clean {
            let broken: Vec<String> = self.verdict.violations.iter().map(|(broken, count)| format!("{count} {}", broken.name())).collect();
            return Err(Failure::new(Exit::Violated, "the cluster broke its promises").because(broken.join(", ")));
        }
        if self.verdict.sends.ok == 0 {
            return Err(Failure::new(Exit::Unreachable, "nothing was verified").because("no send was acknowledged"));
        }
        if self.verdict.undecided > 0 {
            let why = format!("{} message(s) did not come, and the servers did not say that there is nothing more", self.verdict.undecided);
            return Err(Failure::new(Exit::Unreachable, "the run has no end").because(why).hint("run it again with a longer `--drain`"));
        }
        Ok(())
    }

    fn counts(&self) -> String {
        let Verdict { sends, deliveries, repeated, acknowledged, acks_unknown, acks_refused, given_back, .. } = &self.verdict;
        let mut pairs = vec![
            (
                "sends",
                format!(
                    "{} acknowledged, {} refused, {} unknown ({} of these came)",
                    sends.ok, sends.refused, sends.unknown, sends.unknown_but_stored
                ),
            ),
            ("deliveries", format!("{deliveries}, {repeated} of them repeated, {given_back} given back")),
            ("acks", format!("{acknowledged} OK, {acks_refused} refused, {acks_unknown} unknown")),
            ("send time", latency(&self.pace.send)),
            ("delivery time", latency(&self.pace.delivery)),
            (
                "longest",
                format!(
                    "{} without an acknowledged send, {} without a delivery",
                    gap(self.pace.longest_without_send),
                    gap(self.pace.longest_without_delivery)
                ),
            ),
        ];
        if self.verdict.strangers > 0 {
            pairs.push(("strangers", format!("{} messages of others on the named topics", self.verdict.strangers)));
        }
        if self.verdict.undecided > 0 {
            pairs.push(("undecided", format!("{} messages did not come before the history ends", self.verdict.undecided)));
        }
        Table::of_pairs(pairs).render()
    }

    fn incidents(&self) -> String {
        let incidents = &self.pace.incidents;
        if incidents.is_empty() {
            return "incidents: none\n".to_owned();
        }
        let mut table = Table::new(&["INCIDENT AT", ">LONGEST STALL", ">NO SEND AT ALL", ">LANES", ">FAILED SENDS"]);
        for incident in incidents.iter().take(LINES) {
            let cells =
                [time(incident.from), time(incident.longest), time(incident.silence), incident.lanes.to_string(), incident.failed.to_string()];
            table.row(cells);
        }
        table.render() + &more(incidents.len())
    }

    fn violations(&self) -> String {
        if self.verdict.violations.is_empty() {
            return "violations: none\n".to_owned();
        }
        let mut counts = Table::new(&["VIOLATION", ">COUNT", ""]);
        for (broken, count) in &self.verdict.violations {
            let note = if self.allowed.contains(broken) { "allowed" } else { "" };
            counts.row([broken.name().to_owned(), count.to_string(), note.to_owned()]);
        }
        let mut stories = Table::new(&["AT", "VIOLATION", "TOPIC", "GROUP", "MESSAGE", "STORY"]);
        for story in self.verdict.stories.iter().take(LINES) {
            let group = story.group.clone().unwrap_or_else(|| "-".to_owned());
            stories.row([time(story.at), story.broken.name().to_owned(), story.topic.clone(), group, story.message_id.clone(), story.story.clone()]);
        }
        format!("{}\n{}{}", counts.render(), stories.render(), more(self.verdict.stories.len()))
    }
}

impl Report for Finding {
    fn table(&self) -> String {
        let kinds: Vec<&str> = self.topics.values().copied().collect();
        let head = format!(
            "run {} with {} topic(s) ({}) and {} group(s): {} of sending, {} to drain\n",
            self.run,
            self.topics.len(),
            kinds.join(", "),
            self.groups.len(),
            value::show_duration(Duration::from_secs_f64(self.seconds)),
            value::show_duration(Duration::from_secs_f64(self.drain_seconds)),
        );
        format!("{head}{}\n{}\n{}", self.counts(), self.incidents(), self.violations())
    }
}

fn time(at: Micros) -> String {
    value::show_duration(at.duration())
}

fn latency(latency: &Latency) -> String {
    let show = |us| value::show_duration(Duration::from_micros(us));
    format!("p50 {}, p99 {}, longest {}", show(latency.p50_us), show(latency.p99_us), show(latency.max_us))
}

fn gap(gap: Gap) -> String {
    format!("{} (at {})", time(gap.length), time(gap.from))
}

fn more(count: usize) -> String {
    if count > LINES { format!("… and {} more; `-o json` has all\n", count - LINES) } else { String::new() }
}
