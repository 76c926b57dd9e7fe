//! A broker whose metadata is behind, and one that says nothing any more: in the time of a paused runtime.

#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use gantry_model::contract::broker::*;
use gantry_model::contract::metadata::{Cluster, MetadataError, Version};
use gantry_model::contract::{Broker, Metadata};
use gantry_model::group::{GroupChange, GroupSpec};
use gantry_model::handle::HandleKeys;
use gantry_model::topic::{TopicChange, TopicSpec};
use gantry_model::{ClientId, Filter, Group, GroupId, GroupName, NodeId, ShardId, Topic, TopicId, TopicName};
use gantry_platform::clock::{RuntimeClock, SharedClock, sleep};
use gantry_platform::net::Net;
use gantry_platform::net::simulated::TestNet;
use gantry_platform::tasks;
use gantry_proxy::remote::RemoteBroker;
use gantry_remote::{ADDRESS, BROKER, message};
use gantry_routing::catalogue::{self, Catalogue, ONE, ORDERS};
use gantry_routing::ledger::Ledger;
use gantry_routing::stepped::Stepped;
use gantry_routing::wire::{BrokerSide, CLUSTER, ProxySide};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A copy of the catalogue that has nothing before version 1.
#[derive(Debug)]
struct Copy {
    catalogue: Arc<Catalogue>,
    version: watch::Sender<u64>,
}

impl Copy {
    fn at(catalogue: &Arc<Catalogue>, version: u64) -> Arc<Copy> {
        Arc::new(Copy { catalogue: catalogue.clone(), version: watch::Sender::new(version) })
    }

    fn known<T>(&self, thing: Option<T>) -> Option<T> {
        thing.filter(|_| *self.version.borrow() > 0)
    }
}

fn unchanging<T>() -> Result<T, MetadataError> {
    Err(MetadataError::Unavailable { why: "it is a copy".into() })
}

#[async_trait]
impl Metadata for Copy {
    fn topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.known(self.catalogue.topic(name))
    }
    fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.known(self.catalogue.topic_by_id(id))
    }
    fn group(&self, name: &GroupName) -> Option<Arc<Group>> {
        self.known(self.catalogue.group(name))
    }
    fn group_by_id(&self, id: GroupId) -> Option<Arc<Group>> {
        self.known(self.catalogue.group_by_id(id))
    }
    fn topics(&self, after: Option<&TopicName>, limit: usize) -> Vec<Arc<Topic>> {
        self.catalogue.topics(after, limit)
    }
    fn groups(&self, after: Option<&GroupName>, limit: usize) -> Vec<Arc<Group>> {
        self.catalogue.groups(after, limit)
    }
    fn cluster(&self) -> Arc<Cluster> {
        self.catalogue.cluster()
    }
    fn handle_keys(&self) -> Arc<HandleKeys> {
        self.catalogue.handle_keys()
    }
    fn version(&self) -> Version {
        Version(*self.version.borrow())
    }
    async fn changed(&self, since: Version) -> Version {
        let mut version = self.version.subscribe();
        let newest = version.wait_for(|version| *version > since.0).await.unwrap();
        Version(*newest)
    }
    async fn create_topic(&self, _: TopicSpec) -> Result<Arc<Topic>, MetadataError> {
        unchanging()
    }
    async fn update_topic(&self, _: &TopicName, _: TopicChange) -> Result<Arc<Topic>, MetadataError> {
        unchanging()
    }
    async fn delete_topic(&self, _: &TopicName) -> Result<(), MetadataError> {
        unchanging()
    }
    async fn create_group(&self, _: GroupSpec) -> Result<Arc<Group>, MetadataError> {
        unchanging()
    }
    async fn update_group(&self, _: &GroupName, _: GroupChange) -> Result<Arc<Group>, MetadataError> {
        unchanging()
    }
    async fn delete_group(&self, _: &GroupName) -> Result<(), MetadataError> {
        unchanging()
    }
}

struct Rig {
    net: TestNet,
    catalogue: Arc<Catalogue>,
    /// What the broker's process knows.
    behind: Arc<Copy>,
    clock: SharedClock,
    broker: Arc<RemoteBroker>,
    _sides: (BrokerSide, ProxySide),
}

impl Rig {
    /// A proxy that knows everything, and a broker that knows as much as its version says.
    async fn new(version: u64) -> Rig {
        let (net, catalogue) = (TestNet::new(), catalogue::over(1));
        let clock: SharedClock = Arc::new(RuntimeClock::new(0));
        let behind = Copy::at(&catalogue, version);
        let incoming = net.node(BROKER).listen(ADDRESS).await.unwrap();
        let side = BrokerSide::on(incoming, ADDRESS.to_owned(), CLUSTER, 1, behind.clone(), clock.clone());
        let shard = Stepped::new(ShardId(0), catalogue.the_topic(ORDERS), clock.clone(), Ledger::default(), 1);
        side.locals.add(ShardId(0), shard);
        let proxy = ProxySide::on(Arc::new(net.node("proxy")), 100, catalogue.clone(), clock.clone()).knows(&side);
        let broker = Arc::new(RemoteBroker::new(proxy.brokers.upstream(NodeId(1)).unwrap(), ShardId(0)));
        Rig { net, catalogue, behind, clock, broker, _sides: (side, proxy) }
    }

    async fn send(&self, id: &str) -> Result<Sent, SendError> {
        let (topic, wait) = (self.catalogue.the_topic(ORDERS), Duration::from_secs(3));
        self.broker.send(SendRequest { topic, messages: vec![message(id)], client: ClientId::new("p"), wait }).await.remove(0)
    }

    fn wish(&self, wait: Duration) -> ReceiveRequest {
        ReceiveRequest {
            group: self.catalogue.the_group(ONE),
            topic: self.catalogue.the_topic(ORDERS),
            filter: Arc::new(Filter::All),
            client: ClientId::new("c"),
            max: 32,
            lease: LeaseTerm::For(Duration::from_secs(60)),
            wait,
            attempt_id: None,
            ordered_batch: true,
            member: String::new(),
        }
    }

    /// How long something took, in milliseconds of the runtime's time.
    async fn timed<T>(&self, what: impl Future<Output = T>) -> (T, u64) {
        let began = self.clock.mono();
        let answer = what.await;
        (answer, (self.clock.mono() - began).as_millis() as u64)
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_made_a_moment_ago_can_be_used_at_once() {
    let rig = Rig::new(0).await;
    let behind = rig.behind.clone();
    tasks::spawn("the watch", async move {
        sleep(Duration::from_millis(400)).await;
        behind.version.send_replace(1);
    });
    let (sent, took_ms) = rig.timed(rig.send("m")).await;
    assert!(sent.is_ok(), "{sent:?}");
    assert!((400..600).contains(&took_ms), "{took_ms} ms");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_stays_behind_is_waited_for_once_and_nothing_is_done_for_what_it_does_not_know() {
    let rig = Rig::new(0).await;
    let (sent, took_ms) = rig.timed(rig.send("m")).await;
    assert_eq!(sent, Err(SendError::NoLeader));
    assert!((1_000..1_200).contains(&took_ms), "{took_ms} ms");
    let (sent, took_ms) = rig.timed(rig.send("m")).await;
    assert_eq!(sent, Err(SendError::NoLeader));
    assert!(took_ms < 100, "{took_ms} ms");
    let received = rig.broker.receive(rig.wish(Duration::from_secs(5))).await;
    assert_eq!(received.unwrap_err(), ReceiveError::NoLeader);
    rig.behind.version.send_replace(1);
    assert!(rig.send("m").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_known_not_to_exist_is_refused_for_good() {
    let rig = Rig::new(1).await;
    let gone = Arc::new(Topic { id: TopicId(999), ..(*rig.catalogue.the_topic(ORDERS)).clone() });
    let request = SendRequest { topic: gone.clone(), messages: vec![message("m")], client: ClientId::new("p"), wait: Duration::from_secs(3) };
    assert_eq!(rig.broker.send(request).await, [Err(SendError::NoWritableQueue)]);
    let wish = ReceiveRequest { topic: gone.clone(), ..rig.wish(Duration::from_secs(5)) };
    assert_eq!(rig.broker.receive(wish).await.unwrap_err(), ReceiveError::NoReadableQueue);
    assert_eq!(rig.broker.queues(&gone).await, Err(LookupError::NoSuchQueue));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_says_nothing_any_more_is_given_up_after_seconds() {
    let rig = Rig::new(1).await;
    rig.send("first").await.unwrap();
    rig.net.cut(BROKER, "proxy");
    let (sent, took_ms) = rig.timed(rig.send("second")).await;
    assert!(matches!(sent, Err(SendError::Unknown { .. })), "{sent:?}");
    assert!((2_000..=8_000).contains(&took_ms), "{took_ms} ms");
    let (sent, took_ms) = rig.timed(rig.send("third")).await;
    assert_eq!(sent, Err(SendError::NoLeader));
    assert!(took_ms <= 1_000, "{took_ms} ms");
    rig.net.heal(BROKER, "proxy");
    sleep(Duration::from_secs(5)).await;
    assert!(rig.send("fourth").await.is_ok(), "the connection is made again");
}

#[tokio::test(start_paused = true)]
async fn a_poll_over_a_stream_takes_its_time_and_no_more() {
    let rig = Rig::new(1).await;
    for (way, back) in [(BROKER, "proxy"), ("proxy", BROKER)] {
        rig.net.delay(way, back, Duration::from_millis(20));
    }
    rig.send("m").await.unwrap();
    let (got, took_ms) = rig.timed(rig.broker.receive(rig.wish(Duration::from_secs(20)))).await;
    assert_eq!(got.unwrap().len(), 1);
    assert!(took_ms < 100, "{took_ms} ms");
    let (got, took_ms) = rig.timed(rig.broker.receive(rig.wish(Duration::from_secs(20)))).await;
    assert!(got.unwrap().is_empty());
    assert!((20_000..20_100).contains(&took_ms), "{took_ms} ms");
}
