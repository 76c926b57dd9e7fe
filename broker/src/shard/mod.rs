//! One shard: a CommitLog, what it means, and the thread that owns both.
//!
//! `core` decides (with `deliver` and `finish`), `state` is what the log says, `thread` does what was decided. Only `thread` knows time and disk.

pub mod state;
pub mod core;
pub mod send;
mod deliver;
mod finish;
mod members;
pub mod asks;
mod offsets;
pub mod letters;
mod pulls;
pub mod polls;
pub mod offers;
pub mod clock;
pub mod inbox;
pub mod thread;
mod write;
mod commit;
mod lead;
mod refuse;
pub mod replay;
pub mod parked;
pub mod timers;
mod due;
pub mod transactions;
pub mod halves;
mod lite;
pub mod upkeep;

#[cfg(test)]
mod core_tests;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod members_tests;
#[cfg(test)]
mod offers_tests;
#[cfg(test)]
mod transactions_tests;
#[cfg(test)]
mod offsets_tests;
#[cfg(test)]
mod letters_tests;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod timers_tests;
