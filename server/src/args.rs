//! The command line of `gantry server`: which flags there are, and what they say in terms of settings.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// A message queue for RocketMQ 5 clients: one program for the server and for everything one does with it.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: gantry_cli::Global,
}

/// What `gantry` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a server: with no flags a whole one, in this process, with its data in ./gantry-data
    Server(Box<ServerArgs>),
    /// Try out a cluster on this machine
    #[command(subcommand)]
    Dev(crate::roles::dev::DevCommand),
    /// Show the settings of a server
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(flatten)]
    Client(Box<gantry_cli::Command>),
}

/// What `gantry config` can show.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// The value that each setting would have, and who says so; takes the flags of `gantry server`
    Show(Box<ServerArgs>),
    /// Everything that can be set, with its variable and its default
    Keys,
}

/// The flags of `gantry server`. Each of them is a setting that can stand in the file and the environment too.
#[derive(Clone, Debug, Default, Args)]
pub struct ServerArgs {
    /// YAML file with settings; flags and GANTRY_… variables override it
    #[arg(long, short, value_name = "FILE", env = "GANTRY_CONFIG")]
    pub config: Option<PathBuf>,
    /// What this process is part of: controller, broker or proxy; leave it out for everything in one process [default: all]
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// The data folder [default: ./gantry-data]
    #[arg(long, short, value_name = "DIR")]
    data: Option<String>,
    /// Address to listen on, may be repeated; 0.0.0.0 is every address of this machine [default: 127.0.0.1 and ::1]
    #[arg(long, short, value_name = "ADDR")]
    listen: Vec<String>,
    /// Port for RocketMQ clients; 0 takes a free one [default: 8081]
    #[arg(long, value_name = "PORT")]
    messaging_port: Option<String>,
    /// Port for the Admin service and `gantry` commands [default: 8083]
    #[arg(long, value_name = "PORT")]
    admin_port: Option<String>,
    /// Port for /livez, /readyz and /metrics [default: 8082]
    #[arg(long, value_name = "PORT")]
    http_port: Option<String>,
    /// Port for Prometheus [default: 5557]
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<String>,
    /// Port of a broker for other brokers and proxies [default: 9081]
    #[arg(long, value_name = "PORT")]
    broker_port: Option<String>,
    /// Port of a controller for the other roles [default: 9082]
    #[arg(long, value_name = "PORT")]
    controller_port: Option<String>,
    /// Controllers of the cluster, with commas between them
    #[arg(long, value_name = "HOST:PORT,…")]
    controllers: Option<String>,
    /// What a process must say to belong to the cluster
    #[arg(long, value_name = "TEXT")]
    token: Option<String>,
    /// Whether this controller begins a cluster if no other knows one [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    bootstrap: Option<String>,
    /// Host by which the other processes of the cluster reach this one
    #[arg(long, value_name = "HOST")]
    address: Option<String>,
    /// What fails together with this broker
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// Copies of each new shard: 1, 2, 3 or 5 [default: 3]
    #[arg(long, value_name = "N")]
    copies: Option<String>,
    /// Where routes send clients which don't say how they reached the server
    #[arg(long, value_name = "HOST:PORT")]
    advertised: Option<String>,
    /// The broker name that routes show [default: gantry]
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,
    /// More logs, with a thread each, for a machine with many cores and fast disks. Fixed when the data folder is made [default: 1]
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// Whether topics and groups are made by their first use [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    auto_create: Option<String>,
    /// TLS on the messaging port: permissive, required or off [default: permissive]
    #[arg(long, value_name = "MODE")]
    tls_mode: Option<String>,
    /// PEM file with the certificate chain
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// PEM file with the private key
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// How long messages are kept [default: 3d]
    #[arg(long, value_name = "TIME")]
    retention_age: Option<String>,
    /// How many bytes of messages are kept at most [default: unlimited]
    #[arg(long, value_name = "SIZE")]
    retention_bytes: Option<String>,
    /// error, warn, info, debug or trace, also per module [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Go on over damaged parts of the log; what was in them is lost
    #[arg(long)]
    skip_damaged: bool,
    /// Any other setting, as KEY=VALUE; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ServerArgs {
    /// What the flags say: path of a setting, its text, and the flag that said it.
    pub fn settings(&self) -> Vec<(String, String, String)> {
        let named = [
            ("role", &self.role),
            ("data", &self.data),
            ("ports.messaging", &self.messaging_port),
            ("ports.admin", &self.admin_port),
            ("ports.http", &self.http_port),
            ("ports.metrics", &self.metrics_port),
            ("ports.broker", &self.broker_port),
            ("ports.controller", &self.controller_port),
            ("cluster.controllers", &self.controllers),
            ("cluster.token", &self.token),
            ("cluster.bootstrap", &self.bootstrap),
            ("cluster.address", &self.address),
            ("cluster.zone", &self.zone),
            ("cluster.copies", &self.copies),
            ("advertised", &self.advertised),
            ("cluster-name", &self.cluster_name),
            ("shards", &self.shards),
            ("auto-create", &self.auto_create),
            ("tls.mode", &self.tls_mode),
            ("tls.cert", &self.tls_cert),
            ("tls.key", &self.tls_key),
            ("retention.age", &self.retention_age),
            ("retention.bytes", &self.retention_bytes),
            ("log.level", &self.log_level),
            ("log.format", &self.log_format),
        ];
        let mut settings: Vec<_> = self
            .set
            .iter()
            .map(|pair| {
                let (path, text) = pair.split_once('=').unwrap_or((pair, ""));
                (path.to_owned(), text.to_owned(), format!("--set {pair}"))
            })
            .collect();
        settings.extend(named.into_iter().filter_map(|(path, text)| Some((path.to_owned(), text.clone()?, flag(path)))));
        if self.skip_damaged {
            settings.push(("recovery.skip-damaged".into(), "true".into(), flag("recovery.skip-damaged")));
        }
        if !self.listen.is_empty() {
            settings.push(("listen".into(), self.listen.join(", "), flag("listen")));
        }
        settings
    }
}

fn flag(path: &str) -> String {
    let key = crate::config::keys::Key::find(path).expect("every flag is of a key");
    format!("--{}", key.flag.expect("a key with a flag says so"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    fn server(line: &str) -> ServerArgs {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Server(args) => *args,
            other => panic!("not a server: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_say_settings() {
        let args = server("gantry server --data d --listen 0.0.0.0 --listen :: --messaging-port 0 --auto-create false --set shutdown.grace=5s");
        let said: Vec<String> = args.settings().iter().map(|(path, text, flag)| format!("{path}={text} by {flag}")).collect();
        let expected = [
            "shutdown.grace=5s by --set shutdown.grace=5s",
            "data=d by --data",
            "ports.messaging=0 by --messaging-port",
            "auto-create=false by --auto-create",
            "listen=0.0.0.0, :: by --listen",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn every_key_with_a_flag_has_that_flag() {
        let command = Cli::command();
        let server = command.find_subcommand("server").unwrap();
        for flag in crate::config::keys::KEYS.iter().filter_map(|key| key.flag) {
            assert!(server.get_arguments().any(|argument| argument.get_long() == Some(flag)), "--{flag}");
        }
    }
}
