//! The settings of a process that is one of several: its role, how the others reach it, and how it finds them.

use super::{Texts, one_of, units};
use std::fmt;
use std::net::IpAddr;

/// What a process is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A whole queue in one process.
    All,
    Controller,
    Broker,
    Proxy,
}

impl Role {
    pub const NAMED: [(&'static str, Role); 4] =
        [("all", Role::All), ("controller", Role::Controller), ("broker", Role::Broker), ("proxy", Role::Proxy)];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = Role::NAMED.iter().find(|(_, role)| role == self).expect("every role is named");
        f.write_str(name)
    }
}

/// The cluster, as this process sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct Cluster {
    /// `host:port` of controllers.
    pub controllers: Vec<String>,
    pub token: Option<String>,
    pub bootstrap: bool,
    /// The host by which others reach this process.
    pub address: String,
    pub zone: String,
    pub capacity: u32,
    pub copies: usize,
    pub min_copies: usize,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("controllers", &self.controllers).field("address", &self.address).finish_non_exhaustive()
    }
}

impl Texts<'_> {
    pub(super) fn cluster(&mut self, role: Role, listen: &[IpAddr]) -> Option<Cluster> {
        let controllers = self.get("cluster.controllers", |text| {
            let addresses: Result<Vec<String>, String> = text.split(',').map(str::trim).filter(|address| !address.is_empty()).map(address).collect();
            match addresses? {
                none if none.is_empty() && matches!(role, Role::Broker | Role::Proxy) => {
                    Err(format!("a {role} must know the controllers: say `host:port` of each, with commas between them"))
                }
                addresses => Ok(addresses),
            }
        });
        let token = self.token(role);
        let bootstrap = self.get("cluster.bootstrap", units::answer);
        if role == Role::Controller && bootstrap == Some(false) && controllers.as_ref().is_some_and(Vec::is_empty) {
            return self.get("cluster.controllers", |_| {
                Err("a controller joins others, or begins a cluster: say `host:port` of the others, or `cluster.bootstrap`".to_owned())
            });
        }
        let address = self.get("cluster.address", |text| match (text, listen.first()) {
            ("", Some(ip)) if ip.is_unspecified() && role != Role::All && role != Role::Proxy => {
                Err("a process that listens on every address must say by which host the others reach it".to_owned())
            }
            ("", Some(ip)) => Ok(host_of(*ip)),
            (text, _) => Ok(text.to_owned()),
        });
        let zone = self.get("cluster.zone", |text| Ok(text.to_owned()));
        let capacity = self.get("cluster.capacity", |text| text.parse().map_err(|_| format!("`{text}` is not a number of copies")));
        let copies = self.get("cluster.copies", |text| one_of(text, &COPIES));
        let min_copies = self.get("cluster.min-copies", |text| match text.parse() {
            Ok(min @ 1..=5) => Ok(min),
            _ => Err(format!("`{text}` is not a number of copies, which is from 1 to 5")),
        });
        let (copies, min_copies) = (copies?, min_copies?);
        // Who asks for a single copy has said how few there may be.
        let min_copies = min_copies.min(copies);
        let (controllers, token, bootstrap, address) = (controllers?, token?, bootstrap?, address?);
        Some(Cluster { controllers, token, bootstrap, address, zone: zone?, capacity: capacity?, copies, min_copies })
    }

    /// The token is read here, so that nothing else needs to know where it came from.
    fn token(&mut self, role: Role) -> Option<Option<String>> {
        let file = self.optional("cluster.token-file", |path| {
            let text = std::fs::read_to_string(path).map_err(|error| format!("`{path}` can't be read: {error}"))?;
            Ok(text.trim().to_owned())
        })?;
        let said = self.optional("cluster.token", |text| Ok(text.to_owned()))?;
        let token = said.or(file).filter(|token| !token.is_empty());
        if token.is_none() && role != Role::All {
            return self.get("cluster.token", |_| {
                Err(format!("a {role} needs the token of its cluster; draw a long random text once and say the same one to every process"))
            });
        }
        Some(token)
    }
}

const COPIES: [(&str, usize); 4] = [("1", 1), ("2", 2), ("3", 3), ("5", 5)];

fn address(text: &str) -> Result<String, String> {
    units::endpoint(text).map(|_| text.to_owned())
}

fn host_of(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
