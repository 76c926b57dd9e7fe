//! The commands against a fake cluster on loopback: what is sent, what is printed, how a command ends.
//! The help texts and outputs are snapshots; `INSTA_UPDATE=always cargo test -p gantry-cli` writes them anew, and the diff is the review.

#![allow(clippy::unwrap_used)]

mod commands;
pub mod fake;
mod help;
mod verifying;

pub use fake::Fake;

use crate::{Command, Exit, Failure, Global, OutputFormat, Terminal, TlsMode, execute};
use clap::FromArgMatches;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Global options for servers at these addresses.
pub fn global(endpoint: &str, admin: &str) -> Global {
    Global {
        endpoint: endpoint.to_owned(),
        admin: admin.to_owned(),
        namespace: String::new(),
        output: OutputFormat::Table,
        tls: TlsMode::Auto,
        tls_ca: None,
        tls_insecure: false,
        timeout: Duration::from_secs(5),
    }
}

/// A buffer that can be read while a command writes to it.
#[derive(Clone, Default)]
pub struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How a command ended and what it wrote.
#[derive(Debug)]
pub struct Ran {
    pub out: String,
    pub err: String,
    pub result: Result<(), Failure>,
}

impl Ran {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.result.as_ref().err().map_or(Exit::Done, |failure| failure.exit)
    }
}

/// Runs a command line as a shell would, on a fake cluster.
pub async fn run(fake: &Fake, line: &str) -> Ran {
    run_with_input(fake, line, "").await
}

/// The same with something on stdin.
pub async fn run_with_input(fake: &Fake, line: &str, input: &'static str) -> Ran {
    let line = format!("gantry {line} --endpoint {} --admin {}", fake.messaging, fake.admin);
    run_line(&line, input).await
}

/// Runs a whole line; blanks separate words, and `·` stands for a blank inside one.
pub async fn run_line(line: &str, input: &'static str) -> Ran {
    let words = line.split_whitespace().map(|word| word.replace('·', " "));
    let matches = match crate::command_tree().try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) => return Ran { out: String::new(), err: error.to_string(), result: Err(Failure::usage("clap")) },
    };
    let command = <Command as FromArgMatches>::from_arg_matches(&matches).unwrap();
    let global = <Global as FromArgMatches>::from_arg_matches(&matches).unwrap();
    let (out, err) = (Paper::default(), Paper::default());
    let mut terminal = Terminal {
        out: Box::new(out.clone()),
        err: Box::new(err.clone()),
        input: Box::new(input.as_bytes()),
        input_is_person: false,
        err_is_person: false,
    };
    let result = tokio::time::timeout(Duration::from_secs(30), execute(command, &global, &mut terminal)).await.expect("a command ends");
    Ran { out: out.text(), err: err.text(), result }
}
