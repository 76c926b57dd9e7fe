//! Where log lines go: standard error, as text for people or JSON for collectors.

use crate::config::{Log, LogFormat};
use gantry_proxy::admin_v2::LogControl;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Sends the events of all crates to standard error, and answers how to change from which level on. To be called once.
pub fn start(log: &Log) -> LogControl {
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => {
            let builder = builder.with_env_filter(filter(&log.level)).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            LogControl::new(move |level| handle.reload(filter(level.as_str())).map_err(|error| error.to_string()))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
            let builder = builder.with_env_filter(filter(&log.level)).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            LogControl::new(move |level| handle.reload(filter(level.as_str())).map_err(|error| error.to_string()))
        }
    }
}

fn filter(level: &str) -> EnvFilter {
    EnvFilter::builder().parse_lossy(directives(level))
}

/// The level, with the raft library's account of its own steps left out unless it is asked for by name: it calls errors what is
/// in the nature of a cluster, and what matters we say ourselves.
fn directives(level: &str) -> String {
    let quieter = level.split(',').any(|part| matches!(part.trim(), "off" | "error" | "warn"));
    if quieter { level.to_owned() } else { format!("openraft=off,{level}") }
}

/// Checks `info`, or `info,module=debug`: a misspelt level would otherwise be taken for the name of a module.
pub fn check_level(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let wrong = text.split(',').map(|part| part.rsplit('=').next().unwrap_or(part).trim()).find(|level| !LEVELS.contains(level));
    match wrong {
        None => Ok(()),
        Some(wrong) => Err(format!("`{wrong}` is none of the levels `{}`", LEVELS.join("`, `"))),
    }
}

/// Makes a panic in any thread the end of the process: what it was about to do is not done, and nothing that follows can be trusted.
/// The next start recovers from the log on disk.
pub fn abort_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        tracing::error!(%panic, thread = std::thread::current().name().unwrap_or("unnamed"), "a thread panicked, the server ends; please report this");
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_raft_library_is_heard_when_something_is_wrong_or_when_it_is_asked() {
        let shown = |level: &str| filter(level).to_string();
        let parts = |level: &str| shown(level).split(',').map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(parts("info"), ["info", "openraft=off"].map(str::to_owned).into());
        assert_eq!(parts("info,openraft=debug"), ["info", "openraft=debug"].map(str::to_owned).into());
        assert_eq!(parts("error"), ["error".to_owned()].into());
    }

    #[test]
    fn levels_may_be_per_module() {
        assert_eq!(check_level("info"), Ok(()));
        assert_eq!(check_level("warn,gantry_store=debug"), Ok(()));
        assert_eq!(check_level("loud"), Err("`loud` is none of the levels `off`, `error`, `warn`, `info`, `debug`, `trace`".into()));
        assert!(check_level("info,gantry_store=").is_err());
    }
}
