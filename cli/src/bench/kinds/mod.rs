//! `--compare-kinds`: every kind of message by turns, and the server CPU time of each delivered message as a ratio to that of a plain one
//! in the same round. Read `case` (what is compared), `turn` (how one is measured), `report`.
//!
//! ```text
//!  round 1: plain, empty handler, fifo 1, fifo 100, …, fan-out    each on a topic of its own:
//!  round 2: plain, empty handler, fifo 1, …                       send all │ receive and acknowledge all │ check │ delete
//! ```

mod case;
mod report;
mod turn;

use super::cost::Cost;
use super::floor::Child;
use super::place::Place;
use super::{Bench, Settings, needed_pid, save};
use crate::failure::{Exit, Failure};
use crate::global::Global;
use crate::output;
use crate::terminal::Terminal;
use case::Case;
use report::{KindsReport, Round};
use turn::Turn;

pub async fn run(args: &Bench, settings: &Settings, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    let pid = needed_pid(args, global).await?;
    let child = Child::start(settings).await?;
    let floor = child.place(global);
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        terminal.progress(&format!("round {number} of {}", args.rounds))?;
        rounds.push(round(pid, &floor, settings, global, terminal).await?);
    }
    terminal.progress("")?;
    let report = KindsReport::new(settings, rounds);
    if let Some(file) = &args.save {
        save(&report, file).await?;
    }
    output::print(&report, global.output, terminal)
}

async fn round(pid: u32, floor: &Place, settings: &Settings, global: &Global, terminal: &mut Terminal) -> Result<Round, Failure> {
    let plain = on_own_topic(Case::Plain, pid, None, settings, global, terminal).await?;
    let empty_handler = turn::measure(Case::EmptyHandler, floor, None, settings, terminal).await?;
    let mut others = Vec::new();
    for case in case::OTHERS {
        others.push(on_own_topic(case, pid, Some(&plain), settings, global, terminal).await?);
    }
    Ok(Round { plain, empty_handler, others })
}

/// One turn, on a topic and with groups that are deleted however it ends.
async fn on_own_topic(
    case: Case,
    pid: u32,
    plain: Option<&Turn>,
    settings: &Settings,
    global: &Global,
    terminal: &mut Terminal,
) -> Result<Turn, Failure> {
    turn::settle(pid).await;
    let place = Place::make_for(case.message_type(), case.groups(), pid, global).await?;
    let turn = tokio::select! {
        turn = turn::measure(case, &place, plain, settings, terminal) => turn,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Failed, "interrupted")),
    };
    let cleaned = place.clean_up().await;
    let turn = turn?;
    cleaned.map(|()| turn)
}
