//! A whole cluster in one thread, from one seed: the real replicas with their real store on disks that fail, the real rules of the controller, clients
//! that send and consume everything a client can, and a network between them that loses what it likes.
//!
//! A run is a list of events in simulated time; nothing else decides what happens, so a seed that fails once fails for ever. Faults go on for a while,
//! then they end, and everything must come to its end. What is checked all the time and in the end, and what is not simulated:
//! `docs/design/016-simulation.md`.
//!
//! Read `world` for the loop, `machine`, `control` and `clients` for who takes part, `plan` and `faults` for what goes wrong, and `ghost` and `book` for
//! what must hold all the same.

#![forbid(unsafe_code)]

pub mod sim;
pub mod plan;
pub mod catalogue;
pub mod machine;
pub mod control;
pub mod clients;
pub mod faults;
pub mod world;
pub mod ghost;
pub mod book;
pub mod finish;
pub mod marks;
pub mod trace;

use marks::{Mark, Marks};
use plan::Plan;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use trace::Trace;
use world::{Broken, Outcome, Until, World};

/// Plays the run of a seed.
pub fn play(seed: u64) -> Result<Outcome, Broken> {
    play_with(Plan::of(seed), Trace::default())
}

/// Plays a run that was planned, with an account of one's own. A panic of the code that is tested is as bad as an invariant that does not hold.
pub fn play_with(plan: Plan, trace: Trace) -> Result<Outcome, Broken> {
    let seed = plan.seed;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime without a net");
    let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run(plan, trace))));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Broken { seed, at: Duration::ZERO, why: format!("panic: {}", text.unwrap_or_default()) })
    })
}

async fn run(plan: Plan, trace: Trace) -> Result<Outcome, Broken> {
    let seed = plan.seed;
    let mut world = World::new(plan, trace);
    world.begin();
    let faults = Duration::from_millis(world.plan.faults_ms);
    let went = world.run(Until::Time(faults)).await;
    let done = if went { world.finish().await } else { Err(String::new()) };
    let inside = world.sim.inside();
    if let Some(why) = inside.broken.clone().or(done.err()) {
        return Err(Broken { seed, at: inside.now, why });
    }
    let mut marks: Marks = inside.marks.clone();
    (0..inside.book.redelivered).for_each(|_| marks.add(Mark::Redeliveries));
    Ok(Outcome { marks, hash: inside.trace.hash(), lines: inside.trace.lines(), passed: inside.now })
}
