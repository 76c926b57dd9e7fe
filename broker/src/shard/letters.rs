//! Dead letters that are sent again or removed, each in one record with its end in the dead letter queue.

use super::core::{Core, Draft, Entries, Entry};
use super::send::Class;
use crate::record::{Purge, Record, Redrive};
use gantry_model::contract::broker::{LetterError, LetterId, Sent};
use gantry_model::{Group, GroupId, MessageKind, Offset, QueueKey, Topic, placement};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A dead letter that is to be sent again, as somebody read it.
#[derive(Debug)]
pub struct Letter {
    pub id: LetterId,
    pub class: Class,
    /// Where it goes.
    pub topic: Arc<Topic>,
}

impl<D: Draft> Core<D> {
    pub(super) fn is_gone(&self, queue: QueueKey, offset: u64) -> bool {
        self.state.gone(queue).is_some_and(|gone| gone.contains(offset))
    }

    pub(super) fn redrive(&mut self, group: &Group, letter: &Letter, entries: &dyn Entries) -> Result<Sent, LetterError> {
        if self.draining() {
            return Err(LetterError::Busy);
        }
        let dead_queue = QueueKey::new(group.dead_letter, letter.id.queue);
        let entry = self.letter(dead_queue, letter.id.offset, entries).ok_or(LetterError::Gone)?;
        let queue = self.place_again(letter)?;
        self.begin_at_end(group.id, queue);
        let offset = Offset(self.state.bounds(queue).next);
        self.disown_all(dead_queue, letter.id.offset);
        let redrive = Redrive { group: group.id, dead_queue, dead_offset: letter.id.offset, queue, offset };
        self.append_copy(Record::Redrive(redrive), entry.lsn);
        Ok(Sent::at(queue.queue(), offset))
    }

    pub(super) fn purge(&mut self, group: &Group, letters: &[LetterId], entries: &dyn Entries) -> Vec<Result<(), LetterError>> {
        let mut found: BTreeMap<QueueKey, BTreeSet<u64>> = BTreeMap::new();
        let mut answers = Vec::with_capacity(letters.len());
        for letter in letters {
            let queue = QueueKey::new(group.dead_letter, letter.queue);
            let there = self.letter(queue, letter.offset, entries).is_some() && found.entry(queue).or_default().insert(letter.offset.0);
            answers.push(if there { Ok(()) } else { Err(LetterError::Gone) });
        }
        for (dead_queue, offsets) in found {
            offsets.iter().for_each(|&offset| self.disown_all(dead_queue, Offset(offset)));
            if !offsets.is_empty() {
                self.append(Record::Purge(Purge { dead_queue, offsets: offsets.into_iter().collect() }));
            }
        }
        answers
    }

    /// A dead letter that is there.
    fn letter(&self, queue: QueueKey, offset: Offset, entries: &dyn Entries) -> Option<Entry> {
        let there = offset.0 >= self.state.bounds(queue).min && offset.0 < self.visible_end(queue) && !self.is_gone(queue, offset.0);
        there.then(|| entries.entry(queue, offset.0)).flatten()
    }

    /// The queue of a message that is sent again: it stays with its message group, its priority or its lite topic.
    fn place_again(&mut self, letter: &Letter) -> Result<QueueKey, LetterError> {
        let (topic, class) = (&letter.topic, &letter.class);
        let placed = match (class.kind, class.group) {
            (MessageKind::Lite, _) => {
                let queue = class.lite.as_deref().and_then(|name| self.lite_place(topic, name));
                return queue.ok_or(LetterError::NoWritableQueue);
            }
            (MessageKind::Priority, _) => placement::queue_of_priority(topic, class.priority.unwrap_or(0)),
            (_, Some(group)) => placement::queue_of_group(topic, group),
            (_, None) => match self.next_queue(topic) {
                Some(queue) => Some((queue, self.shard)),
                None => placement::open_queues(topic).next().map(|(queue, place)| (queue, place.shard)),
            },
        };
        match placed {
            Some((queue, shard)) if shard == self.shard => Ok(QueueKey::new(topic.id, queue)),
            Some(_) => Err(LetterError::Elsewhere),
            None => Err(LetterError::NoWritableQueue),
        }
    }

    /// Whoever holds a dead letter, holds it no more.
    fn disown_all(&mut self, queue: QueueKey, offset: Offset) {
        let readers: Vec<GroupId> = self.state.groups_of.get(&queue.topic()).into_iter().flatten().copied().collect();
        readers.into_iter().for_each(|group| self.disown(queue, group, offset.0));
    }
}
