//! What the rounds of `--compare-kinds` found: medians, as a table and as JSON.

use super::case::Case;
use super::turn::Turn;
use crate::bench::Settings;
use crate::bench::cost::{median, sorted};
use crate::bench::report::{Latency, show_us};
use crate::output::{Report, Table};
use crate::value;
use serde::Serialize;

/// One turn of each case.
#[derive(Debug, Serialize)]
pub struct Round {
    pub plain: Turn,
    pub empty_handler: Turn,
    pub others: Vec<Turn>,
}

/// What a ratio is held against: the same part of the plain turn of its round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Against {
    /// Send, receive and acknowledge.
    PlainMessage,
    /// Receive and acknowledge.
    PlainReceive,
}

impl Against {
    fn us(self, plain: &Turn) -> f64 {
        match self {
            Against::PlainMessage => plain.send.cpu_us_per_message + plain.receive.cpu_us_per_message,
            Against::PlainReceive => plain.receive.cpu_us_per_message,
        }
    }
}

/// Medians over the rounds.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// Server CPU time a message: `send_us` and `receive_us` together.
    server_us: f64,
    /// The part of a send that one delivered message has; absent when sends are not counted.
    send_us: Option<f64>,
    /// Receive and acknowledge.
    receive_us: f64,
    against: Against,
    /// Median of the ratios of the rounds.
    ratio: f64,
    ratio_least: f64,
    ratio_most: f64,
    sends_per_second: f64,
    deliveries_per_second: f64,
    messages_per_receive: f64,
}

/// How late delayed messages came, medians over the rounds.
#[derive(Debug, Serialize)]
struct Lateness {
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    /// How long consumers take for as many plain messages that wait already: no message that is due with all others can be sooner.
    plain_backlog_us: f64,
}

#[derive(Debug, Serialize)]
pub struct KindsReport {
    schema_version: u32,
    gantry_version: &'static str,
    settings: Settings,
    kinds: Vec<Row>,
    lateness: Option<Lateness>,
    rounds: Vec<Round>,
}

impl KindsReport {
    pub fn new(settings: &Settings, rounds: Vec<Round>) -> KindsReport {
        let mut kinds = vec![row(&rounds, |round| Some(&round.plain)), row(&rounds, |round| Some(&round.empty_handler))];
        let others = rounds.first().map_or(&[][..], |round| &round.others);
        for (number, turn) in others.iter().enumerate() {
            kinds.push(row(&rounds, |round| round.others.get(number)));
            kinds.extend(scanned(&rounds).filter(|_| turn.case == Case::Selective));
        }
        let lateness = lateness(&rounds);
        KindsReport { schema_version: 1, gantry_version: env!("CARGO_PKG_VERSION"), settings: settings.clone(), kinds, lateness, rounds }
    }
}

/// The medians of a case.
fn row(rounds: &[Round], turn: impl Fn(&Round) -> Option<&Turn>) -> Row {
    let pairs: Vec<(&Turn, &Turn)> = rounds.iter().filter_map(|round| Some((turn(round)?, &round.plain))).collect();
    let each = |value: &dyn Fn(&Turn) -> f64| median(&sorted(pairs.iter().map(|(turn, _)| value(turn))));
    let case = pairs.first().map_or(Case::Plain, |(turn, _)| turn.case);
    let against = if case.sends_per_delivery().is_some() { Against::PlainMessage } else { Against::PlainReceive };
    let send = |turn: &Turn| case.sends_per_delivery().map_or(0.0, |sends| turn.send.cpu_us_per_message * sends);
    let whole = |turn: &Turn| send(turn) + turn.receive.cpu_us_per_message;
    let ratios = sorted(pairs.iter().map(|(turn, plain)| ratio(whole(turn), against.us(plain))));
    Row {
        name: case.name(),
        server_us: each(&whole),
        send_us: case.sends_per_delivery().map(|_| each(&send)),
        receive_us: each(&|turn| turn.receive.cpu_us_per_message),
        against,
        ratio: median(&ratios),
        ratio_least: ratios.first().copied().unwrap_or(0.0),
        ratio_most: ratios.last().copied().unwrap_or(0.0),
        sends_per_second: each(&|turn| turn.send.messages_per_second),
        deliveries_per_second: each(&|turn| turn.receive.messages_per_second),
        messages_per_receive: each(&|turn| turn.messages_per_receive),
    }
}

/// The filter once more, per message that it looked at.
fn scanned(rounds: &[Round]) -> Option<Row> {
    let filters: Vec<(&Turn, &Turn)> = rounds.iter().filter_map(|round| Some((filter_of(round)?, &round.plain))).collect();
    let delivered = row(rounds, filter_of);
    let scan = |turn: &Turn| turn.receive.total_us() / turn.send.messages as f64;
    let ratios = sorted(filters.iter().map(|(turn, plain)| ratio(scan(turn), Against::PlainReceive.us(plain))));
    let us = median(&sorted(filters.iter().map(|(turn, _)| scan(turn))));
    let per_second = |turn: &Turn| turn.receive.messages_per_second * turn.send.messages as f64 / turn.receive.messages as f64;
    (!filters.is_empty()).then(|| Row {
        name: "SQL filter, a message seen".to_owned(),
        server_us: us,
        receive_us: us,
        ratio: median(&ratios),
        ratio_least: ratios.first().copied().unwrap_or(0.0),
        ratio_most: ratios.last().copied().unwrap_or(0.0),
        deliveries_per_second: median(&sorted(filters.iter().map(|(turn, _)| per_second(turn)))),
        ..delivered
    })
}

fn filter_of(round: &Round) -> Option<&Turn> {
    round.others.iter().find(|turn| turn.case == Case::Selective)
}

/// A plain turn that cost nothing at all would divide by zero.
fn ratio(us: f64, plain: f64) -> f64 {
    us / plain.max(1e-3)
}

fn lateness(rounds: &[Round]) -> Option<Lateness> {
    let seen: Vec<&Latency> = rounds.iter().flat_map(|round| &round.others).filter_map(|turn| turn.lateness.as_ref()).collect();
    let each = |value: fn(&Latency) -> f64| median(&sorted(seen.iter().map(|latency| value(latency))));
    let backlog = |round: &Round| round.plain.receive.messages as f64 / round.plain.receive.messages_per_second * 1e6;
    (!seen.is_empty()).then(|| Lateness {
        p50_us: each(|latency| latency.p50_us),
        p99_us: each(|latency| latency.p99_us),
        max_us: each(|latency| latency.max_us),
        plain_backlog_us: median(&sorted(rounds.iter().map(backlog))),
    })
}

impl Report for KindsReport {
    fn table(&self) -> String {
        let settings = &self.settings;
        let load =
            format!("{} connections, {} in flight, {} bodies", settings.connections, settings.in_flight, value::show_size(settings.size_bytes));
        let messages = settings.messages.unwrap_or(0);
        let mut text = format!("server CPU time a delivered message, median of {} rounds of {messages} messages: {load}\n\n", self.rounds.len());
        let heading = ["", ">CPU", ">SEND", ">RECEIVE+ACK", ">RATIO", ">LEAST", ">MOST", ">SENDS/s", ">DELIVERED/s", ">A CALL"];
        let mut table = Table::new(&heading);
        for row in &self.kinds {
            let us = |us: f64| format!("{us:.2} µs");
            let costs = [us(row.server_us), row.send_us.map_or_else(|| "-".to_owned(), us), us(row.receive_us)];
            let ratios = [row.ratio, row.ratio_least, row.ratio_most].map(|ratio| format!("{ratio:.2}"));
            let rates = [row.sends_per_second, row.deliveries_per_second].map(|rate| format!("{rate:.0}"));
            let batch = format!("{:.1}", row.messages_per_receive);
            table.row([row.name.clone()].into_iter().chain(costs).chain(ratios).chain(rates).chain([batch]));
        }
        text.push_str(&table.render());
        text.push_str("\nRatios are to the plain message of the same round; where sends are not counted, to its receive and acknowledgement.\n");
        if let Some(late) = &self.lateness {
            let [p50, p99, most, backlog] = [late.p50_us, late.p99_us, late.max_us, late.plain_backlog_us].map(show_us);
            text.push_str(&format!(
                "Delayed messages came late by: p50 {p50}, p99 {p99}, most {most}. A plain backlog of as many takes {backlog}.\n"
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::bench::cost::Cost;
    use crate::bench::tests::settings;

    fn turn(case: Case, send: (u64, f64), receive: (u64, f64)) -> Turn {
        let cost = |(messages, us): (u64, f64)| Cost { messages, messages_per_second: 1e6 / us, cpu_us_per_message: us };
        let latency = Latency { mean_us: 1e3, p50_us: 2e3, p90_us: 3e3, p99_us: 4e3, p999_us: 5e3, max_us: send.1 * 1e3 };
        let lateness = Some(latency).filter(|_| case == Case::Delay);
        Turn { case, name: case.name(), send: cost(send), receive: cost(receive), messages_per_receive: 32.0, lateness }
    }

    /// Plain messages cost 20 µs at speed 1.
    fn round(speed: f64) -> Round {
        let at = |us: f64| us * speed;
        Round {
            plain: turn(Case::Plain, (6400, at(12.0)), (6400, at(8.0))),
            empty_handler: turn(Case::EmptyHandler, (6400, at(6.0)), (6432, at(4.0))),
            others: vec![
                turn(Case::Fifo { message_groups: 100 }, (6400, at(13.0)), (6400, at(9.0))),
                turn(Case::Delay, (6400, at(15.0)), (6400, at(15.0))),
                turn(Case::Selective, (6400, at(14.0)), (64, at(80.0))),
                turn(Case::FanOut, (100, at(128.0)), (6400, at(10.0))),
            ],
        }
    }

    fn ratio_of(report: &KindsReport, name: &str) -> (f64, f64, f64) {
        let row = report.kinds.iter().find(|row| row.name.contains(name)).unwrap();
        (row.ratio, row.ratio_least, row.ratio_most)
    }

    #[test]
    fn ratios_are_of_one_round_so_a_slow_round_changes_nothing() {
        let report = KindsReport::new(&settings(6400), vec![round(1.0), round(8.0), round(2.0)]);
        assert_eq!(ratio_of(&report, "fifo"), (1.1, 1.1, 1.1));
        assert_eq!(ratio_of(&report, "delay"), (1.5, 1.5, 1.5));
        // Two microseconds of each send belong to one of its 64 deliveries.
        assert_eq!(ratio_of(&report, "fan-out"), (0.6, 0.6, 0.6));
        // 80 µs against the 8 of receiving a plain message; a hundredth of that for each message looked at.
        assert_eq!(ratio_of(&report, "1 of 100"), (10.0, 10.0, 10.0));
        assert_eq!(ratio_of(&report, "seen"), (0.1, 0.1, 0.1));
        assert_eq!(report.kinds[0].server_us, 40.0);
        assert_eq!(report.lateness.unwrap().max_us, 30_000.0);
    }

    #[test]
    fn a_comparison_of_kinds_is_a_table_for_people_and_json_for_programs() {
        let report = KindsReport::new(&settings(6400), vec![round(1.0)]);
        insta::assert_snapshot!("kinds_table", report.table());
        insta::assert_snapshot!("kinds_json", serde_json::to_string_pretty(&report).unwrap().replace(env!("CARGO_PKG_VERSION"), "<version>"));
    }
}
