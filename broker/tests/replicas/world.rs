//! Three brokers with a copy of one shard each, the wires between them, and a controller that elects. All in one process, on disks in memory.

use crate::catalogue::{self, Catalogue};
use gantry_broker::recover::Sizes;
use gantry_broker::replica::message::{Answer, Message, Outlet, PeerEvent};
use gantry_broker::replica::streams::{Copies, Upstream};
use gantry_broker::replica::{Ended, Handle, Identity, View};
use gantry_broker::{LocalBroker, Options, Retention};
use gantry_model::{Epoch, ShardId};
use gantry_platform::clock::{Clock, SystemClock, sleep};
use gantry_platform::disk::SharedDisk;
use gantry_platform::{MemoryDisk, SeededChance, tasks};
use gantry_store::data_folder::DataFolder;
use gantry_store::replica::elector::{Action, Elector, Event, Sessions, Standing, Times};
use gantry_store::replica::leader::Durability;
use gantry_store::replica::message::SealOk;
use gantry_store::replica::reign::{Entry, Phase, Reason, Reign};
use gantry_store::replica::{Config, Incarnation, Member, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const SHARD: ShardId = ShardId(0);
/// Until here everything has to have happened that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node that runs.
struct Running {
    broker: Arc<LocalBroker>,
    handle: Handle,
    /// Held, so that nobody else opens it.
    folder: DataFolder,
    /// How the copy's thread ended, if it ended by itself.
    ended: Arc<Mutex<Option<Ended>>>,
    opened_before: u32,
}

/// One machine with its disk.
struct Machine {
    disk: MemoryDisk,
    /// Bytes of log that are kept.
    keep: Option<u64>,
    /// Disks that were lost before this one.
    lost: u64,
    running: Option<Running>,
}

#[derive(Debug, Default)]
pub struct Wires {
    handles: BTreeMap<u64, Handle>,
    /// What each node has, and where it answers, if the nodes speak over real streams.
    pub doors: BTreeMap<u64, (Arc<Copies>, SocketAddr)>,
    /// Pairs between which nothing arrives; node 0 is the controller.
    cut: BTreeSet<(u64, u64)>,
}

impl Wires {
    fn reaches(&self, from: u64, to: u64) -> bool {
        !self.cut.contains(&(from, to))
    }
}

/// A wire from one node to another.
struct Wire {
    wires: Arc<Mutex<Wires>>,
    from: u64,
    to: u64,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.from, self.to)
    }
}

impl Outlet for Wire {
    fn send(&self, message: Message) {
        let wires = self.wires.lock().unwrap();
        if let Some(handle) = wires.handles.get(&self.to).filter(|_| wires.reaches(self.from, self.to)) {
            let back = Arc::new(Wire { wires: self.wires.clone(), from: self.to, to: self.from });
            handle.tell(PeerEvent::Said { message, back });
        }
    }
}

/// The whole small cluster.
pub struct World {
    machines: BTreeMap<u64, Machine>,
    pub wires: Arc<Mutex<Wires>>,
    pub reign: Arc<Mutex<Reign>>,
    pub catalogue: Arc<Catalogue>,
    controller: tasks::Task,
}

impl World {
    /// Nodes that speak over wires in memory.
    pub async fn new(nodes: u64) -> World {
        World::over(nodes, Arc::default(), None).await
    }

    /// Nodes that speak over real streams.
    pub async fn over_streams(nodes: u64) -> World {
        World::over_streams_keeping(nodes, None).await
    }

    /// The same, which keep so many bytes of log.
    pub async fn over_streams_keeping(nodes: u64, keep: Option<u64>) -> World {
        let wires = Arc::<Mutex<Wires>>::default();
        for node in 1..=nodes {
            let copies = Copies::new([7; 16], NodeId(node));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            tasks::spawn("streams", tonic::transport::Server::builder().add_service(copies.server()).serve_with_incoming(incoming));
            wires.lock().unwrap().doors.insert(node, (copies, address));
        }
        World::over(nodes, wires, keep).await
    }

    async fn over(nodes: u64, wires: Arc<Mutex<Wires>>, keep: Option<u64>) -> World {
        let catalogue = catalogue::new();
        let mut machines = BTreeMap::new();
        let mut members = Vec::new();
        for node in 1..=nodes {
            let mut machine = Machine { disk: MemoryDisk::new(), keep, lost: 0, running: None };
            let member = machine.start(node, &catalogue, &wires);
            members.push(member);
            machines.insert(node, machine);
        }
        let reign = Arc::new(Mutex::new(Reign::new(Config::new(1, members).unwrap(), Epoch(0))));
        let controller = tasks::spawn("controller", control(reign.clone(), wires.clone()));
        World { machines, wires, reign, catalogue, controller }
    }

    pub fn broker(&self, node: u64) -> &Arc<LocalBroker> {
        &self.machines[&node].running.as_ref().unwrap().broker
    }

    pub fn view(&self, node: u64) -> View {
        self.machines[&node].running.as_ref().unwrap().handle.view()
    }

    /// Waits until something is so.
    pub async fn until(&self, what: &str, mut so: impl FnMut(&World) -> bool) {
        let clock = SystemClock::new();
        while !so(self) {
            let views: Vec<_> = self.machines.iter().filter_map(|(node, machine)| Some((node, machine.running.as_ref()?.handle.view()))).collect();
            assert!(clock.mono() < PATIENCE, "not in time: {what}; {views:#?} {:?}", self.reign.lock().unwrap());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for a leader that serves, and names it.
    pub async fn leader(&self) -> u64 {
        // It may lead no longer by the time it is named.
        let mut leader = None;
        self.until("a leader", |world| {
            leader = world.serving();
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }

    pub fn serving(&self) -> Option<u64> {
        let epoch = self.reign.lock().unwrap().epoch();
        let serves = |node: &&u64| self.machines[node].running.is_some() && self.view(**node).leads == Some(epoch) && self.view(**node).serves;
        self.machines.keys().find(serves).copied()
    }

    /// Whether all that run have the same log, all of it committed and applied.
    pub fn is_level(&self) -> bool {
        let views: Vec<View> = self.machines.values().filter_map(|machine| Some(machine.running.as_ref()?.handle.view())).collect();
        views.iter().all(|view| (view.end, view.hw, view.applied) == (views[0].end, views[0].end, views[0].end))
    }

    pub fn cut(&self, one: u64, other: u64) {
        self.wires.lock().unwrap().cut.extend([(one, other), (other, one)]);
    }

    /// Cuts a node off from everybody.
    pub fn isolate(&self, node: u64) {
        (0..=self.machines.len() as u64).filter(|other| *other != node).for_each(|other| self.cut(node, other));
    }

    pub fn heal(&self) {
        self.wires.lock().unwrap().cut.clear();
    }

    /// Hands the lead over as the controller does: the leader makes ready, then a new epoch begins.
    pub async fn transfer(&self, to: u64) {
        let prefer = self.reign.lock().unwrap().config().members().iter().find(|member| member.node == NodeId(to)).copied();
        let clock = SystemClock::new();
        loop {
            let leader = self.leader().await;
            let (told, ready) = tokio::sync::oneshot::channel();
            let answer = Answer::new(move |answer| drop(told.send(answer)));
            self.machines[&leader].running.as_ref().unwrap().handle.tell(PeerEvent::HandOver { to: prefer, answer });
            // On a busy machine the successor may take longer than clients are made to wait.
            match ready.await {
                Ok(Ok(member)) => break assert_eq!(Some(member), prefer),
                refused => assert!(clock.mono() < PATIENCE, "{refused:?}"),
            }
        }
        let mut reign = self.reign.lock().unwrap();
        let expect = reign.epoch();
        reign.apply(&Entry::BeginEpoch { expect, reason: Reason::Transfer, prefer, config: None }).unwrap();
    }

    /// Ends a node's process. What it did not sync may be lost with it.
    pub fn kill(&mut self, node: u64) {
        let mut wires = self.wires.lock().unwrap();
        wires.handles.remove(&node);
        wires.doors.get(&node).inspect(|(copies, _)| copies.remove(SHARD));
        drop(wires);
        let running = self.machines.get_mut(&node).unwrap().running.take().unwrap();
        running.broker.close();
        drop(running.folder);
    }

    pub fn start(&mut self, node: u64) -> Member {
        let (catalogue, wires) = (self.catalogue.clone(), self.wires.clone());
        self.machines.get_mut(&node).unwrap().start(node, &catalogue, &wires)
    }

    /// A node that does not run gets an empty disk.
    pub fn lose_disk(&mut self, node: u64) {
        let machine = self.machines.get_mut(&node).unwrap();
        (machine.disk, machine.lost) = (MemoryDisk::new(), machine.lost + 1);
    }

    /// The member on a node, as it is now or was last.
    pub fn member(&self, node: u64) -> Member {
        self.machines[&node].running.as_ref().unwrap().handle.member
    }

    /// Sends the log of the leader to these replicas, and makes them members when they have it.
    pub async fn admit(&self, joining: BTreeSet<Member>) {
        let leader = self.leader().await;
        let machine = &self.machines[&leader];
        machine.running.as_ref().unwrap().handle.tell(PeerEvent::Learners(joining.clone()));
        self.until("the learners", |world| world.view(leader).learnt.len() == joining.len()).await;
        let mut reign = self.reign.lock().unwrap();
        let members = reign.stable().members().iter().copied().chain(joining);
        let config = Config::new(reign.config().generation() + 1, members).unwrap();
        let expect = reign.epoch();
        reign.apply(&Entry::BeginEpoch { expect, reason: Reason::Reconfigure, prefer: None, config: Some(config) }).unwrap();
    }

    /// A copy that somebody else opened takes part.
    pub fn let_in(&self, node: u64, handle: &Handle) {
        let mut wires = self.wires.lock().unwrap();
        wires.handles.insert(node, handle.clone());
        wires.doors.get(&node).inspect(|(copies, _)| copies.add(SHARD, handle.clone()));
    }

    pub fn let_out(&self, node: u64) {
        let mut wires = self.wires.lock().unwrap();
        wires.handles.remove(&node);
        wires.doors.get(&node).inspect(|(copies, _)| copies.remove(SHARD));
    }

    /// Bytes of log that a node keeps.
    pub fn keep(&self, node: u64) -> Option<u64> {
        self.machines[&node].keep
    }

    /// Opens again the copies whose files are others now. Answers how many.
    pub fn open_again(&mut self) -> usize {
        let ended = |machine: &Machine| machine.running.as_ref().is_some_and(|running| *running.ended.lock().unwrap() == Some(Ended::Anew));
        let nodes: Vec<u64> = self.machines.iter().filter(|(_, machine)| ended(machine)).map(|(node, _)| *node).collect();
        for node in &nodes {
            let (catalogue, wires) = (self.catalogue.clone(), self.wires.clone());
            let machine = self.machines.get_mut(node).unwrap();
            let Running { broker, folder, opened_before, .. } = machine.running.take().unwrap();
            broker.close();
            machine.open(*node, folder, opened_before + 1, &catalogue, &wires);
        }
        nodes.len()
    }

    pub fn nodes(&self) -> Vec<u64> {
        self.machines.keys().copied().collect()
    }

    /// The frames of a node's log, after the node ended.
    pub fn disk(&self, node: u64) -> MemoryDisk {
        self.machines[&node].disk.clone()
    }

    pub fn stop(mut self) -> Vec<MemoryDisk> {
        self.controller.abort();
        let nodes = self.nodes();
        nodes.iter().filter(|node| self.machines[node].running.is_some()).copied().collect::<Vec<_>>().into_iter().for_each(|node| self.kill(node));
        nodes.into_iter().map(|node| self.disk(node)).collect()
    }
}

impl Machine {
    fn start(&mut self, node: u64, catalogue: &Arc<Catalogue>, wires: &Arc<Mutex<Wires>>) -> Member {
        let disk: SharedDisk = Arc::new(self.disk.clone());
        let folder = DataFolder::open(disk, Path::new("data"), "boot", &mut SeededChance::new(node + 100 * self.lost)).unwrap();
        self.open(node, folder, 0, catalogue, wires)
    }

    /// Opens the copy, as the process does that holds the folder.
    fn open(&mut self, node: u64, folder: DataFolder, opened_before: u32, catalogue: &Arc<Catalogue>, wires: &Arc<Mutex<Wires>>) -> Member {
        let disk: SharedDisk = Arc::new(self.disk.clone());
        let shard = folder.open_shard(&mut SeededChance::new(node), SHARD).unwrap();
        let mut options = options(disk, catalogue, shard.dir());
        options.retention.bytes = self.keep;
        let incarnation = Incarnation(folder.incarnation);
        let identity = Identity { node: NodeId(node), folder: shard, incarnation, durability: Durability::Disk, opened_before };
        let ended = Arc::<Mutex<Option<Ended>>>::default();
        let tell = ended.clone();
        let (broker, handle) = LocalBroker::open_replica(options, identity, move |how| *tell.lock().unwrap() = Some(how)).unwrap();
        let mut wires = wires.lock().unwrap();
        wires.handles.insert(node, handle.clone());
        wires.doors.get(&node).inspect(|(copies, _)| copies.add(SHARD, handle.clone()));
        let member = handle.member;
        self.running = Some(Running { broker, handle, folder, ended, opened_before });
        member
    }
}

/// Small files, so that there are many of each.
pub fn options(disk: SharedDisk, catalogue: &Arc<Catalogue>, dir: &Path) -> Options {
    Options {
        disk,
        dir: dir.to_path_buf(),
        clock: Arc::new(SystemClock::new()),
        metadata: catalogue.clone(),
        shard: SHARD,
        cluster: [7; 16],
        retention: Retention { age_ms: 3_600_000, bytes: None },
        skip_damaged: false,
        sizes: Sizes { first_segment: 32 * 1024, max_segment: 64 * 1024, checkpoint: 16 * 1024 },
    }
}

/// The controller: the real elector, over a reign that is not replicated itself.
async fn control(reign: Arc<Mutex<Reign>>, wires: Arc<Mutex<Wires>>) {
    let clock = SystemClock::new();
    let mut elector = Elector::new(Times { fresh: Duration::from_millis(200), ..Times::default() });
    let sealed = Arc::<Mutex<Vec<SealOk>>>::default();
    let mut led = Duration::ZERO;
    let mut strangers: Vec<(u64, u64)> = Vec::new();
    loop {
        sleep(Duration::from_millis(5)).await;
        for (from, to) in strangers.drain(..) {
            tasks::spawn("following", follow(wires.clone(), from, to));
        }
        let (mut reign, wires_now) = (reign.lock().unwrap(), wires.lock().unwrap());
        let reached = |node: u64| wires_now.handles.get(&node).filter(|_| wires_now.reaches(0, node));
        let views: BTreeMap<Member, View> =
            wires_now.handles.keys().filter_map(|node| reached(*node)).map(|handle| (handle.member, handle.view())).collect();
        let mut events: Vec<Event> = sealed.lock().unwrap().drain(..).map(Event::SealOk).collect();
        let started = views.values().filter(|view| view.started).filter_map(|view| view.leads);
        events.extend(started.map(Event::Started));
        events.push(Event::Tick);
        let sessions: Sessions = views.iter().filter_map(|(member, view)| Some((*member, standing(reached(member.node.0)?, view)))).collect();
        for event in events {
            for action in elector.step(clock.mono(), &reign, &sessions, event) {
                match action {
                    // One that comes too late is refused, as in the real one.
                    Action::Propose(entry) => drop(reign.apply(&entry)),
                    Action::Seal(member, seal) => {
                        if let Some(handle) = reached(member.node.0) {
                            let sealed = sealed.clone();
                            let answer = Answer::new(move |answer| sealed.lock().unwrap().extend(Result::ok(answer)));
                            handle.tell(PeerEvent::Seal { seal, answer });
                        }
                    }
                    Action::Become(grant) => {
                        if let Some(handle) = reached(grant.leader.node.0) {
                            handle.tell(PeerEvent::Become { grant, answer: Answer::new(|_| {}) });
                        }
                    }
                    Action::FromTheFuture(refused) => panic!("{refused:?}"),
                }
            }
        }
        // Followers are told where the leader is until they hear it.
        if let Phase::Led(grant) = reign.phase()
            && clock.mono() > led + Duration::from_millis(50)
        {
            led = clock.mono();
            for (member, _) in views.iter().filter(|(member, view)| **member != grant.leader && view.follows != Some(grant.epoch)) {
                if !wires_now.doors.is_empty() {
                    strangers.push((member.node.0, grant.leader.node.0));
                    continue;
                }
                let outlet = Arc::new(Wire { wires: wires.clone(), from: member.node.0, to: grant.leader.node.0 });
                wires_now.handles[&member.node.0].tell(PeerEvent::Leader { outlet });
            }
        }
    }
}

/// Opens a stream from one node to another.
async fn follow(wires: Arc<Mutex<Wires>>, from: u64, to: u64) {
    let (copies, address) = {
        let wires = wires.lock().unwrap();
        (wires.doors[&from].0.clone(), wires.doors[&to].1)
    };
    let Ok(channel) = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await else { return };
    let Some(copy) = copies.get(SHARD) else { return };
    if let Ok(stream) = Upstream::open(channel, copies, NodeId(to)).await {
        stream.follow(SHARD, &copy);
    }
}

fn standing(handle: &Handle, view: &View) -> Standing {
    Standing {
        incarnation: handle.incarnation,
        hears: view.follows,
        serves: view.serves.then_some(view.leads).flatten(),
        cordoned: false,
        load: 0,
        zone: String::new(),
    }
}
