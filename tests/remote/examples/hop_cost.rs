//! What the hop between proxy and broker costs: CPU time of both ends together, for each message.
//!
//! `cargo run --release -p gantry-remote --example hop_cost` loads one shard on a memory disk twice in each round, called directly and over a stream
//! of this machine, and subtracts. A receive asks for 32 messages, an acknowledgement is for one. `messages`, `callers`, `rounds` and `threads` (of the proxy) may follow as `name=number`.

use gantry_broker::LocalBroker;
use gantry_broker::recover::Sizes;
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{LeaseTerm, ReceiveRequest, SendRequest};
use gantry_model::{ClientId, Filter, Message, NodeId, ShardId};
use gantry_platform::clock::{Clock, SharedClock, SystemClock};
use gantry_platform::tasks::{self, Thread};
use gantry_proxy::remote::RemoteBroker;
use gantry_routing::catalogue::{self, Catalogue, ONE, ORDERS};
use gantry_routing::whole;
use gantry_routing::wire::{BrokerSide, ProxySide};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

const BODY: usize = 1_024;
const BATCH: u32 = 32;
const SIZES: Sizes = Sizes { first_segment: 64 << 20, max_segment: 64 << 20, checkpoint: 1 << 30 };

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A thread with a runtime of its own, as servers have them.
struct Runner {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<Thread>,
}

impl Runner {
    fn new(name: &'static str) -> Runner {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let thread = tasks::thread(name, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                while let Some(job) = queue.recv().await {
                    tasks::spawn("job", job);
                }
            });
        });
        Runner { jobs: Some(jobs), thread: Some(thread.expect("a thread")) }
    }

    fn run<T: Send + 'static>(&self, job: impl Future<Output = T> + Send + 'static) -> oneshot::Receiver<T> {
        let (done, result) = oneshot::channel();
        let job = Box::pin(async move { drop(done.send(job.await)) });
        assert!(self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok()), "it runs");
        result
    }

    fn now<T: Send + 'static>(&self, job: impl Future<Output = T> + Send + 'static) -> T {
        self.run(job).blocking_recv().expect("it ends")
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.thread.take().map(Thread::join);
    }
}

/// CPU time of the threads of this process so far: of the two ends, and of the shard with its disk.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    ends: Duration,
    shard: Duration,
}

impl Cpu {
    fn now() -> Cpu {
        let mut cpu = Cpu::default();
        for task in std::fs::read_dir("/proc/self/task").expect("Linux").flatten() {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let ns = read("schedstat").split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
            match read("comm").trim() {
                "proxy" | "broker" => cpu.ends += Duration::from_nanos(ns),
                _ => cpu.shard += Duration::from_nanos(ns),
            }
        }
        cpu
    }
}

#[derive(Clone, Copy)]
struct Load {
    messages: usize,
    callers: usize,
}

/// CPU time and time of one phase, for each message.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    ends_us: f64,
    shard_us: f64,
    us: f64,
}

struct Meter {
    clock: SystemClock,
    cpu: Cpu,
    count: usize,
}

impl Meter {
    fn begin(count: usize) -> Meter {
        Meter { clock: SystemClock::new(), cpu: Cpu::now(), count }
    }

    fn end(self) -> Cost {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / self.count as f64;
        let now = Cpu::now();
        Cost { ends_us: each(now.ends - self.cpu.ends), shard_us: each(now.shard - self.cpu.shard), us: each(self.clock.mono()) }
    }
}

fn wish(catalogue: &Catalogue, caller: usize) -> ReceiveRequest {
    ReceiveRequest {
        group: catalogue.the_group(ONE),
        topic: catalogue.the_topic(ORDERS),
        filter: Arc::new(Filter::All),
        client: ClientId::new(&format!("host@{caller}")),
        max: BATCH,
        lease: LeaseTerm::For(Duration::from_secs(600)),
        wait: Duration::from_millis(200),
        attempt_id: None,
        ordered_batch: true,
        member: String::new(),
    }
}

async fn send(broker: Arc<dyn Broker>, catalogue: Arc<Catalogue>, caller: usize, count: usize) {
    let (topic, client) = (catalogue.the_topic(ORDERS), ClientId::new(&format!("host@{caller}")));
    let body = bytes::Bytes::from(vec![b'b'; BODY]);
    for number in 0..count {
        let message = Message {
            id: format!("01AC{caller:08X}{number:016X}"),
            body: body.clone(),
            born_host: "10.0.0.1".into(),
            tag: Some("tag".into()),
            born_ms: 1_700_000_000_000,
            ..Message::default()
        };
        let request = SendRequest { topic: topic.clone(), messages: vec![message], client: client.clone(), wait: Duration::from_secs(3) };
        let answer = broker.send(request).await.remove(0);
        assert!(answer.is_ok(), "{answer:?}");
    }
}

async fn receive(broker: Arc<dyn Broker>, catalogue: Arc<Catalogue>, caller: usize, left: Arc<AtomicUsize>) {
    let group = catalogue.the_group(ONE);
    while left.load(Ordering::Relaxed) > 0 {
        let got = broker.receive(wish(&catalogue, caller)).await.expect("it leads");
        left.fetch_sub(got.len(), Ordering::Relaxed);
        for delivery in got {
            let answers = broker.ack(&group, vec![delivery.handle]).await;
            assert!(answers[0].is_ok(), "{answers:?}");
        }
    }
}

/// Both phases: sends, and receives with an acknowledgement each.
fn load(broker: &Arc<dyn Broker>, catalogue: &Arc<Catalogue>, runners: &[Runner], load: Load) -> (Cost, Cost) {
    let each = load.messages / load.callers;
    let count = each * load.callers;
    let all = |job: &dyn Fn(usize) -> Job| {
        let meter = Meter::begin(count);
        let jobs: Vec<_> = (0..load.callers).map(|caller| runners[caller % runners.len()].run(job(caller))).collect();
        jobs.into_iter().for_each(|job| job.blocking_recv().expect("it ends"));
        meter.end()
    };
    let sent = all(&|caller| Box::pin(send(broker.clone(), catalogue.clone(), caller, each)));
    let left = Arc::new(AtomicUsize::new(count));
    let received = all(&|caller| Box::pin(receive(broker.clone(), catalogue.clone(), caller, left.clone())));
    (sent, received)
}

fn open(catalogue: &Arc<Catalogue>, runner: &Runner) -> Arc<LocalBroker> {
    let catalogue = catalogue.clone();
    runner.now(async move {
        let clock: SharedClock = Arc::new(SystemClock::new());
        whole::open(0, &catalogue, &clock, SIZES)
    })
}

fn directly(catalogue: &Arc<Catalogue>, runners: &[Runner], way: Load) -> (Cost, Cost) {
    let local = open(catalogue, &runners[0]);
    let costs = load(&(local.clone() as Arc<dyn Broker>), catalogue, runners, way);
    local.close();
    costs
}

fn over_a_stream(catalogue: &Arc<Catalogue>, runners: &[Runner], way: Load) -> (Cost, Cost) {
    let there = Runner::new("broker");
    let local = open(catalogue, &there);
    let (metadata, copy) = (catalogue.clone(), local.clone());
    let side = there.now(async move {
        let side = BrokerSide::on_loopback(1, metadata, Arc::new(SystemClock::new()));
        side.add(ShardId(0), &copy);
        side
    });
    let (metadata, address) = (catalogue.clone(), side.address.clone());
    let (proxy, broker) = runners[0].now(async move {
        let proxy = ProxySide::new(100, metadata, Arc::new(SystemClock::new()));
        proxy.brokers.set(NodeId(1), &address);
        let upstream = proxy.brokers.upstream(NodeId(1)).expect("it is known");
        (proxy, Arc::new(RemoteBroker::new(upstream, ShardId(0))) as Arc<dyn Broker>)
    });
    let costs = load(&broker, catalogue, runners, way);
    drop((broker, proxy, side));
    local.close();
    costs
}

fn setting(name: &str, default: usize) -> usize {
    let given = std::env::args().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
    given.unwrap_or(default)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn main() {
    let way = Load { messages: setting("messages", 100_000), callers: setting("callers", 512) };
    let runners: Vec<Runner> = (0..setting("threads", 1)).map(|_| Runner::new("proxy")).collect();
    let catalogue = catalogue::over(1);
    let mut hops = (Vec::new(), Vec::new());
    println!("CPU time in µs a message: caller and broker directly, both ends with a stream between, the hop; beside them the shard's thread");
    for round in 1..=setting("rounds", 5) {
        let (direct, stream) = (directly(&catalogue, &runners, way), over_a_stream(&catalogue, &runners, way));
        for (what, direct, stream, hops) in [("send", direct.0, stream.0, &mut hops.0), ("receive and ack", direct.1, stream.1, &mut hops.1)] {
            let hop = stream.ends_us - direct.ends_us;
            println!(
                "round {round}: {what:15} {:5.2} {:5.2} hop {hop:5.2}   shard {:5.2} {:5.2}   {:6.0}/s {:6.0}/s",
                direct.ends_us,
                stream.ends_us,
                direct.shard_us,
                stream.shard_us,
                1e6 / direct.us,
                1e6 / stream.us,
            );
            hops.push(hop);
        }
    }
    println!("median hop: send {:.2} µs, receive and ack {:.2} µs", median(hops.0), median(hops.1));
}
