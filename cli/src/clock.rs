//! What time it is in the form of the wire, and numbers that nobody else has.

use gantry_platform::{Chance, Clock, SystemChance, SystemClock};
use prost_types::Timestamp;
use std::time::Duration;

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

/// A time after another one.
pub fn later(born: Timestamp, delay: Duration) -> Timestamp {
    let nanos = i64::from(born.nanos) + i64::from(delay.subsec_nanos());
    let mut due = Timestamp { seconds: born.seconds.saturating_add_unsigned(delay.as_secs()).saturating_add(nanos / 1_000_000_000), nanos: 0 };
    due.nanos = (nanos % 1_000_000_000) as i32;
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_carries_into_the_second() {
        let born = Timestamp { seconds: 10, nanos: 900_000_000 };
        assert_eq!(later(born, Duration::from_millis(1_200)), Timestamp { seconds: 12, nanos: 100_000_000 });
    }
}
