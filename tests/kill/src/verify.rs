//! Runs of `gantry verify`, as a user would start them.

use crate::server::{Server, binary};
use std::path::Path;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// A run that goes on.
pub struct Run {
    child: Child,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub exit: Option<i32>,
    /// What it wrote to stdout.
    pub report: String,
    pub errors: String,
}

impl Run {
    /// Starts a run at a messaging service, with the administration of a server and some options more.
    pub fn start(endpoint: &str, server: &Server, options: &str) -> Run {
        let mut command = Command::new(binary());
        command.arg("verify").args(["--server", endpoint, "--admin", &server.admin(), "--output", "json"]);
        Run { child: spawn(command.args(options.split_whitespace())) }
    }

    /// Checks a history that an earlier run wrote.
    pub fn check(history: &Path) -> Run {
        Run { child: spawn(Command::new(binary()).args(["verify", "check", "--output", "json"]).arg(history)) }
    }

    pub fn goes_on(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    pub async fn end(self) -> Ended {
        let output = self.child.wait_with_output().await.expect("a run ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Ended { exit: output.status.code(), report: text(output.stdout), errors: text(output.stderr) }
    }
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("gantry starts")
}

impl Ended {
    fn value(&self) -> serde_json::Value {
        serde_json::from_str(&self.report).unwrap_or_else(|error| panic!("no report ({error}): {self:?}"))
    }

    /// A number of the report by its path, such as `/sends/ok`.
    pub fn number(&self, path: &str) -> u64 {
        self.value().pointer(path).and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("no {path}: {self:?}"))
    }

    /// Kinds of violations that were found.
    pub fn broken(&self) -> Vec<String> {
        self.value()["violations"].as_object().map(|kinds| kinds.keys().cloned().collect()).unwrap_or_default()
    }

    pub fn incidents(&self) -> usize {
        self.value()["incidents"].as_array().map_or(0, Vec::len)
    }
}
