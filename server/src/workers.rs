//! The threads that serve: one per core for messaging, each with a runtime of its own, so that a call is handled from socket to socket
//! without changing threads (measured a quarter cheaper per call than one runtime over all cores), and one for administration and HTTP.
//!
//! One acceptor deals connections to them in turn. With SO_REUSEPORT the kernel would deal instead, but then a second server on the same
//! port would start without an error and take half of the connections.

use gantry_platform::clock::sleep;
use gantry_platform::net::Listener;
use gantry_platform::tasks::{self, Stop, Thread};
use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::time::Duration;
use tokio::sync::mpsc;

/// Connections that wait for a worker to take them up.
const DEALT: usize = 128;
/// Pause after an accept that failed, which happens when file descriptors run out.
const PAUSE: Duration = Duration::from_millis(50);

/// How often the end looks whether the threads have ended.
const END_CHECK: Duration = Duration::from_millis(5);

/// The threads, which end when they were told to stop and their last connection is done.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Thread>,
}

/// Hands connections to the workers.
#[derive(Debug)]
pub struct Dealer {
    hands: Vec<mpsc::Sender<TcpStream>>,
}

impl Workers {
    /// No threads yet.
    pub fn new() -> Workers {
        Workers { threads: Vec::new() }
    }

    /// Starts a thread with a runtime of its own, which runs the future that `serve` makes there.
    pub fn start<F: Future<Output = ()>>(&mut self, name: impl Into<String>, serve: impl FnOnce() -> F + Send + 'static) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        self.threads.push(tasks::thread(name, move || runtime.block_on(serve()))?);
        Ok(())
    }

    /// Starts `count` threads for messaging; each runs the future that `serve` makes of its connections.
    pub fn start_messaging<F: Future<Output = ()>>(
        &mut self,
        count: usize,
        serve: impl Fn(mpsc::Receiver<TcpStream>) -> F + Clone + Send + 'static,
    ) -> io::Result<Dealer> {
        let mut hands = Vec::new();
        for number in 0..count {
            let (hand, connections) = mpsc::channel(DEALT);
            let serve = serve.clone();
            self.start(format!("messaging-{number}"), move || serve(connections))?;
            hands.push(hand);
        }
        Ok(Dealer { hands })
    }

    /// Waits until all have ended.
    pub async fn end(&self) {
        while !self.threads.iter().all(Thread::is_finished) {
            sleep(END_CHECK).await;
        }
    }
}

impl Dealer {
    /// Accepts until it is told to stop, dealing in turn.
    pub async fn deal(self, listener: Listener, stop: Stop) {
        let mut turn = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.stopped() => return,
            };
            // A tokio socket belongs to the runtime that made it; as a plain one it can move to the worker's.
            match accepted.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => {
                    turn = (turn + 1) % self.hands.len();
                    // A worker that is gone has panicked, and then the process ends.
                    _ = self.hands[turn].send(stream).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_platform::net::ListenOptions;
    use gantry_platform::tasks::TaskGroup;
    use std::io::{Read, Write};

    /// Writes the name of its thread to each connection.
    async fn name_threads(mut connections: mpsc::Receiver<TcpStream>) {
        while let Some(mut stream) = connections.recv().await {
            stream.write_all(std::thread::current().name().unwrap().as_bytes()).unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn connections_are_dealt_in_turn_and_workers_end_with_the_dealer() {
        let listener = Listener::bind(&["127.0.0.1:0".parse().unwrap()], ListenOptions::default()).unwrap();
        let address = listener.local_addresses().unwrap()[0];
        let mut workers = Workers::new();
        let dealer = workers.start_messaging(2, name_threads).unwrap();
        let group = TaskGroup::new();
        let stop = group.signal();
        group.spawn("acceptor", async move { dealer.deal(listener, stop).await });
        let mut names: Vec<String> = (0..4)
            .map(|_| {
                let mut name = String::new();
                TcpStream::connect(address).unwrap().read_to_string(&mut name).unwrap();
                name
            })
            .collect();
        names.sort();
        assert_eq!(names, ["messaging-0", "messaging-0", "messaging-1", "messaging-1"]);
        group.shutdown(Duration::from_secs(5)).await.unwrap();
        workers.end().await;
    }
}
