//! Texts of settings as values: ports, addresses, answers, counts. Times and sizes are read as those of topics and groups are.

pub use gantry_model::units::{size, time};
use std::net::IpAddr;

/// `true` or `false`, also as `yes`, `no`, `on` and `off`.
pub fn answer(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err(format!("`{text}` is neither `true` nor `false`")),
    }
}

pub fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("`{text}` is not a port, which is a number from 0 to 65535"))
}

/// A number of things, at least one.
pub fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&count| count > 0).ok_or_else(|| format!("`{text}` is not a count, which is a number from 1"))
}

/// Addresses separated by commas.
pub fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let mut addresses = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let part = part.strip_prefix('[').and_then(|part| part.strip_suffix(']')).unwrap_or(part);
        match part.parse() {
            Ok(address) if addresses.contains(&address) => {}
            Ok(address) => addresses.push(address),
            Err(_) if part == "localhost" => addresses.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]),
            Err(_) => return Err(format!("`{part}` is not an IP address; `0.0.0.0` listens on all of IPv4, `::` on all of IPv6")),
        }
    }
    if addresses.is_empty() {
        return Err("at least one address is needed".into());
    }
    Ok(addresses)
}

/// `host:port`, with an IPv6 address in brackets.
pub fn endpoint(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("`{text}` is not `host:port`");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match inner {
        Some(inner) => inner.parse::<IpAddr>().map(|_| inner).map_err(|_| wrong())?,
        None if host.contains(':') => return Err(format!("{}; an IPv6 address stands in brackets", wrong())),
        None => host,
    };
    let port = port.parse().ok().filter(|&port: &u16| port > 0).ok_or_else(wrong)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(legal) {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_a_host_and_a_port() {
        let check = |text: &str, expected: Option<(&str, u16)>| {
            assert_eq!(endpoint(text).ok(), expected.map(|(host, port)| (host.to_owned(), port)), "`{text}`")
        };
        check("mq.example.com:8081", Some(("mq.example.com", 8081)));
        check("[::1]:8081", Some(("::1", 8081)));
        check("::1:8081", None);
        check("host", None);
        check("host:0", None);
        check(":1", None);
        check("http://host:1", None);
    }

    #[test]
    fn addresses_are_ip_addresses_without_repeats() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let shown = addresses(text).ok().map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(shown.as_deref(), expected.map(|list| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()).as_deref(), "`{text}`");
        };
        check("127.0.0.1, ::1", Some(&["127.0.0.1", "::1"]));
        check("localhost", Some(&["127.0.0.1", "::1"]));
        check("[::], ::", Some(&["::"]));
        check("example.com", None);
        check(" , ", None);
    }

    #[test]
    fn answers_and_ports() {
        assert_eq!((answer("Yes"), answer("off")), (Ok(true), Ok(false)));
        assert!(answer("maybe").is_err());
        assert_eq!((port("0"), port("65535")), (Ok(0), Ok(65535)));
        assert!(port("65536").is_err());
    }
}
