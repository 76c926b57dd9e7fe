//! The controller of one process: answers the `Metadata` contract from the state, and turns wishes into events.
//!
//! A wish is checked against the newest state before it is proposed, so that only what can succeed reaches the journal; the final word
//! is said when the event is applied.

use crate::consensus::{Consensus, JOURNAL_MAX, LastEnd, OpenError};
use crate::state::check::Checked;
use crate::state::event::{Event, Secret};
use crate::state::{Effect, State};
use async_trait::async_trait;
use gantry_model::contract::Metadata;
use gantry_model::contract::metadata::{Cluster, MetadataError, Version};
use gantry_model::group::{GroupChange, GroupSpec};
use gantry_model::handle::HandleKeys;
use gantry_model::topic::{TopicChange, TopicSpec};
use gantry_model::{Group, GroupId, GroupName, Topic, TopicId, TopicName};
use gantry_platform::chance::Chance;
use gantry_platform::clock::SharedClock;
use gantry_platform::disk::SharedDisk;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// How old the key that signs handles becomes before another takes its place.
const KEY_AGE_MS: u64 = 30 * 24 * 3600 * 1000;
/// The name of a cluster that was given none.
const CLUSTER_NAME: &str = "gantry";

/// What the controller needs to know besides its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The broker name that routes show; `None` keeps the name, and calls a new cluster `gantry`.
    pub cluster_name: Option<String>,
    /// The cluster that the folder must belong to, as 32 hexadecimal digits; `None` takes any, and draws one for a new cluster.
    pub cluster_id: Option<String>,
    /// How many shards a new cluster has; an old one must have as many.
    pub shards: u32,
    pub last_end: LastEnd,
}

/// The controller in this process.
pub struct Controller {
    consensus: Consensus,
    clock: SharedClock,
    chance: Mutex<Box<dyn Chance>>,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller").field("version", &self.version()).finish_non_exhaustive()
    }
}

impl Controller {
    /// Opens the folder, and makes a new cluster if it is empty. Blocks on the disk.
    pub fn open(
        disk: SharedDisk,
        dir: &Path,
        clock: SharedClock,
        mut chance: Box<dyn Chance>,
        options: Options,
    ) -> Result<Arc<Controller>, OpenError> {
        let now_ms = clock.wall_ms();
        let consensus = Consensus::open(disk, dir, JOURNAL_MAX, options.last_end, |state| first_events(state, &options, now_ms, chance.as_mut()))?;
        Ok(Arc::new(Controller { consensus, clock, chance: Mutex::new(chance) }))
    }

    /// Adds a key for handles if the newest is 30 days old. To be called from time to time; it is also done at every start.
    pub async fn rotate_keys(&self) -> Result<(), MetadataError> {
        let now_ms = self.clock.wall_ms();
        if !self.consensus.read(|state| key_is_due(state, now_ms)) {
            return Ok(());
        }
        let secret = draw_secret(self.chance.lock().expect("drawing a secret doesn't panic").as_mut());
        self.propose(Event::HandleKeyAdded { secret, time_ms: now_ms }).await.map(|_| ())
    }

    /// Shortens the next start: writes the state to the snapshot and empties the journal.
    pub async fn snapshot(&self) -> Result<(), MetadataError> {
        Ok(self.consensus.snapshot().await?)
    }

    async fn propose(&self, event: Event) -> Result<Effect, MetadataError> {
        match self.consensus.propose(event).await?.effect {
            Effect::Refused(error) => Err(error),
            effect => Ok(effect),
        }
    }

    async fn propose_topic(&self, event: Event) -> Result<Arc<Topic>, MetadataError> {
        match self.propose(event).await? {
            Effect::Topic(topic) => Ok(topic),
            effect => unreachable!("an event about a topic answers a topic, not {effect:?}"),
        }
    }

    async fn propose_group(&self, event: Event) -> Result<Arc<Group>, MetadataError> {
        match self.propose(event).await? {
            Effect::Group(group) => Ok(group),
            effect => unreachable!("an event about a group answers a group, not {effect:?}"),
        }
    }
}

/// What must happen to the state that was found before anybody uses it.
fn first_events(state: &State, options: &Options, now_ms: u64, chance: &mut dyn Chance) -> Result<Vec<Event>, OpenError> {
    let mut events = Vec::new();
    match state.cluster() {
        None => events.push(create_cluster(options, now_ms, chance)?),
        Some(cluster) => events.extend(meet_cluster(cluster, options)?),
    }
    if key_is_due(state, now_ms) {
        events.push(Event::HandleKeyAdded { secret: draw_secret(chance), time_ms: now_ms });
    }
    Ok(events)
}

fn create_cluster(options: &Options, now_ms: u64, chance: &mut dyn Chance) -> Result<Event, OpenError> {
    let drawn = || {
        let mut id = [0; 16];
        chance.fill(&mut id);
        hex::encode(id)
    };
    let id = options.cluster_id.clone().unwrap_or_else(drawn);
    let name = options.cluster_name.clone().unwrap_or_else(|| CLUSTER_NAME.to_owned());
    crate::state::check::cluster(&id, &name, options.shards).map_err(OpenError::Refused)?;
    Ok(Event::ClusterCreated { id, name, shards: options.shards, time_ms: now_ms })
}

fn meet_cluster(cluster: &Cluster, options: &Options) -> Result<Option<Event>, OpenError> {
    if let Some(wanted) = options.cluster_id.as_ref().filter(|&wanted| *wanted != cluster.id) {
        return Err(OpenError::OtherCluster { found: cluster.id.clone(), wanted: wanted.clone() });
    }
    if options.shards != cluster.shards {
        return Err(OpenError::OtherShards { found: cluster.shards, wanted: options.shards });
    }
    let Some(name) = options.cluster_name.as_ref().filter(|&name| *name != cluster.name) else {
        return Ok(None);
    };
    crate::state::check::cluster(&cluster.id, name, cluster.shards).map_err(OpenError::Refused)?;
    Ok(Some(Event::ClusterRenamed { name: name.clone() }))
}

fn key_is_due(state: &State, now_ms: u64) -> bool {
    state.newest_key_ms().is_none_or(|added_ms| added_ms.saturating_add(KEY_AGE_MS) <= now_ms)
}

fn draw_secret(chance: &mut dyn Chance) -> Secret {
    let mut secret = [0; 32];
    chance.fill(&mut secret);
    Secret(secret)
}

#[async_trait]
impl Metadata for Controller {
    fn topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.consensus.read(|state| state.topic(name).cloned())
    }

    fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.consensus.read(|state| state.topic_by_id(id).cloned())
    }

    fn group(&self, name: &GroupName) -> Option<Arc<Group>> {
        self.consensus.read(|state| state.group(name).cloned())
    }

    fn group_by_id(&self, id: GroupId) -> Option<Arc<Group>> {
        self.consensus.read(|state| state.group_by_id(id).cloned())
    }

    fn topics(&self, after: Option<&TopicName>, limit: usize) -> Vec<Arc<Topic>> {
        self.consensus.read(|state| state.topics_after(after).take(limit).cloned().collect())
    }

    fn groups(&self, after: Option<&GroupName>, limit: usize) -> Vec<Arc<Group>> {
        self.consensus.read(|state| state.groups_after(after).take(limit).cloned().collect())
    }

    fn cluster(&self) -> Arc<Cluster> {
        self.consensus.read(|state| state.cluster().cloned()).expect("the cluster is created before the controller is opened")
    }

    fn handle_keys(&self) -> Arc<HandleKeys> {
        self.consensus.read(|state| state.handle_keys().cloned()).expect("a key is added before the controller is opened")
    }

    fn version(&self) -> Version {
        self.consensus.read(State::version)
    }

    async fn changed(&self, since: Version) -> Version {
        let mut versions = self.consensus.watch();
        let newest = versions.wait_for(|&version| version > since).await.map(|version| *version);
        newest.expect("the versions are told as long as the controller lives")
    }

    async fn create_topic(&self, spec: TopicSpec) -> Result<Arc<Topic>, MetadataError> {
        if let Checked::Same(topic) = self.consensus.read(|state| state.check_topic_creation(&spec))? {
            return Ok(topic);
        }
        self.propose_topic(Event::TopicCreated { topic: spec, time_ms: self.clock.wall_ms() }).await
    }

    async fn update_topic(&self, name: &TopicName, change: TopicChange) -> Result<Arc<Topic>, MetadataError> {
        self.consensus.read(|state| state.check_topic_change(name, &change))?;
        self.propose_topic(Event::TopicUpdated { name: name.clone(), change }).await
    }

    async fn delete_topic(&self, name: &TopicName) -> Result<(), MetadataError> {
        self.consensus.read(|state| state.check_topic_deletion(name))?;
        self.propose(Event::TopicDeleted { name: name.clone() }).await.map(|_| ())
    }

    async fn create_group(&self, spec: GroupSpec) -> Result<Arc<Group>, MetadataError> {
        if let Checked::Same(group) = self.consensus.read(|state| state.check_group_creation(&spec))? {
            return Ok(group);
        }
        self.propose_group(Event::GroupCreated { group: spec, time_ms: self.clock.wall_ms() }).await
    }

    async fn update_group(&self, name: &GroupName, change: GroupChange) -> Result<Arc<Group>, MetadataError> {
        self.consensus.read(|state| state.check_group_change(name, &change))?;
        self.propose_group(Event::GroupUpdated { name: name.clone(), change }).await
    }

    async fn delete_group(&self, name: &GroupName) -> Result<(), MetadataError> {
        self.consensus.read(|state| state.check_group_deletion(name))?;
        self.propose(Event::GroupDeleted { name: name.clone() }).await.map(|_| ())
    }
}
