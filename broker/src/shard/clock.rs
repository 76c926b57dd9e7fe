//! The time of a shard: milliseconds that never go back, run with the monotonic clock, and drift gently towards the wall clock.
//!
//! Leases, retries and the times in frames use it. A step of the wall clock therefore never ends leases in a heap or keeps them for ever: the
//! shard closes the gap by at most one part in a hundred.

use gantry_platform::clock::SharedClock;
use std::time::Duration;

/// The longest time that leases move after a pause in which nobody led.
pub const SHIFT_MAX_MS: u64 = 30_000;
/// A shorter pause moves nothing. The pause is counted from the last frame, which a shard that holds leases writes at least every second; if each
/// short one counted, a server that restarts again and again would hold messages back for ever.
const SHIFT_MIN_MS: u64 = 2_000;

/// Counts a shard's time.
#[derive(Debug)]
pub struct ShardClock {
    clock: SharedClock,
    now_us: u64,
    seen: Duration,
}

impl ShardClock {
    /// Goes on from the time of the last frame in the log. Answers also how long the shard stood still, as far as leases may move.
    pub fn after(clock: SharedClock, last_frame_ms: u64) -> (ShardClock, u64) {
        let wall = clock.wall_ms();
        let now = wall.max(last_frame_ms);
        let pause = if last_frame_ms == 0 { 0 } else { now - last_frame_ms };
        let shift = if pause < SHIFT_MIN_MS { 0 } else { pause.min(SHIFT_MAX_MS) };
        let seen = clock.mono();
        (ShardClock { clock, now_us: now * 1_000, seen }, shift)
    }

    /// The shard's time in ms since the Unix epoch.
    pub fn now_ms(&mut self) -> u64 {
        let mono = self.clock.mono();
        let passed = mono.saturating_sub(self.seen).as_micros() as u64;
        self.seen = mono;
        let steady = self.now_us + passed;
        let wall = self.clock.wall_ms() * 1_000;
        let slew = passed / 100;
        // Half a millisecond of noise between the two clocks is no drift.
        self.now_us = match wall.abs_diff(steady) {
            0..=1_500 => steady,
            _ if wall > steady => steady + slew.min(wall - steady),
            _ => steady - slew.min(steady - wall),
        };
        self.now_us / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_platform::clock::ManualClock;
    use std::sync::Arc;

    fn at(wall: u64, last: u64) -> (Arc<ManualClock>, ShardClock, u64) {
        let clock = Arc::new(ManualClock::new(wall));
        let (shard, shift) = ShardClock::after(clock.clone(), last);
        (clock, shard, shift)
    }

    #[test]
    fn time_goes_on_from_the_last_frame_even_if_the_wall_clock_is_behind() {
        let (_, mut shard, shift) = at(1_000, 5_000);
        assert_eq!((shard.now_ms(), shift), (5_000, 0));
        assert_eq!(at(1_000_000, 5_000).2, SHIFT_MAX_MS);
        assert_eq!(at(7_000, 5_000).2, 2_000);
        assert_eq!(at(6_999, 5_000).2, 0);
        assert_eq!(at(7_000, 0).2, 0);
    }

    #[test]
    fn a_jump_of_the_wall_clock_moves_time_by_a_hundredth_at_most() {
        for jump in [3_600_000, -3_600_000] {
            let (clock, mut shard, _) = at(10_000_000, 0);
            let before = shard.now_ms();
            clock.jump_wall(jump);
            clock.advance(Duration::from_secs(10));
            let moved = shard.now_ms() - before;
            assert!((9_900..=10_100).contains(&moved), "moved {moved} ms in 10 s");
        }
    }
}
