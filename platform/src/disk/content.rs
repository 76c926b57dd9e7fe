//! The bytes of a simulated file: sparse pages that clones share until one of them writes.
//!
//! A crash test makes a million disks from one; so a clone costs two counters, and a write copies one page and the page list of its file.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The unit of sharing. The size of a page cache page, so that a page holds eight sectors.
const PAGE: usize = 4096;

type Page = [u8; PAGE];

/// A file's bytes. A page that is not in the list is zero.
#[derive(Clone, Default)]
pub(super) struct Content {
    len: u64,
    pages: Arc<BTreeMap<u64, Arc<Page>>>,
}

impl Content {
    pub(super) fn zeroed(len: u64) -> Content {
        Content { len, pages: Arc::default() }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Makes the file at least `len` long.
    pub(super) fn grow(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// Copies what the file has at `off`, and returns the count.
    pub(super) fn read(&self, off: u64, buf: &mut [u8]) -> usize {
        let count = self.len.saturating_sub(off).min(buf.len() as u64) as usize;
        self.read_padded(off, &mut buf[..count]);
        count
    }

    /// Fills `buf` from `off`, with zeros behind the end.
    pub(super) fn read_padded(&self, off: u64, buf: &mut [u8]) {
        let mut done = 0;
        while done < buf.len() {
            let (number, start) = split(off + done as u64);
            let step = (PAGE - start).min(buf.len() - done);
            let to = &mut buf[done..done + step];
            match self.pages.get(&number) {
                Some(page) => to.copy_from_slice(&page[start..start + step]),
                None => to.fill(0),
            }
            done += step;
        }
    }

    pub(super) fn write(&mut self, off: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.store(off, bytes);
        self.grow(off + bytes.len() as u64);
    }

    /// Writes without moving the end: a sector may reach beyond it.
    pub(super) fn store(&mut self, off: u64, bytes: &[u8]) {
        let pages = Arc::make_mut(&mut self.pages);
        let mut done = 0;
        while done < bytes.len() {
            let (number, start) = split(off + done as u64);
            let step = (PAGE - start).min(bytes.len() - done);
            let page = Arc::make_mut(pages.entry(number).or_insert_with(|| Arc::new([0; PAGE])));
            page[start..start + step].copy_from_slice(&bytes[done..done + step]);
            done += step;
        }
    }

    /// Takes over the page around `off` as `other` has it.
    pub(super) fn adopt(&mut self, other: &Content, off: u64) {
        let (number, _) = split(off);
        if let Some(page) = other.pages.get(&number) {
            Arc::make_mut(&mut self.pages).insert(number, Arc::clone(page));
        }
    }
}

/// The number of the page that holds `off`, and the place in it.
fn split(off: u64) -> (u64, usize) {
    (off / PAGE as u64, (off % PAGE as u64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_until_one_writes() {
        let mut first = Content::zeroed(10_000);
        first.write(4_090, b"across pages");
        let second = first.clone();
        first.write(4_090, b"changed");
        let mut buf = [0; 12];
        assert_eq!(second.read(4_090, &mut buf), 12);
        assert_eq!(&buf, b"across pages");
        first.read(4_090, &mut buf);
        assert_eq!(&buf, b"changedpages");
    }

    #[test]
    fn reads_stop_at_the_end() {
        let mut content = Content::default();
        content.write(3, b"abc");
        let mut buf = [9; 8];
        assert_eq!(content.read(0, &mut buf), 6);
        assert_eq!(&buf, b"\0\0\0abc\x09\x09");
        assert_eq!(content.read(6, &mut buf), 0);
        assert_eq!(content.read(100, &mut buf), 0);
    }
}
