//! What time it is, and a random tag. The only place of this crate that asks the machine.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

/// Time since the first call; never goes back.
#[expect(clippy::disallowed_methods, reason = "a client command runs against real servers: it measures and is never simulated")]
pub fn mono() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Nanoseconds of `mono`, the unit of the histograms.
pub fn nanos() -> u64 {
    mono().as_nanos() as u64
}

/// The wall clock as the wire writes it.
#[expect(clippy::disallowed_methods, reason = "a client command runs against real servers: it measures and is never simulated")]
pub fn wall() -> prost_types::Timestamp {
    prost_types::Timestamp::from(SystemTime::now())
}

/// A number that no other process has: names of clients, of messages and of temporary topics are made from it.
pub fn random_tag() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_u128(mono().as_nanos());
    hasher.finish()
}
