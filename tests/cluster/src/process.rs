//! One process of a cluster: started, killed, stopped in its tracks, ended in order, started again with the same flags.

use gantry_kill::server::binary;
use gantry_platform::clock::{Clock, SystemClock, timeout};
use gantry_platform::tasks;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Longer than a process takes on the slowest machine.
const READY: Duration = Duration::from_secs(60);
const ENDS: Duration = Duration::from_secs(60);
const ASK: Duration = Duration::from_secs(2);

/// A process that comes back with the same flags, ports and folder.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    flags: Vec<String>,
    /// The network namespace that it lives in.
    namespace: Option<String>,
    /// Where `/readyz` and `/metrics` are.
    http: String,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    pub fn new(name: &str, flags: Vec<String>, namespace: Option<String>, http: String, folder: &Path) -> Process {
        Process { name: name.to_owned(), flags, namespace, http, log: folder.join(format!("{name}.log")), child: None }
    }

    /// Starts it and waits until it says that it is ready. Answers how long that took.
    pub async fn start(&mut self) -> Duration {
        let clock = SystemClock::new();
        let mut lines = self.spawn();
        let ready = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("is ready") {
                    return true;
                }
            }
            false
        };
        let ready = timeout(READY, ready).await;
        assert!(matches!(ready, Ok(true)), "{} did not become ready ({ready:?}); its log ends with\n{}", self.name, self.last_words());
        // The pipe must not become full.
        drop(tasks::spawn("output of a process", async move { while let Ok(Some(_)) = lines.next_line().await {} }));
        clock.mono()
    }

    fn spawn(&mut self) -> tokio::io::Lines<BufReader<tokio::process::ChildStdout>> {
        let mut command = match &self.namespace {
            None => Command::new(binary()),
            // `ip` becomes the program, so that its process id is the one to kill.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(binary());
                command
            }
        };
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("a log can be written");
        let command = command.args(&self.flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let child = self.child.insert(command.spawn().unwrap_or_else(|error| panic!("{} can't be started: {error}", self.name)));
        BufReader::new(child.stdout.take().expect("its output is piped")).lines()
    }

    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.expect("a child can be killed");
        }
    }

    /// Stops it in its tracks: it holds its connections and answers nobody.
    pub async fn freeze(&self) {
        self.signal("STOP").await;
    }

    pub async fn thaw(&self) {
        self.signal("CONT").await;
    }

    /// Ends it as an operator would, and waits.
    pub async fn end(&mut self) {
        self.signal("TERM").await;
        let Some(mut child) = self.child.take() else { return };
        let ended = timeout(ENDS, child.wait()).await;
        let orderly = matches!(&ended, Ok(Ok(status)) if status.success());
        assert!(orderly, "{} did not end in order ({ended:?}); its log ends with\n{}", self.name, self.last_words());
    }

    async fn signal(&self, signal: &str) {
        let Some(id) = self.child.as_ref().and_then(Child::id) else { return };
        let done = Command::new("kill").args([format!("-{signal}"), id.to_string()]).status().await.expect("`kill` is there");
        assert!(done.success(), "{} can't be sent {signal}", self.name);
    }

    /// What the process serves at a path of its HTTP port; nothing if it does not answer.
    pub async fn get(&self, path: &str) -> Option<String> {
        let ask = async {
            let mut stream = TcpStream::connect(&self.http).await.ok()?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: gantry\r\n\r\n").as_bytes()).await.ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await.ok()?;
            let (head, body) = text.split_once("\r\n\r\n")?;
            head.contains(" 200").then(|| body.to_owned())
        };
        timeout(ASK, ask).await.ok().flatten()
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}
