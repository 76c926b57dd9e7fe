//! TLS and plaintext on one port.
//!
//! Half of the official clients speak TLS by default and trust any certificate, the other half speak plaintext. The first byte of a connection
//! tells which it is: a TLS ClientHello begins with 0x16, the preface of HTTP/2 with `P`. Without files the certificate is made at the start
//! and lives in memory; files are read again when they change.

use rcgen::CertifiedKey;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_rustls::TlsAcceptor;

/// The first byte of a TLS connection: a record of type handshake.
const HANDSHAKE: u8 = 0x16;

/// What a port speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// TLS and plaintext.
    #[default]
    Permissive,
    /// TLS only.
    Required,
    /// Plaintext only.
    Off,
}

/// How to speak TLS.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub mode: Mode,
    /// PEM file with the certificate, followed by those that signed it.
    pub cert: Option<PathBuf>,
    /// PEM file with the private key.
    pub key: Option<PathBuf>,
}

/// Why TLS can't be spoken.
#[derive(Debug)]
pub enum ConfigError {
    /// Only one of the two files is named.
    Incomplete,
    Unreadable {
        file: PathBuf,
        why: String,
    },
    /// The files can be read, but don't fit together.
    Unusable {
        why: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Incomplete => f.write_str("tls needs both a certificate and a key, or neither for a certificate made at the start"),
            ConfigError::Unreadable { file, why } => write!(f, "cannot read `{}`: {why}; a PEM file is expected", file.display()),
            ConfigError::Unusable { why } => write!(f, "certificate and key cannot be used: {why}; do they belong together?"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The certificate in use.
#[derive(Clone)]
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    config: Arc<ServerConfig>,
}

/// The TLS side of all ports.
pub struct Tls {
    mode: Mode,
    files: Option<(PathBuf, PathBuf)>,
    identity: Mutex<Option<Identity>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls {{ mode: {:?}, files: {:?} }}", self.mode, self.files)
    }
}

impl Tls {
    /// Reads the files, or makes a certificate for these names.
    pub fn new(config: &Config, names: Vec<String>) -> Result<Tls, ConfigError> {
        let files = match (&config.cert, &config.key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            _ => return Err(ConfigError::Incomplete),
        };
        let identity = match (&files, config.mode) {
            (_, Mode::Off) => None,
            (Some((cert, key)), _) => Some(from_files(cert, key)?),
            (None, _) => Some(self_signed(names)?),
        };
        Ok(Tls { mode: config.mode, files, identity: Mutex::new(identity) })
    }

    /// What to do with a connection that begins with this byte.
    pub fn choose(&self, first: u8) -> Choice {
        match (self.mode, first == HANDSHAKE) {
            (Mode::Off, _) | (Mode::Permissive, false) => Choice::Plain,
            (Mode::Required, false) => Choice::Refuse,
            (Mode::Permissive | Mode::Required, true) => {
                let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
                identity.as_ref().map_or(Choice::Refuse, |identity| Choice::Tls(TlsAcceptor::from(identity.config.clone())))
            }
        }
    }

    /// Reads the files again and takes a new certificate for connections to come. Files that can't be used leave everything as it is.
    pub fn reload(&self) {
        let Some((cert, key)) = &self.files else { return };
        if self.mode == Mode::Off {
            return;
        }
        match from_files(cert, key) {
            Ok(new) => {
                let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
                if identity.as_ref().is_none_or(|old| old.chain != new.chain) {
                    tracing::info!(certificate = %cert.display(), "the certificate changed; new connections get the new one");
                    *identity = Some(new);
                }
            }
            Err(error) => tracing::warn!(%error, "the certificate could not be read again; the old one stays in use"),
        }
    }
}

/// What to speak on a connection.
pub enum Choice {
    Plain,
    Tls(TlsAcceptor),
    Refuse,
}

fn from_files(cert: &Path, key: &Path) -> Result<Identity, ConfigError> {
    let unreadable = |file: &Path, why: String| ConfigError::Unreadable { file: file.to_owned(), why };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
    let chain = chain.map_err(|error| unreadable(cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(unreadable(cert, "it holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error.to_string()))?;
    identity(chain, key)
}

fn self_signed(names: Vec<String>) -> Result<Identity, ConfigError> {
    let unusable = |error: rcgen::Error| ConfigError::Unusable { why: error.to_string() };
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).map_err(unusable)?;
    identity(vec![cert.der().clone()], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der())))
}

fn identity(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Identity, ConfigError> {
    let unusable = |error: rustls::Error| ConfigError::Unusable { why: error.to_string() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(unusable)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain.clone(), key).map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Identity { chain, config: Arc::new(config) })
}
