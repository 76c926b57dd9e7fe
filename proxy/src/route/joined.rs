//! Which members told all shards of a topic lately that they receive. A poll leases on one shard only, but what its group doesn't want, and where
//! it begins, is decided on each.

use super::shards::Lead;
use gantry_model::ShardId;
use gantry_model::contract::broker::ReceiveRequest;
use gantry_model::group::Sharing;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Members tell it again after this; shards forget a member's filter after a minute.
const AGAIN: Duration = Duration::from_secs(20);
/// Members remembered at the same time; beyond, all tell it again.
const MEMBERS_MAX: usize = 100_000;

/// When each kind of member last told it, and to which leaders. Members of a group with the same filter count as one, as they do for a shard.
#[derive(Debug, Default)]
pub(super) struct Joined(Mutex<HashMap<u64, (Duration, Reigns)>>);

/// The shards of a topic with the epochs of their leaders, as one number: a new leader knows nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reigns(u64);

impl Reigns {
    pub(super) fn of(leads: &[(ShardId, Option<Lead>)]) -> Reigns {
        let mut hasher = DefaultHasher::new();
        leads.iter().for_each(|(shard, lead)| (shard, lead.as_ref().map(|lead| lead.epoch)).hash(&mut hasher));
        Reigns(hasher.finish())
    }
}

impl Joined {
    /// Whether a receive has to tell it before it leases.
    pub(super) fn is_due(&self, request: &ReceiveRequest, reigns: Reigns, now: Duration) -> bool {
        let joined = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        joined.get(&kind_of(request)).is_none_or(|(last, told)| *last + AGAIN <= now || *told != reigns)
    }

    /// All shards know it now.
    pub(super) fn told(&self, request: &ReceiveRequest, reigns: Reigns, now: Duration) {
        let mut joined = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if joined.len() >= MEMBERS_MAX {
            joined.retain(|_, (last, _)| *last + AGAIN > now);
            if joined.len() >= MEMBERS_MAX {
                joined.clear();
            }
        }
        joined.insert(kind_of(request), (now, reigns));
    }
}

fn kind_of(request: &ReceiveRequest) -> u64 {
    let mut hasher = DefaultHasher::new();
    (request.topic.id, request.group.id, &request.filter).hash(&mut hasher);
    if request.group.options.sharing == Sharing::Broadcasting {
        request.member.hash(&mut hasher);
    }
    hasher.finish()
}
