//! `gantry verify` finds nothing while a real server is killed again and again.

use gantry_kill::server::Server;
use gantry_kill::verify::Run;
use gantry_platform::clock::sleep;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_keeps_its_promises() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let history = folder.path().join("history.jsonl");
    let mut server = Server::new(folder.path());
    server.start().await;
    let options = format!("--duration 12s --rate 300/s --gap 400ms --history {}", history.display());
    let mut run = Run::start(&[server.endpoint()], &server.admin(), &options);
    sleep(Duration::from_secs(3)).await;
    for _ in 0..4 {
        server.kill().await;
        sleep(Duration::from_millis(300)).await;
        server.start().await;
        sleep(Duration::from_millis(1_500)).await;
    }
    assert!(run.goes_on(), "the run gave up");
    let ended = run.end().await;
    assert_eq!((ended.exit, ended.broken()), (Some(0), vec![]), "{ended:?}");
    assert!(ended.number("/sends/ok") > 200 && ended.number("/acknowledged") > 400, "{ended:?}");
    // On a busy machine two of them may look like one.
    assert!(ended.incidents().len() >= 2, "four kills are incidents: {ended:?}");
    let again = Run::check(&history).end().await;
    assert_eq!((again.exit, &again.report), (Some(0), &ended.report), "the file says what the run said");
}
