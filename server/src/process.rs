//! The life of `gantry server`: read the configuration, start, say where, wait for the end, end in order.

use crate::args::{ConfigCommand, ServerArgs};
use crate::config::cluster::Role;
use crate::config::merge::{Document, Merged};
use crate::config::{Config, ConfigError};
use crate::roles::broker::BrokerRole;
use crate::roles::controller::ControllerRole;
use crate::roles::proxy::ProxyRole;
use crate::shutdown::{End, Signals};
use crate::standalone::{Standalone, StartError};
use crate::{logging, show};
use gantry_platform::clock::{SharedClock, SystemClock, sleep};
use gantry_platform::install_sigbus_handler;
use gantry_proxy::admin_v2::LogControl;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The exit code for a wrong command line or configuration.
const USAGE: u8 = 2;
/// How often the shard is asked whether its disk still works.
const HEALTH: Duration = Duration::from_millis(500);

/// Runs a server to its end.
pub fn run(args: &ServerArgs) -> ExitCode {
    let clock: SharedClock = Arc::new(SystemClock::new());
    let config = configuration(args);
    let config = match config {
        Ok((config, _)) => config,
        Err(error) => {
            eprintln!("gantry: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let log_control = logging::start(&config.log);
    logging::abort_on_panic();
    install_sigbus_handler();
    let mut builder = match config.role {
        // A broker's streams are worked on by all cores; the other roles have threads of their own for what is much.
        Role::Broker => tokio::runtime::Builder::new_multi_thread(),
        Role::All | Role::Controller | Role::Proxy => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let code = match runtime.block_on(serve(&config, log_control, clock)) {
        Ok(end) => end.into(),
        Err(error) => failed(&error),
    };
    // What is left are idle connections of watchers; nothing waits for them.
    runtime.shutdown_background();
    code
}

fn failed(error: &dyn fmt::Display) -> ExitCode {
    eprintln!("gantry: {error}");
    ExitCode::FAILURE
}

/// Shows what a server with these flags would run with.
pub fn show(command: &ConfigCommand) -> ExitCode {
    let args = match command {
        ConfigCommand::Keys => {
            println!("{}", show::reference());
            return ExitCode::SUCCESS;
        }
        ConfigCommand::Show(args) => args,
    };
    match configuration(args) {
        Ok((_, merged)) => {
            println!("{}", show::effective(&merged));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("gantry: {error}");
            ExitCode::from(USAGE)
        }
    }
}

/// The configuration from all its sources.
fn configuration(args: &ServerArgs) -> Result<(Config, Merged), UsageError> {
    let document = args.config.as_deref().map(read_document).transpose()?;
    let env: BTreeMap<String, String> =
        std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?))).collect();
    Config::read(document.as_ref(), &env, &args.settings()).map_err(UsageError::Config)
}

/// Read without the disk of `platform`: this happens once, before there is anything to simulate, and the file may be read-only.
fn read_document(path: &Path) -> Result<Document, UsageError> {
    let path_text = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| UsageError::File { path: path_text.clone(), error })?;
    Ok(Document { path: path_text, text })
}

/// What is wrong with what the user said.
#[derive(Debug)]
pub enum UsageError {
    File { path: String, error: io::Error },
    Config(ConfigError),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UsageError::File { path, error } => write!(f, "the configuration file `{path}` can't be read: {error}"),
            UsageError::Config(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for UsageError {}

/// A process of any role.
enum Running {
    All(Box<Standalone>),
    Controller(ControllerRole),
    Broker(BrokerRole),
    Proxy(ProxyRole),
}

impl Running {
    async fn start(config: &Config, log_control: LogControl, clock: SharedClock) -> Result<Running, StartError> {
        Ok(match config.role {
            Role::All => Running::All(Box::new(Standalone::start(config, log_control, clock).await?)),
            Role::Controller => Running::Controller(ControllerRole::start(config, clock).await?),
            Role::Broker => Running::Broker(BrokerRole::start(config, clock).await?),
            Role::Proxy => Running::Proxy(ProxyRole::start(config, log_control, clock).await?),
        })
    }

    fn ready(&self) -> &dyn fmt::Display {
        match self {
            Running::All(standalone) => standalone.ready(),
            Running::Controller(role) => role.ready(),
            Running::Broker(role) => role.ready(),
            Running::Proxy(role) => role.ready(),
        }
    }

    /// Returns, with the reason, when the process can't do its work any more.
    async fn failure(&self) -> String {
        match self {
            Running::All(standalone) => {
                while !standalone.disk_failed() {
                    sleep(HEALTH).await;
                }
                "the disk failed: nothing more is acknowledged, so the server ends; check the disk, then start it again".to_owned()
            }
            Running::Broker(role) => role.failed().await,
            Running::Controller(_) | Running::Proxy(_) => std::future::pending().await,
        }
    }

    async fn stop(self, grace: Duration) {
        match self {
            Running::All(standalone) => standalone.stop(grace).await,
            Running::Controller(role) => role.stop().await,
            Running::Broker(role) => role.stop(grace).await,
            Running::Proxy(role) => role.stop(grace).await,
        }
    }
}

async fn serve(config: &Config, log_control: LogControl, clock: SharedClock) -> Result<End, StartError> {
    let mut signals = Signals::new().map_err(StartError::System)?;
    let started = tokio::select! {
        started = Running::start(config, log_control, clock) => started?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before everything had started");
            return Ok(End::Orderly);
        }
    };
    println!("{}", started.ready());
    let name = tokio::select! {
        name = signals.next() => name,
        why = started.failure() => {
            tracing::error!("{why}");
            return Ok(End::Forced);
        }
    };
    tracing::info!(signal = name, "stopping: requests under way are finished; another signal ends at once");
    let end = signals.unless_forced(started.stop(config.grace)).await;
    if end == End::Orderly {
        tracing::info!("stopped; everything is on disk");
    }
    Ok(end)
}
