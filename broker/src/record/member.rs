//! Members of broadcasting groups.

use crate::codec::{Reader, Writer};
use gantry_model::GroupId;

/// A member of a broadcasting group reads for itself from now on, under a group number of the shard's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: GroupId,
    pub group: GroupId,
    pub name: String,
    /// The shard's time.
    pub joined_ms: u64,
}

impl Member {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.id.0);
        out.u32(self.group.0);
        out.u64(self.joined_ms);
        out.text(&self.name);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Member> {
        let (id, group, joined_ms) = (GroupId(input.u32()?), GroupId(input.u32()?), input.u64()?);
        Some(Member { id, group, name: input.text()?.to_owned(), joined_ms })
    }
}
