//! The network: the listener of the client edge, and the contract by which roles reach each other, real here and simulated in `simulated.rs`.
//!
//! The client edge uses [`Listener`] directly, one per core with `reuse_port`. What connects role to role goes through [`Net`], so that a
//! test can delay, cut and reset it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, lookup_host};

pub mod simulated;

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection of any kind.
pub type Connection = Box<dyn Duplex>;

/// How a role reaches others and is reached. An address is `host:port`. Cancelling a call loses nothing but that call.
#[async_trait]
pub trait Net: Send + Sync + fmt::Debug {
    /// Listens on every address the name stands for.
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Incoming>>;

    /// Connects to the first of the addresses that answers.
    async fn connect(&self, address: &str) -> io::Result<Connection>;
}

/// Where connections come in.
#[async_trait]
pub trait Incoming: Send {
    /// The next connection.
    async fn accept(&mut self) -> io::Result<Connection>;
}

/// How to listen.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Lets several listeners share a port; the kernel spreads connections over them.
    pub reuse_port: bool,
    /// How many connections may wait to be accepted.
    pub backlog: i32,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions { reuse_port: false, backlog: 1024 }
    }
}

/// One listener for several addresses. Connections come without Nagle's delay.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<TcpListener>,
    /// The socket that is asked first, in turn, so that none starves.
    turn: AtomicUsize,
}

impl Listener {
    /// Listens on all of `addresses` or on none. Must be called on the runtime that will accept.
    pub fn bind(addresses: &[SocketAddr], options: ListenOptions) -> Result<Listener, BindError> {
        let bind = |address: &SocketAddr| bind_one(*address, options).map_err(|source| BindError { address: *address, source });
        let sockets = addresses.iter().map(bind).collect::<Result<_, _>>()?;
        Ok(Listener { sockets, turn: AtomicUsize::new(0) })
    }

    /// The addresses in the order of `bind`, with the real ports.
    pub fn local_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(TcpListener::local_addr).collect()
    }

    /// The next connection from any address. Errors concern one connection or a passing shortage of file descriptors: wait a moment and go on.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// As `accept`, for implementing streams.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for step in 0..self.sockets.len() {
            let socket = &self.sockets[first.wrapping_add(step) % self.sockets.len()];
            if let Poll::Ready(accepted) = socket.poll_accept(cx) {
                return Poll::Ready(accepted.and_then(|(stream, peer)| {
                    stream.set_nodelay(true)?;
                    Ok((stream, peer))
                }));
            }
        }
        Poll::Pending
    }
}

fn bind_one(address: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Otherwise `[::]` would take the port of `0.0.0.0` too, and listening on both would fail.
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for old connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(options.backlog)?;
    TcpListener::from_std(socket.into())
}

/// Why a listener could not start.
#[derive(Debug)]
pub struct BindError {
    /// The address that failed.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on `{}`: ", self.address)?;
        match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                write!(f, "the address is in use; `ss -ltnp 'sport = :{}'` shows by which process", self.address.port())
            }
            io::ErrorKind::AddrNotAvailable => f.write_str("this machine does not have the address"),
            io::ErrorKind::PermissionDenied => f.write_str("not permitted; ports below 1024 need a capability"),
            _ => write!(f, "{}", self.source),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The network of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealNet;

#[async_trait]
impl Net for RealNet {
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Incoming>> {
        let addresses: Vec<SocketAddr> = lookup_host(address).await?.collect();
        let listener = Listener::bind(&addresses, ListenOptions::default());
        listener.map(|listener| Box::new(listener) as Box<dyn Incoming>).map_err(|error| io::Error::new(error.source.kind(), error))
    }

    async fn connect(&self, address: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

#[async_trait]
impl Incoming for Listener {
    async fn accept(&mut self) -> io::Result<Connection> {
        let (stream, _) = Listener::accept(self).await?;
        Ok(Box::new(stream))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const ANY_PORT: &str = "127.0.0.1:0";

    fn bind(address: &str, options: ListenOptions) -> Result<Listener, BindError> {
        Listener::bind(&[address.parse().unwrap()], options)
    }

    #[tokio::test]
    async fn every_address_of_a_listener_accepts() {
        let listener = Listener::bind(&[ANY_PORT.parse().unwrap(), ANY_PORT.parse().unwrap()], ListenOptions::default()).unwrap();
        for address in listener.local_addresses().unwrap() {
            let client = TcpStream::connect(address).await.unwrap();
            let (server, peer) = listener.accept().await.unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
            assert!(server.nodelay().unwrap());
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_a_hint() {
        let first = bind(ANY_PORT, ListenOptions::default()).unwrap();
        let taken = first.local_addresses().unwrap()[0];
        let error = bind(&taken.to_string(), ListenOptions::default()).unwrap_err();
        let port = taken.port();
        let expected = format!("cannot listen on `127.0.0.1:{port}`: the address is in use; `ss -ltnp 'sport = :{port}'` shows by which process");
        assert_eq!(error.to_string(), expected);
    }

    #[tokio::test]
    async fn listeners_of_several_cores_share_a_port() {
        let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let first = bind(ANY_PORT, options).unwrap();
        let address = first.local_addresses().unwrap()[0].to_string();
        assert!(bind(&address, options).is_ok());
    }

    #[tokio::test]
    async fn the_real_net_carries_bytes_both_ways() {
        let listener = bind(ANY_PORT, ListenOptions::default()).unwrap();
        let address = listener.local_addresses().unwrap()[0].to_string();
        let mut incoming: Box<dyn Incoming> = Box::new(listener);
        let mut client = RealNet.connect(&address).await.unwrap();
        let mut server = incoming.accept().await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut buf = [0; 4];
        server.read_exact(&mut buf).await.unwrap();
        server.write_all(&buf).await.unwrap();
        client.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"ping");
        assert!(RealNet.listen(&address).await.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse));
    }
}
