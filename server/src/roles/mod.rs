//! The roles of a cluster, each a process of its own. What they share: how they listen, how they end, how others ask whether they are well.

pub mod controller;
pub mod broker;
pub mod proxy;
pub mod dev;

use crate::config::Config;
use crate::listeners::{self, ListenError, Service};
use crate::standalone::StartError;
use gantry_platform::net::Listener;
use gantry_platform::tasks::{ShutdownError, TaskGroup};
use gantry_proto::connections::{Channels, serve};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tonic::service::Routes;

const BROKER: Service = Service { name: "broker", flag: "--broker-port" };
const CONTROLLER: Service = Service { name: "controller", flag: "--controller-port" };
/// How long tasks beside the requests may take to end.
const LINGER: Duration = Duration::from_secs(5);

/// A port for other processes of the cluster, not yet accepting.
struct Inside {
    listener: Listener,
    /// How others reach it.
    address: String,
    listens: Vec<SocketAddr>,
}

fn listen(config: &Config, service: Service, port: u16) -> Result<Inside, StartError> {
    let listener = listeners::bind(service, &config.listen, port).map_err(StartError::Listen)?;
    let listens = listener.local_addresses().map_err(StartError::System)?;
    let port = listens.first().map_or(port, SocketAddr::port);
    Ok(Inside { listener, address: format!("{}:{port}", config.cluster.address), listens })
}

/// Serves other roles until the group is told to stop.
fn accept(inside: Listener, services: Routes, tasks: &TaskGroup) {
    let group = tasks.clone();
    tasks.spawn("service for other roles", async move {
        if let Err(error) = serve(Box::new(inside), services, &group).await {
            tracing::error!(%error, "other processes of the cluster can't be served any more");
        }
    });
}

fn channels() -> Arc<Channels> {
    Arc::new(Channels::new(Arc::new(gantry_platform::net::RealNet)))
}

fn report(end: Result<(), ShutdownError>) {
    if let Err(error) = end {
        tracing::warn!(%error, "not all tasks ended by themselves");
    }
}

/// A process that is ready: its role, and where it listens.
#[derive(Debug)]
pub struct Ready {
    pub version: &'static str,
    pub role: &'static str,
    pub took: Duration,
    /// What is where: purpose and address.
    pub lines: Vec<(&'static str, String)>,
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "gantry {} {} is ready after {} ms", self.version, self.role, self.took.as_millis())?;
        self.lines.iter().try_for_each(|(purpose, address)| write!(f, "\n  {purpose:<11} {address}"))
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The HTTP port of a role that has no clients.
fn bind_http(config: &Config) -> Result<(Listener, Vec<SocketAddr>), ListenError> {
    let listener = listeners::bind(listeners::HTTP, &config.listen, config.ports.http)?;
    let addresses = listener.local_addresses().unwrap_or_default();
    Ok((listener, addresses))
}
