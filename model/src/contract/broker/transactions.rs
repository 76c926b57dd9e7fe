//! Open transactions: who is asked about them, and what operators see.

use crate::handle::TransactionHandle;
use crate::message::StoredMessage;
use crate::{ClientId, GroupId, TopicId};
use async_trait::async_trait;
use std::fmt;

/// The way from the shards to clients, through the proxies that hold their streams.
#[async_trait]
pub trait Clients: Send + Sync + fmt::Debug {
    /// Asks a producer of the topic what became of its transaction. `true` once the question was written to a stream.
    async fn check(&self, check: Check) -> bool;

    /// Tells a client that it no longer has a lite topic.
    fn lost_lite(&self, client: &ClientId, group: GroupId, topic: TopicId, lite: &str);
}

/// A transaction that nobody ended.
#[derive(Clone, Debug)]
pub struct Check {
    pub handle: TransactionHandle,
    pub message: StoredMessage,
    /// Who sent it, to be asked first.
    pub sender: ClientId,
}

/// A transaction that is not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenTransaction {
    pub handle: TransactionHandle,
    pub message: StoredMessage,
    pub sender: ClientId,
    /// Questions that reached a producer.
    pub checks: u32,
    /// When the next question is due, ms since the Unix epoch.
    pub next_check_ms: u64,
    /// Nobody is asked any more; it can be ended by an operator.
    pub given_up: bool,
}
