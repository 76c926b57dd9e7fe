//! A network that loses, repeats, delays and reorders.

use crate::broker::To;
use crate::chain::Chain;
use gantry_model::{Epoch, Lsn};
use gantry_store::replica::Member;
use gantry_store::replica::message::{Ack, Append, Grant, Hello, Mismatch, Refused, Seal, SealOk, Welcome};

/// Everything that is said about a shard.
#[derive(Clone, Debug)]
pub enum Message {
    Seal(Seal),
    SealOk(SealOk),
    Refused(Refused),
    Become(Grant),
    Started(Epoch),
    Hello(Hello),
    Welcome(Welcome),
    Append(Append),
    Ack(Ack),
    Mismatch(Mismatch),
    Install { epoch: Epoch, log: Chain, state: Lsn },
}

/// A message on its way.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// `None`: the controller.
    pub from: Option<Member>,
    pub to: To,
    pub message: Message,
}
