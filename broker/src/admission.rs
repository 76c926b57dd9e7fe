//! How much may be under way into a shard: bytes that were accepted and are not answered yet.
//!
//! Messages may fill nine tenths of the budget; acknowledgements, leases and the like may fill all of it, so that consumers can always finish
//! what they hold when producers press.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The budget of one shard.
#[derive(Clone, Debug)]
pub struct Admission {
    used: Arc<AtomicUsize>,
    limit: usize,
}

/// Whose bytes they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Data,
    Control,
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl Admission {
    pub fn new(limit: usize) -> Admission {
        Admission { used: Arc::default(), limit }
    }

    /// Takes a part of the budget, or nothing if it is used up. A single request larger than the budget is taken when nothing else is under way.
    pub fn enter(&self, lane: Lane, bytes: usize) -> Option<Permit> {
        let limit = match lane {
            Lane::Data => self.limit / 10 * 9,
            Lane::Control => self.limit,
        };
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let permit = Permit { used: self.used.clone(), bytes };
        (before == 0 || before + bytes <= limit).then_some(permit)
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_passes_where_data_is_refused() {
        let admission = Admission::new(100);
        let data = admission.enter(Lane::Data, 90).expect("fits");
        assert!(admission.enter(Lane::Data, 1).is_none());
        let control = admission.enter(Lane::Control, 10).expect("the last tenth is for control");
        assert!(admission.enter(Lane::Control, 1).is_none());
        drop((data, control));
        assert_eq!(admission.used(), 0);
        assert!(admission.enter(Lane::Data, 1_000).is_some(), "alone, anything passes");
    }
}
