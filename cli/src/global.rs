//! Options that every command takes.

use crate::value;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

// Options that every command takes. No doc comment: clap would make it the description of the command that these are put into.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Messaging service: `host:port`, `http://host:port` or `https://host:port`
    #[arg(long, global = true, value_name = "ADDRESS", env = "GANTRY_ENDPOINT", hide_env_values = true, default_value = "http://127.0.0.1:8081")]
    pub endpoint: String,
    /// Admin service, written as the endpoint is
    #[arg(long, global = true, value_name = "ADDRESS", env = "GANTRY_ADMIN", hide_env_values = true, default_value = "127.0.0.1:8083")]
    pub admin: String,
    /// Namespace of topics and groups
    #[arg(short = 'N', long, global = true, value_name = "NAME", env = "GANTRY_NAMESPACE", hide_env_values = true, default_value = "")]
    pub namespace: String,
    /// `table` for people, `json` for programs
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
    /// Encrypt: `auto` means for addresses that begin with `https://`
    #[arg(long, global = true, value_name = "MODE", value_enum, env = "GANTRY_TLS", hide_env_values = true, default_value_t = TlsMode::Auto)]
    pub tls: TlsMode,
    /// Trust the certificates in this PEM file instead of the system's
    #[arg(long, global = true, value_name = "FILE", env = "GANTRY_TLS_CA", hide_env_values = true)]
    pub tls_ca: Option<PathBuf>,
    /// Trust any certificate, as most RocketMQ clients do; for servers that made their own
    #[arg(long, global = true, conflicts_with = "tls_ca")]
    pub tls_insecure: bool,
    /// Longest time to wait for one answer
    #[arg(long, global = true, value_name = "TIME", value_parser = value::duration, default_value = "10s")]
    pub timeout: Duration,
}

/// Who reads the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Table,
    Json,
}

/// Whether to encrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsMode {
    On,
    Off,
    Auto,
}
