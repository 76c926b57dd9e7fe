//! The short form of the crash-state test; the long one is `cargo run --release -p gantry-crash -- --states 1000000`.

#[test]
fn every_crash_state_contains_what_was_acknowledged() {
    let reports: Vec<_> = (1..=3).map(|seed| gantry_crash::run(seed, 8_000)).collect();
    let (states, torn) = reports.iter().fold((0, 0), |sum, report| (sum.0 + report.states, sum.1 + report.torn));
    println!("{states} states, {torn} with a torn tail: {reports:?}");
    assert!(states > 5_000 && torn > 100, "the workload leaves too little to lose: {reports:?}");
}
