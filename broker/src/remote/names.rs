//! Topics and groups by their numbers, of metadata that may be behind what the caller knows; and filters, each expression read once.

use gantry_model::contract::Metadata;
use gantry_model::contract::metadata::Version;
use gantry_model::{Filter, Group, GroupId, Topic, TopicId};
use gantry_platform::clock::timeout;
use gantry_proto::broker::Wanted;
use gantry_proto::shards::receive::filter_from_wire;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a request waits for this process to know what its caller knew.
const WAIT: Duration = Duration::from_secs(1);
/// Expressions that are remembered.
const FILTERS_MAX: usize = 1_024;

/// The metadata of this process.
#[derive(Debug)]
pub struct Names {
    metadata: Arc<dyn Metadata>,
    /// The newest version that was waited for in vain: a broker that hears nothing of the controller goes on with what it has.
    given_up: AtomicU64,
    all: Arc<Filter>,
    expressions: Mutex<HashMap<String, Arc<Filter>>>,
}

impl Names {
    pub fn new(metadata: Arc<dyn Metadata>) -> Names {
        Names { metadata, given_up: AtomicU64::new(0), all: Arc::new(Filter::All), expressions: Mutex::default() }
    }

    /// Whether requests of a caller with that version can be answered now.
    pub fn is_ready(&self, version: Version) -> bool {
        self.metadata.version() >= version || self.given_up.load(Ordering::Relaxed) >= version.0
    }

    /// Waits a little until this process knows what the caller knew, once for each version.
    pub async fn catch_up(&self, version: Version) {
        let reached = async {
            let mut now = self.metadata.version();
            while now < version {
                now = self.metadata.changed(now).await;
            }
        };
        if !self.is_ready(version) && timeout(WAIT, reached).await.is_err() {
            let before = self.given_up.fetch_max(version.0, Ordering::Relaxed);
            if before < version.0 {
                tracing::warn!(
                    here = self.metadata.version().0,
                    wanted = version.0,
                    "the metadata is behind that of a proxy; going on with what is here"
                );
            }
        }
    }

    /// Whether what is not known here is not there, either.
    pub fn knows_all(&self, version: Version) -> bool {
        self.metadata.version() >= version
    }

    pub fn topic(&self, id: u32) -> Option<Arc<Topic>> {
        self.metadata.topic_by_id(TopicId(id))
    }

    pub fn group(&self, id: u32) -> Option<Arc<Group>> {
        self.metadata.group_by_id(GroupId(id))
    }

    /// The filter that a request names; `None` if its expression can't be read.
    pub fn filter(&self, wire: Option<Wanted>) -> Option<Arc<Filter>> {
        let Some(wanted) = wire else { return Some(self.all.clone()) };
        let Some(expression) = wanted.sql.clone() else { return filter_from_wire(Some(wanted)).map(Arc::new) };
        let mut expressions = self.expressions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = expressions.get(&expression) {
            return Some(known.clone());
        }
        let filter = Arc::new(filter_from_wire(Some(wanted))?);
        if expressions.len() >= FILTERS_MAX {
            expressions.clear();
        }
        expressions.insert(expression, filter.clone());
        Some(filter)
    }
}
