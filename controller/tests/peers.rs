//! Three controllers over gRPC, as processes would be: joining, changes through any of them, the lead handed over, and a restart.

#![allow(clippy::unwrap_used)]

use gantry_controller::consensus::Pace;
use gantry_controller::consensus::peers::grpc::{GrpcPeers, server};
use gantry_controller::{Controller, Join, OpenError, Options, Settings, Starting};
use gantry_model::TopicName;
use gantry_model::contract::Metadata;
use gantry_model::topic::TopicSpec;
use gantry_platform::clock::{sleep, timeout};
use gantry_platform::net::{Incoming, ListenOptions, Listener, Net, RealNet};
use gantry_platform::tasks::TaskGroup;
use gantry_platform::{MemoryDisk, SystemChance, SystemClock};
use gantry_proto::connections::serve;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::service::Routes;

struct Machine {
    disk: MemoryDisk,
    address: String,
}

struct Running {
    controller: Arc<Controller>,
    tasks: TaskGroup,
}

impl Machine {
    /// A machine with a port of its own.
    async fn new() -> (Machine, Box<dyn Incoming>) {
        let listener = Listener::bind(&["127.0.0.1:0".parse().unwrap()], ListenOptions::default()).unwrap();
        let address = listener.local_addresses().unwrap()[0].to_string();
        (Machine { disk: MemoryDisk::new(), address }, Box::new(listener))
    }

    async fn start(&self, incoming: Box<dyn Incoming>, join: Option<Join>) -> Result<Running, OpenError> {
        let settings = Settings::alone(Arc::new(self.disk.clone()), Path::new("/c"), Arc::new(SystemClock::new()), Box::new(SystemChance));
        let settings = Settings {
            peers: Arc::new(GrpcPeers::new(Arc::new(RealNet))),
            address: self.address.clone(),
            token: Some("token".into()),
            pace: Pace::default(),
            ..settings
        };
        let options = Options { cluster_name: None, cluster_id: None, shards: Some(3), join };
        let starting = Starting::open(settings, options).await?;
        let tasks = TaskGroup::new();
        let (group, answer) = (tasks.clone(), starting.answer());
        tasks.spawn("peers", async move { serve(incoming, Routes::new(server(answer)), &group).await.unwrap() });
        Ok(Running { controller: starting.ready().await?, tasks })
    }
}

impl Running {
    async fn stop(self) {
        self.controller.close().await;
        self.tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    }
}

fn name(text: &str) -> TopicName {
    TopicName::parse("", text).unwrap()
}

async fn until(so: impl Fn() -> bool) {
    let waits = async {
        while !so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), waits).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_controllers_work_over_real_connections() {
    let (first, incoming) = Machine::new().await;
    let one = first.start(incoming, None).await.unwrap();
    let join = Some(Join { seeds: vec![first.address.clone()], token: "token".into(), found_if_none: false });
    let (second, incoming) = Machine::new().await;
    let two = second.start(incoming, join.clone()).await.unwrap();
    let (third, incoming) = Machine::new().await;
    let three = third.start(incoming, join.clone()).await.unwrap();
    until(|| one.controller.status().voters.len() == 3).await;

    two.controller.create_topic(TopicSpec::on_first_use(name("a"))).await.unwrap();
    assert!(two.controller.topic(&name("a")).is_some());
    three.controller.consensus().barrier().await.unwrap();
    assert!(three.controller.topic(&name("a")).is_some());
    let keys = |running: &Running| format!("{:?}", running.controller.handle_keys());
    assert_eq!(keys(&three), keys(&one));

    let heir = one.controller.consensus().hand_over(None).await.unwrap();
    assert_ne!(heir.address, first.address);
    three.stop().await;
    one.controller.create_topic(TopicSpec::on_first_use(name("b"))).await.unwrap();
    let incoming = RealNet.listen(&third.address).await.unwrap();
    let three = third.start(incoming, join).await.unwrap();
    assert!(three.controller.topic(&name("b")).is_some(), "ready means that it knows what was decided before");
    for running in [one, two, three] {
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_is_refused_over_the_wire() {
    let (first, incoming) = Machine::new().await;
    let one = first.start(incoming, None).await.unwrap();
    let (second, incoming) = Machine::new().await;
    let join = Some(Join { seeds: vec![first.address.clone()], token: "guess".into(), found_if_none: false });
    let error = second.start(incoming, join).await.map(|_| ()).unwrap_err();
    assert!(matches!(&error, OpenError::NotJoined { why } if why.contains("the join token is wrong")), "{error}");
    one.stop().await;
}
