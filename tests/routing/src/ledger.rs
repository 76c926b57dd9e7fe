//! Who holds what: every lease that a shard grants and every end of one is written down the moment it happens.
//!
//! The rule of the whole: a poll holds messages of one lease at most. A client here has one poll at a time, so a lease for a client that holds
//! another one is a mistake, unless it is the same again.

use gantry_model::{ClientId, LeaseId, ReceiptHandle, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A place of a message, over all shards.
pub type PlaceOf = (ShardId, u32, u64);

fn place(handle: &ReceiptHandle) -> PlaceOf {
    (handle.shard, handle.queue.0, handle.offset.0)
}

#[derive(Debug, Default)]
struct Notes {
    held: BTreeMap<ClientId, BTreeSet<(ShardId, LeaseId, u32, u64)>>,
    leased: BTreeMap<PlaceOf, u32>,
    mistakes: Vec<String>,
    steps: u64,
}

/// The ledger of all shards of a test.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Notes>>);

impl Ledger {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A shard did something.
    pub fn step(&self) {
        self.notes().steps += 1;
    }

    pub fn steps(&self) -> u64 {
        self.notes().steps
    }

    /// A shard gave messages to a client.
    pub fn granted(&self, client: &ClientId, handles: &[ReceiptHandle]) {
        if handles.is_empty() {
            return;
        }
        let mut notes = self.notes();
        let held = notes.held.entry(client.clone()).or_default().clone();
        let new: BTreeSet<_> = handles.iter().map(|handle| (handle.shard, handle.lease, handle.queue.0, handle.offset.0)).collect();
        let lease = |held: &BTreeSet<(ShardId, LeaseId, u32, u64)>| held.iter().map(|&(shard, lease, ..)| (shard, lease)).collect::<BTreeSet<_>>();
        if !held.is_empty() && lease(&held) != lease(&new) {
            notes.mistakes.push(format!("{client} holds {held:?} and is given {new:?}"));
        }
        for handle in handles.iter().filter(|handle| !held.contains(&(handle.shard, handle.lease, handle.queue.0, handle.offset.0))) {
            *notes.leased.entry(place(handle)).or_default() += 1;
        }
        notes.held.entry(client.clone()).or_default().extend(new);
    }

    /// Messages were finished or given back.
    pub fn ended(&self, handles: &[ReceiptHandle]) {
        let mut notes = self.notes();
        for handle in handles {
            let key = (handle.shard, handle.lease, handle.queue.0, handle.offset.0);
            for held in notes.held.values_mut() {
                held.remove(&key);
            }
            notes.held.retain(|_, held| !held.is_empty());
        }
    }

    /// How often each message was leased.
    pub fn leased(&self) -> BTreeMap<PlaceOf, u32> {
        self.notes().leased.clone()
    }

    pub fn holders(&self) -> Vec<ClientId> {
        self.notes().held.keys().cloned().collect()
    }

    /// Panics if anything was wrong.
    pub fn check(&self) {
        let mistakes = std::mem::take(&mut self.notes().mistakes);
        assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    }
}
