//! `gantry verify` finds every lie of a server that lies, and none where there is none.

use gantry_kill::liar::{Liar, Lie};
use gantry_kill::server::Server;
use gantry_kill::verify::Run;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_lie_is_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::new(folder.path());
    server.start().await;
    let lies = [
        (Lie::Nothing, "normal,fifo,delay,transaction,priority", &[][..]),
        (Lie::Lose, "normal", &["lost"]),
        (Lie::Repeat, "normal", &["duplicated"]),
        (Lie::Move, "priority", &["stored_twice"]),
        (Lie::Share, "priority", &["redelivered"]),
        (Lie::Turn, "fifo", &["reordered"]),
        (Lie::Hurry, "delay", &["early"]),
        (Lie::Commit, "transaction", &["phantom"]),
        (Lie::Tear, "normal", &["torn"]),
    ];
    let mut runs = Vec::new();
    for (lie, kinds, expected) in lies {
        let liar = Liar::start(&server.endpoint(), lie).await;
        let options = format!("--kinds {kinds} --messages 300 --rate 60/s --nacks 0 --expiries 1 --drain 1s");
        runs.push((lie, expected, Run::start(std::slice::from_ref(&liar.endpoint), &server.admin(), &options), liar));
    }
    for (lie, expected, run, _liar) in runs {
        let ended = run.end().await;
        let exit = if expected.is_empty() { 0 } else { 6 };
        assert_eq!((ended.exit, ended.broken()), (Some(exit), expected.iter().map(|&kind| kind.to_owned()).collect()), "{lie:?}: {ended:?}");
    }
}
