//! Shards that are led in other processes: one stream to each broker process, which carries all its shards, and a broker of the contract for each
//! shard on it.
//!
//! `brokers` knows the addresses of the nodes and makes connections on first use; `upstream` is the life of one connection; `line` is what waits
//! on it, requests to be written and callers for their answers; `broker` is the contract. What happens to whom when a stream breaks is decided
//! in `line`: a request that was never written was not done, one that was written may have been. `docs/design/015-proxy-broker-stream.md` has
//! the bounds.

mod line;
mod upstream;
mod fault;
mod broker;
mod brokers;

pub use broker::RemoteBroker;
pub use brokers::{Brokers, Here};
pub use upstream::Upstream;

use gantry_model::{Epoch, NodeId, ShardId};

/// What a broker said of a shard that it doesn't lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    pub shard: ShardId,
    pub epoch: Epoch,
    pub leader: Option<NodeId>,
}
