//! A whole cluster in this process: controller, broker and proxy, wired in the order in which each needs the one before.
//!
//! Starting goes from the disk to the clients: data folder, controller, shard, proxy, listeners. Stopping goes back: no new connections,
//! requests under way finish, the shard syncs, the folder is marked clean.

use crate::config::{Config, Tls, TlsMode};
use crate::listeners::{self, ADMIN, HTTP, ListenError, MESSAGING, METRICS};
use crate::report::{Endpoints, Ready};
use crate::workers::Workers;
use gantry_broker::LocalBroker;
use gantry_controller::{Controller, OpenError, Settings};
use gantry_model::contract::{Broker, Metadata};
use gantry_model::{Epoch, ShardId};
use gantry_platform::clock::{SharedClock, sleep, timeout};
use gantry_platform::disk::SharedDisk;
use gantry_platform::net::Listener;
use gantry_platform::tasks::{ShutdownError, Stop, TaskGroup};
use gantry_platform::{RealDisk, SystemChance};
use gantry_proxy::Proxy;
use gantry_proxy::admin_v2::LogControl;
use gantry_proxy::edge::Limits;
use gantry_proxy::route::Routed;
use gantry_proxy::route::shards::{Lead, Table};
use gantry_store::data_folder::{DataFolder, FolderError};
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, absolute};
use std::sync::Arc;
use std::time::Duration;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Where the kernel tells which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How often a key for handles is asked whether it is old.
const KEY_CHECK: Duration = Duration::from_secs(3600);
/// How long what goes on beside the requests may take to end.
const LINGER: Duration = Duration::from_secs(6);

/// A running server.
pub struct Standalone {
    folder: DataFolder,
    controller: Arc<Controller>,
    shards: Vec<Arc<LocalBroker>>,
    proxy: Proxy,
    workers: Workers,
    /// The acceptor: it ends first.
    front: TaskGroup,
    /// Open connections and what goes on beside the requests: told to stop when no request is under way any more.
    back: TaskGroup,
    ready: Ready,
}

/// Why the server did not start.
#[derive(Debug)]
pub enum StartError {
    Folder(FolderError),
    Controller(gantry_controller::OpenError),
    /// The data folder was made with another number of shards.
    OtherShards {
        found: u32,
        wanted: u32,
    },
    Broker(gantry_broker::OpenError),
    /// The cluster did not take a broker in.
    Enrol(gantry_controller::remote::EnrolError),
    /// The cluster does not want this process.
    Cluster(String),
    Proxy(gantry_proxy::tls::ConfigError),
    Listen(ListenError),
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Folder(error) => error.fmt(f),
            StartError::Controller(error) => error.fmt(f),
            StartError::OtherShards { found, wanted } => write!(
                f,
                "the data folder was made with {found} shard{}, not {wanted}: what is stored would not be found; start with `--shards {found}`, \
                 or leave it out",
                if *found == 1 { "" } else { "s" }
            ),
            StartError::Broker(error) => error.fmt(f),
            StartError::Enrol(error) => error.fmt(f),
            StartError::Cluster(why) => write!(f, "this process can't take part in the cluster: {why}"),
            StartError::Proxy(error) => error.fmt(f),
            StartError::Listen(error) => error.fmt(f),
            StartError::System(error) => write!(f, "the server can't start: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl Standalone {
    /// Starts everything. Blocks on the disk while it recovers; nobody else runs yet.
    pub async fn start(config: &Config, log_control: LogControl, clock: SharedClock) -> Result<Standalone, StartError> {
        let data = absolute(&config.data).map_err(StartError::System)?;
        let disk: SharedDisk = Arc::new(RealDisk::new(&data));
        let folder = DataFolder::open(disk.clone(), &data, &boot_id(), &mut SystemChance).map_err(StartError::Folder)?;
        let controller = open_controller(config, &folder, &disk, &clock, &data).await?;
        let shards = open_shards(config, &folder, &disk, &clock, &controller)?;
        let broker = one_broker(&shards, &controller, &clock);
        let doors = Doors::open(config)?;
        let endpoints = doors.endpoints.clone();
        let settings = gantry_proxy::Config { log_control: Some(log_control), ..proxy_config(config, &data, &endpoints) };
        let proxy = Proxy::new(settings, broker, controller.clone(), clock.clone()).map_err(StartError::Proxy)?;
        let (front, back) = (TaskGroup::new(), TaskGroup::new());
        let workers = serve(doors, &proxy, &front, &back).map_err(StartError::System)?;
        back.spawn("key rotation", rotate_keys(controller.clone(), back.signal()));
        let cluster = controller.cluster().name.clone();
        let ready = Ready { version: VERSION, took: clock.mono(), endpoints, security: security(&config.tls), data, cluster };
        Ok(Standalone { folder, controller, shards, proxy, workers, front, back, ready })
    }

    /// Where the server is and what to do with it.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Whether the disk failed: then nothing can be acknowledged any more and the process must end.
    pub fn disk_failed(&self) -> bool {
        self.shards.iter().any(|shard| shard.has_failed())
    }

    /// Ends in order. Requests under way may take `grace`; what was acknowledged is on disk in any case.
    pub async fn stop(self, grace: Duration) {
        let Standalone { folder, controller, shards, proxy, workers, front, back, .. } = self;
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
        let unsynced = shards.iter().filter(|shard| !shard.close()).count();
        controller.close().await;
        drop((proxy, shards, controller));
        // Without the mark the next start reads the log to its end and finds the same.
        match (unsynced == 0).then(|| folder.close()) {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%error, "the data folder could not be marked as cleanly closed"),
            None => tracing::error!(unsynced, "not all shards ended cleanly; the next start recovers what was acknowledged"),
        }
    }
}

fn report(end: Result<(), ShutdownError>) {
    if let Err(error) = end {
        tracing::warn!(%error, "not all tasks ended by themselves");
    }
}

async fn open_controller(
    config: &Config,
    folder: &DataFolder,
    disk: &SharedDisk,
    clock: &SharedClock,
    data: &Path,
) -> Result<Arc<Controller>, StartError> {
    let options = gantry_controller::Options {
        cluster_name: config.cluster_name.clone(),
        cluster_id: Some(hex::encode(folder.cluster)),
        shards: config.shards,
        join: None,
    };
    let settings = Settings::alone(disk.clone(), &data.join("controller"), clock.clone(), Box::new(SystemChance));
    Controller::open(settings, options).await.map_err(|error| match error {
        OpenError::OtherShards { found, wanted } => StartError::OtherShards { found, wanted },
        other => StartError::Controller(other),
    })
}

/// Opens every shard of the cluster. All of them are on the disk of this machine and share what it may keep.
fn open_shards(
    config: &Config,
    folder: &DataFolder,
    disk: &SharedDisk,
    clock: &SharedClock,
    controller: &Arc<Controller>,
) -> Result<Vec<Arc<LocalBroker>>, StartError> {
    let count = controller.cluster().shards;
    let bytes = config.retention.bytes.map(|bytes| (bytes / u64::from(count)).max(1));
    let open = |number| {
        let shard = ShardId(number);
        LocalBroker::open(gantry_broker::Options {
            disk: disk.clone(),
            dir: folder.shard(shard),
            clock: clock.clone(),
            metadata: controller.clone(),
            shard,
            cluster: folder.cluster,
            retention: gantry_broker::Retention { age_ms: config.retention.age.as_millis() as u64, bytes },
            skip_damaged: config.skip_damaged,
            sizes: Default::default(),
        })
        .map_err(StartError::Broker)
    };
    (0..count).map(open).collect()
}

/// The shards as the proxy sees them. Where there is one, nothing has to be routed.
fn one_broker(shards: &[Arc<LocalBroker>], controller: &Arc<Controller>, clock: &SharedClock) -> Arc<dyn Broker> {
    if let [only] = shards {
        return only.clone();
    }
    let lead = |(number, shard): (usize, &Arc<LocalBroker>)| {
        let lead = Lead { broker: shard.clone(), epoch: Epoch(1) };
        (ShardId(number as u32), lead)
    };
    let table = Table::new(shards.iter().enumerate().map(lead));
    Arc::new(Routed::new(Arc::new(table), controller.clone(), clock.clone()))
}

pub fn proxy_config(config: &Config, data: &Path, endpoints: &Endpoints) -> gantry_proxy::Config {
    let (cert, key) = config.tls.files.clone().unzip();
    let mode = match config.tls.mode {
        TlsMode::Permissive => gantry_proxy::tls::Mode::Permissive,
        TlsMode::Required => gantry_proxy::tls::Mode::Required,
        TlsMode::Off => gantry_proxy::tls::Mode::Off,
    };
    let defaults = Limits::default();
    gantry_proxy::Config {
        auto_create: config.auto_create,
        advertised: config.advertised.clone(),
        tls: gantry_proxy::tls::Config { mode, cert, key },
        limits: Limits {
            connections: config.limits.connections,
            open_polls: config.limits.open_polls,
            decode_bytes: config.limits.decode_bytes,
            idle_time: config.limits.idle_time,
            ..defaults
        },
        version: VERSION,
        data_dir: data.display().to_string(),
        endpoints: endpoints.named().map(|(purpose, address)| (purpose.to_owned(), address.to_string())).collect(),
        log_control: None,
        directory: None,
    }
}

/// The sockets of all services, not yet accepting.
pub struct Doors {
    messaging: Listener,
    admin: Listener,
    http: Listener,
    metrics: Listener,
    pub endpoints: Endpoints,
}

impl Doors {
    pub fn open(config: &Config) -> Result<Doors, StartError> {
        let bind = |service, port| listeners::bind(service, &config.listen, port).map_err(StartError::Listen);
        let (messaging, admin) = (bind(MESSAGING, config.ports.messaging)?, bind(ADMIN, config.ports.admin)?);
        let (http, metrics) = (bind(HTTP, config.ports.http)?, bind(METRICS, config.ports.metrics)?);
        let addresses = |listener: &Listener| listener.local_addresses().map_err(StartError::System);
        let endpoints =
            Endpoints { messaging: addresses(&messaging)?, admin: addresses(&admin)?, http: addresses(&http)?, metrics: addresses(&metrics)? };
        Ok(Doors { messaging, admin, http, metrics, endpoints })
    }
}

/// Begins to accept connections.
pub fn serve(doors: Doors, proxy: &Proxy, front: &TaskGroup, back: &TaskGroup) -> io::Result<Workers> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut workers = Workers::new();
    let (messaging, stop) = (proxy.clone(), back.signal());
    let dealer = workers.start_messaging(cores, move |connections| {
        let (proxy, stop) = (messaging.clone(), stop.clone());
        async move { proxy.serve_messaging(connections, stop).await }
    })?;
    let stop = front.signal();
    front.spawn("acceptor", async move { dealer.deal(doors.messaging, stop).await });
    let (proxy, stop) = (proxy.clone(), back.signal());
    workers.start("admin", move || async move {
        let admin = proxy.serve_admin(doors.admin, stop.clone());
        tokio::join!(admin, proxy.serve_http(doors.http, stop.clone()), proxy.serve_http(doors.metrics, stop.clone()));
    })?;
    Ok(workers)
}

pub async fn rotate_keys(controller: Arc<Controller>, stop: Stop) {
    loop {
        tokio::select! {
            () = sleep(KEY_CHECK) => {}
            () = stop.stopped() => return,
        }
        if let Err(error) = controller.rotate_keys().await {
            tracing::warn!(%error, "the key that signs handles could not be replaced; the old one goes on");
        }
    }
}

pub fn security(tls: &Tls) -> &'static str {
    match (tls.mode, &tls.files) {
        (TlsMode::Permissive, Some(_)) => "TLS and plain text",
        (TlsMode::Permissive, None) => "plain text and TLS with a self-signed certificate",
        (TlsMode::Required, Some(_)) => "TLS only",
        (TlsMode::Required, None) => "TLS only, with a self-signed certificate",
        (TlsMode::Off, _) => "plain text only",
    }
}

/// The kernel's name for the time since the machine was started; empty where it has none, and then every crash counts as one of the machine.
pub fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned()).unwrap_or_default()
}
