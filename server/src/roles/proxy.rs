//! A proxy as a process: clients come in here, brokers are elsewhere. It keeps nothing but what the controllers decided, so that it starts
//! without them.

use super::broker::follow;
use super::{Ready, channels, list, report};
use crate::config::Config;
use crate::standalone::{Doors, StartError, VERSION, proxy_config, security, serve};
use crate::workers::Workers;
use gantry_controller::remote::{Access, Remote};
use gantry_model::contract::directory::ShardRoute;
use gantry_model::contract::{Broker, Directory, Metadata};
use gantry_model::{Epoch, NodeId, ShardId};
use gantry_platform::chance::Chance;
use gantry_platform::clock::{SharedClock, timeout};
use gantry_platform::disk::SharedDisk;
use gantry_platform::net::RealNet;
use gantry_platform::tasks::{Stop, TaskGroup};
use gantry_platform::{RealDisk, SystemChance};
use gantry_proxy::Proxy;
use gantry_proxy::admin_v2::LogControl;
use gantry_proxy::remote::{Brokers, Here, Hint};
use gantry_proxy::route::Routed;
use gantry_proxy::route::shards::{Leader, Table};
use std::collections::BTreeMap;
use std::path::absolute;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Hints of brokers that wait to be looked at; more of them say nothing new.
const HINTS: usize = 64;
/// How long what goes on beside the requests may take to end.
const LINGER: Duration = Duration::from_secs(6);

/// A running proxy.
pub struct ProxyRole {
    proxy: Proxy,
    workers: Workers,
    front: TaskGroup,
    back: TaskGroup,
    ready: Ready,
}

impl ProxyRole {
    pub async fn start(config: &Config, log_control: LogControl, clock: SharedClock) -> Result<ProxyRole, StartError> {
        let data = absolute(&config.data).map_err(StartError::System)?;
        let disk: SharedDisk = Arc::new(RealDisk::new(&data));
        disk.create_dir_all(&data).map_err(StartError::System)?;
        let doors = Doors::open(config)?;
        let endpoints = doors.endpoints.clone();
        let (front, back) = (TaskGroup::new(), TaskGroup::new());
        let access = Access {
            controllers: config.cluster.controllers.clone(),
            token: config.cluster.token.clone().unwrap_or_default(),
            cluster: None,
            channels: channels(),
        };
        let remote = follow(access, disk, data.join("cluster-state"), &clock, &back).await?;
        let (hints, hinted) = mpsc::channel(HINTS);
        let mut run = [0; 16];
        SystemChance.fill(&mut run);
        tracing::debug!(run = %hex::encode(run), "this run of the proxy");
        let run = u64::from_le_bytes(run[..8].try_into().expect("eight bytes"));
        let here = Here { node: NodeId(0), run, metadata: remote.clone(), clock: clock.clone(), net: Arc::new(RealNet), hints };
        let brokers = Arc::new(Brokers::new(here, Box::new(SystemChance)));
        let table = Arc::new(Table::new([]));
        let mut routes = Routes { remote: remote.clone(), brokers, table: table.clone(), known: BTreeMap::new(), nodes: BTreeMap::new() };
        routes.look();
        back.spawn("routes", routes.run(hinted, back.signal()));
        let broker: Arc<dyn Broker> = Arc::new(Routed::new(table, remote.clone(), clock.clone()));
        let settings =
            gantry_proxy::Config { log_control: Some(log_control), directory: Some(remote.clone()), ..proxy_config(config, &data, &endpoints) };
        let proxy = Proxy::new(settings, broker, remote.clone(), clock.clone()).map_err(StartError::Proxy)?;
        let lines = vec![
            ("messaging", format!("{}  RocketMQ 5 clients, {}", list(&endpoints.messaging), security(&config.tls))),
            ("admin", list(&endpoints.admin)),
            ("http", format!("{}  /livez /readyz /metrics", list(&endpoints.http))),
            ("metrics", format!("{}  /metrics", list(&endpoints.metrics))),
            ("data", format!("{}  cluster {}", data.display(), remote.cluster().name)),
        ];
        let workers = serve(doors, &proxy, &front, &back).map_err(StartError::System)?;
        let ready = Ready { version: VERSION, role: "proxy", took: clock.mono(), lines };
        Ok(ProxyRole { proxy, workers, front, back, ready })
    }

    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Ends in order: clients are told to go elsewhere, and requests under way may take `grace`.
    pub async fn stop(self, grace: Duration) {
        let ProxyRole { proxy, workers, front, back, .. } = self;
        report(front.shutdown(grace).await);
        let finish = async {
            proxy.drain().await;
            back.stop();
            workers.end().await;
        };
        if timeout(grace, finish).await.is_err() {
            tracing::warn!(?grace, "some requests did not finish in time and are cut off; their clients will repeat them");
        }
        report(back.shutdown(LINGER).await);
    }
}

/// Keeps the table of leaders as the controllers say, and as brokers say sooner.
struct Routes {
    remote: Arc<Remote>,
    brokers: Arc<Brokers>,
    table: Arc<Table>,
    /// Who leads each shard, as the table has it.
    known: BTreeMap<ShardId, (Epoch, Option<NodeId>)>,
    nodes: BTreeMap<NodeId, String>,
}

impl Routes {
    async fn run(mut self, mut hints: mpsc::Receiver<Hint>, stop: Stop) {
        loop {
            let version = Directory::version(&*self.remote);
            self.look();
            tokio::select! {
                biased;
                () = stop.stopped() => return,
                Some(hint) = hints.recv() => self.take(hint),
                _ = Directory::changed(&*self.remote, version) => {}
            }
        }
    }

    fn look(&mut self) {
        for ShardRoute { shard, epoch, leader, .. } in self.remote.shards() {
            self.set(shard, epoch, leader.map(|leader| leader.node));
        }
    }

    /// A broker that was asked in vain knows somebody else.
    fn take(&mut self, hint: Hint) {
        self.set(hint.shard, hint.epoch, hint.leader);
    }

    /// Notes who leads. Older news than what is known changes nothing; within one epoch a leader is never unsaid.
    fn set(&mut self, shard: ShardId, epoch: Epoch, leader: Option<NodeId>) {
        let moved = leader.is_some_and(|node| self.moved(node));
        match self.known.get(&shard) {
            Some((known, _)) if *known > epoch => return,
            Some((known, Some(_))) if *known == epoch && leader.is_none() => return,
            Some((known, before)) if *known == epoch && *before == leader && !moved => return,
            _ => {}
        }
        let lead = leader.and_then(|node| self.brokers.lead(shard, node, epoch));
        self.known.insert(shard, (epoch, leader.filter(|_| lead.is_some())));
        self.table.set(shard, lead.map_or(Leader::Electing, Leader::Known));
    }

    /// Whether a node is elsewhere than it was.
    fn moved(&mut self, node: NodeId) -> bool {
        let Some(address) = self.remote.address(node) else { return false };
        if self.nodes.get(&node) == Some(&address) {
            return false;
        }
        self.brokers.set(node, &address);
        self.nodes.insert(node, address);
        true
    }
}
