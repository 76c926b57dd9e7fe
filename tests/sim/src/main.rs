//! Plays runs of the simulation by hand: one with its account, or as many as are asked for, on all cores.

use gantry_platform::tasks;
use gantry_sim::marks::Marks;
use gantry_sim::plan::Plan;
use gantry_sim::trace::Trace;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const USAGE: &str = "usage: gantry-sim --seed N [--trace]            plays one run, and tells what happens
       gantry-sim --seeds A..B [--all-marks]   plays the runs from A up to B; fails also if something rare did not come up";

/// Progress is told after so many runs.
const TELL: u64 = 100;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--seed", seed] => seed.parse().map_or_else(|_| usage(), |seed| one(seed, Trace::default())),
        ["--seed", seed, "--trace"] => seed.parse().map_or_else(|_| usage(), |seed| one(seed, Trace::aloud())),
        ["--seeds", range] => seeds(range).map_or_else(usage, |range| many(range, Marked::Told)),
        ["--seeds", range, "--all-marks"] => seeds(range).map_or_else(usage, |range| many(range, Marked::Needed)),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn seeds(range: &str) -> Option<(u64, u64)> {
    let (from, to) = range.split_once("..")?;
    Some((from.parse().ok()?, to.parse().ok()?))
}

fn one(seed: u64, trace: Trace) -> ExitCode {
    match gantry_sim::play_with(Plan::of(seed), trace) {
        Ok(outcome) => {
            let seconds = outcome.passed.as_secs_f64();
            println!("seed {seed} holds after {seconds:.1} simulated seconds, {} events, hash {:016x}", outcome.lines, outcome.hash);
            println!("{}", outcome.marks);
            ExitCode::SUCCESS
        }
        Err(broken) => {
            println!("seed {seed} is broken after {:.6} simulated seconds: {}", broken.at.as_secs_f64(), broken.why);
            ExitCode::FAILURE
        }
    }
}

/// Whether what runs have seen is only told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marked {
    Told,
    Needed,
}

/// What many runs came to.
#[derive(Default)]
struct Sum {
    marks: Marks,
    played: u64,
    broken: u64,
}

fn many((from, to): (u64, u64), marked: Marked) -> ExitCode {
    let (next, sum) = (Arc::new(AtomicU64::new(from)), Arc::new(Mutex::new(Sum::default())));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let players: Vec<_> = (0..cores)
        .map(|number| {
            let (next, sum) = (next.clone(), sum.clone());
            tasks::thread(format!("player-{number}"), move || play_all(&next, to, to - from, &sum)).expect("a thread can be started")
        })
        .collect();
    players.into_iter().for_each(|player| drop(player.join()));
    let sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{} runs, {} broken: {}", sum.played, sum.broken, sum.marks);
    let missing = if marked == Marked::Needed { sum.marks.missing() } else { Vec::new() };
    if !missing.is_empty() {
        println!("not seen: {missing:?}");
    }
    if sum.broken == 0 && missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn play_all(next: &AtomicU64, to: u64, count: u64, sum: &Mutex<Sum>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= to {
            return;
        }
        let played = gantry_sim::play(seed);
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum.played += 1;
        match played {
            Ok(outcome) => sum.marks.extend(&outcome.marks),
            Err(broken) => {
                sum.broken += 1;
                println!("BROKEN: gantry-sim --seed {seed} --trace    # {}", broken.why);
            }
        }
        if sum.played.is_multiple_of(TELL) {
            println!("{} of {count} runs, {} broken", sum.played, sum.broken);
        }
    }
}
