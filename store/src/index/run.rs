//! A run file, opened: answers from the mapped bytes, page by page verified.
//!
//! Opening reads the footer and the checksum table. Every 4 KiB page is compared with its checksum when it is first touched, and a bit
//! remembers that it was; so opening thousands of runs costs little, and damage is an error instead of a wrong answer. The file is closed
//! after mapping: a run costs one map and no file descriptor.

use super::block::{self, Block, Origin};
use super::far::{self, Base, POSITION_SHIFT};
use super::layout::{self, BLOCK_ENTRIES, FOOTER, Footer, KEY_ROW, PAGE, ROW, ROWS_PER_PAGE, Section, TIMER_ROW};
use super::{Damage, Due, Entry, Head, Timer, bloom};
use bytes::Bytes;
use gantry_model::{Lsn, Offset, QueueKey};
use gantry_platform::Disk;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The index of one sealed segment. Immutable; shared as `Arc<Run>`.
pub struct Run {
    path: PathBuf,
    bytes: Bytes,
    footer: Footer,
    /// One bit a page: it matched its checksum.
    verified: Box<[AtomicU64]>,
}

impl Run {
    /// Maps a run file.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Run, RunError> {
        let map_all = || -> io::Result<Option<Bytes>> {
            let map = disk.open(path)?.map()?;
            let len = map.len() as usize;
            Ok(if len == 0 { Some(Bytes::new()) } else { map.slice(0, len) })
        };
        match map_all().map_err(|error| RunError::io(path, error))? {
            Some(bytes) => Run::from_bytes(path, bytes),
            None => Err(RunError::damage(path, Damage::Length)),
        }
    }

    /// Reads a run from memory; `path` is for messages.
    pub fn from_bytes(path: &Path, bytes: Bytes) -> Result<Run, RunError> {
        let footer = check_footer(&bytes).map_err(|damage| RunError::damage(path, damage))?;
        let pages = footer.sections.checksums.start.div_ceil(PAGE);
        let verified = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Run { path: path.to_owned(), bytes, footer, verified })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// First address of the segment.
    pub fn base(&self) -> Lsn {
        self.footer.base
    }

    /// First address of the segment behind.
    pub fn next_base(&self) -> Lsn {
        self.footer.next_base
    }

    /// Number of entries.
    pub fn len(&self) -> u64 {
        self.footer.entries
    }

    pub fn is_empty(&self) -> bool {
        self.footer.entries == 0
    }

    /// Length of the file in bytes.
    pub fn file_len(&self) -> usize {
        self.bytes.len()
    }

    #[cfg(test)]
    pub(super) fn checksums_start(&self) -> usize {
        self.footer.sections.checksums.start
    }

    /// Compares every page with its checksum: for the scrubber.
    pub fn verify(&self) -> Result<(), Damage> {
        self.at(0, self.footer.sections.checksums.start).map(drop)
    }

    pub fn get(&self, queue: QueueKey, offset: Offset) -> Result<Option<Entry>, Damage> {
        let found = self.range(queue, offset, 1)?;
        Ok(found.into_iter().find(|entry| entry.offset == offset))
    }

    /// At most `max` entries of the queue, from the first at or after `from`.
    pub fn range(&self, queue: QueueKey, from: Offset, max: usize) -> Result<Vec<Entry>, Damage> {
        let mut out = Vec::new();
        if let Some(head) = self.head(queue)? {
            self.collect(queue, &head, from, max, &mut out)?;
        }
        Ok(out)
    }

    /// All queues of the run, ascending.
    pub fn directory(&self) -> impl Iterator<Item = Result<(QueueKey, Head), Damage>> + '_ {
        let directory = self.footer.sections.directory;
        (0..directory.len / ROW).map(move |row| Ok(layout::row_at(self.at(directory.start + row * ROW, ROW)?, 0)))
    }

    /// Positions of at most `limit` frames with this key hash, newest first.
    pub fn keys(&self, hash: u64, limit: usize) -> Result<Vec<Lsn>, Damage> {
        let (keys, filter) = (self.footer.sections.keys, self.footer.sections.bloom);
        let Some((start, len)) = bloom::place(filter.len, hash) else { return Ok(Vec::new()) };
        if !bloom::may_contain(self.at(filter.start + start, len)?, hash) {
            return Ok(Vec::new());
        }
        let behind = self.lower_bound(keys, KEY_ROW, |row| layout::u64_at(row, 0) <= hash)?;
        let mut positions = Vec::new();
        for at in (0..behind).rev().take(limit) {
            let row = self.at(keys.start + at * KEY_ROW, KEY_ROW)?;
            if layout::u64_at(row, 0) != hash {
                break;
            }
            positions.push(self.position(layout::u32_at(row, 8))?);
        }
        Ok(positions)
    }

    /// At most `limit` timers after `after` and not later than `until` (ms), in the order of release.
    pub fn timers(&self, after: Due, until: u64, limit: usize) -> Result<Vec<Timer>, Damage> {
        let mut timers = Vec::new();
        if self.footer.last_timer < after.time || self.footer.first_timer > until {
            return Ok(timers);
        }
        let section = self.footer.sections.timers;
        let first = self.lower_bound(section, TIMER_ROW, |row| layout::u64_at(row, 0) < after.time)?;
        for at in first..section.len / TIMER_ROW {
            let row = self.at(section.start + at * TIMER_ROW, TIMER_ROW)?;
            let due = Due { time: layout::u64_at(row, 0), position: self.position(layout::u32_at(row, 8))? };
            if due.time > until || timers.len() >= limit {
                break;
            }
            if due > after {
                timers.push(Timer { due, queue: QueueKey(layout::u64_at(row, 12)) });
            }
        }
        Ok(timers)
    }

    /// Finds the queue in the directory: the sparse directory names the page, the page has the row.
    pub(super) fn head(&self, queue: QueueKey) -> Result<Option<Head>, Damage> {
        let (directory, sparse) = (self.footer.sections.directory, self.footer.sections.sparse);
        let behind = self.lower_bound(sparse, 8, |row| layout::u64_at(row, 0) <= queue.0)?;
        let Some(page) = behind.checked_sub(1) else { return Ok(None) };
        let first = page * ROWS_PER_PAGE;
        let rows = (directory.len / ROW - first).min(ROWS_PER_PAGE);
        let page = self.at(directory.start + first * ROW, rows * ROW)?;
        let (mut low, mut high) = (0, rows);
        while low < high {
            let middle = (low + high) / 2;
            let (found, head) = layout::row_at(page, middle);
            match found.cmp(&queue) {
                std::cmp::Ordering::Equal if head.previous.is_some_and(|previous| previous >= self.footer.base) => {
                    return Err(Damage::Content("an older segment is not older"));
                }
                std::cmp::Ordering::Equal => return Ok(Some(head)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Appends entries at or after `from` until `out` has `max`.
    pub(super) fn collect(&self, queue: QueueKey, head: &Head, from: Offset, max: usize, out: &mut Vec<Entry>) -> Result<(), Damage> {
        let first = match head.gaps {
            false => from.0.saturating_sub(head.first.0) / BLOCK_ENTRIES as u64,
            true => self.last_block(queue, head, |block| block.first_offset() <= from)?,
        };
        for number in first..blocks(head) {
            for entry in self.block(queue, head, number)? {
                let entry = entry?;
                if out.len() >= max {
                    return Ok(());
                }
                if entry.offset >= from {
                    out.push(entry);
                }
            }
        }
        Ok(())
    }

    /// Offset of the first entry with this time or a later one.
    pub(super) fn by_time(&self, queue: QueueKey, head: &Head, ms: u64) -> Result<Option<Offset>, Damage> {
        for number in self.last_block(queue, head, |block| block.first_time() < ms)?..blocks(head) {
            for entry in self.block(queue, head, number)? {
                let entry = entry?;
                if entry.time >= ms {
                    return Ok(Some(entry.offset));
                }
            }
        }
        Ok(None)
    }

    pub(super) fn first_time(&self, queue: QueueKey, head: &Head) -> Result<u64, Damage> {
        Ok(self.block(queue, head, 0)?.first_time())
    }

    pub(super) fn last_offset(&self, queue: QueueKey, head: &Head) -> Result<Offset, Damage> {
        if !head.gaps {
            return Ok(Offset(head.first.0.wrapping_add(u64::from(head.count).saturating_sub(1))));
        }
        let mut last = head.first;
        for entry in self.block(queue, head, blocks(head).saturating_sub(1))? {
            last = entry?.offset;
        }
        Ok(last)
    }

    /// Number of the last block that is `before`, or 0. Blocks that are `before` come first.
    fn last_block(&self, queue: QueueKey, head: &Head, before: impl Fn(&Block<'_>) -> bool) -> Result<u64, Damage> {
        let (mut low, mut high) = (0, blocks(head));
        while low + 1 < high {
            let middle = (low + high) / 2;
            if before(&self.block(queue, head, middle)?) { low = middle } else { high = middle }
        }
        Ok(low)
    }

    fn block(&self, queue: QueueKey, head: &Head, number: u64) -> Result<Block<'_>, Damage> {
        let (entries, table) = (self.footer.sections.entries, self.footer.sections.blocks);
        let place = if blocks(head) <= 1 {
            head.block as usize
        } else {
            let at = (u64::from(head.block) + number) as usize * 4;
            if at + 4 > table.len {
                return Err(Damage::Content("a block lies outside the block table"));
            }
            layout::u32_at(self.at(table.start + at, 4)?, 0) as usize
        };
        let body = place + block::LENGTH;
        if body > entries.len {
            return Err(Damage::Content("a block lies outside the entries"));
        }
        let length = self.at(entries.start + place, block::LENGTH)?;
        let length = u16::from_le_bytes([length[0], length[1]]);
        let origin = Origin { base: self.footer.base, time: self.footer.first_time };
        let bytes = self.at(entries.start + body, usize::from(length & !block::LANES))?;
        Block::open(bytes, length & block::LANES != 0, origin, queue)
    }

    fn position(&self, packed: u32) -> Result<Lsn, Damage> {
        let far = self.footer.sections.far;
        match far::far_place(packed) {
            None => Ok(Lsn(Base { value: self.footer.base.0, shift: POSITION_SHIFT }.at(packed))),
            Some(place) if place < far.len / 8 => Ok(Lsn(layout::u64_at(self.at(far.start + place * 8, 8)?, 0))),
            Some(_) => Err(Damage::Content("a position lies outside the far table")),
        }
    }

    /// Number of the first row that isn't `before`. Rows that are `before` come first.
    fn lower_bound(&self, section: Section, row: usize, before: impl Fn(&[u8]) -> bool) -> Result<usize, Damage> {
        let (mut low, mut high) = (0, section.len / row);
        while low < high {
            let middle = (low + high) / 2;
            if before(self.at(section.start + middle * row, row)?) { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// Bytes of the file, once their pages were verified.
    fn at(&self, start: usize, len: usize) -> Result<&[u8], Damage> {
        let end = start + len;
        if end > self.footer.sections.checksums.start {
            return Err(Damage::Content("a reference lies outside the sections"));
        }
        for page in start / PAGE..end.div_ceil(PAGE) {
            self.verify_page(page)?;
        }
        Ok(&self.bytes[start..end])
    }

    fn verify_page(&self, page: usize) -> Result<(), Damage> {
        let (word, bit) = (&self.verified[page / 64], 1 << (page % 64));
        // The bit guards nothing but itself: the bytes never change, and verifying twice does no harm.
        if word.load(Ordering::Relaxed) & bit != 0 {
            return Ok(());
        }
        let checksums = self.footer.sections.checksums;
        let end = ((page + 1) * PAGE).min(checksums.start);
        let expected = layout::u32_at(&self.bytes, checksums.start + page * 4);
        if layout::crc32c(&self.bytes[page * PAGE..end]) != expected {
            return Err(Damage::Checksum { page });
        }
        word.fetch_or(bit, Ordering::Relaxed);
        Ok(())
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Run({}, {} entries)", self.path.display(), self.footer.entries)
    }
}

fn blocks(head: &Head) -> u64 {
    u64::from(head.count).div_ceil(BLOCK_ENTRIES as u64)
}

fn check_footer(bytes: &[u8]) -> Result<Footer, Damage> {
    let footer = bytes.last_chunk::<FOOTER>().ok_or(Damage::Length)?;
    let footer = Footer::decode(footer, bytes.len())?;
    let checksums = footer.sections.checksums;
    if layout::crc32c(&bytes[checksums.start..checksums.end()]) != footer.checksums_crc {
        return Err(Damage::Checksum { page: checksums.start / PAGE });
    }
    Ok(footer)
}

/// Why a run can't be written or opened.
#[derive(Debug)]
pub struct RunError {
    pub path: PathBuf,
    pub cause: RunCause,
}

#[derive(Debug)]
pub enum RunCause {
    Io(io::Error),
    Damage(Damage),
}

impl RunError {
    pub(super) fn io(path: &Path, error: io::Error) -> RunError {
        RunError { path: path.to_owned(), cause: RunCause::Io(error) }
    }

    pub(super) fn damage(path: &Path, damage: Damage) -> RunError {
        RunError { path: path.to_owned(), cause: RunCause::Damage(damage) }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.cause {
            RunCause::Io(error) => write!(f, "index run `{path}`: {error}"),
            RunCause::Damage(damage) => {
                write!(f, "index run `{path}`: {damage}; the file can be deleted, it is rebuilt from the log")
            }
        }
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            RunCause::Io(error) => Some(error),
            RunCause::Damage(damage) => Some(damage),
        }
    }
}
