//! The `gantry` binary: the server, and every command that talks to one.
//!
//! `process` tells the life of a server, `standalone` what it is made of and in which order. `config` finds out how the server is meant to
//! be. This crate wires and reports; it never touches a message, and it has no rule of its own about topics, groups or deliveries.

#![forbid(unsafe_code)]

mod args;
mod process;
mod standalone;
mod roles;
mod listeners;
mod workers;
mod report;
mod shutdown;
mod logging;
mod config;
mod show;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

fn main() -> ExitCode {
    let Cli { command, global } = Cli::parse();
    match command {
        Command::Server(args) => process::run(&args),
        Command::Dev(command) => roles::dev::run(&command),
        Command::Config(command) => process::show(&command),
        Command::Client(command) => match *command {
            gantry_cli::Command::Completions { shell } => {
                gantry_cli::completions(&mut Cli::command(), shell);
                ExitCode::SUCCESS
            }
            command => gantry_cli::run(command, global),
        },
    }
}
