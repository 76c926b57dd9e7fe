//! The store of a shard: an append-only CommitLog, the index that finds messages in it, and checkpoints of the state it amounts to.
//!
//! It never knows gRPC, groups or deliveries: payloads of records that are not messages are bytes to it. All I/O goes through
//! `gantry_platform::disk`. Read `frame` first, then `log`, then `index`.

#![forbid(unsafe_code)]

pub mod frame;
pub mod record;
pub mod log;
pub mod index;
pub mod checkpoint;
pub mod data_folder;
