//! The short forms, one after the other: each begins a cluster of eight processes, which is as much as a small machine can do at a time.

use gantry_cluster::cluster::{Cluster, Shape};
use gantry_cluster::crashes::{self, Victim};
use gantry_cluster::load::Load;
use gantry_cluster::{cuts, network, pauses, restarts};

const OPTIONS: &str = "--rate 150/s";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_its_promises_whatever_is_killed_frozen_or_restarted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cluster = Cluster::start(folder.path(), &Shape::default()).await;
    let mut load = Load::start(&cluster, OPTIONS).await;
    for victim in [Victim::Leader, Victim::Controller, Victim::Proxy, Victim::Both, Victim::Majority] {
        crashes::kill(&mut cluster, &mut load, victim, 1).await;
    }
    pauses::freeze(&mut cluster, &mut load).await;
    restarts::roll(&mut cluster, &mut load).await;
    let outcome = load.end().await;
    println!("{:#?}\n{}", outcome.seen, outcome.summary());
    assert!(outcome.ended.number("/sends/ok") > 2_000, "the cluster hardly worked: {}", outcome.summary());
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_its_promises_whatever_is_cut() {
    if let Some(why) = network::missing() {
        println!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cluster = Cluster::start(folder.path(), &Shape { namespaces: true, ..Shape::default() }).await;
    let mut load = Load::start(&cluster, OPTIONS).await;
    cuts::cut(&mut cluster, &mut load).await;
    let whole = cuts::wrong_side(&mut cluster, &mut load).await;
    let outcome = load.end().await;
    println!("{:#?}\nwhole after {whole:?}\n{}", outcome.seen, outcome.summary());
    cluster.end().await;
}
