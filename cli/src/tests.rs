//! x
use crate::global::*;
use std::time::Duration;
pub fn global(endpoint: &str, admin: &str) -> Global {
    Global {
        endpoint: endpoint.to_owned(),
        admin: admin.to_owned(),
        namespace: String::new(),
        output: OutputFormat::Table,
        tls: TlsMode::Auto,
        tls_ca: None,
        tls_insecure: false,
        timeout: Duration::from_secs(5),
    }
}
