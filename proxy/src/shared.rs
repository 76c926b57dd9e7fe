//! What all connections of a proxy share: the contracts it calls, the clients it knows, what it counts, and whether it is stopping.

use crate::Config;
use crate::errands::Errands;
use crate::first_use::FirstUse;
use crate::metrics::Metrics;
use crate::quota::Quotas;
use crate::rates::Rates;
use crate::rpc::sync_lite_subscription::Adds;
use crate::rpc::telemetry;
use crate::sessions::Sessions;
use gantry_model::contract::{Broker, Metadata};
use gantry_model::{ClientId, Filter};
use gantry_platform::clock::{SharedClock, sleep};
use gantry_platform::tasks::Stop;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Waiting polls end over this time when the server stops, so that their clients don't come back all at once.
pub const STAGGER: Duration = Duration::from_secs(1);
/// How often silent clients are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(5);
/// Changes of metadata within this time are told to clients together.
const PUSH_DELAY: Duration = Duration::from_millis(100);

/// How far the end of this proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Polls end, connections take no more calls; what runs is finished.
    Draining,
    /// Streams end.
    Drained,
}

#[derive(Debug)]
pub struct Shared {
    pub config: Config,
    pub broker: Arc<dyn Broker>,
    pub metadata: Arc<dyn Metadata>,
    pub clock: SharedClock,
    pub sessions: Sessions,
    pub metrics: Metrics,
    pub errands: Errands,
    pub quotas: Quotas,
    pub rates: Rates,
    pub filter_all: Arc<Filter>,
    pub lite_adds: Adds,
    /// In the clock's monotonic time.
    pub started: Duration,
    pub phase: watch::Sender<Phase>,
}

impl Shared {
    pub fn new(config: Config, broker: Arc<dyn Broker>, metadata: Arc<dyn Metadata>, clock: SharedClock) -> Shared {
        Shared {
            config,
            sessions: Sessions::new(clock.clone(), broker.clone()),
            broker,
            metadata,
            started: clock.mono(),
            quotas: Quotas::new(clock.clone()),
            rates: Rates::new(clock.mono()),
            errands: Errands::default(),
            clock,
            metrics: Metrics::default(),
            filter_all: Arc::new(Filter::All),
            lite_adds: Adds::default(),
            phase: watch::Sender::new(Phase::Serving),
        }
    }

    pub fn first_use(&self) -> FirstUse {
        if self.config.auto_create { FirstUse::Creates } else { FirstUse::Refuses }
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until the proxy has come at least to this phase.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Waits until streams shall end.
    pub async fn drained(&self) {
        self.reached(Phase::Drained).await;
    }

    /// Waits until the proxy stops, and then for this client's turn.
    pub async fn drain_turn(&self, client: &ClientId) {
        self.reached(Phase::Draining).await;
        let mut hasher = DefaultHasher::new();
        client.hash(&mut hasher);
        sleep(Duration::from_millis(hasher.finish() % STAGGER.as_millis() as u64)).await;
    }

    /// The work that no call does: silent clients are forgotten, changed settings are pushed, rates are measured. Ends with `stop`.
    pub async fn upkeep(&self, stop: &Stop) {
        let expire = async {
            loop {
                sleep(EXPIRE_EVERY).await;
                self.sessions.expire();
                self.rates.look(self.clock.mono(), &self.metrics);
            }
        };
        let push = async {
            let mut known = self.metadata.version();
            loop {
                self.metadata.changed(known).await;
                sleep(PUSH_DELAY).await;
                known = self.metadata.version();
                self.quotas.forget_gone(&*self.metadata);
                self.sessions.all().iter().for_each(|session| telemetry::push_if_changed(self, session));
            }
        };
        tokio::select! {
            () = stop.stopped() => {}
            () = expire => {}
            () = push => {}
        }
    }
}
