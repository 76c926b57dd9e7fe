//! Every process is restarted in order, one at a time, as an upgrade does it.

use crate::cluster::Cluster;
use crate::load::Load;

/// Proxies, then brokers, then controllers; the next one only when the cluster is whole.
pub async fn roll(cluster: &mut Cluster, load: &mut Load) {
    for role in ["proxy", "broker", "controller"] {
        for name in cluster.of(role) {
            load.fault(format!("restart {name}"));
            cluster.process(&name).end().await;
            cluster.process(&name).start().await;
            cluster.whole().await;
        }
    }
}
