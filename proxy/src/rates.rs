//! How many messages a second went through this proxy lately.

use crate::metrics::Metrics;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Looks that are kept; one every few seconds makes about a minute.
const LOOKS_MAX: usize = 13;

/// What the counters showed at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Look {
    at: Duration,
    sent: u64,
    delivered: u64,
}

/// Messages a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    pub sent: f64,
    pub delivered: f64,
}

/// The latest looks at the counters, oldest first; never empty.
#[derive(Debug)]
pub struct Rates(Mutex<VecDeque<Look>>);

impl Rates {
    pub fn new(now: Duration) -> Rates {
        Rates(Mutex::new(VecDeque::from([Look { at: now, ..Look::default() }])))
    }

    /// Notes what the counters show.
    pub fn look(&self, now: Duration, metrics: &Metrics) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() == LOOKS_MAX {
            looks.pop_front();
        }
        looks.push_back(read(now, metrics));
    }

    /// The mean since the oldest look.
    pub fn rate(&self, now: Duration, metrics: &Metrics) -> Rate {
        let oldest = self.0.lock().unwrap_or_else(PoisonError::into_inner).front().copied().unwrap_or_default();
        let newest = read(now, metrics);
        let seconds = now.saturating_sub(oldest.at).as_secs_f64().max(1.0);
        Rate { sent: (newest.sent - oldest.sent) as f64 / seconds, delivered: (newest.delivered - oldest.delivered) as f64 / seconds }
    }
}

fn read(at: Duration, metrics: &Metrics) -> Look {
    Look { at, sent: metrics.messages_sent.get(), delivered: metrics.messages_delivered.get() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_mean_of_the_last_minute() {
        let (metrics, rates) = (Metrics::default(), Rates::new(Duration::ZERO));
        metrics.messages_sent.add(100);
        metrics.messages_delivered.add(50);
        assert_eq!(rates.rate(Duration::from_secs(10), &metrics), Rate { sent: 10.0, delivered: 5.0 });
        for look in 1..=20 {
            rates.look(Duration::from_secs(5 * look), &metrics);
        }
        assert_eq!(rates.rate(Duration::from_secs(100), &metrics), Rate::default(), "what is long past does not count");
    }
}
