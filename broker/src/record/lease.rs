//! Deliveries: given, finished, moved, lapsed.

use super::{place, put_place};
use crate::codec::{Reader, Writer};
use gantry_model::{ClientId, GroupId, LeaseId, Offset, QueueKey};

/// Messages of one or several queues given to one client by one receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub group: GroupId,
    pub id: LeaseId,
    /// When the leases end, in the shard's time; the cap when they have an owner.
    pub deadline: u64,
    pub client: ClientId,
    /// Whether the leases last as long as the client lives.
    pub owned: bool,
    /// The client's name for this receive, so that a repeated one gets the same batch.
    pub attempt_id: Option<String>,
    pub queues: Vec<LeasedQueue>,
}

/// The part of a [`Lease`] on one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasedQueue {
    pub queue: QueueKey,
    /// Where the group starts, if it has no position on this queue yet.
    pub start: Offset,
    /// First offset that was never looked at after this.
    pub next: Offset,
    /// Leased offsets, ascending, with the number of this delivery and the lane: 0, or the number of the message group whose order is kept.
    pub leased: Vec<(u64, u32, u32)>,
    /// New offsets below `next`, ascending, with their lanes: messages that another member's filter wants, or whose message group is busy.
    pub passed: Vec<(u64, u32)>,
    /// Passed offsets of before, ascending, that nobody wants any more; they are finished.
    pub skipped: Vec<u64>,
}

/// Deliveries that are finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    pub group: GroupId,
    pub queues: Vec<(QueueKey, Vec<u64>)>,
}

/// The end of a delivery moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetVisible {
    pub group: GroupId,
    pub queue: QueueKey,
    pub offset: Offset,
    /// When the message becomes visible, in the shard's time.
    pub at: u64,
    pub how: Visibility,
}

/// What moving the end means for the delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Visibility {
    /// The consumer keeps it until then.
    Extended = 0,
    /// The consumer failed; the message waits until then.
    Nacked = 1,
    /// The message waits until then, and the delivery doesn't count.
    Suspended = 2,
}

/// Deliveries that ended by themselves; the messages wait until the given times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expire {
    pub group: GroupId,
    pub queue: QueueKey,
    /// Offset and the time at which it becomes visible.
    pub ended: Vec<(u64, u64)>,
}

impl Lease {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.group.0);
        out.u64(self.id.0);
        out.u64(self.deadline);
        out.u8(u8::from(self.owned) | u8::from(self.attempt_id.is_some()) << 1);
        out.text(self.client.as_str());
        if let Some(attempt_id) = &self.attempt_id {
            out.text(attempt_id);
        }
        out.varint(self.queues.len() as u64);
        for queue in &self.queues {
            out.u64(queue.queue.0);
            out.varint(queue.start.0);
            out.varint(queue.next.0);
            out.ascending(queue.leased.iter().map(|&(offset, ..)| offset));
            for &(_, attempt, _) in &queue.leased {
                out.varint(u64::from(attempt));
            }
            put_lanes(out, queue.leased.iter().map(|&(.., lane)| lane));
            out.ascending(queue.passed.iter().map(|&(offset, _)| offset));
            put_lanes(out, queue.passed.iter().map(|&(_, lane)| lane));
            out.ascending(queue.skipped.iter().copied());
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Lease> {
        let (group, id, deadline, flags) = (GroupId(input.u32()?), LeaseId(input.u64()?), input.u64()?, input.u8()?);
        let client = ClientId::new(input.text()?);
        let attempt_id = if flags & 2 != 0 { Some(input.text()?.to_owned()) } else { None };
        let mut queues = Vec::new();
        for _ in 0..input.varint()? {
            let (queue, start, next) = (QueueKey(input.u64()?), Offset(input.varint()?), Offset(input.varint()?));
            let offsets = input.ascending()?;
            let mut attempts = Vec::with_capacity(offsets.len());
            for _ in &offsets {
                attempts.push(input.varint32()?);
            }
            let lanes = lanes(input, offsets.len())?;
            let leased = offsets.into_iter().zip(attempts).zip(lanes).map(|((offset, attempt), lane)| (offset, attempt, lane)).collect();
            let offsets = input.ascending()?;
            let lanes = self::lanes(input, offsets.len())?;
            let passed = offsets.into_iter().zip(lanes).collect();
            queues.push(LeasedQueue { queue, start, next, leased, passed, skipped: input.ascending()? });
        }
        Some(Lease { group, id, deadline, client, owned: flags & 1 != 0, attempt_id, queues })
    }
}

/// One byte if no message has a lane, which is the common case.
fn put_lanes(out: &mut Writer, lanes: impl Iterator<Item = u32> + Clone) {
    let any = lanes.clone().any(|lane| lane != 0);
    out.u8(u8::from(any));
    if any {
        lanes.for_each(|lane| out.u32(lane));
    }
}

fn lanes(input: &mut Reader<'_>, count: usize) -> Option<Vec<u32>> {
    match input.u8()? {
        0 => Some(vec![0; count]),
        1 => (0..count).map(|_| input.u32()).collect(),
        _ => None,
    }
}

impl Ack {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.group.0);
        out.varint(self.queues.len() as u64);
        for (queue, offsets) in &self.queues {
            out.u64(queue.0);
            out.ascending(offsets.iter().copied());
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Ack> {
        let group = GroupId(input.u32()?);
        let mut queues = Vec::new();
        for _ in 0..input.varint()? {
            queues.push((QueueKey(input.u64()?), input.ascending()?));
        }
        Some(Ack { group, queues })
    }
}

impl SetVisible {
    pub(super) fn encode(&self, out: &mut Writer) {
        put_place(out, self.group, self.queue, self.offset);
        out.u64(self.at);
        out.u8(self.how as u8);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<SetVisible> {
        let (group, queue, offset) = place(input)?;
        let at = input.u64()?;
        let how = match input.u8()? {
            0 => Visibility::Extended,
            1 => Visibility::Nacked,
            2 => Visibility::Suspended,
            _ => return None,
        };
        Some(SetVisible { group, queue, offset, at, how })
    }
}

impl Expire {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u32(self.group.0);
        out.u64(self.queue.0);
        out.varint(self.ended.len() as u64);
        for &(offset, visible) in &self.ended {
            out.varint(offset);
            out.varint(visible);
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Expire> {
        let (group, queue) = (GroupId(input.u32()?), QueueKey(input.u64()?));
        let mut ended = Vec::new();
        for _ in 0..input.varint()? {
            ended.push((input.varint()?, input.varint()?));
        }
        Some(Expire { group, queue, ended })
    }
}
