//! What everybody asks of the controller: topics, groups and keys, read at once from a local copy, changed through the controller.
//!
//! Rules for every implementation:
//! - Reads never wait and never fail: they answer from the newest state that this process knows.
//! - A change that answered `Ok` is durable and is seen by every later read in this process.
//! - Creating what already exists with the same definition is `Ok` and changes nothing; with another definition it is `Exists`.
//! - Ids are never given out twice, whatever is deleted.

use crate::group::{GroupChange, GroupSpec};
use crate::handle::HandleKeys;
use crate::topic::{TopicChange, TopicSpec};
use crate::{Group, GroupId, GroupName, Topic, TopicId, TopicName};
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;

/// Names, definitions and secrets of the cluster.
#[async_trait]
pub trait Metadata: Send + Sync + fmt::Debug {
    fn topic(&self, name: &TopicName) -> Option<Arc<Topic>>;
    fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>>;
    fn group(&self, name: &GroupName) -> Option<Arc<Group>>;
    fn group_by_id(&self, id: GroupId) -> Option<Arc<Group>>;

    /// Topics in the order of their names, the first after `after`; dead letter topics included.
    fn topics(&self, after: Option<&TopicName>, limit: usize) -> Vec<Arc<Topic>>;
    /// Groups in the order of their names.
    fn groups(&self, after: Option<&GroupName>, limit: usize) -> Vec<Arc<Group>>;

    fn cluster(&self) -> Arc<Cluster>;
    /// The keys that sign handles.
    fn handle_keys(&self) -> Arc<HandleKeys>;

    /// Grows with every change.
    fn version(&self) -> Version;
    /// Waits until the version is above `since`, and answers the newest one.
    async fn changed(&self, since: Version) -> Version;

    async fn create_topic(&self, spec: TopicSpec) -> Result<Arc<Topic>, MetadataError>;
    async fn update_topic(&self, name: &TopicName, change: TopicChange) -> Result<Arc<Topic>, MetadataError>;
    /// Deletes a topic; its messages go with it.
    async fn delete_topic(&self, name: &TopicName) -> Result<(), MetadataError>;
    /// Creates a group together with its dead letter topic.
    async fn create_group(&self, spec: GroupSpec) -> Result<Arc<Group>, MetadataError>;
    async fn update_group(&self, name: &GroupName, change: GroupChange) -> Result<Arc<Group>, MetadataError>;
    /// Deletes a group with its positions and its dead letter topic.
    async fn delete_group(&self, name: &GroupName) -> Result<(), MetadataError>;
}

/// How many changes the metadata has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

/// The cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// 32 hexadecimal digits, drawn when the data folder was made.
    pub id: String,
    /// The broker name that routes show.
    pub name: String,
    pub shards: u32,
}

/// Why a change was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataError {
    /// It exists with another definition.
    Exists {
        what: String,
    },
    NotFound {
        what: String,
    },
    /// The definition itself is wrong.
    Invalid {
        why: String,
    },
    /// The controller can't decide now; try again.
    Unavailable {
        why: String,
    },
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetadataError::Exists { what } => write!(f, "{what} exists already with another definition; use update to change it"),
            MetadataError::NotFound { what } => write!(f, "{what} does not exist"),
            MetadataError::Invalid { why } => f.write_str(why),
            MetadataError::Unavailable { why } => write!(f, "{why}; try again"),
        }
    }
}

impl std::error::Error for MetadataError {}
