//! What only a real disk can show: direct non-blocking reads, locks between processes, a full device, faults in maps.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::io::{ErrorKind, IoSlice};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use gantry_platform::{Disk, RealDisk, SIGBUS_EXIT_CODE};

/// Set in the child processes of the tests below: the folder to work in.
const CHILD: &str = "PLATFORM_TEST_CHILD";

/// Runs one test of this file again, in a process of its own.
fn child(test: &str, folder: &Path) -> Output {
    let me = std::env::current_exe().unwrap();
    Command::new(me).args(["--exact", test, "--nocapture"]).env(CHILD, folder).output().unwrap()
}

fn child_folder() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD).map(Into::into)
}

#[test]
fn a_zeroed_file_is_allocated_and_complete() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(folder.path());
    let len = 3 * 1024 * 1024 + 5;
    let file = disk.create_zeroed(Path::new("segment"), len).unwrap();
    assert_eq!(file.len().unwrap(), len);
    let mut buf = vec![1; len as usize + 1];
    assert_eq!(file.read_at(0, &mut buf).unwrap(), len as usize);
    assert!(buf[..len as usize].iter().all(|byte| *byte == 0));
    assert_eq!(disk.list(Path::new("")).unwrap(), [Path::new("segment")], "nothing partial is left");
    assert_eq!(disk.create_zeroed(Path::new("segment"), 1).unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[test]
fn many_buffers_are_written_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = RealDisk::new(folder.path()).create(Path::new("f")).unwrap();
    let parts: Vec<[u8; 3]> = (0..5_000_u32).map(|n| [n as u8, (n >> 8) as u8, 9]).collect();
    let bufs: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    file.write_at(7, &bufs).unwrap();
    let mut buf = vec![0; 15_000];
    assert_eq!(file.read_at(7, &mut buf).unwrap(), 15_000);
    assert_eq!(buf, parts.concat());
}

#[test]
fn a_hot_range_is_read_without_blocking() {
    let folder = tempfile::tempdir().unwrap();
    let file = RealDisk::new(folder.path()).create(Path::new("f")).unwrap();
    file.write_at(0, &[IoSlice::new(&[5; 10_000])]).unwrap();
    let mut buf = [0; 4096];
    match file.try_read_at(8_000, &mut buf).unwrap() {
        Some(count) => assert_eq!((count, buf[0]), (2_000, 5)),
        None => eprintln!("this file system does not answer from its cache without blocking"),
    }
}

#[test]
fn relative_and_absolute_paths_reach_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(folder.path());
    disk.create_dir_all(Path::new("a/b/c")).unwrap();
    disk.create(Path::new("a/b/c/f")).unwrap();
    assert!(disk.exists(&folder.path().join("a/b/c/f")).unwrap());
    assert_eq!(disk.list(Path::new("a/b")).unwrap(), [Path::new("a/b/c")]);
    assert_eq!(disk.list(&folder.path().join("a/b")).unwrap(), [folder.path().join("a/b/c")]);
}

#[test]
fn space_is_known_before_the_root_exists() {
    let folder = tempfile::tempdir().unwrap();
    let space = RealDisk::new(folder.path().join("not/yet")).space().unwrap();
    assert!(space.total > 0 && space.free <= space.total);
}

#[test]
fn a_second_process_is_told_who_holds_the_lock() {
    let path = Path::new("lock");
    if let Some(folder) = child_folder() {
        println!("{}", RealDisk::new(folder).lock(path).unwrap_err());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(folder.path());
    let lock = disk.lock(path).unwrap();
    let shown = child("a_second_process_is_told_who_holds_the_lock", folder.path());
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&format!("is locked by process {}", std::process::id())), "{shown}");
    drop(lock);
    let _again = disk.lock(path).unwrap();
}

#[test]
fn a_lock_is_released_while_children_are_being_started() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(folder.path());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        let refused = (0..400).find_map(|_| disk.lock(Path::new("lock")).err());
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(refused.is_none(), "{refused:?}");
    });
}

#[test]
fn a_fault_in_a_map_names_file_and_offset_and_exits_with_86() {
    if let Some(folder) = child_folder() {
        gantry_platform::install_sigbus_handler();
        let file = RealDisk::new(&folder).create_zeroed(Path::new("shard-1.segment"), 65_536).unwrap();
        let map = file.map().unwrap();
        std::fs::OpenOptions::new().write(true).open(folder.join("shard-1.segment")).unwrap().set_len(4_096).unwrap();
        let _ = map.read(8_200, &mut [0; 8]);
        unreachable!("the page is gone");
    }
    let folder = tempfile::tempdir().unwrap();
    let output = child("a_fault_in_a_map_names_file_and_offset_and_exits_with_86", folder.path());
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(SIGBUS_EXIT_CODE), "{shown}");
    assert!(shown.contains("shard-1.segment` at offset 8200:"), "{shown}");
}

#[test]
fn a_sigbus_from_elsewhere_ends_the_process_as_usual() {
    use std::os::unix::process::ExitStatusExt;
    if child_folder().is_some() {
        gantry_platform::install_sigbus_handler();
        let me = std::process::id().to_string();
        Command::new("sh").args(["-c", "kill -BUS $0", &me]).status().unwrap();
        std::thread::sleep(std::time::Duration::from_secs(10));
    }
    let folder = tempfile::tempdir().unwrap();
    let output = child("a_sigbus_from_elsewhere_ends_the_process_as_usual", folder.path());
    assert_eq!(output.status.signal(), Some(libc_sigbus()));
}

/// SIGBUS on Linux, on all architectures in use.
fn libc_sigbus() -> i32 {
    7
}

#[test]
fn a_thread_that_panics_ends_the_process() {
    if child_folder().is_some() {
        let thread = gantry_platform::tasks::thread("shard-9", || panic!("half changed")).unwrap();
        let _: Result<(), _> = thread.join();
        return;
    }
    let started = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let output = child("a_thread_that_panics_ends_the_process", folder.path());
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && shown.contains("task `shard-9` panicked: half changed"), "{shown}");
    assert!(started.elapsed().as_secs() < 10);
}
