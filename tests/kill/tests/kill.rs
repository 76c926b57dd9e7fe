//! The short form; the long one is `cargo run --release -p gantry-kill -- --rounds 300`.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_keeps_every_promise() {
    let report = gantry_kill::run(20, 1).await;
    println!("{report:?}");
    assert!(report.sent > 200 && report.acked > 200, "the server hardly worked: {report:?}");
}
