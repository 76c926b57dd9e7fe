//! The index against a plain map: random messages, seals, restarts, lost runs, replays and trims; every answer has to be the same.

#![allow(clippy::unwrap_used)]

use super::*;
use gantry_platform::{Disk, MemoryDisk};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const DIR: &str = "/shard/idx";
const QUEUES: u64 = 5;
const KEYS: u64 = 7;

/// What a frame says, kept so that a segment can be replayed.
#[derive(Clone)]
enum Fact {
    Message(Entry, Vec<u64>),
    Timer(Due, QueueKey),
}

fn timer(fact: &Fact) -> Option<Timer> {
    match fact {
        Fact::Timer(due, queue) => Some(Timer { due: *due, queue: *queue }),
        Fact::Message(..) => None,
    }
}

#[derive(Default)]
struct Reference {
    segments: BTreeMap<Lsn, Vec<Fact>>,
    min: BTreeMap<QueueKey, Offset>,
    next: BTreeMap<QueueKey, Offset>,
}

impl Reference {
    fn active(&self) -> Lsn {
        *self.segments.last_key_value().unwrap().0
    }

    fn sealed(&self) -> Vec<Lsn> {
        self.segments.keys().copied().filter(|base| *base != self.active()).collect()
    }

    fn record(&mut self, fact: Fact) {
        self.segments.last_entry().unwrap().get_mut().push(fact);
    }

    fn min(&self, queue: QueueKey) -> Offset {
        self.min.get(&queue).copied().unwrap_or_default()
    }

    fn next(&self, queue: QueueKey) -> Offset {
        self.next.get(&queue).copied().unwrap_or_default()
    }

    fn entries(&self, queue: QueueKey) -> Vec<Entry> {
        let facts = self.segments.values().flatten();
        let entries = facts.filter_map(|fact| match fact {
            Fact::Message(entry, _) if entry.queue == queue && entry.offset >= self.min(queue) => Some(*entry),
            _ => None,
        });
        entries.collect()
    }

    fn by_key(&self, hash: u64) -> Vec<Lsn> {
        let mut out = Vec::new();
        for facts in self.segments.values().rev() {
            for fact in facts.iter().rev() {
                if let Fact::Message(entry, keys) = fact
                    && keys.contains(&hash)
                {
                    out.push(entry.position);
                }
            }
        }
        out
    }

    fn timers(&self, after: Due, until: u64) -> Vec<Timer> {
        let mut timers: Vec<Timer> = self.segments.values().flatten().filter_map(timer).collect();
        timers.retain(|timer| timer.due > after && timer.due.time <= until);
        timers.sort_unstable();
        timers
    }

    fn timers_of(&self, segment: Lsn, after: Due) -> Vec<Timer> {
        let mut timers: Vec<Timer> = self.segments[&segment].iter().filter_map(timer).filter(|timer| timer.due > after).collect();
        timers.sort_unstable();
        timers
    }

    fn trim(&mut self, before: Lsn) {
        let bases: Vec<Lsn> = self.segments.keys().copied().collect();
        for pair in bases.windows(2).filter(|pair| pair[1] <= before) {
            for fact in self.segments.remove(&pair[0]).unwrap() {
                if let Fact::Message(entry, _) = fact {
                    let min = self.min.get_mut(&entry.queue).unwrap();
                    *min = (*min).max(entry.offset.next());
                }
            }
        }
    }
}

struct World {
    disk: MemoryDisk,
    index: Index,
    reference: Reference,
    jobs: Vec<SealJob>,
    checkpoint: Option<Vec<u8>>,
    /// Queue trims since the checkpoint; the shard replays their frames.
    trims: Vec<(QueueKey, Offset)>,
    /// Run files that had a bit flipped: the only segments that may need a replay.
    damaged: BTreeSet<Lsn>,
    end: u64,
    time: u64,
}

impl World {
    fn new() -> World {
        let (start, disk) = (Lsn(1 << 20), MemoryDisk::new());
        disk.create_dir_all(Path::new(DIR)).unwrap();
        let mut reference = Reference::default();
        reference.segments.insert(start, Vec::new());
        World {
            disk,
            index: Index::new(Path::new(DIR), start),
            reference,
            jobs: Vec::new(),
            checkpoint: None,
            trims: Vec::new(),
            damaged: BTreeSet::new(),
            end: start.0,
            time: 1_000,
        }
    }

    fn message(&mut self, dice: &mut Dice) {
        let queue = QueueKey(dice.below(QUEUES) << 8);
        let gap = if queue.0 >> 8 == 4 { dice.below(3) } else { 0 };
        let offset = Offset(self.reference.next(queue).0 + gap);
        self.end += 8 * (1 + dice.below(40));
        self.time += dice.below(4);
        let own = dice.below(8) > 0;
        let position = Lsn(if own { self.end } else { 8 * dice.below(1 << 17) });
        let keys: Vec<u64> = (0..KEYS).filter(|_| own && dice.below(6) == 0).map(hash_of).collect();
        let entry = Entry {
            queue,
            offset,
            position,
            len: 8 * dice.below(500) as u32,
            tag_hash: dice.next() as u32,
            lane: [0, 0, dice.next() as u32][dice.below(3) as usize],
            time: self.time,
        };
        self.index.append(entry, &keys);
        self.reference.min.entry(queue).or_insert(offset);
        self.reference.next.insert(queue, offset.next());
        self.reference.record(Fact::Message(entry, keys));
    }

    fn timer(&mut self, dice: &mut Dice) {
        self.end += 8;
        let due = Due { time: self.time + dice.below(100), position: Lsn(self.end) };
        let queue = QueueKey(dice.below(QUEUES) << 8);
        self.index.append_timer(due, queue);
        self.reference.record(Fact::Timer(due, queue));
    }

    fn seal(&mut self) {
        self.end += 8;
        let job = self.index.seal(self.reference.active(), Lsn(self.end));
        self.reference.segments.insert(Lsn(self.end), Vec::new());
        self.jobs.push(job);
    }

    fn finish_a_seal(&mut self, dice: &mut Dice) {
        if !self.jobs.is_empty() {
            let job = self.jobs.swap_remove(dice.below(self.jobs.len() as u64) as usize);
            let run = job.write(&self.disk).unwrap();
            run.verify().unwrap();
            self.index.sealed(run);
        }
    }

    fn checkpoint(&mut self) {
        self.checkpoint = Some(self.ask(|index| index.snapshot_slots()).encode().to_vec());
        self.trims.clear();
    }

    fn trim(&mut self, dice: &mut Dice) {
        let start = self.reference.segments.first_key_value().unwrap().0.0;
        let before = Lsn(start + dice.below(self.end - start + 1) / 2);
        let files = self.ask(|index| index.trim(before));
        self.reference.trim(before);
        self.checkpoint();
        for file in files {
            if self.disk.exists(&file).unwrap() && dice.below(2) == 0 {
                self.disk.remove(&file).unwrap();
            }
        }
    }

    fn trim_queue(&mut self, dice: &mut Dice) {
        let queue = QueueKey(dice.below(QUEUES) << 8);
        let min = Offset(self.reference.min(queue).0 + dice.below(4));
        self.index.trim_queue(queue, min);
        let next = self.reference.next(queue);
        if let Some(old) = self.reference.min.get_mut(&queue) {
            *old = (*old).max(min.min(next));
            self.trims.push((queue, *old));
        }
    }

    fn table(&self, base: Lsn) -> Memtable {
        let mut table = Memtable::new(base);
        for fact in &self.reference.segments[&base] {
            match fact {
                Fact::Message(entry, keys) => {
                    table.insert(*entry);
                    keys.iter().for_each(|hash| table.insert_key(*hash, entry.position));
                }
                Fact::Timer(due, queue) => table.insert_timer(*due, *queue),
            }
        }
        table
    }

    /// A run turns out to be damaged while the shard runs.
    fn replay_one(&mut self, dice: &mut Dice) {
        let sealed = self.reference.sealed();
        if !sealed.is_empty() {
            let base = sealed[dice.below(sealed.len() as u64) as usize];
            self.jobs.retain(|job| job.segment() != base);
            let job = self.index.replayed(self.table(base)).unwrap();
            self.jobs.push(job);
        }
    }

    /// The process ends; some run files are lost or damaged.
    fn restart(&mut self, dice: &mut Dice) {
        self.jobs.clear();
        for path in self.disk.list(Path::new(DIR)).unwrap() {
            match dice.below(6) {
                0 => self.disk.remove(&path).unwrap(),
                1 => {
                    flip_a_bit(&self.disk, &path, dice);
                    let base = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
                    self.damaged.insert(Lsn(base));
                }
                _ => {}
            }
        }
        let slots = self.checkpoint.as_ref().map(|bytes| SlotSnapshot::decode(bytes).unwrap());
        let (sealed, active) = (self.reference.sealed(), self.reference.active());
        self.index = Index::open(&self.disk, Path::new(DIR), &sealed, active, slots).unwrap().index;
        while let missing = self.index.missing()
            && !missing.is_empty()
        {
            // Ascending is the rule, for the sake of good hints; any order has to give the same answers.
            let base = missing[if dice.below(2) == 0 { 0 } else { dice.below(missing.len() as u64) as usize }];
            let job = self.index.replayed(self.table(base)).unwrap();
            self.jobs.push(job);
        }
        for fact in self.reference.segments[&active].clone() {
            match fact {
                Fact::Message(entry, keys) => self.index.append(entry, &keys),
                Fact::Timer(due, queue) => self.index.append_timer(due, queue),
            }
        }
        for (queue, min) in self.trims.clone() {
            self.index.trim_queue(queue, min);
        }
    }

    /// What the shard does when a lookup names a damaged segment: replay it, ask again.
    fn ask<T>(&mut self, ask: impl Fn(&mut Index) -> Result<T, LookupError>) -> T {
        loop {
            match ask(&mut self.index) {
                Ok(answer) => return answer,
                Err(error) => {
                    assert!(self.damaged.contains(&error.segment()), "{error}");
                    let job = self.index.replayed(self.table(error.segment())).unwrap();
                    self.jobs.push(job);
                }
            }
        }
    }

    fn check(&mut self, dice: &mut Dice) {
        for queue in (0..QUEUES + 1).map(|queue| QueueKey(queue << 8)) {
            self.check_queue(queue, dice);
        }
        for hash in (0..KEYS + 1).map(hash_of) {
            let limit = 1 + dice.below(20) as usize;
            let mut expected = self.reference.by_key(hash);
            expected.truncate(limit);
            assert_eq!(self.ask(|index| index.by_key(hash, limit)), expected);
        }
        let mut after = Due { time: self.time.saturating_sub(dice.below(150)), position: Lsn(dice.below(self.end)) };
        let released = self.reference.timers(after, u64::MAX);
        if dice.below(2) == 0 && !released.is_empty() {
            after = released[dice.below(released.len() as u64) as usize].due;
        }
        let until = after.time + dice.below(150);
        let limit = 1 + dice.below(20) as usize;
        let mut expected = self.reference.timers(after, until);
        expected.truncate(limit);
        assert_eq!(self.ask(|index| index.timers(after, until, limit)), expected);
        for base in self.reference.sealed() {
            let mut expected = self.reference.timers_of(base, after);
            expected.truncate(limit);
            assert_eq!(self.ask(|index| index.timers_of(base, after, limit)), expected, "segment {base}");
        }
    }

    fn check_queue(&mut self, queue: QueueKey, dice: &mut Dice) {
        let expected = self.reference.entries(queue);
        let (min, next) = (self.reference.min(queue), self.reference.next(queue));
        assert_eq!((self.index.min_offset(queue), self.index.next_offset(queue)), (min, next), "{queue:?}");
        assert_eq!(self.ask(|index| index.range(queue, Offset(0), usize::MAX)), expected, "{queue:?}");

        let from = Offset(min.0.saturating_sub(1) + dice.below(next.0 - min.0 + 2));
        let limit = 1 + dice.below(9) as usize;
        let part: Vec<Entry> = expected.iter().copied().filter(|entry| entry.offset >= from).take(limit).collect();
        assert_eq!(self.ask(|index| index.range(queue, from, limit)), part, "{queue:?} from {from}");
        let exact = expected.iter().copied().find(|entry| entry.offset == from);
        assert_eq!(self.ask(|index| index.lookup(queue, from)), exact);

        let ms = self.time.saturating_sub(dice.below(200));
        let in_time = expected.iter().find(|entry| entry.time >= ms).map(|entry| entry.offset);
        let found = self.ask(|index| index.first_at_or_after_time(queue, ms));
        let found = expected.iter().map(|entry| entry.offset).find(|offset| *offset >= found);
        assert_eq!(found, in_time, "{queue:?} at {ms}");
    }
}

fn hash_of(key: u64) -> u64 {
    key_hash(gantry_model::TopicId(1), KeyKind::Key, &key.to_le_bytes())
}

fn flip_a_bit(disk: &MemoryDisk, path: &Path, dice: &mut Dice) {
    let file = disk.open(path).unwrap();
    let map = file.map().unwrap();
    let mut bytes = map.slice(0, map.len() as usize).unwrap().to_vec();
    let at = dice.below(bytes.len() as u64) as usize;
    bytes[at] ^= 1 << dice.below(8);
    file.write_at(0, &[std::io::IoSlice::new(&bytes)]).unwrap();
}

/// Numbers from one seed, so that a step of the property test is two integers.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        xxhash_rust::xxh3::xxh3_64(&self.0.to_le_bytes())
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_index_answers_like_a_map(steps in prop::collection::vec((0u8..100, any::<u64>()), 1..150)) {
        let mut world = World::new();
        for (step, seed) in steps {
            let dice = &mut Dice(seed);
            match step {
                0..20 => (0..1 + dice.below(200)).for_each(|_| world.message(dice)),
                20..40 => world.message(dice),
                40..45 => world.timer(dice),
                45..65 => world.seal(),
                65..78 => world.finish_a_seal(dice),
                78..82 => world.trim_queue(dice),
                82..85 => world.trim(dice),
                85..88 => world.checkpoint(),
                88..91 => world.replay_one(dice),
                91..94 => world.restart(dice),
                _ => world.check(dice),
            }
        }
        world.check(&mut Dice(1));
    }
}

#[test]
fn a_run_of_another_stretch_of_the_log_and_an_unfinished_one_are_not_used() {
    let mut world = World::new();
    world.message(&mut Dice(1));
    world.seal();
    world.finish_a_seal(&mut Dice(1));
    let (base, active) = (world.reference.sealed()[0], world.reference.active());
    let unfinished = Path::new(DIR).join("00000000000000000007.tmp");
    world.disk.create(&unfinished).unwrap();

    let opened = Index::open(&world.disk, Path::new(DIR), &[base], Lsn(active.0 + 8), None).unwrap();
    assert_eq!(opened.index.missing(), [base]);
    assert_eq!(
        opened.refused[0].to_string(),
        "index run `/shard/idx/00000000000001048576.idx`: the content contradicts itself: it covers another stretch of the log; \
         the file can be deleted, it is rebuilt from the log"
    );
    assert!(!world.disk.exists(&unfinished).unwrap());
    let opened = Index::open(&world.disk, Path::new(DIR), &[base], active, None).unwrap();
    assert!(opened.index.missing().is_empty() && opened.refused.is_empty());
}

#[test]
fn a_backlog_taken_earlier_answers_on_another_thread_while_the_index_goes_on() {
    let mut world = World::new();
    let dice = &mut Dice(3);
    (0..300).for_each(|_| world.message(dice));
    world.seal();
    world.finish_a_seal(dice);
    let (queue, backlog) = (QueueKey(1 << 8), world.index.backlog());
    let expected = world.reference.entries(queue);
    let newest = world.index.newest_segment(queue);
    (0..300).for_each(|_| world.message(dice));
    world.index.trim(Lsn(world.end)).unwrap();
    let mut found = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| backlog.range(queue, newest, Offset(0), usize::MAX, &mut found).unwrap());
    });
    assert_eq!(found, expected);
}

#[test]
fn a_queue_in_every_thousandth_and_one_in_every_segment_are_found_in_two_thousand_segments() {
    let mut world = World::new();
    let message = |queue, offset, position| Entry {
        queue: QueueKey(queue),
        offset: Offset(offset),
        position: Lsn(position),
        len: 80,
        tag_hash: 0,
        lane: 0,
        time: position,
    };
    for segment in 0..2000u64 {
        world.end += 8;
        world.index.append(message(1, segment, world.end), &[]);
        if segment % 1000 == 0 {
            world.index.append(message(2, segment / 1000, world.end), &[]);
        }
        world.seal();
        world.finish_a_seal(&mut Dice(segment));
    }
    for offset in 0..2000 {
        assert_eq!(world.index.lookup(QueueKey(1), Offset(offset)).unwrap().unwrap().offset.0, offset);
    }
    assert_eq!(world.index.range(QueueKey(1), Offset(0), usize::MAX).unwrap().len(), 2000);
    assert_eq!(world.index.range(QueueKey(2), Offset(0), usize::MAX).unwrap().len(), 2);
}

#[test]
fn a_hundred_thousand_queues_take_less_than_forty_megabytes() {
    let mut index = Index::new(Path::new(DIR), Lsn(0));
    let mut position = 0;
    for segment in 0..2 {
        for offset in [0, 1] {
            for queue in 0..100_000u64 {
                position += 8;
                let (queue, offset) = (QueueKey(queue << 8), Offset(segment * 2 + offset));
                index.append(Entry { queue, offset, position: Lsn(position), len: 8, tag_hash: 0, lane: 0, time: position }, &[]);
            }
        }
        if segment == 0 {
            index.seal(Lsn(0), Lsn(position + 8));
        }
    }
    let memory = index.memory();
    assert_eq!((index.queues(), index.sealing()), (100_000, 1));
    assert!(memory.slots / 100_000 < 75, "{} bytes a slot", memory.slots / 100_000);
    assert!(memory.slots + memory.active + memory.sealing < 40 << 20, "{memory:?}");
}
