//! Gaps of many faults as figures.

use crate::load::Seen;
use std::fmt;

/// What many faults of one kind came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    pub count: usize,
    pub p50_ms: u64,
    pub p99_ms: u64,
    pub max_ms: u64,
}

impl Figures {
    pub fn of(times: impl IntoIterator<Item = u64>) -> Figures {
        let mut times: Vec<u64> = times.into_iter().collect();
        times.sort_unstable();
        // The smallest value that at least this share of them does not exceed.
        let at = |share: f64| times.get(((times.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied().unwrap_or(0);
        Figures { count: times.len(), p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
    }

    /// The gaps of faults whose description begins so.
    pub fn gaps(seen: &[Seen], what: &str) -> Figures {
        Figures::of(seen.iter().filter(|seen| seen.what.starts_with(what)).map(|seen| seen.gap_ms))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { count, p50_ms, p99_ms, max_ms } = self;
        write!(f, "{count} times, gap p50 {p50_ms} ms, p99 {p99_ms} ms, longest {max_ms} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_make_the_longest_the_99th() {
        assert_eq!(Figures::of([]), Figures { count: 0, p50_ms: 0, p99_ms: 0, max_ms: 0 });
        assert_eq!(Figures::of([5, 1, 3, 2, 4]), Figures { count: 5, p50_ms: 3, p99_ms: 5, max_ms: 5 });
        assert_eq!(Figures::of(1..=200), Figures { count: 200, p50_ms: 100, p99_ms: 198, max_ms: 200 });
    }
}
