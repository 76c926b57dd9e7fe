//! Replication of one shard, as rules: who may write, what is committed, who leads next.
//!
//! A leader appends frames, followers take them over byte for byte, and what W members have durably is committed. A new leader begins a new epoch: the
//! controller seals R = N - W + 1 members, so that the old leader can commit nothing more, and grants the epoch to the longest log among them. No clock
//! decides what is safe; times only say when to try. The protocol in words, and where each rule stands: `docs/design/010-replication.md`.
//!
//! Nothing here knows a file, a socket, a clock or a runtime. Each core is told what happened and answers what is to be done; who drives it (a
//! shard's thread, the controller, the simulator, the model checker) does that **in the order given, before it tells the next event**. That order is a
//! rule: what must be durable comes before the answer that relies on it.
//!
//! How they are driven:
//!
//! - A replica's thread keeps a [`Follower`] for as long as the process lives. It gives it seals, appends, welcomes, offers and grants, does the actions,
//!   tells `written` and `synced` when that is done, and sends [`Follower::ack`] afterwards.
//! - When a grant is accepted (`Follower::lead`), the thread appends `EpochStart` and makes a [`Leader`] of it. It tells both cores what was written and
//!   synced, the leader what peers say, and the follower what is committed. For each peer it asks `Leader::next` until there is nothing to send.
//!   It drops the leader when an action or `Follower::deposed` says so.
//! - The controller keeps a [`Reign`] for each shard in its replicated state, and its raft leader an [`Elector`] beside it.
//!
//! Read `config` and `log` for the values, `message` for what is said, then `follower`, `leader` and `elector`.

pub mod config;
pub mod log;
pub mod promise;
pub mod message;
pub mod follower;
pub mod leader;
mod progress;
pub mod reign;
pub mod elector;

pub use config::{Config, Incarnation, Member, Session, StoreId};
pub use elector::Elector;
pub use follower::Follower;
pub use gantry_model::NodeId;
pub use leader::Leader;
pub use log::{EpochTable, Log, Position, Tail};
pub use promise::Promise;
pub use reign::Reign;
