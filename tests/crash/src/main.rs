//! The long form of the crash-state test: as many states as are asked for, a new workload every 50,000.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Some(1_000_000),
        ["--states", count] => count.parse::<u64>().ok(),
        _ => None,
    };
    let Some(asked) = asked else {
        eprintln!("usage: gantry-crash [--states N]    checks N crash states (default 1000000)");
        return ExitCode::from(2);
    };
    let (mut states, mut torn, mut seed) = (0, 0, 100);
    while states < asked {
        let report = gantry_crash::run(seed, 50_000.min(asked - states));
        states += report.states;
        torn += report.torn;
        seed += 1;
        println!("{states} of {asked} states hold all that was acknowledged, {torn} had a torn tail");
    }
    ExitCode::SUCCESS
}
