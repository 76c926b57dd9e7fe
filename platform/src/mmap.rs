//! Read-only views of files. A real file is mapped and its slices are zero copy; a simulated file is read through the same type, by copying.
//!
//! A mapped byte may change under a reader when the file is written, which Rust's references do not allow. So the rule of this module:
//! **slice only what is published**, bytes that nobody writes again while a slice of them lives. The store's published end (release on
//! write, acquire on read) draws that line; a recycled segment is written again only when [`Map::is_shared`] says that nobody has it.
//!
//! Reading a map of a file that became shorter, or whose device fails, raises SIGBUS; `sys.rs` turns that into a message and exit code 86.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};

use crate::sys::Registration;

/// A read-only view of a file, as long as the file was when it was made. Clones share it, and keep the file's bytes alive after its removal.
#[derive(Clone)]
pub struct Map {
    region: Arc<Region>,
}

enum Region {
    Empty,
    Mapped(Mapped),
    Simulated { len: u64, source: Box<dyn Source> },
}

/// The order of the fields matters: the range leaves the table of the SIGBUS handler before it is unmapped.
struct Mapped {
    _registration: Registration,
    raw: MmapRaw,
}

/// Where the bytes of a simulated map come from. `read` fills the whole buffer; the range is inside the file.
pub(crate) trait Source: Send + Sync {
    fn read(&self, off: u64, buf: &mut [u8]);
}

/// A range of a mapped file that owns a share of the map.
struct MapSlice {
    region: Arc<Region>,
    off: usize,
    len: usize,
}

impl Map {
    /// Maps the whole of a real file; `path` is what the SIGBUS handler prints.
    pub(crate) fn of_file(file: &File, path: &Path) -> io::Result<Map> {
        let len = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if len == 0 {
            return Ok(Map { region: Arc::new(Region::Empty) });
        }
        let raw = MmapOptions::new().len(len).map_raw_read_only(file)?;
        let registration = Registration::new(path, raw.as_ptr() as usize, len);
        Ok(Map { region: Arc::new(Region::Mapped(Mapped { _registration: registration, raw })) })
    }

    /// A view of `len` bytes of a simulated file.
    pub(crate) fn simulated(len: u64, source: impl Source + 'static) -> Map {
        Map { region: Arc::new(Region::Simulated { len, source: Box::new(source) }) }
    }

    /// The length of the view in bytes.
    pub fn len(&self) -> u64 {
        match &*self.region {
            Region::Empty => 0,
            Region::Mapped(mapped) => mapped.raw.len() as u64,
            Region::Simulated { len, .. } => *len,
        }
    }

    /// True for the view of an empty file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True while another clone, or a slice of a real file, is alive: the file must not be written again.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.region) > 1
    }

    /// The bytes `off .. off + len`, or `None` if they are not inside the view. Zero copy for real files. Only for published bytes.
    pub fn slice(&self, off: u64, len: usize) -> Option<Bytes> {
        let start = self.check(off, len)?;
        match &*self.region {
            _ if len == 0 => Some(Bytes::new()),
            Region::Empty => None,
            Region::Mapped(_) => Some(Bytes::from_owner(MapSlice { region: Arc::clone(&self.region), off: start, len })),
            Region::Simulated { source, .. } => {
                let mut copy = vec![0; len];
                source.read(off, &mut copy);
                Some(Bytes::from(copy))
            }
        }
    }

    /// Copies the bytes at `off` into the whole of `buf`, or returns `None` if they are not inside the view.
    pub fn read(&self, off: u64, buf: &mut [u8]) -> Option<()> {
        let start = self.check(off, buf.len())?;
        match &*self.region {
            Region::Empty => {}
            // SAFETY: `check` proved that `start .. start + buf.len()` is inside the mapping, which `self` keeps alive; `buf` is a
            // unique reference, so it does not overlap the mapping.
            Region::Mapped(mapped) => unsafe {
                std::ptr::copy_nonoverlapping(mapped.raw.as_ptr().add(start), buf.as_mut_ptr(), buf.len());
            },
            Region::Simulated { source, .. } => source.read(off, buf),
        }
        Some(())
    }

    /// The start of the range as an index, if the whole range is inside the view.
    fn check(&self, off: u64, len: usize) -> Option<usize> {
        let end = off.checked_add(len as u64)?;
        if end > self.len() {
            return None;
        }
        usize::try_from(off).ok()
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl AsRef<[u8]> for MapSlice {
    fn as_ref(&self) -> &[u8] {
        let Region::Mapped(mapped) = &*self.region else { return &[] };
        // SAFETY: `Map::slice` checked that the range is inside the mapping, which `self.region` keeps alive. The bytes do not change
        // while the slice lives: that is the module's rule, kept by callers that slice only published bytes. They are plain bytes,
        // so any content is valid.
        unsafe { std::slice::from_raw_parts(mapped.raw.as_ptr().add(self.off), self.len) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    fn mapped(content: &[u8]) -> (tempfile::NamedTempFile, Map) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let map = Map::of_file(file.as_file(), file.path()).unwrap();
        (file, map)
    }

    #[test]
    fn slices_are_checked_against_the_length() {
        let (_file, map) = mapped(b"0123456789");
        assert_eq!(map.len(), 10);
        assert_eq!(map.slice(2, 3).unwrap(), "234");
        assert_eq!(map.slice(10, 0).unwrap(), "");
        assert!(map.slice(8, 3).is_none());
        assert!(map.slice(u64::MAX, 2).is_none());
        let mut buf = [0; 4];
        assert!(map.read(6, &mut buf).is_some());
        assert_eq!(&buf, b"6789");
        assert!(map.read(7, &mut buf).is_none());
    }

    #[test]
    fn a_slice_outlives_the_map_and_the_file() {
        let (file, map) = mapped(b"kept");
        let slice = map.slice(0, 4).unwrap();
        assert!(map.is_shared());
        drop(map);
        file.close().unwrap();
        assert_eq!(slice, "kept");
    }

    #[test]
    fn a_map_is_shared_only_while_someone_else_has_it() {
        let (_file, map) = mapped(b"x");
        assert!(!map.is_shared());
        let slice = map.slice(0, 1).unwrap();
        assert!(map.is_shared());
        drop(slice);
        assert!(!map.is_shared());
    }

    #[test]
    fn an_empty_file_maps_to_an_empty_view() {
        let (_file, map) = mapped(b"");
        assert!(map.is_empty());
        assert_eq!(map.slice(0, 0).unwrap(), "");
        assert!(map.slice(0, 1).is_none());
    }
}
