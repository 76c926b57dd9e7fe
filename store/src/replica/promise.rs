//! What a replica must not forget besides its log: which epoch it promised, and whether it may lack what it once acknowledged.
//!
//! The bytes are those of the shard's `meta` files, which have a version and a checksum and take turns (`docs/design/001-file-format.md`); the
//! incarnation is counted in the folder's `boot` files at each start.

use super::config::StoreId;
use crate::data_folder::Meta;
use crate::zoo;
use gantry_model::{Epoch, Lsn};

/// The durable facts. A core that changes them says `Persist` before any answer that relies on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Promise {
    pub store: StoreId,
    /// No leader of an older epoch is followed.
    pub epoch: Epoch,
    /// The newest configuration that was heard of.
    pub generation: u64,
    /// Frames that were acknowledged may be missing, so this replica's word does not count when a leader is chosen.
    pub suspect: bool,
}

/// What a promise says to a message of some epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A newer epoch was promised.
    Refused,
    /// This epoch was promised.
    Promised,
    /// The promise has to be raised, durably, before anything is done about the message.
    Raise,
}

impl Promise {
    pub fn of(meta: &Meta) -> Promise {
        let suspect = meta.suspect_until > Lsn(0);
        Promise { store: StoreId(meta.store), epoch: meta.promised, generation: meta.configuration, suspect }
    }

    /// The meta as it is to be stored. How far a suspect's acknowledgements went is unknown, so it is suspect all the way.
    pub fn stored_in(self, meta: Meta) -> Meta {
        let suspect_until = match (self.suspect, meta.suspect_until) {
            (false, _) => Lsn(0),
            (true, Lsn(0)) => Lsn(u64::MAX),
            (true, known) => known,
        };
        Meta { store: self.store.0, promised: self.epoch, configuration: self.generation, suspect_until, ..meta }
    }

    /// Rule 1: nothing of an epoch below the promised one is obeyed, and a higher one is promised first.
    pub fn admits(&self, epoch: Epoch) -> Admission {
        match epoch.cmp(&self.epoch) {
            std::cmp::Ordering::Less if zoo!(ObeyOldLeaders) => Admission::Promised,
            std::cmp::Ordering::Less => Admission::Refused,
            std::cmp::Ordering::Equal => Admission::Promised,
            std::cmp::Ordering::Greater => Admission::Raise,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::data_folder::DataFolder;
    use gantry_model::ShardId;
    use gantry_platform::MemoryDisk;
    use gantry_platform::chance::SeededChance;
    use std::path::Path;
    use std::sync::Arc;

    #[test]
    fn a_promise_survives_a_restart() {
        let disk = MemoryDisk::new();
        let mut chance = SeededChance::new(1);
        let folder = DataFolder::open(Arc::new(disk), Path::new("data"), "boot", &mut chance).unwrap();
        let mut shard = folder.open_shard(&mut chance, ShardId(1)).unwrap();
        let fresh = Promise::of(&shard.meta());
        assert_eq!((fresh.epoch, fresh.suspect), (Epoch(0), false));
        for suspect in [true, false] {
            let promise = Promise { epoch: Epoch(7), generation: 3, suspect, ..fresh };
            shard.set_meta(promise.stored_in(shard.meta())).unwrap();
            shard = folder.open_shard(&mut chance, ShardId(1)).unwrap();
            assert_eq!(Promise::of(&shard.meta()), promise);
        }
    }

    #[test]
    fn only_the_promised_epoch_and_newer_ones_are_admitted() {
        let promise = Promise { epoch: Epoch(5), ..Promise::default() };
        let check = |epoch, expected| assert_eq!(promise.admits(Epoch(epoch)), expected, "epoch {epoch}");
        check(4, Admission::Refused);
        check(5, Admission::Promised);
        check(6, Admission::Raise);
    }
}
