//! The contract `Broker` on the wire: its values as messages of `gantry/broker/v1/shards.proto`, and back. Written once, for proxies and brokers.
//!
//! Numbers stand for topics and groups; whoever reads a request looks them up. Bodies and properties are shares of the buffer they came in.

pub mod refusal;
pub mod message;
pub mod handle;
pub mod send;
pub mod receive;
pub mod offsets;
pub mod lookup;
pub mod life;
pub mod lite;
pub mod status;
#[cfg(test)]
mod tests;

pub use message::Arrived;
pub use refusal::Refuse;

use std::time::Duration;

/// The longest message of the stream. What is larger than one batch goes alone; the largest things there are, are a send of 8 MiB and where a
/// group stands on a million queues.
pub const MESSAGE_MAX: usize = 64 * 1024 * 1024;

/// Whole milliseconds, rounded down: who has less than one left does not wait.
fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
