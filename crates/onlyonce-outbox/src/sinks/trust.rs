//! By which authorities a server is checked.

use std::sync::{Arc, OnceLock};

use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{ClientConfig, Error, RootCertStore};

/// How TLS is spoken: as somebody said, or else by the system's authorities, which are read when the first connection
/// needs them and then kept.
#[derive(Default)]
pub(super) struct Trust(OnceLock<Arc<ClientConfig>>);

/// Why no server can be checked.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    #[error(
        "the system has no certificate authorities to check the server by: install them (ca-certificates)"
    )]
    NoAuthorities,
    #[error("TLS cannot be set up")]
    Config(#[from] Error),
}

impl From<ClientConfig> for Trust {
    fn from(config: ClientConfig) -> Self {
        Self(Arc::new(config).into())
    }
}

impl Trust {
    pub(super) async fn connector(&self) -> Result<TlsConnector, TrustError> {
        if let Some(config) = self.0.get() {
            return Ok(Arc::clone(config).into());
        }
        // A few hundred files. Whoever comes meanwhile reads them too.
        let read = spawn_blocking(of_system).await;
        let config = read.unwrap_or(Err(TrustError::NoAuthorities))?;
        Ok(Arc::clone(self.0.get_or_init(|| Arc::new(config))).into())
    }
}

fn of_system() -> Result<ClientConfig, TrustError> {
    let mut roots = RootCertStore::empty();
    // Systems carry certificates that rustls does not take; those that it takes suffice.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TrustError::NoAuthorities);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is given is taken; nothing is read from the system then.
    #[tokio::test]
    async fn the_system_is_asked_once_and_only_where_nothing_is_given() {
        let given = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let trust = Trust::from(given);
        let kept = Arc::clone(trust.0.get().unwrap());
        trust.connector().await.unwrap();
        assert!(Arc::ptr_eq(&kept, trust.0.get().unwrap()));

        let trust = Trust::default();
        // A machine for tests may have no authorities.
        let first = trust
            .connector()
            .await
            .map(|_| Arc::clone(trust.0.get().unwrap()));
        match first {
            Ok(first) => {
                trust.connector().await.unwrap();
                assert!(Arc::ptr_eq(&first, trust.0.get().unwrap()));
            }
            Err(error) => assert!(error.to_string().contains("ca-certificates")),
        }
    }
}
