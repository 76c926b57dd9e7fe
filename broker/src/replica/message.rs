//! What the replicas of one shard say to each other, with the frames as bytes, and how it gets there.

use bytes::Bytes;
use gantry_model::{Epoch, Lsn};
use gantry_store::replica::Member;
use gantry_store::replica::log::Tail;
use gantry_store::replica::message::{Ack, Grant, Hello, Mismatch, Refused, Seal, SealOk, Welcome};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// From one replica to another.
#[derive(Clone, Debug)]
pub enum Message {
    Hello(Hello),
    Welcome(Welcome),
    Frames(Frames),
    Ack(Ack),
    Mismatch(Mismatch),
    Refused(Refused),
    Offer(Offer),
    Fetch(Fetch),
    Piece(Piece),
}

/// Frames as they stand in the leader's log, or none as a heartbeat.
#[derive(Clone, Debug)]
pub struct Frames {
    pub epoch: Epoch,
    /// What is before them.
    pub prev: Tail,
    pub hw: Lsn,
    pub leader_time: u64,
    /// Whole batches of one segment.
    pub bytes: Bytes,
    /// Length of the file that they are in.
    pub file: u64,
}

/// A leader to a replica that lacks what is gone from the log: its state at one address, in so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub epoch: Epoch,
    pub state: Lsn,
    pub bytes: u64,
}

/// A replica to the leader that made the offer: the bytes from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    pub member: Member,
    pub epoch: Epoch,
    pub state: Lsn,
    pub from: u64,
}

/// A part of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub epoch: Epoch,
    pub state: Lsn,
    pub from: u64,
    pub bytes: Bytes,
}

/// A way to one other replica. What is sent may be lost, but arrives in order.
pub trait Outlet: Send + Sync + fmt::Debug {
    /// Never waits.
    fn send(&self, message: Message);
}

/// What happens to a replica besides the requests of clients.
#[derive(Debug)]
pub enum PeerEvent {
    /// Another replica speaks; `back` leads to it.
    Said { message: Message, back: Arc<dyn Outlet> },
    /// The controller wants the promise of an epoch.
    Seal { seal: Seal, answer: Answer<Result<SealOk, Refused>> },
    /// The controller chose this replica.
    Become { grant: Grant, answer: Answer<Result<(), String>> },
    /// The controller asks the leader to make ready for another one. Answers who that should be: it has everything, and nothing more is taken.
    HandOver { to: Option<Member>, answer: Answer<Result<Member, String>> },
    /// Replicas that are to become members: a leader sends them the log as well.
    Learners(BTreeSet<Member>),
    /// There is a stream to the leader.
    Leader { outlet: Arc<dyn Outlet> },
}

/// Where the answer to the controller goes. Dropping it is no answer: the controller asks again.
pub struct Answer<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Answer<T> {
    pub fn new(send: impl FnOnce(T) + Send + 'static) -> Answer<T> {
        Answer(Box::new(send))
    }

    pub fn send(self, answer: T) {
        (self.0)(answer);
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}
