//! A broker's process and a proxy's, as far as the stream between them goes: the service on a port of its own, and connections to it.

use gantry_broker::LocalBroker;
use gantry_broker::remote::Locals;
use gantry_model::contract::{Broker, Metadata};
use gantry_model::{NodeId, ShardId};
use gantry_platform::chance::SeededChance;
use gantry_platform::clock::SharedClock;
use gantry_platform::net::{Incoming, ListenOptions, Listener, Net, RealNet};
use gantry_platform::tasks::{self, TaskGroup};
use gantry_proto::connections;
use gantry_proxy::remote::{Brokers, Here, Hint};
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::service::Routes;

/// The cluster of every catalogue.
pub const CLUSTER: [u8; 16] = [0; 16];

/// A process that has shards.
#[derive(Debug)]
pub struct BrokerSide {
    pub locals: Arc<Locals>,
    pub node: NodeId,
    pub address: String,
    tasks: TaskGroup,
}

impl BrokerSide {
    /// Listens on a port of this machine.
    pub fn on_loopback(node: u64, metadata: Arc<dyn Metadata>, clock: SharedClock) -> BrokerSide {
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(&[any], ListenOptions::default()).expect("some port is free");
        let address = listener.local_addresses().expect("it listens")[0].to_string();
        BrokerSide::on(Box::new(listener), address, CLUSTER, node, metadata, clock)
    }

    pub fn on(
        incoming: Box<dyn Incoming>,
        address: String,
        cluster: [u8; 16],
        node: u64,
        metadata: Arc<dyn Metadata>,
        clock: SharedClock,
    ) -> BrokerSide {
        let node = NodeId(node);
        let locals = Locals::new(cluster, node, metadata, clock);
        let tasks = TaskGroup::new();
        let (routes, group) = (Routes::new(locals.service()), tasks.clone());
        tasks::spawn("broker's port", async move {
            let served = connections::serve(incoming, routes, &group).await;
            served.expect("it serves until it is told to stop");
        });
        BrokerSide { locals, node, address, tasks }
    }

    pub fn add(&self, shard: ShardId, local: &Arc<LocalBroker>) {
        self.locals.add(shard, local.clone() as Arc<dyn Broker>);
    }

    /// Ends all its streams.
    pub fn stop(&self) {
        self.tasks.stop();
    }
}

impl Drop for BrokerSide {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A process with a proxy, and what brokers tell it of leaders.
#[derive(Debug)]
pub struct ProxySide {
    pub brokers: Brokers,
    pub hints: mpsc::Receiver<Hint>,
}

impl ProxySide {
    pub fn new(node: u64, metadata: Arc<dyn Metadata>, clock: SharedClock) -> ProxySide {
        ProxySide::on(Arc::new(RealNet), node, metadata, clock)
    }

    pub fn on(net: Arc<dyn Net>, node: u64, metadata: Arc<dyn Metadata>, clock: SharedClock) -> ProxySide {
        let (tell, hints) = mpsc::channel(64);
        let here = Here { node: NodeId(node), run: node, metadata, clock, net, hints: tell };
        ProxySide { brokers: Brokers::new(here, Box::new(SeededChance::new(node))), hints }
    }

    pub fn knows(self, side: &BrokerSide) -> ProxySide {
        self.brokers.set(side.node, &side.address);
        self
    }
}
