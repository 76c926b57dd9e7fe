//! A broker as a process: it holds copies of shards, and leads those that the controllers give it.

use super::{BROKER, Inside, LINGER, Ready, accept, bind_http, channels, list, listen, report};
use crate::config::Config;
use crate::standalone::{StartError, VERSION, boot_id};
use async_trait::async_trait;
use gantry_broker::agent::{Agent, Forbidden, Host, HostSettings, SessionSettings, Spec};
use gantry_broker::remote::{Locals, Reign};
use gantry_controller::remote::{Access, Remote, Settings, enrol};
use gantry_controller::state::nodes::NodeSpec;
use gantry_model::contract::{Directory, Metadata};
use gantry_platform::chance::Chance;
use gantry_platform::clock::{SharedClock, sleep, timeout};
use gantry_platform::disk::SharedDisk;
use gantry_platform::tasks::{Stop, TaskGroup};
use gantry_platform::{RealDisk, SystemChance};
use gantry_proxy::http::{self, Probe};
use gantry_store::data_folder::DataFolder;
use gantry_store::data_folder::copies::Enrolment;
use hex::FromHex;
use std::collections::BTreeSet;
use std::path::absolute;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tonic::service::Routes;

/// The newest stored format that this version reads and writes.
const FORMAT: u32 = gantry_store::data_folder::FORMAT;
/// How long a new broker waits to be taken in.
const ENROL: Duration = Duration::from_secs(60);
/// How long the leads of a broker that ends may take to be handed over, and how long it waits for the next of them: where nobody can take them,
/// nobody does.
const HAND_OVER: Duration = Duration::from_secs(10);
const NEXT_LEAD: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);

/// A running broker.
pub struct BrokerRole {
    folder: Arc<DataFolder>,
    host: Arc<Host>,
    remote: Arc<Remote>,
    tasks: TaskGroup,
    draining: watch::Sender<bool>,
    forbidden: watch::Receiver<Option<Forbidden>>,
    ready: Ready,
}

impl BrokerRole {
    pub async fn start(config: &Config, clock: SharedClock) -> Result<BrokerRole, StartError> {
        let data = absolute(&config.data).map_err(StartError::System)?;
        let disk: SharedDisk = Arc::new(RealDisk::new(&data));
        let folder = Arc::new(DataFolder::open(disk.clone(), &data, &boot_id(), &mut SystemChance).map_err(StartError::Folder)?);
        let Inside { listener, address, listens } = listen(config, BROKER, config.ports.broker)?;
        let (http_listener, http_at) = bind_http(config).map_err(StartError::Listen)?;
        let channels = channels();
        let spec = Spec {
            address: address.clone(),
            zone: config.cluster.zone.clone(),
            capacity: config.cluster.capacity,
            incarnation: folder.incarnation,
            format: FORMAT,
        };
        let mut access = Access {
            controllers: config.cluster.controllers.clone(),
            token: config.cluster.token.clone().unwrap_or_default(),
            cluster: None,
            channels: channels.clone(),
        };
        let Enrolment { node, cluster } = enrolled(&folder, &access, &spec).await?;
        access.cluster = Some(hex::encode(cluster));
        let tasks = TaskGroup::new();
        let remote = follow(access.clone(), disk.clone(), data.join("cluster-state"), &clock, &tasks).await?;
        let host = Host::new(HostSettings {
            folder: folder.clone(),
            disk,
            clock: clock.clone(),
            metadata: remote.clone(),
            node,
            cluster,
            retention: gantry_broker::Retention { age_ms: config.retention.age.as_millis() as u64, bytes: config.retention.bytes },
            skip_damaged: config.skip_damaged,
            sizes: Default::default(),
        });
        let locals = Locals::new(cluster, node, remote.clone(), clock.clone());
        accept(listener, Routes::new(host.copies().server()).add_service(locals.service()), &tasks);
        tasks.spawn("shards for proxies", show(host.clone(), remote.clone(), locals, tasks.signal()));
        let (draining, drains) = watch::channel(false);
        let session = SessionSettings { controllers: access.controllers, token: access.token, cluster: hex::encode(cluster), spec, draining: drains };
        let agent = Agent { host: host.clone(), directory: remote.clone(), channels, session };
        let forbidden = agent.start(&tasks);
        tasks.spawn("http", http::serve(Arc::new(Health(host.clone(), remote.clone())), http_listener, tasks.signal()));
        let lines = vec![
            ("broker", format!("{}  others reach it as {address}", list(&listens))),
            ("http", format!("{}  /livez /readyz /metrics", list(&http_at))),
            ("data", format!("{}  cluster {}, node {node}", data.display(), remote.cluster().name)),
        ];
        let ready = Ready { version: VERSION, role: "broker", took: clock.mono(), lines };
        Ok(BrokerRole { folder, host, remote, tasks, draining, forbidden, ready })
    }

    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Returns when this broker must end: the cluster does not want it, or a disk failed.
    pub async fn failed(&self) -> String {
        let mut forbidden = self.forbidden.clone();
        loop {
            if let Some(why) = &*forbidden.borrow_and_update() {
                return why.to_string();
            }
            if self.host.open().values().any(|copy| copy.broker.has_failed()) {
                return "the disk failed: nothing more is acknowledged here; check the disk, then start it again".to_owned();
            }
            // A broker that is told to stop has no session any more.
            _ = timeout(Duration::from_millis(500), forbidden.changed()).await;
        }
    }

    /// Ends in order: its leads are handed over, then everything is synced.
    pub async fn stop(self, grace: Duration) {
        let BrokerRole { folder, host, remote, tasks, draining, .. } = self;
        draining.send_replace(true);
        // What has no other copy can't be handed over.
        let alone = remote.shards().iter().all(|route| route.copies.len() <= 1);
        if !alone && !timeout(grace.min(HAND_OVER), leads_nothing(&host)).await.unwrap_or(false) {
            tracing::warn!(leads = host.leads(), "not all leads could be handed over; others take them when this broker is gone");
        }
        report(tasks.shutdown(LINGER).await);
        let clean = host.close_all().await;
        drop((host, remote));
        match (clean, Arc::try_unwrap(folder)) {
            (true, Ok(folder)) => {
                if let Err(error) = folder.close() {
                    tracing::warn!(%error, "the data folder could not be marked as cleanly closed");
                }
            }
            _ => tracing::warn!("not all copies ended cleanly; the next start recovers what was acknowledged"),
        }
    }
}

/// Waits until nothing is led here; `false` if that gets no further.
async fn leads_nothing(host: &Host) -> bool {
    let (mut leads, mut still) = (host.leads(), Duration::ZERO);
    while leads > 0 && still < NEXT_LEAD {
        sleep(LOOK).await;
        still += LOOK;
        let now = host.leads();
        if now != leads {
            (leads, still) = (now, Duration::ZERO);
        }
    }
    leads == 0
}

/// The broker's number: as it was given, or a new one.
async fn enrolled(folder: &DataFolder, access: &Access, spec: &Spec) -> Result<Enrolment, StartError> {
    if let Some(enrolment) = folder.enrolment().map_err(StartError::Folder)? {
        return Ok(enrolment);
    }
    let Spec { address, zone, capacity, incarnation, format } = spec.clone();
    let mut request = [0; 16];
    SystemChance.fill(&mut request);
    let spec = NodeSpec { address, zone, capacity, incarnation, format };
    let (node, cluster) = enrol(access, &spec, request, ENROL).await.map_err(StartError::Enrol)?;
    let cluster =
        <[u8; 16]>::from_hex(&cluster).map_err(|_| StartError::Cluster(format!("the controllers call their cluster `{cluster}`, which is no id")))?;
    let enrolment = Enrolment { node, cluster };
    folder.enrol(enrolment).map_err(StartError::Folder)?;
    tracing::info!(%node, "this broker belongs to the cluster now");
    Ok(enrolment)
}

/// Follows the controllers; returns when there is something to go by.
pub(super) async fn follow(
    access: Access,
    disk: SharedDisk,
    file: std::path::PathBuf,
    clock: &SharedClock,
    tasks: &TaskGroup,
) -> Result<Arc<Remote>, StartError> {
    let remote = Remote::new(Settings { access, disk, file, clock: clock.clone(), chance: Box::new(SystemChance) });
    let (tell, mut forbidden) = watch::channel(None);
    let (follower, stop) = (remote.clone(), tasks.signal());
    tasks.spawn("watch of the controllers", async move {
        if let Err(why) = follower.follow(stop).await {
            tracing::error!(%why, "the controllers don't want this process");
            tell.send_replace(Some(why.to_string()));
        }
    });
    let (keeper, stop) = (remote.clone(), tasks.signal());
    tasks.spawn("what the controllers decided", async move { keeper.keep(stop).await });
    tokio::select! {
        () = remote.ready() => Ok(remote.clone()),
        Ok(why) = forbidden.wait_for(Option::is_some) => Err(StartError::Cluster(why.clone().unwrap_or_default())),
    }
}

/// Shows proxies the copies that run here, and whom to ask instead.
async fn show(host: Arc<Host>, remote: Arc<Remote>, locals: Arc<Locals>, stop: Stop) {
    let mut shown = BTreeSet::new();
    let mut changes = host.changes();
    loop {
        let version = Directory::version(&*remote);
        let open = host.open();
        let gone: Vec<_> = shown.iter().filter(|shard| !open.contains_key(shard)).copied().collect();
        for shard in gone {
            shown.remove(&shard);
            locals.remove(shard);
        }
        for (shard, copy) in open {
            if shown.insert(shard) {
                locals.add(shard, copy.broker);
            }
        }
        for route in remote.shards() {
            locals.led_by(route.shard, Reign { epoch: route.epoch, leader: route.leader.map(|leader| leader.node) });
        }
        tokio::select! {
            biased;
            () = stop.stopped() => return,
            changed = changes.changed() => if changed.is_err() { return },
            _ = Directory::changed(&*remote, version) => {}
        }
    }
}

/// How a broker is.
struct Health(Arc<Host>, Arc<Remote>);

#[async_trait]
impl Probe for Health {
    /// Ready means that every copy that belongs here runs: then the next broker may be restarted.
    async fn not_ready(&self) -> Option<String> {
        let Health(host, remote) = self;
        let open = host.open();
        for route in remote.shards() {
            let here = route.copies.iter().any(|copy| copy.node == host.node());
            let Some(copy) = open.get(&route.shard) else {
                if here {
                    let why = host.failed().get(&route.shard).map_or_else(|| "it is being opened".to_owned(), |failed| failed.why.clone());
                    return Some(format!("the copy of shard {} does not run: {why}", route.shard));
                }
                continue;
            };
            if let Some(why) = copy.handle.view().failed {
                return Some(format!("the copy of shard {} failed: {why}", route.shard));
            }
        }
        None
    }

    async fn metrics(&self) -> String {
        let Health(host, _) = self;
        let mut text = String::from("# HELP gantry_replica_leads Whether a copy leads its shard.\n# TYPE gantry_replica_leads gauge\n");
        let views: Vec<_> = host.open().into_iter().map(|(shard, copy)| (shard, copy.handle.view())).collect();
        for (shard, view) in &views {
            text.push_str(&format!("gantry_replica_leads{{shard=\"{shard}\"}} {}\n", u8::from(view.serves)));
        }
        text.push_str("# HELP gantry_replica_end_bytes Address behind the last frame of a copy's log.\n# TYPE gantry_replica_end_bytes gauge\n");
        for (shard, view) in &views {
            text.push_str(&format!("gantry_replica_end_bytes{{shard=\"{shard}\"}} {}\n", view.end.0));
        }
        text.push_str("# HELP gantry_replica_high_watermark_bytes Address below which everything is committed.\n# TYPE gantry_replica_high_watermark_bytes gauge\n");
        for (shard, view) in &views {
            text.push_str(&format!("gantry_replica_high_watermark_bytes{{shard=\"{shard}\"}} {}\n", view.hw.0));
        }
        let counts = host.counts();
        let totals = [
            ("gantry_scrub_bytes_total", "Bytes of copies that were looked through for damage.", &counts.scrubbed),
            ("gantry_damage_found_total", "Places of running copies that could not be read.", &counts.damaged),
            ("gantry_repaired_ranges_total", "Damaged ranges that were repaired with another broker's bytes.", &counts.mended),
            ("gantry_repaired_bytes_total", "Bytes of those ranges.", &counts.mended_bytes),
            ("gantry_copies_begun_anew_total", "Copies that began anew because their files could not be used.", &counts.begun_anew),
        ];
        for (name, help, count) in totals {
            let count = count.load(std::sync::atomic::Ordering::Relaxed);
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {count}\n"));
        }
        text
    }
}
