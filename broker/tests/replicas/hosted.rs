//! A node whose copy is opened by the real host, which repairs what is damaged, among nodes that are opened by hand.

use super::world::{SHARD, Wires, World};
use async_trait::async_trait;
use gantry_broker::agent::{Host, HostSettings, Peers};
use gantry_broker::replica::{Handle, View};
use gantry_model::NodeId;
use gantry_model::contract::Directory;
use gantry_model::contract::directory::{Copy, NodeView, Order, ShardRoute, Survey};
use gantry_model::contract::metadata::{MetadataError, Version};
use gantry_platform::SeededChance;
use gantry_platform::clock::{Clock, SystemClock, sleep};
use gantry_platform::disk::SharedDisk;
use gantry_platform::tasks::TaskGroup;
use gantry_proto::connections::Channels;
use gantry_store::data_folder::DataFolder;
use gantry_store::replica::reign::Reign;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The directory as the test's controller has it.
#[derive(Debug)]
struct Routes {
    reign: Arc<Mutex<Reign>>,
    wires: Arc<Mutex<Wires>>,
}

#[async_trait]
impl Directory for Routes {
    fn address(&self, node: NodeId) -> Option<String> {
        self.wires.lock().unwrap().doors.get(&node.0).map(|(_, address)| address.to_string())
    }

    fn shards(&self) -> Vec<ShardRoute> {
        let reign = self.reign.lock().unwrap();
        let copy = |member: &gantry_store::replica::Member| Copy { node: member.node, store: member.store.0 };
        let copies = reign.members().iter().map(copy).collect();
        let leader = reign.led_by().map(|grant| copy(&grant.leader));
        vec![ShardRoute { shard: SHARD, epoch: reign.epoch(), leader, copies, learners: Vec::new(), unclean: Default::default() }]
    }

    fn nodes(&self) -> Vec<NodeView> {
        Vec::new()
    }

    async fn survey(&self, _: gantry_model::ShardId) -> Result<Survey, MetadataError> {
        unreachable!("nobody recovers anything here")
    }

    async fn order(&self, _: Order) -> Result<String, MetadataError> {
        unreachable!("nobody gives orders here")
    }

    fn version(&self) -> Version {
        Version(1)
    }

    async fn changed(&self, _: Version) -> Version {
        sleep(Duration::from_millis(100)).await;
        Version(1)
    }
}

/// A node that runs under a host.
pub struct Hosted {
    pub host: Arc<Host>,
    tasks: TaskGroup,
    _folder: Arc<DataFolder>,
}

impl Hosted {
    /// Starts it on the disk of a node that does not run.
    pub fn start(world: &World, node: u64) -> Hosted {
        let disk: SharedDisk = Arc::new(world.disk(node));
        let folder = Arc::new(DataFolder::open(disk.clone(), Path::new("data"), "boot", &mut SeededChance::new(node)).unwrap());
        let options = super::world::options(disk.clone(), &world.catalogue, Path::new(""));
        let settings = HostSettings {
            folder: folder.clone(),
            disk,
            clock: Arc::new(SystemClock::new()),
            metadata: world.catalogue.clone(),
            node: NodeId(node),
            cluster: options.cluster,
            retention: gantry_broker::Retention { bytes: world.keep(node), ..options.retention },
            skip_damaged: false,
            sizes: options.sizes,
        };
        let (host, tasks) = (Host::new(settings), TaskGroup::new());
        let peers = Peers {
            directory: Arc::new(Routes { reign: world.reign.clone(), wires: world.wires.clone() }),
            channels: Arc::new(Channels::new(Arc::new(gantry_platform::net::RealNet))),
        };
        host.clone().start(peers, &tasks);
        Hosted { host, tasks, _folder: folder }
    }

    fn handle(&self) -> Option<Handle> {
        self.host.get(SHARD).map(|copy| copy.handle)
    }

    /// Waits until its copy has what the leader of the world has, all of it applied.
    pub async fn level(&self, world: &World) -> View {
        let clock = SystemClock::new();
        loop {
            if let Some(handle) = self.handle() {
                world.let_in(self.host.node().0, &handle);
                let (own, leader) = (handle.view(), world.view(world.leader().await));
                if (own.end, own.applied, own.suspect, own.installs) == (leader.end, leader.end, false, None) {
                    return own;
                }
            }
            assert!(clock.mono() < Duration::from_secs(40), "{:?} {:?}", self.handle().map(|handle| handle.view()), self.host.failed());
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn stop(self, world: &World) {
        world.let_out(self.host.node().0);
        self.tasks.shutdown(Duration::from_secs(5)).await.unwrap();
        assert!(self.host.close_all().await);
    }
}
