//! Runs of `gantry verify`, as a user would start them.

use crate::server::binary;
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
    /// Starts a run at some messaging services and an admin service, with some options more.
    pub fn start(endpoints: &[String], admin: &str, options: &str) -> Run {
        let mut command = Command::new(binary());
        command.arg("verify").args(["--admin", admin, "--output", "json"]);
        for endpoint in endpoints {
            command.args(["--server", endpoint]);
        }
        Run { child: spawn(command.args(options.split_whitespace())) }
    }

    /// Checks a history that an earlier run wrote.
    pub fn check(history: &Path) -> Run {
        Run { child: spawn(Command::new(binary()).args(["verify", "check", "--output", "json"]).arg(history)) }
    }

    pub fn goes_on(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// Tells it to stop sending and to come to its end, as Ctrl-C does.
    pub async fn interrupt(&self) {
        let id = self.child.id().expect("it goes on").to_string();
        let told = Command::new("kill").args(["-INT", &id]).status().await.expect("`kill` is there");
        assert!(told.success(), "the run can be told");
    }

    pub async fn end(self) -> Ended {
        let output = self.child.wait_with_output().await.expect("a run ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Ended { exit: output.status.code(), report: text(output.stdout), errors: text(output.stderr) }
    }
}

/// A time in which some lane had no acknowledged send, from the begin of the run.
#[derive(Clone, Copy, Debug)]
pub struct Incident {
    pub from_ms: u64,
    pub length_ms: u64,
    /// The longest stall of one lane.
    pub longest_ms: u64,
    /// The longest time in which no lane had one.
    pub silence_ms: u64,
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

    /// Times in which some lane had no acknowledged send.
    pub fn incidents(&self) -> Vec<Incident> {
        let value = self.value();
        let ms = |incident: &serde_json::Value, field: &str| incident[field].as_u64().unwrap_or(0) / 1_000;
        let read = |incident| Incident {
            from_ms: ms(incident, "from_us"),
            length_ms: ms(incident, "length_us"),
            longest_ms: ms(incident, "longest_us"),
            silence_ms: ms(incident, "silence_us"),
        };
        value["incidents"].as_array().map(|incidents| incidents.iter().map(read).collect()).unwrap_or_default()
    }
}
