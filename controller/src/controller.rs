//! The controller of one process: answers the `Metadata` contract from the state, and turns wishes into events.
//!
//! A wish is checked against the newest state before it is proposed, so that only what can succeed reaches the log; the final word
//! is said when the event is applied.

use crate::consensus::peers::Answer;
use crate::consensus::{Begin, Consensus, OpenError, ProposeError, RequestId, Settings, Status};
use crate::metadata::{Source, answers_from_state};
use crate::state::event::{Event, Secret};
use crate::state::nodes::FOUNDER;
use crate::state::{Effect, State};
use async_trait::async_trait;
use gantry_model::ShardId;
use gantry_model::contract::Metadata;
use gantry_model::contract::directory::{Order, Survey};
use gantry_model::contract::metadata::{Cluster, MetadataError, Version};
use gantry_platform::chance::Chance;
use gantry_platform::clock::{SharedClock, timeout};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How old the key that signs handles becomes before another takes its place.
const KEY_AGE_MS: u64 = 30 * 24 * 3600 * 1000;
/// The name of a cluster that was given none.
const CLUSTER_NAME: &str = "gantry";

/// How long a start waits for the other controllers before it gives up; whoever started the process starts it again.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// What the controller needs to know besides its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The broker name that routes show; `None` keeps the name, and calls a new cluster `gantry`.
    pub cluster_name: Option<String>,
    /// The cluster that the folder must belong to, as 32 hexadecimal digits; `None` takes any, and draws one for a new cluster.
    pub cluster_id: Option<String>,
    /// How many shards a new cluster has; an old one must have as many. `None` takes what is found, and 1 for a new one.
    pub shards: Option<u32>,
    /// Where an empty folder finds its cluster; `None` begins a new one.
    pub join: Option<Join>,
}

/// The way into a cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct Join {
    /// `host:port` of other controllers.
    pub seeds: Vec<String>,
    pub token: String,
    /// Whether this node begins a new cluster if none of them answers at all.
    pub found_if_none: bool,
}

impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join").field("seeds", &self.seeds).finish_non_exhaustive()
    }
}

/// The controller in this process.
pub struct Controller {
    consensus: Consensus,
    clock: SharedClock,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller").field("version", &self.version()).finish_non_exhaustive()
    }
}

/// A controller that has its folder, but may not know its cluster yet. It must be reachable by the others to become ready.
#[derive(Debug)]
pub struct Starting {
    controller: Controller,
    options: Options,
}

impl Starting {
    /// Opens the folder; makes a new cluster if it is empty and there is none to join.
    pub async fn open(mut settings: Settings, options: Options) -> Result<Starting, OpenError> {
        let clock = settings.clock.clone();
        let begin = match options.join.clone() {
            Some(Join { seeds, token, found_if_none: false }) => Begin::Join { seeds, token },
            Some(Join { seeds, token, found_if_none: true }) => {
                Begin::FindOrFound { seeds, token, cluster: new_cluster_id(&options, settings.chance.as_mut())? }
            }
            None => Begin::Found { cluster: new_cluster_id(&options, settings.chance.as_mut())? },
        };
        let consensus = Consensus::open(settings, begin, options.cluster_id.as_deref()).await?;
        Ok(Starting { controller: Controller { consensus, clock }, options })
    }

    /// Who answers the requests of other controllers.
    pub fn answer(&self) -> Arc<dyn Answer> {
        self.controller.consensus.answer()
    }

    /// Waits until this node knows all that was decided before, and says what must be said at a start.
    pub async fn ready(self) -> Result<Arc<Controller>, OpenError> {
        let Starting { controller, options } = self;
        let ready = timeout(READY_PATIENCE, get_ready(&controller, &options)).await;
        match ready.unwrap_or_else(|_| Err(OpenError::Raft { why: "too few controllers answer; start the others".into() })) {
            Ok(()) => Ok(Arc::new(controller)),
            Err(error) => {
                controller.close().await;
                Err(error)
            }
        }
    }
}

impl Controller {
    /// Opens the folder, and makes a new cluster if it is empty and there is none to join. For a controller that no other must reach.
    pub async fn open(settings: Settings, options: Options) -> Result<Arc<Controller>, OpenError> {
        Starting::open(settings, options).await?.ready().await
    }

    /// Who answers the requests of other controllers.
    pub fn answer(&self) -> Arc<dyn Answer> {
        self.consensus.answer()
    }

    /// The controllers, their leader, and how far this one is.
    pub fn status(&self) -> Status {
        self.consensus.status()
    }

    /// The façade itself, for what is about the cluster and not about topics.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Ends in order. When it returns, the folder may be opened again; reads go on, changes are refused.
    pub async fn close(&self) {
        self.consensus.close().await;
    }

    /// Adds a key for handles if the newest is 30 days old. To be called from time to time on every controller: the leader does it.
    pub async fn rotate_keys(&self) -> Result<(), MetadataError> {
        let (now_ms, status) = (self.clock.wall_ms(), self.status());
        let leads = status.leader.is_some_and(|leader| leader.id == status.node);
        if !leads || !self.consensus.read(|state| key_is_due(state, now_ms)) {
            return Ok(());
        }
        self.decide(Event::HandleKeyAdded { secret: self.draw_secret(), time_ms: now_ms }).await.map(|_| ())
    }

    /// Shortens the next start: writes the state to a snapshot.
    pub async fn snapshot(&self) -> Result<(), MetadataError> {
        Ok(self.consensus.snapshot().await?)
    }

    fn draw_secret(&self) -> Secret {
        let mut secret = [0; 32];
        self.consensus.draw(&mut secret);
        Secret(secret)
    }

    /// Proposes under an id of the caller, who may then repeat it without harm for ten minutes.
    pub async fn propose_as(&self, request: RequestId, event: Event) -> Result<Effect, MetadataError> {
        match self.consensus.propose_as(request, event).await?.effect {
            Effect::Refused(error) => Err(error),
            effect => Ok(effect),
        }
    }
}

#[async_trait]
impl Source for Controller {
    fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.consensus.read(look)
    }

    fn versions(&self) -> watch::Receiver<Version> {
        self.consensus.watch()
    }

    async fn decide(&self, event: Event) -> Result<Effect, MetadataError> {
        match self.consensus.propose(event).await?.effect {
            Effect::Refused(error) => Err(error),
            effect => Ok(effect),
        }
    }

    fn now_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    /// Who is in the same process as the controller has no nodes to steer.
    async fn obey(&self, _: Order) -> Result<String, MetadataError> {
        Err(MetadataError::Invalid { why: "this server is all of its cluster: there is nowhere else to put anything".into() })
    }

    async fn survey(&self, _: ShardId) -> Result<Survey, MetadataError> {
        Err(MetadataError::Invalid { why: "this server is all of its cluster: its shards have no other copies".into() })
    }
}

answers_from_state!(Controller);

/// Waits for the cluster, makes it if this node founds it, and checks that it is the one that was meant.
async fn get_ready(controller: &Controller, options: &Options) -> Result<(), OpenError> {
    let Controller { consensus, clock } = controller;
    while let Err(error) = consensus.barrier().await {
        if let ProposeError::Failed { why } = error {
            return Err(OpenError::Raft { why });
        }
    }
    let (now_ms, founder) = (clock.wall_ms(), consensus.status().node == FOUNDER);
    match consensus.read(|state| state.cluster().cloned()) {
        Some(cluster) => {
            if let Some(event) = meet_cluster(&cluster, options)? {
                say(consensus, event).await?;
            }
        }
        None if founder => {
            let (id, name) = (consensus.status().cluster, options.cluster_name.clone().unwrap_or_else(|| CLUSTER_NAME.to_owned()));
            say(consensus, Event::ClusterCreated { id, name, shards: options.shards.unwrap_or(1), time_ms: now_ms }).await?;
        }
        // The founder makes it.
        None => {}
    }
    if founder && consensus.read(|state| key_is_due(state, now_ms)) {
        say(consensus, Event::HandleKeyAdded { secret: controller.draw_secret(), time_ms: now_ms }).await?;
    }
    let mut versions = consensus.watch();
    let founded = versions.wait_for(|_| consensus.read(|state| state.cluster().is_some() && state.handle_keys().is_some())).await;
    founded.map(|_| ()).map_err(|_| OpenError::Raft { why: "the controller is stopping".into() })
}

/// Proposes what belongs to a start.
async fn say(consensus: &Consensus, event: Event) -> Result<(), OpenError> {
    match consensus.propose(event).await {
        Ok(applied) => match applied.effect {
            Effect::Refused(why) => Err(OpenError::Refused(why)),
            _ => Ok(()),
        },
        Err(error) => Err(OpenError::Raft { why: error.to_string() }),
    }
}

fn new_cluster_id(options: &Options, chance: &mut dyn Chance) -> Result<String, OpenError> {
    let drawn = || {
        let mut id = [0; 16];
        chance.fill(&mut id);
        hex::encode(id)
    };
    let id = options.cluster_id.clone().unwrap_or_else(drawn);
    let name = options.cluster_name.as_deref().unwrap_or(CLUSTER_NAME);
    crate::state::check::cluster(&id, name, options.shards.unwrap_or(1)).map_err(OpenError::Refused)?;
    Ok(id)
}

fn meet_cluster(cluster: &Cluster, options: &Options) -> Result<Option<Event>, OpenError> {
    if let Some(wanted) = options.cluster_id.as_ref().filter(|&wanted| *wanted != cluster.id) {
        return Err(OpenError::OtherCluster { found: cluster.id.clone(), wanted: wanted.clone() });
    }
    if let Some(wanted) = options.shards.filter(|&wanted| wanted != cluster.shards) {
        return Err(OpenError::OtherShards { found: cluster.shards, wanted });
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
