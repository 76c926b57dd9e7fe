//! The store of one shard: the CommitLog and what is derived from it, on one disk.
//!
//! The log is the only source of truth. The index answers where a message is, a checkpoint saves reading the log from its beginning; both can
//! be deleted and are computed again. Bytes on the disk are drawn in `docs/design/001-file-format.md` and `002-index-run.md`.
//!
//! This crate never knows what a group or a lease is, never decides what to keep, and knows no network, no clock and no runtime.
//!
//! Read `frame` first, then `log`.

#![forbid(unsafe_code)]

pub mod frame;
pub mod record;
pub mod log;
pub mod index;
pub mod checkpoint;
pub mod install;
pub mod data_folder;
pub mod replica;
mod twin;
pub mod zoo;

#[cfg(all(feature = "zoo", not(debug_assertions)))]
compile_error!("the feature `zoo` lets bugs out: it is for the simulation's tests, never for a program that keeps somebody's messages");
