//! The edge of Gantry: it speaks RocketMQ 5 with clients and turns what they say into calls of the contracts in `model`.
//!
//! This crate is stateless where it matters: every handle and every call can be served by any proxy, and what a proxy remembers of a client
//! is learnt again from its next calls. It never stores a message, never decides who owns a queue, never knows the store, how a shard works
//! or the controller: it sees only [`Broker`] and [`Metadata`]. Where there are several shards, `route` makes one broker of them; those of
//! other processes are reached through `remote`.
//!
//! Read `edge.rs` first: it lists the layers in the order in which a call meets them. Then `rpc/mod.rs`, and the file of the rpc you are
//! interested in.

#![forbid(unsafe_code)]

pub mod edge;
pub mod tls;
pub mod budget;
pub mod wire;
pub mod context;
pub mod rpc;
pub mod validate;
pub mod convert;
pub mod delivery_codec;
pub mod first_use;
pub mod sessions;
pub mod checks;
pub mod settings;
pub mod status;
pub mod errands;
pub mod quota;
pub mod rates;
pub mod shared;
pub mod route;
pub mod remote;
pub mod admin;
pub mod admin_v2;
pub mod http;
pub mod metrics;

use crate::admin_v2::LogControl;
use crate::checks::Reach;
use crate::edge::{Door, Edge, Limits, Offers};
use crate::shared::{Phase, STAGGER, Shared};
use crate::tls::{ConfigError, Tls};
use gantry_model::contract::{Broker, Directory, Metadata};
use gantry_platform::clock::{SharedClock, sleep, timeout};
use gantry_platform::net::Listener;
use gantry_platform::tasks::Stop;
use gantry_proto::admin::admin_server::AdminServer;
use gantry_proto::v2::{self, ReconnectEndpointsCommand, TelemetryCommand, telemetry_command::Command};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tonic_reflection::server::Builder as Reflection;

/// How often the files of the certificate are read again.
const RELOAD_EVERY: Duration = Duration::from_secs(10);
/// How long calls that run may take to finish when the proxy drains.
const FINISH: Duration = Duration::from_secs(10);
/// How long connections may stay after `stop`.
const LINGER: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The services whose health a client may ask for; the empty name is the whole server.
const HEALTH_OF: [&str; 4] = ["", "apache.rocketmq.v2.MessagingService", "apache.rocketmq.v2.Admin", "gantry.admin.v1.Admin"];

/// How a proxy behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether topics and groups come into being by being used.
    pub auto_create: bool,
    /// Host and port to show to a client that does not tell by which address it reached us; without it, the address of its connection.
    pub advertised: Option<(String, u16)>,
    pub tls: tls::Config,
    pub limits: Limits,
    /// Of the server, for people.
    pub version: &'static str,
    /// Where the server stores, for people; empty for a proxy alone.
    pub data_dir: String,
    /// Where the server listens, for people: purpose and address.
    pub endpoints: Vec<(String, String)>,
    /// Sets how much the process logs; without it that can't be changed.
    pub log_control: Option<LogControl>,
    /// The nodes of the cluster; without it the server is all of its cluster.
    pub directory: Option<Arc<dyn Directory>>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            auto_create: true,
            advertised: None,
            tls: tls::Config::default(),
            limits: Limits::default(),
            version: env!("CARGO_PKG_VERSION"),
            data_dir: String::new(),
            endpoints: Vec::new(),
            log_control: None,
            directory: None,
        }
    }
}

/// A proxy. Clones are handles of the same one.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
    edge: Arc<Edge>,
    messaging: Door,
    administration: Door,
    health: HealthReporter,
    /// Whether somebody runs the upkeep already.
    kept: Arc<AtomicBool>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proxy {{ edge: {:?} }}", self.edge)
    }
}

impl Proxy {
    /// A proxy that serves nobody yet.
    pub fn new(config: Config, broker: Arc<dyn Broker>, metadata: Arc<dyn Metadata>, clock: SharedClock) -> Result<Proxy, ConfigError> {
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        names.extend(config.advertised.iter().map(|(host, _)| host.clone()));
        let tls = Tls::new(&config.tls, names)?;
        let shared = Arc::new(Shared::new(config, broker, metadata, clock));
        shared.broker.attach(Arc::new(Reach::new(&shared)));
        let health = HealthReporter::new();
        let routes = base_routes(&health);
        let admin = AdminServer::new(admin::Administration::new(shared.clone()));
        let admin_v2 = v2::admin_server::AdminServer::new(admin_v2::Administration::new(shared.clone()));
        let limits = &shared.config.limits;
        // A message that is sent by an operator may be as large as any.
        let admin_v2 = admin_v2.max_decoding_message_size(limits.send_bytes);
        Ok(Proxy {
            edge: Arc::new(Edge::new(shared.clone(), tls)),
            messaging: Door { offers: Offers::Messaging, routes: routes.clone().prepare() },
            administration: Door { offers: Offers::Administration, routes: routes.add_service(admin).add_service(admin_v2).prepare() },
            shared,
            health,
            kept: Arc::default(),
        })
    }

    /// Serves the messaging service on connections that somebody else accepts, on the runtime that calls it; one call per core. Ends after
    /// `stop`, when its connections have ended.
    pub async fn serve_messaging(&self, incoming: mpsc::Receiver<std::net::TcpStream>, stop: Stop) {
        self.set_health(ServingStatus::Serving).await;
        tokio::join!(self.serve(&self.messaging, Incoming::Dealt(incoming), &stop), self.upkeep(&stop));
    }

    /// Serves the administration API.
    pub async fn serve_admin(&self, listener: Listener, stop: Stop) {
        self.serve(&self.administration, Incoming::Accepted(listener), &stop).await;
    }

    /// Serves `/livez`, `/readyz` and `/metrics` over HTTP/1.
    pub async fn serve_http(&self, listener: Listener, stop: Stop) {
        http::serve(self.shared.clone(), listener, stop).await;
    }

    async fn serve(&self, door: &Door, mut incoming: Incoming, stop: &Stop) {
        let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
        loop {
            let accepted = tokio::select! {
                accepted = incoming.next() => accepted,
                () = stop.stopped() => break,
            };
            match accepted {
                Accepted::Connection(stream) => self.edge.start(stream, door, stop, alive.clone()),
                Accepted::Nothing => {}
                Accepted::End => break,
            }
        }
        drop((alive, incoming));
        // Nothing is ever sent: the channel closes when the last connection is gone. Without new connections those that are there may stay
        // until `stop`, and a little longer.
        let gone = all_gone.recv();
        tokio::pin!(gone);
        tokio::select! {
            _ = &mut gone => return,
            () = stop.stopped() => {}
        }
        let _ = timeout(LINGER, gone).await;
    }

    /// The first call of `serve_messaging` does the upkeep for all.
    async fn upkeep(&self, stop: &Stop) {
        if self.kept.swap(true, Ordering::Relaxed) {
            return;
        }
        let reload = async {
            loop {
                sleep(RELOAD_EVERY).await;
                self.edge.tls.reload();
            }
        };
        tokio::select! {
            () = self.shared.upkeep(stop) => {}
            () = reload => {}
        }
    }

    /// Takes the proxy out of service so that clients notice as little as possible: they are told to go elsewhere, waiting polls end over a
    /// second, calls that run are finished, the broker takes no more work, streams end last. Stop accepting connections at the same time.
    pub async fn drain(&self) {
        self.set_health(ServingStatus::NotServing).await;
        let reconnect = || TelemetryCommand { status: None, command: Some(Command::ReconnectEndpointsCommand(ReconnectEndpointsCommand::default())) };
        let told = self.shared.sessions.all().iter().filter(|session| session.push(reconnect())).count();
        tracing::info!(told, polls = self.shared.metrics.open_polls.get(), "draining");
        self.shared.phase.send_replace(Phase::Draining);
        let polls_ended = async {
            while self.shared.metrics.open_polls.get() > 0 {
                sleep(STAGGER / 20).await;
            }
        };
        if timeout(FINISH, polls_ended).await.is_err() {
            tracing::warn!(polls = self.shared.metrics.open_polls.get(), "polls did not end in time");
        }
        self.shared.broker.drain().await;
        self.shared.phase.send_replace(Phase::Drained);
    }

    /// The text of `/metrics`.
    pub fn metrics_text(&self) -> impl Future<Output = String> + Send + 'static {
        let shared = self.shared.clone();
        async move { http::Probe::metrics(&*shared).await }
    }

    async fn set_health(&self, status: ServingStatus) {
        for service in HEALTH_OF {
            self.health.set_service_status(service, status).await;
        }
    }
}

fn base_routes(health: &HealthReporter) -> Routes {
    let reflection = || Reflection::configure().register_encoded_file_descriptor_set(gantry_proto::FILE_DESCRIPTOR_SET);
    let invariant = "the descriptors were written by the compiler of the protocol";
    Routes::new(HealthServer::new(HealthService::from_health_reporter(health.clone())))
        .add_service(reflection().build_v1().expect(invariant))
        .add_service(reflection().build_v1alpha().expect(invariant))
}

/// Where connections come from.
enum Incoming {
    /// Somebody else accepts them.
    Dealt(mpsc::Receiver<std::net::TcpStream>),
    Accepted(Listener),
}

enum Accepted {
    Connection(TcpStream),
    /// There was none to be had; ask again.
    Nothing,
    End,
}

impl Incoming {
    async fn next(&mut self) -> Accepted {
        let stream = match self {
            Incoming::Dealt(incoming) => match incoming.recv().await {
                // Only a socket that is broken already can't be registered with the runtime.
                Some(stream) => stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).ok(),
                None => return Accepted::End,
            },
            Incoming::Accepted(listener) => accept(listener).await,
        };
        stream.map_or(Accepted::Nothing, Accepted::Connection)
    }
}

/// The next connection; `None` after a pause if there was none to be had.
async fn accept(listener: &Listener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
