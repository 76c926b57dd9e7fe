//! Connects each copy here to the leader of its shard: one stream to each other broker that leads any of them. A copy that leads is told who learns.
//!
//! A stream that broke is opened again, and a copy that does not hear its leader says `Hello` again: whatever got lost is found out by looking,
//! a few times a second.

use super::host::{Host, Opened};
use crate::replica::message::PeerEvent;
use crate::replica::streams::Upstream;
use gantry_model::contract::Directory;
use gantry_model::contract::directory::{Copy, ShardRoute};
use gantry_model::{Epoch, NodeId, ShardId};
use gantry_platform::clock::{sleep, timeout};
use gantry_platform::tasks::Stop;
use gantry_proto::connections::Channels;
use gantry_store::replica::{Member, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How often to look while all is well, and while some copy does not hear its leader.
const CALM: Duration = Duration::from_millis(200);
const EAGER: Duration = Duration::from_millis(25);
/// A copy that does not hear its leader says `Hello` again after this long.
const AGAIN: Duration = Duration::from_millis(150);
/// How long a stream may take to stand.
const OPEN: Duration = Duration::from_secs(3);

/// What was done for a copy last.
#[derive(Debug)]
struct Followed {
    epoch: Epoch,
    leader: NodeId,
    again_in: Duration,
}

/// Looks until it is told to stop.
pub async fn run(host: Arc<Host>, directory: Arc<dyn Directory>, channels: Arc<Channels>, stop: Stop) {
    let mut following = Following { host, directory, channels, streams: BTreeMap::new(), followed: BTreeMap::new(), taught: BTreeMap::new() };
    let mut wait = Duration::ZERO;
    loop {
        let version = following.directory.version();
        let calm = following.look(wait).await;
        wait = if calm { CALM } else { EAGER };
        tokio::select! {
            biased;
            () = stop.stopped() => return,
            // A new leader is followed at once.
            _ = timeout(wait, following.directory.changed(version)) => {}
        }
    }
}

struct Following {
    host: Arc<Host>,
    directory: Arc<dyn Directory>,
    channels: Arc<Channels>,
    streams: BTreeMap<NodeId, Upstream>,
    followed: BTreeMap<ShardId, Followed>,
    /// Who learns, as the leaders here were told.
    taught: BTreeMap<ShardId, (Epoch, BTreeSet<Member>)>,
}

impl Following {
    /// Follows whom the directory names. Answers whether every copy hears its leader. `passed` is how long ago it was called before.
    async fn look(&mut self, passed: Duration) -> bool {
        let (own, copies) = (self.host.node(), self.host.open());
        let mut calm = true;
        for route in self.directory.shards() {
            let Some(copy) = copies.get(&route.shard) else { continue };
            let Some(leader) = route.leader.filter(|leader| leader.node != own) else {
                self.followed.remove(&route.shard);
                calm &= route.leader.is_some();
                self.teach(&route, copy);
                continue;
            };
            let hears = copy.handle.view().follows == Some(route.epoch) && self.streams.get(&leader.node).is_some_and(Upstream::is_open);
            let due = match self.followed.get_mut(&route.shard) {
                Some(followed) if followed.epoch == route.epoch && followed.leader == leader.node => {
                    followed.again_in = followed.again_in.saturating_sub(passed);
                    !hears && followed.again_in.is_zero()
                }
                _ => true,
            };
            calm &= hears;
            if due && self.reach(leader.node).await {
                self.streams[&leader.node].follow(route.shard, &copy.handle);
                self.followed.insert(route.shard, Followed { epoch: route.epoch, leader: leader.node, again_in: AGAIN });
            }
        }
        self.followed.retain(|shard, _| copies.contains_key(shard));
        let needed: Vec<NodeId> = self.followed.values().map(|followed| followed.leader).collect();
        self.streams.retain(|node, _| needed.contains(node));
        calm
    }

    /// Tells a copy that leads who learns. A new epoch begins without learners.
    fn teach(&mut self, route: &ShardRoute, copy: &Opened) {
        if copy.handle.view().leads != Some(route.epoch) {
            return;
        }
        let member = |copy: &Copy| Member { node: copy.node, store: StoreId(copy.store) };
        let learners: BTreeSet<Member> = route.learners.iter().map(member).collect();
        let nobody = (Epoch(0), BTreeSet::new());
        let (epoch, told) = self.taught.get(&route.shard).unwrap_or(&nobody);
        if *told != learners || *epoch != route.epoch && !learners.is_empty() {
            copy.handle.tell(PeerEvent::Learners(learners.clone()));
        }
        self.taught.insert(route.shard, (route.epoch, learners));
    }

    /// Whether there is a stream to a broker; opens one if there is none.
    async fn reach(&mut self, node: NodeId) -> bool {
        if self.streams.get(&node).is_some_and(Upstream::is_open) {
            return true;
        }
        self.streams.remove(&node);
        let Some(address) = self.directory.address(node) else { return false };
        let channel = match self.channels.to(&address) {
            Ok(channel) => channel,
            Err(error) => {
                tracing::warn!(%node, %error, "a leader can't be reached");
                return false;
            }
        };
        match timeout(OPEN, Upstream::open(channel, self.host.copies().clone(), node)).await {
            Ok(Ok(stream)) => {
                self.streams.insert(node, stream);
                true
            }
            Ok(Err(status)) => {
                tracing::debug!(%node, %address, why = status.message(), "a leader can't be followed yet");
                sleep(EAGER).await;
                false
            }
            Err(_) => false,
        }
    }
}
