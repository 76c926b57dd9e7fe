//! Which queue or shard of a topic a message goes to, decided over the whole topic.
//!
//! Routers and shards both ask here, so that they agree: a router sends a message to the shard that owns its queue, and the shard refuses what
//! belongs elsewhere. All of it follows from the topic's definition and the message alone.

use crate::topic::{Queue, QueueState};
use crate::{MessageKind, QueueId, ShardId, Topic, TopicId};
use std::collections::BTreeSet;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128_with_seed};

/// Where a message may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Only in this queue: the order of a message group, or a priority, depends on it.
    Queue(QueueId, ShardId),
    /// In any queue of this shard, where its id is remembered.
    Shard(ShardId),
    /// In any queue of any shard.
    Anywhere,
    /// The topic takes no messages.
    Nowhere,
}

/// What decides where a message goes.
#[derive(Clone, Copy, Debug)]
pub struct Marks<'a> {
    pub kind: MessageKind,
    pub id: &'a str,
    pub group: Option<&'a str>,
    pub priority: Option<u8>,
    pub lite: Option<&'a str>,
}

/// Where a message may be stored.
pub fn place(topic: &Topic, marks: &Marks<'_>) -> Placement {
    let queue = |found: Option<(QueueId, ShardId)>| found.map_or(Placement::Nowhere, |(queue, shard)| Placement::Queue(queue, shard));
    let shard = |found: Option<ShardId>| found.map_or(Placement::Nowhere, Placement::Shard);
    match marks.kind {
        MessageKind::Fifo => queue(queue_of_group(topic, marks.group.map_or(0, group_hash))),
        MessageKind::Priority => queue(queue_of_priority(topic, marks.priority.unwrap_or(0))),
        MessageKind::Lite => shard(shard_of_lite(topic, marks.lite.unwrap_or_default())),
        MessageKind::Delay | MessageKind::Transaction => shard(shard_of_id(topic, marks.id)),
        MessageKind::Normal if topic.options.dedup => shard(shard_of_id(topic, marks.id)),
        MessageKind::Normal if open_queues(topic).next().is_some() => Placement::Anywhere,
        MessageKind::Normal => Placement::Nowhere,
    }
}

/// A message group as a number.
pub fn group_hash(group: &str) -> u64 {
    xxh3_64(group.as_bytes())
}

/// A message id as a number, different in each topic.
pub fn id_hash(topic: TopicId, id: &str) -> u128 {
    xxh3_128_with_seed(id.as_bytes(), u64::from(topic.0))
}

/// The queues that take messages, in the order of their numbers.
pub fn open_queues(topic: &Topic) -> impl Iterator<Item = (QueueId, Queue)> + '_ {
    let writable = topic.permission.can_write();
    topic.queues().filter(move |(_, queue)| writable && queue.state == QueueState::Active)
}

/// All messages of a group go to one queue, which changes for few groups when the number of queues does.
pub fn queue_of_group(topic: &Topic, group: u64) -> Option<(QueueId, ShardId)> {
    let (queue, place) = open_queues(topic).nth(bucket(group, open_queues(topic).count())?)?;
    Some((queue, place.shard))
}

/// Queue `n` holds priority `n`; what is above the highest queue goes there.
pub fn queue_of_priority(topic: &Topic, priority: u8) -> Option<(QueueId, ShardId)> {
    let (queue, place) = open_queues(topic).take(usize::from(priority) + 1).last()?;
    Some((queue, place.shard))
}

/// The shard that remembers a message id. Shards get as many ids as they have queues.
pub fn shard_of_id(topic: &Topic, id: &str) -> Option<ShardId> {
    let hash = xxh3_64_with_seed(id.as_bytes(), u64::from(topic.id.0));
    queue_of_group(topic, hash).map(|(_, shard)| shard)
}

/// The shard of a lite topic. It depends on the shards and not on the number of queues, so that a topic that grows leaves its lite topics where
/// they are.
pub fn shard_of_lite(topic: &Topic, name: &str) -> Option<ShardId> {
    let shards: BTreeSet<ShardId> = open_queues(topic).map(|(_, queue)| queue.shard).collect();
    let chosen = bucket(xxh3_64_with_seed(name.as_bytes(), u64::from(topic.id.0)), shards.len())?;
    shards.into_iter().nth(chosen)
}

/// The shards that have queues of a topic, whatever state those are in, in the order of their numbers.
pub fn shards_of(topic: &Topic) -> Vec<ShardId> {
    let mut shards: Vec<ShardId> = topic.queues.iter().map(|queue| queue.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    shards
}

/// The shard that has a queue. The topic doesn't list the queues of lite topics: their numbers say it, see [`seat_of`].
pub fn owner_of(topic: &Topic, queue: QueueId) -> Option<ShardId> {
    if let Some(place) = topic.queues.get(queue.0 as usize) {
        return Some(place.shard);
    }
    let shards = shards_of(topic);
    shards.get(queue.0 as usize % shards.len().max(1)).copied()
}

/// Which of how many a shard is among those of a topic. It gives lite topics the numbers that leave this rest when divided by how many there are, so
/// that no two lite topics of a parent have one number.
pub fn seat_of(topic: &Topic, shard: ShardId) -> (u32, u32) {
    let shards = shards_of(topic);
    match shards.iter().position(|of| *of == shard) {
        Some(seat) => (seat as u32, shards.len() as u32),
        None => (0, 1),
    }
}

/// A shard's part of a bound on the whole topic: as much of it as it has of the queues, rounded up.
pub fn share_of(topic: &Topic, shard: ShardId, whole: u64) -> u64 {
    let own = topic.queues.iter().filter(|queue| queue.shard == shard).count();
    if own == topic.queues.len() {
        return whole;
    }
    let part = (u128::from(whole) * own as u128).div_ceil(topic.queues.len() as u128);
    u64::try_from(part).unwrap_or(whole)
}

fn bucket(key: u64, buckets: usize) -> Option<usize> {
    let buckets = u32::try_from(buckets).ok().filter(|&buckets| buckets > 0)?;
    Some(jump(key, buckets) as usize)
}

/// Jump consistent hash (Lamping and Veach, 2014): spreads keys evenly, and moves one key in `n + 1` when a bucket is added to `n`.
fn jump(mut key: u64, buckets: u32) -> u32 {
    let (mut bucket, mut next) = (0, 0i64);
    while next < i64::from(buckets) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1u64 << 31) as f64 / ((key >> 33) + 1) as f64)) as i64;
    }
    bucket as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::{Permission, Retention, TopicOptions, TopicType};
    use crate::{TopicId, TopicName};

    fn topic(queues: &[(u32, QueueState)]) -> Topic {
        Topic {
            id: TopicId(7),
            name: TopicName { namespace: String::new(), name: "t".into() },
            kind: TopicType::Mixed,
            permission: Permission::ReadWrite,
            queues: queues.iter().map(|&(shard, state)| Queue { shard: ShardId(shard), state }).collect(),
            retention: Retention::default(),
            options: TopicOptions::default(),
            created_ms: 0,
        }
    }

    fn spread(queues: u32, shards: u32) -> Topic {
        topic(&(0..queues).map(|queue| (queue % shards, QueueState::Active)).collect::<Vec<_>>())
    }

    fn marks(kind: MessageKind, id: &str) -> Marks<'_> {
        Marks { kind, id, group: Some("orders"), priority: Some(3), lite: Some("chat") }
    }

    #[test]
    fn few_keys_move_when_a_queue_is_added() {
        let moved = (0..10_000u64).map(|key| key.wrapping_mul(0x9E37_79B9_7F4A_7C15)).filter(|&key| jump(key, 8) != jump(key, 9));
        let moved = moved.count();
        assert!((900..1_350).contains(&moved), "{moved} of 10,000 keys moved, a ninth was expected");
        assert!((0..1_000u64).all(|key| jump(key, 1) == 0));
    }

    #[test]
    fn the_queue_of_a_key_never_changes() {
        assert_eq!([(42, 57), (0xDEAD_10CC, 666), (256, 1_024)].map(|(key, count)| jump(key, count)), [43, 361, 520]);
    }

    #[test]
    fn the_shard_of_a_name_never_changes() {
        let topic = spread(8, 4);
        let shards = ["a", "b", "c", "d", "e", "f"].map(|name| (shard_of_id(&topic, name).map(|s| s.0), shard_of_lite(&topic, name).map(|s| s.0)));
        // Another answer would part a message group or a lite topic from what is stored.
        assert_eq!(shards, [(2, 1), (3, 3), (3, 3), (0, 2), (0, 2), (2, 2)].map(|(id, lite)| (Some(id), Some(lite))));
    }

    #[test]
    fn a_message_group_keeps_its_queue_however_the_queues_lie_on_shards() {
        for group in 0..1_000u64 {
            let [one, many] = [spread(8, 1), spread(8, 5)].map(|topic| queue_of_group(&topic, group));
            assert_eq!(one.map(|(queue, _)| queue), many.map(|(queue, _)| queue));
            assert!(many.is_some_and(|(queue, shard)| shard.0 == queue.0 % 5));
        }
    }

    #[test]
    fn only_active_queues_get_messages() {
        use QueueState::*;
        let partly = topic(&[(0, Active), (1, ReadOnly), (2, Active), (3, Retired)]);
        for number in 0..500u64 {
            let id = format!("id-{number}");
            let shards = [
                queue_of_group(&partly, number).map(|(_, shard)| shard),
                shard_of_id(&partly, &id),
                shard_of_lite(&partly, &id),
                queue_of_priority(&partly, number as u8).map(|(_, shard)| shard),
            ];
            assert!(shards.iter().flatten().all(|shard| shard.0 == 0 || shard.0 == 2) && shards.iter().all(Option::is_some), "{shards:?}");
        }
        assert_eq!(queue_of_priority(&partly, 1), Some((QueueId(2), ShardId(2))));
        assert_eq!(shards_of(&partly), [0, 1, 2, 3].map(ShardId));
    }

    #[test]
    fn each_kind_has_its_place() {
        let topic = spread(8, 4);
        let group = queue_of_group(&topic, group_hash("orders"));
        assert_eq!(place(&topic, &marks(MessageKind::Fifo, "x")), group.map_or(Placement::Nowhere, |(queue, shard)| Placement::Queue(queue, shard)));
        assert_eq!(place(&topic, &marks(MessageKind::Priority, "x")), Placement::Queue(QueueId(3), ShardId(3)));
        let of_id = shard_of_id(&topic, "x").map_or(Placement::Nowhere, Placement::Shard);
        for kind in [MessageKind::Normal, MessageKind::Delay, MessageKind::Transaction] {
            assert_eq!(place(&topic, &marks(kind, "x")), of_id);
        }
        let mut free = topic.clone();
        free.options.dedup = false;
        assert_eq!(place(&free, &marks(MessageKind::Normal, "x")), Placement::Anywhere);
        assert_eq!(place(&free, &marks(MessageKind::Delay, "x")), of_id);
        free.permission = Permission::Read;
        assert_eq!(place(&free, &marks(MessageKind::Normal, "x")), Placement::Nowhere);
        assert_eq!(place(&free, &marks(MessageKind::Fifo, "x")), Placement::Nowhere);
    }

    #[test]
    fn ids_spread_over_the_shards() {
        let topic = spread(8, 4);
        let mut counts = [0; 4];
        (0..8_000).filter_map(|number| shard_of_id(&topic, &format!("id-{number}"))).for_each(|shard| counts[shard.0 as usize] += 1);
        assert!(counts.iter().all(|count| (1_700..2_300).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_number_of_a_lite_queue_says_which_shard_has_it() {
        let topic = topic(&[(5, QueueState::Active), (9, QueueState::Active), (7, QueueState::ReadOnly)]);
        assert_eq!([5, 7, 9].map(|shard| seat_of(&topic, ShardId(shard))), [(0, 3), (1, 3), (2, 3)]);
        for shard in [5, 7, 9].map(ShardId) {
            let (seat, seats) = seat_of(&topic, shard);
            assert!((1_000..1_030).filter(|number| number % seats == seat).all(|number| owner_of(&topic, QueueId(number)) == Some(shard)));
        }
        assert_eq!(owner_of(&topic, QueueId(1)), Some(ShardId(9)));
        assert_eq!(owner_of(&self::topic(&[]), QueueId(1)), None);
    }

    #[test]
    fn the_shares_of_a_bound_make_up_the_whole() {
        let topic = spread(8, 3);
        let shares = [0, 1, 2].map(|shard| share_of(&topic, ShardId(shard), 1_000));
        assert_eq!(shares, [375, 375, 250]);
        assert_eq!(share_of(&topic, ShardId(0), u64::MAX), (u128::from(u64::MAX) * 3).div_ceil(8) as u64);
        assert_eq!(share_of(&spread(8, 1), ShardId(0), 5), 5);
    }
}
