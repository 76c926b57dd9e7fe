//! The outside world, real and simulated: disk, maps of files, clock, chance, tasks, net.
//!
//! Everything that makes a run differ from the last one enters Gantry through this crate, so that a test can put a memory disk,
//! a manual clock and a seeded chance in its place and replay a failure from its seed. It holds the only `unsafe` of the project.
//!
//! This crate never knows RocketMQ: no message, no topic, no log format. It never decides what to do about an error, it only
//! reports it; and it never retries a write or a sync.
//!
//! Read `disk.rs` first: the contract of [`disk::Disk`] is what the store's safety rests on.

#![deny(unsafe_code)]
#![warn(missing_docs)]
// What the linter forbids elsewhere is what this crate is for.
#![allow(clippy::disallowed_methods)]

pub mod disk;
#[allow(unsafe_code)]
pub mod mmap;
#[allow(unsafe_code)]
mod sys;

pub mod chance;
pub mod clock;
pub mod net;
pub mod tasks;
pub mod workers;

pub use chance::{Chance, SeededChance, SystemChance};
pub use clock::{Clock, ManualClock, RuntimeClock, SharedClock, SystemClock};
pub use disk::faulty::FaultyDisk;
pub use disk::fragile::FragileDisk;
pub use disk::memory::MemoryDisk;
pub use disk::real::RealDisk;
pub use disk::recording::RecordingDisk;
pub use disk::{Disk, DiskFile, Lock, SharedDisk, Space};
pub use mmap::Map;
pub use sys::{SIGBUS_EXIT_CODE, install_sigbus_handler};
