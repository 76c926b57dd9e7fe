//! The disk of Linux: `pwritev`, `preadv2`, `fdatasync`, `fallocate`, `flock`, and a sync of every directory that changes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, FlockOperation};
use rustix::io::{Errno, ReadWriteFlags};

use super::{Disk, DiskFile, Lock, PARTIAL_SUFFIX, Space, locked, parent, total_len};
use crate::mmap::Map;

/// `FALLOC_FL_WRITE_ZEROES` of linux/falloc.h, since Linux 6.17: the device itself writes the zeros where it can.
const WRITE_ZEROES: u32 = 0x80;

/// What writes around the page cache are aligned to: the largest block size of the disks in use.
const DIRECT_ALIGN: usize = 4096;

/// The step in which zeros are written where the device cannot do it: large enough for full speed, small enough not to fill the queue.
const ZERO_STEP: usize = 1024 * 1024;

/// The most buffers one `pwritev` takes (`IOV_MAX`).
const MAX_BUFFERS: usize = 1024;

/// A directory of the real file system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
}

/// An open file of the real file system. The path is the one it was opened by; it only serves messages.
#[derive(Debug)]
struct RealFile {
    file: File,
    path: PathBuf,
}

impl RealDisk {
    /// The disk whose relative paths start at `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> RealDisk {
        RealDisk { root: root.into() }
    }

    /// `Path::join` keeps an absolute path as it is.
    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let dir = self.at(dir);
        let missing: Vec<&Path> = dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.is_dir()).collect();
        for dir in missing.iter().rev() {
            match fs::create_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
                made => made?,
            }
            sync_dir(parent(dir))?;
        }
        Ok(())
    }

    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.at(path);
        if path.try_exists()? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // The file gets its name when it is complete, so that a crash never leaves half a segment that looks like one.
        let mut partial = path.clone().into_os_string();
        partial.push(PARTIAL_SUFFIX);
        let partial = PathBuf::from(partial);
        match make_zeroed(&partial, len).and_then(|file| fs::rename(&partial, &path).map(|()| file)) {
            Ok(file) => {
                sync_dir(parent(&path))?;
                Ok(Arc::new(RealFile { file, path }))
            }
            Err(error) => {
                // The first error is the one to report; a file that stays is replaced by the next attempt.
                let _ = fs::remove_file(&partial);
                Err(error)
            }
        }
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.at(path);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok(Arc::new(RealFile { file, path }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.at(path);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Arc::new(RealFile { file, path }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.at(path).try_exists() {
            // Below a file there is nothing.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
            exists => exists,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.at(from), self.at(to));
        fs::rename(&from, &to)?;
        sync_dir(parent(&to))?;
        if parent(&from) != parent(&to) {
            sync_dir(parent(&from))?;
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = self.at(path);
        fs::remove_file(&path)?;
        sync_dir(parent(&path))
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let dir = self.at(dir);
        fs::remove_dir_all(&dir)?;
        sync_dir(parent(&dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_dir(&self.at(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(self.at(dir))?.map(|entry| Ok(dir.join(entry?.file_name()))).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }

    fn space(&self) -> io::Result<Space> {
        // A root that does not exist yet will be on the file system of its nearest parent that does.
        let root = std::path::absolute(&self.root)?;
        let known = root.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
        let stat = rustix::fs::statvfs(known)?;
        Ok(Space { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let path = self.at(path);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // The name of the holder only makes the message better.
                let _ = file.read_to_string(&mut holder);
                return Err(locked(&path, &holder));
            }
            Err(error) => return Err(error.into()),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Lock::new(Held(file)))
    }
}

/// A lock file. Closing it would release the lock only when the last copy of the descriptor is closed, and a child that is being started has one
/// for a moment.
struct Held(File);

impl Drop for Held {
    fn drop(&mut self) {
        // The kernel releases it at the end of the process at the latest.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn write_at(&self, mut off: u64, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        let mut left = bufs.to_vec();
        let mut left = left.as_mut_slice();
        while total_len(left) > 0 {
            let batch = left.len().min(MAX_BUFFERS);
            match rustix::io::pwritev(&self.file, &left[..batch], off) {
                // Nothing written and no error: the device takes no more.
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    off += written as u64;
                    IoSlice::advance_slices(&mut left, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], off + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn try_read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let mut done = 0;
        while done < buf.len() {
            let rest = &mut [IoSliceMut::new(&mut buf[done..])];
            match rustix::io::preadv2(&self.file, rest, off + done as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) => break,
                // A short count is the end of the file or the end of what is cached; the next round tells which.
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(done))
    }

    fn will_need(&self, off: u64, len: u64) {
        // A file system that takes no hints reads when it is asked.
        let _ = rustix::fs::fadvise(&self.file, off, NonZeroU64::new(len), Advice::WillNeed);
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn map(&self) -> io::Result<Map> {
        Map::of_file(&self.file, &self.path)
    }
}

/// A synced file of `len` written zeros.
fn make_zeroed(path: &Path, len: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    if len > 0 && !device_zeroes(&file, len)? {
        // Allocating first finds a full disk before anything is written, and keeps the extents together.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        if !past_the_cache(path, len)? {
            write_zeros(&file, 0, len)?;
        }
    }
    file.sync_all()?;
    Ok(file)
}

/// Writes zeros around the page cache: they cost a twentieth of the CPU time there, and push nothing out of it. False if the file system can't do
/// that, or the length doesn't fit its blocks; then nothing counts as written.
fn past_the_cache(path: &Path, len: u64) -> io::Result<bool> {
    if !len.is_multiple_of(DIRECT_ALIGN as u64) {
        return Ok(false);
    }
    let opened = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path);
    let written = opened.and_then(|file| write_zeros(&file, 0, len));
    match written {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_zeros(file: &File, mut off: u64, end: u64) -> io::Result<()> {
    // Writes around the cache need their memory aligned; the others don't mind.
    let zeros = vec![0; ZERO_STEP + DIRECT_ALIGN];
    let start = zeros.as_ptr().align_offset(DIRECT_ALIGN).min(DIRECT_ALIGN);
    while off < end {
        let step = (end - off).min(ZERO_STEP as u64) as usize;
        file.write_all_at(&zeros[start..start + step], off)?;
        off += step as u64;
    }
    Ok(())
}

/// Asks the device to write the zeros; false if it or the file system cannot.
fn device_zeroes(file: &File, len: u64) -> io::Result<bool> {
    match rustix::fs::fallocate(file, FallocateFlags::from_bits_retain(WRITE_ZEROES), 0, len) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}
