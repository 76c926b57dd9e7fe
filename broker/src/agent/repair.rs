//! Repairs copies with what their peers have: a damaged range with the same bytes from another broker, and a copy whose files can't be used by beginning it
//! anew, as long as somebody leads who has everything.
//!
//! A copy that is damaged where recovery looks is repaired before it is opened, so it is no member that lacks something: it answers nobody until it is whole.
//! One that is found damaged later, by the scrub or by a read, is mended while it runs.

use super::host::Host;
use crate::recover::Damage;
use bytes::{Bytes, BytesMut};
use gantry_model::contract::Directory;
use gantry_model::contract::directory::ShardRoute;
use gantry_model::{Lsn, NodeId, ShardId};
use gantry_platform::clock::timeout;
use gantry_platform::tasks;
use gantry_proto::broker::replicas_client::ReplicasClient;
use gantry_proto::broker::{Range, Stretch};
use gantry_proto::connections::Channels;
use gantry_store::install;
use gantry_store::log::{self, MendError};
use gantry_store::replica::promise::Promise;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tonic::{Code, Status};

/// How long a peer may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest message: one frame may be longer than what is asked for.
const MESSAGE_MAX: usize = 24 * 1024 * 1024;

/// Who has copies of the same shards.
#[derive(Clone, Debug)]
pub struct Peers {
    pub directory: Arc<dyn Directory>,
    pub channels: Arc<Channels>,
}

/// Why a range can't be had.
#[derive(Debug)]
pub enum Unfetched {
    /// Nobody who could have it can be asked.
    Later(String),
    /// The leader has no such frames: the log here is another one than that of the cluster, or they are gone there.
    Gone(String),
}

impl Peers {
    fn route(&self, shard: ShardId) -> Option<ShardRoute> {
        self.directory.shards().into_iter().find(|route| route.shard == shard)
    }

    async fn ask(&self, node: NodeId, own: &Host, shard: ShardId, from: Lsn, to: Lsn) -> Result<Stretch, Status> {
        let address = self.directory.address(node).ok_or_else(|| Status::unavailable("it has no address"))?;
        let channel = self.channels.to(&address).map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = ReplicasClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
        let range = Range { cluster: hex::encode(own.settings().cluster), node: node.0, shard: shard.0, from: from.0, until: to.0 };
        let answer = timeout(ANSWER, client.read(range)).await;
        answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer came in time"))).map(tonic::Response::into_inner)
    }

    /// Committed frames from another broker, the leader first.
    pub async fn fetch(&self, own: &Host, shard: ShardId, from: Lsn, to: Lsn) -> Result<Bytes, Unfetched> {
        let route = self.route(shard).ok_or_else(|| Unfetched::Later("the shard is not known".to_owned()))?;
        let leader = route.leader.map(|copy| copy.node);
        let others = route.copies.iter().map(|copy| copy.node).filter(|node| Some(*node) != leader);
        let mut last = Unfetched::Later("no other broker has a copy".to_owned());
        for node in leader.into_iter().chain(others).filter(|node| *node != own.node()) {
            let mut bytes = BytesMut::new();
            let mut at = from;
            let failed = loop {
                if at >= to {
                    return Ok(bytes.freeze());
                }
                match self.ask(node, own, shard, at, to).await {
                    Ok(stretch) if !stretch.frames.is_empty() => {
                        bytes.extend_from_slice(&stretch.frames);
                        at = Lsn(from.0 + bytes.len() as u64);
                    }
                    Ok(_) => break Status::data_loss("it sent nothing"),
                    Err(status) => break status,
                }
            };
            let why = format!("node {node}: {}", failed.message());
            let gone = Some(node) == leader && failed.code() == Code::OutOfRange;
            // What the leader says counts more than that another can't be reached.
            last = if gone {
                Unfetched::Gone(why)
            } else if matches!(last, Unfetched::Gone(_)) {
                last
            } else {
                Unfetched::Later(why)
            };
        }
        Err(last)
    }

    /// Whether another broker leads the shard and can commit: then it has everything, without the copy here.
    pub async fn is_led_elsewhere(&self, own: &Host, shard: ShardId) -> bool {
        let leader = self.route(shard).and_then(|route| route.leader).map(|copy| copy.node).filter(|node| *node != own.node());
        let Some(leader) = leader else { return false };
        self.ask(leader, own, shard, Lsn(0), Lsn(0)).await.is_ok_and(|answer| answer.serves)
    }
}

impl Host {
    /// Repairs a copy that can't be opened. An error says why it is not yet.
    pub(super) async fn repair(self: &Arc<Host>, peers: &Peers, shard: ShardId, store: [u8; 16], damage: Damage) -> Result<(), String> {
        if let Damage::Range { from, to } = damage {
            match peers.fetch(self, shard, from, to).await {
                Ok(bytes) => match self.put_back(shard, from, bytes).await {
                    Ok(()) => {
                        tracing::warn!(%shard, %from, %to, "a damaged range of a copy was repaired with another broker's bytes");
                        return Ok(());
                    }
                    Err(MendError::Io(error)) => return Err(error.to_string()),
                    Err(error) => tracing::warn!(%shard, %error, "a damaged range can't be repaired"),
                },
                Err(Unfetched::Later(why)) => return Err(format!("the bytes at {from} can't be fetched: {why}")),
                Err(Unfetched::Gone(why)) => tracing::warn!(%shard, %from, %why, "what a copy lost is not there to be fetched"),
            }
        }
        if !peers.is_led_elsewhere(self, shard).await {
            return Err("the copy can't be repaired, and nobody leads the shard from whom it could be made anew".to_owned());
        }
        tracing::warn!(%shard, "a copy whose files can't be used begins anew");
        let host = self.clone();
        let begun = tasks::blocking("beginning a copy anew", move || host.begin_anew(shard, store));
        begun.await.map_err(|error| error.to_string())?
    }

    /// The copy has nothing any more, and knows that it had something.
    fn begin_anew(&self, shard: ShardId, store: [u8; 16]) -> Result<(), String> {
        let settings = self.settings();
        let mut folder = settings.folder.open_copy(shard, store).map_err(|error| error.to_string())?;
        let promise = Promise { suspect: true, ..Promise::of(&folder.meta()) };
        folder.set_meta(promise.stored_in(folder.meta())).map_err(|error| error.to_string())?;
        install::stage_nothing(&*settings.disk, folder.dir()).map_err(|error| error.to_string())?;
        install::begin(&*settings.disk, folder.dir()).map_err(|error| error.to_string())?;
        self.counts().begun_anew.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn put_back(self: &Arc<Host>, shard: ShardId, from: Lsn, bytes: Bytes) -> Result<(), MendError> {
        let host = self.clone();
        let put = tasks::blocking("repair of a copy", move || {
            let settings = host.settings();
            let options = log::Options::new(shard, settings.cluster);
            log::mend(&*settings.disk, &settings.folder.shard(shard), &options, from, &bytes)?;
            host.counts().mended_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            host.counts().mended.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        put.await.unwrap_or_else(|error| Err(MendError::Io(std::io::Error::other(error.to_string()))))
    }

    /// Mends the copy that runs where it can't be read, up to `bound` at most.
    pub(super) async fn mend_running(self: &Arc<Host>, peers: &Peers, shard: ShardId, from: Lsn, bound: Lsn) -> Result<(), String> {
        let host = self.clone();
        let until = tasks::blocking("a look at damage", move || {
            let settings = host.settings();
            log::damaged_until(&*settings.disk, &settings.folder.shard(shard), &log::Options::new(shard, settings.cluster), from, bound)
        });
        let to = until.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let bytes = match peers.fetch(self, shard, from, to).await {
            Ok(bytes) => bytes,
            Err(Unfetched::Later(why) | Unfetched::Gone(why)) => return Err(why),
        };
        self.put_back(shard, from, bytes).await.map_err(|error| error.to_string())?;
        tracing::warn!(%shard, %from, %to, "a damaged range of a copy was repaired with another broker's bytes");
        Ok(())
    }
}
