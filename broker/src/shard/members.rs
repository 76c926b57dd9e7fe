//! Broadcasting groups: every member gets every message.
//!
//! A member is a reader of its own: it has a group number that this shard gave out, and with it cursors, leases and retries like any group.
//! Handles carry that number. A member is forgotten when it has not asked for anything for a day.

use super::core::{Core, Draft};
use crate::record::{Member, Record};
use gantry_model::group::Sharing;
use gantry_model::{Group, GroupId, ReceiptHandle};
use std::sync::Arc;

/// A member that has not asked for this long is forgotten.
const IDLE_MS: u64 = 24 * 3600 * 1000;

impl<D: Draft> Core<D> {
    /// The reader behind a receive: the group, or its member of that name.
    pub(super) fn reader(&mut self, group: &Arc<Group>, name: &str) -> Arc<Group> {
        if group.options.sharing == Sharing::Clustering {
            return group.clone();
        }
        let known = self.state.head.members.values().find(|member| member.group == group.id && member.name == name);
        let member = match known.cloned() {
            Some(member) => member,
            None => {
                let id = GroupId(self.state.head.last_member.max(GroupId::MEMBERS) + 1);
                let member = Member { id, group: group.id, name: name.to_owned(), joined_ms: self.now };
                self.append(Record::Member(member.clone()));
                member
            }
        };
        self.member_seen.insert(member.id, self.now);
        reading_for(group, &member)
    }

    /// Who a handle was given to, if it is the group or one of its members.
    pub(super) fn holder_group(&self, group: GroupId, handle: &ReceiptHandle) -> Option<GroupId> {
        let member = || self.state.head.members.get(&handle.group).is_some_and(|member| member.group == group);
        (handle.group == group || member()).then_some(handle.group)
    }

    /// The definition under which a handle's holder reads.
    pub(super) fn holder_definition(&self, group: &Arc<Group>, holder: GroupId) -> Arc<Group> {
        match self.state.head.members.get(&holder) {
            Some(member) => reading_for(group, member),
            None => group.clone(),
        }
    }

    /// The readers of a group on this shard.
    pub(super) fn readers(&self, group: &Group) -> Vec<GroupId> {
        match group.options.sharing {
            Sharing::Clustering => vec![group.id],
            Sharing::Broadcasting => self.members_of(group.id).map(|member| member.id).collect(),
        }
    }

    pub(super) fn members_of(&self, group: GroupId) -> impl Iterator<Item = &Member> + '_ {
        self.state.head.members.values().filter(move |member| member.group == group)
    }

    /// Members of all groups that have not asked for anything for a day.
    pub fn idle_members(&mut self) -> Vec<GroupId> {
        let (now, seen) = (self.now, &mut self.member_seen);
        let members = self.state.head.members.keys();
        // A member that was not heard of by this leader counts from now on.
        members.copied().filter(|id| *seen.entry(*id).or_insert(now) + IDLE_MS <= now).collect()
    }
}

/// A group as one of its members reads for it: it begins where the group begins, or when the member joined.
pub(super) fn reading_for(group: &Group, member: &Member) -> Arc<Group> {
    Arc::new(Group { id: member.id, created_ms: member.joined_ms, ..group.clone() })
}
