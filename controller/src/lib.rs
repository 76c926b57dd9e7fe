//! The controller: the one place that decides which topics, groups and keys exist, and remembers it.
//!
//! A change is an event. `consensus` puts events in one order and makes them durable, `state` says what each of them does, and
//! `controller` answers the other roles through the `Metadata` contract of the model. Read `state/mod.rs` first: all that is decided is
//! decided there, in a function without clock, chance or files.
//!
//! This crate never touches messages, never knows brokers, proxies or the network, and never gives out an id twice.

#![forbid(unsafe_code)]

pub mod state;
pub mod placement;
pub mod cluster;
pub mod consensus;
pub mod controller;
mod metadata;
pub mod remote;

pub use consensus::{OpenError, Settings};
pub use controller::{Controller, Join, Options, Starting};
