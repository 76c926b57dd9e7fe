//! redb on `platform::disk`: so a test can take the power from the raft log, and a full disk is met while the file grows, not later.
//!
//! What it costs against redb's own file: one indirect call per page, and growing writes zeros (1.1 MiB for a new file) where redb
//! would leave a hole. A platform file never becomes shorter: a shrink is remembered until the file is closed, and the next open finds
//! free pages behind the end.

use gantry_platform::disk::DiskFile;
use redb::StorageBackend;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// redb counts in pages of this size. A crash while the file grows may leave a piece of one, in which nothing is stored yet.
const PAGE: u64 = 4_096;
/// Growing writes zeros in pieces of this size.
const ZEROS: usize = 128 * 1024;

/// The file of a database.
#[derive(Debug)]
pub struct RedbFile {
    file: Arc<dyn DiskFile>,
    /// As redb set it; the file may be longer.
    len: AtomicU64,
}

impl RedbFile {
    pub fn new(file: Arc<dyn DiskFile>) -> io::Result<RedbFile> {
        let len = file.len()?;
        Ok(RedbFile { file, len: AtomicU64::new(len - len % PAGE) })
    }
}

impl StorageBackend for RedbFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(Ordering::Acquire))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.file.read_at(offset, out)? < out.len() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut at = self.len.load(Ordering::Acquire);
        let zeros = vec![0; ZEROS];
        while at < len {
            let piece = (len - at).min(ZEROS as u64);
            self.file.write_at(at, &[IoSlice::new(&zeros[..piece as usize])])?;
            at += piece;
        }
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, &[IoSlice::new(data)])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_platform::{Disk, MemoryDisk};
    use std::path::Path;

    #[test]
    fn growing_after_a_shrink_shows_zeros() {
        let file = MemoryDisk::new().create(Path::new("/log")).unwrap();
        let redb = RedbFile::new(file).unwrap();
        redb.set_len(3 * PAGE).unwrap();
        redb.write(2 * PAGE, b"old").unwrap();
        redb.set_len(PAGE).unwrap();
        assert_eq!(redb.len().unwrap(), PAGE);
        redb.set_len(3 * PAGE).unwrap();
        let mut bytes = [9; 3];
        redb.read(2 * PAGE, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 3]);
    }

    #[test]
    fn a_piece_of_a_page_at_the_end_is_not_counted() {
        let file = MemoryDisk::new().create(Path::new("/log")).unwrap();
        file.write_at(0, &[IoSlice::new(&[1; PAGE as usize + 512])]).unwrap();
        assert_eq!(RedbFile::new(file).unwrap().len().unwrap(), PAGE);
    }

    #[test]
    fn reading_behind_the_end_is_an_error() {
        let file = MemoryDisk::new().create(Path::new("/log")).unwrap();
        let redb = RedbFile::new(file).unwrap();
        redb.set_len(PAGE).unwrap();
        assert_eq!(redb.read(PAGE - 1, &mut [0; 2]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
