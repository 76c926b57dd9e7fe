//! What the log says besides messages: the payloads of the broker's frames, as bytes.
//!
//! A record states facts that the leader decided: which offsets were leased, until when, what became of them. Applying one needs no
//! configuration, no clock and no chance, so every replica and every restart computes the same state. Numbers are little endian; counts and
//! offset differences are LEB128 varints. `docs/design/003-records.md` draws each payload.
//!
//! Some records bring a message along: their frame holds the record first, as its head, and then a message payload. How long the head is
//! follows from its kind ([`head_len`]).

pub mod lease;
pub mod member;
pub mod dead;
pub mod timer;
pub mod transaction;
pub mod position;
pub mod letters;
pub mod lite;
pub mod upkeep;

pub use dead::Dead;
pub use lease::{Ack, Expire, Lease, LeasedQueue, SetVisible, Visibility};
pub use letters::{Purge, Redrive};
pub use lite::{Begin, LiteCreate, LiteDrop, LiteSubscriber, LiteSync};
pub use member::Member;
pub use position::{OffsetCommit, Seek, SeekQueue, Skip};
pub use timer::{CatchUp, Delayed, Moved, Recall, RecallCause, Release};
pub use transaction::{CheckStep, Half, Outcome, Repark, TxnCheck, TxnEnd};
pub use upkeep::{Copies, EpochStart, Forget, Trim};

use crate::codec::{Reader, Writer};
use gantry_model::{GroupId, Offset, QueueKey};
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
    Delayed(Delayed),
    Release(Release),
    Recall(Recall),
    CatchUp(CatchUp),
    Half(Half),
    Repark(Repark),
    TxnCheck(TxnCheck),
    TxnEnd(TxnEnd),
    LiteCreate(LiteCreate),
    LiteDrop(LiteDrop),
    LiteSync(LiteSync),
    Begin(Begin),
    Trim(Trim),
    Forget(Forget),
    Member(Member),
    Seek(Seek),
    Skip(Skip),
    OffsetCommit(OffsetCommit),
    Redrive(Redrive),
    Purge(Purge),
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
            Record::Delayed(_) => Kind::Delayed,
            Record::Release(_) => Kind::Release,
            Record::Recall(_) => Kind::Recall,
            Record::CatchUp(_) => Kind::CatchUp,
            Record::Half(_) => Kind::Half,
            Record::Repark(_) => Kind::Repark,
            Record::TxnCheck(_) => Kind::CheckSent,
            Record::TxnEnd(_) => Kind::TxnEnd,
            Record::LiteCreate(_) => Kind::LiteCreate,
            Record::LiteDrop(_) => Kind::LiteDrop,
            Record::LiteSync(_) => Kind::LiteSync,
            Record::Begin(_) => Kind::Cursor,
            Record::Trim(_) => Kind::Trim,
            Record::Forget(_) => Kind::Forget,
            Record::Member(_) => Kind::Member,
            Record::Seek(_) => Kind::Seek,
            Record::Skip(_) => Kind::Skip,
            Record::OffsetCommit(_) => Kind::OffsetCommit,
            Record::Redrive(_) => Kind::Redrive,
            Record::Purge(_) => Kind::Purge,
        }
    }

    /// The record as bytes; for a record that brings a message along, the head of its frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(64));
        match self {
            Record::EpochStart(start) => start.encode(&mut out),
            Record::Lease(lease) => lease.encode(&mut out),
            Record::Ack(ack) => ack.encode(&mut out),
            Record::SetVisible(set) => set.encode(&mut out),
            Record::Expire(expire) => expire.encode(&mut out),
            Record::Dead(dead) => dead.encode(&mut out),
            Record::Delayed(delayed) => delayed.encode(&mut out),
            Record::Release(release) => release.encode(&mut out),
            Record::Recall(recall) => recall.encode(&mut out),
            Record::CatchUp(catch_up) => catch_up.encode(&mut out),
            Record::Half(half) => half.encode(&mut out),
            Record::Repark(moved) => moved.encode(&mut out),
            Record::TxnCheck(check) => check.encode(&mut out),
            Record::TxnEnd(end) => end.encode(&mut out),
            Record::LiteCreate(create) => create.encode(&mut out),
            Record::LiteDrop(drop) => drop.encode(&mut out),
            Record::LiteSync(sync) => sync.encode(&mut out),
            Record::Begin(begin) => begin.encode(&mut out),
            Record::Trim(trim) => trim.encode(&mut out),
            Record::Forget(forget) => forget.encode(&mut out),
            Record::Member(member) => member.encode(&mut out),
            Record::Seek(seek) => seek.encode(&mut out),
            Record::Skip(skip) => skip.encode(&mut out),
            Record::OffsetCommit(commit) => commit.encode(&mut out),
            Record::Redrive(redrive) => redrive.encode(&mut out),
            Record::Purge(purge) => purge.encode(&mut out),
        }
        out.0
    }

    /// Reads the payload of a frame, of one that brings a message only the head; `None` for kinds that are not records of the broker.
    pub fn decode(kind: Kind, payload: &[u8]) -> Result<Option<Record>, Malformed> {
        let head = head_len(kind, payload).ok_or(Malformed { kind })?;
        let mut input = Reader(payload.get(..head).ok_or(Malformed { kind })?);
        let record = match kind {
            Kind::EpochStart => EpochStart::decode(&mut input).map(Record::EpochStart),
            Kind::Lease => Lease::decode(&mut input).map(Record::Lease),
            Kind::Ack => Ack::decode(&mut input).map(Record::Ack),
            Kind::SetVisible => SetVisible::decode(&mut input).map(Record::SetVisible),
            Kind::Expire => Expire::decode(&mut input).map(Record::Expire),
            Kind::Dead => Dead::decode(&mut input).map(Record::Dead),
            Kind::Delayed => Delayed::decode(&mut input).map(Record::Delayed),
            Kind::Release => Release::decode(&mut input).map(Record::Release),
            Kind::Recall => Recall::decode(&mut input).map(Record::Recall),
            Kind::CatchUp => CatchUp::decode(&mut input).map(Record::CatchUp),
            Kind::Half => Half::decode(&mut input).map(Record::Half),
            Kind::Repark => Repark::decode(&mut input).map(Record::Repark),
            Kind::CheckSent => TxnCheck::decode(&mut input).map(Record::TxnCheck),
            Kind::TxnEnd => TxnEnd::decode(&mut input).map(Record::TxnEnd),
            Kind::LiteCreate => LiteCreate::decode(&mut input).map(Record::LiteCreate),
            Kind::LiteDrop => LiteDrop::decode(&mut input).map(Record::LiteDrop),
            Kind::LiteSync => LiteSync::decode(&mut input).map(Record::LiteSync),
            Kind::Cursor => Begin::decode(&mut input).map(Record::Begin),
            Kind::Trim => Trim::decode(&mut input).map(Record::Trim),
            Kind::Forget => Forget::decode(&mut input).map(Record::Forget),
            Kind::Member => Member::decode(&mut input).map(Record::Member),
            Kind::Seek => Seek::decode(&mut input).map(Record::Seek),
            Kind::Skip => Skip::decode(&mut input).map(Record::Skip),
            Kind::OffsetCommit => OffsetCommit::decode(&mut input).map(Record::OffsetCommit),
            Kind::Redrive => Redrive::decode(&mut input).map(Record::Redrive),
            Kind::Purge => Purge::decode(&mut input).map(Record::Purge),
            _ => return Ok(None),
        };
        match record {
            Some(record) if input.is_empty() => Ok(Some(record)),
            _ => Err(Malformed { kind }),
        }
    }

    /// The place that the message of this record gets; `None` if it brings none.
    pub fn placed(&self) -> Option<(QueueKey, Offset)> {
        match self {
            Record::Dead(dead) => Some((dead.dead_queue, dead.dead_offset)),
            Record::Delayed(delayed) => Some((delayed.queue, delayed.offset)),
            Record::Release(release) => Some((release.queue, release.offset)),
            Record::Half(half) => Some((half.queue, Offset(half.id))),
            Record::Repark(moved) => Some((moved.queue, moved.at)),
            Record::TxnEnd(TxnEnd { outcome: Outcome::Committed(queue, offset), .. }) => Some((*queue, *offset)),
            Record::Redrive(redrive) => Some((redrive.queue, redrive.offset)),
            _ => None,
        }
    }
}

/// How much of a frame's payload is the record; the rest is a message payload. `None` if the payload can't be of that kind.
pub fn head_len(kind: Kind, payload: &[u8]) -> Option<usize> {
    match kind {
        Kind::Message => Some(0),
        Kind::Dead => Some(Dead::HEAD),
        Kind::Delayed => Some(Delayed::HEAD),
        Kind::Release => Some(Release::HEAD),
        Kind::Half => Half::head_len(payload),
        Kind::Repark => Some(Repark::HEAD),
        Kind::TxnEnd => TxnEnd::head_len(payload),
        Kind::Redrive => Some(Redrive::HEAD),
        _ => Some(payload.len()),
    }
}

fn put_place(out: &mut Writer, group: GroupId, queue: QueueKey, offset: Offset) {
    out.u32(group.0);
    out.u64(queue.0);
    out.u64(offset.0);
}

fn place(input: &mut Reader<'_>) -> Option<(GroupId, QueueKey, Offset)> {
    Some((GroupId(input.u32()?), QueueKey(input.u64()?), Offset(input.u64()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::message::DeadReason;
    use gantry_model::{ClientId, LeaseId, Lsn, QueueId, TopicId};
    use gantry_store::index::Due;
    use gantry_store::replica::{Config, NodeId, StoreId};
    use proptest::prelude::*;

    fn check(record: Record) {
        let bytes = record.encode();
        assert_eq!(Record::decode(record.kind(), &bytes), Ok(Some(record.clone())));
        for len in 0..bytes.len() {
            assert_eq!(Record::decode(record.kind(), &bytes[..len]), Err(Malformed { kind: record.kind() }), "cut to {len} bytes");
        }
    }

    #[test]
    fn every_record_comes_back_and_no_shortened_one_does() {
        let (group, queue, offset) = (GroupId(3), QueueKey(0x0007_0000_0100), Offset(70_000));
        check(Record::EpochStart(EpochStart { epoch: 2, shift_ms: 30_000, unclean: false, copies: None }));
        let members = [1, 2, 9].map(|node| gantry_store::replica::Member { node: NodeId(node), store: StoreId([node as u8; 16]) });
        let copies = Copies { leader: members[1], config: Config::new(7, members).expect("three members") };
        check(Record::EpochStart(EpochStart { epoch: u32::MAX, shift_ms: 0, unclean: true, copies: Some(copies) }));
        check(Record::Lease(Lease {
            group,
            id: LeaseId(9),
            deadline: 1_700_000_000_000,
            client: ClientId::new("host@1@0"),
            owned: true,
            attempt_id: Some("a".into()),
            queues: vec![LeasedQueue {
                queue,
                start: Offset(1),
                next: Offset(300),
                leased: vec![(5, 1, 0), (299, 16, 9)],
                passed: vec![(7, 0), (8, 3)],
                skipped: vec![2],
            }],
        }));
        check(Record::Ack(Ack { group, queues: vec![(queue, vec![1, 2, 900]), (QueueKey(1), vec![0])] }));
        check(Record::SetVisible(SetVisible { group, queue, offset, at: 5, how: Visibility::Suspended }));
        check(Record::Expire(Expire { group, queue, ended: vec![(1, 2), (u64::MAX, 0)] }));
        check(Record::Trim(Trim { start: Lsn(8192), queues: vec![(queue, 4)] }));
        check(Record::Forget(Forget::Topic(TopicId(1))));
        check(Record::Forget(Forget::Group(group)));
        check(Record::Member(Member { id: GroupId(GroupId::MEMBERS + 1), group, name: "host".into(), joined_ms: 5 }));
        let dead =
            Dead { group, queue, offset, attempts: 16, reason: DeadReason::Forwarded, dead_queue: queue, dead_offset: Offset(0), original: Lsn(64) };
        assert_eq!(Record::Dead(dead.clone()).encode().len(), Dead::HEAD);
        check(Record::Dead(dead));
        let done = vec![(70_001, 70_002), (80_000, 90_000)];
        let far = SeekQueue { queue: QueueKey(9), to: Offset(0), done: Vec::new() };
        check(Record::Seek(Seek { group, queues: vec![SeekQueue { queue, to: offset, done }, far] }));
        check(Record::Skip(Skip { group, queue, start: Offset(3), offsets: vec![3, 5, 70_000] }));
        check(Record::OffsetCommit(OffsetCommit { group, queue, offset }));
        let redrive = Redrive { group, dead_queue: queue, dead_offset: offset, queue: QueueKey(1), offset: Offset(8) };
        assert_eq!(Record::Redrive(redrive).encode().len(), Redrive::HEAD);
        check(Record::Redrive(redrive));
        check(Record::Purge(Purge { dead_queue: queue, offsets: vec![0, 1, 900] }));
        check_timers(queue, offset);
        check_transactions(queue, offset);
        check_lites(queue, offset);
    }

    fn check_lites(queue: QueueKey, offset: Offset) {
        let group = GroupId(3);
        check(Record::LiteCreate(LiteCreate { queue, start: offset, time: 9, name: "chat-1".into() }));
        check(Record::LiteDrop(LiteDrop { queues: vec![QueueKey(1), queue] }));
        let gone = LiteSubscriber { client: ClientId::new("old"), added: vec![], removed: vec![], lost: vec![QueueId(1 << 23)] };
        let clients =
            vec![LiteSubscriber { client: ClientId::new("c"), added: vec![QueueId(1), QueueId(300)], removed: vec![QueueId(2)], lost: vec![] }, gone];
        check(Record::LiteSync(LiteSync { topic: TopicId(7), group, clients }));
        check(Record::Begin(Begin { group, queues: vec![(queue, offset), (QueueKey(3), Offset(0))] }));
    }

    fn check_timers(queue: QueueKey, offset: Offset) {
        let due = Due { time: 1_700_000_000_000, position: Lsn(64) };
        for moved in [None, Some(Moved { from: Lsn(64), end: Lsn(8192) })] {
            let delayed = Record::Delayed(Delayed { deliver_ms: due.time, queue, offset, moved });
            assert_eq!(delayed.encode().len(), Delayed::HEAD);
            check(delayed);
        }
        let release = Record::Release(Release { due, timers: queue, queue: QueueKey(1), offset });
        assert_eq!(release.encode().len(), Release::HEAD);
        check(release);
        for why in [RecallCause::Asked, RecallCause::Damaged] {
            check(Record::Recall(Recall { topic: TopicId(7), due, id: 9, why }));
        }
        check(Record::CatchUp(CatchUp { until: None }));
        check(Record::CatchUp(CatchUp { until: Some(5) }));
    }

    fn check_transactions(queue: QueueKey, offset: Offset) {
        check(Record::Half(Half { queue, id: 7, time: 1, first_check: 6_001, sender: ClientId::new("host@1@0") }));
        let moved = Record::Repark(Repark { queue, id: 7, at: offset });
        assert_eq!(moved.encode().len(), Repark::HEAD);
        check(moved);
        for step in [CheckStep::Sent, CheckStep::GivenUp, CheckStep::Resumed] {
            check(Record::TxnCheck(TxnCheck { topic: TopicId(7), id: 7, step, time: 2, next: u64::MAX }));
        }
        for outcome in [Outcome::Committed(queue, offset), Outcome::RolledBack] {
            check(Record::TxnEnd(TxnEnd { topic: TopicId(7), id: 7, time: 3, outcome }));
        }
    }

    #[test]
    fn the_head_of_a_frame_ends_where_its_message_begins() {
        let (queue, id) = (QueueKey(0x0007_0000_0100), 9);
        let ends = [Outcome::Committed(queue, Offset(4)), Outcome::RolledBack].map(|outcome| TxnEnd { topic: TopicId(7), id, time: 3, outcome });
        let half = Half { queue, id, time: 1, first_check: 2, sender: ClientId::new("p") };
        for record in [Record::Half(half), Record::Repark(Repark { queue, id, at: Offset(11) }), Record::TxnEnd(ends[0])] {
            let head = record.encode();
            let payload = [&head[..], b"a message payload"].concat();
            assert_eq!(head_len(record.kind(), &payload), Some(head.len()));
            assert_eq!(Record::decode(record.kind(), &payload), Ok(Some(record)));
        }
        let rolled_back = Record::TxnEnd(ends[1]);
        let longer = [&rolled_back.encode()[..], b"a message payload"].concat();
        assert_eq!(Record::decode(Kind::TxnEnd, &longer), Err(Malformed { kind: Kind::TxnEnd }), "no message follows a rollback");
    }

    #[test]
    fn records_of_positions_and_dead_letters_come_back() {
        let (group, queue, offset) = (GroupId(3), QueueKey(0x0007_0000_0100), Offset(70_000));
        let done = vec![(70_001, 70_002), (80_000, 90_000)];
        let far = SeekQueue { queue: QueueKey(9), to: Offset(0), done: Vec::new() };
        check(Record::Seek(Seek { group, queues: vec![SeekQueue { queue, to: offset, done }, far] }));
        check(Record::Skip(Skip { group, queue, start: Offset(3), offsets: vec![3, 5, 70_000] }));
        check(Record::OffsetCommit(OffsetCommit { group, queue, offset }));
        let redrive = Redrive { group, dead_queue: queue, dead_offset: offset, queue: QueueKey(1), offset: Offset(8) };
        assert_eq!(Record::Redrive(redrive).encode().len(), Redrive::HEAD);
        check(Record::Redrive(redrive));
        check(Record::Purge(Purge { dead_queue: queue, offsets: vec![0, 1, 900] }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            for kind in (1..=u8::MAX).map_while(Kind::from_number) {
                let _ = Record::decode(kind, &bytes);
            }
        }
    }
}
