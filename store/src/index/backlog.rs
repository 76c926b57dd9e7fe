//! The sealed segments of a shard, oldest first: what lies below the memtable that is being filled.
//!
//! Nothing in a backlog changes, and cloning one clones a pointer, so a thread for cold reads may ask it while the shard goes on. A queue
//! is found by walking its `previous` hints from the newest segment that holds it, which is short for a queue with few messages; each
//! step also probes the middle of what is left, which makes it a bisection for a busy queue.

use super::{Damage, Due, Entry, Head, LookupError, Memtable, Run, Timer};
use gantry_model::{Lsn, Offset, QueueKey};
use std::sync::Arc;

/// Segments looked through upwards for the next entries of a queue before searching downwards from the newest one instead.
const NEXT_SCAN: usize = 16;

/// The part of the index that one sealed segment has.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// Has to be replayed from the log before lookups that touch it can be answered.
    Missing,
    /// Its run is being written.
    Sealing(Arc<Memtable>),
    Run(Arc<Run>),
}

/// All sealed segments of a shard.
#[derive(Clone, Debug, Default)]
pub struct Backlog(Arc<Vec<(Lsn, Source)>>);

/// A segment that holds the queue.
#[derive(Clone, Copy, Debug)]
struct Hit {
    index: usize,
    head: Head,
}

/// Two neighbours in the list of segments that hold a queue.
struct Neighbours {
    before: Option<Hit>,
    after: Option<Hit>,
}

impl Backlog {
    /// Appends at most `max` entries from the first at or after `from`, searching segments up to `newest`.
    pub fn range(&self, queue: QueueKey, newest: Option<Lsn>, from: Offset, max: usize, out: &mut Vec<Entry>) -> Result<(), LookupError> {
        let found = self.search(queue, newest, |_, hit| Ok(hit.head.first <= from))?;
        let mut hit = found.before;
        let mut next = found.after;
        if hit.is_none() {
            (hit, next) = (next, None);
        }
        while let Some(at) = hit {
            self.on(at.index, |source| source.collect(queue, &at.head, from, max, out))?;
            if out.len() >= max {
                break;
            }
            hit = match next.take() {
                Some(next) => Some(next),
                None => self.next(queue, newest, at)?,
            };
        }
        Ok(())
    }

    /// Offset of the first entry with this time or a later one, searching segments up to `newest`.
    pub fn by_time(&self, queue: QueueKey, newest: Option<Lsn>, ms: u64) -> Result<Option<Offset>, LookupError> {
        let earlier = |source: &Source, hit: &Hit| source.first_time(queue, &hit.head).map(|time| time < ms);
        let found = self.search(queue, newest, earlier)?;
        if let Some(hit) = found.before
            && let Some(offset) = self.on(hit.index, |source| source.by_time(queue, &hit.head, ms))?
        {
            return Ok(Some(offset));
        }
        Ok(found.after.map(|hit| hit.head.first))
    }

    /// Positions of at most `limit` frames at or above `start` with this key hash, newest segment first.
    pub fn by_key(&self, hash: u64, start: Lsn, limit: usize, out: &mut Vec<Lsn>) -> Result<(), LookupError> {
        for index in (0..self.0.len()).rev() {
            if out.len() >= limit {
                break;
            }
            let found = self.on(index, |source| source.keys(hash, limit))?;
            for position in found {
                if position >= start && !out.contains(&position) && out.len() < limit {
                    out.push(position);
                }
            }
        }
        Ok(())
    }

    /// Appends the timers after `after` and not later than `until`, at most `limit` from each segment, in no order.
    pub fn timers(&self, after: Due, until: u64, limit: usize, out: &mut Vec<Timer>) -> Result<(), LookupError> {
        for index in 0..self.0.len() {
            out.extend(self.on(index, |source| source.timers(after, until, limit))?);
        }
        Ok(())
    }

    /// Appends at most `limit` timers of one segment after `after`, in the order of release.
    pub fn timers_of(&self, segment: Lsn, after: Due, limit: usize, out: &mut Vec<Timer>) -> Result<(), LookupError> {
        if let Some(index) = self.place(segment) {
            out.extend(self.on(index, |source| source.timers(after, u64::MAX, limit))?);
        }
        Ok(())
    }

    pub(super) fn segments(&self) -> &[(Lsn, Source)] {
        &self.0
    }

    pub(super) fn segments_mut(&mut self) -> &mut Vec<(Lsn, Source)> {
        Arc::make_mut(&mut self.0)
    }

    pub(super) fn place(&self, segment: Lsn) -> Option<usize> {
        self.0.binary_search_by_key(&segment, |(base, _)| *base).ok()
    }

    pub(super) fn queues(&self, index: usize) -> Result<Vec<(QueueKey, Offset, Offset)>, LookupError> {
        self.on(index, Source::queues)
    }

    /// The newest segment at or below `upper` and below `through` that may hold the queue.
    pub(super) fn newest_before(&self, queue: QueueKey, mut upper: Option<Lsn>, through: Lsn) -> Result<Option<Lsn>, LookupError> {
        while let Some(at) = upper.filter(|at| *at >= through) {
            let Some(hit) = self.descend(queue, Some(at))? else { return Ok(None) };
            let base = self.0[hit.index].0;
            upper = if base < through { Some(base) } else { hit.head.previous };
        }
        Ok(upper)
    }

    /// Finds the newest segment that holds the queue and is `before`, and its successor. Segments that are `before` are older.
    fn search(
        &self,
        queue: QueueKey,
        newest: Option<Lsn>,
        before: impl Fn(&Source, &Hit) -> Result<bool, Damage>,
    ) -> Result<Neighbours, LookupError> {
        let before = |hit: &Hit| self.on(hit.index, |source| before(source, hit));
        let (mut upper, mut after, mut floor) = (newest, None, 0);
        while let Some(hit) = self.descend(queue, upper)? {
            if before(&hit)? {
                return Ok(Neighbours { before: Some(hit), after });
            }
            (upper, after) = (hit.head.previous, Some(hit));
            if let Some(probe) = self.probe(queue, (floor + hit.index) / 2) {
                if before(&probe)? {
                    floor = probe.index;
                } else if probe.index < hit.index {
                    (upper, after) = (probe.head.previous, Some(probe));
                }
            }
        }
        Ok(Neighbours { before: None, after })
    }

    /// The newest segment at or below `upper` that holds the queue.
    fn descend(&self, queue: QueueKey, upper: Option<Lsn>) -> Result<Option<Hit>, LookupError> {
        let Some(upper) = upper else { return Ok(None) };
        let behind = self.0.partition_point(|(base, _)| *base <= upper);
        for index in (0..behind).rev() {
            if let Some(head) = self.on(index, |source| source.head(queue))? {
                return Ok(Some(Hit { index, head }));
            }
        }
        Ok(None)
    }

    /// Looks whether one segment holds the queue; a segment that can't tell teaches nothing.
    fn probe(&self, queue: QueueKey, index: usize) -> Option<Hit> {
        let head = self.on(index, |source| source.head(queue)).ok()??;
        Some(Hit { index, head })
    }

    /// The next newer segment that holds the queue.
    fn next(&self, queue: QueueKey, newest: Option<Lsn>, at: Hit) -> Result<Option<Hit>, LookupError> {
        let end = self.0.len().min(at.index + 1 + NEXT_SCAN);
        for index in at.index + 1..end {
            if let Some(head) = self.on(index, |source| source.head(queue))? {
                return Ok(Some(Hit { index, head }));
            }
        }
        if end == self.0.len() {
            return Ok(None);
        }
        let found = self.search(queue, newest, |_, hit| Ok(hit.head.first <= at.head.first))?;
        // Runs that contradict each other must not send the caller round in a circle.
        Ok(found.after.filter(|hit| hit.index > at.index))
    }

    fn on<T>(&self, index: usize, ask: impl FnOnce(&Source) -> Result<T, Damage>) -> Result<T, LookupError> {
        let (segment, source) = &self.0[index];
        match source {
            Source::Missing => Err(LookupError::Missing { segment: *segment }),
            source => ask(source).map_err(|damage| LookupError::Damaged { segment: *segment, damage }),
        }
    }
}

/// Nothing is asked of `Missing`: `Backlog::on` stops before.
impl Source {
    fn head(&self, queue: QueueKey) -> Result<Option<Head>, Damage> {
        match self {
            Source::Missing => Ok(None),
            Source::Sealing(table) => Ok(table.part(queue).map(|part| part.head())),
            Source::Run(run) => run.head(queue),
        }
    }

    fn collect(&self, queue: QueueKey, head: &Head, from: Offset, max: usize, out: &mut Vec<Entry>) -> Result<(), Damage> {
        match self {
            Source::Missing => Ok(()),
            Source::Sealing(table) => {
                out.extend(table.range(queue, from, max - out.len()));
                Ok(())
            }
            Source::Run(run) => run.collect(queue, head, from, max, out),
        }
    }

    fn first_time(&self, queue: QueueKey, head: &Head) -> Result<u64, Damage> {
        match self {
            Source::Missing => Ok(0),
            Source::Sealing(table) => Ok(table.part(queue).map_or(0, |part| part.first_time())),
            Source::Run(run) => run.first_time(queue, head),
        }
    }

    fn by_time(&self, queue: QueueKey, head: &Head, ms: u64) -> Result<Option<Offset>, Damage> {
        match self {
            Source::Missing => Ok(None),
            Source::Sealing(table) => Ok(table.by_time(queue, ms)),
            Source::Run(run) => run.by_time(queue, head, ms),
        }
    }

    fn keys(&self, hash: u64, limit: usize) -> Result<Vec<Lsn>, Damage> {
        match self {
            Source::Missing => Ok(Vec::new()),
            Source::Sealing(table) => Ok(table.lookup_key(hash, limit)),
            Source::Run(run) => run.keys(hash, limit),
        }
    }

    fn timers(&self, after: Due, until: u64, limit: usize) -> Result<Vec<Timer>, Damage> {
        match self {
            Source::Missing => Ok(Vec::new()),
            Source::Sealing(table) => Ok(table.timers(after, until, limit)),
            Source::Run(run) => run.timers(after, until, limit),
        }
    }

    /// Every queue of the segment with its first and its last offset.
    pub(super) fn queues(&self) -> Result<Vec<(QueueKey, Offset, Offset)>, Damage> {
        match self {
            Source::Missing => Ok(Vec::new()),
            Source::Sealing(table) => Ok(table.parts().map(|part| (part.queue, part.head().first, part.last_offset())).collect()),
            Source::Run(run) => {
                let row = |row: Result<(QueueKey, Head), Damage>| {
                    let (queue, head) = row?;
                    Ok((queue, head.first, run.last_offset(queue, &head)?))
                };
                run.directory().map(row).collect()
            }
        }
    }
}
