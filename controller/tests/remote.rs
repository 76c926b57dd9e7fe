//! A controller and those who follow it over gRPC: what it decides arrives, wishes are decided, strangers are told why not, and a copy outlives the
//! controller.

#![allow(clippy::unwrap_used)]

use gantry_controller::cluster::helm::Helm;
use gantry_controller::cluster::service::Door;
use gantry_controller::remote::{Access, EnrolError, Forbidden, Remote, enrol};
use gantry_controller::state::nodes::NodeSpec;
use gantry_controller::state::shards::Policy;
use gantry_controller::{Controller, Options, Settings, remote};
use gantry_model::contract::metadata::MetadataError;
use gantry_model::contract::{Directory, Metadata};
use gantry_model::topic::{TopicChange, TopicSpec};
use gantry_model::{NodeId, TopicName};
use gantry_platform::clock::{Clock, sleep, timeout};
use gantry_platform::disk::SharedDisk;
use gantry_platform::net::{ListenOptions, Listener, RealNet};
use gantry_platform::tasks::TaskGroup;
use gantry_platform::{MemoryDisk, SystemChance, SystemClock};
use gantry_proto::connections::{Channels, serve};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::service::Routes;

const TOKEN: &str = "token";
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    controller: Arc<Controller>,
    tasks: TaskGroup,
    address: String,
}

/// A controller alone, on a port of its own or the one that it had.
async fn start(disk: &MemoryDisk, address: &str) -> Running {
    let listener = Listener::bind(&[address.parse().unwrap()], ListenOptions::default()).unwrap();
    let address = listener.local_addresses().unwrap()[0].to_string();
    let settings = Settings::alone(Arc::new(disk.clone()), Path::new("/c"), Arc::new(SystemClock::new()), Box::new(SystemChance));
    let settings = Settings { token: Some(TOKEN.into()), address: address.clone(), ..settings };
    let options = Options { cluster_name: None, cluster_id: None, shards: Some(2), join: None };
    let controller = Controller::open(settings, options).await.unwrap();
    let (tasks, door) = (TaskGroup::new(), Door::default());
    let (group, service) = (tasks.clone(), door.clone().server());
    tasks.spawn("door", async move { serve(Box::new(listener), Routes::new(service), &group).await.unwrap() });
    let (helm, mailbox) = Helm::new(controller.clone(), Policy { copies: 1, min_copies: 1 });
    door.open(controller.clone(), mailbox);
    tasks.spawn("helm", helm.run(tasks.signal()));
    Running { controller, tasks, address }
}

impl Running {
    async fn stop(self) {
        self.tasks.shutdown(Duration::from_secs(5)).await.unwrap();
        self.controller.close().await;
    }
}

fn access(address: &str, token: &str, cluster: Option<&str>) -> Access {
    let channels = Arc::new(Channels::new(Arc::new(RealNet)));
    Access { controllers: vec![address.to_owned()], token: token.to_owned(), cluster: cluster.map(str::to_owned), channels }
}

fn follower(access: Access, disk: &SharedDisk) -> Arc<Remote> {
    let file = "/r/state".into();
    Remote::new(remote::Settings { access, disk: disk.clone(), file, clock: Arc::new(SystemClock::new()), chance: Box::new(SystemChance) })
}

fn memory() -> SharedDisk {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    disk.create_dir_all(Path::new("/r")).unwrap();
    disk
}

fn follow(remote: &Arc<Remote>, tasks: &TaskGroup) {
    let (one, stop) = (remote.clone(), tasks.signal());
    tasks.spawn("follow", async move { one.follow(stop).await.unwrap() });
    let (one, stop) = (remote.clone(), tasks.signal());
    tasks.spawn("keep", async move { one.keep(stop).await });
}

fn topic(name: &str) -> TopicName {
    TopicName::parse("", name).unwrap()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let tries = async {
        while !done() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, tries).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_decided_arrives_and_wishes_are_decided() {
    let controller = start(&MemoryDisk::new(), "127.0.0.1:0").await;
    let (tasks, disk) = (TaskGroup::new(), memory());
    let (one, other) = (follower(access(&controller.address, TOKEN, None), &disk), follower(access(&controller.address, TOKEN, None), &memory()));
    follow(&one, &tasks);
    follow(&other, &tasks);
    timeout(PATIENCE, one.ready()).await.unwrap();
    let made = one.create_topic(TopicSpec::on_first_use(topic("a"))).await.unwrap();
    assert_eq!(one.topic(&topic("a")).as_ref(), Some(&made), "who asked sees it at once");
    assert_eq!(controller.controller.topic(&topic("a")), Some(made));
    until("the other follower sees it too", || other.topic(&topic("a")).is_some()).await;
    let change = TopicChange { queues: Some(16), ..TopicChange::default() };
    controller.controller.update_topic(&topic("a"), change).await.unwrap();
    until("a change by somebody else arrives", || one.topic(&topic("a")).unwrap().queues.len() == 16).await;
    let missing = one.delete_topic(&topic("b")).await.unwrap_err();
    assert!(matches!(missing, MetadataError::NotFound { .. }), "{missing:?}");
    let keys = format!("{:?}", controller.controller.handle_keys());
    assert_eq!(format!("{:?}", one.handle_keys()), keys);
    assert_eq!(Directory::shards(&*one).len(), 2);
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_outlives_the_controller_and_is_brought_up_to_date_when_it_comes_back() {
    let (on, disk) = (MemoryDisk::new(), memory());
    let controller = start(&on, "127.0.0.1:0").await;
    let address = controller.address.clone();
    let tasks = TaskGroup::new();
    let remote = follower(access(&address, TOKEN, None), &disk);
    follow(&remote, &tasks);
    timeout(PATIENCE, remote.ready()).await.unwrap();
    remote.create_topic(TopicSpec::on_first_use(topic("a"))).await.unwrap();
    controller.stop().await;
    // The end of the task writes what was not written yet.
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    let tasks = TaskGroup::new();
    let again = follower(access(&address, TOKEN, None), &disk);
    assert!(again.is_ready() && again.topic(&topic("a")).is_some(), "known before any controller is");
    follow(&again, &tasks);
    let refused = again.create_topic(TopicSpec::on_first_use(topic("b"))).await.unwrap_err();
    assert!(matches!(refused, MetadataError::Unavailable { .. }), "{refused:?}");
    let controller = start(&on, &address).await;
    controller.controller.create_topic(TopicSpec::on_first_use(topic("c"))).await.unwrap();
    until("what was decided meanwhile arrives", || again.topic(&topic("c")).is_some()).await;
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_told_why_not() {
    let controller = start(&MemoryDisk::new(), "127.0.0.1:0").await;
    let spec = NodeSpec { address: "b:9081".into(), capacity: 1, incarnation: 1, format: 1, zone: String::new() };
    let tasks = TaskGroup::new();
    let guess = follower(access(&controller.address, "guess", None), &memory());
    assert_eq!(guess.follow(tasks.signal()).await, Err(Forbidden("the join token is wrong; use that of the cluster".into())));
    let lost = follower(access(&controller.address, TOKEN, Some(&"0b".repeat(16))), &memory());
    let Err(Forbidden(why)) = lost.follow(tasks.signal()).await else { panic!("another cluster's proxy was let in") };
    assert!(why.contains("check the address, and that no volume was mixed up"), "{why}");
    let refused = enrol(&access(&controller.address, "guess", None), &spec, [1; 16], PATIENCE).await.unwrap_err();
    assert_eq!(refused, EnrolError::Refused("the join token is wrong; use that of the cluster".into()));
    let nowhere = enrol(&access("127.0.0.1:1", TOKEN, None), &spec, [1; 16], Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(nowhere, EnrolError::Unreachable(_)), "{nowhere:?}");
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_asks_twice_is_one_broker() {
    let controller = start(&MemoryDisk::new(), "127.0.0.1:0").await;
    let access = access(&controller.address, TOKEN, None);
    let spec = NodeSpec { address: "b:9081".into(), capacity: 1, incarnation: 1, format: 1, zone: String::new() };
    let (first, cluster) = enrol(&access, &spec, [1; 16], PATIENCE).await.unwrap();
    assert_eq!((first, cluster), (NodeId(2), controller.controller.cluster().id.clone()));
    assert_eq!(enrol(&access, &spec, [1; 16], PATIENCE).await.unwrap().0, first);
    assert_eq!(enrol(&access, &spec, [2; 16], PATIENCE).await.unwrap().0, NodeId(3));
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_watchers_see_the_same() {
    let controller = start(&MemoryDisk::new(), "127.0.0.1:0").await;
    let tasks = TaskGroup::new();
    let watchers: Vec<_> = (0..100).map(|_| follower(access(&controller.address, TOKEN, None), &memory())).collect();
    for watcher in &watchers {
        let (one, stop) = (watcher.clone(), tasks.signal());
        tasks.spawn("follow", async move { one.follow(stop).await.unwrap() });
    }
    for watcher in &watchers {
        timeout(PATIENCE, watcher.ready()).await.unwrap();
    }
    let clock = SystemClock::new();
    let made = controller.controller.create_topic(TopicSpec::on_first_use(topic("a"))).await.unwrap();
    let decided = clock.mono();
    for watcher in &watchers {
        until("every watcher sees it", || watcher.topic(&topic("a")).as_ref() == Some(&made)).await;
    }
    let told = clock.mono() - decided;
    println!("a change was seen by {} watchers after {told:?}", watchers.len());
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
    controller.stop().await;
}
