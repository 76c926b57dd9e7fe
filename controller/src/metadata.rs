//! The contracts `Metadata` and `Directory`, answered from a state: that of a controller in this process, or a copy of one elsewhere.
//!
//! A wish is checked against the newest state before it is sent on, so that only what can succeed reaches the log; the final word is said when
//! the event is applied.

use crate::cluster::facts;
use crate::state::check::Checked;
use crate::state::event::Event;
use crate::state::nodes::{Admission, Health, Node};
use crate::state::shards::Shard;
use crate::state::{Effect, State};
use async_trait::async_trait;
use gantry_model::contract::directory::{NodeView, Order, ShardRoute, Survey, Unclean};
use gantry_model::contract::metadata::{MetadataError, Version};
use gantry_model::group::GroupSpec;
use gantry_model::topic::TopicSpec;
use gantry_model::{Epoch, Group, ShardId, Topic};
use std::sync::Arc;
use tokio::sync::watch;

/// Who knows the state, and can have it changed.
#[async_trait]
pub(crate) trait Source: Send + Sync {
    /// Looks at the newest state. The closure must be quick.
    fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R;

    /// Tells each new version.
    fn versions(&self) -> watch::Receiver<Version>;

    /// Has an event happen; when it answers, every later look sees it.
    async fn decide(&self, event: Event) -> Result<Effect, MetadataError>;

    fn now_ms(&self) -> u64;

    /// Has the leader of the controllers do something about nodes and shards.
    async fn obey(&self, order: Order) -> Result<String, MetadataError>;

    /// What the leader of the controllers knows of the copies of a shard.
    async fn survey(&self, shard: ShardId) -> Result<Survey, MetadataError>;
}

pub(crate) async fn create_topic(source: &impl Source, spec: TopicSpec) -> Result<Arc<Topic>, MetadataError> {
    if let Checked::Same(topic) = source.look(|state| state.check_topic_creation(&spec))? {
        return Ok(topic);
    }
    decide_topic(source, Event::TopicCreated { topic: spec, time_ms: source.now_ms() }).await
}

pub(crate) async fn create_group(source: &impl Source, spec: GroupSpec) -> Result<Arc<Group>, MetadataError> {
    if let Checked::Same(group) = source.look(|state| state.check_group_creation(&spec))? {
        return Ok(group);
    }
    decide_group(source, Event::GroupCreated { group: spec, time_ms: source.now_ms() }).await
}

pub(crate) async fn decide_topic(source: &impl Source, event: Event) -> Result<Arc<Topic>, MetadataError> {
    match source.decide(event).await? {
        Effect::Topic(topic) => Ok(topic),
        effect => unreachable!("an event about a topic answers a topic, not {effect:?}"),
    }
}

pub(crate) async fn decide_group(source: &impl Source, event: Event) -> Result<Arc<Group>, MetadataError> {
    match source.decide(event).await? {
        Effect::Group(group) => Ok(group),
        effect => unreachable!("an event about a group answers a group, not {effect:?}"),
    }
}

/// All shards of the cluster, placed or not.
pub(crate) fn routes(state: &State) -> Vec<ShardRoute> {
    let count = state.cluster().map_or(0, |cluster| cluster.shards);
    (0..count).map(ShardId).map(|id| state.shards_placed().get(id).map_or_else(|| nowhere(id), |shard| route(shard))).collect()
}

pub(crate) fn nodes(state: &State) -> Vec<NodeView> {
    let view = |node: &Arc<Node>| NodeView {
        node: node.id,
        address: node.spec.address.clone(),
        zone: node.spec.zone.clone(),
        capacity: node.spec.capacity,
        up: node.health == Health::Up,
        cordoned: node.admission == Admission::Cordoned,
    };
    state.nodes().iter().map(view).collect()
}

fn nowhere(shard: ShardId) -> ShardRoute {
    ShardRoute { shard, epoch: Epoch(0), leader: None, copies: Vec::new(), learners: Vec::new(), unclean: Unclean::default() }
}

fn route(shard: &Shard) -> ShardRoute {
    let learner = shard.moving.iter().filter_map(|moving| moving.joining.as_ref()).filter(|joining| !shard.members().contains(joining));
    let learners: Vec<_> = learner.filter_map(facts::copy).collect();
    let mut copies: Vec<_> = shard.members().into_iter().chain(shard.leader()).filter_map(facts::copy).chain(learners.iter().copied()).collect();
    copies.sort_unstable();
    copies.dedup();
    let unclean = Unclean { recoveries: shard.unclean_recoveries, recovering: shard.unclean };
    ShardRoute { shard: shard.id, epoch: shard.epoch, leader: shard.leader().and_then(facts::copy), copies, learners, unclean }
}

/// Makes a [`Source`] answer `Metadata` and `Directory`.
macro_rules! answers_from_state {
    ($source:ty) => {
        const _: () = {
            use gantry_model::contract::directory::{Directory, NodeView, ShardRoute, Survey};
            use gantry_model::contract::metadata::{Cluster, Metadata};
            use gantry_model::group::{GroupChange, GroupSpec};
            use gantry_model::handle::HandleKeys;
            use gantry_model::topic::{TopicChange, TopicSpec};
            use gantry_model::{Group, GroupId, GroupName, NodeId, ShardId, Topic, TopicId, TopicName};
            use $crate::metadata::{create_group, create_topic, decide_group, decide_topic, nodes, routes};

            #[async_trait]
            impl Metadata for $source {
                fn topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
                    self.look(|state| state.topic(name).cloned())
                }

                fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
                    self.look(|state| state.topic_by_id(id).cloned())
                }

                fn group(&self, name: &GroupName) -> Option<Arc<Group>> {
                    self.look(|state| state.group(name).cloned())
                }

                fn group_by_id(&self, id: GroupId) -> Option<Arc<Group>> {
                    self.look(|state| state.group_by_id(id).cloned())
                }

                fn topics(&self, after: Option<&TopicName>, limit: usize) -> Vec<Arc<Topic>> {
                    self.look(|state| state.topics_after(after).take(limit).cloned().collect())
                }

                fn groups(&self, after: Option<&GroupName>, limit: usize) -> Vec<Arc<Group>> {
                    self.look(|state| state.groups_after(after).take(limit).cloned().collect())
                }

                fn cluster(&self) -> Arc<Cluster> {
                    self.look(|state| state.cluster().cloned()).expect("the cluster is created before the controller is opened")
                }

                fn handle_keys(&self) -> Arc<HandleKeys> {
                    self.look(|state| state.handle_keys().cloned()).expect("a key is added before the controller is opened")
                }

                fn version(&self) -> Version {
                    self.look(State::version)
                }

                async fn changed(&self, since: Version) -> Version {
                    let mut versions = self.versions();
                    let newest = versions.wait_for(|&version| version > since).await.map(|version| *version);
                    newest.expect("the versions are told as long as the controller lives")
                }

                async fn create_topic(&self, spec: TopicSpec) -> Result<Arc<Topic>, MetadataError> {
                    create_topic(self, spec).await
                }

                async fn update_topic(&self, name: &TopicName, change: TopicChange) -> Result<Arc<Topic>, MetadataError> {
                    self.look(|state| state.check_topic_change(name, &change))?;
                    decide_topic(self, Event::TopicUpdated { name: name.clone(), change }).await
                }

                async fn delete_topic(&self, name: &TopicName) -> Result<(), MetadataError> {
                    self.look(|state| state.check_topic_deletion(name))?;
                    self.decide(Event::TopicDeleted { name: name.clone() }).await.map(|_| ())
                }

                async fn create_group(&self, spec: GroupSpec) -> Result<Arc<Group>, MetadataError> {
                    create_group(self, spec).await
                }

                async fn update_group(&self, name: &GroupName, change: GroupChange) -> Result<Arc<Group>, MetadataError> {
                    self.look(|state| state.check_group_change(name, &change))?;
                    decide_group(self, Event::GroupUpdated { name: name.clone(), change }).await
                }

                async fn delete_group(&self, name: &GroupName) -> Result<(), MetadataError> {
                    self.look(|state| state.check_group_deletion(name))?;
                    self.decide(Event::GroupDeleted { name: name.clone() }).await.map(|_| ())
                }
            }

            #[async_trait]
            impl Directory for $source {
                fn address(&self, node: NodeId) -> Option<String> {
                    self.look(|state| state.nodes().get(node).map(|node| node.spec.address.clone()))
                }

                fn shards(&self) -> Vec<ShardRoute> {
                    self.look(routes)
                }

                fn nodes(&self) -> Vec<NodeView> {
                    self.look(nodes)
                }

                async fn order(&self, order: Order) -> Result<String, MetadataError> {
                    self.obey(order).await
                }

                async fn survey(&self, shard: ShardId) -> Result<Survey, MetadataError> {
                    Source::survey(self, shard).await
                }

                fn version(&self) -> Version {
                    Metadata::version(self)
                }

                async fn changed(&self, since: Version) -> Version {
                    Metadata::changed(self, since).await
                }
            }
        };
    };
}

pub(crate) use answers_from_state;
