//! Clocks. `wall` is for delivery times and retention, which people read; `mono` is for leases, timeouts and measuring, and never jumps.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use tokio::time::{error::Elapsed, interval, sleep, timeout};

/// Holds up a thread of its own. Never for a thread that others wait for.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A clock shared by several owners.
pub type SharedClock = Arc<dyn Clock>;

/// What time it is.
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since 1970-01-01 UTC. May jump, both ways.
    fn wall_ms(&self) -> u64;

    /// Time since the clock was made. Never goes back.
    fn mono(&self) -> Duration;
}

/// The clocks of the machine.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        system_wall_ms()
    }

    fn mono(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The clock of the tokio runtime, for tests that pause it: it moves with `tokio::time::advance`, and jumps to the next timer when all
/// tasks wait. Wall time starts at a given value and moves along.
#[derive(Debug)]
pub struct RuntimeClock {
    start: tokio::time::Instant,
    wall_at_start: u64,
}

impl RuntimeClock {
    /// A clock that shows `wall_ms` now.
    pub fn new(wall_ms: u64) -> RuntimeClock {
        RuntimeClock { start: tokio::time::Instant::now(), wall_at_start: wall_ms }
    }
}

impl Clock for RuntimeClock {
    fn wall_ms(&self) -> u64 {
        self.wall_at_start + self.mono().as_millis() as u64
    }

    fn mono(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that moves only when told to. Clones show the same time.
#[derive(Clone, Debug)]
pub struct ManualClock {
    now: Arc<Mutex<Duration>>,
    wall_at_start: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that shows `wall_ms` now, and a monotonic time of zero.
    pub fn new(wall_ms: u64) -> ManualClock {
        ManualClock { now: Arc::default(), wall_at_start: Arc::new(AtomicU64::new(wall_ms)) }
    }

    /// Lets `by` pass on both clocks.
    pub fn advance(&self, by: Duration) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    /// Sets the wall clock `by` milliseconds forth or back, as an operator or NTP does; the monotonic time stays.
    pub fn jump_wall(&self, by: i64) {
        // The only possible answer of `fetch_update` is `Ok`, since the closure always gives a value.
        let _ = self.wall_at_start.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |wall| Some(wall.saturating_add_signed(by)));
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> u64 {
        self.wall_at_start.load(Ordering::SeqCst).saturating_add(self.mono().as_millis() as u64)
    }

    fn mono(&self) -> Duration {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A machine whose clock stands before 1970 shows 0 rather than nothing.
fn system_wall_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(1_000);
        let seen_elsewhere = clock.clone();
        clock.advance(Duration::from_millis(2_500));
        assert_eq!((seen_elsewhere.wall_ms(), seen_elsewhere.mono()), (3_500, Duration::from_millis(2_500)));
    }

    #[test]
    fn a_jump_of_the_wall_clock_leaves_monotonic_time_alone() {
        let clock = ManualClock::new(10_000);
        clock.jump_wall(-4_000);
        assert_eq!((clock.wall_ms(), clock.mono()), (6_000, Duration::ZERO));
        clock.jump_wall(-7_000);
        assert_eq!(clock.wall_ms(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_runtime_clock_follows_a_paused_runtime() {
        let clock = RuntimeClock::new(500);
        sleep(Duration::from_secs(3_600)).await;
        assert_eq!((clock.wall_ms(), clock.mono()), (3_600_500, Duration::from_secs(3_600)));
    }

    #[test]
    fn the_system_clock_is_after_2025() {
        let clock = SystemClock::new();
        assert!(clock.wall_ms() > 1_735_689_600_000);
        let first = clock.mono();
        assert!(clock.mono() >= first);
    }
}
