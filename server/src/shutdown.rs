//! The end of the process: the first signal asks for an orderly end, the second insists.

use std::future::Future;
use std::io;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a server: SIGTERM from a supervisor, SIGINT from the keyboard.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// How the orderly end went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything was finished and synced.
    Orderly,
    /// A second signal came before that.
    Forced,
}

impl Signals {
    /// Takes the signals over from their defaults. Needs a running tokio runtime.
    pub fn new() -> io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal and answers its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Runs the orderly end, unless another signal comes first.
    pub async fn unless_forced(&mut self, orderly: impl Future<Output = ()>) -> End {
        tokio::select! {
            () = orderly => End::Orderly,
            name = self.next() => {
                tracing::warn!(signal = name, "second signal: ending at once; what was acknowledged is safe, the next start recovers it");
                End::Forced
            }
        }
    }
}

impl From<End> for ExitCode {
    fn from(end: End) -> ExitCode {
        match end {
            End::Orderly => ExitCode::SUCCESS,
            End::Forced => ExitCode::FAILURE,
        }
    }
}
