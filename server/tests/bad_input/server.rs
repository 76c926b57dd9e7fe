//! Runs the binary: a server on free ports whose output goes to files, and the commands that talk to it.

use gantry_platform::clock::{Clock, SystemClock, sleep};
use gantry_platform::disk::Disk;
use gantry_platform::{RealDisk, SystemChance};
use gantry_store::data_folder::DataFolder;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Nothing that works takes this long, even on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// `gantry` without anything of the environment that runs the tests.
pub fn gantry() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// `gantry server` on free ports.
pub fn gantry_server(data: &Path) -> Command {
    let mut command = gantry();
    command.arg("server").arg("--data").arg(data);
    for port in ["--messaging-port", "--admin-port", "--http-port", "--metrics-port"] {
        command.args([port, "0"]);
    }
    command
}

/// A server that said that it is ready; killed when it is dropped.
pub struct Server {
    child: Child,
    /// What it said until it was ready.
    said: String,
    log: PathBuf,
    _output: tempfile::TempDir,
}

impl Server {
    pub async fn start(data: &Path) -> Server {
        Server::start_by(&mut gantry_server(data)).await
    }

    pub async fn start_by(command: &mut Command) -> Server {
        let output = tempfile::tempdir().unwrap();
        let (out, log) = (output.path().join("stdout"), output.path().join("stderr"));
        let create = |path| OpenOptions::new().create_new(true).write(true).open(path).unwrap();
        let mut child = command.stdout(create(&out)).stderr(create(&log)).spawn().unwrap();
        let ready = until("the server is ready", || {
            let said = text(&out);
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended before it was ready, {ended:?}: {}", text(&log));
            said.contains("gantry consume").then_some(said)
        });
        let said = ready.await;
        Server { child, said, log, _output: output }
    }

    /// The first address of a service.
    pub fn address(&self, service: &str) -> SocketAddr {
        let line = self.said.lines().find(|line| line.trim_start().starts_with(service)).unwrap();
        line.split_whitespace().nth(1).unwrap().trim_end_matches(',').parse().unwrap()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        text(&self.log)
    }

    pub fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end; answers the exit code and what it logged.
    pub async fn ended(mut self) -> (Option<i32>, String) {
        let status = until("the server ends", || self.child.try_wait().unwrap()).await;
        (status.code(), self.log())
    }

    /// Ends it in order.
    pub async fn stop(self) {
        self.signal("-TERM");
        let (code, log) = self.ended().await;
        assert_eq!(code, Some(0), "{log}");
    }

    /// A line of `/proc/<pid>/status`, in bytes.
    pub fn memory(&self, line: &str) -> u64 {
        let status = text(Path::new(&format!("/proc/{}/status", self.child.id())));
        let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
        let kib: u64 = found.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024
    }

    /// What `/metrics` says.
    pub fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.address("http")).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> u64 {
        let page = self.metrics();
        let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        line.unwrap_or_else(|| panic!("no `{name}` in {page}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Runs a client command with this input; it must succeed. Answers what it printed.
    pub fn command(&self, arguments: &[&str], input: &str) -> String {
        let output = self.try_command(arguments, input);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn try_command(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = gantry();
        command.args(arguments).args(["--endpoint", &self.address("messaging").to_string()]).args(["--admin", &self.address("admin").to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that failed reads no more; its message says why.
        _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        if std::thread::panicking() {
            // What the server said is the first thing that whoever reads a failure wants to know.
            eprintln!("the server's log:\n{}", self.log());
        }
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Looks again and again until there is something to see.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let clock = SystemClock::new();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(clock.mono() < LIMIT, "not within {LIMIT:?}: {what}");
        sleep(LOOK).await;
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A start that must be refused with all of these words, on standard error only. Answers what was said.
pub fn check_refused(data: &Path, expected: &[&str]) -> String {
    let output = gantry_server(data).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{said}");
    for words in expected {
        assert!(said.contains(words), "expected `{words}` in: {said}");
    }
    said
}

/// A data folder as the first start makes it, without starting a server.
pub fn new_folder(data: &Path) {
    DataFolder::open(std::sync::Arc::new(RealDisk::new(data)), data, "", &mut SystemChance).unwrap().close().unwrap();
}

/// All bytes of a file.
pub fn read(path: &Path) -> Vec<u8> {
    let file = RealDisk::new("/").open(path).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

/// Writes some bytes of a file; makes it if there is none.
pub fn write(path: &Path, at: u64, bytes: &[u8]) {
    let disk = RealDisk::new("/");
    let file = if path.exists() { disk.open(path) } else { disk.create(path) }.unwrap();
    file.write_at(at, &[IoSlice::new(bytes)]).unwrap();
}

/// Every file below a folder, with what is in it.
pub fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in RealDisk::new("/").list(folder).unwrap() {
        if path.is_dir() { found.extend(content(&path)) } else { drop(found.insert(path.clone(), read(&path))) }
    }
    found
}
