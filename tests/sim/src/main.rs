//! Plays runs of the simulation by hand: one with its account, or as many as are asked for.

use gantry_sim::marks::Marks;
use gantry_sim::plan::Plan;
use gantry_sim::trace::Trace;
use std::process::ExitCode;

const USAGE: &str = "usage: gantry-sim --seed N [--trace]    plays one run, and tells what happens\n       gantry-sim --seeds A..B            plays the runs from A up to B";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--seed", seed] => seed.parse().map_or_else(|_| usage(), |seed| one(seed, Trace::default())),
        ["--seed", seed, "--trace"] => seed.parse().map_or_else(|_| usage(), |seed| one(seed, Trace::aloud())),
        ["--seeds", range] => {
            range.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?))).map_or_else(usage, |(from, to)| many(from, to))
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn one(seed: u64, trace: Trace) -> ExitCode {
    match gantry_sim::play_with(Plan::of(seed), trace) {
        Ok(outcome) => {
            println!(
                "seed {seed} holds after {:.1} simulated seconds, {} events, hash {:016x}",
                outcome.passed.as_secs_f64(),
                outcome.lines,
                outcome.hash
            );
            println!("{}", outcome.marks);
            ExitCode::SUCCESS
        }
        Err(broken) => {
            println!("seed {seed} is broken after {:.6} simulated seconds: {}", broken.at.as_secs_f64(), broken.why);
            ExitCode::FAILURE
        }
    }
}

fn many(from: u64, to: u64) -> ExitCode {
    let (mut marks, mut failed) = (Marks::default(), 0);
    for seed in from..to {
        match gantry_sim::play(seed) {
            Ok(outcome) => marks.extend(&outcome.marks),
            Err(broken) => {
                failed += 1;
                println!("BROKEN: gantry-sim --seed {seed} --trace    # {}", broken.why);
            }
        }
        if (seed + 1 - from).is_multiple_of(100) {
            println!("{} of {} runs, {failed} broken", seed + 1 - from, to - from);
        }
    }
    println!("{} runs, {failed} broken: {marks}", to - from);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
