//! Makes the client trust the server under test. With TLS the Rust client verifies certificates against the native roots and has no switch
//! for it, while a test server has a certificate of its own making. So the certificate is fetched first, without checking it, and becomes
//! the only native root of this process. The server must keep its certificate when it restarts.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use base64::Engine as _;
use tokio_rustls::rustls::client::{ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::{Certificate, ClientConfig, Error, ServerName};
use tokio_rustls::TlsConnector;

use crate::harness::{Outcome, Run, Verdict};

/// The variable that the client's library asks for its roots.
const ROOTS: &str = "SSL_CERT_FILE";

/// Points the native roots at the certificate that the endpoint shows. Must be called before other threads read the environment.
pub fn trust_server(run: &Run) -> Outcome {
    let failed = |what: &str, error: &dyn std::fmt::Display| Verdict::Failed(format!("{what}: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed("cannot start a runtime", &error))?;
    let shown = runtime.block_on(shown_certificate(&run.endpoint));
    let certificate = shown.map_err(|error| failed("cannot fetch the server's certificate", &error))?;
    let path = file(run);
    std::fs::write(&path, pem(&certificate)).map_err(|error| failed("cannot write the server's certificate", &error))?;
    std::env::set_var(ROOTS, path);
    Ok(())
}

fn file(run: &Run) -> PathBuf {
    let folder = std::env::var_os("GANTRY_LOG_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    folder.join(format!("rust-{}-{}-{}-server.pem", run.scenario, run.id, std::process::id()))
}

/// Keeps whatever certificate comes and accepts it.
struct Keep(Mutex<Vec<u8>>);

impl ServerCertVerifier for Keep {
    fn verify_server_cert(
        &self,
        end_entity: &Certificate,
        _: &[Certificate],
        _: &ServerName,
        _: &mut dyn Iterator<Item = &[u8]>,
        _: &[u8],
        _: SystemTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.0.lock().expect("nobody panics while holding this lock") = end_entity.0.clone();
        Ok(ServerCertVerified::assertion())
    }
}

async fn shown_certificate(endpoint: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let keep = Arc::new(Keep(Mutex::default()));
    let builder = ClientConfig::builder().with_safe_defaults();
    let mut config = builder.with_custom_certificate_verifier(keep.clone()).with_no_client_auth();
    config.alpn_protocols.push(b"h2".to_vec());
    let (host, _) = endpoint.rsplit_once(':').ok_or("the endpoint has no port")?;
    let socket = tokio::net::TcpStream::connect(endpoint).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(host)?, socket).await?;
    let certificate = keep.0.lock().expect("nobody panics while holding this lock").clone();
    Ok(certificate)
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
