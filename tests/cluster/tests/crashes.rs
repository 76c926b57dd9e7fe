//! The short form of kills and restarts. It is alone in its file, so that nothing else is tested at the same time: eight processes are as much
//! as a small machine can do.

use gantry_cluster::cluster::{Cluster, Shape};
use gantry_cluster::crashes::{self, Victim};
use gantry_cluster::load::Load;
use gantry_cluster::restarts;

const OPTIONS: &str = "--rate 150/s";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_its_promises_whatever_is_killed_or_restarted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cluster = Cluster::start(folder.path(), &Shape::default()).await;
    let mut load = Load::start(&cluster, OPTIONS).await;
    for victim in [Victim::Leader, Victim::Controller, Victim::Proxy, Victim::Both, Victim::Majority] {
        crashes::kill(&mut cluster, &mut load, victim, 1).await;
    }
    restarts::roll(&mut cluster, &mut load).await;
    let outcome = load.end().await;
    println!("{:#?}\n{}", outcome.seen, outcome.summary());
    assert!(outcome.ended.number("/sends/ok") > 2_000, "the cluster hardly worked: {}", outcome.summary());
    cluster.end().await;
}
