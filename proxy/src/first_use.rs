//! Topics and groups that come into being because somebody uses them.
//!
//! With `auto_create` a route query makes a topic and the first sign of a consumer makes its group; without it both are refused by name. Two
//! calls that come at the same time make one thing, since making what exists changes nothing.

use crate::status::{Refusal, group_creation, topic_creation};
use gantry_model::contract::Metadata;
use gantry_model::contract::metadata::MetadataError;
use gantry_model::group::GroupSpec;
use gantry_model::topic::TopicSpec;
use gantry_model::{Group, GroupName, Topic, TopicName};
use gantry_proto::v2::Code;
use std::sync::Arc;

/// Whether use makes what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstUse {
    Creates,
    Refuses,
}

impl FirstUse {
    /// The topic of a route query.
    pub async fn route_topic(self, metadata: &dyn Metadata, name: &TopicName) -> Result<Arc<Topic>, Refusal> {
        match existing_topic(metadata, name) {
            Err(_) if self == FirstUse::Creates && !name.is_system() => {}
            answer => return answer,
        }
        match metadata.create_topic(TopicSpec::on_first_use(name.clone())).await {
            Ok(topic) => {
                tracing::info!(topic = %name, "created on first use");
                Ok(topic)
            }
            // Somebody was faster, with a definition of their own.
            Err(MetadataError::Exists { .. }) => existing_topic(metadata, name),
            Err(error) => Err(topic_creation(error)),
        }
    }

    /// The group of a consumer.
    pub async fn group(self, metadata: &dyn Metadata, name: &GroupName) -> Result<Arc<Group>, Refusal> {
        if let Some(group) = metadata.group(name) {
            return Ok(group);
        }
        if self == FirstUse::Refuses {
            return Err(missing_group(name));
        }
        match metadata.create_group(GroupSpec::on_first_use(name.clone())).await {
            Ok(group) => {
                tracing::info!(group = %name, "created on first use");
                Ok(group)
            }
            Err(MetadataError::Exists { .. }) => existing_group(metadata, name),
            Err(error) => Err(group_creation(error)),
        }
    }
}

/// A topic that must be there already.
pub fn existing_topic(metadata: &dyn Metadata, name: &TopicName) -> Result<Arc<Topic>, Refusal> {
    metadata.topic(name).ok_or_else(|| {
        let text =
            if name.is_system() { format!("topic `{name}` does not exist") } else { format!("topic `{name}` does not exist; create it first") };
        Refusal::new(Code::TopicNotFound, text)
    })
}

/// A group that must be there already.
pub fn existing_group(metadata: &dyn Metadata, name: &GroupName) -> Result<Arc<Group>, Refusal> {
    metadata.group(name).ok_or_else(|| missing_group(name))
}

fn missing_group(name: &GroupName) -> Refusal {
    Refusal::new(Code::ConsumerGroupNotFound, format!("consumer group `{name}` does not exist; create it first"))
}
