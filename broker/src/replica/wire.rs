//! The replicas' messages as `gantry.broker.v1` has them.
//!
//! Nothing that arrives is trusted: what lacks a part or has an impossible one is refused, and the stream ends.

use super::message::{Fetch, Frames, Message, Offer, Piece};
use gantry_model::{Epoch, Lsn, ShardId};
use gantry_proto::broker as wire;
use gantry_proto::broker::{to_follower, to_leader};
use gantry_store::replica::config::Session;
use gantry_store::replica::log::{EpochTable, Position, Tail};
use gantry_store::replica::message::{Ack, Hello, Mismatch, Refused, Welcome};
use gantry_store::replica::{Incarnation, Member, NodeId, StoreId};

/// What a follower says. `None` for what only leaders say.
pub fn to_leader(shard: ShardId, message: Message) -> Option<wire::ToLeader> {
    let body = match message {
        Message::Hello(Hello { member, session, promised, log, suspect }) => to_leader::Body::Hello(wire::Hello {
            member: Some(put_member(member)),
            session: Some(put_session(session)),
            promised: promised.0,
            log: Some(wire::Position { epoch: log.epoch.0, end: log.end.0 }),
            suspect,
        }),
        Message::Ack(Ack { member, session, epoch, received, durable, applied }) => to_leader::Body::Ack(wire::Ack {
            member: Some(put_member(member)),
            session: Some(put_session(session)),
            epoch: epoch.0,
            received: received.0,
            durable: durable.0,
            applied: applied.0,
        }),
        Message::Mismatch(Mismatch { member, session, epoch, epochs, end }) => to_leader::Body::Mismatch(wire::Mismatch {
            member: Some(put_member(member)),
            session: Some(put_session(session)),
            epoch: epoch.0,
            epochs: epochs.starts().iter().map(|(epoch, first)| wire::mismatch::Epoch { epoch: epoch.0, first: first.0 }).collect(),
            end: end.0,
        }),
        Message::Refused(refused) => to_leader::Body::Refused(put_refused(refused)),
        Message::Fetch(Fetch { member, epoch, state, from }) => {
            to_leader::Body::Fetch(wire::Fetch { member: Some(put_member(member)), epoch: epoch.0, state: state.0, from })
        }
        Message::Welcome(_) | Message::Frames(_) | Message::Offer(_) | Message::Piece(_) => return None,
    };
    Some(wire::ToLeader { shard: shard.0, body: Some(body) })
}

/// What a leader says. `None` for what only followers say.
pub fn to_follower(shard: ShardId, message: Message) -> Option<wire::ToFollower> {
    let body = match message {
        Message::Welcome(Welcome { epoch, session, target }) => {
            to_follower::Body::Welcome(wire::Welcome { epoch: epoch.0, session: Some(put_session(session)), target: target.0 })
        }
        Message::Frames(Frames { epoch, prev, hw, leader_time, bytes, file }) => to_follower::Body::Frames(wire::Frames {
            epoch: epoch.0,
            prev: Some(wire::Tail { end: prev.end.0, epoch: prev.epoch.0, crc: prev.crc }),
            high_watermark: hw.0,
            leader_time,
            frames: bytes,
            file,
        }),
        Message::Refused(refused) => to_follower::Body::Refused(put_refused(refused)),
        Message::Offer(Offer { epoch, state, bytes }) => to_follower::Body::Offer(wire::Offer { epoch: epoch.0, state: state.0, bytes }),
        Message::Piece(Piece { epoch, state, from, bytes }) => to_follower::Body::Piece(wire::Piece { epoch: epoch.0, state: state.0, from, bytes }),
        Message::Hello(_) | Message::Ack(_) | Message::Mismatch(_) | Message::Fetch(_) => return None,
    };
    Some(wire::ToFollower { shard: shard.0, body: Some(body) })
}

/// What a follower said; `None` if it makes no sense. A greeting is not for a shard.
pub fn from_follower(said: wire::ToLeader) -> Option<(ShardId, Message)> {
    let message = match said.body? {
        to_leader::Body::Greeting(_) => return None,
        to_leader::Body::Hello(hello) => {
            let log = hello.log?;
            Message::Hello(Hello {
                member: member(hello.member)?,
                session: session(hello.session)?,
                promised: Epoch(hello.promised),
                log: Position { epoch: Epoch(log.epoch), end: Lsn(log.end) },
                suspect: hello.suspect,
            })
        }
        to_leader::Body::Ack(ack) => Message::Ack(Ack {
            member: member(ack.member)?,
            session: session(ack.session)?,
            epoch: Epoch(ack.epoch),
            received: Lsn(ack.received),
            durable: Lsn(ack.durable),
            applied: Lsn(ack.applied),
        }),
        to_leader::Body::Mismatch(mismatch) => Message::Mismatch(Mismatch {
            member: member(mismatch.member)?,
            session: session(mismatch.session)?,
            epoch: Epoch(mismatch.epoch),
            epochs: epochs(&mismatch.epochs)?,
            end: Lsn(mismatch.end),
        }),
        to_leader::Body::Refused(it) => Message::Refused(refused(it)?),
        to_leader::Body::Fetch(fetch) => {
            let (member, state) = (member(fetch.member)?, Lsn(fetch.state));
            Message::Fetch(Fetch { member, epoch: Epoch(fetch.epoch), state, from: fetch.from })
        }
    };
    Some((ShardId(said.shard), message))
}

/// What a leader said; `None` if it makes no sense.
pub fn from_leader(said: wire::ToFollower) -> Option<(ShardId, Message)> {
    let message = match said.body? {
        to_follower::Body::Welcome(welcome) => {
            Message::Welcome(Welcome { epoch: Epoch(welcome.epoch), session: session(welcome.session)?, target: Lsn(welcome.target) })
        }
        to_follower::Body::Frames(frames) => {
            let prev = frames.prev?;
            Message::Frames(Frames {
                epoch: Epoch(frames.epoch),
                prev: Tail { end: Lsn(prev.end), epoch: Epoch(prev.epoch), crc: prev.crc },
                hw: Lsn(frames.high_watermark),
                leader_time: frames.leader_time,
                bytes: frames.frames,
                file: frames.file,
            })
        }
        to_follower::Body::Refused(it) => Message::Refused(refused(it)?),
        to_follower::Body::Offer(offer) => Message::Offer(Offer { epoch: Epoch(offer.epoch), state: Lsn(offer.state), bytes: offer.bytes }),
        to_follower::Body::Piece(piece) => {
            Message::Piece(Piece { epoch: Epoch(piece.epoch), state: Lsn(piece.state), from: piece.from, bytes: piece.bytes })
        }
    };
    Some((ShardId(said.shard), message))
}

fn put_member(member: Member) -> wire::Member {
    wire::Member { node: member.node.0, store: member.store.0.to_vec().into() }
}

fn member(said: Option<wire::Member>) -> Option<Member> {
    let said = said?;
    Some(Member { node: NodeId(said.node), store: StoreId(said.store.as_ref().try_into().ok()?) })
}

fn put_session(session: Session) -> wire::Session {
    wire::Session { incarnation: session.incarnation.0, greeting: session.greeting }
}

fn session(said: Option<wire::Session>) -> Option<Session> {
    said.map(|said| Session { incarnation: Incarnation(said.incarnation), greeting: said.greeting })
}

fn put_refused(refused: Refused) -> wire::Refused {
    wire::Refused { member: Some(put_member(refused.member)), promised: refused.promised.0 }
}

fn refused(said: wire::Refused) -> Option<Refused> {
    Some(Refused { member: member(said.member)?, promised: Epoch(said.promised) })
}

fn epochs(said: &[wire::mismatch::Epoch]) -> Option<EpochTable> {
    EpochTable::received(said.iter().map(|row| (Epoch(row.epoch), Lsn(row.first))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn someone() -> (Member, Session) {
        (Member { node: NodeId(7), store: StoreId([9; 16]) }, Session { incarnation: Incarnation(3), greeting: 2 })
    }

    fn table() -> EpochTable {
        let mut table = EpochTable::default();
        table.note(Epoch(1), Lsn(0));
        table.note(Epoch(5), Lsn(4096));
        table
    }

    #[test]
    fn what_is_said_is_what_is_heard() {
        let (member, session) = someone();
        let refused = Refused { member, promised: Epoch(8) };
        let up = [
            Message::Hello(Hello { member, session, promised: Epoch(4), log: Position { epoch: Epoch(3), end: Lsn(99) }, suspect: true }),
            Message::Ack(Ack { member, session, epoch: Epoch(4), received: Lsn(3), durable: Lsn(2), applied: Lsn(1) }),
            Message::Mismatch(Mismatch { member, session, epoch: Epoch(4), epochs: table(), end: Lsn(5000) }),
            Message::Refused(refused),
            Message::Fetch(Fetch { member, epoch: Epoch(4), state: Lsn(80), from: 1 << 33 }),
        ];
        for message in up {
            let said = to_leader(ShardId(6), message.clone()).map(|said| wire::ToLeader::decode(said.encode_to_vec().as_slice()));
            let heard = said.and_then(Result::ok).and_then(from_follower);
            assert_eq!(format!("{heard:?}"), format!("{:?}", Some((ShardId(6), message))));
        }
        let prev = Tail { end: Lsn(80), epoch: Epoch(2), crc: u32::MAX };
        let down = [
            Message::Welcome(Welcome { epoch: Epoch(4), session, target: Lsn(77) }),
            Message::Frames(Frames { epoch: Epoch(4), prev, hw: Lsn(70), leader_time: 5, bytes: vec![1, 2, 3].into(), file: 1 << 24 }),
            Message::Refused(refused),
            Message::Offer(Offer { epoch: Epoch(4), state: Lsn(80), bytes: 1 << 33 }),
            Message::Piece(Piece { epoch: Epoch(4), state: Lsn(80), from: 1 << 20, bytes: vec![4, 5].into() }),
        ];
        for message in down {
            let said = to_follower(ShardId(6), message.clone()).map(|said| wire::ToFollower::decode(said.encode_to_vec().as_slice()));
            let heard = said.and_then(Result::ok).and_then(from_leader);
            assert_eq!(format!("{heard:?}"), format!("{:?}", Some((ShardId(6), message))));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut said = wire::Mismatch { member: Some(put_member(someone().0)), session: Some(put_session(someone().1)), ..Default::default() };
        said.epochs = [5, 4].map(|epoch| wire::mismatch::Epoch { epoch, first: u64::from(epoch) }).to_vec();
        let heard = |body| from_follower(wire::ToLeader { shard: 1, body: Some(body) });
        assert!(heard(to_leader::Body::Mismatch(said)).is_none(), "epochs ascend");
        assert!(heard(to_leader::Body::Hello(wire::Hello::default())).is_none(), "parts are missing");
        let short = wire::Member { node: 1, store: vec![1; 15].into() };
        assert!(heard(to_leader::Body::Refused(wire::Refused { member: Some(short), promised: 1 })).is_none(), "a store has 16 bytes");
        assert!(from_follower(wire::ToLeader { shard: 1, body: None }).is_none());
    }
}
