//! A process stands still longer than every timeout, while its connections stay open, and then goes on as if nothing had happened.

use crate::cluster::Cluster;
use crate::load::Load;
use gantry_platform::clock::sleep;
use std::time::Duration;

/// Longer than sessions, elections, leases of 10 s, and the timeouts of clients.
const STILL: Duration = Duration::from_secs(14);
const CALM: Duration = Duration::from_secs(3);

/// Freezes the broker that leads most shards, the controller that leads, and a proxy, one after the other.
pub async fn freeze(cluster: &mut Cluster, load: &mut Load) {
    let controller = cluster.controller_leader().await.expect("a whole cluster has a controller that leads");
    for name in [cluster.busiest_broker().await, controller, "proxy-1".to_owned()] {
        load.fault(format!("freeze {name}"));
        cluster.process(&name).freeze().await;
        sleep(STILL).await;
        cluster.process(&name).thaw().await;
        cluster.whole().await;
        sleep(CALM).await;
    }
}
