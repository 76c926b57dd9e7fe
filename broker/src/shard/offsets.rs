//! Positions of groups: read, committed by groups that pull, reset, skipped past.

use super::core::{Core, Draft, Entries, Reply};
use super::parked::is_parked;
use super::state::offsets::Mode;
use super::state::ranges::Ranges;
use crate::record::{OffsetCommit, Record, Seek, SeekQueue, Skip};
use gantry_model::contract::broker::{Moved, OffsetError, SeekRequest, SeekTarget, Standing};
use gantry_model::group::Sharing;
use gantry_model::{Group, GroupId, Offset, QueueId, QueueKey, Topic, TopicId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most ranges in one `Seek`, so that its frame stays small; a copied position of one queue may have more.
const RANGES: usize = 100_000;

/// What a reset does to one queue.
struct Move {
    queue: QueueKey,
    to: u64,
    done: Ranges,
    moved: Moved,
}

impl<D: Draft> Core<D> {
    /// The queue of that number, if clients may read it here.
    pub(super) fn readable_queue(&self, topic: &Topic, queue: QueueId) -> Option<QueueKey> {
        if queue.0 > QueueKey::MAX_QUEUE {
            return None;
        }
        let key = QueueKey::new(topic.id, queue);
        let ours = topic.queues.get(queue.0 as usize).is_some_and(|place| place.shard == self.shard);
        // A lite topic is a queue that the topic's definition doesn't list.
        let known = ours || self.state.lite.get(key).is_some();
        (!is_parked(key) && (known || self.state.bounds(key).next > 0)).then_some(key)
    }

    /// Where a group stands; of a broadcasting group the member that is farthest behind.
    pub(super) fn committed_offset(&self, group: &Group, topic: &Topic, queue: QueueId) -> Option<Offset> {
        let key = self.readable_queue(topic, queue)?;
        match self.pulled(group.id, key) {
            Some(offset) => Some(Offset(offset)),
            None => self.readers(group).into_iter().filter_map(|reader| self.state.cursor(reader, key)).map(|cursor| Offset(cursor.base)).min(),
        }
    }

    pub(super) fn commit_offset(&mut self, group: &Group, topic: &Topic, queue: QueueId, offset: Offset) -> Result<(), OffsetError> {
        let key = self.readable_queue(topic, queue).ok_or(OffsetError::NoSuchQueue)?;
        let receives = |key: QueueKey| self.readers(group).into_iter().any(|reader| self.receives(reader, key));
        // One commit would keep the group from receiving on the whole topic.
        if receives(key) || topic.queues().any(|(other, _)| receives(QueueKey::new(topic.id, other))) {
            return Err(OffsetError::GroupReceives);
        }
        self.check_range(key, offset)?;
        let committed = self.committed_offset(group, topic, queue);
        if let Some(committed) = committed.filter(|&committed| offset < committed) {
            return Err(OffsetError::Backwards { committed });
        }
        if self.state.mode(group.id, key) == Some(Mode::Pulls(offset.0)) {
            return Ok(());
        }
        self.append(Record::OffsetCommit(OffsetCommit { group: group.id, queue: key, offset }));
        self.void_offers_to(topic.id, group.id);
        self.polls.of_group(topic.id, group.id).into_iter().for_each(|token| self.reply(token, Reply::GroupPulls));
        Ok(())
    }

    /// Whether a group, or a member of it, has received from a queue, and was not reset since.
    pub(super) fn receives(&self, reader: GroupId, queue: QueueKey) -> bool {
        self.state.cursor(reader, queue).is_some() && self.state.mode(reader, queue).is_none()
    }

    /// The first offset stored at or after a time; past the end, the next one to be stored.
    pub(super) fn offset_at(&self, queue: QueueKey, time_ms: u64, entries: &dyn Entries) -> u64 {
        let (min, end) = (self.state.bounds(queue).min, self.visible_end(queue));
        entries.first_at(queue, time_ms).unwrap_or(end).clamp(min, end.max(min))
    }

    pub(super) fn seek(&mut self, request: &SeekRequest, entries: &dyn Entries) -> Result<Vec<Moved>, OffsetError> {
        if matches!(&request.target, SeekTarget::Like(other) if other.options.sharing == Sharing::Broadcasting) {
            return Err(OffsetError::GroupBroadcasts);
        }
        self.know(request.group.clone());
        let queues = self.queues_to_move(request)?;
        let mut moved: BTreeMap<QueueId, Moved> = BTreeMap::new();
        let mut planned = Vec::new();
        for reader in self.reading(&request.group) {
            let moves = queues.iter().map(|&queue| self.plan(&reader, &request.target, queue, entries)).collect::<Result<Vec<Move>, _>>()?;
            for each in moves.iter().map(|each| each.moved) {
                let sum = moved.entry(each.queue).or_insert(Moved { dropped: 0, ..each });
                (sum.from, sum.dropped) = (sum.from.min(each.from), sum.dropped + each.dropped);
            }
            planned.push((reader.id, moves));
        }
        if !request.dry_run {
            for (reader, moves) in planned {
                self.carry_out(reader, moves);
                self.serve(request.topic.id, reader, entries);
            }
        }
        Ok(moved.into_values().collect())
    }

    /// The group, or each of its members if it broadcasts.
    fn reading(&self, group: &Arc<Group>) -> Vec<Arc<Group>> {
        self.readers(group).into_iter().map(|reader| self.holder_definition(group, reader)).collect()
    }

    fn queues_to_move(&self, request: &SeekRequest) -> Result<Vec<QueueKey>, OffsetError> {
        let SeekRequest { group, topic, queues, .. } = request;
        if !queues.is_empty() {
            let chosen: BTreeSet<QueueId> = queues.iter().copied().collect();
            return chosen.into_iter().map(|queue| self.readable_queue(topic, queue).ok_or(OffsetError::NoSuchQueue)).collect();
        }
        let listed = topic.queues().filter_map(|(queue, _)| self.readable_queue(topic, queue));
        // Lite topics are queues that the topic doesn't list; those count where the group has been.
        let readers = self.readers(group);
        let been = self.state.cursors().filter(|(queue, of, _)| queue.topic() == topic.id && readers.contains(of)).map(|(queue, ..)| queue);
        Ok(listed.chain(been).collect::<BTreeSet<QueueKey>>().into_iter().collect())
    }

    fn plan(&self, group: &Group, target: &SeekTarget, queue: QueueKey, entries: &dyn Entries) -> Result<Move, OffsetError> {
        let (min, end) = (self.state.bounds(queue).min, self.visible_end(queue));
        let mut done = Ranges::default();
        let to = match target {
            SeekTarget::Earliest => min,
            SeekTarget::Latest => end,
            SeekTarget::Offset(offset) => {
                self.check_range(queue, *offset)?;
                offset.0
            }
            SeekTarget::Time(time_ms) => self.offset_at(queue, *time_ms, entries),
            SeekTarget::Like(other) => {
                if let (Some(cursor), None) = (self.state.cursor(other.id, queue), self.pulled(other.id, queue)) {
                    done = cursor.done.clone();
                }
                self.standpoint(other, queue, entries).0.clamp(min, end.max(min))
            }
        };
        let (from, dropped) = self.standpoint(group, queue, entries);
        Ok(Move { queue, to, done, moved: Moved { queue: queue.queue(), from: Offset(from), to: Offset(to), dropped } })
    }

    /// What a group that pulls committed.
    fn pulled(&self, group: GroupId, queue: QueueKey) -> Option<u64> {
        match self.state.mode(group, queue) {
            Some(Mode::Pulls(offset)) => Some(offset),
            _ => None,
        }
    }

    /// Where a group stands, and how many messages it holds or waits for.
    fn standpoint(&self, group: &Group, queue: QueueKey, entries: &dyn Entries) -> (u64, u64) {
        match (self.pulled(group.id, queue), self.state.cursor(group.id, queue)) {
            (Some(offset), _) => (offset, 0),
            (None, Some(cursor)) => (cursor.base, (cursor.leases.len() + cursor.waiting.len()) as u64),
            (None, None) => (self.start_of(group, queue, entries), 0),
        }
    }

    fn carry_out(&mut self, group: GroupId, moves: Vec<Move>) {
        let mut part: Vec<SeekQueue> = Vec::new();
        let mut ranges = 0;
        for Move { queue, to, done, .. } in moves {
            self.drop_leases(group, queue);
            self.polls.arrived(queue);
            let done: Vec<(u64, u64)> = done.iter().filter(|&(_, end)| end > to).collect();
            ranges += done.len();
            part.push(SeekQueue { queue, to: Offset(to), done });
            if ranges > RANGES {
                ranges = 0;
                self.append(Record::Seek(Seek { group, queues: std::mem::take(&mut part) }));
            }
        }
        if !part.is_empty() {
            self.append(Record::Seek(Seek { group, queues: part }));
        }
    }

    fn drop_leases(&mut self, group: GroupId, queue: QueueKey) {
        let held: Vec<u64> = self.state.cursor(group, queue).map(|cursor| cursor.leases.keys().copied().collect()).unwrap_or_default();
        held.into_iter().for_each(|offset| self.disown(queue, group, offset));
    }

    pub(super) fn skip(
        &mut self,
        group: &Arc<Group>,
        topic: &Topic,
        queue: QueueId,
        offsets: &[Offset],
        entries: &dyn Entries,
    ) -> Result<u64, OffsetError> {
        let key = self.readable_queue(topic, queue).ok_or(OffsetError::NoSuchQueue)?;
        if self.pulled(group.id, key).is_some() {
            return Err(OffsetError::GroupPulls);
        }
        let end = self.visible_end(key);
        for &offset in offsets {
            // The end itself is a position, and no message.
            self.check_range(key, if offset.0 == end { Offset(end + 1) } else { offset })?;
        }
        Ok(self.reading(group).iter().map(|reader| self.skip_for(reader, key, offsets, entries)).sum())
    }

    fn skip_for(&mut self, reader: &Group, queue: QueueKey, offsets: &[Offset], entries: &dyn Entries) -> u64 {
        let start = self.start_of(reader, queue, entries);
        let unfinished = |offset: &u64| match self.state.cursor(reader.id, queue) {
            Some(cursor) => *offset >= cursor.base && !cursor.done.contains(*offset),
            None => *offset >= start && !self.is_gone(queue, *offset),
        };
        let offsets: BTreeSet<u64> = offsets.iter().map(|offset| offset.0).filter(unfinished).collect();
        let skipped = offsets.len() as u64;
        if skipped > 0 {
            offsets.iter().for_each(|&offset| self.disown(queue, reader.id, offset));
            self.append(Record::Skip(Skip { group: reader.id, queue, start: Offset(start), offsets: offsets.into_iter().collect() }));
            self.polls.arrived(queue);
            self.arm(queue, reader.id);
            self.serve(queue.topic(), reader.id, entries);
        }
        skipped
    }

    /// Topics on which a group, or a member of it, has a position.
    pub(super) fn topics_of(&self, group: &Group) -> Vec<TopicId> {
        let readers = self.readers(group).into_iter().chain([group.id]);
        let topics: BTreeSet<TopicId> = readers.flat_map(|reader| self.state.topics_of(reader)).collect();
        topics.into_iter().collect()
    }

    /// The groups that these readers are, or are members of.
    pub(super) fn groups_behind(&self, readers: &[GroupId]) -> Vec<GroupId> {
        readers.iter().map(|reader| self.state.head.members.get(reader).map_or(*reader, |member| member.group)).collect()
    }

    fn check_range(&self, queue: QueueKey, offset: Offset) -> Result<(), OffsetError> {
        let (min, max) = (Offset(self.state.bounds(queue).min), Offset(self.visible_end(queue)));
        if offset < min || offset > max { Err(OffsetError::OutOfRange { min, max }) } else { Ok(()) }
    }

    /// Where a message stands for a group; if it broadcasts, for the member that has the most left to do.
    pub(super) fn standing(&self, group: &Arc<Group>, queue: QueueKey, offset: u64, entries: &dyn Entries) -> Standing {
        let left = |standing: &Standing| match standing {
            Standing::InFlight { .. } => 0,
            Standing::Waiting { .. } => 1,
            Standing::Ready { .. } => 2,
            Standing::Done => 3,
        };
        let standings = self.reading(group).into_iter().map(|reader| self.standing_for(&reader, queue, offset, entries));
        standings.min_by_key(left).unwrap_or(Standing::Ready { attempts: 0 })
    }

    fn standing_for(&self, group: &Group, queue: QueueKey, offset: u64, entries: &dyn Entries) -> Standing {
        let before = |base: u64| if offset < base { Standing::Done } else { Standing::Ready { attempts: 0 } };
        if let Some(committed) = self.pulled(group.id, queue) {
            return before(committed);
        }
        let Some(cursor) = self.state.cursor(group.id, queue) else {
            return if self.is_gone(queue, offset) { Standing::Done } else { before(self.start_of(group, queue, entries)) };
        };
        match (cursor.leases.get(&offset), cursor.waiting.get(&offset)) {
            _ if offset < cursor.base || cursor.done.contains(offset) => Standing::Done,
            (Some(lease), _) => {
                Standing::InFlight { client: lease.owner.clone(), attempt: lease.attempt, until_ms: lease.owner.is_none().then_some(lease.deadline) }
            }
            (None, Some(waiting)) if waiting.visible > self.now => Standing::Waiting { attempts: waiting.attempts, visible_ms: waiting.visible },
            (None, waiting) => Standing::Ready { attempts: waiting.map_or(0, |waiting| waiting.attempts) },
        }
    }
}
