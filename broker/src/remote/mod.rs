//! The shards of this process for proxies elsewhere: one stream for each proxy process, which carries all shards.
//!
//! Requests have numbers and are answered in any order. Whatever waits when there is room for it goes together in one message; nothing waits on
//! purpose. When a stream breaks, its open polls end and what was leased but never arrived is given back; leases that were told stay, and are
//! good at every other proxy. Bounds and errors: `docs/design/015-proxy-broker-stream.md`. Read `link` first: the life of one stream.

mod link;
mod outbox;
mod calls;
mod proxies;
mod names;

use crate::remote::link::{Link, Served};
use crate::remote::names::Names;
use crate::remote::outbox::{Lines, Outbox};
use crate::remote::proxies::Proxies;
use gantry_model::contract::{Broker, Metadata};
use gantry_model::{Epoch, NodeId, ReceiptHandle, ShardId};
use gantry_platform::clock::{SharedClock, timeout};
use gantry_platform::tasks;
use gantry_proto::broker as pb;
use gantry_proto::broker::shards_server::{Shards, ShardsServer};
use gantry_proto::broker::{Arrival, Greeting, ToBroker};
use gantry_proto::shards::MESSAGE_MAX;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

/// How long a new stream may take to say who calls.
const GREETING: Duration = Duration::from_secs(5);

/// The shards of this process that proxies elsewhere may ask for.
#[derive(Debug)]
pub struct Locals {
    cluster: [u8; 16],
    node: NodeId,
    clock: SharedClock,
    names: Names,
    shards: RwLock<BTreeMap<ShardId, Arc<dyn Broker>>>,
    reigns: RwLock<BTreeMap<ShardId, Reign>>,
    proxies: Arc<Proxies>,
}

/// Who leads a shard, as far as is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    pub epoch: Epoch,
    pub leader: Option<NodeId>,
}

impl Locals {
    pub fn new(cluster: [u8; 16], node: NodeId, metadata: Arc<dyn Metadata>, clock: SharedClock) -> Arc<Locals> {
        let proxies = Arc::new(Proxies::new(clock.clone()));
        let names = Names::new(metadata);
        Arc::new(Locals { cluster, node, clock, names, shards: RwLock::default(), reigns: RwLock::default(), proxies })
    }

    /// Lets proxies ask this copy of a shard. Its questions to clients go to them from now on.
    pub fn add(&self, shard: ShardId, broker: Arc<dyn Broker>) {
        broker.attach(self.proxies.clone());
        self.shards.write().unwrap_or_else(PoisonError::into_inner).insert(shard, broker);
    }

    /// The copy is no more.
    pub fn remove(&self, shard: ShardId) {
        self.shards.write().unwrap_or_else(PoisonError::into_inner).remove(&shard);
    }

    /// Notes who leads a shard, for callers that come to the wrong place.
    pub fn led_by(&self, shard: ShardId, reign: Reign) {
        self.reigns.write().unwrap_or_else(PoisonError::into_inner).insert(shard, reign);
    }

    /// Runs of proxies that have a stream now.
    pub fn attached(&self) -> usize {
        self.proxies.count()
    }

    /// The service for proxies elsewhere.
    pub fn service(self: &Arc<Locals>) -> ShardsServer<Door> {
        ShardsServer::new(Door { locals: self.clone() }).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX)
    }

    fn get(&self, shard: ShardId) -> Option<Arc<dyn Broker>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).get(&shard).cloned()
    }

    fn all(&self) -> Vec<Arc<dyn Broker>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn reign(&self, shard: ShardId) -> Option<pb::Reign> {
        let reigns = self.reigns.read().unwrap_or_else(PoisonError::into_inner);
        let Reign { epoch, leader } = reigns.get(&shard)?;
        Some(pb::Reign { epoch: epoch.0, node: leader.map(|node| node.0) })
    }

    /// Gives deliveries back to the shards that they are of.
    fn release(&self, handles: Vec<ReceiptHandle>) {
        let mut apart: BTreeMap<ShardId, Vec<ReceiptHandle>> = BTreeMap::new();
        handles.into_iter().for_each(|handle| apart.entry(handle.shard).or_default().push(handle));
        for (shard, handles) in apart {
            if let Some(broker) = self.get(shard) {
                broker.release(handles);
            }
        }
    }

    /// Why a greeting is not for this broker.
    fn refuses(&self, greeting: &Greeting) -> Option<Status> {
        let cluster = hex::encode(self.cluster);
        if greeting.cluster != cluster {
            let why =
                format!("this broker belongs to cluster `{cluster}`, not to `{}`; check the address of the proxy's controllers", greeting.cluster);
            return Some(Status::permission_denied(why));
        }
        let meant = greeting.to == self.node.0;
        (!meant).then(|| Status::not_found(format!("this is node `{}`, not `{}`: the address belongs to another broker now", self.node, greeting.to)))
    }
}

/// Where proxies come in.
#[derive(Clone, Debug)]
pub struct Door {
    locals: Arc<Locals>,
}

#[tonic::async_trait]
impl Shards for Door {
    type AttachStream = Lines;

    async fn attach(&self, request: Request<Streaming<ToBroker>>) -> Result<Response<Lines>, Status> {
        let mut said = request.into_inner();
        let first = timeout(GREETING, said.message()).await.map_err(|_| Status::deadline_exceeded("nobody said who calls"))??;
        let Some(Arrival { greeting: Some(greeting), run, heard }) = first.and_then(|first| first.arrival) else {
            return Err(Status::invalid_argument("a stream begins with an arrival"));
        };
        if let Some(refusal) = self.locals.refuses(&greeting) {
            tracing::warn!(from = greeting.from, why = refusal.message(), "a proxy was refused");
            return Err(refusal);
        }
        let outbox = Arc::new(Outbox::default());
        let link = Arc::new(Link::new(outbox.clone(), NodeId(greeting.from), run, self.locals.clock.clone()));
        let never_arrived = self.locals.proxies.arrived(&link, heard);
        self.locals.release(never_arrived);
        tracing::info!(from = greeting.from, "a proxy is here");
        // Ends with the stream.
        tasks::spawn("a proxy's stream", Served::new(self.locals.clone(), link, said));
        Ok(Response::new(Lines::new(outbox)))
    }
}
