//! The short form, for every build; `tests/all` plays more.

use gantry_sim::plan::Plan;
use gantry_sim::trace::Trace;

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in [4, 7, 21] {
        let runs = [0, 1].map(|_| gantry_sim::play(seed).expect("it holds"));
        assert_eq!((runs[0].hash, runs[0].lines, &runs[0].marks), (runs[1].hash, runs[1].lines, &runs[1].marks), "seed {seed}");
    }
    let hash = |seed| gantry_sim::play(seed).expect("it holds").hash;
    assert_ne!(hash(4), hash(7));
}

#[test]
fn a_few_runs_hold() {
    for seed in 0..12 {
        let played = gantry_sim::play_with(Plan::of(seed), Trace::default());
        assert!(played.is_ok(), "replay it with `gantry-sim --seed {seed} --trace`: {played:?}");
    }
}

/// Runs that found something once. A change of the simulation makes other runs of them; the zoo keeps the bugs themselves.
#[test]
fn what_was_found_once_stays_away() {
    // A stale leader that nobody told; a promise in the page cache only; files of different lengths; a question about what was not committed.
    for seed in [395, 497, 255, 1157] {
        let played = gantry_sim::play(seed);
        assert!(played.is_ok(), "{played:?}");
    }
}
