//! The server process: started on fixed ports and one folder, killed, started again.

use crate::client::Client;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// A server that comes back on the same ports.
pub struct Server {
    folder: PathBuf,
    ports: [u16; 4],
    child: Option<Child>,
    clock: gantry_platform::clock::SystemClock,
}

/// The binary under test: `GANTRY_BINARY`, else the one that was built beside this program.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("GANTRY_BINARY") {
        return path.into();
    }
    let own = std::env::current_exe().expect("this program has a path");
    let beside = own.ancestors().skip(1).map(|dir| dir.join("gantry")).find(|path| path.is_file());
    beside.expect("build the server first: `cargo build -p gantry-server`, or set GANTRY_BINARY")
}

impl Server {
    pub fn new(folder: &Path) -> Server {
        let held: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let mut ports = [0; 4];
        held.iter().zip(&mut ports).for_each(|(listener, port)| *port = listener.local_addr().expect("bound").port());
        Server { folder: folder.to_owned(), ports, child: None, clock: gantry_platform::clock::SystemClock::new() }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// The admin service.
    pub fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.ports[1])
    }

    /// Starts the server and waits until it serves. Answers how long that took.
    pub async fn start(&mut self) -> Duration {
        use gantry_platform::clock::Clock;
        let began = self.clock.mono();
        let mut command = Command::new(binary());
        command.arg("server").arg("--data").arg(self.folder.join("data"));
        for (flag, port) in ["--messaging-port", "--admin-port", "--http-port", "--metrics-port"].iter().zip(self.ports) {
            command.arg(flag).arg(port.to_string());
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).spawn();
        let child = self.child.insert(child.expect("the server starts"));
        let mut client = Client::new(format!("http://127.0.0.1:{}", self.ports[0]));
        loop {
            if client.prepare().await {
                return self.clock.mono() - began;
            }
            let ended = child.try_wait().expect("a child can be asked");
            assert!(ended.is_none(), "the server ended: {ended:?}");
            assert!(self.clock.mono() - began < Duration::from_secs(20), "the server does not get ready");
            gantry_platform::clock::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.expect("a child can be killed");
        }
    }

    pub async fn stop(&mut self) {
        self.kill().await;
    }
}
