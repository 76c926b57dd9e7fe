//! Topics over several shards, seen through the contract `Broker`.
//!
//! `whole` makes brokers of real shards on memory disks, one or many, in this process or behind streams (`wire`), for the suite that every
//! broker must pass. `stepped` puts a shard's core
//! alone behind the contract, in the time of a paused runtime and with answers that take a while, so that a seed decides who meets whom; what is
//! played there is checked by `ledger`, which sees every lease.

#![forbid(unsafe_code)]

pub mod catalogue;
pub mod whole;
pub mod wire;
pub mod stepped;
pub mod ledger;
