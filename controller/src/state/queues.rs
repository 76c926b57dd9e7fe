//! Which shard a queue is on, how topics grow and shrink, and how a long list of queues is written in few bytes.

use gantry_model::topic::{Queue, QueueState};
use gantry_model::{QueueKey, ShardId, TopicId};
use serde::{Deserialize, Serialize};

/// Most queues of a topic, read-only ones included.
pub const QUEUES_MAX: u32 = 200_000;
const _: () = assert!(QUEUES_MAX <= QueueKey::MAX_QUEUE, "queue numbers have 24 bits");

/// The queues of a new topic: one shard after the other, and each topic begins at another shard, so that topics of one queue spread too.
pub fn spread(topic: TopicId, count: u32, shards: u32) -> Vec<Queue> {
    (0..count).map(|number| place(topic, number, shards)).collect()
}

/// The queues of a dead letter topic: queue `s` is on shard `s`.
pub fn one_per_shard(shards: u32) -> Vec<Queue> {
    (0..shards).map(|shard| Queue { shard: ShardId(shard), state: QueueState::Active }).collect()
}

/// How many queues take messages.
pub fn active(queues: &[Queue]) -> u32 {
    queues.iter().filter(|queue| queue.state == QueueState::Active).count() as u32
}

/// How long the list is once `wanted` queues are active.
pub fn length_after(queues: &[Queue], wanted: u32) -> usize {
    let usable = queues.iter().filter(|queue| queue.state != QueueState::Retired).count();
    queues.len() + (wanted as usize).saturating_sub(usable)
}

/// Makes `wanted` queues take messages. The highest stop first; those that stopped come back, lowest first, before new ones are made.
/// Queue 0 never stops, as `wanted` is at least 1.
pub fn resize(topic: TopicId, queues: &mut Vec<Queue>, wanted: u32, shards: u32) {
    assert!(wanted >= 1, "queue 0 always takes messages");
    let have = active(queues);
    for queue in queues.iter_mut().rev().filter(|queue| queue.state == QueueState::Active).take(have.saturating_sub(wanted) as usize) {
        queue.state = QueueState::ReadOnly;
    }
    let mut missing = wanted.saturating_sub(have) as usize;
    for queue in queues.iter_mut().filter(|queue| queue.state == QueueState::ReadOnly).take(missing) {
        queue.state = QueueState::Active;
        missing -= 1;
    }
    for _ in 0..missing {
        queues.push(place(topic, queues.len() as u32, shards));
    }
}

fn place(topic: TopicId, number: u32, shards: u32) -> Queue {
    let shard = (u64::from(topic.0) + u64::from(number)) % u64::from(shards);
    Queue { shard: ShardId(shard as u32), state: QueueState::Active }
}

/// Queues in a row that follow one pattern: queue `i` of the run is on shard `shards[i % shards.len()]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub count: u32,
    pub shards: Vec<ShardId>,
    #[serde(default, skip_serializing_if = "is_active")]
    pub state: QueueState,
}

fn is_active(state: &QueueState) -> bool {
    *state == QueueState::Active
}

/// A list of queues as runs: a topic that was never moved is one run, however many queues it has.
pub fn pack(queues: &[Queue]) -> Vec<Run> {
    let cycle = queues.iter().map(|queue| queue.shard.0 as usize + 1).max().unwrap_or(1);
    let mut runs = Vec::new();
    let mut rest = queues;
    while !rest.is_empty() {
        let (period, len) =
            [cycle, 1].map(|period| (period, matching(rest, period))).into_iter().max_by_key(|&(_, len)| len).expect("two candidates");
        let shards = rest[..period.min(len)].iter().map(|queue| queue.shard).collect();
        runs.push(Run { count: len as u32, shards, state: rest[0].state });
        rest = &rest[len..];
    }
    runs
}

/// How many queues from the start share one state and repeat their shards with this period.
fn matching(queues: &[Queue], period: usize) -> usize {
    let follows = |at: usize| queues[at].state == queues[0].state && (at < period || queues[at].shard == queues[at - period].shard);
    (0..queues.len()).position(|at| !follows(at)).unwrap_or(queues.len())
}

/// The list behind the runs; `None` if they are not what [`pack`] can have written.
pub fn unpack(runs: &[Run]) -> Option<Vec<Queue>> {
    let mut queues = Vec::new();
    for run in runs {
        if run.shards.is_empty() || queues.len() + run.count as usize > QUEUES_MAX as usize {
            return None;
        }
        let shards = run.shards.iter().cycle().take(run.count as usize);
        queues.extend(shards.map(|&shard| Queue { shard, state: run.state }));
    }
    Some(queues)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use QueueState::*;
    use proptest::prelude::*;

    fn check_resize(from: &[QueueState], wanted: u32, to: &[QueueState]) {
        let mut queues: Vec<Queue> = from.iter().map(|&state| Queue { shard: ShardId(0), state }).collect();
        let expected = length_after(&queues, wanted);
        resize(TopicId(1), &mut queues, wanted, 1);
        assert_eq!(queues.iter().map(|queue| queue.state).collect::<Vec<_>>(), to, "{from:?} to {wanted}");
        assert_eq!(queues.len(), expected);
    }

    #[test]
    fn shrinking_stops_the_highest_and_growing_brings_them_back_first() {
        check_resize(&[Active, Active, Active], 3, &[Active, Active, Active]);
        check_resize(&[Active, Active, Active], 1, &[Active, ReadOnly, ReadOnly]);
        check_resize(&[Active, ReadOnly, ReadOnly], 2, &[Active, Active, ReadOnly]);
        check_resize(&[Active, ReadOnly], 4, &[Active, Active, Active, Active]);
        check_resize(&[Active, Retired, ReadOnly], 3, &[Active, Retired, Active, Active]);
    }

    #[test]
    fn queues_spread_evenly_and_growth_goes_on_where_it_stopped() {
        let whole = spread(TopicId(7), 10, 3);
        let mut grown = spread(TopicId(7), 4, 3);
        resize(TopicId(7), &mut grown, 10, 3);
        assert_eq!(whole, grown);
        let on_each = [0, 1, 2].map(|shard| whole.iter().filter(|queue| queue.shard == ShardId(shard)).count());
        assert_eq!(on_each, [3, 4, 3]);
    }

    #[test]
    fn a_hundred_thousand_queues_are_stored_in_a_hundred_bytes() {
        for shards in [1, 3, 9] {
            let runs = pack(&spread(TopicId(5), 100_000, shards));
            assert!(serde_json::to_string(&runs).unwrap().len() < 100, "{runs:?}");
        }
        assert_eq!(pack(&one_per_shard(3)).len(), 1);
    }

    proptest! {
        #[test]
        fn any_list_of_queues_comes_back(list in prop::collection::vec((0..4u32, 0..3u8), 0..200)) {
            let queues: Vec<Queue> = list.into_iter().map(|(shard, state)| Queue { shard: ShardId(shard), state: [Active, ReadOnly, Retired][state as usize] }).collect();
            prop_assert_eq!(unpack(&pack(&queues)), Some(queues));
        }
    }
}
