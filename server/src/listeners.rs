//! Sockets that wait for connections: on the addresses and port of the configuration, or with a reason why not and what to do.

use crate::config::Listen;
use gantry_platform::net::{BindError, ListenOptions, Listener};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Tries to find one free port that every address has.
const TRIES: usize = 16;
/// What Linux says when the kernel has no IPv6 (EAFNOSUPPORT).
const NO_SUCH_FAMILY: i32 = 97;

/// A service that listens, and the flag that moves it elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    pub name: &'static str,
    pub flag: &'static str,
}

pub const MESSAGING: Service = Service { name: "messaging", flag: "--messaging-port" };
pub const ADMIN: Service = Service { name: "admin", flag: "--admin-port" };
pub const HTTP: Service = Service { name: "http", flag: "--http-port" };
pub const METRICS: Service = Service { name: "metrics", flag: "--metrics-port" };

/// A service could not listen.
#[derive(Debug)]
pub struct ListenError {
    service: Service,
    error: BindError,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Service { name, flag } = self.service;
        write!(f, "{name} port: {}", self.error)?;
        match self.error.source.kind() {
            io::ErrorKind::AddrInUse => write!(f, "; stop that process, or choose another port with `{flag}` (0 takes a free one)"),
            io::ErrorKind::AddrNotAvailable => f.write_str("; choose others with `--listen`"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ListenError {}

/// Listens on all addresses with one port. Needs a running tokio runtime, which will do the accepting.
pub fn bind(service: Service, listen: &Listen, port: u16) -> Result<Listener, ListenError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let result = bind_once(listen, port);
        match result {
            // Another process took the free port on one of the addresses.
            Err(error) if port == 0 && tries < TRIES && error.source.kind() == io::ErrorKind::AddrInUse => {}
            result => return result.map_err(|error| ListenError { service, error }),
        }
    }
}

fn bind_once(listen: &Listen, port: u16) -> Result<Listener, BindError> {
    let mut addresses = listen.addresses.clone();
    let port = if port == 0 { free_port(addresses[0])? } else { port };
    loop {
        let sockets: Vec<SocketAddr> = addresses.iter().map(|&address| SocketAddr::new(address, port)).collect();
        match Listener::bind(&sockets, ListenOptions::default()) {
            Err(error) if !listen.chosen && addresses.len() > 1 && is_absent(&error) => addresses.retain(|address| *address != error.address.ip()),
            result => return result,
        }
    }
}

fn free_port(address: IpAddr) -> Result<u16, BindError> {
    let any = SocketAddr::new(address, 0);
    let listener = Listener::bind(&[any], ListenOptions::default())?;
    let addresses = listener.local_addresses().map_err(|source| BindError { address: any, source })?;
    Ok(addresses[0].port())
}

/// Whether the machine lacks the address: a default of ours, so nobody misses it.
fn is_absent(error: &BindError) -> bool {
    error.source.kind() == io::ErrorKind::AddrNotAvailable || error.source.raw_os_error() == Some(NO_SUCH_FAMILY)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn listen(addresses: &[&str], chosen: bool) -> Listen {
        Listen { addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(), chosen }
    }

    #[tokio::test]
    async fn every_address_has_the_same_free_port() {
        let listener = bind(MESSAGING, &listen(&["127.0.0.1", "127.0.0.2"], true), 0).unwrap();
        let addresses = listener.local_addresses().unwrap();
        assert_eq!(addresses.len(), 2);
        assert_eq!(addresses[0].port(), addresses[1].port());
        assert_ne!(addresses[0].port(), 0);
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let first = bind(MESSAGING, &listen(&["127.0.0.1"], true), 0).unwrap();
        let port = first.local_addresses().unwrap()[0].port();
        let error = bind(MESSAGING, &listen(&["127.0.0.1"], true), port).unwrap_err().to_string();
        let expected = format!(
            "messaging port: cannot listen on `127.0.0.1:{port}`: the address is in use; `ss -ltnp 'sport = :{port}'` shows by which process; \
             stop that process, or choose another port with `--messaging-port` (0 takes a free one)"
        );
        assert_eq!(error, expected);
    }

    #[tokio::test]
    async fn an_address_that_the_machine_lacks_matters_only_if_it_was_asked_for() {
        // 192.0.2.0/24 is for documentation: no machine has it.
        let absent = ["127.0.0.1", "192.0.2.1"];
        assert_eq!(bind(ADMIN, &listen(&absent, false), 0).unwrap().local_addresses().unwrap().len(), 1);
        let error = bind(ADMIN, &listen(&absent, true), 0).unwrap_err().to_string();
        assert!(error.starts_with("admin port: cannot listen on `192.0.2.1:") && error.ends_with("choose others with `--listen`"), "{error}");
    }
}
