//! A broker's process and proxies on a network that tests delay, cut and break. That every call of the contract works over a stream is tested with
//! all other brokers (`tests/routing`); here is what happens when streams break, stall or fill up, and what it costs (`examples/hop_cost.rs`).

#![forbid(unsafe_code)]

use gantry_broker::LocalBroker;
use gantry_broker::recover::Sizes;
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{Delivery, LeaseTerm, ReceiveRequest, SendError, SendRequest, Sent};
use gantry_model::message::Property;
use gantry_model::{ClientId, Filter, Message, ShardId};
use gantry_platform::clock::{SharedClock, SystemClock, sleep};
use gantry_platform::net::Net;
use gantry_platform::net::simulated::TestNet;
use gantry_proxy::remote::RemoteBroker;
use gantry_routing::catalogue::{self, Catalogue, ONE, ORDERS};
use gantry_routing::whole;
use gantry_routing::wire::{BrokerSide, CLUSTER, ProxySide};
use std::sync::Arc;
use std::time::Duration;

/// The address of the broker's process, and its name on the network.
pub const ADDRESS: &str = "broker:9081";
pub const BROKER: &str = "broker";

/// Files that the largest messages fit in.
const LARGE: Sizes = Sizes { first_segment: 16 * 1024 * 1024, max_segment: 64 * 1024 * 1024, checkpoint: 16 * 1024 * 1024 };

/// One shard in a process of its own, and the network around it.
pub struct Rig {
    pub net: TestNet,
    pub catalogue: Arc<Catalogue>,
    pub local: Arc<LocalBroker>,
    pub side: BrokerSide,
    pub clock: SharedClock,
}

/// A process with a proxy.
pub struct Proxy {
    pub side: ProxySide,
    /// The shard.
    pub broker: Arc<RemoteBroker>,
}

impl Rig {
    pub async fn new() -> Rig {
        Rig::with_clock(Arc::new(SystemClock::new())).await
    }

    /// With a shard that lives in the time of a clock.
    pub async fn with_clock(clock: SharedClock) -> Rig {
        Rig::of_cluster(CLUSTER, clock).await
    }

    /// With a broker that belongs to a cluster.
    pub async fn of_cluster(cluster: [u8; 16], clock: SharedClock) -> Rig {
        let (net, catalogue) = (TestNet::new(), catalogue::over(1));
        let local = whole::open(0, &catalogue, &clock, LARGE);
        let side = listen(&net, cluster, &catalogue).await;
        side.add(ShardId(0), &local);
        Rig { net, catalogue, local, side, clock }
    }

    /// A proxy whose name on the network is `name`.
    pub fn proxy(&self, name: &str, number: u64) -> Proxy {
        let clock: SharedClock = Arc::new(SystemClock::new());
        let side = ProxySide::on(Arc::new(self.net.node(name)), number, self.catalogue.clone(), clock).knows(&self.side);
        let upstream = side.brokers.upstream(self.side.node).expect("it is known");
        Proxy { side, broker: Arc::new(RemoteBroker::new(upstream, ShardId(0))) }
    }

    pub fn sending(&self, messages: Vec<Message>) -> SendRequest {
        SendRequest { topic: self.catalogue.the_topic(ORDERS), messages, client: ClientId::new("producer"), wait: Duration::from_secs(3) }
    }

    pub fn wish(&self, wait: Duration) -> ReceiveRequest {
        ReceiveRequest {
            group: self.catalogue.the_group(ONE),
            topic: self.catalogue.the_topic(ORDERS),
            filter: Arc::new(Filter::All),
            client: ClientId::new("consumer"),
            max: 32,
            lease: LeaseTerm::For(Duration::from_secs(600)),
            wait,
            attempt_id: None,
            ordered_batch: true,
            member: String::new(),
        }
    }

    /// Messages that were given out and are not finished, as the shard itself sees it.
    pub async fn in_flight(&self) -> u64 {
        let (group, topic) = (self.catalogue.the_group(ONE), self.catalogue.the_topic(ORDERS));
        let positions = self.local.positions(&group, &topic).await.expect("it leads");
        positions.iter().map(|position| position.in_flight).sum()
    }

    /// Breaks all connections between the broker and a proxy.
    pub fn cut_off(&self, proxy: &str) {
        self.net.reset(proxy, BROKER);
    }
}

/// A broker's process on the network.
pub async fn listen(net: &TestNet, cluster: [u8; 16], catalogue: &Arc<Catalogue>) -> BrokerSide {
    let incoming = net.node(BROKER).listen(ADDRESS).await.expect("nobody else is there");
    BrokerSide::on(incoming, ADDRESS.to_owned(), cluster, 1, catalogue.clone(), Arc::new(SystemClock::new()))
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.side.stop();
        self.local.close();
    }
}

impl Proxy {
    pub async fn send(&self, request: SendRequest) -> Result<Sent, SendError> {
        self.broker.send(request).await.remove(0)
    }
}

pub fn message(id: impl ToString) -> Message {
    Message { id: id.to_string(), body: "body".into(), ..Message::default() }
}

/// Who it is.
pub fn id_of(delivery: &Delivery) -> String {
    let mut id = String::new();
    delivery.message.each_property(&mut |property| {
        if let Property::Id(text) = property {
            text.clone_into(&mut id);
        }
    });
    id
}

/// Waits for something that comes true by itself; a test whose wait is over fails with `what`.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..2_000 {
        if holds().await {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("never came true: {what}");
}
