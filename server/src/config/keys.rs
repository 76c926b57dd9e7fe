//! Every setting of the server, in one table: its key, its default and what it is for.
//!
//! The table drives all sources alike: the key `ports.messaging` is the path in the YAML document, `GANTRY_PORTS_MESSAGING` in the
//! environment, and `--set ports.messaging=…` or its own flag on the command line.

use gantry_model::spelling::nearest;

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// Its place in the document.
    pub path: &'static str,
    /// The value when nobody says anything, as it would be written; empty for none.
    pub default: &'static str,
    /// The flag of its own, if it has one.
    pub flag: Option<&'static str>,
    pub about: &'static str,
}

const fn key(path: &'static str, default: &'static str, flag: Option<&'static str>, about: &'static str) -> Key {
    Key { path, default, flag, about }
}

/// All settings in the order in which they are shown.
pub const KEYS: &[Key] = &[
    key("role", "all", Some("role"), "what this process is part of: `all` in one process, or `controller`, `broker` or `proxy` of a cluster"),
    key("data", "./gantry-data", Some("data"), "the data folder"),
    key("listen", "127.0.0.1, ::1", Some("listen"), "addresses to listen on; 0.0.0.0 and :: are all of them"),
    key("ports.messaging", "8081", Some("messaging-port"), "port for RocketMQ clients; 0 takes a free one"),
    key("ports.admin", "8083", Some("admin-port"), "port for the Admin service and `gantry` commands"),
    key("ports.http", "8082", Some("http-port"), "port for /livez, /readyz and /metrics"),
    key("ports.metrics", "5557", Some("metrics-port"), "port for Prometheus, the usual one for RocketMQ"),
    key("ports.broker", "9081", Some("broker-port"), "port of a broker for other brokers and proxies"),
    key("ports.controller", "9082", Some("controller-port"), "port of a controller for the other roles"),
    key("advertised", "", Some("advertised"), "host:port that routes show to clients which don't say how they reached the server"),
    key("cluster-name", "", Some("cluster-name"), "the broker name that routes show; a new cluster is called `gantry`"),
    key("shards", "", Some("shards"), "logs with a thread each; fixed when the data folder is made, where nothing is said it is 1"),
    key("cluster.controllers", "", Some("controllers"), "host:port of every controller, for brokers and proxies; of the others, for a controller"),
    key("cluster.token", "", Some("token"), "what a process must say to belong to the cluster; the same everywhere"),
    key("cluster.token-file", "", None, "file with the token, for those who keep it out of the configuration"),
    key("cluster.bootstrap", "false", Some("bootstrap"), "whether this controller begins a cluster if its folder is empty and no other knows one"),
    key(
        "cluster.address",
        "",
        Some("address"),
        "host by which the other processes reach this one; where nothing is said, the first address it listens on",
    ),
    key("cluster.zone", "", Some("zone"), "what fails together with this broker; copies are put in different zones"),
    key("cluster.capacity", "1000", None, "copies of shards that this broker may hold"),
    key("cluster.copies", "3", Some("copies"), "copies of each new shard: 1, 2, 3 or 5"),
    key("cluster.min-copies", "2", None, "how few copies a shard may have while no broker is free to hold another"),
    key("auto-create", "true", Some("auto-create"), "whether topics and groups are made by their first use"),
    key("tls.mode", "permissive", Some("tls-mode"), "`permissive` takes TLS and plain text on one port, `required` only TLS, `off` only plain text"),
    key("tls.cert", "", Some("tls-cert"), "PEM file with the certificate chain; without one a self-signed certificate is made at each start"),
    key("tls.key", "", Some("tls-key"), "PEM file with the private key"),
    key("retention.age", "3d", Some("retention-age"), "how long messages are kept; a topic may say otherwise"),
    key("retention.bytes", "unlimited", Some("retention-bytes"), "how many bytes of messages are kept at most"),
    key("recovery.skip-damaged", "false", Some("skip-damaged"), "goes on over damaged parts of the log at the start: what was in them is lost"),
    key("limits.connections", "10000", None, "open client connections"),
    key("limits.open-polls", "100000", None, "receive calls that wait for messages"),
    key("limits.decode-bytes", "256MiB", None, "bytes of all requests that are being read or worked on"),
    key("limits.idle-time", "120s", None, "how long a connection may stay without a call"),
    key("log.level", "info", Some("log-level"), "`error`, `warn`, `info`, `debug` or `trace`; also per module: `info,gantry_store=debug`"),
    key("log.format", "text", Some("log-format"), "`text` or `json`, on standard error"),
    key("shutdown.grace", "30s", None, "how long requests under way may take once the server was told to stop"),
];

impl Key {
    /// The setting with that path.
    pub fn find(path: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// The environment variable of the setting.
    pub fn env(&self) -> String {
        format!("GANTRY_{}", self.path.replace(['.', '-'], "_").to_ascii_uppercase())
    }

    /// The known path that is nearest to a wrong one, if one is near.
    pub fn nearest(wrong: &str) -> Option<&'static str> {
        nearest(&wrong.replace('_', "-"), KEYS.iter().map(|key| key.path))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_nearest_key_is_offered_only_if_it_is_near() {
        let check = |wrong: &str, expected: Option<&str>| assert_eq!(Key::nearest(wrong), expected, "`{wrong}`");
        check("ports.mesaging", Some("ports.messaging"));
        check("port.admin", Some("ports.admin"));
        check("auto_create", Some("auto-create"));
        check("Data", Some("data"));
        check("completely-different", None);
    }

    #[test]
    fn keys_are_unique_and_have_a_variable() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..at].iter().all(|other| other.path != key.path && other.env() != key.env()), "{}", key.path);
        }
        assert_eq!(Key::find("ports.messaging").unwrap().env(), "GANTRY_PORTS_MESSAGING");
        assert_eq!(Key::find("auto-create").unwrap().env(), "GANTRY_AUTO_CREATE");
    }
}
