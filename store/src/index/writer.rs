//! Writes a memtable as a run file: encode all of it, write, sync, rename. Work for a background thread.

use super::block::{self, Origin};
use super::far::{Base, Far, POSITION_SHIFT};
use super::layout::{self, BLOCK_ENTRIES, Footer, PAGE, ROW, ROWS_PER_PAGE, Section, Sections, crc32c};
use super::memtable::Part;
use super::{Entry, Head, Memtable, Run, RunError, bloom};
use gantry_model::Lsn;
use gantry_platform::Disk;
use std::io::{self, IoSlice};
use std::path::Path;

/// Turns memtables into run files.
pub struct RunWriter<'a> {
    table: &'a Memtable,
    next_base: Lsn,
    out: Vec<u8>,
    block_table: Vec<u8>,
    directory: Vec<u8>,
}

impl<'a> RunWriter<'a> {
    /// Writes the run of a sealed segment, which ends where `next_base` begins, and opens it. A file that is there already is replaced
    /// at once or not at all, also by a crash.
    pub fn write(disk: &dyn Disk, path: &Path, table: &'a Memtable, next_base: Lsn) -> Result<Run, RunError> {
        let bytes = RunWriter::encode(table, next_base);
        publish(disk, path, &bytes).map_err(|error| RunError::io(path, error))?;
        Run::open(disk, path)
    }

    /// The bytes of the run file.
    pub fn encode(table: &'a Memtable, next_base: Lsn) -> Vec<u8> {
        let out = Vec::with_capacity(PAGE + table.len() as usize * 16 + table.queues() * ROW);
        let mut writer = RunWriter { table, next_base, out, block_table: Vec::new(), directory: Vec::new() };
        writer.out.extend_from_slice(&layout::header(table.base(), next_base));
        let sections = writer.sections();
        writer.finish(sections)
    }

    fn sections(&mut self) -> Sections {
        let entries = self.entries();
        let block_table = std::mem::take(&mut self.block_table);
        let directory = std::mem::take(&mut self.directory);
        // One row in 128 is repeated: the keys that begin a page of the directory.
        let sparse: Vec<u8> = directory.chunks(ROW * ROWS_PER_PAGE).flat_map(|page| page[..8].to_vec()).collect();
        let blocks = self.section(8, &block_table);
        let directory = self.section(PAGE, &directory);
        let sparse = self.section(8, &sparse);
        let mut far = Far::default();
        let (keys, bloom) = self.keys(&mut far);
        let timers = self.timers(&mut far);
        let far: Vec<u8> = far.values().iter().flat_map(|value| value.to_le_bytes()).collect();
        let far = self.section(8, &far);
        let lite = self.section(8, &[]);
        Sections { entries, blocks, directory, sparse, keys, bloom, timers, far, lite, checksums: Section::default() }
    }

    fn section(&mut self, align: usize, bytes: &[u8]) -> Section {
        self.out.resize(self.out.len().next_multiple_of(align), 0);
        let start = self.out.len();
        self.out.extend_from_slice(bytes);
        Section { start, len: bytes.len() }
    }

    fn entries(&mut self) -> Section {
        let start = self.out.len();
        let mut parts: Vec<Part<'_>> = self.table.parts().collect();
        parts.sort_unstable_by_key(|part| part.queue);
        self.directory.reserve(parts.len() * ROW);
        let origin = Origin { base: self.table.base(), time: self.table.times().map_or(0, |times| times.0) };
        let mut entries = Vec::with_capacity(BLOCK_ENTRIES);
        for part in parts {
            self.queue(start, origin, part, &mut entries);
        }
        Section { start, len: self.out.len() - start }
    }

    /// The blocks and the directory row of one queue.
    fn queue(&mut self, start: usize, origin: Origin, part: Part<'_>, entries: &mut Vec<Entry>) {
        let head = part.head();
        let many = head.count as usize > BLOCK_ENTRIES;
        let place = if many { self.block_table.len() / 4 } else { self.out.len() - start };
        let block = u32::try_from(place).expect("a run is far smaller than 4 GiB");
        layout::put_row(&mut self.directory, part.queue, &Head { block, ..head });
        let mut rest = part.entries(head.first);
        loop {
            entries.clear();
            entries.extend(rest.by_ref().take(BLOCK_ENTRIES));
            if entries.is_empty() {
                return;
            }
            if many {
                let place = u32::try_from(self.out.len() - start).expect("a run is far smaller than 4 GiB");
                self.block_table.extend_from_slice(&place.to_le_bytes());
            }
            block::encode(&mut self.out, origin, entries);
        }
    }

    fn keys(&mut self, far: &mut Far) -> (Section, Section) {
        let keys = self.table.sorted_keys();
        let mut rows = Vec::with_capacity(keys.len() * layout::KEY_ROW);
        for (hash, position) in keys.clone() {
            rows.extend_from_slice(&hash.to_le_bytes());
            rows.extend_from_slice(&far.pack(self.position_base(), position.0).to_le_bytes());
        }
        let filter = bloom::build(keys.len(), keys.map(|(hash, _)| hash));
        (self.section(8, &rows), self.section(64, &filter))
    }

    fn timers(&mut self, far: &mut Far) -> Section {
        let mut rows = Vec::new();
        for timer in self.table.sorted_timers() {
            rows.extend_from_slice(&timer.due.time.to_le_bytes());
            rows.extend_from_slice(&far.pack(self.position_base(), timer.due.position.0).to_le_bytes());
            rows.extend_from_slice(&timer.queue.0.to_le_bytes());
        }
        self.section(8, &rows)
    }

    fn position_base(&self) -> Base {
        Base { value: self.table.base().0, shift: POSITION_SHIFT }
    }

    fn finish(mut self, sections: Sections) -> Vec<u8> {
        self.out.resize(self.out.len().next_multiple_of(8), 0);
        let checksums: Vec<u8> = self.out.chunks(PAGE).flat_map(|page| crc32c(page).to_le_bytes()).collect();
        let checksums_crc = crc32c(&checksums);
        let checksums = self.section(8, &checksums);
        let (first_time, last_time) = self.table.times().unwrap_or_default();
        let timers = self.table.sorted_timers();
        let footer = Footer {
            base: self.table.base(),
            next_base: self.next_base,
            first_time,
            last_time,
            first_timer: timers.first().map_or(u64::MAX, |timer| timer.due.time),
            last_timer: timers.last().map_or(0, |timer| timer.due.time),
            entries: self.table.len(),
            sections: Sections { checksums, ..sections },
            checksums_crc,
        };
        self.out.extend_from_slice(&footer.encode());
        self.out
    }
}

fn publish(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension(super::set::UNFINISHED);
    let file = disk.create(&unfinished)?;
    file.write_at(0, &[IoSlice::new(bytes)])?;
    file.sync_data()?;
    disk.rename(&unfinished, path)
}
