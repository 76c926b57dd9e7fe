//! Every disk does the same for the same calls: random operations run on a real directory and on each simulated disk, side by side.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_platform::{Disk, DiskFile, FaultyDisk, MemoryDisk, RealDisk, RecordingDisk, SharedDisk};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    CreateDirAll(&'static str),
    CreateZeroed(&'static str, u64),
    Create(&'static str),
    Write(&'static str, u64, Vec<u8>),
    Read(&'static str, u64, usize),
    MapRead(&'static str, u64, usize),
    Sync(&'static str),
    Rename(&'static str, &'static str),
    Remove(&'static str),
    RemoveDirAll(&'static str),
    List(&'static str),
    Exists(&'static str),
}

const DIRS: [&str; 4] = ["d", "d/e", "d/e/g", "x"];
const FILES: [&str; 6] = ["a", "b", "d/a", "d/b", "d/e/a", "x/a"];
const ANY: [&str; 7] = ["a", "d", "d/a", "d/e", "d/e/a", "x", "a/below"];

fn steps() -> impl Strategy<Value = Step> {
    let file = || prop::sample::select(&FILES[..]);
    let dir = || prop::sample::select(&DIRS[..]);
    let anything = || prop::sample::select(&ANY[..]);
    let off = || prop_oneof![0..20_u64, 500..530_u64, 4_080..4_110_u64];
    let bytes = prop_oneof![0..40_usize, 4_000..9_000_usize].prop_flat_map(|len| prop::collection::vec(any::<u8>(), len));
    prop_oneof![
        3 => dir().prop_map(Step::CreateDirAll),
        3 => (file(), 0..9_000_u64).prop_map(|(f, len)| Step::CreateZeroed(f, len)),
        3 => file().prop_map(Step::Create),
        8 => (file(), off(), bytes).prop_map(|(f, off, b)| Step::Write(f, off, b)),
        4 => (file(), off(), 0..5_000_usize).prop_map(|(f, off, len)| Step::Read(f, off, len)),
        2 => (file(), off(), 0..5_000_usize).prop_map(|(f, off, len)| Step::MapRead(f, off, len)),
        2 => file().prop_map(Step::Sync),
        3 => (anything(), anything()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => anything().prop_map(Step::Remove),
        1 => anything().prop_map(Step::RemoveDirAll),
        1 => anything().prop_map(Step::List),
        1 => anything().prop_map(Step::Exists),
    ]
}

/// What a step shows: text that is compared between disks.
fn run(disk: &dyn Disk, step: &Step) -> String {
    let shown = match step {
        Step::CreateDirAll(dir) => disk.create_dir_all(Path::new(dir)).map(|()| String::new()),
        Step::CreateZeroed(path, len) => disk.create_zeroed(Path::new(path), *len).and_then(|file| content(&*file)),
        Step::Create(path) => disk.create(Path::new(path)).and_then(|file| content(&*file)),
        Step::Write(path, off, bytes) => on(disk, path, |file| write_in_two(file, *off, bytes)),
        Step::Read(path, off, len) => on(disk, path, |file| read(file, *off, *len)),
        Step::MapRead(path, off, len) => on(disk, path, |file| {
            let map = file.map()?;
            let mut buf = vec![0; *len];
            let read = map.read(*off, &mut buf).map(|()| buf);
            assert_eq!(map.slice(*off, *len).map(|b| b.to_vec()), read);
            Ok(format!("{} {read:?}", map.len()))
        }),
        Step::Sync(path) => on(disk, path, |file| file.sync_data().map(|()| String::new())),
        Step::Rename(from, to) => disk.rename(Path::new(from), Path::new(to)).map(|()| String::new()),
        Step::Remove(path) => disk.remove(Path::new(path)).map(|()| String::new()),
        Step::RemoveDirAll(dir) => disk.remove_dir_all(Path::new(dir)).map(|()| String::new()),
        Step::List(dir) => disk.list(Path::new(dir)).map(|paths| format!("{paths:?}")),
        Step::Exists(path) => disk.exists(Path::new(path)).map(|exists| exists.to_string()),
    };
    shown.unwrap_or_else(|error| format!("{:?}", error.kind()))
}

fn on(disk: &dyn Disk, path: &str, act: impl FnOnce(&dyn DiskFile) -> io::Result<String>) -> io::Result<String> {
    disk.open(Path::new(path)).and_then(|file| act(&*file))
}

fn write_in_two(file: &dyn DiskFile, off: u64, bytes: &[u8]) -> io::Result<String> {
    let (head, tail) = bytes.split_at(bytes.len() / 3);
    file.write_at(off, &[IoSlice::new(head), IoSlice::new(&[]), IoSlice::new(tail)])?;
    content(file)
}

fn read(file: &dyn DiskFile, off: u64, len: usize) -> io::Result<String> {
    let mut buf = vec![0; len];
    let count = file.read_at(off, &mut buf)?;
    if let Some(tried) = file.try_read_at(off, &mut vec![0; len])? {
        assert_eq!(tried, count);
    }
    Ok(format!("{:?}", &buf[..count]))
}

fn content(file: &dyn DiskFile) -> io::Result<String> {
    read(file, 0, file.len()? as usize)
}

/// All files below `dir` with their bytes.
fn tree(disk: &dyn Disk, dir: &Path, into: &mut BTreeMap<PathBuf, String>) {
    for path in disk.list(dir).unwrap() {
        let shown = match disk.open(&path) {
            Ok(file) => content(&*file).unwrap(),
            Err(_) => {
                tree(disk, &path, into);
                "directory".to_owned()
            }
        };
        into.insert(path, shown);
    }
}

fn whole(disk: &dyn Disk) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    tree(disk, Path::new(""), &mut files);
    files
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn simulated_disks_answer_as_the_real_one(steps in prop::collection::vec(steps(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let real = RealDisk::new(folder.path());
        let recording = RecordingDisk::new();
        let simulated: [SharedDisk; 3] = [
            Arc::new(MemoryDisk::new()),
            Arc::new(recording.clone()),
            Arc::new(FaultyDisk::new(Arc::new(MemoryDisk::new()))),
        ];
        for step in &steps {
            let expected = run(&real, step);
            for disk in &simulated {
                prop_assert_eq!(run(&**disk, step), expected.clone(), "{:?} on {:?}", step, disk);
            }
        }
        let expected = whole(&real);
        for disk in &simulated {
            prop_assert_eq!(whole(&**disk), expected.clone());
        }
        // A power loss that loses nothing leaves what the readers saw.
        let ops = recording.ops();
        let kept = gantry_platform::disk::crash::replay(&ops, ops.len()).materialize(|_| true);
        prop_assert_eq!(whole(&kept), expected);
    }
}
