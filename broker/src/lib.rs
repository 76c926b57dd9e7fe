//! The broker: shards that store messages and remember who was given what.
//!
//! It answers the contract `gantry_model::contract::Broker`, in this process and over the streams of proxies elsewhere. Only
//! those streams (`remote`) and the ones between replicas (`replica::streams`) know gRPC, and the state never knows a clock, a file or a thread.
//! Read `shard::core` first: what can happen to a shard and what follows.

#![forbid(unsafe_code)]

pub mod codec;
pub mod record;
pub mod draft;
pub mod shard;
pub mod agent;
pub mod replica;
pub mod admission;
pub mod alive;
pub mod read;
pub mod filter;
pub mod post;
pub mod local;
pub mod remote;
pub mod recover;
pub mod open;

pub use local::LocalBroker;
pub use recover::{OpenError, Options, Sizes};
pub use shard::upkeep::Retention;
