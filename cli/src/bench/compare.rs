//! `--compare-floor`: the same load on the server and on an empty handler, by turns, and the server CPU time of each call as a ratio.
//! By turns, because the speed of a machine changes from minute to minute; medians, because a neighbour may wake up in one round.

use super::cost::{Cost, median, sorted};
use super::floor::Child;
use super::phase::{Job, Phase};
use super::place::{Kind, Place};
use super::{Bench, Settings, needed_pid, save};
use crate::failure::{Exit, Failure};
use crate::global::Global;
use crate::output::{self, Report, Table};
use crate::terminal::Terminal;
use crate::value;
use gantry_proto::v2::AckMessageEntry;
use serde::Serialize;

pub async fn run(args: &Bench, settings: &Settings, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let pid = needed_pid(args, global).await?;
    let child = Child::start(settings).await?;
    let floor = child.place(global);
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        terminal.progress(&format!("round {number} of {}", args.rounds))?;
        let ours = one_side(pid, settings, global, terminal).await?;
        let floor = measure(&floor, settings, terminal).await?;
        rounds.push(Round { gantry: ours, floor });
    }
    terminal.progress("")?;
    let report = Comparison::new(settings, rounds);
    if let Some(file) = &args.save {
        save(&report, file).await?;
    }
    output::print(&report, global.output, terminal)
}

/// The server's side of a round, on a topic of its own.
async fn one_side(pid: u32, settings: &Settings, global: &Global, terminal: &mut Terminal) -> Result<Side, Failure> {
    let place = Place::prepare(None, None, Some(pid), global).await?;
    let side = tokio::select! {
        side = measure(&place, settings, terminal) => side,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Failed, "interrupted")),
    };
    let cleaned = place.clean_up().await;
    let side = side?;
    cleaned.map(|()| side)
}

/// Sends, then receives what was sent, then acknowledges what was received, each alone.
async fn measure(place: &Place, settings: &Settings, terminal: &mut Terminal) -> Result<Side, Failure> {
    let jobs = |job: fn() -> Job| (0..settings.connections).map(|_| job()).collect();
    let sent = Phase::new("send", place, settings, jobs(|| Job::Produce)).run(terminal).await?;
    let send = Cost::of("send", &sent, sent.tally.send.messages)?;
    let expected = sent.tally.confirmed.count();
    let received = Phase::new("receive", place, settings, jobs(|| Job::Receive)).expecting(expected).run(terminal).await?;
    let receive = Cost::of("receive", &received, received.tally.receive.messages)?;
    if place.kind == Kind::Gantry {
        let check = received.ledger.compare(&sent.tally.confirmed);
        if check.lost > 0 || check.corrupt > 0 {
            return Err(Failure::new(Exit::Failed, format!("{} of {} messages were lost, {} corrupt", check.lost, check.confirmed, check.corrupt)));
        }
    }
    let acks = deal(received.tally.kept, settings.connections as usize).into_iter().map(Job::Ack).collect();
    let acked = Phase::new("acknowledge", place, settings, acks).run(terminal).await?;
    Ok(Side { send, receive, ack: Cost::of("acknowledge", &acked, acked.tally.ack.messages)? })
}

/// Handles in turn to connections.
fn deal(handles: Vec<AckMessageEntry>, connections: usize) -> Vec<Vec<AckMessageEntry>> {
    let mut shares: Vec<Vec<AckMessageEntry>> = (0..connections).map(|_| Vec::new()).collect();
    for (number, handle) in handles.into_iter().enumerate() {
        shares[number % connections].push(handle);
    }
    shares
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Side {
    send: Cost,
    receive: Cost,
    ack: Cost,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    gantry: Side,
    floor: Side,
}

/// Medians over the rounds.
#[derive(Debug, Serialize)]
struct Compared {
    name: &'static str,
    gantry_us_per_message: f64,
    floor_us_per_message: f64,
    /// Median of the ratios of the rounds.
    ratio: f64,
    ratio_least: f64,
    ratio_most: f64,
    gantry_messages_per_second: f64,
    floor_messages_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Comparison {
    schema_version: u32,
    gantry_version: &'static str,
    settings: Settings,
    calls: Vec<Compared>,
    rounds: Vec<Round>,
}

impl Comparison {
    fn new(settings: &Settings, rounds: Vec<Round>) -> Comparison {
        let calls = vec![
            compare("send", &rounds, |side| side.send),
            compare("receive", &rounds, |side| side.receive),
            compare("ack", &rounds, |side| side.ack),
        ];
        Comparison { schema_version: 1, gantry_version: env!("CARGO_PKG_VERSION"), settings: settings.clone(), calls, rounds }
    }
}

fn compare(name: &'static str, rounds: &[Round], cost: fn(&Side) -> Cost) -> Compared {
    let each = |value: &dyn Fn(Cost, Cost) -> f64| sorted(rounds.iter().map(|round| value(cost(&round.gantry), cost(&round.floor))));
    // A floor of nothing at all would divide by zero.
    let ratios = each(&|gantry, floor| gantry.cpu_us_per_message / floor.cpu_us_per_message.max(1e-3));
    Compared {
        name,
        gantry_us_per_message: median(&each(&|gantry, _| gantry.cpu_us_per_message)),
        floor_us_per_message: median(&each(&|_, floor| floor.cpu_us_per_message)),
        ratio: median(&ratios),
        ratio_least: ratios.first().copied().unwrap_or(0.0),
        ratio_most: ratios.last().copied().unwrap_or(0.0),
        gantry_messages_per_second: median(&each(&|gantry, _| gantry.messages_per_second)),
        floor_messages_per_second: median(&each(&|_, floor| floor.messages_per_second)),
    }
}

impl Report for Comparison {
    fn table(&self) -> String {
        let settings = &self.settings;
        let load =
            format!("{} connections, {} in flight, {} bodies", settings.connections, settings.in_flight, value::show_size(settings.size_bytes));
        let heading =
            format!("server CPU time a message, median of {} rounds of {} messages: {load}\n\n", self.rounds.len(), settings.messages.unwrap_or(0));
        let mut table = Table::new(&["", ">GANTRY", ">FLOOR", ">RATIO", ">LEAST", ">MOST", ">GANTRY/s", ">FLOOR/s"]);
        for call in &self.calls {
            let us = |us: f64| format!("{us:.2} µs");
            let ratios = [call.ratio, call.ratio_least, call.ratio_most].map(|ratio| format!("{ratio:.2}"));
            let rates = [call.gantry_messages_per_second, call.floor_messages_per_second].map(|rate| format!("{rate:.0}"));
            let costs = [us(call.gantry_us_per_message), us(call.floor_us_per_message)];
            table.row([call.name.to_owned()].into_iter().chain(costs).chain(ratios).chain(rates));
        }
        format!("{heading}{}", table.render())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(gantry: f64, floor: f64) -> Round {
        let side = |us: f64| {
            let cost = Cost { messages: 10_000, messages_per_second: 1e6 / us, cpu_us_per_message: us };
            Side { send: cost, receive: cost, ack: cost }
        };
        Round { gantry: side(gantry), floor: side(floor) }
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds() {
        let compared = compare("send", &[round(15.0, 10.0), round(90.0, 10.0), round(12.0, 10.0)], |side| side.send);
        assert_eq!((compared.ratio, compared.ratio_least, compared.ratio_most), (1.5, 1.2, 9.0));
        assert_eq!((compared.gantry_us_per_message, compared.floor_us_per_message), (15.0, 10.0));
    }
}
