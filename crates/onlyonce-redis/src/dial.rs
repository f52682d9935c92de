//! Making a connection: TCP, TLS where the URL says so, then the server's greeting.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::settings::Settings;

/// How long all of it may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// Requests that wait to be written. A caller whose deadline is over takes its request out again.
const WAITING_MAX: usize = 1024;

/// Why TLS to the server cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file with the authorities is missing, unreadable or no PEM.
    #[error("could not read the certificates in {}", path.display())]
    ReadCaFile {
        /// The file as configured.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// No authorities: neither the file nor the system has one that can be used.
    #[error(
        "there is no certificate authority to check the cache's server by; install them (ca-certificates) or name a CA file"
    )]
    NoRoots,
    /// The host cannot be in a certificate.
    #[error("the cache's host is not a valid name for TLS")]
    HostName(#[from] InvalidDnsNameError),
    /// rustls refused the configuration.
    #[error("could not set up TLS to the cache")]
    Config(#[from] rustls::Error),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The host cannot be found or reached, or its certificate is not accepted.
    #[error("could not connect")]
    Io(#[from] io::Error),
    /// The server did not greet as Redis does, or did not accept user and password.
    #[error("the server refused the connection")]
    Refused(#[from] redis::RedisError),
    /// It took longer than a second.
    #[error("the server did not answer within {} s", CONNECT_MAX.as_secs())]
    Late,
}

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Dialer {
    settings: Settings,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// A connection, and the task that serves it for as long as this is kept.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) requests: MultiplexedConnection,
    _driver: AbortOnDropHandle<()>,
}

impl Dialer {
    pub(crate) fn new(settings: Settings) -> Result<Self, TlsError> {
        let tls = if settings.tls {
            let name = ServerName::try_from(settings.host.clone())?;
            Some((Arc::new(tls_config(&settings)?), name))
        } else {
            None
        };
        Ok(Self { settings, tls })
    }

    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) async fn dial(&self) -> Result<Connection, ConnectError> {
        timeout(CONNECT_MAX, self.try_dial())
            .await
            .unwrap_or(Err(ConnectError::Late))
    }

    async fn try_dial(&self) -> Result<Connection, ConnectError> {
        let Settings {
            host, port, redis, ..
        } = &self.settings;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        // Each caller has a deadline of its own.
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WAITING_MAX);
        let (mut requests, driver) = match &self.tls {
            None => {
                let (requests, driver) =
                    MultiplexedConnection::new_with_config(redis, stream, config).await?;
                (requests, AbortOnDropHandle::new(tokio::spawn(driver)))
            }
            Some((tls, name)) => {
                let connector = TlsConnector::from(Arc::clone(tls));
                let stream = connector.connect(name.clone(), stream).await?;
                let (requests, driver) =
                    MultiplexedConnection::new_with_config(redis, stream, config).await?;
                (requests, AbortOnDropHandle::new(tokio::spawn(driver)))
            }
        };
        // A server that wants a password says so only now.
        redis::cmd("PING").exec_async(&mut requests).await?;
        Ok(Connection {
            requests,
            _driver: driver,
        })
    }
}

fn tls_config(settings: &Settings) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    match &settings.ca_file {
        Some(path) => {
            let read = |source| TlsError::ReadCaFile {
                path: path.clone(),
                source,
            };
            for certificate in CertificateDer::pem_file_iter(path).map_err(read)? {
                roots.add(certificate.map_err(read)?)?;
            }
        }
        None => {
            // Systems carry certificates that rustls does not take; those that it takes suffice.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
