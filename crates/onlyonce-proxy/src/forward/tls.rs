//! Which certificates an `https` upstream may show.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, pem};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// Why TLS to the upstream cannot be set up.
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
    /// The file has no usable certificate.
    #[error("no usable certificate in {}", .0.display())]
    EmptyCaFile(PathBuf),
    /// The operating system has no authorities.
    #[error(
        "the system has no certificate authorities; install them (ca-certificates) or name a CA file"
    )]
    NoSystemRoots,
    /// The upstream's host cannot be in a certificate.
    #[error("the upstream's host is not a valid name for TLS")]
    HostName(#[from] InvalidDnsNameError),
    /// rustls refused the configuration.
    #[error("could not set up TLS")]
    Config(#[from] rustls::Error),
}

/// A connector that verifies against the authorities in `ca_file`, else the system's.
pub(crate) fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, TlsError> {
    Ok(TlsConnector::from(Arc::new(client_config(ca_file)?)))
}

/// A client that verifies against the authorities in `ca_file`, else the system's.
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let roots = match ca_file {
        Some(path) => roots_of_file(path)?,
        None => roots_of_system()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, TlsError> {
    let read = |source| TlsError::ReadCaFile {
        path: path.to_owned(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(read)? {
        roots.add(certificate.map_err(read)?)?;
    }
    if roots.is_empty() {
        return Err(TlsError::EmptyCaFile(path.to_owned()));
    }
    Ok(roots)
}

fn roots_of_system() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // Systems carry certificates that rustls does not take; those that it takes suffice.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::NoSystemRoots);
    }
    Ok(roots)
}
