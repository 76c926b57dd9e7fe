//! A set of offsets kept as ranges: a million finished offsets in a row cost one entry.

use std::collections::BTreeMap;

/// Disjoint, non-touching half-open ranges, by start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    ends: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds `from..to`; joins what touches.
    pub fn insert(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let (mut from, mut to) = (from, to);
        if let Some((&start, &end)) = self.ends.range(..=from).next_back()
            && end >= from
        {
            from = start;
            to = to.max(end);
            self.ends.remove(&start);
        }
        while let Some((&start, &end)) = self.ends.range(from..=to).next() {
            to = to.max(end);
            self.ends.remove(&start);
        }
        self.ends.insert(from, to);
    }

    pub fn contains(&self, value: u64) -> bool {
        self.ends.range(..=value).next_back().is_some_and(|(_, &end)| value < end)
    }

    /// Takes away everything up to the first value at or above `base` that is not in the set, and answers that value.
    pub fn drain_prefix(&mut self, base: u64) -> u64 {
        let mut base = base;
        while let Some((&start, &end)) = self.ends.first_key_value() {
            if start > base {
                break;
            }
            base = base.max(end);
            self.ends.remove(&start);
        }
        if self.ends.is_empty() {
            // An empty tree keeps its last node.
            self.ends = BTreeMap::new();
        }
        base
    }

    /// Takes one value out.
    pub fn remove(&mut self, value: u64) {
        let Some((&start, &end)) = self.ends.range(..=value).next_back() else { return };
        if value < end {
            self.ends.remove(&start);
            self.insert(start, value);
            self.insert(value + 1, end);
        }
    }

    /// The first value at or above `value` that is not in the set.
    pub fn behind(&self, value: u64) -> u64 {
        self.ends.range(..=value).next_back().map_or(value, |(_, &end)| end.max(value))
    }

    /// How many values of `from..to` are in the set.
    pub fn count_between(&self, from: u64, to: u64) -> u64 {
        let first = self.ends.range(..=from).next_back().map_or(from, |(&start, _)| start);
        self.ends.range(first..to.max(first)).map(|(&start, &end)| end.min(to).saturating_sub(start.max(from))).sum()
    }

    /// Takes out everything below `min`.
    pub fn drop_below(&mut self, min: u64) {
        let kept = self.ends.split_off(&min);
        let cut = self.ends.last_key_value().map(|(_, &end)| end).filter(|&end| end > min);
        self.ends = kept;
        if let Some(end) = cut {
            self.insert(min, end);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ends.iter().map(|(&start, &end)| (start, end))
    }

    pub fn clear(&mut self) {
        self.ends.clear();
    }

    /// How many values are in the set.
    pub fn count(&self) -> u64 {
        self.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn ranges_behave_like_a_set_of_numbers(inserts in prop::collection::vec((0u64..60, 0u64..8), 0..40), base in 0u64..60) {
            let mut ranges = Ranges::default();
            let mut set = BTreeSet::new();
            for (from, len) in inserts {
                ranges.insert(from, from + len);
                set.extend(from..from + len);
            }
            for value in 0..70 {
                prop_assert_eq!(ranges.contains(value), set.contains(&value));
            }
            prop_assert_eq!(ranges.count(), set.len() as u64);
            prop_assert_eq!(ranges.behind(base), (base..).find(|value| !set.contains(value)).expect("the set ends"));
            prop_assert_eq!(ranges.count_between(base, base + 7), (base..base + 7).filter(|value| set.contains(value)).count() as u64);
            let mut upper = ranges.clone();
            upper.drop_below(base);
            prop_assert!((0..70).all(|value| upper.contains(value) == (value >= base && set.contains(&value))));
            let touching = ranges.iter().zip(ranges.iter().skip(1)).any(|(a, b)| a.1 >= b.0);
            prop_assert!(!touching, "{:?}", ranges);
            let expected = (base..).find(|value| !set.contains(value)).expect("the set ends");
            prop_assert_eq!(ranges.drain_prefix(base), expected);
            prop_assert!(ranges.iter().all(|(start, _)| start > base));
        }
    }
}
