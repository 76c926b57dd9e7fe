//! The controllers as brokers and proxies see them: a copy of the state that is kept up by a watch, and wishes that are sent to whoever decides.
//!
//! The copy is also kept in a file, so that a process starts, and goes on, while no controller can be reached; then nothing can be changed.

mod copy;
mod enrol;

pub use enrol::{EnrolError, enrol};

use crate::cluster::recovery::read_survey;
use crate::metadata::{Source, answers_from_state};
use crate::state::event::Event;
use crate::state::requests::Outcome;
use crate::state::{Effect, State};
use async_trait::async_trait;
use copy::{Copy, Kept};
use gantry_model::ShardId;
use gantry_model::contract::directory::{Order, Recover, Survey};
use gantry_model::contract::metadata::{MetadataError, Version};
use gantry_platform::chance::Chance;
use gantry_platform::clock::{SharedClock, sleep, timeout};
use gantry_platform::disk::SharedDisk;
use gantry_platform::tasks::Stop;
use gantry_proto::connections::Channels;
use gantry_proto::controller as pb;
use pb::cluster_client::ClusterClient;
use pb::refused::Code;
use pb::watched::Body as Watched;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tonic::transport::Channel;

/// Largest message in either direction.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// A watch on which nothing was heard for so long is given up; controllers speak each 5 s.
const SILENCE: Duration = Duration::from_secs(12);
/// The time between two tries to reach a controller.
const RETRY: Duration = Duration::from_millis(200);
/// How long a wish is tried, and one try of it.
const PATIENCE: Duration = Duration::from_secs(8);
const TRY: Duration = Duration::from_secs(3);
/// How long a controller may take to do what an operator wants.
const ORDER: Duration = Duration::from_secs(20);
/// The copy is written to its file at most this often.
const KEEP: Duration = Duration::from_secs(2);

/// How to reach the controllers of a cluster.
#[derive(Clone)]
pub struct Access {
    /// `host:port` of each.
    pub controllers: Vec<String>,
    pub token: String,
    /// 32 hexadecimal digits, if it is known.
    pub cluster: Option<String>,
    pub channels: Arc<Channels>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("controllers", &self.controllers).field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Access {
    fn client(&self, address: &str) -> Result<ClusterClient<Channel>, String> {
        let channel = self.channels.to(address).map_err(|error| error.0)?;
        Ok(ClusterClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX))
    }

    fn caller(&self) -> Option<pb::Caller> {
        Some(pb::Caller { cluster: self.cluster.clone().unwrap_or_default(), token: self.token.clone() })
    }
}

/// What is needed to follow the controllers.
pub struct Settings {
    pub access: Access,
    /// Where the copy is kept.
    pub disk: SharedDisk,
    pub file: PathBuf,
    pub clock: SharedClock,
    pub chance: Box<dyn Chance>,
}

/// The controllers, seen from another process.
pub struct Remote {
    access: Access,
    copy: Copy,
    kept: Kept,
    clock: SharedClock,
    chance: Mutex<Box<dyn Chance>>,
    /// The controller to try first.
    turn: AtomicUsize,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("access", &self.access).field("version", &self.copy.version()).finish_non_exhaustive()
    }
}

/// Why the controllers can't be followed. Trying again is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden(pub String);

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Forbidden {}

impl Remote {
    /// Begins with what was kept, if anything was.
    pub fn new(settings: Settings) -> Arc<Remote> {
        let Settings { access, disk, file, clock, chance } = settings;
        let kept = Kept { disk, file };
        let copy = Copy::new(kept.load());
        Arc::new(Remote { access, copy, kept, clock, chance: Mutex::new(chance), turn: AtomicUsize::new(0) })
    }

    /// Whether there is anything to go by.
    pub fn is_ready(&self) -> bool {
        self.copy.look(|state| state.cluster().is_some() && state.handle_keys().is_some())
    }

    /// Waits until there is.
    pub async fn ready(&self) {
        let mut versions = self.copy.versions();
        // The copy lives as long as `self`.
        _ = versions.wait_for(|_| self.is_ready()).await;
    }

    /// Follows one controller after the other until it is told to stop, or is told that it has no business here.
    pub async fn follow(&self, stop: Stop) -> Result<(), Forbidden> {
        let mut told = false;
        loop {
            let address = self.access.controllers[self.turn.load(Ordering::Relaxed) % self.access.controllers.len()].clone();
            let end = tokio::select! {
                biased;
                () = stop.stopped() => return Ok(()),
                end = self.watch(&address) => end,
            };
            match end {
                WatchEnd::Forbidden(why) => return Err(Forbidden(why)),
                WatchEnd::Broke { why, heard } => {
                    if heard || !told {
                        tracing::info!(controller = %address, %why, "the watch of the controllers ended; another is begun");
                    }
                    told = !heard;
                }
            }
            self.turn.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                () = stop.stopped() => return Ok(()),
                () = sleep(RETRY) => {}
            }
        }
    }

    /// Writes the copy to its file from time to time, until it is told to stop.
    pub async fn keep(&self, stop: Stop) {
        let mut kept = Version(0);
        let mut versions = self.copy.versions();
        loop {
            tokio::select! {
                biased;
                () = stop.stopped() => return,
                changed = versions.changed() => if changed.is_err() { return },
            }
            tokio::select! {
                biased;
                () = stop.stopped() => {}
                () = sleep(KEEP) => {}
            }
            versions.mark_unchanged();
            let state = self.copy.look(State::without_requests);
            if state.version() != kept && state.cluster().is_some() {
                kept = state.version();
                if let Err(error) = self.kept.store(&state) {
                    tracing::warn!(%error, file = %self.kept.file.display(), "what the controllers decided could not be kept for the next start");
                }
            }
        }
    }

    /// Watches one controller to the end of the stream.
    async fn watch(&self, address: &str) -> WatchEnd {
        let broke = |why: String, heard| WatchEnd::Broke { why, heard };
        let mut client = match self.access.client(address) {
            Ok(client) => client,
            Err(why) => return broke(why, false),
        };
        let request = pb::WatchRequest { caller: self.access.caller(), from: self.copy.version().0 };
        let mut told = match timeout(TRY, client.watch(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return broke(status.message().to_owned(), false),
            Err(_) => return broke("it does not answer".to_owned(), false),
        };
        let mut heard = false;
        let mut parts = copy::Parts::default();
        loop {
            let body = match timeout(SILENCE, told.message()).await {
                Ok(Ok(Some(message))) => message.body,
                Ok(Ok(None)) => return broke("it hung up".to_owned(), heard),
                Ok(Err(status)) => return broke(status.message().to_owned(), heard),
                Err(_) => return broke("it is silent".to_owned(), heard),
            };
            let taken = match body {
                Some(Watched::Refused(refused)) if is_final(refused.code()) => return WatchEnd::Forbidden(refused.why),
                Some(Watched::Refused(refused)) => return broke(refused.why, heard),
                Some(Watched::Part(part)) => parts.add(part).map(|state| state.into_iter().for_each(|state| self.copy.replace(state))),
                Some(Watched::Changes(changes)) => self.copy.apply(&changes),
                Some(Watched::StillHere(_)) => Ok(()),
                None => Err("it sent what makes no sense".to_owned()),
            };
            if let Err(why) = taken {
                // The next watch begins with the whole state.
                self.copy.doubt();
                return broke(why, heard);
            }
            heard = true;
        }
    }

    /// Asks one controller after the other until one decides.
    async fn ask(&self, request: pb::DecideRequest) -> Result<pb::Proposed, MetadataError> {
        let mut last = "no controller answers".to_owned();
        let tries = async {
            loop {
                let turn = self.turn.load(Ordering::Relaxed);
                for step in 0..self.access.controllers.len() {
                    let address = &self.access.controllers[(turn + step) % self.access.controllers.len()];
                    match self.ask_one(address, request.clone()).await {
                        Ok(Ok(done)) => return Ok(done),
                        Ok(Err(refused)) if is_final(refused.code()) => return Err(MetadataError::Invalid { why: refused.why }),
                        Ok(Err(refused)) => last = refused.why,
                        Err(why) => last = why,
                    }
                }
                sleep(RETRY).await;
            }
        };
        match timeout(PATIENCE, tries).await {
            Ok(done) => done,
            Err(_) => Err(MetadataError::Unavailable { why: format!("the controllers can't decide now: {last}") }),
        }
    }

    async fn survey_one(&self, address: String, request: pb::SurveyRequest) -> Result<Result<Survey, pb::Refused>, String> {
        let mut client = self.access.client(&address)?;
        let reply = timeout(ORDER, client.survey(request)).await.map_err(|_| format!("`{address}` does not answer"))?;
        let nonsense = || format!("`{address}` answered what makes no sense");
        match reply.map_err(|status| format!("`{address}`: {}", status.message()))?.into_inner().outcome {
            Some(pb::survey_reply::Outcome::Survey(survey)) => read_survey(survey).map(Ok).ok_or_else(nonsense),
            Some(pb::survey_reply::Outcome::Refused(refused)) => Ok(Err(refused)),
            None => Err(nonsense()),
        }
    }

    async fn order_one(&self, address: String, request: pb::OrderRequest) -> Result<Result<String, pb::Refused>, String> {
        let mut client = self.access.client(&address)?;
        let reply = timeout(ORDER, client.order(request)).await.map_err(|_| format!("`{address}` does not answer"))?;
        match reply.map_err(|status| format!("`{address}`: {}", status.message()))?.into_inner().outcome {
            Some(pb::order_reply::Outcome::Done(done)) => Ok(Ok(done)),
            Some(pb::order_reply::Outcome::Refused(refused)) => Ok(Err(refused)),
            None => Err(format!("`{address}` answered what makes no sense")),
        }
    }

    async fn ask_one(&self, address: &str, request: pb::DecideRequest) -> Result<Result<pb::Proposed, pb::Refused>, String> {
        let mut client = self.access.client(address)?;
        let reply = timeout(TRY, client.decide(request)).await.map_err(|_| format!("`{address}` does not answer"))?;
        match reply.map_err(|status| format!("`{address}`: {}", status.message()))?.into_inner().outcome {
            Some(pb::decide_reply::Outcome::Done(done)) => Ok(Ok(done)),
            Some(pb::decide_reply::Outcome::Refused(refused)) => Ok(Err(refused)),
            None => Err(format!("`{address}` answered what makes no sense")),
        }
    }
}

/// How a watch ended.
enum WatchEnd {
    Broke { why: String, heard: bool },
    Forbidden(String),
}

/// Whether asking again, or somebody else, is of no use.
fn is_final(code: Code) -> bool {
    matches!(code, Code::OtherCluster | Code::BadToken | Code::Invalid | Code::OtherNode)
}

#[async_trait]
impl Source for Remote {
    fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.copy.look(look)
    }

    fn versions(&self) -> watch::Receiver<Version> {
        self.copy.versions()
    }

    async fn decide(&self, event: Event) -> Result<Effect, MetadataError> {
        let mut request = [0; 16];
        self.chance.lock().unwrap_or_else(PoisonError::into_inner).fill(&mut request);
        let event = serde_json::to_vec(&event).expect("an event can always be written").into();
        let request = pb::DecideRequest { caller: self.access.caller(), request: request.to_vec().into(), event };
        let done = self.ask(request).await?;
        let nonsense = |_| MetadataError::Unavailable { why: "the controller answered what makes no sense; update this node".into() };
        let outcome: Outcome = serde_json::from_slice(&done.outcome).map_err(nonsense)?;
        if let Outcome::Refused(error) = outcome {
            return Err(error);
        }
        let mut versions = self.copy.versions();
        let seen = timeout(PATIENCE, versions.wait_for(|version| version.0 >= done.version)).await;
        seen.map_err(|_| MetadataError::Unavailable { why: "it is done, but this node does not see it yet; look again".into() })?
            .expect("the copy lives");
        match self.copy.look(|state| state.effect(&outcome)) {
            Effect::Refused(error) => Err(error),
            effect => Ok(effect),
        }
    }

    fn now_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    async fn obey(&self, order: Order) -> Result<String, MetadataError> {
        let request = pb::OrderRequest { caller: self.access.caller(), order: Some(tell_order(order)) };
        self.ask_leader(|address| self.order_one(address, request.clone())).await
    }

    async fn survey(&self, shard: ShardId) -> Result<Survey, MetadataError> {
        let request = pb::SurveyRequest { caller: self.access.caller(), shard: shard.0 };
        self.ask_leader(|address| self.survey_one(address, request.clone())).await
    }
}

impl Remote {
    /// Asks the controller that leads: whoever is asked names it.
    async fn ask_leader<T, F>(&self, ask: impl Fn(String) -> F + Send + Sync) -> Result<T, MetadataError>
    where
        F: Future<Output = Result<Result<T, pb::Refused>, String>> + Send,
        T: Send,
    {
        let mut last = "no controller answers".to_owned();
        let mut addresses = self.access.controllers.clone();
        while let Some(address) = addresses.pop() {
            match ask(address.clone()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(pb::Refused { leader: Some(leader), why, .. })) => {
                    last = why;
                    addresses.retain(|other| *other != leader.address);
                    if leader.address != address {
                        addresses.push(leader.address);
                    }
                }
                Ok(Err(refused)) if is_final(refused.code()) => return Err(MetadataError::Invalid { why: refused.why }),
                Ok(Err(refused)) => last = refused.why,
                Err(why) => last = why,
            }
        }
        Err(MetadataError::Unavailable { why: last })
    }
}

fn tell_order(order: Order) -> pb::order_request::Order {
    use pb::order_request::Order as Told;
    match order {
        Order::Transfer { shard, to } => Told::Transfer(pb::TransferShard { shard: shard.0, node: to.map_or(0, |node| node.0) }),
        Order::Move { shard, from, to } => Told::Move(pb::MoveShard { shard: shard.0, from: from.0, to: to.0 }),
        Order::Cordon(node) => Told::Cordon(node.0),
        Order::Uncordon(node) => Told::Uncordon(node.0),
        Order::Drain(node) => Told::Drain(node.0),
        Order::Remove(node) => Told::Remove(node.0),
        Order::Recover(Recover { shard, epoch, node, phrase, by }) => {
            Told::Recover(pb::RecoverShard { shard: shard.0, epoch: epoch.0, node: node.0, phrase, by })
        }
    }
}

answers_from_state!(Remote);
