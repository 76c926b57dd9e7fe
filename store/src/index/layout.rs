//! Where the parts of a run file lie: header, sections, footer. Drawn in `docs/design/002-index-run.md`.

use super::Damage;
use gantry_model::{Lsn, Offset, QueueKey};

pub(super) const PAGE: usize = 4096;
pub(super) const MAGIC: [u8; 8] = *b"GANTRYIX";
pub(super) const VERSION: u32 = 2;
/// The oldest version that is read: a run of version 1 has no lanes.
const OLDEST: u32 = 1;
pub(super) const HEADER: usize = 32;
pub(super) const FOOTER: usize = 256;

/// A block has at most this many entries, so that reading one entry decodes 64 on average.
pub(super) const BLOCK_ENTRIES: usize = 128;
pub(super) const ROW: usize = 32;
/// Rows of the queue directory in one page, and so for one key of the sparse directory.
pub(super) const ROWS_PER_PAGE: usize = PAGE / ROW;
pub(super) const KEY_ROW: usize = 12;
pub(super) const TIMER_ROW: usize = 20;
const GAPS: u32 = 1 << 31;
const NO_PREVIOUS: u64 = u64::MAX;

/// A stretch of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    pub start: usize,
    pub len: usize,
}

impl Section {
    pub fn end(self) -> usize {
        self.start + self.len
    }
}

/// The sections in the order of the file. The lite index has its place and is empty so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sections {
    pub entries: Section,
    pub blocks: Section,
    pub directory: Section,
    pub sparse: Section,
    pub keys: Section,
    pub bloom: Section,
    pub timers: Section,
    pub far: Section,
    pub lite: Section,
    pub checksums: Section,
}

impl Sections {
    fn in_order(&self) -> [Section; 10] {
        [self.entries, self.blocks, self.directory, self.sparse, self.keys, self.bloom, self.timers, self.far, self.lite, self.checksums]
    }

    fn from_order([entries, blocks, directory, sparse, keys, bloom, timers, far, lite, checksums]: [Section; 10]) -> Sections {
        Sections { entries, blocks, directory, sparse, keys, bloom, timers, far, lite, checksums }
    }

    /// Every section lies behind the one before, holds whole rows, and the footer follows the last.
    fn check(&self, file_len: usize) -> Result<(), Damage> {
        let mut end = HEADER;
        for section in self.in_order() {
            let next = section.start.checked_add(section.len).ok_or(Damage::Footer)?;
            if section.start < end {
                return Err(Damage::Footer);
            }
            end = next;
        }
        let pages = self.checksums.start.div_ceil(PAGE);
        let whole = self.blocks.len.is_multiple_of(4)
            && self.directory.len.is_multiple_of(ROW)
            && self.sparse.len == 8 * self.directory.len.div_ceil(PAGE)
            && self.keys.len.is_multiple_of(KEY_ROW)
            && self.timers.len.is_multiple_of(TIMER_ROW)
            && self.far.len.is_multiple_of(8)
            && self.checksums.len == 4 * pages;
        if !whole {
            return Err(Damage::Footer);
        }
        if end.checked_add(FOOTER) != Some(file_len) { Err(Damage::Length) } else { Ok(()) }
    }
}

/// The last 256 bytes of a run: all that opening one has to read, besides the checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub base: Lsn,
    pub next_base: Lsn,
    /// Smallest and largest time of an entry; block times are relative to the first.
    pub first_time: u64,
    pub last_time: u64,
    pub first_timer: u64,
    pub last_timer: u64,
    pub entries: u64,
    pub sections: Sections,
    pub checksums_crc: u32,
}

impl Footer {
    pub fn encode(&self) -> [u8; FOOTER] {
        let mut out = Vec::with_capacity(FOOTER);
        let times = [self.first_time, self.last_time, self.first_timer, self.last_timer];
        for number in [self.base.0, self.next_base.0].into_iter().chain(times).chain([self.entries]) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for section in self.sections.in_order() {
            out.extend_from_slice(&(section.start as u64).to_le_bytes());
            out.extend_from_slice(&(section.len as u64).to_le_bytes());
        }
        out.resize(FOOTER - 20, 0);
        out.extend_from_slice(&self.checksums_crc.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&crc32c(&out).to_le_bytes());
        out.try_into().expect("the parts add up to a footer")
    }

    pub fn decode(bytes: &[u8; FOOTER], file_len: usize) -> Result<Footer, Damage> {
        if bytes[FOOTER - 12..FOOTER - 4] != MAGIC || crc32c(&bytes[..FOOTER - 4]) != u32_at(bytes, FOOTER - 4) {
            return Err(Damage::Footer);
        }
        let version = u32_at(bytes, FOOTER - 16);
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(Damage::Version(version));
        }
        let section = |n: usize| -> Section { Section { start: u64_at(bytes, 56 + 16 * n) as usize, len: u64_at(bytes, 64 + 16 * n) as usize } };
        let sections = Sections::from_order(std::array::from_fn(section));
        sections.check(file_len)?;
        Ok(Footer {
            base: Lsn(u64_at(bytes, 0)),
            next_base: Lsn(u64_at(bytes, 8)),
            first_time: u64_at(bytes, 16),
            last_time: u64_at(bytes, 24),
            first_timer: u64_at(bytes, 32),
            last_timer: u64_at(bytes, 40),
            entries: u64_at(bytes, 48),
            sections,
            checksums_crc: u32_at(bytes, FOOTER - 20),
        })
    }
}

/// The first bytes of a run tell a person what the file is; the program reads the footer.
pub(super) fn header(base: Lsn, next_base: Lsn) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&base.0.to_le_bytes());
    out[24..].copy_from_slice(&next_base.0.to_le_bytes());
    out
}

/// One row of the queue directory.
pub(super) fn put_row(out: &mut Vec<u8>, queue: QueueKey, head: &super::Head) {
    out.extend_from_slice(&queue.0.to_le_bytes());
    out.extend_from_slice(&head.first.0.to_le_bytes());
    out.extend_from_slice(&(head.count | if head.gaps { GAPS } else { 0 }).to_le_bytes());
    out.extend_from_slice(&head.block.to_le_bytes());
    out.extend_from_slice(&head.previous.map_or(NO_PREVIOUS, |lsn| lsn.0).to_le_bytes());
}

pub(super) fn row_at(bytes: &[u8], index: usize) -> (QueueKey, super::Head) {
    let at = index * ROW;
    let count = u32_at(bytes, at + 16);
    let previous = u64_at(bytes, at + 24);
    let head = super::Head {
        first: Offset(u64_at(bytes, at + 8)),
        count: count & !GAPS,
        previous: (previous != NO_PREVIOUS).then_some(Lsn(previous)),
        gaps: count & GAPS != 0,
        block: u32_at(bytes, at + 20),
    };
    (QueueKey(u64_at(bytes, at)), head)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}
