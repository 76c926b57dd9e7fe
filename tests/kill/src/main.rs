//! Kills a server as often as is asked for.

use std::process::ExitCode;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rounds = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Some(300),
        ["--rounds", count] => count.parse().ok(),
        _ => None,
    };
    let Some(rounds) = rounds else {
        eprintln!("usage: gantry-kill [--rounds N]    kills a server N times under load (default 300)");
        return ExitCode::from(2);
    };
    println!("{:?}", gantry_kill::run(rounds, 7).await);
    ExitCode::SUCCESS
}
