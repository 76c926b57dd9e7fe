//! The life of one message: the log is read from the message on, and tells all that happened to it.
//!
//! It runs on a thread of its own, a few at a time, and reads only so far: it must never be in the way of deliveries.

use super::LocalBroker;
use crate::record::{Lease, Record, Visibility};
use crate::shard::asks::{Ask, Told};
use crate::shard::inbox::{Find, Request};
use gantry_model::contract::broker::{LetterId, Life, LifeEvent, LifeStep, LookupError};
use gantry_model::{GroupId, Lsn, Offset, QueueId, QueueKey, Topic};
use gantry_platform::clock::SharedClock;
use gantry_store::frame::{Frame, Kind};
use gantry_store::log::LogReader;
use gantry_store::record::MessageView;
use std::collections::BTreeSet;
use std::time::Duration;

/// Bytes of the log, and time, that one life may take.
const BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
const TIME_MAX: Duration = Duration::from_secs(10);
/// Frames between two looks at the clock.
const FRAMES: usize = 1_024;

impl LocalBroker {
    pub(super) async fn read_life(&self, topic: &Topic, queue: QueueId, offset: Offset) -> Result<Life, LookupError> {
        let queue = QueueKey::new(topic.id, queue);
        let find = Find::Place { queue, offset: offset.0 };
        let found = self.ask(|reply| Request::Find { find, limit: 1, reply }).await.ok_or_else(|| self.unread())?;
        let Some(found) = found.into_iter().next() else { return Ok(Life { events: Vec::new(), complete: true }) };
        let _turn = self.lives.try_acquire().map_err(|_| LookupError::Busy)?;
        let (reader, clock) = (self.messages.reader().clone(), self.clock.clone());
        let read = gantry_platform::tasks::blocking("gantry-life", move || Story::new(queue, offset.0).read(&reader, &clock, found.lsn));
        let mut life = read.await.map_err(|error| LookupError::Failed { why: error.to_string() })??;
        self.name_groups(&mut life).await;
        Ok(life)
    }

    /// Records name the members of broadcasting groups; people know the groups.
    async fn name_groups(&self, life: &mut Life) {
        let mut groups: Vec<&mut GroupId> = life.events.iter_mut().filter_map(|event| group_of(&mut event.what)).collect();
        let readers = groups.iter().map(|group| **group).collect();
        if let Some(Told::GroupsBehind(behind)) = self.inquire(Ask::GroupsBehind { readers }).await {
            groups.iter_mut().zip(behind).for_each(|(group, behind)| **group = behind);
        }
    }
}

fn group_of(step: &mut LifeStep) -> Option<&mut GroupId> {
    use LifeStep::*;
    match step {
        Leased { group, .. } | Extended { group, .. } | GivenBack { group, .. } | Lapsed { group, .. } | Dead { group, .. } => Some(group),
        Acked { group } | Filtered { group } | Skipped { group } | Reset { group, .. } => Some(group),
        Stored | Released | Redriven { .. } | Purged => None,
    }
}

/// What is known of a message while the log is read.
struct Story {
    queue: QueueKey,
    offset: u64,
    /// Groups whose deliveries have passed the message, or that finished it before.
    passed: BTreeSet<GroupId>,
    events: Vec<LifeEvent>,
}

impl Story {
    fn new(queue: QueueKey, offset: u64) -> Story {
        Story { queue, offset, passed: BTreeSet::new(), events: Vec::new() }
    }

    fn read(mut self, reader: &LogReader, clock: &SharedClock, from: Lsn) -> Result<Life, LookupError> {
        let end = reader.durable();
        let to = end.min(Lsn(from.0.saturating_add(BYTES_MAX)));
        let started = clock.mono();
        for (number, frame) in reader.frames(from, to).enumerate() {
            let (lsn, frame) = match frame {
                Ok(frame) => frame,
                // Retention was faster; what was read so far is what there is.
                Err(error) if error.is_trimmed() => return Ok(Life { events: self.events, complete: false }),
                Err(error) => return Err(LookupError::Failed { why: error.to_string() }),
            };
            self.take(lsn, &frame);
            if number % FRAMES == FRAMES - 1 && clock.mono().saturating_sub(started) > TIME_MAX {
                return Ok(Life { events: self.events, complete: false });
            }
        }
        Ok(Life { events: self.events, complete: to == end })
    }

    fn take(&mut self, lsn: Lsn, frame: &Frame) {
        let mut steps = Vec::new();
        match frame.header.kind {
            Kind::Message => {
                let here = MessageView::parse(&frame.payload).is_some_and(|view| self.is(view.fixed.queue, view.fixed.offset.0));
                steps.extend(here.then_some(LifeStep::Stored));
            }
            kind => {
                if let Ok(Some(record)) = Record::decode(kind, &frame.payload) {
                    self.tell(&record, &mut steps);
                }
            }
        }
        let time_ms = frame.header.time;
        self.events.extend(steps.into_iter().map(|what| LifeEvent { lsn, time_ms, what }));
    }

    fn is(&self, queue: QueueKey, offset: u64) -> bool {
        (queue, offset) == (self.queue, self.offset)
    }

    /// What a record says of the message.
    fn tell(&mut self, record: &Record, steps: &mut Vec<LifeStep>) {
        if record.placed().is_some_and(|(queue, offset)| self.is(queue, offset.0)) {
            let again = matches!(record, Record::Dead(_) | Record::Redrive(_));
            steps.push(if again { LifeStep::Stored } else { LifeStep::Released });
        }
        match record {
            Record::Lease(lease) => self.leased(lease, steps),
            Record::Ack(ack) if ack.queues.iter().any(|(queue, offsets)| *queue == self.queue && offsets.contains(&self.offset)) => {
                steps.push(LifeStep::Acked { group: ack.group });
            }
            Record::SetVisible(set) if self.is(set.queue, set.offset.0) => steps.push(match set.how {
                Visibility::Extended => LifeStep::Extended { group: set.group, until_ms: set.at },
                Visibility::Nacked => LifeStep::GivenBack { group: set.group, visible_ms: set.at, counted: true },
                Visibility::Suspended => LifeStep::GivenBack { group: set.group, visible_ms: set.at, counted: false },
            }),
            Record::Expire(expire) if expire.queue == self.queue => {
                let ended = expire.ended.iter().filter(|(offset, _)| *offset == self.offset);
                steps.extend(ended.map(|&(_, visible_ms)| LifeStep::Lapsed { group: expire.group, visible_ms }));
            }
            Record::Dead(dead) if self.is(dead.queue, dead.offset.0) => {
                let letter = LetterId { queue: dead.dead_queue.queue(), offset: dead.dead_offset };
                steps.push(LifeStep::Dead { group: dead.group, reason: dead.reason, attempts: dead.attempts, letter });
            }
            Record::Skip(skip) if skip.queue == self.queue && skip.offsets.contains(&self.offset) => {
                self.passed.insert(skip.group);
                steps.push(LifeStep::Skipped { group: skip.group });
            }
            Record::Redrive(redrive) if self.is(redrive.dead_queue, redrive.dead_offset.0) => {
                let (topic, queue) = (redrive.queue.topic(), redrive.queue.queue());
                steps.push(LifeStep::Redriven { topic, queue, offset: redrive.offset });
            }
            Record::Purge(purge) if purge.dead_queue == self.queue && purge.offsets.contains(&self.offset) => steps.push(LifeStep::Purged),
            Record::Seek(seek) => {
                for part in seek.queues.iter().filter(|part| part.queue == self.queue) {
                    let finished = self.offset < part.to.0 || part.done.iter().any(|&(start, end)| (start..end).contains(&self.offset));
                    if finished {
                        self.passed.insert(seek.group)
                    } else {
                        self.passed.remove(&seek.group)
                    };
                    steps.push(LifeStep::Reset { group: seek.group, to: part.to });
                }
            }
            _ => {}
        }
    }

    fn leased(&mut self, lease: &Lease, steps: &mut Vec<LifeStep>) {
        let group = lease.group;
        for part in lease.queues.iter().filter(|part| part.queue == self.queue) {
            if let Some(&(_, attempt, _)) = part.leased.iter().find(|(offset, ..)| *offset == self.offset) {
                self.passed.insert(group);
                steps.push(LifeStep::Leased { group, client: lease.client.clone(), lease: lease.id, attempt, until_ms: lease.deadline });
                continue;
            }
            // Deliveries went past it for the first time, and nobody in the group wanted it; or it was left for later, and nobody does now.
            let kept = part.passed.iter().any(|(offset, _)| *offset == self.offset);
            let unwanted = part.next.0 > self.offset && self.passed.insert(group) && part.start.0 <= self.offset && !kept;
            if unwanted || part.skipped.contains(&self.offset) {
                steps.push(LifeStep::Filtered { group });
            }
        }
    }
}
