//! A file that is larger than the disk. In a program of its own: while it is tried, nothing else finds room on that disk.

#![allow(clippy::unwrap_used)]

use gantry_platform::{Disk, RealDisk};
use std::io::ErrorKind;
use std::path::Path;

#[test]
fn an_impossible_length_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(folder.path());
    let more_than_there_is = disk.space().unwrap().total * 2;
    let error = disk.create_zeroed(Path::new("segment"), more_than_there_is).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::FileTooLarge), "{error}");
    assert!(disk.list(Path::new("")).unwrap().is_empty());
}
