//! Tests of the façade, from the disk up: storage, one node, and whole clusters over a network in memory.

#![allow(clippy::unwrap_used)]

mod world;
mod storage;
mod alone;
mod elections;
mod changes;
mod history;
mod golden;
