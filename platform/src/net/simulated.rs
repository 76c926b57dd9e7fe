//! A network in memory whose links a test delays, cuts and resets. With a paused runtime clock a delay costs no real time.
//!
//! A link is one direction between two nodes, so a partition may be one-sided. Cutting a link loses nothing that was sent: as with TCP
//! the bytes wait, and arrive after the link heals. Resetting breaks the connections.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::{Connection, Incoming, Net};

/// What a socket buffer holds, and the most a pump moves at once.
const BUFFER: usize = 64 * 1024;

/// Chunks on their way in one direction of one connection.
const IN_FLIGHT: usize = 64;

/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

/// The state of one direction between two nodes.
#[derive(Clone, Debug, Default)]
struct Link {
    delay: Duration,
    cut: bool,
    resets: u64,
}

#[derive(Clone)]
struct Listening {
    node: String,
    connections: mpsc::Sender<Connection>,
}

#[derive(Default)]
struct World {
    listening: BTreeMap<String, Listening>,
    links: BTreeMap<(String, String), watch::Sender<Link>>,
}

/// A network in memory. Clones are the same network.
#[derive(Clone, Default)]
pub struct TestNet {
    world: Arc<Mutex<World>>,
}

/// The network as one node sees it.
#[derive(Clone)]
pub struct TestNode {
    name: String,
    net: TestNet,
}

impl TestNet {
    /// A network whose links are open and have no delay.
    pub fn new() -> TestNet {
        TestNet::default()
    }

    /// The network as the node `name` sees it.
    pub fn node(&self, name: &str) -> TestNode {
        TestNode { name: name.to_owned(), net: self.clone() }
    }

    /// Lets everything from `from` to `to` take this long.
    pub fn delay(&self, from: &str, to: &str, delay: Duration) {
        self.change(from, to, |link| link.delay = delay);
    }

    /// Lets nothing pass from `from` to `to`.
    pub fn cut(&self, from: &str, to: &str) {
        self.change(from, to, |link| link.cut = true);
    }

    /// Ends a cut.
    pub fn heal(&self, from: &str, to: &str) {
        self.change(from, to, |link| link.cut = false);
    }

    /// Breaks all connections between two nodes.
    pub fn reset(&self, one: &str, other: &str) {
        self.change(one, other, |link| link.resets += 1);
        self.change(other, one, |link| link.resets += 1);
    }

    fn change(&self, from: &str, to: &str, change: impl FnOnce(&mut Link)) {
        self.world().link(from, to).send_modify(change);
    }

    fn watch(&self, from: &str, to: &str) -> watch::Receiver<Link> {
        self.world().link(from, to).subscribe()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    fn link(&mut self, from: &str, to: &str) -> &watch::Sender<Link> {
        self.links.entry((from.to_owned(), to.to_owned())).or_default()
    }
}

impl fmt::Debug for TestNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TestNode").field(&self.name).finish()
    }
}

#[async_trait]
impl Net for TestNode {
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Incoming>> {
        let mut world = self.net.world();
        if world.listening.get(address).is_some_and(|listening| !listening.connections.is_closed()) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let (connections, accepted) = mpsc::channel(BACKLOG);
        world.listening.insert(address.to_owned(), Listening { node: self.name.clone(), connections });
        Ok(Box::new(TestIncoming { accepted }))
    }

    async fn connect(&self, address: &str) -> io::Result<Connection> {
        let listening = self.net.world().listening.get(address).cloned().ok_or(ErrorKind::ConnectionRefused)?;
        let mut there = self.net.watch(&self.name, &listening.node);
        let mut back = self.net.watch(&listening.node, &self.name);
        // The handshake needs both directions once.
        sleep_until(Instant::now() + open_delay(&mut there).await + open_delay(&mut back).await).await;
        let (client, near) = duplex(BUFFER);
        let (far, server) = duplex(BUFFER);
        listening.connections.send(Box::new(server)).await.map_err(|_| ErrorKind::ConnectionRefused)?;
        let resets = there.borrow().resets;
        tokio::spawn(carry(near, far, there, back, resets));
        Ok(Box::new(client))
    }
}

struct TestIncoming {
    accepted: mpsc::Receiver<Connection>,
}

#[async_trait]
impl Incoming for TestIncoming {
    async fn accept(&mut self) -> io::Result<Connection> {
        self.accepted.recv().await.ok_or_else(|| ErrorKind::NotConnected.into())
    }
}

/// Waits until the link is not cut, and returns its delay.
async fn open_delay(link: &mut watch::Receiver<Link>) -> Duration {
    match link.wait_for(|link| !link.cut).await {
        Ok(link) => link.delay,
        // The network of the test is gone; let the last bytes pass.
        Err(_) => Duration::ZERO,
    }
}

/// One connection, until both sides have ended or a reset after the first `resets` breaks it.
async fn carry(near: DuplexStream, far: DuplexStream, there: watch::Receiver<Link>, back: watch::Receiver<Link>, resets: u64) {
    let mut watched = there.clone();
    let (near_read, near_write) = split(near);
    let (far_read, far_write) = split(far);
    tokio::select! {
        biased;
        Ok(_) = watched.wait_for(|link| link.resets != resets) => {}
        _ = async { tokio::join!(pump(near_read, far_write, there), pump(far_read, near_write, back)) } => {}
    }
}

/// One direction: bytes leave in order, each chunk after the link's delay and not while it is cut.
async fn pump(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, mut link: watch::Receiver<Link>) {
    let (sent, mut in_flight) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    let delays = link.clone();
    let send = async move {
        let mut buf = vec![0; BUFFER];
        while let Ok(count @ 1..) = from.read(&mut buf).await {
            let arrives = Instant::now() + delays.borrow().delay;
            if sent.send((arrives, buf[..count].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let deliver = async move {
        while let Some((arrives, bytes)) = in_flight.recv().await {
            sleep_until(arrives).await;
            open_delay(&mut link).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The end of the stream passes as its bytes do. A receiver that is gone already does not need it.
        open_delay(&mut link).await;
        let _ = to.shutdown().await;
    };
    tokio::join!(send, deliver);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::time::timeout;

    const ADDRESS: &str = "broker-1:9081";

    async fn connected(net: &TestNet) -> (Connection, Connection) {
        let mut incoming = net.node("broker").listen(ADDRESS).await.unwrap();
        let client = net.node("proxy").connect(ADDRESS).await.unwrap();
        (client, incoming.accept().await.unwrap())
    }

    async fn receive(connection: &mut Connection) -> [u8; 4] {
        let mut buf = [0; 4];
        connection.read_exact(&mut buf).await.unwrap();
        buf
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_shifts_bytes_without_spreading_them() {
        let net = TestNet::new();
        let (mut client, mut server) = connected(&net).await;
        net.delay("proxy", "broker", Duration::from_millis(50));
        let start = Instant::now();
        client.write_all(b"ping").await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        client.write_all(b"pong").await.unwrap();
        assert_eq!(receive(&mut server).await, *b"ping");
        assert_eq!(start.elapsed().as_millis(), 50);
        assert_eq!(receive(&mut server).await, *b"pong");
        assert_eq!(start.elapsed().as_millis(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_is_one_sided_and_loses_nothing() {
        let net = TestNet::new();
        let (mut client, mut server) = connected(&net).await;
        net.cut("proxy", "broker");
        client.write_all(b"ping").await.unwrap();
        server.write_all(b"push").await.unwrap();
        assert_eq!(receive(&mut client).await, *b"push");
        assert!(timeout(Duration::from_secs(60), receive(&mut server)).await.is_err());
        net.heal("proxy", "broker");
        assert_eq!(receive(&mut server).await, *b"ping");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_ends_both_sides() {
        let net = TestNet::new();
        let (mut client, mut server) = connected(&net).await;
        net.reset("broker", "proxy");
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(client.write_all(b"x").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_one_side_reaches_the_other() {
        let net = TestNet::new();
        let (mut client, mut server) = connected(&net).await;
        client.write_all(b"last").await.unwrap();
        drop(client);
        assert_eq!(receive(&mut server).await, *b"last");
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_listening_is_refused_and_an_address_is_taken_once() {
        let net = TestNet::new();
        let node = net.node("broker");
        assert_eq!(node.connect(ADDRESS).await.err().unwrap().kind(), ErrorKind::ConnectionRefused);
        let incoming = node.listen(ADDRESS).await.unwrap();
        assert_eq!(node.listen(ADDRESS).await.err().unwrap().kind(), ErrorKind::AddrInUse);
        drop(incoming);
        assert!(node.listen(ADDRESS).await.is_ok());
    }
}
