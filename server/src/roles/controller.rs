//! A controller as a process: it decides with the others, and while it leads it steers the cluster.

use super::{CONTROLLER, Inside, LINGER, Ready, accept, bind_http, list, listen, report};
use crate::config::Config;
use crate::standalone::{StartError, VERSION, boot_id, rotate_keys};
use async_trait::async_trait;
use gantry_controller::cluster::helm::Helm;
use gantry_controller::cluster::service::Door;
use gantry_controller::consensus::Pace;
use gantry_controller::consensus::peers::grpc::{GrpcPeers, server};
use gantry_controller::state::shards::Policy;
use gantry_controller::{Controller, Join, Options, Settings, Starting};
use gantry_model::contract::{Directory, Metadata};
use gantry_platform::clock::SharedClock;
use gantry_platform::disk::SharedDisk;
use gantry_platform::net::RealNet;
use gantry_platform::tasks::TaskGroup;
use gantry_platform::{RealDisk, SystemChance};
use gantry_proxy::http::{self, Probe};
use gantry_store::data_folder::DataFolder;
use std::path::absolute;
use std::sync::Arc;
use tonic::service::Routes;

/// A running controller.
pub struct ControllerRole {
    folder: DataFolder,
    controller: Arc<Controller>,
    tasks: TaskGroup,
    ready: Ready,
}

impl ControllerRole {
    pub async fn start(config: &Config, clock: SharedClock) -> Result<ControllerRole, StartError> {
        let data = absolute(&config.data).map_err(StartError::System)?;
        let disk: SharedDisk = Arc::new(RealDisk::new(&data));
        let folder = DataFolder::open(disk.clone(), &data, &boot_id(), &mut SystemChance).map_err(StartError::Folder)?;
        let Inside { listener, address, listens } = listen(config, CONTROLLER, config.ports.controller)?;
        let (http_listener, http_at) = bind_http(config).map_err(StartError::Listen)?;
        let token = config.cluster.token.clone().unwrap_or_default();
        let settings = Settings {
            disk,
            dir: data.join("controller"),
            clock: clock.clone(),
            chance: Box::new(SystemChance),
            peers: Arc::new(GrpcPeers::new(Arc::new(RealNet))),
            address: address.clone(),
            token: Some(token.clone()),
            pace: Pace::default(),
            desk: gantry_controller::consensus::Desk::Thread,
        };
        let seeds: Vec<String> = config.cluster.controllers.iter().filter(|seed| **seed != address).cloned().collect();
        let join = (!seeds.is_empty()).then_some(Join { seeds, token, found_if_none: config.cluster.bootstrap });
        let options = Options { cluster_name: config.cluster_name.clone(), cluster_id: None, shards: config.shards, join };
        let starting = Starting::open(settings, options).await.map_err(StartError::Controller)?;
        let (tasks, door) = (TaskGroup::new(), Door::default());
        accept(listener, Routes::new(server(starting.answer())).add_service(door.clone().server()), &tasks);
        let controller = starting.ready().await.map_err(StartError::Controller)?;
        let policy = Policy { copies: config.cluster.copies, min_copies: config.cluster.min_copies };
        let (helm, mailbox) = Helm::new(controller.clone(), policy);
        door.open(controller.clone(), mailbox);
        tasks.spawn("helm", helm.run(tasks.signal()));
        tasks.spawn("key rotation", rotate_keys(controller.clone(), tasks.signal()));
        tasks.spawn("http", http::serve(Arc::new(Health(controller.clone())), http_listener, tasks.signal()));
        let cluster = controller.cluster();
        let lines = vec![
            ("controller", format!("{}  others reach it as {address}", list(&listens))),
            ("http", format!("{}  /livez /readyz /metrics", list(&http_at))),
            ("data", format!("{}  cluster {} ({}), node {}", data.display(), cluster.name, cluster.id, controller.status().node)),
        ];
        let ready = Ready { version: VERSION, role: "controller", took: clock.mono(), lines };
        Ok(ControllerRole { folder, controller, tasks, ready })
    }

    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Ends in order; a leader gives its place to another first, so that nobody has to miss it.
    pub async fn stop(self) {
        let ControllerRole { folder, controller, tasks, .. } = self;
        if controller.consensus().leads()
            && let Err(error) = controller.consensus().hand_over(None).await
        {
            tracing::info!(%error, "no other controller takes the lead now");
        }
        report(tasks.shutdown(LINGER).await);
        controller.close().await;
        drop(controller);
        if let Err(error) = folder.close() {
            tracing::warn!(%error, "the data folder could not be marked as cleanly closed");
        }
    }
}

/// How a controller is.
struct Health(Arc<Controller>);

#[async_trait]
impl Probe for Health {
    async fn not_ready(&self) -> Option<String> {
        self.0.status().leader.is_none().then(|| "no controller leads: too few of them are running or reach each other".to_owned())
    }

    async fn metrics(&self) -> String {
        let status = self.0.status();
        let leads = u8::from(self.0.consensus().leads());
        let version = Metadata::version(&*self.0).0;
        let node = status.node;
        let mut text = format!(
            "# HELP gantry_controller_leader Whether this controller leads the others.\n\
             # TYPE gantry_controller_leader gauge\n\
             gantry_controller_leader{{node=\"{node}\"}} {leads}\n\
             # HELP gantry_controller_version Changes of the metadata that this controller knows.\n\
             # TYPE gantry_controller_version counter\n\
             gantry_controller_version{{node=\"{node}\"}} {version}\n"
        );
        text.push_str(
            "# HELP gantry_shard_unclean_recoveries_total How often an operator gave up acknowledged messages of a shard.\n\
             # TYPE gantry_shard_unclean_recoveries_total counter\n",
        );
        for route in self.0.shards() {
            text.push_str(&format!("gantry_shard_unclean_recoveries_total{{shard=\"{}\"}} {}\n", route.shard, route.unclean.recoveries));
        }
        text
    }
}
