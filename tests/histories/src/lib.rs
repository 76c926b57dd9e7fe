//! Random histories of a shard, each checked against what a shard may do at all.
//!
//! The shard's core decides, a log in memory keeps, and from time to time everything behind the last commit is lost and the core is made anew
//! from the log. Beside it runs a book that knows nothing of leases, lanes and cursors: it notes what producers and consumers saw, and from
//! that alone says which delivery is a mistake. `design/reliability.md` names the invariants; the letters in the checks are its letters.
//!
//! Read `history` for what happens, `book` for what is checked, and `world` for the parts around the core.

#![forbid(unsafe_code)]

pub mod book;
pub mod halves;
pub mod history;
pub mod world;

/// Plays the history of a seed; panics with the seed in the message if an invariant is broken.
pub fn play(seed: u64) -> history::Outcome {
    history::History::new(seed).run()
}
