//! Brokers on small disks of their own, in memory: sends are refused before they are full, everything else goes on, and when there is room again so do
//! sends.

use crate::cluster::{Cluster, Shape};
use crate::load::{Load, Outcome};
use gantry_platform::clock::{Clock, SystemClock, sleep};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SMALL: &str = "768m";
const LARGE: &str = "1600m";
/// A disk is filled within this time, or the test is of no use.
const FULL_WITHIN: Duration = Duration::from_secs(240);
const FULL_FOR: Duration = Duration::from_secs(10);
const ROOM_FOR: Duration = Duration::from_secs(10);

/// Small disks, gone at the end.
pub struct Disks {
    folders: Vec<PathBuf>,
}

/// Why there are no small disks here.
pub fn missing() -> Option<&'static str> {
    let folder = tempfile::tempdir().ok()?;
    let disks = Disks { folders: vec![folder.path().to_owned()] };
    let possible = mount(folder.path(), &format!("size={SMALL}"));
    drop(disks);
    (!possible).then_some("`mount -t tmpfs` is not allowed here: root is needed")
}

impl Disks {
    pub fn new(folder: &Path, count: usize) -> Disks {
        let folders: Vec<PathBuf> = (1..=count).map(|number| folder.join(format!("disk-{number}"))).collect();
        for folder in &folders {
            std::fs::create_dir(folder).expect("a folder for a disk");
            assert!(mount(folder, &format!("size={SMALL}")), "a disk can be mounted at {}", folder.display());
        }
        Disks { folders }
    }

    fn grow(&self) {
        for folder in &self.folders {
            assert!(mount(folder, &format!("remount,size={LARGE}")), "a disk can be made larger");
        }
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for folder in &self.folders {
            // Processes that were killed may hold it for a moment.
            let _ = Command::new("umount").arg("--lazy").arg(folder).output();
        }
    }
}

fn mount(folder: &Path, options: &str) -> bool {
    let words = ["-t", "tmpfs", "-o", options, "gantry-test"];
    Command::new("mount").args(words).arg(folder).output().is_ok_and(|output| output.status.success())
}

/// Fills the disks, lets the cluster be full for a while, and makes room.
pub async fn fill(folder: &Path) -> Outcome {
    let disks = Disks::new(folder, 3);
    // The folder of a broker must not be the mount point itself, which can't be replaced.
    let broker_folders = disks.folders.iter().map(|disk| disk.join("data")).collect();
    let cluster = Cluster::start(folder, &Shape { shards: 2, broker_folders, ..Shape::default() }).await;
    let mut load = Load::start(&cluster, "--rate 200/s --size 1MiB --kinds normal --consumers 4 --nacks 0 --expiries 0").await;
    let history = load.history().to_owned();
    let clock = SystemClock::new();
    while !says(&history, "the disk is") {
        assert!(clock.mono() < FULL_WITHIN, "the disks do not become full");
        sleep(Duration::from_millis(500)).await;
    }
    println!("  full after {:?}", clock.mono());
    load.fault("full");
    sleep(FULL_FOR).await;
    disks.grow();
    sleep(ROOM_FOR).await;
    let before = acknowledged(&history);
    sleep(Duration::from_secs(2)).await;
    let after = acknowledged(&history);
    assert!(after > before, "sends go on when there is room again: {before} of them, then {after}");
    let outcome = load.end().await;
    cluster.end().await;
    outcome
}

/// Sends that were acknowledged so far.
fn acknowledged(history: &Path) -> usize {
    let text = std::fs::read_to_string(history).unwrap_or_default();
    text.lines().filter(|line| line.contains(r#""event":"send""#) && line.contains(r#""outcome":"ok""#)).count()
}

fn says(history: &Path, word: &str) -> bool {
    std::fs::read_to_string(history).unwrap_or_default().contains(word)
}
