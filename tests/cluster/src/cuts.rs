//! Cut networks: packets between some processes are lost in silence, in one direction or both, for longer than every session; then everything heals
//! by itself. Clients are on both sides.

use crate::cluster::{Cluster, names};
use crate::load::Load;
use crate::network::Cut;
use gantry_platform::clock::sleep;
use std::time::Duration;

/// Longer than sessions and elections.
const CUT: Duration = Duration::from_secs(8);
const CALM: Duration = Duration::from_secs(2);

/// The broker that leads most is cut off from everybody but clients of ours, who reach all.
pub async fn leader(cluster: &Cluster, load: &mut Load, direction: Cut) {
    let all = names();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let leader = cluster.busiest_broker().await;
    one(cluster, load, &leader, &all, direction).await;
}

/// Cuts one thing after the other.
pub async fn cut(cluster: &mut Cluster, load: &mut Load) {
    let all = names();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let controllers: Vec<&str> = all.iter().filter(|name| name.starts_with("controller")).copied().collect();
    let brokers: Vec<&str> = all.iter().filter(|name| name.starts_with("broker")).copied().collect();
    for direction in [Cut::Both, Cut::Out, Cut::In] {
        leader(cluster, load, direction).await;
    }
    let busiest = cluster.busiest_broker().await;
    one(cluster, load, &busiest, &controllers, Cut::Both).await;
    let busiest = cluster.busiest_broker().await;
    one(cluster, load, &busiest, &brokers, Cut::Both).await;
    one(cluster, load, "proxy-1", &[&busiest], Cut::Both).await;
    let controller = cluster.controller_leader().await.expect("a whole cluster has a controller that leads");
    one(cluster, load, &controller, &controllers, Cut::Both).await;
    one(cluster, load, "proxy-1", &controllers, Cut::Both).await;
}

async fn one(cluster: &Cluster, load: &mut Load, name: &str, others: &[&str], direction: Cut) {
    let from = if others.len() > 3 { "everybody".to_owned() } else { others.join(", ") };
    load.fault(format!("cut {name} from {from} ({direction:?})"));
    apart(cluster, name, others, direction).await;
    sleep(CALM).await;
}

async fn apart(cluster: &Cluster, name: &str, others: &[&str], direction: Cut) -> Duration {
    let network = cluster.network.as_ref().expect("a cluster in namespaces");
    network.cut(name, others, direction);
    sleep(CUT).await;
    network.heal();
    cluster.whole().await
}

/// A proxy and the broker that leads most are cut off together, with a client that knows only this proxy. Nothing that this client was told may be lost.
/// Answers how long the cluster took to be whole after the cut.
pub async fn wrong_side(cluster: &mut Cluster, load: &mut Load) -> Duration {
    let lonely = Load::through(&[cluster.endpoint("proxy-1")], cluster, "--rate 100/s --kinds normal,fifo --lanes 2 --consumers 1").await;
    let leader = cluster.busiest_broker().await;
    let network = cluster.network.as_ref().expect("a cluster in namespaces");
    let all = names();
    let others: Vec<&str> = all.iter().map(String::as_str).filter(|name| *name != leader && *name != "proxy-1").collect();
    load.fault(format!("cut {leader} and proxy-1 from everybody"));
    network.cut(&leader, &others, Cut::Both);
    network.cut("proxy-1", &others, Cut::Both);
    sleep(CUT).await;
    network.heal();
    let took = cluster.whole().await;
    sleep(CALM).await;
    println!("  a client on the wrong side: {}", lonely.end().await.summary());
    took
}
