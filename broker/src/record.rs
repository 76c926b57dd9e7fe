//! What the log says besides messages: the payloads of the broker's frames, as bytes.
//!
//! A record states facts that the leader decided: which offsets were leased, until when, what became of them. Applying one needs no
//! configuration, no clock and no chance, so every replica and every restart computes the same state. Numbers are little endian; counts and
//! offset differences are LEB128 varints. `docs/design/003-records.md` draws each payload.

use crate::codec::{Reader, Writer};
use gantry_model::message::DeadReason;
use gantry_model::{ClientId, GroupId, LeaseId, Lsn, Offset, QueueKey, TopicId};
use gantry_store::frame::Kind;
use std::fmt;

/// Everything but messages that the broker appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    EpochStart(EpochStart),
    Lease(Lease),
    Ack(Ack),
    SetVisible(SetVisible),
    Expire(Expire),
    Dead(Dead),
    Trim(Trim),
    Forget(Forget),
}

/// A leader begins; leases move by the time that nobody led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: u32,
    pub shift_ms: u64,
}

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
    /// Leased offsets, ascending, with the number of this delivery.
    pub leased: Vec<(u64, u32)>,
    /// Offsets below `next` that this client's filter refused and another member's wants.
    pub kept: Vec<u64>,
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

/// A message goes to the dead letter queue, and the group is finished with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    pub group: GroupId,
    pub queue: QueueKey,
    pub offset: Offset,
    pub attempts: u32,
    pub reason: DeadReason,
    pub dead_queue: QueueKey,
    pub dead_offset: Offset,
    /// Where the message itself is.
    pub original: Lsn,
    /// The payload of the message's own frame, when the original will be deleted before the dead letter.
    pub copy: Vec<u8>,
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

/// A payload that is not what its kind says. The frame's checksum was right, so this is a defect, not damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub kind: Kind,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frame of kind `{:?}` has a payload that this version can't read", self.kind)
    }
}

impl std::error::Error for Malformed {}

impl Record {
    pub fn kind(&self) -> Kind {
        match self {
            Record::EpochStart(_) => Kind::EpochStart,
            Record::Lease(_) => Kind::Lease,
            Record::Ack(_) => Kind::Ack,
            Record::SetVisible(_) => Kind::SetVisible,
            Record::Expire(_) => Kind::Expire,
            Record::Dead(_) => Kind::Dead,
            Record::Trim(_) => Kind::Trim,
            Record::Forget(_) => Kind::Forget,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(64));
        match self {
            Record::EpochStart(start) => {
                out.u32(start.epoch);
                out.u64(start.shift_ms);
            }
            Record::Lease(lease) => lease.encode(&mut out),
            Record::Ack(ack) => {
                out.u32(ack.group.0);
                out.varint(ack.queues.len() as u64);
                for (queue, offsets) in &ack.queues {
                    out.u64(queue.0);
                    out.ascending(offsets.iter().copied());
                }
            }
            Record::SetVisible(set) => {
                put_place(&mut out, set.group, set.queue, set.offset);
                out.u64(set.at);
                out.u8(set.how as u8);
            }
            Record::Expire(expire) => {
                out.u32(expire.group.0);
                out.u64(expire.queue.0);
                out.varint(expire.ended.len() as u64);
                for &(offset, visible) in &expire.ended {
                    out.varint(offset);
                    out.varint(visible);
                }
            }
            Record::Dead(dead) => dead.encode(&mut out),
            Record::Trim(trim) => {
                out.u64(trim.start.0);
                out.varint(trim.queues.len() as u64);
                for &(queue, min) in &trim.queues {
                    out.u64(queue.0);
                    out.varint(min);
                }
            }
            Record::Forget(Forget::Topic(topic)) => {
                out.u8(0);
                out.u32(topic.0);
            }
            Record::Forget(Forget::Group(group)) => {
                out.u8(1);
                out.u32(group.0);
            }
        }
        out.0
    }

    /// Reads a payload; `None` for kinds that are not records of the broker.
    pub fn decode(kind: Kind, payload: &[u8]) -> Result<Option<Record>, Malformed> {
        let mut input = Reader(payload);
        let record = match kind {
            Kind::EpochStart => input.u32().zip(input.u64()).map(|(epoch, shift_ms)| Record::EpochStart(EpochStart { epoch, shift_ms })),
            Kind::Lease => Lease::decode(&mut input).map(Record::Lease),
            Kind::Ack => decode_ack(&mut input).map(Record::Ack),
            Kind::SetVisible => decode_set_visible(&mut input).map(Record::SetVisible),
            Kind::Expire => decode_expire(&mut input).map(Record::Expire),
            Kind::Dead => Dead::decode(&mut input).map(Record::Dead),
            Kind::Trim => decode_trim(&mut input).map(Record::Trim),
            Kind::Forget => decode_forget(&mut input).map(Record::Forget),
            _ => return Ok(None),
        };
        match record {
            Some(record) if input.0.is_empty() => Ok(Some(record)),
            _ => Err(Malformed { kind }),
        }
    }
}

impl Lease {
    fn encode(&self, out: &mut Writer) {
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
            out.ascending(queue.leased.iter().map(|&(offset, _)| offset));
            for &(_, attempt) in &queue.leased {
                out.varint(u64::from(attempt));
            }
            out.ascending(queue.kept.iter().copied());
        }
    }

    fn decode(input: &mut Reader<'_>) -> Option<Lease> {
        let (group, id, deadline, flags) = (GroupId(input.u32()?), LeaseId(input.u64()?), input.u64()?, input.u8()?);
        let client = ClientId::new(input.text()?);
        let attempt_id = if flags & 2 != 0 { Some(input.text()?.to_owned()) } else { None };
        let mut queues = Vec::new();
        for _ in 0..input.varint()? {
            let (queue, start, next) = (QueueKey(input.u64()?), Offset(input.varint()?), Offset(input.varint()?));
            let offsets = input.ascending()?;
            let mut leased = Vec::with_capacity(offsets.len());
            for offset in offsets {
                leased.push((offset, input.varint32()?));
            }
            queues.push(LeasedQueue { queue, start, next, leased, kept: input.ascending()? });
        }
        Some(Lease { group, id, deadline, client, owned: flags & 1 != 0, attempt_id, queues })
    }
}

impl Dead {
    fn encode(&self, out: &mut Writer) {
        put_place(out, self.group, self.queue, self.offset);
        out.u32(self.attempts);
        out.u8(self.reason as u8);
        out.u64(self.dead_queue.0);
        out.u64(self.dead_offset.0);
        out.u64(self.original.0);
        out.0.extend_from_slice(&self.copy);
    }

    fn decode(input: &mut Reader<'_>) -> Option<Dead> {
        let (group, queue, offset) = place(input)?;
        let attempts = input.u32()?;
        let reason = match input.u8()? {
            1 => DeadReason::MaxAttempts,
            2 => DeadReason::Forwarded,
            _ => return None,
        };
        let (dead_queue, dead_offset, original) = (QueueKey(input.u64()?), Offset(input.u64()?), Lsn(input.u64()?));
        let copy = std::mem::take(&mut input.0).to_vec();
        Some(Dead { group, queue, offset, attempts, reason, dead_queue, dead_offset, original, copy })
    }

    /// Reads the payload of a `Dead` frame; the copy stays out, `FIXED` says where it begins.
    pub fn parse(payload: &[u8]) -> Option<Dead> {
        Dead::decode(&mut Reader(payload.get(..Dead::FIXED)?))
    }

    /// Bytes before `copy`: where the copied payload begins in the frame's payload.
    pub const FIXED: usize = 4 + 8 + 8 + 4 + 1 + 8 + 8 + 8;
}

fn put_place(out: &mut Writer, group: GroupId, queue: QueueKey, offset: Offset) {
    out.u32(group.0);
    out.u64(queue.0);
    out.u64(offset.0);
}

fn place(input: &mut Reader<'_>) -> Option<(GroupId, QueueKey, Offset)> {
    Some((GroupId(input.u32()?), QueueKey(input.u64()?), Offset(input.u64()?)))
}

fn decode_ack(input: &mut Reader<'_>) -> Option<Ack> {
    let group = GroupId(input.u32()?);
    let mut queues = Vec::new();
    for _ in 0..input.varint()? {
        queues.push((QueueKey(input.u64()?), input.ascending()?));
    }
    Some(Ack { group, queues })
}

fn decode_set_visible(input: &mut Reader<'_>) -> Option<SetVisible> {
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

fn decode_expire(input: &mut Reader<'_>) -> Option<Expire> {
    let (group, queue) = (GroupId(input.u32()?), QueueKey(input.u64()?));
    let mut ended = Vec::new();
    for _ in 0..input.varint()? {
        ended.push((input.varint()?, input.varint()?));
    }
    Some(Expire { group, queue, ended })
}

fn decode_trim(input: &mut Reader<'_>) -> Option<Trim> {
    let start = Lsn(input.u64()?);
    let mut queues = Vec::new();
    for _ in 0..input.varint()? {
        queues.push((QueueKey(input.u64()?), input.varint()?));
    }
    Some(Trim { start, queues })
}

fn decode_forget(input: &mut Reader<'_>) -> Option<Forget> {
    match input.u8()? {
        0 => Some(Forget::Topic(TopicId(input.u32()?))),
        1 => Some(Forget::Group(GroupId(input.u32()?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(record: Record) {
        let bytes = record.encode();
        assert_eq!(Record::decode(record.kind(), &bytes), Ok(Some(record.clone())));
        for len in 0..bytes.len() {
            if !matches!(record, Record::Dead(_)) {
                assert_eq!(Record::decode(record.kind(), &bytes[..len]), Err(Malformed { kind: record.kind() }), "cut to {len} bytes");
            }
        }
    }

    #[test]
    fn every_record_comes_back_and_no_shortened_one_does() {
        let (group, queue, offset) = (GroupId(3), QueueKey(0x0007_0000_0100), Offset(70_000));
        check(Record::EpochStart(EpochStart { epoch: 2, shift_ms: 30_000 }));
        check(Record::Lease(Lease {
            group,
            id: LeaseId(9),
            deadline: 1_700_000_000_000,
            client: ClientId::new("host@1@0"),
            owned: true,
            attempt_id: Some("a".into()),
            queues: vec![LeasedQueue { queue, start: Offset(1), next: Offset(300), leased: vec![(5, 1), (299, 16)], kept: vec![7, 8] }],
        }));
        check(Record::Ack(Ack { group, queues: vec![(queue, vec![1, 2, 900]), (QueueKey(1), vec![0])] }));
        check(Record::SetVisible(SetVisible { group, queue, offset, at: 5, how: Visibility::Suspended }));
        check(Record::Expire(Expire { group, queue, ended: vec![(1, 2), (u64::MAX, 0)] }));
        check(Record::Trim(Trim { start: Lsn(8192), queues: vec![(queue, 4)] }));
        check(Record::Forget(Forget::Topic(TopicId(1))));
        check(Record::Forget(Forget::Group(group)));
        let dead = Dead {
            group,
            queue,
            offset,
            attempts: 16,
            reason: DeadReason::Forwarded,
            dead_queue: queue,
            dead_offset: Offset(0),
            original: Lsn(64),
            copy: vec![1, 2],
        };
        assert_eq!(Record::Dead(dead.clone()).encode().len(), Dead::FIXED + 2);
        check(Record::Dead(dead));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            for kind in [Kind::EpochStart, Kind::Lease, Kind::Ack, Kind::SetVisible, Kind::Expire, Kind::Dead, Kind::Trim, Kind::Forget] {
                let _ = Record::decode(kind, &bytes);
            }
        }
    }
}
