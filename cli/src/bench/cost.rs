//! What the messages of a phase cost the server, and the middle of what several rounds found.

use super::phase::Outcome;
use crate::failure::{Exit, Failure};
use serde::Serialize;

/// What one kind of call cost the server.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    pub messages: u64,
    pub messages_per_second: f64,
    pub cpu_us_per_message: f64,
}

impl Cost {
    /// The cost of a phase that went through without a failed call.
    pub fn of(what: &str, outcome: &Outcome, messages: u64) -> Result<Cost, Failure> {
        let failed = |why: String| Failure::new(Exit::Failed, format!("cannot measure `{what}`")).because(why);
        if let (true, Some(error)) = (outcome.errors > 0, &outcome.first_error) {
            return Err(failed(format!("{} calls failed, the first: {error}", outcome.errors)));
        }
        let Some((before, after, _)) = outcome.server else { return Err(failed("the server process is gone".to_owned())) };
        if messages == 0 {
            return Err(failed("no message went through".to_owned()));
        }
        let cpu = after.cpu_since(&before).as_secs_f64();
        Ok(Cost { messages, messages_per_second: messages as f64 / outcome.seconds, cpu_us_per_message: cpu * 1e6 / messages as f64 })
    }

    /// Microseconds for all of them.
    pub fn total_us(&self) -> f64 {
        self.cpu_us_per_message * self.messages as f64
    }
}

/// Values in ascending order.
pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Of sorted values.
pub fn median(sorted: &[f64]) -> f64 {
    match (sorted.len() / 2, sorted.len() % 2) {
        (_, _) if sorted.is_empty() => 0.0,
        (middle, 0) => (sorted[middle - 1] + sorted[middle]) / 2.0,
        (middle, _) => sorted[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_middles() {
        assert_eq!(median(&sorted([9.0, 1.0, 2.0])), 2.0);
        assert_eq!(median(&sorted([2.0, 1.0])), 1.5);
        assert_eq!(median(&[]), 0.0);
    }
}
