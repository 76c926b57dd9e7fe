//! Open-loop sending: every send has a time at which it is due, fixed at the start. A server that stalls delays answers, never the
//! schedule, and a latency counts from the due time: so the sends that had to wait are in the histogram (no coordinated omission).

use super::phase::Board;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// When each send is due.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    per_second: f64,
}

impl Schedule {
    pub fn new(per_second: f64) -> Schedule {
        Schedule { per_second }
    }

    /// Nanoseconds from the start to send number `k`. Computed anew each time, so errors don't add up.
    pub fn due(&self, k: u64) -> u64 {
        (k as f64 * 1e9 / self.per_second) as u64
    }
}

/// The longest sleep, so that the end of the run is noticed at low rates.
const NAP: Duration = Duration::from_millis(50);

/// Hands out due times to connections in turn until the board gives no more tickets. A thread of its own, because a sleep of the kernel
/// ends within some 60 µs and a timer of tokio within 1 ms. A lane that is full blocks: the sends get late, their due times stay.
pub fn pace(schedule: Schedule, board: &Arc<Board>, lanes: &[mpsc::Sender<u64>]) {
    let start = board.now();
    for (k, lane) in (0..).zip(lanes.iter().cycle()) {
        let due = start + schedule.due(k);
        while let Some(early) = due.checked_sub(board.now()).filter(|early| *early > 0) {
            if board.sends_are_over() {
                return;
            }
            std::thread::sleep(Duration::from_nanos(early).min(NAP));
        }
        if !board.take_ticket(due) || lane.blocking_send(due).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_are_due_evenly_and_never_drift() {
        let schedule = Schedule::new(3.0);
        assert_eq!((schedule.due(0), schedule.due(1), schedule.due(3)), (0, 333_333_333, 1_000_000_000));
        // After a day at 3 a second the error is still below a microsecond.
        assert!(schedule.due(3 * 86_400).abs_diff(86_400_000_000_000) < 1_000);
        let fast = Schedule::new(1e6);
        assert_eq!(fast.due(1_000_000_000), 1_000_000_000_000);
    }
}
