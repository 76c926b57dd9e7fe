//! A shard as its files say it is: the newest checkpoint, the log, and what of the log the checkpoint doesn't have.
//!
//! Only the log is needed. Without a checkpoint the state is computed from the whole log, without an index run its segment is read again.

use crate::shard::replay::{Applied, table_of};
use crate::shard::state::State;
use crate::shard::upkeep::{Restored, Retention, restore};
use gantry_model::contract::Metadata;
use gantry_model::{Lsn, ShardId};
use gantry_platform::clock::SharedClock;
use gantry_platform::disk::SharedDisk;
use gantry_store::checkpoint;
use gantry_store::index::{Index, SealJob};
use gantry_store::install::Install;
pub use gantry_store::log::Damage;
use gantry_store::log::{self, CommitLog, Verdict};
use gantry_store::zoo;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

const MIB: u64 = 1024 * 1024;

/// What a shard is opened with.
#[derive(Clone)]
pub struct Options {
    pub disk: SharedDisk,
    /// The shard's folder.
    pub dir: PathBuf,
    pub clock: SharedClock,
    pub metadata: Arc<dyn Metadata>,
    pub shard: ShardId,
    pub cluster: [u8; 16],
    pub retention: Retention,
    /// Goes on over damaged ranges of the log; what was in them is lost.
    pub skip_damaged: bool,
    pub sizes: Sizes,
}

/// Sizes of what is written; tests make them small to see many of each.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub first_segment: u64,
    pub max_segment: u64,
    /// Bytes of log between two checkpoints.
    pub checkpoint: u64,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { first_segment: 16 * MIB, max_segment: 256 * MIB, checkpoint: 64 * MIB }
    }
}

/// Why a shard could not be opened. Nothing was changed.
#[derive(Debug)]
pub struct OpenError {
    why: String,
    /// What is damaged, where another copy can help.
    pub damage: Option<Damage>,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for OpenError {}

/// A shard as its files say it is, before anybody leads it.
pub struct Recovered {
    pub log: CommitLog,
    /// As of the newest checkpoint: what follows may not be committed.
    pub applied: Applied,
    /// The position of the checkpoint that the state came from.
    pub checkpoint: Lsn,
    pub last_time: u64,
    /// Whether an unacknowledged tail was cut off.
    pub torn: bool,
    /// Index runs that were missing and have to be written.
    pub seals: Vec<gantry_store::index::SealJob>,
    /// In the middle of an install: the state of this address waits until the log has got so far, and `applied` has nothing.
    pub waits: Option<Lsn>,
}

impl Recovered {
    /// Takes everything in the log for committed, as it is where there are no other copies.
    pub fn apply_all(&mut self) -> Result<(), OpenError> {
        let end = self.log.end();
        self.seals.extend(self.applied.advance(&self.log, end).map_err(OpenError::of)?.seals);
        Ok(())
    }
}

/// Reads a shard's files, and mends what a crash left half done.
pub fn recover(options: &Options) -> Result<Recovered, OpenError> {
    let disk = &options.disk;
    let Sizes { first_segment, max_segment, .. } = options.sizes;
    let settings =
        log::Options { first_segment, max_segment, skip_damaged: options.skip_damaged, ..log::Options::new(options.shard, options.cluster) };
    if let Some(install) = Install::resume(&**disk, &options.dir, &settings).map_err(OpenError::of)?
        && let Some(waiting) = go_on_installing(options, &settings, install)?
    {
        return Ok(waiting);
    }
    let loaded = checkpoint::load_newest(&**disk, &options.dir.join("state")).map_err(OpenError::of)?;
    let written = loaded.is_some();
    let restored = loaded.and_then(restore);
    if written && restored.is_none() {
        tracing::warn!("the newest checkpoint is of another version; the state is computed from the log");
    }
    let known = restored.as_ref().map_or_else(log::Known::default, |restored| log::Known { until: restored.at, epochs: restored.epochs.clone() });
    let (log, recovery) = CommitLog::open(disk.clone(), &options.dir, settings, known).map_err(OpenError::of_log)?;
    for (from, to) in &recovery.set_aside {
        tracing::error!(%from, %to, "a damaged range of the log was set aside in `bad/`; what was in it is lost");
    }
    if restored.is_none() && log.start() > Lsn(0) && !options.skip_damaged {
        let why = format!(
            "no checkpoint can be read, and the log begins at {}: the state before is lost; restore `{}`, or start with `--skip-damaged` to go on without it",
            log.start(),
            options.dir.join("state").display()
        );
        return Err(OpenError { why, damage: Some(Damage::Whole) });
    }
    let (applied, seals) = applied_at(options, &log, restored.filter(|restored| restored.at <= log.end()))?;
    let checkpoint = applied.at();
    Ok(Recovered { log, applied, checkpoint, last_time: recovery.last_time, torn: recovery.verdict != Verdict::Clean, seals, waits: None })
}

/// A replica whose log has not got as far as its leader's state, which it took over. Without anything if it has: then it is as any other.
fn go_on_installing(options: &Options, settings: &log::Options, install: Install) -> Result<Option<Recovered>, OpenError> {
    let disk = &options.disk;
    let restored = install.checkpoint(&**disk).map_err(OpenError::of)?.and_then(restore);
    let known = log::Known { until: install.origin.start, epochs: restored.map(|restored| restored.epochs).unwrap_or_default() };
    let (log, recovery) = CommitLog::open(disk.clone(), &options.dir, settings.clone(), known).map_err(OpenError::of_log)?;
    if log.end() >= install.state || zoo!(InstallUnwaited) {
        drop(log);
        install.finish(&**disk, &options.dir).map_err(OpenError::of)?;
        return Ok(None);
    }
    let start = log.start();
    let index = Index::open(&**disk, &options.dir.join("idx"), &[], start, None).map_err(OpenError::of)?.index;
    let applied = Applied::new(State::default(), index, start, start);
    let torn = recovery.verdict != Verdict::Clean;
    Ok(Some(Recovered { log, applied, checkpoint: start, last_time: recovery.last_time, torn, seals: Vec::new(), waits: Some(install.state) }))
}

/// State and index as of the newest checkpoint, of a shard whose log is open.
pub(crate) fn reload(options: &Options, log: &CommitLog) -> Result<(Applied, Vec<SealJob>), OpenError> {
    let loaded = checkpoint::load_newest(&*options.disk, &options.dir.join("state")).map_err(OpenError::of)?;
    applied_at(options, log, loaded.and_then(restore))
}

/// What a checkpoint holds, or the beginning of the log, with the index up to the segment where that is. Answers also the index runs that were missing.
fn applied_at(options: &Options, log: &CommitLog, restored: Option<Restored>) -> Result<(Applied, Vec<SealJob>), OpenError> {
    let (at, state, slots) = match restored {
        Some(restored) => (restored.at, restored.state, Some(restored.slots)),
        None => (log.start(), State::default(), None),
    };
    let segments = log.segments();
    let segment = segments.iter().rev().map(|segment| segment.base).find(|base| *base <= at).unwrap_or(log.start());
    let sealed: Vec<Lsn> = segments.iter().map(|segment| segment.base).filter(|base| *base < segment).collect();
    let opened = Index::open(&*options.disk, &options.dir.join("idx"), &sealed, segment, slots).map_err(OpenError::of)?;
    opened.refused.iter().for_each(|error| tracing::warn!(%error, "an index run can't be used; its segment is read again"));
    let mut index = opened.index;
    let reader = log.reader();
    let mut seals = Vec::new();
    for base in index.missing() {
        let end = sealed.iter().copied().find(|next| *next > base).unwrap_or(segment);
        let Some(job) = index.replayed(table_of(&reader, base, end).map_err(OpenError::of)?) else { continue };
        // Written at once: a replica that was installed lacks all of them, and they would not fit into memory together.
        match job.write(&*options.disk) {
            Ok(run) => index.sealed(run),
            Err(error) => {
                tracing::warn!(%error, "an index run could not be written; it is tried again");
                seals.push(job);
            }
        }
    }
    Ok((Applied::new(state, index, at, segment), seals))
}

impl OpenError {
    fn of_log(error: log::OpenError) -> OpenError {
        OpenError { why: error.to_string(), damage: error.damage() }
    }

    pub(crate) fn of(error: impl fmt::Display) -> OpenError {
        OpenError { why: error.to_string(), damage: None }
    }
}
