//! Positions that are moved otherwise than by deliveries, and dead letters that are gone.
//!
//! A group either receives from a queue, with leases, or pulls from it and commits offsets: the first use decides, and a reset lets it choose
//! again. What a pulling group committed stands apart from the cursor.

use super::cursor::Cursor;
use super::ranges::Ranges;
use super::{Bucket, State};
use crate::record::{OffsetCommit, Purge, Redrive, Seek, SeekQueue, Skip};
use gantry_model::{GroupId, QueueKey, TopicId};
use std::collections::BTreeSet;

/// How a group uses a queue, where it doesn't receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Its position was reset, and it neither received nor committed since.
    Undecided,
    /// It pulls, and has worked on everything below.
    Pulls(u64),
}

impl State {
    pub fn mode(&self, group: GroupId, queue: QueueKey) -> Option<Mode> {
        self.bucket(queue).modes.get(&(queue, group)).copied()
    }

    /// Whether a group pulls some queue of a topic.
    pub fn pulls(&self, group: GroupId, topic: TopicId) -> bool {
        self.pulling.range((topic, group, QueueKey(0))..=(topic, group, QueueKey(u64::MAX))).next().is_some()
    }

    /// Topics on which a group has a position.
    pub fn topics_of(&self, group: GroupId) -> BTreeSet<TopicId> {
        let received = self.groups_of.iter().filter(|(_, groups)| groups.contains(&group)).map(|(&topic, _)| topic);
        let pulled = self.pulling.iter().filter(|(_, pulls, _)| *pulls == group).map(|&(topic, ..)| topic);
        received.chain(pulled).collect()
    }

    /// Dead letters of a queue that were sent again or removed.
    pub fn gone(&self, queue: QueueKey) -> Option<&Ranges> {
        self.bucket(queue).gone.get(&queue)
    }

    /// Where a group begins on a queue: dead letters that are gone count as finished.
    pub fn cursor_at(&self, queue: QueueKey, start: u64) -> Cursor {
        self.bucket(queue).cursor_at(queue, start)
    }

    pub(super) fn apply_seek(&mut self, seek: &Seek) {
        for SeekQueue { queue, to, done } in &seek.queues {
            self.groups_of.entry(queue.topic()).or_default().insert(seek.group);
            self.pulling.remove(&(queue.topic(), seek.group, *queue));
            let bucket = self.bucket_mut(*queue);
            let mut finished = bucket.gone.get(queue).cloned().unwrap_or_default();
            done.iter().for_each(|&(start, end)| finished.insert(start, end));
            bucket.cursors.entry((*queue, seek.group)).or_default().reset(to.0, &finished);
            bucket.modes.insert((*queue, seek.group), Mode::Undecided);
        }
    }

    pub(super) fn apply_skip(&mut self, skip: &Skip) {
        let Skip { group, queue, start, offsets } = skip;
        self.groups_of.entry(queue.topic()).or_default().insert(*group);
        let bucket = self.bucket_mut(*queue);
        let fresh = bucket.cursor_at(*queue, start.0);
        let cursor = bucket.cursors.entry((*queue, *group)).or_insert(Box::new(fresh));
        offsets.iter().for_each(|&offset| cursor.finish(offset));
    }

    pub(super) fn apply_commit(&mut self, commit: &OffsetCommit) {
        let OffsetCommit { group, queue, offset } = *commit;
        self.pulling.insert((queue.topic(), group, queue));
        self.bucket_mut(queue).modes.insert((queue, group), Mode::Pulls(offset.0));
    }

    pub(super) fn apply_redrive(&mut self, redrive: &Redrive) {
        let given = self.apply_message_at(redrive.queue, redrive.offset);
        assert_eq!(given, redrive.offset, "messages that are sent again get dense offsets");
        self.bury_letters(redrive.dead_queue, &[redrive.dead_offset.0]);
    }

    pub(super) fn apply_purge(&mut self, purge: &Purge) {
        self.bury_letters(purge.dead_queue, &purge.offsets);
    }

    /// These dead letters are gone: nobody gets them any more, whoever reads the dead letter queue.
    fn bury_letters(&mut self, queue: QueueKey, offsets: &[u64]) {
        let bucket = self.bucket_mut(queue);
        let gone = bucket.gone.entry(queue).or_default();
        offsets.iter().for_each(|&offset| gone.insert(offset, offset + 1));
        for (_, cursor) in bucket.cursors.range_mut((queue, GroupId(0))..=(queue, GroupId(u32::MAX))) {
            offsets.iter().for_each(|&offset| cursor.finish(offset));
        }
    }

    /// A group gets messages under leases, which ends its freedom to choose.
    pub(super) fn receives(&mut self, group: GroupId, queue: QueueKey) {
        if self.bucket(queue).modes.contains_key(&(queue, group)) {
            self.bucket_mut(queue).modes.remove(&(queue, group));
            self.pulling.remove(&(queue.topic(), group, queue));
        }
    }
}

impl Bucket {
    pub(super) fn cursor_at(&self, queue: QueueKey, start: u64) -> Cursor {
        let mut cursor = Cursor::default();
        match self.gone.get(&queue) {
            Some(gone) => cursor.begin(start, gone),
            None => cursor.begin(start, &Ranges::default()),
        }
        cursor
    }
}
