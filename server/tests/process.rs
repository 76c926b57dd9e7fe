//! The real binary: what it refuses, what it says, and how it ends.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// A `gantry server` on free ports with its data in `data`.
fn gantry(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
    command.env_clear().current_dir(data).arg("server").arg("--data").arg(data.join("data"));
    for port in ["--messaging-port", "--admin-port", "--http-port", "--metrics-port"] {
        command.args([port, "0"]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A server that said that it is ready; killed when it is dropped.
struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// What it said until it was ready.
    said: Vec<String>,
}

impl Server {
    fn start(command: &mut Command) -> Server {
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.contains("gantry consume")) {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                let mut why = String::new();
                child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
                panic!("the server ended before it was ready: {why}");
            }
            said.push(line.trim_end().to_owned());
        }
        Server { child, stdout, said }
    }

    /// The first address of a service.
    fn address(&self, service: &str) -> SocketAddr {
        let line = self.said.iter().find(|line| line.trim_start().starts_with(service)).unwrap();
        line.split_whitespace().nth(1).unwrap().trim_end_matches(',').parse().unwrap()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Ends the server by a signal; answers its exit code and what it logged.
    fn stop(mut self, name: &str) -> (Option<i32>, String) {
        self.signal(name);
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Writes the configuration file.
fn write(folder: &tempfile::TempDir, yaml: &str) {
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).open(folder.path().join("gantry.yaml")).unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
}

fn check_refused(output: Output, code: i32, expected: &str) {
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.contains(expected)), (Some(code), true), "expected `{expected}` in: {said}");
    assert_eq!(output.stdout, b"");
}

#[test]
fn a_wrong_configuration_is_refused_with_the_nearest_key() {
    let folder = folder();
    write(&folder, "prots:\n  messaging: 1\n");
    let output = gantry(folder.path()).args(["--config", "gantry.yaml"]).output().unwrap();
    check_refused(output, 2, "gantry.yaml: unknown key `prots.messaging`, did you mean `ports.messaging`?");
    let output = gantry(folder.path()).args(["--config", "absent.yaml"]).output().unwrap();
    check_refused(output, 2, "the configuration file `absent.yaml` can't be read");
    let output = gantry(folder.path()).env("GANTRY_LOG_LEVEL", "loud").output().unwrap();
    check_refused(output, 2, "GANTRY_LOG_LEVEL: key `log.level`: `loud` is none of the levels");
    let output = gantry(folder.path()).args(["--role", "broker"]).output().unwrap();
    check_refused(output, 2, "a broker must know the controllers: say `host:port` of each");
    let output = gantry(folder.path()).args(["--role", "queen"]).output().unwrap();
    check_refused(output, 2, "key `role`: `queen` is none of `all`, `controller`, `broker`, `proxy`");
    assert!(!folder.path().join("data").exists(), "nothing was made");
}

#[test]
fn a_server_says_where_it_is_answers_there_and_ends_with_code_0() {
    let folder = folder();
    let server = Server::start(&mut gantry(folder.path()));
    assert!(server.said[0].starts_with(concat!("gantry ", env!("CARGO_PKG_VERSION"), " is ready after ")), "{:?}", server.said);
    for service in ["messaging", "admin", "http", "metrics"] {
        let address = server.address(service);
        assert!(address.ip().is_loopback());
        TcpStream::connect(address).unwrap_or_else(|error| panic!("{service} at {address}: {error}"));
    }
    let data = folder.path().join("data").display().to_string();
    assert!(server.said.iter().any(|line| line.contains(&data)), "{:?}", server.said);
    let (code, log) = server.stop("-TERM");
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped; everything is on disk"), "{log}");
}

#[test]
fn the_number_of_shards_is_that_of_the_data_folder() {
    let folder = folder();
    let output = gantry(folder.path()).args(["--shards", "0"]).output().unwrap();
    check_refused(output, 2, "--shards: key `shards`: `0` is not a number of shards, which is from 1 to 64");
    for args in [&["--shards", "3"][..], &[], &["--shards", "3"]] {
        let server = Server::start(gantry(folder.path()).args(args));
        let (code, log) = server.stop("-TERM");
        assert_eq!(code, Some(0), "{log}");
    }
    let logs = (0..4).map(|shard| folder.path().join(format!("data/shard-000000000{shard}")).exists());
    assert_eq!(logs.collect::<Vec<_>>(), [true, true, true, false]);
    for wanted in ["1", "4"] {
        let output = gantry(folder.path()).args(["--shards", wanted]).output().unwrap();
        check_refused(output, 1, &format!("the data folder was made with 3 shards, not {wanted}"));
    }
    assert!(!folder.path().join("data/shard-0000000003").exists(), "nothing was made");
}

#[test]
fn a_server_starts_again_on_its_folder_after_any_end() {
    let folder = folder();
    for signal in ["-INT", "-KILL", "-TERM"] {
        let server = Server::start(&mut gantry(folder.path()));
        let (code, log) = server.stop(signal);
        let expected = if signal == "-KILL" { None } else { Some(0) };
        assert_eq!(code, expected, "{signal}: {log}");
    }
}

#[test]
fn a_folder_in_use_is_refused_and_its_holder_is_named() {
    let folder = folder();
    let first = Server::start(&mut gantry(folder.path()));
    let output = gantry(folder.path()).output().unwrap();
    check_refused(output, 1, &format!("is in use by process {}; stop that process", first.child.id()));
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_changes_it() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
    command.env_clear().current_dir(folder.path()).arg("server").stdin(Stdio::null());
    let ports = format!("{{messaging: {port}, admin: 0, http: 0, metrics: 0}}");
    write(&folder, &format!("data: other\nports: {ports}\n"));
    let output = command.args(["--config", "gantry.yaml"]).output().unwrap();
    check_refused(output, 1, &format!("messaging port: cannot listen on `127.0.0.1:{port}`: the address is in use"));
}

#[test]
fn a_ready_server_says_nothing_more_on_stdout() {
    let folder = folder();
    let mut server = Server::start(&mut gantry(folder.path()));
    server.signal("-TERM");
    let mut rest = String::new();
    server.stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

/// The bench itself checks that every message of every kind came once, whole, in order and in time.
#[test]
fn every_kind_of_message_goes_through_a_real_server_under_load() {
    let folder = folder();
    let server = Server::start(&mut gantry(folder.path()));
    let (endpoint, admin) = (format!("http://{}", server.address("messaging")), server.address("admin").to_string());
    let mut bench = Command::new(env!("CARGO_BIN_EXE_gantry"));
    bench.env_clear().args(["bench", "--compare-kinds", "--messages", "300", "--rounds", "1", "--connections", "2", "-o", "json"]);
    let output = bench.args(["--endpoint", &endpoint, "--admin", &admin]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = String::from_utf8(output.stdout).unwrap();
    for kind in ["plain", "fifo, 10000 message groups", "delay, all due at once", "transaction, committed", "SQL filter, 1 of 100", "fan-out to 64"] {
        assert!(report.contains(&format!("\"name\": \"{kind}")), "{kind} in {report}");
    }
    let left = Command::new(env!("CARGO_BIN_EXE_gantry")).env_clear().args(["topic", "list", "--admin", &admin, "-o", "json"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&left.stdout).contains("bench-"), "topics of the run are deleted: {left:?}");
}

#[test]
fn version_and_help_are_there() {
    let say = |arguments: &[&str]| String::from_utf8(Command::new(env!("CARGO_BIN_EXE_gantry")).args(arguments).output().unwrap().stdout).unwrap();
    assert_eq!(say(&["--version"]), concat!("gantry ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(say(&["--help"]).contains("server"));
    assert!(say(&["server", "--help"]).contains("--messaging-port"));
}
