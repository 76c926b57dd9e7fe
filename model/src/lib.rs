//! RocketMQ's nouns as plain values, and the contracts through which the roles meet.
//!
//! Everything here can be built, compared and tested without a runtime, a socket or a file: this crate never knows tokio, tonic or
//! the disk. Read `ids` first (what is counted), then `message`, then `contract` (who asks whom for what).

#![forbid(unsafe_code)]

pub mod ids;
pub mod name;
pub mod limits;
pub mod units;
pub mod spelling;
pub mod message;
pub mod packed;
pub mod topic;
pub mod placement;
pub mod group;
pub mod setting;
pub mod filter;
pub mod handle;
pub mod contract;

pub use filter::Filter;
pub use group::{Group, RetryPolicy};
pub use handle::ReceiptHandle;
pub use ids::{ClientId, Epoch, GroupId, LeaseId, Lsn, NodeId, Offset, QueueId, QueueKey, ShardId, TopicId};
pub use message::{Message, MessageKind};
pub use name::{GroupName, TopicName};
pub use topic::Topic;
