//! The life of the shard itself: reigns, the beginning of the log, deleted topics and groups.

use crate::codec::{Reader, Writer};
use gantry_model::{GroupId, Lsn, QueueKey, TopicId};
use gantry_store::replica::{Config, Member, NodeId, StoreId};

/// A leader begins; leases move by the time that nobody led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: u32,
    pub shift_ms: u64,
    /// An operator made it leader although committed frames may be missing.
    pub unclean: bool,
    /// Who leads and who has copies, if there are several.
    pub copies: Option<Copies>,
}

/// The members of a shard in one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    pub leader: Member,
    pub config: Config,
}

/// The log begins later; queues begin later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trim {
    pub start: Lsn,
    /// Queues whose first offset moved, with the new one.
    pub queues: Vec<(QueueKey, u64)>,
}

/// A topic or a group was deleted; what the shard holds of it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget {
    Topic(TopicId),
    Group(GroupId),
}

impl EpochStart {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.epoch);
        out.u64(self.shift_ms);
        out.u8(u8::from(self.unclean));
        let Some(Copies { leader, config }) = &self.copies else { return out.u8(0) };
        out.u8(config.members().len() as u8);
        out.u8(config.w() as u8);
        out.u64(config.generation());
        [leader].into_iter().chain(config.members()).for_each(|member| put_member(out, *member));
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<EpochStart> {
        let (epoch, shift_ms, unclean) = (input.u32()?, input.u64()?, input.u8()? != 0);
        let copies = match input.u8()? {
            0 => None,
            count => {
                let (w, generation, leader) = (input.u8()?, input.u64()?, member(input)?);
                let members: Vec<Member> = (0..count).map(|_| member(input)).collect::<Option<_>>()?;
                Some(Copies { leader, config: Config::with_copies(generation, members, usize::from(w)).ok()? })
            }
        };
        Some(EpochStart { epoch, shift_ms, unclean, copies })
    }
}

fn put_member(out: &mut Writer, member: Member) {
    out.u64(member.node.0);
    member.store.0.into_iter().for_each(|byte| out.u8(byte));
}

fn member(input: &mut Reader<'_>) -> Option<Member> {
    let node = NodeId(input.u64()?);
    let mut store = [0; 16];
    for byte in &mut store {
        *byte = input.u8()?;
    }
    Some(Member { node, store: StoreId(store) })
}

impl Trim {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u64(self.start.0);
        out.varint(self.queues.len() as u64);
        for &(queue, min) in &self.queues {
            out.u64(queue.0);
            out.varint(min);
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Trim> {
        let start = Lsn(input.u64()?);
        let mut queues = Vec::new();
        for _ in 0..input.varint()? {
            queues.push((QueueKey(input.u64()?), input.varint()?));
        }
        Some(Trim { start, queues })
    }
}

impl Forget {
    pub(super) fn encode(&self, out: &mut Writer) {
        let (what, id) = match self {
            Forget::Topic(topic) => (0, topic.0),
            Forget::Group(group) => (1, group.0),
        };
        out.u8(what);
        out.u32(id);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Forget> {
        match input.u8()? {
            0 => Some(Forget::Topic(TopicId(input.u32()?))),
            1 => Some(Forget::Group(GroupId(input.u32()?))),
            _ => None,
        }
    }
}
