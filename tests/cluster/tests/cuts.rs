//! The short form of cut networks.

use gantry_cluster::cluster::{Cluster, Shape};
use gantry_cluster::load::Load;
use gantry_cluster::network::Cut;
use gantry_cluster::{cuts, network};

const OPTIONS: &str = "--rate 150/s";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_its_promises_whatever_is_cut() {
    if let Some(why) = network::missing() {
        println!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cluster = Cluster::start(folder.path(), &Shape { namespaces: true, ..Shape::default() }).await;
    let mut load = Load::start(&cluster, OPTIONS).await;
    for direction in [Cut::Both, Cut::In] {
        cuts::leader(&cluster, &mut load, direction).await;
    }
    let whole = cuts::wrong_side(&mut cluster, &mut load).await;
    let outcome = load.end().await;
    println!("{:#?}\nwhole after {whole:?}\n{}", outcome.seen, outcome.summary());
    cluster.end().await;
}
