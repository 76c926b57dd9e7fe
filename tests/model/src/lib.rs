//! The replication protocol under a model checker: every order of events of a small shard, and after each of them, whether something committed is lost.
//!
//! The world is small (replicas, the controller's [`Reign`](gantry_store::replica::Reign), what leaders answered), but the decisions in it are made by
//! the functions of `store/src/replica` that the servers run: what to promise, accept, cut, count as committed, seal, grant and believe. So a change of
//! a rule is checked, and each [`Mutant`] breaks one rule and must be found.
//!
//! What is simpler than life: a frame has length 1; a follower takes over any beginning of a leader's log in one step, which covers appends that are
//! late, repeated and reordered; an acknowledgement reaches its leader at once, but the leader may act on it at any later time, or never. Time
//! doesn't exist: anything that may happen may happen now.
//!
//! Read `world` first, then `scope`, `step`, `next`.

#![forbid(unsafe_code)]

pub mod frames;
pub mod world;
pub mod scope;
pub mod mutant;
pub mod step;
mod next;
mod replicas;
mod controller;
pub mod check;

pub use check::{Outcome, check};
pub use mutant::Mutant;
pub use scope::Scope;
pub use world::World;
