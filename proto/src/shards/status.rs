//! How shards are doing.

use crate::broker as pb;
use gantry_model::ShardId;
use gantry_model::contract::broker::{ShardCondition, ShardStatus, TransactionCounts};
use pb::statuses::One;
use pb::statuses::one::Condition;

pub fn statuses_to_wire(statuses: &[ShardStatus]) -> pb::Statuses {
    pb::Statuses { each: statuses.iter().map(to_wire).collect() }
}

pub fn statuses_from_wire(wire: pb::Statuses) -> Vec<ShardStatus> {
    wire.each.iter().map(from_wire).collect()
}

fn to_wire(status: &ShardStatus) -> One {
    let condition = match status.condition {
        ShardCondition::Ready => Condition::Ready,
        ShardCondition::Full => Condition::Full,
        ShardCondition::Failed => Condition::Failed,
        ShardCondition::Draining => Condition::Draining,
    };
    One {
        shard: status.shard.0,
        epoch: status.epoch,
        start: status.start,
        end: status.end,
        durable: status.durable,
        disk_total: status.disk_total,
        disk_free: status.disk_free,
        condition: condition as i32,
        open_polls: status.open_polls,
        messages_stored: status.messages_stored,
        messages_delivered: status.messages_delivered,
        messages_acked: status.messages_acked,
        dead_letters: status.dead_letters,
        filter_errors: status.filter_errors,
        timers_pending: status.timers_pending,
        timers_released: status.timers_released,
        timers_recalled: status.timers_recalled,
        timers_orphaned: status.timers_orphaned,
        timers_damaged: status.timers_damaged,
        timer_lateness_ms: status.timer_lateness_ms,
        transactions_open: status.transactions.open,
        transactions_committed: status.transactions.committed,
        transactions_rolled_back: status.transactions.rolled_back,
        transactions_given_up: status.transactions.given_up,
        transaction_checks: status.transactions.checks,
    }
}

fn from_wire(one: &One) -> ShardStatus {
    let condition = match one.condition() {
        Condition::Ready => ShardCondition::Ready,
        Condition::Full => ShardCondition::Full,
        Condition::Failed => ShardCondition::Failed,
        Condition::Draining => ShardCondition::Draining,
    };
    ShardStatus {
        shard: ShardId(one.shard),
        epoch: one.epoch,
        start: one.start,
        end: one.end,
        durable: one.durable,
        disk_total: one.disk_total,
        disk_free: one.disk_free,
        condition,
        open_polls: one.open_polls,
        messages_stored: one.messages_stored,
        messages_delivered: one.messages_delivered,
        messages_acked: one.messages_acked,
        dead_letters: one.dead_letters,
        filter_errors: one.filter_errors,
        timers_pending: one.timers_pending,
        timers_released: one.timers_released,
        timers_recalled: one.timers_recalled,
        timers_orphaned: one.timers_orphaned,
        timers_damaged: one.timers_damaged,
        timer_lateness_ms: one.timer_lateness_ms,
        transactions: TransactionCounts {
            open: one.transactions_open,
            committed: one.transactions_committed,
            rolled_back: one.transactions_rolled_back,
            given_up: one.transactions_given_up,
            checks: one.transaction_checks,
        },
    }
}
