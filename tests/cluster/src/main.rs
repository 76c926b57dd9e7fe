//! The long forms, which measure: `cargo run --release -p gantry-cluster -- kills --times 50`. The program of the server is the one beside this one, or
//! `GANTRY_BINARY`.

use clap::{Parser, Subcommand};
use gantry_cluster::cluster::{Cluster, Shape};
use gantry_cluster::crashes::{self, Victim};
use gantry_cluster::figures::Figures;
use gantry_cluster::load::{Load, Outcome};
use gantry_cluster::{cuts, disks, network, pauses, restarts};
use std::collections::BTreeSet;
use std::process::ExitCode;

/// Breaks a cluster of real processes under load, and says what the load saw.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    /// Messages a second of the load
    #[arg(long, global = true, default_value_t = 400)]
    rate: u32,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Scenario {
    /// `kill -9`, so many times
    Kills {
        #[arg(long, value_enum, default_value_t = Victim::Leader)]
        victim: Victim,
        #[arg(long, default_value_t = 50)]
        times: usize,
    },
    /// Processes stand still for longer than every timeout
    Pauses,
    /// Cut networks; needs root
    Cuts,
    /// Full disks; needs root
    Disks,
    /// Everything is restarted in order, so many times
    Restarts {
        #[arg(long, default_value_t = 5)]
        times: usize,
    },
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let needs = match cli.scenario {
        Scenario::Cuts => network::missing(),
        Scenario::Disks => disks::missing(),
        Scenario::Kills { .. } | Scenario::Pauses | Scenario::Restarts { .. } => None,
    };
    if let Some(why) = needs {
        eprintln!("{why}");
        return ExitCode::FAILURE;
    }
    if matches!(cli.scenario, Scenario::Disks) {
        tell(&disks::fill(folder.path()).await);
        return ExitCode::SUCCESS;
    }
    let shape = Shape { namespaces: matches!(cli.scenario, Scenario::Cuts), ..Shape::default() };
    let mut cluster = Cluster::start(folder.path(), &shape).await;
    let mut load = Load::start(&cluster, &format!("--rate {}/s", cli.rate)).await;
    play(cli.scenario, &mut cluster, &mut load).await;
    tell(&load.end().await);
    cluster.end().await;
    ExitCode::SUCCESS
}

async fn play(scenario: Scenario, cluster: &mut Cluster, load: &mut Load) {
    match scenario {
        Scenario::Kills { victim, times } => crashes::kill(cluster, load, victim, times).await,
        Scenario::Pauses => pauses::freeze(cluster, load).await,
        Scenario::Cuts => {
            cuts::cut(cluster, load).await;
            println!("  whole again {:?} after a cut through everything", cuts::wrong_side(cluster, load).await);
        }
        Scenario::Restarts { times } => {
            for _ in 0..times {
                restarts::roll(cluster, load).await;
            }
        }
        Scenario::Disks => {}
    }
}

fn tell(outcome: &Outcome) {
    for seen in &outcome.seen {
        println!("{:60} gap {:6} ms, nobody sent for {:6} ms", seen.what, seen.gap_ms, seen.silence_ms);
    }
    // What was done is told by its first words; several faults of one kind are one line.
    let kinds: BTreeSet<&str> = outcome.seen.iter().map(|seen| seen.what.split('-').next().unwrap_or_default()).collect();
    for kind in kinds {
        println!("{kind}: {}", Figures::gaps(&outcome.seen, kind));
    }
    println!("{}", outcome.summary());
}
