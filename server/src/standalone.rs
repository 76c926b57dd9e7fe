//! A whole cluster in this process: controller, broker and proxy, wired in the order in which each needs the one before.
//!
//! Starting goes from the disk to the clients: data folder, controller, shard, proxy, listeners. Stopping goes back: no new connections,
//! requests under way finish, the shard syncs, the folder is marked clean.

use crate::config::{Config, Tls, TlsMode};
use crate::listeners::{self, ADMIN, HTTP, ListenError, MESSAGING, METRICS};
use crate::report::{Endpoints, Ready};
use crate::workers::{self, Workers};
use gantry_broker::LocalBroker;
use gantry_controller::Controller;
use gantry_model::ShardId;
use gantry_model::contract::{Broker, Metadata};
use gantry_platform::clock::{SharedClock, sleep};
use gantry_platform::disk::SharedDisk;
use gantry_platform::net::Listener;
use gantry_platform::tasks::TaskGroup;
use gantry_platform::{RealDisk, SystemChance};
use gantry_proxy::Proxy;
use gantry_store::data_folder::{DataFolder, FolderError};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The one shard of a standalone server.
const SHARD: ShardId = ShardId(0);
/// Where the kernel tells which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How often a key for handles is asked whether it is old.
const KEY_CHECK: Duration = Duration::from_secs(3600);
/// How often the stop looks whether the workers have ended.
const STOP_CHECK: Duration = Duration::from_millis(5);

/// A running server.
pub struct Standalone {
    folder: DataFolder,
    controller: Arc<Controller>,
    broker: Arc<LocalBroker>,
    proxy: Proxy,
    workers: Workers,
    /// The acceptor: it ends first.
    front: TaskGroup,
    /// Admin, HTTP and what goes on beside the requests: it ends last.
    back: TaskGroup,
    ready: Ready,
}

/// Why the server did not start.
#[derive(Debug)]
pub enum StartError {
    Folder(FolderError),
    Controller(gantry_controller::OpenError),
    Broker(gantry_broker::OpenError),
    Proxy(gantry_proxy::ConfigError),
    Listen(ListenError),
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Folder(error) => error.fmt(f),
            StartError::Controller(error) => error.fmt(f),
            StartError::Broker(error) => error.fmt(f),
            StartError::Proxy(error) => error.fmt(f),
            StartError::Listen(error) => error.fmt(f),
            StartError::System(error) => write!(f, "the server can't start: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl Standalone {
    /// Starts everything. Blocks on the disk while it recovers; nobody else runs yet.
    pub async fn start(config: &Config, clock: SharedClock) -> Result<Standalone, StartError> {
        let data = absolute(&config.data).map_err(StartError::System)?;
        let disk: SharedDisk = Arc::new(RealDisk::new(&data));
        let folder = DataFolder::open(disk.clone(), &data, &boot_id(), &mut SystemChance).map_err(StartError::Folder)?;
        let controller = open_controller(config, &folder, &disk, &clock, &data)?;
        let broker = open_broker(config, &folder, &disk, &clock, controller.clone())?;
        let contracts: (Arc<dyn Broker>, Arc<dyn Metadata>) = (broker.clone(), controller.clone());
        let proxy = Proxy::new(proxy_config(config, &data), contracts.0, contracts.1, clock.clone()).map_err(StartError::Proxy)?;
        let (front, back) = (TaskGroup::new(), TaskGroup::new());
        let (endpoints, workers) = listen(config, &proxy, &front, &back)?;
        back.spawn("key rotation", rotate_keys(controller.clone()));
        let ready = Ready {
            version: env!("CARGO_PKG_VERSION"),
            took: clock.mono(),
            endpoints,
            security: security(&config.tls),
            cluster: controller.cluster().name.clone(),
            data,
        };
        Ok(Standalone { folder, controller, broker, proxy, workers, front, back, ready })
    }

    /// Where the server is and what to do with it.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Whether the disk failed: then nothing can be acknowledged any more and the process must end.
    pub fn disk_failed(&self) -> bool {
        self.broker.has_failed()
    }

    /// Ends in order. Requests under way may take `grace`; what was acknowledged is on disk in any case.
    pub async fn stop(self, grace: Duration) {
        let Standalone { folder, controller, broker, proxy, workers, front, back, .. } = self;
        report(front.shutdown(grace).await);
        if gantry_platform::clock::timeout(grace, finish(&proxy, &broker, &workers)).await.is_err() {
            tracing::warn!(?grace, "some requests did not finish in time and are cut off; their clients will repeat them");
        }
        report(back.shutdown(grace).await);
        let synced = broker.close();
        drop((proxy, broker, controller));
        // Without the mark the next start reads the log to its end and finds the same.
        match synced.then(|| folder.close()) {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%error, "the data folder could not be marked as cleanly closed"),
            None => tracing::error!("the shard did not end cleanly; the next start recovers what was acknowledged"),
        }
    }
}

async fn finish(proxy: &Proxy, broker: &Arc<LocalBroker>, workers: &Workers) {
    proxy.drain().await;
    broker.drain().await;
    while !workers.ended() {
        sleep(STOP_CHECK).await;
    }
}

fn report(end: Result<(), gantry_platform::tasks::ShutdownError>) {
    if let Err(error) = end {
        tracing::warn!(%error, "not all tasks ended by themselves");
    }
}

fn open_controller(config: &Config, folder: &DataFolder, disk: &SharedDisk, clock: &SharedClock, data: &std::path::Path) -> Result<Arc<Controller>, StartError> {
    let options = gantry_controller::Options {
        cluster_name: config.cluster_name.clone(),
        cluster_id: Some(folder.cluster.iter().map(|byte| format!("{byte:02x}")).collect()),
        shards: 1,
    };
    let dir = data.join("controller");
    Controller::open(disk.clone(), &dir, clock.clone(), Box::new(SystemChance), options).map_err(StartError::Controller)
}

fn open_broker(
    config: &Config,
    folder: &DataFolder,
    disk: &SharedDisk,
    clock: &SharedClock,
    metadata: Arc<dyn Metadata>,
) -> Result<Arc<LocalBroker>, StartError> {
    LocalBroker::open(gantry_broker::Options {
        disk: disk.clone(),
        dir: folder.shard(SHARD),
        clock: clock.clone(),
        metadata,
        shard: SHARD,
        cluster: folder.cluster,
        retention: gantry_broker::Retention { age_ms: config.retention.age.as_millis() as u64, bytes: config.retention.bytes },
        skip_damaged: false,
    })
    .map_err(StartError::Broker)
}
