//! The port on which brokers are reached by other processes: streams of proxies (`remote`) and of other copies (`replica::streams`).

use crate::remote::server;
use gantry_platform::clock::sleep;
use gantry_platform::net::{Connection, Incoming};
use gantry_platform::tasks::{Stop, TaskGroup};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::server::Connected;

/// Connections that wait to be served.
const BACKLOG: usize = 64;
/// The pause after a connection could not be accepted: mostly because there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until the group is told to stop; then streams end. The acceptor is a task of the group.
pub async fn serve(incoming: Box<dyn Incoming>, services: Routes, tasks: &TaskGroup) -> Result<(), tonic::transport::Error> {
    let (accepted, connections) = mpsc::channel(BACKLOG);
    let stop = tasks.signal();
    tasks.spawn("broker acceptor", accept(incoming, accepted, stop.clone()));
    tokio::select! {
        served = server().add_routes(services).serve_with_incoming(ReceiverStream::new(connections)) => served,
        // Streams have no end of their own that could be waited for: dropping the server breaks them.
        () = stop.stopped() => Ok(()),
    }
}

async fn accept(mut incoming: Box<dyn Incoming>, accepted: mpsc::Sender<io::Result<Accepted>>, stop: Stop) {
    loop {
        let connection = tokio::select! {
            () = stop.stopped() => return,
            connection = incoming.accept() => connection,
        };
        match connection {
            Ok(connection) => {
                if accepted.send(Ok(Accepted(connection))).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection of a proxy or another broker could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// A connection that came in, as tonic wants it.
struct Accepted(Connection);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
