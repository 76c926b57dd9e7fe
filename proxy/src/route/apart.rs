//! Parts of a request by shard, and their answers in the order of the request.

use gantry_model::ShardId;
use std::collections::BTreeMap;

/// Parts by shard, with their numbers in the request.
pub(super) type Apart<T> = BTreeMap<ShardId, Vec<(usize, T)>>;

/// Answers with the numbers of the parts.
pub(super) type Numbered<T> = Vec<(usize, T)>;

pub(super) fn apart<T>(parts: impl IntoIterator<Item = T>, shard_of: impl Fn(&T) -> ShardId) -> Apart<T> {
    let mut apart = Apart::new();
    for (number, part) in parts.into_iter().enumerate() {
        apart.entry(shard_of(&part)).or_default().push((number, part));
    }
    apart
}

/// One answer per part, as the parts stood in the request.
pub(super) fn in_order<T>(count: usize, answers: impl IntoIterator<Item = Numbered<T>>) -> Vec<T> {
    let mut answers: Numbered<T> = answers.into_iter().flatten().collect();
    assert_eq!(answers.len(), count, "one answer per part");
    answers.sort_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_in_the_order_of_the_request() {
        let parts = apart([30, 11, 22, 10, 31], |part| ShardId(part / 10));
        assert_eq!(parts[&ShardId(3)], [(0, 30), (4, 31)]);
        let answers = parts.into_values().map(|part| part.into_iter().map(|(number, part)| (number, part + 100)).collect());
        assert_eq!(in_order(5, answers), [130, 111, 122, 110, 131]);
    }
}
