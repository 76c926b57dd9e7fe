//! The `gantry` binary.

mod args;
mod config;
mod logging;
mod listeners;
mod workers;
mod report;
mod shutdown;

fn main() {
    let cli = <args::Cli as clap::Parser>::parse();
    let args::Command::Server(args) = cli.command;
    println!("{:?}", config::Config::read(None, &Default::default(), &args.settings()));
}
