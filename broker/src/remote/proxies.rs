//! The proxies that have a stream to this broker, and the way through them to clients.
//!
//! A question about a transaction goes to the proxy that last heard of its sender, then to the others in turn, until one has written it to a
//! producer. What a stream left behind is kept for a while: when its proxy comes again, it says what it got, and the rest is given back.

use super::link::Link;
use super::outbox::Left;
use async_trait::async_trait;
use gantry_model::contract::broker::{Check, Clients};
use gantry_model::{ClientId, GroupId, NodeId, ReceiptHandle, TopicId};
use gantry_platform::clock::{SharedClock, timeout};
use gantry_proto::broker::command::Body;
use gantry_proto::broker::{Command, LostLite};
use gantry_proto::shards::send::check_to_wire;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long one proxy may take for a question.
const ASK: Duration = Duration::from_secs(3);
/// How long a proxy may take to come again, before what it perhaps got is left to the ends of its leases.
const RETURN: Duration = Duration::from_secs(60);

/// One run of a proxy's process.
type Run = (NodeId, u64);

/// A proxy whose stream ended.
#[derive(Debug)]
struct Departed {
    written: Vec<(u64, Vec<ReceiptHandle>)>,
    number: u64,
    at: Duration,
}

#[derive(Debug, Default)]
struct Known {
    links: BTreeMap<Run, Arc<Link>>,
    departed: BTreeMap<Run, Departed>,
}

/// All proxies.
#[derive(Debug)]
pub struct Proxies {
    known: Mutex<Known>,
    clock: SharedClock,
    question: AtomicU64,
    turn: AtomicUsize,
}

impl Proxies {
    pub fn new(clock: SharedClock) -> Proxies {
        Proxies { known: Mutex::default(), clock, question: AtomicU64::new(1), turn: AtomicUsize::new(0) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count(&self) -> usize {
        self.known().links.len()
    }

    /// A stream began, of a proxy that has all messages up to `heard`. Answers what it was given on an earlier stream and never got.
    pub fn arrived(&self, link: &Arc<Link>, heard: u64) -> Vec<ReceiptHandle> {
        let now = self.clock.mono();
        let mut known = self.known();
        known.departed.retain(|_, departed| departed.at + RETURN > now);
        let departed = known.departed.remove(&link.run());
        let before = known.links.insert(link.run(), link.clone());
        drop(known);
        // Its stream before may not have noticed that it is over.
        let mut left = before.map(|before| before.outbox().close()).unwrap_or_default();
        if let Some(departed) = departed {
            left.number = left.number.max(departed.number);
            left.written.extend(departed.written);
        }
        link.outbox().count_from(left.number);
        let lost = left.written.into_iter().filter(|(number, _)| *number > heard).flat_map(|(_, handles)| handles);
        left.unwritten.into_iter().chain(lost).collect()
    }

    /// A stream ended.
    pub fn departed(&self, link: &Arc<Link>, left: Left) {
        let mut known = self.known();
        if known.links.get(&link.run()).is_some_and(|current| Arc::ptr_eq(current, link)) {
            known.links.remove(&link.run());
            known.departed.insert(link.run(), Departed { written: left.written, number: left.number, at: self.clock.mono() });
        }
    }

    /// All proxies, first the one that last heard of a client.
    fn in_order(&self, client: &ClientId) -> Vec<Arc<Link>> {
        let mut links: Vec<Arc<Link>> = self.known().links.values().cloned().collect();
        let count = links.len().max(1);
        links.rotate_left(self.turn.fetch_add(1, Ordering::Relaxed) % count);
        let heard: Vec<Option<Duration>> = links.iter().map(|link| link.heard_of(client)).collect();
        let newest = (0..links.len()).filter(|&at| heard[at].is_some()).max_by_key(|&at| heard[at]);
        if let Some(newest) = newest {
            links.swap(0, newest);
        }
        links
    }
}

#[async_trait]
impl Clients for Proxies {
    async fn check(&self, check: Check) -> bool {
        for link in self.in_order(&check.sender) {
            let number = self.question.fetch_add(1, Ordering::Relaxed);
            let asked = link.ask(number, check_to_wire(number, &check));
            if timeout(ASK, asked).await.unwrap_or(false) {
                return true;
            }
            link.forget_question(number);
        }
        false
    }

    fn lost_lite(&self, client: &ClientId, group: GroupId, topic: TopicId, lite: &str) {
        let lost = || LostLite { client: client.as_str().to_owned(), group: group.0, topic: topic.0, lite: lite.to_owned() };
        let links: Vec<Arc<Link>> = self.known().links.values().cloned().collect();
        for link in links {
            // A stream that ended has no client to tell.
            let _ = link.outbox().command(Command { body: Some(Body::LostLite(lost())) });
        }
    }
}
