//! The client commands of the `gantry` binary: `topic`, `group`, `client`, `transaction`, `lite`, `dlq`, `message`, `produce`, `consume`, `tail`, `bench`,
//! `verify` and the shell completions.
//!
//! A command speaks to a cluster as any other program does: messages through `apache.rocketmq.v2` (port 8081), administration through
//! `gantry.admin.v1` (port 8083). It writes data to stdout and everything else to stderr, and it ends with one of the exit codes that
//! `failure` lists.
//!
//! This crate never opens a log or an index, never links the broker, and never keeps anything on disk (but the files that
//! `bench --save` and `verify --history` name).
//!
//! Read `topic.rs` first: it is a whole command from arguments to table. Modules in reading order.

mod failure;
mod global;
mod value;

mod clock;
mod connect;
mod output;
mod terminal;

mod name;
mod setting;
mod topic;

mod group;
mod lag;
mod position;

mod transaction;
mod client;

mod lite;
mod broker;
mod shard;

mod record;

mod dlq;
mod message;

mod consume;
mod produce;
mod tail;

mod bench;
mod verify;

#[cfg(test)]
mod tests;

pub use failure::{Exit, Failure};
pub use global::{Global, OutputFormat, TlsMode};
pub use terminal::Terminal;

use clap_complete::Shell;
use std::process::ExitCode;

/// What the user asked for.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create, list, describe, change and delete topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Create, list, describe, change and delete consumer groups, see how far they are behind, and move their positions
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// See transactions that nobody ended, and commit them, roll them back, or have their producers asked again
    #[command(subcommand)]
    Transaction(transaction::TransactionCommand),
    /// List, look into, send again and remove dead letters
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Find stored messages, and see what happened to one
    #[command(subcommand)]
    Message(message::MessageCommand),
    /// List clients, and ask one what its threads do or whether it can consume a message
    #[command(subcommand)]
    Client(client::ClientCommand),
    /// See the lite topics below a topic
    #[command(subcommand)]
    Lite(lite::LiteCommand),
    /// See the nodes of a cluster, and change what is put on them
    #[command(subcommand)]
    Broker(broker::BrokerCommand),
    /// See where shards are and who leads them, and change it
    #[command(subcommand)]
    Shard(shard::ShardCommand),
    /// Send messages to a topic
    #[command(after_help = produce::EXAMPLES)]
    Produce(produce::Produce),
    /// Receive and acknowledge messages as a member of a consumer group
    #[command(after_help = consume::EXAMPLES)]
    Consume(consume::Consume),
    /// Watch a topic without a consumer group; nothing is leased and nothing is left behind
    #[command(after_help = tail::EXAMPLES)]
    Tail(tail::Tail),
    /// Measure throughput, latency and the server's CPU time per message
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::Bench),
    /// Check that a cluster keeps its promises while whoever wants breaks things
    #[command(after_help = verify::EXAMPLES)]
    Verify(Box<verify::Verify>),
    /// Serve an empty messaging service, against which `bench` compares
    #[command(hide = true)]
    BenchFloor(bench::BenchFloor),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  gantry completions bash > /etc/bash_completion.d/gantry
  gantry completions zsh > ~/.zfunc/_gantry
  gantry completions fish > ~/.config/fish/completions/gantry.fish";

/// Runs a command to its end on a runtime of its own, with the process's stdin, stdout and stderr.
///
/// `Command::Completions` knows only the commands of this crate here; a binary that adds commands calls [`completions`] instead.
pub fn run(command: Command, global: Global) -> ExitCode {
    let mut terminal = Terminal::process();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return terminal.end(Err(Failure::new(Exit::Failed, "cannot start").because(error)), &global),
    };
    let result = runtime.block_on(execute(command, &global, &mut terminal));
    // A read of stdin cannot be cancelled: don't wait for one that nobody needs any more.
    runtime.shutdown_background();
    terminal.end(result, &global)
}

/// Runs a command with the given input and outputs.
pub async fn execute(command: Command, global: &Global, terminal: &mut Terminal) -> Result<(), Failure> {
    match command {
        Command::Topic(command) => topic::run(command, global, terminal).await,
        Command::Group(command) => group::run(command, global, terminal).await,
        Command::Transaction(command) => transaction::run(command, global, terminal).await,
        Command::Dlq(command) => dlq::run(command, global, terminal).await,
        Command::Message(command) => message::run(command, global, terminal).await,
        Command::Client(command) => client::run(command, global, terminal).await,
        Command::Lite(command) => lite::run(command, global, terminal).await,
        Command::Broker(command) => broker::run(command, global, terminal).await,
        Command::Shard(command) => shard::run(command, global, terminal).await,
        Command::Produce(command) => produce::run(command, global, terminal).await,
        Command::Consume(command) => consume::run(command, global, terminal).await,
        Command::Tail(command) => tail::run(command, global, terminal).await,
        Command::Bench(command) => bench::run(command, global, terminal).await,
        Command::Verify(command) => verify::run(*command, global, terminal).await,
        Command::BenchFloor(command) => bench::serve_floor(command, terminal).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut command_tree(), "gantry", &mut terminal.out);
            Ok(())
        }
    }
}

/// Writes the completion script of a whole command tree to stdout.
pub fn completions(command: &mut clap::Command, shell: Shell) {
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, command, name, &mut std::io::stdout());
}

/// The commands of this crate as clap sees them, under the name `gantry`.
pub fn command_tree() -> clap::Command {
    use clap::{Args, Subcommand};
    let root = clap::Command::new("gantry").about("A message queue that speaks RocketMQ 5").subcommand_required(true).arg_required_else_help(true);
    Global::augment_args(Command::augment_subcommands(root))
}
