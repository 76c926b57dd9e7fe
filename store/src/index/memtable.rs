//! The index of one segment in memory: of the one being written, and of those whose run is being written.
//!
//! Twenty-four bytes an entry in a vector per queue: offset, position and time are packed next to a base (`far`). Vectors grow from one entry,
//! because with 100,000 queues most of them get one or two messages in a segment. What a memtable answers is what its run will answer.

use super::chunks::Chunks;
use super::far::{Base, Far, NO_SHIFT, POSITION_SHIFT};
use super::slots::QueueMap;
use super::{Due, Entry, Head, Timer};
use gantry_model::{Lsn, Offset, QueueKey};

#[derive(Clone, Copy, Debug)]
struct Packed {
    offset: u32,
    position: u32,
    len: u32,
    tag_hash: u32,
    lane: u32,
    time: u32,
}

#[derive(Debug)]
struct Series {
    first: Offset,
    previous: Option<Lsn>,
    packed: Vec<Packed>,
}

/// Key hash (high half, low half) and packed position: 12 bytes that sort by hash.
type KeyRow = [u32; 3];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TimerRow {
    time: u64,
    position: u32,
    queue: QueueKey,
}

/// One queue's part of a memtable.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    table: &'a Memtable,
    pub queue: QueueKey,
    series: &'a Series,
}

impl<'a> Part<'a> {
    pub fn head(&self) -> Head {
        let Series { first, previous, ref packed } = *self.series;
        let gaps = self.last_offset().0 - first.0 >= packed.len() as u64;
        Head { first, count: packed.len() as u32, previous, gaps, block: 0 }
    }

    pub fn last_offset(&self) -> Offset {
        let last = self.series.packed.last().expect("a series has an entry");
        Offset(self.table.far.unpack(offset_base(self.series.first), last.offset))
    }

    pub fn first_time(&self) -> u64 {
        let first = self.series.packed.first().expect("a series has an entry");
        self.table.far.unpack(self.table.time_base(), first.time)
    }

    /// All entries from the first at or after `from`.
    pub fn entries(self, from: Offset) -> impl Iterator<Item = Entry> + 'a {
        let packed = &self.series.packed[self.table.lower_bound(self.series, from)..];
        packed.iter().map(move |packed| self.table.unpack(self.queue, self.series.first, packed))
    }

    fn by_time(&self, ms: u64) -> Option<Offset> {
        let packed = &self.series.packed;
        let at = packed.partition_point(|packed| self.table.far.unpack(self.table.time_base(), packed.time) < ms);
        packed.get(at).map(|packed| self.table.unpack(self.queue, self.series.first, packed).offset)
    }
}

#[derive(Debug)]
pub struct Memtable {
    base: Lsn,
    /// Smallest and largest time of an entry, `None` while there is none. Packed times are relative to the first time that came.
    times: Option<(u64, u64)>,
    base_time: u64,
    series: QueueMap<Series>,
    far: Far,
    keys: Chunks<KeyRow>,
    timers: Chunks<TimerRow>,
    entries: u64,
    series_bytes: usize,
}

impl Memtable {
    /// `base` is the first address of the segment this memtable belongs to.
    pub fn new(base: Lsn) -> Memtable {
        Memtable::with_capacity(base, 0)
    }

    /// Prepares for as many queues as the segment before had, so that the map doesn't grow in steps under the shard's thread.
    pub fn with_capacity(base: Lsn, queues: usize) -> Memtable {
        Memtable {
            base,
            times: None,
            base_time: 0,
            series: QueueMap::with_capacity_and_hasher(queues, Default::default()),
            far: Far::default(),
            keys: Chunks::default(),
            timers: Chunks::default(),
            entries: 0,
            series_bytes: 0,
        }
    }

    pub fn base(&self) -> Lsn {
        self.base
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub fn len(&self) -> u64 {
        self.entries
    }

    pub fn queues(&self) -> usize {
        self.series.len()
    }

    /// Adds an entry whose queue may be held by any older segment. Offsets of one queue ascend, with gaps or without.
    pub fn insert(&mut self, entry: Entry) {
        self.insert_after(entry, self.any_older());
    }

    /// Adds an entry; `previous` counts for the first one of its queue and bounds where older entries are, as in `Head::previous`.
    pub(super) fn insert_after(&mut self, entry: Entry, previous: Option<Lsn>) {
        assert!(entry.position.0.is_multiple_of(8), "frames are 8-byte aligned");
        if self.times.is_none() {
            self.base_time = entry.time;
        }
        let (low, high) = self.times.unwrap_or((entry.time, entry.time));
        self.times = Some((low.min(entry.time), high.max(entry.time)));
        let (position, time) = (self.pack_position(entry.position), self.far.pack(self.time_base(), entry.time));
        // A hint is an upper bound: one that is too high, as slots of a wrong checkpoint might say, costs time but loses nothing.
        let previous = previous.and_then(|at| self.any_older().map(|older| at.min(older)));
        let series = self.series.entry(entry.queue).or_insert_with(|| Series { first: entry.offset, previous, packed: Vec::new() });
        let base = offset_base(series.first);
        if let Some(last) = series.packed.last() {
            let last = self.far.unpack(base, last.offset);
            assert!(last < entry.offset.0, "offset `{}` of queue `{:?}` comes after `{last}`", entry.offset, entry.queue);
        }
        let offset = self.far.pack(base, entry.offset.0);
        let before = allocated(&series.packed);
        if series.packed.len() == series.packed.capacity() {
            series.packed.reserve_exact(series.packed.len().max(1));
        }
        series.packed.push(Packed { offset, position, len: entry.len, tag_hash: entry.tag_hash, lane: entry.lane, time });
        self.series_bytes += allocated(&series.packed) - before;
        self.entries += 1;
    }

    /// Makes the frame findable by a key hash (`key_hash`).
    pub fn insert_key(&mut self, hash: u64, position: Lsn) {
        let position = self.pack_position(position);
        self.keys.push([(hash >> 32) as u32, hash as u32, position]);
    }

    /// Remembers that the frame at `due.position` is delivered to `queue` at `due.time`.
    pub fn insert_timer(&mut self, due: Due, queue: QueueKey) {
        let position = self.pack_position(due.position);
        self.timers.push(TimerRow { time: due.time, position, queue });
    }

    pub fn get(&self, queue: QueueKey, offset: Offset) -> Option<Entry> {
        self.range(queue, offset, 1).next().filter(|entry| entry.offset == offset)
    }

    /// At most `max` entries of the queue, from the first at or after `from`.
    pub fn range(&self, queue: QueueKey, from: Offset, max: usize) -> impl Iterator<Item = Entry> + '_ {
        self.part(queue).into_iter().flat_map(move |part| part.entries(from)).take(max)
    }

    /// Offset of the first entry with this time or a later one.
    pub fn by_time(&self, queue: QueueKey, ms: u64) -> Option<Offset> {
        self.part(queue)?.by_time(ms)
    }

    /// Positions of at most `limit` frames with this key hash, newest first.
    pub fn lookup_key(&self, hash: u64, limit: usize) -> Vec<Lsn> {
        let row = |position| [(hash >> 32) as u32, hash as u32, position];
        let rows = self.keys.range(row(0), row(u32::MAX));
        let mut positions: Vec<Lsn> = rows.map(|[_, _, position]| self.unpack_position(position)).collect();
        positions.sort_unstable_by(|a, b| b.cmp(a));
        positions.dedup();
        positions.truncate(limit);
        positions
    }

    /// At most `limit` timers after `after` and not later than `until` (ms), in the order of release.
    pub fn timers(&self, after: Due, until: u64, limit: usize) -> Vec<Timer> {
        let first = TimerRow { time: after.time, position: 0, queue: QueueKey(0) };
        let last = TimerRow { time: until, position: u32::MAX, queue: QueueKey(u64::MAX) };
        let mut timers = Vec::new();
        // Packed positions sort like addresses except for far ones, so rows of one time are taken together before they are counted.
        for rows in self.timers.sorted_parts(first, last) {
            let mut taken = 0;
            let mut time = None;
            for &row in rows.iter() {
                if taken >= limit && time != Some(row.time) {
                    break;
                }
                let timer = self.timer(row);
                if timer.due > after {
                    taken += 1;
                    time = Some(row.time);
                    timers.push(timer);
                }
            }
        }
        if timers.len() > limit {
            timers.select_nth_unstable(limit);
            timers.truncate(limit);
        }
        timers.sort_unstable();
        timers
    }

    /// Bytes of memory held, with the allocator's rounding.
    pub fn bytes(&self) -> usize {
        let map = self.series.capacity() * 8 / 7 * (size_of::<(QueueKey, Series)>() + 1);
        map + self.series_bytes + self.far.bytes() + self.keys.bytes() + self.timers.bytes()
    }

    pub(super) fn part(&self, queue: QueueKey) -> Option<Part<'_>> {
        self.series.get(&queue).map(|series| Part { table: self, queue, series })
    }

    /// All queues, in no order.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.series.iter().map(|(queue, series)| Part { table: self, queue: *queue, series })
    }

    /// Smallest and largest time of an entry.
    pub(super) fn times(&self) -> Option<(u64, u64)> {
        self.times
    }

    pub(super) fn sorted_keys(&self) -> impl ExactSizeIterator<Item = (u64, Lsn)> + Clone {
        let rows = self.keys.sorted().into_iter().map(|[high, low, position]| {
            let hash = u64::from(high) << 32 | u64::from(low);
            (hash, self.unpack_position(position))
        });
        let mut rows: Vec<(u64, Lsn)> = rows.collect();
        // Packed positions sort by address except for those that are far.
        rows.sort_unstable();
        rows.dedup();
        rows.into_iter()
    }

    pub(super) fn sorted_timers(&self) -> Vec<Timer> {
        let mut timers: Vec<Timer> = self.timers.sorted().into_iter().map(|row| self.timer(row)).collect();
        timers.sort_unstable();
        timers
    }

    /// Says for every queue where older entries are at most; for a memtable that was filled without knowing.
    pub(super) fn bound_older(&mut self, previous: impl Fn(QueueKey) -> Option<Option<Lsn>>) {
        for (queue, series) in &mut self.series {
            if let Some(known) = previous(*queue) {
                series.previous = known;
            }
        }
    }

    fn any_older(&self) -> Option<Lsn> {
        self.base.0.checked_sub(1).map(Lsn)
    }

    fn lower_bound(&self, series: &Series, from: Offset) -> usize {
        let base = offset_base(series.first);
        let step = from.0.saturating_sub(series.first.0);
        // Without gaps the place is the distance: one look instead of a bisection.
        match usize::try_from(step).ok().and_then(|at| series.packed.get(at)) {
            Some(packed) if self.far.unpack(base, packed.offset) == from.0 => step as usize,
            _ => series.packed.partition_point(|packed| self.far.unpack(base, packed.offset) < from.0),
        }
    }

    fn unpack(&self, queue: QueueKey, first: Offset, packed: &Packed) -> Entry {
        Entry {
            queue,
            offset: Offset(self.far.unpack(offset_base(first), packed.offset)),
            position: self.unpack_position(packed.position),
            len: packed.len,
            tag_hash: packed.tag_hash,
            lane: packed.lane,
            time: self.far.unpack(self.time_base(), packed.time),
        }
    }

    fn timer(&self, row: TimerRow) -> Timer {
        Timer { due: Due { time: row.time, position: self.unpack_position(row.position) }, queue: row.queue }
    }

    fn pack_position(&mut self, position: Lsn) -> u32 {
        let base = self.position_base();
        self.far.pack(base, position.0)
    }

    fn unpack_position(&self, packed: u32) -> Lsn {
        Lsn(self.far.unpack(self.position_base(), packed))
    }

    fn position_base(&self) -> Base {
        Base { value: self.base.0, shift: POSITION_SHIFT }
    }

    fn time_base(&self) -> Base {
        Base { value: self.base_time, shift: NO_SHIFT }
    }
}

fn offset_base(first: Offset) -> Base {
    Base { value: first.0, shift: NO_SHIFT }
}

/// What the allocator really takes: eight bytes of its own, rounded up to 16.
fn allocated(packed: &Vec<Packed>) -> usize {
    match packed.capacity() * size_of::<Packed>() {
        0 => 0,
        bytes => (bytes + 8).next_multiple_of(16),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BASE: Lsn = Lsn(1 << 20);

    fn entry(queue: u64, offset: u64, time: u64) -> Entry {
        let position = Lsn(BASE.0 + offset * 8);
        Entry { queue: QueueKey(queue), offset: Offset(offset), position, len: 100, tag_hash: 7, lane: offset as u32 % 3, time }
    }

    #[test]
    fn a_range_starts_at_the_first_entry_at_or_after_the_offset() {
        let mut table = Memtable::new(BASE);
        for offset in [3, 4, 5, 9, 1 << 40] {
            table.insert(entry(1, offset, offset));
        }
        let offsets = |from, max| table.range(QueueKey(1), Offset(from), max).map(|e| e.offset.0).collect::<Vec<_>>();
        assert_eq!(offsets(0, 9), [3, 4, 5, 9, 1 << 40]);
        assert_eq!(offsets(6, 1), [9]);
        assert_eq!(offsets(10, 9), [1 << 40]);
        assert_eq!(table.get(QueueKey(1), Offset(4)), Some(entry(1, 4, 4)));
        assert_eq!(table.get(QueueKey(1), Offset(6)), None);
        assert_eq!(table.range(QueueKey(2), Offset(0), 9).count(), 0);
    }

    #[test]
    fn a_body_in_an_older_segment_and_a_time_months_later_are_kept() {
        let mut table = Memtable::new(BASE);
        table.insert(entry(1, 0, 1000));
        let odd = Entry { position: Lsn(8), time: 1000 + (90 << 32), len: u32::MAX, ..entry(1, 1, 0) };
        table.insert(odd);
        assert_eq!(table.get(QueueKey(1), Offset(1)), Some(odd));
        assert_eq!(table.by_time(QueueKey(1), 1001), Some(Offset(1)));
    }

    #[test]
    #[should_panic(expected = "comes after")]
    fn an_offset_given_out_twice_is_refused() {
        let mut table = Memtable::new(BASE);
        table.insert(entry(1, 5, 0));
        table.insert(entry(1, 5, 0));
    }

    #[test]
    fn keys_and_timers_are_found() {
        let mut table = Memtable::new(BASE);
        table.insert_key(77, Lsn(BASE.0 + 8));
        table.insert_key(77, Lsn(16));
        table.insert_key(78, Lsn(BASE.0));
        assert_eq!(table.lookup_key(77, 9), [Lsn(BASE.0 + 8), Lsn(16)]);
        assert_eq!(table.lookup_key(77, 1), [Lsn(BASE.0 + 8)]);

        let due = |time, position| Due { time, position: Lsn(BASE.0 + position) };
        for (time, position) in [(50, 8), (40, 16), (50, 0), (60, 24)] {
            table.insert_timer(due(time, position), QueueKey(1));
        }
        let found: Vec<Due> = table.timers(due(50, 0), 60, 9).iter().map(|timer| timer.due).collect();
        assert_eq!(found, [due(50, 8), due(60, 24)]);
        assert_eq!(table.timers(Due::default(), 100, 1)[0].due, due(40, 16));
    }

    #[test]
    fn the_first_timers_of_many_are_found_wherever_they_were_added() {
        let mut table = Memtable::new(BASE);
        let due = |n: u64| Due { time: n.wrapping_mul(2_654_435_761) % 5_000, position: Lsn(BASE.0 + n * 8) };
        let mut all: Vec<Due> = (0..20_000).map(due).collect();
        all.iter().for_each(|&due| table.insert_timer(due, QueueKey(1)));
        all.sort_unstable();
        for (after, until, limit) in [(0, u64::MAX, 1), (1_000, 1_003, 9), (1_000, 1_003, 1_000), (4_990, u64::MAX, 5_000), (7, 4_000, 10_000)] {
            let after = Due { time: after, position: Lsn(BASE.0 + 80_000) };
            let found: Vec<Due> = table.timers(after, until, limit).iter().map(|timer| timer.due).collect();
            let expected: Vec<Due> = all.iter().copied().filter(|due| *due > after && due.time <= until).take(limit).collect();
            assert_eq!(found, expected, "after {after:?} until {until}, {limit} of them");
        }
    }

    #[test]
    fn a_hundred_thousand_queues_with_two_messages_each_fit_into_fourteen_megabytes() {
        let mut table = Memtable::new(BASE);
        for offset in 0..2 {
            for queue in 0..100_000 {
                table.insert(entry(queue << 8, offset, offset));
            }
        }
        assert!(table.bytes() < 14 << 20, "{} bytes", table.bytes());
    }
}
