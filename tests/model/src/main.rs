//! Runs the model by hand, in any scope and as long as one likes.

use clap::{Parser, ValueEnum};
use gantry_model_check::scope::Sync;
use gantry_model_check::world::{EPOCHS, NODES};
use gantry_model_check::{Mutant, Scope, check};
use gantry_store::replica::leader::Durability;
use std::process::ExitCode;

/// Looks at every order of events in a small shard, and reports how committed frames can be lost.
///
/// Worlds are looked at breadth first, so with one thread no shorter way to what is found exists.
/// A run takes some 600 bytes of memory for each world that was seen or waits to be.
/// It ends with 0 if nothing is violated, with 1 if something is.
///
/// Examples:
///   gantry-model-check --epochs 4 --values 1
///   gantry-model-check --epochs 3 --values 1 --crashes 1 --memory
///   gantry-model-check --epochs 3 --values 1 --members 0,1,2/0,1,3/1,2,3
///   gantry-model-check --epochs 3 --values 1 --mutant late-stable --members 0,1,2/0,1,3
#[derive(Parser)]
#[command(verbatim_doc_comment)]
struct Arguments {
    /// Epochs that begin, the first one included
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..EPOCHS as i64))]
    epochs: u8,
    /// Frames that clients send
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=6))]
    values: u8,
    /// Processes that end and start again
    #[arg(long, default_value_t = 0)]
    crashes: u8,
    /// Folders that are lost
    #[arg(long, default_value_t = 0)]
    losses: u8,
    /// Replicas that are given the leader's state instead of frames
    #[arg(long, default_value_t = 0)]
    installs: u8,
    /// Nodes of the shard, `/` between one configuration and the next
    #[arg(long, default_value = "0,1,2", value_parser = members)]
    // With its whole path, so that the parser is for the option and not for each of several values.
    members: ::std::vec::Vec<Vec<u8>>,
    /// Acknowledge what is written; a crash loses what is not synced
    #[arg(long)]
    memory: bool,
    /// A sync is a step of its own, so that a crash may come before it
    #[arg(long)]
    sync_later: bool,
    /// Appends of a leader may arrive after it has stopped
    #[arg(long)]
    late_appends: bool,
    /// Begin when replica 0 leads the first epoch
    #[arg(long)]
    led: bool,
    /// Break a rule
    #[arg(long)]
    mutant: Option<Mutant>,
    /// Stop after so many steps
    #[arg(long, default_value_t = 100_000_000)]
    transitions: usize,
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn members(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let node =
        |word: &str| word.parse::<u8>().ok().filter(|node| usize::from(*node) < NODES).ok_or(format!("`{word}` is no node: 0 to {}", NODES - 1));
    text.split('/').map(|config| config.split(',').map(node).collect()).collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let scope = Scope {
        members: arguments.members,
        epochs: arguments.epochs,
        values: arguments.values,
        crashes: arguments.crashes,
        losses: arguments.losses,
        installs: arguments.installs,
        durability: if arguments.memory { Durability::Memory } else { Durability::Disk },
        sync: if arguments.memory || arguments.sync_later { Sync::Later } else { Sync::AtOnce },
        late: arguments.late_appends,
        mutant: arguments.mutant,
        before: Vec::new(),
    };
    if let Some(mutant) = arguments.mutant {
        println!("without the rule of `{}`", mutant.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default());
    }
    let scope = if arguments.led { scope.led() } else { scope };
    let outcome = check(scope, arguments.transitions, arguments.threads);
    print!("{outcome}");
    if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
