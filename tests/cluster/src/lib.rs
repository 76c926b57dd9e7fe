//! A cluster of real processes that is broken in every way a machine allows, while `gantry verify` sends, receives and acknowledges: kills, pauses
//! longer than every timeout, cut networks, full disks, restarts of everything. Afterwards no promise may be broken, and the time in which
//! sends were not acknowledged is what the figures say.
//!
//! Read in this order: `process` (one process), `network` (each in a network namespace of its own, which can be cut), `cluster` (all of them, and who
//! leads), `load` (what goes on meanwhile), `figures`; then the scenarios: `crashes`, `pauses`, `cuts`, `disks`, `restarts`. The official clients run
//! through failovers with `tests/compat/runner/run --cluster`.

pub mod process;

pub mod network;

pub mod cluster;

pub mod load;

pub mod figures;

pub mod crashes;
pub mod cuts;
pub mod disks;
pub mod pauses;
pub mod restarts;
