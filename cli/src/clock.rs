//! What time it is in the form of the wire, and numbers that nobody else has.

use gantry_platform::{Chance, Clock, SystemChance, SystemClock};
use prost_types::Timestamp;

/// Now, to the millisecond.
pub fn wall() -> Timestamp {
    timestamp(SystemClock::new().wall_ms())
}

/// A time that is given in milliseconds since 1970.
pub fn timestamp(ms: u64) -> Timestamp {
    Timestamp { seconds: (ms / 1_000) as i64, nanos: (ms % 1_000 * 1_000_000) as i32 }
}

/// A number that no other process has: names of clients, of messages and of temporary topics are made from it.
pub fn random_tag() -> u64 {
    SystemChance.next_u64()
}
