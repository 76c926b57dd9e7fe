//! The configuration of a server: one YAML document, overridden by the environment, overridden by flags.
//!
//! `keys` lists what can be set, `merge` finds out who says what, and this file turns the texts into values that make sense together. All
//! that is wrong is told at once, and with anything wrong the server does not start.
//!
//! YAML is read by `yaml_serde`, the continuation of `serde_yaml` (archived in 2024) by the YAML organisation: the same API, an active
//! maintainer, and no higher compiler version than ours. `serde_norway` and `serde_yaml_ng` had no release for a year, and `serde-saphyr`
//! asks for a newer compiler than we promise.

pub mod cluster;
pub mod keys;
pub mod merge;
pub mod units;

use cluster::Role;
use merge::{Document, Effective, Merged, Problem, Source};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Most shards of one process: each has threads and files of its own.
const SHARDS_MAX: u32 = 64;

/// Everything a server must know to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub role: Role,
    /// The cluster that this process is part of, unless it is all of it.
    pub cluster: cluster::Cluster,
    pub data: PathBuf,
    pub listen: Listen,
    pub ports: Ports,
    pub advertised: Option<(String, u16)>,
    pub cluster_name: Option<String>,
    /// How many shards a new data folder gets, and an old one must have.
    pub shards: Option<u32>,
    pub auto_create: bool,
    pub tls: Tls,
    pub retention: Retention,
    /// Goes on over damaged parts of the log.
    pub skip_damaged: bool,
    pub limits: Limits,
    pub log: Log,
    pub grace: Duration,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub addresses: Vec<IpAddr>,
    /// Whether somebody asked for these addresses: then each must work. The loopback addresses of the default needn't all exist.
    pub chosen: bool,
}

/// The ports; 0 takes a free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub messaging: u16,
    pub admin: u16,
    pub http: u16,
    pub metrics: u16,
    pub broker: u16,
    pub controller: u16,
}

/// TLS on the messaging port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub mode: TlsMode,
    /// Certificate chain and private key, both or none.
    pub files: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Permissive,
    Required,
    Off,
}

/// How long messages are kept when the topic doesn't say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub age: Duration,
    pub bytes: Option<u64>,
}

/// How much clients may ask for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub connections: usize,
    pub open_polls: usize,
    pub decode_bytes: usize,
    pub idle_time: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// All that is wrong with a configuration. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is wrong, so the server did not start")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// What the sources say together; the merged texts come along for those who want to show them.
    pub fn read(
        document: Option<&Document>,
        env: &BTreeMap<String, String>,
        flags: &[(String, String, String)],
    ) -> Result<(Config, Merged), ConfigError> {
        let (merged, problems) = merge::merge(document, env, flags);
        let mut texts = Texts { merged: &merged, problems };
        let config = Config::interpret(&mut texts);
        match (config, texts.problems) {
            (Some(config), problems) if problems.is_empty() => Ok((config, merged)),
            (_, problems) => {
                assert!(!problems.is_empty(), "a value that can't be read leaves a problem");
                Err(ConfigError { problems })
            }
        }
    }

    fn interpret(texts: &mut Texts<'_>) -> Option<Config> {
        let role = texts.get("role", |text| one_of(text, &Role::NAMED));
        let data = texts.get("data", |text| if text.is_empty() { Err("the data folder has no name".into()) } else { Ok(PathBuf::from(text)) });
        let addresses = texts.get("listen", units::addresses);
        let ports = texts.ports();
        let advertised = texts.optional("advertised", units::endpoint);
        let auto_create = texts.get("auto-create", units::answer);
        let tls = texts.tls();
        let age = texts.get("retention.age", |text| not_zero(units::time(text)?, text));
        let bytes = texts.get("retention.bytes", |text| not_zero(units::size(text)?.unwrap_or(u64::MAX), text));
        let skip_damaged = texts.get("recovery.skip-damaged", units::answer);
        let limits = texts.limits();
        let level = texts.get("log.level", |text| crate::logging::check_level(text).map(|()| text.to_owned()));
        let format = texts.get("log.format", |text| one_of(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)]));
        let grace = texts.get("shutdown.grace", units::time);
        let listen_at = addresses.clone().unwrap_or_default();
        let cluster = texts.cluster(role.unwrap_or(Role::All), &listen_at);
        Some(Config {
            role: role?,
            cluster: cluster?,
            data: data?,
            listen: Listen { addresses: addresses?, chosen: texts.merged["listen"].source != Source::Default },
            ports: ports?,
            advertised: advertised?,
            cluster_name: texts.optional("cluster-name", |text| Ok(text.to_owned()))?,
            shards: texts.optional("shards", shards)?,
            auto_create: auto_create?,
            tls: tls?,
            retention: Retention { age: age?, bytes: Some(bytes?).filter(|&bytes| bytes < u64::MAX) },
            skip_damaged: skip_damaged?,
            limits: limits?,
            log: Log { level: level?, format: format? },
            grace: grace?,
        })
    }
}

/// The merged texts, and what turned out to be wrong with them.
struct Texts<'a> {
    merged: &'a Merged,
    problems: Vec<Problem>,
}

impl Texts<'_> {
    fn get<T>(&mut self, path: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let Effective { text, source } = &self.merged[path];
        match read(text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.problems.push(Problem { source: source.clone(), text: format!("key `{path}`: {why}") });
                None
            }
        }
    }

    /// As `get`, for a setting that may have no value.
    fn optional<T>(&mut self, path: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<Option<T>> {
        self.get(path, |text| if text.is_empty() { Ok(None) } else { read(text).map(Some) })
    }

    fn ports(&mut self) -> Option<Ports> {
        let mut taken: BTreeMap<u16, &str> = BTreeMap::new();
        let mut read = |path: &'static str| {
            let port = self.get(path, units::port)?;
            let other = if port == 0 { None } else { taken.insert(port, path) };
            let Some(other) = other else { return Some(port) };
            self.get(path, |_| Err(format!("port {port} is also `{other}`; each service needs its own")))
        };
        let (messaging, admin, http, metrics) = (read("ports.messaging"), read("ports.admin"), read("ports.http"), read("ports.metrics"));
        let (broker, controller) = (read("ports.broker"), read("ports.controller"));
        Some(Ports { messaging: messaging?, admin: admin?, http: http?, metrics: metrics?, broker: broker?, controller: controller? })
    }

    fn limits(&mut self) -> Option<Limits> {
        let connections = self.get("limits.connections", units::count);
        let open_polls = self.get("limits.open-polls", units::count);
        // Less than the largest request would refuse that request for good.
        let decode_bytes = self.get("limits.decode-bytes", |text| match units::size(text)? {
            Some(bytes) if bytes < 16 << 20 => Err(format!("`{text}` is less than 16MiB, the size of the largest request")),
            bytes => Ok(bytes.map_or(usize::MAX >> 8, |bytes| bytes as usize)),
        });
        let idle_time = self.get("limits.idle-time", |text| match units::time(text)? {
            time if time < Duration::from_secs(30) => Err(format!("`{text}` is less than 30s, the time between keepalives")),
            time => Ok(time),
        });
        Some(Limits { connections: connections?, open_polls: open_polls?, decode_bytes: decode_bytes?, idle_time: idle_time? })
    }

    fn tls(&mut self) -> Option<Tls> {
        let modes = [("permissive", TlsMode::Permissive), ("required", TlsMode::Required), ("off", TlsMode::Off)];
        let mode = self.get("tls.mode", |text| one_of(text, &modes));
        let cert = self.optional("tls.cert", |text| Ok(PathBuf::from(text)))?;
        let key = self.optional("tls.key", |text| Ok(PathBuf::from(text)))?;
        let files = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return self.get("tls.cert", |_| Err("a certificate needs its private key in `tls.key`".into())),
            (None, Some(_)) => return self.get("tls.key", |_| Err("a private key needs its certificate in `tls.cert`".into())),
        };
        Some(Tls { mode: mode?, files })
    }
}

fn shards(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(shards @ 1..=SHARDS_MAX) => Ok(shards),
        _ => Err(format!("`{text}` is not a number of shards, which is from 1 to {SHARDS_MAX}")),
    }
}

fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == text).map(|&(_, value)| value);
    found.ok_or_else(|| {
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
        format!("`{text}` is none of {}", names.join(", "))
    })
}

fn not_zero<T: Default + PartialEq>(value: T, text: &str) -> Result<T, String> {
    if value == T::default() { Err(format!("`{text}` would delete every message at once")) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(yaml: &str) -> Result<Config, ConfigError> {
        let document = Document { path: "gantry.yaml".into(), text: yaml.into() };
        Config::read(Some(&document), &BTreeMap::new(), &[]).map(|(config, _)| config)
    }

    fn check_problems(yaml: &str, expected: &[&str]) {
        let problems = read(yaml).unwrap_err().problems;
        assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{yaml}");
    }

    #[test]
    fn the_defaults_are_a_whole_configuration() {
        let config = read("").unwrap();
        assert_eq!(config.data, PathBuf::from("./gantry-data"));
        assert_eq!(config.listen, Listen { addresses: units::addresses("localhost").unwrap(), chosen: false });
        assert_eq!(config.ports, Ports { messaging: 8081, admin: 8083, http: 8082, metrics: 5557, broker: 9081, controller: 9082 });
        assert_eq!((config.auto_create, config.advertised, config.cluster_name), (true, None, None));
        assert_eq!(config.tls, Tls { mode: TlsMode::Permissive, files: None });
        assert_eq!(config.retention, Retention { age: Duration::from_secs(3 * 24 * 3600), bytes: None });
        assert_eq!(config.grace, Duration::from_secs(30));
        assert_eq!(config.limits, Limits { connections: 10_000, open_polls: 100_000, decode_bytes: 256 << 20, idle_time: Duration::from_secs(120) });
    }

    #[test]
    fn every_setting_can_be_set() {
        let config = read(
            "data: /d\nlisten: [0.0.0.0, '::']\nports: {messaging: 0, admin: 0, http: 0, metrics: 1, broker: 0, controller: 2}\nadvertised: mq:1\ncluster-name: c\nauto-create: no\n\
             tls: {mode: required, cert: a, key: b}\nretention: {age: 1h, bytes: 1GiB}\nlog: {level: debug, format: json}\nshutdown: {grace: 5s}\n",
        )
        .unwrap();
        assert!(config.listen.chosen);
        assert_eq!(config.ports, Ports { messaging: 0, admin: 0, http: 0, metrics: 1, broker: 0, controller: 2 });
        assert_eq!((config.advertised, config.cluster_name.as_deref(), config.auto_create), (Some(("mq".into(), 1)), Some("c"), false));
        assert_eq!(config.tls, Tls { mode: TlsMode::Required, files: Some(("a".into(), "b".into())) });
        assert_eq!(config.retention, Retention { age: Duration::from_secs(3600), bytes: Some(1 << 30) });
        assert_eq!(config.log, Log { level: "debug".into(), format: LogFormat::Json });
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        check_problems(
            "prots: {admin: 1}\nports: {messaging: 99999}\nlisten: nowhere\ntls: {mode: maybe}\nretention: {age: 0s}\n",
            &[
                "gantry.yaml: unknown key `prots.admin`, did you mean `ports.admin`?",
                "gantry.yaml: key `listen`: `nowhere` is not an IP address; `0.0.0.0` listens on all of IPv4, `::` on all of IPv6",
                "gantry.yaml: key `ports.messaging`: `99999` is not a port, which is a number from 0 to 65535",
                "gantry.yaml: key `tls.mode`: `maybe` is none of `permissive`, `required`, `off`",
                "gantry.yaml: key `retention.age`: `0s` would delete every message at once",
            ],
        );
    }

    #[test]
    fn settings_must_fit_each_other() {
        check_problems("ports: {admin: 8081}", &["gantry.yaml: key `ports.admin`: port 8081 is also `ports.messaging`; each service needs its own"]);
        check_problems("tls: {cert: a}", &["gantry.yaml: key `tls.cert`: a certificate needs its private key in `tls.key`"]);
        let bad_shards = "gantry.yaml: key `shards`: `0` is not a number of shards, which is from 1 to 64";
        check_problems("shards: 0", &[bad_shards]);
        assert_eq!([read("").unwrap().shards, read("shards: 4").unwrap().shards], [None, Some(4)]);
        check_problems("limits: {connections: 0}", &["gantry.yaml: key `limits.connections`: `0` is not a count, which is a number from 1"]);
        check_problems("tls: {key: a}", &["gantry.yaml: key `tls.key`: a private key needs its certificate in `tls.cert`"]);
    }
}
