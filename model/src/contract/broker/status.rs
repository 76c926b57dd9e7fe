//! How shards are doing.

use crate::ShardId;

/// How a shard is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardStatus {
    pub shard: ShardId,
    pub epoch: u32,
    /// First byte address that is kept.
    pub start: u64,
    pub end: u64,
    pub durable: u64,
    pub disk_total: u64,
    pub disk_free: u64,
    pub condition: ShardCondition,
    pub open_polls: u64,
    pub messages_stored: u64,
    pub messages_delivered: u64,
    pub messages_acked: u64,
    pub dead_letters: u64,
    /// Messages about which an SQL filter had no answer, since the process started.
    pub filter_errors: u64,
    /// Delayed messages that wait for their time.
    pub timers_pending: u64,
    pub timers_released: u64,
    pub timers_recalled: u64,
    /// Delayed messages whose topic was deleted before they were due.
    pub timers_orphaned: u64,
    /// Delayed messages that could not be read any more when they were due.
    pub timers_damaged: u64,
    /// How late delayed messages were released, at most, in the last minute or two.
    pub timer_lateness_ms: u64,
    pub transactions: TransactionCounts,
}

/// Transactions of a shard: those open now, those that were given up included, and what happened since the shard began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionCounts {
    pub open: u64,
    pub committed: u64,
    pub rolled_back: u64,
    pub given_up: u64,
    /// Questions that reached a producer.
    pub checks: u64,
}

/// What a shard can still do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShardCondition {
    #[default]
    Ready,
    /// The disk is nearly full: no sends, everything else goes on.
    Full,
    /// The disk failed: nothing more is acknowledged; the process must restart.
    Failed,
    Draining,
}
