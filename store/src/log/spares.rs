//! Zeroed files for segments to come, made by a thread of their own: zeroing 256 MiB takes half a second, and no send should wait for it.

use gantry_platform::disk::{DiskFile, SharedDisk};
use gantry_platform::tasks;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

/// A zeroed file and where it is.
pub type Spare = (PathBuf, Arc<dyn DiskFile>);

/// At most one file in the making.
#[derive(Debug, Default)]
pub struct Spares {
    coming: Option<(u64, Receiver<io::Result<Spare>>)>,
}

/// The name of a spare; there is never more than one.
pub fn path_of(dir: &Path) -> PathBuf {
    dir.join("spare-0001.log")
}

impl Spares {
    /// Begins to make a file of `size` in the background, if none is coming.
    pub fn ask(&mut self, disk: &SharedDisk, dir: &Path, size: u64) {
        if self.coming.is_some() {
            return;
        }
        let (done, coming) = channel();
        let (disk, path) = (disk.clone(), path_of(dir));
        let started = tasks::thread("gantry-spare", move || {
            let made = disk.create_zeroed(&path, size).map(|file| (path, file));
            let _ = done.send(made);
        });
        // Without a thread the file is made when it is needed.
        if started.is_ok() {
            self.coming = Some((size, coming));
        }
    }

    /// A zeroed file of `size`: the one that was asked for, or one made now.
    pub fn take(&mut self, disk: &SharedDisk, dir: &Path, size: u64) -> io::Result<Spare> {
        if let Some((coming_size, coming)) = self.coming.take()
            && let Ok(Ok(spare)) = coming.recv()
        {
            if coming_size == size {
                return Ok(spare);
            }
            disk.remove(&spare.0)?;
        }
        let path = path_of(dir);
        Ok((path.clone(), disk.create_zeroed(&path, size)?))
    }
}
