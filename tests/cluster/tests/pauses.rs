//! The short form of processes that stand still.

use gantry_cluster::cluster::{Cluster, Shape};
use gantry_cluster::load::Load;
use gantry_cluster::pauses;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_its_promises_whatever_stands_still() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cluster = Cluster::start(folder.path(), &Shape::default()).await;
    let mut load = Load::start(&cluster, "--rate 150/s").await;
    pauses::freeze(&mut cluster, &mut load).await;
    let outcome = load.end().await;
    println!("{:#?}\n{}", outcome.seen, outcome.summary());
    cluster.end().await;
}
